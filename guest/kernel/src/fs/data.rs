//! A regular file's bytes: frames where something was written, the image's extent below, zeros elsewhere.

use super::node::Node;
use crate::erofs::{Image, Inode};
use crate::errno::{Errno, Result};
use crate::mem::frames::{Frame, Frames};
use crate::mem::pager::{MappedPage, Pager};
use crate::mem::user::{Sink, Source};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::layout::PAGE_SIZE;

const PAGE: usize = PAGE_SIZE as usize;
/// Largest file (s_maxbytes on 64-bit Linux).
pub const SIZE_MAX: u64 = i64::MAX as u64;
/// Most pages of the lower extent that one call hides one by one.
const HOLES_MAX: u64 = 1 << 16;

/// The bytes of a regular file.
#[derive(Debug)]
pub struct Data {
    size: Cell<u64>,
    lower: Option<(Rc<Image>, Inode)>,
    /// Bytes of the lower extent that still show, from its start.
    lower_end: Cell<u64>,
    /// Pages that hide the lower extent: a frame, or `None` for a hole.
    pages: RefCell<BTreeMap<u64, Option<Frame>>>,
    /// How many of `pages` are frames, and how many hide a page of the lower extent.
    counts: Cell<(u64, u64)>,
    /// F_SEAL_* (memfd_create(2)); `F_SEAL_SEAL` where sealing is not allowed.
    seals: Cell<u32>,
    /// Shared mappings that may be written, counted where sealing is allowed.
    writable_mappings: Cell<u32>,
}

/// No further seals.
pub const SEAL_SEAL: u32 = 1;
/// The file cannot shrink.
pub const SEAL_SHRINK: u32 = 2;
/// The file cannot grow.
pub const SEAL_GROW: u32 = 4;
/// The content cannot change.
pub const SEAL_WRITE: u32 = 8;
/// The content cannot change, but through mappings that exist.
pub const SEAL_FUTURE_WRITE: u32 = 16;

/// Where a page's bytes are.
enum Place {
    Frame(Frame),
    Lower,
    Zero,
}

