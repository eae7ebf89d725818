//! What a guest that is being captured tells the VMM of its memory, and when it had better not be.
//!
//! The capture area of the communication window holds two bits for every frame of the private window, frame 0 in the lowest bits of the
//! first byte. The VMM believes nothing: whatever the bits say, it reads and writes within the guest's own memory only.

/// Nothing of this frame is kept: it is free, or its content is that of a layer page already.
pub const FREE: u8 = 0;
/// Only page-table entries of applications refer to this frame: they will point at the layer.
pub const APPLICATION: u8 = 1;
/// The library OS refers to this frame by its address: it is copied to the same address before the first entry.
pub const COPIED: u8 = 2;
/// A page table whose entries are leaves of 4 KiB.
pub const TABLE: u8 = 3;

/// Frames that the capture area has room for.
pub const FRAMES_MAX: u64 = crate::comm::CAPTURE_SIZE * 4;

/// Levels of a snapshot: base, function, argument.
pub const LEVELS: u64 = 3;
/// The base level.
pub const LEVEL_BASE: u64 = 0;

/// In a leaf entry that points at a layer: the page was writable when it was captured, and its only reference was this entry. The bit is
/// ignored by the CPU (SDM vol. 3, 4.5.4).
pub const WAS_WRITABLE: u64 = 1 << 9;

/// Put `class` of frame `pfn` into the capture area's bytes.
pub fn set_class(area: &mut [u8], pfn: u64, class: u8) {
    if let Some(byte) = usize::try_from(pfn / 4).ok().and_then(|at| area.get_mut(at)) {
        let shift = pfn % 4 * 2;
        *byte = *byte & !(3 << shift) | (class & 3) << shift;
    }
}

/// The class of frame `pfn`, [`FREE`] beyond the area's end.
#[must_use]
pub fn class(area: &[u8], pfn: u64) -> u8 {
    let byte = usize::try_from(pfn / 4).ok().and_then(|at| area.get(at)).copied().unwrap_or(FREE);
    byte >> (pfn % 4 * 2) & 3
}

/// In `b` of [`crate::event::Kind::Snapshot`]: nobody in the guest has asked, so only a guest whose clones can go on is captured; another one says what stands in the way
/// ([`crate::call::Op::PutOff`]).
pub const CAUTIOUS: u64 = 1;
/// Likewise: connections that the program has opened do not stand in the way; clones find them reset.
pub const RESET_CONNECTIONS: u64 = 2;

/// What stands in the way of a cautious capture.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// A thread computes, or nobody waits for connections: the program is at something that every clone would do again.
    Busy = 1,
    /// A process that the VMM has started beside the first one (an exec, a probe, a hook), or a child of one.
    Exec = 2,
    /// A connection that somebody outside has opened: a request is under way, or another may come.
    Accepted = 3,
    /// A connection that the program has opened: every clone would find it reset.
    Outgoing = 4,
    /// A generator of random numbers in the program's memory that cannot be seeded anew: clones would draw equal secrets.
    Generator = 5,
    /// A listening socket, a thread, a process or a mapped file is younger than the VMM wants: the program is still starting.
    Settling = 6,
}

impl Obstacle {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Busy, Self::Exec, Self::Accepted, Self::Outgoing, Self::Generator, Self::Settling];

    /// The obstacle with number `raw`.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|obstacle| *obstacle as u64 == raw)
    }

    /// A word for metrics and labels.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Exec => "exec",
            Self::Accepted => "accepted-connection",
            Self::Outgoing => "outgoing-connection",
            Self::Generator => "random-generator",
            Self::Settling => "settling",
        }
    }
}

impl core::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Busy => "the program is busy, or does not wait for connections",
            Self::Exec => "a process that was started with exec (a probe, a hook, a shell) runs",
            Self::Accepted => "a connection from outside is open",
            Self::Outgoing => "a connection that the program has opened is open (seuss.dev/snapshot-connections: reset allows it)",
            Self::Generator => "the program keeps a random generator in memory that cannot be seeded anew",
            Self::Settling => "the program is still starting: a listening socket, thread, process or mapped file is young",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_do_not_disturb_each_other() {
        let mut area = [0; 2];
        for (pfn, class) in [(0, TABLE), (1, APPLICATION), (2, COPIED), (5, TABLE), (99, TABLE)] {
            set_class(&mut area, pfn, class);
        }
        set_class(&mut area, 0, FREE);
        let found: [u8; 9] = core::array::from_fn(|pfn| class(&area, pfn as u64));
        assert_eq!(found, [FREE, APPLICATION, COPIED, FREE, FREE, TABLE, FREE, FREE, FREE]);
    }

    #[test]
    fn obstacles_have_numbers() {
        for obstacle in Obstacle::ALL {
            assert_eq!(Obstacle::from_raw(obstacle as u64), Some(obstacle));
        }
        assert_eq!((Obstacle::from_raw(0), Obstacle::from_raw(1 << 32 | 1)), (None, None));
    }
}
