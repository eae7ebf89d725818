//! AF_UNIX (unix(7)): streams, datagrams and sequenced packets between processes of the guest.
//!
//! Every socket has a queue of [`Chunk`]s that it receives; sending puts chunks into the peer's queue. What a sender has under way is charged to
//! it and bounded by its SO_SNDBUF, as Linux charges it; a datagram socket's queue is bounded by its length, too. A listening socket has a queue of sockets that are
//! connected and not accepted yet.
//!
//! Two connected sockets own each other; [`Socket::release`] of either breaks the circle. Circles through passed descriptors are found
//! by [`inflight`].
//!
//! Read first: unix(7), the kernel's net/unix/af_unix.c, whose order of checks this follows.
//!
//! **Not** supported: MSG_OOB, SO_PEEK_OFF, SO_PASSSEC, SO_PASSPIDFD, time stamps.

mod connect;
mod inflight;
mod listing;
mod name;
mod packet;
mod queue;
mod stream;

#[cfg(test)]
mod tests;

pub use inflight::InFlight;
pub use listing::listing;
pub use name::Names;

use super::address::UnixAddress;
use super::inet::interfaces;
use super::{
    Caller, Common, Incoming, Outcome, Outgoing, Shutdown, Socket, SocketType, Ucred, family, options,
};
use crate::errno::{Errno, Result};
use crate::fs::file::UserMemory;
use crate::fs::{Env, File};
use crate::wait::Readiness;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use queue::Chunk;

/// PF_UNIX as a protocol number: socket(2) takes it as well as 0.
const PROTOCOL: i32 = 1;
/// net.unix.max_dgram_qlen.
const QUEUE_LEN: u32 = 10;

/// What all AF_UNIX sockets share.
pub struct Shared {
    env: Rc<Env>,
    /// Abstract names.
    names: Names,
    /// Descriptors in messages.
    in_flight: InFlight,
    /// Every socket.
    all: RefCell<BTreeMap<u64, Weak<UnixSocket>>>,
}

impl Shared {
    /// No sockets yet.
    #[must_use]
    pub fn new(env: &Rc<Env>) -> Rc<Self> {
        Rc::new(Self {
            env: env.clone(),
            names: Names::default(),
            in_flight: InFlight::default(),
            all: RefCell::default(),
        })
    }

    /// Every socket, oldest first.
    fn sockets(&self) -> Vec<Rc<UnixSocket>> {
        self.all.borrow().values().filter_map(Weak::upgrade).collect()
    }
}

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Neither connected nor listening.
    Closed,
    /// listen(2).
    Listening,
    /// Connected.
    Established,
}

/// Who made or accepted a connection.
#[derive(Clone, Debug)]
struct Identity {
    ucred: Ucred,
    groups: Rc<[u32]>,
}

impl Identity {
    fn of(caller: &Caller<'_>) -> Self {
        Self { ucred: caller.effective(), groups: caller.credentials.groups.as_slice().into() }
    }
}

/// A socket.
pub struct UnixSocket {
    common: Common,
    shared: Rc<Shared>,
    me: Weak<Self>,
    /// Names it among all.
    id: u64,
    state: Cell<State>,
    /// Its address, once it has one. An accepted socket has its listener's.
    address: RefCell<Option<Rc<UnixAddress>>>,
    peer: RefCell<Option<Rc<Self>>>,
    /// Receiving, sending was ended.
    ended: Cell<(bool, bool)>,
    /// The last descriptor is closed.
    dead: Cell<bool>,
    /// accept(2) has not returned it yet.
    is_embryo: Cell<bool>,
    /// What was received.
    queue: RefCell<VecDeque<Chunk>>,
    /// Connections that wait for accept(2).
    pending: RefCell<VecDeque<Rc<Self>>>,
    /// Most entries of either queue, less one.
    backlog: Cell<u32>,
    /// What it has sent and nobody has received yet, with overhead.
    under_way: Cell<usize>,
    /// Sockets that wait until there is room in this one's queues.
    blocked: RefCell<BTreeMap<u64, Weak<Self>>>,
    /// SO_PEERCRED.
    identity: RefCell<Option<Identity>>,
    /// Who sent what a MSG_WAITALL call has received so far.
    last_sender: Cell<Option<Ucred>>,
    /// Messages that pass one of its descriptors.
    passes: Cell<usize>,
    /// Its open file, once it has been passed.
    file: RefCell<Weak<File>>,
}

