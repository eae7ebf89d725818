//! What the library OS cannot do by itself: the privileged operations and the calls to the VMM, behind one trait so
//! that host tests stand in for it.

use crate::task::thread::Context;
use seuss_abi::call::Op;
use seuss_abi::comm::Clock;
use seuss_abi::event::Event;
use seuss_abi::net::Submission;

/// The machine under the library OS.
pub trait Machine {
    /// Make a host call (one VM exit) and return its result.
    fn host_call(&self, op: Op, args: [u64; 6]) -> i64;
    /// As [`Self::host_call`], with a payload (at most [`seuss_abi::comm::PAYLOAD_SIZE`] bytes) that goes to the VMM and comes back.
    fn host_call_with(&self, op: Op, args: [u64; 6], payload: &mut [u8]) -> i64;
    /// Entries of the submission ring: produced, consumed.
    fn submissions(&self) -> (u32, u32);
    /// Produce the entry at `position`, which is the number of entries produced so far; there is room.
    fn put_submission(&self, position: u32, entry: &Submission);
    /// Replace an entry that has not been consumed.
    fn amend_submission(&self, position: u32, entry: &Submission);
    /// Whether [`Self::next_event`] has one.
    fn has_event(&self) -> bool;
    /// Time-stamp counter.
    fn tsc(&self) -> u64;
    /// The clock page, read consistently.
    fn clock(&self) -> Clock;
    /// Take the next event, if there is one.
    fn next_event(&self) -> Option<Event>;
    /// Copy `bytes.len()` bytes from the start of the mailbox.
    fn read_mailbox(&self, bytes: &mut [u8]);
    /// Store `bytes` at the start of the capture area.
    fn write_capture_area(&self, bytes: &[u8]);
    /// Bytes that the library OS's heap has and nothing uses.
    fn heap_free_bytes(&self) -> usize;
    /// The library OS's stack, start and end: what lies there is of no use at a restore.
    fn stack(&self) -> (u64, u64);
    /// Whether the VMM wants attention; resets the mark.
    fn take_attention(&self) -> bool;
    /// Tell the VMM whether a tick should interrupt the application, and when the next timer expires (CLOCK_MONOTONIC).
    fn set_wishes(&self, wants_tick: bool, next_event_ns: u64);
    /// Publish the counters that the VMM reports.
    fn publish(&self, counters: &Counters);

    /// Guest-physical address of an object of the library OS (its heap or its image).
    fn gpa_of(&self, pointer: *const u8) -> u64;
    /// Make the page tables at `pml4_gpa` current; this drops all cached translations.
    fn load_page_tables(&self, pml4_gpa: u64);
    /// Drop all cached translations of the current page tables.
    fn flush_translations(&self);

    /// Store the extended state of the CPU, with XMM0-15 from `context`, in the XSAVE area at `area`.
    fn save_extended(&self, context: *const Context, area: *mut u8);
    /// Load the extended state of the CPU from the XSAVE area at `area`, and XMM0-15 of `context` with it.
    fn load_extended(&self, area: *const u8, context: *mut Context);
    /// FS and GS base of the CPU.
    fn segment_bases(&self) -> (u64, u64);
    /// Set FS and GS base of the CPU.
    fn set_segment_bases(&self, fs: u64, gs: u64);

    /// CLOCK_MONOTONIC in nanoseconds.
    fn monotonic_ns(&self) -> u64 {
        self.clock().monotonic_ns(self.tsc())
    }

    /// CLOCK_BOOTTIME in nanoseconds: the host's in a guest that booted; it goes on in a clone, and counts the time between capture and restore. /proc/uptime,
    /// sysinfo(2) and the start times of processes are told in it, as on Linux (fs/proc/uptime.c, fs/proc/array.c).
    fn boottime_ns(&self) -> u64 {
        let clock = self.clock();
        clock.monotonic_ns(self.tsc()).wrapping_add_signed(clock.boottime_offset_ns)
    }

    /// CLOCK_REALTIME in nanoseconds since the epoch.
    fn realtime_ns(&self) -> u64 {
        let clock = self.clock();
        clock.monotonic_ns(self.tsc()).wrapping_add_signed(clock.realtime_offset_ns)
    }
}

/// Counters of the library OS; see [`seuss_abi::comm::Control`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Demand, native copy-on-write, snapshot copy-on-write.
    pub faults: [u64; 3],
    /// System calls.
    pub syscalls: u64,
    /// Switches between threads.
    pub switches: u64,
    /// Frames in use, in pages.
    pub used_pages: u64,
    /// Live processes.
    pub processes: u32,
    /// Live threads.
    pub threads: u32,
    /// Page faults whose address had to be read from CR2.
    pub cr2_reads: u64,
    /// Processes killed because memory was used up.
    pub oom_kills: u64,
}
