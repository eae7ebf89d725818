//! Everything that happens at a time: deadlines of waiting threads, interval timers, timer descriptors.

use crate::fs::timerfd::TimerFile;
use crate::task::process::Pid;
use crate::wait::Tid;
use alloc::collections::BTreeMap;
use alloc::rc::Weak;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::comm::Clock;

/// What an expiry follows when the other clocks jump against CLOCK_MONOTONIC, as they do between capture and restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// Nothing: it is so much time away.
    #[default]
    Monotonic,
    /// A time of day.
    Realtime,
    /// CLOCK_BOOTTIME, which counts the time of being suspended.
    Boottime,
}

impl Base {
    /// That of a time of clock `clock` (CLOCK_*). Only an absolute time follows the wall clock: a relative one is a span (hrtimer.c, `__hrtimer_setup`).
    #[must_use]
    pub fn of(clock: u64, absolute: bool) -> Self {
        match clock {
            // REALTIME, REALTIME_ALARM, TAI.
            0 | 8 | 11 if absolute => Self::Realtime,
            // BOOTTIME, BOOTTIME_ALARM.
            7 | 9 => Self::Boottime,
            _ => Self::Monotonic,
        }
    }
}

/// By how much the clocks have gained on CLOCK_MONOTONIC, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jump {
    /// CLOCK_REALTIME.
    pub realtime_ns: i64,
    /// CLOCK_BOOTTIME.
    pub boottime_ns: i64,
}

impl Jump {
    /// Where an expiry lies now; 0 stays 0 (disarmed), and nothing else becomes it.
    #[must_use]
    pub fn shift(self, expires_ns: u64, base: Base) -> u64 {
        let by = match base {
            Base::Monotonic => 0,
            Base::Realtime => self.realtime_ns,
            Base::Boottime => self.boottime_ns,
        };
        if expires_ns == 0 || expires_ns == u64::MAX {
            return expires_ns;
        }
        expires_ns.saturating_add_signed(by.saturating_neg()).max(1)
    }
}

/// What to do at a time.
#[derive(Clone, Debug)]
pub enum Timer {
    /// Let a thread's system call run again.
    Thread(Tid),
    /// ITIMER_REAL of a process.
    Alarm(Pid),
    /// A POSIX timer of a process (timer_create(2)).
    Posix(Pid, u32),
    /// A timer descriptor (timerfd), and the setting that the expiry belongs to.
    Descriptor(Weak<TimerFile>, u64),
    /// The time for answers to an announced capture is over.
    Announcement(u64),
    /// A time of restore hooks is over.
    Hooks,
    /// Give up the calls that a thread makes for the library OS.
    Detour(Tid),
}

/// Names an armed timer: its time and a sequence number.
pub type TimerKey = (u64, u64);

/// The armed timers in order of time (CLOCK_MONOTONIC, nanoseconds).
#[derive(Debug, Default)]
pub struct Timers {
    armed: RefCell<BTreeMap<TimerKey, Timer>>,
    sequence: Cell<u64>,
    /// CLOCK_REALTIME and CLOCK_BOOTTIME minus CLOCK_MONOTONIC when the guest was captured.
    offsets: Cell<(i64, i64)>,
}

impl Timers {
    /// Let `timer` happen at `at_ns`.
    pub fn arm(&self, at_ns: u64, timer: Timer) -> TimerKey {
        self.sequence.set(self.sequence.get() + 1);
        let key = (at_ns, self.sequence.get());
        self.armed.borrow_mut().insert(key, timer);
        key
    }

    /// Forget a timer; one that has happened already is fine.
    pub fn cancel(&self, key: TimerKey) {
        self.armed.borrow_mut().remove(&key);
    }

    /// Remember how the clocks stand to each other.
    pub fn note(&self, clock: &Clock) {
        self.offsets.set((clock.realtime_offset_ns, clock.boottime_offset_ns));
    }

    /// How far they have moved since [`Self::note`].
    #[must_use]
    pub fn jump(&self, clock: &Clock) -> Jump {
        let (realtime, boottime) = self.offsets.get();
        Jump {
            realtime_ns: clock.realtime_offset_ns.saturating_sub(realtime),
            boottime_ns: clock.boottime_offset_ns.saturating_sub(boottime),
        }
    }

    /// Take the expiries of timer descriptors.
    pub fn take_descriptors(&self) -> Vec<Weak<TimerFile>> {
        let mut files = Vec::new();
        self.armed.borrow_mut().retain(|_, timer| {
            let Timer::Descriptor(file, _) = timer else { return true };
            files.push(file.clone());
            false
        });
        files
    }

    /// When the next timer happens, `u64::MAX` if none is armed.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        self.armed.borrow().first_key_value().map_or(u64::MAX, |((at_ns, _), _)| *at_ns)
    }

    /// Take a timer that is due.
    pub fn pop(&self, now_ns: u64) -> Option<Timer> {
        let mut armed = self.armed.borrow_mut();
        let due = armed.first_entry().filter(|entry| entry.key().0 <= now_ns)?;
        Some(due.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_of_a_clock_follow_its_jump() {
        let jump = Jump { realtime_ns: 50, boottime_ns: 30 };
        let shift = |clock, absolute| jump.shift(100, Base::of(clock, absolute));
        assert_eq!((shift(0, true), shift(0, false)), (50, 100), "realtime");
        assert_eq!((shift(8, true), shift(11, true)), (50, 50), "alarm, TAI");
        assert_eq!((shift(7, true), shift(7, false)), (70, 70), "boottime");
        assert_eq!((shift(1, true), shift(1, false)), (100, 100), "monotonic");
        // Past, disarmed, never.
        let realtime = |at| jump.shift(at, Base::Realtime);
        assert_eq!((realtime(20), realtime(0), realtime(u64::MAX)), (1, 0, u64::MAX));
        // A clock that was set back.
        assert_eq!(Jump { realtime_ns: -50, boottime_ns: 0 }.shift(100, Base::Realtime), 150);
    }

    #[test]
    fn a_jump_is_what_the_offsets_have_changed_by() {
        let timers = Timers::default();
        let clock = Clock { realtime_offset_ns: 1000, boottime_offset_ns: 10, ..Clock::default() };
        timers.note(&clock);
        assert_eq!(timers.jump(&clock), Jump::default());
        let later = Clock { realtime_offset_ns: 1700, boottime_offset_ns: 25, ..clock };
        assert_eq!(timers.jump(&later), Jump { realtime_ns: 700, boottime_ns: 15 });
    }

    #[test]
    fn timers_come_in_order_and_can_be_cancelled() {
        let timers = Timers::default();
        let late = timers.arm(20, Timer::Thread(2));
        timers.arm(10, Timer::Thread(1));
        timers.arm(10, Timer::Alarm(7));
        assert_eq!(timers.next_ns(), 10);
        assert!(timers.pop(9).is_none());
        assert!(matches!(timers.pop(30), Some(Timer::Thread(1))));
        assert!(matches!(timers.pop(30), Some(Timer::Alarm(7))));
        timers.cancel(late);
        assert!(timers.pop(30).is_none());
        assert_eq!(timers.next_ns(), u64::MAX);
    }
}
