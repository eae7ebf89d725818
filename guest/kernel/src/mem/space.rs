//! An address space: areas, page faults, and ([`copy`]) the application's memory as system calls reach it.
//!
//! The kernel never touches an application address directly: it walks the page tables, serves the fault in software where a page is
//! missing, and copies through the direct map. So a bad pointer is an errno, never a fault in the kernel, and reading a page costs no
//! hardware fault.

mod copy;

use super::area::{Area, Backing, Protection};
use super::frames::{Frames, Gpa};
use super::pager::MappedPage;
use super::paging::{A, ADDRESS, D, Leaf, NX, P, PageTables, W};
use crate::errno::{Errno, Result};
use crate::kernel::patch::Sites;
use alloc::collections::BTreeMap;
use core::cell::Cell;
use seuss_abi::layout::{DIRECT_BASE, KERNEL_END, LARGE_PAGE_SIZE, PAGE_SIZE, USER_END};
use seuss_abi::snapshot::WAS_WRITABLE;

/// Lowest address that an application can map (vm.mmap_min_addr).
pub const MMAP_MIN: u64 = 0x10000;
/// Top of the region that mmap fills downwards, at the highest; the stack lies above. Each program has its own ([`Space::mmap_top`]).
pub const MMAP_TOP: u64 = 0x7fff_f000_0000;
/// Most areas of one process (vm.max_map_count).
pub const AREAS_MAX: usize = 65530;
/// Anonymous areas at least this large get 2 MiB pages where they cover a whole one.
const LARGE_AREA: u64 = 2 * LARGE_PAGE_SIZE;
/// File pages mapped around a read fault, so that one fault serves 256 KiB.
const FAULT_AROUND: u64 = 64;
/// File pages copied around a write fault of a private mapping.
const COPY_AROUND: u64 = 8;
/// Anonymous pages given at once to a first touch anywhere: up to the end of the group of so many. A shadow-paging KVM fills in the accessed entries of
/// the whole group when one of them faults (PTE_PREFETCH_NUM in arch/x86/kvm/mmu), those that are dirty for writing too.
const TOUCH_CHUNK: u64 = 8;
/// As much at most for faults that follow one another: each gets twice as much as the one before.
const SEQUENTIAL_CHUNK: u64 = 128;
/// Shared pages unshared at once when one after the other is written.
const UNSHARE_CHUNK: u64 = 16;

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Why a fault cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No area: SIGSEGV, SEGV_MAPERR.
    NotMapped,
    /// The area forbids it: SIGSEGV, SEGV_ACCERR.
    Denied,
    /// Beyond the end of the mapped object: SIGBUS.
    BeyondEnd,
    /// No frame is left.
    OutOfMemory,
}

/// How a fault was served, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// First touch.
    Demand,
    /// A private copy was made.
    CopyOnWrite,
    /// A page of a snapshot's layer came home.
    SnapshotCopy,
    /// The entry allowed the access already.
    Spurious,
}

/// What a flush is owed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stale {
    /// Nothing.
    Nothing,
    /// The page of the last fault.
    OnePage,
    /// More than that.
    More,
}

/// One address space.
pub struct Space {
    frames: Frames,
    tables: PageTables,
    pub(super) areas: BTreeMap<u64, Area>,
    /// Top of the region that mmap(2) fills downwards.
    pub(super) mmap_top: u64,
    /// End of the first thread's stack.
    pub stack_top: u64,
    /// A length and an address above which no free range of that length lies: where a search need not begin anew.
    pub(super) searched: Cell<(u64, u64)>,
    /// Translations that were taken away or replaced since the last flush.
    stale: Cell<Stale>,
    /// Where the last anonymous fault ended: the next one there is sequential.
    last_fault_end: u64,
    /// How many pages it was given.
    chunk: u64,
    /// Likewise for private copies.
    last_copy_end: u64,
    /// What is known of the system-call sites.
    pub sites: Sites,
    /// Start of the heap.
    pub brk_start: u64,
    /// End of the heap.
    pub brk: u64,
}

