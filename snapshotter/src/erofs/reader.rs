//! Reads an image on the host: for tests, for checks, and for looking into lower layers while a layer is built.
//!
//! Every number in the image is taken for hostile: all accesses are bounds-checked, nothing loops without a bound, and
//! nothing is believed about one structure because of another. Reads with `pread`; never maps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::{CorruptError, Fault};
use super::format::{self, BLOCK, BLOCK_BYTES, Dirent, InodeCore, Superblock};
use super::tree::{Timestamp, Xattr};

/// Something that can be read at any offset.
pub trait ReadAt {
    /// Fills `buf` from `offset_bytes` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the source is shorter.
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset_bytes)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset_bytes)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buf.len())?))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset_bytes)
    }
}

/// An open image.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    superblock: Superblock,
}

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub nid: u64,
    /// `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Number of links, as the inode claims.
    pub nlink: u32,
    /// Bytes of data.
    pub size_bytes: u64,
    /// Device numbers of a device.
    pub device: (u32, u32),
    pub(super) layout: u16,
    pub(super) start_block: u32,
    pub(super) xattr_bytes: u64,
    /// Offset in the image of the xattr area, behind the inode's core.
    pub(super) xattr_offset: u64,
}

impl Inode {
    /// Whether it is a directory.
    pub const fn is_dir(&self) -> bool {
        self.mode & format::S_IFMT == format::S_IFDIR
    }

    /// Whether it is a regular file.
    pub const fn is_file(&self) -> bool {
        self.mode & format::S_IFMT == format::S_IFREG
    }

    /// Whether it is a symbolic link.
    pub const fn is_symlink(&self) -> bool {
        self.mode & format::S_IFMT == format::S_IFLNK
    }

    /// Whether it is overlayfs's mark for a deleted name.
    pub fn is_whiteout(&self) -> bool {
        self.mode & format::S_IFMT == format::S_IFCHR && self.device == (0, 0)
    }

    /// Offset in the image of the data of a regular file, which is one run of whole pages.
    pub const fn data_offset_bytes(&self) -> u64 {
        self.start_block as u64 * BLOCK_BYTES
    }

    const fn has_data(&self) -> bool {
        matches!(self.mode & format::S_IFMT, format::S_IFREG | format::S_IFDIR | format::S_IFLNK)
    }

    /// Bytes of inline data.
    pub(super) const fn inline_bytes(&self) -> u64 {
        if self.layout == format::LAYOUT_FLAT_INLINE { self.size_bytes % BLOCK_BYTES } else { 0 }
    }

    pub(super) const fn inline_offset(&self) -> u64 {
        self.xattr_offset + self.xattr_bytes
    }
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// Inode that it names.
    pub nid: u64,
    /// Generic `FT_*`, as the entry claims.
    pub file_type: u8,
}

impl<S: ReadAt> Reader<S> {
    /// Reads and validates the superblock of an image of `len_bytes` bytes.
    ///
    /// # Errors
    /// [`CorruptError`]: no superblock, wrong checksum, unsupported features, truncated.
    pub fn open(source: S, len_bytes: u64) -> Result<Self, CorruptError> {
        if len_bytes < BLOCK_BYTES {
            return Err(CorruptError::TooShort { len_bytes });
        }
        let mut first = [0; BLOCK];
        source.read_exact_at(&mut first, 0).map_err(|source| CorruptError::Io {
            offset_bytes: 0,
            len_bytes: BLOCK,
            source,
        })?;
        let mut raw = [0; format::SUPER_BYTES];
        raw.copy_from_slice(&first[format::SUPER_OFFSET..format::SUPER_OFFSET + format::SUPER_BYTES]);
        let superblock = Superblock::decode(&raw);
        if superblock.magic != format::MAGIC {
            return Err(CorruptError::BadMagic { found: superblock.magic });
        }
        let unsupported = |what, value| Err(CorruptError::Unsupported { what, value });
        if superblock.block_bits != format::BLOCK_BITS {
            return unsupported("block size of 2 to the power of", u64::from(superblock.block_bits));
        }
        if superblock.feature_compat & format::COMPAT_SB_CHKSUM != 0 {
            let computed = format::super_checksum(&first);
            if computed != superblock.checksum {
                return Err(CorruptError::BadChecksum { found: superblock.checksum, computed });
            }
        }
        if superblock.feature_incompat != 0 {
            return unsupported("incompatible feature set", u64::from(superblock.feature_incompat));
        }
        for (what, value) in [
            ("number of superblock extensions", u64::from(superblock.ext_slots)),
            ("number of extra devices", u64::from(superblock.extra_devices)),
            ("directory block size exponent", u64::from(superblock.dir_block_bits)),
            ("number of long xattr prefixes", u64::from(superblock.xattr_prefix_count)),
        ] {
            if value != 0 {
                return unsupported(what, value);
            }
        }
        if u64::from(superblock.blocks) * BLOCK_BYTES > len_bytes || superblock.blocks == 0 {
            return Err(CorruptError::Truncated { blocks: superblock.blocks, len_bytes });
        }
        Ok(Self { source, superblock })
    }

