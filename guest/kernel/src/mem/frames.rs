//! Physical frames of the private window: allocation, reference counts, and the bytes behind an address.
//!
//! Unsafe because frames are raw memory: the window is mapped at a fixed distance (the direct map; an mmap in tests), and the allocator hands out
//! each frame once. Frames are shared by reference count (page tables of forked processes, page cache), and a frame's bytes are reached
//! only through the copying accessors here, never through a Rust reference that outlives the call.
//!
//! **Snapshots.** In a restored guest a frame that is in use need not have its content at its own address: until the first write it lies in a
//! page of a layer. The frame keeps its number, its references and its place in the private window ([`Frames::home`]), so that nothing that counts
//! frames changes; only page-table entries of applications point at the layer. Each layer carries an index from its pages back to frames.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::comm::LayerWindow;
use seuss_abi::layout::{LARGE_PAGE_SIZE, PAGE_SIZE};

/// Frames in a large page.
const GROUP: usize = (LARGE_PAGE_SIZE / PAGE_SIZE) as usize;
const WORDS: usize = GROUP / 64;

/// The free frames of a large page, a bit each.
type GroupBits = [u64; WORDS];

/// Guest-physical address.
pub type Gpa = u64;

/// The memory map of a guest: where guest-physical addresses lie, and which frames of the private window are free.
/// Cloning shares it.
#[derive(Clone)]
pub struct Frames(Rc<Inner>);

struct Inner {
    /// `direct + gpa` is where the library OS sees `gpa`.
    direct: u64,
    base: Gpa,
    /// Reference count of each frame; 0 = free.
    counts: RefCell<Vec<u32>>,
    /// One bit per frame, 1 = free, a group of words per large page.
    free: RefCell<Vec<GroupBits>>,
    /// Where the last search for a single frame ended.
    hint: Cell<usize>,
    /// Groups that were in use when this clone began; applications get frames of others first ([`Frames::settle`]).
    settled: RefCell<Vec<bool>>,
    /// The group that the library OS takes its frames from.
    kernel_group: Cell<usize>,
    free_count: Cell<usize>,
    /// Frames that only the library OS itself may take.
    reserve: Cell<usize>,
    /// Layers of the snapshot that this guest was restored from, in order of address.
    layers: RefCell<Vec<LayerWindow>>,
    total: usize,
}

fn is_whole(words: &GroupBits) -> bool {
    words.iter().all(|word| *word == u64::MAX)
}

/// Take the first free frame of a group; returns its number in it.
fn take_first(words: &mut GroupBits) -> Option<usize> {
    let word = words.iter().position(|word| *word != 0)?;
    let bit = words[word].trailing_zeros() as usize;
    words[word] &= !(1 << bit);
    Some(word * 64 + bit)
}

/// A reference to one frame of the private window; dropping the last one frees it.
pub struct Frame {
    gpa: Gpa,
    frames: Frames,
}

impl Frames {
    /// Manage `base..base+bytes`, of which the first `reserved_bytes` are taken. `direct` is the distance from guest-physical to
    /// virtual addresses.
    ///
    /// # Safety
    /// `direct + base ..` must be mapped, writable memory of `bytes` bytes that nothing else uses beyond the reserved part; image windows reached
    /// through [`Self::read`] must be mapped likewise.
    #[must_use]
    pub unsafe fn new(direct: u64, base: Gpa, bytes: u64, reserved_bytes: u64) -> Self {
        let total = (bytes / PAGE_SIZE) as usize;
        let reserved = ((reserved_bytes.div_ceil(PAGE_SIZE)) as usize).min(total);
        let mut free = vec![[0u64; WORDS]; total.div_ceil(GROUP)];
        for index in reserved..total {
            free[index / GROUP][index % GROUP / 64] |= 1 << (index % 64);
        }
        let mut counts = vec![0u32; total];
        counts[..reserved].fill(1);
        Self(Rc::new(Inner {
            direct,
            base,
            counts: RefCell::new(counts),
            free: RefCell::new(free),
            hint: Cell::new(reserved / GROUP),
            settled: RefCell::default(),
            kernel_group: Cell::new(reserved / GROUP),
            free_count: Cell::new(total - reserved),
            reserve: Cell::new(0),
            layers: RefCell::default(),
            total,
        }))
    }

    /// Frames that are free, in pages, without the library OS's reserve.
    #[must_use]
    pub fn available(&self) -> usize {
        self.0.free_count.get().saturating_sub(self.0.reserve.get())
    }

