//! What a socket has received and not read, in the memory that the VMM fills in order.

use super::buffers::{Buffer, Buffers};
use alloc::collections::VecDeque;
use seuss_abi::layout::PAGE_SIZE;

/// A buffer and how far it is filled and read.
#[derive(Debug)]
struct Part {
    buffer: Buffer,
    filled: usize,
    read: usize,
}

/// Received bytes.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    parts: VecDeque<Part>,
    unread: usize,
    room: usize,
}

impl Inbox {
    /// Bytes to be read.
    #[must_use]
    pub(super) fn unread(&self) -> usize {
        self.unread
    }

    /// Bytes that the VMM may still fill.
    #[must_use]
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Buffers.
    #[must_use]
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Memory that the VMM was given; its first `used` bytes are not for it.
    pub(super) fn provide(&mut self, buffer: Buffer, used: usize) {
        self.room += buffer.len() - used;
        self.parts.push_back(Part { buffer, filled: used, read: used });
    }

    /// The VMM has filled `count` bytes more.
    pub(super) fn received(&mut self, count: usize) {
        let mut left = count.min(self.room);
        self.unread += left;
        self.room -= left;
        for part in &mut self.parts {
            let now = left.min(part.buffer.len() - part.filled);
            part.filled += now;
            left -= now;
            if left == 0 {
                break;
            }
        }
    }

    /// Copy unread bytes from `skip` on without taking them; returns how many.
    pub(super) fn peek(&self, buffers: &Buffers, skip: usize, bytes: &mut [u8]) -> usize {
        let mut skip = skip;
        let mut done = 0;
        for part in &self.parts {
            let held = part.filled - part.read;
            if skip >= held {
                skip -= held;
                continue;
            }
            let count = (held - skip).min(bytes.len() - done);
            let from = part.buffer.gpa() + (part.read + skip) as u64;
            buffers.frames().read(from, &mut bytes[done..done + count]);
            (done, skip) = (done + count, 0);
            if done == bytes.len() {
                break;
            }
        }
        done
    }

    /// Take `count` bytes off the front.
    pub(super) fn consume(&mut self, buffers: &Buffers, count: usize) {
        let mut left = count.min(self.unread);
        self.unread -= left;
        while let Some(part) = self.parts.front_mut() {
            let now = left.min(part.filled - part.read);
            part.read += now;
            left -= now;
            if part.read < part.buffer.len() {
                break;
            }
            if let Some(part) = self.parts.pop_front() {
                buffers.give(part.buffer);
            }
        }
    }

    /// Give everything back that the VMM no longer uses.
    pub(super) fn clear(&mut self, buffers: &Buffers) {
        self.parts.drain(..).for_each(|part| buffers.give(part.buffer));
        (self.unread, self.room) = (0, 0);
    }

    /// The VMM will fill no more: what has no unread bytes is given back.
    pub(super) fn finish(&mut self, buffers: &Buffers) {
        self.room = 0;
        while let Some(part) = self.parts.pop_back_if(|part| part.read == part.filled) {
            buffers.give(part.buffer);
        }
    }
}

/// Bytes that are copied at once.
pub const COPY_BYTES: usize = PAGE_SIZE as usize;
