//! Scheduling parameters: sched(7). Policy and priority are kept for each thread, inherited and given back; the scheduler itself has one class.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, SysResult};
use crate::task::thread::{Policy, Thread};
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    full(24, "sched_yield", sched_yield),
    partial(142, "sched_setparam", sched_setparam, "kept only: one class"),
    full(143, "sched_getparam", sched_getparam),
    partial(144, "sched_setscheduler", sched_setscheduler, "kept only: one class; no SCHED_DEADLINE"),
    full(145, "sched_getscheduler", sched_getscheduler),
    full(146, "sched_get_priority_max", priority_limit_max),
    full(147, "sched_get_priority_min", priority_limit_min),
    full(148, "sched_rr_get_interval", sched_rr_get_interval),
    full(203, "sched_setaffinity", sched_setaffinity),
    full(204, "sched_getaffinity", sched_getaffinity),
];

const SCHED_OTHER: u32 = 0;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_BATCH: u32 = 3;
const SCHED_IDLE: u32 = 5;
const SCHED_DEADLINE: u32 = 6;
const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;

/// A slice of SCHED_OTHER, and one of SCHED_RR (RR_TIMESLICE).
const SLICE_NS: u64 = 4_000_000;
const ROUND_ROBIN_NS: u64 = 100_000_000;

fn sched_yield(call: &mut Call<'_>) -> SysResult {
    // The scheduler has no class of its own for this: go to the end of the queue.
    call.kernel.yield_current();
    Ok(0)
}

/// The thread that the first argument names: 0 is the caller. A negative one gives `negative`.
fn target(call: &Call<'_>, negative: Errno) -> Result<Rc<Thread>> {
    match call.args[0] as u32 as i32 {
        0 => Ok(call.thread.clone()),
        ..0 => Err(negative),
        tid => call.kernel.thread(tid.cast_unsigned()).ok_or(Errno::ESRCH),
    }
}

/// EPERM unless the caller is privileged or has the target's user id.
fn may_change(call: &Call<'_>, thread: &Thread) -> Result {
    let own = call.process.credentials.borrow();
    let other = thread.process.credentials.borrow();
    let same = own.euid == other.uid || own.euid == other.euid;
    if same || own.is_privileged() { Ok(()) } else { Err(Errno::EPERM) }
}

fn sched_getscheduler(call: &mut Call<'_>) -> SysResult {
    let policy = target(call, Errno::EINVAL)?.policy.get();
    Ok(u64::from(policy.number | if policy.reset_on_fork { SCHED_RESET_ON_FORK } else { 0 }))
}

fn sched_getparam(call: &mut Call<'_>) -> SysResult {
    if call.args[1] == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = target(call, Errno::EINVAL)?.policy.get().priority;
    call.write_u32(call.args[1], priority)?;
    Ok(0)
}

fn sched_setparam(call: &mut Call<'_>) -> SysResult {
    set_policy(call, None, call.args[1])
}

fn sched_setscheduler(call: &mut Call<'_>) -> SysResult {
    let policy = call.args[1] as u32;
    if policy.cast_signed() < 0 {
        return Err(Errno::EINVAL.into());
    }
    set_policy(call, Some(policy), call.args[2])
}

/// In the order of Linux' do_sched_setscheduler: arguments, EFAULT, ESRCH, values, permission.
fn set_policy(call: &Call<'_>, policy: Option<u32>, param: u64) -> SysResult {
    if (call.args[0] as u32).cast_signed() < 0 || param == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = call.read_u32(param)?;
    let thread = target(call, Errno::EINVAL)?;
    let old = thread.policy.get();
    let mut new = Policy { priority, ..old };
    if let Some(word) = policy {
        new.number = word & !SCHED_RESET_ON_FORK;
        new.reset_on_fork = word & SCHED_RESET_ON_FORK != 0;
    }
    let real_time = match new.number {
        SCHED_FIFO | SCHED_RR => true,
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE => false,
        _ => return Err(Errno::EINVAL.into()),
    };
    // Real-time policies have priorities 1 to 99, the others only 0.
    if priority > 99 || real_time != (priority != 0) {
        return Err(Errno::EINVAL.into());
    }
    may_change(call, &thread)?;
    let privileged = call.process.credentials.borrow().is_privileged();
    let raised = real_time && (old.number != new.number || priority > old.priority);
    if !privileged && (raised || (old.reset_on_fork && !new.reset_on_fork)) {
        return Err(Errno::EPERM.into());
    }
    thread.policy.set(new);
    Ok(0)
}

fn priority_limit_max(call: &mut Call<'_>) -> SysResult {
    match call.args[0] as u32 {
        SCHED_FIFO | SCHED_RR => Ok(99),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn priority_limit_min(call: &mut Call<'_>) -> SysResult {
    match call.args[0] as u32 {
        SCHED_FIFO | SCHED_RR => Ok(1),
        SCHED_OTHER | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn sched_rr_get_interval(call: &mut Call<'_>) -> SysResult {
    let slice_ns = match target(call, Errno::EINVAL)?.policy.get().number {
        SCHED_FIFO => 0,
        SCHED_RR => ROUND_ROBIN_NS,
        _ => SLICE_NS,
    };
    call.write_words(call.args[1], &[0, slice_ns])?;
    Ok(0)
}

fn sched_setaffinity(call: &mut Call<'_>) -> SysResult {
    let len = call.args[1].min(8) as usize;
    let mut mask = [0; 8];
    call.read(call.args[2], &mut mask[..len])?;
    let thread = target(call, Errno::ESRCH)?;
    may_change(call, &thread)?;
    // The one CPU there is must be among them.
    if u64::from_le_bytes(mask) & 1 == 0 { Err(Errno::EINVAL.into()) } else { Ok(0) }
}

fn sched_getaffinity(call: &mut Call<'_>) -> SysResult {
    if call.args[1] < 8 || !call.args[1].is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    target(call, Errno::ESRCH)?;
    call.write_u64(call.args[2], 1)?;
    Ok(8)
}
