//! Clocks and sleeping.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::kernel::Kernel;
use crate::kernel::timers::Base;
use crate::task::process::Process;

/// The family.
pub const TABLE: &[Entry] = &[
    full(35, "nanosleep", nanosleep),
    full(96, "gettimeofday", gettimeofday),
    full(100, "times", times),
    full(201, "time", time),
    partial(227, "clock_settime", clock_settime, "EPERM: the clock is the host's"),
    full(228, "clock_gettime", clock_gettime),
    full(229, "clock_getres", clock_getres),
    full(230, "clock_nanosleep", clock_nanosleep),
    partial(164, "settimeofday", not_permitted, "EPERM: the clock is the host's"),
    partial(159, "adjtimex", not_permitted, "EPERM: the clock is the host's"),
    partial(305, "clock_adjtime", not_permitted, "EPERM: the clock is the host's"),
];

const NANOS: u64 = 1_000_000_000;
const CLOCK_REALTIME: u64 = 0;
const CLOCK_MONOTONIC: u64 = 1;
const CLOCK_PROCESS_CPUTIME: u64 = 2;
const CLOCK_THREAD_CPUTIME: u64 = 3;
const TIMER_ABSTIME: u64 = 1;

fn not_permitted(_: &mut Call<'_>) -> SysResult {
    Err(Errno::EPERM.into())
}

fn clock_settime(call: &mut Call<'_>) -> SysResult {
    let [seconds, nanos] = call.read_words(call.args[1])?;
    timespec_ns(seconds, nanos)?;
    Err(if call.args[0] == CLOCK_REALTIME { Errno::EPERM } else { Errno::EINVAL }.into())
}

/// Nanoseconds of a timespec.
///
/// # Errors
/// EINVAL if it is negative or its nanoseconds are out of range.
pub fn timespec_ns(seconds: u64, nanos: u64) -> Result<u64> {
    if seconds > i64::MAX as u64 || nanos >= NANOS {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.saturating_mul(NANOS).saturating_add(nanos))
}

/// CPU time of a process, the current thread's running slice included.
#[must_use]
pub fn process_cpu_ns(kernel: &Kernel, process: &Process) -> u64 {
    kernel.account();
    let living: u64 = kernel.threads_of(process).iter().map(|thread| thread.cpu_ns.get()).sum();
    living + process.dead_cpu_ns.get()
}

impl Kernel {
    /// The CLOCK_MONOTONIC time of a CLOCK_REALTIME time.
    #[must_use]
    pub fn realtime_to_monotonic(&self, realtime_ns: u64) -> u64 {
        realtime_ns.saturating_add_signed(self.machine.clock().realtime_offset_ns.saturating_neg())
    }

    /// Time of a clock, in nanoseconds.
    ///
    /// # Errors
    /// EINVAL for a clock that there is not.
    pub fn clock_ns(&self, call: &Call<'_>, clock: u64) -> Result<u64> {
        let page = self.machine.clock();
        let monotonic = page.monotonic_ns(self.machine.tsc());
        Ok(match clock {
            // REALTIME, REALTIME_COARSE, REALTIME_ALARM, TAI.
            CLOCK_REALTIME | 5 | 8 | 11 => monotonic.wrapping_add_signed(page.realtime_offset_ns),
            // MONOTONIC, MONOTONIC_RAW, MONOTONIC_COARSE.
            CLOCK_MONOTONIC | 4 | 6 => monotonic,
            // BOOTTIME, BOOTTIME_ALARM.
            7 | 9 => monotonic.wrapping_add_signed(page.boottime_offset_ns),
            CLOCK_PROCESS_CPUTIME => process_cpu_ns(self, &call.process),
            CLOCK_THREAD_CPUTIME => {
                self.account();
                call.thread.cpu_ns.get()
            }
            // The CPU clocks of other processes and threads: ~pid << 3 | type, bit 2 = thread (posix-timers_types.h).
            dynamic if (dynamic as u32 as i32) < 0 => {
                let id = !(dynamic as u32 as i32 >> 3) as u32;
                let is_thread = dynamic & 4 != 0;
                if is_thread {
                    let thread = if id == 0 { Some(call.thread.clone()) } else { self.thread(id) };
                    self.account();
                    thread.ok_or(Errno::EINVAL)?.cpu_ns.get()
                } else {
                    let process = if id == 0 { Some(call.process.clone()) } else { self.process(id) };
                    process_cpu_ns(self, &*process.ok_or(Errno::EINVAL)?)
                }
            }
            _ => return Err(Errno::EINVAL),
        })
    }
}

