//! Signals: actions, masks, sending, waiting.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::task::process::Process;
use crate::task::signal::{
    Action, SIGCHLD, SIGKILL, SIGNAL_MAX, SIGSEGV, SIGSTOP, SignalInfo, SignalSet, pop_frame,
};
use crate::task::thread::{AltStack, Thread};
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    full(13, "rt_sigaction", rt_sigaction),
    full(14, "rt_sigprocmask", rt_sigprocmask),
    full(15, "rt_sigreturn", rt_sigreturn),
    full(34, "pause", pause),
    full(62, "kill", kill),
    full(127, "rt_sigpending", rt_sigpending),
    full(128, "rt_sigtimedwait", rt_sigtimedwait),
    full(129, "rt_sigqueueinfo", rt_sigqueueinfo),
    full(130, "rt_sigsuspend", rt_sigsuspend),
    full(131, "sigaltstack", sigaltstack),
    full(200, "tkill", tkill),
    full(234, "tgkill", tgkill),
    partial(297, "rt_tgsigqueueinfo", rt_tgsigqueueinfo, "no check of si_code between processes"),
];

const SS_DISABLE: u32 = 2;
const SS_ONSTACK: u32 = 1;
const SS_AUTODISARM: u32 = 1 << 31;
const MINSIGSTKSZ: u64 = 2048;

