//! epoll instances (epoll(7)).
//!
//! Every watched file tells its items of its events; an item with an interesting one joins its instance's ready list. What is in the list is
//! polled when it is collected, so a wait costs as much as there are ready files, however many are watched.

use super::file::{File, FileOps};
use super::notify::{Notifier, Watcher};
use crate::errno::{Errno, Result};
use crate::wait::{Readiness, Woken};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// Report every event once, not as long as it lasts (EPOLLET).
pub const EDGE: u32 = 1 << 31;
/// Report one event, then nothing until EPOLL_CTL_MOD (EPOLLONESHOT).
pub const ONE_SHOT: u32 = 1 << 30;
/// EPOLLWAKEUP and EPOLLEXCLUSIVE: accepted, without effect.
const HINTS: u32 = 1 << 29 | 1 << 28;
/// Reported whether asked for or not.
const ALWAYS: u32 = Readiness::ERROR.bits() | Readiness::HANGUP.bits();
/// Deepest nest of instances that watch instances (EP_MAX_NESTS, and the file at its bottom).
const NESTS_MAX: u32 = 5;
/// Most files that one instance watches (fs.epoll.max_user_watches).
const ITEMS_MAX: usize = 1 << 20;

/// A watched file.
struct Item {
    key: Key,
    epoll: Weak<Epoll>,
    file: Weak<File>,
    /// The mask with EDGE, ONE_SHOT and the hints.
    events: Cell<u32>,
    data: Cell<u64>,
    /// It is in the ready list.
    queued: Cell<bool>,
}

impl Item {
    /// Events that count now; none once ONE_SHOT has fired.
    fn interest(&self) -> u32 {
        let events = self.events.get() & !(EDGE | ONE_SHOT | HINTS);
        if events == 0 { 0 } else { events | ALWAYS }
    }
}

impl Watcher for Item {
    fn notified(&self, events: Readiness) {
        if events.bits() & self.interest() == 0 || self.queued.get() {
            // An item that is queued keeps its place; its instance was told.
            return;
        }
        if let Some(epoll) = self.epoll.upgrade() {
            epoll.queue(self);
        }
    }
}

/// Names an item: descriptor number and description.
type Key = (i32, u64);

/// An epoll instance.
pub struct Epoll {
    items: RefCell<BTreeMap<Key, Rc<Item>>>,
    ready: RefCell<VecDeque<Key>>,
    /// Items that are looked for dead ones when there are this many.
    sweep_at: Cell<usize>,
    notifier: Notifier,
}

impl Epoll {
    /// An instance that watches nothing.
    #[must_use]
    pub fn new(woken: &Woken) -> Rc<Self> {
        Rc::new(Self {
            items: RefCell::default(),
            ready: RefCell::default(),
            sweep_at: Cell::new(64),
            notifier: Notifier::new(woken),
        })
    }

    /// Put an item into the ready list and tell those who wait.
    fn queue(&self, item: &Item) {
        item.queued.set(true);
        self.ready.borrow_mut().push_back(item.key);
        self.notifier.notify(Readiness::READABLE);
    }

    fn queue_if_ready(&self, item: &Rc<Item>) {
        let Some(file) = item.file.upgrade() else { return };
        if !item.queued.get() && file.poll().bits() & item.interest() != 0 {
            self.queue(item);
        }
    }

    /// Whether `outer` can watch this instance: the nest stays shallow and has no circle. `budget` bounds the search.
    fn fits_into(&self, outer: &Self, level: u32, budget: &mut u32) -> bool {
        if core::ptr::eq(self, outer) || level >= NESTS_MAX || *budget == 0 {
            return false;
        }
        *budget -= 1;
        let files = self.items.borrow().values().filter_map(|item| item.file.upgrade()).collect::<Vec<_>>();
        let inner = files.iter().filter_map(|file| file.ops_as::<Self>());
        inner.into_iter().all(|inner| inner.fits_into(outer, level + 1, budget))
    }

    fn forget(&self, key: Key) {
        let item = self.items.borrow_mut().remove(&key);
        if item.is_some_and(|item| item.queued.get()) {
            self.ready.borrow_mut().retain(|queued| *queued != key);
        }
    }

