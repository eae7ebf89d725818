//! Page tables of one address space (SDM vol. 3, 4.5): four levels, 4 KiB and 2 MiB leaves.
//!
//! Tables and the frames that their leaves point at are held by reference count: an entry that maps a frame of the private window owns
//! one reference to it (a 2 MiB entry owns one to each of its 512 frames), and so does one that points at the frame's content in a layer. Entries of image
//! windows own nothing.
//! The library OS's own two top-level entries are copied from the first tables and never freed.

use super::frames::{Frame, Frames, Gpa};
use core::cell::Cell;
use seuss_abi::layout::{DIRECT_PML4_INDEX, KERNEL_BASE, KERNEL_PML4_INDEX, LARGE_PAGE_SIZE, PAGE_SIZE};
use seuss_abi::snapshot::WAS_WRITABLE;

/// Present.
pub const P: u64 = 1;
/// Writable.
pub const W: u64 = 1 << 1;
/// Reachable at CPL 3: set in every entry, since everything runs there.
pub const U: u64 = 1 << 2;
/// Accessed.
pub const A: u64 = 1 << 5;
/// Dirty.
pub const D: u64 = 1 << 6;
/// Large page (in a page-directory entry).
pub const PS: u64 = 1 << 7;
/// No execution.
pub const NX: u64 = 1 << 63;
/// The address bits of an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bits that [`PageTables::protect`] replaces.
const RIGHTS: u64 = W | U | NX | WAS_WRITABLE;
const TABLE: u64 = P | W | U;

/// A leaf entry: where it lies, what it holds, how much it maps.
#[derive(Clone, Copy, Debug)]
pub struct Leaf {
    /// Guest-physical address of the entry.
    pub slot: Gpa,
    /// The entry.
    pub entry: u64,
    /// Whether it maps 2 MiB.
    pub large: bool,
}

/// The page tables of one address space.
pub struct PageTables {
    frames: Frames,
    pml4: Frame,
    /// Pages of 4 KiB that leaves map, and the most that they were.
    mapped: Cell<(u64, u64)>,
}

/// No frame is left for a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfTables;

fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * level) & 511
}

/// Bytes that one entry of `level` maps (0 = page table).
fn span(level: u32) -> u64 {
    PAGE_SIZE << (9 * level)
}

impl PageTables {
    /// Empty tables whose library-OS part is that of `template` (guest-physical address of a PML4).
    #[must_use]
    pub fn new(frames: &Frames, template: Gpa) -> Option<Self> {
        let pml4 = frames.allocate_kernel()?;
        for shared in [DIRECT_PML4_INDEX, KERNEL_PML4_INDEX] {
            let offset = shared as u64 * 8;
            frames.store(pml4.gpa() + offset, frames.load(template + offset));
        }
        Some(Self { frames: frames.clone(), pml4, mapped: Cell::default() })
    }

    /// What CR3 holds.
    #[must_use]
    pub fn root(&self) -> Gpa {
        self.pml4.gpa()
    }

    /// Pages of 4 KiB that are mapped, and the most that ever were.
    #[must_use]
    pub fn mapped(&self) -> (u64, u64) {
        self.mapped.get()
    }

    fn count_mapped(&self, pages: u64) {
        let (now, peak) = self.mapped.get();
        self.mapped.set((now + pages, peak.max(now + pages)));
    }

    fn count_unmapped(&self, pages: u64) {
        let (now, peak) = self.mapped.get();
        self.mapped.set((now - pages, peak));
    }

    /// The leaf that maps `address`, present or not; `None` where a table is missing.
    #[must_use]
    pub fn leaf(&self, address: u64) -> Option<Leaf> {
        let mut table = self.root();
        for level in (1..=3).rev() {
            let slot = table + index(address, level) * 8;
            let entry = self.frames.load(slot);
            if entry & P == 0 {
                return None;
            }
            if level == 1 && entry & PS != 0 {
                return Some(Leaf { slot, entry, large: true });
            }
            table = entry & ADDRESS;
        }
        let slot = table + index(address, 0) * 8;
        Some(Leaf { slot, entry: self.frames.load(slot), large: false })
    }

