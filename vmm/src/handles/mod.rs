//! Handles: the descriptors that a guest reads and writes through the VMM, and the epoll instance that watches them.
//!
//! Owns [`Handles`]. Handles 0, 1, 2 are the first process' stdio; further numbers are given out once and never again.
//! Readiness is edge-triggered: after an EAGAIN, an event follows. Writability is only watched after an EAGAIN,
//! because a pipe's reader would otherwise wake an idle guest with every read.

mod channel;
mod wait;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;
use seuss_abi::event::{ERROR, Event, HANGUP, Kind, READABLE, WRITABLE};

use crate::config::Stdio;
use crate::memory::SegmentList;
use channel::Channel;

/// Handle number that means "none" in a process description.
pub(crate) const NO_HANDLE: u32 = u32::MAX;

/// epoll's name for the descriptor that wakes the vCPU thread.
const WAKE: u64 = u64::MAX;

/// Events taken from epoll at once.
const BATCH: usize = 256;

struct Handle {
    channel: Channel,
    /// Whether epoll watches it; a regular file is always ready.
    watched: bool,
    /// Whether reading ends where there is nothing to read now.
    finished: bool,
}

/// A process' standard descriptors, ready to become handles. Making them may open files, which the vCPU thread may not: whoever asks for the process makes them.
#[derive(Debug)]
pub(crate) struct Channels([Option<Channel>; 3]);

impl Channels {
    /// Take the descriptors over.
    ///
    /// # Errors
    /// fstat(2)'s or fcntl(2)'s, of a descriptor that is none.
    pub(crate) fn of(stdio: Stdio) -> rustix::io::Result<Self> {
        let adopt = |fd: Option<OwnedFd>| fd.map(Channel::adopt).transpose();
        Ok(Self([adopt(stdio.stdin)?, adopt(stdio.stdout)?, adopt(stdio.stderr)?]))
    }
}

/// What [`Handles::wait`] saw besides events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waited {
    /// Somebody wants the vCPU thread.
    pub(crate) woken: bool,
    /// Descriptors of others that are ready, by their name in epoll.
    pub(crate) others: Vec<(u64, EventFlags)>,
}

/// The handles of one guest.
pub(crate) struct Handles {
    epoll: OwnedFd,
    wake: OwnedFd,
    table: BTreeMap<u32, Handle>,
    next: u32,
    /// Events that epoll will not give: always-ready handles, ends of input.
    extra: Vec<Event>,
}

fn ready(handle: u32, bits: u64) -> Event {
    Event { kind: Kind::Ready as u32, a: handle, b: bits, c: 0 }
}

/// Error to the guest's negated errno.
fn negated(errno: Errno) -> i64 {
    -i64::from(errno.raw_os_error())
}

