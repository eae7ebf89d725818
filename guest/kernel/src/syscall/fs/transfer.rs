//! Moving bytes between files inside the library OS, and making them durable (there is nothing to do: files are memory).

use super::super::call::{Call, MAX_RW_COUNT};
use super::super::net::{socket_of, transfer};
use super::super::table::{Entry, full, partial};
use super::io::wait_or_fail;
use super::{check_flags, file};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::File;
use crate::fs::pipe::PipeEnd;
use crate::mem::user::VecSink;
use crate::task::signal::SIGPIPE;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(40, "sendfile", sendfile),
    full(74, "fsync", fsync),
    full(75, "fdatasync", fsync),
    full(162, "sync", |_| Ok(0)),
    full(187, "readahead", advice),
    full(221, "fadvise64", advice),
    partial(275, "splice", splice, "copies"),
    partial(276, "tee", tee, "copies"),
    full(277, "sync_file_range", advice),
    full(306, "syncfs", advice),
    full(326, "copy_file_range", copy_file_range),
];

/// Bytes moved at once.
const CHUNK: usize = 64 << 10;

fn fsync(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    file.ops().sync(&file)?;
    Ok(0)
}

fn advice(call: &mut Call<'_>) -> SysResult {
    file(call, call.args[0])?;
    Ok(0)
}

fn read_chunk(call: &Call<'_>, from: &Rc<File>, offset: Option<u64>, limit: usize) -> Result<Vec<u8>> {
    let mut sink = VecSink { bytes: Vec::new(), limit };
    match (offset, socket_of(from)) {
        (Some(offset), _) => from.read_at(offset, &mut sink)?,
        (None, Some(socket)) => transfer::read_some(call, &*socket, &mut sink)?,
        (None, None) => from.read(&mut sink)?,
    };
    Ok(sink.bytes)
}

/// Write at the offset of the file, or to a socket.
fn write_chunk(call: &Call<'_>, to: &Rc<File>, mut bytes: &[u8]) -> Result<usize> {
    match socket_of(to) {
        Some(socket) => transfer::write_some(call, &*socket, &mut bytes),
        None => to.write(&mut bytes),
    }
}

/// An offset argument: the pointer, and the value it holds.
fn offset_at(call: &Call<'_>, address: u64) -> Result<Option<u64>> {
    if address == 0 {
        return Ok(None);
    }
    let offset = call.read_u64(address)?;
    if offset > i64::MAX as u64 { Err(Errno::EINVAL) } else { Ok(Some(offset)) }
}

/// Copy up to `count` bytes from a seekable file; what the target does not take goes back.
fn copy(
    call: &Call<'_>,
    from: &Rc<File>,
    to: &Rc<File>,
    mut at: u64,
    mut to_at: Option<u64>,
    count: u64,
) -> SysResult {
    let before = call.thread.progress.borrow().bytes;
    let mut done = before;
    at += before;
    while done < count.min(MAX_RW_COUNT) {
        let bytes = read_chunk(call, from, Some(at), CHUNK.min((count - done) as usize))?;
        if bytes.is_empty() {
            break;
        }
        let mut source = bytes.as_slice();
        let wrote = match to_at {
            Some(offset) => to.write_at(offset, &mut source),
            None => write_chunk(call, to, source),
        };
        match wrote {
            Ok(wrote) => {
                done += wrote as u64;
                at += wrote as u64;
                to_at = to_at.map(|offset| offset + wrote as u64);
                call.thread.progress.borrow_mut().bytes = done;
            }
            Err(Errno::EAGAIN) if done > before || to.is_nonblocking() => {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN.into()) };
            }
            Err(Errno::EAGAIN) => return wait_or_fail(call, to, false),
            Err(errno) => {
                if errno == Errno::EPIPE {
                    call.kernel.raise(&call.thread, SIGPIPE);
                }
                return if done > 0 { Ok(done) } else { Err(errno.into()) };
            }
        }
    }
    Ok(done)
}

fn sendfile(call: &mut Call<'_>) -> SysResult {
    let [to, from, offset_address, count, ..] = call.args;
    let (to, from) = (file(call, to)?, file(call, from)?);
    if !from.can_read() || !to.can_write() {
        return Err(Errno::EBADF.into());
    }
    if !from.ops().is_seekable() {
        return Err(Errno::EINVAL.into());
    }
    let offset = offset_at(call, offset_address)?;
    let start = offset.unwrap_or(from.offset());
    let done = copy(call, &from, &to, start, None, count)?;
    match offset {
        Some(offset) => call.write_u64(offset_address, offset + done)?,
        None => from.set_offset(start + done),
    }
    Ok(done)
}