    /// The slot of `address` at `level` (0 = page-table entry, 1 = page-directory entry), with the tables above it made.
    fn slot(&self, address: u64, level: u32) -> Result<Gpa, OutOfTables> {
        let mut table = self.root();
        for above in (level + 1..=3).rev() {
            let slot = table + index(address, above) * 8;
            let entry = self.frames.load(slot);
            table = if entry & P == 0 {
                let made = self.frames.allocate_kernel().ok_or(OutOfTables)?.into_gpa();
                self.frames.store(slot, made | TABLE);
                made
            } else {
                debug_assert!(entry & PS == 0, "large page in the way at {address:#x}");
                entry & ADDRESS
            };
        }
        Ok(table + index(address, level) * 8)
    }

    /// Map the page at `address`. `gpa` carries a reference if it lies in the private window. What was mapped there is released; returns whether
    /// something was (the caller then owes a flush). A large page in the way is split.
    ///
    /// # Errors
    /// [`OutOfTables`]; the reference that came with `gpa` is then released.
    pub fn map(&self, address: u64, gpa: Gpa, rights: u64) -> Result<bool, OutOfTables> {
        let place = self.split(address).and_then(|()| self.slot(address, 0));
        let slot = place.inspect_err(|_| self.release(gpa))?;
        let old = self.frames.load(slot);
        self.frames.store(slot, gpa | P | U | rights);
        if old & P != 0 {
            self.release(old & ADDRESS);
        } else {
            self.count_mapped(1);
        }
        Ok(old & P != 0)
    }

    /// Map 2 MiB at `address` onto `gpa` (references to all 512 frames come with it), if nothing is mapped there.
    /// Returns false, and takes nothing, if something is or a table cannot be had.
    pub fn map_large(&self, address: u64, gpa: Gpa, rights: u64) -> bool {
        let Ok(slot) = self.slot(address, 1) else { return false };
        let old = self.frames.load(slot);
        if old & P != 0 {
            if old & PS != 0 || (0..512).any(|entry| self.frames.load((old & ADDRESS) + entry * 8) & P != 0) {
                return false;
            }
            drop(self.frames.adopt(old & ADDRESS));
        }
        self.frames.store(slot, gpa | P | U | PS | rights);
        self.count_mapped(512);
        true
    }

    /// Take the small page at `address` out and hand over what its entry held, with the reference to its frame.
    pub fn take(&self, address: u64) -> Option<u64> {
        let leaf = self.leaf(address).filter(|leaf| leaf.entry & P != 0 && !leaf.large)?;
        self.frames.store(leaf.slot, 0);
        self.count_unmapped(1);
        Some(leaf.entry)
    }

    /// Whether nothing is mapped in the 2 MiB around `address`.
    #[must_use]
    pub fn large_slot_is_empty(&self, address: u64) -> bool {
        let base = address & !(LARGE_PAGE_SIZE - 1);
        match self.leaf(base) {
            None => true,
            Some(leaf) if leaf.large => false,
            Some(leaf) => (0..512).all(|entry| self.frames.load(leaf.slot + entry * 8) & P == 0),
        }
    }

