//! The on-disk format of EROFS, as much of it as this crate reads and writes. No I/O.
//!
//! Read first: the kernel's `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`. Everything is little
//! endian. The subset: 4 KiB blocks, one device, uncompressed data (`FLAT_PLAIN`, `FLAT_INLINE`), compact and
//! extended inodes, inline and shared extended attributes. **Not** supported: compression, chunk-based files,
//! several devices, fragments, long xattr prefixes, 48-bit block addresses.

/// Log2 of the block size.
pub const BLOCK_BITS: u8 = 12;
/// Bytes in a block.
pub const BLOCK_BYTES: u64 = 1 << BLOCK_BITS;
/// Bytes in a block, for indices.
pub const BLOCK: usize = 1 << BLOCK_BITS;
/// Offset of the superblock.
pub const SUPER_OFFSET: usize = 1024;
/// Bytes of the superblock.
pub const SUPER_BYTES: usize = 128;
/// `EROFS_SUPER_MAGIC_V1`.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// A nid counts slots of this many bytes from the start of the metadata area.
pub const SLOT_BYTES: u64 = 32;
/// Longest file name.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symbolic link target, as Linux has it (`PATH_MAX` includes the terminating NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;

/// The superblock's checksum field is valid.
pub const COMPAT_SB_CHKSUM: u32 = 0x1;
/// Inode times are modification times.
pub const COMPAT_MTIME: u32 = 0x2;

/// Data in whole blocks at `start_block`.
pub const LAYOUT_FLAT_PLAIN: u16 = 0;
/// Whole blocks at `start_block`, the tail right behind the inode and its xattrs.
pub const LAYOUT_FLAT_INLINE: u16 = 2;

/// Bytes of a 32-byte inode.
pub const COMPACT_INODE_BYTES: u64 = 32;
/// Bytes of a 64-byte inode.
pub const EXTENDED_INODE_BYTES: u64 = 64;
/// Bytes of a directory entry without its name.
pub const DIRENT_BYTES: usize = 12;
/// Bytes of the header of an inode's xattr area.
pub const XATTR_HEADER_BYTES: usize = 12;
/// Bytes of an xattr entry without name and value.
pub const XATTR_ENTRY_BYTES: usize = 4;

/// File type bits of `st_mode`.
pub const S_IFMT: u16 = 0o170_000;
/// Socket.
pub const S_IFSOCK: u16 = 0o140_000;
/// Symbolic link.
pub const S_IFLNK: u16 = 0o120_000;
/// Regular file.
pub const S_IFREG: u16 = 0o100_000;
/// Block device.
pub const S_IFBLK: u16 = 0o060_000;
/// Directory.
pub const S_IFDIR: u16 = 0o040_000;
/// Character device.
pub const S_IFCHR: u16 = 0o020_000;
/// FIFO.
pub const S_IFIFO: u16 = 0o010_000;

/// The `file_type` of a directory entry that points at an inode of this mode (generic `FT_*`); 0 when unknown.
pub const fn dirent_type(mode: u16) -> u8 {
    match mode & S_IFMT {
        S_IFREG => 1,
        S_IFDIR => 2,
        S_IFCHR => 3,
        S_IFBLK => 4,
        S_IFIFO => 5,
        S_IFSOCK => 6,
        S_IFLNK => 7,
        _ => 0,
    }
}

/// Prefixes of xattr names that have a one-byte index. The posix_acl ones are whole names.
pub const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Splits a full xattr name into index and suffix; `None` when EROFS cannot express it.
pub fn split_xattr_name(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|(index, prefix)| {
        let suffix = name.strip_prefix(*prefix)?;
        let whole_name = *index == 2 || *index == 3;
        (whole_name == suffix.is_empty()).then_some((*index, suffix))
    })
}

/// The prefix of an index; `None` when the index is unknown.
pub fn xattr_prefix(index: u8) -> Option<&'static [u8]> {
    XATTR_PREFIXES.iter().find(|(i, _)| *i == index).map(|(_, prefix)| *prefix)
}