    /// Frames that are free, in pages, with the library OS's reserve.
    #[must_use]
    pub fn free(&self) -> usize {
        self.0.free_count.get()
    }

    /// Frames that are kept for the library OS, in pages.
    #[must_use]
    pub fn reserve(&self) -> usize {
        self.0.reserve.get()
    }

    /// All frames of the window, in pages.
    #[must_use]
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// Keep `pages` frames for the library OS: [`Self::allocate`] fails before it touches them, [`Self::allocate_kernel`] does not.
    pub fn set_reserve(&self, pages: usize) {
        self.0.reserve.set(pages);
    }

    /// A zeroed frame for an application, or `None` when memory is used up.
    #[must_use]
    pub fn allocate(&self) -> Option<Frame> {
        let frame = self.allocate_uninit()?;
        frame.zero();
        Some(frame)
    }

    /// As [`Self::allocate`], for a frame that is wholly overwritten at once: its bytes are old.
    #[must_use]
    pub fn allocate_uninit(&self) -> Option<Frame> {
        if self.available() == 0 {
            return None;
        }
        self.take_one()
    }

    /// A zeroed frame for the library OS, which may use the reserve.
    #[must_use]
    pub fn allocate_kernel(&self) -> Option<Frame> {
        let frame = self.take_for_kernel()?;
        frame.zero();
        Some(frame)
    }

    /// Frames of the library OS, page tables above all, keep to few large pages: a shadow-paging KVM maps no large page that holds a page table, so
    /// that elsewhere one fault gives the direct map 2 MiB.
    fn take_for_kernel(&self) -> Option<Frame> {
        let inner = &*self.0;
        let mut free = inner.free.borrow_mut();
        let is_free = |words: &GroupBits| words.iter().any(|word| *word != 0);
        let group = Some(inner.kernel_group.get())
            .filter(|group| free.get(*group).is_some_and(is_free))
            .or_else(|| free.iter().position(is_whole))
            .or_else(|| free.iter().position(is_free))?;
        inner.kernel_group.set(group);
        let frame = take_first(&mut free[group])?;
        drop(free);
        Some(self.claim(group * GROUP + frame))
    }

    fn take_one(&self) -> Option<Frame> {
        let inner = &*self.0;
        let mut free = inner.free.borrow_mut();
        let groups = free.len();
        let start = inner.hint.get();
        let kernel_group = inner.kernel_group.get();
        let settled = inner.settled.borrow();
        // First a group that is broken already, so that whole large pages stay whole; the library OS's own one last.
        for (whole_too, settled_too, kernel_too) in
            [(false, false, false), (true, false, false), (true, true, false), (true, true, true)]
        {
            for step in 0..groups {
                let group = (start + step) % groups;
                let words = &mut free[group];
                if (!whole_too && is_whole(words))
                    || (!settled_too && settled.get(group) == Some(&true))
                    || (!kernel_too && group == kernel_group)
                {
                    continue;
                }
                if let Some(frame) = take_first(words) {
                    inner.hint.set(group);
                    drop(free);
                    return Some(self.claim(group * GROUP + frame));
                }
            }
        }
        None
    }

    fn claim(&self, index: usize) -> Frame {
        self.0.counts.borrow_mut()[index] = 1;
        self.0.free_count.set(self.0.free_count.get() - 1);
        Frame { gpa: self.0.base + index as u64 * PAGE_SIZE, frames: self.clone() }
    }

    /// `count` physically contiguous frames with unspecified bytes, aligned to a large page if `count` is at least [`GROUP`]; for large mappings.
    /// They are returned one by one.
    #[must_use]
    pub fn allocate_run(&self, count: usize) -> Option<Vec<Frame>> {
        let first = self.claim_run(count, self.available())?;
        Some((0..count as u64).map(|at| self.adopt(first + at * PAGE_SIZE)).collect())
    }

    /// As [`Self::allocate_run`], for the library OS's heap: from the reserve if need be, without touching the heap.
    #[must_use]
    pub fn claim_for_heap(&self, count: usize) -> Option<Gpa> {
        self.claim_run(count, self.0.free_count.get())
    }

    /// Give back `count` frames of the heap, from the one that the library OS sees at `address` on; without touching the heap.
    pub fn release_from_heap(&self, address: u64, count: u64) {
        let first = address.wrapping_sub(self.0.direct);
        (0..count).for_each(|at| self.release(first + at * PAGE_SIZE));
    }