impl UnixSocket {
    fn make(shared: &Rc<Shared>, kind: SocketType) -> Rc<Self> {
        let id = shared.env.next_id();
        let socket = Rc::new_cyclic(|me: &Weak<Self>| Self {
            common: Common::new(&shared.env.woken, family::UNIX, kind, 0),
            shared: shared.clone(),
            me: me.clone(),
            id,
            state: Cell::new(State::Closed),
            address: RefCell::default(),
            peer: RefCell::default(),
            ended: Cell::new((false, false)),
            dead: Cell::new(false),
            is_embryo: Cell::new(false),
            queue: RefCell::default(),
            pending: RefCell::default(),
            backlog: Cell::new(QUEUE_LEN),
            under_way: Cell::new(0),
            blocked: RefCell::default(),
            identity: RefCell::default(),
            last_sender: Cell::new(None),
            passes: Cell::new(0),
            file: RefCell::default(),
        });
        shared.all.borrow_mut().insert(id, Rc::downgrade(&socket));
        socket
    }

    /// socket(2).
    ///
    /// # Errors
    /// EPROTONOSUPPORT, ESOCKTNOSUPPORT.
    pub fn create(shared: &Rc<Shared>, kind: SocketType, protocol: i32) -> Result<Rc<Self>> {
        if protocol != 0 && protocol != PROTOCOL {
            return Err(Errno::EPROTONOSUPPORT);
        }
        match kind {
            SocketType::Stream | SocketType::SequencedPacket | SocketType::Datagram => {
                Ok(Self::make(shared, kind))
            }
            // As on Linux.
            SocketType::Raw => Ok(Self::make(shared, SocketType::Datagram)),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        }
    }

    /// socketpair(2).
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_pair(
        shared: &Rc<Shared>,
        kind: SocketType,
        protocol: i32,
        caller: &Caller<'_>,
    ) -> Result<[Rc<Self>; 2]> {
        let pair = [Self::create(shared, kind, protocol)?, Self::create(shared, kind, protocol)?];
        let identity = Identity::of(caller);
        for (index, socket) in pair.iter().enumerate() {
            socket.state.set(State::Established);
            socket.peer.replace(Some(pair[1 - index].clone()));
            socket.identity.replace(Some(identity.clone()));
        }
        Ok(pair)
    }

    /// Whether it is connection-based.
    fn is_connected_type(&self) -> bool {
        self.common.kind != SocketType::Datagram
    }

    fn peer(&self) -> Option<Rc<Self>> {
        self.peer.borrow().clone()
    }

    fn is_peer(&self, other: &Self) -> bool {
        self.peer.borrow().as_ref().is_some_and(|peer| core::ptr::eq(&**peer, other))
    }

    fn is_on(&self, option: u32) -> bool {
        self.common.options.is_on(option)
    }

    fn notify(&self, events: Readiness) {
        self.common.notifier.notify(events);
    }

    fn end(&self, receiving: bool, sending: bool) {
        let (received, sent) = self.ended.get();
        self.ended.set((received || receiving, sent || sending));
    }

    /// Its address as the application gets it.
    fn name(&self) -> Vec<u8> {
        self.address.borrow().as_deref().unwrap_or(&UnixAddress::Unnamed).to_bytes()
    }

    /// Let those who found a queue full try again.
    fn wake_blocked(&self) {
        for socket in self.blocked.take().values().filter_map(Weak::upgrade) {
            socket.notify(Readiness::WRITABLE);
        }
    }

    /// Tell `socket` when there is room in this one's queues.
    fn tell_of_room(&self, socket: &Self) {
        let mut blocked = self.blocked.borrow_mut();
        if blocked.contains_key(&socket.id) {
            return;
        }
        if blocked.len().is_power_of_two() {
            blocked.retain(|_, known| known.strong_count() > 0);
        }
        blocked.insert(socket.id, socket.me.clone());
    }

    /// The socket ends: nobody has a descriptor of it, or it was never accepted.
    fn close(&self) {
        if self.dead.replace(true) {
            return;
        }
        self.shared.names.forget(self);
        let was_unread = !self.queue.borrow().is_empty();
        self.ended.set((true, true));
        self.state.set(State::Closed);
        if let Some(peer) = self.peer.take()
            && self.is_connected_type()
        {
            peer.ended.set((true, true));
            if was_unread || self.is_embryo.get() {
                peer.common.error.set(Some(Errno::ECONNRESET));
            }
            peer.notify(Readiness::all());
        }
        let pending = self.pending.take();
        for socket in pending {
            socket.close();
        }
        self.purge();
        self.wake_blocked();
        self.shared.in_flight.closed(&self.shared);
    }
}

