//! The guest's end of one host socket: what it has received, what it sends, how far it has come.

mod accept;
mod address;
mod calls;
mod data;

use super::Uplink;
use super::buffers::Buffer;
use super::inbox::{COPY_BYTES, Inbox};
use crate::errno::Errno;
use crate::wait::Readiness;
use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::event::Kind;
use seuss_abi::net::PIECES_MAX;

const PAGE: usize = COPY_BYTES;
/// Bytes that may be on their way out.
const SEND_MAX: usize = 256 << 10;
/// Bytes that may lie unread or be provided to be filled.
const RECEIVE_MAX: usize = 256 << 10;
/// Largest buffer that is provided to a fast stream.
const PROVIDE_MAX: usize = 64 << 10;
/// Connections that a listening socket prepares at first.
const AHEAD: usize = 8;

/// Who is told of changes.
pub trait Owner {
    /// `events` happened.
    fn changed(&self, events: Readiness);

    /// Whether somebody waits for changes.
    fn is_awaited(&self) -> bool {
        false
    }

    /// User id and inode number of the socket's descriptor, as /proc/net tells them.
    fn identity(&self) -> (u32, u64) {
        (0, 0)
    }
}

/// How far connecting has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connecting {
    /// Not asked for.
    Not,
    /// The host is at it.
    UnderWay,
    /// Established.
    Done,
}

#[derive(Debug)]
struct Outgoing {
    buffer: Buffer,
    used: usize,
    /// Bytes that the host has taken.
    sent: usize,
}

/// A socket of the host.
pub struct Endpoint {
    uplink: Rc<Uplink>,
    handle: u32,
    pub(super) family: u16,
    datagram: bool,
    owner: RefCell<Option<Weak<dyn Owner>>>,
    pub(super) inbox: RefCell<Inbox>,
    outbox: RefCell<VecDeque<Outgoing>>,
    in_flight: Cell<usize>,
    /// The last submission to send: its position, while more may be added to it.
    last_send: Cell<Option<(u32, u64)>>,
    connecting: Cell<Connecting>,
    error: Cell<Option<Errno>>,
    /// The peer sends nothing more.
    ended: Cell<bool>,
    /// The connection is over.
    over: Cell<bool>,
    /// Size of the buffers that are provided.
    provide: Cell<usize>,
    /// Bytes that may wait to be sent: less than [`SEND_MAX`] where SO_SNDBUF says so.
    send_max: Cell<usize>,
    /// Bytes that are received ahead: less than [`RECEIVE_MAX`] where SO_RCVBUF says so. A datagram needs memory for all of it, so this is for streams.
    receive_max: Cell<usize>,
    /// Somebody else has opened the connection.
    incoming: Cell<bool>,
    /// Both ends may be in this guest.
    pub(super) neighbour: Cell<bool>,
    /// The port under which others in this guest reach it; 0: none, or its listening socket's.
    port: Cell<u16>,
    pub(super) released: Cell<bool>,
    pub(super) backlog: Cell<Option<u32>>,
    ahead_max: Cell<usize>,
    ahead: RefCell<VecDeque<Rc<Self>>>,
    accepted: RefCell<VecDeque<Rc<Self>>>,
    pub(super) local: RefCell<Vec<u8>>,
    peer: RefCell<Vec<u8>>,
    /// Options that were submitted: level, name, value.
    pub(super) options: RefCell<Vec<(i32, i32, Vec<u8>)>>,
}

impl Endpoint {
    pub(super) fn new(uplink: &Rc<Uplink>, handle: u32, family: u16, datagram: bool) -> Rc<Self> {
        Rc::new(Self {
            uplink: uplink.clone(),
            handle,
            family,
            datagram,
            owner: RefCell::default(),
            inbox: RefCell::default(),
            outbox: RefCell::default(),
            in_flight: Cell::new(0),
            last_send: Cell::new(None),
            connecting: Cell::new(Connecting::Not),
            error: Cell::new(None),
            ended: Cell::new(false),
            over: Cell::new(false),
            provide: Cell::new(PAGE),
            send_max: Cell::new(SEND_MAX),
            receive_max: Cell::new(RECEIVE_MAX),
            incoming: Cell::new(false),
            neighbour: Cell::new(false),
            port: Cell::new(0),
            released: Cell::new(false),
            backlog: Cell::new(None),
            ahead_max: Cell::new(AHEAD),
            ahead: RefCell::default(),
            accepted: RefCell::default(),
            local: RefCell::default(),
            peer: RefCell::default(),
            options: RefCell::default(),
        })
    }

    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Whether it carries datagrams.
    #[must_use]
    pub fn is_datagram(&self) -> bool {
        self.datagram
    }

    /// The way to the host.
    #[must_use]
    pub fn uplink(&self) -> &Rc<Uplink> {
        &self.uplink
    }

    /// Tell `owner` of changes from now on.
    pub fn set_owner(&self, owner: Weak<dyn Owner>) {
        *self.owner.borrow_mut() = Some(owner);
    }

