//! What one guest may cause in the logs of its node: [`TextBudget`].
//!
//! A guest can make its VMM speak in many ways: by saying something itself, by asking for what is refused, by failing. No list of these ways is complete, so
//! it is the **thread** that counts: whatever is logged on a thread that works for a guest is paid from that guest's budget ([`TextBudget::enter`]), whoever wrote
//! the call. The writer of the log asks ([`write_line`]) with the very bytes that it is about to write; what the log's filter drops costs nothing.
//!
//! The figures add up to [`MINUTE_BYTES`] in any minute, the last words of a guest that fails included. What is left out is counted, and told as soon as there is room
//! ([`TextBudget::take_left_out`]) and at the end.

use std::cell::RefCell;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::monotonic_ns;

/// Most bytes of log that one guest causes in any minute: burst, a minute's refill, and last words.
pub const MINUTE_BYTES: u64 = BURST_BYTES + REFILL_BYTES + LAST_WORDS_BYTES;
/// What may come at once...
const BURST_BYTES: u64 = 16 << 10;
/// ...and what is added in a minute.
const REFILL_BYTES: u64 = 24 << 10;
/// Kept for the failure of the guest and for what is said of it.
const LAST_WORDS_BYTES: u64 = 24 << 10;
/// A budget that had no room for a message takes nothing until it has so much more: otherwise a flood would come through line by line, with as many notes of what was left out.
const REOPEN_BYTES: u64 = 4 << 10;
/// Longest single message, in bytes; what is longer is cut.
pub const MESSAGE_BYTES: usize = 17 << 10;
/// Nanoseconds of a minute.
const MINUTE_NS: u64 = 60_000_000_000;

thread_local! {
    /// Whose text this thread writes.
    static CURRENT: RefCell<Option<TextBudget>> = const { RefCell::new(None) };
}

/// The text that one guest may cause. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct TextBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    account: Mutex<Account>,
    /// Something was left out and not told: looked at without the lock.
    owes: AtomicBool,
}

/// What was not written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Messages.
    pub lines: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Debug)]
struct Account {
    /// Bytes that may be written, in units of 1/[`MINUTE_NS`] byte, so that no refill is lost to rounding.
    left: u128,
    most: u128,
    filled_ns: u64,
    /// There was no room for a message; `left` must be this much again, [`REOPEN_BYTES`] more than it was then.
    closed_until: Option<u128>,
    has_spoken_last: bool,
    left_out: LeftOut,
}

fn units(bytes: u64) -> u128 {
    u128::from(bytes) * u128::from(MINUTE_NS)
}

impl Account {
    fn new(now_ns: u64) -> Self {
        let most = units(BURST_BYTES);
        let left_out = LeftOut::default();
        Self { left: most, most, filled_ns: now_ns, closed_until: None, has_spoken_last: false, left_out }
    }

    fn refill(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.filled_ns);
        let fresh = u128::from(passed_ns) * u128::from(REFILL_BYTES);
        self.left = (self.left + fresh).min(self.most.max(self.left));
        self.filled_ns = self.filled_ns.max(now_ns);
        self.closed_until = self.closed_until.filter(|&wanted| self.left < wanted);
    }

    /// Whether `bytes` may be written now; then they are paid.
    fn pay(&mut self, bytes: u64, now_ns: u64) -> bool {
        self.refill(now_ns);
        match self.left.checked_sub(units(bytes)).filter(|_| self.closed_until.is_none()) {
            Some(rest) => {
                self.left = rest;
                true
            }
            None => {
                // Last words are what they are: a long one does not keep a short one from being said.
                let reopened = (self.left + units(REOPEN_BYTES)).min(self.most);
                self.closed_until = self.closed_until.or(Some(reopened)).filter(|_| !self.has_spoken_last);
                false
            }
        }
    }

    fn leave_out(&mut self, bytes: u64) {
        self.left_out.lines += 1;
        self.left_out.bytes += bytes;
    }

    fn take_left_out(&mut self, now_ns: u64) -> Option<LeftOut> {
        self.refill(now_ns);
        let has_room = self.closed_until.is_none();
        (has_room && self.left_out.lines > 0).then(|| std::mem::take(&mut self.left_out))
    }

    fn release_last_words(&mut self, now_ns: u64) {
        self.refill(now_ns);
        if !std::mem::replace(&mut self.has_spoken_last, true) {
            self.left += units(LAST_WORDS_BYTES);
            self.closed_until = None;
        }
    }
}

impl Default for TextBudget {
    fn default() -> Self {
        let account = Mutex::new(Account::new(monotonic_ns()));
        Self(Arc::new(Inner { account, owes: AtomicBool::new(false) }))
    }
}

impl TextBudget {
    /// The budget that this thread writes on.
    #[must_use]
    pub fn of_this_thread() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// From now on, until the returned value is dropped, this thread's text is paid from this budget. Guests that it starts have this budget.
    pub fn enter(&self) -> Entered {
        let before = CURRENT.with_borrow_mut(|current| current.replace(self.clone()));
        Entered { before, _here: PhantomData }
    }

    /// Pays for `bytes` that somebody else writes on the guest's behalf, as containerd does for an event. Whether they may be written now; nothing counts as left out if
    /// not.
    #[must_use]
    pub fn pay(&self, bytes: u64) -> bool {
        self.with(|account| account.pay(bytes, monotonic_ns()))
    }

    /// What was left out since this was asked last, if there is room to tell.
    #[must_use]
    pub fn take_left_out(&self) -> Option<LeftOut> {
        if !self.0.owes.load(Ordering::Relaxed) {
            return None;
        }
        let taken = self.with(|account| account.take_left_out(monotonic_ns()))?;
        self.0.owes.store(false, Ordering::Relaxed);
        Some(taken)
    }

    /// The guest ends: what was kept for its last words may be used.
    pub fn release_last_words(&self) {
        self.with(|account| account.release_last_words(monotonic_ns()));
    }

    fn admits(&self, bytes: u64) -> bool {
        let admitted = self.with(|account| {
            let admitted = account.pay(bytes, monotonic_ns());
            if !admitted {
                account.leave_out(bytes);
            }
            admitted
        });
        if !admitted {
            self.0.owes.store(true, Ordering::Relaxed);
        }
        admitted
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Account) -> T) -> T {
        // Numbers: whatever a panic left there is a whole value.
        use_it(&mut self.0.account.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// While it lives, this thread's text is paid from a budget ([`TextBudget::enter`]).
#[must_use]
#[derive(Debug)]
pub struct Entered {
    before: Option<TextBudget>,
    /// It belongs to the thread that made it.
    _here: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

/// Writes one message of a log, if the guest that this thread works for (if it works for one) can pay for it; else counts it as left out. `message` is the whole message, with its
/// newline, as a formatter made it.
///
/// # Errors
/// The writer's.
pub fn write_line(writer: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let Some(budget) = TextBudget::of_this_thread() else { return writer.write_all(message) };
    let cut = message.len() > MESSAGE_BYTES;
    let ending = if cut { format!("... (cut, {} bytes)\n", message.len()) } else { String::new() };
    let end = if cut { MESSAGE_BYTES } else { message.len() };
    if !budget.admits((end + ending.len()) as u64) {
        return Ok(());
    }
    if !cut {
        return writer.write_all(message);
    }
    writer.write_all(&[&message[..end], ending.as_bytes()].concat())
}

/// At most `most` bytes of `text`, cut between letters.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    const ENDING: &str = "...";
    if text.len() > most {
        let end = (0..=most.saturating_sub(ENDING.len())).rev().find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
        text.push_str(ENDING);
    }
    text
}

#[cfg(test)]
mod tests;
