//! File locks: flock(2) and the record locks of fcntl(2).

use super::super::call::Call;
use super::super::table::{Entry, partial};
use super::file;
use crate::errno::{Errno, Stop, SysResult};
use crate::fs::File;
use crate::fs::locks::{Owner, Record};
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[partial(73, "flock", flock, "no LOCK_MAND")];

/// What fcntl asks of record locks.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// F_GETLK.
    pub query: bool,
    /// F_SETLKW.
    pub wait: bool,
    /// F_OFD_*.
    pub by_description: bool,
}

fn flock(call: &mut Call<'_>) -> SysResult {
    const SHARED: u64 = 1;
    const EXCLUSIVE: u64 = 2;
    const NONBLOCK: u64 = 4;
    const UNLOCK: u64 = 8;
    let [fd, operation, ..] = call.args;
    let file = file(call, fd)?;
    let locks = file.node().locks();
    let exclusive = match operation & !NONBLOCK {
        SHARED => false,
        EXCLUSIVE => true,
        UNLOCK => {
            locks.unlock(file.id());
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    match locks.lock(file.id(), exclusive) {
        Ok(()) => Ok(0),
        Err(Errno::EAGAIN) if operation & NONBLOCK == 0 => call.wait_for(locks.queue()),
        Err(errno) => Err(errno.into()),
    }
}

/// struct flock: type and whence (16 bits each), start, length, pid.
pub fn record(call: &Call<'_>, file: &Rc<File>, address: u64, request: Request) -> SysResult {
    const READ: u16 = 0;
    const WRITE: u16 = 1;
    const UNLOCK: u16 = 2;
    let [kinds, start, len, pid] = call.read_words(address)?;
    let (kind, whence) = (kinds as u16, (kinds >> 16) as u16);
    if request.by_description && pid as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let base = match whence {
        0 => 0,
        1 => file.offset(),
        2 => file.node().size(),
        _ => return Err(Errno::EINVAL.into()),
    };
    let from = base.checked_add_signed(start.cast_signed()).ok_or(Errno::EINVAL)?;
    let len = len.cast_signed();
    let (from, to) = match len {
        0 => (from, u64::MAX),
        len if len > 0 => (from, from.checked_add(len as u64).ok_or(Errno::EOVERFLOW)?),
        len => (from.checked_sub(len.unsigned_abs()).ok_or(Errno::EINVAL)?, from),
    };
    let owner = if request.by_description {
        Owner::Description(file.id())
    } else {
        call.process.files().borrow().lock_owner()
    };
    let locks = file.node().locks();
    if kind == UNLOCK && !request.query {
        locks.clear(owner, from, to);
        return Ok(0);
    }
    let exclusive = match kind {
        READ => false,
        WRITE => true,
        _ => return Err(Errno::EINVAL.into()),
    };
    let may = if exclusive { file.can_write() } else { file.can_read() };
    if !may && !request.query {
        return Err(Errno::EBADF.into());
    }
    let holder = if request.by_description { u32::MAX } else { call.process.pid };
    let wanted = Record { owner, pid: holder, start: from, end: to, exclusive };
    if request.query {
        let answer = match locks.conflict(&wanted) {
            None => [kinds & !0xffff | u64::from(UNLOCK), start, len.cast_unsigned(), pid],
            Some(held) => {
                let kind = if held.exclusive { WRITE } else { READ };
                let len = if held.end == u64::MAX { 0 } else { held.end - held.start };
                [u64::from(kind), held.start, len, u64::from(held.pid)]
            }
        };
        call.write_words(address, &answer)?;
        return Ok(0);
    }
    let waits = &call.kernel.fs.lock_waits;
    waits.end(call.thread.tid);
    match locks.set(wanted) {
        Ok(()) => Ok(0),
        Err(Errno::EAGAIN) if request.wait => {
            let holder = locks.conflict(&wanted).map(|held| held.owner);
            let counts = !request.by_description && !call.thread.progress.borrow().interrupted;
            if let Some(holder) = holder.filter(|_| counts) {
                waits.begin(call.thread.tid, owner, holder, &|tid| call.kernel.thread(tid).is_some())?;
            }
            locks.queue().register(call.thread.tid);
            Err(Stop::Wait)
        }
        Err(errno) => Err(errno.into()),
    }
}
