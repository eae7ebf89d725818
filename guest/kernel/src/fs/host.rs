//! Streams behind handles of the VMM (seuss_abi::call): the first process' stdin, stdout and stderr, and those of processes that the VMM starts.
//!
//! The VMM tells readiness by edges. Whether a stream can be read is known for certain only by reading it, so `poll` reads ahead a little when the
//! last edge may have been used up: a program that polls and then reads must not block.

use super::env::Env;
use super::file::{File, FileOps};
use super::node::{Generated, Node};
use super::notify::Notifier;
use super::walk::Context;
use crate::errno::{Errno, Result};
use crate::mem::frames::Frame;
use crate::mem::user::{Sink, Source};
use crate::wait::Readiness;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::call::Op;
use seuss_abi::event;
use seuss_abi::layout::PAGE_SIZE;

const PAGE: usize = PAGE_SIZE as usize;
/// Frames that bytes of one host call pass through.
const SCRATCH_FRAMES: usize = 16;

/// Something that a handle's events are for.
pub trait HandleEvents {
    /// The handle changed; `bits` as in [`seuss_abi::event::Kind::Ready`].
    fn ready(&self, bits: u64);

    /// This is a clone now: the VMM's end of the handle is a new one (`alive`), or there is none. Sockets open their listeners again here, and reset what
    /// was connected.
    fn restored(&self, alive: bool);
}

/// Who is told of which handle's events.
#[derive(Default)]
pub struct Handles(RefCell<BTreeMap<u32, Weak<dyn HandleEvents>>>);

impl Handles {
    /// Tell `target` of the events of `handle`, while it lives.
    pub fn register(&self, handle: u32, target: Weak<dyn HandleEvents>) {
        self.0.borrow_mut().insert(handle, target);
    }

    /// No longer tell anybody.
    pub fn unregister(&self, handle: u32) {
        self.0.borrow_mut().remove(&handle);
    }

    /// This is a clone now, whose VMM knows the handles in `alive`.
    pub fn restored(&self, alive: &[u32]) {
        let targets: Vec<_> =
            self.0.borrow().iter().map(|(handle, target)| (*handle, target.upgrade())).collect();
        for (handle, target) in targets {
            if !alive.contains(&handle) {
                // Another handle may get the number.
                self.unregister(handle);
            }
            if let Some(target) = target {
                target.restored(alive.contains(&handle));
            }
        }
    }

    /// A `Ready` event came.
    pub fn ready(&self, handle: u32, bits: u64) {
        let target = self.0.borrow().get(&handle).and_then(Weak::upgrade);
        if let Some(target) = target {
            target.ready(bits);
        }
    }
}

/// The frames that bytes pass through on their way to and from the VMM: segments, then data.
#[derive(Default)]
pub struct Scratch(RefCell<Vec<Frame>>);

impl Env {
    /// Give the frames back: a snapshot need not have them.
    pub(crate) fn drop_scratch(&self) {
        self.scratch.0.borrow_mut().clear();
    }

    /// Have frames for `len` bytes: no more than are needed, since each costs a clone the first use of a page.
    fn scratch_frames(&self, len: usize) -> Result<()> {
        let mut scratch = self.scratch.0.borrow_mut();
        while scratch.len() <= len.div_ceil(PAGE) {
            scratch.push(self.frames.allocate_kernel().ok_or(Errno::ENOMEM)?);
        }
        Ok(())
    }

    /// Describe the first `len` bytes of the scratch data to the VMM and make the call.
    fn host_transfer(&self, op: Op, handle: u32, len: usize) -> Result<usize> {
        let scratch = self.scratch.0.borrow();
        let (segments, data) = scratch.split_first().ok_or(Errno::ENOMEM)?;
        let mut count = 0;
        while count * PAGE < len {
            let bytes = (len - count * PAGE).min(PAGE) as u64;
            let at = segments.gpa() + (count * 16) as u64;
            self.frames.write(at, &data[count].gpa().to_le_bytes());
            self.frames.write(at + 8, &bytes.to_le_bytes());
            count += 1;
        }
        let gpa = segments.gpa();
        drop(scratch);
        let result = self.machine.host_call(op, [u64::from(handle), gpa, count as u64, 0, 0, 0]);
        match usize::try_from(result) {
            Ok(moved) => Ok(moved.min(len)),
            Err(_) => Err(Errno(u16::try_from(-result).unwrap_or(Errno::EIO.0))),
        }
    }

    fn scratch_gpa(&self, index: usize) -> Option<u64> {
        self.scratch.0.borrow().get(index + 1).map(Frame::gpa)
    }

