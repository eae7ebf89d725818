//! Reader of the EROFS blobs that hold an image's layers.
//!
//! Read first: the kernel's `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`. Everything is little endian.
//! A blob is a window of guest-physical memory that nobody writes; file data is found as addresses in it, so that reading copies once
//! and mapping copies nothing. The host has checked the blob, but it is treated as hostile: every offset is checked against the
//! window, every loop is bounded by the bytes that it walks, and damage is EIO.
//!
//! The subset: 4 KiB blocks, one device, uncompressed data (`FLAT_PLAIN`, `FLAT_INLINE`), compact and extended inodes,
//! inline and shared extended attributes. **Not** supported: compression, chunk-based files, several devices, long
//! xattr prefixes.

mod directory;
mod xattr;

#[cfg(test)]
pub(crate) mod tests;

pub use directory::FoundEntry;

use crate::errno::{Errno, Result};
use crate::mem::frames::{Frames, Gpa};
use seuss_abi::comm::ImageWindow;
use seuss_abi::layout::PAGE_SIZE;

const SUPER_OFFSET: u64 = 1024;
const SUPER_BYTES: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// `EROFS_FEATURE_INCOMPAT_ZERO_PADDING`: says how compressed data is padded, and there is none.
const INCOMPAT_HARMLESS: u32 = 1;
const SLOT_BYTES: u64 = 32;
const COMPACT_BYTES: u64 = 32;
const EXTENDED_BYTES: u64 = 64;
const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;

/// Number of an inode in its image.
pub type Nid = u64;

/// Why a window is not a usable EROFS image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Too short for a superblock, or not in whole pages.
    Size(u64),
    /// Another magic number.
    Magic(u32),
    /// A block size other than 4 KiB, as log2.
    BlockSize(u8),
    /// Features that this reader does not have, as EROFS's incompatible-feature bits.
    Features(u32),
    /// Several devices.
    Devices(u16),
    /// The root is not a directory, or cannot be read.
    Root(Nid),
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Size(bytes) => write!(f, "image window of {bytes} bytes is no file system"),
            Self::Magic(magic) => write!(f, "image has magic {magic:#x}, not that of EROFS"),
            Self::BlockSize(bits) => write!(f, "image has blocks of 2^{bits} bytes, not 4 KiB"),
            Self::Features(bits) => write!(f, "image needs unsupported EROFS features {bits:#x}"),
            Self::Devices(count) => write!(f, "image has {count} extra devices"),
            Self::Root(nid) => write!(f, "root inode {nid} is damaged"),
        }
    }
}

impl core::error::Error for OpenError {}

/// One image.
#[derive(Debug)]
pub struct Image {
    frames: Frames,
    window: ImageWindow,
    meta: u64,
    xattr: u64,
    root: Nid,
    build_time: (i64, u32),
}

/// An inode, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Link count in its layer.
    pub nlink: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time, seconds.
    pub mtime_s: i64,
    /// Modification time, nanoseconds.
    pub mtime_ns: u32,
    /// Start block of the data, or the device number as `new_encode_dev` packs it.
    word: u32,
    /// Offset of the inline tail in the image; 0 = all data lies in whole blocks.
    inline: u64,
    xattr_at: u64,
    xattr_bytes: u32,
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Inode {
    /// Major and minor number of a device node.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        ((self.word & 0x000f_ff00) >> 8, (self.word & 0xff) | ((self.word >> 12) & 0x000f_ff00))
    }

    /// Whether the inode is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }

    /// Whether the inode is an overlayfs whiteout: it hides the name in the layers below.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.mode & 0o170_000 == 0o020_000 && self.word == 0
    }

    /// Whether the inode may have extended attributes.
    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        self.xattr_bytes != 0
    }
}

impl Image {
    /// Look at the superblock of the image in `window`.
    ///
    /// # Errors
    /// [`OpenError`] if it is not an image of the supported subset.
    pub fn open(frames: &Frames, window: ImageWindow) -> core::result::Result<Self, OpenError> {
        if window.len_bytes < PAGE_SIZE || !window.len_bytes.is_multiple_of(PAGE_SIZE) {
            return Err(OpenError::Size(window.len_bytes));
        }
        let mut raw = [0; SUPER_BYTES];
        frames.read(window.gpa + SUPER_OFFSET, &mut raw);
        if le32(&raw, 0) != MAGIC {
            return Err(OpenError::Magic(le32(&raw, 0)));
        }
        if raw[12] != 12 || raw[90] != 0 {
            return Err(OpenError::BlockSize(raw[12].saturating_add(raw[90])));
        }
        let features = le32(&raw, 80) & !INCOMPAT_HARMLESS;
        if features != 0 {
            return Err(OpenError::Features(features));
        }
        if le16(&raw, 86) != 0 {
            return Err(OpenError::Devices(le16(&raw, 86)));
        }
        let image = Self {
            frames: frames.clone(),
            window,
            meta: u64::from(le32(&raw, 40)) * PAGE_SIZE,
            xattr: u64::from(le32(&raw, 44)) * PAGE_SIZE,
            root: Nid::from(le16(&raw, 14)),
            build_time: (le64(&raw, 24).cast_signed(), le32(&raw, 32)),
        };
        match image.inode(image.root) {
            Ok(inode) if inode.is_directory() => Ok(image),
            _ => Err(OpenError::Root(image.root)),
        }
    }

