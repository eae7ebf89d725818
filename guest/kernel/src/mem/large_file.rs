//! 2 MiB pages for file text: large files begin at a multiple of 2 MiB in their image (`align_huge` of the EROFS writer), so that a mapping whose address
//! agrees with the image's modulo 2 MiB can have large pages. A fault costs an exit where KVM pages by shadow tables, and there it cannot fill in
//! read-only windows ahead of faults: one large page saves up to 512 of them.

use super::area::{Backing, Placement, Protection};
use super::frames::Gpa;
use super::pager::{MappedPage, Pager};
use super::paging::{A, NX};
use super::space::Space;
use crate::errno::Result;
use alloc::rc::Rc;
use seuss_abi::layout::{LARGE_PAGE_SIZE, PAGE_SIZE};

const PAGES: u64 = LARGE_PAGE_SIZE / PAGE_SIZE;

impl Space {
    /// Map the 2 MiB around `page` at once, if it is all one piece of an image: `page` is page `index` of `pager`, and lies at `gpa`.
    ///
    /// The piece may span several areas of the file, as text beside read-only data does; it is executable if one of them is. What is
    /// changed later is split first, so an area that is protected anew has its own rights.
    pub(super) fn map_large_image(&self, page: u64, gpa: Gpa, pager: &Rc<dyn Pager>, index: u64) -> bool {
        let block = page & !(LARGE_PAGE_SIZE - 1);
        let before = (page - block) / PAGE_SIZE;
        let Some(base) = gpa.checked_sub(page - block).filter(|base| base % LARGE_PAGE_SIZE == 0) else {
            return false;
        };
        let Some(first) = index.checked_sub(before) else { return false };
        let Some(executable) = self.is_one_file(block, pager, first) else { return false };
        let is_image = |at: u64| matches!(pager.page(first + at, false), Ok(MappedPage::Image(gpa)) if gpa == base + at * PAGE_SIZE);
        if !self.tables().large_slot_is_empty(page) || !(0..PAGES).all(is_image) {
            return false;
        }
        self.tables().map_large(block, base, if executable { A } else { A | NX })
    }

    /// Whether the 2 MiB from `block` on are private read-only mappings of `pager` from page `first` on: then whether any is executable.
    fn is_one_file(&self, block: u64, pager: &Rc<dyn Pager>, first: u64) -> Option<bool> {
        let end = block + LARGE_PAGE_SIZE;
        let (mut at, mut executable) = (block, false);
        while at < end {
            let area = self.area_at(at)?;
            let Backing::Object { pager: own, first_page } = &area.backing else { return None };
            let same = Rc::ptr_eq(own, pager)
                && first_page + (at - area.start) / PAGE_SIZE == first + (at - block) / PAGE_SIZE;
            let readable = !area.protection.is_empty() && !area.protection.contains(Protection::WRITE);
            if area.shared || !same || !readable {
                return None;
            }
            executable |= area.protection.contains(Protection::EXECUTE);
            at = area.end;
        }
        Some(executable)
    }

    /// As [`Self::place`], for `len` bytes of `pager` from page `first_page` on: where nothing is asked for, at an address that lets large pages be used.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub fn place_file(
        &self,
        placement: Placement,
        len: u64,
        pager: &Rc<dyn Pager>,
        first_page: u64,
    ) -> Result<u64> {
        if placement == Placement::Hint(0)
            && len >= LARGE_PAGE_SIZE
            && matches!(pager.page(first_page, false), Ok(MappedPage::Image(_)))
            && let Ok(room) = self.place(placement, len + LARGE_PAGE_SIZE)
        {
            return Ok(congruent(room, len, &**pager, first_page));
        }
        self.place(placement, len)
    }
}

