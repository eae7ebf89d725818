//! The start of containers and execs: from a snapshot, or from the beginning.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use seuss_snapshotter::snapshot::Level;
use tokio::sync::oneshot;

use super::process::NotStarted;
use super::requests::{START_FAILED, deliver};
use super::{Container, now_exit};
use crate::error::TaskError;
use crate::events::Event;
use crate::guest::{CloneConfig, EventSink, GuestConfig, GuestControl, GuestError, GuestEvent, StartError};
use crate::io::{Owner, ProcessIo};
use crate::netns;
use crate::snapshots::{Beginning, Snapshots};

/// Longest wait for a guest to come up and start its first process.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait for a clone of a base snapshot to say whether it goes with the container's image.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a guest to start an exec.
const EXEC_TIMEOUT: Duration = Duration::from_secs(30);

/// The events of a clone of a base snapshot, which may find that it does not go with the container's image: of one that does, `sink` gets all; of one that does not, nothing
/// but what came before. The receiver tells which it is.
fn gated(mut sink: EventSink) -> (EventSink, Receiver<Result<(), GuestError>>) {
    let (sender, verdict) = sync_channel(1);
    let mut undecided = Some(sender);
    let mut is_refused = false;
    let gate = move |event| {
        let decision = match &event {
            GuestEvent::ExecStarted { token: 0, .. } | GuestEvent::Ended(Ok(_)) => Some(Ok(())),
            GuestEvent::Ended(Err(error)) => Some(Err(error.clone())),
            _ => None,
        };
        if let Some(decision) = decision
            && let Some(sender) = undecided.take()
        {
            is_refused = decision.is_err();
            // Whoever asked may have stopped waiting.
            let _ = sender.send(decision);
        }
        if !is_refused {
            sink(event);
        }
    };
    (Box::new(gate), verdict)
}

impl Container {
    /// Starts the container's guest, or, with `exec_id`, an exec. Returns the pid.
    ///
    /// # Errors
    /// [`TaskError`]. The process counts as ended then, and can be deleted.
    pub async fn start(self: &Arc<Self>, exec_id: Option<&str>) -> Result<u32, TaskError> {
        match exec_id {
            Some(exec_id) => self.start_exec(exec_id).await,
            None => self.start_init().await,
        }
    }

    async fn start_init(self: &Arc<Self>) -> Result<u32, TaskError> {
        let (config, cpus, started) = {
            let mut state = self.lock();
            state.init.lifecycle.begin_start().map_err(|source| self.refused(source))?;
            let stdio = state.init.io.take_stdio();
            let Some((plan, prepared)) = state.plan.take() else {
                // A sandbox: it "runs" from now on.
                state.init.lifecycle.started();
                self.shared.events.push(Event::Start { id: self.id.clone(), pid: state.init.pid });
                return Ok(state.init.pid);
            };
            let (sender, started) = oneshot::channel();
            state.init.starting = Some(sender);
            let config = GuestConfig {
                memory_bytes: plan.memory_bytes,
                images: prepared.images,
                process: plan.process,
                stdio,
                name: self.id.clone(),
                privileges: plan.privileges,
                snapshots: state.snapshots.as_ref().map(Snapshots::sink),
            };
            (config, plan.cpu.cpus, started)
        };
        let program = config
            .process
            .args
            .first()
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .unwrap_or_default();
        let container = Arc::clone(self);
        let launched = crate::service::blocking(move || container.launch(config, &cpus)).await;
        if let Err(error) = launched.and_then(|launched| launched) {
            self.lock().init.start_failed(now_exit(START_FAILED), None);
            return Err(error);
        }
        match tokio::time::timeout(START_TIMEOUT, started).await {
            Ok(Ok(Ok(()))) => Ok(self.pid()),
            Ok(Ok(Err(NotStarted::Guest(error)))) => Err(not_started(error, program)),
            Ok(Ok(Err(NotStarted::Errno(_) | NotStarted::Killed)) | Err(_)) => {
                Err(TaskError::Ended { id: self.id.clone() })
            }
            Err(_) => {
                let guest = self.lock().guest.clone();
                if let Some(guest) = guest {
                    guest.stop();
                }
                Err(TaskError::Silent { id: self.id.clone(), seconds: START_TIMEOUT.as_secs() })
            }
        }
    }

