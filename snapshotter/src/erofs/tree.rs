//! The tree of a file system image while it is being built: names, metadata, where the data lies.
//!
//! Owns the rules for names, links and depth; knows nothing of blocks or tar. Holds metadata only, and no
//! more of it than allowed. Iterative throughout: depth cannot exhaust the stack.

use std::collections::BTreeMap;

use super::error::BuildError;
use super::format::{self, NAME_BYTES_MAX};

/// Deepest directory, counted from the root. Keeps one descriptor per level below the usual limit of 1024.
pub const DEPTH_MAX: usize = 512;

/// A modification time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// What every inode has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits, set-id and sticky bits; no file type.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
}

/// An extended attribute in EROFS's terms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    pub(crate) index: u8,
    pub(crate) suffix: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

impl Xattr {
    /// The attribute that makes a directory hide its lower layers' content.
    pub fn opaque() -> Self {
        Self { index: 4, suffix: (*b"overlay.opaque").into(), value: (*b"y").into() }
    }

    /// `None` when EROFS has no way to express the name (`system.nfs4_acl`, `com.apple.*`) or the value is longer
    /// than 65535 bytes.
    pub fn new(name: &[u8], value: &[u8]) -> Option<Self> {
        let (index, suffix) = format::split_xattr_name(name)?;
        if suffix.len() > NAME_BYTES_MAX || value.len() > usize::from(u16::MAX) {
            return None;
        }
        Some(Self { index, suffix: suffix.into(), value: value.into() })
    }

    /// The full name.
    pub fn name(&self) -> Vec<u8> {
        [format::xattr_prefix(self.index).unwrap_or_default(), &self.suffix].concat()
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    pub(crate) fn is_overlay(&self) -> bool {
        self.index == 4 && self.suffix.starts_with(b"overlay.")
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        format::align4(format::XATTR_ENTRY_BYTES + self.suffix.len() + self.value.len())
    }
}

/// Names an inode of a tree that is being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a regular file's data lies in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block; 0 for an empty file.
    pub(crate) start_block: u32,
    /// Bytes of the file.
    pub(crate) size_bytes: u64,
}

/// What an inode is.
#[derive(Clone, Debug)]
pub enum Body {
    /// A directory; its entries are kept by the tree.
    Dir,
    /// A regular file whose data has been written.
    File(Extent),
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A character device: major, minor. 0, 0 is a whiteout.
    CharDevice(u32, u32),
    /// A block device: major, minor.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

impl Body {
    /// File type bits of `st_mode`.
    pub(crate) const fn type_bits(&self) -> u16 {
        match self {
            Self::Dir => format::S_IFDIR,
            Self::File(_) => format::S_IFREG,
            Self::Symlink(_) => format::S_IFLNK,
            Self::CharDevice(..) => format::S_IFCHR,
            Self::BlockDevice(..) => format::S_IFBLK,
            Self::Fifo => format::S_IFIFO,
            Self::Socket => format::S_IFSOCK,
        }
    }

    /// Whether this is overlayfs's mark for a deleted name.
    pub(crate) const fn is_whiteout(&self) -> bool {
        matches!(self, Self::CharDevice(0, 0))
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) metadata: Metadata,
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) body: Body,
    pub(crate) children: BTreeMap<Box<[u8]>, NodeId>,
}

impl Node {
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir)
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.xattrs.iter().any(|x| *x == Xattr::opaque())
    }
}

/// The tree. Nodes that were replaced stay in memory, unreachable.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    entries_max: u32,
    metadata_bytes: u64,
    metadata_bytes_max: u64,
}

impl Tree {
    pub(crate) fn new(entries_max: u32, metadata_bytes_max: u64) -> Self {
        let root = Node {
            metadata: Metadata { permissions: 0o755, ..Metadata::default() },
            xattrs: Vec::new(),
            body: Body::Dir,
            children: BTreeMap::new(),
        };
        Self { nodes: vec![root], entries_max, metadata_bytes: 0, metadata_bytes_max }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.node(parent).children.get(name).copied()
    }

    pub(crate) fn set_metadata(
        &mut self,
        id: NodeId,
        metadata: Metadata,
        xattrs: Vec<Xattr>,
    ) -> Result<(), BuildError> {
        self.charge(0, &xattrs)?;
        let node = self.node_mut(id);
        node.metadata = metadata;
        node.xattrs = xattrs;
        Ok(())
    }

    /// Accounts for memory; what is replaced is not given back.
    fn charge(&mut self, bytes: usize, xattrs: &[Xattr]) -> Result<(), BuildError> {
        let xattrs: usize = xattrs.iter().map(Xattr::encoded_bytes).sum();
        self.metadata_bytes = self.metadata_bytes.saturating_add((bytes + xattrs) as u64);
        if self.metadata_bytes > self.metadata_bytes_max {
            return Err(BuildError::TooMuchMetadata { limit_bytes: self.metadata_bytes_max });
        }
        Ok(())
    }

    /// Gives `parent` the entry `name`, replacing what was there.
    pub(crate) fn insert(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        xattrs: Vec<Xattr>,
        body: Body,
    ) -> Result<NodeId, BuildError> {
        check_name(name)?;
        if self.nodes.len() >= self.entries_max as usize {
            return Err(BuildError::TooManyEntries { limit: self.entries_max });
        }
        let target = if let Body::Symlink(target) = &body { target.len() } else { 0 };
        self.charge(size_of::<Node>() + target, &xattrs)?;
        // The limit is a u32, so the index fits.
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node { metadata, xattrs, body, children: BTreeMap::new() });
        self.link(parent, name, id)?;
        Ok(id)
    }

    /// Gives `parent` the entry `name` for an existing inode that is not a directory.
    pub(crate) fn link(&mut self, parent: NodeId, name: &[u8], target: NodeId) -> Result<(), BuildError> {
        check_name(name)?;
        self.charge(name.len(), &[])?;
        self.node_mut(parent).children.insert(name.into(), target);
        Ok(())
    }
}

/// Refuses names that no directory entry can have.
pub(crate) fn check_name(name: &[u8]) -> Result<(), BuildError> {
    let reason = match name {
        b"" => "it is empty",
        b"." | b".." => "it is reserved",
        _ if name.len() > NAME_BYTES_MAX => "it is longer than 255 bytes",
        _ if name.contains(&b'/') => "it contains a slash",
        _ if name.contains(&0) => "it contains a NUL byte",
        _ => return Ok(()),
    };
    Err(BuildError::BadName { name: lossy(name), reason })
}

/// Foreign bytes for an error message: readable, bounded.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 512;
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]);
    let shown: String = shown.chars().flat_map(char::escape_debug).collect();
    if bytes.len() > SHOWN_BYTES { format!("{shown}... ({} bytes)", bytes.len()) } else { shown }
}
