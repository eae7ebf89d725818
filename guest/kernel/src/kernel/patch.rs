//! System-call sites as jumps (decisions/0005).
//!
//! `syscall` is dear where KVM must emulate it (52 us on kvm_pvm here, against 0.1 us for a jump into the library OS, which shares the application's
//! address space). Most sites are `mov eax, NUMBER; syscall`. One that has trapped twice becomes `jmp TRAMPOLINE; syscall`: the last two bytes
//! stay, so that a thread that stands between the two instructions, and a call that starts again after a signal, work as before. The trampoline does what the
//! CPU does (rcx = return address, flags in r11) and jumps to the fast entry.
//!
//! Only private, read-only, executable file mappings are touched, in this process' own copy of the page; data that looks like a site but never
//! trapped is never touched.

use super::Kernel;
use crate::mem::area::{Area, Backing, Placement, Protection};
use crate::mem::space::Space;
use crate::task::thread::Thread;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::layout::{ENTRY_FAST, PAGE_SIZE};

/// Bytes of a site: `mov eax, imm32` and `syscall`.
const SITE_BYTES: u64 = 7;
/// Bytes of a trampoline.
const SLOT_BYTES: u64 = 32;
/// Trampolines in a page.
const SLOTS: u64 = PAGE_SIZE / SLOT_BYTES;
/// Most pages of trampolines in one address space.
const PAGES_MAX: usize = 16;
/// Most sites whose traps are counted.
const SITES_MAX: usize = 4096;
/// Traps of a site before it is patched.
const TRAPS_BEFORE: u8 = 2;

/// What an address space knows of its system-call sites.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    traps: BTreeMap<u64, u8>,
    /// Trampoline pages: address, slots used.
    pages: Vec<(u64, u64)>,
}

impl Sites {
    /// Whether the site has now trapped often enough.
    fn count(&mut self, site: u64) -> bool {
        if self.traps.len() >= SITES_MAX && !self.traps.contains_key(&site) {
            return false;
        }
        let traps = self.traps.entry(site).or_default();
        *traps = traps.saturating_add(1);
        *traps >= TRAPS_BEFORE
    }
}

impl Kernel {
    /// A system call came through the trap: turn its site into a jump if that is worth it and safe.
    pub(super) fn consider_site(&self, thread: &Rc<Thread>, number: u64) {
        let end = thread.registers().rip;
        let site = end.wrapping_sub(SITE_BYTES);
        if site % PAGE_SIZE > PAGE_SIZE - SITE_BYTES || number > u64::from(u32::MAX) {
            return;
        }
        let space = thread.process.space();
        let mut space = space.borrow_mut();
        if !space.sites.count(site) {
            return;
        }
        patch(&mut space, site, number as u32);
    }
}

fn is_program_text(area: &Area) -> bool {
    !area.shared
        && matches!(area.backing, Backing::Object { .. })
        && area.protection == Protection::READ | Protection::EXECUTE
}

/// Patch a site of system call `number`; returns whether that was done.
fn patch(space: &mut Space, site: u64, number: u32) -> bool {
    if !space.area_at(site).is_some_and(is_program_text) {
        return false;
    }
    let [a, b, c, d] = number.to_le_bytes();
    let mut code = [0; SITE_BYTES as usize];
    if space.read(site, &mut code).is_err() || code != [0xb8, a, b, c, d, 0x0f, 0x05] {
        return false;
    }
    let Some(slot) = take_slot(space, site) else { return false };
    let jump = (slot.wrapping_sub(site + 5)).cast_signed();
    let Ok(jump) = i32::try_from(jump) else { return false };
    if space.write_code(slot, &trampoline(slot, site + SITE_BYTES, number)).is_err() {
        return false;
    }
    let [a, b, c, d] = jump.to_le_bytes();
    space.write_code(site, &[0xe9, a, b, c, d]).is_ok()
}

/// `mov eax, number; lea rcx, [rip + back]; movabs r11, ENTRY_FAST; jmp r11`.
fn trampoline(at: u64, back: u64, number: u32) -> Vec<u8> {
    let mut code = Vec::with_capacity(SLOT_BYTES as usize);
    code.push(0xb8);
    code.extend_from_slice(&number.to_le_bytes());
    code.extend_from_slice(&[0x48, 0x8d, 0x0d]);
    code.extend_from_slice(&(back.wrapping_sub(at + 12) as u32).to_le_bytes());
    code.extend_from_slice(&[0x49, 0xbb]);
    code.extend_from_slice(&ENTRY_FAST.to_le_bytes());
    code.extend_from_slice(&[0x41, 0xff, 0xe3]);
    code
}