    /// Read up to `limit` bytes from a handle without waiting; `take` gets them in pieces.
    ///
    /// # Errors
    /// EAGAIN, and what the VMM reports.
    pub fn host_read(&self, handle: u32, limit: usize, take: &mut dyn FnMut(&[u8])) -> Result<usize> {
        let limit = limit.min(SCRATCH_FRAMES * PAGE);
        self.scratch_frames(limit)?;
        let moved = self.host_transfer(Op::Read, handle, limit)?;
        let mut chunk = [0; PAGE];
        let mut done = 0;
        while done < moved {
            let count = (moved - done).min(PAGE);
            let Some(gpa) = self.scratch_gpa(done / PAGE) else { break };
            self.frames.read(gpa, &mut chunk[..count]);
            take(&chunk[..count]);
            done += count;
        }
        Ok(moved)
    }

    /// Write bytes of `source` to a handle without waiting; more may be taken from it than are written.
    ///
    /// # Errors
    /// EAGAIN, EPIPE, EFAULT, and what the VMM reports.
    pub fn host_write(&self, handle: u32, source: &mut dyn Source) -> Result<usize> {
        let mut chunk = [0; PAGE];
        let mut len = 0;
        while len < SCRATCH_FRAMES * PAGE {
            let want = source.remaining().min(PAGE);
            if want == 0 {
                break;
            }
            match self.scratch_frames(len + want).and_then(|()| source.take(&mut chunk[..want])) {
                Ok(got) => {
                    if let Some(gpa) = self.scratch_gpa(len / PAGE) {
                        self.frames.write(gpa, &chunk[..got]);
                    }
                    len += got;
                    if got < PAGE {
                        break;
                    }
                }
                Err(errno) if len == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        if len == 0 { Ok(0) } else { self.host_transfer(Op::Write, handle, len) }
    }
}

/// A stream behind a handle. Dropping it closes the handle.
pub struct HostStream {
    handle: u32,
    env: Rc<Env>,
    /// Reading may give something: set by an edge, cleared by EAGAIN.
    readable: Cell<bool>,
    writable: Cell<bool>,
    hung_up: Cell<bool>,
    failed: Cell<bool>,
    /// The VMM no longer knows the handle: it was that of a guest whose clone this is.
    dead: Cell<bool>,
    /// The end was read.
    ended: Cell<bool>,
    ahead: RefCell<VecDeque<u8>>,
    notifier: Notifier,
    /// Who is told of events besides: the terminal.
    listener: RefCell<Option<Weak<dyn HandleEvents>>>,
}

impl HostStream {
    /// The stream behind `handle`.
    #[must_use]
    pub fn new(env: &Rc<Env>, handle: u32) -> Rc<Self> {
        let stream = Rc::new(Self {
            handle,
            env: env.clone(),
            readable: Cell::new(true),
            writable: Cell::new(true),
            hung_up: Cell::new(false),
            failed: Cell::new(false),
            dead: Cell::new(false),
            ended: Cell::new(false),
            ahead: RefCell::default(),
            notifier: Notifier::new(&env.woken),
            listener: RefCell::default(),
        });
        let weak: Weak<Self> = Rc::downgrade(&stream);
        env.handles.register(handle, weak);
        stream
    }

    /// Where its events are told.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Tell `listener` of events, after the stream has taken note.
    pub fn set_listener(&self, listener: Weak<dyn HandleEvents>) {
        *self.listener.borrow_mut() = Some(listener);
    }

    /// Read without waiting.
    ///
    /// # Errors
    /// EAGAIN, EFAULT, EIO.
    pub fn read(&self, sink: &mut dyn Sink) -> Result<usize> {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        if self.ahead.borrow().is_empty() {
            self.fill(sink.remaining())?;
        }
        let bytes: Vec<u8> = {
            let mut ahead = self.ahead.borrow_mut();
            let count = ahead.len().min(sink.remaining());
            ahead.drain(..count).collect()
        };
        let stored = sink.put(&bytes);
        let kept = *stored.as_ref().unwrap_or(&0);
        if kept < bytes.len() {
            let mut ahead = self.ahead.borrow_mut();
            bytes[kept..].iter().rev().for_each(|byte| ahead.push_front(*byte));
        }
        stored
    }

    /// Get bytes from the VMM into `ahead`. Nothing there and no error means the end.
    fn fill(&self, limit: usize) -> Result {
        if self.ended.get() {
            return Ok(());
        }
        if !self.readable.get() {
            return Err(Errno::EAGAIN);
        }
        self.env.base.check_outside()?;
        let mut ahead = self.ahead.borrow_mut();
        match self.env.host_read(self.handle, limit, &mut |bytes| ahead.extend(bytes)) {
            Ok(0) => self.ended.set(true),
            Ok(_) => {}
            Err(errno) => {
                if errno == Errno::EAGAIN {
                    self.readable.set(false);
                }
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Write without waiting; more may be taken from `source` than is written.
    ///
    /// # Errors
    /// EAGAIN, EPIPE, EFAULT, EIO.
    pub fn write(&self, source: &mut dyn Source) -> Result<usize> {
        if source.remaining() == 0 {
            return Ok(0);
        }
        if self.dead.get() {
            // As /dev/null: a clone that was given no output is not told that its output is broken.
            return Ok(source.remaining());
        }
        if !self.writable.get() {
            return Err(Errno::EAGAIN);
        }
        let result = self.env.host_write(self.handle, source);
        if result == Err(Errno::EAGAIN) {
            self.writable.set(false);
        }
        result
    }

    /// Whether reading and writing would not wait.
    #[must_use]
    pub fn poll(&self) -> Readiness {
        let mut ready = Readiness::empty();
        if self.ahead.borrow().is_empty() && self.readable.get() && !self.ended.get() {
            // Was the last edge used up already?
            let _ = self.fill(PAGE);
        }
        if self.ended.get() || !self.ahead.borrow().is_empty() {
            ready |= Readiness::READABLE;
        }
        if self.writable.get() {
            ready |= Readiness::WRITABLE;
        }
        if self.hung_up.get() {
            ready |= Readiness::HANGUP;
        }
        if self.failed.get() {
            ready |= Readiness::ERROR;
        }
        ready
    }

    /// Bytes that are here already.
    #[must_use]
    pub fn available(&self) -> usize {
        let _ = self.poll();
        self.ahead.borrow().len()
    }
}

impl HandleEvents for HostStream {
    fn restored(&self, alive: bool) {
        if self.dead.get() {
            return;
        }
        self.dead.set(!alive);
        self.hung_up.set(false);
        self.failed.set(false);
        self.ended.set(!alive);
        self.readable.set(true);
        self.writable.set(true);
        self.notifier.notify(Readiness::READABLE | Readiness::WRITABLE);
        let listener = self.listener.borrow().as_ref().and_then(Weak::upgrade);
        if let Some(listener) = listener {
            listener.restored(alive);
        }
    }

    fn ready(&self, bits: u64) {
        let mut events = Readiness::empty();
        if bits & (event::READABLE | event::HANGUP) != 0 {
            self.readable.set(true);
            events |= Readiness::READABLE;
        }
        if bits & (event::WRITABLE | event::HANGUP | event::ERROR) != 0 {
            self.writable.set(true);
            events |= Readiness::WRITABLE;
        }
        if bits & event::HANGUP != 0 {
            self.hung_up.set(true);
            events |= Readiness::HANGUP;
        }
        if bits & event::ERROR != 0 {
            self.failed.set(true);
            events |= Readiness::ERROR;
        }
        self.notifier.notify(events);
        let listener = self.listener.borrow().as_ref().and_then(Weak::upgrade);
        if let Some(listener) = listener {
            listener.ready(bits);
        }
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        if self.dead.get() {
            return;
        }
        self.env.handles.unregister(self.handle);
        self.env.machine.host_call(Op::Close, [u64::from(self.handle), 0, 0, 0, 0, 0]);
    }
}

/// A description's behaviour: the stream, shared by all descriptions of it.
pub struct HostFile(pub Rc<HostStream>);

impl FileOps for HostFile {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        self.0.read(sink)
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        self.0.write(source)
    }

    fn poll(&self, file: &File) -> Readiness {
        if file.can_read() {
            let mut ready = self.0.poll();
            if !file.can_write() {
                ready.remove(Readiness::WRITABLE);
            }
            return ready;
        }
        // A stream that is only written is not read ahead.
        let mut ready = Readiness::empty();
        ready.set(Readiness::WRITABLE, self.0.writable.get());
        ready.set(Readiness::ERROR, self.0.failed.get() || self.0.hung_up.get());
        ready
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(self.0.notifier())
    }

    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        Ok(self.0.available() as u64)
    }
}

/// The node of a stream: opening it (through /proc/PID/fd or /dev/stdout) gives another description of the stream.
pub struct HostNode(pub Rc<HostStream>);

impl Generated for HostNode {
    fn open(&self, _node: &Rc<Node>, _flags: u32, _context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        Ok(Rc::new(HostFile(self.0.clone())))
    }
}
