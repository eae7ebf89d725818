//! One socket of the guest: its descriptor, the memory that it receives into, and what it sends.
//!
//! A socket is moved by two things: memory or data from the guest, and edges from epoll. `readable` and `writable` stand for an edge that has
//! not been used up: they are cleared by EAGAIN (or by a read that got less than it asked for, if no end was announced).

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use seuss_abi::event::Kind;
use seuss_abi::net::{ADDRESS_BYTES, DATAGRAM_ALIGN, DatagramHeader};

use super::Announce;
use super::answer::Answer;
use super::pieces::{Done, Inbox, Outbox, Piece};
use super::sys;
use crate::memory::Memory;

/// Errors of a datagram socket that are told in a row.
const ERRORS_MAX: u32 = 8;
/// Datagrams that are received in a row. Others may send faster than this thread receives, for as long as they like; it has a guest to look after.
pub(super) const DATAGRAMS_MAX: u32 = 64;
const DATAGRAM_HEADER: u64 = size_of::<DatagramHeader>() as u64;

/// How far a socket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Made, perhaps bound. A datagram socket stays here.
    Fresh,
    Listening,
    Connecting,
    Connected,
    /// Nothing comes or goes any more.
    Over,
}

/// A connection to be accepted ahead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    pub(super) piece: Piece,
    pub(super) handle: u32,
}

/// A socket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) handle: u32,
    /// The descriptor, or why there is none.
    pub(super) fd: Result<OwnedFd, Errno>,
    pub(super) datagram: bool,
    pub(super) phase: Phase,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// epoll announced an end or an error: reading goes on until it is met.
    pub(super) hung_up: bool,
    /// The end of the stream was told.
    ended: bool,
    /// The guest was told that the next datagram does not fit.
    starved: bool,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) accepts: VecDeque<Ahead>,
    /// A shutdown for writing that waits for the outbox.
    pub(super) shut_when_sent: bool,
    /// A close that waits for the outbox.
    pub(super) closing: bool,
    /// It is in the list of those that have new data to send.
    pub(super) dirty: bool,
    /// epoll knows it.
    pub(super) watched: bool,
    /// How the first answer to somebody outside reads, until it has been looked at.
    pub(super) answer: Answer,
    /// Datagrams may wait that there would be memory for: it is to be looked at again.
    pub(super) more: bool,
}

impl Socket {
    pub(super) fn new(handle: u32, fd: Result<OwnedFd, Errno>, datagram: bool, phase: Phase) -> Self {
        Self {
            handle,
            fd,
            datagram,
            phase,
            readable: true,
            writable: true,
            hung_up: false,
            ended: false,
            starved: false,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            accepts: VecDeque::new(),
            shut_when_sent: false,
            closing: false,
            dirty: false,
            watched: false,
            answer: Answer::default(),
            more: false,
        }
    }

    pub(super) fn fd(&self) -> Result<&OwnedFd, Errno> {
        self.fd.as_ref().map_err(|&errno| errno)
    }

    /// More memory to receive into.
    pub(super) fn provide(&mut self, piece: Piece) {
        self.starved = false;
        self.inbox.push(piece);
    }

