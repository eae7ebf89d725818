//! Locks on files: flock(2), and record locks (fcntl(2), "Advisory record locking" and "Open file description locks").
//!
//! **Not** supported: mandatory locks, leases.

use crate::errno::{Errno, Result};
use crate::wait::{Tid, WaitQueue, Woken};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

/// Most locks on one file.
const LOCKS_MAX: usize = 4096;

/// Who holds a record lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A process, by its descriptor table's number.
    Table(u64),
    /// An open file description, by its number.
    Description(u64),
}

/// A record lock on bytes `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Holder.
    pub owner: Owner,
    /// The holder's process id, for F_GETLK.
    pub pid: u32,
    /// First byte.
    pub start: u64,
    /// One past the last byte; `u64::MAX` = to the end of the file, however it grows.
    pub end: u64,
    /// Write lock.
    pub exclusive: bool,
}

/// Who waits for whose record lock, by waiting thread.
#[derive(Debug, Default)]
pub struct LockWaits(RefCell<BTreeMap<Tid, (Owner, Owner)>>);

impl LockWaits {
    /// `tid` waits no longer.
    pub fn end(&self, tid: Tid) {
        self.0.borrow_mut().remove(&tid);
    }

    /// `tid`, for `waiter`, is going to wait for `holder`. Threads that are gone (`lives`) do not count.
    ///
    /// # Errors
    /// EDEADLK if `holder` waits, perhaps through others, for `waiter`.
    pub fn begin(&self, tid: Tid, waiter: Owner, holder: Owner, lives: &dyn Fn(Tid) -> bool) -> Result {
        let mut waits = self.0.borrow_mut();
        waits.retain(|tid, _| lives(*tid));
        let mut reached = alloc::vec![holder];
        let mut next = 0;
        while let Some(owner) = reached.get(next).copied() {
            next += 1;
            if owner == waiter {
                return Err(Errno::EDEADLK);
            }
            for (_, further) in waits.values().filter(|(from, _)| *from == owner) {
                if !reached.contains(further) {
                    reached.push(*further);
                }
            }
        }
        waits.insert(tid, (waiter, holder));
        Ok(())
    }
}

#[derive(Debug)]
struct Whole {
    description: u64,
    exclusive: bool,
}

/// The locks on one node.
#[derive(Debug)]
pub struct Locks {
    records: RefCell<Vec<Record>>,
    whole: RefCell<Vec<Whole>>,
    queue: WaitQueue,
}

impl Locks {
    /// No lock yet.
    #[must_use]
    pub fn new(woken: &Woken) -> Self {
        Self { records: RefCell::default(), whole: RefCell::default(), queue: WaitQueue::new(woken) }
    }

    /// Who waits for a lock to be released.
    #[must_use]
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// The first lock that keeps `wanted` from being set.
    #[must_use]
    pub fn conflict(&self, wanted: &Record) -> Option<Record> {
        self.records
            .borrow()
            .iter()
            .find(|held| {
                held.owner != wanted.owner
                    && (held.exclusive || wanted.exclusive)
                    && held.start < wanted.end
                    && wanted.start < held.end
            })
            .copied()
    }

    /// Take away what `owner` holds of `start..end`.
    fn carve(records: &mut Vec<Record>, owner: Owner, start: u64, end: u64) {
        let mut pieces = Vec::new();
        records.retain(|held| {
            if held.owner != owner || held.start >= end || start >= held.end {
                return true;
            }
            if held.start < start {
                pieces.push(Record { end: start, ..*held });
            }
            if held.end > end {
                pieces.push(Record { start: end, ..*held });
            }
            false
        });
        records.append(&mut pieces);
    }

    /// Set a record lock; what the owner held there is replaced.
    ///
    /// # Errors
    /// EAGAIN if another owner is in the way, ENOLCK if there are too many.
    pub fn set(&self, mut wanted: Record) -> Result {
        if self.conflict(&wanted).is_some() {
            return Err(Errno::EAGAIN);
        }
        let mut records = self.records.borrow_mut();
        if records.len() >= LOCKS_MAX {
            return Err(Errno::ENOLCK);
        }
        Self::carve(&mut records, wanted.owner, wanted.start, wanted.end);
        // Grow over neighbours of the same kind, so that a file locked byte by byte is one record.
        records.retain(|held| {
            let touches = held.owner == wanted.owner
                && held.exclusive == wanted.exclusive
                && (held.end == wanted.start || held.start == wanted.end);
            if touches {
                wanted.start = wanted.start.min(held.start);
                wanted.end = wanted.end.max(held.end);
            }
            !touches
        });
        records.push(wanted);
        drop(records);
        // A write lock may have become a read lock.
        self.queue.wake_all();
        Ok(())
    }

