//! The vCPU and the VMM, as the library OS sees them.

use crate::entry;
use core::arch::asm;
use core::arch::x86_64::{_mm_pause, _rdtsc};
use core::mem::offset_of;
use core::sync::atomic::{Ordering, fence};
use seuss_abi::call::{Op, Slot};
use seuss_abi::comm::{
    BOOT_OFFSET, BootBlock, CAPTURE_OFFSET, CAPTURE_SIZE, CLOCK_OFFSET, CONTROL_OFFSET, Clock, Control,
    EVENTS_OFFSET, MAILBOX_OFFSET, MAILBOX_SIZE, PAYLOAD_OFFSET, PAYLOAD_SIZE, SLOT_OFFSET,
    SUBMISSIONS_OFFSET, Touch,
};
use seuss_abi::event::{Event, RING_ENTRIES, Ring};
use seuss_abi::layout::{COMM_GPA, DIRECT_BASE, KERNEL_BASE, PRIVATE_GPA};
use seuss_abi::net::{SUBMISSION_ENTRIES, Submission, Submissions};
use seuss_kernel::machine::{Counters, Machine};
use seuss_kernel::task::thread::Context;

const COMM: u64 = DIRECT_BASE + COMM_GPA;

/// Read a field of a structure in the communication window.
macro_rules! load {
    ($offset:expr, $type:ty, $field:ident) => {{
        // SAFETY: the window is mapped and the field aligned; the VMM may write it at any time, hence volatile.
        unsafe { (&raw const (*((COMM + $offset) as *const $type)).$field).read_volatile() }
    }};
}

/// Write a field of a structure in the communication window.
macro_rules! store {
    ($offset:expr, $type:ty, $field:ident, $value:expr) => {{
        let value = $value;
        // SAFETY: as for `load`.
        unsafe { (&raw mut (*((COMM + $offset) as *mut $type)).$field).write_volatile(value) }
    }};
}

/// The communication window.
#[derive(Clone, Copy)]
pub(crate) struct Comm;

impl Comm {
    /// The boot block.
    pub(crate) fn boot_block(self) -> BootBlock {
        // SAFETY: the window is mapped; the block is plain data, and every bit pattern is a value of it.
        unsafe { ((COMM + BOOT_OFFSET) as *const BootBlock).read_volatile() }
    }

    /// What a clone that is entered ahead of time shall use, in order.
    pub(crate) fn touches(self, count: u64) -> impl Iterator<Item = Touch> {
        let first = (COMM + CAPTURE_OFFSET) as *const u64;
        // SAFETY: the caller's count is at most that of the area's words; the VMM has written them before the entry.
        (0..count.min(Touch::MOST) as usize)
            .map(move |index| Touch::from_word(unsafe { first.add(index).read_volatile() }))
    }

    /// Make a host call.
    pub(crate) fn call(self, op: Op, args: [u64; 6]) -> i64 {
        store!(SLOT_OFFSET, Slot, op, op as u32);
        store!(SLOT_OFFSET, Slot, args, args);
        fence(Ordering::SeqCst);
        entry::doorbell();
        fence(Ordering::SeqCst);
        load!(SLOT_OFFSET, Slot, result)
    }

    /// What the VMM stored when it interrupted the application: rip, rsp, rflags.
    pub(crate) fn upcall_frame(self) -> (u64, u64, u64) {
        (
            load!(CONTROL_OFFSET, Control, upcall_rip),
            load!(CONTROL_OFFSET, Control, upcall_rsp),
            load!(CONTROL_OFFSET, Control, upcall_rflags),
        )
    }
}

/// [`Machine`] on a real vCPU.
pub(crate) struct Vcpu {
    /// XCR0.
    pub(crate) xcr0: u64,
}

impl Machine for Vcpu {
    fn host_call(&self, op: Op, args: [u64; 6]) -> i64 {
        Comm.call(op, args)
    }

