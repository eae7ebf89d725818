//! socket, socketpair, accept.

use super::super::call::Call;
use super::super::table::{Entry, full, partial};
use super::{pause, socket, with_caller, write_address};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::File;
use crate::fs::file::flags::{O_CLOEXEC, O_NONBLOCK};
use crate::net::{Outcome, Socket, SocketFile, SocketType, family};
use crate::syscall::fs::open::install;
use crate::task::process::LIMIT_NOFILE;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    partial(
        41,
        "socket",
        make_socket,
        "AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (NETLINK_ROUTE); no raw sockets",
    ),
    full(43, "accept", |call| accept(call, 0)),
    full(53, "socketpair", socketpair),
    full(288, "accept4", |call| accept(call, call.args[3])),
];

const TYPE_MASK: u32 = 0xf;

/// Split a type argument into the type and the status flags of the descriptor.
fn parse_type(argument: u64) -> Result<(SocketType, u32)> {
    let flags = check_flags(argument as u32 & !TYPE_MASK)?;
    Ok((SocketType::from_number(argument as u32 & TYPE_MASK)?, flags))
}

fn check_flags(flags: u32) -> Result<u32> {
    if flags & !(O_CLOEXEC | O_NONBLOCK) == 0 { Ok(flags) } else { Err(Errno::EINVAL) }
}

fn parse_family(argument: u64) -> Result<u16> {
    let number = argument as u32;
    if number < u32::from(family::MAX) { Ok(number as u16) } else { Err(Errno::EAFNOSUPPORT) }
}

/// family, type, flags and protocol of socket(2) and socketpair(2), in the order in which Linux looks at them.
fn parse(call: &Call<'_>) -> Result<(u16, SocketType, u32, i32)> {
    let [family, kind, protocol, ..] = call.args;
    let flags = check_flags(kind as u32 & !TYPE_MASK)?;
    let family = parse_family(family)?;
    let (kind, _) = parse_type(kind)?;
    Ok((family, kind, flags, protocol as u32 as i32))
}

/// An open file for a new socket.
fn open(call: &Call<'_>, socket: Rc<dyn Socket>, flags: u32) -> Result<Rc<File>> {
    let who = call.process.credentials.borrow();
    SocketFile::open(&call.kernel.fs.sockets, socket, (who.fsuid, who.fsgid), flags & O_NONBLOCK)
}

fn make_socket(call: &mut Call<'_>) -> SysResult {
    let (family, kind, flags, protocol) = parse(call)?;
    if family != family::UNIX {
        call.kernel.fs.env.base.check_outside()?;
    }
    let socket = with_caller(call, false, |caller| call.kernel.net.create(caller, family, kind, protocol))?;
    let file = open(call, socket, flags)?;
    install(call, file, flags & O_CLOEXEC != 0)
}

fn socketpair(call: &mut Call<'_>) -> SysResult {
    let address = call.args[3];
    let (family, kind, flags, protocol) = parse(call)?;
    let limit = call.process.limit(LIMIT_NOFILE);
    call.process.files().borrow().check_room(2, limit)?;
    // Before there is anything to undo.
    call.write(address, &call.read_array::<8>(address)?)?;
    let pair =
        with_caller(call, false, |caller| call.kernel.net.create_pair(caller, family, kind, protocol))?;
    let files: Vec<Rc<File>> =
        pair.into_iter().map(|socket| open(call, socket, flags)).collect::<Result<_>>()?;
    for (index, file) in files.into_iter().enumerate() {
        let fd = install(call, file, flags & O_CLOEXEC != 0)?;
        call.write_u32(address.wrapping_add(index as u64 * 4), fd as u32)?;
    }
    Ok(0)
}

fn accept(call: &Call<'_>, flags: u64) -> SysResult {
    let [fd, address, len_address, ..] = call.args;
    let flags = check_flags(flags as u32)?;
    let (file, listener) = socket(call, fd)?;
    let limit = call.process.limit(LIMIT_NOFILE);
    call.process.files().borrow().check_room(1, limit)?;
    let nonblocking = file.is_nonblocking();
    let outcome: Outcome<Rc<dyn Socket>> = with_caller(call, nonblocking, |caller| listener.accept(caller));
    let socket = match outcome {
        Ok(socket) => socket,
        Err(paused) => {
            let timeout = listener.common().options.receive_timeout_ns.get();
            return Err(pause(call, &*listener, paused, nonblocking, timeout));
        }
    };
    let name = socket.peer_name();
    let file = open(call, socket, flags)?;
    if address != 0 {
        let name = name.map_err(|_| Errno::ECONNABORTED)?;
        write_address(call, address, len_address, &name)?;
    }
    install(call, file, flags & O_CLOEXEC != 0)
}
