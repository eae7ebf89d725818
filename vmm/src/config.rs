//! What a guest is made of: [`GuestConfig`] and the descriptors that go with it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use seuss_abi::spec::ProcessSpec;

use crate::net::NetPrivileges;
use crate::pool::ShellPool;
use crate::snapshot::{Origin, SnapshotSink};

/// Everything that [`crate::Guest::start`] needs.
#[derive(Debug)]
pub struct GuestConfig {
    /// Memory limit in bytes: the size of the guest's private window, rounded down to 2 MiB and capped at
    /// [`seuss_abi::layout::PRIVATE_MAX`]. Host memory is taken as the guest touches it.
    pub memory_bytes: u64,
    /// EROFS blobs of the root file system, base layer first.
    pub images: Vec<ImageBlob>,
    /// The first process. Its `stdio` field is overwritten: the VMM numbers the handles.
    pub process: ProcessSpec,
    /// Descriptors of the first process.
    pub stdio: Stdio,
    /// Name of the guest in logs and (its first 15 bytes) of the vCPU thread.
    pub name: String,
    /// What its sockets may do on the host. What the guest says of itself does not count.
    pub privileges: NetPrivileges,
    /// Where snapshots go that the guest or [`crate::Guest::snapshot`] asks for; without it they are refused.
    pub snapshots: Option<SnapshotSink>,
}

/// What [`crate::Guest::restore`] needs.
#[derive(Debug)]
pub struct CloneConfig {
    /// The snapshot.
    pub origin: Arc<Origin>,
    /// What the clone is told: of the description, `hostname` and `files` count. `stdio` is overwritten.
    pub process: ProcessSpec,
    /// Descriptors in place of the first process'.
    pub stdio: Stdio,
    /// As in [`GuestConfig`].
    pub name: String,
    /// As in [`GuestConfig`]: those of whom the clone is started for, whoever was captured.
    pub privileges: NetPrivileges,
    /// As in [`GuestConfig`].
    pub snapshots: Option<SnapshotSink>,
    /// Virtual machines made ahead, for this very snapshot; without one, or if none is ready, the clone's is made on the spot.
    pub pool: Option<Arc<ShellPool>>,
}

/// What a snapshot waits for that nobody in the guest has asked for: it is put off while something stands in its way ([`seuss_abi::snapshot::Obstacle`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caution {
    /// Connections that the program has opened do not stand in the way: clones find them reset.
    pub reset_connections: bool,
    /// How long the program must have had no new listening socket, thread, process or mapped file.
    pub settled: Duration,
}

/// One EROFS blob, mapped read-only into the guest.
#[derive(Debug)]
pub struct ImageBlob {
    /// The blob; it must not change or shrink while the guest runs (the snapshotter's blobs are immutable).
    pub file: OwnedFd,
    /// Length in bytes, at most the file's; the guest sees it rounded up to a page, filled with zeros.
    pub len_bytes: u64,
    /// Name for messages.
    pub name: String,
}

/// Standard descriptors of a process; `None` is `/dev/null`, inside the guest.
///
/// The VMM never leaves `O_NONBLOCK` behind on a description that others share: see `DESIGN.md`, "Handles". A FIFO
/// given as stdin should have a writer already (a FIFO that never had one reads as end of file).
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

impl Stdio {
    /// The same descriptions under other descriptors.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        let again = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        Ok(Self { stdin: again(&self.stdin)?, stdout: again(&self.stdout)?, stderr: again(&self.stderr)? })
    }
}
