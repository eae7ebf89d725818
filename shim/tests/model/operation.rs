//! One operation: how it is chosen, said to the program, and done to the model.

use std::fmt;
use std::ops::Range;

use super::{
    Content, FILE_PAGES, FILES, Model, PAGES, PROCESSES, Page, Protection, Random, filled, wipe, zeros,
};

const DONTNEED: u32 = 4;
const DONTFORK: u32 = 10;
const DOFORK: u32 = 11;
const WIPEONFORK: u32 = 18;
const KEEPONFORK: u32 = 19;

/// What one process does.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) process: usize,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Anon { at: Range<usize>, protection: Protection, shared: bool },
    File { at: Range<usize>, protection: Protection, shared: bool, file: u64, index: usize },
    Unmap { at: Range<usize> },
    Protect { at: Range<usize>, protection: Protection },
    Advise { at: Range<usize>, advice: u32 },
    Remap { at: Range<usize>, to: Range<usize> },
    Write { page: usize, word: usize, value: u64 },
    Fill { at: Range<usize>, seed: u64 },
    Pwrite { file: u64, index: usize, seed: u64 },
    Load { page: usize, file: u64, index: usize },
    Store { page: usize, file: u64, index: usize },
    Fork { slot: usize },
    Exit,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.process)?;
        match &self.what {
            What::Anon { at, protection, shared } => {
                write!(f, "anon {} {} {} {}", at.start, at.len(), *protection as u32, u32::from(*shared))
            }
            What::File { at, protection, shared, file, index } => {
                let file = file + if *shared { FILES } else { 0 };
                write!(f, "file {} {} {} {file} {index}", at.start, at.len(), *protection as u32)
            }
            What::Unmap { at } => write!(f, "unmap {} {}", at.start, at.len()),
            What::Protect { at, protection } => {
                write!(f, "protect {} {} {}", at.start, at.len(), *protection as u32)
            }
            What::Advise { at, advice } => write!(f, "advise {} {} {advice}", at.start, at.len()),
            What::Remap { at, to } => write!(f, "remap {} {} {} {}", at.start, at.len(), to.start, to.len()),
            What::Write { page, word, value } => write!(f, "write {page} {word} {value}"),
            What::Fill { at, seed } => write!(f, "fill {} {} {seed}", at.start, at.len()),
            What::Pwrite { file, index, seed } => write!(f, "pwrite {file} {index} {seed}"),
            What::Load { page, file, index } => write!(f, "load {page} {file} {index}"),
            What::Store { page, file, index } => write!(f, "store {page} {file} {index}"),
            What::Fork { slot } => write!(f, "fork {slot}"),
            What::Exit => write!(f, "exit"),
        }
    }
}

/// Somewhere, mostly of a few pages, sometimes of hundreds.
fn anywhere(random: &mut Random) -> Range<usize> {
    let most = if random.chance(12) { 600 } else { 40 };
    let start = random.below(PAGES);
    start..(start + 1 + random.below(most)).min(PAGES)
}

impl Model {
    /// A part of memory from a page that is `good`, as long as they are.
    fn part(
        &self,
        process: usize,
        random: &mut Random,
        good: impl Fn(&Page, &Page) -> bool,
    ) -> Option<Range<usize>> {
        let space = self.space(process);
        let Range { start, end } = anywhere(random);
        let start = (start..PAGES)
            .chain(0..start)
            .find(|&at| space[at].as_ref().is_some_and(|page| good(page, page)))?;
        let first = space[start].as_ref()?;
        let end = (start + (end - start.min(end)).max(1)).min(PAGES);
        let stop = (start..end).find(|&at| !space[at].as_ref().is_some_and(|page| good(first, page)));
        Some(start..stop.unwrap_or(end))
    }

    /// An operation that could be next.
    pub(crate) fn choose(&self, random: &mut Random) -> Operation {
        let processes = self.processes();
        loop {
            let process = processes[random.below(processes.len())];
            if let Some(what) = self.choose_for(process, random) {
                return Operation { process, what };
            }
        }
    }

    fn choose_for(&self, process: usize, random: &mut Random) -> Option<What> {
        let at = anywhere(random);
        let protection = match random.below(8) {
            0 => Protection::None,
            1 | 2 => Protection::Read,
            _ => Protection::Write,
        };
        let page = random.below(PAGES);
        let file = random.below(FILES as usize) as u64;
        let written = 1 + random.below(FILES as usize - 1) as u64;
        let index = random.below(FILE_PAGES);
        let seed = random.next() >> 8;
        Some(match random.below(100) {
            0..10 => What::Anon { at, protection, shared: random.chance(25) },
            10..18 => {
                let at = at.start..at.end.min(at.start + FILE_PAGES - index);
                What::File { at, protection, shared: file != 0 && random.chance(50), file, index }
            }
            18..22 => What::Unmap { at },
            22..30 => What::Protect { at: self.part(process, random, |_, _| true)?, protection },
            30..35 => What::Advise { at, advice: DONTNEED },
            35..38 => {
                let at = self.part(process, random, |_, page| page.anonymous())?;
                What::Advise { at, advice: if random.chance(70) { WIPEONFORK } else { KEEPONFORK } }
            }
            38..39 => {
                let at = self.part(process, random, |_, _| true)?;
                What::Advise { at, advice: if random.chance(50) { DONTFORK } else { DOFORK } }
            }
            39..46 => {
                let at = self.part(process, random, |first, page| first.mapping == page.mapping)?;
                let anonymous = self.space(process)[at.start].as_ref().is_some_and(Page::anonymous);
                let len = match random.below(4) {
                    0 if anonymous => at.len() + random.below(30),
                    1 => 1 + random.below(at.len()),
                    _ => at.len(),
                };
                let start = random.below(PAGES.saturating_sub(len));
                let to = start..start + len;
                (to.end <= PAGES && (to.end <= at.start || at.end <= to.start)).then_some(())?;
                What::Remap { at, to }
            }
            46..62 => {
                // Anywhere, mostly where something is mapped.
                let page =
                    if random.chance(20) { page } else { self.part(process, random, |_, _| true)?.start };
                What::Write { page, word: random.below(512), value: seed }
            }
            62..78 => {
                let at = self.part(process, random, |_, page| page.protection == Protection::Write)?;
                What::Fill { at, seed }
            }
            78..82 => What::Pwrite { file: written, index, seed },
            82..86 => What::Load { page: self.part(process, random, |_, _| true)?.start, file, index },
            86..90 => {
                What::Store { page: self.part(process, random, |_, _| true)?.start, file: written, index }
            }
            90..97 => {
                let slot = (0..PROCESSES).find(|&slot| self.spaces[slot].is_none())?;
                What::Fork { slot }
            }
            _ => {
                (process != 0).then_some(())?;
                What::Exit
            }
        })
    }