    fn changed(&self, events: Readiness) {
        let owner = self.owner.borrow().as_ref().and_then(Weak::upgrade);
        if let Some(owner) = owner {
            owner.changed(events);
        }
    }

    pub(super) fn identity(&self) -> (u32, u64) {
        let owner = self.owner.borrow().as_ref().and_then(Weak::upgrade);
        owner.map_or((0, 0), |owner| owner.identity())
    }

    pub(super) fn is_awaited(&self) -> bool {
        let owner = self.owner.borrow().as_ref().and_then(Weak::upgrade);
        owner.is_some_and(|owner| owner.is_awaited())
    }

    // ---- state

    /// Whether it listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.backlog.get().is_some()
    }

    /// How far connecting has come.
    #[must_use]
    pub fn connecting(&self) -> Connecting {
        self.connecting.get()
    }

    /// A connection that is open or being opened: whether somebody outside of this guest has opened it.
    #[must_use]
    pub(super) fn open_connection(&self) -> Option<bool> {
        let is_one = self.connecting.get() != Connecting::Not && !self.datagram && !self.is_listening();
        let is_open = is_one && !self.over.get() && !self.released.get();
        is_open.then(|| self.incoming.get() && !self.neighbour.get())
    }

    /// Whether the peer sends nothing more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// The pending error.
    #[must_use]
    pub fn error(&self) -> Option<Errno> {
        self.error.get()
    }

    /// Take the pending error.
    #[must_use]
    pub fn take_error(&self) -> Option<Errno> {
        self.error.take()
    }

    /// Bytes received and not read; of a datagram socket with headers and padding.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.inbox.borrow().unread()
    }

    /// Bytes that the host has not taken yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Whether sending would not wait (Linux: at least a third of the buffer is free). Many small pieces fill the way out as well as many bytes.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight.get() <= self.send_max.get() / 2 && self.outbox.borrow().len() <= PIECES_MAX / 2
    }

    /// Connections that wait to be accepted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.accepted.borrow().len()
    }

    // ---- events

    pub(super) fn event(&self, kind: Kind, b: u64, c: u64) {
        match kind {
            Kind::Received => self.received(b as usize),
            Kind::EndOfStream => {
                self.ended.set(true);
                self.inbox.borrow_mut().finish(&self.uplink.buffers);
                self.changed(Readiness::READABLE | Readiness::READ_HANGUP);
            }
            Kind::Failed => {
                self.error.set(Some(Errno(b as u16)));
                if c != 0 {
                    self.end_of_connection();
                }
                self.changed(Readiness::all());
            }
            Kind::Sent => self.sent(b as usize),
            Kind::Accepted => self.accept_event(),
            Kind::Connected => self.connected(b as u16),
            Kind::Starved => {
                self.provide_bytes(b as usize);
            }
            _ => {}
        }
    }

    fn end_of_connection(&self) {
        self.over.set(true);
        self.ended.set(true);
        self.inbox.borrow_mut().finish(&self.uplink.buffers);
    }

    fn received(&self, count: usize) {
        let exhausted = {
            let mut inbox = self.inbox.borrow_mut();
            inbox.received(count);
            inbox.room() == 0
        };
        if exhausted {
            let most = PROVIDE_MAX.min((self.receive_max.get() / 2).max(PAGE));
            self.provide.set((self.provide.get() * 4).min(most));
        }
        self.want();
        self.changed(Readiness::READABLE);
    }

    fn sent(&self, count: usize) {
        let mut left = count;
        let mut outbox = self.outbox.borrow_mut();
        while left > 0 {
            let Some(front) = outbox.front_mut() else { break };
            let now = left.min(front.used - front.sent);
            front.sent += now;
            left -= now;
            if front.sent < front.used {
                break;
            }
            if let Some(done) = outbox.pop_front() {
                self.uplink.buffers.give(done.buffer);
            }
        }
        drop(outbox);
        self.in_flight.set(self.in_flight.get().saturating_sub(count));
        if self.has_room() {
            self.changed(Readiness::WRITABLE);
        }
    }

    fn connected(&self, errno: u16) {
        if errno == 0 {
            self.established();
            self.changed(Readiness::WRITABLE);
        } else {
            self.connecting.set(Connecting::Not);
            self.error.set(Some(Errno(errno)));
            self.over.set(true);
            self.changed(Readiness::all());
        }
    }

    fn established(&self) {
        self.connecting.set(Connecting::Done);
        self.want();
    }

    /// The VMM is done with this socket.
    pub(super) fn closed(&self) {
        self.uplink.count_port(self.port.take(), false);
        self.inbox.borrow_mut().clear(&self.uplink.buffers);
        self.outbox.borrow_mut().drain(..).for_each(|outgoing| self.uplink.buffers.give(outgoing.buffer));
        let ahead: Vec<_> = self.ahead.borrow_mut().drain(..).collect();
        for prepared in ahead {
            prepared.closed();
            self.uplink.forget(prepared.handle);
        }
    }
}

impl core::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Endpoint")
            .field("handle", &self.handle)
            .field("connecting", &self.connecting)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}
