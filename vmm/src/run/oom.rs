//! When to tell that a guest is out of memory.

/// Least time between two tellings, in nanoseconds.
const PAUSE_NS: u64 = 1_000_000_000;

/// Watches the guest's count of killed processes, which is a hostile number: it may jump, fall, or change at every exit.
#[derive(Debug, Default)]
pub(super) struct OomWatch {
    seen: u64,
    owed: bool,
    told_ns: Option<u64>,
}

impl OomWatch {
    /// Whether to tell now that `kills` were counted at `now_ns` of CLOCK_MONOTONIC. `may_tell` is asked last, and only if there is something.
    pub(super) fn is_news(&mut self, kills: u64, now_ns: u64, may_tell: impl FnOnce() -> bool) -> bool {
        self.owed |= kills > self.seen;
        self.seen = kills;
        let rests = self.told_ns.is_some_and(|told| now_ns.saturating_sub(told) < PAUSE_NS);
        if !self.owed || rests {
            return false;
        }
        // Asked again after the pause, not at every exit.
        self.told_ns = Some(now_ns);
        self.owed = !may_tell();
        !self.owed
    }

    /// Whether something was counted that was not told yet.
    pub(super) fn is_owed(&self) -> bool {
        self.owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_burst_is_told_once_and_nothing_is_lost() {
        let mut watch = OomWatch::default();
        let yes = || true;
        assert!(!watch.is_news(0, 0, yes));
        assert!(watch.is_news(1, 10, yes));
        assert!(!watch.is_news(1, 20, yes));
        assert!(!watch.is_news(2, 30, yes) && watch.is_owed());
        assert!(!watch.is_news(3, PAUSE_NS, yes));
        assert!(watch.is_news(3, PAUSE_NS + 10, yes) && !watch.is_owed());
        assert!(!watch.is_news(0, 9 * PAUSE_NS, yes), "a count that falls is no news");
        assert!(!watch.is_news(1, 20 * PAUSE_NS, || false) && watch.is_owed(), "no room");
        assert!(watch.is_news(1, 22 * PAUSE_NS, yes));
    }
}