fn clock_gettime(call: &mut Call<'_>) -> SysResult {
    let now = call.kernel.clock_ns(call, call.args[0])?;
    call.write_words(call.args[1], &[now / NANOS, now % NANOS])?;
    Ok(0)
}

fn clock_getres(call: &mut Call<'_>) -> SysResult {
    call.kernel.clock_ns(call, call.args[0])?;
    if call.args[1] != 0 {
        let resolution = if matches!(call.args[0], 5 | 6) { 4_000_000 } else { 1 };
        call.write_words(call.args[1], &[0, resolution])?;
    }
    Ok(0)
}

fn gettimeofday(call: &mut Call<'_>) -> SysResult {
    let [time_at, zone_at, ..] = call.args;
    if time_at != 0 {
        let now = call.kernel.machine.realtime_ns();
        call.write_words(time_at, &[now / NANOS, now % NANOS / 1000])?;
    }
    if zone_at != 0 {
        call.write_u64(zone_at, 0)?;
    }
    Ok(0)
}

fn time(call: &mut Call<'_>) -> SysResult {
    let now = call.kernel.machine.realtime_ns() / NANOS;
    if call.args[0] != 0 {
        call.write_u64(call.args[0], now)?;
    }
    Ok(now)
}

/// Clock ticks of 10 ms (sysconf(_SC_CLK_TCK) = 100).
const TICK_NS: u64 = 10_000_000;

fn times(call: &mut Call<'_>) -> SysResult {
    let own = process_cpu_ns(call.kernel, &call.process) / TICK_NS;
    let children = call.process.children_cpu_ns.get() / TICK_NS;
    if call.args[0] != 0 {
        call.write_words(call.args[0], &[own, 0, children, 0])?;
    }
    Ok(call.kernel.machine.monotonic_ns() / TICK_NS)
}

fn sleep_until(call: &Call<'_>, deadline: u64, remaining_at: u64) -> SysResult {
    let now = call.kernel.machine.monotonic_ns();
    if now >= deadline {
        return Ok(0);
    }
    if call.thread.progress.borrow().interrupted && remaining_at != 0 {
        let left = deadline - now;
        call.write_words(remaining_at, &[left / NANOS, left % NANOS])?;
    }
    Err(Stop::WaitNoRestart)
}

fn nanosleep(call: &mut Call<'_>) -> SysResult {
    let [seconds, nanos] = call.read_words(call.args[0])?;
    let deadline = call.deadline(timespec_ns(seconds, nanos)?);
    sleep_until(call, deadline, call.args[1])
}

fn clock_nanosleep(call: &mut Call<'_>) -> SysResult {
    let [clock, flags, request, remaining, ..] = call.args;
    if clock == CLOCK_THREAD_CPUTIME || clock == CLOCK_PROCESS_CPUTIME {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let now = call.kernel.clock_ns(call, clock)?;
    let [seconds, nanos] = call.read_words(request)?;
    let wanted = timespec_ns(seconds, nanos)?;
    if flags & TIMER_ABSTIME == 0 {
        let deadline = call.deadline(wanted);
        call.thread.progress.borrow_mut().deadline_base = Base::of(clock, false);
        return sleep_until(call, deadline, remaining);
    }
    let deadline = call.kernel.machine.monotonic_ns().saturating_add(wanted.saturating_sub(now));
    let mut progress = call.thread.progress.borrow_mut();
    progress.deadline_ns = Some(deadline);
    progress.deadline_base = Base::of(clock, true);
    drop(progress);
    sleep_until(call, deadline, 0)
}
