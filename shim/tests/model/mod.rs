//! What memory must hold: a model of mmap and its relatives over pages of words, independent of Linux and of the guest, and random operations on it.

mod operation;

use std::collections::BTreeMap;
use std::rc::Rc;

/// Pages of the range of addresses that operations work on: two large pages.
pub(crate) const PAGES: usize = 1024;
/// Processes at most.
pub(crate) const PROCESSES: usize = 6;
/// Files that can be mapped: one of the image (never written), one that the program made, two memfds.
pub(crate) const FILES: u64 = 4;
/// Pages of each.
pub(crate) const FILE_PAGES: usize = 64;
/// Seed of what the image's file holds.
pub(crate) const IMAGE_SEED: u64 = 7;
const WORDS: usize = 512;

/// A page's content.
type Words = Rc<[u64; WORDS]>;

/// splitmix64: the same numbers on every machine.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// As in programs/memory.c.
fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn filled(seed: u64, page: usize) -> Words {
    Rc::new(std::array::from_fn(|at| mix(seed ^ (page as u64) << 20 ^ at as u64) | 1))
}

/// The image's file.
pub(crate) fn image_file() -> Vec<u8> {
    (0..FILE_PAGES).flat_map(|page| filled(IMAGE_SEED, page).map(u64::to_le_bytes)).flatten().collect()
}

fn zeros() -> Words {
    Rc::new([0; WORDS])
}

fn sum(words: &Words) -> u64 {
    (0..)
        .zip(words.iter())
        .filter(|(_, word)| **word != 0)
        .fold(0, |sum: u64, (at, word)| sum.wrapping_add(mix(word.wrapping_add(at << 50))))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Protection {
    None = 0,
    Read = 1,
    Write = 3,
}

#[derive(Clone)]
enum Content {
    /// Private and anonymous.
    Own(Words),
    /// A page of an object. `own` is there once a private mapping was written.
    Object { shared: bool, object: u64, index: usize, own: Option<Words> },
}

#[derive(Clone)]
struct Page {
    protection: Protection,
    content: Content,
    wipe_on_fork: bool,
    stays_on_fork: bool,
    /// Neighbours with the same number are one mapping for certain.
    mapping: u64,
}

impl Page {
    fn anonymous(&self) -> bool {
        matches!(self.content, Content::Own(_))
    }

    /// A change of a part of a mapping makes that part one of its own.
    fn split(&mut self, change: u64) {
        self.mapping = mix(self.mapping ^ change << 32);
    }
}

type Space = Vec<Option<Page>>;

/// A guest's memory.
#[derive(Clone)]
pub(crate) struct Model {
    spaces: [Option<Space>; PROCESSES],
    /// Files and shared anonymous memory.
    objects: BTreeMap<u64, Vec<Words>>,
    mappings: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        let image = (0..FILE_PAGES).map(|page| filled(IMAGE_SEED, page)).collect();
        let mut objects = BTreeMap::from([(0, image)]);
        objects.extend((1..FILES).map(|file| (file, vec![zeros(); FILE_PAGES])));
        let mut spaces = [const { None }; PROCESSES];
        spaces[0] = Some(vec![None; PAGES]);
        Self { spaces, objects, mappings: 0 }
    }

    pub(crate) fn processes(&self) -> Vec<usize> {
        (0..PROCESSES).filter(|&slot| self.spaces[slot].is_some()).collect()
    }

    fn space(&self, process: usize) -> &Space {
        self.spaces[process].as_ref().unwrap()
    }

    fn space_mut(&mut self, process: usize) -> &mut Space {
        self.spaces[process].as_mut().unwrap()
    }

    /// What a restore does: memory that a fork would wipe is wiped.
    pub(crate) fn restore(&mut self) {
        self.spaces.iter_mut().flatten().for_each(wipe);
    }

    fn words<'a>(&'a self, page: &'a Page) -> &'a Words {
        match &page.content {
            Content::Own(words) | Content::Object { own: Some(words), .. } => words,
            Content::Object { object, index, .. } => &self.objects[object][*index],
        }
    }

    fn change(&mut self, process: usize, at: usize, change: impl FnOnce(&mut Words)) {
        let page = self.spaces[process].as_mut().unwrap()[at].as_mut().unwrap();
        match &mut page.content {
            Content::Own(words) => change(words),
            Content::Object { shared: false, object, index, own } => {
                change(own.get_or_insert_with(|| self.objects[object][*index].clone()));
            }
            Content::Object { shared: true, object, index, .. } => {
                change(&mut self.objects.get_mut(object).unwrap()[*index]);
            }
        }
    }

    fn allows(&self, process: usize, at: usize, wanted: Protection) -> bool {
        self.space(process)[at].as_ref().is_some_and(|page| page.protection >= wanted)
    }

    /// Questions about everything, with the answers that are right.
    pub(crate) fn questions(&self, random: &mut Random) -> Vec<(String, String)> {
        let mut questions = Vec::new();
        let processes = self.processes();
        for &process in &processes {
            let space = self.space(process);
            let mut at = 0;
            while at < PAGES {
                let end =
                    (at..PAGES).find(|&end| !self.allows(process, end, Protection::Read)).unwrap_or(PAGES);
                if end == at {
                    // Each fault is a signal: a few of them.
                    if random.below(PAGES) < 6 {
                        questions.push((format!("{process} hash {at} 1"), "segv".into()));
                    }
                    at += 1;
                    continue;
                }
                let sums = space[at..end].iter().flatten().map(|page| format!("{:x}", sum(self.words(page))));
                let answer = sums.collect::<Vec<_>>().join(" ");
                questions.push((format!("{process} hash {at} {}", end - at), answer));
                at = end;
            }
        }
        for file in 0..FILES {
            let process = processes[random.below(processes.len())];
            let sums = self.objects[&file].iter().map(|words| format!("{:x}", sum(words)));
            questions.push((format!("{process} object {file}"), sums.collect::<Vec<_>>().join(" ")));
        }
        questions
    }
}

fn wipe(space: &mut Space) {
    for page in space.iter_mut().flatten().filter(|page| page.wipe_on_fork) {
        page.content = Content::Own(zeros());
    }
}