    /// Replace a large page over `address`, if there is one, by 512 small ones.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub fn split(&self, address: u64) -> Result<(), OutOfTables> {
        let Some(leaf) = self.leaf(address) else { return Ok(()) };
        if !leaf.large {
            return Ok(());
        }
        let table = self.frames.allocate_kernel().ok_or(OutOfTables)?.into_gpa();
        let base = leaf.entry & ADDRESS;
        for small in 0..512 {
            let flags = leaf.entry & !ADDRESS & !PS;
            self.frames.store(table + small * 8, (base + small * PAGE_SIZE) | flags);
        }
        self.frames.store(leaf.slot, table | TABLE);
        Ok(())
    }

    /// As [`Self::split`]; with `keep_images` a large page of an image stays.
    ///
    /// # Errors
    /// [`OutOfTables`].
    pub fn split_at_capture(&self, address: u64, keep_images: bool) -> Result<(), OutOfTables> {
        let stays = |leaf: &Leaf| keep_images && !self.frames.owns(leaf.entry & ADDRESS);
        if self.leaf(address).as_ref().is_some_and(stays) { Ok(()) } else { self.split(address) }
    }

    fn release(&self, gpa: Gpa) {
        if self.frames.owns(gpa) {
            drop(self.frames.adopt(gpa));
        }
    }

    /// Unmap `start..end`; returns whether anything was mapped. Large pages at the edges are split; if a table for that cannot be had, the whole large
    /// page stays mapped (the caller has already taken the area away, so it is only reachable until the flush of a later unmap).
    pub fn unmap(&self, start: u64, end: u64) -> bool {
        let mut found = false;
        self.for_each(start, end, &mut |slot, entry, large| {
            self.frames.store(slot, 0);
            let pages = if large { 512 } else { 1 };
            self.count_unmapped(pages);
            for page in 0..pages {
                self.release((entry & ADDRESS) + page * PAGE_SIZE);
            }
            found = true;
        });
        found
    }

    /// Take rights away from, or give them to, what is mapped in `start..end`: `decide(entry)` returns the new W and NX bits.
    /// Returns whether any entry changed.
    pub fn protect(&self, start: u64, end: u64, decide: &mut dyn FnMut(u64) -> u64) -> bool {
        let mut changed = false;
        self.for_each(start, end, &mut |slot, entry, _| {
            let new = entry & !RIGHTS | decide(entry) & RIGHTS & !WAS_WRITABLE;
            if new != entry {
                self.frames.store(slot, new);
                changed = true;
            }
        });
        changed
    }

    /// Call `visit(slot, entry, large)` for every present leaf in `start..end`. Large pages that reach beyond are split.
    pub fn for_each(&self, start: u64, end: u64, visit: &mut dyn FnMut(Gpa, u64, bool)) {
        self.walk(start, end, true, visit);
    }

    /// Call `visit(entry)` for every present leaf of 4 KiB in `start..end`; large pages stay as they are.
    pub fn for_each_small(&self, start: u64, end: u64, visit: &mut dyn FnMut(u64)) {
        self.walk(start, end, false, &mut |_, entry, _| visit(entry));
    }

    fn walk(&self, start: u64, end: u64, with_large: bool, visit: &mut dyn FnMut(Gpa, u64, bool)) {
        let mut address = start;
        while address < end {
            let mut table = self.root();
            let mut level = 3;
            // Down to the leaf, or to the table that is missing.
            let step = loop {
                let slot = table + index(address, level) * 8;
                let entry = self.frames.load(slot);
                if entry & P == 0 {
                    break span(level);
                }
                if level == 1 && entry & PS != 0 {
                    if !with_large {
                        break span(1);
                    }
                    let whole = address.is_multiple_of(LARGE_PAGE_SIZE) && end - address >= LARGE_PAGE_SIZE;
                    if whole || self.split(address).is_err() {
                        visit(slot, entry, true);
                        break span(1);
                    }
                    table = self.frames.load(slot) & ADDRESS;
                    level = 0;
                    continue;
                }
                if level == 0 {
                    visit(slot, entry, false);
                    break span(0);
                }
                table = entry & ADDRESS;
                level -= 1;
            };
            let next = (address & !(step - 1)).checked_add(step);
            match next {
                Some(next) => address = next,
                None => return,
            }
        }
    }

    /// Share every page of `start..end` with `child`; unless `keep_write` (a shared mapping), both sides lose write access, so that the first write copies.
    ///
    /// # Errors
    /// [`OutOfTables`]: the child has a part of the pages.
    pub fn copy_range(
        &self,
        child: &Self,
        start: u64,
        end: u64,
        keep_write: bool,
    ) -> Result<(), OutOfTables> {
        let mut address = start;
        while address < end {
            let step = match self.leaf(address) {
                // Nobody writes to an image.
                Some(leaf)
                    if leaf.large
                        && !self.frames.owns(leaf.entry & ADDRESS)
                        && child.shares_large(address, leaf.entry) =>
                {
                    let Some(next) = (address & !(LARGE_PAGE_SIZE - 1)).checked_add(LARGE_PAGE_SIZE) else {
                        return Ok(());
                    };
                    address = next;
                    continue;
                }
                // Large pages are split: parent and child will write to different parts of them.
                Some(leaf) if leaf.large => {
                    self.split(address)?;
                    continue;
                }
                Some(_) => LARGE_PAGE_SIZE,
                None => self.missing_span(address),
            };
            let Some(next) = (address & !(step - 1)).checked_add(step) else { return Ok(()) };
            if step == LARGE_PAGE_SIZE && self.leaf(address).is_some() {
                let target = child.slot(address, 0)? & !(PAGE_SIZE - 1);
                self.for_each(address, next.min(end), &mut |slot, entry, _| {
                    let kept = if keep_write { entry } else { entry & !(W | WAS_WRITABLE) };
                    if kept != entry {
                        self.frames.store(slot, kept);
                    }
                    let gpa = entry & ADDRESS;
                    if self.frames.owns(gpa) {
                        let _ = self.frames.share(gpa).into_gpa();
                    }
                    self.frames.store(target + (slot & (PAGE_SIZE - 1)), kept);
                    child.count_mapped(1);
                });
            }
            address = next;
        }
        Ok(())
    }

    /// Map the large page of an image that another address space has at `address`; whether it is there now.
    fn shares_large(&self, address: u64, entry: u64) -> bool {
        let there = self.leaf(address).is_some_and(|leaf| leaf.large && leaf.entry & P != 0);
        there || self.map_large(address, entry & ADDRESS, entry & !ADDRESS)
    }

    /// Call `visit` with every table whose entries are leaves of 4 KiB, of the application's part.
    pub fn for_each_leaf_table(&self, visit: &mut dyn FnMut(Gpa)) {
        for entry in 0..512u64 {
            if entry != DIRECT_PML4_INDEX as u64 && entry != KERNEL_PML4_INDEX as u64 {
                visit_leaf_tables(&self.frames, self.frames.load(self.root() + entry * 8), 2, visit);
            }
        }
    }

    fn missing_span(&self, address: u64) -> u64 {
        let mut table = self.root();
        for level in (1..=3).rev() {
            let entry = self.frames.load(table + index(address, level) * 8);
            if entry & P == 0 {
                return span(level);
            }
            table = entry & ADDRESS;
        }
        PAGE_SIZE
    }

    fn free_table(&self, table: Gpa, level: u32) {
        for entry_index in 0..512 {
            if level == 3
                && (entry_index == DIRECT_PML4_INDEX as u64 || entry_index == KERNEL_PML4_INDEX as u64)
            {
                continue;
            }
            let entry = self.frames.load(table + entry_index * 8);
            if entry & P == 0 {
                continue;
            }
            let gpa = entry & ADDRESS;
            if level == 0 {
                self.release(gpa);
            } else if entry & PS != 0 {
                (0..512).for_each(|page| self.release(gpa + page * PAGE_SIZE));
            } else {
                self.free_table(gpa, level - 1);
                drop(self.frames.adopt(gpa));
            }
        }
    }
}

