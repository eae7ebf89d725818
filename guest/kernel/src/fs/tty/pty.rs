//! Pseudo terminals (pty(7)), and open terminals.
//!
//! **Not** supported: packet mode (TIOCPKT), TIOCGPTPEER.

use super::{Line, OUTPUT_MAX, SIGCONT, SIGHUP, TERMINALS_MAX, Terminal};
use crate::errno::{Errno, Result};
use crate::fs::env::Env;
use crate::fs::file::{File, FileOps, UserMemory};
use crate::fs::notify::Notifier;
use crate::mem::user::{Sink, Source};
use crate::wait::Readiness;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

/// The group of terminals' nodes (`tty`).
pub(super) const GROUP: u32 = 5;

/// What a terminal knows of its master.
pub(super) struct Master {
    /// Who waits at the master's side.
    notifier: Notifier,
    closed: Cell<bool>,
    /// The terminal cannot be opened yet (unlockpt(3)).
    locked: Cell<bool>,
    /// Open descriptions of the terminal.
    slaves: Cell<u32>,
    was_open: Cell<bool>,
}

impl Master {
    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The terminal has `waiting` bytes of output.
    ///
    /// # Errors
    /// EIO without a master, EAGAIN when it is time to wait for it.
    pub(super) fn output_waits(&self, waiting: usize) -> Result {
        if self.closed.get() {
            return Err(Errno::EIO);
        }
        if waiting > 0 {
            self.notifier.notify(Readiness::READABLE);
        }
        if waiting < OUTPUT_MAX { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    /// All descriptions of the terminal are closed.
    fn is_alone(&self) -> bool {
        self.was_open.get() && self.slaves.get() == 0
    }
}

impl Terminal {
    /// A pseudo terminal, whose node belongs to `owner`; the terminal lives as long as its master or a description of it.
    ///
    /// # Errors
    /// ENOSPC if there are too many.
    pub fn new_pair(env: &Rc<Env>, owner: u32) -> Result<Rc<MasterFile>> {
        if env.terminals.all().len() >= TERMINALS_MAX {
            return Err(Errno::ENOSPC);
        }
        env.check_space()?;
        let master = Master {
            notifier: Notifier::new(&env.woken),
            closed: Cell::new(false),
            locked: Cell::new(true),
            slaves: Cell::new(0),
            was_open: Cell::new(false),
        };
        let terminal = Self::register(env, Line::Master(master), (0, 0), (owner, GROUP));
        Ok(Rc::new(MasterFile { terminal }))
    }

    fn master(&self) -> Option<&Master> {
        match &self.far {
            Line::Master(master) => Some(master),
            Line::Host(..) => None,
        }
    }
}

/// The master's side of a pseudo terminal.
pub struct MasterFile {
    terminal: Rc<Terminal>,
}

impl MasterFile {
    /// The terminal.
    #[must_use]
    pub fn terminal(&self) -> &Rc<Terminal> {
        &self.terminal
    }

    fn master(&self) -> Result<&Master> {
        self.terminal.master().ok_or(Errno::EIO)
    }
}

impl FileOps for MasterFile {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let bytes: Vec<u8> = self.terminal.pending.borrow().iter().take(sink.remaining()).copied().collect();
        if bytes.is_empty() {
            let alone = self.master()?.is_alone();
            return match (sink.remaining(), alone) {
                (0, _) => Ok(0),
                (_, true) => Err(Errno::EIO),
                (_, false) => Err(Errno::EAGAIN),
            };
        }
        let count = sink.put(&bytes)?;
        self.terminal.pending.borrow_mut().drain(..count);
        self.terminal.notifier.notify(Readiness::WRITABLE);
        Ok(count)
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        let mut done = 0;
        let mut chunk = [0; 256];
        while source.remaining() > 0 {
            let want = source.remaining().min(chunk.len()).min(self.terminal.room());
            if want == 0 {
                return if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) };
            }
            match source.take(&mut chunk[..want]) {
                Ok(got) => {
                    chunk[..got].iter().for_each(|byte| self.terminal.typed(*byte));
                    self.terminal.notifier.notify(Readiness::READABLE);
                    done += got;
                    if got < want {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn poll(&self, _file: &File) -> Readiness {
        let mut ready = Readiness::empty();
        ready.set(Readiness::READABLE, !self.terminal.pending.borrow().is_empty());
        ready.set(Readiness::WRITABLE, self.terminal.room() > 0);
        ready.set(Readiness::HANGUP, self.master().is_ok_and(Master::is_alone));
        ready
    }

    fn notifier(&self) -> Option<&Notifier> {
        self.terminal.master().map(|master| &master.notifier)
    }

    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        Ok(self.terminal.pending.borrow().len() as u64)
    }

    /// ioctl_tty(2): those of the master, and the terminal's own.
    fn ioctl(&self, _file: &File, memory: &dyn UserMemory, request: u32, argument: u64) -> Result<u64> {
        const TIOCSPTLCK: u32 = 0x4004_5431;
        const TIOCGPTLCK: u32 = 0x8004_5439;
        let master = self.master()?;
        match request {
            TIOCSPTLCK => {
                let mut locked = [0; 4];
                memory.load(argument, &mut locked)?;
                master.locked.set(locked != [0; 4]);
            }
            TIOCGPTLCK => memory.store(argument, &u32::from(master.locked.get()).to_le_bytes())?,
            _ => return self.terminal.ioctl(memory, request, argument),
        }
        Ok(0)
    }
}

impl Drop for MasterFile {
    fn drop(&mut self) {
        let terminal = &self.terminal;
        if let Some(master) = terminal.master() {
            master.closed.set(true);
        }
        for group in [terminal.session.get(), terminal.foreground.get()] {
            terminal.signal_group(group, SIGHUP);
            terminal.signal_group(group, SIGCONT);
        }
        terminal.session.set(0);
        terminal.pending.borrow_mut().clear();
        terminal.notifier.notify(Readiness::HANGUP | Readiness::READABLE | Readiness::WRITABLE);
    }
}

/// An open description of a terminal.
pub struct TerminalFile {
    terminal: Rc<Terminal>,
}

impl TerminalFile {
    /// Open a terminal.
    ///
    /// # Errors
    /// EIO if it is a pseudo terminal that is locked or has lost its master.
    pub fn open(terminal: &Rc<Terminal>) -> Result<Rc<Self>> {
        if let Some(master) = terminal.master() {
            if master.locked.get() || master.closed.get() {
                return Err(Errno::EIO);
            }
            master.slaves.set(master.slaves.get() + 1);
            master.was_open.set(true);
        }
        Ok(Rc::new(Self { terminal: terminal.clone() }))
    }

    /// The terminal.
    #[must_use]
    pub fn terminal(&self) -> &Rc<Terminal> {
        &self.terminal
    }
}

impl Drop for TerminalFile {
    fn drop(&mut self) {
        if let Some(master) = self.terminal.master() {
            master.slaves.set(master.slaves.get() - 1);
            if master.is_alone() {
                master.notifier.notify(Readiness::HANGUP | Readiness::READABLE);
            }
        }
    }
}

impl FileOps for TerminalFile {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let result = self.terminal.read(sink);
        if let (Ok(_), Some(master)) = (&result, self.terminal.master()) {
            master.notifier.notify(Readiness::WRITABLE);
        }
        result
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        self.terminal.write(source)
    }

    fn poll(&self, _file: &File) -> Readiness {
        self.terminal.poll()
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.terminal.notifier)
    }

    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        Ok(self.terminal.bytes_readable())
    }

    fn ioctl(&self, _file: &File, memory: &dyn UserMemory, request: u32, argument: u64) -> Result<u64> {
        self.terminal.ioctl(memory, request, argument)
    }
}
