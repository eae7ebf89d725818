//! How much a guest may have of snapshots: [`Allowance`].
//!
//! A capture copies memory on the host, at the guest's wish. So each is asked for here before anything is copied, and what it may take is known: how often in a minute, how much that
//! has not reached the store yet (it lies in this process' memory), what the store has left for this guest, what the host has left. What is refused is refused with
//! the figure.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use seuss_snapshotter::snapshot::SnapshotId;

use crate::clock::monotonic_ns;

const MINUTE_NS: u64 = 60_000_000_000;

/// Limits of one guest. The default: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureLimits {
    /// Captures that may be tried in any minute.
    pub per_minute: u32,
    /// Bytes of snapshots that may be in this process, on their way to the store.
    pub pending_bytes: u64,
}

impl Default for CaptureLimits {
    fn default() -> Self {
        Self { per_minute: u32::MAX, pending_bytes: u64::MAX }
    }
}

/// What the store has left for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreRoom {
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Default for StoreRoom {
    fn default() -> Self {
        Self { snapshots: u64::MAX, bytes: u64::MAX }
    }
}

/// Bytes that the host has left for this process; `None`: nobody limits it.
pub type Headroom = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// A capture was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overdrawn {
    /// Too many in a minute.
    #[error(
        "a guest may capture {per_minute} times a minute, and it has; the next one is possible in {wait_s} s"
    )]
    TooOften {
        /// The limit.
        per_minute: u32,
        /// Seconds to wait.
        wait_s: u64,
    },
    /// The store's quota of snapshots is used up.
    #[error(
        "the quota of snapshots is used up: no further one fits; remove some, or raise tenant_snapshots or guest_snapshots"
    )]
    TooMany,
    /// There are more bytes to keep than may be.
    #[error("{needed} bytes are to be kept, and {left} are left of {of}")]
    TooLarge {
        /// What the capture needs, at least.
        needed: u64,
        /// What it may take.
        left: u64,
        /// The limit that leaves the least.
        of: Limit,
    },
}

/// What limits the bytes of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`CaptureLimits::pending_bytes`].
    Pending,
    /// [`StoreRoom::bytes`].
    Store,
    /// [`Headroom`].
    Host,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "what may be on its way to the store (earlier snapshots are not there yet)",
            Self::Store => "the quota for memory snapshots (tenant_budget, guest_budget)",
            Self::Host => "the memory of the pod's control group",
        })
    }
}

/// What a capture may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    left: u64,
    of: Limit,
}

impl Grant {
    /// Whether `bytes` may be kept.
    pub(crate) fn check(self, bytes: u64) -> Result<(), Overdrawn> {
        let Self { left, of } = self;
        if bytes > left { Err(Overdrawn::TooLarge { needed: bytes, left, of }) } else { Ok(()) }
    }
}

#[derive(Debug, Default)]
struct State {
    /// When captures were tried in the last minute, the oldest first.
    tried_ns: VecDeque<u64>,
    /// Taken, and still in this process.
    pending: BTreeMap<SnapshotId, u64>,
    room: StoreRoom,
    /// When a refusal was told.
    told_ns: Option<u64>,
}

/// How much one guest may have of snapshots, and what it has. The default has no limits.
#[derive(Default)]
pub struct Allowance {
    limits: CaptureLimits,
    headroom: Option<Headroom>,
    state: Mutex<State>,
}