    /// Drop the items of files that are gone, if there are many items.
    fn sweep(&self) {
        if self.items.borrow().len() < self.sweep_at.get() {
            return;
        }
        let items = self.items.borrow();
        let dead: Vec<Key> =
            items.iter().filter(|(_, item)| item.file.strong_count() == 0).map(|(key, _)| *key).collect();
        drop(items);
        for key in dead {
            self.forget(key);
        }
        self.sweep_at.set((self.items.borrow().len() * 2).max(64));
    }

    /// EPOLL_CTL_ADD.
    ///
    /// # Errors
    /// EEXIST, EPERM (a file whose readiness never changes), ELOOP (a nest of instances), EINVAL (itself), ENOSPC.
    pub fn add(self: &Rc<Self>, fd: i32, file: &Rc<File>, events: u32, data: u64) -> Result {
        let notifier = file.ops().notifier().ok_or(Errno::EPERM)?;
        if let Some(inner) = file.ops_as::<Self>() {
            if core::ptr::eq(inner, &**self) {
                return Err(Errno::EINVAL);
            }
            if !inner.fits_into(self, 1, &mut 1000) {
                return Err(Errno::ELOOP);
            }
        }
        let key = (fd, file.id());
        if self.items.borrow().contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        self.sweep();
        if self.items.borrow().len() >= ITEMS_MAX {
            return Err(Errno::ENOSPC);
        }
        file.node().fs().env.check_space()?;
        let item = Rc::new(Item {
            key,
            epoll: Rc::downgrade(self),
            file: Rc::downgrade(file),
            events: Cell::new(events),
            data: Cell::new(data),
            queued: Cell::new(false),
        });
        self.items.borrow_mut().insert(key, item.clone());
        let watcher: Rc<dyn Watcher> = item.clone();
        notifier.watch(Rc::downgrade(&watcher));
        self.queue_if_ready(&item);
        Ok(())
    }

    fn item(&self, fd: i32, file: &Rc<File>) -> Result<Rc<Item>> {
        self.items.borrow().get(&(fd, file.id())).cloned().ok_or(Errno::ENOENT)
    }

    /// EPOLL_CTL_MOD.
    ///
    /// # Errors
    /// ENOENT.
    pub fn modify(&self, fd: i32, file: &Rc<File>, events: u32, data: u64) -> Result {
        let item = self.item(fd, file)?;
        item.events.set(events);
        item.data.set(data);
        self.queue_if_ready(&item);
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    ///
    /// # Errors
    /// ENOENT.
    pub fn delete(&self, fd: i32, file: &Rc<File>) -> Result {
        self.item(fd, file)?;
        self.forget((fd, file.id()));
        Ok(())
    }

    /// Up to `max` events with the data of their files, oldest first. Level-triggered files go to the end of the list.
    #[must_use]
    pub fn collect(&self, max: usize) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        let mut again = Vec::new();
        let mut left = self.ready.borrow().len();
        while left > 0 && found.len() < max {
            left -= 1;
            let Some(key) = self.ready.borrow_mut().pop_front() else { break };
            let Some(item) = self.items.borrow().get(&key).cloned() else { continue };
            item.queued.set(false);
            let Some(file) = item.file.upgrade() else {
                self.forget(key);
                continue;
            };
            let events = file.poll().bits() & item.interest();
            if events == 0 {
                continue;
            }
            found.push((events, item.data.get()));
            if item.events.get() & ONE_SHOT != 0 {
                item.events.set(item.events.get() & (EDGE | ONE_SHOT | HINTS));
            } else if item.events.get() & EDGE == 0 && !item.queued.replace(true) {
                again.push(key);
            }
        }
        self.ready.borrow_mut().extend(again);
        found
    }

    /// How many items there are, those of closed files included.
    #[cfg(test)]
    pub(crate) fn watched(&self) -> usize {
        self.items.borrow().len()
    }

    /// Whether a watched file has something to report. What has not leaves the ready list.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        loop {
            let Some(key) = self.ready.borrow().front().copied() else { return false };
            let item = self.items.borrow().get(&key).cloned();
            if let Some(item) = &item {
                let ready = item.file.upgrade().is_some_and(|file| file.poll().bits() & item.interest() != 0);
                if ready {
                    return true;
                }
                item.queued.set(false);
            }
            self.ready.borrow_mut().pop_front();
        }
    }
}

impl FileOps for Epoll {
    fn poll(&self, _file: &File) -> Readiness {
        if self.is_ready() { Readiness::READABLE } else { Readiness::empty() }
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.notifier)
    }
}
