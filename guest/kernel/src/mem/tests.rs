//! Address spaces against simple models.

use super::area::{Area, Placement, Protection};
use super::frames::Frames;
use super::frames::testing::frames;
use super::pager::SharedMemory;
use super::space::{Access, Fault, MMAP_TOP, Served, Space};
use crate::errno::Errno;
use alloc::rc::Rc;
use proptest::prelude::*;
use seuss_abi::layout::{DIRECT_BASE, LARGE_PAGE_SIZE, PAGE_SIZE};
use std::collections::BTreeMap;

const RW: Protection = Protection::READ.union(Protection::WRITE);
const BASE: u64 = 0x10_0000_0000;

fn space(frames: &Frames) -> Space {
    let template = frames.allocate_kernel().unwrap();
    let space = Space::new(frames, template.gpa()).unwrap();
    // The template stays: spaces copy its entries only when they are made.
    let _ = template.into_gpa();
    space
}

fn map(space: &mut Space, start: u64, pages: u64) {
    space.insert(Area::anonymous(start, pages * PAGE_SIZE, RW)).unwrap();
}

#[test]
fn bad_addresses_are_errors() {
    let frames = frames(1024, 1);
    let mut space = space(&frames);
    map(&mut space, BASE, 2);
    assert_eq!(space.fault(BASE - 1, Access::Read), Err(Fault::NotMapped));
    assert_eq!(space.fault(BASE, Access::Execute), Err(Fault::Denied));
    assert_eq!(space.fault(BASE, Access::Write), Ok(Served::Demand));
    assert_eq!(space.write(DIRECT_BASE, b"x"), Err(Errno::EFAULT));
    assert_eq!(space.write(u64::MAX - 2, b"xxxx"), Err(Errno::EFAULT));
    assert_eq!(space.write_some(BASE + 2 * PAGE_SIZE - 2, b"abcd"), 2);
    assert_eq!(space.read_string(BASE + 2 * PAGE_SIZE - 2, 100, Errno::E2BIG), Err(Errno::EFAULT));
    space.write(BASE, b"text\0").unwrap();
    assert_eq!(space.read_string(BASE, 100, Errno::E2BIG).unwrap(), b"text");
    assert_eq!(space.read_string(BASE, 3, Errno::E2BIG), Err(Errno::E2BIG));
    assert_eq!(space.place(Placement::Fixed(DIRECT_BASE), PAGE_SIZE), Err(Errno::ENOMEM));
    assert_eq!(space.place(Placement::Fixed(1), PAGE_SIZE), Err(Errno::EINVAL));
}

