//! The application's memory as system calls reach it: addresses to frames, with faults served in software, and copies through the direct map.

use super::{Access, Fault, Space, Stale, is_application};
use crate::errno::{Errno, Result};
use crate::mem::frames::{Frames, Gpa};
use crate::mem::paging::{A, ADDRESS, D, P, U, W};
use alloc::vec::Vec;
use seuss_abi::layout::{LARGE_PAGE_SIZE, PAGE_SIZE};

impl Space {
    /// The guest-physical address behind an application address, with the fault served and the accessed and dirty bits set.
    fn translate(&mut self, address: u64, access: Access) -> core::result::Result<Gpa, Fault> {
        if !is_application(address) {
            return Err(Fault::NotMapped);
        }
        for _ in 0..3 {
            if let Some(leaf) = self.tables.leaf(address) {
                let needed = if access == Access::Write { P | U | W } else { P | U };
                if leaf.entry & needed == needed {
                    let marks = if access == Access::Write { A | D } else { A };
                    if leaf.entry & marks != marks {
                        self.frames.store(leaf.slot, leaf.entry | marks);
                    }
                    let size = if leaf.large { LARGE_PAGE_SIZE } else { PAGE_SIZE };
                    return Ok((leaf.entry & ADDRESS & !(size - 1)) + (address & (size - 1)));
                }
            }
            self.fault(address, access)?;
        }
        Err(Fault::OutOfMemory)
    }

    /// What names the memory behind an application address, whoever maps it: the address in its frame's own place. It does not change when
    /// a page of a layer comes home.
    ///
    /// # Errors
    /// As [`Self::fault`].
    pub fn physical(&mut self, address: u64, access: Access) -> core::result::Result<Gpa, Fault> {
        let gpa = self.translate(address, access)?;
        Ok(self.frames.home(gpa).map_or(gpa, |home| home + address % PAGE_SIZE))
    }

    fn pieces(
        &mut self,
        address: u64,
        len: usize,
        access: Access,
        visit: &mut dyn FnMut(&Frames, Gpa, usize, usize),
    ) -> usize {
        let mut done = 0;
        while done < len {
            let Some(at) = address.checked_add(done as u64) else { break };
            let Ok(gpa) = self.translate(at, access) else { break };
            let count = ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(len - done);
            visit(&self.frames, gpa, done, count);
            done += count;
        }
        done
    }

    /// Copy from the application as far as it is readable; returns the bytes copied.
    pub fn read_some(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        let len = bytes.len();
        self.pieces(address, len, Access::Read, &mut |frames, gpa, at, count| {
            frames.read(gpa, &mut bytes[at..at + count]);
        })
    }

    /// Copy to the application as far as it is writable; returns the bytes copied.
    pub fn write_some(&mut self, address: u64, bytes: &[u8]) -> usize {
        self.pieces(address, bytes.len(), Access::Write, &mut |frames, gpa, at, count| {
            frames.write(gpa, &bytes[at..at + count]);
        })
    }

    /// Copy from the application.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result {
        if self.read_some(address, bytes) == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Copy to the application.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result {
        if self.write_some(address, bytes) == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
    }

    /// Change code of the application, whatever the area's protection is: in a page of this space alone, which is made if need be. Within one page.
    ///
    /// # Errors
    /// EFAULT; ENOMEM.
    pub fn write_code(&mut self, address: u64, bytes: &[u8]) -> Result {
        let page = address & !(PAGE_SIZE - 1);
        if address + bytes.len() as u64 > page + PAGE_SIZE {
            return Err(Errno::EFAULT);
        }
        let protection = self.area_at(address).ok_or(Errno::EFAULT)?.protection;
        let from = self.translate(page, Access::Read).map_err(|_| Errno::EFAULT)?;
        self.tables.split(page).map_err(|_| Errno::ENOMEM)?;
        let mut gpa = from;
        let only_here = self.frames.owns(from) && self.frames.reference_count(from) == 1;
        if only_here && !self.frames.is_private(from) {
            let leaf = self.tables.leaf(page).ok_or(Errno::EFAULT)?;
            self.bring_home(leaf, Self::rights(protection, false));
            self.stale.set(Stale::More);
            gpa = self.frames.home(from).ok_or(Errno::EFAULT)?;
        } else if !only_here {
            gpa = self.copy_of(from).map_err(|_| Errno::ENOMEM)?;
            let rights = Self::rights(protection, false) | A;
            self.tables.map(page, gpa, rights).map_err(|_| Errno::ENOMEM)?;
            self.stale.set(Stale::More);
        }
        if let Some(leaf) = self.tables.leaf(page) {
            self.frames.store(leaf.slot, leaf.entry | D);
        }
        self.frames.write(gpa + address % PAGE_SIZE, bytes);
        Ok(())
    }

    /// Copy a string without its terminating zero.
    ///
    /// # Errors
    /// EFAULT; `too_long` if there is no zero within `limit` bytes.
    pub fn read_string(&mut self, address: u64, limit: usize, too_long: Errno) -> Result<Vec<u8>> {
        let mut string = Vec::new();
        let mut at = address;
        while string.len() < limit {
            let mut chunk = [0u8; 128];
            let want = ((PAGE_SIZE - at % PAGE_SIZE) as usize).min(chunk.len()).min(limit - string.len());
            if self.read_some(at, &mut chunk[..want]) < want {
                return Err(Errno::EFAULT);
            }
            if let Some(end) = chunk[..want].iter().position(|byte| *byte == 0) {
                string.extend_from_slice(&chunk[..end]);
                return Ok(string);
            }
            string.extend_from_slice(&chunk[..want]);
            at += want as u64;
        }
        Err(too_long)
    }
}