fn copy_file_range(call: &mut Call<'_>) -> SysResult {
    let [from, from_offset, to, to_offset, count, flags] = call.args;
    check_flags(flags, 0)?;
    let (from, to) = (file(call, from)?, file(call, to)?);
    if from.node().is_directory() || to.node().is_directory() {
        return Err(Errno::EISDIR.into());
    }
    if from.node().data().is_err() || to.node().data().is_err() {
        return Err(Errno::EINVAL.into());
    }
    if !from.can_read() || !to.can_write() || to.flags() & crate::fs::file::flags::O_APPEND != 0 {
        return Err(Errno::EBADF.into());
    }
    let (from_at, to_at) = (offset_at(call, from_offset)?, offset_at(call, to_offset)?);
    let (start, target) = (from_at.unwrap_or(from.offset()), to_at.unwrap_or(to.offset()));
    let overlap = Rc::ptr_eq(from.node(), to.node())
        && start < target.saturating_add(count)
        && target < start.saturating_add(count);
    if overlap {
        return Err(Errno::EINVAL.into());
    }
    let done = copy(call, &from, &to, start, Some(target), count)?;
    match from_at {
        Some(offset) => call.write_u64(from_offset, offset + done)?,
        None => from.set_offset(start + done),
    }
    match to_at {
        Some(offset) => call.write_u64(to_offset, offset + done)?,
        None => to.set_offset(target + done),
    }
    Ok(done)
}

/// Move bytes out of a pipe, or into one: at most what fits at once.
fn splice(call: &mut Call<'_>) -> SysResult {
    const NONBLOCK: u64 = 2;
    let [from, from_offset, to, to_offset, count, flags] = call.args;
    check_flags(flags, 15)?;
    let (from, to) = (file(call, from)?, file(call, to)?);
    let (source_pipe, target_pipe) = (from.ops_as::<PipeEnd>(), to.ops_as::<PipeEnd>());
    if source_pipe.is_none() && target_pipe.is_none() {
        return Err(Errno::EINVAL.into());
    }
    if (source_pipe.is_some() && from_offset != 0) || (target_pipe.is_some() && to_offset != 0) {
        return Err(Errno::ESPIPE.into());
    }
    let nonblocking = flags & NONBLOCK != 0;
    let (from_at, to_at) = (offset_at(call, from_offset)?, offset_at(call, to_offset)?);
    let mut limit = (count.min(CHUNK as u64)) as usize;
    if let Some(end) = target_pipe {
        let room = end.pipe().free_bytes();
        if room == 0 {
            return wait_or_fail(call, &to, nonblocking || to.is_nonblocking());
        }
        limit = limit.min(room);
    }
    let bytes = match read_chunk(call, &from, from_at, limit) {
        Err(Errno::EAGAIN) => return wait_or_fail(call, &from, nonblocking || from.is_nonblocking()),
        bytes => bytes?,
    };
    let mut left = bytes.as_slice();
    let wrote = match to_at {
        Some(offset) => to.write_at(offset, &mut left)?,
        None => write_chunk(call, &to, left)?,
    } as u64;
    if let Some(offset) = from_at {
        call.write_u64(from_offset, offset + wrote)?;
    }
    if let Some(offset) = to_at {
        call.write_u64(to_offset, offset + wrote)?;
    }
    Ok(wrote)
}

fn tee(call: &mut Call<'_>) -> SysResult {
    let [from, to, count, flags, ..] = call.args;
    check_flags(flags, 15)?;
    let (from, to) = (file(call, from)?, file(call, to)?);
    let (Some(source), Some(target)) = (from.ops_as::<PipeEnd>(), to.ops_as::<PipeEnd>()) else {
        return Err(Errno::EINVAL.into());
    };
    let limit = target.pipe().free_bytes().min(count.min(CHUNK as u64) as usize);
    if limit == 0 {
        return wait_or_fail(call, &to, flags & 2 != 0);
    }
    let bytes = source.pipe().peek(limit);
    if bytes.is_empty() {
        return if source.pipe().is_open().1 { wait_or_fail(call, &from, flags & 2 != 0) } else { Ok(0) };
    }
    Ok(to.write(&mut bytes.as_slice())? as u64)
}
