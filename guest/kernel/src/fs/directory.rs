//! Directories: a map of names over the layers' directories, which are looked up once per name.

use super::node::{Flags, Kind, Node};
use super::proc::ProcessInfo;
use crate::erofs::{Image, Inode};
use crate::errno::{Errno, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use hashbrown::HashMap;

/// Longest name (limits.h NAME_MAX).
pub const NAME_MAX: usize = 255;
/// Most names that are remembered as missing in the layers, per directory.
const ABSENT_MAX: u32 = 1024;

/// A directory of one image layer.
#[derive(Clone, Debug)]
pub struct Lower {
    /// The layer's image.
    pub image: Rc<Image>,
    /// The layer's number, for inode numbers.
    pub layer: u8,
    /// The directory.
    pub inode: Inode,
}

impl Lower {
    /// Whether it hides the directories of its name in the layers below.
    ///
    /// # Errors
    /// EIO if the image is damaged.
    pub(crate) fn is_opaque(&self) -> Result<bool> {
        Ok(self.inode.has_xattrs()
            && self.image.xattr(&self.inode, b"trusted.overlay.opaque")?.as_deref() == Some(b"y"))
    }
}

/// What the map knows about a name.
pub(crate) enum Slot {
    /// It is this node.
    Node(Rc<Node>),
    /// It was removed: the layers' entry is hidden.
    Whiteout,
    /// The layers have no such entry.
    Absent,
}

/// One line of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name.
    pub name: Rc<[u8]>,
    /// Inode number.
    pub ino: u64,
    /// DT_*: the type bits of the mode, shifted right by 12.
    pub kind: u8,
}

/// Names that come from the state of the system: /proc's processes and descriptors.
pub trait Provider {
    /// The node behind a name that the map does not have, or has from before.
    ///
    /// # Errors
    /// ENOENT.
    fn lookup(&self, directory: &Rc<Node>, name: &[u8], processes: &dyn ProcessInfo) -> Result<Rc<Node>>;
    /// All names.
    ///
    /// # Errors
    /// ENOENT if what the directory describes is gone.
    fn list(&self, directory: &Rc<Node>, processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>>;
    /// The process that the directory is about, if it is a /proc/PID.
    fn process(&self) -> Option<u32> {
        None
    }
}

/// The names of a directory.
pub struct Directory {
    pub(crate) entries: RefCell<HashMap<Rc<[u8]>, Slot>>,
    absent: Cell<u32>,
    lowers: RefCell<Rc<[Lower]>>,
    /// Directories of layers that are not shown yet, the youngest first ([`super::base`]), and whether the names were listed meanwhile.
    uppers: RefCell<Rc<[Lower]>>,
    listed: Cell<bool>,
    provider: Option<Box<dyn Provider>>,
}

impl Directory {
    /// A directory over `lowers`, the youngest layer first.
    #[must_use]
    pub fn new(lowers: Vec<Lower>) -> Self {
        Self {
            entries: RefCell::default(),
            absent: Cell::new(0),
            lowers: RefCell::new(lowers.into()),
            uppers: RefCell::default(),
            listed: Cell::new(false),
            provider: None,
        }
    }

    /// A directory whose names come from `provider`.
    #[must_use]
    pub fn provided(provider: Box<dyn Provider>) -> Self {
        Self { provider: Some(provider), ..Self::new(Vec::new()) }
    }

    /// The process that the directory is about, if it is a /proc/PID.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.provider.as_ref().and_then(|provider| provider.process())
    }

    /// Whether the names come from a provider.
    #[must_use]
    pub fn is_provided(&self) -> bool {
        self.provider.is_some()
    }

    /// The layers' directories, the youngest layer first.
    #[must_use]
    pub fn lowers(&self) -> Rc<[Lower]> {
        self.lowers.borrow().clone()
    }

    fn has_lowers(&self) -> bool {
        !self.lowers.borrow().is_empty()
    }

    /// Directories of layers that are not shown yet.
    pub(super) fn uppers(&self) -> Rc<[Lower]> {
        self.uppers.borrow().clone()
    }

    pub(super) fn set_uppers(&self, uppers: Vec<Lower>) {
        *self.uppers.borrow_mut() = uppers.into();
    }

    pub(super) fn was_listed(&self) -> bool {
        self.listed.get()
    }

