//! open and close, pipes, memory files.

use super::super::call::Call;
use super::super::table::{Entry, full, partial};
use super::{AT_FDCWD, check_flags, start, with_place};
use crate::errno::{Errno, Stop, SysResult};
use crate::fs::file::flags::{
    O_ACCMODE, O_CLOEXEC, O_CREAT, O_DIRECT, O_NONBLOCK, O_PATH, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY,
};
use crate::fs::node::Kind;
use crate::fs::pipe::{PipeEnd, make_pipe};
use crate::fs::walk::Restrictions;
use crate::fs::{Context, File, Node};
use crate::kernel::Kernel;
use crate::task::process::{LIMIT_NOFILE, Process};
use alloc::rc::Rc;
use alloc::vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(2, "open", open),
    full(3, "close", close),
    partial(22, "pipe", pipe, "no packet mode"),
    full(85, "creat", creat),
    full(257, "openat", openat),
    partial(293, "pipe2", pipe2, "no packet mode"),
    full(319, "memfd_create", memfd_create),
    full(436, "close_range", close_range),
    full(437, "openat2", openat2),
];

/// Give the caller a descriptor for `file`.
pub(crate) fn install(call: &Call<'_>, file: Rc<File>, close_on_exec: bool) -> SysResult {
    let limit = call.process.limit(LIMIT_NOFILE);
    let fd = call.process.files().borrow_mut().insert(file, close_on_exec, limit)?;
    Ok(fd as u64)
}

impl Kernel {
    /// Whether a process runs the program at `path` (execve(2), ETXTBSY).
    fn is_executing(&self, place: &Context<'_>, start: &Rc<Node>, path: &[u8]) -> bool {
        let Ok(node) = place.walk(start, path, true) else { return false };
        let runs = |process: &Rc<Process>| {
            !process.is_zombie()
                && process.program.borrow().node.as_ref().is_some_and(|program| Rc::ptr_eq(program, &node))
        };
        node.data().is_ok() && self.processes().iter().any(runs)
    }
}

fn do_open(call: &Call<'_>, directory: u64, path: u64, flags: u64, mode: u64) -> SysResult {
    let flags = flags as u32;
    let opening = call.kernel.fs.opening.borrow_mut().remove(&call.thread.tid);
    let file = match opening {
        Some(file) => file,
        None => {
            let path = call.read_path(path)?;
            let start = start(call, directory, &path)?;
            let makes = flags & (O_CREAT | O_TMPFILE) != 0;
            let mode = if makes { mode as u32 & 0o7777 } else { 0 };
            with_place(call, |place| {
                if flags & O_ACCMODE != 0 && call.kernel.is_executing(place, &start, &path) {
                    return Err(Errno::ETXTBSY);
                }
                place.open(&start, &path, flags, mode)
            })?
        }
    };
    if waits_for_peer(&file) {
        if call.thread.progress.borrow().interrupted {
            return Err(Errno::EINTR.into());
        }
        if let Some(notifier) = file.ops().notifier() {
            notifier.register(call.thread.tid);
            let mut opening = call.kernel.fs.opening.borrow_mut();
            opening.retain(|tid, _| call.kernel.thread(*tid).is_some());
            opening.insert(call.thread.tid, file);
            return Err(Stop::Wait);
        }
    }
    install(call, file, flags & O_CLOEXEC != 0)
}

/// fifo(7): opening one end waits until the other end is open.
fn waits_for_peer(file: &Rc<File>) -> bool {
    let is_fifo = matches!(file.node().kind(), Kind::Fifo(_)) && !file.is_path();
    if !is_fifo || file.flags() & (O_NONBLOCK | O_PATH) != 0 || file.flags() & O_ACCMODE == O_RDWR {
        return false;
    }
    file.ops_as::<PipeEnd>().is_some_and(|end| !end.met_peer())
}

fn open(call: &mut Call<'_>) -> SysResult {
    let [path, flags, mode, ..] = call.args;
    do_open(call, AT_FDCWD as u32 as u64, path, flags, mode)
}

fn openat(call: &mut Call<'_>) -> SysResult {
    let [directory, path, flags, mode, ..] = call.args;
    do_open(call, directory, path, flags, mode)
}

