//! What files are: stat, access, readlink, statfs, getdents.

use super::super::call::Call;
use super::super::table::{Entry, full, partial};
use super::{
    AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, check_flags, file, file_or_path, resolve, start, with_place,
};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::access::Access;
use crate::fs::env::FileSystem;
use crate::fs::node::{Stat, Target, split_device};
use crate::fs::{Context, Node, Subject};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

/// The family.
pub const TABLE: &[Entry] = &[
    full(4, "stat", stat),
    full(5, "fstat", fstat),
    full(6, "lstat", lstat),
    full(21, "access", access),
    full(78, "getdents", getdents),
    full(79, "getcwd", getcwd),
    full(89, "readlink", readlink),
    full(137, "statfs", statfs),
    full(138, "fstatfs", fstatfs),
    full(217, "getdents64", getdents64),
    full(262, "newfstatat", newfstatat),
    full(267, "readlinkat", readlinkat),
    full(269, "faccessat", faccessat),
    partial(332, "statx", statx, "no attributes, no mount id"),
    full(439, "faccessat2", faccessat2),
];

const NANOS: i64 = 1_000_000_000;
/// "The working directory", as an argument.
const CWD: u64 = AT_FDCWD as u32 as u64;

/// struct stat of x86-64 (asm/stat.h), 144 bytes.
fn encode(stat: &Stat) -> Vec<u8> {
    let time = |at: i64| [at.div_euclid(NANOS) as u64, at.rem_euclid(NANOS) as u64];
    let [access, modify, change] = [stat.times.access, stat.times.modify, stat.times.change].map(time);
    let words = [
        stat.device,
        stat.ino,
        u64::from(stat.nlink),
        u64::from(stat.mode) | u64::from(stat.uid) << 32,
        u64::from(stat.gid),
        stat.rdev,
        stat.size,
        PAGE_SIZE,
        stat.blocks,
        access[0],
        access[1],
        modify[0],
        modify[1],
        change[0],
        change[1],
        0,
        0,
        0,
    ];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn store(call: &Call<'_>, address: u64, node: &Rc<Node>) -> SysResult {
    call.write(address, &encode(&node.stat()))?;
    Ok(0)
}

fn stat(call: &mut Call<'_>) -> SysResult {
    let node = resolve(call, CWD, call.args[0], 0)?;
    store(call, call.args[1], &node)
}

fn lstat(call: &mut Call<'_>) -> SysResult {
    let node = resolve(call, CWD, call.args[0], AT_SYMLINK_NOFOLLOW)?;
    store(call, call.args[1], &node)
}

fn fstat(call: &mut Call<'_>) -> SysResult {
    let node = file_or_path(call, call.args[0])?.node().clone();
    store(call, call.args[1], &node)
}

fn newfstatat(call: &mut Call<'_>) -> SysResult {
    let [directory, path, address, flags, ..] = call.args;
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | 0x800)?;
    let node = resolve(call, directory, path, flags)?;
    store(call, address, &node)
}

fn statx(call: &mut Call<'_>) -> SysResult {
    let [directory, path, flags, mask, address, _] = call.args;
    check_flags(flags, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | 0x800 | 0x6000)?;
    if mask & 0x8000_0000 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let node = resolve(call, directory, path, flags)?;
    let stat = node.stat();
    let mut bytes = vec![0u8; 256];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    // STATX_BASIC_STATS | STATX_BTIME.
    put(0, &0xfffu32.to_le_bytes());
    put(4, &(PAGE_SIZE as u32).to_le_bytes());
    put(16, &stat.nlink.to_le_bytes());
    put(20, &stat.uid.to_le_bytes());
    put(24, &stat.gid.to_le_bytes());
    put(28, &(stat.mode as u16).to_le_bytes());
    put(32, &stat.ino.to_le_bytes());
    put(40, &stat.size.to_le_bytes());
    put(48, &stat.blocks.to_le_bytes());
    let times =
        [(64, stat.times.access), (80, stat.times.birth), (96, stat.times.change), (112, stat.times.modify)];
    for (at, time) in times {
        put(at, &time.div_euclid(NANOS).to_le_bytes());
        put(at + 8, &(time.rem_euclid(NANOS) as u32).to_le_bytes());
    }
    for (at, device) in [(128, stat.rdev), (136, stat.device)] {
        let (major, minor) = split_device(device);
        put(at, &major.to_le_bytes());
        put(at + 4, &minor.to_le_bytes());
    }
    call.write(address, &bytes)?;
    Ok(0)
}

fn do_access(call: &Call<'_>, directory: u64, path: u64, mode: u64, flags: u64) -> SysResult {
    const EACCESS: u64 = 0x200;
    if mode & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    check_flags(flags, EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let path = call.read_path(path)?;
    let start = start(call, directory, &path)?;
    let who = call.process.credentials.borrow().clone();
    // access(2) asks for the real ids.
    let (uid, gid) = if flags & EACCESS != 0 { (who.fsuid, who.fsgid) } else { (who.uid, who.gid) };
    with_place(call, |place| -> Result {
        let place = Context { subject: Subject { uid, gid, groups: &who.groups }, ..place.clone() };
        let node = if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
            start.clone()
        } else {
            place.walk(&start, &path, flags & AT_SYMLINK_NOFOLLOW == 0)?
        };
        let wanted = Access::from_bits_truncate(mode as u32);
        if wanted.contains(Access::WRITE) && node.fs().read_only.get() && node.data().is_ok() {
            return Err(Errno::EROFS);
        }
        if wanted.is_empty() { Ok(()) } else { place.subject.check(&node, wanted) }
    })?;
    Ok(0)
}

