//! Pieces of guest memory that wait to be filled or sent, in order.

use std::collections::VecDeque;

use crate::memory::{Gpa, Memory};

/// Vectors of one system call.
const IOVECS_MAX: usize = 64;

/// Checked memory of the private window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) gpa: Gpa,
    pub(super) len_bytes: u64,
}

impl Piece {
    /// The piece, if it is not empty and lies in the private window.
    pub(super) fn new(memory: &Memory, gpa: u64, len_bytes: u64) -> Option<Self> {
        let gpa = Gpa(gpa);
        (len_bytes > 0 && memory.private().contains(gpa, len_bytes)).then_some(Self { gpa, len_bytes })
    }

    /// The piece without its first `count` bytes (at most all of them).
    pub(super) fn after(self, count: u64) -> Self {
        let count = count.min(self.len_bytes);
        Self { gpa: self.gpa.plus(count), len_bytes: self.len_bytes - count }
    }
}

/// Memory to receive into.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pieces: VecDeque<Piece>,
    room_bytes: u64,
}

impl Inbox {
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn room_bytes(&self) -> u64 {
        self.room_bytes
    }

    pub(super) fn push(&mut self, piece: Piece) {
        if piece.len_bytes > 0 {
            self.room_bytes += piece.len_bytes;
            self.pieces.push_back(piece);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The room behind the first `skip` bytes, as the kernel takes it.
    pub(super) fn iovecs(&self, memory: &Memory, skip: u64) -> Vec<libc::iovec> {
        let mut skip = skip;
        let mut list = Vec::with_capacity(self.pieces.len().min(IOVECS_MAX));
        for piece in &self.pieces {
            let rest = piece.after(skip);
            skip -= piece.len_bytes - rest.len_bytes;
            if rest.len_bytes > 0 && list.len() < IOVECS_MAX {
                list.extend(memory.private().iovec(rest.gpa, rest.len_bytes));
            }
        }
        list
    }

    /// Write `bytes` at the front.
    pub(super) fn write(&self, memory: &Memory, mut bytes: &[u8]) {
        for piece in &self.pieces {
            let (now, later) = bytes.split_at(bytes.len().min(piece.len_bytes as usize));
            memory.private().write(piece.gpa, now);
            bytes = later;
        }
    }

    /// `count` bytes at the front are filled.
    pub(super) fn advance(&mut self, count: u64) {
        let mut count = count.min(self.room_bytes);
        self.room_bytes -= count;
        while count > 0 {
            let Some(front) = self.pieces.front_mut() else { break };
            let rest = front.after(count);
            count -= front.len_bytes - rest.len_bytes;
            if rest.len_bytes == 0 {
                self.pieces.pop_front();
            } else {
                *front = rest;
            }
        }
    }
}

/// Something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) piece: Piece,
    /// Its completion is to wake the guest.
    pub(super) tell: bool,
    /// A datagram with its destination in front.
    pub(super) addressed: bool,
}

/// What was taken off an [`Outbox`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) bytes: u64,
    pub(super) tell: bool,
}

impl Done {
    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.tell |= other.tell;
    }
}

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Outbox(VecDeque<Outgoing>);

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, outgoing: Outgoing) {
        self.0.push_back(outgoing);
    }

    pub(super) fn front(&self) -> Option<Outgoing> {
        self.0.front().copied()
    }

    /// Everything, as the kernel takes it.
    pub(super) fn iovecs(&self, memory: &Memory) -> Vec<libc::iovec> {
        let pieces = self.0.iter().take(IOVECS_MAX);
        pieces
            .filter_map(|outgoing| memory.private().iovec(outgoing.piece.gpa, outgoing.piece.len_bytes))
            .collect()
    }

    /// The first is done with, as a whole.
    pub(super) fn pop(&mut self) -> Done {
        self.0.pop_front().map_or_else(Done::default, |outgoing| Done {
            bytes: outgoing.piece.len_bytes,
            tell: outgoing.tell,
        })
    }

    /// `count` bytes at the front are sent.
    pub(super) fn advance(&mut self, count: u64) -> Done {
        let mut done = Done::default();
        let mut count = count;
        while count > 0 {
            let Some(front) = self.0.front_mut() else { break };
            let rest = front.piece.after(count);
            let sent = front.piece.len_bytes - rest.len_bytes;
            (count, done.bytes) = (count - sent, done.bytes + sent);
            if rest.len_bytes == 0 {
                done.tell |= front.tell;
                self.0.pop_front();
            } else {
                front.piece = rest;
            }
        }
        done
    }

    /// Everything is thrown away.
    pub(super) fn discard(&mut self) -> Done {
        let bytes = self.0.drain(..).map(|outgoing| outgoing.piece.len_bytes).sum();
        Done { bytes, tell: true }
    }

    /// Copy everything out, at most `limit` bytes.
    pub(super) fn copy(&self, memory: &Memory, limit: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for outgoing in &self.0 {
            let start = bytes.len();
            let count = (outgoing.piece.len_bytes as usize).min(limit - start);
            bytes.resize(start + count, 0);
            memory.private().read(outgoing.piece.gpa, &mut bytes[start..]);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use seuss_abi::layout::{LARGE_PAGE_SIZE, PRIVATE_GPA};

    use super::*;

    #[test]
    fn only_private_memory_is_taken() {
        let memory = Memory::new(LARGE_PAGE_SIZE, vec![]).expect("memory");
        assert!(Piece::new(&memory, PRIVATE_GPA, LARGE_PAGE_SIZE).is_some());
        let bad = [
            (PRIVATE_GPA, LARGE_PAGE_SIZE + 1),
            (PRIVATE_GPA, 0),
            (0, 4096),
            (u64::MAX, 2),
            (PRIVATE_GPA, u64::MAX),
        ];
        for (gpa, len_bytes) in bad {
            assert!(Piece::new(&memory, gpa, len_bytes).is_none(), "{gpa:#x} {len_bytes:#x}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_has_its_place(
            lens in prop::collection::vec(1_u64..50, 1..20), steps in prop::collection::vec(0_u64..60, 1..20), skip in 0_u64..60
        ) {
            let memory = Memory::new(LARGE_PAGE_SIZE, vec![]).expect("memory");
            let (mut inbox, mut outbox) = (Inbox::default(), Outbox::default());
            for (at, &len) in lens.iter().enumerate() {
                let piece = Piece::new(&memory, PRIVATE_GPA + at as u64 * 100, len).expect("inside");
                inbox.push(piece);
                outbox.push(Outgoing { piece, tell: at == 2, addressed: false });
            }
            let total: u64 = lens.iter().sum();
            let mut done = 0;
            for step in steps {
                let step = step.min(total - done);
                inbox.advance(step);
                let sent = outbox.advance(step);
                prop_assert_eq!(sent.bytes, step);
                done += step;
                prop_assert_eq!(inbox.room_bytes(), total - done);
                let room: usize = inbox.iovecs(&memory, 0).iter().map(|piece| piece.iov_len).sum();
                let left: usize = outbox.iovecs(&memory).iter().map(|piece| piece.iov_len).sum();
                prop_assert_eq!((room, left), ((total - done) as usize, (total - done) as usize));
                let skipped: usize = inbox.iovecs(&memory, skip).iter().map(|piece| piece.iov_len).sum();
                prop_assert_eq!(skipped, (total - done).saturating_sub(skip) as usize);
            }
            prop_assert_eq!(outbox.discard().bytes, total - done);
        }
    }
}