    /// Starts the guest. Blocks.
    fn launch(self: &Arc<Self>, config: GuestConfig, cpus: &str) -> Result<(), TaskError> {
        let guest = netns::run_in(&self.network, || self.start_guest(config))??;
        self.place_thread(guest.tid(), cpus);
        // The threads that this starts work for the guest.
        let metered = self.text.enter();
        let mut state = self.lock();
        state.init.pid = guest.tid();
        state.guest = Some(Arc::clone(&guest));
        if let Some(snapshots) = &mut state.snapshots {
            snapshots.runs(&guest);
        }
        if let Err(error) = self.write_record(&state) {
            tracing::warn!(%error, "the record of the container has an old pid");
        }
        for event in std::mem::take(&mut state.early_news) {
            self.take(&mut state, event);
        }
        drop(metered);
        let early_signals = std::mem::take(&mut state.init.early_signals);
        drop(state);
        for (signo, all) in early_signals {
            if let Err(error) = deliver(&*guest, 0, signo, all) {
                tracing::warn!(%error, signo, "a signal that came during the start is lost");
            }
        }
        Ok(())
    }

    /// Starts from a snapshot if there is one that fits, else from the beginning.
    fn start_guest(self: &Arc<Self>, config: GuestConfig) -> Result<Arc<dyn GuestControl>, StartError> {
        let _text = self.text.enter();
        let beginning = self.lock().snapshots.as_mut().and_then(Snapshots::take_beginning);
        if let Some(beginning) = beginning {
            let snapshot = beginning.origin.id();
            match self.restore(&config, beginning) {
                Ok(guest) => {
                    tracing::info!(id = self.id, %snapshot, "restored from a snapshot");
                    return Ok(guest);
                }
                Err(error) => {
                    tracing::warn!(id = self.id, %snapshot, %error, "cannot start from a snapshot; booting");
                    if let Some(snapshots) = &mut self.lock().snapshots {
                        snapshots.boots();
                    }
                }
            }
        }
        self.shared.hypervisor.start(config, self.sink())
    }

    fn restore(
        self: &Arc<Self>,
        config: &GuestConfig,
        beginning: Beginning,
    ) -> Result<Arc<dyn GuestControl>, StartError> {
        let host = |operation, error: std::io::Error| StartError::Host {
            operation,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        };
        // If this fails, the container boots with the others.
        let stdio =
            config.stdio.try_clone().map_err(|error| host("duplicate the standard descriptors", error))?;
        let level = beginning.origin.manifest().level;
        let process =
            self.lock().snapshots.as_ref().map(|snapshots| snapshots.identity(&config.process, level));
        if let Some(pool) = &beginning.pool {
            pool.wait()?;
        }
        let clone = CloneConfig {
            origin: beginning.origin,
            process: process.unwrap_or_default(),
            stdio,
            name: config.name.clone(),
            privileges: config.privileges,
            snapshots: config.snapshots.clone(),
            pool: beginning.pool,
        };
        if level != Level::Base {
            return self.shared.hypervisor.restore(clone, self.sink());
        }
        let snapshot = clone.origin.id();
        let (sink, verdict) = gated(self.sink());
        let guest = self.shared.hypervisor.restore(clone, sink)?;
        let refused = |what: String| StartError::Snapshot { id: snapshot.to_string(), what };
        match verdict.recv_timeout(VERDICT_TIMEOUT) {
            Ok(Ok(())) => Ok(guest),
            Ok(Err(error)) => Err(refused(error.to_string())),
            Err(_) => {
                guest.stop();
                Err(refused("a clone that does not start".to_owned()))
            }
        }
    }

    /// Puts the vCPU thread where the container's CPU limits apply.
    fn place_thread(&self, tid: u32, cpus: &str) {
        let group = self.lock().group.clone();
        if let Some(group) = group
            && let Err(error) = group.add_thread(tid)
        {
            tracing::warn!(%error, "the container runs outside its control group");
        }
        if let Err(error) = pin(tid, cpus) {
            tracing::warn!(%error, cpus, "cannot keep the container on its processors");
        }
    }

