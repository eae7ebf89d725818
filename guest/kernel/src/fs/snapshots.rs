//! /dev/seuss: how a program asks for a snapshot, waits for a restore, and learns which clone it is.
//!
//! Writing `snapshot LEVEL KEY` (LEVEL is `base`, `function` or `argument`; both may be left out) takes a snapshot and returns when it exists. The write
//! returns in the guest that goes on and in every clone. Reading gives `generation N`: N is 0 in a guest that was booted, and counts restores along
//! the lineage in a clone; and `id HEX`, which no other guest has: random, and made anew at every restore. The first read of a description returns at once, the
//! next one waits until the number has changed; poll(2) and epoll tell it, too.
//!
//! Writing `hooks` makes a description a listener of snapshots that are asked for from outside (a pod that is ready): see [`super::listeners`].

use super::env::Env;
use super::file::{File, FileOps};
use super::listeners::{Announced, Listener, Listeners};
use super::notify::Notifier;
use crate::errno::{Errno, Result};
use crate::mem::user::{Sink, Source};
use crate::wait::{Readiness, Woken};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};

/// Longest key in bytes.
const KEY_MAX: usize = 1024;

/// Length of what tells guests apart, in bytes.
pub const ID_BYTES: usize = 16;

/// What a snapshot that nobody in the guest has asked for waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caution {
    /// Connections that the program has opened do not count.
    pub reset_connections: bool,
    /// How long the program must have settled, in nanoseconds.
    pub settled_ns: u64,
}

/// A snapshot that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Level: 0 base, 1 function, 2 argument.
    pub level: u64,
    /// What to call it.
    pub key: Vec<u8>,
    /// How many of the root file system's images it builds on, the lowest; 0: all.
    pub images: u64,
    /// It is not taken where something stands in its way.
    pub caution: Option<Caution>,
}

/// What has been asked for, and what has happened.
pub struct Snapshots {
    wanted: RefCell<Option<Wanted>>,
    /// Number of the youngest request, and of the youngest one that is done.
    asked: Cell<u64>,
    done: Cell<u64>,
    /// How that one went: 0 or a negated errno.
    outcome: Cell<i64>,
    generation: Cell<u64>,
    id: Cell<[u8; ID_BYTES]>,
    listeners: Listeners,
    /// A program has read the generation: it may have hooks of its own.
    was_read: Cell<bool>,
    notifier: Notifier,
}

impl Snapshots {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(woken: &Woken) -> Self {
        Self {
            wanted: RefCell::default(),
            asked: Cell::new(0),
            done: Cell::new(0),
            outcome: Cell::new(0),
            generation: Cell::new(0),
            id: Cell::default(),
            listeners: Listeners::default(),
            was_read: Cell::new(false),
            notifier: Notifier::new(woken),
        }
    }

    /// Ask for a snapshot; returns the request's number. Of several before the next one is taken, the last one counts.
    pub fn ask(&self, wanted: Wanted) -> u64 {
        *self.wanted.borrow_mut() = Some(wanted);
        self.asked.set(self.asked.get() + 1);
        self.asked.get()
    }

    /// A snapshot is asked for from outside: as [`Self::ask`] once those who listen are ready for it. Returns the announcement's number if they have to be waited for.
    pub fn ask_from_outside(&self, wanted: Wanted) -> Option<u64> {
        match self.listeners.announce(wanted) {
            Announced::ToNobody(wanted) => {
                self.ask(wanted);
                None
            }
            Announced::As(number) => {
                self.notifier.notify(Readiness::READABLE);
                Some(number)
            }
        }
    }

    /// Who has not answered announcement `number` by now is not waited for. Returns how many there are.
    pub fn wait_no_longer(&self, number: u64) -> usize {
        let (late, wanted) = self.listeners.wait_no_longer(number);
        wanted.map(|wanted| self.ask(wanted));
        late
    }

    /// Whether a snapshot is to be taken.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.borrow().is_some()
    }

    /// The request.
    #[must_use]
    pub fn wanted(&self) -> Option<Wanted> {
        self.wanted.borrow().clone()
    }

    /// Take the request.
    #[must_use]
    pub fn take(&self) -> Option<Wanted> {
        self.wanted.borrow_mut().take()
    }

    /// All requests so far are done, with this result. Said before the snapshot is taken, too, so that a clone finds it so.
    pub fn finish(&self, outcome: i64) {
        self.outcome.set(outcome);
        self.done.set(self.asked.get());
        self.notifier.notify(Readiness::WRITABLE);
    }

    /// As [`Self::finish`], of a snapshot that may have been announced.
    pub fn finish_announced(&self, outcome: i64) {
        self.listeners.finish(outcome);
        self.finish(outcome);
        self.notifier.notify(Readiness::READABLE);
    }

    /// Nothing runs: ask for what was announced and all have answered.
    pub fn ask_for_answered(&self) {
        if let Some(wanted) = self.listeners.take_answered() {
            self.ask(wanted);
        }
    }

    /// How often the lineage was restored.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// What tells this guest apart: random, and another one after a restore.
    #[must_use]
    pub fn id(&self) -> [u8; ID_BYTES] {
        self.id.get()
    }

    /// Whether a program has asked which clone it is.
    #[must_use]
    pub fn was_read(&self) -> bool {
        self.was_read.get()
    }

    /// What tells this guest apart.
    pub fn set_id(&self, id: [u8; ID_BYTES]) {
        self.id.set(id);
    }

    /// This is a clone now.
    pub fn restored(&self, generation: u64, id: [u8; ID_BYTES]) {
        self.generation.set(generation);
        self.id.set(id);
        self.listeners.forget_ends();
        self.notifier.notify(Readiness::READABLE);
    }
}

