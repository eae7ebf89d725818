//! Character devices, by number (the kernel's Documentation/admin-guide/devices.txt), and /dev.

use super::directory::{DirEntry, Directory, Provider};
use super::env::{DEVPTS, Env, FileSystem, TMPFS};
use super::file::flags::O_NOCTTY;
use super::file::{File, FileOps, Whence};
use super::node::{Kind, Node, S_IFCHR, S_IFDIR, S_IFLNK, make_device, split_device};
use super::proc::{ProcessInfo, static_text};
use super::snapshots::SnapshotDevice;
use super::tty::{Terminal, TerminalFile};
use super::walk::Context;
use crate::errno::{Errno, Result};
use crate::exec::node;
use crate::mem::pager::{Pager, SharedMemory};
use crate::mem::user::{Sink, Source};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

/// Minor number of /dev/seuss among the miscellaneous devices, in the range for local use.
const SEUSS_MINOR: u32 = 240;
/// Major number of /dev/pts/N.
const PTS_MAJOR: u32 = 136;

/// Open a device node.
///
/// # Errors
/// ENXIO if there is no such device; EIO for a terminal that is locked.
pub fn open(device: u64, node: &Rc<Node>, flags: u32, context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
    let env = &node.fs().env;
    if node.mode() & super::node::S_IFMT != S_IFCHR {
        return Err(Errno::ENXIO);
    }
    Ok(match split_device(device) {
        (1, 3) => Rc::new(Memory::Null),
        (1, 5) => Rc::new(Memory::Zero),
        (1, 7) => Rc::new(Memory::Full),
        (1, 8 | 9) => Rc::new(Memory::Random(env.clone())),
        (5, 0) => {
            let (pid, tid) = context.processes.current();
            let sid = context.processes.status(pid, tid).map_or(0, |status| status.sid);
            TerminalFile::open(&env.terminals.of_session(sid).ok_or(Errno::ENXIO)?)?
        }
        (5, 1) => TerminalFile::open(env.terminals.all().first().ok_or(Errno::ENXIO)?)?,
        (10, SEUSS_MINOR) => Rc::new(SnapshotDevice::new(env)),
        (5, 2) => Terminal::new_pair(env, context.subject.uid)?,
        (PTS_MAJOR, number) => {
            let terminal = env.terminals.get(number).ok_or(Errno::ENXIO)?;
            let file = TerminalFile::open(&terminal)?;
            if flags & O_NOCTTY == 0 {
                become_controlling(&terminal, context);
            }
            file
        }
        _ => return Err(Errno::ENXIO),
    })
}

/// A session leader without a terminal that opens one gets it as its controlling terminal.
fn become_controlling(terminal: &Rc<Terminal>, context: &Context<'_>) {
    let (pid, tid) = context.processes.current();
    let Some(status) = context.processes.status(pid, tid) else { return };
    let leads = status.sid == pid && pid != 0;
    let has_one = terminal.env().terminals.of_session(status.sid).is_some();
    if leads && !has_one && terminal.session().get() == 0 {
        terminal.session().set(status.sid);
        terminal.foreground().set(status.pgid);
    }
}

/// The devices of mem(4), null(4) and random(4).
enum Memory {
    Null,
    Zero,
    Full,
    Random(Rc<Env>),
}

impl FileOps for Memory {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let mut chunk = [0; PAGE_SIZE as usize];
        let mut done = 0;
        loop {
            let count = match self {
                Self::Null => 0,
                _ => sink.remaining().min(chunk.len()),
            };
            if count == 0 {
                return Ok(done);
            }
            if let Self::Random(env) = self {
                env.fill_random(&mut chunk[..count])?;
            }
            match sink.put(&chunk[..count]) {
                Ok(stored) => {
                    done += stored;
                    if stored < count {
                        return Ok(done);
                    }
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(done),
            }
        }
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        match self {
            Self::Full if source.remaining() > 0 => Err(Errno::ENOSPC),
            _ => Ok(source.remaining()),
        }
    }

    fn seek(&self, _file: &File, _offset: i64, _whence: Whence) -> Result<u64> {
        Ok(0)
    }

