//! Extended attributes: a header with the numbers of shared ones, then entries of prefix index, name and value.

use super::{Image, Inode, le16, le32};
use crate::errno::{Errno, Result};
use alloc::vec;
use alloc::vec::Vec;

const HEADER_BYTES: u64 = 12;
const ENTRY_BYTES: u64 = 4;

/// The prefix that a name index stands for.
fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        _ => return None,
    })
}

impl Image {
    /// One entry at `at`: its full name (empty if its prefix is unknown), its value, and its size with padding.
    fn xattr_entry(&self, at: u64, limit: u64) -> Result<(Vec<u8>, Vec<u8>, u64)> {
        let mut head = [0; ENTRY_BYTES as usize];
        self.bytes(at, &mut head)?;
        let (name_bytes, value_bytes) = (usize::from(head[0]), usize::from(le16(&head, 2)));
        let size = (ENTRY_BYTES + (name_bytes + value_bytes) as u64).next_multiple_of(4);
        if size > limit {
            return Err(Errno::EIO);
        }
        let mut name = vec![0; name_bytes];
        let mut value = vec![0; value_bytes];
        self.bytes(at + ENTRY_BYTES, &mut name)?;
        self.bytes(at + ENTRY_BYTES + name_bytes as u64, &mut value)?;
        let full = match prefix(head[1]) {
            Some(prefix) => [prefix, &name].concat(),
            None => Vec::new(),
        };
        Ok((full, value, size))
    }

    /// Call `visit` with the name and value of every extended attribute.
    ///
    /// # Errors
    /// EIO if they are damaged.
    pub fn xattrs(&self, inode: &Inode, visit: &mut dyn FnMut(Vec<u8>, Vec<u8>)) -> Result {
        let total = u64::from(inode.xattr_bytes);
        if total < HEADER_BYTES {
            return Ok(());
        }
        let mut header = [0; HEADER_BYTES as usize];
        self.bytes(inode.xattr_at, &mut header)?;
        let shared = u64::from(header[4]);
        let mut at = HEADER_BYTES + shared * 4;
        if at > total {
            return Err(Errno::EIO);
        }
        let mut emit = |name: Vec<u8>, value| {
            if !name.is_empty() {
                visit(name, value);
            }
        };
        while total - at >= ENTRY_BYTES {
            let (name, value, size) = self.xattr_entry(inode.xattr_at + at, total - at)?;
            emit(name, value);
            at += size;
        }
        for index in 0..shared {
            let mut id = [0; 4];
            self.bytes(inode.xattr_at + HEADER_BYTES + index * 4, &mut id)?;
            let (name, value, _) = self.xattr_entry(self.xattr + u64::from(le32(&id, 0)) * 4, u64::MAX)?;
            emit(name, value);
        }
        Ok(())
    }

    /// The value of one extended attribute.
    ///
    /// # Errors
    /// EIO if they are damaged.
    pub fn xattr(&self, inode: &Inode, wanted: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut found = None;
        self.xattrs(inode, &mut |name, value| {
            if name == wanted {
                found = Some(value);
            }
        })?;
        Ok(found)
    }
}