    fn host_call_with(&self, op: Op, args: [u64; 6], payload: &mut [u8]) -> i64 {
        let len = payload.len().min(PAYLOAD_SIZE);
        let at = (COMM + PAYLOAD_OFFSET) as *mut u8;
        // SAFETY: the payload's area is that large; the VMM uses it during the call only.
        unsafe { core::ptr::copy_nonoverlapping(payload.as_ptr(), at, len) }
        let result = Comm.call(op, args);
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(at.cast_const(), payload.as_mut_ptr(), len) }
        result
    }

    fn submissions(&self) -> (u32, u32) {
        (load!(SUBMISSIONS_OFFSET, Submissions, head), load!(SUBMISSIONS_OFFSET, Submissions, tail))
    }

    fn put_submission(&self, position: u32, entry: &Submission) {
        self.amend_submission(position, entry);
        fence(Ordering::Release);
        store!(SUBMISSIONS_OFFSET, Submissions, head, position.wrapping_add(1));
    }

    fn amend_submission(&self, position: u32, entry: &Submission) {
        let at = COMM + SUBMISSIONS_OFFSET + offset_of!(Submissions, entries) as u64;
        let index = position as usize % SUBMISSION_ENTRIES;
        // SAFETY: the index is within the ring. The VMM does not look while the library OS runs, but for host calls.
        unsafe { (at as *mut Submission).add(index).write_volatile(*entry) }
    }

    fn has_event(&self) -> bool {
        load!(EVENTS_OFFSET, Ring, head) != load!(EVENTS_OFFSET, Ring, tail)
    }

    fn tsc(&self) -> u64 {
        // SAFETY: RDTSC is allowed at CPL 3 (CR4.TSD is clear).
        unsafe { _rdtsc() }
    }

    fn clock(&self) -> Clock {
        loop {
            let before = load!(CLOCK_OFFSET, Clock, sequence);
            fence(Ordering::Acquire);
            // SAFETY: mapped plain data; torn reads are found by the sequence.
            let clock = unsafe { ((COMM + CLOCK_OFFSET) as *const Clock).read_volatile() };
            fence(Ordering::Acquire);
            if before & 1 == 0 && load!(CLOCK_OFFSET, Clock, sequence) == before {
                return clock;
            }
            _mm_pause();
        }
    }

    fn next_event(&self) -> Option<Event> {
        let tail = load!(EVENTS_OFFSET, Ring, tail);
        if load!(EVENTS_OFFSET, Ring, head) == tail {
            return None;
        }
        fence(Ordering::Acquire);
        let at = COMM + EVENTS_OFFSET + offset_of!(Ring, entries) as u64;
        let index = tail as usize % RING_ENTRIES;
        // SAFETY: the index is within the ring.
        let event = unsafe { (at as *const Event).add(index).read_volatile() };
        fence(Ordering::Release);
        store!(EVENTS_OFFSET, Ring, tail, tail.wrapping_add(1));
        Some(event)
    }

    fn read_mailbox(&self, bytes: &mut [u8]) {
        let len = bytes.len().min(MAILBOX_SIZE as usize);
        let from = (COMM + MAILBOX_OFFSET) as *const u8;
        // SAFETY: the mailbox is that large; the VMM does not write it until the guest has answered.
        unsafe { core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) }
    }

    fn write_capture_area(&self, bytes: &[u8]) {
        let to = (COMM + CAPTURE_OFFSET) as *mut u8;
        let len = bytes.len().min(CAPTURE_SIZE as usize);
        // SAFETY: the area is that large, and nobody else writes it.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, len) }
    }

    fn heap_free_bytes(&self) -> usize {
        crate::heap::free_bytes()
    }

    fn stack(&self) -> (u64, u64) {
        entry::stack()
    }

    fn take_attention(&self) -> bool {
        let wanted = load!(CONTROL_OFFSET, Control, attention) != 0;
        if wanted {
            store!(CONTROL_OFFSET, Control, attention, 0);
            fence(Ordering::SeqCst);
        }
        wanted
    }

    fn set_wishes(&self, wants_tick: bool, next_event_ns: u64) {
        store!(CONTROL_OFFSET, Control, wants_tick, u32::from(wants_tick));
        store!(CONTROL_OFFSET, Control, next_event_ns, next_event_ns);
    }

    fn publish(&self, counters: &Counters) {
        store!(CONTROL_OFFSET, Control, faults, counters.faults);
        store!(CONTROL_OFFSET, Control, syscalls, counters.syscalls);
        store!(CONTROL_OFFSET, Control, switches, counters.switches);
        store!(CONTROL_OFFSET, Control, used_pages, counters.used_pages);
        store!(CONTROL_OFFSET, Control, processes, counters.processes);
        store!(CONTROL_OFFSET, Control, threads, counters.threads);
        store!(CONTROL_OFFSET, Control, oom_kills, counters.oom_kills);
    }

    fn gpa_of(&self, pointer: *const u8) -> u64 {
        match pointer as u64 {
            address if address >= KERNEL_BASE => address - KERNEL_BASE + PRIVATE_GPA,
            address => address.wrapping_sub(DIRECT_BASE),
        }
    }

    fn load_page_tables(&self, pml4_gpa: u64) {
        // SAFETY: every address space carries the library OS's two entries.
        unsafe { entry::load_cr3(pml4_gpa) }
    }

    fn flush_translations(&self) {
        entry::flush();
    }

    fn save_extended(&self, context: *const Context, area: *mut u8) {
        let (low, high) = (self.xcr0 as u32, (self.xcr0 >> 32) as u32);
        // SAFETY: the area is 64-byte aligned and large enough for XCR0's components (BootBlock::xsave_bytes).
        unsafe {
            asm!("xsave64 [{}]", in(reg) area, in("eax") low, in("edx") high, options(nostack));
        }
        // XMM0-15 of the application are in the context since it entered; the low halves in the area are the library OS's.
        // SAFETY: XSAVE's standard format has XMM0-15 at byte 160 (SDM vol. 1, 13.4.1); XSTATE_BV's SSE bit says that they are valid.
        unsafe {
            let xmm = (&raw const (*context).xmm).cast::<u8>();
            core::ptr::copy_nonoverlapping(xmm, area.add(160), 256);
            let present = area.add(512).cast::<u64>();
            present.write(present.read() | 2);
        }
    }

    fn load_extended(&self, area: *const u8, context: *mut Context) {
        let (low, high) = (self.xcr0 as u32, (self.xcr0 >> 32) as u32);
        // SAFETY: `area` was written by XSAVE or sanitized (ExtendedState), so XRSTOR does not fault; it clobbers the vector registers, which asm! is told.
        unsafe {
            asm!(
                "xrstor64 [{}]", in(reg) area, in("eax") low, in("edx") high,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                out("xmm13") _, out("xmm14") _, out("xmm15") _, options(nostack)
            );
        }
        // SAFETY: as for `save_extended`; without the SSE bit the registers are in their initial state, zero.
        unsafe {
            let xmm = (&raw mut (*context).xmm).cast::<u8>();
            if area.add(512).cast::<u64>().read() & 2 != 0 {
                core::ptr::copy_nonoverlapping(area.add(160), xmm, 256);
            } else {
                core::ptr::write_bytes(xmm, 0, 256);
            }
        }
    }

    fn segment_bases(&self) -> (u64, u64) {
        let (fs, gs): (u64, u64);
        // SAFETY: CR4.FSGSBASE is set.
        unsafe {
            asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs, options(nostack, nomem, preserves_flags));
        }
        (fs, gs)
    }

    fn set_segment_bases(&self, fs: u64, gs: u64) {
        // SAFETY: CR4.FSGSBASE is set; the library OS uses neither register; the values are canonical (checked where they come in).
        unsafe {
            asm!("wrfsbase {}", "wrgsbase {}", in(reg) fs, in(reg) gs, options(nostack, nomem, preserves_flags));
        }
    }
}
