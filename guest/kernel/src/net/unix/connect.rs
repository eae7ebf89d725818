//! listen, connect, accept.

use super::{Identity, Shared, State, UnixSocket, name, options};
use crate::errno::{Errno, Result};
use crate::net::address::{FAMILY_BYTES, UnixAddress, family_of};
use crate::net::{Caller, Outcome, Pause, family};
use crate::wait::Readiness;
use alloc::rc::Rc;

impl UnixSocket {
    /// listen(2).
    ///
    /// # Errors
    /// EOPNOTSUPP (datagrams), EINVAL (no address, connected).
    pub(super) fn start_listening(&self, caller: &Caller<'_>, backlog: u32) -> Result {
        if !self.is_connected_type() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.address.borrow().is_none() || self.state.get() == State::Established {
            return Err(Errno::EINVAL);
        }
        self.backlog.set(backlog);
        self.state.set(State::Listening);
        self.identity.replace(Some(Identity::of(caller)));
        self.wake_blocked();
        Ok(())
    }

    /// The oldest connection that waits.
    ///
    /// # Errors
    /// EOPNOTSUPP (datagrams), EINVAL (does not listen, was shut down).
    pub(super) fn take_pending(&self) -> Outcome<Rc<Self>> {
        if !self.is_connected_type() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if self.state.get() != State::Listening {
            return Err(Errno::EINVAL.into());
        }
        let Some(socket) = self.pending.borrow_mut().pop_front() else {
            return Err(if self.ended.get().0 { Errno::EINVAL.into() } else { Pause::WouldBlock });
        };
        socket.is_embryo.set(false);
        self.wake_blocked();
        Ok(socket)
    }

    /// Connect a stream or packet socket.
    ///
    /// # Errors
    /// ECONNREFUSED, EPROTOTYPE, EISCONN, EINVAL, those of the path.
    pub(super) fn connect_stream(&self, caller: &Caller<'_>, address: &[u8]) -> Outcome {
        let address = UnixAddress::parse_named(address)?;
        if self.is_on(options::name::PASSCRED) {
            name::bind_if_unnamed(self)?;
        }
        let listener = name::find(&self.shared, caller, &address, self.common.kind)?;
        if listener.state.get() != State::Listening || listener.ended.get().0 {
            return Err(Errno::ECONNREFUSED.into());
        }
        if listener.is_full() {
            listener.tell_of_room(self);
            return Err(Pause::WouldBlock);
        }
        match self.state.get() {
            State::Closed => {}
            State::Established => return Err(Errno::EISCONN.into()),
            State::Listening => return Err(Errno::EINVAL.into()),
        }
        let me = self.me.upgrade().ok_or(Errno::ECONNREFUSED)?;
        let other = Self::embryo(&self.shared, &listener, &me, caller);
        self.state.set(State::Established);
        self.peer.replace(Some(other.clone()));
        self.identity.replace(listener.identity.borrow().clone());
        listener.pending.borrow_mut().push_back(other);
        // As on Linux, the client's own watchers are not told: it knows.
        listener.notify(Readiness::READABLE);
        Ok(())
    }

    /// The other end of `client`, for `listener` to accept.
    fn embryo(shared: &Rc<Shared>, listener: &Self, client: &Rc<Self>, caller: &Caller<'_>) -> Rc<Self> {
        let other = Self::make(shared, listener.common.kind);
        let (theirs, ours) = (&other.common.options, &listener.common.options);
        theirs.inherit_passing(ours);
        other.is_embryo.set(true);
        other.state.set(State::Established);
        other.address.replace(listener.address.borrow().clone());
        other.peer.replace(Some(client.clone()));
        other.identity.replace(Some(Identity::of(caller)));
        other
    }

    /// Connect a datagram socket, or take its connection away (AF_UNSPEC).
    ///
    /// # Errors
    /// ECONNREFUSED, EPROTOTYPE, EPERM (the other one is connected to somebody else), EINVAL, those of the path.
    pub(super) fn connect_datagram(&self, caller: &Caller<'_>, address: &[u8]) -> Result {
        if address.len() < FAMILY_BYTES {
            return Err(Errno::EINVAL);
        }
        let other = if family_of(address) == Some(family::UNSPEC) {
            None
        } else {
            let address = UnixAddress::parse_named(address)?;
            if self.is_on(options::name::PASSCRED) {
                name::bind_if_unnamed(self)?;
            }
            let other = name::find(&self.shared, caller, &address, self.common.kind)?;
            if other.peer.borrow().is_some() && !other.is_peer(self) {
                return Err(Errno::EPERM);
            }
            Some(other)
        };
        let before = self.peer.replace(other.clone());
        self.state.set(if other.is_some() { State::Established } else { State::Closed });
        if let Some(before) = before
            && other.is_none_or(|other| !Rc::ptr_eq(&other, &before))
        {
            self.part_from(&before);
        }
        Ok(())
    }

    /// A datagram socket has turned away from `other`: what it sent is gone, and it is told if it was connected.
    fn part_from(&self, other: &Self) {
        if !self.queue.borrow().is_empty() {
            self.purge();
            self.wake_blocked();
            if !other.dead.get() && other.is_peer(self) {
                other.common.error.set(Some(Errno::ECONNRESET));
                other.notify(Readiness::ERROR);
            }
        }
    }
}
