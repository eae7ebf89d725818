//! Writes an image: file data in the order in which it arrives, then all metadata, then the superblock.
//!
//! Image, in 4 KiB blocks:
//!
//! ```text
//! | 0: superblock | data of regular files ... | inodes, inline data | directory blocks |
//!                 1                           meta_block (nid 2 is the root)
//! ```
//!
//! Every regular file is `FLAT_PLAIN`: one run of whole blocks, so that file offset N*4096 is an aligned page of the
//! image and the tail of the last page is zero. Files of 2 MiB and more start at multiples of 2 MiB in the image
//! (smaller files fill the gaps), so that a guest which has the image at a 2 MiB-aligned address can map them with
//! large pages. Pages that are all zero are not written: the image is sparse. The metadata comes last because a tar
//! stream tells sizes one file at a time; a start block in the superblock (`meta_blkaddr`) says where it is, which
//! also keeps the root's 16-bit nid small. Files with equal content are one extent, also when they are no hard links.
//!
//! The same calls in the same order give the same bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::error::BuildError;
use super::format::{self, BLOCK, BLOCK_BYTES, Superblock};
use super::layout;
use super::shared::Shared;
use super::tree::{Body, Extent, Metadata, NodeId, Tree, Xattr, lossy};

/// Blocks of a 2 MiB page.
const HUGE_BLOCKS: u64 = 512;
/// Gaps before large files that are remembered for small files.
const GAPS_MAX: usize = 64;
/// Bytes copied at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Limits and choices for an image.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Most inodes.
    pub entries_max: u32,
    /// Most bytes of file data, holes included. Bounds what a small hostile archive can expand to.
    pub data_bytes_max: u64,
    /// Most bytes of metadata held in memory: inodes, names, link targets, attributes.
    pub metadata_bytes_max: u64,
    /// Align files of 2 MiB and more to 2 MiB.
    pub align_huge: bool,
    /// Give the root of a directory's image the newest modification time of its entries, and not its own: that is when a layer was unpacked,
    /// and the same layer must give the same image everywhere.
    pub root_time_of_entries: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            entries_max: 1 << 22,
            data_bytes_max: 16 << 30,
            metadata_bytes_max: 1 << 30,
            align_huge: true,
            root_time_of_entries: false,
        }
    }
}

/// What was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildReport {
    /// Length of the image, a multiple of 4096.
    pub len_bytes: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// Number of regular files (inodes).
    pub regular_files: u64,
    /// Number of directories.
    pub directories: u64,
    /// Bytes of file data, equal files each time.
    pub data_bytes: u64,
    /// Bytes of blocks that equal files did not need.
    pub shared_bytes: u64,
    /// Extended attributes left out, because EROFS cannot express them or they belong to the host.
    pub skipped_xattrs: u64,
    /// Whether lower layers had a say (parents that the layer does not name, hard links to lower files): if so, the
    /// image fits on top of these lower layers only.
    pub depends_on_lower: bool,
}

/// Builds an image into a file. See the module's head for the layout.
#[derive(Debug)]
pub struct Writer<'f> {
    out: &'f File,
    options: BuildOptions,
    pub(crate) tree: Tree,
    next_block: u64,
    /// Free runs of blocks: start and length.
    gaps: Vec<(u64, u64)>,
    shared: Shared,
    buffer: Vec<u8>,
    pub(crate) report: BuildReport,
}

impl<'f> Writer<'f> {
    /// Starts an image in `out`, whose content is discarded. Nothing but this writer may touch it meanwhile.
    ///
    /// # Errors
    /// [`BuildError::Output`] when the file cannot be truncated.
    pub fn new(out: &'f File, options: &BuildOptions) -> Result<Self, BuildError> {
        out.set_len(0).map_err(|source| BuildError::Output { offset_bytes: 0, source })?;
        Ok(Self {
            out,
            options: options.clone(),
            tree: Tree::new(options.entries_max, options.metadata_bytes_max),
            next_block: 1,
            gaps: Vec::new(),
            shared: Shared::default(),
            buffer: Vec::new(),
            report: BuildReport::default(),
        })
    }