/// Rounds up to a multiple of four, the alignment of xattr entries.
pub const fn align4(bytes: usize) -> usize {
    (bytes + 3) & !3
}

/// Number of blocks that hold `bytes`.
pub const fn blocks_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}

/// Encodes a device number as the kernel's `new_encode_dev`.
pub const fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0x000f_ff00) << 12)
}

/// Decodes `new_encode_dev`: major and minor.
pub const fn decode_dev(dev: u32) -> (u32, u32) {
    ((dev & 0x000f_ff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0x000f_ff00))
}

/// The superblock's fields that the supported subset uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// `MAGIC` in an EROFS image.
    pub magic: u32,
    /// CRC32C of the first block from the superblock on, this field taken as zero.
    pub checksum: u32,
    /// Compatible features.
    pub feature_compat: u32,
    /// Log2 of the block size.
    pub block_bits: u8,
    /// Extra 16-byte slots behind the superblock.
    pub ext_slots: u8,
    /// Root directory.
    pub root_nid: u16,
    /// Number of inodes.
    pub inodes: u64,
    /// Time of compact inodes, seconds.
    pub build_time: u64,
    /// Time of compact inodes, nanoseconds.
    pub build_time_nsec: u32,
    /// Size of the file system in blocks.
    pub blocks: u32,
    /// First block of the metadata area.
    pub meta_block: u32,
    /// First block of the shared xattrs.
    pub xattr_block: u32,
    /// Incompatible features.
    pub feature_incompat: u32,
    /// Number of further devices.
    pub extra_devices: u16,
    /// Log2 of blocks in a directory block.
    pub dir_block_bits: u8,
    /// Number of long xattr prefixes.
    pub xattr_prefix_count: u8,
}

impl Superblock {
    /// Decodes the 128 bytes at `SUPER_OFFSET`. Validates nothing.
    pub fn decode(raw: &[u8; SUPER_BYTES]) -> Self {
        Self {
            magic: le32(raw, 0),
            checksum: le32(raw, 4),
            feature_compat: le32(raw, 8),
            block_bits: raw[12],
            ext_slots: raw[13],
            root_nid: le16(raw, 14),
            inodes: le64(raw, 16),
            build_time: le64(raw, 24),
            build_time_nsec: le32(raw, 32),
            blocks: le32(raw, 36),
            meta_block: le32(raw, 40),
            xattr_block: le32(raw, 44),
            feature_incompat: le32(raw, 80),
            extra_devices: le16(raw, 86),
            dir_block_bits: raw[90],
            xattr_prefix_count: raw[91],
        }
    }

    /// Encodes to the 128 bytes at `SUPER_OFFSET`; UUID and volume name are zero.
    pub fn encode(&self) -> [u8; SUPER_BYTES] {
        let mut raw = [0; SUPER_BYTES];
        put(&mut raw, 0, &self.magic.to_le_bytes());
        put(&mut raw, 4, &self.checksum.to_le_bytes());
        put(&mut raw, 8, &self.feature_compat.to_le_bytes());
        raw[12] = self.block_bits;
        raw[13] = self.ext_slots;
        put(&mut raw, 14, &self.root_nid.to_le_bytes());
        put(&mut raw, 16, &self.inodes.to_le_bytes());
        put(&mut raw, 24, &self.build_time.to_le_bytes());
        put(&mut raw, 32, &self.build_time_nsec.to_le_bytes());
        put(&mut raw, 36, &self.blocks.to_le_bytes());
        put(&mut raw, 40, &self.meta_block.to_le_bytes());
        put(&mut raw, 44, &self.xattr_block.to_le_bytes());
        put(&mut raw, 80, &self.feature_incompat.to_le_bytes());
        put(&mut raw, 86, &self.extra_devices.to_le_bytes());
        raw[90] = self.dir_block_bits;
        raw[91] = self.xattr_prefix_count;
        raw
    }
}

