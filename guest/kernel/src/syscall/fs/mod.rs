//! Files: system calls on paths, descriptors and open files.

pub mod descriptor;
pub mod epoll;
pub mod event;
pub mod io;
pub mod lock;
pub mod open;
pub mod poll;
pub mod signalfd;
pub mod stat;
mod terminal;
pub mod transfer;
pub mod tree;
pub mod xattr;

use super::call::Call;
use crate::errno::{Errno, Result};
use crate::fs::{Context, File, Node, Subject};
use alloc::rc::Rc;
use alloc::vec::Vec;

/// "Relative to the working directory" (openat(2)).
pub const AT_FDCWD: i32 = -100;
/// Do not follow a link in the last place.
pub const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
/// Follow a link in the last place (linkat(2)).
pub const AT_SYMLINK_FOLLOW: u64 = 0x400;
/// The descriptor itself, if the path is empty.
pub const AT_EMPTY_PATH: u64 = 0x1000;

/// The file behind a descriptor.
pub(crate) fn file(call: &Call<'_>, fd: u64) -> Result<Rc<File>> {
    call.process.files().borrow().get(fd as u32 as i32)
}

/// The file behind a descriptor, O_PATH ones included.
pub(crate) fn file_or_path(call: &Call<'_>, fd: u64) -> Result<Rc<File>> {
    call.process.files().borrow().get_any(fd as u32 as i32)
}

/// Do `work` with the caller's place in the tree.
pub(crate) fn with_place<R>(call: &Call<'_>, work: impl FnOnce(&Context<'_>) -> R) -> R {
    let who = call.process.credentials.borrow().clone();
    let fs = call.process.fs();
    work(&Context {
        subject: Subject { uid: who.fsuid, gid: who.fsgid, groups: &who.groups },
        root: fs.root(),
        cwd: fs.cwd(),
        umask: fs.umask(),
        processes: call.kernel,
    })
}

/// Where a path relative to `directory` starts.
pub(crate) fn start(call: &Call<'_>, directory: u64, path: &[u8]) -> Result<Rc<Node>> {
    let directory = directory as u32 as i32;
    if directory == AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(call.process.fs().cwd());
    }
    let node = call.process.files().borrow().get_any(directory)?.node().clone();
    if node.is_directory() || path.is_empty() { Ok(node) } else { Err(Errno::ENOTDIR) }
}

/// The node that `path` names, or that `directory` is, if the path is empty and AT_EMPTY_PATH is set.
pub(crate) fn resolve(call: &Call<'_>, directory: u64, path: u64, flags: u64) -> Result<Rc<Node>> {
    let path = read_optional_path(call, path, flags)?;
    let start = start(call, directory, &path)?;
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        return Ok(start);
    }
    with_place(call, |place| place.walk(&start, &path, flags & AT_SYMLINK_NOFOLLOW == 0))
}

/// A path that may be a null pointer with AT_EMPTY_PATH (Linux 6.11; glibc relies on the empty string only).
fn read_optional_path(call: &Call<'_>, path: u64, flags: u64) -> Result<Vec<u8>> {
    if path == 0 && flags & AT_EMPTY_PATH != 0 { Ok(Vec::new()) } else { call.read_path(path) }
}

/// Refuse flags that are not in `known`.
pub(crate) fn check_flags(flags: u64, known: u64) -> Result {
    if flags & !known == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}
