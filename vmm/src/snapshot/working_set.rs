//! The working set: pages of the layers that clones use soon after they begin. They are copied before the first entry, so that a clone takes no
//! fault for them.
//!
//! **What is learnt.** What a clone has written shows in its page tables: an entry that pointed at a layer points at the frame's own place now. So the VMM learns
//! without the guest's help, by comparing the tables with the image they came from. It is a hint in every respect: a guest that lies makes its own clones slow.
//!
//! **Shadow paging.** kvm_pvm takes a fault for every page that is touched at all (28 us on the machine this was measured on), and fills in the entries around it
//! (groups of eight, PTE_PREFETCH_NUM) only while they are accessed, dirty if writable, and backed by writable memory: never those of a read-only slot. So there the
//! first clones are scouts, whose entries begin with clear A bits; what they have touched is copied with the whole group around it. What they have used besides (pages of images, of
//! the library OS) is noted, for clones that are entered ahead of time ([`touches`]).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use seuss_abi::comm::LayerWindow;
use seuss_abi::layout::{IMAGE_GPA, LAYER_GPA, PAGE_SIZE};
use seuss_abi::snapshot::WAS_WRITABLE;
use seuss_snapshotter::snapshot::WorkPage;
use seuss_snapshotter::snapshot::reader::WORKSET_MAX;

use super::touches;
use super::{Table, frame_gpa};
use crate::kernel::page_table::bits;
use crate::memory::{Gpa, Memory, Window};

/// Most pages of a working set: 12 MiB.
const PAGES_MAX: usize = 3072;
// What is learnt can be kept.
const _: () = assert!(PAGES_MAX + touches::MOST <= WORKSET_MAX);
/// Entries that a shadow-paging KVM fills in together.
const GROUP: u32 = 8;
/// Clones that scout before a snapshot's set is taken as known.
const SCOUTS: u32 = 2;

/// Find out now what needs a look at files: threads that drive guests open none.
pub(super) fn look_at_host() {
    is_shadow_paging();
}

/// Whether KVM keeps shadow page tables here.
fn is_shadow_paging() -> bool {
    static SHADOW: OnceLock<bool> = OnceLock::new();
    *SHADOW.get_or_init(|| Path::new("/sys/module/kvm_pvm").exists())
}

/// One page to copy, ready to be carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) page: WorkPage,
    /// Where its content is.
    pub(super) from: u64,
    /// The entry that maps it...
    pub(super) slot: u64,
    /// ...and what it becomes.
    pub(super) entry: u64,
}

/// The working set of one snapshot, as this process knows it.
#[derive(Debug)]
pub(super) struct WorkingSet {
    known: Mutex<Arc<Known>>,
    scouts: AtomicU32,
}

/// What is known of what clones use.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// What to copy, in the order of the frames.
    pub(super) steps: Vec<Step>,
    /// Page-table entries that were used ([`touches`]).
    used: BTreeSet<WorkPage>,
}

impl Known {
    /// Every page, for the file.
    pub(super) fn pages(&self) -> impl Iterator<Item = &WorkPage> {
        self.steps.iter().map(|step| &step.page).chain(&self.used)
    }
}

/// What page tables are compared with: the image, and the layers that it points at.
pub(super) struct Ground<'a> {
    pub(super) tables: &'a [Table],
    pub(super) layers: &'a Window,
    pub(super) list: &'a [LayerWindow],
}

/// Entry `index` of a table's bytes.
fn entry(table: &[u8; PAGE_SIZE as usize], index: u32) -> u64 {
    table.as_chunks::<8>().0.get(index as usize).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether an entry points at a page of a layer.
pub(super) fn points_at_layer(entry: u64) -> bool {
    entry & bits::PRESENT != 0 && (LAYER_GPA..IMAGE_GPA).contains(&(entry & bits::ADDRESS))
}

impl Ground<'_> {
    /// The frame whose content is the layers' page at `from`, as the layers' own index says.
    fn frame(&self, from: u64) -> Option<u32> {
        let after = self.list.partition_point(|layer| layer.gpa <= from);
        let layer = self.list.get(after.checked_sub(1)?)?;
        let number = (from - layer.gpa) / PAGE_SIZE;
        if number >= layer.pages {
            return None;
        }
        self.layers.load(Gpa(layer.gpa + layer.pages * PAGE_SIZE + number * 4))
    }

    /// What to do for the entry `index` of the table in frame `table`, if it points at a layer.
    fn step(&self, table: u32, index: u32) -> Option<Step> {
        let at = self.tables.binary_search_by_key(&table, |(frame, _)| *frame).ok()?;
        let old = entry(&self.tables[at].1, index);
        if !points_at_layer(old) {
            return None;
        }
        let from = old & bits::ADDRESS;
        let pfn = self.frame(from)?;
        let kept = old & !(bits::ADDRESS | WAS_WRITABLE);
        // Accessed, and dirty where it is writable: see above. A page that others map, too, stays read-only; its content is that of the layer.
        let rights = if old & WAS_WRITABLE == 0 { 0 } else { bits::WRITE | bits::DIRTY };
        Some(Step {
            page: WorkPage { pfn, table, index },
            from,
            slot: frame_gpa(table) + u64::from(index) * 8,
            entry: kept | bits::ACCESSED | rights | frame_gpa(pfn),
        })
    }
}