    /// The superblock.
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The root directory's inode number.
    pub const fn root_nid(&self) -> u64 {
        self.superblock.root_nid as u64
    }

    /// Bytes of the file system.
    pub const fn image_bytes(&self) -> u64 {
        self.superblock.blocks as u64 * BLOCK_BYTES
    }

    /// Reads an inode and checks its fields, and that its attributes and data lie inside the image.
    ///
    /// # Errors
    /// [`CorruptError::Inode`], [`CorruptError::Io`].
    pub fn inode(&self, nid: u64) -> Result<Inode, CorruptError> {
        let bad = |fault| CorruptError::Inode { nid, fault };
        let base = u64::from(self.superblock.meta_block) * BLOCK_BYTES;
        let offset = nid
            .checked_mul(format::SLOT_BYTES)
            .and_then(|o| o.checked_add(base))
            .filter(|o| {
                o.checked_add(format::COMPACT_INODE_BYTES).is_some_and(|end| end <= self.image_bytes())
            })
            .ok_or_else(|| bad(Fault::OutsideImage))?;
        let mut raw = [0; format::EXTENDED_INODE_BYTES as usize];
        self.read(&mut raw[..32], offset)?;
        let format_bits = u16::from_le_bytes([raw[0], raw[1]]);
        let mut core_bytes = format::COMPACT_INODE_BYTES;
        if InodeCore::is_extended(format_bits) {
            core_bytes = format::EXTENDED_INODE_BYTES;
            if offset + core_bytes > self.image_bytes() {
                return Err(bad(Fault::OutsideImage));
            }
            self.read(&mut raw[32..], offset + 32)?;
        }
        let core = InodeCore::decode(&raw).ok_or_else(|| bad(Fault::Format(format_bits)))?;
        if format::dirent_type(core.mode) == 0 {
            return Err(bad(Fault::Mode(core.mode)));
        }
        if core.layout != format::LAYOUT_FLAT_PLAIN && core.layout != format::LAYOUT_FLAT_INLINE {
            return Err(bad(Fault::Layout(core.layout)));
        }
        let mtime = if core.extended {
            Timestamp { seconds: core.mtime_s, nanoseconds: core.mtime_ns }
        } else {
            Timestamp {
                seconds: self.superblock.build_time.cast_signed(),
                nanoseconds: self.superblock.build_time_nsec,
            }
        };
        if mtime.nanoseconds > 999_999_999 {
            return Err(bad(Fault::Nanoseconds(mtime.nanoseconds)));
        }
        let is_device = matches!(core.mode & format::S_IFMT, format::S_IFCHR | format::S_IFBLK);
        let inode = Inode {
            nid,
            mode: core.mode,
            uid: core.uid,
            gid: core.gid,
            mtime,
            nlink: core.nlink,
            size_bytes: core.size_bytes,
            device: if is_device { format::decode_dev(core.start_or_dev) } else { (0, 0) },
            layout: core.layout,
            start_block: if is_device { 0 } else { core.start_or_dev },
            xattr_bytes: format::xattr_area_bytes(core.xattr_count),
            xattr_offset: offset + core_bytes,
        };
        self.check_placement(&inode).map_err(bad)?;
        Ok(inode)
    }

