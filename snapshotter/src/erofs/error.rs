//! What can go wrong while an image is built, and while one is read. One enum each; both carry values.

use std::io;
use std::path::PathBuf;

use super::format::BLOCK_BYTES;

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The output could not be written.
    #[error("cannot write the EROFS image at offset {offset_bytes:#x}: {source}")]
    Output {
        /// Where.
        offset_bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// A file of the source directory could not be read.
    #[error("cannot {action} {}: {source}", path.display())]
    Source {
        /// What was being done.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer's stream could not be read or is not a tar archive.
    #[error("layer: {0}")]
    Tar(#[from] crate::tarstream::TarError),
    /// A file has other content than was announced.
    #[error(
        "{path}: {expected_bytes} bytes were announced, {found_bytes} could be read (did it change meanwhile?)"
    )]
    ShortData {
        /// Which file.
        path: String,
        /// Announced.
        expected_bytes: u64,
        /// Found.
        found_bytes: u64,
    },
    /// A file's data could not be read.
    #[error("cannot read the data of {path}: {source}")]
    Data {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A name that no directory entry can have.
    #[error("{name:?} cannot be a file name: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry's path leaves the layer or cannot be followed.
    #[error("refusing the path {path:?}: {reason}")]
    BadPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A symbolic link that Linux could not follow.
    #[error("{path}: the symbolic link's target has {len_bytes} bytes; 1 to 4095 without NUL are possible")]
    BadSymlink {
        /// Which link.
        path: String,
        /// Length of its target.
        len_bytes: usize,
    },
    /// A hard link to something that is not there or must not be linked.
    #[error("{path}: cannot be a hard link to {target:?}: {reason}")]
    BadHardLink {
        /// The new name.
        path: String,
        /// What it should link to.
        target: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry that an image cannot hold.
    #[error("{path}: {what} are not supported")]
    Unsupported {
        /// Which entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The tree is deeper than this crate handles.
    #[error("{path}: directories are nested deeper than {limit} levels")]
    TooDeep {
        /// Where.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// More entries than allowed.
    #[error("more than {limit} entries (raise BuildOptions::entries_max if the source is trusted)")]
    TooManyEntries {
        /// The limit.
        limit: u32,
    },
    /// More data than allowed.
    #[error(
        "more than {limit_bytes} bytes of file data (raise BuildOptions::data_bytes_max if the source is trusted)"
    )]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// More names, link targets and attributes than allowed.
    #[error(
        "more than {limit_bytes} bytes of names, links and attributes (raise BuildOptions::metadata_bytes_max if the \
         source is trusted)"
    )]
    TooMuchMetadata {
        /// The limit.
        limit_bytes: u64,
    },
    /// More blocks than EROFS can address.
    #[error("the image would have {blocks} blocks; EROFS addresses 2^32 - 1 blocks of 4096 bytes")]
    TooManyBlocks {
        /// Blocks needed.
        blocks: u64,
    },
    /// The extended attributes of one file do not fit into an inode.
    #[error("{len_bytes} bytes of extended attributes on one file; EROFS has room for 262148")]
    XattrsTooLarge {
        /// Bytes needed.
        len_bytes: usize,
    },
    /// A lower layer that has to be consulted is damaged.
    #[error("lower layer {index}: {source}")]
    Lower {
        /// Position of the layer, base 0.
        index: usize,
        /// What is wrong with it.
        source: CorruptError,
    },
}

