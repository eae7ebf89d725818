//! Timers as files (timerfd_create(2)).

use super::env::Env;
use super::file::{File, FileOps};
use super::notify::Notifier;
use crate::errno::{Errno, Result};
use crate::kernel::timers::{Base, Jump};
use crate::mem::user::Sink;
use crate::wait::Readiness;
use alloc::rc::Rc;
use core::cell::Cell;

/// A timer's state; times are nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Next expiry, 0 = disarmed.
    pub expires_ns: u64,
    /// Period, 0 = once.
    pub interval_ns: u64,
}

impl Setting {
    /// How often the timer has expired at `now_ns`, and its state then.
    #[must_use]
    pub fn expirations(self, now_ns: u64) -> (u64, Self) {
        if self.expires_ns == 0 || now_ns < self.expires_ns {
            return (0, self);
        }
        if self.interval_ns == 0 {
            return (1, Self { expires_ns: 0, ..self });
        }
        let count = (now_ns - self.expires_ns) / self.interval_ns + 1;
        let expires_ns = self.expires_ns.saturating_add(count.saturating_mul(self.interval_ns));
        (count, Self { expires_ns, ..self })
    }

    /// Time until the next expiry at `now_ns`, 0 = disarmed.
    #[must_use]
    pub fn left_ns(self, now_ns: u64) -> u64 {
        let (_, state) = self.expirations(now_ns);
        if state.expires_ns == 0 { 0 } else { state.expires_ns.saturating_sub(now_ns).max(1) }
    }
}

/// TFD_TIMER_CANCEL_ON_SET: whether reads fail once the wall clock has been set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum OnSet {
    /// Not asked for.
    #[default]
    Goes,
    /// Asked for.
    Cancels,
    /// The clock was set, and nobody has been told.
    Cancelled,
}

/// A timer. Who sets it also arms the library OS's timer, which calls [`TimerFile::fired`] at the expiry.
pub struct TimerFile {
    env: Rc<Env>,
    /// CLOCK_* of timerfd_create(2).
    clock: u32,
    setting: Cell<Setting>,
    /// What the expiry follows when clocks jump.
    base: Cell<Base>,
    on_set: Cell<OnSet>,
    /// Counts settings: an expiry that was armed for an older one is void.
    generation: Cell<u64>,
    notifier: Notifier,
}

impl TimerFile {
    /// A disarmed timer.
    #[must_use]
    pub fn new(env: &Rc<Env>, clock: u32) -> Rc<Self> {
        Rc::new(Self {
            env: env.clone(),
            clock,
            setting: Cell::default(),
            base: Cell::default(),
            on_set: Cell::default(),
            generation: Cell::new(0),
            notifier: Notifier::new(&env.woken),
        })
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> u32 {
        self.clock
    }

    /// The state.
    #[must_use]
    pub fn setting(&self) -> Setting {
        self.setting.get()
    }

    /// Set it; expiries that were not read are forgotten. Returns the old state, and the generation to arm the expiry with.
    /// `is_cancelled`: it is, when the wall clock is set.
    pub fn set(&self, setting: Setting, base: Base, is_cancelled: bool) -> (Setting, u64) {
        self.base.set(base);
        self.on_set.set(if is_cancelled { OnSet::Cancels } else { OnSet::Goes });
        self.generation.set(self.generation.get() + 1);
        (self.setting.replace(setting), self.generation.get())
    }

    /// The clocks have jumped. Returns when the timer expires now, and the generation to arm that with.
    pub fn jumped(&self, jump: Jump) -> (u64, u64) {
        let setting = self.setting.get();
        let expires_ns = jump.shift(setting.expires_ns, self.base.get());
        self.setting.set(Setting { expires_ns, ..setting });
        if jump.realtime_ns != 0 && self.on_set.get() == OnSet::Cancels {
            self.on_set.set(OnSet::Cancelled);
            self.notifier.notify(Readiness::READABLE);
        }
        (expires_ns, self.generation.get())
    }

    /// An expiry that was armed in `generation` is due. Returns when the next one is.
    pub fn fired(&self, generation: u64) -> Option<u64> {
        if generation != self.generation.get() {
            return None;
        }
        self.notifier.notify(Readiness::READABLE);
        let setting = self.setting.get();
        let (_, after) = setting.expirations(self.env.machine.monotonic_ns());
        (setting.interval_ns != 0 && after.expires_ns != 0).then_some(after.expires_ns)
    }
}

impl FileOps for TimerFile {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        if self.on_set.get() == OnSet::Cancelled {
            self.on_set.set(OnSet::Cancels);
            return Err(Errno::ECANCELED);
        }
        let (count, after) = self.setting.get().expirations(self.env.machine.monotonic_ns());
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        self.setting.set(after);
        sink.put(&count.to_le_bytes())
    }

    fn poll(&self, _file: &File) -> Readiness {
        let (count, _) = self.setting.get().expirations(self.env.machine.monotonic_ns());
        let is_cancelled = self.on_set.get() == OnSet::Cancelled;
        if count > 0 || is_cancelled { Readiness::READABLE } else { Readiness::empty() }
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.notifier)
    }
}

#[cfg(test)]
mod tests {
    use super::Setting;

    #[test]
    fn expirations_are_counted_and_the_next_one_lies_ahead() {
        let periodic = Setting { expires_ns: 100, interval_ns: 10 };
        assert_eq!(periodic.expirations(99), (0, periodic));
        assert_eq!(periodic.expirations(100), (1, Setting { expires_ns: 110, interval_ns: 10 }));
        assert_eq!(periodic.expirations(135), (4, Setting { expires_ns: 140, interval_ns: 10 }));
        assert_eq!(periodic.left_ns(135), 5);
        let once = Setting { expires_ns: 100, interval_ns: 0 };
        assert_eq!(once.expirations(500), (1, Setting::default()));
        assert_eq!(once.left_ns(500), 0);
    }
}
