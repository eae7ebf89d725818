//! Interval timers: alarm, setitimer, timer_create.

use super::call::Call;
use super::table::{Entry, full, partial};
use super::time::{process_cpu_ns, timespec_ns};
use crate::errno::{Errno, Result, SysResult};
use crate::kernel::Kernel;
use crate::kernel::timers::{Base, Timer};
use crate::task::process::{IntervalTimer, LIMIT_CPU, Pid, PosixTimer, Process, UNLIMITED};
use crate::task::signal::{SIGALRM, SIGKILL, SIGNAL_MAX, SIGPROF, SIGVTALRM, SIGXCPU, SignalInfo};
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    full(36, "getitimer", getitimer),
    full(37, "alarm", alarm),
    partial(38, "setitimer", setitimer, "VIRTUAL counts all CPU time, as PROF does"),
    partial(
        222,
        "timer_create",
        timer_create,
        "SIGEV_SIGNAL, SIGEV_THREAD_ID, SIGEV_NONE; no CPU-time clocks",
    ),
    full(223, "timer_settime", timer_settime),
    full(224, "timer_gettime", timer_gettime),
    full(225, "timer_getoverrun", timer_getoverrun),
    full(226, "timer_delete", timer_delete),
];

const MICROS: u64 = 1_000_000;
const NANOS: u64 = 1_000_000_000;
/// Most POSIX timers of one process.
const TIMERS_MAX: usize = 1024;

fn micros_ns(seconds: u64, micros: u64) -> Result<u64> {
    if micros >= MICROS { Err(Errno::EINVAL) } else { timespec_ns(seconds, micros * 1000) }
}

fn left(timer: IntervalTimer, now_ns: u64) -> u64 {
    match timer.expires_ns {
        0 => 0,
        // An armed timer never shows zero.
        expires => expires.saturating_sub(now_ns).max(1000),
    }
}

fn replace_real(call: &Call<'_>, span_ns: u64, interval_ns: u64) -> IntervalTimer {
    let kernel = call.kernel;
    let now = kernel.machine.monotonic_ns();
    let expires_ns = if span_ns == 0 { 0 } else { now.saturating_add(span_ns) };
    let old = call.process.real_timer.replace(IntervalTimer { expires_ns, interval_ns });
    if expires_ns != 0 {
        kernel.timers.arm(expires_ns, Timer::Alarm(call.process.pid));
    }
    old
}

fn alarm(call: &mut Call<'_>) -> SysResult {
    let now = call.kernel.machine.monotonic_ns();
    let old = replace_real(call, (call.args[0] & 0xffff_ffff) * NANOS, 0);
    Ok(left(old, now).div_ceil(NANOS))
}

/// The timer that setitimer's first argument names, and the time that it runs in.
fn interval_timer(call: &Call<'_>, which: u64) -> Result<(IntervalTimer, u64)> {
    match which {
        0 => Ok((call.process.real_timer.get(), call.kernel.machine.monotonic_ns())),
        1 | 2 => Ok((
            call.process.cpu_timers.get()[which as usize - 1],
            process_cpu_ns(call.kernel, &call.process),
        )),
        _ => Err(Errno::EINVAL),
    }
}

fn write_itimer(call: &Call<'_>, address: u64, (timer, now_ns): (IntervalTimer, u64)) -> Result {
    let left = left(timer, now_ns);
    let interval = timer.interval_ns;
    let words = [interval / NANOS, interval % NANOS / 1000, left / NANOS, left % NANOS / 1000];
    call.write_words(address, &words)
}

fn getitimer(call: &mut Call<'_>) -> SysResult {
    let timer = interval_timer(call, call.args[0])?;
    write_itimer(call, call.args[1], timer)?;
    Ok(0)
}

