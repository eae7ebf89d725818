//! Where the parts of a new program lie: chosen by chance at every execve(2), with as many bits as Linux gives x86-64 programs.
//!
//! Only what is executed anew is moved. fork(2) copies a layout, and so does a snapshot: all clones of one snapshot have the layout of the program that was captured
//! (docs/snapshots.md).

use super::stack::STACK_TOP;
use crate::mem::space::MMAP_TOP;
use crate::random::Random;
use seuss_abi::layout::{LARGE_PAGE_SIZE, PAGE_SIZE, USER_END};

/// Where a position-independent executable is loaded at the lowest (ELF_ET_DYN_BASE): two thirds of the address space.
pub const PROGRAM_BASE: u64 = 0x5555_5540_0000;
/// How far up it is moved: 28 bits of pages (mmap_rnd_bits), 1 TiB.
const PROGRAM_RANGE: u64 = 1 << 40;
/// How far down the region of mmap(2) is moved: as much.
const MMAP_RANGE: u64 = 1 << 40;
/// How far down the stack is moved: 22 bits of pages (STACK_RND_MASK), 16 GiB.
const STACK_RANGE: u64 = 1 << 34;
/// How far below the stack's top its strings end, at the most, in steps of 16 bytes (arch_align_stack).
const STACK_SKEW: u64 = 8192;
/// How far above the program's end the heap begins, at the most (arch_randomize_brk).
const HEAP_RANGE: u64 = 1 << 30;
/// Least distance from the lowest possible stack's top down to the region of mmap(2) (MIN_GAP): a stack of the usual size fits.
const STACK_GAP: u64 = 128 << 20;

/// A layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// End of the stack (exclusive), a multiple of the page size.
    pub stack_top: u64,
    /// Bytes that are left free at the stack's top, a multiple of 16.
    pub stack_skew: u64,
    /// Top of the region that mmap(2) fills downwards, a multiple of the page size.
    pub mmap_top: u64,
    /// Where a position-independent executable goes, a multiple of the page size.
    pub program: u64,
    /// Bytes between the program's end and the heap, a multiple of the page size.
    pub heap_gap: u64,
    /// Which of the places above the stack the vDSO gets; `None`: it goes where mmap(2) would put it.
    pub vdso: Option<u64>,
}

impl Layout {
    /// Nothing is left to chance (ADDR_NO_RANDOMIZE of personality(2)).
    pub const FIXED: Self = Self {
        stack_top: STACK_TOP,
        stack_skew: 0,
        mmap_top: MMAP_TOP,
        program: PROGRAM_BASE,
        heap_gap: 0,
        vdso: None,
    };

    /// A layout by chance, for a stack of `stack_bytes`.
    #[must_use]
    pub fn random(random: &Random, stack_bytes: u64) -> Self {
        let pages = |range: u64| random.next_u64() % (range / PAGE_SIZE) * PAGE_SIZE;
        let gap = STACK_RANGE + stack_bytes.max(STACK_GAP).next_multiple_of(PAGE_SIZE);
        Self {
            stack_top: STACK_TOP - pages(STACK_RANGE),
            stack_skew: (random.next_u64() % STACK_SKEW) & !15,
            mmap_top: STACK_TOP - gap - pages(MMAP_RANGE),
            program: PROGRAM_BASE + pages(PROGRAM_RANGE),
            heap_gap: pages(HEAP_RANGE),
            vdso: Some(random.next_u64()),
        }
    }

    /// An address for `len` bytes of vDSO: above the stack, in the 2 MiB of its end, so that it costs no page table. `None`: there is no room.
    #[must_use]
    pub fn place_vdso(&self, len: u64) -> Option<u64> {
        let choice = self.vdso?;
        let end = (self.stack_top + len).next_multiple_of(LARGE_PAGE_SIZE).min(USER_END);
        let room = end.checked_sub(self.stack_top + len)?;
        Some(self.stack_top + choice % (room / PAGE_SIZE + 1) * PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use seuss_abi::layout::{DIRECT_BASE, KERNEL_END};

    #[test]
    fn parts_lie_apart_wherever_they_are() {
        for seed in 0..=255 {
            let random = Random::new(&[seed; 64]);
            for stack_bytes in [256 << 10, 8 << 20, 1 << 30] {
                let layout = Layout::random(&random, stack_bytes);
                let Layout { stack_top, stack_skew, mmap_top, program, heap_gap, .. } = layout;
                assert!(
                    [stack_top, mmap_top, program, heap_gap].iter().all(|at| at.is_multiple_of(PAGE_SIZE))
                );
                assert!(stack_skew.is_multiple_of(16) && stack_skew < STACK_SKEW);
                assert!(stack_top <= STACK_TOP && mmap_top <= stack_top - stack_bytes, "{layout:x?}");
                assert!(mmap_top > KERNEL_END + (1 << 44), "{layout:x?}");
                assert!(program >= PROGRAM_BASE && program + (4 << 40) < DIRECT_BASE, "{layout:x?}");
                let vdso = layout.place_vdso(2 * PAGE_SIZE);
                let above = |at: u64| at >= stack_top && at + 2 * PAGE_SIZE <= USER_END;
                assert!(vdso.is_none_or(above), "{layout:x?} {vdso:x?}");
                assert!(vdso.is_some() || stack_top + 2 * PAGE_SIZE > USER_END);
            }
        }
    }

    #[test]
    fn all_bits_are_left_to_chance() {
        let random = Random::new(&[7; 64]);
        let layouts: Vec<Layout> = (0..4000).map(|_| Layout::random(&random, 8 << 20)).collect();
        // Of n equally probable values, m draws show about n (1 - e^(-m/n)).
        let values = |part: fn(&Layout) -> u64| layouts.iter().map(part).collect::<BTreeSet<u64>>().len();
        assert!(values(|layout| layout.program) > 3990);
        assert!(values(|layout| layout.mmap_top) > 3990);
        assert!(values(|layout| layout.stack_top) > 3950);
        assert!(values(|layout| layout.heap_gap) > 3900);
        assert_eq!(values(|layout| layout.stack_skew), 512);
        assert!(values(|layout| layout.place_vdso(PAGE_SIZE).unwrap_or_default() - layout.stack_top) > 300);
        // And each part by itself: the same program address twice does not tell the others.
        let distances = values(|layout| layout.stack_top - layout.mmap_top);
        assert!(distances > 3990, "{distances}");
    }
}
