//! Programs that want to know of a snapshot before it is taken: descriptions of /dev/seuss to which `hooks` was written.
//!
//! | a listener reads | when |
//! | --- | --- |
//! | `capture N` | a snapshot is about to be taken from outside; it waits for `ready N` from every listener, for a second at the most |
//! | `captured N`, `failed N ERRNO` | in the guest that goes on: it has been taken, or not |
//! | `generation G` and `id HEX` | in a clone, instead |
//!
//! A listener that is closed is not waited for. Snapshots that a program takes by itself are not announced: it knows.

use super::snapshots::Wanted;
use crate::errno::{Errno, Result};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// Most listeners of one guest.
const LISTENERS_MAX: usize = 64;

/// One listener.
#[derive(Debug, Default)]
pub struct Listener {
    /// Number of the announcement that it has read, and of the one that it has answered.
    told: Cell<u64>,
    ready: Cell<u64>,
    /// Number of the capture whose end it was told.
    told_end: Cell<u64>,
}

/// What came of an announcement.
#[derive(Debug, PartialEq, Eq)]
pub enum Announced {
    /// Nobody listens.
    ToNobody(Wanted),
    /// By this number.
    As(u64),
}

/// The listeners of a guest, and what they were told.
#[derive(Debug, Default)]
pub struct Listeners {
    all: RefCell<Vec<Rc<Listener>>>,
    /// What is announced and not yet answered by all.
    waiting: RefCell<Option<Wanted>>,
    /// What all have answered: it is asked for when nothing runs any more, since who has answered is still on its way back to waiting.
    answered: RefCell<Option<Wanted>>,
    /// Number of the last announcement.
    number: Cell<u64>,
    /// The last one that was taken, and how that went: 0 or a negated errno.
    ended: Cell<(u64, i64)>,
}

impl Listeners {
    /// Another listener.
    ///
    /// # Errors
    /// EMFILE: there are too many.
    pub fn add(&self) -> Result<Rc<Listener>> {
        let mut all = self.all.borrow_mut();
        if all.len() >= LISTENERS_MAX {
            return Err(Errno::EMFILE);
        }
        let number = self.number.get();
        let listener =
            Listener { told: Cell::new(number), ready: Cell::new(number), told_end: Cell::new(number) };
        let listener = Rc::new(listener);
        all.push(listener.clone());
        Ok(listener)
    }

    /// `listener` is gone, and not waited for.
    pub fn remove(&self, listener: &Rc<Listener>) {
        self.all.borrow_mut().retain(|other| !Rc::ptr_eq(other, listener));
        self.look_for_answers();
    }

    /// Take what all have answered.
    #[must_use]
    pub fn take_answered(&self) -> Option<Wanted> {
        self.answered.take()
    }

    /// Announce `wanted`. One that waits already is replaced: who has answered need not answer again.
    pub fn announce(&self, wanted: Wanted) -> Announced {
        if self.all.borrow().is_empty() {
            return Announced::ToNobody(wanted);
        }
        let again = self.answered.take().is_some();
        if self.waiting.replace(Some(wanted)).is_none() && !again {
            self.number.set(self.number.get() + 1);
        }
        self.look_for_answers();
        Announced::As(self.number.get())
    }

    /// `listener` is ready for announcement `number`.
    ///
    /// # Errors
    /// EINVAL: it was not told of it.
    pub fn answer(&self, listener: &Listener, number: u64) -> Result {
        if number == 0 || number > listener.told.get() {
            return Err(Errno::EINVAL);
        }
        listener.ready.set(listener.ready.get().max(number));
        self.look_for_answers();
        Ok(())
    }

    fn look_for_answers(&self) {
        let number = self.number.get();
        if self.all.borrow().iter().all(|listener| listener.ready.get() >= number)
            && let Some(wanted) = self.waiting.take()
        {
            *self.answered.borrow_mut() = Some(wanted);
        }
    }

    /// Announcement `number` has waited for long enough: how many have not answered it, and what it was.
    pub fn wait_no_longer(&self, number: u64) -> (usize, Option<Wanted>) {
        if number != self.number.get() {
            return (0, None);
        }
        let late = self.all.borrow().iter().filter(|listener| listener.ready.get() < number).count();
        let waiting = self.waiting.take();
        (late, waiting.or_else(|| self.answered.take()))
    }

    /// A capture has an end; it is that of the last announcement unless this one still waits, or has ended before.
    pub fn finish(&self, outcome: i64) {
        let number = self.number.get();
        let (ended, before) = self.ended.get();
        // It fails after it was thought done.
        let fails_late = number == ended && before == 0 && outcome < 0;
        if self.waiting.borrow().is_none()
            && self.answered.borrow().is_none()
            && (number > ended || fails_late)
        {
            self.ended.set((number, outcome));
        }
    }

    /// This is a clone: what was captured is no news in it.
    pub fn forget_ends(&self) {
        let number = self.number.get();
        for listener in self.all.borrow().iter() {
            listener.told.set(number);
            listener.ready.set(number);
            listener.told_end.set(number);
        }
    }

