//! The one vCPU of a guest.
//!
//! Owns [`Vcpu`]: creation with the constants of the contract, KVM_RUN, and the registers that the run loop looks at.
//! It must not know what an exit means.

mod attribute;
pub(crate) mod cpuid;
mod exit;
mod state;
pub(crate) mod statistics;

use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuFd, VmFd};
use seuss_abi::layout::DOORBELL_PORT;

pub use exit::ExitReason;
pub(crate) use exit::Hex;

use crate::clock::tsc::rdtsc;
use crate::memory::Gpa;
use cpuid::CpuFeatures;

/// An ioctl that failed, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} failed: {}", std::io::Error::from_raw_os_error(*errno))]
pub struct KvmError {
    /// Name of the ioctl.
    pub operation: &'static str,
    /// What it returned.
    pub errno: i32,
}

pub(crate) fn ioctl<T>(operation: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, KvmError> {
    result.map_err(|error| KvmError { operation, errno: error.errno() })
}

/// A vCPU, ready to enter once CR3 is set.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    tsc_khz: Option<u32>,
}

impl Vcpu {
    /// KVM's counters of this vCPU that are not zero.
    pub(crate) fn statistics(&self) -> std::io::Result<Vec<(String, u64)>> {
        statistics::nonzero(&self.fd)
    }

    /// Create the vCPU of `vm` and give it everything but the page tables.
    pub(crate) fn new(vm: &VmFd, features: &CpuFeatures) -> Result<Self, KvmError> {
        let fd = ioctl("KVM_CREATE_VCPU", vm.create_vcpu(0))?;
        ioctl("KVM_SET_CPUID2", fd.set_cpuid2(&features.cpuid))?;
        ioctl("KVM_SET_XCRS", fd.set_xcrs(&state::extended_control(features.xcr0)))?;
        ioctl("KVM_SET_FPU", fd.set_fpu(&state::fpu()))?;
        let tsc_khz = fd.get_tsc_khz().ok().filter(|&khz| khz > 0);
        let vcpu = Self { fd, tsc_khz };
        vcpu.align_tsc()?;
        Ok(vcpu)
    }

    /// Make the guest's RDTSC show what the host's does: offset 0, or, for a KVM without that attribute, the MSR set
    /// to the current value (exact to a microsecond or so). Where RDTSC is native at CPL 3 both change nothing.
    fn align_tsc(&self) -> Result<(), KvmError> {
        if attribute::set_tsc_offset(&self.fd, 0).is_ok() {
            return Ok(());
        }
        if let Some(msrs) = state::tsc_msr(rdtsc()) {
            ioctl("KVM_SET_MSRS (TSC)", self.fd.set_msrs(&msrs))?;
        }
        Ok(())
    }

    /// Registers of an entry at `ENTRY_BOOT` with the page tables at `pml4`.
    pub(crate) fn set_entry(&self, pml4: Gpa) -> Result<(), KvmError> {
        let sregs = ioctl("KVM_GET_SREGS", self.fd.get_sregs())?;
        ioctl("KVM_SET_SREGS", self.fd.set_sregs(&state::special_registers(sregs, pml4)))?;
        ioctl("KVM_SET_REGS", self.fd.set_regs(&state::general_registers()))?;
        if let Some(msrs) = state::msrs() {
            // After EFER: KVM takes some of these MSRs only then.
            let set = ioctl("KVM_SET_MSRS", self.fd.set_msrs(&msrs))?;
            if set != msrs.as_slice().len() {
                return Err(KvmError { operation: "KVM_SET_MSRS (a system-call MSR)", errno: libc::EINVAL });
            }
        }
        Ok(())
    }

    /// The TSC's frequency, if KVM tells it.
    pub(crate) fn tsc_khz(&self) -> Option<u32> {
        self.tsc_khz
    }

    /// KVM_RUN, once.
    pub(crate) fn run(&mut self) -> ExitReason {
        exit::run(&mut self.fd, DOORBELL_PORT)
    }

    /// Forget a kick.
    pub(crate) fn clear_immediate_exit(&mut self) {
        self.fd.set_kvm_immediate_exit(0);
    }

    /// Where a signal handler writes 1 to make the next (or the current) KVM_RUN return. Valid while this vCPU exists.
    pub(crate) fn immediate_exit(&mut self) -> *mut u8 {
        &raw mut self.fd.get_kvm_run().immediate_exit
    }

    pub(crate) fn registers(&self) -> Result<kvm_regs, KvmError> {
        ioctl("KVM_GET_REGS", self.fd.get_regs())
    }

    pub(crate) fn set_registers(&self, registers: &kvm_regs) -> Result<(), KvmError> {
        ioctl("KVM_SET_REGS", self.fd.set_regs(registers))
    }

    pub(crate) fn special_registers(&self) -> Result<kvm_sregs, KvmError> {
        ioctl("KVM_GET_SREGS", self.fd.get_sregs())
    }

    /// Whether an exception or interrupt waits to be delivered: then rip must stay what it is, because the event
    /// belongs to it.
    pub(crate) fn event_in_flight(&self) -> Result<bool, KvmError> {
        let events = ioctl("KVM_GET_VCPU_EVENTS", self.fd.get_vcpu_events())?;
        let flags = [
            events.exception.injected,
            events.exception.pending,
            events.interrupt.injected,
            events.nmi.injected,
            events.triple_fault.pending,
        ];
        Ok(flags.iter().any(|&flag| flag != 0))
    }
}
