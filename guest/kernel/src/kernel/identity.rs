//! What a clone's processes are told of who they are: their environments, and AT_RANDOM.
//!
//! Variables that differ from pod to pod (HOSTNAME, above all) lie as strings where execve(2) has put them, with room for longer values (`exec::stack`). A clone's values
//! are written over them: `getenv(3)` and /proc/PID/environ tell the new ones, also where a program has made another array of pointers to them (setenv(3)). A value that is
//! longer than its room goes elsewhere, and the array that execve(2) made points there. What a program has copied for itself (Python's `os.environ`) is its own to refresh, with
//! the hooks of guest/sdk.

use super::Kernel;
use crate::errno::{Errno, Result};
use crate::mem::area::{Area, Placement, Protection};
use crate::mem::space::Space;
use crate::task::process::Program;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

/// Largest environment that is looked through, in bytes.
const ENVIRONMENT_MAX: u64 = 256 << 10;
/// Most pointers to strings that are looked at.
const POINTERS_MAX: u64 = ENVIRONMENT_MAX / 8;
/// The auxiliary vector's key of the address of 16 random bytes.
const AT_RANDOM: u64 = 25;

/// What is to be written over an environment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Where, and which bytes.
    over: Vec<(usize, Vec<u8>)>,
    /// Where a string lies that becomes too long for its room, how many bytes it has, and what it becomes.
    longer: Vec<(usize, usize, Vec<u8>)>,
}

/// What makes `block`, strings that each end with a zero, say `entries` (`KEY=VALUE`), and nothing of those of `names` that are not among them. From `roomy` on, zeros behind a
/// string are its room.
fn changes(block: &[u8], roomy: usize, entries: &[Vec<u8>], names: &[Vec<u8>]) -> Changes {
    let mut found = Changes::default();
    let mut at = 0;
    for old in block.split(|byte| *byte == 0) {
        let start = at;
        at += old.len() + 1;
        let Some(end_of_key) = old.iter().position(|byte| *byte == b'=').filter(|end| *end > 0) else {
            continue;
        };
        let key = &old[..end_of_key];
        let is_of_key =
            |entry: &&Vec<u8>| entry.strip_prefix(key).is_some_and(|rest| rest.first() == Some(&b'='));
        let new = match entries.iter().find(is_of_key) {
            Some(entry) if entry == old => continue,
            Some(entry) => entry.as_slice(),
            None if names.iter().any(|name| name == key) => &[],
            None => continue,
        };
        let zeros = block[start + old.len()..].iter().take_while(|byte| **byte == 0).count();
        let room = if start >= roomy { old.len() + zeros.saturating_sub(1) } else { old.len() };
        if new.len() > room {
            found.longer.push((start, old.len(), new.to_vec()));
        } else {
            let mut bytes = new.to_vec();
            bytes.resize(new.len().max(old.len()), 0);
            found.over.push((start, bytes));
        }
    }
    found
}

/// Put `strings` into memory of their own, and let the pointers to the old ones, in the array that execve(2) made, point there.
fn move_strings(space: &mut Space, program: &mut Program, strings: Vec<(u64, usize, Vec<u8>)>) -> Result {
    let len: usize = strings.iter().map(|(.., new)| new.len() + 1).sum();
    let len = (len as u64).next_multiple_of(PAGE_SIZE);
    let start = space.place(Placement::Hint(0), len)?;
    let mut area = Area::anonymous(start, len, Protection::READ | Protection::WRITE);
    area.label = "[environ]";
    space.insert(area)?;
    let mut moved = Vec::new();
    let mut at = start;
    for (old, old_len, new) in strings {
        space.write(at, &new)?;
        moved.push((old, old_len, at));
        at += new.len() as u64 + 1;
    }
    program.moved_environment.push((start, start + len));
    let word = |space: &mut Space, at: u64| {
        let mut bytes = [0; 8];
        space.read(at, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    };
    let first = word(space, program.stack)?.checked_add(2).and_then(|words| words.checked_mul(8));
    let first = first.and_then(|bytes| program.stack.checked_add(bytes)).ok_or(Errno::EFAULT)?;
    for index in 0..POINTERS_MAX {
        let slot = first.checked_add(8 * index).ok_or(Errno::EFAULT)?;
        match word(space, slot)? {
            0 => break,
            pointer => {
                if let Some((.., new)) = moved.iter().find(|(old, ..)| *old == pointer) {
                    space.write(slot, &new.to_le_bytes())?;
                }
            }
        }
    }
    // Who has kept a pointer to an old one is told nothing rather than what was.
    moved.iter().try_for_each(|(old, old_len, _)| space.write(*old, &vec![0; *old_len]))
}

/// Let the environment of `program`, in `space`, say `entries`.
fn change(space: &mut Space, program: &mut Program, entries: &[Vec<u8>], names: &[Vec<u8>]) -> Result {
    let mut pieces = program.moved_environment.clone();
    pieces.push(program.environment);
    let mut longer = Vec::new();
    for (start, end) in pieces {
        let mut block = vec![0; end.saturating_sub(start).min(ENVIRONMENT_MAX) as usize];
        space.read(start, &mut block)?;
        let roomy =
            if (start, end) == program.environment { program.identity.saturating_sub(start) } else { 0 };
        let found = changes(&block, roomy as usize, entries, names);
        for (at, bytes) in found.over {
            space.write(start + at as u64, &bytes)?;
        }
        longer.extend(found.longer.into_iter().map(|(at, len, new)| (start + at as u64, len, new)));
    }
    if longer.is_empty() { Ok(()) } else { move_strings(space, program, longer) }
}

impl Kernel {
    /// Let the environments of all processes say `entries`, and nothing of those of `names` that are not among them. It is the programs' memory: where one has unmapped its own, that
    /// is left alone.
    pub(super) fn change_environments(&self, entries: &[Vec<u8>], names: &[Vec<u8>]) {
        if entries.is_empty() && names.is_empty() {
            return;
        }
        let mut failed = 0;
        for process in self.processes().iter().filter(|process| !process.is_zombie()) {
            let space = process.space();
            let changed = change(&mut space.borrow_mut(), &mut process.program.borrow_mut(), entries, names);
            failed += usize::from(changed.is_err());
        }
        if failed > 0 {
            self.log(
                3,
                &alloc::format!(
                    "{failed} processes of a clone have no readable environment: it is left alone"
                ),
            );
        }
    }

    /// The 16 random bytes that each program was given (AT_RANDOM) become others, for who reads them from now on. What the C library made of the old ones at its start, the guards of
    /// stack and pointers, stays as in all clones of the snapshot.
    pub(super) fn renew_program_seeds(&self) {
        for space in self.spaces() {
            let programs = self.processes();
            let Some(process) = programs.iter().find(|process| Rc::ptr_eq(&process.space(), &space)) else {
                continue;
            };
            let address = process.program.borrow().auxiliary(AT_RANDOM);
            let mut seed = [0; 16];
            self.random.fill(&mut seed);
            // The program may have unmapped it.
            let _ = address.map(|address| space.borrow_mut().write(address, &seed));
        }
    }
}

impl Program {
    /// The value of `key` in the auxiliary vector.
    fn auxiliary(&self, key: u64) -> Option<u64> {
        let (pairs, _) = self.auxv.as_chunks::<16>();
        let halves = |pair: &[u8; 16]| {
            let (words, _) = pair.as_chunks::<8>();
            (u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1]))
        };
        pairs.iter().map(halves).find(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests;
