//! Processes and threads: clone, fork, exit, wait, nice values.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Stop, SysResult};
use crate::kernel::life::Sharing;
use crate::task::process::{ChildState, LIMIT_NOFILE, Pid, Process};
use crate::task::signal::SIGCHLD;
use crate::task::thread::Context;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(39, "getpid", getpid),
    partial(56, "clone", clone, "no namespaces, CLONE_IO ignored"),
    full(57, "fork", fork),
    full(58, "vfork", vfork),
    full(60, "exit", exit),
    full(61, "wait4", wait4),
    full(110, "getppid", getppid),
    partial(140, "getpriority", getpriority, "PRIO_PROCESS"),
    partial(141, "setpriority", setpriority, "PRIO_PROCESS; stored only: one vCPU, one class"),
    full(186, "gettid", gettid),
    full(218, "set_tid_address", set_tid_address),
    full(231, "exit_group", exit_group),
    full(247, "waitid", waitid),
    full(309, "getcpu", getcpu),
    partial(435, "clone3", clone3, "no namespaces, no cgroup, no set_tid"),
];

const CLONE_VM: u64 = 0x100;
const CLONE_FS: u64 = 0x200;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x10000;
const CLONE_SETTLS: u64 = 0x80000;
const CLONE_PARENT_SETTID: u64 = 0x100000;
const CLONE_CHILD_CLEARTID: u64 = 0x200000;
const CLONE_CHILD_SETTID: u64 = 0x1000000;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME.
const CLONE_NAMESPACES: u64 =
    0x20000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000 | 0x80;

const WNOHANG: u64 = 1;
const WUNTRACED: u64 = 2;
const WEXITED: u64 = 4;
const WCONTINUED: u64 = 8;
const WNOWAIT: u64 = 0x0100_0000;

fn getpid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process.pid))
}

fn gettid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.thread.tid))
}

fn getppid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process.parent.get()))
}

fn priority_target(call: &Call<'_>) -> Result<Rc<Process>, Errno> {
    let [which, who, ..] = call.args;
    if which > 2 {
        return Err(Errno::EINVAL);
    }
    if who as u32 == 0 || which != 0 {
        return Ok(call.process.clone());
    }
    let thread = call.kernel.thread(who as u32).map(|thread| thread.process.clone());
    thread.or_else(|| call.kernel.process(who as u32)).ok_or(Errno::ESRCH)
}

fn getpriority(call: &mut Call<'_>) -> SysResult {
    // The kernel returns 20 - nice.
    Ok((20 - priority_target(call)?.nice.get()) as u64)
}

fn setpriority(call: &mut Call<'_>) -> SysResult {
    let process = priority_target(call)?;
    let nice = (call.args[2] as u32 as i32).clamp(-20, 19);
    let (own, other) = (call.process.credentials.borrow().clone(), process.credentials.borrow().clone());
    if !own.is_privileged() {
        if own.euid != other.uid && own.euid != other.euid {
            return Err(Errno::EPERM.into());
        }
        if nice < process.nice.get() {
            return Err(Errno::EACCES.into());
        }
    }
    process.nice.set(nice);
    Ok(0)
}

fn getcpu(call: &mut Call<'_>) -> SysResult {
    for address in [call.args[0], call.args[1]] {
        if address != 0 {
            call.write_u32(address, 0)?;
        }
    }
    Ok(0)
}

fn set_tid_address(call: &mut Call<'_>) -> SysResult {
    call.thread.clear_child_tid.set(call.args[0]);
    Ok(u64::from(call.thread.tid))
}

fn exit(call: &mut Call<'_>) -> SysResult {
    call.kernel.exit_thread(&call.thread, call.args[0] as u32);
    Err(Stop::NoResult)
}

fn exit_group(call: &mut Call<'_>) -> SysResult {
    call.kernel.exit_process(&call.process, (call.args[0] as u32 & 0xff) << 8);
    Err(Stop::NoResult)
}

/// Arguments of clone and clone3.
#[derive(Default)]
struct Clone {
    flags: u64,
    exit_signal: u32,
    /// New stack pointer, 0 = the parent's.
    stack: u64,
    parent_tid: u64,
    child_tid: u64,
    tls: u64,
    /// Where CLONE_PIDFD stores the descriptor.
    pidfd: u64,
}

fn fork(call: &mut Call<'_>) -> SysResult {
    do_clone(call, &Clone { exit_signal: SIGCHLD, ..Clone::default() })
}

