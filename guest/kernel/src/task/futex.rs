//! The table of threads that wait on futexes (futex(2)).

use crate::wait::{Tid, Woken};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::RefCell;

/// What a futex word is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A word of one address space: its identity and the address.
    Private(usize, u64),
    /// A word in shared memory: its guest-physical address.
    Shared(u64),
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    tid: Tid,
    bitset: u32,
}

/// All futex waiters, in order of arrival for each word.
#[derive(Debug, Default)]
pub struct Futexes {
    waiters: RefCell<BTreeMap<Key, Vec<Waiter>>>,
}

impl Futexes {
    /// Let `tid` wait on `key`.
    pub fn add(&self, key: Key, tid: Tid, bitset: u32) {
        self.waiters.borrow_mut().entry(key).or_default().push(Waiter { tid, bitset });
    }

    /// Wake up to `count` waiters whose bitset meets `bitset`; returns who they are. They no longer wait.
    pub fn wake(&self, key: Key, count: usize, bitset: u32, woken: &Woken) -> Vec<Tid> {
        let mut waiters = self.waiters.borrow_mut();
        let Some(queue) = waiters.get_mut(&key) else { return Vec::new() };
        let mut found = Vec::new();
        queue.retain(|waiter| {
            let hit = found.len() < count && waiter.bitset & bitset != 0;
            if hit {
                found.push(waiter.tid);
                woken.push(waiter.tid);
            }
            !hit
        });
        if queue.is_empty() {
            waiters.remove(&key);
        }
        found
    }

    /// Wake `wake` waiters of `from` and let up to `requeue` others wait on `to`. Returns the woken ones and how many were moved.
    pub fn requeue(
        &self,
        from: Key,
        to: Key,
        wake: usize,
        requeue: usize,
        woken: &Woken,
    ) -> (Vec<Tid>, usize) {
        let found = self.wake(from, wake, u32::MAX, woken);
        let mut waiters = self.waiters.borrow_mut();
        let Some(queue) = waiters.get_mut(&from) else { return (found, 0) };
        let moved: Vec<Waiter> = queue.drain(..requeue.min(queue.len())).collect();
        if queue.is_empty() {
            waiters.remove(&from);
        }
        let count = moved.len();
        if count > 0 {
            waiters.entry(to).or_default().extend(moved);
        }
        (found, count)
    }

    /// Who waits as `tid` is known as `other` from now on.
    pub fn rename(&self, tid: Tid, other: Tid) {
        let mut waiters = self.waiters.borrow_mut();
        let all = waiters.values_mut().flatten();
        all.filter(|waiter| waiter.tid == tid).for_each(|waiter| waiter.tid = other);
    }

    /// `tid` waits no longer (timeout, signal, end).
    pub fn remove(&self, tid: Tid) {
        self.waiters.borrow_mut().retain(|_, queue| {
            queue.retain(|waiter| waiter.tid != tid);
            !queue.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiters_wake_in_order_and_by_bitset() {
        let (futexes, woken) = (Futexes::default(), Woken::default());
        let key = Key::Private(1, 0x1000);
        for (tid, bitset) in [(1, 1), (2, 2), (3, 3)] {
            futexes.add(key, tid, bitset);
        }
        assert_eq!(futexes.wake(key, 1, 2, &woken), [2]);
        assert_eq!(futexes.wake(Key::Shared(0x1000), 9, u32::MAX, &woken), []);
        assert_eq!(futexes.wake(key, 9, u32::MAX, &woken), [1, 3]);
        assert_eq!(woken.take(), [2, 1, 3]);
    }

    #[test]
    fn a_waiter_that_is_away_keeps_its_place() {
        let (futexes, woken) = (Futexes::default(), Woken::default());
        let key = Key::Private(1, 8);
        (1..=3).for_each(|tid| futexes.add(key, tid, u32::MAX));
        futexes.rename(2, 102);
        futexes.remove(2);
        assert_eq!(futexes.wake(key, 2, u32::MAX, &woken), [1, 102]);
        futexes.rename(3, 103);
        futexes.rename(103, 3);
        assert_eq!(futexes.wake(key, 2, u32::MAX, &woken), [3]);
    }

    #[test]
    fn requeued_waiters_wait_on_the_other_word() {
        let (futexes, woken) = (Futexes::default(), Woken::default());
        let (from, to) = (Key::Shared(8), Key::Shared(16));
        (1..=4).for_each(|tid| futexes.add(from, tid, u32::MAX));
        assert_eq!(futexes.requeue(from, to, 1, 2, &woken), (vec![1], 2));
        futexes.remove(3);
        assert_eq!(futexes.wake(to, 9, u32::MAX, &woken), [2]);
        assert_eq!(futexes.wake(from, 9, u32::MAX, &woken), [4]);
    }
}