    /// Do it; the answer that is right.
    pub(crate) fn apply(&mut self, operation: &Operation) -> &'static str {
        let process = operation.process;
        self.mappings += 1;
        let mapping = self.mappings;
        match operation.what.clone() {
            What::Anon { at, protection, shared } => {
                if shared {
                    self.objects.insert(FILES + mapping, vec![zeros(); at.len()]);
                }
                for (index, at) in at.enumerate() {
                    let content = if shared {
                        Content::Object { shared, object: FILES + mapping, index, own: None }
                    } else {
                        Content::Own(zeros())
                    };
                    self.map(process, at, protection, content);
                }
            }
            What::File { at, protection, shared, file, index } => {
                for (nth, at) in at.enumerate() {
                    let content = Content::Object { shared, object: file, index: index + nth, own: None };
                    self.map(process, at, protection, content);
                }
            }
            What::Unmap { at } => self.space_mut(process)[at].fill(None),
            What::Protect { at, protection } => {
                for page in self.space_mut(process)[at].iter_mut().flatten() {
                    page.protection = protection;
                    page.split(mapping);
                }
            }
            What::Advise { at, advice } => return self.advise(process, at, advice),
            What::Remap { at, to } => self.remap(process, at, to),
            What::Write { page, word, value } => {
                if !self.allows(process, page, Protection::Write) {
                    return "segv";
                }
                self.change(process, page, |words| std::rc::Rc::make_mut(words)[word] = value);
            }
            What::Fill { at, seed } => {
                at.for_each(|page| self.change(process, page, |words| *words = filled(seed, page)));
            }
            What::Pwrite { file, index, seed } => {
                self.objects.get_mut(&file).unwrap()[index] = filled(seed, index);
            }
            What::Load { page, file, index } => {
                if !self.allows(process, page, Protection::Write) {
                    return "EFAULT";
                }
                let loaded = self.objects[&file][index].clone();
                self.change(process, page, |words| *words = loaded);
            }
            What::Store { page, file, index } => {
                if !self.allows(process, page, Protection::Read) {
                    return "EFAULT";
                }
                let stored = self.space(process)[page].as_ref().map(|page| self.words(page).clone());
                self.objects.get_mut(&file).unwrap()[index] = stored.unwrap();
            }
            What::Fork { slot } => {
                let mut space = self.space(process).clone();
                wipe(&mut space);
                for page in &mut space {
                    page.take_if(|page| page.stays_on_fork);
                }
                self.spaces[slot] = Some(space);
            }
            What::Exit => self.spaces[process] = None,
        }
        "ok"
    }

    fn map(&mut self, process: usize, at: usize, protection: Protection, content: Content) {
        let mapping = self.mappings;
        let page = Page { protection, content, wipe_on_fork: false, stays_on_fork: false, mapping };
        self.space_mut(process)[at] = Some(page);
    }

    fn advise(&mut self, process: usize, at: Range<usize>, advice: u32) -> &'static str {
        let mapping = self.mappings;
        let mut answer = "ok";
        for page in &mut self.space_mut(process)[at] {
            let Some(page) = page else {
                answer = "ENOMEM";
                continue;
            };
            match advice {
                WIPEONFORK => page.wipe_on_fork = true,
                KEEPONFORK => page.wipe_on_fork = false,
                DONTFORK => page.stays_on_fork = true,
                DOFORK => page.stays_on_fork = false,
                _ => match &mut page.content {
                    Content::Own(words) => *words = zeros(),
                    Content::Object { own, .. } => *own = None,
                },
            }
            if advice != DONTNEED {
                page.split(mapping);
            }
        }
        answer
    }

    fn remap(&mut self, process: usize, at: Range<usize>, to: Range<usize>) {
        let mapping = self.mappings;
        let space = self.space_mut(process);
        let mut moved: Vec<_> = space[at].iter_mut().map(Option::take).collect();
        // What a mapping grows by is as its last page is, but empty.
        let mut more = moved.last().cloned().flatten();
        if let Some(page) = &mut more {
            page.content = Content::Own(zeros());
        }
        moved.resize(to.len(), more);
        moved.iter_mut().flatten().for_each(|page| page.mapping = mapping);
        space[to].clone_from_slice(&moved);
    }
}
