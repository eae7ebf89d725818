//! Addresses: paths in the tree of files, and abstract names.

use super::{Shared, UnixAddress, UnixSocket};
use crate::errno::{Errno, Result};
use crate::fs::Access;
use crate::fs::node::{Kind, Node, S_IFSOCK};
use crate::net::{Caller, SocketType};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::cell::RefCell;

/// Most names that bind(2) chooses itself: five hexadecimal digits.
const CHOSEN_MAX: u32 = 1 << 20;

/// What hangs at the node of a path: the socket that is bound there, as long as it lives.
struct Bound(Weak<UnixSocket>);

/// A type of socket, and a name.
type Key = (u8, Vec<u8>);

/// Abstract names. As on Linux, every type of socket has names of its own.
#[derive(Default)]
pub struct Names(RefCell<BTreeMap<Key, Weak<UnixSocket>>>);

impl Names {
    fn find(&self, kind: SocketType, name: &[u8]) -> Option<Rc<UnixSocket>> {
        let found = self.0.borrow().get(&(kind as u8, name.to_vec())).and_then(Weak::upgrade);
        found.filter(|socket| !socket.dead.get())
    }

    fn take(&self, socket: &UnixSocket, name: &[u8]) -> Result {
        if self.find(socket.common.kind, name).is_some() {
            return Err(Errno::EADDRINUSE);
        }
        self.0.borrow_mut().insert((socket.common.kind as u8, name.to_vec()), socket.me.clone());
        Ok(())
    }

    /// `socket` is closed: its name is free.
    pub(super) fn forget(&self, socket: &UnixSocket) {
        let Some(UnixAddress::Abstract(name)) = socket.address.borrow().as_deref().cloned() else { return };
        let key = (socket.common.kind as u8, name);
        let mut names = self.0.borrow_mut();
        // Sockets that were accepted have their listener's address, not its name.
        if names.get(&key).is_some_and(|owner| core::ptr::eq(owner.as_ptr(), socket)) {
            names.remove(&key);
        }
    }
}

/// The socket that is bound at a node.
fn bound_at(node: &Node) -> Option<Rc<UnixSocket>> {
    let Kind::Socket(slot) = node.kind() else { return None };
    let any: Rc<dyn Any> = slot.borrow().clone()?;
    let bound: Rc<Bound> = any.downcast().ok()?;
    bound.0.upgrade().filter(|socket| !socket.dead.get())
}

/// The socket at `address` that a socket of type `kind` may talk to.
///
/// # Errors
/// Those of the path; EACCES (no permission to write); ECONNREFUSED (nobody there); EPROTOTYPE (another type).
pub(super) fn find(
    shared: &Shared,
    caller: &Caller<'_>,
    address: &UnixAddress,
    kind: SocketType,
) -> Result<Rc<UnixSocket>> {
    match address {
        UnixAddress::Unnamed => Err(Errno::EINVAL),
        UnixAddress::Abstract(name) => shared.names.find(kind, name).ok_or(Errno::ECONNREFUSED),
        UnixAddress::Path(path) => {
            let node = caller.place.walk(&caller.place.cwd, path, true)?;
            caller.place.subject.check(&node, Access::WRITE)?;
            let socket = bound_at(&node).ok_or(Errno::ECONNREFUSED)?;
            if socket.common.kind == kind { Ok(socket) } else { Err(Errno::EPROTOTYPE) }
        }
    }
}

/// bind(2).
///
/// # Errors
/// EINVAL (has an address, malformed), EADDRINUSE, ENOSPC (no name is free), those of mknod(2).
pub(super) fn bind(socket: &UnixSocket, caller: &Caller<'_>, address: &[u8]) -> Result {
    let address = UnixAddress::parse(address)?;
    let has_one = socket.address.borrow().is_some();
    match &address {
        UnixAddress::Unnamed => return bind_if_unnamed(socket),
        UnixAddress::Abstract(_) if has_one => return Err(Errno::EINVAL),
        UnixAddress::Abstract(name) => socket.shared.names.take(socket, name)?,
        UnixAddress::Path(path) => {
            let place = caller.place;
            if has_one {
                let exists = place.walk(&place.cwd, path, false).is_ok();
                return Err(if exists { Errno::EADDRINUSE } else { Errno::EINVAL });
            }
            let node = match place.make_node(&place.cwd, path, S_IFSOCK | 0o777, 0) {
                Err(Errno::EEXIST) => return Err(Errno::EADDRINUSE),
                node => node?,
            };
            if let Kind::Socket(slot) = node.kind() {
                slot.replace(Some(Rc::new(Bound(socket.me.clone()))));
            }
        }
    }
    socket.address.replace(Some(Rc::new(address)));
    Ok(())
}

/// Choose an abstract name for a socket without an address.
///
/// # Errors
/// ENOSPC: all are taken.
pub(super) fn bind_if_unnamed(socket: &UnixSocket) -> Result {
    if socket.address.borrow().is_some() {
        return Ok(());
    }
    let mut start = [0; 4];
    socket.shared.env.fill_random(&mut start)?;
    let start = u32::from_le_bytes(start);
    for step in 0..CHOSEN_MAX {
        let name = format!("{:05x}", start.wrapping_add(step) % CHOSEN_MAX).into_bytes();
        if socket.shared.names.take(socket, &name).is_ok() {
            socket.address.replace(Some(Rc::new(UnixAddress::Abstract(name))));
            return Ok(());
        }
    }
    Err(Errno::ENOSPC)
}
