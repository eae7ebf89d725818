//! Who wants to know that a file became ready: threads that wait, and epoll instances that watch.

use crate::wait::{Readiness, Tid, WaitQueue, Woken};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::RefCell;

/// Something that is told of every event of a file.
pub trait Watcher {
    /// `events` happened. The file's state is complete; it may be polled.
    fn notified(&self, events: Readiness);
}

/// One file's waiters and watchers.
pub struct Notifier {
    queue: WaitQueue,
    watchers: RefCell<Vec<Weak<dyn Watcher>>>,
}

impl Notifier {
    /// Nobody waits yet; wake-ups go to `woken`.
    #[must_use]
    pub fn new(woken: &Woken) -> Self {
        Self { queue: WaitQueue::new(woken), watchers: RefCell::default() }
    }

    /// The threads that wait.
    #[must_use]
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Let the next event wake `tid`.
    pub fn register(&self, tid: Tid) {
        self.queue.register(tid);
    }

    /// Tell `watcher` of every event from now on, until it is dropped.
    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = self.watchers.borrow_mut();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(watcher);
    }

    /// Whether a thread waits, or something watches.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.queue.is_empty() || self.watchers.borrow().iter().any(|watcher| watcher.strong_count() > 0)
    }

    /// `events` happened: wake all waiters, tell all watchers. Call it after the state has changed, with no borrow held.
    pub fn notify(&self, events: Readiness) {
        self.queue.wake_all();
        if self.watchers.borrow().is_empty() {
            return;
        }
        let watchers: Vec<Rc<dyn Watcher>> =
            self.watchers.borrow().iter().filter_map(Weak::upgrade).collect();
        for watcher in watchers {
            watcher.notified(events);
        }
    }
}

impl core::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Notifier").field("queue", &self.queue).finish_non_exhaustive()
    }
}
