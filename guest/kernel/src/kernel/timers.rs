//! Everything that happens at a time: deadlines of waiting threads, interval timers, timer descriptors.

use crate::fs::timerfd::TimerFile;
use crate::task::process::Pid;
use crate::wait::Tid;
use alloc::collections::BTreeMap;
use alloc::rc::Weak;
use core::cell::{Cell, RefCell};

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
}

/// Names an armed timer: its time and a sequence number.
pub type TimerKey = (u64, u64);

/// The armed timers in order of time (CLOCK_MONOTONIC, nanoseconds).
#[derive(Debug, Default)]
pub struct Timers {
    armed: RefCell<BTreeMap<TimerKey, Timer>>,
    sequence: Cell<u64>,
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