impl Data {
    /// An empty file.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            size: Cell::new(0),
            lower: None,
            lower_end: Cell::new(0),
            pages: RefCell::default(),
            counts: Cell::default(),
            seals: Cell::new(SEAL_SEAL),
            writable_mappings: Cell::new(0),
        }
    }

    /// An empty file that can be sealed.
    #[must_use]
    pub fn sealable() -> Self {
        let data = Self::empty();
        data.seals.set(0);
        data
    }

    /// A file that shows an inode of an image.
    #[must_use]
    pub fn lower(image: &Rc<Image>, inode: &Inode) -> Self {
        Self {
            size: Cell::new(inode.size),
            lower: Some((image.clone(), *inode)),
            lower_end: Cell::new(inode.size),
            pages: RefCell::default(),
            counts: Cell::default(),
            seals: Cell::new(SEAL_SEAL),
            writable_mappings: Cell::new(0),
        }
    }

    /// The image's extent, if there is one.
    #[must_use]
    pub fn extent(&self) -> Option<&(Rc<Image>, Inode)> {
        self.lower.as_ref()
    }

    /// Whether no page was written or copied.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        self.pages.borrow().is_empty()
    }

    /// The seals.
    #[must_use]
    pub fn seals(&self) -> u32 {
        self.seals.get()
    }

    /// Add seals (F_ADD_SEALS).
    ///
    /// # Errors
    /// EPERM if no more can be added, EINVAL for unknown ones, EBUSY if a mapping may be written that is to be sealed.
    pub fn add_seals(&self, seals: u32) -> Result {
        if seals & !(SEAL_FUTURE_WRITE * 2 - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        if self.seals.get() & SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if seals & SEAL_WRITE & !self.seals.get() != 0 && self.writable_mappings.get() > 0 {
            return Err(Errno::EBUSY);
        }
        self.seals.set(self.seals.get() | seals);
        Ok(())
    }

    /// Whether it was made to be sealed.
    #[must_use]
    pub fn is_sealable(&self) -> bool {
        self.seals.get() != SEAL_SEAL
    }

    /// Whether seals allow writing up to `end`.
    ///
    /// # Errors
    /// EPERM.
    pub fn check_seals(&self, end: u64) -> Result {
        let seals = self.seals.get();
        let grows = seals & SEAL_GROW != 0 && end > self.size.get();
        if seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 || grows { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Whether seals allow another size.
    ///
    /// # Errors
    /// EPERM.
    pub fn check_seals_resize(&self, size: u64) -> Result {
        let seals = self.seals.get();
        let shrinks = seals & SEAL_SHRINK != 0 && size < self.size.get();
        let grows = seals & SEAL_GROW != 0 && size > self.size.get();
        if shrinks || grows { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// Pages that hold data: the lower extent's and frames.
    #[must_use]
    pub fn pages_used(&self) -> u64 {
        let (frames, hiding) = self.counts.get();
        self.lower_end.get().div_ceil(PAGE_SIZE) - hiding + frames
    }

    /// [`Self::pages_used`], counted one by one.
    #[cfg(test)]
    pub(crate) fn count_pages(&self) -> u64 {
        let pages = self.pages.borrow();
        let lower = (0..self.lower_end.get().div_ceil(PAGE_SIZE)).filter(|index| !pages.contains_key(index));
        lower.count() as u64 + pages.values().filter(|page| page.is_some()).count() as u64
    }

    /// Put a frame or a hole in.
    fn insert(&self, index: u64, page: Option<Frame>) {
        let (mut frames, mut hiding) = self.counts.get();
        frames += u64::from(page.is_some());
        let hides = index * PAGE_SIZE < self.lower_end.get();
        match self.pages.borrow_mut().insert(index, page) {
            Some(old) => frames -= u64::from(old.is_some()),
            None => hiding += u64::from(hides),
        }
        self.counts.set((frames, hiding));
    }

    /// Count again, after pages or a part of the lower extent were taken away.
    fn recount(&self) {
        let lower = self.lower_end.get().div_ceil(PAGE_SIZE);
        let pages = self.pages.borrow();
        let frames = pages.values().filter(|page| page.is_some()).count() as u64;
        self.counts.set((frames, pages.range(..lower).count() as u64));
    }

    fn place(&self, index: u64) -> Place {
        match self.pages.borrow().get(&index) {
            Some(Some(frame)) => Place::Frame(frame.clone()),
            Some(None) => Place::Zero,
            None if index * PAGE_SIZE < self.lower_end.get() => Place::Lower,
            None => Place::Zero,
        }
    }

    /// Copy bytes within one page.
    fn load(&self, frames: &Frames, at: u64, bytes: &mut [u8]) -> Result {
        match self.place(at / PAGE_SIZE) {
            Place::Frame(frame) => frames.read(frame.gpa() + at % PAGE_SIZE, bytes),
            Place::Zero => bytes.fill(0),
            Place::Lower => {
                let shown = self.lower_end.get().saturating_sub(at).min(bytes.len() as u64) as usize;
                let (front, back) = bytes.split_at_mut(shown);
                back.fill(0);
                if let Some((image, inode)) = &self.lower
                    && image.read(inode, at, front)? < front.len()
                {
                    return Err(Errno::EIO);
                }
            }
        }
        Ok(())
    }

    /// Copy bytes at `offset` to `sink`; returns how many.
    ///
    /// # Errors
    /// EFAULT, EIO.
    pub fn read(&self, frames: &Frames, offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let mut buffer = [0; PAGE];
        let mut done = 0;
        loop {
            let at = offset.saturating_add(done as u64);
            let left = self.size.get().saturating_sub(at).min(sink.remaining() as u64);
            let count = left.min(PAGE_SIZE - at % PAGE_SIZE) as usize;
            if count == 0 {
                return Ok(done);
            }
            let stored =
                self.load(frames, at, &mut buffer[..count]).and_then(|()| sink.put(&buffer[..count]));
            match stored {
                Ok(stored) => done += stored,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(done),
            }
            if stored != Ok(count) {
                return Ok(done);
            }
        }
    }

    /// The frame of page `index`, made from what shows there.
    fn own(&self, frames: &Frames, index: u64) -> Result<Frame> {
        let place = self.place(index);
        if let Place::Frame(frame) = place {
            return Ok(frame);
        }
        let frame = match place {
            Place::Lower => {
                let frame = frames.allocate_uninit().ok_or(Errno::ENOSPC)?;
                let mut buffer = [0; PAGE];
                self.load(frames, index * PAGE_SIZE, &mut buffer)?;
                frames.write(frame.gpa(), &buffer);
                frame
            }
            _ => frames.allocate().ok_or(Errno::ENOSPC)?,
        };
        self.insert(index, Some(frame.clone()));
        Ok(frame)
    }

    /// Store bytes within one page.
    fn store(&self, frames: &Frames, at: u64, bytes: &[u8]) -> Result {
        let index = at / PAGE_SIZE;
        if bytes.len() == PAGE && !matches!(self.place(index), Place::Frame(_)) {
            let frame = frames.allocate_uninit().ok_or(Errno::ENOSPC)?;
            frames.write(frame.gpa(), bytes);
            self.insert(index, Some(frame));
        } else {
            let frame = self.own(frames, index)?;
            frames.write(frame.gpa() + at % PAGE_SIZE, bytes);
        }
        self.size.set(self.size.get().max(at + bytes.len() as u64));
        Ok(())
    }

    /// Copy bytes from `source` to `offset`; returns how many. It may have taken more than it returns when memory runs out.
    ///
    /// # Errors
    /// EFAULT, EFBIG, ENOSPC, EIO.
    pub fn write(&self, frames: &Frames, offset: u64, source: &mut dyn Source) -> Result<usize> {
        let mut buffer = [0; PAGE];
        let mut done = 0;
        loop {
            let at = offset.saturating_add(done as u64);
            let want = (source.remaining() as u64).min(PAGE_SIZE - at % PAGE_SIZE) as usize;
            if want == 0 {
                return Ok(done);
            }
            let step = if at.saturating_add(want as u64) > SIZE_MAX {
                Err(Errno::EFBIG)
            } else {
                source.take(&mut buffer[..want]).and_then(|got| {
                    self.store(frames, at, &buffer[..got])?;
                    Ok(got)
                })
            };
            match step {
                Ok(got) => done += got,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(done),
            }
            if step != Ok(want) {
                return Ok(done);
            }
        }
    }

    /// Make `from..to` read as zeros.
    ///
    /// # Errors
    /// ENOSPC, EIO.
    pub fn punch(&self, frames: &Frames, from: u64, to: u64) -> Result {
        let to = to.min(self.size.get().next_multiple_of(PAGE_SIZE).max(self.lower_end.get()));
        if from >= to {
            return Ok(());
        }
        let (first_whole, end_whole) = (from.div_ceil(PAGE_SIZE), to / PAGE_SIZE);
        if first_whole > end_whole {
            return self.clear_part(frames, from, to);
        }
        self.clear_part(frames, from, first_whole * PAGE_SIZE)?;
        self.clear_part(frames, end_whole * PAGE_SIZE, to)?;
        let lower_pages = self.lower_end.get().div_ceil(PAGE_SIZE);
        let hidden = first_whole..end_whole.min(lower_pages);
        if !hidden.is_empty() && end_whole >= lower_pages {
            self.lower_end.set(first_whole * PAGE_SIZE);
        } else if hidden.end.saturating_sub(hidden.start) > HOLES_MAX {
            return Err(Errno::ENOSPC);
        }
        let mut pages = self.pages.borrow_mut();
        pages.extract_if(first_whole..end_whole, |_, _| true).for_each(drop);
        if end_whole < lower_pages {
            pages.extend(hidden.map(|index| (index, None)));
        }
        drop(pages);
        self.recount();
        Ok(())
    }

    /// Zero a range within one page.
    fn clear_part(&self, frames: &Frames, from: u64, to: u64) -> Result {
        if from < to && !matches!(self.place(from / PAGE_SIZE), Place::Zero) {
            let frame = self.own(frames, from / PAGE_SIZE)?;
            frames.fill_zero(frame.gpa() + from % PAGE_SIZE, (to - from) as usize);
        }
        Ok(())
    }

    /// Set the size; what lies beyond is gone, what is new reads as zeros.
    ///
    /// # Errors
    /// EFBIG, ENOSPC, EIO.
    pub fn truncate(&self, frames: &Frames, size: u64) -> Result {
        if size > SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        if size < self.size.get() {
            let within = size % PAGE_SIZE;
            if let (1.., Place::Frame(frame)) = (within, self.place(size / PAGE_SIZE)) {
                frames.fill_zero(frame.gpa() + within, (PAGE_SIZE - within) as usize);
            }
            let removed = self.pages.borrow_mut().split_off(&size.div_ceil(PAGE_SIZE));
            let (kept, hiding) = self.counts.get();
            let lower = self.lower_end.get().div_ceil(PAGE_SIZE);
            let gone = removed.values().filter(|page| page.is_some()).count() as u64;
            self.counts.set((kept - gone, hiding - removed.range(..lower).count() as u64));
            // The lower page that is cut needs no copy: `load` shows nothing of it beyond `lower_end`.
            self.lower_end.set(self.lower_end.get().min(size));
        }
        self.size.set(size);
        Ok(())
    }

    /// The next offset from `offset` on that holds data, or is a hole (lseek(2), SEEK_DATA and SEEK_HOLE).
    ///
    /// # Errors
    /// ENXIO beyond the end, or when no data follows.
    pub fn seek_extent(&self, offset: u64, data: bool) -> Result<u64> {
        let size = self.size.get();
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        let pages = self.pages.borrow();
        let lower_pages = self.lower_end.get().div_ceil(PAGE_SIZE);
        let end = size.div_ceil(PAGE_SIZE);
        let mut index = offset / PAGE_SIZE;
        let mut following = pages.range(index..).peekable();
        while index < end {
            let (next, above) = match following.peek() {
                Some((at, page)) if **at == index => (index + 1, Some(page.is_some())),
                Some((at, _)) => (**at, None),
                None => (end, None),
            };
            if above.is_some() {
                following.next();
            }
            // Pages `index..next` are alike, but for the end of the lower extent.
            let holds = above.unwrap_or(index < lower_pages);
            if holds == data {
                return Ok(offset.max(index * PAGE_SIZE).min(size));
            }
            index = if above.is_none() && index < lower_pages { next.min(lower_pages) } else { next };
        }
        if data { Err(Errno::ENXIO) } else { Ok(size) }
    }

    /// The page for a mapping (see [`crate::mem::pager::Pager::page`]).
    ///
    /// # Errors
    /// ENOMEM, EIO.
    pub fn page(&self, frames: &Frames, index: u64, write: bool) -> Result<MappedPage> {
        if index >= self.size.get().div_ceil(PAGE_SIZE) {
            return Ok(MappedPage::BeyondEnd);
        }
        if !write
            && matches!(self.place(index), Place::Lower)
            && let Some((image, inode)) = &self.lower
        {
            let whole = inode.size == self.lower_end.get() || (index + 1) * PAGE_SIZE <= self.lower_end.get();
            if let Some(gpa) = image.page(inode, index).filter(|_| whole) {
                return Ok(MappedPage::Image(gpa));
            }
        }
        match self.own(frames, index) {
            Ok(frame) => Ok(MappedPage::Frame(frame)),
            Err(Errno::ENOSPC) => Err(Errno::ENOMEM),
            Err(errno) => Err(errno),
        }
    }
}

/// A shared mapping of a file that can be sealed: it counts as long as it lives.
pub struct WritableMapping(Rc<Node>);

impl WritableMapping {
    /// Map `node`, a regular file.
    #[must_use]
    pub fn of(node: &Rc<Node>) -> Rc<dyn Pager> {
        let mapping = Self(node.clone());
        mapping.count(1);
        Rc::new(mapping)
    }

    fn count(&self, change: i32) {
        if let Ok(data) = self.0.data() {
            data.writable_mappings.set(data.writable_mappings.get().saturating_add_signed(change));
        }
    }
}

impl Drop for WritableMapping {
    fn drop(&mut self) {
        self.count(-1);
    }
}

impl Pager for WritableMapping {
    fn page(&self, index: u64, write: bool) -> Result<MappedPage> {
        Pager::page(&*self.0, index, write)
    }

    fn name(&self) -> Vec<u8> {
        Pager::name(&*self.0)
    }

    fn identity(&self) -> (u64, u64) {
        Pager::identity(&*self.0)
    }

    fn len_bytes(&self) -> u64 {
        Pager::len_bytes(&*self.0)
    }
}
