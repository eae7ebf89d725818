//! epoll(7).

use super::super::call::Call;
use super::super::table::{Entry, full, partial};
use super::super::time::timespec_ns;
use super::poll::set_mask;
use super::{check_flags, file, open};
use crate::errno::{Errno, Stop, SysResult};
use crate::fs::epoll::Epoll;
use crate::fs::file::flags::{O_CLOEXEC, O_RDWR};
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(213, "epoll_create", epoll_create),
    full(232, "epoll_wait", epoll_wait),
    partial(233, "epoll_ctl", epoll_ctl, "EPOLLEXCLUSIVE and EPOLLWAKEUP have no effect"),
    full(281, "epoll_pwait", epoll_pwait),
    full(291, "epoll_create1", |call| create(call, call.args[0])),
    full(441, "epoll_pwait2", epoll_pwait2),
];

/// Bytes of struct epoll_event: packed on x86-64.
const EVENT_BYTES: usize = 12;
/// Most events of one call (EP_MAX_EVENTS).
const EVENTS_MAX: u64 = i32::MAX as u64 / EVENT_BYTES as u64;

fn create(call: &Call<'_>, flags: u64) -> SysResult {
    check_flags(flags, u64::from(O_CLOEXEC))?;
    let epoll = Epoll::new(&call.kernel.woken);
    let file = call.kernel.fs.anonymous_file("anon_inode:[eventpoll]", epoll, O_RDWR)?;
    open::install(call, file, flags != 0)
}

fn epoll_create(call: &mut Call<'_>) -> SysResult {
    if (call.args[0] as u32 as i32) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    create(call, 0)
}

fn epoll_ctl(call: &mut Call<'_>) -> SysResult {
    const ADD: u32 = 1;
    const DELETE: u32 = 2;
    const MODIFY: u32 = 3;
    let [epoll, operation, fd, event, ..] = call.args;
    let operation = operation as u32;
    let (events, data) = if operation == DELETE {
        (0, 0)
    } else {
        let bytes: [u8; EVENT_BYTES] = call.read_array(event)?;
        let (events, data) = bytes.split_at(4);
        let events = events.try_into().map_or(0, u32::from_le_bytes);
        (events, data.try_into().map_or(0, u64::from_le_bytes))
    };
    let instance = file(call, epoll)?;
    let target = file(call, fd)?;
    let Some(epoll) = instance.ops_rc::<Epoll>() else { return Err(Errno::EINVAL.into()) };
    let fd = fd as u32 as i32;
    match operation {
        ADD => epoll.add(fd, &target, events, data)?,
        DELETE => epoll.delete(fd, &target)?,
        MODIFY => epoll.modify(fd, &target, events, data)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn wait(call: &Call<'_>, timeout_ns: Option<u64>) -> SysResult {
    let [epoll, address, max, ..] = call.args;
    let max = u64::from(max as u32);
    if max == 0 || max > EVENTS_MAX {
        return Err(Errno::EINVAL.into());
    }
    let file = file(call, epoll)?;
    let Some(epoll) = file.ops_as::<Epoll>() else { return Err(Errno::EINVAL.into()) };
    let uplink = &call.kernel.fs.env.uplink;
    uplink.settle();
    let mut found = epoll.collect(max as usize);
    if found.is_empty() && timeout_ns == Some(0) && uplink.look() {
        found = epoll.collect(max as usize);
    }
    if !found.is_empty() {
        let mut bytes = Vec::with_capacity(found.len() * EVENT_BYTES);
        for (events, data) in &found {
            bytes.extend_from_slice(&events.to_le_bytes());
            bytes.extend_from_slice(&data.to_le_bytes());
        }
        call.write(address, &bytes)?;
        return Ok(found.len() as u64);
    }
    if let Some(timeout_ns) = timeout_ns
        && (timeout_ns == 0 || call.kernel.machine.monotonic_ns() >= call.deadline(timeout_ns))
    {
        return Ok(0);
    }
    if let Some(notifier) = file.ops().notifier() {
        notifier.register(call.thread.tid);
    }
    Err(Stop::WaitNoRestart)
}

/// A timeout in milliseconds; negative = none.
fn milliseconds(timeout: u64) -> Option<u64> {
    u64::try_from(timeout as u32 as i32).ok().map(|ms| ms * 1_000_000)
}

fn epoll_wait(call: &mut Call<'_>) -> SysResult {
    wait(call, milliseconds(call.args[3]))
}

fn epoll_pwait(call: &mut Call<'_>) -> SysResult {
    let [_, _, _, timeout, mask, size] = call.args;
    set_mask(call, mask, size)?;
    wait(call, milliseconds(timeout))
}

fn epoll_pwait2(call: &mut Call<'_>) -> SysResult {
    let [_, _, _, timeout, mask, size] = call.args;
    let timeout_ns = if timeout == 0 {
        None
    } else {
        let [seconds, nanos] = call.read_words(timeout)?;
        Some(timespec_ns(seconds, nanos)?)
    };
    set_mask(call, mask, size)?;
    wait(call, timeout_ns)
}
