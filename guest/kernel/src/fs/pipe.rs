//! Pipes and FIFOs (pipe(7), fifo(7)).

use super::env::{Env, FileSystem};
use super::file::{File, FileOps, flags};
use super::node::{Kind, Node, S_IFIFO};
use super::notify::Notifier;
use crate::errno::{Errno, Result};
use crate::mem::user::{Sink, Source};
use crate::wait::Readiness;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::layout::PAGE_SIZE;

/// Writes of up to this many bytes are not interleaved (limits.h).
pub const PIPE_BUF: usize = 4096;
/// Capacity of a new pipe.
const CAPACITY: usize = 16 * PAGE_SIZE as usize;
/// Largest capacity that F_SETPIPE_SZ gives (fs.pipe-max-size).
pub const CAPACITY_MAX: usize = 1 << 20;
/// With fewer free frames than this a pipe holds no more than PIPE_BUF bytes: the buffer lies in the library OS's heap.
const FRAMES_MIN: usize = 512;
/// A drained buffer larger than this is given back.
const KEPT: usize = 16 << 10;

/// A pipe: what both ends share.
pub struct Pipe {
    buffer: RefCell<VecDeque<u8>>,
    capacity: Cell<usize>,
    readers: Cell<u32>,
    writers: Cell<u32>,
    /// How often an end was opened for reading and writing: FIFO openers wait for a change.
    opened: Cell<(u64, u64)>,
    /// It has a name, so whoever opens an end waits for the other one.
    is_fifo: bool,
    notifier: Notifier,
    env: Rc<Env>,
}

impl Pipe {
    /// A pipe without ends; `is_fifo` if it has a name.
    #[must_use]
    pub fn new(env: &Rc<Env>, is_fifo: bool) -> Rc<Self> {
        Rc::new(Self {
            is_fifo,
            buffer: RefCell::default(),
            capacity: Cell::new(CAPACITY),
            readers: Cell::new(0),
            writers: Cell::new(0),
            opened: Cell::new((0, 0)),
            notifier: Notifier::new(&env.woken),
            env: env.clone(),
        })
    }

    /// Where its events are told.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Whether an end is open for reading, and for writing.
    #[must_use]
    pub fn is_open(&self) -> (bool, bool) {
        (self.readers.get() > 0, self.writers.get() > 0)
    }

    /// Whether opening it with O_NONBLOCK for writing alone must fail: a FIFO that nobody reads (fifo(7)). A pipe's end may be opened through /proc at
    /// any time.
    #[must_use]
    pub fn refuses_writers(&self) -> bool {
        self.is_fifo && self.readers.get() == 0
    }

    /// How often an end was opened for reading and for writing.
    #[must_use]
    pub fn times_opened(&self) -> (u64, u64) {
        self.opened.get()
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.borrow().len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity.get()
    }

    /// F_SETPIPE_SZ: the capacity becomes at least `bytes`, in whole powers of two of pages.
    ///
    /// # Errors
    /// EPERM above the limit, EBUSY if more is in the pipe, EINVAL.
    pub fn set_capacity(&self, bytes: u64) -> Result<usize> {
        if bytes > u64::from(u32::MAX >> 1) {
            return Err(Errno::EINVAL);
        }
        let wanted = (bytes.max(PAGE_SIZE) as usize).next_power_of_two();
        if wanted > CAPACITY_MAX {
            return Err(Errno::EPERM);
        }
        if wanted < self.len() {
            return Err(Errno::EBUSY);
        }
        self.capacity.set(wanted);
        self.notifier.notify(Readiness::WRITABLE);
        Ok(wanted)
    }

    fn room(&self) -> usize {
        let scarce = self.env.frames.available() < FRAMES_MIN;
        let capacity = if scarce { self.capacity.get().min(PIPE_BUF) } else { self.capacity.get() };
        capacity.saturating_sub(self.len())
    }

