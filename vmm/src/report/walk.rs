//! A page walk in software (SDM vol. 3, 4.5), for reports: reads the guest's tables, trusts nothing in them.

use std::fmt;

use crate::memory::{Gpa, Gva, Memory};

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Where a walk led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Physical address of the byte.
    pub(crate) gpa: Gpa,
    /// The leaf entry.
    pub(crate) leaf: u64,
    /// Bytes from the address to the end of its page.
    pub(crate) left_bytes: u64,
    /// Whether all levels allow writes, user access, and fetches.
    pub(crate) write: bool,
    pub(crate) user: bool,
    pub(crate) execute: bool,
}

/// Why it led nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    NonCanonical,
    /// The entry at this level (4 = PML4) is not present.
    NotPresent {
        level: u32,
        entry: u64,
    },
    /// A table lies outside of guest memory.
    TableOutside {
        level: u32,
        gpa: Gpa,
    },
}

impl fmt::Display for WalkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonCanonical => write!(f, "non-canonical"),
            Self::NotPresent { level, entry } => write!(f, "not present at level {level} (entry {entry:#x})"),
            Self::TableOutside { level, gpa } => {
                write!(f, "table of level {level} is outside of memory (gpa {gpa})")
            }
        }
    }
}

impl fmt::Display for Translation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |on, letter| if on { letter } else { '-' };
        let (write, execute, user) = (flag(self.write, 'w'), flag(self.execute, 'x'), flag(self.user, 'u'));
        write!(f, "gpa {} r{write}{execute}{user} (leaf {:#x})", self.gpa, self.leaf)
    }
}

/// Translate `gva` with the tables that `cr3` points at.
pub(crate) fn translate(memory: &Memory, cr3: u64, gva: Gva) -> Result<Translation, WalkError> {
    if ((gva.0 << 16) as i64 >> 16) as u64 != gva.0 {
        return Err(WalkError::NonCanonical);
    }
    let mut table = Gpa(cr3 & FRAME);
    let (mut write, mut user, mut execute) = (true, true, true);
    for level in (1..=4_u32).rev() {
        let shift = 12 + 9 * (level - 1);
        let at = table.plus((gva.0 >> shift & 0x1ff) * 8);
        let entry: Option<u64> = memory.window(at).and_then(|window| window.load(at));
        let entry = entry.ok_or(WalkError::TableOutside { level, gpa: table })?;
        if entry & PRESENT == 0 {
            return Err(WalkError::NotPresent { level, entry });
        }
        write &= entry & 2 != 0;
        user &= entry & 4 != 0;
        execute &= entry >> 63 == 0;
        let is_leaf = level == 1 || (level < 4 && entry & LARGE != 0);
        if is_leaf {
            let page_bytes = 1_u64 << shift;
            let offset = gva.0 & (page_bytes - 1);
            let gpa = Gpa((entry & FRAME & !(page_bytes - 1)) | offset);
            return Ok(Translation {
                gpa,
                leaf: entry,
                left_bytes: page_bytes - offset,
                write,
                user,
                execute,
            });
        }
        table = Gpa(entry & FRAME);
    }
    Err(WalkError::NonCanonical)
}

/// Read up to `into.len()` bytes at `gva`; returns how many could be read.
pub(crate) fn read(memory: &Memory, cr3: u64, gva: Gva, into: &mut [u8]) -> usize {
    let mut done = 0;
    while done < into.len() {
        let Ok(found) = translate(memory, cr3, gva.plus(done as u64)) else { break };
        let len = (into.len() - done).min(found.left_bytes as usize);
        let window = memory.window(found.gpa);
        if window.and_then(|window| window.read(found.gpa, &mut into[done..done + len])).is_none() {
            break;
        }
        done += len;
    }
    done
}
