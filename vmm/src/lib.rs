//! Runs one SEUSS guest: a virtual machine under KVM whose single vCPU executes a library OS and a Linux program at
//! CPL 3.
//!
//! [`Guest::start`] makes the virtual machine, loads the guest image that this crate carries, and starts the thread
//! that drives it. That one thread enters the guest, serves its host calls, waits for its descriptors while it is
//! idle, and posts events: no locks, no other threads. The contract with the guest is the crate `seuss_abi`; the
//! design is told in `DESIGN.md`.
//!
//! What this crate must not do: know about containers or OCI (the shim's), parse EROFS or ELF executables of the image
//! (the guest's), or believe anything that it reads from guest memory.
//!
//! Lock order: no lock is held while another one is taken, nor while a callback runs (see `shared`).

mod ahead;
mod boot;
mod clock;
mod config;
pub mod confine;
mod error;
mod events;
mod guest;
mod handles;
mod helpers;
mod hypervisor;
mod kernel;
mod memory;
mod net;
mod pool;
mod report;
mod run;
mod seat;
mod shared;
mod shell;
mod snapshot;
mod stats;
mod status;
pub mod text;
mod vcpu;

pub use config::{Caution, CloneConfig, GuestConfig, ImageBlob, Stdio};
pub use error::{GuestError, RequestError, StartError};
pub use guest::Guest;
pub use kernel::{ImageError, KernelImage};
pub use memory::{Gpa, Gva, MemoryError};
pub use net::NetPrivileges;
pub use pool::ShellPool;
pub use report::{CallRecord, Registers, Report};
pub use run::GuestEvent;
pub use snapshot::allowance::{Allowance, CaptureLimits, Headroom, Limit, Overdrawn, StoreRoom};
pub use snapshot::{Keys, Lineage, Origin, OriginError, SnapshotSink, argument_key, host_cpu};
pub use stats::{ExitCounts, FaultCounts, GuestStats, StartTimings};
pub use status::WaitStatus;
pub use vcpu::{ExitReason, KvmError};

pub use seuss_abi as abi;
pub use seuss_abi::snapshot::Obstacle;
pub use seuss_snapshotter::snapshot as format;
