//! The guest's clock page: turns TSC ticks into the host's CLOCK_MONOTONIC.
//!
//! Owns [`GuestClock`], which keeps the parameters that the guest computes with, never lets the guest's clock run
//! backwards, and follows the host's clock (which NTP slews) by small changes of rate. Arithmetic is pure; [`tsc`]
//! reads the hardware.

pub(crate) mod tsc;

use seuss_abi::comm::Clock;

pub(crate) use tsc::{Sample, monotonic_ns};

/// Ticks are scaled as `(ticks * mult) >> SHIFT`.
const SHIFT: u32 = 32;
/// A refresh sooner than this after the last one is skipped: the page is still exact to a few nanoseconds.
const REFRESH_NS: u64 = 1_000_000;
/// A guest's clock that is ahead of the host's is slowed so that the host catches up in this time...
const CATCH_UP_NS: u64 = 100_000_000;
/// ...but by no more than one part in this many.
const SLOWEST_PART: u64 = 20;
/// The measured rate replaces the nominal one once it rests on this much time.
const CALIBRATION_NS: u64 = 50_000_000;

/// The clock of one guest, as published to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestClock {
    page: Clock,
    origin: Sample,
    nominal_mult: u64,
}

impl GuestClock {
    /// A clock that starts at `now`, with a TSC of `tsc_khz`.
    pub(crate) fn new(now: Sample, tsc_khz: u32) -> Self {
        let nominal_mult = (1_000_000_u64 << SHIFT) / u64::from(tsc_khz.max(1));
        let page = Clock {
            sequence: 0,
            shift: SHIFT,
            mult: nominal_mult,
            base_tsc: now.tsc,
            base_monotonic_ns: now.monotonic_ns,
            realtime_offset_ns: now.realtime_offset_ns,
            boottime_offset_ns: now.boottime_offset_ns,
        };
        Self { page, origin: now, nominal_mult }
    }

    /// The page as it stands (`sequence` even).
    pub(crate) fn page(&self) -> Clock {
        self.page
    }

    /// Whether `now` is late enough after the last refresh for another one.
    pub(crate) fn is_stale(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.page.base_monotonic_ns) >= REFRESH_NS
    }

    /// Ticks to nanoseconds as measured since the clock started, or the nominal rate while that is too short ago.
    fn measured_mult(&self, now: Sample) -> u64 {
        let elapsed_ns = now.monotonic_ns.saturating_sub(self.origin.monotonic_ns);
        let ticks = now.tsc.saturating_sub(self.origin.tsc);
        if elapsed_ns < CALIBRATION_NS || ticks == 0 {
            return self.nominal_mult;
        }
        let measured = (u128::from(elapsed_ns) << SHIFT) / u128::from(ticks);
        u64::try_from(measured).unwrap_or(self.nominal_mult)
    }

    /// Move the base to `now`. A guest that is behind is put right at once; one that is ahead runs slower until it is
    /// right again.
    pub(crate) fn refresh(&mut self, now: Sample) {
        let shown_ns = self.page.monotonic_ns(now.tsc);
        let mult = self.measured_mult(now);
        let ahead_ns = shown_ns.saturating_sub(now.monotonic_ns);
        let slower = (u128::from(mult) * u128::from(ahead_ns) / u128::from(CATCH_UP_NS)) as u64;
        self.page = Clock {
            sequence: self.page.sequence.wrapping_add(2),
            shift: SHIFT,
            mult: mult - slower.min(mult / SLOWEST_PART),
            base_tsc: now.tsc,
            base_monotonic_ns: shown_ns.max(now.monotonic_ns),
            realtime_offset_ns: now.realtime_offset_ns,
            boottime_offset_ns: now.boottime_offset_ns,
        };
    }
}

/// The TSC's frequency measured against CLOCK_MONOTONIC, for a KVM that does not tell it. Takes ten milliseconds.
pub(crate) fn measure_tsc_khz() -> u32 {
    let first = Sample::take();
    std::thread::sleep(std::time::Duration::from_millis(10));
    let second = Sample::take();
    let ticks = u128::from(second.tsc.saturating_sub(first.tsc));
    let elapsed_ns = u128::from(second.monotonic_ns.saturating_sub(first.monotonic_ns).max(1));
    u32::try_from(ticks * 1_000_000 / elapsed_ns).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(tsc: u64, monotonic_ns: u64) -> Sample {
        Sample { tsc, monotonic_ns, realtime_offset_ns: 5, boottime_offset_ns: 7 }
    }

    #[test]
    fn ticks_become_nanoseconds() {
        let clock = GuestClock::new(sample(1_000, 50), 2_000_000).page();
        assert_eq!(clock.monotonic_ns(1_000), 50);
        assert_eq!(clock.monotonic_ns(3_000), 1_050);
        assert_eq!(clock.monotonic_ns(0), 50, "before the base");
        assert_eq!(
            clock.monotonic_ns(1_000 + 2_000_000_000 * 86_400 * 365),
            50 + 1_000_000_000 * 86_400 * 365
        );
    }

    #[test]
    fn a_wrong_frequency_is_learnt() {
        // The TSC runs at 2 GHz but 1.9 GHz was told.
        let at = |ms: u64| sample(ms * 2_000_000, ms * 1_000_000);
        let mut clock = GuestClock::new(at(1), 1_900_000);
        for ms in 2..1_000 {
            clock.refresh(at(ms));
        }
        let shown = clock.page().monotonic_ns(at(1_000).tsc);
        assert!(shown.abs_diff(1_000_000_000) < 1_000, "{shown}");
    }

    #[test]
    fn the_hosts_clock_agrees_with_the_page() {
        let mut clock = GuestClock::new(Sample::take(), measure_tsc_khz());
        std::thread::sleep(std::time::Duration::from_millis(60));
        clock.refresh(Sample::take());
        std::thread::sleep(std::time::Duration::from_millis(5));
        let now = Sample::take();
        let shown = clock.page().monotonic_ns(now.tsc);
        assert!(shown.abs_diff(now.monotonic_ns) < 100_000, "{shown} against {now:?}");
    }

    proptest! {
        #[test]
        fn time_never_runs_backwards(
            khz in 500_000_u32..5_000_000,
            steps in prop::collection::vec((0_u64..50_000_000, -600_i64..600), 1..60),
        ) {
            let mut now = sample(1 << 40, 1 << 50);
            let mut clock = GuestClock::new(now, khz);
            let mut last = 0;
            for (elapsed_ns, skew_ppm) in steps {
                let ticks = u128::from(elapsed_ns) * u128::from(khz) / 1_000_000;
                now.tsc += (ticks as i128 * (1_000_000 + i128::from(skew_ppm)) / 1_000_000) as u64;
                now.monotonic_ns += elapsed_ns;
                let before = clock.page().monotonic_ns(now.tsc);
                prop_assert!(before >= last);
                clock.refresh(now);
                last = clock.page().monotonic_ns(now.tsc);
                prop_assert!(last >= before && last >= now.monotonic_ns);
                prop_assert!(clock.page().sequence.is_multiple_of(2));
            }
        }
    }
}