    fn claim_run(&self, count: usize, budget: usize) -> Option<Gpa> {
        if count == 0 || budget < count {
            return None;
        }
        let first = if count >= GROUP { self.find_groups(count)? } else { self.find_in_group(count)? };
        let mut free = self.0.free.borrow_mut();
        let mut counts = self.0.counts.borrow_mut();
        for index in first..first + count {
            free[index / GROUP][index % GROUP / 64] &= !(1 << (index % 64));
            counts[index] = 1;
        }
        self.0.free_count.set(self.0.free_count.get() - count);
        Some(self.0.base + first as u64 * PAGE_SIZE)
    }

    fn find_groups(&self, count: usize) -> Option<usize> {
        let free = self.0.free.borrow();
        let needed = count.div_ceil(GROUP);
        let mut run = 0;
        for (group, words) in free.iter().enumerate() {
            run = if words.iter().all(|word| *word == u64::MAX) { run + 1 } else { 0 };
            if run == needed {
                return Some((group + 1 - needed) * GROUP);
            }
        }
        None
    }

    fn find_in_group(&self, count: usize) -> Option<usize> {
        let free = self.0.free.borrow();
        for (group, words) in free.iter().enumerate() {
            let mut run = 0;
            for bit in 0..GROUP {
                run = if words[bit / 64] >> (bit % 64) & 1 == 1 { run + 1 } else { 0 };
                if run == count {
                    return Some(group * GROUP + bit + 1 - count);
                }
            }
        }
        None
    }

    /// The number of the frame whose content is at `gpa`.
    ///
    /// # Panics
    /// If there is none: a page-table entry was taken for one that owns a frame.
    fn index(&self, gpa: Gpa) -> usize {
        let home = self.home(gpa).expect("an address of a frame");
        ((home - self.0.base) / PAGE_SIZE) as usize
    }

    /// Whether `gpa` is where the content of some frame lies: in the private window or in a layer.
    #[must_use]
    pub fn owns(&self, gpa: Gpa) -> bool {
        self.home(gpa).is_some()
    }

    /// Whether `gpa` lies in the private window.
    #[must_use]
    pub fn is_private(&self, gpa: Gpa) -> bool {
        gpa >= self.0.base && gpa < self.0.base + self.0.total as u64 * PAGE_SIZE
    }

    /// The own address of the frame whose content lies at `gpa`; `None` in windows without frames.
    #[must_use]
    pub fn home(&self, gpa: Gpa) -> Option<Gpa> {
        let page = gpa & !(PAGE_SIZE - 1);
        if self.is_private(page) {
            return Some(page);
        }
        let layers = self.0.layers.borrow();
        let after = layers.partition_point(|layer| layer.gpa <= page);
        let layer = layers.get(after.checked_sub(1)?)?;
        let number = (page - layer.gpa) / PAGE_SIZE;
        if number >= layer.pages {
            return None;
        }
        let mut index = [0; 4];
        self.read(layer.gpa + layer.pages * PAGE_SIZE + number * 4, &mut index);
        let home = self.0.base + u64::from(u32::from_le_bytes(index)) * PAGE_SIZE;
        self.is_private(home).then_some(home)
    }

    /// Give the frame whose content lies in a layer at `gpa` its content in its own place: the first write to it follows. Returns that place.
    ///
    /// # Panics
    /// If no frame's content lies there.
    #[must_use]
    pub fn bring_home(&self, gpa: Gpa) -> Gpa {
        let page = gpa & !(PAGE_SIZE - 1);
        let home = self.home(page).expect("an address of a frame");
        if home != page {
            self.copy_page(page, home);
        }
        home
    }

    /// This is a clone that will use much memory of its own: applications get frames from large pages that are whole now. Page tables lie all over those that are
    /// not, and there a shadow-paging KVM maps the direct map by small pages, one fault each.
    pub fn settle(&self) {
        let broken: Vec<bool> = self.0.free.borrow().iter().map(|words| !is_whole(words)).collect();
        *self.0.settled.borrow_mut() = broken;
    }

    /// The layers that hold what frames do not: told at a restore, in order of address.
    pub fn set_layers(&self, layers: &[LayerWindow]) {
        *self.0.layers.borrow_mut() = layers.to_vec();
    }

    /// Start of the private window.
    #[must_use]
    pub fn base(&self) -> Gpa {
        self.0.base
    }

    /// References to the frame number `pfn` of the window, 0 if it is free.
    #[must_use]
    pub fn references(&self, pfn: usize) -> u32 {
        self.0.counts.borrow().get(pfn).copied().unwrap_or(0)
    }