    async fn start_exec(&self, exec_id: &str) -> Result<u32, TaskError> {
        let (guest, token, process_spec, stdio, started, pid) = {
            let mut state = self.lock();
            state.init.lifecycle.can_exec().map_err(|source| self.refused(source))?;
            let guest = state.guest.clone().ok_or_else(|| TaskError::Ended { id: self.id.clone() })?;
            let pid = guest.tid();
            let process = self.exec_mut(&mut state, exec_id)?;
            process
                .lifecycle
                .begin_start()
                .map_err(|source| TaskError::Refused { id: exec_id.to_owned(), source })?;
            let owner = Owner { namespace: &self.shared.namespace, id: &self.id };
            match ProcessIo::open(&process.names, owner) {
                Ok(io) => process.io = io,
                Err(error) => {
                    process.start_failed(now_exit(START_FAILED), None);
                    return Err(error.into());
                }
            }
            let (sender, started) = oneshot::channel();
            process.starting = Some(sender);
            process.pid = pid;
            let stdio = process.io.take_stdio();
            (guest, process.token, process.spec.take().unwrap_or_default(), stdio, started, pid)
        };
        let program = process_spec
            .args
            .first()
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .unwrap_or_default();
        if let Err(source) = guest.exec(token, process_spec, stdio) {
            self.fail_exec(exec_id);
            return Err(TaskError::Request { id: exec_id.to_owned(), source });
        }
        match tokio::time::timeout(EXEC_TIMEOUT, started).await {
            Ok(Ok(Ok(()))) => Ok(pid),
            Ok(Ok(Err(NotStarted::Errno(errno)))) => Err(TaskError::ExecFailed { program, errno }),
            Ok(Ok(Err(NotStarted::Guest(_) | NotStarted::Killed)) | Err(_)) => {
                Err(TaskError::Ended { id: self.id.clone() })
            }
            Err(_) => Err(TaskError::Silent { id: self.id.clone(), seconds: EXEC_TIMEOUT.as_secs() }),
        }
    }

    fn fail_exec(&self, exec_id: &str) {
        if let Some(process) = self.lock().execs.get_mut(exec_id) {
            process.start_failed(now_exit(START_FAILED), None);
        }
    }
}

fn not_started(error: GuestError, program: String) -> TaskError {
    match error {
        GuestError::NotStarted { errno, message } => TaskError::NotStarted { program, errno, message },
        error => TaskError::GuestFailed { error },
    }
}

/// Keeps thread `tid` on the processors of a list like `0-3,7`; an empty list changes nothing.
pub(super) fn pin(tid: u32, cpus: &str) -> std::io::Result<()> {
    if cpus.trim().is_empty() {
        return Ok(());
    }
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a list of processors");
    let mut set = rustix::thread::CpuSet::new();
    for range in cpus.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let parse =
            |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < rustix::thread::CpuSet::MAX_CPU);
        let (first, last) = (parse(first).ok_or_else(invalid)?, parse(last).ok_or_else(invalid)?);
        for cpu in first..=last {
            set.set(cpu);
        }
    }
    let tid = i32::try_from(tid).ok().and_then(rustix::thread::Pid::from_raw);
    rustix::thread::sched_setaffinity(tid, &set)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use seuss_vmm::WaitStatus;

    use super::*;

    /// What comes through a gate, and its verdict.
    fn through(events: Vec<GuestEvent>) -> (usize, Option<bool>) {
        let passed = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&passed);
        let (mut gate, verdict) = gated(Box::new(move |_| *counter.lock().unwrap() += 1));
        events.into_iter().for_each(&mut gate);
        let passed = *passed.lock().unwrap();
        (passed, verdict.try_recv().ok().map(|verdict| verdict.is_ok()))
    }

    #[test]
    fn a_clone_that_does_not_go_with_the_image_tells_nothing_else() {
        let started = || GuestEvent::ExecStarted { token: 0, result: Ok(1) };
        let failed = || {
            let message = "/usr/lib is another one".to_owned();
            GuestEvent::Ended(Err(GuestError::NotStarted { errno: libc::ESTALE, message }))
        };
        assert_eq!(through(vec![failed()]), (0, Some(false)));
        assert_eq!(through(vec![]), (0, None));
        // One that has started may fail like any other.
        assert_eq!(through(vec![started(), GuestEvent::Ready, failed()]), (3, Some(true)));
        let ended = GuestEvent::Ended(Ok(WaitStatus::exited(0)));
        assert_eq!(through(vec![ended]), (1, Some(true)));
    }

    #[test]
    fn processor_lists() {
        let tid = rustix::thread::gettid().as_raw_pid() as u32;
        assert!(pin(tid, "").is_ok());
        assert!(pin(tid, "0").is_ok());
        for bad in ["x", "0-", "99999", "1-2-3"] {
            assert!(pin(tid, bad).is_err(), "{bad}");
        }
    }
}
