//! A shell: a virtual machine with its vCPU, made before it is known which guest it will hold.
//!
//! Owns [`Shell`]. Making one is most of what a start costs in KVM; since the vCPU state is the same for every guest,
//! a pool can make them ahead. Unsafe because memory slots hand host addresses to KVM, and because the kick signal's
//! handler gets the vCPU's flag.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;

use crate::error::StartError;
use crate::hypervisor::Hypervisor;
use crate::memory::{Gpa, Memory, Window};
use crate::run::thread::Kickable;
use crate::stats::StartTimings;
use crate::vcpu::{KvmError, Vcpu, ioctl, statistics};

/// A VM without memory, and its vCPU.
pub(crate) struct Shell {
    vcpu: Vcpu,
    vm: VmFd,
    hypervisor: Arc<Hypervisor>,
}

/// A shell with a guest's memory in it: ready to run.
pub(crate) struct Machine {
    pub(crate) vcpu: Vcpu,
    // Before the memory: KVM lets go of the slots before the windows are unmapped.
    vm: VmFd,
    pub(crate) memory: Memory,
    /// Page faults that KVM had served when the machine was parked.
    pub(crate) faults_ahead: u64,
}

/// A machine on the thread that drives it: kicks of that thread reach its vCPU.
pub(crate) struct DrivenMachine {
    // Dropped first: the kick handler must not see a vCPU that is gone.
    _kickable: Kickable,
    machine: Machine,
}

impl Machine {
    /// KVM's counters of the virtual machine and its vCPU that are not zero, as text.
    pub(crate) fn kvm_statistics(&self) -> String {
        let all = statistics::nonzero(&self.vm).and_then(|vm| Ok([vm, self.vcpu.statistics()?].concat()));
        match all {
            Ok(all) => all.iter().map(|(name, value)| format!(" {name}={value}")).collect(),
            Err(error) => format!(" not available: {error}"),
        }
    }

    /// Page faults that KVM has served, as far as it counts them.
    pub(crate) fn faults(&self) -> u64 {
        let all = self.vcpu.statistics().unwrap_or_default();
        all.iter().find(|(name, _)| name == "pf_taken").map_or(0, |(_, value)| *value)
    }

    /// Let the calling thread drive this machine.
    pub(crate) fn drive(mut self) -> DrivenMachine {
        let immediate_exit = self.vcpu.immediate_exit();
        // SAFETY: the flag lies in the vCPU's `kvm_run` mapping, which moves nowhere and goes with the vCPU;
        // `DrivenMachine` drops the `Kickable` first, never gives the vCPU away, and stays on this thread (a
        // `Kickable` is not `Send`).
        let kickable = unsafe { Kickable::new(immediate_exit) };
        DrivenMachine { _kickable: kickable, machine: self }
    }
}

impl DrivenMachine {
    /// Give the machine back: another thread may drive it.
    pub(crate) fn park(self) -> Machine {
        let Self { _kickable: kickable, mut machine } = self;
        drop(kickable);
        machine.faults_ahead = machine.faults();
        machine
    }
}

impl Deref for DrivenMachine {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl DerefMut for DrivenMachine {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

impl Shell {
    /// Create the VM and the vCPU.
    pub(crate) fn new(hypervisor: Arc<Hypervisor>, timings: &mut StartTimings) -> Result<Self, StartError> {
        let started = Instant::now();
        let vm = ioctl("KVM_CREATE_VM", create_vm(&hypervisor))?;
        timings.vm_create = started.elapsed();
        let started = Instant::now();
        let vcpu = Vcpu::new(&vm, &hypervisor.features)?;
        timings.vcpu_create = started.elapsed();
        Ok(Self { vcpu, vm, hypervisor })
    }

    pub(crate) fn hypervisor(&self) -> &Hypervisor {
        &self.hypervisor
    }

    /// The TSC's frequency, if KVM tells it.
    pub(crate) fn tsc_khz(&self) -> Option<u32> {
        self.vcpu.tsc_khz()
    }

    /// Put `memory` in, and enter at the boot entry with the page tables at `pml4`.
    pub(crate) fn fill(
        self,
        memory: Memory,
        pml4: Gpa,
        timings: &mut StartTimings,
    ) -> Result<Machine, StartError> {
        let started = Instant::now();
        for (slot, window) in memory.windows().enumerate() {
            set_slot(&self.vm, slot as u32, window)?;
        }
        timings.memory_slots = started.elapsed();
        let started = Instant::now();
        self.vcpu.set_entry(pml4)?;
        timings.registers = started.elapsed();
        Ok(Machine { vcpu: self.vcpu, vm: self.vm, memory, faults_ahead: 0 })
    }
}

/// KVM_CREATE_VM fails with EINTR when a signal arrives meanwhile (mmu notifier registration): try again.
fn create_vm(hypervisor: &Hypervisor) -> Result<VmFd, kvm_ioctls::Error> {
    loop {
        match hypervisor.kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            result => return result,
        }
    }
}

fn set_slot(vm: &VmFd, slot: u32, window: &Window) -> Result<(), KvmError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: if window.writable() { 0 } else { KVM_MEM_READONLY },
        guest_phys_addr: window.gpa().0,
        memory_size: window.len_bytes(),
        userspace_addr: window.host_address(),
    };
    // SAFETY: the range is the window's own mapping; `Machine` keeps the window mapped for as long as the VM exists,
    // and no Rust object lies in it.
    let set = unsafe { vm.set_user_memory_region(region) };
    ioctl("KVM_SET_USER_MEMORY_REGION", set)
}
