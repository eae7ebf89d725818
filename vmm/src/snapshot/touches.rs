//! What clones use of their address spaces, as page-table entries, and the way back from entries to addresses.
//!
//! A clone that is entered ahead of time reads one byte of each page that earlier clones have used: where KVM pages by shadow tables, the first use of each page is a fault that
//! costs an exit, and so it has been taken before the clone is wanted. What is used is learnt from a scout's accessed bits and kept as pairs (page table, index), since frames keep
//! their numbers: the addresses follow from the tables of the clone at hand, so that a list that is old or damaged names nothing that is not mapped.

use std::collections::{BTreeMap, BTreeSet};

use seuss_abi::comm::{
    CONTROL_OFFSET, EVENTS_OFFSET, MAILBOX_OFFSET, SLOT_OFFSET, SUBMISSIONS_OFFSET, Touch,
};
use seuss_abi::layout::{
    COMM_GPA, DIRECT_BASE, DIRECT_PML4_INDEX, KERNEL_PML4_INDEX, PAGE_SIZE, PRIVATE_GPA,
};
use seuss_snapshotter::snapshot::{Placed, WorkPage};

use super::frame_gpa;
use crate::kernel::page_table::bits;
use crate::memory::{Gpa, Memory, Window};

/// Most entries that are learnt of one snapshot.
pub(super) const MOST: usize = 8192;
/// Most page tables that are looked through for what a scout has used, and most entries on the way to addresses.
const TABLES_MAX: usize = 4096;
const STEPS_MAX: usize = 1 << 16;
/// Levels of page tables.
const LEVELS: u32 = 4;

/// An entry that is used, as the working set's file has it: nothing is copied to the frame of a page table, so a table's own number says "only used".
pub(super) fn used(table: u32, index: u32) -> WorkPage {
    WorkPage { pfn: table, table, index }
}

/// Whether a page of the set is only used, not copied.
pub(super) fn is_only_used(page: WorkPage) -> bool {
    page.pfn == page.table
}

/// The frame that has its place at `gpa`.
fn frame_at(private: &Window, gpa: u64) -> Option<u32> {
    let gpa = gpa & bits::ADDRESS;
    private.contains(Gpa(gpa), PAGE_SIZE).then(|| ((gpa - PRIVATE_GPA) / PAGE_SIZE) as u32)
}

/// The entries that lead from the page tables `root` to pages whose accessed bit is set, leaves included. The direct map is left out: its pages are large.
pub(super) fn scan(private: &Window, root: Gpa) -> Vec<WorkPage> {
    let mut scan = Scan { private, tables: 0, found: Vec::new() };
    if let Some(root) = frame_at(private, root.0) {
        scan.table(root, LEVELS);
    }
    scan.found
}

struct Scan<'a> {
    private: &'a Window,
    tables: usize,
    found: Vec<WorkPage>,
}

impl Scan<'_> {
    /// Returns whether there was anything.
    fn table(&mut self, table: u32, level: u32) -> bool {
        self.tables += 1;
        if self.tables > TABLES_MAX {
            return false;
        }
        let Some(entries) = self.private.load::<[u64; 512]>(Gpa(frame_gpa(table))) else { return false };
        let mut any = false;
        for (index, entry) in (0..).zip(entries) {
            let wanted = bits::PRESENT | bits::ACCESSED;
            if entry & wanted != wanted || (level == LEVELS && index as usize == DIRECT_PML4_INDEX) {
                continue;
            }
            let leaf = level == 1 || entry & bits::LARGE != 0;
            let uses = leaf || frame_at(self.private, entry).is_some_and(|next| self.table(next, level - 1));
            if uses && self.found.len() < MOST {
                self.found.push(used(table, index));
                any = true;
            }
        }
        any
    }
}