    /// Take bytes out of the pipe.
    ///
    /// # Errors
    /// EAGAIN if it is empty and has writers; EFAULT.
    pub fn read(&self, sink: &mut dyn Sink) -> Result<usize> {
        let mut chunk = [0; PIPE_BUF];
        let mut done = 0;
        let result = loop {
            let count = {
                let buffer = self.buffer.borrow();
                let count = buffer.len().min(chunk.len()).min(sink.remaining());
                let (front, back) = buffer.as_slices();
                let first = count.min(front.len());
                chunk[..first].copy_from_slice(&front[..first]);
                chunk[first..count].copy_from_slice(&back[..count - first]);
                count
            };
            if count == 0 {
                break Ok(done);
            }
            match sink.put(&chunk[..count]) {
                Ok(stored) => {
                    self.buffer.borrow_mut().drain(..stored);
                    done += stored;
                    if stored < count {
                        break Ok(done);
                    }
                }
                Err(errno) => break if done == 0 { Err(errno) } else { Ok(done) },
            }
        };
        if done > 0 {
            self.drained();
        } else if result == Ok(0) && self.is_empty() && self.writers.get() > 0 && sink.remaining() > 0 {
            return Err(Errno::EAGAIN);
        }
        result
    }

    fn drained(&self) {
        {
            let mut buffer = self.buffer.borrow_mut();
            if buffer.is_empty() && buffer.capacity() > KEPT {
                *buffer = VecDeque::new();
            }
        }
        self.notifier.notify(Readiness::WRITABLE);
    }

    /// Put bytes into the pipe: all of them or none if they are at most PIPE_BUF, else as many as fit.
    ///
    /// # Errors
    /// EPIPE without readers; EAGAIN if there is no room; EFAULT.
    pub fn write(&self, source: &mut dyn Source) -> Result<usize> {
        if source.remaining() == 0 {
            return Ok(0);
        }
        if self.readers.get() == 0 {
            return Err(Errno::EPIPE);
        }
        let atomic = source.remaining() <= PIPE_BUF;
        if self.room() == 0 || (atomic && self.room() < source.remaining()) {
            return Err(Errno::EAGAIN);
        }
        let mut chunk = [0; PIPE_BUF];
        let mut done = 0;
        let result = loop {
            let want = source.remaining().min(chunk.len()).min(self.room());
            if want == 0 {
                break Ok(done);
            }
            match source.take(&mut chunk[..want]) {
                // As on Linux, a piece that could not be read whole is not written at all.
                Ok(got) if got < want => break if done == 0 { Err(Errno::EFAULT) } else { Ok(done) },
                Ok(got) => {
                    self.buffer.borrow_mut().extend(&chunk[..got]);
                    done += got;
                }
                Err(errno) => break if done == 0 { Err(errno) } else { Ok(done) },
            }
        };
        if done > 0 {
            self.notifier.notify(Readiness::READABLE);
        }
        result
    }

    /// Copy up to `limit` bytes without taking them (tee(2)).
    #[must_use]
    pub fn peek(&self, limit: usize) -> Vec<u8> {
        self.buffer.borrow().iter().take(limit).copied().collect()
    }

    /// Bytes that fit now.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.room()
    }
}

impl core::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Pipe")
            .field("bytes", &self.len())
            .field("readers", &self.readers.get())
            .field("writers", &self.writers.get())
            .finish_non_exhaustive()
    }
}

/// An open end of a pipe, or both.
#[derive(Debug)]
pub struct PipeEnd {
    pipe: Rc<Pipe>,
    reads: bool,
    writes: bool,
    /// Another end was there when this one was opened, or it need not be.
    had_peer: bool,
    /// How often the ends had been opened then.
    opened_before: (u64, u64),
}

