//! The guest behind a container, as the rest of the crate sees it.
//!
//! Owns the seam to `seuss_vmm`: its types under one name, and [`GuestControl`] and [`Hypervisor`], through which containers use a guest, so
//! that their state machines are tested without KVM. No KVM is known above this module.

use std::sync::Arc;

use seuss_abi::spec::ProcessSpec;
use seuss_snapshotter::snapshot::{Level, SnapshotId};
pub use seuss_vmm::confine;
pub use seuss_vmm::text::TextBudget;
pub use seuss_vmm::{
    Allowance, CaptureLimits, Caution, CloneConfig, Guest, GuestConfig, GuestError, GuestEvent, GuestStats,
    ImageBlob, KernelImage, Keys, Lineage, NetPrivileges, Obstacle, Origin, OriginError, RequestError,
    ShellPool, SnapshotSink, StartError, StartTimings, Stdio, StoreRoom, WaitStatus, argument_key, host_cpu,
};

/// Receives a guest's events, on the guest's own thread.
pub type EventSink = Box<dyn FnMut(GuestEvent) + Send>;

/// A running guest.
pub trait GuestControl: Send + Sync {
    /// Thread id of its vCPU.
    fn tid(&self) -> u32;
    /// Sends a signal to the process of `token`, or to all.
    ///
    /// # Errors
    /// The guest has ended, or there is no such signal.
    fn signal(&self, token: u32, signo: u32, all: bool) -> Result<(), RequestError>;
    /// Starts another process; [`GuestEvent::ExecStarted`] answers.
    ///
    /// # Errors
    /// The guest has ended, or the description is too large.
    fn exec(&self, token: u32, spec: ProcessSpec, stdio: Stdio) -> Result<(), RequestError>;
    /// Sets the size of a terminal.
    ///
    /// # Errors
    /// The guest has ended.
    fn resize(&self, token: u32, rows: u16, columns: u16) -> Result<(), RequestError>;
    /// Holds the guest.
    fn pause(&self);
    /// Lets it go on.
    fn resume(&self);
    /// Ends it, as SIGKILL would.
    fn stop(&self);
    /// Asks for a snapshot; [`GuestEvent::Captured`] or [`GuestEvent::PutOff`] answers.
    ///
    /// # Errors
    /// The guest has ended.
    fn snapshot(&self, level: Level, caution: Option<Caution>) -> Result<(), RequestError>;
    /// What it captures next builds on `to`; see [`Guest::rebase`].
    ///
    /// # Errors
    /// The guest has ended.
    fn rebase(&self, from: SnapshotId, to: Option<Arc<Lineage>>) -> Result<(), RequestError>;
    /// Figures.
    fn stats(&self) -> GuestStats;
}

impl GuestControl for Guest {
    fn tid(&self) -> u32 {
        u32::try_from(Self::tid(self)).unwrap_or(0)
    }

    fn signal(&self, token: u32, signo: u32, all: bool) -> Result<(), RequestError> {
        Self::signal(self, token, signo, all)
    }

    fn exec(&self, token: u32, spec: ProcessSpec, stdio: Stdio) -> Result<(), RequestError> {
        Self::exec(self, token, spec, stdio)
    }

    fn resize(&self, token: u32, rows: u16, columns: u16) -> Result<(), RequestError> {
        Self::resize(self, token, rows, columns)
    }

    fn pause(&self) {
        Self::pause(self);
    }

    fn resume(&self) {
        Self::resume(self);
    }

    fn stop(&self) {
        Self::stop(self);
    }

    fn snapshot(&self, level: Level, caution: Option<Caution>) -> Result<(), RequestError> {
        Self::snapshot(self, level, caution)
    }

    fn rebase(&self, from: SnapshotId, to: Option<Arc<Lineage>>) -> Result<(), RequestError> {
        Self::rebase(self, from, to)
    }

    fn stats(&self) -> GuestStats {
        Self::stats(self)
    }
}

/// What starts guests.
pub trait Hypervisor: Send + Sync {
    /// Starts a guest. `events` may be called before this returns.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    fn start(&self, config: GuestConfig, events: EventSink) -> Result<Arc<dyn GuestControl>, StartError>;

    /// Starts a clone of a snapshot. As [`Self::start`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    fn restore(&self, config: CloneConfig, events: EventSink) -> Result<Arc<dyn GuestControl>, StartError>;
}

/// Starts guests under KVM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kvm;

impl Hypervisor for Kvm {
    fn start(&self, config: GuestConfig, events: EventSink) -> Result<Arc<dyn GuestControl>, StartError> {
        let guest = Guest::start(config, events)?;
        Ok(Arc::new(guest))
    }

    fn restore(&self, config: CloneConfig, events: EventSink) -> Result<Arc<dyn GuestControl>, StartError> {
        let guest = Guest::restore(config, events)?;
        Ok(Arc::new(guest))
    }
}
