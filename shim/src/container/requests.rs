//! What containerd asks of a container that exists.
//!
//! Each request looks at the state machine first, under the lock, then acts on the guest without it, then records what happened.

use std::sync::Arc;
use std::time::Duration;

use super::process::Process;
use super::start::pin;
use super::{Container, State, now_exit};
use crate::cgroup::Version;
use crate::error::TaskError;
use crate::events::Event;
use crate::guest::{GuestControl, GuestStats, RequestError};
use crate::io::StdioNames;
use crate::lifecycle::{self, Exit, KillEffect, Refused, ends_by_default};
use crate::oci::{Process as OciProcess, Resources};
use crate::spec::Role;
use crate::{metrics, spec};

/// How long a sandbox lives on after it was killed.
const SANDBOX_ENDS_AFTER: Duration = Duration::from_millis(5);
/// Exit status of a container that could not be started.
pub(super) const START_FAILED: u32 = 128;
const SIGKILL: u32 = libc::SIGKILL as u32;

/// State of a process, for containerd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateView {
    /// The bundle.
    pub bundle: String,
    /// pid.
    pub pid: u32,
    /// State.
    pub state: lifecycle::State,
    /// Standard input and output.
    pub stdio: StdioNames,
}

/// A process of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pid {
    /// pid.
    pub pid: u32,
    /// The exec that it is, `None` for the first process.
    pub exec_id: Option<String>,
}

