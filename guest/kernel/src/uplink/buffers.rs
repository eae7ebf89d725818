//! Memory that the VMM receives into and sends from: runs of frames, some of which are kept warm.

use crate::mem::frames::{Frame, Frames, Gpa};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::layout::PAGE_SIZE;

const PAGE: usize = PAGE_SIZE as usize;
/// Pages of the kinds of buffers, smallest first.
pub const CLASSES: [usize; 3] = [1, 4, 16];
/// Free buffers of each kind that are kept.
const KEPT: [usize; 3] = [128, 16, 8];
/// Buffers take at most this part of all memory...
const SHARE: usize = 8;
/// ...and leave this many pages alone.
const SPARE_PAGES: usize = 64;

/// Contiguous memory.
#[derive(Debug)]
pub struct Buffer {
    frames: Vec<Frame>,
}

impl Buffer {
    /// Where it lies.
    #[must_use]
    pub fn gpa(&self) -> Gpa {
        self.frames.first().map_or(0, Frame::gpa)
    }

    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len() * PAGE
    }

    /// Never: a buffer has a page at least.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Where buffers come from.
#[derive(Debug)]
pub struct Buffers {
    frames: Frames,
    kept: [RefCell<Vec<Buffer>>; 3],
    used_pages: Cell<usize>,
}

impl Buffers {
    /// No buffers yet.
    #[must_use]
    pub fn new(frames: &Frames) -> Self {
        Self { frames: frames.clone(), kept: Default::default(), used_pages: Cell::new(0) }
    }

    /// The memory.
    #[must_use]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// A buffer for `bytes`, or a smaller one (at least a page) if memory is short. `None`: there is none at all.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Buffer> {
        let fitting = CLASSES.iter().position(|pages| pages * PAGE >= bytes).unwrap_or(CLASSES.len() - 1);
        let buffer = (0..=fitting).rev().find_map(|class| self.take_class(class))?;
        self.used_pages.set(self.used_pages.get() + buffer.frames.len());
        Some(buffer)
    }

    fn take_class(&self, class: usize) -> Option<Buffer> {
        if let Some(buffer) = self.kept[class].borrow_mut().pop() {
            return Some(buffer);
        }
        let pages = CLASSES[class];
        if self.frames.available() < pages + SPARE_PAGES {
            return None;
        }
        if class == 0 {
            return self.frames.allocate_uninit().map(|frame| Buffer { frames: Vec::from([frame]) });
        }
        if self.used_pages.get() + pages > self.frames.total() / SHARE {
            return None;
        }
        self.frames.allocate_run(pages).map(|frames| Buffer { frames })
    }

    /// Contiguous memory of at least `bytes`, whatever its kind: for a datagram that needs so much.
    #[must_use]
    pub fn take_large(&self, bytes: usize) -> Option<Buffer> {
        let pages = bytes.div_ceil(PAGE);
        if self.frames.available() < pages + SPARE_PAGES {
            return None;
        }
        let frames = self.frames.allocate_run(pages)?;
        self.used_pages.set(self.used_pages.get() + pages);
        Some(Buffer { frames })
    }

    /// Keep no free buffers.
    pub fn drop_kept(&self) {
        self.kept.iter().for_each(|kept| kept.borrow_mut().clear());
    }

    /// Give a buffer back.
    pub fn give(&self, buffer: Buffer) {
        let pages = buffer.frames.len();
        self.used_pages.set(self.used_pages.get().saturating_sub(pages));
        if let Some(class) = CLASSES.iter().position(|class| *class == pages) {
            let mut kept = self.kept[class].borrow_mut();
            if kept.len() < KEPT[class] && self.frames.available() > self.frames.total() / 16 {
                kept.push(buffer);
            }
        }
    }
}
