//! One process of a container, the first or an exec, as the shim keeps it.

use seuss_abi::spec::ProcessSpec;
use tokio::sync::{oneshot, watch};

use crate::guest::GuestError;
use crate::io::{ProcessIo, StdioNames};
use crate::lifecycle::{Exit, Lifecycle};

/// Why a process was not started, as the guest tells it.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// An exec: what execve(2) would have returned.
    Errno(i32),
    /// The first process: the guest ended before it ran.
    Guest(GuestError),
    /// The guest was ended.
    Killed,
}

/// A process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) lifecycle: Lifecycle,
    pub(super) names: StdioNames,
    pub(super) io: ProcessIo,
    /// What containerd is told as its pid.
    pub(super) pid: u32,
    /// Its name to the guest: 0 for the first process.
    pub(super) token: u32,
    /// What to run, for an exec that was not started.
    pub(super) spec: Option<ProcessSpec>,
    /// Who waits for the start.
    pub(super) starting: Option<oneshot::Sender<Result<(), NotStarted>>>,
    /// Signals (number, to all) that came while the guest was being started.
    pub(super) early_signals: Vec<(u32, bool)>,
    exit: watch::Sender<Option<Exit>>,
}

impl Process {
    pub(super) fn new(names: StdioNames, io: ProcessIo, pid: u32) -> Self {
        Self {
            lifecycle: Lifecycle::default(),
            names,
            io,
            pid,
            token: 0,
            spec: None,
            starting: None,
            early_signals: Vec::new(),
            exit: watch::Sender::new(None),
        }
    }

    /// An exec that will run `spec`.
    pub(super) fn exec(names: StdioNames, spec: ProcessSpec, token: u32) -> Self {
        Self { spec: Some(spec), token, ..Self::new(names, ProcessIo::default(), 0) }
    }

    /// The process has ended. False if that was known.
    pub(super) fn exited(&mut self, exit: Exit) -> bool {
        let news = self.lifecycle.exited(exit);
        if news {
            self.let_go(exit);
        }
        news
    }

    /// The start has succeeded; whoever waits for it hears of it.
    pub(super) fn started(&mut self) {
        self.lifecycle.started();
        if let Some(starting) = self.starting.take() {
            // Whoever asked may have gone away; the process runs all the same.
            let _ = starting.send(Ok(()));
        }
    }

    /// The start has failed, for `reason` if somebody waits for it.
    pub(super) fn start_failed(&mut self, exit: Exit, reason: Option<NotStarted>) {
        self.lifecycle.start_failed(exit);
        if let (Some(starting), Some(reason)) = (self.starting.take(), reason) {
            let _ = starting.send(Err(reason));
        }
        self.let_go(exit);
    }

    /// Closes its streams and wakes those who wait for its end.
    fn let_go(&mut self, exit: Exit) {
        self.starting = None;
        self.io.close();
        self.exit.send_replace(Some(exit));
    }

    /// Wakes those who wait for the end of a process that is deleted without ever having run.
    pub(super) fn never_ran(&mut self, exit: Exit) {
        self.let_go(exit);
    }

    /// For waiting for the end without the container's lock.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.subscribe()
    }
}