/// A free trampoline within reach of a jump from `site`.
fn take_slot(space: &mut Space, site: u64) -> Option<u64> {
    const REACH: u64 = 1 << 30;
    let near = |page: u64| page.abs_diff(site) < REACH;
    if let Some((page, used)) = space.sites.pages.iter_mut().find(|(page, used)| near(*page) && *used < SLOTS)
    {
        let slot = *page + *used * SLOT_BYTES;
        *used += 1;
        return Some(slot);
    }
    if space.sites.pages.len() >= PAGES_MAX {
        return None;
    }
    // Where mmap would put it, if that is near (shared libraries); else well above the program and its heap.
    let page = [0, site.saturating_add(REACH / 2) & !(PAGE_SIZE - 1)]
        .into_iter()
        .filter_map(|hint| space.place(Placement::Hint(hint), PAGE_SIZE).ok())
        .find(|page| near(*page))?;
    let mut area = Area::anonymous(page, PAGE_SIZE, Protection::READ | Protection::EXECUTE);
    area.label = "[seuss]";
    space.insert(area).ok()?;
    space.sites.pages.push((page, 1));
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::frames::testing::frames;
    use crate::mem::pager::SharedMemory;

    const TEXT: u64 = 0x40_0000;

    fn space_with_text(code: &[u8]) -> Space {
        let frames = frames(1024, 1);
        let template = frames.allocate_kernel().unwrap().into_gpa();
        let mut space = Space::new(&frames, template).unwrap();
        let pager = Rc::new(SharedMemory::new(&frames, PAGE_SIZE));
        let text = Area::object(TEXT, PAGE_SIZE, Protection::READ | Protection::EXECUTE, pager, 0);
        space.insert(text).unwrap();
        space.write_code(TEXT + 0x100, code).unwrap();
        space
    }

    #[test]
    fn a_site_becomes_a_jump_to_a_trampoline_that_comes_back() {
        let mut space = space_with_text(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        assert!(patch(&mut space, TEXT + 0x100, 39));
        let mut site = [0; 7];
        space.read(TEXT + 0x100, &mut site).unwrap();
        assert_eq!((site[0], &site[5..]), (0xe9, &[0x0f, 0x05][..]));
        let distance = i32::from_le_bytes(site[1..5].try_into().unwrap());
        let slot = (TEXT + 0x105).wrapping_add_signed(i64::from(distance));
        let mut code = [0; 25];
        space.read(slot, &mut code).unwrap();
        assert_eq!(code[..5], [0xb8, 39, 0, 0, 0]);
        let back = i32::from_le_bytes(code[8..12].try_into().unwrap());
        assert_eq!((slot + 12).wrapping_add_signed(i64::from(back)), TEXT + 0x107);
        assert_eq!(u64::from_le_bytes(code[14..22].try_into().unwrap()), ENTRY_FAST);
        // Once patched it is no site any more.
        assert!(!patch(&mut space, TEXT + 0x100, 39));
    }

    #[test]
    fn other_code_is_left_alone() {
        let mut space = space_with_text(&[0xb8, 39, 0, 0, 0, 0x0f, 0x06]);
        assert!(!patch(&mut space, TEXT + 0x100, 39));
        let mut space = space_with_text(&[0xb8, 40, 0, 0, 0, 0x0f, 0x05]);
        assert!(!patch(&mut space, TEXT + 0x100, 39));
        space.protect(TEXT, PAGE_SIZE, Protection::all()).unwrap();
        assert!(!patch(&mut space, TEXT + 0x100, 40));
    }

    #[test]
    fn the_parents_code_stays_when_the_child_is_patched() {
        let mut parent = space_with_text(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        let mut child = parent.fork().unwrap();
        assert!(patch(&mut child, TEXT + 0x100, 39));
        let mut site = [0; 7];
        parent.read(TEXT + 0x100, &mut site).unwrap();
        assert_eq!(site[0], 0xb8);
    }

    #[test]
    fn sites_are_counted_up_to_a_limit() {
        let mut sites = Sites::default();
        assert!(!sites.count(1));
        assert!(sites.count(1));
        (0..2 * SITES_MAX as u64).for_each(|site| {
            sites.count(site << 4);
        });
        assert!(sites.traps.len() <= SITES_MAX);
    }
}
