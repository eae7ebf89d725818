//! Descriptors: dup, fcntl, ioctl.

use super::super::call::Call;
use super::super::table::{Entry, full, partial};
use super::{check_flags, file, file_or_path, lock, terminal};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::file::UserMemory;
use crate::fs::file::flags::{O_CLOEXEC, O_NONBLOCK};
use crate::fs::pipe::PipeEnd;
use crate::task::process::LIMIT_NOFILE;

/// The family.
pub const TABLE: &[Entry] = &[
    full(16, "ioctl", ioctl),
    full(32, "dup", dup),
    full(33, "dup2", dup2),
    partial(72, "fcntl", fcntl, "no leases, no signals on readiness, no F_NOTIFY"),
    full(292, "dup3", dup3),
];

fn dup(call: &mut Call<'_>) -> SysResult {
    let file = file_or_path(call, call.args[0])?;
    super::open::install(call, file, false)
}

fn dup_to(call: &Call<'_>, new: u64, close_on_exec: bool) -> SysResult {
    let file = file_or_path(call, call.args[0])?;
    let limit = call.process.limit(LIMIT_NOFILE);
    let new = new as u32 as i32;
    call.process.files().borrow_mut().insert_at(new, file, close_on_exec, limit)?;
    Ok(new as u64)
}

fn dup2(call: &mut Call<'_>) -> SysResult {
    let [old, new, ..] = call.args;
    if old as u32 == new as u32 {
        file_or_path(call, old)?;
        return Ok(u64::from(new as u32));
    }
    dup_to(call, new, false)
}

fn dup3(call: &mut Call<'_>) -> SysResult {
    let [old, new, flags, ..] = call.args;
    check_flags(flags, u64::from(O_CLOEXEC))?;
    if old as u32 == new as u32 {
        return Err(Errno::EINVAL.into());
    }
    dup_to(call, new, flags != 0)
}

const F_DUPFD: u64 = 0;
const F_GETFD: u64 = 1;
const F_SETFD: u64 = 2;
const F_GETFL: u64 = 3;
const F_SETFL: u64 = 4;
const F_GETLK: u64 = 5;
const F_SETLK: u64 = 6;
const F_SETLKW: u64 = 7;
const F_SETOWN: u64 = 8;
const F_GETOWN: u64 = 9;
const F_SETSIG: u64 = 10;
const F_GETSIG: u64 = 11;
const F_SETOWN_EX: u64 = 15;
const F_GETOWN_EX: u64 = 16;
const F_OWNER_PID: u32 = 1;
const F_OWNER_PGRP: u32 = 2;
const F_OFD_GETLK: u64 = 36;
const F_OFD_SETLK: u64 = 37;
const F_OFD_SETLKW: u64 = 38;
const F_NOTIFY: u64 = 1026;
const F_DUPFD_CLOEXEC: u64 = 1030;
const F_SETPIPE_SZ: u64 = 1031;
const F_GETPIPE_SZ: u64 = 1032;
const F_ADD_SEALS: u64 = 1033;
const F_GET_SEALS: u64 = 1034;

