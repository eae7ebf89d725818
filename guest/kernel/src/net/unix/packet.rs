//! Datagrams and sequenced packets: whole messages.

use super::inflight::Rights;
use super::queue::Chunk;
use super::{Caller, Incoming, Outcome, Outgoing, State, UnixAddress, UnixSocket, name, options};
use crate::errno::{Errno, Result};
use crate::net::{MessageFlags, Pause, SocketType};
use alloc::rc::Rc;
use alloc::vec;

/// Bytes of SO_SNDBUF that a message cannot use.
const HEADROOM: usize = 32;

impl UnixSocket {
    fn is_sequenced(&self) -> bool {
        self.common.kind == SocketType::SequencedPacket
    }

    /// Whom a message goes to: its destination, or the peer.
    fn receiver(&self, caller: &Caller<'_>, destination: &[u8]) -> Result<Rc<Self>> {
        if destination.is_empty() {
            return self.peer().ok_or(Errno::ENOTCONN);
        }
        let address = UnixAddress::parse_named(destination)?;
        name::find(&self.shared, caller, &address, self.common.kind)
    }

    /// The peer of a datagram socket is gone: the socket is not connected any more.
    fn lose_peer(&self) {
        self.peer.take();
        self.state.set(State::Closed);
        self.purge();
    }

    /// Send one message.
    pub(super) fn send_packet(&self, caller: &Caller<'_>, message: &mut Outgoing<'_>) -> Outcome<usize> {
        let is_sequenced = self.is_sequenced();
        if is_sequenced {
            self.common.check_error()?;
            if self.state.get() != State::Established {
                return Err(Errno::ENOTCONN.into());
            }
        }
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        // A connected packet socket does not look at the destination.
        let destination = if is_sequenced { &[] } else { message.destination };
        if destination.is_empty() {
            self.peer().ok_or(Errno::ENOTCONN)?;
        } else {
            UnixAddress::parse_named(destination)?;
        }
        if self.is_on(options::name::PASSCRED) {
            name::bind_if_unnamed(self)?;
        }
        let len = message.source.remaining();
        if len > (self.common.options.send_buffer.get() as usize).saturating_sub(HEADROOM) {
            return Err(Errno::EMSGSIZE.into());
        }
        self.common.check_error()?;
        if self.ended.get().1 {
            return Err(Errno::EPIPE.into());
        }
        if !self.may_send_more() {
            return Err(Pause::WouldBlock);
        }
        if self.is_scarce() && len > 1024 {
            return Err(Errno::ENOBUFS.into());
        }
        let receiver = self.receiver(caller, destination)?;
        if !is_sequenced && receiver.peer.borrow().is_some() && !receiver.is_peer(self) {
            return Err(Errno::EPERM.into());
        }
        if receiver.dead.get() {
            if is_sequenced {
                return Err(Errno::EPIPE.into());
            }
            self.lose_peer();
            return Err(Errno::ECONNREFUSED.into());
        }
        if receiver.ended.get().0 {
            return Err(Errno::EPIPE.into());
        }
        if !core::ptr::eq(&*receiver, self) && !receiver.is_peer(self) && receiver.is_full() {
            receiver.tell_of_room(self);
            return Err(Pause::WouldBlock);
        }
        let mut data = vec![0; len];
        if message.source.take(&mut data)? < len {
            return Err(Errno::EFAULT.into());
        }
        let me = self.me.upgrade().ok_or(Errno::EPIPE)?;
        let rights = Rights::check(&self.shared, caller, core::mem::take(&mut message.rights))?;
        let credentials = self.credentials_for(&receiver, message.credentials, caller.real());
        Self::deliver(&receiver, Chunk::new(&me, data, rights, credentials));
        Ok(len)
    }

    /// Receive one message.
    pub(super) fn receive_packet(&self, caller: &Caller<'_>, message: &mut Incoming<'_>) -> Outcome<usize> {
        if self.is_sequenced() && self.state.get() != State::Established {
            return Err(Errno::ENOTCONN.into());
        }
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        message.complete = true;
        self.common.check_error()?;
        let Some(mut chunk) = self.queue.borrow_mut().pop_front() else {
            // A datagram socket learns of the end of what may come only when it waits.
            let (ended, _) = self.ended.get();
            let tells_end = ended && (self.is_sequenced() || !caller.nonblocking);
            return if tells_end { Ok(0) } else { Err(Pause::WouldBlock) };
        };
        let len = chunk.rest().len();
        let stored = match message.sink.put(chunk.rest()) {
            Ok(stored) if stored < len && message.sink.remaining() > 0 => Err(Errno::EFAULT),
            outcome => outcome,
        };
        if stored.is_ok() {
            message.name = chunk.sender_name();
            self.tell_credentials(&chunk, message);
            Self::tell_rights(&mut chunk, message);
        }
        if message.peeks() {
            self.queue.borrow_mut().push_front(chunk);
        } else {
            // As on Linux, a message whose buffer is bad is lost.
            drop(chunk);
            self.wake_blocked();
        }
        let stored = stored?;
        if stored < len {
            message.outcome |= MessageFlags::TRUNC;
        }
        Ok(if message.flags.contains(MessageFlags::TRUNC) { len } else { stored })
    }
}