fn access(call: &mut Call<'_>) -> SysResult {
    do_access(call, CWD, call.args[0], call.args[1], 0)
}

fn faccessat(call: &mut Call<'_>) -> SysResult {
    do_access(call, call.args[0], call.args[1], call.args[2], 0)
}

fn faccessat2(call: &mut Call<'_>) -> SysResult {
    do_access(call, call.args[0], call.args[1], call.args[2], call.args[3])
}

fn do_readlink(call: &Call<'_>, directory: u64, path: u64, address: u64, size: u64) -> SysResult {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let node = resolve(call, directory, path, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    if !node.is_symlink() {
        return Err(Errno::EINVAL.into());
    }
    let text = with_place(call, |place| -> Result<Vec<u8>> {
        Ok(match node.target(place)? {
            Target::Path(path) => path.to_vec(),
            Target::Node(_, text) => text,
        })
    })?;
    let count = text.len().min(size as usize);
    call.write(address, &text[..count])?;
    Ok(count as u64)
}

fn readlink(call: &mut Call<'_>) -> SysResult {
    do_readlink(call, CWD, call.args[0], call.args[1], call.args[2])
}

fn readlinkat(call: &mut Call<'_>) -> SysResult {
    do_readlink(call, call.args[0], call.args[1], call.args[2], call.args[3])
}

fn getcwd(call: &mut Call<'_>) -> SysResult {
    let [address, size, ..] = call.args;
    let fs = call.process.fs();
    let cwd = fs.cwd();
    if cwd.nlink() == 0 {
        return Err(Errno::ENOENT.into());
    }
    let mut path = cwd.path(&fs.root())?;
    path.push(0);
    if size < path.len() as u64 {
        return Err(Errno::ERANGE.into());
    }
    call.write(address, &path)?;
    Ok(path.len() as u64)
}

fn store_statfs(call: &Call<'_>, address: u64, fs: &FileSystem) -> SysResult {
    let frames = &fs.env.frames;
    let sized = matches!(fs.kind.name, "overlay" | "tmpfs");
    let (blocks, free) = if sized { (frames.total() as u64, frames.available() as u64) } else { (0, 0) };
    let (files, files_free) = if sized { (1 << 20, 1 << 20) } else { (0, 0) };
    // ST_VALID, with ST_RDONLY where it applies.
    let flags = 0x20 | u64::from(fs.read_only.get());
    let words = [
        fs.kind.magic,
        PAGE_SIZE,
        blocks,
        free,
        free,
        files,
        files_free,
        fs.device,
        255,
        PAGE_SIZE,
        flags,
        0,
        0,
        0,
        0,
    ];
    call.write_words(address, &words)?;
    Ok(0)
}

fn statfs(call: &mut Call<'_>) -> SysResult {
    let node = resolve(call, CWD, call.args[0], 0)?;
    store_statfs(call, call.args[1], node.fs())
}

fn fstatfs(call: &mut Call<'_>) -> SysResult {
    let file = file_or_path(call, call.args[0])?;
    store_statfs(call, call.args[1], file.node().fs())
}

/// Encode directory entries until `size` bytes are full. `wide`: struct linux_dirent64, else struct linux_dirent.
fn list(call: &Call<'_>, wide: bool) -> SysResult {
    let [fd, address, size, ..] = call.args;
    let file = file(call, fd)?;
    let size = size.min(1 << 20) as usize;
    let mut bytes = Vec::new();
    let mut overflow = false;
    super::io::refresh(call, &file, file.offset())?;
    file.ops().list(&file, &mut |entry, next| {
        let fixed = if wide { 19 } else { 18 };
        let len = (fixed + entry.name.len() + if wide { 1 } else { 2 }).next_multiple_of(8);
        if bytes.len() + len > size {
            overflow = bytes.is_empty();
            return false;
        }
        let start = bytes.len();
        bytes.extend_from_slice(&entry.ino.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        bytes.extend_from_slice(&(len as u16).to_le_bytes());
        if wide {
            bytes.push(entry.kind);
        }
        bytes.extend_from_slice(&entry.name);
        bytes.resize(start + len, 0);
        if !wide {
            bytes[start + len - 1] = entry.kind;
        }
        true
    })?;
    if overflow {
        return Err(Errno::EINVAL.into());
    }
    call.write(address, &bytes)?;
    Ok(bytes.len() as u64)
}

fn getdents(call: &mut Call<'_>) -> SysResult {
    list(call, false)
}

fn getdents64(call: &mut Call<'_>) -> SysResult {
    list(call, true)
}
