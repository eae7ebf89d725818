//! Areas of an address space (what /proc/PID/maps lists) and the calls that change them: mmap, munmap, mprotect, mremap,
//! madvise, brk.

use super::pager::Pager;
use super::paging::{ADDRESS, NX, P, U, W};
use super::space::{AREAS_MAX, Access, MMAP_MIN, MMAP_TOP, Space, is_application_range};
use crate::errno::{Errno, Result};
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::layout::{DIRECT_BASE, KERNEL_END, PAGE_SIZE};

bitflags::bitflags! {
    /// mmap(2)'s protection; the values are PROT_*. Empty is PROT_NONE.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Protection: u32 {
        /// PROT_READ.
        const READ = 1;
        /// PROT_WRITE (implies reading, as on x86).
        const WRITE = 2;
        /// PROT_EXEC (implies reading).
        const EXECUTE = 4;
    }
}

/// What an area shows.
#[derive(Clone)]
pub enum Backing {
    /// Zeros, private.
    Anonymous,
    /// Pages of an object.
    Object {
        /// The object.
        pager: Rc<dyn Pager>,
        /// The object's page at the area's start.
        first_page: u64,
    },
}

/// A run of pages with the same properties.
#[derive(Clone)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Rights.
    pub protection: Protection,
    /// What it shows.
    pub backing: Backing,
    /// MAP_SHARED.
    pub shared: bool,
    /// A shared mapping that may become writable: its pages are the object's own frames from the first touch on.
    pub maybe_written: bool,
    /// MADV_WIPEONFORK.
    pub wipe_on_fork: bool,
    /// MADV_DONTFORK.
    pub dont_fork: bool,
    /// Name for /proc/PID/maps where there is no object: `[heap]`, `[stack]`.
    pub label: &'static str,
}

impl Area {
    /// A private anonymous area.
    #[must_use]
    pub fn anonymous(start: u64, len: u64, protection: Protection) -> Self {
        Self {
            start,
            end: start + len,
            protection,
            backing: Backing::Anonymous,
            shared: false,
            maybe_written: false,
            wipe_on_fork: false,
            dont_fork: false,
            label: "",
        }
    }

    /// An area that shows `pager` from page `first_page` on.
    #[must_use]
    pub fn object(
        start: u64,
        len: u64,
        protection: Protection,
        pager: Rc<dyn Pager>,
        first_page: u64,
    ) -> Self {
        Self { backing: Backing::Object { pager, first_page }, ..Self::anonymous(start, len, protection) }
    }

    /// The part of the area from `at` on.
    fn tail(&self, at: u64) -> Self {
        let mut tail = self.clone();
        if let Backing::Object { first_page, .. } = &mut tail.backing {
            *first_page += (at - self.start) / PAGE_SIZE;
        }
        tail.start = at;
        tail
    }

    fn continues_with(&self, next: &Self) -> bool {
        let same_backing = match (&self.backing, &next.backing) {
            (Backing::Anonymous, Backing::Anonymous) => true,
            (
                Backing::Object { pager, first_page },
                Backing::Object { pager: other, first_page: other_first },
            ) => Rc::ptr_eq(pager, other) && first_page + (self.end - self.start) / PAGE_SIZE == *other_first,
            _ => false,
        };
        same_backing
            && self.end == next.start
            && self.protection == next.protection
            && self.shared == next.shared
            && self.maybe_written == next.maybe_written
            && self.wipe_on_fork == next.wipe_on_fork
            && self.dont_fork == next.dont_fork
            && self.label == next.label
    }
}

/// Where a new area goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Anywhere; at the hint if that is free (0 = no hint).
    Hint(u64),
    /// MAP_32BIT: below 2 GiB.
    Low,
    /// MAP_FIXED: exactly there, replacing what is there.
    Fixed(u64),
    /// MAP_FIXED_NOREPLACE: exactly there, or EEXIST.
    FixedNoReplace(u64),
}

/// Top of what MAP_32BIT may use.
const LOW_TOP: u64 = 0x8000_0000;

fn page_aligned(value: u64) -> bool {
    value.is_multiple_of(PAGE_SIZE)
}

fn round_up(len: u64) -> Result<u64> {
    len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)
}