    /// Show `uppers` over what is there.
    pub(super) fn merge_uppers(&self, mut uppers: Vec<Lower>) {
        self.listed.set(false);
        if !uppers.is_empty() {
            uppers.extend(self.lowers().iter().cloned());
            *self.lowers.borrow_mut() = uppers.into();
        }
    }

    /// The node that the map has for `name`.
    #[must_use]
    pub fn cached(&self, name: &[u8]) -> Option<Rc<Node>> {
        match self.entries.borrow().get(name) {
            Some(Slot::Node(node)) => Some(node.clone()),
            _ => None,
        }
    }

    fn forget_absent(&self) {
        self.entries.borrow_mut().retain(|_, slot| !matches!(slot, Slot::Absent));
        self.absent.set(0);
    }

    /// Drop what can be looked up again: names known as missing, and unchanged nodes of layers that nobody else holds. Returns how many nodes
    /// of layers stay.
    pub(crate) fn evict(&self) -> usize {
        self.absent.set(0);
        let mut stay = 0;
        self.entries.borrow_mut().retain(|_, slot| match slot {
            Slot::Absent => false,
            Slot::Whiteout => true,
            Slot::Node(node) => {
                if node.is_evictable() {
                    return false;
                }
                stay += usize::from(node.flags().contains(Flags::LOWER));
                true
            }
        });
        stay
    }
}