impl WorkingSet {
    /// The set that the snapshot's directory holds; what does not fit the page tables is left out.
    pub(super) fn new(ground: &Ground<'_>, pages: &[WorkPage]) -> Self {
        let mut seen = BTreeSet::new();
        let copied = pages.iter().filter(|page| !page.is_only_used());
        let steps = copied.filter_map(|page| ground.step(page.table, page.index));
        let mut steps: Vec<_> = steps.filter(|step| seen.insert(step.slot)).take(PAGES_MAX).collect();
        steps.sort_by_key(|step| step.page.pfn);
        let used = pages.iter().copied().filter(|page| page.is_only_used()).take(touches::MOST).collect();
        let scouts = if steps.is_empty() { SCOUTS } else { 0 };
        Self { known: Mutex::new(Arc::new(Known { steps, used })), scouts: AtomicU32::new(scouts) }
    }

    /// What is known.
    pub(super) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether clones have told all that they are asked for.
    pub(super) fn is_learnt(&self) -> bool {
        !is_shadow_paging() || self.known().pages().next().is_some()
    }

    /// Whether the next clone is to scout.
    pub(super) fn wants_scout(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        is_shadow_paging() && self.scouts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// A clone that was to scout was never started: the next one is to.
    pub(super) fn no_scout(&self) {
        self.scouts.fetch_add(1, Ordering::Relaxed);
    }

    /// Add what the clone in `memory` has used; `scouted` are the page tables that a scout runs on. Returns the whole set if there was anything new.
    pub(super) fn learn(
        &self,
        ground: &Ground<'_>,
        memory: &Memory,
        scouted: Option<Gpa>,
    ) -> Option<Vec<WorkPage>> {
        let known = self.known();
        let scout = scouted.is_some();
        let mut seen: BTreeSet<u64> = known.steps.iter().map(|step| step.slot).collect();
        let Known { mut steps, used } = (*known).clone();
        let private = memory.private();
        let mut take = |table: u32, index: u32| {
            let step = ground.step(table, index).filter(|step| seen.insert(step.slot));
            steps.extend(step.filter(|_| steps.len() < PAGES_MAX));
        };
        for (frame, image) in ground.tables {
            let Some(now) = private.load::<[u64; 512]>(Gpa(frame_gpa(*frame))) else { continue };
            for (index, now) in (0..).zip(now) {
                let old = entry(image, index);
                if now & bits::PRESENT == 0 || !points_at_layer(old) {
                    continue;
                }
                let came_home = ground.frame(old & bits::ADDRESS).map(frame_gpa) == Some(now & bits::ADDRESS);
                let touched = scout && now & bits::ACCESSED != 0;
                if !came_home && !touched {
                    continue;
                }
                if scout {
                    let first = index / GROUP * GROUP;
                    (first..first + GROUP).for_each(|index| take(*frame, index));
                } else {
                    take(*frame, index);
                }
            }
        }
        let scanned = scouted.map(|root| touches::scan(private, root)).unwrap_or_default();
        let mut used = used;
        scanned.into_iter().for_each(|page| {
            if used.len() < touches::MOST {
                used.insert(page);
            }
        });
        if steps.len() == known.steps.len() && used.len() == known.used.len() {
            return None;
        }
        steps.sort_by_key(|step| step.page.pfn);
        let known = Known { steps, used };
        let pages = known.pages().copied().collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        Some(pages)
    }
}
