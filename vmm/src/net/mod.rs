//! The guest's sockets: host sockets in the network namespace of the vCPU thread, driven by submissions, by calls, and by epoll.
//!
//! Owns [`Sockets`]. The contract is `seuss_abi::net`. Everything that comes from the guest is copied once and checked: handles and pieces of memory
//! are bounded, options are those of a list (the host's process has privileges that the guest must not borrow), and a submission that breaks the
//! contract ends the guest. Nothing here waits.

mod answer;
mod calls;
mod interfaces;
pub(crate) mod linger;
mod options;
mod pieces;
mod privileges;
mod queue;
mod socket;
mod sys;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use seuss_abi::comm::SUBMISSIONS_OFFSET;
use seuss_abi::event::{Event, Kind};
use seuss_abi::net::{
    ADDRESS_BYTES, AcceptHeader, Command, HANDLES_MAX, PIECES_MAX, SEND_ADDRESSED, SEND_TELL, Submission,
};

use crate::events::EventRing;
use crate::memory::Memory;
use answer::Answer;
use pieces::{Outgoing, Piece};
pub use privileges::NetPrivileges;
use privileges::Owner;
use queue::SubmissionRing;
use socket::{Ahead, Phase, Socket};

/// epoll's names of sockets are their handles plus this: other descriptors have smaller ones.
pub(crate) const EPOLL_BASE: u64 = 1 << 32;
/// Events that may wait for a guest that takes none, before it is given up.
const EVENTS_MAX: usize = 1 << 16;

/// What epoll tells of sockets.
const INTEREST: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// The guest broke the contract. All of these end it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NetError {
    #[error("submission ring: head {head} is not within its entries of tail {tail}")]
    BadHead { head: u32, tail: u32 },
    #[error("submission {command:#x}: unknown command")]
    UnknownCommand { command: u32 },
    #[error("{command:?} of socket {handle}: {what}")]
    Bad { command: Command, handle: u32, what: &'static str },
    #[error("{waiting} events wait at gpa {SUBMISSIONS_OFFSET:#x}'s consumer, which takes none")]
    EventsNotTaken { waiting: usize },
}

/// Where events of sockets go.
pub(super) trait Announce {
    /// An event that ends an idle call.
    fn loud(&mut self, kind: Kind, handle: u32, b: u64, c: u64);
    /// An event that can wait until the guest is entered for another reason.
    fn quiet(&mut self, kind: Kind, handle: u32, b: u64, c: u64);
}

impl Announce for EventRing {
    fn loud(&mut self, kind: Kind, handle: u32, b: u64, c: u64) {
        self.push(Event { kind: kind as u32, a: handle, b, c });
    }

    fn quiet(&mut self, kind: Kind, handle: u32, b: u64, c: u64) {
        self.push_quiet(Event { kind: kind as u32, a: handle, b, c });
    }
}

/// What a thread that makes a guest's sockets has to be given before it is confined.
#[derive(Debug)]
pub(crate) struct NetEquipment {
    privileges: NetPrivileges,
    owner: Owner,
    files: interfaces::Files,
}

impl NetEquipment {
    /// For the calling thread.
    ///
    /// # Errors
    /// EPERM: it cannot make sockets for the owner that `privileges` names.
    pub(crate) fn new(privileges: NetPrivileges) -> rustix::io::Result<Self> {
        let owner = Owner::settle(privileges.owner)?;
        Ok(Self { privileges, owner, files: interfaces::Files::open() })
    }
}

/// The sockets of one guest.
#[derive(Debug)]
pub(crate) struct Sockets {
    epoll: OwnedFd,
    privileges: NetPrivileges,
    owner: Owner,
    files: interfaces::Files,
    submissions: SubmissionRing,
    table: Vec<Option<Box<Socket>>>,
    /// Sockets with new data to send.
    dirty: VecDeque<u32>,
    /// Somebody outside has had a good answer.
    answered: bool,
}

impl Sockets {
    /// No sockets; `epoll` watches them, `equipment` is what the calling thread makes them with.
    pub(crate) fn new(epoll: OwnedFd, equipment: NetEquipment) -> Self {
        let NetEquipment { privileges, owner, files } = equipment;
        Self {
            epoll,
            privileges,
            owner,
            files,
            submissions: SubmissionRing::default(),
            table: Vec::new(),
            dirty: VecDeque::new(),
            answered: false,
        }
    }

