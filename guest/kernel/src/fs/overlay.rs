//! The root file system: nodes made from the image's layers.
//!
//! Layers are merged as overlayfs does it (Documentation/filesystems/overlayfs.rst): a character device 0/0 hides a name in the
//! layers below, a directory with `trusted.overlay.opaque` hides the layers' directories below it. Inode numbers come from layer and nid, so that
//! a node which was dropped to save memory has the same number when it is made again. **Not** supported: redirect_dir, metacopy.

use super::data::Data;
use super::directory::{Directory, Lower};
use super::env::{Env, FileSystem, OVERLAY};
use super::node::{
    Flags, Kind, Node, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, Seed,
    make_device,
};
use crate::erofs::{Image, Nid};
use crate::errno::{Errno, Result};
use alloc::rc::{Rc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use hashbrown::HashMap;
use seuss_abi::layout::PAGE_SIZE;

/// Fewest nodes of layers that are kept before unused ones are dropped.
const CACHED_MIN: usize = 4096;
/// Bytes that a cached node is taken to cost.
const NODE_BYTES: usize = 512;
/// Longest symbolic link.
const TARGET_MAX: u64 = PAGE_SIZE - 1;

/// The layers, and what is remembered about their nodes.
pub struct Overlay {
    layers: usize,
    /// Layers above these are known, but not shown yet ([`super::base`]).
    partial: Cell<bool>,
    /// Nodes with several names in their layer, so that all names lead to one node.
    links: RefCell<HashMap<(u8, Nid), Rc<Node>>>,
    /// Nodes made since the last sweep and kept by it.
    cached: Cell<usize>,
    /// How many start the next sweep.
    sweep_at: Cell<usize>,
    root: RefCell<Weak<Node>>,
}

impl core::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Overlay({} layers, {} cached nodes)", self.layers, self.cached.get())
    }
}

/// The inode number of a layer's inode.
pub(crate) fn lower_ino(layer: u8, nid: Nid) -> u64 {
    (u64::from(layer) + 1) << 40 | nid & ((1 << 40) - 1)
}

/// The layer that a node came from, from its inode number; `None` if it came from none.
#[must_use]
pub fn layer_of(ino: u64) -> Option<usize> {
    usize::try_from(ino >> 40).ok()?.checked_sub(1)
}

/// The times of a layer's inode.
pub(super) fn times(inode: &crate::erofs::Inode) -> super::node::Times {
    let time = nanoseconds(inode.mtime_s, inode.mtime_ns);
    super::node::Times { access: time, modify: time, change: time, birth: time }
}

fn nanoseconds(seconds: i64, nanos: u32) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanos))
}

/// The root directory of a file system over `images`, the base layer first. Without layers it is an empty directory.
///
/// # Errors
/// EIO if a layer's root is damaged; E2BIG if there are more than 255 layers.
pub fn mount_root(env: &Rc<Env>, images: Vec<Rc<Image>>) -> Result<Rc<Node>> {
    if images.len() > usize::from(u8::MAX) {
        return Err(Errno::E2BIG);
    }
    let mut lowers = Vec::new();
    for (layer, image) in images.iter().enumerate().rev() {
        let inode = image.inode(image.root())?;
        let lower = Lower { image: image.clone(), layer: layer as u8, inode };
        let opaque = lower.is_opaque()?;
        lowers.push(lower);
        if opaque {
            break;
        }
    }
    let budget = env.frames.total() * PAGE_SIZE as usize / 32 / NODE_BYTES;
    let overlay = Overlay {
        layers: images.len(),
        partial: Cell::new(false),
        links: RefCell::default(),
        cached: Cell::new(0),
        sweep_at: Cell::new(budget.max(CACHED_MIN)),
        root: RefCell::default(),
    };
    let fs = FileSystem::new(env, OVERLAY, Some(overlay));
    let root = match lowers.first() {
        None => Node::system(&fs, S_IFDIR | 0o755, Kind::Directory(Directory::new(Vec::new()))),
        Some(top) => {
            let seed = seed(top);
            let merged = lowers.len() > 1;
            finish(Node::new(&fs, &seed, Kind::Directory(Directory::new(lowers))), merged)
        }
    };
    root.add_flags(Flags::MOUNTED);
    if let Some(overlay) = &fs.overlay {
        *overlay.root.borrow_mut() = Rc::downgrade(&root);
    }
    Ok(root)
}

fn seed(lower: &Lower) -> Seed {
    let inode = &lower.inode;
    Seed {
        ino: lower_ino(lower.layer, inode.nid),
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink.max(1),
        time: nanoseconds(inode.mtime_s, inode.mtime_ns),
    }
}

