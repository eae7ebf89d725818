//! Errors of the public operations, one enum each.

use seuss_abi::comm::MAILBOX_SIZE;

use crate::confine::ConfineError;
use crate::kernel::ImageError;
use crate::memory::MemoryError;
use crate::report::Report;
use crate::vcpu::{ExitReason, KvmError};

/// Why a guest could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No KVM on this machine.
    #[error(
        "{device} is missing: load the kvm module (kvm_intel, kvm_amd or kvm_pvm), or choose a node or machine type with KVM"
    )]
    NoKvm {
        /// Path of the device.
        device: &'static str,
    },
    /// The device may not be opened.
    #[error(
        "no permission to open {device}: run as root, add the user to the group that owns it (usually kvm), or, in a container, \
         pass the device in"
    )]
    KvmPermission {
        /// Path of the device.
        device: &'static str,
    },
    /// Opening the device failed otherwise.
    #[error("cannot open {device}: {}", std::io::Error::from_raw_os_error(*errno))]
    OpenKvm {
        /// Path of the device.
        device: &'static str,
        /// errno.
        errno: i32,
    },
    /// Not the KVM interface that this was built for.
    #[error("KVM has API version {version}, {required} is required")]
    KvmVersion {
        /// What KVM_GET_API_VERSION said.
        version: i32,
        /// What is needed.
        required: i32,
    },
    /// The host kernel's KVM is too old or too small.
    #[error("this kernel's KVM lacks {}: a newer kernel is needed", missing.join(", "))]
    KvmCapabilities {
        /// Names of the missing capabilities.
        missing: Vec<&'static str>,
    },
    /// The processor (or what KVM shows of it) is too old.
    #[error("the processor, as KVM offers it, lacks {}", missing.join(", "))]
    CpuFeatures {
        /// Names of the missing features.
        missing: Vec<&'static str>,
    },
    /// The memory limit is below what a guest boots in.
    #[error(
        "the memory limit of {limit_bytes} bytes is too small: at least {minimum_bytes} bytes are needed"
    )]
    TooLittleMemory {
        /// The limit given.
        limit_bytes: u64,
        /// What is needed for this guest image.
        minimum_bytes: u64,
    },
    /// Guest memory could not be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The guest image is unusable.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// argv, environment and injected files are too large.
    #[error(
        "the process description (arguments, environment and injected files) has {len_bytes} bytes, at most {MAILBOX_SIZE} fit"
    )]
    SpecTooLarge {
        /// Size of the encoded description.
        len_bytes: u64,
    },
    /// The process description has no arguments.
    #[error("the process has no arguments: at least the program's name is needed")]
    NoArguments,
    /// A snapshot's lists lead out of memory.
    #[error("snapshot {id} is damaged: it names {what}, which is not there")]
    Snapshot {
        /// The snapshot.
        id: String,
        /// What it names.
        what: String,
    },
    /// A thread cannot be confined: no guest runs on one that is not.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host refused a thread, timer, descriptor or the like.
    #[error("cannot {operation}: {}", std::io::Error::from_raw_os_error(*errno))]
    Host {
        /// What was tried.
        operation: &'static str,
        /// errno.
        errno: i32,
    },
}

/// Why a running guest refused a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The guest has ended.
    #[error("the guest has ended")]
    Ended,
    /// No such signal.
    #[error("{signo} is not a signal number")]
    BadSignal {
        /// The number given.
        signo: u32,
    },
    /// Token 0, or one of a process that lives.
    #[error("token {token} is taken")]
    TokenTaken {
        /// The token given.
        token: u32,
    },
    /// argv and environment are too large.
    #[error("the process description has {len_bytes} bytes, at most {MAILBOX_SIZE} fit")]
    SpecTooLarge {
        /// Size of the encoded description.
        len_bytes: u64,
    },
    /// The process description has no arguments.
    #[error("the process has no arguments: at least the program's name is needed")]
    NoArguments,
    /// The guest does not take its events.
    #[error("the guest does not take events: {waiting} requests wait already")]
    Busy {
        /// Requests that wait.
        waiting: usize,
    },
}

/// Why a guest ended other than by its first process ending.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The guest made a host call that the contract does not allow.
    #[error("the guest broke the protocol: {what}")]
    Protocol {
        /// What it did.
        what: String,
        /// The guest's state.
        report: Box<Report>,
    },
    /// The library OS gave up.
    #[error("the guest panicked: {message}")]
    Panic {
        /// Its message.
        message: String,
        /// The guest's state.
        report: Box<Report>,
    },
    /// The first process could not be started: not there, not executable, not for this machine, too large for the
    /// memory limit, ...
    #[error("the program cannot be started: {message} ({})", std::io::Error::from_raw_os_error(*errno))]
    NotStarted {
        /// What execve(2) would have returned.
        errno: i32,
        /// What is wrong, as the guest says.
        message: String,
    },
    /// The vCPU left the guest in a way that is not part of the contract.
    #[error("the guest stopped unexpectedly: {reason}")]
    UnexpectedExit {
        /// How.
        reason: ExitReason,
        /// The guest's state.
        report: Box<Report>,
    },
    /// A KVM operation on the running guest failed.
    #[error("the guest cannot continue: {error}")]
    Kvm {
        /// Which.
        error: KvmError,
        /// The guest's state.
        report: Box<Report>,
    },
    /// The VMM itself failed.
    #[error("the virtual machine monitor failed: {what}")]
    Host {
        /// How.
        what: String,
    },
}

impl GuestError {
    /// Registers, code, stack, last calls and log lines at the end: several lines for people.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Protocol { report, .. }
            | Self::Panic { report, .. }
            | Self::UnexpectedExit { report, .. }
            | Self::Kvm { report, .. } => Some(report),
            Self::Host { .. } | Self::NotStarted { .. } => None,
        }
    }
}