    /// The number of the frame at `gpa` in the private window.
    #[must_use]
    pub fn pfn(&self, gpa: Gpa) -> Option<u64> {
        self.is_private(gpa).then(|| (gpa - self.0.base) / PAGE_SIZE)
    }

    /// Another reference to a frame that is in use, given by where its content lies.
    ///
    /// # Panics
    /// If the frame is free: the reference count is broken.
    #[must_use]
    pub fn share(&self, gpa: Gpa) -> Frame {
        let index = self.index(gpa);
        let mut counts = self.0.counts.borrow_mut();
        let count = &mut counts[index];
        assert!(*count > 0, "frame {gpa:#x} is free");
        *count += 1;
        Frame { gpa: self.home(gpa).unwrap_or(gpa & !(PAGE_SIZE - 1)), frames: self.clone() }
    }

    /// Take over a reference that [`Frame::into_gpa`] gave away.
    #[must_use]
    pub fn adopt(&self, gpa: Gpa) -> Frame {
        debug_assert!(self.reference_count(gpa) > 0);
        Frame { gpa: self.home(gpa).unwrap_or(gpa & !(PAGE_SIZE - 1)), frames: self.clone() }
    }

    /// How many references a frame has.
    #[must_use]
    pub fn reference_count(&self, gpa: Gpa) -> u32 {
        self.0.counts.borrow()[self.index(gpa)]
    }

    fn release(&self, gpa: Gpa) {
        let index = self.index(gpa);
        let mut counts = self.0.counts.borrow_mut();
        counts[index] -= 1;
        if counts[index] == 0 {
            self.0.free.borrow_mut()[index / GROUP][index % GROUP / 64] |= 1 << (index % 64);
            self.0.free_count.set(self.0.free_count.get() + 1);
        }
    }

    /// Where the library OS sees guest-physical `gpa`.
    #[must_use]
    pub fn pointer(&self, gpa: Gpa) -> *mut u8 {
        (self.0.direct.wrapping_add(gpa)) as *mut u8
    }

    /// Copy out of guest-physical memory (private window, image windows).
    pub fn read(&self, gpa: Gpa, bytes: &mut [u8]) {
        // SAFETY: `new`'s caller maps the windows; callers pass addresses of frames that they hold or of an image window.
        unsafe { core::ptr::copy_nonoverlapping(self.pointer(gpa), bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copy into guest-physical memory (private window).
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) {
        // SAFETY: as for `read`; the frame is not borrowed by anyone, since no references to frames exist.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer(gpa), bytes.len()) }
    }

    /// Fill with zeros.
    pub fn fill_zero(&self, gpa: Gpa, len: usize) {
        // SAFETY: as for `write`.
        unsafe { core::ptr::write_bytes(self.pointer(gpa), 0, len) }
    }

    /// Copy a whole page; the source may lie in any window.
    pub fn copy_page(&self, from: Gpa, to: Gpa) {
        // SAFETY: as for `read` and `write`; a frame is never its own copy.
        unsafe { core::ptr::copy_nonoverlapping(self.pointer(from), self.pointer(to), PAGE_SIZE as usize) }
    }

    /// Read an aligned 64-bit word: a page-table entry.
    #[must_use]
    pub fn load(&self, gpa: Gpa) -> u64 {
        // SAFETY: as for `read`; volatile, because the MMU sets accessed and dirty bits.
        unsafe { self.pointer(gpa).cast::<u64>().read_volatile() }
    }

    /// Write an aligned 64-bit word: a page-table entry.
    pub fn store(&self, gpa: Gpa, value: u64) {
        // SAFETY: as for `write`; volatile, because the MMU reads it.
        unsafe { self.pointer(gpa).cast::<u64>().write_volatile(value) }
    }
}

impl Frame {
    /// Guest-physical address of the frame: where its content lies, unless it is known only by an entry that points into a layer.
    #[must_use]
    pub fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// Give the reference to something that keeps the bare address (a page-table entry); [`Frames::adopt`] takes it back.
    #[must_use]
    pub fn into_gpa(self) -> Gpa {
        let gpa = self.gpa;
        // Release the allocator handle, but not the frame.
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so the handle is read out exactly once.
        drop(unsafe { core::ptr::read(&raw const this.frames) });
        gpa
    }

    /// Whether this is the only reference.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.frames.reference_count(self.gpa) == 1
    }

    /// Fill with zeros.
    pub fn zero(&self) {
        self.frames.fill_zero(self.gpa, PAGE_SIZE as usize);
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        self.frames.share(self.gpa)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.frames.release(self.gpa);
    }
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Frame({:#x})", self.gpa)
    }
}

impl core::fmt::Debug for Frames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Frames({} of {} free)", self.0.free_count.get(), self.0.total)
    }
}