impl Node {
    /// The node behind `name`, which is neither `.` nor `..`. Permissions are the caller's business.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT, ENAMETOOLONG, EIO, ENOSPC (no memory for the node).
    pub fn lookup(self: &Rc<Self>, name: &[u8], processes: &dyn ProcessInfo) -> Result<Rc<Self>> {
        let directory = self.directory()?;
        if let Some(provider) = &directory.provider {
            return provider.lookup(self, name, processes);
        }
        let is_partial = self.is_partial();
        match directory.entries.borrow().get(name) {
            Some(Slot::Node(node)) if is_partial && node.is_given() => return self.given(node),
            Some(Slot::Node(node)) => return Ok(node.clone()),
            Some(Slot::Whiteout | Slot::Absent) => return Err(Errno::ENOENT),
            None => {}
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let may_get_lowers = is_partial && self.flags().contains(Flags::PROVIDED);
        if !directory.has_lowers() && !may_get_lowers {
            return Err(Errno::ENOENT);
        }
        let found = if is_partial {
            self.lookup_in_runtime(directory, name)?
        } else {
            self.lookup_lower(directory, name)?
        };
        match found {
            Some(node) => Ok(node),
            None => {
                if directory.absent.get() >= ABSENT_MAX && !is_partial {
                    directory.forget_absent();
                }
                directory.absent.set(directory.absent.get() + 1);
                directory.entries.borrow_mut().insert(name.into(), Slot::Absent);
                Err(Errno::ENOENT)
            }
        }
    }

    /// Whether layers of the file system are not shown yet.
    fn is_partial(&self) -> bool {
        self.fs().overlay.as_ref().is_some_and(super::overlay::Overlay::is_partial)
    }

    /// A file that the VMM has given.
    fn is_given(&self) -> bool {
        self.flags().contains(Flags::MOUNTED) && !self.is_directory()
    }

    /// `node`, but not to a program that is to see its runtime only.
    fn given(&self, node: &Rc<Self>) -> Result<Rc<Self>> {
        self.fs().env.base.check_outside()?;
        Ok(node.clone())
    }

    pub(super) fn lookup_lower(
        self: &Rc<Self>,
        directory: &Directory,
        name: &[u8],
    ) -> Result<Option<Rc<Self>>> {
        let mut found = None;
        let mut directories = Vec::new();
        for lower in directory.lowers().iter() {
            let Some(entry) = lower.image.lookup(&lower.inode, name)? else { continue };
            let inode = lower.image.inode(entry.nid)?;
            if inode.is_whiteout() || (found.is_some() && !inode.is_directory()) {
                break;
            }
            let here = Lower { image: lower.image.clone(), layer: lower.layer, inode };
            found.get_or_insert_with(|| here.clone());
            if !inode.is_directory() {
                break;
            }
            let opaque = here.is_opaque()?;
            directories.push(here);
            if opaque {
                break;
            }
        }
        let Some(top) = found else { return Ok(None) };
        self.fs().node_from_layer(self, name, &top, directories).map(Some)
    }

    /// Put `node` in under `name`; what the name stood for is replaced.
    pub(crate) fn insert_entry(self: &Rc<Self>, name: &[u8], node: &Rc<Self>) {
        let Kind::Directory(directory) = self.kind() else { return };
        let key: Rc<[u8]> = name.into();
        node.set_location(self, key.clone());
        let old = directory.entries.borrow_mut().insert(key, Slot::Node(node.clone()));
        drop(old);
    }

    /// Take `name` out; the layers' entry stays hidden.
    pub(crate) fn remove_entry(&self, name: &[u8]) {
        let Kind::Directory(directory) = self.kind() else { return };
        let old = if directory.has_lowers() {
            directory.entries.borrow_mut().insert(name.into(), Slot::Whiteout)
        } else {
            directory.entries.borrow_mut().remove(name)
        };
        drop(old);
        self.add_flags(Flags::DIRTY);
    }

    /// Every name of the layers that is not hidden, with what a listing needs.
    fn lower_entries(
        &self,
        directory: &Directory,
        known: &mut BTreeMap<Rc<[u8]>, Option<DirEntry>>,
    ) -> Result {
        for lower in directory.lowers().iter() {
            lower.image.entries(&lower.inode, &mut |name, entry| {
                if known.contains_key(name) {
                    return Ok(());
                }
                let kind = [0, 8, 4, 2, 6, 1, 12, 10].get(usize::from(entry.file_type)).copied().unwrap_or(0);
                let hidden = kind == 2 && lower.image.inode(entry.nid)?.is_whiteout();
                let name: Rc<[u8]> = name.into();
                let ino = super::overlay::lower_ino(lower.layer, entry.nid);
                let listed = (!hidden).then(|| DirEntry { name: name.clone(), ino, kind });
                known.insert(name, listed);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// All names but `.` and `..`, sorted.
    ///
    /// # Errors
    /// ENOTDIR, EIO.
    pub fn list(self: &Rc<Self>, processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        let directory = self.directory()?;
        match &directory.provider {
            Some(provider) => provider.list(self, processes),
            None => self.list_stored(directory),
        }
    }

    /// As [`Self::list`], of what the tree itself holds.
    pub(crate) fn list_stored_entries(&self) -> Result<Vec<DirEntry>> {
        self.list_stored(self.directory()?)
    }

    fn list_stored(&self, directory: &Directory) -> Result<Vec<DirEntry>> {
        if self.is_partial() {
            if !directory.uppers().is_empty() {
                return Err(self.fs().env.base.hit());
            }
            directory.listed.set(true);
        }
        let mut known = BTreeMap::new();
        for (name, slot) in directory.entries.borrow().iter() {
            let entry = match slot {
                Slot::Node(node) => {
                    Some(DirEntry { name: name.clone(), ino: node.ino(), kind: (node.mode() >> 12) as u8 })
                }
                Slot::Whiteout | Slot::Absent => None,
            };
            known.insert(name.clone(), entry);
        }
        self.lower_entries(directory, &mut known)?;
        Ok(known.into_values().flatten().collect())
    }

    /// Whether a directory has no names. One whose image is damaged has some.
    #[must_use]
    pub fn is_empty_directory(&self) -> bool {
        let Kind::Directory(directory) = self.kind() else { return false };
        if directory.entries.borrow().values().any(|slot| matches!(slot, Slot::Node(_))) {
            return false;
        }
        !directory.has_lowers() || self.list_stored(directory).is_ok_and(|list| list.is_empty())
    }

    /// Count the links of a directory that was merged from several layers: two, and one per subdirectory.
    pub(crate) fn count_subdirectories(&self) {
        let Kind::Directory(directory) = self.kind() else { return };
        if self.is_partial() {
            // Counting would be listing.
            return;
        }
        let list = self.list_stored(directory).unwrap_or_default();
        self.set_nlink(2 + list.iter().filter(|entry| entry.kind == 4).count() as u32);
        self.add_flags(Flags::COUNTED);
    }

    /// Whether it can be made again from its layer and nobody holds it but the map of its directory (and the caller's borrow of that).
    fn is_evictable(self: &Rc<Self>) -> bool {
        let flags = self.flags();
        if !flags.contains(Flags::LOWER) || flags.contains(Flags::DIRTY) || Rc::strong_count(self) != 1 {
            return false;
        }
        match self.kind() {
            Kind::Directory(directory) => directory.entries.borrow().is_empty(),
            Kind::Regular(data) => data.is_pristine(),
            _ => true,
        }
    }
}
