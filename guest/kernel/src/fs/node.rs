//! A node: what a name in the tree stands for (an inode, inode(7)).

use super::data::Data;
use super::directory::Directory;
use super::env::FileSystem;
use super::file::FileOps;
use super::inotify::Watches;
use super::pipe::Pipe;
use super::walk::Context;
use crate::errno::{Errno, Result};
use crate::mem::pager::{MappedPage, Pager};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use seuss_abi::layout::PAGE_SIZE;

/// Mask of the type bits in a mode.
pub const S_IFMT: u32 = 0o170_000;
/// Socket.
pub const S_IFSOCK: u32 = 0o140_000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// Regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Block device.
pub const S_IFBLK: u32 = 0o060_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Character device.
pub const S_IFCHR: u32 = 0o020_000;
/// FIFO.
pub const S_IFIFO: u32 = 0o010_000;
/// Most hard links to one node.
pub const LINK_MAX: u32 = 65_000;

bitflags::bitflags! {
    /// Properties of a node.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u8 {
        /// It came from an image layer and can be made again from it.
        const LOWER = 1;
        /// It has changed since it was made from the layer.
        const DIRTY = 2;
        /// Writes get EROFS.
        const READ_ONLY = 4;
        /// Something is mounted here: it cannot be removed or renamed.
        const MOUNTED = 8;
        /// `nlink` is right (a directory merged from several layers counts lazily).
        const COUNTED = 16;
        /// It never had a name and may get one (O_TMPFILE without O_EXCL).
        const LINKABLE = 32;
        /// A directory that was made for what the VMM gives; if the layers have one of the name, they merge.
        const PROVIDED = 64;
    }
}

/// A device number as stat(2) encodes it.
#[must_use]
pub const fn make_device(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
}

/// Major and minor of a device number.
#[must_use]
pub const fn split_device(device: u64) -> (u32, u32) {
    let major = (device >> 8 & 0xfff) | (device >> 32 & 0xffff_f000);
    let minor = (device & 0xff) | (device >> 12 & 0xffff_ff00);
    (major as u32, minor as u32)
}

/// Where a link leads.
pub enum Target {
    /// A path, relative to the link's directory.
    Path(Rc<[u8]>),
    /// Straight to a node (the links in /proc/PID); the text is what readlink(2) shows.
    Node(Rc<Node>, Vec<u8>),
}

/// A node whose content is made when it is looked at.
pub trait Generated {
    /// Open it; `flags` are open(2)'s.
    ///
    /// # Errors
    /// ENXIO, and what the content needs.
    fn open(&self, node: &Rc<Node>, flags: u32, context: &Context<'_>) -> Result<Rc<dyn FileOps>>;
    /// Where it leads, if it is a link.
    ///
    /// # Errors
    /// EINVAL if it is no link; ENOENT.
    fn target(&self, _node: &Node, _context: &Context<'_>) -> Result<Target> {
        Err(Errno::EINVAL)
    }
}

/// What a node is, with what only that kind has.
pub enum Kind {
    /// Bytes.
    Regular(Data),
    /// Names.
    Directory(Directory),
    /// A path.
    Symlink(Rc<[u8]>),
    /// A named pipe, while it is open.
    Fifo(RefCell<Weak<Pipe>>),
    /// A character or block device.
    Device(u64),
    /// A bound AF_UNIX socket's name; what is bound to it belongs to the sockets.
    Socket(RefCell<Option<Rc<dyn Any>>>),
    /// Made when looked at.
    Generated(Box<dyn Generated>),
    /// A descriptor's node without anything to open.
    Anonymous,
}

/// Where a node hangs. A node with several names remembers the one that was used last.
#[derive(Clone, Debug)]
pub struct Location {
    /// The directory; dangling for roots and for nodes that never had a name.
    pub parent: Weak<Node>,
    /// The name in it.
    pub name: Rc<[u8]>,
}

/// Times in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Last access; as the application set it.
    pub access: i64,
    /// Last change of the content.
    pub modify: i64,
    /// Last change of the node.
    pub change: i64,
    /// Birth.
    pub birth: i64,
}

/// What stat(2) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stat {
    pub device: u64,
    pub ino: u64,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u64,
    pub size: u64,
    pub blocks: u64,
    pub times: Times,
}

/// Extended attributes, by full name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A node.
pub struct Node {
    fs: Rc<FileSystem>,
    ino: u64,
    mode: Cell<u32>,
    uid: Cell<u32>,
    gid: Cell<u32>,
    nlink: Cell<u32>,
    times: Cell<Times>,
    flags: Cell<Flags>,
    location: RefCell<Location>,
    /// `None` until they are changed; see [`Node::xattrs`].
    xattrs: RefCell<Option<Box<Xattrs>>>,
    locks: RefCell<Option<Rc<super::locks::Locks>>>,
    watches: Watches,
    /// Descriptions open for writing.
    writers: Cell<u32>,
    kind: Kind,
}

