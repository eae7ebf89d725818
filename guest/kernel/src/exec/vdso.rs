//! The vDSO of every process: clocks without a system call (vdso(7)). The image carries it as a ready shared object.

use super::layout::Layout;
use crate::errno::{Errno, Result};
use crate::exec::symbols::Object;
use crate::mem::area::{Area, Backing, Placement, Protection};
use crate::mem::frames::{Frame, Frames};
use crate::mem::pager::{MappedPage, Pager};
use crate::mem::space::Space;
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

/// The function that makes calls for the library OS (`crate::kernel::renew`).
const RENEW: &[u8] = b"__seuss_renew";

/// The pages of the shared object.
pub struct Vdso {
    pages: Vec<Frame>,
    /// Where [`RENEW`] lies in it.
    renew: Option<u64>,
}

impl Vdso {
    /// Copy the object into frames. An empty one means that there is none.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(frames: &Frames, object: &[u8]) -> Result<Rc<Self>> {
        let mut pages = Vec::new();
        for chunk in object.chunks(PAGE_SIZE as usize) {
            let frame = frames.allocate_kernel().ok_or(Errno::ENOMEM)?;
            frames.write(frame.gpa(), chunk);
            pages.push(frame);
        }
        let renew = Object::read(&object).and_then(|object| object.function(RENEW));
        Ok(Rc::new(Self { pages, renew }))
    }

    /// The address in `space` of the function that makes calls for the library OS, if the program has left it where it was.
    #[must_use]
    pub fn entry(self: &Rc<Self>, space: &Space) -> Option<u64> {
        let is_own = |area: &&Area| match &area.backing {
            Backing::Object { pager, first_page: 0 } => {
                core::ptr::addr_eq(Rc::as_ptr(pager), Rc::as_ptr(self))
            }
            _ => false,
        };
        let area = space.areas().find(is_own).filter(|area| area.end - area.start == self.len_bytes())?;
        area.protection.contains(Protection::EXECUTE).then_some(())?;
        Some(area.start + self.renew?)
    }

    /// Map it into `space`; returns the address for AT_SYSINFO_EHDR, 0 without a vDSO.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn map(self: &Rc<Self>, space: &mut Space, layout: &Layout) -> Result<u64> {
        if self.pages.is_empty() {
            return Ok(0);
        }
        let len = self.len_bytes();
        let at = space.place(Placement::Hint(layout.place_vdso(len).unwrap_or(0)), len)?;
        space.insert(Area::object(at, len, Protection::READ | Protection::EXECUTE, self.clone(), 0))?;
        Ok(at)
    }
}

impl Pager for Vdso {
    fn page(&self, index: u64, _write: bool) -> Result<MappedPage> {
        let page = usize::try_from(index).ok().and_then(|index| self.pages.get(index));
        Ok(page.map_or(MappedPage::BeyondEnd, |frame| MappedPage::Frame(frame.clone())))
    }

    fn name(&self) -> Vec<u8> {
        b"[vdso]".to_vec()
    }

    fn identity(&self) -> (u64, u64) {
        (0, 0)
    }

    fn len_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_SIZE
    }
}
