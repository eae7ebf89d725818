//! News from a container's guest, on the guest's thread.
//!
//! Every change of state queues its event under the container's lock. The guest's thread tells things in order: its first process' start, an
//! exec's start and end, its own end. What it tells before the thread that started it has put its handle into the state is kept until then.

use std::sync::{Arc, Weak};

use super::process::{NotStarted, Process};
use super::{Container, State, now_exit};
use crate::events::Event;
use crate::guest::{EventSink, GuestError, GuestEvent, WaitStatus};
use crate::snapshots::News;
use crate::{lifecycle, program};

/// Exit status of a container whose guest broke, as containerd has it for what it cannot know.
const BROKEN: u32 = 255;
/// Exit status of a process that ended with its container: 128 + SIGKILL.
const KILLED: u32 = 137;
/// Exit status of an exec that could not be started, as shells have it.
const NOT_STARTED: u32 = 127;
/// News that a guest can make at will, kept while it is being started.
const EARLY_NEWS_MAX: usize = 64;

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
        if state.guest.is_none() {
            let is_one_of_many = matches!(event, GuestEvent::Captured(Err(_)) | GuestEvent::OutOfMemory);
            if is_one_of_many && state.early_news.len() >= EARLY_NEWS_MAX {
                return;
            }
            state.early_news.push(event);
        } else {
            self.take(&mut state, event);
        }
    }

    pub(super) fn take(&self, state: &mut State, event: GuestEvent) {
        match event {
            GuestEvent::ExecStarted { token: 0, result: _ } => self.init_started(state),
            GuestEvent::ExecStarted { token, result } => self.exec_started(state, token, result),
            GuestEvent::Exited { token, status } => self.exec_exited(state, token, status.shell_code()),
            GuestEvent::OutOfMemory => self.out_of_memory(),
            GuestEvent::Ready => {
                tracing::info!(id = self.id, "the program is ready");
                hear(state, News::Listening);
            }
            GuestEvent::Answered => hear(state, News::Answered),
            GuestEvent::PutOff(obstacle) => {
                tracing::debug!(id = self.id, %obstacle, "snapshot put off");
                hear(state, News::PutOff(obstacle));
            }
            GuestEvent::Captured(Ok(snapshot)) => {
                hear(state, News::Taken);
                if let (Some(snapshots), Some(guest)) = (&state.snapshots, &state.guest) {
                    snapshots.taken(snapshot, guest);
                }
            }
            GuestEvent::Captured(Err(reason)) => {
                tracing::warn!(id = self.id, reason, "no snapshot");
                if let Some(snapshots) = &state.snapshots {
                    snapshots.refused();
                }
                hear(state, News::Failed(reason));
            }
            GuestEvent::Ended(result) => self.ended(state, result),
        }
    }

    /// The guest has killed a process for want of memory: containerd makes `OOMKilled` of it if the container ends so.
    fn out_of_memory(&self) {
        tracing::warn!(id = self.id, "out of memory");
        self.shared.events.push(Event::Oom { id: self.id.clone() });
    }

    /// The first process runs: so does the container.
    fn init_started(&self, state: &mut State) {
        if state.init.lifecycle.state() == lifecycle::State::Starting {
            state.init.started();
            self.shared.events.push(Event::Start { id: self.id.clone(), pid: state.init.pid });
        }
    }

    fn exec_started(&self, state: &mut State, token: u32, result: Result<u32, i32>) {
        let Some((exec_id, process)) = state.execs.iter_mut().find(|(_, process)| process.token == token)
        else {
            return;
        };
        match result {
            Ok(guest_pid) => {
                tracing::debug!(exec_id, guest_pid, "exec started");
                process.started();
                let event =
                    Event::ExecStarted { id: self.id.clone(), exec_id: exec_id.clone(), pid: process.pid };
                self.shared.events.push(event);
            }
            Err(errno) => process.start_failed(now_exit(NOT_STARTED), Some(NotStarted::Errno(errno))),
        }
    }

    fn exec_exited(&self, state: &mut State, token: u32, status: u32) {
        let exec = state.execs.iter_mut().find(|(_, process)| process.token == token);
        if let Some((exec_id, process)) = exec {
            let exit = now_exit(status);
            if process.exited(exit) {
                let (id, exec_id, pid) = (self.id.clone(), exec_id.clone(), process.pid);
                self.shared.events.push(Event::Exit { id, exec_id, pid, exit });
                if status == 0 {
                    hear(state, News::ExecSucceeded);
                }
            }
        }
    }

    /// The guest has ended: so have all processes, execs first.
    fn ended(&self, state: &mut State, result: Result<WaitStatus, GuestError>) {
        if let Some(snapshots) = &state.snapshots {
            snapshots.ended();
        }
        let running: Vec<u32> = state
            .execs
            .values()
            .filter(|process| process.lifecycle.is_alive())
            .map(|process| process.token)
            .collect();
        for token in running {
            self.exec_exited(state, token, KILLED);
        }
        let is_starting = |process: &Process| process.lifecycle.state() == lifecycle::State::Starting;
        for process in state.execs.values_mut().filter(|process| is_starting(process)) {
            process.start_failed(now_exit(NOT_STARTED), Some(NotStarted::Killed));
        }
        if let Err(error) = &result {
            self.tell_failure(state, error);
        }
        if is_starting(&state.init) {
            // Never told as started, so not as ended either: the start request fails.
            let (status, reason) = match result {
                Ok(status) => (status.shell_code(), NotStarted::Killed),
                Err(error) => (start_status(&error), NotStarted::Guest(error)),
            };
            state.init.start_failed(now_exit(status), Some(reason));
            return;
        }
        let status = result.map_or(BROKEN, WaitStatus::shell_code);
        if status != 0
            && !state.signalled
            && let Some(snapshots) = &state.snapshots
        {
            snapshots.died();
        }
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
        // The VMM has logged its report.
        tracing::error!(id = self.id, %error, "the guest failed");
        state.init.io.say(&format!("seuss: {error} (containerd's log has the details)"));
    }
}

/// Tells whoever waits for the program to be ready.
fn hear(state: &State, news: News) {
    if let Some(snapshots) = &state.snapshots {
        snapshots.hear(news);
    }
}

/// Exit status of a first process that could not be started, as shells have it.
fn start_status(error: &GuestError) -> u32 {
    match error {
        GuestError::NotStarted { errno, .. } => program::exit_code_of(*errno).into(),
        _ => BROKEN,
    }
}