fn vfork(call: &mut Call<'_>) -> SysResult {
    let flags = CLONE_VM | CLONE_VFORK;
    do_clone(call, &Clone { flags, exit_signal: SIGCHLD, ..Clone::default() })
}

fn clone(call: &mut Call<'_>) -> SysResult {
    let [flags, stack, parent_tid, child_tid, tls, _] = call.args;
    let exit_signal = (flags & 0xff) as u32;
    let flags = flags & !0xff & 0xffff_ffff;
    if flags & CLONE_PIDFD != 0 && flags & CLONE_PARENT_SETTID != 0 {
        // Both are stored at the same place.
        return Err(Errno::EINVAL.into());
    }
    let pidfd = parent_tid;
    do_clone(call, &Clone { flags, exit_signal, stack, parent_tid, child_tid, tls, pidfd })
}

fn clone3(call: &mut Call<'_>) -> SysResult {
    let size = call.args[1];
    if size < 64 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls] =
        call.read_words(call.args[0])?;
    if exit_signal > 64 || flags & 0xff != 0 {
        return Err(Errno::EINVAL.into());
    }
    let stack = if stack == 0 { 0 } else { stack.wrapping_add(stack_size) };
    let exit_signal = exit_signal as u32;
    do_clone(call, &Clone { flags, exit_signal, stack, parent_tid, child_tid, tls, pidfd })
}

fn do_clone(call: &mut Call<'_>, request: &Clone) -> SysResult {
    let flags = request.flags;
    let kernel = call.kernel;
    // A vfork parent comes back here when its child has exec'ed or ended.
    let vfork_child = call.thread.progress.borrow().value as Pid;
    if vfork_child != 0 {
        let held = kernel.process(vfork_child).is_some_and(|child| child.vfork_parent.get().is_some());
        return if held { Err(Stop::Wait) } else { Ok(u64::from(vfork_child)) };
    }
    let inconsistent = (flags & CLONE_THREAD != 0 && flags & CLONE_SIGHAND == 0)
        || (flags & CLONE_SIGHAND != 0 && flags & CLONE_VM == 0)
        || flags & CLONE_PIDFD != 0 && flags & CLONE_THREAD != 0;
    if inconsistent {
        return Err(Errno::EINVAL.into());
    }
    if flags & CLONE_NAMESPACES != 0 {
        return Err(Errno::EPERM.into());
    }
    if flags & CLONE_PIDFD != 0 {
        // Before there is anything to undo.
        call.process.files().borrow().check_room(1, call.process.limit(LIMIT_NOFILE))?;
        call.write_u32(request.pidfd, u32::MAX)?;
    }
    kernel.save_bases_of(&call.thread);
    let parent = call.thread.context();
    let mut context = Context { exact: 0, ..parent };
    context.registers.rax = 0;
    if request.stack != 0 {
        context.registers.rsp = request.stack;
    }
    if flags & CLONE_SETTLS != 0 {
        if !crate::mem::space::is_application(request.tls) {
            return Err(Errno::EPERM.into());
        }
        context.fs_base = request.tls;
    }
    let child = if flags & CLONE_THREAD != 0 {
        kernel.clone_thread(&call.thread, context)?
    } else {
        let sharing = Sharing {
            space: flags & CLONE_VM != 0,
            files: flags & CLONE_FILES != 0,
            fs: flags & CLONE_FS != 0,
            actions: flags & CLONE_SIGHAND != 0,
        };
        let child = kernel.clone_process(&call.thread, context, sharing)?;
        child.process.exit_signal.set(request.exit_signal);
        if flags & CLONE_PARENT != 0 {
            kernel.adopt_by_grandparent(&child.process, &call.process);
        }
        child
    };
    let tid = child.tid;
    if flags & CLONE_PIDFD != 0
        && let Ok(fd) = super::pidfd::install(call, &child.process, 0)
    {
        let _ = call.write_u32(request.pidfd, fd as u32);
    }
    if flags & CLONE_PARENT_SETTID != 0 {
        let _ = call.write_u32(request.parent_tid, tid);
    }
    if flags & CLONE_CHILD_SETTID != 0 {
        let _ = child.process.space().borrow_mut().write(request.child_tid, &tid.to_le_bytes());
    }
    if flags & CLONE_CHILD_CLEARTID != 0 {
        child.clear_child_tid.set(request.child_tid);
    }
    if flags & CLONE_VFORK != 0 {
        child.process.vfork_parent.set(Some(call.thread.tid));
        call.thread.progress.borrow_mut().value = u64::from(tid);
        return Err(Stop::Wait);
    }
    Ok(u64::from(tid))
}