    fn pager(&self, file: &File) -> Result<Rc<dyn Pager>> {
        match self {
            Self::Zero => Ok(Rc::new(SharedMemory::new(&file.node().fs().env.frames, 1 << 47))),
            _ => Err(Errno::ENODEV),
        }
    }
}

/// /dev/pts: the terminals in use.
struct PseudoTerminals;

impl PseudoTerminals {
    fn node(directory: &Rc<Node>, terminal: &Terminal) -> Rc<Node> {
        if let Some(node) = terminal.node() {
            return node;
        }
        let number = terminal.number();
        let node =
            Node::system(directory.fs(), S_IFCHR | 0o620, Kind::Device(make_device(PTS_MAJOR, number)));
        let (uid, gid) = terminal.owner();
        node.set_owner(uid, gid);
        terminal.set_node(&node);
        directory.insert_entry(alloc::format!("{number}").as_bytes(), &node);
        node
    }
}

impl Provider for PseudoTerminals {
    fn lookup(&self, directory: &Rc<Node>, name: &[u8], _processes: &dyn ProcessInfo) -> Result<Rc<Node>> {
        let number = super::proc::parse_number(name).ok_or(Errno::ENOENT)?;
        let env = &directory.fs().env;
        let terminal = env.terminals.get(number).ok_or(Errno::ENOENT)?;
        Ok(Self::node(directory, &terminal))
    }

    fn list(&self, directory: &Rc<Node>, _processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        let terminals = directory.fs().env.terminals.all();
        let entry = |terminal: &Rc<Terminal>| {
            let node = Self::node(directory, terminal);
            DirEntry { name: node.location().name, ino: node.ino(), kind: (S_IFCHR >> 12) as u8 }
        };
        Ok(terminals.iter().map(entry).collect())
    }
}

/// A directory node.
pub(crate) fn new_directory(fs: &Rc<FileSystem>, mode: u32) -> Rc<Node> {
    Node::system(fs, S_IFDIR | mode, Kind::Directory(Directory::new(Vec::new())))
}

/// Hang a node into a directory of the library OS's own.
pub(crate) fn hang(directory: &Rc<Node>, name: &str, node: &Rc<Node>) {
    directory.insert_entry(name.as_bytes(), node);
    if node.is_directory() {
        directory.set_nlink(directory.nlink() + 1);
    }
}

/// A symbolic link of the library OS's own.
pub(crate) fn hang_link(directory: &Rc<Node>, name: &str, target: &str) {
    let target = target.as_bytes().into();
    hang(directory, name, &Node::system(directory.fs(), S_IFLNK | 0o777, Kind::Symlink(target)));
}

/// What is mounted at /dev: the tree's root, the root of its /pts, and the root of its /shm.
pub(crate) fn make_tree(env: &Rc<Env>) -> (Rc<Node>, Rc<Node>, Rc<Node>) {
    let fs = FileSystem::new(env, TMPFS, None);
    let root = new_directory(&fs, 0o755);
    let devices = [
        ("null", 1, 3, 0o666),
        ("zero", 1, 5, 0o666),
        ("full", 1, 7, 0o666),
        ("random", 1, 8, 0o666),
        ("urandom", 1, 9, 0o666),
        ("tty", 5, 0, 0o666),
        ("console", 5, 1, 0o620),
        ("ptmx", 5, 2, 0o666),
        ("seuss", 10, SEUSS_MINOR, 0o666),
    ];
    for (name, major, minor, mode) in devices {
        hang(&root, name, &Node::system(&fs, S_IFCHR | mode, Kind::Device(make_device(major, minor))));
    }
    hang(&root, node::MODULE_NAME, &static_text(&fs, 0o444, node::MODULE));
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        hang_link(&root, name, target);
    }
    hang(&root, "mqueue", &new_directory(&fs, 0o1777));
    let pts_fs = FileSystem::new(env, DEVPTS, None);
    let pts = Node::system(
        &pts_fs,
        S_IFDIR | 0o755,
        Kind::Directory(Directory::provided(Box::new(PseudoTerminals))),
    );
    let shm = new_directory(&FileSystem::new(env, TMPFS, None), 0o1777);
    (root, pts, shm)
}
