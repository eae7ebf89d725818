//! Signals as a file (signalfd(2)): those that are pending for the thread that reads or polls, and for its process, whoever made the descriptor.

use super::super::call::Call;
use super::super::table::{Entry, full};
use super::{check_flags, file, open};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::file::flags::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::fs::mount::SignalWatcher;
use crate::fs::notify::Notifier;
use crate::fs::{File, FileOps};
use crate::mem::user::Sink;
use crate::task::signal::{SIGCHLD, SignalInfo, SignalSet};
use crate::task::thread::{Calling, Thread};
use crate::wait::{Readiness, Woken};
use alloc::rc::Rc;
use core::cell::Cell;

/// The family.
pub const TABLE: &[Entry] = &[
    full(282, "signalfd", |call| signalfd(call, 0)),
    full(289, "signalfd4", |call| signalfd(call, call.args[3])),
];

/// Bytes of struct signalfd_siginfo.
const INFO_BYTES: usize = 128;

/// Pending signals as a file.
pub struct SignalFile {
    calling: Calling,
    mask: Cell<SignalSet>,
    notifier: Notifier,
}

impl SignalFile {
    fn new(calling: &Calling, mask: SignalSet, woken: &Woken) -> Rc<Self> {
        Rc::new(Self { calling: calling.clone(), mask: Cell::new(mask), notifier: Notifier::new(woken) })
    }

    /// The thread whose signals count: the one that makes the current system call.
    fn reader(&self) -> Option<Rc<Thread>> {
        self.calling.borrow().clone()
    }
}

impl SignalWatcher for SignalFile {
    fn arrived(&self, signo: u32) {
        // Whoever waits looks whether it is for him.
        if self.mask.get().contains(signo) {
            self.notifier.notify(Readiness::READABLE);
        }
    }
}

/// struct signalfd_siginfo.
fn encode(info: &SignalInfo) -> [u8; INFO_BYTES] {
    let mut bytes = [0; INFO_BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &info.signo.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    let [first, second, third, _] = info.fields;
    put(12, &(first as u32).to_le_bytes());
    put(16, &((first >> 32) as u32).to_le_bytes());
    if info.signo == SIGCHLD {
        put(40, &(second as u32).to_le_bytes());
        put(56, &third.to_le_bytes());
    } else {
        // si_int and si_ptr of a queued signal.
        put(44, &(second as u32).to_le_bytes());
        put(48, &second.to_le_bytes());
    }
    bytes
}

impl FileOps for SignalFile {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        if sink.remaining() < INFO_BYTES {
            return Err(Errno::EINVAL);
        }
        let reader = self.reader().ok_or(Errno::EAGAIN)?;
        let mut done = 0;
        while sink.remaining() >= INFO_BYTES {
            let own = reader.pending.borrow_mut().take(self.mask.get());
            let info = own.or_else(|| reader.process.pending.borrow_mut().take(self.mask.get()));
            let Some(info) = info else { break };
            done += sink.put(&encode(&info))?;
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }

    fn poll(&self, _file: &File) -> Readiness {
        let pending = self
            .reader()
            .map_or(0, |reader| reader.pending.borrow().set().0 | reader.process.pending.borrow().set().0);
        if pending & self.mask.get().0 != 0 { Readiness::READABLE } else { Readiness::empty() }
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.notifier)
    }
}

fn signalfd(call: &Call<'_>, flags: u64) -> SysResult {
    let [fd, mask, size, ..] = call.args;
    if size != 8 {
        return Err(Errno::EINVAL.into());
    }
    check_flags(flags, u64::from(O_CLOEXEC | O_NONBLOCK))?;
    let mask = SignalSet(call.read_u64(mask)?).blockable();
    if fd as u32 != u32::MAX {
        let file = file(call, fd)?;
        let existing = file.ops_as::<SignalFile>().ok_or(Errno::EINVAL)?;
        existing.mask.set(mask);
        existing.notifier.notify(Readiness::READABLE);
        return Ok(u64::from(fd as u32));
    }
    let signals = SignalFile::new(&call.kernel.calling, mask, &call.kernel.woken);
    let watcher: Rc<dyn SignalWatcher> = signals.clone();
    call.kernel.fs.watch_signals(Rc::downgrade(&watcher));
    let status = O_RDWR | flags as u32 & O_NONBLOCK;
    let file = call.kernel.fs.anonymous_file("anon_inode:[signalfd]", signals, status)?;
    open::install(call, file, flags as u32 & O_CLOEXEC != 0)
}