impl Handles {
    /// No handles; `wake` is an eventfd whose counting up ends a wait.
    pub(crate) fn new(wake: OwnedFd) -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self { epoll, wake, table: BTreeMap::new(), next: 3, extra: Vec::new() })
    }

    /// The epoll instance, for others to have descriptors of theirs watched: their names are above those of handles, and below [`u64::MAX`].
    pub(crate) fn epoll(&self) -> rustix::io::Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.epoll, 0)
    }

    /// Take the first process' descriptors: handles 0, 1 and 2.
    pub(crate) fn adopt_first(&mut self, stdio: Stdio) -> rustix::io::Result<[u32; 3]> {
        self.adopt_all(Channels::of(stdio)?, [0, 1, 2])
    }

    /// Take another process' descriptors. On error none of them stays.
    pub(crate) fn adopt(&mut self, channels: Channels) -> rustix::io::Result<[u32; 3]> {
        let first = self.next;
        self.next = first.checked_add(3).filter(|&next| next < NO_HANDLE).ok_or(Errno::MFILE)?;
        self.adopt_all(channels, [first, first + 1, first + 2])
    }

    fn adopt_all(&mut self, channels: Channels, mut numbers: [u32; 3]) -> rustix::io::Result<[u32; 3]> {
        let given = numbers;
        for (channel, number) in channels.0.into_iter().zip(&mut numbers) {
            let Some(channel) = channel else {
                *number = NO_HANDLE;
                continue;
            };
            if let Err(errno) = self.insert(*number, channel) {
                for number in given {
                    self.close(number);
                }
                return Err(errno);
            }
        }
        Ok(numbers)
    }

    fn insert(&mut self, number: u32, channel: Channel) -> rustix::io::Result<()> {
        let mut handle = Handle { channel, watched: true, finished: false };
        // Asked for writability as well at first: the first edge tells the guest how things stand.
        match epoll::add(
            &self.epoll,
            &handle.channel,
            EventData::new_u64(number.into()),
            interest(&handle, true),
        ) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                handle.watched = false;
                let readable = if handle.channel.readable { READABLE } else { 0 };
                let writable = if handle.channel.writable { WRITABLE } else { 0 };
                self.extra.push(ready(number, readable | writable));
            }
            Err(errno) => return Err(errno),
        }
        self.table.insert(number, handle);
        Ok(())
    }

    /// Read into guest memory, for the guest: bytes or a negated errno.
    pub(crate) fn read(&mut self, number: u32, into: SegmentList<'_>) -> i64 {
        let Some(handle) = self.table.get(&number) else { return negated(Errno::BADF) };
        if into.len_bytes() == 0 {
            return 0;
        }
        match handle.channel.read(into) {
            Ok(count) => count as i64,
            Err(Errno::AGAIN | Errno::INTR) if handle.finished => 0,
            Err(Errno::INTR) => self.again(number, false),
            Err(errno) => negated(errno),
        }
    }

    /// Write out of guest memory, for the guest: bytes or a negated errno.
    pub(crate) fn write(&mut self, number: u32, from: SegmentList<'_>) -> i64 {
        let Some(handle) = self.table.get(&number) else { return negated(Errno::BADF) };
        if from.len_bytes() == 0 {
            return 0;
        }
        match handle.channel.write(from) {
            Ok(count) => count as i64,
            Err(Errno::AGAIN | Errno::INTR) => self.again(number, true),
            Err(errno) => negated(errno),
        }
    }

    /// EAGAIN, with an event to follow: changing the interest makes epoll look at the descriptor anew.
    fn again(&mut self, number: u32, writability: bool) -> i64 {
        self.watch(number, writability);
        negated(Errno::AGAIN)
    }

    fn watch(&self, number: u32, writability: bool) {
        let Some(handle) = self.table.get(&number).filter(|handle| handle.watched) else { return };
        let data = EventData::new_u64(number.into());
        if let Err(error) = epoll::modify(&self.epoll, &handle.channel, data, interest(handle, writability)) {
            tracing::warn!(handle = number, %error, "epoll does not watch a handle any more");
        }
    }

    /// Close, for the guest: 0 or a negated errno.
    pub(crate) fn close(&mut self, number: u32) -> i64 {
        let Some(handle) = self.table.remove(&number) else { return negated(Errno::BADF) };
        if handle.watched {
            // Not left to the close: another descriptor of the same description may stay open elsewhere, and would
            // keep epoll's entry.
            let _ = epoll::delete(&self.epoll, &handle.channel);
        }
        0
    }

    /// From now on the handle reads as at its end once there is nothing to read.
    pub(crate) fn finish_input(&mut self, number: u32) {
        if let Some(handle) = self.table.get_mut(&number) {
            handle.finished = true;
            self.extra.push(ready(number, READABLE | HANGUP));
        }
    }

    /// Close everything.
    pub(crate) fn clear(&mut self) {
        let numbers: Vec<_> = self.table.keys().copied().collect();
        for number in numbers {
            self.close(number);
        }
    }

    /// Wait until something is ready, somebody wants the thread, a signal comes, or `timeout` is over (`None`: never),
    /// and give at most `room` events to `sink`. With no room only the wake descriptor would matter: then it does not
    /// wait at all.
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Timespec>,
        room: usize,
        mut sink: impl FnMut(Event),
    ) -> rustix::io::Result<Waited> {
        let mut waited = Waited::default();
        let extra = self.extra.len().min(room);
        let polled = (room - extra).min(BATCH);
        self.extra.drain(..extra).for_each(&mut sink);
        if polled == 0 {
            return Ok(waited);
        }
        let timeout = if extra > 0 { Some(Timespec { tv_sec: 0, tv_nsec: 0 }) } else { timeout };
        let events = match wait::wait(self.epoll.as_fd(), polled, timeout) {
            Ok(events) => events,
            // A kick: the caller looks around in any case.
            Err(Errno::INTR) => return Ok(waited),
            Err(errno) => return Err(errno),
        };
        for event in events {
            let flags = event.flags;
            match u32::try_from(event.data.u64()) {
                Ok(number) => {
                    if flags.contains(EventFlags::OUT) {
                        self.watch(number, false);
                    }
                    sink(ready(number, readiness(flags)));
                }
                Err(_) if event.data.u64() != WAKE => waited.others.push((event.data.u64(), flags)),
                Err(_) => {
                    waited.woken = true;
                    let _ = rustix::io::read(self.wake.as_fd(), &mut [0; 8]);
                }
            }
        }
        Ok(waited)
    }
}

fn interest(handle: &Handle, writability: bool) -> EventFlags {
    let mut flags = EventFlags::ET;
    if handle.channel.readable {
        flags |= EventFlags::IN | EventFlags::RDHUP;
    }
    if handle.channel.writable && writability {
        flags |= EventFlags::OUT;
    }
    flags
}

/// epoll's flags as the guest's bits.
fn readiness(flags: EventFlags) -> u64 {
    let mut bits = 0;
    if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) {
        bits |= READABLE;
    }
    if flags.contains(EventFlags::OUT) {
        bits |= WRITABLE;
    }
    if flags.contains(EventFlags::HUP) {
        bits |= HANGUP;
    }
    if flags.contains(EventFlags::ERR) {
        bits |= ERROR;
    }
    bits
}