    /// Whether the guest has submitted something.
    pub(crate) fn has_submissions(&self, memory: &Memory) -> bool {
        self.submissions.filled(memory.comm()).is_ok_and(|filled| filled > 0)
    }

    /// Carry out everything that the guest has submitted.
    ///
    /// # Errors
    /// [`NetError`]: the guest is to be ended.
    pub(crate) fn drain(&mut self, memory: &Memory, ring: &mut EventRing) -> Result<(), NetError> {
        let filled = self.submissions.filled(memory.comm())?;
        if filled == 0 {
            return Ok(());
        }
        if ring.waiting() > EVENTS_MAX {
            return Err(NetError::EventsNotTaken { waiting: ring.waiting() });
        }
        for _ in 0..filled {
            let entry = self.submissions.take(memory.comm());
            self.submit(&entry, memory, ring)?;
        }
        self.submissions.publish(memory.comm());
        self.send_all(memory, ring);
        Ok(())
    }

    /// epoll saw `flags` at the socket of `handle`.
    pub(crate) fn ready(&mut self, handle: u32, flags: EventFlags, memory: &Memory, ring: &mut EventRing) {
        let Some(socket) = self.get(handle) else { return };
        if socket.phase == Phase::Listening {
            socket.readable = true;
            self.accept(handle, memory, ring);
        } else {
            socket.ready(flags, memory, ring);
            self.look_again(handle);
            self.finish_close(handle, ring);
        }
    }

    fn get(&mut self, handle: u32) -> Option<&mut Socket> {
        self.table.get_mut(handle as usize).and_then(Option::as_deref_mut)
    }

    fn insert(&mut self, socket: Socket) {
        let index = socket.handle as usize;
        if self.table.len() <= index {
            self.table.resize_with(index + 1, || None);
        }
        self.table[index] = Some(Box::new(socket));
        self.watch(index as u32);
    }

    /// Let epoll watch the socket. A TCP socket that neither listens nor connects would show a hang-up: it is watched later.
    fn watch(&mut self, handle: u32) {
        let Some(Some(socket)) = self.table.get_mut(handle as usize) else { return };
        let Ok(fd) = &socket.fd else { return };
        if socket.watched || (socket.phase == Phase::Fresh && !socket.datagram) {
            return;
        }
        let data = EventData::new_u64(EPOLL_BASE + u64::from(handle));
        match epoll::add(&self.epoll, fd, data, INTEREST) {
            Ok(()) => socket.watched = true,
            Err(error) => tracing::warn!(handle, %error, "epoll does not watch a socket"),
        }
    }

