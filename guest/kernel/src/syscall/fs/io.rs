//! read, write and their relatives.

use super::super::call::{Call, UserBuffer};
use super::super::net::{socket_of, transfer};
use super::super::table::{Entry, full, partial};
use super::file;
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::fs::File;
use crate::fs::file::Whence;
use crate::fs::file::flags::O_APPEND;
use crate::mem::user::{Sink, Source};
use crate::task::process::{LIMIT_FSIZE, UNLIMITED};
use crate::task::signal::{SIGPIPE, SIGXFSZ};
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    full(0, "read", read),
    full(1, "write", write),
    full(8, "lseek", lseek),
    full(17, "pread64", pread64),
    full(18, "pwrite64", pwrite64),
    full(19, "readv", readv),
    full(20, "writev", writev),
    full(295, "preadv", preadv),
    full(296, "pwritev", pwritev),
    partial(327, "preadv2", preadv2, "RWF_HIPRI, RWF_DSYNC, RWF_SYNC have no effect"),
    partial(328, "pwritev2", pwritev2, "RWF_HIPRI, RWF_DSYNC, RWF_SYNC have no effect"),
];

const RWF_NOWAIT: u64 = 8;
const RWF_APPEND: u64 = 16;

/// What a call that would have to wait does: wait for the file, or fail.
pub(super) fn wait_or_fail(call: &Call<'_>, file: &File, nonblocking: bool) -> SysResult {
    match file.ops().notifier() {
        Some(notifier) if !nonblocking => {
            notifier.register(call.thread.tid);
            Err(Stop::Wait)
        }
        _ => Err(Errno::EAGAIN.into()),
    }
}

pub(super) fn do_read(
    call: &Call<'_>,
    file: &Rc<File>,
    buffer: &mut UserBuffer,
    nonblocking: bool,
) -> SysResult {
    if let Some(socket) = socket_of(file) {
        return transfer::read(call, file, &*socket, buffer, nonblocking);
    }
    super::terminal::before_read(call, file)?;
    refresh(call, file, file.offset())?;
    match file.read(buffer) {
        Ok(count) => Ok(count as u64),
        Err(Errno::EAGAIN) => wait_or_fail(call, file, nonblocking),
        Err(errno) => Err(errno.into()),
    }
}

/// Write all of `buffer`, waiting in between as a blocking descriptor does. What was written before the call had to wait is in its progress.
pub(super) fn do_write(
    call: &Call<'_>,
    file: &Rc<File>,
    buffer: &mut UserBuffer,
    nonblocking: bool,
) -> SysResult {
    if let Some(socket) = socket_of(file) {
        return transfer::write(call, file, &*socket, buffer, nonblocking);
    }
    let before = call.thread.progress.borrow().bytes;
    let total = Source::remaining(buffer) as u64;
    if let Some(limit) = file_size_limit(call, file, file.offset())? {
        buffer.truncate(limit);
    }
    let total = total.min(Source::remaining(buffer) as u64);
    buffer.skip(before);
    let mut done = before;
    loop {
        let outcome = file.write(buffer);
        match outcome {
            Ok(count) => {
                done += count as u64;
                call.thread.progress.borrow_mut().bytes = done;
                let is_stream = !file.ops().is_seekable();
                if done >= total || count == 0 || !is_stream {
                    return Ok(done);
                }
                buffer.rewind_to(done);
            }
            Err(Errno::EAGAIN) if done > 0 && nonblocking => return Ok(done),
            Err(Errno::EAGAIN) if done > 0 && call.thread.progress.borrow().interrupted => return Ok(done),
            Err(Errno::EAGAIN) => return wait_or_fail(call, file, nonblocking),
            Err(errno) => {
                if errno == Errno::EPIPE {
                    call.kernel.raise(&call.thread, SIGPIPE);
                }
                return if done > 0 { Ok(done) } else { Err(errno.into()) };
            }
        }
    }
}

/// RLIMIT_FSIZE: how many bytes may be written to a regular file from `offset` on, if there is a limit.
fn file_size_limit(call: &Call<'_>, file: &File, offset: u64) -> Result<Option<u64>> {
    let limit = call.process.limit(LIMIT_FSIZE);
    if limit == UNLIMITED || file.node().data().is_err() {
        return Ok(None);
    }
    let offset = if file.flags() & O_APPEND != 0 { file.node().size() } else { offset };
    if offset >= limit {
        call.kernel.raise(&call.thread, SIGXFSZ);
        return Err(Errno::EFBIG);
    }
    Ok(Some(limit - offset))
}