/// An inode's core, compact or extended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeCore {
    /// 64-byte form.
    pub extended: bool,
    /// Data layout (`LAYOUT_*`).
    pub layout: u16,
    /// Size of the xattr area in its own unit, see [`xattr_area_bytes`].
    pub xattr_count: u16,
    /// `st_mode`.
    pub mode: u16,
    /// Bytes of data.
    pub size_bytes: u64,
    /// Start block, or device number.
    pub start_or_dev: u32,
    /// 32-bit inode number, informative.
    pub ino: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds (extended only).
    pub mtime_s: i64,
    /// Modification time, nanoseconds (extended only).
    pub mtime_ns: u32,
    /// Number of links.
    pub nlink: u32,
}

impl InodeCore {
    /// Whether the first two bytes of an inode announce the 64-byte form; the other format bits are checked by
    /// [`InodeCore::decode`].
    pub const fn is_extended(format: u16) -> bool {
        format & 1 == 1
    }

    /// Decodes an inode from its 32 or 64 bytes; the time of a compact inode is left zero.
    /// `None` when the format bits are not of the supported version or the slice is too short.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let format = u16::from_le_bytes([*raw.first()?, *raw.get(1)?]);
        if format & !0xf != 0 {
            return None;
        }
        let layout = format >> 1;
        if Self::is_extended(format) {
            let raw: &[u8; EXTENDED_INODE_BYTES as usize] = raw.get(..64)?.try_into().ok()?;
            Some(Self {
                extended: true,
                layout,
                xattr_count: le16(raw, 2),
                mode: le16(raw, 4),
                size_bytes: le64(raw, 8),
                start_or_dev: le32(raw, 16),
                ino: le32(raw, 20),
                uid: le32(raw, 24),
                gid: le32(raw, 28),
                mtime_s: le64(raw, 32).cast_signed(),
                mtime_ns: le32(raw, 40),
                nlink: le32(raw, 44),
            })
        } else {
            let raw: &[u8; COMPACT_INODE_BYTES as usize] = raw.get(..32)?.try_into().ok()?;
            Some(Self {
                extended: false,
                layout,
                xattr_count: le16(raw, 2),
                mode: le16(raw, 4),
                nlink: u32::from(le16(raw, 6)),
                size_bytes: u64::from(le32(raw, 8)),
                start_or_dev: le32(raw, 16),
                ino: le32(raw, 20),
                uid: u32::from(le16(raw, 24)),
                gid: u32::from(le16(raw, 26)),
                mtime_s: 0,
                mtime_ns: 0,
            })
        }
    }

    /// Encodes as an extended inode, whatever `extended` says.
    pub fn encode_extended(&self) -> [u8; EXTENDED_INODE_BYTES as usize] {
        let mut raw = [0; EXTENDED_INODE_BYTES as usize];
        put(&mut raw, 0, &((self.layout << 1) | 1).to_le_bytes());
        put(&mut raw, 2, &self.xattr_count.to_le_bytes());
        put(&mut raw, 4, &self.mode.to_le_bytes());
        put(&mut raw, 8, &self.size_bytes.to_le_bytes());
        put(&mut raw, 16, &self.start_or_dev.to_le_bytes());
        put(&mut raw, 20, &self.ino.to_le_bytes());
        put(&mut raw, 24, &self.uid.to_le_bytes());
        put(&mut raw, 28, &self.gid.to_le_bytes());
        put(&mut raw, 32, &self.mtime_s.to_le_bytes());
        put(&mut raw, 40, &self.mtime_ns.to_le_bytes());
        put(&mut raw, 44, &self.nlink.to_le_bytes());
        raw
    }
}

/// Bytes of an inode's xattr area from its `i_xattr_icount`.
pub const fn xattr_area_bytes(count: u16) -> u64 {
    if count == 0 { 0 } else { XATTR_HEADER_BYTES as u64 + 4 * (count as u64 - 1) }
}

/// A directory entry without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dirent {
    /// Inode that it names.
    pub nid: u64,
    /// Offset of the name in the directory block.
    pub name_offset: u16,
    /// Generic `FT_*`.
    pub file_type: u8,
}