impl Socket for UnixSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, caller: &Caller<'_>, address: &[u8]) -> Outcome {
        Ok(name::bind(self, caller, address)?)
    }

    fn listen(&self, caller: &Caller<'_>, backlog: u32) -> Outcome {
        Ok(self.start_listening(caller, backlog)?)
    }

    fn accept(&self, _caller: &Caller<'_>) -> Outcome<Rc<dyn Socket>> {
        let socket: Rc<dyn Socket> = self.take_pending()?;
        Ok(socket)
    }

    fn connect(&self, caller: &Caller<'_>, address: &[u8]) -> Outcome {
        if self.is_connected_type() {
            self.connect_stream(caller, address)
        } else {
            Ok(self.connect_datagram(caller, address)?)
        }
    }

    fn local_name(&self) -> Outcome<Vec<u8>> {
        Ok(self.name())
    }

    fn peer_name(&self) -> Outcome<Vec<u8>> {
        Ok(self.peer().ok_or(Errno::ENOTCONN)?.name())
    }

    fn send(&self, caller: &Caller<'_>, message: &mut Outgoing<'_>) -> Outcome<usize> {
        if self.common.kind == SocketType::Stream {
            self.send_stream(caller, message)
        } else {
            self.send_packet(caller, message)
        }
    }

    fn receive(&self, caller: &Caller<'_>, message: &mut Incoming<'_>) -> Outcome<usize> {
        if self.common.kind == SocketType::Stream {
            self.receive_stream(message)
        } else {
            self.receive_packet(caller, message)
        }
    }

    fn shutdown(&self, how: Shutdown) -> Outcome {
        self.end(how.receives(), how.sends());
        self.notify(Readiness::all());
        if let Some(peer) = self.peer()
            && self.is_connected_type()
        {
            peer.end(how.sends(), how.receives());
            peer.notify(Readiness::all());
        }
        self.wake_blocked();
        Ok(())
    }

    fn common_option(&self, name: u32, _value: &[u8]) -> Outcome {
        match name {
            options::name::REUSEPORT | options::name::PEEK_OFF | options::name::ZEROCOPY => {
                Err(Errno::EOPNOTSUPP.into())
            }
            _ => Ok(()),
        }
    }

    fn is_listening(&self) -> bool {
        self.state.get() == State::Listening
    }

    fn peer_credentials(&self) -> Option<Ucred> {
        self.identity.borrow().as_ref().map(|identity| identity.ucred)
    }

    fn peer_groups(&self) -> Result<Vec<u32>> {
        self.identity.borrow().as_ref().map(|identity| identity.groups.to_vec()).ok_or(Errno::ENODATA)
    }

    fn poll(&self) -> Readiness {
        let mut ready = Readiness::empty();
        let (received, sent) = self.ended.get();
        ready.set(Readiness::ERROR, self.common.error.get().is_some());
        let closed = self.is_connected_type() && self.state.get() == State::Closed;
        ready.set(Readiness::HANGUP, closed || (received && sent));
        ready.set(Readiness::READ_HANGUP, received);
        let waiting = !self.queue.borrow().is_empty() || !self.pending.borrow().is_empty();
        ready.set(Readiness::READABLE, received || waiting);
        ready.set(Readiness::WRITABLE, self.is_writable() && self.peer_has_room());
        ready
    }

    fn bytes_readable(&self) -> Result<u64> {
        if self.is_listening() {
            return Err(Errno::EINVAL);
        }
        let queue = self.queue.borrow();
        let counted = if self.is_connected_type() { queue.len() } else { 1 };
        Ok(queue.iter().take(counted).map(|chunk| chunk.rest().len() as u64).sum())
    }

    fn bytes_unsent(&self) -> Result<u64> {
        if self.is_listening() { Err(Errno::EINVAL) } else { Ok(self.under_way.get() as u64) }
    }

    fn ioctl(&self, memory: &dyn UserMemory, request: u32, argument: u64) -> Result<u64> {
        if interfaces::INTERNET.contains(&request) {
            return Err(Errno::ENOTTY);
        }
        interfaces::ioctl(&self.shared.env.uplink, memory, request, argument)
    }

    fn release(&self) {
        self.close();
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.close();
        self.shared.all.borrow_mut().remove(&self.id);
    }
}

impl core::fmt::Debug for UnixSocket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("UnixSocket")
            .field("id", &self.id)
            .field("kind", &self.common.kind)
            .field("state", &self.state.get())
            .finish_non_exhaustive()
    }
}