impl PipeEnd {
    /// Open an end; `flags` are open(2)'s.
    #[must_use]
    pub fn new(pipe: &Rc<Pipe>, flags: u32) -> Rc<Self> {
        let mode = flags & flags::O_ACCMODE;
        let (reads, writes) = (mode != flags::O_WRONLY, mode != flags::O_RDONLY);
        let (read_opens, write_opens) = pipe.opened.get();
        pipe.opened.set((read_opens + u64::from(reads), write_opens + u64::from(writes)));
        pipe.readers.set(pipe.readers.get() + u32::from(reads));
        pipe.writers.set(pipe.writers.get() + u32::from(writes));
        let had_peer =
            !pipe.is_fifo || (reads && pipe.writers.get() > 0) || (writes && pipe.readers.get() > 0);
        pipe.notifier.notify(Readiness::all());
        Rc::new(Self {
            pipe: pipe.clone(),
            reads,
            writes,
            had_peer,
            opened_before: (read_opens, write_opens),
        })
    }

    /// Whether the other end is open, or was since this one was opened (fifo(7): open(2) waits for that). True for a pipe without a
    /// name.
    #[must_use]
    pub fn met_peer(&self) -> bool {
        let (read_opens, write_opens) = self.pipe.opened.get();
        self.had_peer
            || (self.reads && write_opens > self.opened_before.1)
            || (self.writes && read_opens > self.opened_before.0)
    }

    /// The pipe.
    #[must_use]
    pub fn pipe(&self) -> &Rc<Pipe> {
        &self.pipe
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let pipe = &self.pipe;
        pipe.readers.set(pipe.readers.get() - u32::from(self.reads));
        pipe.writers.set(pipe.writers.get() - u32::from(self.writes));
        if pipe.readers.get() == 0 && pipe.writers.get() == 0 {
            *pipe.buffer.borrow_mut() = VecDeque::new();
        }
        pipe.notifier
            .notify(Readiness::HANGUP | Readiness::ERROR | Readiness::READABLE | Readiness::WRITABLE);
    }
}

impl FileOps for PipeEnd {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        self.pipe.read(sink)
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        self.pipe.write(source)
    }

    fn poll(&self, _file: &File) -> Readiness {
        let mut ready = Readiness::empty();
        if self.reads {
            if !self.pipe.is_empty() {
                ready |= Readiness::READABLE;
            }
            if self.pipe.writers.get() == 0 && self.met_peer() {
                ready |= Readiness::HANGUP;
            }
        }
        if self.writes {
            if self.pipe.room() >= PIPE_BUF {
                ready |= Readiness::WRITABLE;
            }
            if self.pipe.readers.get() == 0 {
                ready |= Readiness::ERROR;
            }
        }
        ready
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.pipe.notifier)
    }

    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        Ok(self.pipe.len() as u64)
    }
}

/// pipe2(2): a new pipe's reading and writing description. `status` is O_NONBLOCK, O_DIRECT or nothing.
///
/// **Not** supported: packets (O_DIRECT).
///
/// # Errors
/// ENFILE when memory is used up.
pub fn make_pipe(pipefs: &Rc<FileSystem>, owner: (u32, u32), status: u32) -> Result<(Rc<File>, Rc<File>)> {
    pipefs.env.check_space().map_err(|_| Errno::ENFILE)?;
    let pipe = Pipe::new(&pipefs.env, false);
    let kind = Kind::Fifo(RefCell::new(Rc::downgrade(&pipe)));
    let node = Node::anonymous(pipefs, S_IFIFO | 0o600, owner, b"pipe:", kind);
    let reader = File::new(node.clone(), PipeEnd::new(&pipe, flags::O_RDONLY), flags::O_RDONLY | status);
    let writer = File::new(node, PipeEnd::new(&pipe, flags::O_WRONLY), flags::O_WRONLY | status);
    Ok((reader, writer))
}

/// The pipe behind a FIFO node.
///
/// # Errors
/// ENXIO if the node is none.
pub fn fifo_of(node: &Rc<Node>) -> Result<Rc<Pipe>> {
    let Kind::Fifo(slot) = node.kind() else { return Err(Errno::ENXIO) };
    if let Some(pipe) = slot.borrow().upgrade() {
        return Ok(pipe);
    }
    let pipe = Pipe::new(&node.fs().env, true);
    *slot.borrow_mut() = Rc::downgrade(&pipe);
    Ok(pipe)
}