    fn check_placement(&self, inode: &Inode) -> Result<(), Fault> {
        if inode.inline_offset() > self.image_bytes() {
            return Err(Fault::OutsideImage);
        }
        if !inode.has_data() || inode.size_bytes == 0 {
            return Ok(());
        }
        let inline = inode.inline_bytes();
        if inline > 0 {
            if inode.inline_offset() % BLOCK_BYTES + inline > BLOCK_BYTES {
                return Err(Fault::InlineCrosses(inline));
            }
            if inode.inline_offset() + inline > self.image_bytes() {
                return Err(Fault::OutsideImage);
            }
        }
        let in_blocks = inode.size_bytes - inline;
        if in_blocks > 0 {
            let (start_block, size_bytes) = (inode.start_block, inode.size_bytes);
            let end = u64::from(start_block).checked_add(format::blocks_of(in_blocks));
            if end.is_none_or(|end| end > u64::from(self.superblock.blocks)) {
                return Err(Fault::Extent { start_block, size_bytes });
            }
            if start_block == 0 {
                return Err(Fault::OverSuperblock);
            }
        }
        Ok(())
    }

    /// Fills `buf` with an inode's data from `offset_bytes` on, up to its end; returns the number of bytes.
    ///
    /// # Errors
    /// [`CorruptError::Io`].
    pub fn read_at(&self, inode: &Inode, offset_bytes: u64, buf: &mut [u8]) -> Result<usize, CorruptError> {
        if !inode.has_data() || offset_bytes >= inode.size_bytes {
            return Ok(0);
        }
        let in_blocks = inode.size_bytes - inode.inline_bytes();
        let (run, at) = if offset_bytes < in_blocks {
            (in_blocks - offset_bytes, inode.data_offset_bytes() + offset_bytes)
        } else {
            (inode.size_bytes - offset_bytes, inode.inline_offset() + (offset_bytes - in_blocks))
        };
        let n = usize::try_from(run).map_or(buf.len(), |run| run.min(buf.len()));
        self.read(&mut buf[..n], at)?;
        Ok(n)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Fault::NotSymlink`], [`Fault::SymlinkTarget`], [`CorruptError::Io`].
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, CorruptError> {
        let bad = |fault| CorruptError::Inode { nid: inode.nid, fault };
        if !inode.is_symlink() {
            return Err(bad(Fault::NotSymlink));
        }
        if inode.size_bytes == 0 || inode.size_bytes > format::SYMLINK_BYTES_MAX as u64 {
            return Err(bad(Fault::SymlinkTarget(inode.size_bytes)));
        }
        let mut target = vec![0; inode.size_bytes as usize];
        let mut have = 0;
        while have < target.len() {
            have += self.read_at(inode, have as u64, &mut target[have..])?;
        }
        if target.contains(&0) {
            return Err(bad(Fault::SymlinkTarget(inode.size_bytes)));
        }
        Ok(target)
    }

    /// The entries of a directory without "." and "..", ascending.
    ///
    /// # Errors
    /// [`Fault::Dirent`] (which also covers names out of order), [`CorruptError::Io`].
    pub fn read_dir(&self, inode: &Inode) -> Result<Vec<DirEntry>, CorruptError> {
        let mut entries = Vec::new();
        self.for_each_entry(inode, |entry| {
            if entry.name != b"." && entry.name != b".." {
                entries.push(entry);
            }
            Ok(())
        })?;
        Ok(entries)
    }

    /// Calls `each` for every entry, "." and ".." included, in order.
    pub(super) fn for_each_entry(
        &self,
        inode: &Inode,
        mut each: impl FnMut(DirEntry) -> Result<(), CorruptError>,
    ) -> Result<(), CorruptError> {
        if !inode.is_dir() {
            return Err(CorruptError::Inode { nid: inode.nid, fault: Fault::NotDirectory });
        }
        let mut last: Option<Vec<u8>> = None;
        for block in 0..format::blocks_of(inode.size_bytes) {
            let entries = self.directory_block(inode, block)?;
            for (i, entry) in entries.into_iter().enumerate() {
                if last.as_ref().is_some_and(|last| *last >= entry.name) {
                    let fault = Fault::Dirent { block, entry: i, what: "names are not in order" };
                    return Err(CorruptError::Inode { nid: inode.nid, fault });
                }
                last = Some(entry.name.clone());
                each(entry)?;
            }
        }
        Ok(())
    }

    /// Looks a name up by binary search, as the kernel does.
    ///
    /// # Errors
    /// [`Fault::NotDirectory`], [`Fault::Dirent`], [`CorruptError::Io`].
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<Inode>, CorruptError> {
        if !dir.is_dir() {
            return Err(CorruptError::Inode { nid: dir.nid, fault: Fault::NotDirectory });
        }
        let (mut low, mut high) = (0, format::blocks_of(dir.size_bytes));
        while low < high {
            let middle = low + (high - low) / 2;
            let entries = self.directory_block(dir, middle)?;
            // A directory block has at least one entry.
            let first = entries.first().map_or(&[][..], |e| &e.name);
            if name < first {
                high = middle;
                continue;
            }
            if let Ok(found) = entries.binary_search_by(|e| (*e.name).cmp(name)) {
                return self.inode(entries[found].nid).map(Some);
            }
            low = middle + 1;
        }
        Ok(None)
    }

    fn directory_block(&self, inode: &Inode, block: u64) -> Result<Vec<DirEntry>, CorruptError> {
        let mut raw = [0; BLOCK];
        // One block is either in blocks or inline, never both.
        let len = self.read_at(inode, block * BLOCK_BYTES, &mut raw)?;
        parse_directory_block(&raw[..len]).map_err(|(entry, what)| CorruptError::Inode {
            nid: inode.nid,
            fault: Fault::Dirent { block, entry, what },
        })
    }

    /// The extended attributes, sorted as stored; full names with [`Xattr::name`].
    ///
    /// # Errors
    /// [`Fault::Xattr`], [`CorruptError::Io`].
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, CorruptError> {
        let bad = |what| CorruptError::Inode { nid: inode.nid, fault: Fault::Xattr(what) };
        if inode.xattr_bytes == 0 {
            return Ok(Vec::new());
        }
        let mut area = vec![0; inode.xattr_bytes as usize];
        self.read(&mut area, inode.xattr_offset)?;
        let shared = usize::from(area[4]);
        let mut rest = area
            .get(format::XATTR_HEADER_BYTES + 4 * shared..)
            .ok_or_else(|| bad("more shared attributes than the area holds"))?;
        let mut xattrs = Vec::new();
        for id in area[format::XATTR_HEADER_BYTES..].chunks_exact(4).take(shared) {
            let id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
            xattrs.push(self.shared_xattr(inode.nid, id)?);
        }
        while !rest.is_empty() {
            // Padding: an entry without prefix and name.
            if rest.len() < format::XATTR_ENTRY_BYTES || rest[..4] == [0; 4] {
                break;
            }
            let (xattr, used) = parse_xattr(rest).map_err(bad)?;
            xattrs.push(xattr);
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(xattrs)
    }

    fn shared_xattr(&self, nid: u64, id: u32) -> Result<Xattr, CorruptError> {
        let bad = |what| CorruptError::Inode { nid, fault: Fault::Xattr(what) };
        let outside = || bad("a shared attribute lies outside the image");
        let offset = u64::from(self.superblock.xattr_block) * BLOCK_BYTES + u64::from(id) * 4;
        let left = self.image_bytes().checked_sub(offset).filter(|l| *l >= 4).ok_or_else(outside)?;
        let mut head = [0; 4];
        self.read(&mut head, offset)?;
        let need = format::XATTR_ENTRY_BYTES
            + usize::from(head[0])
            + usize::from(u16::from_le_bytes([head[2], head[3]]));
        if need as u64 > left {
            return Err(outside());
        }
        let mut raw = vec![0; need];
        self.read(&mut raw, offset)?;
        parse_xattr(&raw).map(|(xattr, _)| xattr).map_err(bad)
    }

    pub(super) fn read(&self, buf: &mut [u8], offset_bytes: u64) -> Result<(), CorruptError> {
        let len_bytes = buf.len();
        self.source.read_exact_at(buf, offset_bytes).map_err(|source| CorruptError::Io {
            offset_bytes,
            len_bytes,
            source,
        })
    }

    /// Every path of the tree with its inode, in depth-first order; the root is the empty path. For trees that have
    /// been checked: a loop of directories would not end (it ends at `DEPTH_MAX`, after far too long).
    ///
    /// # Errors
    /// The first damage found.
    pub fn walk(&self) -> Result<BTreeMap<Vec<u8>, Inode>, CorruptError> {
        let mut found = BTreeMap::new();
        let mut todo = vec![(Vec::new(), self.root_nid(), 0_usize)];
        while let Some((path, nid, depth)) = todo.pop() {
            let inode = self.inode(nid)?;
            if inode.is_dir() {
                if depth > super::tree::DEPTH_MAX {
                    return Err(CorruptError::Inode { nid, fault: Fault::TooDeep(super::tree::DEPTH_MAX) });
                }
                for entry in self.read_dir(&inode)? {
                    let mut child = path.clone();
                    if !child.is_empty() {
                        child.push(b'/');
                    }
                    child.extend(&entry.name);
                    todo.push((child, entry.nid, depth + 1));
                }
            }
            found.insert(path, inode);
        }
        Ok(found)
    }
}

/// Decodes the entries of one directory block, which may be cut to the directory's size.
///
/// # Errors
/// Position of the bad entry, and what is wrong with it.
pub(super) fn parse_directory_block(raw: &[u8]) -> Result<Vec<DirEntry>, (usize, &'static str)> {
    let first = Dirent::decode(raw, 0).ok_or((0, "there is no room for an entry"))?;
    let names_start = usize::from(first.name_offset);
    if names_start < format::DIRENT_BYTES
        || !names_start.is_multiple_of(format::DIRENT_BYTES)
        || names_start >= raw.len()
    {
        return Err((0, "the first name's offset is impossible"));
    }
    let count = names_start / format::DIRENT_BYTES;
    let mut entries = Vec::with_capacity(count);
    for i in 0..count {
        let dirent = Dirent::decode(raw, i * format::DIRENT_BYTES).ok_or((i, "lies outside the block"))?;
        let start = usize::from(dirent.name_offset);
        let end = if i + 1 < count {
            Dirent::decode(raw, (i + 1) * format::DIRENT_BYTES)
                .map(|next| usize::from(next.name_offset))
                .ok_or((i, "lies outside the block"))?
        } else {
            raw.len()
        };
        let name = raw
            .get(start..end)
            .filter(|_| start >= names_start)
            .ok_or((i, "its name lies outside the block"))?;
        // The last name of a block may be followed by zeros.
        let name = if i + 1 < count {
            name
        } else {
            &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())]
        };
        if name.is_empty() || name.len() > format::NAME_BYTES_MAX {
            return Err((i, "its name is empty or longer than 255 bytes"));
        }
        if name.iter().any(|b| *b == b'/' || *b == 0) {
            return Err((i, "its name contains a slash or a NUL byte"));
        }
        entries.push(DirEntry { name: name.to_vec(), nid: dirent.nid, file_type: dirent.file_type });
    }
    Ok(entries)
}

/// Decodes the xattr entry at the start of `raw`: the attribute and its padded size.
fn parse_xattr(raw: &[u8]) -> Result<(Xattr, usize), &'static str> {
    let head = raw.get(..format::XATTR_ENTRY_BYTES).ok_or("an entry is cut off")?;
    let (name_len, index) = (usize::from(head[0]), head[1]);
    let value_len = usize::from(u16::from_le_bytes([head[2], head[3]]));
    let prefix = format::xattr_prefix(index).ok_or("unknown name prefix")?;
    let end = format::XATTR_ENTRY_BYTES + name_len + value_len;
    let body = raw.get(format::XATTR_ENTRY_BYTES..end).ok_or("an entry reaches beyond the area")?;
    let (suffix, value) = body.split_at(name_len);
    if prefix.ends_with(b".") == suffix.is_empty() || suffix.contains(&0) {
        return Err("impossible name");
    }
    Ok((Xattr { index, suffix: suffix.into(), value: value.into() }, format::align4(end)))
}
