//! News from a container's guest, on the guest's thread.
//!
//! Every change of state queues its event under the container's lock. The guest's thread tells things in order (an exec's start, its end, the
//! guest's end); only the first process' start is told by the thread that started the guest, so an end that comes before is kept until then.

use std::sync::{Arc, Weak};

use super::{Container, State, now_exit};
use crate::events::Event;
use crate::guest::{EventSink, GuestError, GuestEvent, WaitStatus};
use crate::lifecycle;

/// Exit status of a container whose guest broke, as containerd has it for what it cannot know.
const BROKEN: u32 = 255;
/// Exit status of a process that ended with its container: 128 + SIGKILL.
const KILLED: u32 = 137;
/// Exit status of an exec that could not be started, as shells have it.
const NOT_STARTED: u32 = 127;

impl Container {
    /// Where the guest of this container tells its events. Holds no container alive.
    pub(super) fn sink(self: &Arc<Self>) -> EventSink {
        let container: Weak<Self> = Arc::downgrade(self);
        Box::new(move |event| {
            if let Some(container) = container.upgrade() {
                container.news(event);
            }
        })
    }

    /// Takes an event of the guest.
    pub(super) fn news(&self, event: GuestEvent) {
        let mut state = self.lock();
        match event {
            GuestEvent::ExecStarted { token, result } => self.exec_started(&mut state, token, result),
            GuestEvent::Exited { token, status } => self.exec_exited(&mut state, token, status.shell_code()),
            GuestEvent::Ended(result) => {
                if state.init.lifecycle.state() == lifecycle::State::Starting {
                    state.early_end = Some(result);
                } else {
                    self.ended(&mut state, result);
                }
            }
        }
    }

    fn exec_started(&self, state: &mut State, token: u32, result: Result<u32, i32>) {
        let Some((exec_id, process)) = state.execs.iter_mut().find(|(_, process)| process.token == token) else { return };
        match result {
            Ok(guest_pid) => {
                tracing::debug!(exec_id, guest_pid, "exec started");
                process.lifecycle.started();
                let event = Event::ExecStarted { id: self.id.clone(), exec_id: exec_id.clone(), pid: process.pid };
                self.shared.events.push(event);
                if let Some(starting) = process.starting.take() {
                    // Whoever asked may have gone away; the process runs all the same.
                    let _ = starting.send(Ok(()));
                }
            }
            Err(errno) => {
                let starting = process.starting.take();
                process.start_failed(now_exit(NOT_STARTED));
                if let Some(starting) = starting {
                    let _ = starting.send(Err(errno));
                }
            }
        }
    }

    fn exec_exited(&self, state: &mut State, token: u32, status: u32) {
        let exec = state.execs.iter_mut().find(|(_, process)| process.token == token);
        if let Some((exec_id, process)) = exec {
            let exit = now_exit(status);
            if process.exited(exit) {
                let (id, exec_id, pid) = (self.id.clone(), exec_id.clone(), process.pid);
                self.shared.events.push(Event::Exit { id, exec_id, pid, exit });
            }
        }
    }

    /// The guest has ended: so have all processes, execs first.
    pub(super) fn ended(&self, state: &mut State, result: Result<WaitStatus, GuestError>) {
        let running: Vec<u32> =
            state.execs.values().filter(|process| process.lifecycle.is_alive()).map(|process| process.token).collect();
        for token in running {
            self.exec_exited(state, token, KILLED);
        }
        for process in state.execs.values_mut() {
            // Asked for, but the guest did not get to it: whoever waits sees the sender go.
            process.start_failed_if_starting(now_exit(NOT_STARTED));
        }
        let status = match &result {
            Ok(status) => status.shell_code(),
            Err(error) => {
                self.tell_failure(state, error);
                BROKEN
            }
        };
        self.init_exited(state, status);
    }

    /// The first process has ended with `status`.
    pub(super) fn init_exited(&self, state: &mut State, status: u32) {
        let exit = now_exit(status);
        if state.init.exited(exit) {
            tracing::info!(id = self.id, status, "container ended");
            let (id, exec_id) = (self.id.clone(), self.id.clone());
            self.shared.events.push(Event::Exit { id, exec_id, pid: state.init.pid, exit });
        }
    }

    /// Says in the log, and to whoever reads the container's output, why the guest broke.
    fn tell_failure(&self, state: &mut State, error: &GuestError) {
        match error.report() {
            Some(report) => tracing::error!(id = self.id, %error, "the guest failed\n{report}"),
            None => tracing::error!(id = self.id, %error, "the guest failed"),
        }
        state.init.io.say(&format!("seuss: {error} (containerd's log has the details)"));
    }
}

impl super::process::Process {
    fn start_failed_if_starting(&mut self, exit: lifecycle::Exit) {
        if self.lifecycle.state() == lifecycle::State::Starting {
            self.start_failed(exit);
        }
    }
}
