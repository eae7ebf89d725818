//! Sockets: the system calls, for every address family alike (`crate::net`).

pub mod create;
mod message;
pub mod name;
pub mod option;
pub mod transfer;

use super::call::Call;
use super::fs::{file, with_place};
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::fs::File;
use crate::net::address::STORAGE_BYTES;
use crate::net::{Caller, Outcome, Pause, Socket, SocketFile};
use crate::task::process::LIMIT_NOFILE;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

/// The socket that a file is, if it is one.
pub(crate) fn socket_of(file: &File) -> Option<Rc<dyn Socket>> {
    file.ops_as::<SocketFile>().map(|file| file.socket().clone())
}

/// The socket behind a descriptor.
fn socket(call: &Call<'_>, fd: u64) -> Result<(Rc<File>, Rc<dyn Socket>)> {
    let file = file(call, fd)?;
    let socket = socket_of(&file).ok_or(Errno::ENOTSOCK)?;
    Ok((file, socket))
}

/// Do `work` as the calling process.
fn with_caller<R>(call: &Call<'_>, nonblocking: bool, work: impl FnOnce(&Caller<'_>) -> R) -> R {
    let credentials = call.process.credentials.borrow().clone();
    with_place(call, |place| {
        work(&Caller {
            net: &call.kernel.net,
            place,
            pid: call.process.pid,
            credentials: &credentials,
            descriptors_max: call.process.limit(LIMIT_NOFILE),
            nonblocking,
            again: call.thread.progress.borrow().started,
        })
    })
}

/// Whether a call that waits has had its time (SO_RCVTIMEO, SO_SNDTIMEO).
fn is_over(call: &Call<'_>, timeout_ns: Option<u64>) -> bool {
    timeout_ns.is_some_and(|timeout_ns| call.kernel.machine.monotonic_ns() >= call.deadline(timeout_ns))
}

/// What a call whose operation has paused returns: it waits, or fails.
fn pause(
    call: &Call<'_>,
    socket: &dyn Socket,
    pause: Pause,
    nonblocking: bool,
    timeout_ns: Option<u64>,
) -> Stop {
    let late = match pause {
        Pause::Errno(errno) => return errno.into(),
        Pause::WouldBlock => Errno::EAGAIN,
        Pause::InProgress => Errno::EINPROGRESS,
        Pause::Host => {
            socket.common().notifier.register(call.thread.tid);
            return Stop::Wait;
        }
    };
    if nonblocking || is_over(call, timeout_ns) {
        return late.into();
    }
    socket.common().notifier.register(call.thread.tid);
    // signal(7): socket calls with a time-out are never started again.
    if timeout_ns.is_some() { Stop::WaitNoRestart } else { Stop::Wait }
}

/// The result of an operation that waits for nobody but the VMM.
fn settle(call: &Call<'_>, socket: &dyn Socket, outcome: Outcome) -> SysResult {
    match outcome {
        Ok(()) => Ok(0),
        Err(paused) => Err(pause(call, socket, paused, false, None)),
    }
}

/// An address argument.
///
/// # Errors
/// EINVAL (length out of range), EFAULT.
fn read_address(call: &Call<'_>, address: u64, len: u64) -> Result<Vec<u8>> {
    let len = len as u32 as usize;
    if len > STORAGE_BYTES {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len];
    call.read(address, &mut bytes)?;
    Ok(bytes)
}

/// Store an address, as much as there is room for, and its full length; `len_address` holds the room.
///
/// # Errors
/// EINVAL (negative room), EFAULT.
fn write_address(call: &Call<'_>, address: u64, len_address: u64, bytes: &[u8]) -> Result {
    let room = call.read_u32(len_address)?;
    if room > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    call.write(address, &bytes[..bytes.len().min(room as usize)])?;
    call.write_u32(len_address, bytes.len() as u32)
}