/// Why an EROFS image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorruptError {
    /// Reading failed.
    #[error("cannot read {len_bytes} bytes at offset {offset_bytes:#x}: {source}")]
    Io {
        /// Where.
        offset_bytes: u64,
        /// How much.
        len_bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// Too short for a superblock.
    #[error("the image has {len_bytes} bytes; an EROFS image has at least {BLOCK_BYTES}")]
    TooShort {
        /// Length.
        len_bytes: u64,
    },
    /// Not EROFS.
    #[error("no EROFS superblock at offset 1024 (magic is {found:#010x}, should be 0xe0f5e1e2)")]
    BadMagic {
        /// What stands there.
        found: u32,
    },
    /// The superblock was changed.
    #[error("the superblock's checksum is {found:#010x} but its content gives {computed:#010x}")]
    BadChecksum {
        /// What stands there.
        found: u32,
        /// What it should be.
        computed: u32,
    },
    /// A valid image that uses more of EROFS than this crate does.
    #[error(
        "{what} {value:#x} is not supported (SEUSS reads uncompressed single-device images of 4 KiB blocks)"
    )]
    Unsupported {
        /// Which feature.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The superblock contradicts the image's length.
    #[error("the superblock claims {blocks} blocks of 4096 bytes; the image has {len_bytes} bytes")]
    Truncated {
        /// Claimed.
        blocks: u32,
        /// Present.
        len_bytes: u64,
    },
    /// The image is too large to be checked in bounded memory.
    #[error("the image has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The superblock's number of inodes is wrong.
    #[error("the superblock counts {claimed} inodes, the tree has {found}")]
    InodeCount {
        /// Claimed.
        claimed: u64,
        /// Found.
        found: u64,
    },
    /// Something is wrong with one inode.
    #[error("inode {nid}: {fault}")]
    Inode {
        /// Which.
        nid: u64,
        /// What.
        fault: Fault,
    },
    /// Something is wrong with the inode of a path.
    #[error("{path}: {source}")]
    At {
        /// Which file.
        path: String,
        /// What.
        source: Box<Self>,
    },
}

/// What is wrong with an inode.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The inode lies outside the image.
    #[error("lies outside the image")]
    OutsideImage,
    /// The format field is unknown.
    #[error("format {0:#06x} is unknown")]
    Format(u16),
    /// The data layout is not supported.
    #[error("data layout {0} is not supported (only flat, uncompressed data is)")]
    Layout(u16),
    /// The mode has no valid file type.
    #[error("mode {0:#o} has no valid file type")]
    Mode(u16),
    /// The time is not one.
    #[error("{0} nanoseconds is not part of a second")]
    Nanoseconds(u32),
    /// Data outside the image.
    #[error("data of {size_bytes} bytes from block {start_block} lies outside the image")]
    Extent {
        /// First block.
        start_block: u32,
        /// Bytes.
        size_bytes: u64,
    },
    /// Data that overlaps the superblock.
    #[error("data lies over the superblock")]
    OverSuperblock,
    /// Inline data that crosses a block boundary.
    #[error("inline data of {0} bytes crosses a block boundary")]
    InlineCrosses(u64),
    /// A regular file that cannot be mapped.
    #[error("a regular file's data is not page-aligned (inline tail of {0} bytes)")]
    InlineFile(u64),
    /// Bytes behind the end of a file that a mapping would show.
    #[error("the last page of its data is not zero behind the end of the file")]
    DirtyTail,
    /// The number of links is wrong.
    #[error("has {claimed} links according to the inode, {found} according to the directories")]
    Links {
        /// Claimed.
        claimed: u32,
        /// Found.
        found: u64,
    },
    /// Not a directory where one is needed.
    #[error("is not a directory")]
    NotDirectory,
    /// Not a symbolic link where one is needed.
    #[error("is not a symbolic link")]
    NotSymlink,
    /// A bad link target.
    #[error("symbolic link target of {0} bytes (1 to 4095 without NUL are possible)")]
    SymlinkTarget(u64),
    /// A directory block whose entries make no sense.
    #[error("directory block {block}, entry {entry}: {what}")]
    Dirent {
        /// Which block of the directory.
        block: u64,
        /// Which entry in the block.
        entry: usize,
        /// What.
        what: &'static str,
    },
    /// A directory entry and its inode disagree about the file type.
    #[error("its directory entry says type {entry}, its mode is {mode:#o}")]
    EntryType {
        /// `FT_*` of the entry.
        entry: u8,
        /// Mode of the inode.
        mode: u16,
    },
    /// "." or ".." is missing or points elsewhere.
    #[error("entry {name:?} is missing or does not point at inode {expected}")]
    DotEntry {
        /// Which.
        name: &'static str,
        /// Where it should point.
        expected: u64,
    },
    /// A second way into a directory.
    #[error("directory is entered a second time (a loop, or a hard link to a directory)")]
    DirectoryLoop,
    /// Directories claim more data than there is.
    #[error("directories or attributes overlap: together they claim more bytes than the image has")]
    Overlap,
    /// Nested too deep.
    #[error("directories are nested deeper than {0} levels")]
    TooDeep(usize),
    /// Bad extended attributes.
    #[error("extended attributes: {0}")]
    Xattr(&'static str),
}