fn setitimer(call: &mut Call<'_>) -> SysResult {
    let [which, new, old, ..] = call.args;
    let previous = interval_timer(call, which)?;
    let [interval_s, interval_us, value_s, value_us] = if new == 0 { [0; 4] } else { call.read_words(new)? };
    let (span, interval_ns) = (micros_ns(value_s, value_us)?, micros_ns(interval_s, interval_us)?);
    if which == 0 {
        replace_real(call, span, interval_ns);
    } else {
        let expires_ns = if span == 0 { 0 } else { previous.1 + span };
        let mut timers = call.process.cpu_timers.get();
        timers[which as usize - 1] = IntervalTimer { expires_ns, interval_ns };
        call.process.cpu_timers.set(timers);
    }
    if old != 0 {
        write_itimer(call, old, previous)?;
    }
    Ok(0)
}

impl Kernel {
    /// Let ITIMER_VIRTUAL and ITIMER_PROF of the current process expire; called at every tick while one is armed.
    pub(crate) fn check_cpu_timers(&self) {
        let Some(process) = self.current().map(|thread| thread.process.clone()) else { return };
        if !process.has_cpu_timers() {
            return;
        }
        let now_ns = process_cpu_ns(self, &process);
        let mut timers = process.cpu_timers.get();
        for (timer, signo) in timers.iter_mut().zip([SIGVTALRM, SIGPROF]) {
            if timer.expires_ns == 0 || timer.expires_ns > now_ns {
                continue;
            }
            let _ = self.send_to_process(&process, SignalInfo::from_kernel(signo));
            timer.expires_ns = match timer.interval_ns {
                0 => 0,
                interval => now_ns - (now_ns - timer.expires_ns) % interval + interval,
            };
        }
        process.cpu_timers.set(timers);
        self.check_cpu_limit(&process, now_ns);
    }

    /// RLIMIT_CPU: SIGXCPU every second from the soft limit on, SIGKILL at the hard one (setrlimit(2)).
    fn check_cpu_limit(&self, process: &Rc<Process>, used_ns: u64) {
        let (soft, hard) = process.limits.borrow()[LIMIT_CPU];
        let used_s = used_ns / NANOS;
        if hard != UNLIMITED && used_s >= hard {
            let _ = self.send_to_process(process, SignalInfo::from_kernel(SIGKILL));
        } else if soft != UNLIMITED && used_s >= soft {
            let _ = self.send_to_process(process, SignalInfo::from_kernel(SIGXCPU));
            process.limits.borrow_mut()[LIMIT_CPU].0 = used_s + 1;
        }
    }

    /// A POSIX timer has expired.
    pub(crate) fn posix_timer(&self, pid: Pid, id: u32, now_ns: u64) {
        let Some(process) = self.process(pid) else { return };
        let mut timers = process.posix_timers.borrow_mut();
        let Some(timer) = timers.get_mut(&id) else { return };
        if timer.state.expires_ns == 0 || timer.state.expires_ns > now_ns {
            return;
        }
        let late = now_ns - timer.state.expires_ns;
        let (mut missed, interval) = (0, timer.state.interval_ns);
        timer.state.expires_ns = match interval {
            0 => 0,
            interval => {
                missed = late / interval;
                timer.state.expires_ns + (missed + 1) * interval
            }
        };
        let timer = timer.clone();
        drop(timers);
        if timer.state.expires_ns != 0 {
            self.timers.arm(timer.state.expires_ns, Timer::Posix(pid, id));
        }
        if timer.signo == 0 {
            return;
        }
        let receiver = timer.tid.and_then(|tid| self.thread(tid));
        let missed = missed.min(i32::MAX as u64) as u32;
        // A signal that is pending still is not sent again, it counts.
        let pending = match &receiver {
            Some(thread) => thread.pending.borrow_mut().add_overrun(timer.signo, id, missed + 1),
            None => process.pending.borrow_mut().add_overrun(timer.signo, id, missed + 1),
        };
        if let Some(timer) = process.posix_timers.borrow_mut().get_mut(&id) {
            timer.overrun = pending.unwrap_or(missed);
        }
        if pending.is_some() {
            return;
        }
        let info = SignalInfo {
            signo: timer.signo,
            code: SignalInfo::TIMER,
            fields: [u64::from(id) | u64::from(missed) << 32, timer.value, 0, 0],
        };
        let _ = match receiver {
            Some(thread) => self.send_to_thread(&thread, info),
            None => self.send_to_process(&process, info),
        };
    }
}

