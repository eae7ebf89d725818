//! Figures about a guest: [`GuestStats`] while it runs, [`StartTimings`] of its start.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Figures of one guest. Those that the guest counts itself are as of its last exit (at most some milliseconds ago)
/// and are hints: a hostile guest can say anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// CPU time of the vCPU thread: the guest and the VMM's work for it.
    pub cpu_time: Duration,
    /// Returns from KVM_RUN.
    pub exits: ExitCounts,
    /// Page faults that the guest served, by kind.
    pub faults: FaultCounts,
    /// Page faults that KVM served, known when the guest has ended: with shadow page tables every first use of a page is one. 0 where KVM does not count.
    pub kvm_faults: u64,
    /// Those of them that a clone had taken when it was not wanted yet.
    pub kvm_faults_ahead: u64,
    /// System calls that the guest served.
    pub syscalls: u64,
    /// Context switches between the guest's threads.
    pub switches: u64,
    /// Memory in use: reserved part and frames taken, in bytes.
    pub used_bytes: u64,
    /// Size of the private window in bytes.
    pub limit_bytes: u64,
    /// Live processes.
    pub processes: u32,
    /// Live threads.
    pub threads: u32,
    /// Processes that the guest killed because memory was used up.
    pub oom_kills: u64,
}

/// Returns from KVM_RUN by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Host calls other than idle.
    pub calls: u64,
    /// Idle calls.
    pub idle: u64,
    /// Kicks: ticks and requests.
    pub kicks: u64,
    /// Kicks that entered the guest at its upcall address.
    pub upcalls: u64,
}

/// Page faults by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Demand paging.
    pub demand: u64,
    /// Copy-on-write of the guest's own making: fork, private file mappings.
    pub native_cow: u64,
    /// Copy-on-write of snapshot layers.
    pub snapshot_cow: u64,
}

/// How long the phases of a start took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartTimings {
    /// Opening and checking /dev/kvm (the first time in a process).
    pub hypervisor: Duration,
    /// KVM_CREATE_VM.
    pub vm_create: Duration,
    /// KVM_CREATE_VCPU and its features.
    pub vcpu_create: Duration,
    /// Making and mapping the windows.
    pub memory_map: Duration,
    /// Copying the kernel image, building page tables, boot block; of a clone: page tables and copied pages.
    pub load: Duration,
    /// KVM_SET_USER_MEMORY_REGION for all windows.
    pub memory_slots: Duration,
    /// KVM_SET_* of the entry state.
    pub registers: Duration,
    /// Making the clone ahead of time, all of it: virtual machine, slots, pages, and entering it until it holds. No part of `total`.
    pub made_ahead: Duration,
    /// Entering it until it holds, the last part of that.
    pub entered_ahead: Duration,
    /// Starting the vCPU thread.
    pub thread: Duration,
    /// What [`crate::Guest::start`] or [`crate::Guest::restore`] took.
    pub total: Duration,
    /// From the first KVM_RUN to the first exit; zero until there was one.
    pub first_exit: Duration,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// What the vCPU thread publishes for [`GuestStats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }
    };
}

counters!(
    calls,
    idle,
    kicks,
    upcalls,
    demand,
    native_cow,
    snapshot_cow,
    syscalls,
    switches,
    used_bytes,
    limit_bytes,
    processes,
    threads,
    oom_kills,
    kvm_faults,
    kvm_faults_ahead,
    first_exit_ns,
    final_cpu_ns,
);

/// A number that one thread writes and others read. No order with anything else is promised.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more. Only the vCPU thread counts, so that a load and a store do.
    pub(crate) fn count(&self) {
        self.set(self.get().wrapping_add(1));
    }
}

impl Counters {
    pub(crate) fn stats(&self, cpu_time: Duration) -> GuestStats {
        GuestStats {
            cpu_time,
            kvm_faults: self.kvm_faults.get(),
            kvm_faults_ahead: self.kvm_faults_ahead.get(),
            exits: ExitCounts {
                calls: self.calls.get(),
                idle: self.idle.get(),
                kicks: self.kicks.get(),
                upcalls: self.upcalls.get(),
            },
            faults: FaultCounts {
                demand: self.demand.get(),
                native_cow: self.native_cow.get(),
                snapshot_cow: self.snapshot_cow.get(),
            },
            syscalls: self.syscalls.get(),
            switches: self.switches.get(),
            used_bytes: self.used_bytes.get(),
            limit_bytes: self.limit_bytes.get(),
            processes: self.processes.get() as u32,
            threads: self.threads.get() as u32,
            oom_kills: self.oom_kills.get(),
        }
    }
}
