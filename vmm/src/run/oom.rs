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
    /// Whether to tell now that `kills` were counted at `now_ns` of CLOCK_MONOTONIC.
    pub(super) fn is_news(&mut self, kills: u64, now_ns: u64) -> bool {
        self.owed |= kills > self.seen;
        self.seen = kills;
        let rests = self.told_ns.is_some_and(|told| now_ns.saturating_sub(told) < PAUSE_NS);
        if !self.owed || rests {
            return false;
        }
        self.owed = false;
        self.told_ns = Some(now_ns);
        true
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
        assert!(!watch.is_news(0, 0));
        assert!(watch.is_news(1, 10));
        assert!(!watch.is_news(1, 20));
        assert!(!watch.is_news(2, 30) && watch.is_owed());
        assert!(!watch.is_news(3, PAUSE_NS));
        assert!(watch.is_news(3, PAUSE_NS + 10) && !watch.is_owed());
        assert!(!watch.is_news(0, 9 * PAUSE_NS), "a count that falls is no news");
    }
}