impl Space {
    /// Whether `start..end` touches no area.
    #[must_use]
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.areas.range(..end).next_back().is_none_or(|(_, area)| area.end <= start)
    }

    /// The highest free range of `len` bytes below the top of mmap's region; what does not fit there may lie above.
    fn find_free(&self, len: u64) -> Option<u64> {
        let (least, ceiling) = self.searched.get();
        let from = if len >= least { ceiling } else { self.mmap_top };
        let found = self.find_free_below(len, from);
        let Some(found) = found.or_else(|| self.find_free_below(len, self.mmap_top)) else {
            self.searched.set((0, self.mmap_top));
            return self.find_free_below(len, MMAP_TOP);
        };
        if len <= least || least == 0 {
            self.searched.set((len, found + len));
        }
        Some(found)
    }

    /// `start..end` was unmapped: a search must look at the free range that it is part of.
    fn search_from(&self, end: u64) {
        let (least, ceiling) = self.searched.get();
        let above = self.areas.range(end..).next().map_or(self.mmap_top, |(start, _)| *start);
        self.searched.set((least, ceiling.max(above.min(self.mmap_top))));
    }

    /// The highest free range of `len` bytes below `top`.
    pub(crate) fn find_free_below(&self, len: u64, top: u64) -> Option<u64> {
        let mut ceiling = top;
        for area in self.areas.range(..top).rev().map(|(_, area)| area) {
            if area.end < ceiling && ceiling - area.end >= len && is_application_range(ceiling - len, len) {
                return Some(ceiling - len);
            }
            ceiling = ceiling.min(area.start);
            if ceiling < len {
                return None;
            }
            if !is_application_range(ceiling - len, len) && ceiling >= KERNEL_END {
                ceiling = ceiling.min(DIRECT_BASE);
            }
        }
        let start = ceiling.checked_sub(len)?;
        (start >= MMAP_MIN && is_application_range(start, len)).then_some(start)
    }

    /// Choose the address of a new mapping of `len` bytes (a multiple of the page size).
    ///
    /// # Errors
    /// EINVAL, EEXIST, ENOMEM, EPERM (below the lowest address).
    pub fn place(&self, placement: Placement, len: u64) -> Result<u64> {
        match placement {
            Placement::Hint(hint) => {
                let hint = hint & !(PAGE_SIZE - 1);
                let usable =
                    hint >= MMAP_MIN && is_application_range(hint, len) && self.is_free(hint, hint + len);
                if usable { Ok(hint) } else { self.find_free(len).ok_or(Errno::ENOMEM) }
            }
            Placement::Low => self.find_free_below(len, LOW_TOP).ok_or(Errno::ENOMEM),
            Placement::Fixed(at) | Placement::FixedNoReplace(at) => {
                if !page_aligned(at) {
                    return Err(Errno::EINVAL);
                }
                if !is_application_range(at, len) {
                    return Err(Errno::ENOMEM);
                }
                if at < MMAP_MIN {
                    return Err(Errno::EPERM);
                }
                if matches!(placement, Placement::FixedNoReplace(_)) && !self.is_free(at, at + len) {
                    return Err(Errno::EEXIST);
                }
                Ok(at)
            }
        }
    }

    /// Add an area whose range was chosen by [`Self::place`]; what is there is unmapped.
    ///
    /// # Errors
    /// ENOMEM if there are too many areas.
    pub fn insert(&mut self, area: Area) -> Result {
        if self.areas.len() >= AREAS_MAX {
            return Err(Errno::ENOMEM);
        }
        if !self.is_free(area.start, area.end) {
            self.unmap(area.start, area.end - area.start)?;
        }
        let start = area.start;
        self.areas.insert(start, area);
        self.merge_around(start);
        Ok(())
    }

    fn merge_around(&mut self, start: u64) {
        let Some(area) = self.areas.get(&start).cloned() else { return };
        if let Some((_, next)) = self.areas.range(area.end..).next()
            && area.continues_with(next)
        {
            let (next_start, end) = (next.start, next.end);
            self.areas.remove(&next_start);
            if let Some(area) = self.areas.get_mut(&start) {
                area.end = end;
            }
        }
        let Some(area) = self.areas.get(&start).cloned() else { return };
        if let Some((_, before)) = self.areas.range_mut(..start).next_back()
            && before.continues_with(&area)
        {
            before.end = area.end;
            self.areas.remove(&start);
        }
    }

    /// Make `at` a border between areas.
    fn split_area(&mut self, at: u64) -> Result {
        let Some(area) = self.area_at(at).filter(|area| area.start < at).cloned() else { return Ok(()) };
        if self.areas.len() >= AREAS_MAX {
            return Err(Errno::ENOMEM);
        }
        let tail = area.tail(at);
        if let Some(head) = self.areas.get_mut(&area.start) {
            head.end = at;
        }
        self.areas.insert(at, tail);
        Ok(())
    }

    fn checked_range(start: u64, len: u64) -> Result<(u64, u64)> {
        if !page_aligned(start) {
            return Err(Errno::EINVAL);
        }
        let len = round_up(len)?;
        if !is_application_range(start, len) {
            return Err(Errno::ENOMEM);
        }
        Ok((start, start + len))
    }

    /// munmap(2).
    ///
    /// # Errors
    /// EINVAL, ENOMEM.
    pub fn unmap(&mut self, start: u64, len: u64) -> Result {
        let (start, end) = Self::checked_range(start, len).map_err(|_| Errno::EINVAL)?;
        if start == end {
            return Err(Errno::EINVAL);
        }
        self.split_area(start)?;
        self.split_area(end)?;
        while let Some((&at, area)) = self.areas.range(start..end).next() {
            let area_end = area.end;
            self.areas.remove(&at);
            if self.tables().unmap(at, area_end) {
                self.mark_stale();
            }
        }
        self.search_from(end);
        Ok(())
    }

    /// Whether areas cover all of `start..end`.
    fn is_covered(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            match self.area_at(at) {
                Some(area) => at = area.end,
                None => return false,
            }
        }
        true
    }

    /// mprotect(2).
    ///
    /// # Errors
    /// EINVAL, ENOMEM (not mapped), EACCES (writing to a shared mapping of a file that is not open for writing).
    pub fn protect(&mut self, start: u64, len: u64, protection: Protection) -> Result {
        let (start, end) = Self::checked_range(start, len)?;
        if !self.is_covered(start, end) {
            return Err(Errno::ENOMEM);
        }
        let forbidden = |area: &Area| {
            area.shared
                && !area.maybe_written
                && protection.contains(Protection::WRITE)
                && matches!(area.backing, Backing::Object { .. })
        };
        if self
            .areas
            .range(..end)
            .rev()
            .take_while(|(_, area)| area.end > start)
            .any(|(_, area)| forbidden(area))
        {
            return Err(Errno::EACCES);
        }
        self.split_area(start)?;
        self.split_area(end)?;
        let frames = self.frames().clone();
        let starts: Vec<u64> = self.areas.range(start..end).map(|(at, _)| *at).collect();
        for at in &starts {
            let Some(area) = self.areas.get_mut(at) else { continue };
            area.protection = protection;
            let (shared, area_end) = (area.shared && area.maybe_written, area.end);
            let changed = self.tables().protect(*at, area_end, &mut |entry| {
                let gpa = entry & ADDRESS;
                let own = frames.is_private(gpa) && (shared || frames.reference_count(gpa) == 1);
                let mut rights = if protection.is_empty() { 0 } else { U };
                if own && protection.contains(Protection::WRITE) {
                    rights |= W;
                }
                if !protection.contains(Protection::EXECUTE) {
                    rights |= NX;
                }
                rights
            });
            if changed {
                self.mark_stale();
            }
        }
        for at in starts {
            self.merge_around(at);
        }
        Ok(())
    }

    /// madvise(2) with MADV_DONTNEED or MADV_FREE: private pages read as zeros, or as the file, afterwards.
    ///
    /// # Errors
    /// EINVAL, ENOMEM (a part is not mapped; the mapped parts are served all the same).
    pub fn discard(&mut self, start: u64, len: u64) -> Result {
        let (start, end) = Self::checked_range(start, len)?;
        let covered = self.is_covered(start, end);
        let ranges: Vec<(u64, u64)> = self
            .areas
            .range(..end)
            .rev()
            .map(|(_, area)| (area.start.max(start), area.end.min(end)))
            .take_while(|(from, to)| from < to)
            .collect();
        for (from, to) in ranges {
            if self.tables().unmap(from, to) {
                self.mark_stale();
            }
        }
        if covered { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Make sure that the pages of a range are there (MAP_POPULATE, MADV_POPULATE_WRITE); what cannot be had is left out.
    pub fn populate(&mut self, start: u64, len: u64) {
        let mut at = start;
        while at < start.saturating_add(len) {
            let write = self.area_at(at).is_some_and(|area| area.protection.contains(Protection::WRITE));
            let access = if write { Access::Write } else { Access::Read };
            if self.fault(at, access).is_err() {
                return;
            }
            at += PAGE_SIZE;
        }
    }

    /// The object shrank to `len_bytes`: its pages beyond are gone from this space, private copies too (truncate(2)).
    pub fn object_shrank(&mut self, identity: (u64, u64), len_bytes: u64) {
        let first_gone = len_bytes.div_ceil(PAGE_SIZE);
        for area in self.areas.values() {
            let Backing::Object { pager, first_page } = &area.backing else { continue };
            if pager.identity() != identity {
                continue;
            }
            let keep = first_gone.saturating_sub(*first_page) * PAGE_SIZE;
            let start = area.start.saturating_add(keep);
            if start < area.end && self.tables().unmap(start, area.end) {
                self.mark_stale();
            }
        }
    }

    /// Change a property of all areas in a range (MADV_WIPEONFORK and the like).
    ///
    /// # Errors
    /// EINVAL, ENOMEM.
    pub fn advise(&mut self, start: u64, len: u64, change: &dyn Fn(&mut Area)) -> Result {
        let (start, end) = Self::checked_range(start, len)?;
        if !self.is_covered(start, end) {
            return Err(Errno::ENOMEM);
        }
        self.split_area(start)?;
        self.split_area(end)?;
        self.areas.range_mut(start..end).for_each(|(_, area)| change(area));
        Ok(())
    }

    /// mremap(2). `fixed` is the new address of MREMAP_FIXED.
    ///
    /// # Errors
    /// EINVAL, EFAULT (not mapped, or more than one area), ENOMEM.
    pub fn remap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
    ) -> Result<u64> {
        let (old_len, new_len) = (round_up(old_len)?, round_up(new_len)?);
        if !page_aligned(old) || new_len == 0 || (fixed.is_some() && !may_move) {
            return Err(Errno::EINVAL);
        }
        let area = self.area_at(old).cloned().ok_or(Errno::EFAULT)?;
        if old_len == 0 {
            // Linux duplicates shared mappings this way; **not** supported.
            return Err(Errno::EINVAL);
        }
        let old_end = old.checked_add(old_len).ok_or(Errno::EINVAL)?;
        if old_end > area.end {
            return Err(Errno::EFAULT);
        }
        if fixed.is_none() {
            if new_len <= old_len {
                if new_len < old_len {
                    self.unmap(old + new_len, old_len - new_len)?;
                }
                return Ok(old);
            }
            let end = old.checked_add(new_len).ok_or(Errno::ENOMEM)?;
            if area.end == old_end && is_application_range(old, new_len) && self.is_free(old_end, end) {
                let mut extension = area.tail(old_end);
                extension.end = end;
                self.insert(extension)?;
                return Ok(old);
            }
            if !may_move {
                return Err(Errno::ENOMEM);
            }
        }
        let placement = match fixed {
            Some(at) => {
                if !page_aligned(at) || (at < old_end && old < at.saturating_add(new_len)) {
                    return Err(Errno::EINVAL);
                }
                Placement::Fixed(at)
            }
            None => Placement::Hint(0),
        };
        let target = self.place(placement, new_len)?;
        let mut moved = area.tail(old);
        moved.start = target;
        moved.end = target + new_len;
        self.insert(moved)?;
        self.move_pages(old, target, old_len.min(new_len))?;
        self.unmap(old, old_len)?;
        Ok(target)
    }

    fn move_pages(&mut self, from: u64, to: u64, len: u64) -> Result {
        let mut offset = 0;
        while offset < len {
            self.tables().split(from + offset).map_err(|_| Errno::ENOMEM)?;
            if let Some(entry) = self.tables().take(from + offset) {
                let rights = entry & !ADDRESS & !P;
                self.tables().map(to + offset, entry & ADDRESS, rights).map_err(|_| Errno::ENOMEM)?;
                if entry & U == 0 {
                    self.tables().protect(to + offset, to + offset + PAGE_SIZE, &mut |entry| entry & !U);
                }
                self.mark_stale();
                offset += PAGE_SIZE;
            } else if self.tables().leaf(from + offset).is_some() {
                offset += PAGE_SIZE;
            } else {
                offset = ((from + offset + (2 << 20)) & !((2 << 20) - 1)) - from;
            }
        }
        Ok(())
    }

    /// brk(2): the new end of the heap, or the old one if it cannot be had.
    pub fn set_brk(&mut self, wanted: u64) -> u64 {
        if wanted < self.brk_start || wanted == self.brk {
            return self.brk;
        }
        let (Ok(old_end), Ok(new_end)) = (round_up(self.brk), round_up(wanted)) else { return self.brk };
        if new_end > old_end {
            let grow = new_end - old_end;
            let over = grow / PAGE_SIZE > self.frames().total() as u64;
            if over || !is_application_range(old_end, grow) || !self.is_free(old_end, new_end) {
                return self.brk;
            }
            let mut heap = Area::anonymous(old_end, grow, Protection::READ | Protection::WRITE);
            heap.label = "[heap]";
            if self.insert(heap).is_err() {
                return self.brk;
            }
        } else if new_end < old_end && self.unmap(new_end, old_end - new_end).is_err() {
            return self.brk;
        }
        self.brk = wanted;
        self.brk
    }
}
