//! The working set: pages of the layers that clones write soon after they begin. They are copied before the first entry, so that a clone takes no
//! fault for them.
//!
//! What a clone has written shows in its page tables: an entry that pointed at a layer points at the frame's own place now. So the VMM learns without
//! the guest's help, by comparing the tables with the image they came from. It is a hint in every respect: a guest that lies makes its own clones slow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use seuss_abi::comm::LayerWindow;
use seuss_abi::layout::{LAYER_GPA, PAGE_SIZE, PRIVATE_GPA};
use seuss_abi::snapshot::WAS_WRITABLE;
use seuss_snapshotter::snapshot::{WorkPage, reader::WORKSET_MAX};

use super::{Table, frame_gpa};
use crate::kernel::page_table::bits;
use crate::memory::{Gpa, Memory, Window};

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
pub(super) struct WorkingSet(Mutex<Arc<Vec<Step>>>);

/// Entry `index` of a table's bytes.
fn entry(table: &[u8; PAGE_SIZE as usize], index: u32) -> u64 {
    table.as_chunks::<8>().0.get(index as usize).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Whether an entry points at a layer's page that its frame may leave by a write through this entry alone.
fn comes_home(entry: u64) -> bool {
    entry & bits::PRESENT != 0 && entry & WAS_WRITABLE != 0 && entry & bits::ADDRESS >= LAYER_GPA
}

fn step(tables: &[Table], layers: &Window, page: WorkPage) -> Option<Step> {
    let at = tables.binary_search_by_key(&page.table, |(frame, _)| *frame).ok()?;
    let old = entry(&tables[at].1, page.index);
    let from = old & bits::ADDRESS;
    if !comes_home(old) || !layers.contains(Gpa(from), PAGE_SIZE) {
        return None;
    }
    let kept = old & !(bits::ADDRESS | WAS_WRITABLE);
    Some(Step {
        page,
        from,
        slot: frame_gpa(page.table) + u64::from(page.index) * 8,
        entry: kept | bits::WRITE | bits::ACCESSED | frame_gpa(page.pfn),
    })
}

impl WorkingSet {
    /// The set that the snapshot's directory holds; what does not fit the page tables is left out.
    pub(super) fn new(tables: &[Table], layers: &Window, pages: Vec<WorkPage>) -> Self {
        let mut seen = BTreeSet::new();
        let steps = pages.into_iter().filter_map(|page| step(tables, layers, page));
        let mut steps: Vec<_> = steps.filter(|step| seen.insert(step.page.pfn)).collect();
        steps.sort_by_key(|step| step.from);
        Self(Mutex::new(Arc::new(steps)))
    }

    /// What to copy, in the order of the layers.
    pub(super) fn steps(&self) -> Arc<Vec<Step>> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Add what the clone in `memory` has written. Returns the whole set if there was anything new.
    pub(super) fn learn(
        &self,
        tables: &[Table],
        memory: &Memory,
        layers: &Window,
        list: &[LayerWindow],
    ) -> Option<Vec<WorkPage>> {
        let known = self.steps();
        let mut seen: BTreeSet<u32> = known.iter().map(|step| step.page.pfn).collect();
        let mut steps = (*known).clone();
        let private = memory.private();
        let frames = private.len_bytes() / PAGE_SIZE;
        for (frame, image) in tables {
            let Some(now) = private.load::<[u64; 512]>(Gpa(frame_gpa(*frame))) else { continue };
            for (index, now) in (0..).zip(now) {
                if !comes_home(entry(image, index)) || steps.len() >= WORKSET_MAX {
                    continue;
                }
                let place = (now & bits::ADDRESS).checked_sub(PRIVATE_GPA).map(|offset| offset / PAGE_SIZE);
                let Some(pfn) = place.filter(|pfn| *pfn < frames) else { continue };
                if now & (bits::PRESENT | bits::WRITE) != bits::PRESENT | bits::WRITE {
                    continue;
                }
                let page = WorkPage { pfn: pfn as u32, table: *frame, index };
                // Only the frame whose content the layer holds: another one is a mapping that was made anew.
                let step =
                    step(tables, layers, page).filter(|step| home(layers, list, step.from) == Some(page.pfn));
                if let Some(step) = step
                    && seen.insert(page.pfn)
                {
                    steps.push(step);
                }
            }
        }
        if steps.len() == known.len() {
            return None;
        }
        steps.sort_by_key(|step| step.from);
        let pages = steps.iter().map(|step| step.page).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(steps);
        Some(pages)
    }
}

/// The frame whose content is the layers' page at `from`, as the layers' own index says.
fn home(layers: &Window, list: &[LayerWindow], from: u64) -> Option<u32> {
    let after = list.partition_point(|layer| layer.gpa <= from);
    let layer = list.get(after.checked_sub(1)?)?;
    let number = (from - layer.gpa) / PAGE_SIZE;
    layers.load(Gpa(layer.gpa + layer.pages * PAGE_SIZE + number * 4))
}