    /// The root directory's number.
    #[must_use]
    pub fn root(&self) -> Nid {
        self.root
    }

    /// Copy bytes at an offset of the image.
    fn bytes(&self, at: u64, bytes: &mut [u8]) -> Result {
        let end = at.checked_add(bytes.len() as u64).ok_or(Errno::EIO)?;
        if end > self.window.len_bytes {
            return Err(Errno::EIO);
        }
        self.frames.read(self.window.gpa + at, bytes);
        Ok(())
    }

    /// Decode inode `nid`.
    ///
    /// # Errors
    /// EIO if it lies outside the image, or has a data layout that is not supported.
    pub fn inode(&self, nid: Nid) -> Result<Inode> {
        let at = nid.checked_mul(SLOT_BYTES).and_then(|at| at.checked_add(self.meta)).ok_or(Errno::EIO)?;
        let mut raw = [0; EXTENDED_BYTES as usize];
        self.bytes(at, &mut raw[..COMPACT_BYTES as usize])?;
        let format = le16(&raw, 0);
        let extended = format & 1 != 0;
        if extended {
            self.bytes(at, &mut raw)?;
        }
        let inode_bytes = if extended { EXTENDED_BYTES } else { COMPACT_BYTES };
        let xattr_bytes = match le16(&raw, 2) {
            0 => 0,
            count => 12 + 4 * (u32::from(count) - 1),
        };
        let size = if extended { le64(&raw, 8) } else { u64::from(le32(&raw, 8)) };
        let xattr_at = at + inode_bytes;
        let layout = format >> 1 & 7;
        let inline = match layout {
            LAYOUT_INLINE if size != 0 => xattr_at + u64::from(xattr_bytes),
            LAYOUT_INLINE | LAYOUT_PLAIN => 0,
            _ => return Err(Errno::EIO),
        };
        let inode = Inode {
            nid,
            mode: u32::from(le16(&raw, 4)),
            uid: if extended { le32(&raw, 24) } else { u32::from(le16(&raw, 24)) },
            gid: if extended { le32(&raw, 28) } else { u32::from(le16(&raw, 26)) },
            nlink: if extended { le32(&raw, 44) } else { u32::from(le16(&raw, 6)) },
            size,
            mtime_s: if extended { le64(&raw, 32).cast_signed() } else { self.build_time.0 },
            mtime_ns: if extended { le32(&raw, 40) } else { self.build_time.1 } % 1_000_000_000,
            word: le32(&raw, 16),
            inline,
            xattr_at,
            xattr_bytes,
        };
        self.check_extent(&inode)?;
        Ok(inode)
    }

    /// All data of regular files, directories and links must lie in the window, so that later accesses cannot leave it.
    fn check_extent(&self, inode: &Inode) -> Result {
        if !matches!(inode.mode >> 12, 0o10 | 0o04 | 0o12) || inode.size == 0 {
            return Ok(());
        }
        let tail = Self::tail_start(inode);
        if inode.inline != 0 {
            let tail_bytes = inode.size - tail;
            if inode.inline.checked_add(tail_bytes).is_none_or(|end| end > self.window.len_bytes) {
                return Err(Errno::EIO);
            }
        }
        let blocks = if inode.inline != 0 { tail / PAGE_SIZE } else { inode.size.div_ceil(PAGE_SIZE) };
        let end_block = u64::from(inode.word).checked_add(blocks).ok_or(Errno::EIO)?;
        if blocks != 0 && end_block > self.window.len_bytes / PAGE_SIZE {
            return Err(Errno::EIO);
        }
        Ok(())
    }

    /// Where the inline tail starts in the file.
    fn tail_start(inode: &Inode) -> u64 {
        if inode.inline == 0 { u64::MAX } else { (inode.size - 1) / PAGE_SIZE * PAGE_SIZE }
    }

    /// Where byte `offset` of the data lies in the image, and how many bytes follow it there.
    fn locate(inode: &Inode, offset: u64) -> (u64, u64) {
        let tail = Self::tail_start(inode);
        if offset >= tail {
            return (inode.inline + (offset - tail), inode.size - offset);
        }
        (u64::from(inode.word) * PAGE_SIZE + offset, inode.size.min(tail) - offset)
    }

    /// Copy data at `offset`; returns how many bytes there were.
    ///
    /// # Errors
    /// EIO if the data lies outside the image.
    pub fn read(&self, inode: &Inode, mut offset: u64, bytes: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() && offset < inode.size {
            let (at, len) = Self::locate(inode, offset);
            let count = (bytes.len() - done).min(usize::try_from(len).unwrap_or(usize::MAX));
            self.bytes(at, &mut bytes[done..done + count])?;
            done += count;
            offset += count as u64;
        }
        Ok(done)
    }

    /// The address of the page that holds data page `index` whole and aligned; `None` for an inline tail and beyond the end.
    #[must_use]
    pub fn page(&self, inode: &Inode, index: u64) -> Option<Gpa> {
        let offset = index.checked_mul(PAGE_SIZE)?;
        if offset >= inode.size || offset >= Self::tail_start(inode) {
            return None;
        }
        let at = (u64::from(inode.word) + index) * PAGE_SIZE;
        (at + PAGE_SIZE <= self.window.len_bytes).then_some(self.window.gpa + at)
    }
}
