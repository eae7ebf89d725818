//! When to kick a running guest: time slices, the guest's next event, the look for readiness, and repeated kicks while
//! attention is not taken.
//!
//! Pure arithmetic on nanoseconds of CLOCK_MONOTONIC; [`Ticker`] owns the thread's timer only to arm it.

use super::thread::Timer;

/// Time slice while several threads of the guest are runnable.
const SLICE_NS: u64 = 4_000_000;
/// A running guest is interrupted at least this often, so that readiness, requests and changed wishes of the guest are
/// seen.
const LOOK_NS: u64 = 10_000_000;
/// First repetition of a kick that found the library OS running; each further one comes after twice the time...
const REPEAT_NS: u64 = 100_000;
/// ...up to this.
const REPEAT_MAX_NS: u64 = 1_600_000;
/// A wish for an upcall that lies in the past and that the guest does not change is served again only after this time.
const STALE_EVENT_NS: u64 = 1_000_000;

/// What the guest wants, read from the control page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) attention: bool,
    pub(super) wants_tick: bool,
    pub(super) next_event_ns: u64,
}

/// The state of one guest's ticking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    slice_end_ns: Option<u64>,
    /// The last served wish for an upcall, and when it was served.
    served: (u64, u64),
    /// Time to the next repetition; 0 = none was needed yet.
    repeat_ns: u64,
}

impl Schedule {
    /// When the guest's own wish for an upcall is due.
    fn event_due_ns(&self, wishes: &Wishes) -> u64 {
        let (served, at) = self.served;
        if wishes.next_event_ns == served && at != 0 {
            return at.saturating_add(STALE_EVENT_NS).max(served);
        }
        wishes.next_event_ns
    }

    /// Whether the guest is to be interrupted now for its own sake: its slice is over, or its event is due.
    pub(super) fn is_due(&mut self, wishes: &Wishes, now_ns: u64) -> bool {
        let slice_over = wishes.wants_tick && self.slice_end_ns.is_some_and(|end| now_ns >= end);
        if slice_over {
            self.slice_end_ns = Some(now_ns + SLICE_NS);
        }
        let event_due = now_ns >= self.event_due_ns(wishes);
        if event_due {
            self.served = (wishes.next_event_ns, now_ns);
        }
        slice_over || event_due
    }

    /// The guest was redirected to its upcall: it will take notice, a repetition can take its time.
    pub(super) fn delivered(&mut self) {
        self.repeat_ns = REPEAT_MAX_NS;
    }

    /// When to kick a guest that is entered now.
    pub(super) fn kick_ns(&mut self, wishes: &Wishes, now_ns: u64) -> u64 {
        let mut kick_ns = (now_ns + LOOK_NS).min(self.event_due_ns(wishes));
        if wishes.wants_tick {
            kick_ns = kick_ns.min(*self.slice_end_ns.get_or_insert(now_ns + SLICE_NS));
        } else {
            self.slice_end_ns = None;
        }
        if wishes.attention {
            self.repeat_ns = (self.repeat_ns * 2).clamp(REPEAT_NS, REPEAT_MAX_NS);
            kick_ns = kick_ns.min(now_ns + self.repeat_ns);
        } else {
            self.repeat_ns = 0;
        }
        kick_ns
    }
}

/// A schedule and the timer that it arms.
pub(super) struct Ticker {
    pub(super) schedule: Schedule,
    timer: Timer,
    /// When the timer goes off; `u64::MAX` when it is not running.
    armed_ns: u64,
}

impl Ticker {
    pub(super) fn new(timer: Timer) -> Self {
        Self { schedule: Schedule::default(), timer, armed_ns: u64::MAX }
    }

    /// Make sure that a kick comes by the time the schedule asks for. A timer that goes off sooner is left alone:
    /// arming is a system call, and the kick finds nothing to do.
    pub(super) fn before_entry(&mut self, wishes: &Wishes, now_ns: u64) {
        let kick_ns = self.schedule.kick_ns(wishes, now_ns);
        if self.armed_ns <= now_ns || kick_ns < self.armed_ns {
            self.timer.arm(kick_ns);
            self.armed_ns = kick_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Wishes = Wishes { attention: false, wants_tick: false, next_event_ns: u64::MAX };

    #[test]
    fn a_quiet_guest_is_only_looked_at() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.kick_ns(&QUIET, 1_000), 1_000 + LOOK_NS);
        assert!(!schedule.is_due(&QUIET, 1_000 + LOOK_NS));
    }

    #[test]
    fn slices_follow_each_other() {
        let wishes = Wishes { wants_tick: true, ..QUIET };
        let mut schedule = Schedule::default();
        assert_eq!(schedule.kick_ns(&wishes, 0), SLICE_NS);
        assert_eq!(schedule.kick_ns(&wishes, 1_000_000), SLICE_NS, "a host call does not lengthen the slice");
        assert!(!schedule.is_due(&wishes, SLICE_NS - 1));
        assert!(schedule.is_due(&wishes, SLICE_NS + 5));
        assert_eq!(schedule.kick_ns(&wishes, SLICE_NS + 5), 2 * SLICE_NS + 5);
        schedule.kick_ns(&QUIET, SLICE_NS + 6);
        assert_eq!(schedule.kick_ns(&wishes, SLICE_NS + 7), 2 * SLICE_NS + 7);
    }

    #[test]
    fn an_event_that_stays_in_the_past_does_not_storm() {
        let wishes = Wishes { next_event_ns: 500, ..QUIET };
        let mut schedule = Schedule::default();
        assert_eq!(schedule.kick_ns(&wishes, 100), 500);
        assert!(schedule.is_due(&wishes, 600));
        assert!(!schedule.is_due(&wishes, 700));
        assert_eq!(schedule.kick_ns(&wishes, 700), 600 + STALE_EVENT_NS);
        assert!(
            schedule.is_due(&Wishes { next_event_ns: 650, ..QUIET }, 700),
            "a new wish is served at once"
        );
        assert!(schedule.is_due(&wishes, 600 + STALE_EVENT_NS));
    }

    #[test]
    fn kicks_are_repeated_with_longer_and_longer_pauses() {
        let wishes = Wishes { attention: true, ..QUIET };
        let mut schedule = Schedule::default();
        let pauses: Vec<_> = (0..6).map(|_| schedule.kick_ns(&wishes, 0)).collect();
        assert_eq!(pauses, [100_000, 200_000, 400_000, 800_000, 1_600_000, 1_600_000]);
        schedule.kick_ns(&QUIET, 0);
        assert_eq!(schedule.kick_ns(&wishes, 0), REPEAT_NS);
    }
}
