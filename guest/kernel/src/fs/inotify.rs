//! inotify(7), as far as programs need it to start: watches can be added and removed, but **no event is ever told**.

use super::file::{File, FileOps};
use super::node::Node;
use super::notify::Notifier;
use crate::errno::{Errno, Result};
use crate::mem::user::Sink;
use crate::wait::{Readiness, Woken};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

/// Most watches of one instance (fs.inotify.max_user_watches).
const WATCHES_MAX: usize = 65536;

/// An inotify instance.
pub struct Inotify {
    watches: RefCell<BTreeMap<i32, Rc<Node>>>,
    next: Cell<i32>,
    notifier: Notifier,
}

impl Inotify {
    /// An instance without watches.
    #[must_use]
    pub fn new(woken: &Woken) -> Rc<Self> {
        Rc::new(Self { watches: RefCell::default(), next: Cell::new(1), notifier: Notifier::new(woken) })
    }

    /// Watch `node`; a node that is watched already keeps its number.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn add(&self, node: &Rc<Node>) -> Result<i32> {
        let mut watches = self.watches.borrow_mut();
        let known = watches.iter().find(|(_, watched)| Rc::ptr_eq(watched, node)).map(|(number, _)| *number);
        if let Some(number) = known {
            return Ok(number);
        }
        let number = self.next.get();
        if watches.len() >= WATCHES_MAX || number == i32::MAX {
            return Err(Errno::ENOSPC);
        }
        self.next.set(number + 1);
        watches.insert(number, node.clone());
        Ok(number)
    }

    /// Remove a watch.
    ///
    /// # Errors
    /// EINVAL.
    pub fn remove(&self, number: i32) -> Result {
        self.watches.borrow_mut().remove(&number).map(drop).ok_or(Errno::EINVAL)
    }
}

impl FileOps for Inotify {
    fn read(&self, _file: &File, _offset: u64, _sink: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EAGAIN)
    }

    fn poll(&self, _file: &File) -> Readiness {
        Readiness::empty()
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.notifier)
    }

    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        Ok(0)
    }
}
