//! What clones use of their address spaces, as page-table entries, and the way back from entries to addresses.
//!
//! A clone that is entered ahead of time reads one byte of each page that earlier clones have used: where KVM pages by shadow tables, the first use of each page is a fault that costs an
//! exit, and so it has been taken before the clone is wanted. What is used is learnt from a scout's accessed bits and kept as pairs (page table, index), since frames
//! keep their numbers. The addresses follow from the tables of the clone at hand, so that a list that is old or damaged names nothing that is not mapped.

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
                self.found.push(WorkPage::used(table, index));
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

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF: u64 = bits::PRESENT | bits::USER | bits::WRITE | bits::ACCESSED;

    fn set(memory: &Memory, table: u32, index: u64, entry: u64) {
        memory.private().store(Gpa(frame_gpa(table) + index * 8), entry).expect("inside");
    }

    /// Two address spaces with the library OS's part in common: the template in frame 9, an application's in frame 10.
    fn memory() -> Memory {
        let memory = Memory::new(4 << 20, Vec::new()).expect("memory");
        for root in [9, 10] {
            set(&memory, root, DIRECT_PML4_INDEX as u64, frame_gpa(7) | LEAF);
            set(&memory, root, KERNEL_PML4_INDEX as u64, frame_gpa(8) | LEAF);
        }
        memory
    }

    #[test]
    fn what_a_scout_has_used_is_read_by_later_clones() {
        let memory = memory();
        let address = 0x7f12_3456_7000_u64;
        let index = |level: u64| address >> (12 + 9 * (level - 1)) & 511;
        for (table, level) in [(10, 4), (11, 3), (12, 2)] {
            set(&memory, table, index(level), frame_gpa(table + 1) | LEAF);
        }
        set(&memory, 13, index(1), frame_gpa(20) | LEAF);
        set(&memory, 13, index(1) + 1, (frame_gpa(21) | LEAF) & !bits::ACCESSED);
        // Accessed, but of no window: a damaged list, or a guest that lies.
        set(&memory, 13, index(1) + 2, LAST_BYTE | LEAF);
        let used = scan(memory.private(), Gpa(frame_gpa(10)));
        assert!(used.contains(&WorkPage::used(13, index(1) as u32)), "{used:?}");
        assert!(!used.contains(&WorkPage::used(13, index(1) as u32 + 1)), "{used:?}");

        let copied = [Placed { pfn: 30, page: 0 }];
        let plan = plan(&memory, Gpa(frame_gpa(9)), &copied, used.iter());
        let loads: Vec<_> = plan.iter().filter(|touch| matches!(touch, Touch::Load(_))).collect();
        assert_eq!(loads, [&Touch::Load(frame_gpa(10))]);
        assert!(plan.contains(&Touch::Read(DIRECT_BASE + frame_gpa(30))));
        let after: Vec<_> =
            plan.iter().skip_while(|touch| !matches!(touch, Touch::Load(_))).skip(1).collect();
        assert_eq!(after, [&Touch::Read(address)]);
    }

    const LAST_BYTE: u64 = 0x7f_ffff_f000;

    #[test]
    fn other_tables_than_an_address_space_of_this_guest_are_not_loaded() {
        let memory = memory();
        // Frame 14 lacks the library OS's part.
        set(&memory, 14, 3, frame_gpa(15) | LEAF);
        let plan = plan(&memory, Gpa(frame_gpa(9)), &[], [WorkPage::used(14, 3)].iter());
        assert!(!plan.iter().any(|touch| matches!(touch, Touch::Load(_))), "{plan:?}");
    }

    #[test]
    fn tables_that_lead_to_themselves_come_to_an_end() {
        let memory = memory();
        (0..512)
            .filter(|&index| ![DIRECT_PML4_INDEX, KERNEL_PML4_INDEX].contains(&(index as usize)))
            .for_each(|index| set(&memory, 10, index, frame_gpa(10) | LEAF));
        let used = scan(memory.private(), Gpa(frame_gpa(10)));
        assert!(!used.is_empty() && used.len() <= MOST, "{}", used.len());
        // As an address space that nothing leads to: from frame 16, whose entries lead to frame 10.
        for index in 0..512 {
            let entry = memory.private().load::<u64>(Gpa(frame_gpa(10) + index * 8)).expect("inside");
            set(&memory, 16, index, entry);
        }
        let pages: Vec<_> =
            (0..512).flat_map(|index| [16, 10].map(|table| WorkPage::used(table, index))).collect();
        let plan = plan(&memory, Gpa(frame_gpa(9)), &[], pages.iter());
        assert!(plan.contains(&Touch::Load(frame_gpa(16))));
        assert!(plan.len() <= STEPS_MAX + 64, "{}", plan.len());
    }
}
