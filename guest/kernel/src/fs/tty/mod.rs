//! Terminals: the line discipline (termios(3)) between the application and the other side, which is the VMM's byte streams, or the master of
//! a pseudo terminal ([`pty`]).
//!
//! **Not** supported: background processes are not stopped when they write (TOSTOP), flow control (IXON), speed, VTIME.

pub mod pty;
mod termios;

pub use pty::TerminalFile;
pub use termios::{TERMIOS_BYTES, Termios};

use super::env::Env;
use super::file::UserMemory;
use super::host::{HandleEvents, HostStream};
use super::node::Node;
use super::notify::Notifier;
use crate::errno::{Errno, Result};
use crate::mem::user::{Sink, Source, VecSink};
use crate::wait::Readiness;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use termios::*;

/// Longest line, and most unread bytes (N_TTY_BUF_SIZE).
const LINE_MAX: usize = 4096;
/// Most output that waits for the other side.
const OUTPUT_MAX: usize = 4096;

/// Most terminals (kernel.pty.max).
const TERMINALS_MAX: usize = 4096;

const SIGHUP: u32 = 1;
const SIGINT: u32 = 2;
const SIGQUIT: u32 = 3;
const SIGCONT: u32 = 18;
const SIGTSTP: u32 = 20;
const SIGWINCH: u32 = 28;

/// The terminals in use, by number (/dev/pts/N), and the signals that their keys made.
#[derive(Default)]
pub struct Terminals {
    list: RefCell<BTreeMap<u32, Weak<Terminal>>>,
    signals: RefCell<Vec<(u32, u32)>>,
}

impl Terminals {
    /// The terminal with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Rc<Terminal>> {
        self.list.borrow().get(&number)?.upgrade()
    }

    /// All terminals in use.
    #[must_use]
    pub fn all(&self) -> Vec<Rc<Terminal>> {
        self.list.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// The controlling terminal of a session.
    #[must_use]
    pub fn of_session(&self, sid: u32) -> Option<Rc<Terminal>> {
        self.all().into_iter().find(|terminal| sid != 0 && terminal.session.get() == sid)
    }

    /// Process group and signal of every key that was typed for one; the caller sends them.
    #[must_use]
    pub fn take_signals(&self) -> Vec<(u32, u32)> {
        self.signals.take()
    }
}

/// The other side of a terminal.
enum Line {
    /// Streams of the VMM: what is typed, what is shown.
    Host(Rc<HostStream>, Rc<HostStream>),
    /// The master of a pseudo terminal.
    Master(pty::Master),
}

/// A terminal.
pub struct Terminal {
    number: u32,
    env: Rc<Env>,
    far: Line,
    /// Its node in /dev/pts, and who owns that.
    node: RefCell<Weak<Node>>,
    owner: (u32, u32),
    termios: RefCell<Termios>,
    /// Rows and columns.
    window: Cell<(u16, u16)>,
    session: Cell<u32>,
    foreground: Cell<u32>,
    /// The line that is being typed.
    line: RefCell<Vec<u8>>,
    /// What can be read: lines in canonical mode, else pieces. An empty one is an end of file.
    ready: RefCell<VecDeque<Vec<u8>>>,
    /// The next byte is taken literally.
    literal: Cell<bool>,
    /// Processed output that the VMM did not take yet.
    pending: RefCell<VecDeque<u8>>,
    /// The hang-up was told.
    hung_up: Cell<bool>,
    notifier: Notifier,
}

impl HandleEvents for Terminal {
    fn restored(&self, _alive: bool) {}

    fn ready(&self, _bits: u64) {
        self.serve();
    }
}

impl Terminal {
    /// A terminal between an input and an output handle, with the lowest free number. Its node belongs to `owner`.
    #[must_use]
    pub fn new(env: &Rc<Env>, handles: (u32, u32), window: (u16, u16), owner: u32) -> Rc<Self> {
        let input = HostStream::new(env, handles.0);
        let output = if handles.0 == handles.1 { input.clone() } else { HostStream::new(env, handles.1) };
        let terminal =
            Self::register(env, Line::Host(input.clone(), output.clone()), window, (owner, pty::GROUP));
        let weak: Weak<Self> = Rc::downgrade(&terminal);
        input.set_listener(weak.clone());
        output.set_listener(weak);
        terminal
    }