    fn submit(&mut self, entry: &Submission, memory: &Memory, ring: &mut EventRing) -> Result<(), NetError> {
        let Submission { command, handle, args: [a, b, c] } = *entry;
        let command = Command::from_raw(command).ok_or(NetError::UnknownCommand { command })?;
        let bad = |what| NetError::Bad { command, handle, what };
        if command == Command::Open {
            if handle >= HANDLES_MAX || self.get(handle).is_some() {
                return Err(bad("the handle is too large or in use"));
            }
            self.open(handle, [a, b, c], ring);
            return Ok(());
        }
        let socket = self.get(handle).ok_or_else(|| bad("there is no such socket"))?;
        if socket.closing {
            return Err(bad("it is being closed"));
        }
        match command {
            Command::Open => {}
            Command::Provide => {
                let piece =
                    Piece::new(memory, a, b).ok_or_else(|| bad("memory outside of the private window"))?;
                if socket.inbox.len() >= PIECES_MAX {
                    return Err(bad("too many pieces of memory"));
                }
                socket.provide(piece);
                self.advance(handle, memory, ring);
            }
            Command::Accept => {
                let piece =
                    Piece::new(memory, a, b).ok_or_else(|| bad("memory outside of the private window"))?;
                let connection = u32::try_from(c).ok().filter(|&handle| handle < HANDLES_MAX);
                let connection = connection.ok_or_else(|| bad("a handle that is too large"))?;
                let small = piece.len_bytes < size_of::<AcceptHeader>() as u64;
                if small || socket.accepts.len() >= PIECES_MAX {
                    return Err(bad("too little memory or too many connections"));
                }
                socket.accepts.push_back(Ahead { piece, handle: connection });
                self.accept(handle, memory, ring);
            }
            Command::Send => {
                let piece =
                    Piece::new(memory, a, b).ok_or_else(|| bad("memory outside of the private window"))?;
                let addressed = c & SEND_ADDRESSED != 0;
                let small = addressed && (!socket.datagram || piece.len_bytes < ADDRESS_BYTES as u64);
                if small || socket.outbox.len() >= PIECES_MAX {
                    return Err(bad("too many pieces, or no room for the destination"));
                }
                if socket.fd.is_err() || socket.phase == Phase::Over {
                    ring.loud(Kind::Sent, handle, b, 0);
                    return Ok(());
                }
                socket.outbox.push(Outgoing { piece, tell: c & SEND_TELL != 0, addressed });
                if !std::mem::replace(&mut socket.dirty, true) {
                    self.dirty.push_back(handle);
                }
            }
            Command::Shutdown => {
                let how = match a {
                    0 => rustix::net::Shutdown::Read,
                    1 => rustix::net::Shutdown::Write,
                    2 => rustix::net::Shutdown::Both,
                    _ => return Err(bad("a direction that is none")),
                };
                self.advance(handle, memory, ring);
                self.shut_down(handle, how);
            }
            Command::SetOption => {
                let value = b.to_le_bytes();
                let value = value
                    .get(..c as usize)
                    .filter(|_| c <= 8)
                    .ok_or_else(|| bad("a value that is too long"))?;
                let (level, name) = (a as u32 as i32, (a >> 32) as i32);
                let value = value.to_owned();
                let privileges = self.privileges;
                if let Some(Ok(fd)) = self.get(handle).map(|socket| socket.fd()) {
                    let _ = options::set(fd, level, name, &value, privileges);
                }
            }
            Command::Listen => {
                let piece =
                    Piece::new(memory, a, b).ok_or_else(|| bad("memory outside of the private window"))?;
                let mut address = [0; ADDRESS_BYTES];
                let address = address.get_mut(..piece.len_bytes as usize);
                let address = address.ok_or_else(|| bad("an address that is too long"))?;
                memory.private().read(piece.gpa, address);
                let listening = self.listen_at(handle, address, c, memory, ring);
                if let Err(errno) = listening {
                    ring.loud(Kind::Failed, handle, errno.raw_os_error() as u64, 1);
                }
            }
            Command::Close => {
                self.advance(handle, memory, ring);
                self.close(handle, a != 0, ring);
            }
        }
        Ok(())
    }

    fn open(&mut self, handle: u32, [family, kind, protocol]: [u64; 3], ring: &mut EventRing) {
        let socket = |family, kind| self.owner.make(|| sys::socket(family, kind, 0));
        let wanted = (i32::try_from(family), i32::try_from(kind), i32::try_from(protocol));
        let (fd, datagram) = match wanted {
            (
                Ok(family @ (libc::AF_INET | libc::AF_INET6)),
                Ok(libc::SOCK_STREAM),
                Ok(0 | libc::IPPROTO_TCP),
            ) => (socket(family, libc::SOCK_STREAM), false),
            (
                Ok(family @ (libc::AF_INET | libc::AF_INET6)),
                Ok(libc::SOCK_DGRAM),
                Ok(0 | libc::IPPROTO_UDP),
            ) => (socket(family, libc::SOCK_DGRAM), true),
            _ => (Err(Errno::PROTONOSUPPORT), false),
        };
        if let Err(errno) = &fd {
            ring.loud(Kind::Failed, handle, errno.raw_os_error() as u64, 1);
        }
        self.insert(Socket::new(handle, fd, datagram, Phase::Fresh));
    }

    /// Send what was submitted.
    fn send_all(&mut self, memory: &Memory, ring: &mut EventRing) {
        while let Some(handle) = self.dirty.pop_front() {
            if self.get(handle).is_some_and(|socket| socket.dirty) {
                self.advance(handle, memory, ring);
            }
        }
    }

    fn advance(&mut self, handle: u32, memory: &Memory, ring: &mut EventRing) {
        if let Some(socket) = self.get(handle) {
            socket.dirty = false;
            socket.advance(memory, ring);
            self.answered |= socket.answer.take_good();
            self.look_again(handle);
        }
    }