/// What a clone in `memory`, whose tables nobody has changed yet, shall read ahead of time: what the library OS must find at its own place (`copied`), what the VMM and it
/// exchange, and `pages`. `template` are the library OS's own page tables.
pub(super) fn plan<'a>(
    memory: &Memory,
    template: Gpa,
    copied: &[Placed],
    pages: impl Iterator<Item = &'a WorkPage>,
) -> Vec<Touch> {
    let mut plan = Plan { memory, entries: BTreeMap::new(), steps: 0, touches: Vec::new() };
    let comm = [0, PAGE_SIZE, SLOT_OFFSET, CONTROL_OFFSET];
    let rings = (EVENTS_OFFSET..SUBMISSIONS_OFFSET).step_by(PAGE_SIZE as usize);
    for offset in comm.into_iter().chain(rings).chain([SUBMISSIONS_OFFSET, MAILBOX_OFFSET]) {
        plan.direct(memory.comm(), Gpa(COMM_GPA + offset));
    }
    for placed in copied {
        plan.direct(memory.private(), Gpa(frame_gpa(placed.pfn)));
    }
    for page in pages {
        plan.entries.entry(page.table).or_default().insert(page.index);
    }
    let private = memory.private();
    let children: BTreeSet<u32> = plan
        .entries
        .iter()
        .flat_map(|(&table, indices)| indices.iter().map(move |&index| (table, index)))
        .filter_map(|(table, index)| frame_at(private, plan.entry(table, index)?))
        .collect();
    let roots: Vec<u32> = plan.entries.keys().copied().filter(|table| !children.contains(table)).collect();
    let kernel = |table: u64| {
        [DIRECT_PML4_INDEX, KERNEL_PML4_INDEX].map(|index| {
            private.load::<u64>(Gpa(table + index as u64 * 8)).map(|entry| entry & bits::ADDRESS)
        })
    };
    for root in roots.into_iter().filter(|&root| kernel(frame_gpa(root)) == kernel(template.0)) {
        plan.push(Touch::Load(frame_gpa(root)));
        plan.table(root, LEVELS, 0);
    }
    plan.touches
}

struct Plan<'a> {
    memory: &'a Memory,
    entries: BTreeMap<u32, BTreeSet<u32>>,
    steps: usize,
    touches: Vec<Touch>,
}

impl Plan<'_> {
    fn push(&mut self, touch: Touch) {
        if (self.touches.len() as u64) < Touch::MOST {
            self.touches.push(touch);
        }
    }

    fn direct(&mut self, window: &Window, gpa: Gpa) {
        if window.populate(gpa).is_some() {
            self.push(Touch::Read(DIRECT_BASE + gpa.0));
        }
    }

    /// The entry, if it maps something that everybody in the guest may use.
    fn entry(&self, table: u32, index: u32) -> Option<u64> {
        let at = Gpa(frame_gpa(table) + u64::from(index) * 8);
        let wanted = bits::PRESENT | bits::USER;
        self.memory.private().load::<u64>(at).filter(|entry| entry & wanted == wanted)
    }

    /// The pages that the known entries of `table` lead to. `base` is the address of its first one.
    fn table(&mut self, table: u32, level: u32, base: u64) {
        let indices = self.entries.get(&table).cloned().unwrap_or_default();
        for index in indices {
            self.steps += 1;
            // Of the two halves of the address space only the lower one is used.
            if self.steps > STEPS_MAX || (level == LEVELS && index >= 256) {
                return;
            }
            let Some(entry) = self.entry(table, index) else { continue };
            let address = base | u64::from(index) << (12 + 9 * (level - 1));
            let private = self.memory.private();
            if level > 1 && entry & bits::LARGE == 0 {
                if let Some(next) = frame_at(private, entry) {
                    self.table(next, level - 1, address);
                }
                continue;
            }
            let large = if level > 1 { 0xfff << 9 } else { 0 };
            let gpa = Gpa(entry & bits::ADDRESS & !large);
            if level < 3 && self.memory.window(gpa).is_some() {
                // A page that the host must still allocate would be mapped read-only.
                let _ = private.populate(gpa);
                self.push(Touch::Read(address));
            }
        }
    }
}
