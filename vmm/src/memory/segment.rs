//! Scatter/gather lists that a guest hands over: copied once, each piece checked, resolved to host memory.

use seuss_abi::call::{SEGMENTS_MAX, Segment};

use super::{Gpa, Memory};

/// Most bytes that one call moves: it bounds how long a write to a regular file keeps the vCPU thread. A guest sees a
/// short count.
pub(crate) const TRANSFER_MAX: u64 = 4 << 20;

/// Which way a transfer goes, seen from the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Bytes come into guest memory: private window only.
    IntoGuest,
    /// Bytes leave guest memory: private or image windows.
    OutOfGuest,
}

/// Why a list was refused. All of these end the guest: its library OS would not make such a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SegmentError {
    #[error("{count} segments, more than {SEGMENTS_MAX}")]
    TooMany { count: u64 },
    #[error("segment list at gpa {gpa} ({count} entries) is not in the private window")]
    ListOutside { gpa: Gpa, count: u64 },
    #[error("segment {index} (gpa {gpa}, {len_bytes:#x} bytes) is not in a window that it may touch")]
    Outside { index: usize, gpa: Gpa, len_bytes: u64 },
}

/// A checked list: pieces of guest memory as the kernel takes them. Borrows the memory so that it stays mapped.
pub(crate) struct SegmentList<'m> {
    iovecs: Vec<libc::iovec>,
    len_bytes: u64,
    memory: &'m Memory,
}

impl<'m> SegmentList<'m> {
    /// Read `count` segments at `gpa`. Empty pieces are dropped, wherever they lie; the list is cut after
    /// [`TRANSFER_MAX`] bytes, but every segment is checked.
    pub(crate) fn resolve(
        memory: &'m Memory,
        gpa: Gpa,
        count: u64,
        direction: Direction,
    ) -> Result<Self, SegmentError> {
        if count > SEGMENTS_MAX as u64 {
            return Err(SegmentError::TooMany { count });
        }
        let outside = SegmentError::ListOutside { gpa, count };
        if !memory.private().contains(gpa, count * size_of::<Segment>() as u64) {
            return Err(outside);
        }
        let mut list = Self { iovecs: Vec::with_capacity(count as usize), len_bytes: 0, memory };
        for index in 0..count as usize {
            let at = gpa.plus((index * size_of::<Segment>()) as u64);
            let segment: Segment = memory.private().load(at).ok_or_else(|| outside.clone())?;
            list.push(index, segment, direction)?;
        }
        Ok(list)
    }

    fn push(&mut self, index: usize, segment: Segment, direction: Direction) -> Result<(), SegmentError> {
        let (gpa, len_bytes) = (Gpa(segment.gpa), segment.len_bytes);
        if len_bytes == 0 {
            return Ok(());
        }
        let window = match direction {
            Direction::IntoGuest => Some(self.memory.private()),
            Direction::OutOfGuest => self.memory.private_or_image(gpa),
        };
        let piece = window.and_then(|window| window.iovec(gpa, len_bytes));
        let mut piece = piece.ok_or(SegmentError::Outside { index, gpa, len_bytes })?;
        piece.iov_len = piece.iov_len.min((TRANSFER_MAX - self.len_bytes) as usize);
        if piece.iov_len > 0 {
            self.len_bytes += piece.iov_len as u64;
            self.iovecs.push(piece);
        }
        Ok(())
    }

    /// Shorten the list to at most `len_bytes`.
    pub(crate) fn truncate(&mut self, len_bytes: u64) {
        let mut left = len_bytes;
        self.iovecs.retain_mut(|piece| {
            piece.iov_len = piece.iov_len.min(left as usize);
            left -= piece.iov_len as u64;
            piece.iov_len > 0
        });
        self.len_bytes = self.len_bytes.min(len_bytes);
    }

    pub(crate) fn iovecs(&self) -> &[libc::iovec] {
        &self.iovecs
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}
