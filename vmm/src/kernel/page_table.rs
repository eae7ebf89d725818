//! The first page tables: 4-level paging (SDM vol. 3, 4.5), written into the private window before the first entry.
//!
//! Every entry has U=1 because everything runs at CPL 3, and A (and D where writable) set already: a shadow-paging KVM
//! would otherwise fault once more to set them. After the first entry only the guest writes page tables (a shadow MMU
//! does not see the VMM's writes).

use seuss_abi::layout::{
    DIRECT_BASE, IMAGE_GPA, IMAGES_BYTES_MAPPED, LARGE_PAGE_SIZE, LAYER_GPA, LAYERS_BYTES_MAX, PAGE_SIZE,
    PRIVATE_GPA,
};

use super::KernelImage;
use crate::memory::{Gpa, Gva, Memory, Window};

/// Entry bits (SDM vol. 3, table 4-15 and following).
pub(crate) mod bits {
    pub(crate) const PRESENT: u64 = 1;
    pub(crate) const WRITE: u64 = 1 << 1;
    pub(crate) const USER: u64 = 1 << 2;
    pub(crate) const ACCESSED: u64 = 1 << 5;
    pub(crate) const DIRTY: u64 = 1 << 6;
    /// In a page directory: the entry maps a large page.
    pub(crate) const LARGE: u64 = 1 << 7;
    pub(crate) const NO_EXECUTE: u64 = 1 << 63;
    /// Address bits of an entry.
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

const ENTRIES: u64 = 512;

/// What may be done with a mapped page, besides reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

impl Access {
    pub(crate) const READ: Self = Self { write: false, execute: false };
    pub(crate) const WRITE: Self = Self { write: true, execute: false };

    fn leaf_bits(self) -> u64 {
        let write = if self.write { bits::WRITE | bits::DIRTY } else { 0 };
        let execute = if self.execute { 0 } else { bits::NO_EXECUTE };
        bits::PRESENT | bits::USER | bits::ACCESSED | write | execute
    }
}

/// Size of the pages of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageSize {
    Small,
    Large,
}

impl PageSize {
    fn bytes(self) -> u64 {
        match self {
            Self::Small => PAGE_SIZE,
            Self::Large => LARGE_PAGE_SIZE,
        }
    }

    /// Level of the table that holds the leaves, 0 = page table.
    fn leaf_level(self) -> u32 {
        match self {
            Self::Small => 0,
            Self::Large => 1,
        }
    }
}

/// The private window is too small for the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page tables do not fit below gpa {end}")]
pub(crate) struct OutOfFrames {
    end: Gpa,
}

/// Builds page tables at the low end of free private memory.
pub(crate) struct PageTables<'m> {
    private: &'m Window,
    root: Gpa,
    next: Gpa,
}

impl<'m> PageTables<'m> {
    /// An empty root at `at`, which is page-aligned free memory; further tables follow it.
    pub(crate) fn new(memory: &'m Memory, at: Gpa) -> Result<Self, OutOfFrames> {
        let mut tables = Self { private: memory.private(), root: at, next: at };
        tables.root = tables.take()?;
        Ok(tables)
    }

    /// The PML4.
    pub(crate) fn root(&self) -> Gpa {
        self.root
    }

    /// First byte after the tables.
    pub(crate) fn end(&self) -> Gpa {
        self.next
    }

    fn take(&mut self) -> Result<Gpa, OutOfFrames> {
        let frame = self.next;
        let taken = self.private.store(frame, [0_u64; ENTRIES as usize]);
        taken.ok_or(OutOfFrames { end: self.private.gpa().plus(self.private.len_bytes()) })?;
        self.next = frame.plus(PAGE_SIZE);
        Ok(frame)
    }

    fn entry(table: Gpa, gva: Gva, level: u32) -> Gpa {
        table.plus(((gva.0 >> (12 + 9 * level)) % ENTRIES) * 8)
    }

    /// The table at `level` that covers `gva`, made if it is missing. Upper entries allow everything; the leaves
    /// decide.
    fn table(&mut self, gva: Gva, level: u32) -> Result<Gpa, OutOfFrames> {
        let mut table = self.root;
        for upper in (level + 1..=3).rev() {
            let at = Self::entry(table, gva, upper);
            let found: u64 = self.private.load(at).unwrap_or(0);
            table = if found & bits::PRESENT == 0 {
                let fresh = self.take()?;
                self.private.store(at, fresh.0 | bits::PRESENT | bits::WRITE | bits::USER | bits::ACCESSED);
                fresh
            } else {
                Gpa(found & bits::ADDRESS)
            };
        }
        Ok(table)
    }

    /// Map `len_bytes` from `gva` to `gpa`. All three are multiples of the page size; a length that is not is rounded
    /// up.
    pub(crate) fn map(
        &mut self,
        gva: Gva,
        gpa: Gpa,
        len_bytes: u64,
        size: PageSize,
        access: Access,
    ) -> Result<(), OutOfFrames> {
        let large = if size == PageSize::Large { bits::LARGE } else { 0 };
        let mut done = 0;
        while done < len_bytes {
            let table = self.table(gva.plus(done), size.leaf_level())?;
            let mut at = Self::entry(table, gva.plus(done), size.leaf_level());
            let end = table.plus(PAGE_SIZE);
            while at < end && done < len_bytes {
                self.private.store(at, gpa.plus(done).0 | access.leaf_bits() | large);
                at = at.plus(8);
                done += size.bytes();
            }
        }
        Ok(())
    }
}

/// The first address space: the direct map of every window, and `kernel` (loaded at the start of the private window)
/// at its link address. The PML4 is the first page after the image. With `other_images` there is room for the images of clones that have more.
pub(crate) fn build<'m>(
    memory: &'m Memory,
    kernel: &KernelImage,
    other_images: bool,
) -> Result<PageTables<'m>, OutOfFrames> {
    let mut tables = PageTables::new(memory, Gpa(PRIVATE_GPA + kernel.len_bytes()))?;
    for segment in kernel.segments() {
        let (start, end) = segment.pages();
        tables.map(start, KernelImage::gpa(start), end.0 - start.0, PageSize::Small, segment.access)?;
    }
    let direct = |window: &Window| (Gva(DIRECT_BASE + window.gpa().0), window.gpa(), window.len_bytes());
    let (gva, gpa, len_bytes) = direct(memory.comm());
    tables.map(gva, gpa, len_bytes, PageSize::Small, Access::WRITE)?;
    let (gva, gpa, len_bytes) = direct(memory.private());
    tables.map(gva, gpa, len_bytes, PageSize::Large, Access::WRITE)?;
    // Whatever layers this guest's clones will have: what is not there is not touched.
    tables.map(
        Gva(DIRECT_BASE + LAYER_GPA),
        Gpa(LAYER_GPA),
        LAYERS_BYTES_MAX,
        PageSize::Large,
        Access::READ,
    )?;
    for (gva, gpa, len_bytes) in memory.images().iter().map(|window| direct(window)) {
        tables.map(gva, gpa, len_bytes, PageSize::Large, Access::READ)?;
    }
    let end = memory.images().last().map_or(Gpa(IMAGE_GPA), |last| last.gpa().plus(last.len_bytes()));
    let end = Gpa(end.0.next_multiple_of(LARGE_PAGE_SIZE));
    if let Some(room @ 1..) = (IMAGE_GPA + IMAGES_BYTES_MAPPED).checked_sub(end.0).filter(|_| other_images) {
        tables.map(Gva(DIRECT_BASE + end.0), end, room, PageSize::Large, Access::READ)?;
    }
    Ok(tables)
}