impl fmt::Debug for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Allowance").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Allowance {
    /// One with `limits`, and whatever the host has left.
    #[must_use]
    pub fn new(limits: CaptureLimits, headroom: Option<Headroom>) -> Self {
        Self { limits, headroom, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Numbers: whatever a panic left there is a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has so much left for this guest. What is on its way there is counted here.
    pub fn set_room(&self, room: StoreRoom) {
        self.lock().room = room;
    }

    /// The snapshot is in this process no more: it is in the store, or was thrown away.
    pub fn settle(&self, id: SnapshotId) {
        self.lock().pending.remove(&id);
    }

    /// A capture is to be tried: counts it, and tells how much it may take.
    pub(crate) fn begin(&self) -> Result<Grant, Overdrawn> {
        let headroom = self.headroom.as_ref().and_then(|headroom| headroom());
        self.begin_at(monotonic_ns(), headroom)
    }

    fn begin_at(&self, now_ns: u64, headroom: Option<u64>) -> Result<Grant, Overdrawn> {
        let mut state = self.lock();
        while state.tried_ns.front().is_some_and(|&at| now_ns.saturating_sub(at) >= MINUTE_NS) {
            state.tried_ns.pop_front();
        }
        let per_minute = self.limits.per_minute;
        if state.tried_ns.len() as u64 >= u64::from(per_minute) {
            let oldest = state.tried_ns.front().copied().unwrap_or(now_ns);
            let wait_s = (oldest + MINUTE_NS).saturating_sub(now_ns).div_ceil(1_000_000_000);
            return Err(Overdrawn::TooOften { per_minute, wait_s });
        }
        if per_minute != u32::MAX {
            state.tried_ns.push_back(now_ns);
        }
        let pending: u64 = state.pending.values().sum();
        if state.pending.len() as u64 >= state.room.snapshots {
            return Err(Overdrawn::TooMany);
        }
        let limits = [
            (self.limits.pending_bytes.saturating_sub(pending), Limit::Pending),
            (state.room.bytes.saturating_sub(pending), Limit::Store),
            (headroom.unwrap_or(u64::MAX), Limit::Host),
        ];
        let [first, rest @ ..] = limits;
        let (left, of) =
            rest.into_iter().fold(first, |least, limit| if limit.0 < least.0 { limit } else { least });
        Ok(Grant { left, of })
    }

    /// The snapshot was taken.
    pub(crate) fn taken(&self, id: SnapshotId, bytes: u64) {
        let mut state = self.lock();
        // Without limits nobody settles.
        if self.limits != CaptureLimits::default() {
            state.pending.insert(id, bytes);
        }
    }

    /// Whether a refusal is to be told: one a minute, a guest can ask as often as it likes.
    pub(crate) fn tells_refusal(&self) -> bool {
        let now_ns = monotonic_ns();
        let mut state = self.lock();
        let rests = state.told_ns.is_some_and(|at| now_ns.saturating_sub(at) < MINUTE_NS);
        if !rests {
            state.told_ns = Some(now_ns);
        }
        !rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> SnapshotId {
        SnapshotId([byte; 16])
    }

    #[test]
    fn so_many_a_minute_whatever_comes_of_them() {
        let allowance = Allowance::new(CaptureLimits { per_minute: 2, ..CaptureLimits::default() }, None);
        assert!(allowance.begin_at(0, None).is_ok());
        assert!(allowance.begin_at(MINUTE_NS / 2, None).is_ok());
        let refused = allowance.begin_at(MINUTE_NS - 1, None);
        assert_eq!(refused, Err(Overdrawn::TooOften { per_minute: 2, wait_s: 1 }));
        assert!(allowance.begin_at(MINUTE_NS, None).is_ok());
        assert!(allowance.begin_at(MINUTE_NS, None).is_err());
        assert!(Allowance::default().begin_at(0, None).is_ok());
    }

    #[test]
    fn what_is_on_its_way_counts_until_it_is_there() {
        let limits = CaptureLimits { per_minute: 100, pending_bytes: 1000 };
        let allowance = Allowance::new(limits, None);
        allowance.taken(id(1), 700);
        let grant = allowance.begin_at(0, None).unwrap();
        assert_eq!(grant.check(300), Ok(()));
        let refused = Overdrawn::TooLarge { needed: 301, left: 300, of: Limit::Pending };
        assert_eq!(grant.check(301), Err(refused));
        allowance.settle(id(1));
        assert_eq!(allowance.begin_at(0, None).unwrap().check(1000), Ok(()));
    }

    #[test]
    fn the_tightest_limit_counts_and_is_named() {
        let allowance = Allowance::new(CaptureLimits { per_minute: 100, pending_bytes: 1000 }, None);
        allowance.set_room(StoreRoom { snapshots: 2, bytes: 500 });
        allowance.taken(id(1), 100);
        let grant = allowance.begin_at(0, Some(5000)).unwrap();
        assert_eq!(grant, Grant { left: 400, of: Limit::Store });
        assert_eq!(allowance.begin_at(0, Some(50)).unwrap(), Grant { left: 50, of: Limit::Host });
        allowance.taken(id(2), 1);
        assert_eq!(allowance.begin_at(0, None), Err(Overdrawn::TooMany));
    }
}
