//! Terminals and job control (ioctl_tty(2), termios(3)): the requests that need to know the caller's process.

use super::super::call::Call;
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::fs::File;
use crate::fs::tty::pty::MasterFile;
use crate::fs::tty::{Terminal, TerminalFile};
use crate::task::process::Process;
use crate::task::signal::{SIG_IGN, SIGTTIN, SIGTTOU, SignalInfo};
use alloc::rc::Rc;

const TCSETS: u32 = 0x5402;
const TCSETSF: u32 = 0x5404;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCNOTTY: u32 = 0x5422;
const TIOCGSID: u32 = 0x5429;

/// Whether the terminal is the caller's controlling terminal.
fn controls(call: &Call<'_>, terminal: &Terminal) -> bool {
    terminal.session().get() != 0 && terminal.session().get() == call.process.sid.get()
}

/// A process of the background touches its terminal: it is stopped by `signo`, or gets an error if that cannot be.
fn check_background(call: &Call<'_>, terminal: &Terminal, signo: u32) -> core::result::Result<(), Stop> {
    let group = call.process.pgid.get();
    if !controls(call, terminal) || group == terminal.foreground().get() {
        return Ok(());
    }
    let blocked = call.thread.mask.get().contains(signo);
    let ignored = call.process.actions.borrow().borrow().get(signo).handler == SIG_IGN;
    if blocked || ignored {
        // Writing and setting go on; reading cannot.
        return if signo == SIGTTOU { Ok(()) } else { Err(Errno::EIO.into()) };
    }
    for process in call.kernel.processes().iter().filter(|process| process.pgid.get() == group) {
        let _ = call.kernel.send_to_process(process, SignalInfo::from_kernel(signo));
    }
    // The call runs again when the process continues.
    Err(Stop::Wait)
}

/// What reading from `file` needs before: being in the foreground, if it is a terminal.
///
/// # Errors
/// EIO; [`Stop::Wait`] while the process is stopped.
pub(super) fn before_read(call: &Call<'_>, file: &File) -> core::result::Result<(), Stop> {
    match file.ops_as::<TerminalFile>() {
        Some(file) => check_background(call, file.terminal(), SIGTTIN),
        None => Ok(()),
    }
}

/// The terminal that `file` is open at, or whose master it is.
pub(super) fn of(file: &File) -> Option<&Terminal> {
    let slave = file.ops_as::<TerminalFile>().map(TerminalFile::terminal);
    slave.or_else(|| file.ops_as::<MasterFile>().map(MasterFile::terminal)).map(|terminal| &**terminal)
}

/// A process of session `sid` in process group `group`.
fn member(call: &Call<'_>, group: u32) -> Option<Rc<Process>> {
    call.kernel.processes().into_iter().find(|process| process.pgid.get() == group)
}

fn set_foreground(call: &Call<'_>, terminal: &Terminal, argument: u64) -> SysResult {
    let group = call.read_u32(argument)?;
    if !controls(call, terminal) {
        return Err(Errno::ENOTTY.into());
    }
    check_background(call, terminal, SIGTTOU)?;
    if group as i32 <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let member = member(call, group).ok_or(Errno::ESRCH)?;
    if member.sid.get() != call.process.sid.get() {
        return Err(Errno::EPERM.into());
    }
    terminal.foreground().set(group);
    Ok(0)
}

fn take_control(call: &Call<'_>, terminal: &Terminal, argument: u64) -> Result<u64> {
    let process = &call.process;
    let (sid, owner) = (process.sid.get(), terminal.session().get());
    if sid != process.pid {
        return Err(Errno::EPERM);
    }
    if owner == sid {
        return Ok(0);
    }
    let has_another = call.kernel.fs.env.terminals.of_session(sid).is_some();
    let steals = argument == 1 && process.credentials.borrow().is_privileged();
    let owner_lives = owner != 0 && call.kernel.process(owner).is_some();
    if has_another || (owner_lives && !steals) {
        return Err(Errno::EPERM);
    }
    terminal.session().set(sid);
    terminal.foreground().set(process.pgid.get());
    Ok(0)
}

/// ioctl(2) on a terminal; `None` if the request is not one of these.
pub(super) fn ioctl(call: &Call<'_>, terminal: &Terminal, request: u32, argument: u64) -> Option<SysResult> {
    let needs_control = |value: u32| -> SysResult {
        if !controls(call, terminal) {
            return Err(Errno::ENOTTY.into());
        }
        call.write_u32(argument, value)?;
        Ok(0)
    };
    Some(match request {
        // The terminal itself does these, for a process in the foreground.
        TCSETS..=TCSETSF => return check_background(call, terminal, SIGTTOU).err().map(Err),
        TIOCGPGRP => needs_control(terminal.foreground().get()),
        TIOCGSID => needs_control(terminal.session().get()),
        TIOCSPGRP => set_foreground(call, terminal, argument),
        TIOCSCTTY => take_control(call, terminal, argument).map_err(Stop::from),
        TIOCNOTTY => {
            if !controls(call, terminal) {
                return Some(Err(Errno::ENOTTY.into()));
            }
            if call.process.sid.get() == call.process.pid {
                terminal.session().set(0);
                terminal.foreground().set(0);
            }
            Ok(0)
        }
        _ => return None,
    })
}
