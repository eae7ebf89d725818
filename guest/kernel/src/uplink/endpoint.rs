//! The guest's end of one host socket: what it has received, what it sends, how far it has come.

use super::Uplink;
use super::buffers::Buffer;
use super::inbox::{COPY_BYTES, Inbox};
use crate::errno::{Errno, Result};
use crate::mem::user::{Sink, Source};
use crate::wait::Readiness;
use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::call::Op;
use seuss_abi::event::Kind;
use seuss_abi::net::{
    ADDRESS_BYTES, AcceptHeader, Command, DATAGRAM_ALIGN, DatagramHeader, PIECES_MAX, SEND_ADDRESSED,
    SEND_TELL, Submission,
};

const PAGE: usize = COPY_BYTES;
/// Bytes that may be on their way out.
const SEND_MAX: usize = 256 << 10;
/// Bytes that may lie unread or be provided to be filled.
const RECEIVE_MAX: usize = 256 << 10;
/// Largest buffer that is provided to a fast stream.
const PROVIDE_MAX: usize = 64 << 10;
/// Connections that a listening socket prepares at first, and at most.
const AHEAD: (usize, usize) = (8, 128);
const ACCEPT_HEADER: usize = size_of::<AcceptHeader>();
const DATAGRAM_HEADER: usize = size_of::<DatagramHeader>();

/// Who is told of changes.
pub trait Owner {
    /// `events` happened.
    fn changed(&self, events: Readiness);

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
            neighbour: Cell::new(false),
            port: Cell::new(0),
            released: Cell::new(false),
            backlog: Cell::new(None),
            ahead_max: Cell::new(AHEAD.0),
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
        self.in_flight.get() <= SEND_MAX / 2 && self.outbox.borrow().len() <= PIECES_MAX / 2
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
            self.provide.set((self.provide.get() * 4).min(PROVIDE_MAX));
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

    // ---- receiving

    /// Let the VMM read ahead, as far as that is wanted.
    pub fn want(&self) {
        if self.over.get() || self.ended.get() || self.released.get() {
            return;
        }
        let (room, unread, parts) = {
            let inbox = self.inbox.borrow();
            (inbox.room(), inbox.unread(), inbox.parts())
        };
        if room < self.provide.get() / 2 + 1 && unread + room < RECEIVE_MAX && parts < PIECES_MAX {
            self.provide_bytes(self.provide.get());
        }
    }

    fn provide_bytes(&self, bytes: usize) {
        let buffers = &self.uplink.buffers;
        let buffer = if bytes > PROVIDE_MAX { buffers.take_large(bytes) } else { buffers.take(bytes) };
        let Some(buffer) = buffer else { return };
        let args = [buffer.gpa(), buffer.len() as u64, 0];
        self.inbox.borrow_mut().provide(buffer, 0);
        self.uplink.submit(Command::Provide, self.handle, args);
    }

