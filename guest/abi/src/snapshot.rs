//! What a guest that is being captured tells the VMM of its memory.
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
}
