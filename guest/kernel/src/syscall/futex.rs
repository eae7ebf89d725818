//! futex(2), robust lists.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Stop, SysResult};
use crate::kernel::Kernel;
use crate::kernel::timers::Base;
use crate::mem::area::Backing;
use crate::mem::space::Access;
use crate::task::futex::Key;
use crate::task::process::Process;
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    partial(
        202,
        "futex",
        futex,
        "WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, bitsets; no priority inheritance",
    ),
    full(273, "set_robust_list", set_robust_list),
    full(274, "get_robust_list", get_robust_list),
];

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const PRIVATE: u64 = 128;
const CLOCK_REALTIME: u64 = 256;

impl Kernel {
    /// What the futex word at `address` is known by: words in shared mappings by their place in memory, all others by space and address.
    fn futex_key(&self, process: &Process, address: u64, private: bool) -> Result<Key, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let space = process.space();
        let shared = !private
            && space
                .borrow()
                .area_at(address)
                .is_some_and(|area| area.shared && matches!(area.backing, Backing::Object { .. }));
        if shared {
            let gpa = space.borrow_mut().physical(address, Access::Write).map_err(|_| Errno::EFAULT)?;
            return Ok(Key::Shared(gpa));
        }
        Ok(Key::Private(Rc::as_ptr(&space).cast::<u8>() as usize, address))
    }

    /// Wake waiters on the word at `address` of `process`, whichever way they wait.
    pub fn futex_wake(&self, process: &Process, address: u64, count: usize) {
        for private in [true, false] {
            if let Ok(key) = self.futex_key(process, address, private) {
                self.wake_futex_key(key, count, u32::MAX);
            }
        }
    }

    fn wake_futex_key(&self, key: Key, count: usize, bitset: u32) -> u64 {
        let woken = self.futexes.wake(key, count, bitset, &self.woken);
        self.mark_woken(&woken);
        woken.len() as u64
    }
}