    fn register(env: &Rc<Env>, far: Line, window: (u16, u16), owner: (u32, u32)) -> Rc<Self> {
        let mut list = env.terminals.list.borrow_mut();
        list.retain(|_, terminal| terminal.strong_count() > 0);
        let number = (0..).find(|number| !list.contains_key(number)).unwrap_or(u32::MAX);
        let terminal = Rc::new(Self {
            number,
            env: env.clone(),
            far,
            node: RefCell::default(),
            owner,
            termios: RefCell::default(),
            window: Cell::new(window),
            session: Cell::new(0),
            foreground: Cell::new(0),
            line: RefCell::default(),
            ready: RefCell::default(),
            literal: Cell::new(false),
            pending: RefCell::default(),
            hung_up: Cell::new(false),
            notifier: Notifier::new(&env.woken),
        });
        list.insert(number, Rc::downgrade(&terminal));
        terminal
    }

    /// What its file systems share.
    #[must_use]
    pub fn env(&self) -> &Rc<Env> {
        &self.env
    }

    /// Its node in /dev/pts, if there is one yet.
    #[must_use]
    pub fn node(&self) -> Option<Rc<Node>> {
        self.node.borrow().upgrade()
    }

    /// Say which its node is.
    pub fn set_node(&self, node: &Rc<Node>) {
        *self.node.borrow_mut() = Rc::downgrade(node);
    }

    /// Who owns its node: user and group.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Whether the other side is gone.
    fn is_hung_up(&self) -> bool {
        match &self.far {
            Line::Host(input, _) => input.poll().contains(Readiness::HANGUP),
            Line::Master(master) => master.is_closed(),
        }
    }

    /// Whether output is taken now.
    fn takes_output(&self) -> bool {
        match &self.far {
            Line::Host(..) => self.pending.borrow().is_empty(),
            Line::Master(_) => self.pending.borrow().len() < OUTPUT_MAX,
        }
    }

    /// How much may be typed before it is read.
    fn room(&self) -> usize {
        let unread: usize = self.ready.borrow().iter().map(Vec::len).sum();
        LINE_MAX.saturating_sub(unread)
    }

    /// N of /dev/pts/N.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The session whose controlling terminal it is, 0 = none.
    #[must_use]
    pub fn session(&self) -> &Cell<u32> {
        &self.session
    }

    /// The foreground process group.
    #[must_use]
    pub fn foreground(&self) -> &Cell<u32> {
        &self.foreground
    }

    /// Rows and columns.
    #[must_use]
    pub fn window(&self) -> (u16, u16) {
        self.window.get()
    }

    /// Set rows and columns; the foreground learns of a change (SIGWINCH).
    pub fn set_window(&self, window: (u16, u16)) {
        if self.window.replace(window) != window {
            self.signal(SIGWINCH);
        }
    }

    fn signal(&self, signo: u32) {
        self.signal_group(self.foreground.get(), signo);
    }

    fn signal_group(&self, group: u32, signo: u32) {
        if group != 0 {
            self.env.terminals.signals.borrow_mut().push((group, signo));
        }
    }

