//! A process as a file (pidfd_open(2)). It stands for that process also when its number belongs to another one later.
//!
//! **Not** supported: single threads (PIDFD_THREAD), the ioctls of pidfs.

use super::file::{File, FileOps};
use super::notify::Notifier;
use crate::task::process::Process;
use crate::wait::Readiness;
use alloc::rc::Rc;

/// A process that somebody has a descriptor of.
pub struct PidFile {
    process: Rc<Process>,
}

impl PidFile {
    /// A file for `process`.
    #[must_use]
    pub fn new(process: &Rc<Process>) -> Rc<Self> {
        Rc::new(Self { process: process.clone() })
    }

    /// The process, also when it has ended.
    #[must_use]
    pub fn process(&self) -> &Rc<Process> {
        &self.process
    }
}

impl FileOps for PidFile {
    fn poll(&self, _file: &File) -> Readiness {
        let mut ready = Readiness::empty();
        ready.set(Readiness::READABLE, self.process.is_zombie());
        ready.set(Readiness::HANGUP, self.process.reaped.get());
        ready
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.process.ended)
    }
}