impl Container {
    /// Adds an exec, not started yet.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn exec(&self, exec_id: &str, names: StdioNames, description: &[u8]) -> Result<(), TaskError> {
        if self.is_sandbox() {
            return Err(self.unsupported_in_sandbox("exec"));
        }
        let mut process: OciProcess =
            serde_json::from_slice(description).map_err(|source| TaskError::ExecSpec { source })?;
        process.terminal = names.terminal;
        let mut process_spec = spec::translate_exec(&process)?;
        if !process_spec.env.iter().any(|entry| entry.starts_with(b"HOME=")) {
            let own = self.home.as_ref().filter(|(uid, _)| *uid == process_spec.uid);
            process_spec.env.push(own.map_or_else(|| b"HOME=/".to_vec(), |(_, home)| home.clone()));
        }
        let mut state = self.lock();
        state.init.lifecycle.can_exec().map_err(|source| self.refused(source))?;
        if state.execs.contains_key(exec_id) {
            return Err(TaskError::Exists { what: "exec", id: exec_id.to_owned() });
        }
        let token = state.next_token;
        state.next_token = token.wrapping_add(1).max(1);
        state.execs.insert(exec_id.to_owned(), Process::exec(names, process_spec, token));
        self.shared.events.push(Event::ExecAdded { id: self.id.clone(), exec_id: exec_id.to_owned() });
        Ok(())
    }

    /// Sends a signal to the first process, to an exec, or, with `all`, to every process of the guest.
    ///
    /// # Errors
    /// [`TaskError`]; "not found" if the process has ended.
    pub fn kill(self: &Arc<Self>, exec_id: Option<&str>, signo: u32, all: bool) -> Result<(), TaskError> {
        let (guest, token) = {
            let mut state = self.lock();
            let id = exec_id.unwrap_or(&self.id).to_owned();
            let process = self.process(&mut state, exec_id)?;
            let effect = process.lifecycle.kill().map_err(|source| TaskError::Refused { id, source })?;
            let token = process.token;
            if effect == KillEffect::EndUnstarted {
                self.end_unstarted(&mut state, exec_id, signo);
                return Ok(());
            }
            state.signalled = true;
            let is_starting = exec_id.is_none() && state.init.lifecycle.state() == lifecycle::State::Starting;
            match state.guest.clone().filter(|_| !is_starting || signo == SIGKILL) {
                Some(guest) => (guest, token),
                None if self.is_sandbox() => {
                    drop(state);
                    self.signal_sandbox(signo);
                    return Ok(());
                }
                // Its guest is just being started.
                None => {
                    state.init.early_signals.push((signo, all));
                    return Ok(());
                }
            }
        };
        deliver(&*guest, token, signo, all)
            .map_err(|source| TaskError::Request { id: exec_id.unwrap_or(&self.id).to_owned(), source })
    }

    fn end_unstarted(&self, state: &mut State, exec_id: Option<&str>, signo: u32) {
        if !ends_by_default(signo) {
            return;
        }
        match exec_id {
            None => self.init_exited(state, 128 + signo),
            Some(exec_id) => {
                if let Some(process) = state.execs.get_mut(exec_id) {
                    // Nobody was told of a start, so nobody is told of an end.
                    process.exited(now_exit(128 + signo));
                }
            }
        }
    }

    /// What Kubernetes' pause program does: it ends well on SIGINT and SIGTERM. As with a process, that takes a moment: containerd closes the connection when it hears of
    /// the end, and the request that asked for it must have its answer by then.
    fn signal_sandbox(self: &Arc<Self>, signo: u32) {
        let status = match signo as i32 {
            libc::SIGINT | libc::SIGTERM => 0,
            _ if ends_by_default(signo) => 128 + signo,
            _ => return,
        };
        let container = Arc::clone(self);
        let end = move || container.init_exited(&mut container.lock(), status);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                tokio::time::sleep(SANDBOX_ENDS_AFTER).await;
                end();
            })),
            Err(_) => end(),
        }
    }

    /// Waits for the end of the first process or an exec.
    ///
    /// # Errors
    /// [`TaskError::NoExec`].
    pub async fn wait(&self, exec_id: Option<&str>) -> Result<Exit, TaskError> {
        let mut watch = {
            let mut state = self.lock();
            self.process(&mut state, exec_id)?.watch()
        };
        let exit = watch.wait_for(Option::is_some).await.map(|exit| *exit);
        // The sender lives in the process' entry; when that goes, the process was deleted, which tells its exit first.
        exit.ok()
            .flatten()
            .ok_or_else(|| TaskError::Refused { id: self.id.clone(), source: Refused::Deleted })
    }

    /// Deletes the container, which must have ended. Blocks until its guest has let go of everything. Returns its pid and exit.
    ///
    /// # Errors
    /// [`TaskError`] while it runs.
    pub fn delete(&self) -> Result<(u32, Exit), TaskError> {
        let (pid, exit, guest) = {
            let mut state = self.lock();
            let exit = state.init.lifecycle.delete().map_err(|source| self.refused(source))?;
            // Never started: as if it had been killed, as runc's shim has it.
            let exit = exit.unwrap_or_else(|| now_exit(128 + SIGKILL));
            state.init.never_ran(exit);
            state.plan = None;
            state.execs.clear();
            (state.init.pid, exit, state.guest.take())
        };
        // The last handle waits for the guest's thread. Others may be held by requests that end soon.
        drop(guest);
        self.release_host_side();
        self.shared.events.push(Event::Delete { id: self.id.clone(), pid, exit });
        Ok((pid, exit))
    }

    /// Deletes an exec, which must have ended. Returns its pid and exit.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn delete_exec(&self, exec_id: &str) -> Result<(u32, Exit), TaskError> {
        let mut state = self.lock();
        let process = self.exec_mut(&mut state, exec_id)?;
        let exit = process
            .lifecycle
            .delete()
            .map_err(|source| TaskError::Refused { id: exec_id.to_owned(), source })?;
        let exit = exit.unwrap_or_else(|| now_exit(128 + SIGKILL));
        process.never_ran(exit);
        let pid = process.pid;
        state.execs.remove(exec_id);
        Ok((pid, exit))
    }

    /// Holds the guest.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn pause(&self) -> Result<(), TaskError> {
        self.hold(true)
    }

    /// Lets the guest go on.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn resume(&self) -> Result<(), TaskError> {
        self.hold(false)
    }

    fn hold(&self, hold: bool) -> Result<(), TaskError> {
        let guest = {
            let mut state = self.lock();
            let request = if hold { state.init.lifecycle.pause() } else { state.init.lifecycle.resume() };
            request.map_err(|source| self.refused(source))?;
            let id = self.id.clone();
            self.shared.events.push(if hold { Event::Paused { id } } else { Event::Resumed { id } });
            state.guest.clone()
        };
        match guest {
            Some(guest) if hold => guest.pause(),
            Some(guest) => guest.resume(),
            None => {}
        }
        Ok(())
    }

    /// State of the first process or an exec.
    ///
    /// # Errors
    /// [`TaskError::NoExec`].
    pub fn state(&self, exec_id: Option<&str>) -> Result<StateView, TaskError> {
        let mut state = self.lock();
        let process = self.process(&mut state, exec_id)?;
        Ok(StateView {
            bundle: self.bundle.path().display().to_string(),
            pid: process.pid,
            state: process.lifecycle.state(),
            stdio: process.names.clone(),
        })
    }

    /// The processes.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        let state = self.lock();
        let init = Some(&state.init)
            .filter(|init| init.lifecycle.is_alive())
            .map(|init| Pid { pid: init.pid, exec_id: None });
        let execs = state.execs.iter().filter(|(_, process)| process.lifecycle.is_alive());
        init.into_iter()
            .chain(execs.map(|(id, process)| Pid { pid: process.pid, exec_id: Some(id.clone()) }))
            .collect()
    }

    /// The container's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.lock().init.pid
    }

    /// Sets the size of a process' terminal.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn resize(&self, exec_id: Option<&str>, rows: u32, columns: u32) -> Result<(), TaskError> {
        let clamp = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        let (guest, token) = {
            let mut state = self.lock();
            let process = self.process(&mut state, exec_id)?;
            let (alive, token) = (process.lifecycle.is_alive(), process.token);
            if !alive {
                // Before the start: the size that counts is the one that it starts with.
                if let Some(spec) = process.spec.as_mut() {
                    spec.window = (clamp(rows), clamp(columns));
                } else if let (None, Some((plan, _))) = (exec_id, state.plan.as_mut()) {
                    plan.process.window = (clamp(rows), clamp(columns));
                }
                return Ok(());
            }
            (state.guest.clone(), token)
        };
        match guest.map(|guest| guest.resize(token, clamp(rows), clamp(columns))) {
            None | Some(Ok(()) | Err(RequestError::Ended)) => Ok(()),
            Some(Err(source)) => Err(TaskError::Request { id: self.id.clone(), source }),
        }
    }

    /// Ends standard input of the first process or an exec.
    ///
    /// # Errors
    /// [`TaskError::NoExec`].
    pub fn close_stdin(&self, exec_id: Option<&str>) -> Result<(), TaskError> {
        let mut state = self.lock();
        self.process(&mut state, exec_id)?.io.close_stdin();
        Ok(())
    }

    /// Changes limits. CPU limits apply at once; a guest's memory cannot change.
    ///
    /// # Errors
    /// [`TaskError::Unsupported`] for another memory limit.
    pub fn update(&self, resources: &[u8]) -> Result<(), TaskError> {
        let resources: Resources =
            serde_json::from_slice(resources).map_err(|source| TaskError::Resources { source })?;
        let limit =
            resources.memory.limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        if let Some(limit) = limit.filter(|limit| *limit != self.memory_bytes && !self.is_sandbox()) {
            return Err(TaskError::Unsupported {
                what: format!(
                    "changing the memory limit of a running guest (from {} to {limit} bytes)",
                    self.memory_bytes
                ),
                hint: ": its memory is laid out when it starts; start the container again",
            });
        }
        let (group, pid) = {
            let state = self.lock();
            (state.group.clone(), state.init.pid)
        };
        match group {
            Some(group) => group.limit(&resources.cpu),
            None if self.role == Role::Alone => {
                if let Some(group) = &self.shared.pod().process_group {
                    group.limit(&resources.cpu);
                }
            }
            None => {}
        }
        if !self.is_sandbox()
            && let Err(error) = pin(pid, &resources.cpu.cpus)
        {
            tracing::warn!(%error, cpus = resources.cpu.cpus, "cannot move the container to other processors");
        }
        Ok(())
    }

    /// Figures, as the message that containerd wants for this machine's cgroup version.
    #[must_use]
    pub fn metrics(&self) -> containerd_shim_protos::protobuf::well_known_types::any::Any {
        let (guest, group) = {
            let state = self.lock();
            (state.guest.clone(), state.group.clone())
        };
        // A sandbox has used what the process has used that no container did.
        let group = group.or_else(|| self.shared.pod().process_group.clone().filter(|_| self.is_sandbox()));
        let stats = guest.map(|guest| guest.stats()).unwrap_or_default();
        // What the library OS has beside the limit is no part of what the container was given.
        let limit_bytes = self.memory_bytes.min(stats.limit_bytes);
        let stats = GuestStats { limit_bytes, used_bytes: stats.used_bytes.min(limit_bytes), ..stats };
        metrics::metrics(Version::detect(), &stats, group.as_ref())
    }

    fn process<'s>(&self, state: &'s mut State, exec_id: Option<&str>) -> Result<&'s mut Process, TaskError> {
        match exec_id {
            None => Ok(&mut state.init),
            Some(exec_id) => self.exec_mut(state, exec_id),
        }
    }

    pub(super) fn exec_mut<'s>(
        &self,
        state: &'s mut State,
        exec_id: &str,
    ) -> Result<&'s mut Process, TaskError> {
        let missing = || TaskError::NoExec { id: self.id.clone(), exec_id: exec_id.to_owned() };
        state.execs.get_mut(exec_id).ok_or_else(missing)
    }

    pub(super) fn refused(&self, source: Refused) -> TaskError {
        TaskError::Refused { id: self.id.clone(), source }
    }

    /// The error for a request that only a guest could meet.
    #[must_use]
    pub fn unsupported_in_sandbox(&self, request: &str) -> TaskError {
        TaskError::Unsupported {
            what: format!("{request} in a sandbox container"),
            hint: ": it has no guest; use a container of the pod",
        }
    }
}

/// SIGKILL to the first process ends the container, as it does where that is pid 1 of a namespace: without asking the guest, which may
/// not be able to answer.
pub(super) fn deliver(
    guest: &dyn GuestControl,
    token: u32,
    signo: u32,
    all: bool,
) -> Result<(), RequestError> {
    if signo == SIGKILL && (token == 0 || all) {
        guest.stop();
        return Ok(());
    }
    guest.signal(token, signo, all)
}