/// How a node starts.
pub struct Seed {
    /// Inode number, 0 = the next free one.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Link count.
    pub nlink: u32,
    /// All times.
    pub time: i64,
}

impl Node {
    /// A node that hangs nowhere yet.
    #[must_use]
    pub fn new(fs: &Rc<FileSystem>, seed: &Seed, kind: Kind) -> Rc<Self> {
        let time = seed.time;
        Rc::new(Self {
            fs: fs.clone(),
            ino: if seed.ino == 0 { fs.next_ino() } else { seed.ino },
            mode: Cell::new(seed.mode),
            uid: Cell::new(seed.uid),
            gid: Cell::new(seed.gid),
            nlink: Cell::new(seed.nlink),
            times: Cell::new(Times { access: time, modify: time, change: time, birth: time }),
            flags: Cell::new(Flags::COUNTED),
            location: RefCell::new(Location { parent: Weak::new(), name: Rc::default() }),
            xattrs: RefCell::default(),
            locks: RefCell::default(),
            watches: Watches::default(),
            writers: Cell::new(0),
            kind,
        })
    }

    /// A new node owned by user 0, as the file systems of the library OS make them.
    #[must_use]
    pub fn system(fs: &Rc<FileSystem>, mode: u32, kind: Kind) -> Rc<Self> {
        let nlink = if mode & S_IFMT == S_IFDIR { 2 } else { 1 };
        Self::new(fs, &Seed { ino: 0, mode, uid: 0, gid: 0, nlink, time: fs.env.now() }, kind)
    }

    /// A node without a name, for descriptors such as pipes; `label` is what /proc/PID/fd shows before its number.
    #[must_use]
    pub fn anonymous(
        fs: &Rc<FileSystem>,
        mode: u32,
        (uid, gid): (u32, u32),
        label: &[u8],
        kind: Kind,
    ) -> Rc<Self> {
        let seed = Seed { ino: 0, mode, uid, gid, nlink: 1, time: fs.env.now() };
        let node = Self::new(fs, &seed, kind);
        node.location.borrow_mut().name = label.into();
        node
    }

    /// Its file system.
    #[must_use]
    pub fn fs(&self) -> &Rc<FileSystem> {
        &self.fs
    }

