//! Changes of the tree and of attributes: mkdir, unlink, rename, chmod, truncate, ...

use super::super::call::Call;
use super::super::table::{Entry, full, partial};
use super::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, check_flags, file, file_or_path,
    resolve, start, with_place,
};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::access::Access;
use crate::fs::change::{RenameFlags, SetTime};
use crate::fs::file::Allocation;
use crate::fs::node::{S_IFDIR, S_IFIFO, S_IFMT, S_IFREG};
use crate::fs::{Context, Node};
use crate::kernel::Kernel;
use crate::mem::pager::Pager;
use crate::task::process::LIMIT_FSIZE;
use crate::task::signal::SIGXFSZ;
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    full(76, "truncate", truncate),
    full(77, "ftruncate", ftruncate),
    full(80, "chdir", chdir),
    full(81, "fchdir", fchdir),
    full(82, "rename", |call| do_rename(call, CWD, call.args[0], CWD, call.args[1], 0)),
    full(83, "mkdir", |call| do_mkdir(call, CWD, call.args[0], call.args[1])),
    full(84, "rmdir", |call| do_unlink(call, CWD, call.args[0], AT_REMOVEDIR)),
    full(86, "link", |call| do_link(call, CWD, call.args[0], CWD, call.args[1], 0)),
    full(87, "unlink", |call| do_unlink(call, CWD, call.args[0], 0)),
    full(88, "symlink", |call| do_symlink(call, call.args[0], CWD, call.args[1])),
    full(90, "chmod", |call| do_chmod(call, CWD, call.args[0], call.args[1])),
    full(91, "fchmod", fchmod),
    full(92, "chown", |call| do_chown(call, CWD, call.args[0], call.args[1], call.args[2], 0)),
    full(93, "fchown", fchown),
    full(94, "lchown", |call| {
        do_chown(call, CWD, call.args[0], call.args[1], call.args[2], AT_SYMLINK_NOFOLLOW)
    }),
    full(95, "umask", |call| Ok(u64::from(call.process.fs().set_umask(call.args[0] as u32)))),
    full(132, "utime", utime),
    partial(
        133,
        "mknod",
        |call| do_mknod(call, CWD, call.args[0], call.args[1], call.args[2]),
        "no new kinds of devices",
    ),
    partial(155, "pivot_root", not_permitted, "EPERM: there are no mounts to change"),
    full(161, "chroot", chroot),
    partial(165, "mount", not_permitted, "EPERM: there are no mounts to change"),
    partial(166, "umount2", not_permitted, "EPERM: there are no mounts to change"),
    full(235, "utimes", |call| do_futimesat(call, CWD, call.args[0], call.args[1])),
    full(258, "mkdirat", |call| do_mkdir(call, call.args[0], call.args[1], call.args[2])),
    partial(
        259,
        "mknodat",
        |call| do_mknod(call, call.args[0], call.args[1], call.args[2], call.args[3]),
        "no new kinds of devices",
    ),
    full(260, "fchownat", |call| {
        do_chown(call, call.args[0], call.args[1], call.args[2], call.args[3], call.args[4])
    }),
    full(261, "futimesat", |call| do_futimesat(call, call.args[0], call.args[1], call.args[2])),
    full(263, "unlinkat", |call| do_unlink(call, call.args[0], call.args[1], call.args[2])),
    full(264, "renameat", |call| do_rename(call, call.args[0], call.args[1], call.args[2], call.args[3], 0)),
    full(265, "linkat", |call| {
        do_link(call, call.args[0], call.args[1], call.args[2], call.args[3], call.args[4])
    }),
    full(266, "symlinkat", |call| do_symlink(call, call.args[0], call.args[1], call.args[2])),
    full(268, "fchmodat", |call| do_chmod(call, call.args[0], call.args[1], call.args[2])),
    full(280, "utimensat", utimensat),
    partial(285, "fallocate", fallocate, "no collapse, insert, unshare"),
    partial(
        316,
        "renameat2",
        |call| do_rename(call, call.args[0], call.args[1], call.args[2], call.args[3], call.args[4]),
        "no RENAME_WHITEOUT",
    ),
    full(452, "fchmodat2", |call| do_chmod(call, call.args[0], call.args[1], call.args[2])),
];

const CWD: u64 = AT_FDCWD as u32 as u64;
const AT_REMOVEDIR: u64 = 0x200;
const NANOS: u64 = 1_000_000_000;

fn not_permitted(_: &mut Call<'_>) -> SysResult {
    Err(Errno::EPERM.into())
}