fn futex(call: &mut Call<'_>) -> SysResult {
    let [address, operation, value, timeout, address2, value3] = call.args;
    let private = operation & PRIVATE != 0;
    let kernel = call.kernel;
    let command = operation & !(PRIVATE | CLOCK_REALTIME) & 0xffff_ffff;
    let signed_count = |raw: u64| if (raw as u32 as i32) < 0 { usize::MAX } else { raw as u32 as usize };
    match command {
        WAIT | WAIT_BITSET => {
            let bitset = if command == WAIT { u32::MAX } else { value3 as u32 };
            wait(call, address, value as u32, timeout, bitset, operation)
        }
        WAKE | WAKE_BITSET => {
            let bitset = if command == WAKE { u32::MAX } else { value3 as u32 };
            if bitset == 0 {
                return Err(Errno::EINVAL.into());
            }
            let key = kernel.futex_key(&call.process, address, private)?;
            Ok(kernel.wake_futex_key(key, signed_count(value).max(1), bitset))
        }
        REQUEUE | CMP_REQUEUE => {
            let from = kernel.futex_key(&call.process, address, private)?;
            let to = kernel.futex_key(&call.process, address2, private)?;
            if command == CMP_REQUEUE && call.read_u32(address)? != value3 as u32 {
                return Err(Errno::EAGAIN.into());
            }
            let (woken, moved) =
                kernel.futexes.requeue(from, to, signed_count(value), signed_count(timeout), &kernel.woken);
            kernel.mark_woken(&woken);
            Ok((woken.len() + if command == CMP_REQUEUE { moved } else { 0 }) as u64)
        }
        WAKE_OP => {
            let first = kernel.futex_key(&call.process, address, private)?;
            let second = kernel.futex_key(&call.process, address2, private)?;
            let old = call.read_u32(address2)?;
            let (new, hit) = wake_operation(value3 as u32, old).ok_or(Errno::ENOSYS)?;
            call.write_u32(address2, new)?;
            let mut count = kernel.wake_futex_key(first, signed_count(value), u32::MAX);
            if hit {
                count += kernel.wake_futex_key(second, signed_count(timeout), u32::MAX);
            }
            Ok(count)
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn wait(
    call: &Call<'_>,
    address: u64,
    expected: u32,
    timeout: u64,
    bitset: u32,
    operation: u64,
) -> SysResult {
    let kernel = call.kernel;
    let (started, woken) = {
        let progress = call.thread.progress.borrow();
        (progress.started, progress.woken)
    };
    if woken {
        return Ok(0);
    }
    if bitset == 0 {
        return Err(Errno::EINVAL.into());
    }
    let private = operation & PRIVATE != 0;
    if !started && timeout != 0 {
        let [seconds, nanos] = call.read_words(timeout)?;
        let span = super::time::timespec_ns(seconds, nanos)?;
        let absolute = operation & !(PRIVATE | CLOCK_REALTIME) & 0xffff_ffff == WAIT_BITSET;
        let deadline = match (absolute, operation & CLOCK_REALTIME != 0) {
            (false, _) => kernel.machine.monotonic_ns().saturating_add(span),
            (true, false) => span,
            (true, true) => kernel.realtime_to_monotonic(span),
        };
        let mut progress = call.thread.progress.borrow_mut();
        progress.deadline_ns = Some(deadline);
        progress.deadline_base = Base::of(u64::from(operation & CLOCK_REALTIME == 0), absolute);
    }
    if call.thread.progress.borrow().interrupted {
        return Err(Stop::Wait);
    }
    let key = kernel.futex_key(&call.process, address, private)?;
    if started {
        let deadline = call.thread.progress.borrow().deadline_ns;
        if deadline.is_some_and(|deadline| kernel.machine.monotonic_ns() >= deadline) {
            kernel.futexes.remove(call.thread.tid);
            return Err(Errno::ETIMEDOUT.into());
        }
        // A spurious wake-up: still queued.
        return Err(Stop::Wait);
    }
    if call.read_u32(address)? != expected {
        return Err(Errno::EAGAIN.into());
    }
    kernel.futexes.add(key, call.thread.tid, bitset);
    Err(Stop::Wait)
}

/// FUTEX_WAKE_OP: the new value, and whether the comparison holds.
fn wake_operation(encoded: u32, old: u32) -> Option<(u32, bool)> {
    let sign_extend = |value: u32| ((value << 20) as i32 >> 20) as u32;
    let (operation, compare) = (encoded >> 28, encoded >> 24 & 15);
    let (argument, threshold) = (sign_extend(encoded >> 12 & 0xfff), sign_extend(encoded & 0xfff));
    let argument = if operation & 8 != 0 { 1u32.checked_shl(argument & 31)? } else { argument };
    let new = match operation & 7 {
        0 => argument,
        1 => old.wrapping_add(argument),
        2 => old | argument,
        3 => old & !argument,
        4 => old ^ argument,
        _ => return None,
    };
    let (left, right) = (old.cast_signed(), threshold.cast_signed());
    let hit = match compare {
        0 => left == right,
        1 => left != right,
        2 => left < right,
        3 => left <= right,
        4 => left > right,
        5 => left >= right,
        _ => return None,
    };
    Some((new, hit))
}

fn set_robust_list(call: &mut Call<'_>) -> SysResult {
    if call.args[1] != 24 {
        return Err(Errno::EINVAL.into());
    }
    call.thread.robust_list.set(call.args[0]);
    Ok(0)
}

fn get_robust_list(call: &mut Call<'_>) -> SysResult {
    let tid = call.args[0] as u32;
    let thread = if tid == 0 { Some(call.thread.clone()) } else { call.kernel.thread(tid) };
    let thread = thread.ok_or(Errno::ESRCH)?;
    call.write_u64(call.args[1], thread.robust_list.get())?;
    call.write_u64(call.args[2], 24)?;
    Ok(0)
}
