//! Event counters (eventfd(2)).

use super::file::{File, FileOps};
use super::notify::Notifier;
use crate::errno::{Errno, Result};
use crate::mem::user::{Sink, Source};
use crate::wait::{Readiness, Woken};
use alloc::rc::Rc;
use core::cell::Cell;

/// Largest value of the counter.
const COUNT_MAX: u64 = u64::MAX - 1;

/// A counter.
pub struct EventCounter {
    count: Cell<u64>,
    semaphore: bool,
    notifier: Notifier,
}

impl EventCounter {
    /// A counter that starts at `count`; reading a `semaphore` takes one off.
    #[must_use]
    pub fn new(woken: &Woken, count: u64, semaphore: bool) -> Rc<Self> {
        Rc::new(Self { count: Cell::new(count), semaphore, notifier: Notifier::new(woken) })
    }
}

impl FileOps for EventCounter {
    fn read(&self, _file: &File, _offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        if sink.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let count = self.count.get();
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        let taken = if self.semaphore { 1 } else { count };
        self.count.set(count - taken);
        self.notifier.notify(Readiness::WRITABLE);
        sink.put(&taken.to_le_bytes())
    }

    fn write(&self, _file: &File, _offset: u64, source: &mut dyn Source) -> Result<usize> {
        if source.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        if source.take(&mut bytes)? < 8 {
            return Err(Errno::EFAULT);
        }
        let added = u64::from_le_bytes(bytes);
        if added == u64::MAX {
            return Err(Errno::EINVAL);
        }
        let sum = self.count.get().checked_add(added).filter(|sum| *sum <= COUNT_MAX).ok_or(Errno::EAGAIN)?;
        self.count.set(sum);
        if sum > 0 {
            self.notifier.notify(Readiness::READABLE);
        }
        Ok(8)
    }

    fn poll(&self, _file: &File) -> Readiness {
        let mut ready = Readiness::empty();
        ready.set(Readiness::READABLE, self.count.get() > 0);
        ready.set(Readiness::WRITABLE, self.count.get() < COUNT_MAX);
        ready
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.notifier)
    }
}