fn finish(node: Rc<Node>, merged: bool) -> Rc<Node> {
    node.clear_flags();
    node.add_flags(if merged { Flags::LOWER } else { Flags::LOWER | Flags::COUNTED });
    node
}

impl FileSystem {
    /// The node for `name` in `parent`, whose topmost layer entry is `top`, merged from `directories` if it is a directory.
    ///
    /// # Errors
    /// EIO, ENOSPC.
    pub(crate) fn node_from_layer(
        self: &Rc<Self>,
        parent: &Rc<Node>,
        name: &[u8],
        top: &Lower,
        directories: Vec<Lower>,
    ) -> Result<Rc<Node>> {
        let overlay = self.overlay.as_ref().ok_or(Errno::EIO)?;
        let key = (top.layer, top.inode.nid);
        let linked = !top.inode.is_directory() && top.inode.nlink > 1;
        let known = if linked { overlay.links.borrow().get(&key).cloned() } else { None };
        let node = match known {
            Some(node) => node,
            None => {
                self.env.check_space()?;
                overlay.make_room();
                let merged = directories.len() > 1;
                let kind = lower_kind(top, directories)?;
                let node = finish(Node::new(self, &seed(top), kind), merged);
                overlay.cached.set(overlay.cached.get() + 1);
                if linked {
                    overlay.links.borrow_mut().insert(key, node.clone());
                }
                node
            }
        };
        parent.insert_entry(name, &node);
        Ok(node)
    }

    /// A node's last link is gone.
    pub(crate) fn forget_links(&self, node: &Node) {
        if let Some(overlay) = &self.overlay {
            let ino = node.ino();
            if node.flags().contains(Flags::LOWER) {
                let key = ((ino >> 40).saturating_sub(1) as u8, ino & ((1 << 40) - 1));
                drop(overlay.links.borrow_mut().remove(&key));
            }
        }
    }
}

fn lower_kind(top: &Lower, directories: Vec<Lower>) -> Result<Kind> {
    let inode = &top.inode;
    Ok(match inode.mode & S_IFMT {
        S_IFREG => Kind::Regular(Data::lower(&top.image, inode)),
        S_IFDIR => Kind::Directory(Directory::new(directories)),
        S_IFLNK => {
            if inode.size == 0 || inode.size > TARGET_MAX {
                return Err(Errno::EIO);
            }
            let mut target = vec![0; inode.size as usize];
            if top.image.read(inode, 0, &mut target)? < target.len() || target.contains(&0) {
                return Err(Errno::EIO);
            }
            Kind::Symlink(target.into())
        }
        S_IFIFO => Kind::Fifo(RefCell::default()),
        S_IFCHR | S_IFBLK => {
            let (major, minor) = inode.device();
            Kind::Device(make_device(major, minor))
        }
        S_IFSOCK => Kind::Socket(RefCell::default()),
        _ => return Err(Errno::EIO),
    })
}

impl Overlay {
    /// Whether layers are not shown yet: what was looked up must be remembered.
    pub(super) fn is_partial(&self) -> bool {
        self.partial.get()
    }

    pub(super) fn set_partial(&self, partial: bool) {
        self.partial.set(partial);
    }

    /// Drop unused nodes if there are too many. Nodes in use, and their directories, stay.
    fn make_room(&self) {
        if self.cached.get() < self.sweep_at.get() || self.is_partial() {
            return;
        }
        let Some(root) = self.root.borrow().upgrade() else { return };
        let mut directories = vec![root];
        let mut next = 0;
        while let Some(node) = directories.get(next).cloned() {
            next += 1;
            if let Kind::Directory(directory) = node.kind() {
                let below = directory.entries.borrow();
                directories.extend(below.values().filter_map(|slot| match slot {
                    super::directory::Slot::Node(node) if node.is_directory() => Some(node.clone()),
                    _ => None,
                }));
            }
        }
        // Deepest first: a directory can go once its entries are gone.
        let mut kept = 0;
        while let Some(node) = directories.pop() {
            if let Kind::Directory(directory) = node.kind() {
                kept += directory.evict();
            }
        }
        self.cached.set(kept);
        self.sweep_at.set(self.sweep_at.get().max(kept * 2));
    }

    /// Sweep when this many nodes are held.
    #[cfg(test)]
    pub(crate) fn set_sweep_at(&self, count: usize) {
        self.sweep_at.set(count);
    }

    /// How many nodes of layers are held.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.cached.get()
    }
}