/// The first address from `at` on, less than 2 MiB away, where large pages can be used for `len` bytes of `pager` from page `first_page` on; `at` itself if they cannot be
/// used anywhere.
#[must_use]
pub fn congruent(at: u64, len: u64, pager: &dyn Pager, first_page: u64) -> u64 {
    match pager.page(first_page, false) {
        Ok(MappedPage::Image(gpa)) if len >= LARGE_PAGE_SIZE => {
            at + (gpa.wrapping_sub(at) & (LARGE_PAGE_SIZE - 1))
        }
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::area::Area;
    use crate::mem::frames::testing::frames;
    use crate::mem::space::Access;
    use alloc::vec::Vec;

    /// An image file of so many pages that begins at 2 MiB of an image window.
    struct File(u64);

    const FILE: Gpa = 0x60_0000_0000;

    impl Pager for File {
        fn page(&self, index: u64, _write: bool) -> Result<MappedPage> {
            Ok(if index < self.0 {
                MappedPage::Image(FILE + index * PAGE_SIZE)
            } else {
                MappedPage::BeyondEnd
            })
        }

        fn name(&self) -> Vec<u8> {
            b"/file".to_vec()
        }

        fn identity(&self) -> (u64, u64) {
            (1, 2)
        }

        fn len_bytes(&self) -> u64 {
            self.0 * PAGE_SIZE
        }
    }

    const TEXT: u64 = 0x40_0000;

    fn space() -> Space {
        let frames = frames(2048, 1);
        let template = frames.allocate_kernel().unwrap().into_gpa();
        Space::new(&frames, template).unwrap()
    }

    fn map(
        space: &mut Space,
        at: u64,
        pages: u64,
        protection: Protection,
        pager: &Rc<dyn Pager>,
        first: u64,
    ) {
        space.insert(Area::object(at, pages * PAGE_SIZE, protection, pager.clone(), first)).unwrap();
    }

    fn leaf(space: &Space, at: u64) -> Option<(bool, bool)> {
        space
            .tables()
            .leaf(at)
            .filter(|leaf| leaf.entry & 1 != 0)
            .map(|leaf| (leaf.large, leaf.entry & NX != 0))
    }

    #[test]
    fn headers_text_and_constants_of_a_file_share_a_large_page() {
        let pager: Rc<dyn Pager> = Rc::new(File(1000));
        let mut space = space();
        map(&mut space, TEXT, 31, Protection::READ, &pager, 0);
        map(&mut space, TEXT + 31 * PAGE_SIZE, 969, Protection::READ | Protection::EXECUTE, &pager, 31);
        space.fault(TEXT + 5 * PAGE_SIZE, Access::Read).unwrap();
        assert_eq!(leaf(&space, TEXT + 511 * PAGE_SIZE), Some((true, false)));
        // The second one is not whole.
        space.fault(TEXT + 600 * PAGE_SIZE, Access::Execute).unwrap();
        assert_eq!(leaf(&space, TEXT + 600 * PAGE_SIZE), Some((false, false)));
        // A part that is protected anew gets rights of its own, and a child has the same pages.
        let child = space.fork().unwrap();
        assert_eq!(leaf(&child, TEXT), Some((true, false)));
        space.protect(TEXT, 2 * PAGE_SIZE, Protection::READ).unwrap();
        assert_eq!(leaf(&space, TEXT), Some((false, true)));
        assert_eq!(leaf(&space, TEXT + 9 * PAGE_SIZE), Some((false, false)));
        space.unmap(TEXT, 40 * PAGE_SIZE).unwrap();
        assert_eq!(leaf(&space, TEXT), None);
        assert_eq!(leaf(&child, TEXT), Some((true, false)));
    }

    #[test]
    fn a_capture_splits_memory_and_may_leave_large_text() {
        let pager: Rc<dyn Pager> = Rc::new(File(1000));
        let mut space = space();
        map(&mut space, TEXT, 1000, Protection::READ | Protection::EXECUTE, &pager, 0);
        space.fault(TEXT, Access::Execute).unwrap();
        let memory = 0x10_0000_0000;
        let rights = Protection::READ | Protection::WRITE;
        space.insert(Area::anonymous(memory, 16 << 20, rights)).unwrap();
        space.fault(memory, Access::Write).unwrap();
        assert_eq!(leaf(&space, memory), Some((true, true)));
        space.split_all(true).unwrap();
        assert_eq!(leaf(&space, memory), Some((false, true)));
        assert_eq!(leaf(&space, TEXT), Some((true, false)));
        let mut told = 0;
        space.classify_pages(&mut |_, _| told += 1);
        assert_eq!(told, 512);
        assert_eq!(leaf(&space, TEXT), Some((true, false)), "as classes are told, too");
        space.split_all(false).unwrap();
        assert_eq!(leaf(&space, TEXT), Some((false, false)));
    }

    #[test]
    fn nothing_else_gets_one() {
        let pager: Rc<dyn Pager> = Rc::new(File(2000));
        let text = Protection::READ | Protection::EXECUTE;
        for (at, protection, first) in
            [(TEXT + PAGE_SIZE, text, 0), (TEXT, text, 1), (TEXT, text | Protection::WRITE, 0)]
        {
            let mut space = space();
            map(&mut space, at, 1000, protection, &pager, first);
            space.fault(at + 600 * PAGE_SIZE, Access::Read).unwrap();
            assert!(!leaf(&space, at + 600 * PAGE_SIZE).unwrap().0, "{at:#x} {first}");
        }
        // Data between the text: a writable area.
        let mut space = space();
        map(&mut space, TEXT, 512, text, &pager, 0);
        map(&mut space, TEXT + 100 * PAGE_SIZE, 1, Protection::READ | Protection::WRITE, &pager, 100);
        space.fault(TEXT, Access::Read).unwrap();
        assert!(!leaf(&space, TEXT).unwrap().0);
    }

    #[test]
    fn a_large_file_is_placed_so_that_it_can() {
        let pager: Rc<dyn Pager> = Rc::new(File(2000));
        let space = space();
        for first in [0, 7] {
            let at = space.place_file(Placement::Hint(0), 1500 * PAGE_SIZE, &pager, first).unwrap();
            assert_eq!((FILE + first * PAGE_SIZE).wrapping_sub(at) % LARGE_PAGE_SIZE, 0);
        }
        assert_eq!(space.place_file(Placement::Hint(TEXT), 1500 * PAGE_SIZE, &pager, 0), Ok(TEXT));
    }
}
