//! What stands behind a mapping that is not private anonymous memory.

use super::frames::{Frame, Frames, Gpa};
use crate::errno::{Errno, Result};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

/// One page of a mapped object.
#[derive(Debug)]
pub enum MappedPage {
    /// A page of a read-only image window.
    Image(Gpa),
    /// A frame of the private window; the mapping keeps the reference.
    Frame(Frame),
    /// The page lies beyond the object's end: SIGBUS.
    BeyondEnd,
}

/// An object whose pages can be mapped: a file, or shared anonymous memory.
pub trait Pager {
    /// Page `index` of the object. `write` asks for the page that shared writes go to: a frame, made from the lower page if need be.
    ///
    /// # Errors
    /// ENOMEM when no frame is free; EIO when the image is damaged.
    fn page(&self, index: u64, write: bool) -> Result<MappedPage>;
    /// What /proc/PID/maps calls it.
    fn name(&self) -> Vec<u8>;
    /// Device and inode number for /proc/PID/maps.
    fn identity(&self) -> (u64, u64);
    /// Size in bytes, for the pages beyond the end.
    fn len_bytes(&self) -> u64;
}

/// Shared anonymous memory (MAP_SHARED | MAP_ANONYMOUS): frames made at first touch, shared by every process that inherits the mapping.
#[derive(Debug)]
pub struct SharedMemory {
    frames: Frames,
    pages: RefCell<BTreeMap<u64, Frame>>,
    len_bytes: u64,
}

impl SharedMemory {
    /// An object of `len_bytes` bytes without any frame yet.
    #[must_use]
    pub fn new(frames: &Frames, len_bytes: u64) -> Self {
        Self { frames: frames.clone(), pages: RefCell::default(), len_bytes }
    }
}

impl Pager for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<MappedPage> {
        if let Some(frame) = self.pages.borrow().get(&index) {
            return Ok(MappedPage::Frame(frame.clone()));
        }
        let frame = self.frames.allocate().ok_or(Errno::ENOMEM)?;
        self.pages.borrow_mut().insert(index, frame.clone());
        Ok(MappedPage::Frame(frame))
    }

    fn name(&self) -> Vec<u8> {
        b"/dev/zero (deleted)".to_vec()
    }

    fn identity(&self) -> (u64, u64) {
        (1, 1)
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}
