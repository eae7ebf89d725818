//! Processes by descriptor: pidfd_open, pidfd_send_signal, pidfd_getfd, and what clone(2) and waitid(2) do with them.

use super::call::Call;
use super::fs::{check_flags, file, open};
use super::signal::{check_signal, may_signal, queued_info};
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::fs::File;
use crate::fs::directory::Directory;
use crate::fs::file::flags::{O_NONBLOCK, O_RDWR};
use crate::fs::pidfd::PidFile;
use crate::task::process::Process;
use crate::task::signal::{SIGNAL_MAX, SignalInfo};
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    partial(424, "pidfd_send_signal", pidfd_send_signal, "to the whole process only"),
    partial(434, "pidfd_open", pidfd_open, "no PIDFD_THREAD"),
    full(438, "pidfd_getfd", pidfd_getfd),
];

/// The process behind a descriptor, and the open file.
///
/// # Errors
/// EBADF: not open, or something else.
pub(super) fn process_of(call: &Call<'_>, fd: u64) -> Result<(Rc<File>, Rc<Process>)> {
    let file = file(call, fd)?;
    let process = file.ops_as::<PidFile>().ok_or(Errno::EBADF)?.process().clone();
    Ok((file, process))
}

/// Give the caller a descriptor for `process`, always with FD_CLOEXEC.
///
/// # Errors
/// EMFILE, ENFILE.
pub(super) fn install(call: &Call<'_>, process: &Rc<Process>, status: u32) -> SysResult {
    let ops = PidFile::new(process);
    let file = call.kernel.fs.anonymous_file("anon_inode:[pidfd]", ops, O_RDWR | status)?;
    open::install(call, file, true)
}

fn pidfd_open(call: &mut Call<'_>) -> SysResult {
    let [pid, flags, ..] = call.args;
    check_flags(u64::from(flags as u32), u64::from(O_NONBLOCK))?;
    let pid = pid as u32;
    if pid as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let Some(process) = call.kernel.process(pid) else {
        let is_thread = call.kernel.thread(pid).is_some();
        return Err(if is_thread { Errno::EINVAL } else { Errno::ESRCH }.into());
    };
    install(call, &process, flags as u32 & O_NONBLOCK)
}

/// As [`process_of`], for the one call that takes a descriptor of a /proc/PID, too.
fn process_or_directory(call: &Call<'_>, fd: u64) -> Result<Rc<Process>> {
    let file = file(call, fd)?;
    if let Some(pidfd) = file.ops_as::<PidFile>() {
        return Ok(pidfd.process().clone());
    }
    let pid = file.node().directory().ok().and_then(Directory::process).ok_or(Errno::EBADF)?;
    call.kernel.process(pid).ok_or(Errno::ESRCH)
}

fn pidfd_send_signal(call: &mut Call<'_>) -> SysResult {
    const THREAD_GROUP: u64 = 2;
    let [fd, signo, info_at, flags, ..] = call.args;
    let flags = u64::from(flags as u32);
    if flags != 0 && flags != THREAD_GROUP {
        return Err(Errno::EINVAL.into());
    }
    let target = process_or_directory(call, fd)?;
    let signo = check_signal(signo)?;
    let info = if info_at == 0 {
        let uid = call.process.credentials.borrow().uid;
        SignalInfo::from_process(signo, SignalInfo::USER, call.process.pid, uid)
    } else {
        if call.read_u32(info_at)? != signo {
            return Err(Errno::EINVAL.into());
        }
        queued_info(call, signo, info_at, target.pid == call.process.pid)?
    };
    if target.reaped.get() {
        return Err(Errno::ESRCH.into());
    }
    if !may_signal(call, &target, signo) {
        return Err(Errno::EPERM.into());
    }
    if (1..=SIGNAL_MAX).contains(&signo) {
        call.kernel.send_to_process(&target, info)?;
    }
    Ok(0)
}

/// Whether the caller may look into `target` (ptrace(2), "Ptrace access mode checking").
fn may_attach(call: &Call<'_>, target: &Rc<Process>) -> bool {
    if Rc::ptr_eq(target, &call.process) {
        return true;
    }
    let (own, other) = (call.process.credentials.borrow(), target.credentials.borrow());
    let same_user = [other.uid, other.euid, other.suid].iter().all(|id| *id == own.uid);
    let same_group = [other.gid, other.egid, other.sgid].iter().all(|id| *id == own.gid);
    own.is_privileged() || (same_user && same_group && target.dumpable.get())
}

fn pidfd_getfd(call: &mut Call<'_>) -> SysResult {
    let [fd, wanted, flags, ..] = call.args;
    check_flags(u64::from(flags as u32), 0)?;
    let (_, target) = process_of(call, fd)?;
    if target.is_zombie() {
        return Err(Errno::ESRCH.into());
    }
    if !may_attach(call, &target) {
        return Err(Errno::EPERM.into());
    }
    let file = target.files().borrow().get_any(wanted as u32 as i32)?;
    open::install(call, file, true)
}

/// What waitid(2) of a pidfd that would have to wait does.
pub(super) fn refuse_to_wait(file: &File) -> core::result::Result<(), Stop> {
    if file.is_nonblocking() { Err(Errno::EAGAIN.into()) } else { Ok(()) }
}