/// An open /dev/seuss.
pub struct SnapshotDevice {
    env: Rc<Env>,
    /// The request that a write waits for.
    asked: Cell<Option<u64>>,
    /// The generation that was read last.
    seen: Cell<Option<u64>>,
    /// It is told of captures before they happen.
    listener: OnceCell<Rc<Listener>>,
}

impl SnapshotDevice {
    /// A description that has seen nothing yet.
    #[must_use]
    pub fn new(env: &Rc<Env>) -> Self {
        Self { env: env.clone(), asked: Cell::new(None), seen: Cell::new(None), listener: OnceCell::new() }
    }

    fn is_new(&self) -> bool {
        self.seen.get() != Some(self.env.snapshots.generation())
    }

    /// What a listener has to be told of captures.
    fn news(&self) -> Option<(String, impl FnOnce())> {
        self.env.snapshots.listeners.news(self.listener.get()?)
    }

    /// `hooks` and `ready N`; `None`: it is something else.
    fn command(&self, text: &[u8]) -> Option<Result> {
        let mut words = text.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        let snapshots = &self.env.snapshots;
        match (words.next()?, words.next(), words.next()) {
            (b"hooks", None, None) if self.listener.get().is_some() => Some(Ok(())),
            (b"hooks", None, None) => Some(snapshots.listeners.add().map(|listener| {
                let _ = self.listener.set(listener);
            })),
            (b"ready", Some(number), None) => {
                let number = core::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
                let (Some(listener), Some(number)) = (self.listener.get(), number) else {
                    return Some(Err(Errno::EINVAL));
                };
                Some(snapshots.listeners.answer(listener, number))
            }
            _ => None,
        }
    }
}

/// Read a request.
///
/// # Errors
/// EINVAL.
fn parse(text: &[u8]) -> Result<Wanted> {
    let mut words = text.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    if words.next() != Some(b"snapshot") {
        return Err(Errno::EINVAL);
    }
    let level = match words.next() {
        Some(b"base") => 0,
        Some(b"function") | None => 1,
        Some(b"argument") => 2,
        Some(_) => return Err(Errno::EINVAL),
    };
    let key = words.next().unwrap_or_default().to_vec();
    if words.next().is_some() || key.len() > KEY_MAX {
        return Err(Errno::EINVAL);
    }
    Ok(Wanted { level, key, images: 0, caution: None })
}

impl FileOps for SnapshotDevice {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        if !self.is_new() {
            let (text, told) = self.news().ok_or(Errno::EAGAIN)?;
            let stored = sink.put(text.as_bytes())?;
            told();
            return Ok(stored);
        }
        let generation = self.env.snapshots.generation();
        let id: String = self.env.snapshots.id().iter().map(|byte| format!("{byte:02x}")).collect();
        let stored = sink.put(format!("generation {generation}\nid {id}\n").as_bytes())?;
        self.seen.set(Some(generation));
        self.env.snapshots.was_read.set(true);
        Ok(stored)
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        let snapshots = &self.env.snapshots;
        let len = source.remaining();
        if let Some(asked) = self.asked.get() {
            if snapshots.done.get() < asked {
                return Err(Errno::EAGAIN);
            }
            self.asked.set(None);
            return match snapshots.outcome.get() {
                0 => Ok(len),
                failed => Err(Errno(u16::try_from(-failed).unwrap_or(Errno::EIO.0))),
            };
        }
        let mut text = [0; KEY_MAX + 32];
        if len > text.len() {
            return Err(Errno::EINVAL);
        }
        // The base snapshot that is due comes first.
        self.env.base.check_outside()?;
        let taken = source.take(&mut text[..len])?;
        if let Some(outcome) = self.command(&text[..taken]) {
            return outcome.map(|()| len);
        }
        self.asked.set(Some(snapshots.ask(parse(&text[..taken])?)));
        Err(Errno::EAGAIN)
    }

    fn poll(&self, _file: &File) -> Readiness {
        let mut ready = Readiness::empty();
        ready.set(Readiness::READABLE, self.is_new() || self.news().is_some());
        ready.set(
            Readiness::WRITABLE,
            self.asked.get().is_none_or(|asked| self.env.snapshots.done.get() >= asked),
        );
        ready
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.env.snapshots.notifier)
    }
}

impl Drop for SnapshotDevice {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.env.snapshots.listeners.remove(&listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed() {
        let wanted = |level, key: &[u8]| Ok(Wanted { level, key: key.to_vec(), images: 0, caution: None });
        assert_eq!(parse(b"snapshot"), wanted(1, b""));
        assert_eq!(parse(b"snapshot base\n"), wanted(0, b""));
        assert_eq!(parse(b" snapshot argument  user-7 \n"), wanted(2, b"user-7"));
        for wrong in [&b""[..], b"snap", b"snapshot other", b"snapshot base a b"] {
            assert_eq!(parse(wrong), Err(Errno::EINVAL));
        }
    }
}
