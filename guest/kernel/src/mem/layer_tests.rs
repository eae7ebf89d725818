//! Address spaces whose pages lie in layers of snapshots, against a model of memory: map, write, fork, free, capture, and go on as the clone.

use super::area::{Area, Protection};
use super::frames::testing::frames_and_layers;
use super::frames::{Frames, Gpa};
use super::paging::{ADDRESS, D, P, W};
use super::space::{Access, Served, Space};
use proptest::prelude::*;
use seuss_abi::comm::LayerWindow;
use seuss_abi::layout::PAGE_SIZE;
use seuss_abi::snapshot::WAS_WRITABLE;
use std::collections::BTreeMap;

const RW: Protection = Protection::READ.union(Protection::WRITE);
const BASE: u64 = 0x10_0000_0000;
const PAGES: u64 = 24;
const FRAMES: usize = 1024;
const LAYER_PAGES: usize = 1024;

/// What the VMM does at a capture and at the clone's restore, on the same memory: what may move goes into a new layer, entries turn towards it, and the
/// frames' own places hold nothing any more.
struct Snapshots {
    layers: Vec<LayerWindow>,
    next: Gpa,
}

impl Snapshots {
    fn new(frames: &Frames) -> Self {
        Self { layers: Vec::new(), next: frames.base() + FRAMES as u64 * PAGE_SIZE }
    }

    fn capture(&mut self, frames: &Frames, spaces: &[(Space, Model)]) {
        let mut moved: BTreeMap<Gpa, Gpa> = BTreeMap::new();
        for (space, _) in spaces {
            space.split_all(false).unwrap();
            space.classify_pages(&mut |gpa, may_move| {
                let mut content = [0; PAGE_SIZE as usize];
                frames.read(gpa, &mut content);
                if frames.is_private(gpa) && may_move && content != [0; PAGE_SIZE as usize] {
                    let page = self.next + moved.len() as u64 * PAGE_SIZE;
                    moved.entry(gpa).or_insert(page);
                }
            });
        }
        let index = self.next + moved.len() as u64 * PAGE_SIZE;
        for (number, (home, page)) in moved.iter().enumerate() {
            frames.copy_page(*home, *page);
            let pfn = frames.pfn(*home).unwrap() as u32;
            let at = index + ((*page - self.next) / PAGE_SIZE) * 4;
            frames.write(at, &pfn.to_le_bytes());
            assert!(number < 1024, "one index page");
        }
        for (space, _) in spaces {
            space.for_each_leaf_table(&mut |table| {
                for slot in (table..table + PAGE_SIZE).step_by(8) {
                    let entry = frames.load(slot);
                    if entry & P != 0
                        && let Some(page) = moved.get(&(entry & ADDRESS))
                    {
                        let was = if entry & W == 0 { 0 } else { WAS_WRITABLE };
                        frames.store(slot, entry & !(ADDRESS | W | D) | page | was);
                    }
                }
            });
        }
        for home in moved.keys() {
            frames.write(*home, &[0xcc; PAGE_SIZE as usize]);
        }
        self.layers.push(LayerWindow { gpa: self.next, pages: moved.len() as u64 });
        self.next = index + PAGE_SIZE;
        frames.set_layers(&self.layers);
    }
}

/// One byte for each mapped page: what all its bytes that were ever written are.
type Model = BTreeMap<u64, u8>;

#[derive(Clone, Debug)]
enum Step {
    Map { page: u64, pages: u64 },
    Unmap { page: u64, pages: u64 },
    Discard { page: u64, pages: u64 },
    Write { page: u64, value: u8 },
    Protect { page: u64, pages: u64 },
    Code { page: u64, value: u8 },
    Fork,
    Exit,
    Capture,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let range = || (0..PAGES, 1..8_u64);
    let step = prop_oneof![
        3 => range().prop_map(|(page, pages)| Step::Map { page, pages }),
        1 => range().prop_map(|(page, pages)| Step::Unmap { page, pages }),
        1 => range().prop_map(|(page, pages)| Step::Discard { page, pages }),
        8 => (0..PAGES, any::<u8>()).prop_map(|(page, value)| Step::Write { page, value }),
        1 => range().prop_map(|(page, pages)| Step::Protect { page, pages }),
        1 => (0..PAGES, 1..=255_u8).prop_map(|(page, value)| Step::Code { page, value }),
        1 => Just(Step::Fork),
        1 => Just(Step::Exit),
        2 => Just(Step::Capture),
    ];
    prop::collection::vec((0..4_usize, step), 1..80)
}