impl Space {
    /// An empty address space; `template` is a PML4 with the library OS's part.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(frames: &Frames, template: Gpa) -> Result<Self> {
        let tables = PageTables::new(frames, template).ok_or(Errno::ENOMEM)?;
        Ok(Self {
            frames: frames.clone(),
            tables,
            areas: BTreeMap::new(),
            mmap_top: MMAP_TOP,
            stack_top: 0,
            searched: Cell::new((0, MMAP_TOP)),
            stale: Cell::new(Stale::Nothing),
            last_fault_end: 0,
            chunk: TOUCH_CHUNK,
            last_copy_end: 0,
            sites: Sites::default(),
            brk_start: 0,
            brk: 0,
        })
    }

    /// Let mmap(2) fill the region below `top`; for a space that has no areas yet.
    pub fn begin_mmap_at(&mut self, top: u64) {
        self.mmap_top = top;
        self.searched.set((0, top));
    }

    /// What CR3 holds for this space.
    #[must_use]
    pub fn root(&self) -> Gpa {
        self.tables.root()
    }

    /// Whether translations must be flushed before the application runs; resets the mark.
    pub fn take_stale(&self) -> bool {
        self.stale.replace(Stale::Nothing) != Stale::Nothing
    }

    /// A page fault of the CPU was served: it dropped the translation of its own page (SDM vol. 3, 4.10.4.1), so that no flush is owed for that one.
    pub fn forgive_fault(&self) {
        if self.stale.get() == Stale::OnePage {
            self.stale.set(Stale::Nothing);
        }
    }

    /// All areas in order of address.
    pub fn areas(&self) -> impl Iterator<Item = &Area> {
        self.areas.values()
    }

    /// The area that holds `address`.
    #[must_use]
    pub fn area_at(&self, address: u64) -> Option<&Area> {
        self.areas.range(..=address).next_back().map(|(_, area)| area).filter(|area| address < area.end)
    }

    /// Bytes of all areas (VmSize).
    #[must_use]
    pub fn size(&self) -> u64 {
        self.areas.values().map(|area| area.end - area.start).sum()
    }

    /// Bytes that are mapped to memory, and the most that ever were (VmRSS, VmHWM).
    #[must_use]
    pub fn resident_and_peak(&self) -> (u64, u64) {
        let (now, peak) = self.tables.mapped();
        (now * PAGE_SIZE, peak * PAGE_SIZE)
    }

    /// Bytes of a range that are mapped to memory.
    #[must_use]
    pub fn resident(&self, start: u64, end: u64) -> u64 {
        let mut resident = 0;
        self.tables.for_each(start, end, &mut |_, _, large| {
            resident += if large { LARGE_PAGE_SIZE } else { PAGE_SIZE };
        });
        resident
    }

    fn rights(protection: Protection, writable: bool) -> u64 {
        let mut rights = 0;
        if writable && protection.contains(Protection::WRITE) {
            rights |= W;
        }
        if !protection.contains(Protection::EXECUTE) {
            rights |= NX;
        }
        rights
    }

    /// Serve a page fault.
    ///
    /// # Errors
    /// [`Fault`]: what the application did wrong, or that memory is used up.
    pub fn fault(&mut self, address: u64, access: Access) -> core::result::Result<Served, Fault> {
        let page = address & !(PAGE_SIZE - 1);
        let area = self.area_at(address).ok_or(Fault::NotMapped)?;
        let (area, wanted) = (area.clone(), access);
        let allowed = match wanted {
            Access::Read => !area.protection.is_empty(),
            Access::Write => area.protection.contains(Protection::WRITE),
            Access::Execute => area.protection.contains(Protection::EXECUTE),
        };
        if !allowed {
            return Err(Fault::Denied);
        }
        if let Some(leaf) = self.tables.leaf(page).filter(|leaf| leaf.entry & P != 0) {
            if access != Access::Write || leaf.entry & W != 0 {
                return Ok(Served::Spurious);
            }
            return self.fault_write_protected(&area, page, leaf.entry, leaf.large);
        }
        match &area.backing {
            Backing::Anonymous => self.fault_anonymous(&area, page),
            Backing::Object { .. } => self.fault_object(&area, page, access),
        }
    }

    fn fault_write_protected(
        &mut self,
        area: &Area,
        page: u64,
        entry: u64,
        large: bool,
    ) -> core::result::Result<Served, Fault> {
        let rights = Self::rights(area.protection, true);
        let gpa = entry & ADDRESS;
        if area.shared {
            return self.fault_object(area, page, Access::Write);
        }
        if large {
            // Only fork takes write access away, and it splits first; mprotect may have left a unique large page read-only.
            self.tables.split(page).map_err(|_| Fault::OutOfMemory)?;
            let small = self.tables.leaf(page).ok_or(Fault::OutOfMemory)?.entry;
            return self.fault_write_protected(area, page, small, false);
        }
        if self.frames.owns(gpa) && self.frames.reference_count(gpa) == 1 {
            let leaf = self.tables.leaf(page).ok_or(Fault::NotMapped)?;
            if !self.frames.is_private(gpa) {
                self.bring_home(leaf, rights);
                return Ok(Served::SnapshotCopy);
            }
            self.frames.store(leaf.slot, (leaf.entry & !NX) | rights);
            return Ok(Served::CopyOnWrite);
        }
        self.unshare(page, gpa, rights)?;
        if self.stale.get() == Stale::Nothing {
            self.stale.set(Stale::OnePage);
        }
        if !self.frames.owns(gpa) {
            self.copy_around(area, page);
            return Ok(Served::CopyOnWrite);
        }
        let sequential = page == self.last_copy_end;
        self.last_copy_end = page + PAGE_SIZE;
        if sequential {
            self.unshare_ahead(area, page + PAGE_SIZE, rights);
        }
        Ok(Served::CopyOnWrite)
    }

    /// The first write to a page of a layer that only this entry maps: the frame gets its content, and the entry points at it.
    fn bring_home(&self, leaf: Leaf, rights: u64) {
        let home = self.frames.bring_home(leaf.entry & ADDRESS);
        let flags = leaf.entry & !(ADDRESS | NX | WAS_WRITABLE);
        self.frames.store(leaf.slot, home | flags | rights | A | D);
        if self.stale.get() == Stale::Nothing {
            self.stale.set(Stale::OnePage);
        }
    }

    fn unshare(&mut self, page: u64, gpa: Gpa, rights: u64) -> core::result::Result<(), Fault> {
        let copy = self.frames.allocate_uninit().ok_or(Fault::OutOfMemory)?;
        self.frames.copy_page(gpa, copy.gpa());
        self.tables.map(page, copy.into_gpa(), rights | A | D).map_err(|_| Fault::OutOfMemory)?;
        Ok(())
    }

    /// A program that writes page after page of shared memory gets some of the next ones at once.
    fn unshare_ahead(&mut self, area: &Area, start: u64, rights: u64) {
        let mut page = start;
        while page < area.end.min(start + (UNSHARE_CHUNK - 1) * PAGE_SIZE) {
            let Some(leaf) = self.tables.leaf(page) else { return };
            if leaf.large || leaf.entry & (P | W) != P || !self.frames.owns(leaf.entry & ADDRESS) {
                return;
            }
            let gpa = leaf.entry & ADDRESS;
            if self.frames.reference_count(gpa) == 1 {
                if !self.frames.is_private(gpa) {
                    return;
                }
                self.frames.store(leaf.slot, (leaf.entry & !NX) | rights);
            } else {
                if self.unshare(page, gpa, rights).is_err() {
                    return;
                }
                self.stale.set(Stale::More);
            }
            page += PAGE_SIZE;
            self.last_copy_end = page;
        }
    }

    fn fault_anonymous(&mut self, area: &Area, page: u64) -> core::result::Result<Served, Fault> {
        // Accessed and dirty from the start: see `TOUCH_CHUNK`. The page is this guest's own either way.
        let rights = Self::rights(area.protection, true) | A | D;
        let large = page & !(LARGE_PAGE_SIZE - 1);
        let fits = large >= area.start && large + LARGE_PAGE_SIZE <= area.end;
        if area.end - area.start >= LARGE_AREA
            && fits
            && self.tables.large_slot_is_empty(page)
            && let Some(run) = self.frames.allocate_run(512)
        {
            let first = run[0].gpa();
            self.frames.fill_zero(first, LARGE_PAGE_SIZE as usize);
            if self.tables.map_large(large, first, rights) {
                run.into_iter().for_each(|frame| {
                    let _ = frame.into_gpa();
                });
                return Ok(Served::Demand);
            }
        }
        let sequential = page == self.last_fault_end;
        self.chunk = if sequential { (2 * self.chunk).min(SEQUENTIAL_CHUNK) } else { TOUCH_CHUNK };
        // Never into the next 2 MiB, which may get a large page.
        let limit = area.end.min(large + LARGE_PAGE_SIZE);
        let group = TOUCH_CHUNK * PAGE_SIZE;
        let end = (page & !(group - 1)) + self.chunk * PAGE_SIZE;
        let count = (limit.min(end) - page) / PAGE_SIZE;
        let mut at = page;
        for step in 0..count {
            if step > 0 && self.tables.leaf(at).is_some_and(|leaf| leaf.entry & P != 0) {
                break;
            }
            match self.frames.allocate() {
                Some(frame) => {
                    self.tables.map(at, frame.into_gpa(), rights).map_err(|_| Fault::OutOfMemory)?
                }
                None if step == 0 => return Err(Fault::OutOfMemory),
                None => break,
            };
            at += PAGE_SIZE;
        }
        self.last_fault_end = at;
        Ok(Served::Demand)
    }

    fn fault_object(
        &mut self,
        area: &Area,
        page: u64,
        access: Access,
    ) -> core::result::Result<Served, Fault> {
        let Backing::Object { pager, first_page } = &area.backing else { return Err(Fault::NotMapped) };
        let index = first_page + (page - area.start) / PAGE_SIZE;
        let to_fault =
            |errno: Errno| if errno == Errno::ENOMEM { Fault::OutOfMemory } else { Fault::BeyondEnd };
        let shared_write = area.shared && area.maybe_written;
        let found = pager.page(index, shared_write).map_err(to_fault)?;
        if let MappedPage::Image(gpa) = found
            && access != Access::Write
            && !area.shared
            && self.map_large_image(page, gpa, pager, index)
        {
            return Ok(Served::Demand);
        }
        let (gpa, writable) = match found {
            MappedPage::BeyondEnd => return Err(Fault::BeyondEnd),
            MappedPage::Frame(frame) if area.shared => (frame.into_gpa(), shared_write),
            MappedPage::Image(gpa) if area.shared => (gpa, false),
            MappedPage::Image(from) if access == Access::Write => (self.copy_of(from)?, true),
            MappedPage::Frame(frame) if access == Access::Write => (self.copy_of(frame.gpa())?, true),
            MappedPage::Image(gpa) => (gpa, false),
            MappedPage::Frame(frame) => (frame.into_gpa(), false),
        };
        let rights = Self::rights(area.protection, writable) | A;
        let replaced = self.tables.map(page, gpa, rights).map_err(|_| Fault::OutOfMemory)?;
        if replaced && self.stale.get() == Stale::Nothing {
            self.stale.set(Stale::OnePage);
        }
        if !area.shared {
            if access == Access::Write { self.copy_around(area, page) } else { self.map_around(area, page) }
        }
        Ok(if access == Access::Write && !area.shared { Served::CopyOnWrite } else { Served::Demand })
    }

    /// Copy the pages of a written private mapping around a write fault too: a program that writes one page of its data writes most of them, and a fault
    /// costs many copies. Pages that are private already stay as they are.
    fn copy_around(&mut self, area: &Area, page: u64) {
        let Backing::Object { pager, first_page } = &area.backing else { return };
        let window = COPY_AROUND * PAGE_SIZE;
        let start = (page & !(window - 1)).max(area.start);
        let end = (page & !(window - 1)).saturating_add(window).min(area.end);
        // Accessed and dirty: see `TOUCH_CHUNK`.
        let rights = Self::rights(area.protection, true) | A | D;
        for at in (start..end).step_by(PAGE_SIZE as usize) {
            let entry = self.tables.leaf(at).map_or(0, |leaf| leaf.entry);
            let mapped = entry & P != 0;
            if mapped && self.frames.owns(entry & ADDRESS) {
                continue;
            }
            let index = first_page + (at - area.start) / PAGE_SIZE;
            let Ok(MappedPage::Image(from)) = pager.page(index, false) else { continue };
            let Ok(copy) = self.copy_of(from) else { return };
            if self.tables.map(at, copy, rights).is_err() {
                return;
            }
            if mapped {
                self.stale.set(Stale::More);
            }
        }
    }

    fn copy_of(&self, from: Gpa) -> core::result::Result<Gpa, Fault> {
        let copy = self.frames.allocate_uninit().ok_or(Fault::OutOfMemory)?;
        self.frames.copy_page(from, copy.gpa());
        Ok(copy.into_gpa())
    }

    /// Map the image pages around a read fault: they cost nothing but an entry.
    fn map_around(&mut self, area: &Area, page: u64) {
        let Backing::Object { pager, first_page } = &area.backing else { return };
        let window = FAULT_AROUND * PAGE_SIZE;
        let start = (page & !(window - 1)).max(area.start);
        let end = (page & !(window - 1)).saturating_add(window).min(area.end);
        // Accessed: see `TOUCH_CHUNK`.
        let rights = Self::rights(area.protection, false) | A;
        let mut at = start;
        while at < end {
            let empty = self.tables.leaf(at).is_none_or(|leaf| leaf.entry & P == 0);
            if empty {
                let index = first_page + (at - area.start) / PAGE_SIZE;
                let Ok(MappedPage::Image(gpa)) = pager.page(index, false) else { break };
                if self.tables.map(at, gpa, rights).is_err() {
                    break;
                }
            }
            at += PAGE_SIZE;
        }
    }

    /// A copy for fork(2): private pages are shared until one side writes.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn fork(&self) -> Result<Self> {
        let mut child = Self::new(&self.frames, self.root())?;
        child.begin_mmap_at(self.mmap_top);
        child.stack_top = self.stack_top;
        for area in self.areas.values() {
            if area.wipe_on_fork || area.dont_fork {
                if area.wipe_on_fork {
                    child.areas.insert(area.start, area.clone());
                }
                continue;
            }
            child.areas.insert(area.start, area.clone());
            self.tables
                .copy_range(&child.tables, area.start, area.end, area.shared)
                .map_err(|_| Errno::ENOMEM)?;
        }
        self.stale.set(Stale::More);
        child.sites.clone_from(&self.sites);
        (child.brk_start, child.brk) = (self.brk_start, self.brk);
        Ok(child)
    }

    /// Replace all large pages by small ones, as a capture needs them; with `keep_images` those of memory alone: every clone has the images at the same addresses.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`]: no frame for a table.
    pub fn split_all(&self, keep_images: bool) -> core::result::Result<(), Fault> {
        for area in self.areas.values() {
            let mut at = area.start;
            while at < area.end {
                self.tables.split_at_capture(at, keep_images).map_err(|_| Fault::OutOfMemory)?;
                at = (at & !(LARGE_PAGE_SIZE - 1)) + LARGE_PAGE_SIZE;
            }
        }
        self.stale.set(Stale::More);
        Ok(())
    }

    /// Forget what MADV_WIPEONFORK marks: this is a clone.
    pub fn wipe(&mut self) {
        for area in self.areas.values().filter(|area| area.wipe_on_fork) {
            self.tables.unmap(area.start, area.end);
        }
        self.stale.set(Stale::More);
    }

    /// Call `visit` with every page table whose entries are leaves of 4 KiB.
    pub fn for_each_leaf_table(&self, visit: &mut dyn FnMut(Gpa)) {
        self.tables.for_each_leaf_table(visit);
    }

    /// The page-table entry of `address`.
    #[must_use]
    pub fn leaf(&self, address: u64) -> Option<Leaf> {
        self.tables.leaf(address)
    }

    pub(crate) fn tables(&self) -> &PageTables {
        &self.tables
    }

    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(super) fn mark_stale(&self) {
        self.stale.set(Stale::More);
    }
}

/// Whether an address can belong to the application.
#[must_use]
pub fn is_application(address: u64) -> bool {
    address < DIRECT_BASE || (KERNEL_END..USER_END).contains(&address)
}

/// Whether a whole range can belong to the application.
#[must_use]
pub fn is_application_range(start: u64, len: u64) -> bool {
    let Some(end) = start.checked_add(len) else { return false };
    end <= DIRECT_BASE || (start >= KERNEL_END && end <= USER_END)
}