/// openat2(2): struct open_how has flags, mode and resolve; what follows must be zero.
fn openat2(call: &mut Call<'_>) -> SysResult {
    const HOW_BYTES: u64 = 24;
    const NO_XDEV: u64 = 1;
    const NO_MAGICLINKS: u64 = 2;
    const NO_SYMLINKS: u64 = 4;
    const BENEATH: u64 = 8;
    const IN_ROOT: u64 = 16;
    const CACHED: u64 = 32;
    let [directory, path, how, size, ..] = call.args;
    if size < HOW_BYTES {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let [flags, mode, resolve] = call.read_words(how)?;
    let mut rest = vec![0; (size - HOW_BYTES) as usize];
    call.read(how + HOW_BYTES, &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG.into());
    }
    check_flags(resolve, NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH | IN_ROOT | CACHED)?;
    let makes = flags & u64::from(O_CREAT | O_TMPFILE) != 0;
    let contradicts = resolve & (BENEATH | IN_ROOT) == BENEATH | IN_ROOT;
    if flags & !0o37_777_703 != 0 || mode & !0o7777 != 0 || (mode != 0 && !makes) || contradicts {
        return Err(Errno::EINVAL.into());
    }
    let flags = flags as u32;
    if resolve & CACHED != 0 && (makes || flags & O_TRUNC != 0) {
        return Err(Errno::EAGAIN.into());
    }
    if resolve == 0 {
        return do_open(call, directory, path, u64::from(flags), mode);
    }
    let path = call.read_path(path)?;
    let in_root = resolve & IN_ROOT != 0;
    let from = if in_root { start(call, directory, b".")? } else { start(call, directory, &path)? };
    let mut limits = Restrictions {
        no_links: resolve & NO_SYMLINKS != 0,
        no_magic_links: resolve & (NO_MAGICLINKS | NO_SYMLINKS | IN_ROOT) != 0,
        no_crossing: resolve & NO_XDEV != 0,
        beneath: (resolve & BENEATH != 0).then(|| from.clone()),
        ..Restrictions::default()
    };
    let file = with_place(call, |place| {
        let root = if in_root { from.clone() } else { place.root.clone() };
        let place = Context { root, ..place.clone() };
        place.open_within(&from, &path, flags, mode as u32, &mut limits)
    })?;
    install(call, file, flags & O_CLOEXEC != 0)
}

fn creat(call: &mut Call<'_>) -> SysResult {
    let flags = u64::from(O_CREAT | O_WRONLY | O_TRUNC);
    do_open(call, AT_FDCWD as u32 as u64, call.args[0], flags, call.args[1])
}

fn close(call: &mut Call<'_>) -> SysResult {
    call.process.files().borrow_mut().close(call.args[0] as u32 as i32)?;
    Ok(0)
}

fn close_range(call: &mut Call<'_>) -> SysResult {
    const UNSHARE: u64 = 2;
    const CLOEXEC: u64 = 4;
    let [first, last, flags, ..] = call.args;
    check_flags(flags, UNSHARE | CLOEXEC)?;
    let (first, last) = (first as u32, last as u32);
    if first > last {
        return Err(Errno::EINVAL.into());
    }
    call.process.files().borrow_mut().close_range(first, last, flags & CLOEXEC != 0);
    Ok(0)
}

fn do_pipe(call: &Call<'_>, address: u64, flags: u32) -> SysResult {
    check_flags(u64::from(flags), u64::from(O_CLOEXEC | O_NONBLOCK | O_DIRECT))?;
    let owner = {
        let who = call.process.credentials.borrow();
        (who.fsuid, who.fsgid)
    };
    let (reader, writer) = make_pipe(&call.kernel.fs.pipes, owner, flags & O_NONBLOCK)?;
    let close_on_exec = flags & O_CLOEXEC != 0;
    let first = install(call, reader, close_on_exec)?;
    let second = install(call, writer, close_on_exec);
    let written = match second {
        Ok(second) => call.write_u64(address, first | second << 32).map_err(Stop::from),
        Err(stop) => Err(stop),
    };
    if let Err(stop) = written {
        let files = call.process.files();
        let mut files = files.borrow_mut();
        let _ = files.close(first as i32);
        if let Ok(second) = second {
            let _ = files.close(second as i32);
        }
        return Err(stop);
    }
    Ok(0)
}

fn pipe(call: &mut Call<'_>) -> SysResult {
    do_pipe(call, call.args[0], 0)
}

fn pipe2(call: &mut Call<'_>) -> SysResult {
    do_pipe(call, call.args[0], call.args[1] as u32)
}

fn memfd_create(call: &mut Call<'_>) -> SysResult {
    const CLOEXEC: u64 = 1;
    const ALLOW_SEALING: u64 = 2;
    let [name, flags, ..] = call.args;
    check_flags(flags, CLOEXEC | ALLOW_SEALING | 8 | 16)?;
    let name = call.read_string(name, 250, Errno::EINVAL)?;
    let owner = {
        let who = call.process.credentials.borrow();
        (who.fsuid, who.fsgid)
    };
    let file = call.kernel.fs.memory_file(&name, owner, flags & ALLOW_SEALING != 0)?;
    install(call, file, flags & CLOEXEC != 0)
}
