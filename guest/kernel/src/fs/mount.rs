//! The file systems of a guest: what is mounted where, the files that the VMM injects, and the first descriptors of its processes.

use super::data::Data;
use super::device::{hang, make_tree, new_directory};
use super::directory::Directory;
use super::env::{ANON_INODEFS, Env, FileSystem, PIPEFS, SOCKFS, TMPFS};
use super::file::{File, FileOps, flags};
use super::host::{HostFile, HostNode, HostStream};
use super::locks::LockWaits;
use super::node::{Flags, Kind, Node, S_IFIFO, S_IFLNK, S_IFREG};
use super::overlay::mount_root;
use super::proc::Nobody;
use super::tty::{Terminal, TerminalFile};
use super::walk::Context;
use super::{Subject, proc, sysfs};
use crate::erofs::{Image, OpenError};
use crate::errno::{Errno, Result};
use crate::wait::Tid;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use seuss_abi::comm::ImageWindow;
use seuss_abi::spec::{InjectedFile, LINK, ProcessSpec};

/// Why the file systems of a guest could not be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountError {
    /// A layer (0 = the base) is no usable image.
    Layer(usize, OpenError),
    /// The root directory, or a mount point, could not be made.
    Tree(&'static str, Errno),
    /// A file could not be injected.
    Inject(Vec<u8>, Errno),
    /// The layers above the runtime's do not go with it.
    Base(super::base::Conflict),
}

impl core::fmt::Display for MountError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Layer(layer, error) => write!(f, "layer {layer} of the root file system: {error}"),
            Self::Tree(path, errno) => write!(f, "cannot make {path}: {}", errno.name()),
            Self::Base(conflict) => conflict.fmt(f),
            Self::Inject(path, errno) => {
                write!(f, "cannot make {}: {}", String::from_utf8_lossy(path), errno.name())
            }
        }
    }
}

impl core::error::Error for MountError {}

/// A line of /proc/mounts.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where.
    pub path: Vec<u8>,
    /// Its root.
    pub root: Rc<Node>,
    /// Options.
    pub options: &'static str,
}

/// What is mounted, for /proc/mounts and statfs(2).
pub type Mounts = Rc<RefCell<Vec<Mount>>>;

/// Something that is told of signals.
pub trait SignalWatcher {
    /// `signo` was sent to some thread or process and is pending.
    fn arrived(&self, signo: u32);
}

/// Standard input, output and error of a process, and its terminal if it has one.
pub type Stdio = ([Rc<File>; 3], Option<Rc<Terminal>>);

/// The file systems of a guest.
pub struct Fs {
    /// What they share.
    pub env: Rc<Env>,
    /// The root directory.
    pub root: Rc<Node>,
    /// Anonymous pipes.
    pub pipes: Rc<FileSystem>,
    /// Sockets.
    pub sockets: Rc<FileSystem>,
    /// Descriptors without a file behind them: epoll, eventfd, ...
    pub anonymous: Rc<FileSystem>,
    /// Shared memory objects (memfd_create(2)).
    pub memory: Rc<FileSystem>,
    /// What is mounted.
    pub mounts: Mounts,
    /// FIFOs whose other end is not open yet, by the thread that waits in open(2).
    pub opening: RefCell<BTreeMap<Tid, Rc<File>>>,
    /// Who waits for whose record lock, for EDEADLK.
    pub lock_waits: LockWaits,
    /// The stream behind the standard error of the first process.
    stderr: RefCell<Weak<HostStream>>,
    /// Who is told of signals (signalfd(2)).
    signal_watchers: RefCell<Vec<Weak<dyn SignalWatcher>>>,
}