fn check_size(size: u64) -> Result {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn rt_sigaction(call: &mut Call<'_>) -> SysResult {
    let [signo, new, old, size, ..] = call.args;
    check_size(size)?;
    let signo = signo as u32;
    if !(1..=SIGNAL_MAX).contains(&signo) || (new != 0 && (signo == SIGKILL || signo == SIGSTOP)) {
        return Err(Errno::EINVAL.into());
    }
    let actions = call.process.actions.borrow().clone();
    let previous = actions.borrow().get(signo);
    if new != 0 {
        let [handler, flags, restorer, mask] = call.read_words(new)?;
        let action = Action { handler, flags, restorer, mask: SignalSet(mask).blockable() };
        actions.borrow_mut().set(signo, action);
        if actions.borrow().ignores(signo) {
            // POSIX: pending signals that are now ignored are dropped.
            let set = SignalSet::of(signo);
            call.process.pending.borrow_mut().discard(set);
            for thread in call.kernel.threads_of(&call.process) {
                thread.pending.borrow_mut().discard(set);
            }
        }
    }
    if old != 0 {
        call.write_words(old, &[previous.handler, previous.flags, previous.restorer, previous.mask.0])?;
    }
    Ok(0)
}

fn rt_sigprocmask(call: &mut Call<'_>) -> SysResult {
    let [how, new, old, size, ..] = call.args;
    check_size(size)?;
    let previous = call.thread.mask.get();
    if new != 0 {
        let set = call.read_u64(new)?;
        let mask = match how {
            0 => previous.0 | set,
            1 => previous.0 & !set,
            2 => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        call.thread.mask.set(SignalSet(mask).blockable());
    }
    if old != 0 {
        call.write_u64(old, previous.0)?;
    }
    Ok(0)
}

fn rt_sigreturn(call: &mut Call<'_>) -> SysResult {
    let thread = call.thread.clone();
    let space = call.process.space();
    let popped = thread.with_context(|context| {
        let template = thread.extended.borrow();
        pop_frame(&mut space.borrow_mut(), context, &template, call.kernel.config.xcr0)
    });
    match popped {
        Ok(popped) => {
            thread.mask.set(popped.mask);
            *thread.extended.borrow_mut() = popped.extended;
            let (base, len, flags) = popped.alt_stack;
            let kept = flags & !SS_ONSTACK & SS_AUTODISARM;
            if flags & SS_DISABLE != 0 {
                thread.alt_stack.set(AltStack::default());
            } else if len >= MINSIGSTKSZ {
                thread.alt_stack.set(AltStack { base, len, flags: kept });
            }
            call.kernel.forget_extended(&thread);
        }
        Err(_) => {
            thread.mask.set(SignalSet(thread.mask.get().0 & !SignalSet::of(SIGSEGV).0));
            call.process.actions.borrow().borrow_mut().set(SIGSEGV, Action::default());
            let _ = thread.pending.borrow_mut().push(SignalInfo::from_kernel(SIGSEGV));
        }
    }
    Err(Stop::NoResult)
}

fn pause(_: &mut Call<'_>) -> SysResult {
    Err(Stop::WaitNoRestart)
}

/// Whether the caller may send `signo` to `target` (kill(2)).
pub(super) fn may_signal(call: &Call<'_>, target: &Process, signo: u32) -> bool {
    let (own, other) = (call.process.credentials.borrow(), target.credentials.borrow());
    let same_user = [own.uid, own.euid].iter().any(|id| *id == other.uid || *id == other.suid);
    let same_session_cont =
        signo == crate::task::signal::SIGCONT && call.process.sid.get() == target.sid.get();
    own.is_privileged() || same_user || same_session_cont
}

pub(super) fn check_signal(signo: u64) -> Result<u32> {
    let signo = signo as u32;
    if signo <= SIGNAL_MAX { Ok(signo) } else { Err(Errno::EINVAL) }
}

fn kill(call: &mut Call<'_>) -> SysResult {
    let pid = call.args[0] as u32 as i32;
    let signo = check_signal(call.args[1])?;
    let own_group = call.process.pgid.get();
    let targets = call.kernel.processes().into_iter().filter(|process| match pid {
        -1 => process.pid != 1 && process.pid != call.process.pid,
        0 => process.pgid.get() == own_group,
        pid if pid > 0 => process.pid == pid.unsigned_abs(),
        group => process.pgid.get() == group.unsigned_abs(),
    });
    let uid = call.process.credentials.borrow().uid;
    let info = SignalInfo::from_process(signo, SignalInfo::USER, call.process.pid, uid);
    let mut outcome = Err(Errno::ESRCH);
    for target in targets {
        if may_signal(call, &target, signo) {
            outcome = Ok(());
            if signo != 0 {
                call.kernel.send_to_process(&target, info)?;
            }
        } else if outcome == Err(Errno::ESRCH) {
            outcome = Err(Errno::EPERM);
        }
    }
    outcome?;
    Ok(0)
}

fn thread_target(call: &Call<'_>, tgid: Option<u32>, tid: u64) -> Result<Rc<Thread>> {
    let tid = tid as u32;
    if tid as i32 <= 0 || tgid.is_some_and(|tgid| tgid as i32 <= 0) {
        return Err(Errno::EINVAL);
    }
    let thread = call.kernel.thread(tid).ok_or(Errno::ESRCH)?;
    if tgid.is_some_and(|tgid| thread.process.pid != tgid) {
        return Err(Errno::ESRCH);
    }
    Ok(thread)
}

fn send_to_thread(call: &Call<'_>, tgid: Option<u32>, tid: u64, signo: u64) -> SysResult {
    let signo = check_signal(signo)?;
    let thread = thread_target(call, tgid, tid)?;
    if !may_signal(call, &thread.process, signo) {
        return Err(Errno::EPERM.into());
    }
    if signo != 0 {
        let uid = call.process.credentials.borrow().uid;
        let info = SignalInfo::from_process(signo, SignalInfo::TKILL, call.process.pid, uid);
        call.kernel.send_to_thread(&thread, info)?;
    }
    Ok(0)
}

fn tkill(call: &mut Call<'_>) -> SysResult {
    send_to_thread(call, None, call.args[0], call.args[1])
}

fn tgkill(call: &mut Call<'_>) -> SysResult {
    send_to_thread(call, Some(call.args[0] as u32), call.args[1], call.args[2])
}

pub(super) fn queued_info(call: &Call<'_>, signo: u32, address: u64, to_self: bool) -> Result<SignalInfo> {
    let info = SignalInfo::decode(signo, &call.read_array(address)?);
    // Only the kernel may claim to be the kernel or kill(2).
    if (info.code >= 0 || info.code == SignalInfo::TKILL) && !to_self { Err(Errno::EPERM) } else { Ok(info) }
}

fn rt_sigqueueinfo(call: &mut Call<'_>) -> SysResult {
    let [pid, signo, address, ..] = call.args;
    let signo = check_signal(signo)?;
    let target = call.kernel.process(pid as u32).ok_or(Errno::ESRCH)?;
    let info = queued_info(call, signo, address, target.pid == call.process.pid)?;
    if !may_signal(call, &target, signo) {
        return Err(Errno::EPERM.into());
    }
    if signo != 0 {
        call.kernel.send_to_process(&target, info)?;
    }
    Ok(0)
}

fn rt_tgsigqueueinfo(call: &mut Call<'_>) -> SysResult {
    let [tgid, tid, signo, address, ..] = call.args;
    let signo = check_signal(signo)?;
    let thread = thread_target(call, Some(tgid as u32), tid)?;
    let info = queued_info(call, signo, address, thread.process.pid == call.process.pid)?;
    if signo != 0 {
        call.kernel.send_to_thread(&thread, info)?;
    }
    Ok(0)
}

fn rt_sigpending(call: &mut Call<'_>) -> SysResult {
    check_size(call.args[1])?;
    let pending = call.thread.pending.borrow().set().0 | call.process.pending.borrow().set().0;
    call.write_u64(call.args[0], pending & call.thread.mask.get().0)?;
    Ok(0)
}

fn rt_sigsuspend(call: &mut Call<'_>) -> SysResult {
    check_size(call.args[1])?;
    let mask = call.read_u64(call.args[0])?;
    call.thread.set_temporary_mask(SignalSet(mask));
    Err(Stop::WaitNoRestart)
}

fn rt_sigtimedwait(call: &mut Call<'_>) -> SysResult {
    let [set, info_at, timeout, size, ..] = call.args;
    check_size(size)?;
    let set = SignalSet(call.read_u64(set)?).blockable();
    let own = call.thread.pending.borrow_mut().take(set);
    let found = own.or_else(|| call.process.pending.borrow_mut().take(set));
    if let Some(info) = found {
        if info_at != 0 {
            call.write(info_at, &info.encode())?;
        }
        return Ok(u64::from(info.signo));
    }
    if timeout != 0 {
        let [seconds, nanos] = call.read_words(timeout)?;
        let deadline = call.deadline(super::time::timespec_ns(seconds, nanos)?);
        if call.kernel.machine.monotonic_ns() >= deadline {
            return Err(Errno::EAGAIN.into());
        }
    }
    Err(Stop::WaitNoRestart)
}

fn sigaltstack(call: &mut Call<'_>) -> SysResult {
    let [new, old, ..] = call.args;
    let current = call.thread.alt_stack.get();
    let rsp = call.thread.registers().rsp;
    let on_stack = current.len > 0 && rsp > current.base && rsp <= current.base + current.len;
    let requested = if new == 0 { None } else { Some(call.read_words::<3>(new)?) };
    if old != 0 {
        let flags =
            if current.len == 0 { SS_DISABLE } else { current.flags | (u32::from(on_stack) * SS_ONSTACK) };
        call.write_words(old, &[current.base, u64::from(flags), current.len])?;
    }
    if let Some([base, flags, len]) = requested {
        if on_stack {
            return Err(Errno::EPERM.into());
        }
        let flags = flags as u32;
        let next = match flags & !SS_AUTODISARM {
            SS_DISABLE => AltStack::default(),
            0 | SS_ONSTACK if len < MINSIGSTKSZ => return Err(Errno::ENOMEM.into()),
            0 | SS_ONSTACK => AltStack { base, len, flags: flags & SS_AUTODISARM },
            _ => return Err(Errno::EINVAL.into()),
        };
        call.thread.alt_stack.set(next);
    }
    Ok(0)
}

/// Signals that a parent may ask for at a child's end.
#[must_use]
pub fn is_valid_exit_signal(signo: u32) -> bool {
    signo == 0 || signo == SIGCHLD || signo <= SIGNAL_MAX
}