    /// Copy received bytes of a stream to `sink`, and take them unless `peeks`.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read(&self, sink: &mut dyn Sink, peeks: bool) -> Result<usize> {
        let limit = self.unread();
        let done = self.copy(0, limit, sink)?;
        if !peeks {
            self.inbox.borrow_mut().consume(&self.uplink.buffers, done);
            self.want();
        }
        Ok(done)
    }

    /// Copy `limit` bytes from `skip` on, as many as the sink takes.
    fn copy(&self, skip: usize, limit: usize, sink: &mut dyn Sink) -> Result<usize> {
        let mut bytes = [0; COPY_BYTES];
        let mut done = 0;
        while done < limit && sink.remaining() > 0 {
            let want = (limit - done).min(sink.remaining()).min(COPY_BYTES);
            let got = self.inbox.borrow().peek(&self.uplink.buffers, skip + done, &mut bytes[..want]);
            if got == 0 {
                break;
            }
            match sink.put(&bytes[..got]) {
                Ok(put) => {
                    done += put;
                    if put < got {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Length and sender of the datagram that is next.
    #[must_use]
    pub fn next_datagram(&self) -> Option<(usize, Vec<u8>)> {
        let mut header = [0; DATAGRAM_HEADER];
        let got = self.inbox.borrow().peek(&self.uplink.buffers, 0, &mut header);
        if got < DATAGRAM_HEADER {
            return None;
        }
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        Some((len, trimmed(&header[8..])))
    }

    /// Copy the next datagram to `sink` (what does not fit is lost), and take it unless `peeks`. Returns how many bytes were copied.
    ///
    /// # Errors
    /// EFAULT; the datagram stays.
    pub fn read_datagram(&self, len: usize, sink: &mut dyn Sink, peeks: bool) -> Result<usize> {
        let done = self.copy(DATAGRAM_HEADER, len, sink)?;
        if !peeks {
            let whole = (DATAGRAM_HEADER + len).next_multiple_of(DATAGRAM_ALIGN);
            self.inbox.borrow_mut().consume(&self.uplink.buffers, whole);
            self.want();
        }
        Ok(done)
    }

    // ---- sending

    /// Take bytes of a stream from `source`; returns how many, 0 = there is no room now.
    ///
    /// # Errors
    /// EFAULT; ENOBUFS: no memory, and nothing under way whose end would bring some.
    pub fn write(&self, source: &mut dyn Source) -> Result<usize> {
        let mut done = 0;
        while source.remaining() > 0 {
            let room = SEND_MAX.saturating_sub(self.in_flight.get());
            if room == 0 {
                break;
            }
            let added = self.append(source, room);
            let added = if added == Ok(0) { self.write_piece(source, room) } else { added };
            match added {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Fill `buffer` from `at` on.
    fn fill(&self, gpa: u64, limit: usize, source: &mut dyn Source) -> Result<usize> {
        let mut bytes = [0; COPY_BYTES];
        let mut done = 0;
        while done < limit {
            let want = (limit - done).min(source.remaining()).min(COPY_BYTES);
            if want == 0 {
                break;
            }
            match source.take(&mut bytes[..want]) {
                Ok(0) => break,
                Ok(got) => {
                    self.uplink.buffers.frames().write(gpa + done as u64, &bytes[..got]);
                    done += got;
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn tell(&self, in_flight: usize) -> u64 {
        let many = self.outbox.borrow().len() >= PIECES_MAX / 2;
        if in_flight > SEND_MAX / 2 || many { SEND_TELL } else { 0 }
    }

    /// Add to the last piece, if the VMM has not taken it.
    fn append(&self, source: &mut dyn Source, room: usize) -> Result<usize> {
        let Some((position, flags)) = self.last_send.get() else { return Ok(0) };
        if !self.uplink.is_waiting(position) {
            self.last_send.set(None);
            return Ok(0);
        }
        let Some((gpa, used, free)) = self
            .outbox
            .borrow()
            .back()
            .map(|last| (last.buffer.gpa(), last.used, last.buffer.len() - last.used))
        else {
            return Ok(0);
        };
        let added = self.fill(gpa + used as u64, free.min(room), source)?;
        if added > 0 {
            if let Some(last) = self.outbox.borrow_mut().back_mut() {
                last.used += added;
            }
            self.in_flight.set(self.in_flight.get() + added);
            let args = [gpa, (used + added) as u64, flags | self.tell(self.in_flight.get())];
            let entry = Submission { command: Command::Send as u32, handle: self.handle, args };
            self.uplink.amend(position, &entry);
        }
        Ok(added)
    }

    fn write_piece(&self, source: &mut dyn Source, room: usize) -> Result<usize> {
        if self.outbox.borrow().len() >= PIECES_MAX {
            return Ok(0);
        }
        let want = source.remaining().min(room);
        let Some(buffer) = self.uplink.buffers.take(want) else {
            return if self.in_flight.get() == 0 { Err(Errno::ENOBUFS) } else { Ok(0) };
        };
        let used = match self.fill(buffer.gpa(), buffer.len().min(room), source) {
            Ok(used) if used > 0 => used,
            other => {
                self.uplink.buffers.give(buffer);
                return other;
            }
        };
        self.in_flight.set(self.in_flight.get() + used);
        let flags = self.tell(self.in_flight.get());
        self.submit_send(buffer, used, flags);
        Ok(used)
    }

    fn submit_send(&self, buffer: Buffer, used: usize, flags: u64) {
        let gpa = buffer.gpa();
        self.outbox.borrow_mut().push_back(Outgoing { buffer, used, sent: 0 });
        let position = self.uplink.submit(Command::Send, self.handle, [gpa, used as u64, flags]);
        self.last_send.set(if self.datagram { None } else { Some((position, flags)) });
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
    }

    /// Send a datagram, to `destination` if that is not empty. Returns whether there was room.
    ///
    /// # Errors
    /// EFAULT, ENOBUFS.
    pub fn write_datagram(&self, destination: &[u8], source: &mut dyn Source) -> Result<bool> {
        let len = source.remaining();
        let head = if destination.is_empty() { 0 } else { ADDRESS_BYTES };
        let full = self.in_flight.get() > 0 && self.in_flight.get() + head + len > SEND_MAX;
        if full || self.outbox.borrow().len() >= PIECES_MAX {
            return Ok(false);
        }
        let buffers = &self.uplink.buffers;
        // A piece is never empty: an empty datagram without destination gets the peer's.
        let peer = self.peer.borrow();
        let destination = if head + len == 0 { &peer[..] } else { destination };
        let head = if destination.is_empty() { 0 } else { ADDRESS_BYTES };
        let whole = head + len;
        let buffer = if whole > PROVIDE_MAX { buffers.take_large(whole) } else { buffers.take(whole) };
        let Some(buffer) = buffer.filter(|buffer| buffer.len() >= whole) else { return Err(Errno::ENOBUFS) };
        if head > 0 {
            let mut address = [0; ADDRESS_BYTES];
            let count = destination.len().min(ADDRESS_BYTES);
            address[..count].copy_from_slice(&destination[..count]);
            buffers.frames().write(buffer.gpa(), &address);
        }
        match self.fill(buffer.gpa() + head as u64, len, source) {
            Ok(got) if got == len => {}
            other => {
                buffers.give(buffer);
                return other.and(Err(Errno::EFAULT));
            }
        }
        self.in_flight.set(self.in_flight.get() + whole);
        let flags = self.tell(self.in_flight.get()) | if head > 0 { SEND_ADDRESSED } else { 0 };
        if is_loopback(destination) && self.uplink.has_port(port_of(destination)) {
            self.neighbour.set(true);
        }
        self.submit_send(buffer, whole, flags);
        Ok(true)
    }

    // ---- calls

    /// bind(2); only a `privileged` caller gets ports that need privileges.
    ///
    /// # Errors
    /// The host's.
    pub fn bind(&self, address: &[u8], privileged: bool) -> Result {
        let (mut payload, len) = padded(address);
        let args = [u64::from(self.handle), len, u64::from(!privileged), 0, 0, 0];
        let len = self.uplink.call(Op::Bind, args, &mut payload)?;
        self.set_local(&payload[..(len as usize).min(ADDRESS_BYTES)]);
        if self.datagram {
            self.want();
        }
        Ok(())
    }

    /// listen(2).
    ///
    /// # Errors
    /// The host's.
    pub fn listen(&self, backlog: u32) -> Result {
        self.uplink.call(Op::Listen, [u64::from(self.handle), u64::from(backlog), 0, 0, 0, 0], &mut [])?;
        self.backlog.set(Some(backlog));
        self.prepare();
        Ok(())
    }

    /// connect(2): has it been established (true), or is it under way?
    ///
    /// # Errors
    /// The host's.
    pub fn connect(&self, address: &[u8]) -> Result<bool> {
        let (mut payload, len) = padded(address);
        let result = self.uplink.call(Op::Connect, [u64::from(self.handle), len, 0, 0, 0, 0], &mut payload);
        let established = match result {
            Ok(_) => true,
            Err(Errno::EINPROGRESS) => false,
            Err(errno) => return Err(errno),
        };
        let dissolved = address.get(..2) == Some(&[0, 0]);
        self.set_local(&trimmed(&payload));
        *self.peer.borrow_mut() = if dissolved { Vec::new() } else { trimmed(&padded(address).0) };
        self.find_neighbour();
        if self.datagram {
            self.connecting.set(if dissolved { Connecting::Not } else { Connecting::Done });
            self.want();
            return Ok(true);
        }
        self.over.set(false);
        self.ended.set(false);
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
        // The event may have come with the call.
        if established {
            self.established();
        } else if self.connecting.get() != Connecting::Done && self.error.get().is_none() {
            self.connecting.set(Connecting::UnderWay);
        }
        Ok(self.connecting.get() == Connecting::Done)
    }

    /// getsockname(2).
    ///
    /// # Errors
    /// The host's.
    pub fn local_name(&self) -> Result<Vec<u8>> {
        let known = self.local.borrow().clone();
        if known.get(2..4).is_some_and(|port| port != [0, 0]) {
            return Ok(known);
        }
        let mut payload = [0; ADDRESS_BYTES];
        let len = self.uplink.call(Op::Name, [u64::from(self.handle), 0, 0, 0, 0, 0], &mut payload)?;
        let name = payload[..(len as usize).min(ADDRESS_BYTES)].to_vec();
        self.set_local(&name);
        Ok(name)
    }

    /// getpeername(2).
    #[must_use]
    pub fn peer_name(&self) -> Option<Vec<u8>> {
        Some(self.peer.borrow().clone()).filter(|peer| !peer.is_empty())
    }

    /// getsockopt(2) of the host's socket.
    ///
    /// # Errors
    /// The host's.
    pub fn get_option(&self, level: i32, name: u32, room: usize) -> Result<Vec<u8>> {
        let mut payload = [0; 256];
        let room = room.min(payload.len());
        let args = [u64::from(self.handle), level as u64, u64::from(name), room as u64, 0, 0];
        let len = self.uplink.call(Op::GetOption, args, &mut payload)?;
        Ok(payload[..(len as usize).min(room)].to_vec())
    }

    /// setsockopt(2) of the host's socket, with its answer.
    ///
    /// # Errors
    /// The host's.
    pub fn set_option(&self, level: i32, name: u32, value: &[u8]) -> Result {
        let mut payload = [0; 256];
        let len = value.len().min(payload.len());
        payload[..len].copy_from_slice(&value[..len]);
        let args = [u64::from(self.handle), level as u64, u64::from(name), len as u64, 0, 0];
        self.uplink.call(Op::SetOption, args, &mut payload)?;
        self.remember_option(level, name, &value[..len]);
        Ok(())
    }

    /// setsockopt(2) of the host's socket, for values that were checked: without waiting.
    pub fn post_option(&self, level: i32, name: u32, value: &[u8]) {
        let mut word = [0; 8];
        let len = value.len().min(8);
        word[..len].copy_from_slice(&value[..len]);
        let which = u64::from(level.cast_unsigned()) | u64::from(name) << 32;
        self.uplink.submit(Command::SetOption, self.handle, [which, u64::from_le_bytes(word), len as u64]);
        self.remember_option(level, name, &value[..len]);
    }

    fn remember_option(&self, level: i32, name: u32, value: &[u8]) {
        let name = name.cast_signed();
        let mut options = self.options.borrow_mut();
        options.retain(|option| (option.0, option.1) != (level, name));
        options.push((level, name, value.to_vec()));
    }

    /// shutdown(2): 0 = receiving, 1 = sending, 2 = both.
    pub fn shut_down(&self, how: u64) {
        self.last_send.set(None);
        self.uplink.submit(Command::Shutdown, self.handle, [how, 0, 0]);
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
    }

    /// close(2): what was written is delivered, unless `abort`. As on Linux, unread bytes make it an abort.
    pub fn close(&self, abort: bool) {
        if self.released.replace(true) {
            return;
        }
        *self.owner.borrow_mut() = None;
        let unread = !self.datagram && self.unread() > 0;
        let waiting: Vec<_> = self.accepted.borrow_mut().drain(..).collect();
        waiting.iter().for_each(|connection| connection.close(true));
        let abort = abort || unread;
        self.uplink.submit(Command::Close, self.handle, [u64::from(abort), 0, 0]);
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
    }

    fn set_local(&self, address: &[u8]) {
        *self.local.borrow_mut() = address.to_vec();
        let port = port_of(address);
        let old = self.port.replace(port);
        self.uplink.count_port(old, false);
        self.uplink.count_port(port, true);
    }

    /// Find out whether the other end may be in this guest: then nobody has to wait for what the host does in between.
    fn find_neighbour(&self) {
        let (local, peer) = (self.local.borrow(), self.peer.borrow());
        let here = is_loopback(&peer) || (!peer.is_empty() && host_of(&peer) == host_of(&local));
        self.neighbour.set(here && self.uplink.has_port(port_of(&peer)));
    }

    // ---- accepting

    /// Let the VMM accept connections ahead.
    fn prepare(&self) {
        let Some(backlog) = self.backlog.get().filter(|_| !self.released.get()) else { return };
        let wanted = self.ahead_max.get().min(backlog as usize + 1);
        while self.ahead.borrow().len() < wanted {
            let Some(buffer) = self.uplink.buffers.take(PAGE) else { return };
            if self.prepare_with(buffer).is_err() {
                return;
            }
        }
    }

    /// Prepare one connection in `buffer`.
    fn prepare_with(&self, buffer: Buffer) -> Result {
        let handle = match self.uplink.allocate() {
            Ok(handle) => handle,
            Err(errno) => {
                self.uplink.buffers.give(buffer);
                return Err(errno);
            }
        };
        let args = [buffer.gpa(), buffer.len() as u64, u64::from(handle)];
        let prepared = Self::new(&self.uplink, handle, self.family, false);
        prepared.inbox.borrow_mut().provide(buffer, 0);
        self.uplink.install(&prepared);
        self.ahead.borrow_mut().push_back(prepared);
        self.uplink.submit(Command::Accept, self.handle, args);
        Ok(())
    }

    fn accept_event(&self) {
        let Some(connection) = self.ahead.borrow_mut().pop_front() else { return };
        let mut header = [0; ACCEPT_HEADER];
        {
            let mut inbox = connection.inbox.borrow_mut();
            inbox.received(ACCEPT_HEADER);
            inbox.peek(&self.uplink.buffers, 0, &mut header);
            inbox.consume(&self.uplink.buffers, ACCEPT_HEADER);
        }
        *connection.local.borrow_mut() = trimmed(&header[..ADDRESS_BYTES]);
        *connection.peer.borrow_mut() = trimmed(&header[ADDRESS_BYTES..]);
        connection.connecting.set(Connecting::Done);
        connection.find_neighbour();
        if self.released.get() {
            connection.close(true);
            return;
        }
        self.accepted.borrow_mut().push_back(connection);
        if self.ahead.borrow().is_empty() {
            self.ahead_max.set((self.ahead_max.get() * 2).min(AHEAD.1));
        }
        self.prepare();
        self.changed(Readiness::READABLE);
    }

    /// The oldest connection that waits.
    #[must_use]
    pub fn accept(&self) -> Option<Rc<Self>> {
        self.accepted.borrow_mut().pop_front()
    }

    /// After a restore: listen again, without waiting for the answer. The address goes where the first connection's will be.
    pub(super) fn listen_again(&self, backlog: u32) -> Result {
        let buffer = self.uplink.buffers.take(PAGE).ok_or(Errno::ENOBUFS)?;
        let (address, len) = padded(&self.local.borrow());
        self.uplink.buffers.frames().write(buffer.gpa(), &address);
        self.uplink.submit(Command::Listen, self.handle, [buffer.gpa(), len, u64::from(backlog)]);
        let outcome = self.prepare_with(buffer);
        self.prepare();
        outcome
    }

    /// After a restore: the connection is lost.
    pub(super) fn lose(&self) {
        if self.connecting.get() != Connecting::Not {
            self.error.set(Some(Errno::ECONNRESET));
            self.connecting.set(Connecting::Done);
        }
        self.end_of_connection();
        self.outbox.borrow_mut().drain(..).for_each(|outgoing| self.uplink.buffers.give(outgoing.buffer));
        self.in_flight.set(0);
        self.last_send.set(None);
        self.changed(Readiness::all());
    }

    /// After a restore: nothing is prepared any more. Returns what was.
    pub(super) fn drop_ahead(&self) -> Vec<Rc<Self>> {
        let accepted: Vec<_> = self.accepted.borrow_mut().drain(..).collect();
        self.ahead.borrow_mut().drain(..).chain(accepted).collect()
    }

    /// After a restore: receiving begins anew.
    pub(super) fn begin_anew(&self) {
        self.inbox.borrow_mut().clear(&self.uplink.buffers);
        if self.datagram {
            self.want();
        }
    }
}

/// An address in the room that the contract has for it, and its length.
fn padded(address: &[u8]) -> ([u8; ADDRESS_BYTES], u64) {
    const INET6_BYTES: usize = 28;
    let mut bytes = [0; ADDRESS_BYTES];
    let len = address.len().min(INET6_BYTES);
    bytes[..len].copy_from_slice(&address[..len]);
    (bytes, len as u64)
}

/// An address without the zeros behind it; empty if its family is none of the internet's.
fn trimmed(address: &[u8]) -> Vec<u8> {
    let len = match address {
        [2, 0, ..] => 16,
        [10, 0, ..] => 28,
        _ => 0,
    };
    address.get(..len).unwrap_or_default().to_vec()
}

/// The host part of an address.
fn host_of(address: &[u8]) -> &[u8] {
    match address {
        [2, 0, ..] => address.get(4..8).unwrap_or_default(),
        [10, 0, ..] => address.get(8..24).unwrap_or_default(),
        _ => &[],
    }
}

/// The port of an address, 0 if it has none.
fn port_of(address: &[u8]) -> u16 {
    address.get(2..4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]))
}

/// Whether an address is of this host alone: 127.0.0.0/8, ::1, or the former in the latter's family.
fn is_loopback(address: &[u8]) -> bool {
    const MAPPED: [u8; 13] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127];
    const LOCALHOST: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let host = host_of(address);
    match host.len() {
        4 => host[0] == 127,
        16 => host == LOCALHOST || host.starts_with(&MAPPED),
        _ => false,
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