impl Dirent {
    /// Decodes the entry at byte offset `at` of a directory block; `None` when it does not fit in there.
    pub fn decode(block: &[u8], at: usize) -> Option<Self> {
        let raw: &[u8; DIRENT_BYTES] = block.get(at..at.checked_add(DIRENT_BYTES)?)?.try_into().ok()?;
        Some(Self { nid: le64(raw, 0), name_offset: le16(raw, 8), file_type: raw[10] })
    }

    /// Encodes the entry.
    pub fn encode(&self) -> [u8; DIRENT_BYTES] {
        let mut raw = [0; DIRENT_BYTES];
        put(&mut raw, 0, &self.nid.to_le_bytes());
        put(&mut raw, 8, &self.name_offset.to_le_bytes());
        raw[10] = self.file_type;
        raw
    }
}

/// CRC32C as EROFS uses it: reflected Castagnoli polynomial, seeded with all ones, **not** inverted at the end.
pub fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut bit = 0;
            while bit < 8 {
                c = if c & 1 == 1 { (c >> 1) ^ 0x82f6_3b78 } else { c >> 1 };
                bit += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    for byte in bytes {
        crc = (crc >> 8) ^ TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize];
    }
    crc
}

/// The checksum of a first block, the checksum field taken as zero.
pub fn super_checksum(first_block: &[u8; BLOCK]) -> u32 {
    let crc = crc32c(!0, &first_block[SUPER_OFFSET..SUPER_OFFSET + 4]);
    let crc = crc32c(crc, &[0; 4]);
    crc32c(crc, &first_block[SUPER_OFFSET + 8..])
}

// The callers pass arrays and constant offsets, so that the slices below cannot be out of range.
fn le16<const N: usize>(raw: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([raw[at], raw[at + 1]])
}

fn le32<const N: usize>(raw: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

fn le64<const N: usize>(raw: &[u8; N], at: usize) -> u64 {
    u64::from(le32(raw, at)) | (u64::from(le32(raw, at + 4)) << 32)
}

fn put<const N: usize>(raw: &mut [u8; N], at: usize, bytes: &[u8]) {
    raw[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_check_string() {
        // The catalogue's check value is the inverted one.
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (4095, 0xf_ffff), (259, 70_000)] {
            assert_eq!(decode_dev(encode_dev(major, minor)), (major, minor));
        }
        assert_eq!(encode_dev(1, 3), 0x103);
    }

    #[test]
    fn xattr_names_split() {
        assert_eq!(split_xattr_name(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(split_xattr_name(b"system.posix_acl_access"), Some((2, &b""[..])));
        assert_eq!(split_xattr_name(b"security.capability"), Some((6, &b"capability"[..])));
        for name in [&b"user."[..], b"system.posix_acl_accessx", b"system.nfs4_acl", b"", b"com.apple.x"] {
            assert_eq!(split_xattr_name(name), None);
        }
    }

    #[test]
    fn superblock_and_inode_round_trip() {
        let sb = Superblock {
            magic: MAGIC,
            checksum: 1,
            feature_compat: 3,
            block_bits: 12,
            ext_slots: 0,
            root_nid: 2,
            inodes: 7,
            build_time: 5,
            build_time_nsec: 6,
            blocks: 9,
            meta_block: 4,
            xattr_block: 0,
            feature_incompat: 0,
            extra_devices: 0,
            dir_block_bits: 0,
            xattr_prefix_count: 0,
        };
        assert_eq!(Superblock::decode(&sb.encode()), sb);
        let inode = InodeCore {
            extended: true,
            layout: LAYOUT_FLAT_INLINE,
            xattr_count: 3,
            mode: S_IFREG | 0o755,
            size_bytes: 1 << 40,
            start_or_dev: 77,
            ino: 5,
            uid: 100_000,
            gid: 4,
            mtime_s: -5,
            mtime_ns: 999,
            nlink: 2,
        };
        assert_eq!(InodeCore::decode(&inode.encode_extended()), Some(inode));
    }
}