fn read(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    let mut buffer = call.buffer(call.args[1], call.args[2]);
    do_read(call, &file, &mut buffer, file.is_nonblocking())
}

fn write(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    let mut buffer = call.buffer(call.args[1], call.args[2]);
    do_write(call, &file, &mut buffer, file.is_nonblocking())
}

fn readv(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    let mut buffer = call.buffers(call.args[1], call.args[2])?;
    do_read(call, &file, &mut buffer, file.is_nonblocking())
}

fn writev(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    let mut buffer = call.buffers(call.args[1], call.args[2])?;
    do_write(call, &file, &mut buffer, file.is_nonblocking())
}

/// Files in /proc are made again when they are read from their start.
pub(super) fn refresh(call: &Call<'_>, file: &File, offset: u64) -> Result {
    if file.can_read() && file.ops().needs_refresh(offset) {
        super::with_place(call, |place| file.ops().refresh(file, place))?;
    }
    Ok(())
}

/// As Linux' rw_verify_area: neither the offset nor what lies behind `len` bytes more may be negative.
fn checked_offset(offset: u64, len: usize) -> Result<u64> {
    let end = offset.checked_add(len as u64);
    if end.is_some_and(|end| end <= i64::MAX as u64) { Ok(offset) } else { Err(Errno::EINVAL) }
}

fn read_at(call: &Call<'_>, file: &Rc<File>, offset: u64, buffer: &mut dyn Sink) -> SysResult {
    refresh(call, file, checked_offset(offset, buffer.remaining())?)?;
    Ok(file.read_at(offset, buffer)? as u64)
}

fn write_at(call: &Call<'_>, file: &Rc<File>, offset: u64, mut buffer: UserBuffer) -> SysResult {
    let offset = checked_offset(offset, Source::remaining(&buffer))?;
    if let Some(limit) = file_size_limit(call, file, offset)? {
        buffer.truncate(limit);
    }
    Ok(file.write_at(offset, &mut buffer)? as u64)
}

fn pread64(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    read_at(call, &file, call.args[3], &mut call.buffer(call.args[1], call.args[2]))
}

fn pwrite64(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    write_at(call, &file, call.args[3], call.buffer(call.args[1], call.args[2]))
}

fn preadv(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    read_at(call, &file, call.args[3], &mut call.buffers(call.args[1], call.args[2])?)
}

fn pwritev(call: &mut Call<'_>) -> SysResult {
    let file = file(call, call.args[0])?;
    write_at(call, &file, call.args[3], call.buffers(call.args[1], call.args[2])?)
}

fn preadv2(call: &mut Call<'_>) -> SysResult {
    let [fd, vector, count, offset, _, flags] = call.args;
    if flags & !0x1f != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if offset != u64::MAX {
        return preadv(call);
    }
    let file = file(call, fd)?;
    let mut buffer = call.buffers(vector, count)?;
    do_read(call, &file, &mut buffer, file.is_nonblocking() || flags & RWF_NOWAIT != 0)
}

fn pwritev2(call: &mut Call<'_>) -> SysResult {
    let [fd, vector, count, offset, _, flags] = call.args;
    if flags & !0x1f != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let file = file(call, fd)?;
    let mut buffer = call.buffers(vector, count)?;
    if flags & RWF_APPEND != 0 && file.ops().is_seekable() {
        return write_at(call, &file, file.node().size(), buffer);
    }
    if offset != u64::MAX {
        return write_at(call, &file, offset, buffer);
    }
    do_write(call, &file, &mut buffer, file.is_nonblocking() || flags & RWF_NOWAIT != 0)
}

fn lseek(call: &mut Call<'_>) -> SysResult {
    let whence = match call.args[2] {
        0 => Whence::Start,
        1 => Whence::Current,
        2 => Whence::End,
        3 => Whence::Data,
        4 => Whence::Hole,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(file(call, call.args[0])?.seek(call.args[1].cast_signed(), whence)?)
}