fn timer_create(call: &mut Call<'_>) -> SysResult {
    let [clock, event, id_at, ..] = call.args;
    if !matches!(clock, 0 | 1 | 7 | 8 | 9) {
        return Err(Errno::EINVAL.into());
    }
    let mut timer = PosixTimer { clock, signo: SIGALRM, ..PosixTimer::default() };
    let id = call.process.next_timer.get();
    timer.value = u64::from(id);
    if event != 0 {
        // struct sigevent: value, signo, notify, tid.
        let [value, signo_notify, tid] = call.read_words(event)?;
        let (signo, notify) = (signo_notify as u32, (signo_notify >> 32) as u32);
        timer.value = value;
        timer.signo = signo;
        match notify {
            0 => {}
            1 => timer.signo = 0,
            4 => {
                let thread =
                    call.kernel.thread(tid as u32).filter(|thread| thread.process.pid == call.process.pid);
                timer.tid = Some(thread.ok_or(Errno::EINVAL)?.tid);
            }
            _ => return Err(Errno::EINVAL.into()),
        }
        if notify != 1 && !(1..=SIGNAL_MAX).contains(&signo) {
            return Err(Errno::EINVAL.into());
        }
    }
    if call.process.posix_timers.borrow().len() >= TIMERS_MAX {
        return Err(Errno::EAGAIN.into());
    }
    call.write_u32(id_at, id)?;
    call.process.next_timer.set(id.wrapping_add(1));
    call.process.posix_timers.borrow_mut().insert(id, timer);
    Ok(0)
}

fn find(call: &Call<'_>) -> Result<PosixTimer> {
    call.process.posix_timers.borrow().get(&(call.args[0] as u32)).cloned().ok_or(Errno::EINVAL)
}

fn write_itimerspec(call: &Call<'_>, address: u64, timer: IntervalTimer) -> Result {
    let now = call.kernel.machine.monotonic_ns();
    let left = if timer.expires_ns == 0 { 0 } else { timer.expires_ns.saturating_sub(now).max(1) };
    let interval = timer.interval_ns;
    call.write_words(address, &[interval / NANOS, interval % NANOS, left / NANOS, left % NANOS])
}

fn timer_settime(call: &mut Call<'_>) -> SysResult {
    let [id, flags, new, old, ..] = call.args;
    let mut timer = find(call)?;
    let [interval_s, interval_ns, value_s, value_ns] = call.read_words(new)?;
    let (value, interval) = (timespec_ns(value_s, value_ns)?, timespec_ns(interval_s, interval_ns)?);
    let kernel = call.kernel;
    let now = kernel.machine.monotonic_ns();
    let expires_ns = match (value, flags & 1 != 0) {
        (0, _) => 0,
        (span, false) => now.saturating_add(span),
        (at, true) => now.saturating_add(at.saturating_sub(kernel.clock_ns(call, timer.clock)?)).max(1),
    };
    let previous = core::mem::replace(&mut timer.state, IntervalTimer { expires_ns, interval_ns: interval });
    timer.overrun = 0;
    timer.base = Base::of(timer.clock, flags & 1 != 0);
    call.process.posix_timers.borrow_mut().insert(id as u32, timer);
    if expires_ns != 0 {
        kernel.timers.arm(expires_ns, Timer::Posix(call.process.pid, id as u32));
    }
    if old != 0 {
        write_itimerspec(call, old, previous)?;
    }
    Ok(0)
}

fn timer_gettime(call: &mut Call<'_>) -> SysResult {
    let timer = find(call)?;
    write_itimerspec(call, call.args[1], timer.state)?;
    Ok(0)
}

fn timer_getoverrun(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(find(call)?.overrun))
}

fn timer_delete(call: &mut Call<'_>) -> SysResult {
    find(call)?;
    call.process.posix_timers.borrow_mut().remove(&(call.args[0] as u32));
    Ok(0)
}
