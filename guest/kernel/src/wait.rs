//! Wait queues: how a thread learns that something it waits for has happened.
//!
//! A queue remembers thread ids; waking moves them to the list of woken threads that the scheduler drains. A wake-up may be
//! spurious (the thread runs its system call again and waits again), so stale registrations are harmless.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

/// A thread (and, for a leader, process) id as the application sees it.
pub type Tid = u32;

/// The threads that were woken since the scheduler last looked.
#[derive(Clone, Default, Debug)]
pub struct Woken(Rc<RefCell<Vec<Tid>>>);

impl Woken {
    /// Note that `tid` may continue.
    pub fn push(&self, tid: Tid) {
        self.0.borrow_mut().push(tid);
    }

    /// Take what has gathered.
    #[must_use]
    pub fn take(&self) -> Vec<Tid> {
        core::mem::take(&mut self.0.borrow_mut())
    }

    /// Whether nothing has gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// The threads that wait for one thing.
#[derive(Default, Debug)]
pub struct WaitQueue {
    waiters: RefCell<Vec<Tid>>,
    woken: Woken,
}

impl WaitQueue {
    /// An empty queue whose wake-ups go to `woken`.
    #[must_use]
    pub fn new(woken: &Woken) -> Self {
        Self { waiters: RefCell::default(), woken: woken.clone() }
    }

    /// Let the next wake-up reach `tid`. Registering twice is the same as once.
    pub fn register(&self, tid: Tid) {
        let mut waiters = self.waiters.borrow_mut();
        if !waiters.contains(&tid) {
            waiters.push(tid);
        }
    }

    /// Whether nobody is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiters.borrow().is_empty()
    }

    /// Wake all.
    pub fn wake_all(&self) {
        for tid in self.waiters.borrow_mut().drain(..) {
            self.woken.push(tid);
        }
    }

    /// The list that this queue wakes into, to make further queues from.
    #[must_use]
    pub fn woken(&self) -> &Woken {
        &self.woken
    }
}

bitflags::bitflags! {
    /// What poll(2) reports of a file; the values are poll's and epoll's.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Readiness: u32 {
        /// Data can be read, or end of file was reached (POLLIN | POLLRDNORM).
        const READABLE = 0x1 | 0x40;
        /// Priority data.
        const PRIORITY = 0x2;
        /// Data can be written (POLLOUT | POLLWRNORM).
        const WRITABLE = 0x4 | 0x100;
        /// Error.
        const ERROR = 0x8;
        /// The other end is closed.
        const HANGUP = 0x10;
        /// The peer shut down its writing half (POLLRDHUP).
        const READ_HANGUP = 0x2000;
    }
}
