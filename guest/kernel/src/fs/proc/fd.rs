//! /proc/PID/fd and /proc/PID/fdinfo.

use super::{ProcessInfo, parse_number};
use crate::errno::{Errno, Result};
use crate::fs::directory::{DirEntry, Provider};
use crate::fs::file::{File, FileOps, flags};
use crate::fs::node::{Generated, Kind, Node, S_IFLNK, S_IFREG, Seed, Target};
use crate::fs::walk::Context;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// The descriptors of a process, as links or as descriptions.
pub(super) struct Descriptors {
    pub(super) pid: u32,
    /// fdinfo instead of fd.
    pub(super) info: bool,
}

fn file_of(processes: &dyn ProcessInfo, pid: u32, fd: u32) -> Result<Rc<File>> {
    let table = processes.files(pid).ok_or(Errno::ENOENT)?;
    let file = i32::try_from(fd).ok().and_then(|fd| table.borrow().get_any(fd).ok());
    file.ok_or(Errno::ENOENT)
}

impl Provider for Descriptors {
    fn lookup(&self, directory: &Rc<Node>, name: &[u8], processes: &dyn ProcessInfo) -> Result<Rc<Node>> {
        let fd = parse_number(name).ok_or(Errno::ENOENT)?;
        let file = file_of(processes, self.pid, fd)?;
        let mode = if self.info {
            S_IFREG | 0o444
        } else {
            let readable = if file.can_read() { 0o500 } else { 0o100 };
            S_IFLNK | readable | if file.can_write() { 0o200 } else { 0 }
        };
        let generated: Box<dyn Generated> = if self.info {
            Box::new(Info { pid: self.pid, fd })
        } else {
            Box::new(Link { pid: self.pid, fd })
        };
        let seed = Seed {
            ino: 0,
            mode,
            uid: directory.uid(),
            gid: directory.gid(),
            nlink: 1,
            time: directory.fs().env.now(),
        };
        let node = Node::new(directory.fs(), &seed, Kind::Generated(generated));
        node.set_location(directory, name.into());
        Ok(node)
    }

    fn list(&self, directory: &Rc<Node>, processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        let table = processes.files(self.pid).ok_or(Errno::ENOENT)?;
        let kind = if self.info { S_IFREG } else { S_IFLNK };
        let entry = |fd: i32| DirEntry {
            name: format!("{fd}").into_bytes().into(),
            ino: directory.ino() << 24 | fd as u64,
            kind: (kind >> 12) as u8,
        };
        let list = table.borrow().descriptors().map(entry).collect();
        Ok(list)
    }
}

/// /proc/PID/fd/N: leads straight to the file's node.
struct Link {
    pid: u32,
    fd: u32,
}

impl Generated for Link {
    fn open(&self, _node: &Rc<Node>, _flags: u32, _context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        Err(Errno::ELOOP)
    }

    fn target(&self, _node: &Node, context: &Context<'_>) -> Result<Target> {
        super::pid::check_access(context, self.pid)?;
        let file = file_of(context.processes, self.pid, self.fd)?;
        let node = file.node().clone();
        let text = node.path(&context.root).unwrap_or_else(|_| b"(unreachable)".to_vec());
        Ok(Target::Node(node, text))
    }
}

/// /proc/PID/fdinfo/N.
struct Info {
    pid: u32,
    fd: u32,
}

impl Generated for Info {
    fn open(&self, node: &Rc<Node>, flags: u32, context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        super::pid::check_access(context, self.pid)?;
        let table = context.processes.files(self.pid).ok_or(Errno::ENOENT)?;
        let file = file_of(context.processes, self.pid, self.fd)?;
        let cloexec = table.borrow().close_on_exec(self.fd as i32).unwrap_or(false);
        let shown = file.flags() | flags::O_LARGEFILE | if cloexec { flags::O_CLOEXEC } else { 0 };
        let text =
            format!("pos:\t{}\nflags:\t0{shown:o}\nmnt_id:\t1\nino:\t{}\n", file.offset(), file.node().ino());
        super::text::open_text(node, flags, text.into_bytes())
    }
}