/// Read a path, find where it starts, and do `work` there.
fn at(
    call: &Call<'_>,
    directory: u64,
    path: u64,
    work: impl FnOnce(&Context<'_>, &Rc<Node>, &[u8]) -> Result,
) -> SysResult {
    let path = call.read_path(path)?;
    let start = start(call, directory, &path)?;
    with_place(call, |place| work(place, &start, &path))?;
    Ok(0)
}

fn do_mkdir(call: &Call<'_>, directory: u64, path: u64, mode: u64) -> SysResult {
    at(call, directory, path, |place, start, path| place.make_directory(start, path, mode as u32).map(|_| ()))
}

fn do_mknod(call: &Call<'_>, directory: u64, path: u64, mode: u64, device: u64) -> SysResult {
    let mode = mode as u32;
    let mode = if mode & S_IFMT == 0 { mode | S_IFREG } else { mode };
    if mode & S_IFMT == S_IFDIR {
        return Err(Errno::EPERM.into());
    }
    let device = if matches!(mode & S_IFMT, S_IFREG | S_IFIFO) { 0 } else { device };
    at(call, directory, path, |place, start, path| place.make_node(start, path, mode, device).map(|_| ()))
}

fn do_symlink(call: &Call<'_>, target: u64, directory: u64, path: u64) -> SysResult {
    let target = call.read_path(target)?;
    at(call, directory, path, |place, start, path| place.make_symlink(start, path, &target).map(|_| ()))
}

fn do_unlink(call: &Call<'_>, directory: u64, path: u64, flags: u64) -> SysResult {
    check_flags(flags, AT_REMOVEDIR)?;
    at(call, directory, path, |place, start, path| {
        if flags & AT_REMOVEDIR != 0 {
            place.remove_directory(start, path)
        } else {
            place.unlink(start, path)
        }
    })
}

fn do_rename(call: &Call<'_>, from: u64, old: u64, to: u64, new: u64, flags: u64) -> SysResult {
    const NOREPLACE: u64 = 1;
    const EXCHANGE: u64 = 2;
    check_flags(flags, NOREPLACE | EXCHANGE)?;
    if flags == NOREPLACE | EXCHANGE {
        return Err(Errno::EINVAL.into());
    }
    let flags = RenameFlags { no_replace: flags & NOREPLACE != 0, exchange: flags & EXCHANGE != 0 };
    let old = call.read_path(old)?;
    let old_start = start(call, from, &old)?;
    at(call, to, new, |place, start, new| place.rename((&old_start, &old), (start, new), flags))
}

fn do_link(call: &Call<'_>, from: u64, old: u64, to: u64, new: u64, flags: u64) -> SysResult {
    check_flags(flags, AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)?;
    let follow = if flags & AT_SYMLINK_FOLLOW != 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
    let node = resolve(call, from, old, follow | flags & AT_EMPTY_PATH)?;
    // A file opened with O_TMPFILE gets its first name through /proc/self/fd or AT_EMPTY_PATH.
    let revive = flags & (AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0;
    at(call, to, new, |place, start, new| place.link(&node, start, new, revive))
}

fn do_chmod(call: &Call<'_>, directory: u64, path: u64, mode: u64) -> SysResult {
    let node = resolve(call, directory, path, 0)?;
    with_place(call, |place| place.set_mode(&node, mode as u32))?;
    Ok(0)
}

fn fchmod(call: &mut Call<'_>) -> SysResult {
    let node = file(call, call.args[0])?.node().clone();
    with_place(call, |place| place.set_mode(&node, call.args[1] as u32))?;
    Ok(0)
}

fn id(raw: u64) -> Option<u32> {
    (raw as u32 != u32::MAX).then_some(raw as u32)
}

fn do_chown(call: &Call<'_>, directory: u64, path: u64, uid: u64, gid: u64, flags: u64) -> SysResult {
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let node = resolve(call, directory, path, flags)?;
    with_place(call, |place| place.set_owner(&node, id(uid), id(gid)))?;
    Ok(0)
}

fn fchown(call: &mut Call<'_>) -> SysResult {
    let node = file(call, call.args[0])?.node().clone();
    with_place(call, |place| place.set_owner(&node, id(call.args[1]), id(call.args[2])))?;
    Ok(0)
}

fn set_times(call: &Call<'_>, node: &Rc<Node>, access: SetTime, modify: SetTime) -> SysResult {
    with_place(call, |place| place.set_times(node, access, modify))?;
    Ok(0)
}

fn time_at(seconds: u64, nanos: u64) -> Result<SetTime> {
    if nanos >= NANOS {
        return Err(Errno::EINVAL);
    }
    let seconds = seconds.cast_signed().saturating_mul(NANOS as i64);
    Ok(SetTime::At(seconds.saturating_add(nanos as i64)))
}

fn utimensat(call: &mut Call<'_>) -> SysResult {
    const NOW: u64 = 0x3fff_ffff;
    const OMIT: u64 = 0x3fff_fffe;
    let [directory, path, times, flags, ..] = call.args;
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let node = if path == 0 {
        file_or_path(call, directory)?.node().clone()
    } else {
        resolve(call, directory, path, flags)?
    };
    if times == 0 {
        return set_times(call, &node, SetTime::Now, SetTime::Now);
    }
    let [access_s, access_ns, modify_s, modify_ns] = call.read_words(times)?;
    let parse = |seconds, nanos| match nanos {
        NOW => Ok(SetTime::Now),
        OMIT => Ok(SetTime::Keep),
        nanos => time_at(seconds, nanos),
    };
    set_times(call, &node, parse(access_s, access_ns)?, parse(modify_s, modify_ns)?)
}

fn do_futimesat(call: &Call<'_>, directory: u64, path: u64, times: u64) -> SysResult {
    let node =
        if path == 0 { file(call, directory)?.node().clone() } else { resolve(call, directory, path, 0)? };
    if times == 0 {
        return set_times(call, &node, SetTime::Now, SetTime::Now);
    }
    let [access_s, access_us, modify_s, modify_us] = call.read_words(times)?;
    let parse = |seconds, micros: u64| time_at(seconds, micros.checked_mul(1000).ok_or(Errno::EINVAL)?);
    set_times(call, &node, parse(access_s, access_us)?, parse(modify_s, modify_us)?)
}

fn utime(call: &mut Call<'_>) -> SysResult {
    let node = resolve(call, CWD, call.args[0], 0)?;
    if call.args[1] == 0 {
        return set_times(call, &node, SetTime::Now, SetTime::Now);
    }
    let [access, modify] = call.read_words(call.args[1])?;
    set_times(call, &node, time_at(access, 0)?, time_at(modify, 0)?)
}

impl Kernel {
    /// Take the pages beyond a file's new end out of all mappings.
    pub(crate) fn file_shrank(&self, node: &Rc<Node>, size: u64) {
        for process in self.processes() {
            process.space().borrow_mut().object_shrank(node.identity(), size);
        }
    }
}

/// A size that truncate may set: RLIMIT_FSIZE counts.
fn check_size(call: &Call<'_>, size: u64) -> Result<u64> {
    if size > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    if size > call.process.limit(LIMIT_FSIZE) {
        call.kernel.raise(&call.thread, SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(size)
}

fn truncate(call: &mut Call<'_>) -> SysResult {
    let size = check_size(call, call.args[1])?;
    let node = resolve(call, CWD, call.args[0], 0)?;
    with_place(call, |place| {
        if node.is_directory() {
            return Err(Errno::EISDIR);
        }
        place.subject.check(&node, Access::WRITE)?;
        place.truncate(&node, size)
    })?;
    call.kernel.file_shrank(&node, size);
    Ok(0)
}

fn ftruncate(call: &mut Call<'_>) -> SysResult {
    let size = check_size(call, call.args[1])?;
    let file = file(call, call.args[0])?;
    if !file.can_write() {
        return Err(Errno::EINVAL.into());
    }
    file.ops().truncate(&file, size)?;
    call.kernel.file_shrank(file.node(), size);
    Ok(0)
}

fn fallocate(call: &mut Call<'_>) -> SysResult {
    const KEEP_SIZE: u64 = 1;
    const PUNCH_HOLE: u64 = 2;
    const ZERO_RANGE: u64 = 16;
    let [fd, mode, offset, len, ..] = call.args;
    if mode & !(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE) != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let keep_size = mode & KEEP_SIZE != 0;
    if (mode & PUNCH_HOLE != 0 && !keep_size) || mode & (PUNCH_HOLE | ZERO_RANGE) == PUNCH_HOLE | ZERO_RANGE {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let file = file(call, fd)?;
    if offset > i64::MAX as u64 || len == 0 || len > i64::MAX as u64 {
        return Err(Errno::EINVAL.into());
    }
    if !file.can_write() {
        return Err(Errno::EBADF.into());
    }
    let zero = mode & (PUNCH_HOLE | ZERO_RANGE) != 0;
    let how = if zero { Allocation::Zero { keep_size } } else { Allocation::Reserve { keep_size } };
    file.ops().allocate(&file, offset, len, how)?;
    Ok(0)
}

fn enter(call: &Call<'_>, node: Rc<Node>) -> SysResult {
    if !node.is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    with_place(call, |place| place.subject.check(&node, Access::EXECUTE))?;
    call.process.fs().set_cwd(node);
    Ok(0)
}

fn chdir(call: &mut Call<'_>) -> SysResult {
    let node = resolve(call, CWD, call.args[0], 0)?;
    enter(call, node)
}

fn fchdir(call: &mut Call<'_>) -> SysResult {
    let node = file_or_path(call, call.args[0])?.node().clone();
    enter(call, node)
}

fn chroot(call: &mut Call<'_>) -> SysResult {
    let node = resolve(call, CWD, call.args[0], 0)?;
    if !node.is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    if !call.process.credentials.borrow().is_privileged() {
        return Err(Errno::EPERM.into());
    }
    call.process.fs().set_root(node);
    Ok(0)
}
