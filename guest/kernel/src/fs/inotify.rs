//! Watching files and directories (inotify(7)).
//!
//! A watch hangs at its node; what happens to a node is told to its own watches and, with its name, to those of its directory. As long as nothing is
//! watched, telling costs one comparison. **Not** supported: IN_UNMOUNT; IN_DELETE_SELF comes with the last name, not with the last
//! descriptor.

use super::env::Env;
use super::file::{File, FileOps};
use super::node::Node;
use super::notify::Notifier;
use crate::errno::{Errno, Result};
use crate::mem::user::Sink;
use crate::wait::Readiness;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// Most watches of one instance (fs.inotify.max_user_watches).
const WATCHES_MAX: usize = 65536;
/// Most events that wait to be read (fs.inotify.max_queued_events).
const QUEUE_MAX: usize = 16384;
/// Bytes of struct inotify_event without its name, and what the name is padded to.
const EVENT_BYTES: usize = 16;

/// Event bits (linux/inotify.h).
#[allow(missing_docs)]
pub mod event {
    pub const ACCESS: u32 = 0x1;
    pub const MODIFY: u32 = 0x2;
    pub const ATTRIB: u32 = 0x4;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    /// All of the above.
    pub const ALL: u32 = 0xfff;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ISDIR: u32 = 0x4000_0000;
    pub const ONESHOT: u32 = 0x8000_0000;
}

/// The watches at one node.
#[derive(Default)]
pub struct Watches(RefCell<Vec<Weak<Watch>>>);

impl Watches {
    fn add(&self, watch: &Rc<Watch>) {
        let mut list = self.0.borrow_mut();
        list.retain(|watch| watch.strong_count() > 0);
        list.push(Rc::downgrade(watch));
    }

    fn all(&self) -> Vec<Rc<Watch>> {
        self.0.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// The node is gone: its watches end.
    pub(crate) fn end(&self) {
        for watch in self.all() {
            if let Some(instance) = watch.instance.upgrade() {
                let _ = instance.remove(watch.number);
            }
        }
    }

    fn tell(&self, mask: u32, name: &[u8], cookie: u32) {
        for watch in self.all() {
            watch.tell(mask, name, cookie);
        }
    }
}

/// A watch of an instance at a node.
struct Watch {
    instance: Weak<Inotify>,
    number: i32,
    mask: Cell<u32>,
    node: Rc<Node>,
}

impl Watch {
    fn tell(&self, mask: u32, name: &[u8], cookie: u32) {
        if self.mask.get() & mask & event::ALL == 0 {
            return;
        }
        let Some(instance) = self.instance.upgrade() else { return };
        instance.push(Event { watch: self.number, mask, cookie, name: name.into() });
        if self.mask.get() & event::ONESHOT != 0 {
            let _ = instance.remove(self.number);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let count = &self.node.fs().env.watch_count;
        count.set(count.get() - 1);
    }
}

impl Node {
    fn directory_bit(&self) -> u32 {
        if self.is_directory() { event::ISDIR } else { 0 }
    }

    /// Something happened to the node: tell its watches and those of its directory.
    pub(crate) fn tell(&self, mask: u32) {
        if self.fs().env.watch_count.get() == 0 {
            return;
        }
        let mask = mask | self.directory_bit();
        self.watches().tell(mask, b"", 0);
        let location = self.location();
        if let Some(parent) = location.parent.upgrade() {
            parent.watches().tell(mask, &location.name, 0);
        }
    }

    /// Something happened that only concerns the node itself.
    pub(crate) fn tell_itself(&self, mask: u32) {
        if self.fs().env.watch_count.get() != 0 {
            self.watches().tell(mask, b"", 0);
        }
    }

    /// Something happened to a name of this directory.
    pub(crate) fn tell_of_child(&self, mask: u32, name: &[u8], child: &Node, cookie: u32) {
        if self.fs().env.watch_count.get() != 0 {
            self.watches().tell(mask | child.directory_bit(), name, cookie);
        }
    }
}

/// An event that waits to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    watch: i32,
    mask: u32,
    cookie: u32,
    name: Box<[u8]>,
}

impl Event {
    fn name_bytes(&self) -> usize {
        if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(EVENT_BYTES) }
    }

