//! System-call sites as jumps (decisions/0005).
//!
//! `syscall` is dear where KVM must emulate it (26-52 us on kvm_pvm here, against 0.1 us for a jump into the library OS, which shares the
//! application's address space). A site that has trapped twice becomes a jump to a trampoline, which does what the CPU does (rcx = return address, flags
//! in r11) and jumps to the fast entry. Two forms:
//!
//! - `mov eax, NUMBER; syscall` has room for a jump: `jmp TRAMPOLINE; syscall`. The last two bytes stay, so that a thread that stands between the two
//!   instructions, and a call that starts again after a signal, work as before.
//! - Any other `syscall` has two bytes: they become a short jump to a long one, which lies in padding nearby ([`padding`]).
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

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Bytes of the long form of a site: `mov eax, imm32` and `syscall`.
const LONG_BYTES: u64 = 7;
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
/// The count of a site that cannot be patched.
const HOPELESS: u8 = u8::MAX;
/// Bytes of a jump with a 32-bit displacement.
const JUMP_BYTES: u64 = 5;
/// How far a short jump reaches, from its end.
const SHORT_REACH: u64 = 127;

/// What an address space knows of its system-call sites.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// Traps by the address behind the `syscall`.
    traps: BTreeMap<u64, u8>,
    /// Trampoline pages: address, slots used.
    pages: Vec<(u64, u64)>,
}

impl Sites {
    /// Whether the site that ends at `end` has now trapped often enough.
    fn count(&mut self, end: u64) -> bool {
        if self.traps.len() >= SITES_MAX && !self.traps.contains_key(&end) {
            return false;
        }
        let traps = self.traps.entry(end).or_default();
        if *traps == HOPELESS {
            return false;
        }
        *traps += 1;
        *traps >= TRAPS_BEFORE
    }
}

impl Kernel {
    /// A system call came through the trap: turn its site into a jump if that is worth it and safe.
    pub(super) fn consider_site(&self, thread: &Rc<Thread>, number: u64) {
        let end = thread.registers().rip;
        let space = thread.process.space();
        let mut space = space.borrow_mut();
        if !space.sites.count(end) {
            return;
        }
        if !patch_long(&mut space, end, number) && patch_short(&mut space, end).is_none() {
            space.sites.traps.insert(end, HOPELESS);
        }
    }
}

fn is_program_text(area: &Area) -> bool {
    !area.shared
        && matches!(area.backing, Backing::Object { .. })
        && area.protection == Protection::READ | Protection::EXECUTE
}

/// Whether `len` bytes from `start` on lie in one page of program text.
fn is_in_text(space: &Space, start: u64, len: u64) -> bool {
    start % PAGE_SIZE + len <= PAGE_SIZE && space.area_at(start).is_some_and(is_program_text)
}

/// Patch `mov eax, number; syscall` that ends at `end`; returns whether that was done.
fn patch_long(space: &mut Space, end: u64, number: u64) -> bool {
    let site = end.wrapping_sub(LONG_BYTES);
    let Ok(number) = u32::try_from(number) else { return false };
    if !is_in_text(space, site, LONG_BYTES) {
        return false;
    }
    let [a, b, c, d] = number.to_le_bytes();
    let mut code = [0; LONG_BYTES as usize];
    if space.read(site, &mut code).is_err() || code != [0xb8, a, b, c, d, SYSCALL[0], SYSCALL[1]] {
        return false;
    }
    make_trampoline(space, end, Some(number))
        .and_then(|slot| jump(site, slot))
        .is_some_and(|jump| space.write_code(site, &jump).is_ok())
}

