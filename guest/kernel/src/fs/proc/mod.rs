//! /proc (proc(5)): what programs look at, made when it is opened.
//!
//! A text is a snapshot of the moment of open(2), or of the last read from its start.

mod fd;
mod info;
mod net;
mod pid;
mod sysctl;
mod system;
mod text;

pub(crate) use info::Nobody;
pub use info::{CpuModel, Mapping, ProcessInfo, ProcessStatus, Setter, Setting, SystemStatus};
pub(crate) use text::{Maker, Source, TextNode, open_text, static_text};

use super::device::hang;
use super::directory::{DirEntry, Directory, Provider};
use super::env::{Env, FileSystem, PROC};
use super::file::FileOps;
use super::mount::Mounts;
use super::node::{Generated, Kind, Node, S_IFDIR, S_IFLNK, Target};
use super::snapshots::ID_BYTES;
use super::walk::Context;
use crate::errno::{Errno, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

/// What `uname -r` says.
pub const RELEASE: &str = "6.1.0-seuss";
/// Dead processes whose directories are kept before they are looked for and dropped.
const DEAD_MAX: usize = 64;

/// What all of /proc knows.
pub(crate) struct Shared {
    pub(crate) mounts: Mounts,
    /// Chosen when it is first read; and for which guest, since a clone has another one.
    pub(crate) boot_id: Cell<Option<([u8; ID_BYTES], [u8; 16])>>,
}

/// A decimal number without sign, leading zeros or anything else.
#[must_use]
pub fn parse_number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 10 || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    text.iter().try_fold(0u32, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The root directory of /proc.
pub(crate) fn make_tree(env: &Rc<Env>, mounts: &Mounts) -> Rc<Node> {
    let fs = FileSystem::new(env, PROC, None);
    let shared = Rc::new(Shared { mounts: mounts.clone(), boot_id: Cell::new(None) });
    let provider = Processes { shared: shared.clone() };
    let root = Node::system(&fs, S_IFDIR | 0o555, Kind::Directory(Directory::provided(Box::new(provider))));
    system::fill(&root, &shared);
    sysctl::fill(&root, &shared);
    super::device::hang_link(&root, "net", "self/net");
    let link = |name, kind: SelfLink| {
        hang(&root, name, &Node::system(&fs, S_IFLNK | 0o777, Kind::Generated(Box::new(kind))));
    };
    link("self", SelfLink::Process);
    link("thread-self", SelfLink::Thread);
    root
}

/// The names in /proc: what is hung there, and one directory per process.
struct Processes {
    shared: Rc<Shared>,
}

impl Processes {
    fn forget_dead(directory: &Directory, processes: &dyn ProcessInfo) {
        let alive = processes.pids();
        if directory.entries.borrow().len() < alive.len() + DEAD_MAX {
            return;
        }
        let mut dead = Vec::new();
        directory.entries.borrow_mut().retain(|name, slot| match parse_number(name) {
            Some(pid) if !alive.contains(&pid) => {
                dead.push(core::mem::replace(slot, super::directory::Slot::Absent));
                false
            }
            _ => true,
        });
    }
}

impl Provider for Processes {
    fn lookup(&self, directory: &Rc<Node>, name: &[u8], processes: &dyn ProcessInfo) -> Result<Rc<Node>> {
        let names = directory.directory()?;
        let cached = names.cached(name);
        let Some(pid) = parse_number(name) else { return cached.ok_or(Errno::ENOENT) };
        let status = processes.status(pid, pid).ok_or(Errno::ENOENT)?;
        let node = match cached {
            Some(node) => node,
            None => {
                Self::forget_dead(names, processes);
                let node = pid::new_directory(directory.fs(), &self.shared, pid, pid, false);
                directory.insert_entry(name, &node);
                node
            }
        };
        node.set_owner(status.uids[1], status.gids[1]);
        Ok(node)
    }

    fn list(&self, directory: &Rc<Node>, processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        let mut list = directory.list_stored_entries()?;
        list.retain(|entry| parse_number(&entry.name).is_none());
        for pid in processes.pids() {
            let name = format!("{pid}").into_bytes().into();
            list.push(DirEntry { name, ino: u64::from(pid) << 16 | 1, kind: (S_IFDIR >> 12) as u8 });
        }
        Ok(list)
    }
}

/// /proc/self and /proc/thread-self.
enum SelfLink {
    Process,
    Thread,
}

impl Generated for SelfLink {
    fn open(&self, _node: &Rc<Node>, _flags: u32, _context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        Err(Errno::ELOOP)
    }

    fn target(&self, _node: &Node, context: &Context<'_>) -> Result<Target> {
        let (pid, tid) = context.processes.current();
        if pid == 0 {
            return Err(Errno::ENOENT);
        }
        let path = match self {
            Self::Process => format!("{pid}"),
            Self::Thread => format!("{pid}/task/{tid}"),
        };
        Ok(Target::Path(path.into_bytes().into()))
    }
}