    /// struct inotify_event.
    fn encode(&self) -> Vec<u8> {
        let len = self.name_bytes();
        let mut bytes = Vec::with_capacity(EVENT_BYTES + len);
        bytes.extend_from_slice(&self.watch.to_le_bytes());
        bytes.extend_from_slice(&self.mask.to_le_bytes());
        bytes.extend_from_slice(&self.cookie.to_le_bytes());
        bytes.extend_from_slice(&(len as u32).to_le_bytes());
        bytes.extend_from_slice(&self.name);
        bytes.resize(EVENT_BYTES + len, 0);
        bytes
    }
}

/// How a watch is added.
#[derive(Clone, Copy, Debug, Default)]
pub struct Adding {
    /// IN_MASK_ADD: add to the mask of an existing watch.
    pub to_mask: bool,
    /// IN_MASK_CREATE: refuse an existing watch.
    pub only_new: bool,
}

/// An inotify instance.
pub struct Inotify {
    env: Rc<Env>,
    watches: RefCell<BTreeMap<i32, Rc<Watch>>>,
    next: Cell<i32>,
    queue: RefCell<VecDeque<Event>>,
    notifier: Notifier,
}

impl Inotify {
    /// An instance without watches.
    #[must_use]
    pub fn new(env: &Rc<Env>) -> Rc<Self> {
        Rc::new(Self {
            env: env.clone(),
            watches: RefCell::default(),
            next: Cell::new(1),
            queue: RefCell::default(),
            notifier: Notifier::new(&env.woken),
        })
    }

    fn push(&self, event: Event) {
        let mut queue = self.queue.borrow_mut();
        if queue.back() == Some(&event) {
            return;
        }
        let scarce = self.env.check_space().is_err();
        if queue.len() >= QUEUE_MAX || scarce {
            let overflow = Event { watch: -1, mask: event::Q_OVERFLOW, cookie: 0, name: Box::default() };
            if queue.back() != Some(&overflow) {
                queue.push_back(overflow);
            }
        } else {
            queue.push_back(event);
        }
        drop(queue);
        self.notifier.notify(Readiness::READABLE);
    }

    /// Watch `node` for the events of `mask`; a node that is watched already keeps its number.
    ///
    /// # Errors
    /// ENOSPC, EEXIST.
    pub fn add(self: &Rc<Self>, node: &Rc<Node>, mask: u32, adding: Adding) -> Result<i32> {
        let known = self.watches.borrow().values().find(|watch| Rc::ptr_eq(&watch.node, node)).cloned();
        if let Some(watch) = known {
            if adding.only_new {
                return Err(Errno::EEXIST);
            }
            watch.mask.set(if adding.to_mask { watch.mask.get() | mask } else { mask });
            return Ok(watch.number);
        }
        let number = self.next.get();
        if self.watches.borrow().len() >= WATCHES_MAX || number == i32::MAX {
            return Err(Errno::ENOSPC);
        }
        self.env.check_space()?;
        self.next.set(number + 1);
        self.env.watch_count.set(self.env.watch_count.get() + 1);
        let instance = Rc::downgrade(self);
        let watch = Rc::new(Watch { instance, number, mask: Cell::new(mask), node: node.clone() });
        node.watches().add(&watch);
        self.watches.borrow_mut().insert(number, watch);
        Ok(number)
    }

    /// Remove a watch; IN_IGNORED is its last event.
    ///
    /// # Errors
    /// EINVAL.
    pub fn remove(&self, number: i32) -> Result {
        let watch = self.watches.borrow_mut().remove(&number);
        watch.ok_or(Errno::EINVAL)?;
        self.push(Event { watch: number, mask: event::IGNORED, cookie: 0, name: Box::default() });
        Ok(())
    }
}

impl FileOps for Inotify {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let mut done = 0;
        loop {
            let bytes = self.queue.borrow().front().map(Event::encode);
            let Some(bytes) = bytes else {
                return if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) };
            };
            if sink.remaining() < bytes.len() {
                return if done == 0 { Err(Errno::EINVAL) } else { Ok(done) };
            }
            match sink.put(&bytes) {
                Ok(stored) => done += stored,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => return Ok(done),
            }
            self.queue.borrow_mut().pop_front();
        }
    }

    fn poll(&self, _file: &File) -> Readiness {
        if self.queue.borrow().is_empty() { Readiness::empty() } else { Readiness::READABLE }
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.notifier)
    }

    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        Ok(self.queue.borrow().iter().map(|event| (EVENT_BYTES + event.name_bytes()) as u64).sum())
    }
}