fn run(frames: &Frames, template: Gpa, steps: Vec<(usize, Step)>) {
    let mut snapshots = Snapshots::new(frames);
    let mut spaces = vec![(Space::new(frames, template).unwrap(), Model::new())];
    for (which, step) in steps {
        let count = spaces.len();
        if count == 0 {
            break;
        }
        let at = which % count;
        let (space, model) = &mut spaces[at];
        let address = |page: u64| BASE + page * PAGE_SIZE;
        match step {
            Step::Map { page, pages } => {
                // MAP_FIXED: what was there is gone.
                let _ = space.unmap(address(page), pages * PAGE_SIZE);
                space.insert(Area::anonymous(address(page), pages * PAGE_SIZE, RW)).unwrap();
                model.extend((page..page + pages).map(|page| (page, 0)));
            }
            Step::Unmap { page, pages } => {
                space.unmap(address(page), pages * PAGE_SIZE).unwrap();
                model.retain(|at, _| !(page..page + pages).contains(at));
            }
            Step::Discard { page, pages } => {
                let _ = space.discard(address(page), pages * PAGE_SIZE);
                model.range_mut(page..page + pages).for_each(|(_, value)| *value = 0);
            }
            Step::Write { page, value } => {
                let written = space.write(address(page) + u64::from(value), &[value]);
                assert_eq!(written.is_ok(), model.contains_key(&page));
                if let Some(known) = model.get_mut(&page) {
                    // Whatever was there: the byte that is looked at is the first one.
                    space.write(address(page), &[value]).unwrap();
                    *known = value;
                }
            }
            Step::Protect { page, pages } => {
                let len = pages * PAGE_SIZE;
                if space.protect(address(page), len, Protection::READ).is_ok() {
                    assert!(space.write(address(page), &[1]).is_err());
                    space.protect(address(page), len, RW).unwrap();
                }
            }
            Step::Code { page, value } => {
                if let Some(known) = model.get_mut(&page) {
                    space.write_code(address(page), &[value]).unwrap();
                    *known = value;
                }
            }
            Step::Fork => {
                if count < 4 {
                    let (child, copy) = (space.fork().unwrap(), model.clone());
                    spaces.push((child, copy));
                }
            }
            Step::Exit => drop(spaces.swap_remove(at)),
            Step::Capture => {
                if snapshots.layers.len() < 8 {
                    snapshots.capture(frames, &spaces);
                }
            }
        }
        for (space, model) in &mut spaces {
            for page in 0..PAGES + 8 {
                let mut byte = [0xee];
                let found = space.read(address(page), &mut byte).ok().map(|()| byte[0]);
                assert_eq!(found, model.get(&page).copied(), "page {page}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn programs_do_not_notice_snapshots(steps in steps()) {
        let frames = frames_and_layers(FRAMES, 1, LAYER_PAGES);
        let template = frames.allocate_kernel().unwrap().into_gpa();
        let before = frames.available();
        run(&frames, template, steps);
        prop_assert_eq!(frames.available(), before, "every frame is free again");
    }
}

#[test]
fn the_first_write_brings_a_page_home_and_only_that() {
    let frames = frames_and_layers(FRAMES, 1, LAYER_PAGES);
    let template = frames.allocate_kernel().unwrap().into_gpa();
    let mut space = Space::new(&frames, template).unwrap();
    space.insert(Area::anonymous(BASE, 4 * PAGE_SIZE, RW)).unwrap();
    space.write(BASE, b"one").unwrap();
    space.write(BASE + PAGE_SIZE, b"two").unwrap();
    let home = space.leaf(BASE).unwrap().entry & ADDRESS;
    let key = space.physical(BASE + 8, Access::Write).unwrap();
    let mut spaces = vec![(space, Model::new())];
    let mut snapshots = Snapshots::new(&frames);
    snapshots.capture(&frames, &spaces);
    let space = &mut spaces[0].0;
    assert_eq!(space.fault(BASE, Access::Read), Ok(Served::Spurious), "reading costs nothing");
    assert!(!frames.is_private(space.leaf(BASE).unwrap().entry & ADDRESS));
    assert_eq!(frames.home(space.leaf(BASE).unwrap().entry & ADDRESS), Some(home));
    assert_eq!(space.fault(BASE, Access::Write), Ok(Served::SnapshotCopy));
    assert_eq!(space.leaf(BASE).unwrap().entry & ADDRESS, home);
    assert_eq!(space.physical(BASE + 8, Access::Write), Ok(key), "a futex keeps its name");
    assert!(!frames.is_private(space.leaf(BASE + PAGE_SIZE).unwrap().entry & ADDRESS));
    // Zero pages need no layer: they stay writable where they are.
    assert_eq!(space.fault(BASE + 2 * PAGE_SIZE, Access::Write), Ok(Served::Spurious));
}