impl Fs {
    /// Mount everything: the image's layers (the base first) at the root, and /proc, /dev, /sys, /dev/shm, /dev/pts in it.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn new(env: &Rc<Env>, layers: &[ImageWindow]) -> core::result::Result<Self, MountError> {
        let mut images = Vec::with_capacity(layers.len());
        for (layer, window) in layers.iter().enumerate() {
            let image = Image::open(&env.frames, *window).map_err(|error| MountError::Layer(layer, error))?;
            images.push(Rc::new(image));
        }
        let root = mount_root(env, images).map_err(|errno| MountError::Tree("/", errno))?;
        let mounts = Mounts::default();
        let fs = Self {
            env: env.clone(),
            root: root.clone(),
            pipes: FileSystem::new(env, PIPEFS, None),
            sockets: FileSystem::new(env, SOCKFS, None),
            anonymous: FileSystem::new(env, ANON_INODEFS, None),
            memory: FileSystem::new(env, TMPFS, None),
            mounts: mounts.clone(),
            opening: RefCell::default(),
            lock_waits: LockWaits::default(),
            stderr: RefCell::default(),
            signal_watchers: RefCell::default(),
        };
        mounts.borrow_mut().push(Mount { path: b"/".to_vec(), root, options: "rw,relatime" });
        let (dev, pts, shm) = make_tree(env);
        let sys = sysfs::make_tree(env);
        let proc = proc::make_tree(env, &mounts);
        fs.mount("/proc", &proc, "rw,nosuid,nodev,noexec,relatime")?;
        fs.mount("/dev", &dev, "rw,nosuid,size=65536k,mode=755")?;
        fs.mount("/dev/pts", &pts, "rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666")?;
        fs.mount("/dev/shm", &shm, "rw,nosuid,nodev,noexec,relatime,size=65536k")?;
        fs.mount("/sys", &sys, "ro,nosuid,nodev,noexec,relatime")?;
        Ok(fs)
    }

    /// The superuser's view from the root, for the library OS itself.
    pub(super) fn own_context(&self) -> Context<'static> {
        Context {
            subject: Subject::ROOT,
            root: self.root.clone(),
            cwd: self.root.clone(),
            umask: 0,
            processes: &Nobody,
        }
    }

    /// Graft `root` into the tree at `path`; a missing mount point is made, something else there is replaced.
    ///
    /// # Errors
    /// [`MountError::Tree`].
    pub fn mount(
        &self,
        path: &'static str,
        root: &Rc<Node>,
        options: &'static str,
    ) -> core::result::Result<(), MountError> {
        let context = self.own_context();
        let place = || -> Result<(Rc<Node>, Vec<u8>)> {
            let parent = context.walk_parent(&self.root, path.as_bytes())?;
            let name = parent.name(Errno::EINVAL)?.to_vec();
            Ok((parent.directory, name))
        };
        let (directory, name) = place().map_err(|errno| MountError::Tree(path, errno))?;
        let existed = context.step(&directory, &name).is_ok_and(|node| node.is_directory());
        directory.insert_entry(&name, root);
        directory.add_flags(Flags::DIRTY);
        if !existed {
            directory.set_nlink(directory.nlink() + 1);
        }
        root.add_flags(Flags::MOUNTED);
        self.mounts.borrow_mut().push(Mount { path: path.as_bytes().to_vec(), root: root.clone(), options });
        Ok(())
    }

    /// The directory `path`, made with its parents if it is missing.
    ///
    /// # Errors
    /// ENOTDIR, ENOSPC, EIO.
    pub fn make_directories(&self, path: &[u8]) -> Result<Rc<Node>> {
        let context = self.own_context();
        let mut at = self.root.clone();
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        for name in names {
            let next = match context.walk(&at, name, true) {
                Ok(node) => node,
                Err(Errno::ENOENT) => {
                    let node = new_directory(at.fs(), 0o755);
                    node.add_flags(Flags::PROVIDED);
                    self.env.check_space()?;
                    at.insert_entry(name, &node);
                    at.set_nlink(at.nlink() + 1);
                    at.touch_modify();
                    node
                }
                Err(errno) => return Err(errno),
            };
            if !next.is_directory() {
                return Err(Errno::ENOTDIR);
            }
            at = next;
        }
        Ok(at)
    }

    /// Put files of the VMM into the tree, over what is there. They cannot be removed, as mounts cannot.
    ///
    /// # Errors
    /// [`MountError::Inject`].
    pub fn inject(&self, files: &[InjectedFile]) -> core::result::Result<(), MountError> {
        for file in files {
            self.inject_one(file).map_err(|errno| MountError::Inject(file.path.clone(), errno))?;
        }
        Ok(())
    }

    fn inject_one(&self, file: &InjectedFile) -> Result {
        let split = file.path.iter().rposition(|byte| *byte == b'/').ok_or(Errno::EINVAL)?;
        let (parent, name) = (&file.path[..split], &file.path[split + 1..]);
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Errno::EINVAL);
        }
        if name.len() > super::directory::NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let directory = self.make_directories(parent)?;
        if file.mode & LINK == LINK {
            // As mounted files, it cannot be removed.
            let kind = Kind::Symlink(file.content.as_slice().into());
            let node = Node::system(directory.fs(), S_IFLNK | 0o777, kind);
            node.add_flags(Flags::MOUNTED);
            directory.insert_entry(name, &node);
            directory.touch_modify();
            return Ok(());
        }
        let node = Node::system(directory.fs(), S_IFREG | file.mode & 0o7777, Kind::Regular(Data::empty()));
        let data = node.data()?;
        let mut source = file.content.as_slice();
        if data.write(&self.env.frames, 0, &mut source)? < file.content.len() {
            return Err(Errno::ENOSPC);
        }
        node.add_flags(Flags::MOUNTED);
        if file.read_only {
            node.add_flags(Flags::READ_ONLY);
        }
        directory.insert_entry(name, &node);
        directory.touch_modify();
        Ok(())
    }

    /// Refuse writes to the root file system (`readonlyRootfs`), once everything is in place.
    pub fn set_read_only_root(&self) {
        self.root.fs().read_only.set(true);
        if let Some(mount) = self.mounts.borrow_mut().first_mut() {
            mount.options = "ro,relatime";
        }
    }

    /// stdin, stdout and stderr of a process that the VMM starts, and its terminal if it has one; the caller makes it the controlling terminal
    /// of the process' session (`session`, `foreground`).
    ///
    /// # Errors
    /// ENOMEM, EIO.
    pub fn stdio(&self, spec: &ProcessSpec) -> Result<Stdio> {
        let context = self.own_context();
        let null = |flags| context.open(&self.root, b"/dev/null", flags, 0);
        if spec.terminal && spec.stdio[0] != u32::MAX {
            let output = if spec.stdio[1] == u32::MAX { spec.stdio[0] } else { spec.stdio[1] };
            let terminal = Terminal::new(&self.env, (spec.stdio[0], output), spec.window, spec.uid);
            let path = alloc::format!("/dev/pts/{}", terminal.number());
            let node = context.walk(&self.root, path.as_bytes(), true)?;
            let file = File::new(node, TerminalFile::open(&terminal)?, flags::O_RDWR);
            return Ok(([file.clone(), file.clone(), file], Some(terminal)));
        }
        let mut streams: BTreeMap<u32, (Rc<HostStream>, Rc<Node>)> = BTreeMap::new();
        let mut open = |handle: u32, flags: u32| -> Result<Rc<File>> {
            if handle == u32::MAX {
                return null(flags);
            }
            let (stream, node) = streams.entry(handle).or_insert_with(|| {
                let stream = HostStream::new(&self.env, handle);
                let kind = Kind::Generated(Box::new(HostNode(stream.clone())));
                let node =
                    Node::anonymous(&self.pipes, S_IFIFO | 0o600, (spec.uid, spec.gid), b"pipe:", kind);
                (stream, node)
            });
            let ops: Rc<dyn FileOps> = Rc::new(HostFile(stream.clone()));
            Ok(File::new(node.clone(), ops, flags))
        };
        let files = [
            open(spec.stdio[0], flags::O_RDONLY)?,
            open(spec.stdio[1], flags::O_WRONLY)?,
            open(spec.stdio[2], flags::O_WRONLY)?,
        ];
        if let Some((stream, _)) = streams.get(&spec.stdio[2]) {
            let mut known = self.stderr.borrow_mut();
            // That of the first process is made before any other's, and may be closed for good.
            if known.ptr_eq(&Weak::new()) {
                *known = Rc::downgrade(stream);
            }
        }
        Ok((files, None))
    }

    /// The container's standard error, while somebody in the guest has it open.
    pub(super) fn first_stderr(&self) -> Option<Rc<HostStream>> {
        self.stderr.borrow().upgrade()
    }

    /// A file without a name that lives in memory (memfd_create(2)).
    ///
    /// # Errors
    /// ENFILE when memory is used up.
    pub fn memory_file(&self, name: &[u8], owner: (u32, u32), sealable: bool) -> Result<Rc<File>> {
        self.env.check_space().map_err(|_| Errno::ENFILE)?;
        let data = if sealable { Data::sealable() } else { Data::empty() };
        let label = [b"/memfd:", name].concat();
        let node = Node::anonymous(&self.memory, S_IFREG | 0o777, owner, &label, Kind::Regular(data));
        node.set_nlink(0);
        Ok(File::new(node.clone(), node, flags::O_RDWR | flags::O_LARGEFILE))
    }

    /// A description without a file behind it; `label` is what /proc/PID/fd shows, such as `anon_inode:[eventfd]`.
    ///
    /// # Errors
    /// ENFILE when memory is used up.
    pub fn anonymous_file(&self, label: &str, ops: Rc<dyn FileOps>, flags: u32) -> Result<Rc<File>> {
        self.env.check_space().map_err(|_| Errno::ENFILE)?;
        let node = Node::anonymous(&self.anonymous, 0o600, (0, 0), label.as_bytes(), Kind::Anonymous);
        Ok(File::new(node, ops, flags))
    }

    /// A root directory for a test or a further mount: an empty tmpfs.
    #[must_use]
    pub fn new_tmpfs(env: &Rc<Env>) -> Rc<Node> {
        let fs = FileSystem::new(env, TMPFS, None);
        Node::system(&fs, super::node::S_IFDIR | 0o1777, Kind::Directory(Directory::new(Vec::new())))
    }
}

impl Fs {
    /// Tell `watcher` of signals from now on, until it is dropped.
    pub fn watch_signals(&self, watcher: Weak<dyn SignalWatcher>) {
        let mut watchers = self.signal_watchers.borrow_mut();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    /// `signo` was sent to some thread or process and is pending.
    pub fn signal_arrived(&self, signo: u32) {
        if self.signal_watchers.borrow().is_empty() {
            return;
        }
        let watchers: Vec<_> = self.signal_watchers.borrow().iter().filter_map(Weak::upgrade).collect();
        watchers.iter().for_each(|watcher| watcher.arrived(signo));
    }

    /// Hang a node of the library OS into a directory of the tree, such as a device in /dev.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR.
    pub fn add_node(&self, directory: &str, name: &str, node: &Rc<Node>) -> Result {
        let directory = self.own_context().walk(&self.root, directory.as_bytes(), true)?;
        hang(&directory, name, node);
        Ok(())
    }
}
