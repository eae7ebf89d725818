//! bind, listen, connect, getsockname, getpeername, shutdown.

use super::super::call::Call;
use super::super::table::{Entry, full};
use super::{pause, read_address, settle, socket, with_caller, write_address};
use crate::errno::{Errno, Result, SysResult};
use crate::net::{Outcome, Shutdown};
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(42, "connect", connect),
    full(48, "shutdown", shutdown),
    full(49, "bind", bind),
    full(50, "listen", listen),
    full(51, "getsockname", |call| name(call, false)),
    full(52, "getpeername", |call| name(call, true)),
];

/// net.core.somaxconn.
const BACKLOG_MAX: u32 = 4096;

fn bind(call: &mut Call<'_>) -> SysResult {
    let [fd, address, len, ..] = call.args;
    let (_, socket) = socket(call, fd)?;
    let address = read_address(call, address, len)?;
    let outcome = with_caller(call, false, |caller| socket.bind(caller, &address));
    settle(call, &*socket, outcome)
}

fn listen(call: &mut Call<'_>) -> SysResult {
    let [fd, backlog, ..] = call.args;
    let (_, socket) = socket(call, fd)?;
    let backlog = (backlog as u32).min(BACKLOG_MAX);
    call.kernel.note_growth();
    let outcome = with_caller(call, false, |caller| socket.listen(caller, backlog));
    settle(call, &*socket, outcome)
}

fn connect(call: &mut Call<'_>) -> SysResult {
    let [fd, address, len, ..] = call.args;
    let (file, socket) = socket(call, fd)?;
    let address = read_address(call, address, len)?;
    let nonblocking = file.is_nonblocking();
    match with_caller(call, nonblocking, |caller| socket.connect(caller, &address)) {
        Ok(()) => Ok(0),
        Err(paused) => {
            let timeout = socket.common().options.send_timeout_ns.get();
            Err(pause(call, &*socket, paused, nonblocking, timeout))
        }
    }
}

fn name(call: &Call<'_>, of_peer: bool) -> SysResult {
    let [fd, address, len_address, ..] = call.args;
    let (_, socket) = socket(call, fd)?;
    let name: Outcome<Vec<u8>> = if of_peer { socket.peer_name() } else { socket.local_name() };
    match name {
        Ok(name) => {
            write_address(call, address, len_address, &name)?;
            Ok(0)
        }
        Err(paused) => Err(pause(call, &*socket, paused, false, None)),
    }
}

fn parse_shutdown(how: u64) -> Result<Shutdown> {
    match how as u32 {
        0 => Ok(Shutdown::Receive),
        1 => Ok(Shutdown::Send),
        2 => Ok(Shutdown::Both),
        _ => Err(Errno::EINVAL),
    }
}

fn shutdown(call: &mut Call<'_>) -> SysResult {
    let [fd, how, ..] = call.args;
    let (_, socket) = socket(call, fd)?;
    let outcome = socket.shutdown(parse_shutdown(how)?);
    settle(call, &*socket, outcome)
}
