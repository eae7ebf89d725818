//! The producer's end of the event ring.
//!
//! Owns [`EventRing`]: it keeps its own head (the guest's copy is written, never read) and a queue of what does not
//! fit yet. The tail comes from the guest and is checked at every look.

use std::collections::VecDeque;
use std::mem::offset_of;

use seuss_abi::comm::EVENTS_OFFSET;
use seuss_abi::event::{Event, RING_ENTRIES, Ring};
use seuss_abi::layout::COMM_GPA;

use crate::memory::{Gpa, Window};

const HEAD: Gpa = Gpa(COMM_GPA + EVENTS_OFFSET + offset_of!(Ring, head) as u64);
const TAIL: Gpa = Gpa(COMM_GPA + EVENTS_OFFSET + offset_of!(Ring, tail) as u64);
const ENTRIES: Gpa = Gpa(COMM_GPA + EVENTS_OFFSET + offset_of!(Ring, entries) as u64);

/// The guest's tail cannot be: it claims to have consumed what was never produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event ring: tail {tail} is not within {RING_ENTRIES} of head {head}")]
pub(crate) struct BadTail {
    head: u32,
    tail: u32,
}

/// The VMM's side of the ring in the communication window.
#[derive(Debug, Default)]
pub(crate) struct EventRing {
    head: u32,
    /// Entries at the end of the ring that are no reason to enter an idle guest.
    quiet_tail: u32,
    /// What waits, and whether it is quiet.
    waiting: VecDeque<(Event, bool)>,
}

impl EventRing {
    /// Entries that the guest has not consumed.
    pub(crate) fn filled(&self, comm: &Window) -> Result<u32, BadTail> {
        let tail: u32 = comm.load(TAIL).unwrap_or(self.head);
        let filled = self.head.wrapping_sub(tail);
        if filled as usize > RING_ENTRIES { Err(BadTail { head: self.head, tail }) } else { Ok(filled) }
    }

    /// Whether the guest has entries to consume that it should be woken for: loud ones, or so many that the ring fills up.
    pub(crate) fn wakes(&self, comm: &Window) -> Result<bool, BadTail> {
        let filled = self.filled(comm)?;
        Ok(filled > self.quiet_tail || filled as usize >= RING_ENTRIES / 2 || !self.waiting.is_empty())
    }

    /// Events that have not reached the ring.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Events that can be posted before anything has to wait.
    pub(crate) fn room(&self, comm: &Window) -> Result<usize, BadTail> {
        Ok((RING_ENTRIES - self.filled(comm)? as usize).saturating_sub(self.waiting.len()))
    }

    /// Take `event`; it reaches the ring with the next [`Self::flush`] that finds room.
    pub(crate) fn push(&mut self, event: Event) {
        self.waiting.push_back((event, false));
    }

    /// As [`Self::push`], but the event alone does not wake the guest.
    pub(crate) fn push_quiet(&mut self, event: Event) {
        self.waiting.push_back((event, true));
    }

    /// Move what waits into the ring as far as there is room. Returns whether the ring got anything that the guest should
    /// be woken for.
    pub(crate) fn flush(&mut self, comm: &Window) -> Result<bool, BadTail> {
        let room = RING_ENTRIES - self.filled(comm)? as usize;
        let count = room.min(self.waiting.len());
        let mut loud = false;
        for (event, quiet) in self.waiting.drain(..count) {
            loud |= !quiet;
            self.quiet_tail = if quiet { self.quiet_tail.saturating_add(1) } else { 0 };
            let index = self.head as usize % RING_ENTRIES;
            comm.store(ENTRIES.plus((index * size_of::<Event>()) as u64), event);
            self.head = self.head.wrapping_add(1);
        }
        if count > 0 {
            comm.store(HEAD, self.head);
        }
        Ok(loud)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use seuss_abi::layout::COMM_SIZE;

    use super::*;

    fn comm() -> Window {
        Window::anonymous(Gpa(COMM_GPA), COMM_SIZE, false).expect("memory")
    }

    fn event(number: u64) -> Event {
        Event { kind: 1, a: 2, b: number, c: 0 }
    }

    /// What a guest does: takes one entry.
    fn consume(comm: &Window) -> Option<u64> {
        let (head, tail): (u32, u32) = (comm.load(HEAD)?, comm.load(TAIL)?);
        if head == tail {
            return None;
        }
        let entry: Event = comm.load(ENTRIES.plus(u64::from(tail) % RING_ENTRIES as u64 * 24))?;
        comm.store(TAIL, tail.wrapping_add(1))?;
        Some(entry.b)
    }

    #[test]
    fn quiet_events_wake_nobody_but_arrive() {
        let comm = comm();
        let mut ring = EventRing::default();
        ring.push_quiet(event(1));
        assert_eq!((ring.flush(&comm), ring.wakes(&comm)), (Ok(false), Ok(false)));
        ring.push(event(2));
        ring.push_quiet(event(3));
        assert_eq!((ring.flush(&comm), ring.wakes(&comm)), (Ok(true), Ok(true)));
        assert_eq!((consume(&comm), ring.wakes(&comm)), (Some(1), Ok(true)));
        assert_eq!((consume(&comm), ring.wakes(&comm)), (Some(2), Ok(false)));
        assert_eq!(consume(&comm), Some(3));
        for number in 0..2 * RING_ENTRIES as u64 {
            ring.push_quiet(event(number));
        }
        assert_eq!(
            (ring.flush(&comm), ring.wakes(&comm)),
            (Ok(false), Ok(true)),
            "a full ring must be emptied"
        );
    }

    proptest! {
        #[test]
        fn everything_arrives_once_and_in_order(steps in prop::collection::vec((0_usize..400, 0_usize..400), 1..20)) {
            let comm = comm();
            let mut ring = EventRing { head: 0xffff_fff0, ..EventRing::default() };
            comm.store(HEAD, ring.head);
            comm.store(TAIL, ring.head);
            let (mut sent, mut received) = (0, 0);
            for (produce, take) in steps {
                for _ in 0..produce {
                    ring.push(event(sent));
                    sent += 1;
                }
                ring.flush(&comm)?;
                for _ in 0..take {
                    if let Some(number) = consume(&comm) {
                        prop_assert_eq!(number, received);
                        received += 1;
                    }
                }
            }
            while received < sent {
                ring.flush(&comm)?;
                prop_assert_eq!(consume(&comm), Some(received));
                received += 1;
            }
            prop_assert_eq!(consume(&comm), None);
        }

        #[test]
        fn a_scribbled_ring_is_refused_or_harmless(head in any::<u32>(), tail in any::<u32>(), own in any::<u32>(), count in 0_usize..1000) {
            let comm = comm();
            let mut ring = EventRing { head: own, ..EventRing::default() };
            comm.store(HEAD, head);
            comm.store(TAIL, tail);
            for number in 0..count {
                ring.push(event(number as u64));
            }
            let filled = own.wrapping_sub(tail) as usize;
            match ring.flush(&comm) {
                Ok(_) => {
                    prop_assert!(filled <= RING_ENTRIES);
                    prop_assert!(ring.filled(&comm)? as usize <= RING_ENTRIES);
                    prop_assert_eq!(ring.waiting.len(), count - count.min(RING_ENTRIES - filled));
                }
                Err(bad) => {
                    prop_assert!(filled > RING_ENTRIES);
                    prop_assert_eq!(bad, BadTail { head: own, tail });
                }
            }
        }
    }
}