/// Descend from `entry`, which names a table of `level`, to the tables of level 0.
fn visit_leaf_tables(frames: &Frames, entry: u64, level: u32, visit: &mut dyn FnMut(Gpa)) {
    if entry & P == 0 || entry & PS != 0 {
        return;
    }
    let table = entry & ADDRESS;
    if level == 0 {
        return visit(table);
    }
    (0..512).for_each(|below| visit_leaf_tables(frames, frames.load(table + below * 8), level - 1, visit));
}

/// The kernel image as the tables at `root` map it: `table` is told of each table of level 0, `page` of each entry in it.
pub fn visit_kernel_image(
    frames: &Frames,
    root: Gpa,
    table: &mut dyn FnMut(Gpa),
    page: &mut dyn FnMut(u64, u64),
) {
    let top = frames.load(root + KERNEL_PML4_INDEX as u64 * 8);
    let mut number = 0;
    visit_leaf_tables(frames, top, 2, &mut |at| {
        table(at);
        for below in 0..512 {
            let entry = frames.load(at + below * 8);
            if entry & P != 0 {
                // The image starts its own top-level entry and lies there without a gap of tables.
                page(KERNEL_BASE + (number * 512 + below) * PAGE_SIZE, entry);
            }
        }
        number += 1;
    });
}

impl Drop for PageTables {
    fn drop(&mut self) {
        self.free_table(self.root(), 3);
    }
}