/// Patch the two bytes of the `syscall` that ends at `end`; `None` if that cannot be done.
fn patch_short(space: &mut Space, end: u64) -> Option<()> {
    let site = end.wrapping_sub(SYSCALL.len() as u64);
    if !is_in_text(space, site, SYSCALL.len() as u64) {
        return None;
    }
    let mut code = [0; 2];
    space.read(site, &mut code).ok().filter(|()| code == SYSCALL)?;
    let place = padding_near(space, end)?;
    let slot = make_trampoline(space, end, None)?;
    space.write_code(place, &jump(place, slot)?).ok()?;
    let distance = i8::try_from(place.wrapping_sub(end).cast_signed()).ok()?;
    space.write_code(site, &[0xeb, distance.to_le_bytes()[0]]).ok()
}

/// `jmp to`, at `from`, if it reaches.
fn jump(from: u64, to: u64) -> Option<[u8; JUMP_BYTES as usize]> {
    let distance = i32::try_from(to.wrapping_sub(from + JUMP_BYTES).cast_signed()).ok()?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

/// Where a long jump can lie that a short one which ends at `end` reaches: the nearest such place.
fn padding_near(space: &mut Space, end: u64) -> Option<u64> {
    let area = space.area_at(end - 1)?;
    let from = end.saturating_sub(SHORT_REACH).max(area.start);
    // The padding's own bytes after the place may lie further.
    let to = (end + SHORT_REACH + JUMP_BYTES).min(area.end);
    let mut code = [0; (2 * SHORT_REACH + JUMP_BYTES) as usize];
    let code = code.get_mut(..usize::try_from(to.checked_sub(from)?).ok()?)?;
    space.read(from, code).ok()?;
    let places = (0..code.len()).filter_map(|at| Some(from + at as u64 + padding(&code[at..])?));
    let reaches = |place: &u64| place.wrapping_sub(end).cast_signed() <= SHORT_REACH.cast_signed();
    places
        .filter(|place| reaches(place) && is_in_text(space, *place, JUMP_BYTES))
        .min_by_key(|place| place.abs_diff(end))
}

/// How far into `code`, if it begins with padding, a jump of five bytes can lie without changing what the padding does.
///
/// - `nop [rax + rax + 0]` in eight bytes (0f 1f 84, SIB, 32-bit displacement; prefixes before it or not): any five bytes after the third are a SIB and a
///   displacement, and no nop reads memory. So it still is a nop for whoever runs it from its start, say where it aligns a loop, and a jump for
///   whoever enters at its fourth byte. No thread stands in the middle of an instruction.
/// - nine `int3`: nobody runs them, and the first four may be the operand of what is before.
fn padding(code: &[u8]) -> Option<u64> {
    const NOP: [u8; 8] = [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
    if code.starts_with(&NOP) {
        Some(3)
    } else if code.starts_with(&[0xcc; 9]) {
        Some(4)
    } else {
        None
    }
}

/// Put a trampoline for the site that ends at `end` within reach of it; it sets eax to `number` if there is one.
fn make_trampoline(space: &mut Space, end: u64, number: Option<u32>) -> Option<u64> {
    let slot = take_slot(space, end)?;
    space.write_code(slot, &trampoline(slot, end, number)).ok()?;
    Some(slot)
}

/// `mov eax, number` if there is one; `lea rcx, [rip + back]; movabs r11, ENTRY_FAST; jmp r11`.
fn trampoline(at: u64, back: u64, number: Option<u32>) -> Vec<u8> {
    let mut code = Vec::with_capacity(SLOT_BYTES as usize);
    if let Some(number) = number {
        code.push(0xb8);
        code.extend_from_slice(&number.to_le_bytes());
    }
    code.extend_from_slice(&[0x48, 0x8d, 0x0d]);
    let next = at + code.len() as u64 + 4;
    code.extend_from_slice(&(back.wrapping_sub(next) as u32).to_le_bytes());
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
    // Where mmap would put it, if that is near (shared libraries); else below the program, out of the heap's way.
    let page = space.place(Placement::Hint(0), PAGE_SIZE).ok().filter(|page| near(*page));
    let page = page.or_else(|| space.find_free_below(PAGE_SIZE, site)).filter(|page| near(*page))?;
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
        assert!(patch_long(&mut space, TEXT + 0x107, 39));
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
        assert!(!patch_long(&mut space, TEXT + 0x107, 39));
    }

    #[test]
    fn other_code_is_left_alone() {
        let mut space = space_with_text(&[0xb8, 39, 0, 0, 0, 0x0f, 0x06]);
        assert!(!patch_long(&mut space, TEXT + 0x107, 39));
        let mut space = space_with_text(&[0xb8, 40, 0, 0, 0, 0x0f, 0x05]);
        assert!(!patch_long(&mut space, TEXT + 0x107, 39));
        space.protect(TEXT, PAGE_SIZE, Protection::all()).unwrap();
        assert!(!patch_long(&mut space, TEXT + 0x107, 40));
    }

    #[test]
    fn the_parents_code_stays_when_the_child_is_patched() {
        let mut parent = space_with_text(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        let mut child = parent.fork().unwrap();
        assert!(patch_long(&mut child, TEXT + 0x107, 39));
        let mut site = [0; 7];
        parent.read(TEXT + 0x100, &mut site).unwrap();
        assert_eq!(site[0], 0xb8);
    }

    /// `xor eax, eax; syscall; cmp; ret`, and 8 bytes of padding with a prefix.
    const SHORT: [u8; 19] =
        [0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xc3, 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];

    #[test]
    fn a_short_site_jumps_through_padding() {
        let mut space = space_with_text(&SHORT);
        let end = TEXT + 0x104;
        assert_eq!(patch_short(&mut space, end), Some(()));
        let mut code = SHORT;
        space.read(TEXT + 0x100, &mut code).unwrap();
        let place = 14;
        assert_eq!(code[2..4], [0xeb, place as u8 - 4]);
        // Still a nop with its prefix, opcode and form; inside it the jump.
        assert_eq!((&code[..2], &code[4..14], code[place]), (&SHORT[..2], &SHORT[4..14], 0xe9));
        let distance = i32::from_le_bytes(code[place + 1..].try_into().unwrap());
        let slot = (TEXT + 0x100 + place as u64 + 5).wrapping_add_signed(distance.into());
        let mut code = [0; 20];
        space.read(slot, &mut code).unwrap();
        assert_eq!(code[..3], [0x48, 0x8d, 0x0d]);
        let back = i32::from_le_bytes(code[3..7].try_into().unwrap());
        assert_eq!((slot + 7).wrapping_add_signed(back.into()), end);
        assert_eq!(u64::from_le_bytes(code[9..17].try_into().unwrap()), ENTRY_FAST);
        assert_eq!(patch_short(&mut space, end), None, "it is no site any more");
    }

    #[test]
    fn padding_serves_one_site_and_must_be_near() {
        let mut space = space_with_text(&[&SHORT[..4], &SHORT[..]].concat());
        assert_eq!(patch_short(&mut space, TEXT + 0x104), Some(()));
        assert_eq!(patch_short(&mut space, TEXT + 0x108), None);
        for (gap, expected) in [(100, Some(())), (120, Some(())), (130, None)] {
            let code = [&SHORT[..4], &vec![0x90; gap], &[0xcc; 9]].concat();
            let mut space = space_with_text(&code);
            assert_eq!(patch_short(&mut space, TEXT + 0x104), expected, "{gap}");
        }
        let mut before = space_with_text(&[&[0xcc; 9], &SHORT[..4]].concat());
        assert_eq!(patch_short(&mut before, TEXT + 0x10d), Some(()));
        let mut code = [0; 13];
        before.read(TEXT + 0x100, &mut code).unwrap();
        assert_eq!((&code[..5], &code[11..]), (&[0xcc, 0xcc, 0xcc, 0xcc, 0xe9][..], &[0xeb, 0xf7][..]));
    }

    #[test]
    fn a_hopeless_site_is_counted_no_more() {
        let mut sites = Sites::default();
        sites.traps.insert(1, HOPELESS);
        assert!(!sites.count(1) && !sites.count(1));
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
