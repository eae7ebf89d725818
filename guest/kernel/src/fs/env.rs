//! What all file systems share, what one file system is, and a process' place in the tree.

use super::base::BasePhase;
use super::host::{Handles, Scratch};
use super::node::Node;
use super::overlay::Overlay;
use super::snapshots::Snapshots;
use super::tty::Terminals;
use crate::errno::{Errno, Result};
use crate::machine::Machine;
use crate::mem::frames::Frames;
use crate::random::Random;
use crate::uplink::Uplink;
use crate::wait::Woken;
use alloc::rc::Rc;
use core::cell::{Cell, OnceCell, RefCell};

/// Frames that must be free before a node is made: nodes live in the library OS's heap, and must not eat its last memory.
const NODE_RESERVE_PAGES: usize = 64;

/// What all file systems need from the outside.
pub struct Env {
    /// Where file pages come from.
    pub frames: Frames,
    /// Clock and host calls.
    pub machine: Rc<dyn Machine>,
    /// Where wake-ups go.
    pub woken: Woken,
    random: OnceCell<Rc<Random>>,
    /// Who is told that a handle of the VMM became ready.
    pub handles: Handles,
    /// The way to the host's sockets.
    pub uplink: Rc<Uplink>,
    /// Terminals in use.
    pub terminals: Terminals,
    /// Whether only the runtime's layers are there.
    pub base: BasePhase,
    /// Snapshots that were asked for (/dev/seuss).
    pub snapshots: Snapshots,
    pub(crate) scratch: Scratch,
    /// Watches of all inotify instances.
    pub(crate) watch_count: Cell<u32>,
    next_device: Cell<u64>,
    next_anonymous: Cell<u64>,
}

impl Env {
    /// An environment on a machine.
    #[must_use]
    pub fn new(frames: &Frames, machine: Rc<dyn Machine>, woken: &Woken) -> Rc<Self> {
        Rc::new(Self {
            frames: frames.clone(),
            uplink: Uplink::new(&machine, frames),
            machine,
            woken: woken.clone(),
            random: OnceCell::new(),
            handles: Handles::default(),
            terminals: Terminals::default(),
            base: BasePhase::default(),
            snapshots: Snapshots::new(woken),
            scratch: Scratch::default(),
            watch_count: Cell::new(0),
            next_device: Cell::new(0x1a),
            next_anonymous: Cell::new(1),
        })
    }

    /// Say where /dev/urandom's bytes come from; the first call counts.
    pub fn set_random(&self, random: &Rc<Random>) {
        let _ = self.random.set(random.clone());
    }

    /// Fill with random bytes.
    ///
    /// # Errors
    /// EIO if there is no generator yet.
    pub fn fill_random(&self, bytes: &mut [u8]) -> Result {
        self.random.get().ok_or(Errno::EIO)?.fill(bytes);
        Ok(())
    }

    /// CLOCK_REALTIME in nanoseconds since the epoch.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.machine.realtime_ns().cast_signed()
    }

    /// A number that no other call has returned.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        let id = self.next_anonymous.get();
        self.next_anonymous.set(id + 1);
        id
    }

    /// Whether memory for another node can be spared.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn check_space(&self) -> Result {
        if self.frames.available() < NODE_RESERVE_PAGES { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

impl core::fmt::Debug for Env {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Env").field("frames", &self.frames).finish_non_exhaustive()
    }
}

/// A kind of file system: its name in /proc/mounts and its statfs(2) magic number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsType {
    /// Name.
    pub name: &'static str,
    /// Magic number (linux/magic.h).
    pub magic: u64,
}

/// The root.
pub const OVERLAY: FsType = FsType { name: "overlay", magic: 0x794c_7630 };
/// Memory file systems.
pub const TMPFS: FsType = FsType { name: "tmpfs", magic: 0x0102_1994 };
/// Processes.
pub const PROC: FsType = FsType { name: "proc", magic: 0x9fa0 };
/// Kernel objects.
pub const SYSFS: FsType = FsType { name: "sysfs", magic: 0x6265_6572 };
/// Control groups.
pub const CGROUP2: FsType = FsType { name: "cgroup2", magic: 0x6367_7270 };
/// Pseudo terminals.
pub const DEVPTS: FsType = FsType { name: "devpts", magic: 0x1cd1 };
/// Anonymous pipes.
pub const PIPEFS: FsType = FsType { name: "pipefs", magic: 0x5049_5045 };
/// Sockets.
pub const SOCKFS: FsType = FsType { name: "sockfs", magic: 0x534f_434b };
/// Everything else that has a descriptor but no name.
pub const ANON_INODEFS: FsType = FsType { name: "anon_inodefs", magic: 0x0904_1934 };

/// One file system.
#[derive(Debug)]
pub struct FileSystem {
    /// What all share.
    pub env: Rc<Env>,
    /// Its kind.
    pub kind: FsType,
    /// `st_dev`.
    pub device: u64,
    /// Whether it refuses changes (EROFS).
    pub read_only: Cell<bool>,
    /// The image layers behind it.
    pub(crate) overlay: Option<Overlay>,
    next_ino: Cell<u64>,
}

impl FileSystem {
    /// A file system without nodes.
    #[must_use]
    pub fn new(env: &Rc<Env>, kind: FsType, overlay: Option<Overlay>) -> Rc<Self> {
        let device = env.next_device.get();
        env.next_device.set(device + 1);
        Rc::new(Self {
            env: env.clone(),
            kind,
            device,
            read_only: Cell::new(false),
            overlay,
            next_ino: Cell::new(1),
        })
    }

    /// The next free inode number.
    #[must_use]
    pub fn next_ino(&self) -> u64 {
        let ino = self.next_ino.get();
        self.next_ino.set(ino + 1);
        ino
    }
}

/// A process' place in the tree: shared by threads (CLONE_FS), copied by fork.
#[derive(Clone, Debug)]
pub struct FsContext {
    root: RefCell<Rc<Node>>,
    cwd: RefCell<Rc<Node>>,
    umask: Cell<u32>,
}

impl FsContext {
    /// A place with `root` as root and working directory.
    #[must_use]
    pub fn new(root: &Rc<Node>, umask: u32) -> Self {
        Self {
            root: RefCell::new(root.clone()),
            cwd: RefCell::new(root.clone()),
            umask: Cell::new(umask & 0o777),
        }
    }

    /// The place that fork(2) gives the child.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> Rc<Node> {
        self.root.borrow().clone()
    }

    /// The working directory.
    #[must_use]
    pub fn cwd(&self) -> Rc<Node> {
        self.cwd.borrow().clone()
    }

    /// Change the root directory (chroot(2)).
    pub fn set_root(&self, node: Rc<Node>) {
        *self.root.borrow_mut() = node;
    }

    /// Change the working directory.
    pub fn set_cwd(&self, node: Rc<Node>) {
        *self.cwd.borrow_mut() = node;
    }

    /// The file mode creation mask.
    #[must_use]
    pub fn umask(&self) -> u32 {
        self.umask.get()
    }

    /// Change the mask; returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.replace(umask & 0o777)
    }
}