    /// epoll saw `flags`. Accepting is not done here.
    pub(super) fn ready(&mut self, flags: EventFlags, memory: &Memory, announce: &mut dyn Announce) {
        let hangup = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if self.phase == Phase::Connecting {
            if !flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
                return;
            }
            self.connected(announce);
        }
        if flags.intersects(hangup | EventFlags::IN) {
            self.readable = true;
            self.hung_up |= flags.intersects(hangup);
        }
        if flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
            self.writable = true;
        }
        self.advance(memory, announce);
    }

    /// Receive and send as far as that goes now.
    pub(super) fn advance(&mut self, memory: &Memory, announce: &mut dyn Announce) {
        if self.datagram {
            if self.hung_up {
                self.passing_error(announce);
            }
            self.receive_datagrams(memory, announce);
            self.send_datagrams(memory, announce);
        } else if self.phase == Phase::Connected {
            self.receive(memory, announce);
            self.send(memory, announce);
        }
    }

    fn connected(&mut self, announce: &mut dyn Announce) {
        let Ok(fd) = &self.fd else { return };
        let errno = sys::take_error(fd);
        self.phase = if errno == 0 { Phase::Connected } else { Phase::Fresh };
        announce.loud(Kind::Connected, self.handle, errno as u64, 0);
        if errno != 0 {
            // The error was taken, so the host's socket would report its end once more, as ECONNABORTED, unless it is reset (AF_UNSPEC).
            let _ = sys::connect(fd, &[0; 16]);
            let discarded = self.outbox.discard();
            self.sent(discarded, announce);
        }
    }

    /// The connection is over for good.
    fn fail(&mut self, errno: Errno, announce: &mut dyn Announce) {
        self.phase = Phase::Over;
        self.inbox.clear();
        announce.loud(Kind::Failed, self.handle, errno.raw_os_error() as u64, 1);
        let discarded = self.outbox.discard();
        self.sent(discarded, announce);
    }

    fn sent(&self, done: Done, announce: &mut dyn Announce) {
        if done.bytes == 0 {
        } else if done.tell {
            announce.loud(Kind::Sent, self.handle, done.bytes, 0);
        } else {
            announce.quiet(Kind::Sent, self.handle, done.bytes, 0);
        }
    }

    fn receive(&mut self, memory: &Memory, announce: &mut dyn Announce) {
        let mut total = 0;
        let mut end = None;
        while self.readable && !self.ended && !self.closing && self.inbox.room_bytes() > 0 {
            let Ok(fd) = &self.fd else { return };
            let mut iovecs = self.inbox.iovecs(memory, 0);
            let asked: usize = iovecs.iter().map(|piece| piece.iov_len).sum();
            // SAFETY: the pieces lie in the private window, which is mapped writable and holds no Rust object.
            match unsafe { sys::receive(fd, &mut iovecs, &mut []) } {
                Ok(0) => end = Some(Ok(())),
                Ok(count) => {
                    self.inbox.advance(count as u64);
                    total += count as u64;
                    self.readable = count == asked || self.hung_up;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => (self.readable, self.hung_up) = (false, false),
                Err(errno) => end = Some(Err(errno)),
            }
            if end.is_some() {
                break;
            }
        }
        if total > 0 {
            announce.loud(Kind::Received, self.handle, total, 0);
        }
        match end {
            Some(Ok(())) => {
                self.ended = true;
                self.inbox.clear();
                announce.loud(Kind::EndOfStream, self.handle, 0, 0);
            }
            Some(Err(errno)) => self.fail(errno, announce),
            None => {}
        }
    }

    fn send(&mut self, memory: &Memory, announce: &mut dyn Announce) {
        let mut done = Done::default();
        while self.writable && !self.outbox.is_empty() {
            let Ok(fd) = &self.fd else { return };
            if self.answer == Answer::Awaited
                && let Some(outgoing) = self.outbox.front()
            {
                self.answer = Answer::read(&outgoing.piece, memory);
            }
            // SAFETY: the pieces lie in the private window, which is mapped.
            match unsafe { sys::send(fd, &mut self.outbox.iovecs(memory), &mut []) } {
                Ok(count) => done.add(self.outbox.advance(count as u64)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(errno) => {
                    self.sent(done, announce);
                    // What was received before must be told before the error.
                    self.readable = true;
                    self.receive(memory, announce);
                    if self.phase == Phase::Connected {
                        self.fail(errno, announce);
                    }
                    return;
                }
            }
        }
        self.sent(done, announce);
        if self.outbox.is_empty() && self.shut_when_sent {
            self.shut_when_sent = false;
            if let Ok(fd) = &self.fd {
                let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Write);
            }
        }
    }

    /// An error that a datagram socket goes on after.
    fn passing_error(&mut self, announce: &mut dyn Announce) {
        self.hung_up = false;
        let Ok(fd) = &self.fd else { return };
        let errno = sys::take_error(fd);
        if errno != 0 {
            announce.loud(Kind::Failed, self.handle, errno as u64, 0);
        }
    }

    fn receive_datagrams(&mut self, memory: &Memory, announce: &mut dyn Announce) {
        let mut total = 0;
        let mut needed = None;
        let mut errors = 0;
        let mut turns = 0;
        self.more = false;
        while self.readable && !self.closing && !self.starved && self.inbox.room_bytes() > 0 {
            let Ok(fd) = &self.fd else { return };
            self.more = turns == DATAGRAMS_MAX;
            if self.more {
                break;
            }
            turns += 1;
            let next = sys::readable_bytes(fd) as u64;
            let wanted = padded(next);
            if wanted > self.inbox.room_bytes() {
                // None, or an empty one?
                if next == 0 && !sys::has_datagram(fd) {
                    self.readable = false;
                    break;
                }
                self.starved = true;
                needed = Some(wanted);
                break;
            }
            let mut from = [0; ADDRESS_BYTES];
            let mut iovecs = self.inbox.iovecs(memory, DATAGRAM_HEADER);
            // SAFETY: as in `receive`.
            match unsafe { sys::receive(fd, &mut iovecs, &mut from) } {
                Ok(count) => {
                    let mut header = [0; DATAGRAM_HEADER as usize];
                    header[..4].copy_from_slice(&(count as u32).to_le_bytes());
                    header[8..].copy_from_slice(&from);
                    self.inbox.write(memory, &header);
                    self.inbox.advance(padded(count as u64));
                    total += padded(count as u64);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.readable = false,
                Err(errno) => {
                    announce.loud(Kind::Failed, self.handle, errno.raw_os_error() as u64, 0);
                    // Such an error is gone when it was told; one that stays must not keep the thread.
                    errors += 1;
                    self.readable = errors < ERRORS_MAX;
                }
            }
        }
        if total > 0 {
            announce.loud(Kind::Received, self.handle, total, 0);
        }
        if let Some(needed) = needed {
            announce.loud(Kind::Starved, self.handle, needed, 0);
        }
    }

    fn send_datagrams(&mut self, memory: &Memory, announce: &mut dyn Announce) {
        let mut done = Done::default();
        let mut retried = false;
        while self.writable
            && let Some(outgoing) = self.outbox.front()
        {
            let Ok(fd) = &self.fd else { return };
            let mut to = [0; ADDRESS_BYTES];
            let mut to_len = 0;
            let mut piece = outgoing.piece;
            if outgoing.addressed {
                memory.private().read(piece.gpa, &mut to);
                to_len = address_len(&to);
                piece = piece.after(ADDRESS_BYTES as u64);
            }
            let mut iovecs: Vec<_> = memory.private().iovec(piece.gpa, piece.len_bytes).into_iter().collect();
            // SAFETY: the piece lies in the private window, which is mapped.
            match unsafe { sys::send(fd, &mut iovecs, &mut to[..to_len]) } {
                Ok(_) => {
                    done.add(self.outbox.pop());
                    retried = false;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.writable = false,
                Err(errno) => {
                    announce.loud(Kind::Failed, self.handle, errno.raw_os_error() as u64, 0);
                    // The first error may be an earlier datagram's.
                    if retried {
                        done.add(self.outbox.pop());
                    }
                    retried = !retried;
                }
            }
        }
        self.sent(done, announce);
    }
}

/// Bytes that a datagram of `len_bytes` takes in the inbox.
fn padded(len_bytes: u64) -> u64 {
    (DATAGRAM_HEADER + len_bytes).next_multiple_of(DATAGRAM_ALIGN as u64)
}

/// The length that belongs to an address's family; 0 for none that is known.
pub(super) fn address_len(address: &[u8]) -> usize {
    match address {
        [low, high, ..] => match i32::from(u16::from_ne_bytes([*low, *high])) {
            libc::AF_INET => size_of::<libc::sockaddr_in>(),
            libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
            _ => 0,
        },
        _ => 0,
    }
}
