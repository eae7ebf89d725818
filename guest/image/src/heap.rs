//! The library OS's heap: talc over frames of the private window, through the direct map. It grows and never shrinks.

use core::alloc::Layout;
use core::cell::{Cell, RefCell};
use seuss_abi::layout::PAGE_SIZE;
use seuss_kernel::mem::frames::Frames;
use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::{DefaultBinning, TalcCell};

/// Least bytes that the heap grows by.
const GROWTH_BYTES: usize = 256 << 10;

/// Where the heap gets memory from: a region named at boot, then frames.
struct Supply {
    first: Cell<(u64, usize)>,
    frames: RefCell<Option<Frames>>,
}

// SAFETY: one vCPU, and the library OS is not preempted.
unsafe impl Sync for Supply {}

static SUPPLY: Supply = Supply { first: Cell::new((0, 0)), frames: RefCell::new(None) };

#[derive(Debug)]
struct FrameSource;

// SAFETY: `acquire` does not allocate: claiming frames only flips bits.
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
}

#[global_allocator]
// SAFETY: one vCPU, and the library OS is not preempted.
static HEAP: TalcSyncCell<FrameSource, DefaultBinning> =
    unsafe { TalcSyncCell::new(TalcCell::new(FrameSource)) };

/// Start the heap in a region.
///
/// # Safety
/// The region must be mapped, writable, and used by nobody else.
pub(crate) unsafe fn start(base: u64, bytes: usize) {
    SUPPLY.first.set((base, bytes));
}

/// Let the heap grow from `frames`.
pub(crate) fn grow_from(frames: &Frames) {
    *SUPPLY.frames.borrow_mut() = Some(frames.clone());
}
