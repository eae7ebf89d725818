//! Extended attributes (xattr(7)).

use super::super::call::Call;
use super::super::table::{Entry, full};
use super::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, check_flags, file, resolve, with_place};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::Node;
use crate::fs::access::Access;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(188, "setxattr", |call| {
        let node = by_path(call, true)?;
        set(call, &node)
    }),
    full(189, "lsetxattr", |call| {
        let node = by_path(call, false)?;
        set(call, &node)
    }),
    full(190, "fsetxattr", |call| {
        let node = by_descriptor(call)?;
        set(call, &node)
    }),
    full(191, "getxattr", |call| {
        let node = by_path(call, true)?;
        get(call, &node)
    }),
    full(192, "lgetxattr", |call| {
        let node = by_path(call, false)?;
        get(call, &node)
    }),
    full(193, "fgetxattr", |call| {
        let node = by_descriptor(call)?;
        get(call, &node)
    }),
    full(194, "listxattr", |call| {
        let node = by_path(call, true)?;
        list(call, &node)
    }),
    full(195, "llistxattr", |call| {
        let node = by_path(call, false)?;
        list(call, &node)
    }),
    full(196, "flistxattr", |call| {
        let node = by_descriptor(call)?;
        list(call, &node)
    }),
    full(197, "removexattr", |call| {
        let node = by_path(call, true)?;
        remove(call, &node)
    }),
    full(198, "lremovexattr", |call| {
        let node = by_path(call, false)?;
        remove(call, &node)
    }),
    full(199, "fremovexattr", |call| {
        let node = by_descriptor(call)?;
        remove(call, &node)
    }),
];

/// XATTR_NAME_MAX, XATTR_SIZE_MAX, XATTR_LIST_MAX.
const NAME_MAX: usize = 255;
const SIZE_MAX: u64 = 65536;

fn by_path(call: &Call<'_>, follow: bool) -> Result<Rc<Node>> {
    resolve(call, AT_FDCWD as u32 as u64, call.args[0], if follow { 0 } else { AT_SYMLINK_NOFOLLOW })
}

fn by_descriptor(call: &Call<'_>) -> Result<Rc<Node>> {
    Ok(file(call, call.args[0])?.node().clone())
}

/// The attribute's name, if the caller may use its namespace on `node`.
fn name(call: &Call<'_>, node: &Rc<Node>, wanted: Access) -> Result<Vec<u8>> {
    let name = call.read_string(call.args[1], NAME_MAX + 1, Errno::ERANGE)?;
    if name.is_empty() {
        return Err(Errno::ERANGE);
    }
    let privileged = call.process.credentials.borrow().is_privileged();
    let writes = wanted.contains(Access::WRITE);
    if name.starts_with(b"user.") {
        if node.data().is_err() && !node.is_directory() {
            return Err(if writes { Errno::EPERM } else { Errno::ENODATA });
        }
        with_place(call, |place| place.subject.check(node, wanted))?;
    } else if name.starts_with(b"trusted.") {
        if !privileged {
            return Err(if writes { Errno::EPERM } else { Errno::ENODATA });
        }
    } else if name.starts_with(b"security.") {
        if writes && !privileged {
            return Err(Errno::EPERM);
        }
    } else if name.starts_with(b"system.posix_acl_") && !writes {
        return Err(Errno::ENODATA);
    } else {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(name)
}

fn set(call: &Call<'_>, node: &Rc<Node>) -> SysResult {
    const CREATE: u64 = 1;
    const REPLACE: u64 = 2;
    let [_, _, address, size, flags, _] = call.args;
    check_flags(flags, CREATE | REPLACE)?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let name = name(call, node, Access::WRITE)?;
    let mut value = vec![0; size as usize];
    call.read(address, &mut value)?;
    node.check_writable()?;
    node.fs().env.check_space()?;
    node.change_xattrs(|xattrs| {
        let exists = xattrs.contains_key(&name);
        if exists && flags & CREATE != 0 {
            return Err(Errno::EEXIST);
        }
        if !exists && flags & REPLACE != 0 {
            return Err(Errno::ENODATA);
        }
        let total: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if total + name.len() + value.len() > 2 * SIZE_MAX as usize {
            return Err(Errno::ENOSPC);
        }
        xattrs.insert(name, value);
        Ok(())
    })?;
    Ok(0)
}

/// Store a value in a buffer of `size` bytes; a size of 0 asks for the length.
fn answer(call: &Call<'_>, value: &[u8], address: u64, size: u64) -> SysResult {
    if size != 0 {
        if (size as usize) < value.len() {
            return Err(Errno::ERANGE.into());
        }
        call.write(address, value)?;
    }
    Ok(value.len() as u64)
}

fn get(call: &Call<'_>, node: &Rc<Node>) -> SysResult {
    let name = name(call, node, Access::READ)?;
    let value = node.xattrs(|xattrs| xattrs.get(&name).cloned())?.ok_or(Errno::ENODATA)?;
    answer(call, &value, call.args[2], call.args[3])
}

fn list(call: &Call<'_>, node: &Rc<Node>) -> SysResult {
    let privileged = call.process.credentials.borrow().is_privileged();
    let names = node.xattrs(|xattrs| {
        let shown = xattrs.keys().filter(|name| privileged || !name.starts_with(b"trusted."));
        shown.flat_map(|name| name.iter().copied().chain([0])).collect::<Vec<u8>>()
    })?;
    answer(call, &names, call.args[1], call.args[2])
}

fn remove(call: &Call<'_>, node: &Rc<Node>) -> SysResult {
    let name = name(call, node, Access::WRITE)?;
    node.check_writable()?;
    node.change_xattrs(|xattrs| xattrs.remove(&name).map(|_| ()).ok_or(Errno::ENODATA))?;
    Ok(0)
}