    /// What `listener` has to read next, and what to do once it has.
    pub fn news(&self, listener: &Rc<Listener>) -> Option<(String, impl FnOnce() + use<>)> {
        let number = self.number.get();
        let (ended, outcome) = self.ended.get();
        let (text, is_end) = if self.waiting.borrow().is_some() && listener.told.get() < number {
            (format!("capture {number}\n"), false)
        } else if ended > listener.told_end.get() && outcome == 0 {
            (format!("captured {ended}\n"), true)
        } else if ended > listener.told_end.get() {
            (format!("failed {ended} {}\n", outcome.saturating_neg()), true)
        } else {
            return None;
        };
        let listener = listener.clone();
        let told = move || if is_end { listener.told_end.set(ended) } else { listener.told.set(number) };
        Some((text, told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(level: u64) -> Wanted {
        Wanted { level, key: Vec::new(), images: 0, caution: None }
    }

    fn read(listeners: &Listeners, listener: &Rc<Listener>) -> Option<String> {
        let (text, told) = listeners.news(listener)?;
        told();
        Some(text)
    }

    #[test]
    fn a_capture_waits_for_all_that_listen() {
        let listeners = Listeners::default();
        assert_eq!(listeners.announce(wanted(1)), Announced::ToNobody(wanted(1)));
        let (one, two) = (listeners.add().unwrap(), listeners.add().unwrap());
        assert_eq!(read(&listeners, &one), None);
        assert_eq!(listeners.announce(wanted(1)), Announced::As(1));
        assert_eq!(listeners.answer(&one, 1), Err(Errno::EINVAL), "it has not been told");
        assert_eq!(read(&listeners, &one).as_deref(), Some("capture 1\n"));
        assert_eq!(read(&listeners, &one), None, "once");
        assert_eq!(listeners.answer(&one, 2), Err(Errno::EINVAL));
        assert_eq!((listeners.answer(&one, 1), listeners.take_answered()), (Ok(()), None));
        assert_eq!(read(&listeners, &two).as_deref(), Some("capture 1\n"));
        assert_eq!((listeners.answer(&two, 1), listeners.take_answered()), (Ok(()), Some(wanted(1))));
        listeners.finish(0);
        assert_eq!(read(&listeners, &one).as_deref(), Some("captured 1\n"));
        // The clone's side of it: nothing but the generation.
        listeners.forget_ends();
        assert_eq!(read(&listeners, &two), None);
        assert_eq!(listeners.announce(wanted(2)), Announced::As(2));
    }

    #[test]
    fn who_is_late_or_gone_is_not_waited_for() {
        let listeners = Listeners::default();
        let (one, two) = (listeners.add().unwrap(), listeners.add().unwrap());
        listeners.announce(wanted(1));
        read(&listeners, &one);
        assert_eq!((listeners.answer(&one, 1), listeners.take_answered()), (Ok(()), None));
        listeners.remove(&two);
        assert_eq!(listeners.take_answered(), Some(wanted(1)));
        listeners.finish(0);
        assert_eq!(read(&listeners, &one).as_deref(), Some("captured 1\n"));
        // A program that never rests is asked in the end, too.
        listeners.announce(wanted(2));
        read(&listeners, &one);
        assert_eq!(listeners.answer(&one, 2), Ok(()));
        assert_eq!(listeners.wait_no_longer(2), (0, Some(wanted(2))));
        assert_eq!((listeners.take_answered(), listeners.wait_no_longer(2)), (None, (0, None)));
        listeners.finish(0);
        listeners.announce(wanted(3));
        assert_eq!(listeners.wait_no_longer(1), (0, None), "of another announcement");
        assert_eq!(listeners.wait_no_longer(3), (1, Some(wanted(3))));
        // Its answer comes too late, and does no harm.
        listeners.finish(-5);
        assert_eq!(read(&listeners, &one).as_deref(), Some("failed 3 5\n"));
        assert_eq!(listeners.answer(&one, 1), Ok(()));
    }

    #[test]
    fn the_programs_own_snapshots_are_no_news() {
        let listeners = Listeners::default();
        let one = listeners.add().unwrap();
        listeners.finish(0);
        assert_eq!(read(&listeners, &one), None);
        listeners.announce(wanted(1));
        listeners.finish(0);
        assert_eq!(read(&listeners, &one).as_deref(), Some("capture 1\n"));
        assert_eq!(read(&listeners, &one), None, "it is still to come");
    }

    #[test]
    fn there_are_not_many() {
        let listeners = Listeners::default();
        let all: Vec<_> = (0..LISTENERS_MAX).map(|_| listeners.add().unwrap()).collect();
        assert_eq!(listeners.add().unwrap_err(), Errno::EMFILE);
        listeners.remove(&all[0]);
        assert!(listeners.add().is_ok());
    }
}