    /// Inode number.
    #[must_use]
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Type and permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.mode.get()
    }

    /// Owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid.get()
    }

    /// Group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid.get()
    }

    /// Links as far as they are counted; 0 = removed.
    #[must_use]
    pub fn nlink(&self) -> u32 {
        self.nlink.get()
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Times.
    #[must_use]
    pub fn times(&self) -> Times {
        self.times.get()
    }

    /// Properties.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags.get()
    }

    /// Set properties.
    pub fn add_flags(&self, flags: Flags) {
        self.flags.set(self.flags.get() | flags);
    }

    pub(crate) fn remove_flags(&self, flags: Flags) {
        self.flags.set(self.flags.get() - flags);
    }

    pub(crate) fn clear_flags(&self) {
        self.flags.set(Flags::empty());
    }

    /// Where it hangs.
    #[must_use]
    pub fn location(&self) -> Location {
        self.location.borrow().clone()
    }

    /// The directory that it hangs in.
    #[must_use]
    pub fn parent(&self) -> Option<Rc<Self>> {
        self.location.borrow().parent.upgrade()
    }

    pub(crate) fn set_location(&self, parent: &Rc<Self>, name: Rc<[u8]>) {
        *self.location.borrow_mut() = Location { parent: Rc::downgrade(parent), name };
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.mode.get() & S_IFMT == S_IFLNK
    }

    /// The bytes of a regular file.
    ///
    /// # Errors
    /// EISDIR, EINVAL.
    pub fn data(&self) -> Result<&Data> {
        match &self.kind {
            Kind::Regular(data) => Ok(data),
            Kind::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The names of a directory.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn directory(&self) -> Result<&Directory> {
        match &self.kind {
            Kind::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Where the link leads.
    ///
    /// # Errors
    /// EINVAL if it is no link; ENOENT, EACCES for links in /proc.
    pub fn target(&self, context: &Context<'_>) -> Result<Target> {
        match &self.kind {
            Kind::Symlink(path) => Ok(Target::Path(path.clone())),
            Kind::Generated(generated) => generated.target(self, context),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether changes are refused.
    ///
    /// # Errors
    /// EROFS.
    pub fn check_writable(&self) -> Result {
        let read_only = self.fs.read_only.get() || self.flags.get().contains(Flags::READ_ONLY);
        if read_only { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Note that the node changed: it must not be made again from its layer, and its change time is now.
    pub(crate) fn touch_change(&self) {
        self.add_flags(Flags::DIRTY);
        self.times.set(Times { change: self.fs.env.now(), ..self.times.get() });
    }

    /// Note that the content changed.
    pub(crate) fn touch_modify(&self) {
        self.add_flags(Flags::DIRTY);
        let now = self.fs.env.now();
        self.times.set(Times { change: now, modify: now, ..self.times.get() });
    }

    pub(crate) fn set_times(&self, times: Times) {
        self.times.set(times);
    }

    pub(crate) fn set_mode(&self, mode: u32) {
        self.mode.set(self.mode.get() & S_IFMT | mode & 0o7777);
    }

    pub(crate) fn set_owner(&self, uid: u32, gid: u32) {
        self.uid.set(uid);
        self.gid.set(gid);
    }

    pub(crate) fn set_nlink(&self, nlink: u32) {
        self.nlink.set(nlink);
    }

    /// Descriptions open for writing.
    #[must_use]
    pub fn writers(&self) -> u32 {
        self.writers.get()
    }

    pub(crate) fn count_writer(&self, change: i32) {
        self.writers.set(self.writers.get().saturating_add_signed(change));
    }

    /// The locks on it, made at the first use.
    pub(crate) fn locks(&self) -> Rc<super::locks::Locks> {
        let woken = &self.fs.env.woken;
        self.locks.borrow_mut().get_or_insert_with(|| Rc::new(super::locks::Locks::new(woken))).clone()
    }

    /// The locks on it, if there ever was one.
    pub(crate) fn existing_locks(&self) -> Option<Rc<super::locks::Locks>> {
        self.locks.borrow().clone()
    }

    /// Who watches it (inotify(7)).
    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Size as stat(2) shows it.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.kind {
            Kind::Regular(data) => data.size(),
            Kind::Directory(_) if matches!(self.fs.kind.name, "proc" | "sysfs") => 0,
            Kind::Directory(_) => PAGE_SIZE,
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// Attributes.
    #[must_use]
    pub fn stat(self: &Rc<Self>) -> Stat {
        if !self.flags.get().contains(Flags::COUNTED) {
            self.count_subdirectories();
        }
        let size = self.size();
        let blocks = match &self.kind {
            Kind::Regular(data) => data.pages_used() * (PAGE_SIZE / 512),
            Kind::Directory(_) => size / 512,
            _ => 0,
        };
        Stat {
            device: self.fs.device,
            ino: self.ino,
            mode: self.mode.get(),
            nlink: self.nlink.get(),
            uid: self.uid.get(),
            gid: self.gid.get(),
            rdev: if let Kind::Device(device) = &self.kind { *device } else { 0 },
            size,
            blocks,
            times: self.times.get(),
        }
    }

    /// Look at the extended attributes.
    ///
    /// # Errors
    /// EIO if the image is damaged.
    pub fn xattrs<T>(&self, look: impl FnOnce(&Xattrs) -> T) -> Result<T> {
        if let Some(xattrs) = &*self.xattrs.borrow() {
            return Ok(look(xattrs));
        }
        let lower = self.lower_xattrs()?;
        Ok(look(&lower))
    }

    /// Change the extended attributes.
    ///
    /// # Errors
    /// EIO if the image is damaged; what `change` returns.
    pub fn change_xattrs(&self, change: impl FnOnce(&mut Xattrs) -> Result) -> Result {
        if self.xattrs.borrow().is_none() {
            let lower = self.lower_xattrs()?;
            *self.xattrs.borrow_mut() = Some(Box::new(lower));
        }
        if let Some(xattrs) = &mut *self.xattrs.borrow_mut() {
            change(xattrs)?;
        }
        self.touch_change();
        Ok(())
    }

    fn lower_xattrs(&self) -> Result<Xattrs> {
        let mut xattrs = Xattrs::new();
        let mut visit = |name: Vec<u8>, value| {
            if !name.starts_with(b"trusted.overlay.") {
                xattrs.insert(name, value);
            }
        };
        match &self.kind {
            Kind::Regular(data) => {
                if let Some((image, inode)) = data.extent().filter(|(_, inode)| inode.has_xattrs()) {
                    image.xattrs(inode, &mut visit)?;
                }
            }
            Kind::Directory(directory) => {
                let lowers = directory.lowers();
                if let Some(lower) = lowers.first().filter(|lower| lower.inode.has_xattrs()) {
                    lower.image.xattrs(&lower.inode, &mut visit)?;
                }
            }
            _ => {}
        }
        Ok(xattrs)
    }
}

impl Pager for Node {
    fn page(&self, index: u64, write: bool) -> Result<MappedPage> {
        let Kind::Regular(data) = &self.kind else { return Err(Errno::ENODEV) };
        if write {
            self.add_flags(Flags::DIRTY);
        }
        data.page(&self.fs.env.frames, index, write)
    }

    fn name(&self) -> Vec<u8> {
        self.path_from_top()
    }

    fn identity(&self) -> (u64, u64) {
        (self.fs.device, self.ino)
    }

    fn len_bytes(&self) -> u64 {
        self.size()
    }
}

impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node")
            .field("fs", &self.fs.kind.name)
            .field("ino", &self.ino)
            .field("mode", &format_args!("{:o}", self.mode.get()))
            .field("nlink", &self.nlink.get())
            .finish_non_exhaustive()
    }
}
