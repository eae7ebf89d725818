//! Directories: blocks of entries sorted by name, each block with its entries at the front and their names behind them.

use super::{Image, Inode, Nid, le16, le64};
use crate::errno::{Errno, Result};
use alloc::vec;
use core::cmp::Ordering;
use seuss_abi::layout::PAGE_SIZE;

const ENTRY_BYTES: usize = 12;
const NAME_MAX: usize = 255;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundEntry {
    /// The inode.
    pub nid: Nid,
    /// Type as in a directory (generic `FT_*`): 1 regular, 2 directory, 3 character device, 4 block device, 5 FIFO, 6 socket, 7 link.
    pub file_type: u8,
}

/// One directory block, by its place in the image.
struct Block {
    at: u64,
    bytes: usize,
    entries: usize,
}

/// A name, copied out of the image.
struct Name {
    bytes: [u8; NAME_MAX],
    len: usize,
}

impl Name {
    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Image {
    fn block(&self, directory: &Inode, index: u64) -> Result<Block> {
        let offset = index * PAGE_SIZE;
        let (at, run) = Self::locate(directory, offset);
        let bytes = run.min(PAGE_SIZE) as usize;
        let mut head = [0; ENTRY_BYTES];
        self.bytes(at, &mut head)?;
        let names = usize::from(le16(&head, 8));
        if names < ENTRY_BYTES || !names.is_multiple_of(ENTRY_BYTES) || names > bytes {
            return Err(Errno::EIO);
        }
        Ok(Block { at, bytes, entries: names / ENTRY_BYTES })
    }

    fn entry(&self, block: &Block, index: usize) -> Result<(FoundEntry, Name)> {
        // The entry and the one behind it, whose name offset ends this one's name.
        let mut raw = [0; 2 * ENTRY_BYTES];
        let last = index + 1 == block.entries;
        let want = if last { ENTRY_BYTES } else { 2 * ENTRY_BYTES };
        self.bytes(block.at + (index * ENTRY_BYTES) as u64, &mut raw[..want])?;
        let start = usize::from(le16(&raw, 8));
        let end = if last { block.bytes } else { usize::from(le16(&raw, ENTRY_BYTES + 8)) };
        if start > end || end > block.bytes {
            return Err(Errno::EIO);
        }
        let mut name = Name { bytes: [0; NAME_MAX], len: (end - start).min(NAME_MAX) };
        self.bytes(block.at + start as u64, &mut name.bytes[..name.len])?;
        if last {
            // The last name is padded with zeros.
            name.len = name.bytes[..name.len].iter().position(|byte| *byte == 0).unwrap_or(name.len);
        }
        Ok((FoundEntry { nid: le64(&raw, 0), file_type: raw[10] }, name))
    }

    fn check_directory(directory: &Inode) -> Result<u64> {
        if directory.is_directory() { Ok(directory.size.div_ceil(PAGE_SIZE)) } else { Err(Errno::ENOTDIR) }
    }

    /// Find `name` in a directory.
    ///
    /// # Errors
    /// ENOTDIR; EIO if the directory is damaged.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<FoundEntry>> {
        let blocks = Self::check_directory(directory)?;
        // The last block whose first name is not greater.
        let (mut low, mut high) = (0, blocks);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let block = self.block(directory, middle)?;
            if self.entry(&block, 0)?.1.as_slice() <= name {
                low = middle;
            } else {
                high = middle;
            }
        }
        if low == blocks {
            return Ok(None);
        }
        let block = self.block(directory, low)?;
        let (mut first, mut end) = (0, block.entries);
        while first < end {
            let middle = first + (end - first) / 2;
            let (found, found_name) = self.entry(&block, middle)?;
            match found_name.as_slice().cmp(name) {
                Ordering::Equal => return Ok(Some(found)),
                Ordering::Less => first = middle + 1,
                Ordering::Greater => end = middle,
            }
        }
        Ok(None)
    }

    /// Call `visit` with every entry but `.` and `..`, in order of name.
    ///
    /// # Errors
    /// ENOTDIR; EIO if the directory is damaged; what `visit` returns.
    pub fn entries(&self, directory: &Inode, visit: &mut dyn FnMut(&[u8], FoundEntry) -> Result) -> Result {
        let blocks = Self::check_directory(directory)?;
        let mut raw = vec![0; PAGE_SIZE as usize];
        for index in 0..blocks {
            let block = self.block(directory, index)?;
            let bytes = &mut raw[..block.bytes];
            self.bytes(block.at, bytes)?;
            for index in 0..block.entries {
                let at = index * ENTRY_BYTES;
                let start = usize::from(le16(bytes, at + 8));
                let last = index + 1 == block.entries;
                let end = if last { block.bytes } else { usize::from(le16(bytes, at + ENTRY_BYTES + 8)) };
                let mut name = bytes.get(start..end).ok_or(Errno::EIO)?;
                if last {
                    name = name.split(|byte| *byte == 0).next().unwrap_or(name);
                }
                if name.is_empty() || name.len() > NAME_MAX || name.contains(&b'/') {
                    return Err(Errno::EIO);
                }
                if name != b"." && name != b".." {
                    visit(name, FoundEntry { nid: le64(bytes, at), file_type: bytes[at + 10] })?;
                }
            }
        }
        Ok(())
    }
}