    /// A handle changed: send what waits, process what was typed.
    pub fn serve(&self) {
        let before = (self.can_read(), self.takes_output());
        let _ = self.flush();
        if let Line::Host(input, _) = &self.far {
            while self.room() > 0 {
                let mut typed = VecSink { bytes: Vec::new(), limit: self.room().min(512) };
                match input.read(&mut typed) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => typed.bytes.iter().for_each(|byte| self.typed(*byte)),
                }
            }
        }
        let mut events = Readiness::empty();
        events.set(Readiness::READABLE, self.can_read() && !before.0);
        events.set(Readiness::WRITABLE, self.takes_output() && !before.1);
        let hung_up = self.is_hung_up();
        events.set(Readiness::HANGUP, hung_up && !self.hung_up.replace(hung_up));
        // Polling serves too: it must not wake those who poll without need.
        if !events.is_empty() {
            self.notifier.notify(events);
        }
    }

    fn can_read(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// One byte of input.
    fn typed(&self, mut byte: u8) {
        let termios = self.termios.borrow().clone();
        if termios.input & ISTRIP != 0 {
            byte &= 0x7f;
        }
        match byte {
            b'\r' if termios.input & IGNCR != 0 => return,
            b'\r' if termios.input & ICRNL != 0 => byte = b'\n',
            b'\n' if termios.input & INLCR != 0 => byte = b'\r',
            _ => {}
        }
        if self.literal.replace(false) {
            self.echo(&termios, byte);
            return self.keep(&termios, byte);
        }
        if termios.has(ISIG) {
            let signal = [(VINTR, SIGINT), (VQUIT, SIGQUIT), (VSUSP, SIGTSTP)]
                .into_iter()
                .find(|(which, _)| termios.is(byte, *which));
            if let Some((_, signo)) = signal {
                if !termios.has(NOFLSH) {
                    self.line.borrow_mut().clear();
                    self.ready.borrow_mut().clear();
                }
                self.echo(&termios, byte);
                return self.signal(signo);
            }
        }
        if termios.has(ICANON) { self.edit(&termios, byte) } else { self.arrive(&termios, byte) }
    }

    /// Non-canonical input.
    fn arrive(&self, termios: &Termios, byte: u8) {
        self.echo(termios, byte);
        let mut ready = self.ready.borrow_mut();
        match ready.back_mut() {
            Some(piece) if !piece.is_empty() => piece.push(byte),
            _ => ready.push_back(vec![byte]),
        }
    }

    fn keep(&self, termios: &Termios, byte: u8) {
        if !termios.has(ICANON) {
            let mut ready = self.ready.borrow_mut();
            ready.push_back(vec![byte]);
            return;
        }
        let mut line = self.line.borrow_mut();
        if line.len() + 1 < LINE_MAX {
            line.push(byte);
        }
    }

    /// Canonical input: line editing.
    fn edit(&self, termios: &Termios, byte: u8) {
        if termios.is(byte, VERASE) {
            return self.erase(termios, 1);
        }
        if termios.is(byte, VKILL) {
            let all = self.line.borrow().len();
            if termios.has(ECHOK) && !termios.has(ECHOKE) {
                self.line.borrow_mut().clear();
                self.echo(termios, byte);
                return self.output(b"\n");
            }
            return self.erase(termios, all);
        }
        if termios.has(IEXTEN) && termios.is(byte, VWERASE) {
            let line = self.line.borrow();
            let end = line.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |at| at + 1);
            let start = line[..end].iter().rposition(u8::is_ascii_whitespace).map_or(0, |at| at + 1);
            let count = line.len() - start;
            drop(line);
            return self.erase(termios, count);
        }
        if termios.has(IEXTEN) && termios.is(byte, VLNEXT) {
            self.literal.set(true);
            if termios.has(ECHO) && termios.has(ECHOCTL) {
                self.output(b"^\x08");
            }
            return;
        }
        if termios.is(byte, VEOF) {
            let line = self.line.take();
            self.ready.borrow_mut().push_back(line);
            return;
        }
        let ends = byte == b'\n' || termios.is(byte, VEOL) || termios.is(byte, VEOL2);
        if byte == b'\n' && !termios.has(ECHO) && termios.has(ECHONL) {
            self.output(b"\n");
        }
        self.echo(termios, byte);
        self.keep(termios, byte);
        if ends {
            let mut line = self.line.take();
            if line.last() != Some(&byte) {
                line.push(byte);
            }
            self.ready.borrow_mut().push_back(line);
        }
    }

    /// Remove the last `count` bytes of the line (whole UTF-8 characters) from the line and from the screen.
    fn erase(&self, termios: &Termios, count: usize) {
        let mut left = count;
        while left > 0 {
            let Some(byte) = self.line.borrow_mut().pop() else { return };
            left -= 1;
            if byte & 0xc0 == 0x80 {
                // The rest of a multi-byte character goes with it.
                left += 1;
                continue;
            }
            if termios.has(ECHO) && termios.has(ECHOE) {
                let control = byte < 32 && byte != b'\t' && termios.has(ECHOCTL);
                self.output(if control { b"\x08 \x08\x08 \x08" } else { b"\x08 \x08" });
            }
        }
    }

    fn echo(&self, termios: &Termios, byte: u8) {
        if !termios.has(ECHO) {
            return;
        }
        let control = (byte < 32 && byte != b'\n' && byte != b'\t') || byte == 127;
        if control && termios.has(ECHOCTL) {
            self.output(&[b'^', byte ^ 0x40]);
        } else {
            self.output(&[byte]);
        }
    }

    /// Output of the terminal itself; what does not fit is lost.
    fn output(&self, bytes: &[u8]) {
        self.process(bytes);
        let _ = self.flush();
    }

    fn process(&self, bytes: &[u8]) {
        let flags = self.termios.borrow().output;
        let translate = flags & (OPOST | ONLCR) == OPOST | ONLCR;
        let mut pending = self.pending.borrow_mut();
        for byte in bytes {
            if pending.len() >= 4 * OUTPUT_MAX {
                return;
            }
            if *byte == b'\n' && translate {
                pending.push_back(b'\r');
            }
            pending.push_back(*byte);
        }
    }

    /// Give pending output to the other side.
    ///
    /// # Errors
    /// EAGAIN if it does not take all; EIO.
    pub fn flush(&self) -> Result {
        let output = match &self.far {
            Line::Host(_, output) => output,
            Line::Master(master) => return master.output_waits(self.pending.borrow().len()),
        };
        loop {
            let bytes: Vec<u8> = self.pending.borrow().iter().copied().collect();
            if bytes.is_empty() {
                return Ok(());
            }
            let written = output.write(&mut bytes.as_slice())?;
            self.pending.borrow_mut().drain(..written);
            if written == 0 {
                return Err(Errno::EAGAIN);
            }
        }
    }

    /// Read a line, or in non-canonical mode what there is.
    ///
    /// # Errors
    /// EAGAIN, EFAULT.
    fn read(&self, sink: &mut dyn Sink) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        if !self.can_read() {
            self.serve();
        }
        let front = self.ready.borrow_mut().pop_front();
        let Some(mut piece) = front else {
            let termios = self.termios.borrow();
            let ended = match &self.far {
                Line::Host(input, _) => input.poll().intersects(Readiness::HANGUP | Readiness::READABLE),
                Line::Master(master) => master.is_closed(),
            };
            let no_wait = !termios.has(ICANON) && termios.characters[VMIN] == 0;
            return if no_wait || ended { Ok(0) } else { Err(Errno::EAGAIN) };
        };
        let count = piece.len().min(sink.remaining());
        let stored = sink.put(&piece[..count]);
        let kept = *stored.as_ref().unwrap_or(&0);
        if kept < piece.len() {
            piece.drain(..kept);
            self.ready.borrow_mut().push_front(piece);
        }
        stored
    }

    fn write(&self, source: &mut dyn Source) -> Result<usize> {
        self.flush()?;
        let mut done = 0;
        let mut chunk = [0; 1024];
        while source.remaining() > 0 {
            let want = source.remaining().min(chunk.len());
            match source.take(&mut chunk[..want]) {
                Ok(got) => {
                    self.process(&chunk[..got]);
                    done += got;
                    if got < want || self.flush().is_err() {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Terminal {
    fn poll(&self) -> Readiness {
        if !self.can_read() {
            self.serve();
        }
        let mut ready = Readiness::empty();
        let hung_up = self.is_hung_up();
        ready.set(Readiness::READABLE, self.can_read() || hung_up);
        ready.set(Readiness::WRITABLE, self.takes_output());
        ready.set(Readiness::HANGUP, hung_up);
        ready
    }

    fn bytes_readable(&self) -> u64 {
        self.ready.borrow().front().map_or(0, Vec::len) as u64
    }

    /// The requests that need no process: ioctl_tty(2). The others are the system call's business.
    fn ioctl(&self, memory: &dyn UserMemory, request: u32, argument: u64) -> Result<u64> {
        const TCGETS: u32 = 0x5401;
        const TCSETS: u32 = 0x5402;
        const TCSETSF: u32 = 0x5404;
        const TCSBRK: u32 = 0x5409;
        const TCXONC: u32 = 0x540a;
        const TCFLSH: u32 = 0x540b;
        const TIOCOUTQ: u32 = 0x5411;
        const TIOCGWINSZ: u32 = 0x5413;
        const TIOCSWINSZ: u32 = 0x5414;
        const TCSBRKP: u32 = 0x5425;
        const TIOCGPTN: u32 = 0x8004_5430;
        match request {
            TCGETS => memory.store(argument, &self.termios.borrow().encode())?,
            TCSETS..=TCSETSF => {
                let mut bytes = [0; TERMIOS_BYTES];
                memory.load(argument, &mut bytes)?;
                if request == TCSETSF {
                    self.line.borrow_mut().clear();
                    self.ready.borrow_mut().clear();
                }
                *self.termios.borrow_mut() = Termios::decode(&bytes);
            }
            TCSBRK | TCSBRKP | TCXONC => {}
            TCFLSH => {
                if argument != 1 {
                    self.line.borrow_mut().clear();
                    self.ready.borrow_mut().clear();
                }
                if argument != 0 {
                    self.pending.borrow_mut().clear();
                }
            }
            TIOCOUTQ => memory.store(argument, &(self.pending.borrow().len() as u32).to_le_bytes())?,
            TIOCGWINSZ => {
                let (rows, columns) = self.window.get();
                let mut bytes = [0; 8];
                bytes[..2].copy_from_slice(&rows.to_le_bytes());
                bytes[2..4].copy_from_slice(&columns.to_le_bytes());
                memory.store(argument, &bytes)?;
            }
            TIOCSWINSZ => {
                let mut bytes = [0; 8];
                memory.load(argument, &mut bytes)?;
                let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                self.set_window((half(0), half(2)));
            }
            TIOCGPTN => memory.store(argument, &self.number.to_le_bytes())?,
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}