    /// Gives an inode other metadata.
    ///
    /// # Errors
    /// [`BuildError::TooMuchMetadata`].
    pub fn set_metadata(
        &mut self,
        id: NodeId,
        metadata: Metadata,
        xattrs: Vec<Xattr>,
    ) -> Result<(), BuildError> {
        self.tree.set_metadata(id, metadata, xattrs)
    }

    /// Gives the directory `parent` an entry; what had the name before is replaced, with everything below it.
    ///
    /// # Errors
    /// [`BuildError::BadName`], [`BuildError::BadSymlink`], [`BuildError::TooManyEntries`],
    /// [`BuildError::TooMuchMetadata`].
    pub fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        xattrs: Vec<Xattr>,
        body: Body,
    ) -> Result<NodeId, BuildError> {
        if let Body::Symlink(target) = &body
            && (target.is_empty() || target.len() > format::SYMLINK_BYTES_MAX || target.contains(&0))
        {
            return Err(BuildError::BadSymlink { path: lossy(name), len_bytes: target.len() });
        }
        self.tree.insert(parent, name, metadata, xattrs, body)
    }

    /// Gives the directory `parent` another name for an inode that is not a directory.
    ///
    /// # Errors
    /// [`BuildError::BadName`]; [`BuildError::BadHardLink`] when `target` is a directory.
    pub fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), BuildError> {
        if self.tree.node(target).is_dir() {
            return Err(BuildError::BadHardLink {
                path: lossy(name),
                target: String::new(),
                reason: "it is a directory",
            });
        }
        self.tree.link(parent, name, target)
    }

    /// Writes the data of a regular file: exactly `size_bytes` bytes of `reader`. `path` is for error messages.
    ///
    /// # Errors
    /// [`BuildError::ShortData`] when the reader ends early, [`BuildError::Data`] when it fails,
    /// [`BuildError::TooLarge`] beyond the options' limit, [`BuildError::Output`] (a full disk, for example).
    pub fn write_data(
        &mut self,
        path: &[u8],
        size_bytes: u64,
        reader: &mut dyn Read,
    ) -> Result<Extent, BuildError> {
        let total = self.report.data_bytes.checked_add(size_bytes);
        self.report.data_bytes = total
            .filter(|t| *t <= self.options.data_bytes_max)
            .ok_or(BuildError::TooLarge { limit_bytes: self.options.data_bytes_max })?;
        if size_bytes == 0 {
            return Ok(Extent { start_block: 0, size_bytes });
        }
        let before = (self.next_block, self.gaps.clone());
        let blocks = format::blocks_of(size_bytes);
        let start = self.allocate(blocks)?;
        let mut beginning = Vec::new();
        self.buffer.resize(CHUNK_BYTES, 0);
        let mut done = 0;
        while done < size_bytes {
            let want = usize::try_from(size_bytes - done).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let got = read_full(reader, &mut self.buffer[..want])
                .map_err(|source| BuildError::Data { path: lossy(path), source })?;
            if done == 0 {
                beginning.extend_from_slice(&self.buffer[..got.min(BLOCK)]);
            }
            write_sparse(self.out, &self.buffer[..got], u64::from(start) * BLOCK_BYTES + done)?;
            done += got as u64;
            if got < want {
                return Err(BuildError::ShortData {
                    path: lossy(path),
                    expected_bytes: size_bytes,
                    found_bytes: done,
                });
            }
        }
        let offset_bytes = u64::from(start) * BLOCK_BYTES;
        let failed = |source| BuildError::Output { offset_bytes, source };
        let Some(start_block) = self.shared.find(self.out, start, size_bytes, &beginning).map_err(failed)?
        else {
            return Ok(Extent { start_block: start, size_bytes });
        };
        // Its blocks are free again, and zero, as those that were never written.
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(self.out, hole, offset_bytes, blocks * BLOCK_BYTES)
            .map_err(|errno| failed(errno.into()))?;
        (self.next_block, self.gaps) = before;
        self.report.shared_bytes += blocks * BLOCK_BYTES;
        Ok(Extent { start_block, size_bytes })
    }

    /// Writes metadata and superblock and sets the file's length.
    ///
    /// # Errors
    /// [`BuildError::Output`], [`BuildError::TooManyBlocks`], [`BuildError::XattrsTooLarge`].
    pub fn finish(self) -> Result<BuildReport, BuildError> {
        let meta = layout::encode(&self.tree, self.next_block)?;
        write_sparse(self.out, &meta.bytes, self.next_block * BLOCK_BYTES)?;
        let blocks = self.next_block + format::blocks_of(meta.bytes.len() as u64);
        let too_many = |_| BuildError::TooManyBlocks { blocks };
        let superblock = Superblock {
            magic: format::MAGIC,
            checksum: 0,
            feature_compat: format::COMPAT_SB_CHKSUM | format::COMPAT_MTIME,
            block_bits: format::BLOCK_BITS,
            ext_slots: 0,
            root_nid: meta.root_nid,
            inodes: meta.inodes,
            build_time: 0,
            build_time_nsec: 0,
            blocks: u32::try_from(blocks).map_err(too_many)?,
            meta_block: u32::try_from(self.next_block).map_err(too_many)?,
            xattr_block: 0,
            feature_incompat: 0,
            extra_devices: 0,
            dir_block_bits: 0,
            xattr_prefix_count: 0,
        };
        let mut first = [0; BLOCK];
        let place = format::SUPER_OFFSET..format::SUPER_OFFSET + format::SUPER_BYTES;
        first[place.clone()].copy_from_slice(&superblock.encode());
        let checksum = format::super_checksum(&first);
        first[place].copy_from_slice(&Superblock { checksum, ..superblock }.encode());
        self.out.write_all_at(&first, 0).map_err(|source| BuildError::Output { offset_bytes: 0, source })?;
        let len_bytes = blocks * BLOCK_BYTES;
        self.out
            .set_len(len_bytes)
            .map_err(|source| BuildError::Output { offset_bytes: len_bytes, source })?;
        Ok(BuildReport {
            len_bytes,
            inodes: meta.inodes,
            regular_files: meta.regular_files,
            directories: meta.directories,
            ..self.report
        })
    }

    fn allocate(&mut self, blocks: u64) -> Result<u32, BuildError> {
        let huge = self.options.align_huge && blocks >= HUGE_BLOCKS;
        if !huge && let Some(gap) = self.gaps.iter_mut().find(|(_, len)| *len >= blocks) {
            let start = gap.0;
            *gap = (gap.0 + blocks, gap.1 - blocks);
            self.gaps.retain(|(_, len)| *len > 0);
            return u32::try_from(start).map_err(|_| BuildError::TooManyBlocks { blocks: start });
        }
        let start = if huge { self.next_block.next_multiple_of(HUGE_BLOCKS) } else { self.next_block };
        let end = start + blocks;
        if start > self.next_block {
            self.gaps.push((self.next_block, start - self.next_block));
            if self.gaps.len() > GAPS_MAX
                && let Some(smallest) = (0..self.gaps.len()).min_by_key(|i| self.gaps[*i].1)
            {
                self.gaps.remove(smallest);
            }
        }
        // One more than the last block must fit too: it is the superblock's count.
        u32::try_from(end).map_err(|_| BuildError::TooManyBlocks { blocks: end })?;
        self.next_block = end;
        Ok(start as u32)
    }
}

/// Fills `buf` or stops at the end of `reader`.
fn read_full(reader: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match reader.read(&mut buf[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

/// Writes runs of pages that are not all zero; the rest stays a hole. `offset_bytes` is block-aligned.
fn write_sparse(out: &File, bytes: &[u8], offset_bytes: u64) -> Result<(), BuildError> {
    const ZERO: [u8; BLOCK] = [0; BLOCK];
    let is_zero = |page: &[u8]| *page == ZERO[..page.len()];
    let mut at = 0;
    while at < bytes.len() {
        let page_end = |at: usize| bytes.len().min(at + BLOCK);
        if is_zero(&bytes[at..page_end(at)]) {
            at = page_end(at);
            continue;
        }
        let mut end = page_end(at);
        while end < bytes.len() && !is_zero(&bytes[end..page_end(end)]) {
            end = page_end(end);
        }
        let offset_bytes = offset_bytes + at as u64;
        out.write_all_at(&bytes[at..end], offset_bytes)
            .map_err(|source| BuildError::Output { offset_bytes, source })?;
        at = end;
    }
    Ok(())
}