#[test]
fn prot_none_keeps_the_content() {
    let frames = frames(1024, 1);
    let mut space = space(&frames);
    map(&mut space, BASE, 1);
    space.write(BASE, b"kept").unwrap();
    space.protect(BASE, PAGE_SIZE, Protection::empty()).unwrap();
    assert_eq!(space.fault(BASE, Access::Read), Err(Fault::Denied));
    assert_eq!(space.read(BASE, &mut [0]), Err(Errno::EFAULT));
    space.protect(BASE, PAGE_SIZE, RW).unwrap();
    let mut bytes = [0; 4];
    space.read(BASE, &mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
}

#[test]
fn large_areas_get_large_pages_and_split() {
    let frames = frames(4096, 1);
    let mut space = space(&frames);
    let start = BASE & !(LARGE_PAGE_SIZE - 1);
    map(&mut space, start, 1024);
    space.write(start + 5, b"five").unwrap();
    assert!(space.leaf(start).unwrap().large);
    space.unmap(start + PAGE_SIZE, PAGE_SIZE).unwrap();
    assert!(!space.leaf(start).unwrap().large);
    let mut bytes = [0; 4];
    space.read(start + 5, &mut bytes).unwrap();
    assert_eq!(&bytes, b"five");
    assert_eq!(space.read(start + PAGE_SIZE, &mut bytes), Err(Errno::EFAULT));
}

/// VmHWM and ru_maxrss: the peak stays when memory is given back, is a child's own after fork, and moving pages adds nothing.
#[test]
fn resident_memory_has_a_peak() {
    let frames = frames(4096, 1);
    let mut space = space(&frames);
    let start = BASE & !(LARGE_PAGE_SIZE - 1);
    map(&mut space, start, 1024);
    (0..1024).for_each(|page| space.write(start + page * PAGE_SIZE, b"x").unwrap());
    assert_eq!(space.resident_and_peak(), (1024 * PAGE_SIZE, 1024 * PAGE_SIZE));
    space.unmap(start, 1000 * PAGE_SIZE).unwrap();
    assert_eq!(space.resident_and_peak(), (24 * PAGE_SIZE, 1024 * PAGE_SIZE));
    let moved =
        space.remap(start + 1000 * PAGE_SIZE, 24 * PAGE_SIZE, 48 * PAGE_SIZE, true, Some(2 * BASE)).unwrap();
    assert_eq!(space.resident_and_peak(), (24 * PAGE_SIZE, 1024 * PAGE_SIZE));
    assert_eq!(space.resident(moved, moved + 48 * PAGE_SIZE), 24 * PAGE_SIZE);
    let child = space.fork().unwrap();
    assert_eq!(child.resident_and_peak(), (24 * PAGE_SIZE, 24 * PAGE_SIZE));
}

/// A program that fills memory page after page, from an odd address on, still gets large pages for what is left.
#[test]
fn sequential_faults_leave_large_pages_to_come() {
    let frames = frames(8192, 1);
    let mut space = space(&frames);
    let start = (BASE & !(LARGE_PAGE_SIZE - 1)) + LARGE_PAGE_SIZE - 5 * PAGE_SIZE;
    map(&mut space, start, 2048);
    for page in 0..6 {
        let address = start + page * PAGE_SIZE;
        if space.leaf(address).is_none_or(|leaf| leaf.entry & super::paging::P == 0) {
            space.fault(address, Access::Write).unwrap();
        }
    }
    assert!(!space.leaf(start).unwrap().large);
    assert!(space.leaf(start + 5 * PAGE_SIZE).unwrap().large);
}

#[test]
fn everything_is_given_back() {
    let frames = frames(4096, 1);
    let template = frames.allocate_kernel().unwrap();
    let before = frames.available();
    {
        let mut space = Space::new(&frames, template.gpa()).unwrap();
        map(&mut space, BASE, 600);
        map(&mut space, 0x7000_0000_0000, 2048);
        for page in 0..600 {
            space.write(BASE + page * PAGE_SIZE, b"x").unwrap();
        }
        space.write(0x7000_0000_0000, b"y").unwrap();
        let mut child = space.fork().unwrap();
        child.write(BASE, b"z").unwrap();
        let mut byte = [0];
        space.read(BASE, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert!(space.take_stale());
    }
    assert_eq!(frames.available(), before);
}

#[test]
fn memory_runs_out_with_an_error() {
    let frames = frames(512, 1);
    frames.set_reserve(300);
    let mut space = space(&frames);
    map(&mut space, BASE, 1000);
    let full = (0..1000).find(|page| space.fault(BASE + page * PAGE_SIZE, Access::Write).is_err());
    assert!(full.is_some());
    assert_eq!(space.fault(BASE + full.unwrap() * PAGE_SIZE, Access::Write), Err(Fault::OutOfMemory));
    space.discard(BASE, 1000 * PAGE_SIZE).unwrap();
    assert_eq!(space.fault(BASE, Access::Write), Ok(Served::Demand));
}

#[test]
fn shared_memory_is_shared_across_fork() {
    let frames = frames(1024, 1);
    let mut parent = space(&frames);
    let pager = Rc::new(SharedMemory::new(&frames, 4 * PAGE_SIZE));
    let area = Area { shared: true, maybe_written: true, ..Area::object(BASE, 4 * PAGE_SIZE, RW, pager, 0) };
    parent.insert(area).unwrap();
    parent.write(BASE, b"1").unwrap();
    let mut child = parent.fork().unwrap();
    child.write(BASE, b"2").unwrap();
    child.write(BASE + PAGE_SIZE, b"3").unwrap();
    let mut byte = [0];
    parent.read(BASE, &mut byte).unwrap();
    assert_eq!(&byte, b"2");
    parent.read(BASE + PAGE_SIZE, &mut byte).unwrap();
    assert_eq!(&byte, b"3");
}

/// What a random program does. Pages are small numbers in a window of [`WINDOW`] pages.
#[derive(Clone, Debug)]
enum Step {
    Map { at: u64, pages: u64 },
    Unmap { at: u64, pages: u64 },
    Write { at: u64, value: u8 },
    Discard { at: u64, pages: u64 },
    Move { from: u64, pages: u64, to: u64 },
    Fork,
    Switch,
}

const WINDOW: u64 = 1100;

fn step() -> impl Strategy<Value = Step> {
    let range = (0..WINDOW - 600, 1..600u64);
    prop_oneof![
        range.clone().prop_map(|(at, pages)| Step::Map { at, pages }),
        range.clone().prop_map(|(at, pages)| Step::Unmap { at, pages }),
        (0..WINDOW, any::<u8>()).prop_map(|(at, value)| Step::Write { at, value }),
        (0..WINDOW, any::<u8>()).prop_map(|(at, value)| Step::Write { at, value }),
        range.prop_map(|(at, pages)| Step::Discard { at, pages }),
        (0..WINDOW, 1..20u64, 0..WINDOW - 20).prop_map(|(from, pages, to)| Step::Move { from, pages, to }),
        Just(Step::Fork),
        Just(Step::Switch),
    ]
}

/// Mapped pages with the value of their first byte.
type Model = BTreeMap<u64, u8>;

fn check(space: &mut Space, model: &Model) -> Result<(), TestCaseError> {
    let counted = space.resident(0, seuss_abi::layout::USER_END);
    prop_assert_eq!(space.resident_and_peak().0, counted, "resident memory");
    for page in 0..WINDOW {
        let mut byte = [0xee];
        let got = space.read(BASE + page * PAGE_SIZE, &mut byte);
        match model.get(&page) {
            Some(value) => prop_assert_eq!((got, byte[0]), (Ok(()), *value), "page {}", page),
            None => prop_assert_eq!(got, Err(Errno::EFAULT), "page {}", page),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Random programs of map, unmap, write, discard, move and fork leave every process with exactly the bytes that a map of pages predicts, and
    /// all memory is free at the end.
    #[test]
    fn spaces_behave_as_maps_of_pages(steps in proptest::collection::vec(step(), 1..40)) {
        let frames = frames(16384, 1);
        let template = frames.allocate_kernel().unwrap();
        let before = frames.available();
        let mut processes = vec![(Space::new(&frames, template.gpa()).unwrap(), Model::new())];
        let mut current = 0;
        for step in steps {
            let count = processes.len();
            let (space, model) = &mut processes[current];
            let address = |page: u64| BASE + page * PAGE_SIZE;
            match step {
                Step::Map { at, pages } => {
                    map(space, address(at), pages);
                    (at..at + pages).for_each(|page| { model.insert(page, 0); });
                }
                Step::Unmap { at, pages } => {
                    space.unmap(address(at), pages * PAGE_SIZE).unwrap();
                    (at..at + pages).for_each(|page| { model.remove(&page); });
                }
                Step::Write { at, value } => {
                    let wrote = space.write(address(at), &[value]);
                    prop_assert_eq!(wrote.is_ok(), model.contains_key(&at));
                    model.entry(at).and_modify(|old| *old = value);
                }
                Step::Discard { at, pages } => {
                    let covered = (at..at + pages).all(|page| model.contains_key(&page));
                    prop_assert_eq!(space.discard(address(at), pages * PAGE_SIZE).is_ok(), covered);
                    model.range_mut(at..at + pages).for_each(|(_, value)| *value = 0);
                }
                Step::Move { from, pages, to } => {
                    let overlap = from < to + pages && to < from + pages;
                    let len = pages * PAGE_SIZE;
                    let moved = space.remap(address(from), len, len, true, Some(address(to)));
                    if moved.is_ok() {
                        prop_assert!(!overlap);
                        let values: Vec<u8> = (from..from + pages).map(|page| model.remove(&page).unwrap()).collect();
                        for (page, value) in (to..).zip(values) {
                            model.insert(page, value);
                        }
                    }
                }
                Step::Fork if count < 4 => {
                    let child = (space.fork().unwrap(), model.clone());
                    processes.push(child);
                }
                Step::Fork => {}
                Step::Switch => current = (current + 1) % count,
            }
        }
        for (space, model) in &mut processes {
            check(space, model)?;
        }
        drop(processes);
        prop_assert_eq!(frames.available(), before);
    }

    /// Searches that begin where earlier ones ended find what a search of everything finds.
    #[test]
    fn the_highest_free_range_is_found(
        steps in proptest::collection::vec((any::<bool>(), 1u64..6, 0u64..80), 1..200),
    ) {
        let frames = frames(256, 1);
        let mut space = space(&frames);
        for (maps, pages, at) in steps {
            let len = pages * PAGE_SIZE;
            if maps {
                let expected = space.find_free_below(len, MMAP_TOP);
                prop_assert_eq!(space.place(Placement::Hint(0), len).ok(), expected);
                if at % 4 > 0 {
                    map(&mut space, expected.unwrap(), pages);
                }
            } else {
                space.unmap(MMAP_TOP - (at + pages) * PAGE_SIZE, len).unwrap();
            }
        }
    }
}