fn child_usage(child: &Process) -> Vec<u8> {
    super::system::usage(child.dead_cpu_ns.get(), child.peak_rss.get().0, child.minor_faults.get().0)
}

/// Which children a wait is for.
#[derive(Clone)]
enum Which {
    Any,
    Process(Pid),
    Group(Pid),
    /// By descriptor.
    Exactly(Rc<Process>),
}

fn candidates(call: &Call<'_>, which: Which) -> Vec<Rc<Process>> {
    let children = call.process.children.borrow();
    children
        .iter()
        .filter_map(|pid| call.kernel.process(*pid))
        .filter(|child| match &which {
            Which::Any => true,
            Which::Process(pid) => child.pid == *pid,
            Which::Group(pgid) => child.pgid.get() == *pgid,
            Which::Exactly(process) => Rc::ptr_eq(child, process),
        })
        .collect()
}

/// A child that has something to report, and the report as a wait status.
fn find_change(call: &Call<'_>, which: Which, options: u64) -> Result<Option<(Rc<Process>, u32)>, Errno> {
    let children = candidates(call, which);
    if children.is_empty() {
        return Err(Errno::ECHILD);
    }
    let found = children.into_iter().find_map(|child| {
        let status = match child.child_state.get() {
            ChildState::Zombie(status) if options & WEXITED != 0 => status,
            ChildState::Stopped(signo) if options & WUNTRACED != 0 => signo << 8 | 0x7f,
            ChildState::Continued if options & WCONTINUED != 0 => 0xffff,
            _ => return None,
        };
        Some((child, status))
    });
    if let Some((child, _)) = &found
        && options & WNOWAIT == 0
    {
        if child.is_zombie() {
            call.process.children.borrow_mut().retain(|pid| *pid != child.pid);
            call.kernel.reap(&call.process, child);
        } else {
            child.child_state.set(ChildState::Running);
        }
    }
    Ok(found)
}

fn wait_for_change(call: &Call<'_>, which: Which, options: u64) -> Result<Option<(Rc<Process>, u32)>, Stop> {
    match find_change(call, which, options)? {
        None if options & WNOHANG == 0 => {
            call.wait_for(&call.process.child_changed)?;
            Ok(None)
        }
        found => Ok(found),
    }
}

fn wait4(call: &mut Call<'_>) -> SysResult {
    let [pid, status_at, options, usage_at, ..] = call.args;
    let pid = pid as u32 as i32;
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | 0xe000_0000) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let which = match pid {
        -1 => Which::Any,
        0 => Which::Group(call.process.pgid.get()),
        pid if pid > 0 => Which::Process(pid as u32),
        pid => Which::Group(pid.unsigned_abs()),
    };
    let Some((child, status)) = wait_for_change(call, which, options | WEXITED)? else { return Ok(0) };
    if status_at != 0 {
        call.write_u32(status_at, status)?;
    }
    if usage_at != 0 {
        call.write(usage_at, &child_usage(&child))?;
    }
    Ok(u64::from(child.pid))
}

fn waitid(call: &mut Call<'_>) -> SysResult {
    let [kind, id, info_at, options, usage_at, _] = call.args;
    if options & (WEXITED | WUNTRACED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut descriptor = None;
    let which = match kind {
        0 => Which::Any,
        1 => Which::Process(id as u32),
        2 if id == 0 => Which::Group(call.process.pgid.get()),
        2 => Which::Group(id as u32),
        3 if id as u32 as i32 >= 0 => {
            let (file, process) = super::pidfd::process_of(call, id)?;
            descriptor = Some(file);
            Which::Exactly(process)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let found = match (wait_for_change(call, which, options), descriptor) {
        (Err(Stop::Wait), Some(file)) => {
            super::pidfd::refuse_to_wait(&file)?;
            return Err(Stop::Wait);
        }
        (found, _) => found?,
    };
    if info_at != 0 {
        let bytes = match &found {
            None => [0; 128],
            Some((child, status)) => {
                let (code, value) = match *status {
                    0xffff => (6, crate::task::signal::SIGCONT),
                    status if status & 0xff == 0x7f => (5, status >> 8),
                    status if status & 0x7f == 0 => (1, status >> 8),
                    status => (2, status & 0x7f),
                };
                let uid = child.credentials.borrow().uid;
                crate::task::signal::SignalInfo::child(code, child.pid, uid, value, 0).encode()
            }
        };
        call.write(info_at, &bytes)?;
    }
    if let (Some((child, _)), true) = (&found, usage_at != 0) {
        call.write(usage_at, &child_usage(child))?;
    }
    Ok(0)
}
