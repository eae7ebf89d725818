//! The library OS's heap: talc over frames of the private window, through the direct map. It grows by frames, and gives them back when a piece
//! of it is free and enough is left.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, RefCell};
use seuss_abi::layout::PAGE_SIZE;
use seuss_kernel::mem::frames::Frames;
use talc::TalcCell;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::source::Source;

/// Least bytes that the heap grows by.
const GROWTH_BYTES: usize = 256 << 10;

/// Free bytes that the heap keeps: what is given back at once and needed again soon costs more than it is worth.
const KEPT_BYTES: usize = 2 * GROWTH_BYTES;
/// Fewest bytes at the end of a piece of the heap that are worth giving back.
const TAIL_BYTES: usize = GROWTH_BYTES / 2;

/// Where the heap gets memory from: a region named at boot, then frames.
struct Supply {
    first: Cell<(u64, usize)>,
    frames: RefCell<Option<Frames>>,
    /// Where the region named at boot ends: it is no frames.
    first_end: Cell<u64>,
    /// Free bytes of the heap before the call of talc under way.
    free_bytes: Cell<usize>,
}

// SAFETY: one vCPU, and the library OS is not preempted.
unsafe impl Sync for Supply {}

static SUPPLY: Supply = Supply {
    first: Cell::new((0, 0)),
    frames: RefCell::new(None),
    first_end: Cell::new(0),
    free_bytes: Cell::new(0),
};

#[derive(Debug)]
struct FrameSource;

// SAFETY: neither function allocates: claiming and releasing frames only flips bits. `resize` never lets a heap grow.
unsafe impl Source for FrameSource {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let (mut base, mut size) = SUPPLY.first.take();
        if size == 0 {
            let needed = layout.size().checked_add(layout.align()).ok_or(())?.checked_add(4096).ok_or(())?;
            let pages = needed.max(GROWTH_BYTES).div_ceil(PAGE_SIZE as usize);
            let frames = SUPPLY.frames.borrow();
            let frames = frames.as_ref().ok_or(())?;
            let small = needed.div_ceil(PAGE_SIZE as usize);
            let (gpa, pages) = match frames.claim_for_heap(pages) {
                Some(gpa) => (gpa, pages),
                None => (frames.claim_for_heap(small).ok_or(())?, small),
            };
            (base, size) = (frames.pointer(gpa) as u64, pages * PAGE_SIZE as usize);
        }
        // SAFETY: the memory is mapped, writable and nobody else's: the boot region by contract, frames by the allocator.
        unsafe { talc.claim(base as *mut u8, size) }.map(|_| ()).ok_or(())
    }

    const TRACK_HEAP_END: bool = true;

    /// Pieces begin and end at pages; a piece that is deleted holds a tag of talc's below `chunk_base`.
    unsafe fn resize(&mut self, chunk_base: *mut u8, heap_end: *mut u8, is_heap_base: bool) -> *mut u8 {
        let (base, end) = (chunk_base as u64, heap_end as u64);
        let tail = (end - base) as usize;
        if (tail < TAIL_BYTES && !is_heap_base) || SUPPLY.free_bytes.get() < KEPT_BYTES {
            return heap_end;
        }
        let frames = SUPPLY.frames.borrow();
        let Some(frames) = frames.as_ref().filter(|_| end > SUPPLY.first_end.get()) else { return heap_end };
        let first =
            if is_heap_base { (base - 1) & !(PAGE_SIZE - 1) } else { base.next_multiple_of(PAGE_SIZE) };
        frames.release_from_heap(first, (end - first) / PAGE_SIZE);
        if is_heap_base { chunk_base } else { chunk_base.wrapping_add((first - base) as usize) }
    }
}

struct Heap(TalcCell<FrameSource>);

impl Heap {
    /// To be called before anything that may free memory.
    fn note_free_bytes(&self) {
        SUPPLY.free_bytes.set(self.0.counters().available_bytes);
    }
}

// SAFETY: one vCPU, and the library OS is not preempted.
unsafe impl Sync for Heap {}

// SAFETY: all of it is talc's.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are talc's conditions.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.note_free_bytes();
        // SAFETY: as above.
        unsafe { self.0.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        self.note_free_bytes();
        // SAFETY: as above.
        unsafe { self.0.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static HEAP: Heap = Heap(TalcCell::new(FrameSource));

/// Bytes that the heap has and nothing uses.
pub(crate) fn free_bytes() -> usize {
    HEAP.0.counters().available_bytes
}

/// Start the heap in a region.
///
/// # Safety
/// The region must be mapped, writable, and used by nobody else.
pub(crate) unsafe fn start(base: u64, bytes: usize) {
    SUPPLY.first.set((base, bytes));
    SUPPLY.first_end.set(base + bytes as u64);
}

/// Let the heap grow from `frames`.
pub(crate) fn grow_from(frames: &Frames) {
    *SUPPLY.frames.borrow_mut() = Some(frames.clone());
}