/// Stand-in windows for host tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use seuss_abi::layout::PRIVATE_GPA;

    /// Frames of `pages` pages on leaked heap memory, the first `reserved` taken.
    pub(crate) fn frames(pages: usize, reserved: usize) -> Frames {
        frames_and_layers(pages, reserved, 0)
    }

    /// The same, with room for `layer_pages` pages of layers right behind the private window.
    pub(crate) fn frames_and_layers(pages: usize, reserved: usize, layer_pages: usize) -> Frames {
        let bytes = (pages + layer_pages) * PAGE_SIZE as usize;
        let layout = core::alloc::Layout::from_size_align(bytes, LARGE_PAGE_SIZE as usize).unwrap();
        // SAFETY: the layout is not empty.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let direct = (memory as u64).wrapping_sub(PRIVATE_GPA);
        // SAFETY: fresh memory of that size that nobody else uses.
        unsafe { Frames::new(direct, PRIVATE_GPA, (pages as u64) * PAGE_SIZE, (reserved as u64) * PAGE_SIZE) }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::frames;
    use super::*;

    #[test]
    fn frames_are_zeroed_counted_and_freed() {
        let frames = frames(1024, 3);
        assert_eq!(frames.available(), 1021);
        let frame = frames.allocate().unwrap();
        frames.write(frame.gpa(), b"x");
        let other = frame.clone();
        assert!(!frame.is_unique());
        drop(frame);
        assert!(other.is_unique());
        let gpa = other.into_gpa();
        assert_eq!(frames.available(), 1020);
        drop(frames.adopt(gpa));
        assert_eq!(frames.available(), 1021);
        let again = frames.allocate().unwrap();
        let mut byte = [1];
        frames.read(again.gpa(), &mut byte);
        assert_eq!(byte, [0]);
    }

    #[test]
    fn the_reserve_is_for_the_kernel() {
        let frames = frames(512, 0);
        frames.set_reserve(500);
        let held: Vec<_> = core::iter::from_fn(|| frames.allocate()).collect();
        assert_eq!(held.len(), 12);
        assert!(frames.allocate_kernel().is_some());
    }

    #[test]
    fn the_heap_takes_from_the_reserve_and_gives_back() {
        let frames = frames(512, 0);
        frames.set_reserve(256);
        let gpa = frames.claim_for_heap(400).unwrap();
        assert_eq!((frames.available(), frames.free()), (0, 112));
        assert!(frames.allocate().is_none());
        frames.release_from_heap(frames.pointer(gpa + 4096) as u64, 399);
        assert_eq!((frames.available(), frames.free()), (255, 511));
    }

    #[test]
    fn runs_are_contiguous_and_large_ones_aligned() {
        let frames = frames(2048, 5);
        let small = frames.allocate_run(7).unwrap();
        assert!(small.windows(2).all(|pair| pair[1].gpa() == pair[0].gpa() + PAGE_SIZE));
        let large = frames.allocate_run(512).unwrap();
        assert_eq!(large[0].gpa() % LARGE_PAGE_SIZE, 0);
        assert!(frames.allocate_run(1024).is_some());
        assert!(frames.allocate_run(1536).is_none());
        drop((small, large));
        assert_eq!(frames.available(), 2043);
    }

    #[test]
    fn single_frames_spare_whole_groups() {
        let frames = frames(1536, 1);
        let held: Vec<_> = (0..511).map(|_| frames.allocate().unwrap()).collect();
        assert!(frames.allocate_run(512).is_some());
        drop(held);
    }

    #[test]
    fn the_library_os_keeps_to_its_own_group_while_it_can() {
        let frames = frames(1024, 1);
        let tables: Vec<_> = (0..100).map(|_| frames.allocate_kernel().unwrap()).collect();
        let pages: Vec<_> = (0..512).map(|_| frames.allocate().unwrap()).collect();
        let group = |frame: &Frame| frame.gpa() / LARGE_PAGE_SIZE;
        assert!(tables.iter().all(|frame| group(frame) == group(&tables[0])));
        assert!(pages.iter().all(|frame| group(frame) != group(&tables[0])));
        // Then they share what is left, to the last frame.
        let rest: Vec<_> = core::iter::from_fn(|| frames.allocate()).collect();
        assert_eq!((rest.len(), frames.allocate_kernel().is_some()), (1023 - 612, false));
    }
}