fn fcntl(call: &mut Call<'_>) -> SysResult {
    let [fd, command, argument, ..] = call.args;
    let command = command & 0xffff_ffff;
    let file = file_or_path(call, fd)?;
    let for_paths = matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL);
    if file.is_path() && !for_paths {
        return Err(Errno::EBADF.into());
    }
    let files = call.process.files();
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let limit = call.process.limit(LIMIT_NOFILE);
            let min = argument as u32;
            if min as i32 <= -1 || u64::from(min) >= limit {
                return Err(Errno::EINVAL.into());
            }
            let close_on_exec = command == F_DUPFD_CLOEXEC;
            Ok(files.borrow_mut().insert_from(file, close_on_exec, u64::from(min), limit)? as u64)
        }
        F_GETFD => Ok(u64::from(files.borrow().close_on_exec(fd as u32 as i32)?)),
        F_SETFD => {
            files.borrow_mut().set_close_on_exec(fd as u32 as i32, argument & 1 != 0)?;
            Ok(0)
        }
        F_GETFL => Ok(u64::from(file.flags())),
        F_SETFL => {
            file.set_flags(argument as u32);
            Ok(0)
        }
        F_GETLK | F_SETLK | F_SETLKW | F_OFD_GETLK | F_OFD_SETLK | F_OFD_SETLKW => {
            let request = lock::Request {
                query: matches!(command, F_GETLK | F_OFD_GETLK),
                wait: matches!(command, F_SETLKW | F_OFD_SETLKW),
                by_description: command >= F_OFD_GETLK,
            };
            lock::record(call, &file, argument, request)
        }
        F_SETOWN => {
            file.owner().set(argument as u32 as i32);
            Ok(0)
        }
        F_GETOWN => Ok(file.owner().get() as u64),
        F_SETOWN_EX => {
            let [kind, id] = [call.read_u32(argument)?, call.read_u32(argument.wrapping_add(4))?];
            let id = id as i32;
            file.owner().set(if kind == F_OWNER_PGRP { -id } else { id });
            Ok(0)
        }
        F_GETOWN_EX => {
            let owner = file.owner().get();
            let kind = if owner < 0 { F_OWNER_PGRP } else { F_OWNER_PID };
            call.write_u64(argument, u64::from(kind) | u64::from(owner.unsigned_abs()) << 32)?;
            Ok(0)
        }
        F_SETSIG => {
            file.signal().set(argument as u32);
            Ok(0)
        }
        F_GETSIG => Ok(u64::from(file.signal().get())),
        F_NOTIFY => {
            // Asking for nothing takes back what was asked for; events are **not** supported.
            let asks = argument & 0x7fff_ffff != 0;
            if !file.node().is_directory() {
                return Err(Errno::ENOTDIR.into());
            }
            if asks { Err(Errno::EINVAL.into()) } else { Ok(0) }
        }
        F_SETPIPE_SZ => {
            let end = file.ops_as::<PipeEnd>().ok_or(Errno::EBADF)?;
            Ok(end.pipe().set_capacity(argument & 0xffff_ffff)? as u64)
        }
        F_GETPIPE_SZ => Ok(file.ops_as::<PipeEnd>().ok_or(Errno::EBADF)?.pipe().capacity() as u64),
        F_ADD_SEALS => {
            if !file.can_write() {
                return Err(Errno::EPERM.into());
            }
            file.node().data().map_err(|_| Errno::EINVAL)?.add_seals(argument as u32)?;
            Ok(0)
        }
        F_GET_SEALS => Ok(u64::from(file.node().data().map_err(|_| Errno::EINVAL)?.seals())),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The caller's memory, for ioctl handlers.
struct Memory<'a, 'k>(&'a Call<'k>);

impl UserMemory for Memory<'_, '_> {
    fn load(&self, address: u64, bytes: &mut [u8]) -> Result {
        self.0.read(address, bytes)
    }

    fn store(&self, address: u64, bytes: &[u8]) -> Result {
        self.0.write(address, bytes)
    }
}

fn ioctl(call: &mut Call<'_>) -> SysResult {
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    const FIONBIO: u32 = 0x5421;
    const FIOASYNC: u32 = 0x5452;
    const FIONREAD: u32 = 0x541b;
    let [fd, request, argument, ..] = call.args;
    let file = file(call, fd)?;
    let request = request as u32;
    match request {
        FIOCLEX | FIONCLEX => {
            call.process.files().borrow_mut().set_close_on_exec(fd as u32 as i32, request == FIOCLEX)?;
            Ok(0)
        }
        FIONBIO => {
            let on = call.read_u32(argument)? != 0;
            let flags = if on { file.flags() | O_NONBLOCK } else { file.flags() & !O_NONBLOCK };
            file.set_flags(flags);
            Ok(0)
        }
        FIOASYNC => {
            call.read_u32(argument)?;
            Ok(0)
        }
        FIONREAD => {
            let count = file.ops().bytes_readable(&file)?;
            call.write_u32(argument, count.min(i32::MAX as u64) as u32)?;
            Ok(0)
        }
        _ => {
            let terminal = terminal::of(&file);
            if let Some(outcome) =
                terminal.and_then(|terminal| terminal::ioctl(call, terminal, request, argument))
            {
                return outcome;
            }
            Ok(file.ops().ioctl(&file, &Memory(call), request, argument)?)
        }
    }
}
