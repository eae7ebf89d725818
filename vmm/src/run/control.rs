//! The control page: single words that both sides watch.

use std::mem::offset_of;

use seuss_abi::comm::{CONTROL_OFFSET, Control};
use seuss_abi::layout::{COMM_GPA, PAGE_SIZE};

use crate::memory::{Gpa, Plain, Window};
use crate::stats::Counters;

const BASE: Gpa = Gpa(COMM_GPA + CONTROL_OFFSET);

/// The control page of a guest.
pub(super) struct ControlPage<'m>(pub(super) &'m Window);

impl ControlPage<'_> {
    /// The page is always there: it lies in the communication window.
    fn load<T: Plain + Default>(&self, offset: usize) -> T {
        self.0.load(BASE.plus(offset as u64)).unwrap_or_default()
    }

    fn store<T: Plain>(&self, offset: usize, value: T) {
        self.0.store(BASE.plus(offset as u64), value);
    }

    pub(super) fn attention(&self) -> bool {
        self.load::<u32>(offset_of!(Control, attention)) == 1
    }

    pub(super) fn set_attention(&self) {
        self.store(offset_of!(Control, attention), 1_u32);
    }

    pub(super) fn wants_tick(&self) -> bool {
        self.load::<u32>(offset_of!(Control, wants_tick)) == 1
    }

    pub(super) fn next_event_ns(&self) -> u64 {
        self.load(offset_of!(Control, next_event_ns))
    }

    /// Where the application was interrupted.
    pub(super) fn set_upcall(&self, rip: u64, rsp: u64, rflags: u64) {
        self.store(offset_of!(Control, upcall_rip), rip);
        self.store(offset_of!(Control, upcall_rsp), rsp);
        self.store(offset_of!(Control, upcall_rflags), rflags);
    }

    /// Copy the guest's counters out for [`crate::GuestStats`].
    pub(super) fn publish(&self, counters: &Counters, reserved_bytes: u64) {
        let control: Control = self.load_all();
        counters.demand.set(control.faults[0]);
        counters.native_cow.set(control.faults[1]);
        counters.snapshot_cow.set(control.faults[2]);
        counters.syscalls.set(control.syscalls);
        counters.switches.set(control.switches);
        counters.processes.set(control.processes.into());
        counters.threads.set(control.threads.into());
        counters.oom_kills.set(control.oom_kills);
        let used = control.used_pages.saturating_mul(PAGE_SIZE).saturating_add(reserved_bytes);
        counters.used_bytes.set(used.min(counters.limit_bytes.get()));
    }

    fn load_all(&self) -> Control {
        self.load(0)
    }
}
