//! Why KVM_RUN returned, as an owned value.
//!
//! Unsafe because the details of some exits lie in a union of the shared `kvm_run` structure.

use kvm_bindings::KVM_INTERNAL_ERROR_EMULATION;
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::fmt;

/// An exit of the vCPU (KVM API, section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// The doorbell rang.
    Doorbell,
    /// KVM_RUN was interrupted by a kick.
    Kicked,
    /// KVM asked to be entered again.
    Again,
    /// `out` to another port, or with another width.
    PortWrite {
        /// Port.
        port: u16,
        /// Bytes written.
        data: Vec<u8>,
    },
    /// `in`.
    PortRead {
        /// Port.
        port: u16,
        /// Width in bytes.
        width: usize,
    },
    /// Store to guest-physical memory that no window backs, or to a read-only one.
    MemoryWrite {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes stored.
        data: Vec<u8>,
    },
    /// Load from guest-physical memory that no window backs.
    MemoryRead {
        /// Guest-physical address.
        gpa: u64,
        /// Width in bytes.
        width: usize,
    },
    /// `hlt`.
    Halt,
    /// Triple fault.
    Shutdown,
    /// The processor refused the state (VT-x/SVM).
    FailEntry {
        /// Hardware's reason code.
        reason: u64,
    },
    /// KVM could not go on.
    InternalError {
        /// KVM_INTERNAL_ERROR_*: 1 emulation, 2 simultaneous exception, 3 delivery of an event, 4 unexpected exit.
        suberror: u32,
        /// Instruction that could not be emulated, if KVM tells.
        instruction: Vec<u8>,
        /// Further words.
        data: Vec<u64>,
    },
    /// KVM_RUN failed.
    Failed {
        /// errno.
        errno: i32,
    },
    /// Anything else.
    Other {
        /// As kvm-ioctls describes it.
        description: String,
    },
}

/// KVM_RUN, once.
pub(crate) fn run(vcpu: &mut VcpuFd, doorbell: u16) -> ExitReason {
    let exit = match vcpu.run() {
        Ok(exit) => exit,
        Err(error) => {
            return match error.errno() {
                libc::EINTR => ExitReason::Kicked,
                libc::EAGAIN => ExitReason::Again,
                errno => ExitReason::Failed { errno },
            };
        }
    };
    match exit {
        VcpuExit::IoOut(port, data) if port == doorbell && data.len() == 4 => ExitReason::Doorbell,
        VcpuExit::IoOut(port, data) => ExitReason::PortWrite { port, data: data.to_vec() },
        VcpuExit::IoIn(port, data) => ExitReason::PortRead { port, width: data.len() },
        VcpuExit::MmioWrite(gpa, data) => ExitReason::MemoryWrite { gpa, data: data.to_vec() },
        VcpuExit::MmioRead(gpa, data) => ExitReason::MemoryRead { gpa, width: data.len() },
        VcpuExit::Hlt => ExitReason::Halt,
        VcpuExit::Intr => ExitReason::Kicked,
        VcpuExit::Shutdown => ExitReason::Shutdown,
        VcpuExit::FailEntry(reason, _) => ExitReason::FailEntry { reason },
        VcpuExit::InternalError => internal_error(vcpu),
        other => ExitReason::Other { description: format!("{other:?}") },
    }
}

fn internal_error(vcpu: &mut VcpuFd) -> ExitReason {
    let run = vcpu.get_kvm_run();
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, for which KVM fills this member; all its fields are integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = (internal.ndata as usize).min(internal.data.len());
    let data = internal.data[..count].to_vec();
    // KVM_INTERNAL_ERROR_EMULATION: data[0] bit 0 says that a length byte and up to 15 instruction bytes follow.
    let instruction = match data.split_first() {
        Some((flags, rest)) if internal.suberror == KVM_INTERNAL_ERROR_EMULATION && flags & 1 != 0 => {
            let bytes: Vec<u8> = rest.iter().take(2).flat_map(|word| word.to_le_bytes()).collect();
            let size = bytes.first().map_or(0, |&size| usize::from(size).min(15));
            bytes.get(1..1 + size).unwrap_or_default().to_vec()
        }
        _ => Vec::new(),
    };
    ExitReason::InternalError { suberror: internal.suberror, instruction, data }
}

/// Bytes in hexadecimal with spaces.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Doorbell => write!(f, "doorbell"),
            Self::Kicked => write!(f, "kicked"),
            Self::Again => write!(f, "KVM_RUN says EAGAIN"),
            Self::PortWrite { port, data } => {
                write!(f, "out to port {port:#x} ({} bytes: {})", data.len(), Hex(data))
            }
            Self::PortRead { port, width } => write!(f, "in from port {port:#x} ({width} bytes)"),
            Self::MemoryWrite { gpa, data } => {
                write!(f, "store to unbacked or read-only gpa {gpa:#x} ({} bytes: {})", data.len(), Hex(data))
            }
            Self::MemoryRead { gpa, width } => write!(f, "load from unbacked gpa {gpa:#x} ({width} bytes)"),
            Self::Halt => write!(f, "hlt"),
            Self::Shutdown => write!(f, "triple fault"),
            Self::FailEntry { reason } => {
                write!(f, "the processor refuses the vCPU state (reason {reason:#x})")
            }
            Self::InternalError { suberror, instruction, data } => {
                let kind = match suberror {
                    1 => "cannot emulate an instruction",
                    2 => "exception while delivering another",
                    3 => "exit while delivering an event",
                    4 => "unexpected hardware exit",
                    _ => "unknown",
                };
                write!(f, "KVM internal error {suberror} ({kind})")?;
                if !instruction.is_empty() {
                    write!(f, ", instruction {}", Hex(instruction))?;
                }
                write!(f, ", data {data:x?}")
            }
            Self::Failed { errno } => {
                write!(f, "KVM_RUN failed: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Other { description } => write!(f, "unexpected exit {description}"),
        }
    }
}