    /// Where a socket was left with more to receive: let epoll tell of it anew, so that everything else has its turn before.
    fn look_again(&mut self, handle: u32) {
        let Some(Some(socket)) = self.table.get(handle as usize) else { return };
        if socket.more
            && socket.watched
            && let Ok(fd) = &socket.fd
        {
            let data = EventData::new_u64(EPOLL_BASE + u64::from(handle));
            if let Err(error) = epoll::modify(&self.epoll, fd, data, INTEREST) {
                tracing::warn!(handle, %error, "epoll does not watch a socket any more");
            }
        }
    }

    /// Whether somebody outside has had a good answer since the last call.
    pub(crate) fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    fn shut_down(&mut self, handle: u32, how: rustix::net::Shutdown) {
        let Some(socket) = self.get(handle) else { return };
        let waits = !socket.outbox.is_empty() && how != rustix::net::Shutdown::Read;
        if waits {
            socket.shut_when_sent = true;
        }
        if let Ok(fd) = socket.fd() {
            match how {
                rustix::net::Shutdown::Both if waits => {
                    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Read);
                }
                rustix::net::Shutdown::Write if waits => {}
                how => {
                    let _ = rustix::net::shutdown(fd, how);
                }
            }
        }
    }

    /// Accept as many connections as the guest is prepared for.
    fn accept(&mut self, handle: u32, memory: &Memory, ring: &mut EventRing) {
        loop {
            let Some(socket) = self.get(handle).filter(|socket| socket.phase == Phase::Listening) else {
                return;
            };
            if !socket.readable {
                return;
            }
            let Some(&Ahead { piece, handle: connection }) = socket.accepts.front() else { return };
            let Some(Some(socket)) = self.table.get(handle as usize) else { return };
            let Ok(fd) = &socket.fd else { return };
            let accepted = self.owner.make(|| sys::accept(fd));
            let Some(socket) = self.get(handle) else { return };
            match accepted {
                Ok((fd, peer)) => {
                    socket.accepts.pop_front();
                    // A handle that is in use is the guest's own mistake: the connection is lost to it.
                    if self.get(connection).is_none() {
                        self.accepted(handle, connection, (fd, peer), piece, memory, ring);
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => socket.readable = false,
                Err(errno) => {
                    tracing::warn!(handle, %errno, "a connection cannot be accepted");
                    return;
                }
            }
        }
    }

    fn accepted(
        &mut self,
        listener: u32,
        connection: u32,
        (fd, peer): (OwnedFd, sys::Address),
        piece: Piece,
        memory: &Memory,
        ring: &mut EventRing,
    ) {
        let local = sys::name(&fd, false).map_or([0; ADDRESS_BYTES], |(address, _)| address);
        memory.private().write(piece.gpa, &local);
        memory.private().write(piece.gpa.plus(ADDRESS_BYTES as u64), &peer);
        ring.loud(Kind::Accepted, listener, connection.into(), 0);
        let mut socket = Socket::new(connection, Ok(fd), false, Phase::Connected);
        socket.provide(piece.after(size_of::<AcceptHeader>() as u64));
        socket.answer = Answer::of_connection(&local, &peer);
        self.insert(socket);
        self.advance(connection, memory, ring);
    }

    fn close(&mut self, handle: u32, abort: bool, ring: &mut EventRing) {
        let Some(socket) = self.get(handle) else { return };
        socket.closing = true;
        socket.inbox.clear();
        if abort {
            let done = socket.outbox.discard();
            if done.bytes > 0 {
                ring.quiet(Kind::Sent, handle, done.bytes, 0);
            }
            if let Ok(fd) = socket.fd() {
                // Level SOL_SOCKET, l_onoff = 1, l_linger = 0: close(2) resets.
                let _ = sys::set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        self.finish_close(handle, ring);
    }

    /// Close for good, if it is wanted and everything is sent.
    fn finish_close(&mut self, handle: u32, ring: &mut EventRing) {
        let Some(slot) = self.table.get_mut(handle as usize) else { return };
        if let Some(socket) = slot.take_if(|socket| socket.closing && socket.outbox.is_empty()) {
            drop(socket);
            ring.quiet(Kind::Closed, handle, 0, 0);
        }
    }

    /// The guest is gone: what it has sent is still delivered.
    pub(crate) fn end(&mut self, memory: &Memory) {
        linger::deliver(linger::collect(self.table.drain(..).flatten().map(|socket| *socket), memory));
    }
}