    /// Release what `owner` holds of `start..end`.
    pub fn clear(&self, owner: Owner, start: u64, end: u64) {
        Self::carve(&mut self.records.borrow_mut(), owner, start, end);
        self.queue.wake_all();
    }

    /// A descriptor table closed the file, or is gone.
    pub fn release_table(&self, table: u64) {
        self.clear(Owner::Table(table), 0, u64::MAX);
    }

    /// A description is gone.
    pub fn release_description(&self, description: u64) {
        self.clear(Owner::Description(description), 0, u64::MAX);
        self.unlock(description);
    }

    /// flock(2): lock the whole file.
    ///
    /// # Errors
    /// EAGAIN if another description is in the way; as on Linux, a lock that was to be converted is gone then.
    pub fn lock(&self, description: u64, exclusive: bool) -> Result {
        let mut whole = self.whole.borrow_mut();
        if whole.iter().any(|held| held.description == description && held.exclusive == exclusive) {
            return Ok(());
        }
        let before = whole.len();
        whole.retain(|held| held.description != description);
        let released = whole.len() < before;
        let conflict = whole.iter().any(|held| held.exclusive || exclusive);
        if !conflict {
            if whole.len() >= LOCKS_MAX {
                return Err(Errno::ENOLCK);
            }
            whole.push(Whole { description, exclusive });
        }
        drop(whole);
        if released {
            self.queue.wake_all();
        }
        if conflict { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// flock(2) with LOCK_UN.
    pub fn unlock(&self, description: u64) {
        self.whole.borrow_mut().retain(|held| held.description != description);
        self.queue.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(owner: u64, start: u64, end: u64, exclusive: bool) -> Record {
        Record { owner: Owner::Table(owner), pid: owner as u32, start, end, exclusive }
    }

    #[test]
    fn records_conflict_by_range_and_kind() {
        let locks = Locks::new(&Woken::default());
        locks.set(record(1, 0, 10, false)).unwrap();
        locks.set(record(2, 5, 15, false)).unwrap();
        assert_eq!(locks.set(record(2, 9, 12, true)), Err(Errno::EAGAIN));
        locks.set(record(2, 10, 12, true)).unwrap();
        assert_eq!(locks.conflict(&record(1, 11, 12, false)).map(|held| held.pid), Some(2));
        assert_eq!(locks.conflict(&record(1, 12, 15, false)), None);
        locks.release_table(2);
        locks.set(record(1, 0, u64::MAX, true)).unwrap();
        assert_eq!(locks.records.borrow().len(), 1);
    }

    #[test]
    fn unlocking_the_middle_leaves_both_ends() {
        let locks = Locks::new(&Woken::default());
        locks.set(record(1, 0, 100, true)).unwrap();
        locks.clear(Owner::Table(1), 40, 60);
        assert_eq!(locks.conflict(&record(2, 40, 60, true)), None);
        assert!(locks.conflict(&record(2, 39, 60, true)).is_some());
        assert!(locks.conflict(&record(2, 40, 61, true)).is_some());
        locks.set(record(1, 40, 60, true)).unwrap();
        assert_eq!(locks.records.borrow().as_slice(), &[record(1, 0, 100, true)]);
    }

    #[test]
    fn circles_of_waiters_are_deadlocks() {
        let waits = LockWaits::default();
        let owner = Owner::Table;
        let all = |_| true;
        waits.begin(11, owner(1), owner(2), &all).unwrap();
        waits.begin(12, owner(2), owner(3), &all).unwrap();
        assert_eq!(waits.begin(13, owner(3), owner(1), &all), Err(Errno::EDEADLK));
        waits.begin(14, owner(4), owner(1), &all).unwrap();
        waits.end(12);
        waits.begin(13, owner(3), owner(1), &all).unwrap();
        assert_eq!(waits.begin(12, owner(2), owner(3), &all), Err(Errno::EDEADLK));
        waits.begin(12, owner(2), owner(3), &|tid| tid != 11).unwrap();
    }

    #[test]
    fn flock_is_per_description() {
        let locks = Locks::new(&Woken::default());
        locks.lock(1, false).unwrap();
        locks.lock(2, false).unwrap();
        assert_eq!(locks.lock(1, true), Err(Errno::EAGAIN));
        locks.unlock(2);
        locks.lock(1, true).unwrap();
        locks.lock(1, true).unwrap();
        assert_eq!(locks.lock(2, false), Err(Errno::EAGAIN));
        locks.release_description(1);
        locks.lock(2, true).unwrap();
    }
}
