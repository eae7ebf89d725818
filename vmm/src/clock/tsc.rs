//! Reads the time-stamp counter together with the kernel's clocks.
//!
//! Unsafe because RDTSC is reached through an intrinsic.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The TSC and the host's clocks at one instant, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) tsc: u64,
    pub(crate) monotonic_ns: u64,
    pub(crate) realtime_offset_ns: i64,
    pub(crate) boottime_offset_ns: i64,
}

/// Two reads of the TSC around a clock read may lie this far apart for the pair to count as simultaneous.
const WINDOW_TICKS: u64 = 2_000;
const TRIES: usize = 4;

pub(crate) fn rdtsc() -> u64 {
    // SAFETY: RDTSC reads a counter; every x86-64 CPU has it and Linux does not disable it (CR4.TSD) unless a process
    // asks for that.
    unsafe { core::arch::x86_64::_rdtsc() }
}

fn nanoseconds(time: Timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic)) as u64
}

impl Sample {
    /// Take a sample: the best of a few tries.
    pub(crate) fn take() -> Self {
        let mut best = (u64::MAX, 0, 0);
        for _ in 0..TRIES {
            let before = rdtsc();
            let monotonic = nanoseconds(clock_gettime(ClockId::Monotonic));
            let window = rdtsc().wrapping_sub(before);
            if window < best.0 {
                best = (window, before.wrapping_add(window / 2), monotonic);
            }
            if window <= WINDOW_TICKS {
                break;
            }
        }
        let (_, tsc, monotonic) = best;
        // The offsets change only when someone sets the clock or the machine sleeps: reading the clocks one after the
        // other is off by tens of nanoseconds, which no one can tell from the time of the call.
        let offset =
            |clock| nanoseconds(clock_gettime(clock)) - nanoseconds(clock_gettime(ClockId::Monotonic));
        Self {
            tsc,
            monotonic_ns: monotonic as u64,
            realtime_offset_ns: offset(ClockId::Realtime),
            boottime_offset_ns: offset(ClockId::Boottime),
        }
    }
}
