//! What lies in a socket's receive queue, and whom it is charged to.

use super::inflight::Rights;
use super::{Incoming, State, Ucred, UnixSocket, options};
use crate::net::Control;
use crate::wait::Readiness;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Linux' struct skb_shared_info, struct sk_buff: overhead that SO_SNDBUF counts.
const SHARED_INFO_BYTES: usize = 320;
const BUFFER_BYTES: usize = 256;
/// Most bytes of a message that lie behind its header; the rest is in pages (SKB_MAX_ALLOC).
const LINEAR_MAX: usize = 16384 - SHARED_INFO_BYTES;
/// With fewer free frames than this, a socket has no more under way than a page: the queues lie in the library OS's heap.
const FRAMES_MIN: usize = 512;
/// What a socket may have under way then.
const SCARCE_BYTES: usize = 4096;
/// Ids that stand for somebody unknown (the kernel's overflowuid, overflowgid).
const OVERFLOW_ID: u32 = 65534;

/// What a message of `len` bytes costs its sender (the kernel's truesize).
pub(super) fn cost(len: usize) -> usize {
    let paged = len.saturating_sub(LINEAR_MAX).next_multiple_of(4096).min(len);
    let head = len - paged + SHARED_INFO_BYTES;
    head.next_power_of_two() + BUFFER_BYTES + paged.next_multiple_of(4096)
}

/// A message, or the rest of one.
pub(super) struct Chunk {
    data: Vec<u8>,
    at: usize,
    /// Who is charged. Its name is the message's.
    sender: Rc<UnixSocket>,
    charge: usize,
    /// Descriptors that come with it.
    pub(super) rights: Option<Rights>,
    /// Who sent it, if either side asked for that.
    pub(super) credentials: Option<Ucred>,
}

impl Chunk {
    /// A message of `sender`, who is charged until it is dropped.
    pub(super) fn new(
        sender: &Rc<UnixSocket>,
        data: Vec<u8>,
        rights: Option<Rights>,
        credentials: Option<Ucred>,
    ) -> Self {
        let charge = cost(data.len());
        sender.under_way.set(sender.under_way.get() + charge);
        Self { data, at: 0, sender: sender.clone(), charge, rights, credentials }
    }

    /// Bytes that were not received yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.data[self.at..]
    }

    /// `count` bytes were received.
    pub(super) fn advance(&mut self, count: usize) {
        self.at = (self.at + count).min(self.data.len());
    }

    /// The sender's address, if it has one.
    pub(super) fn sender_name(&self) -> Option<Vec<u8>> {
        self.sender.address.borrow().is_some().then(|| self.sender.name())
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let sender = &self.sender;
        sender.under_way.set(sender.under_way.get().saturating_sub(self.charge));
        if sender.is_writable() && !sender.dead.get() {
            sender.notify(Readiness::WRITABLE);
        }
    }
}

impl UnixSocket {
    /// Whether poll(2) calls it writable: a quarter of the buffer is used at most.
    pub(super) fn is_writable(&self) -> bool {
        self.state.get() != State::Listening
            && self.under_way.get() * 4 <= self.common.options.send_buffer.get() as usize
    }

    /// Whether memory is so short that queues must stay small.
    pub(super) fn is_scarce(&self) -> bool {
        self.shared.env.frames.available() < FRAMES_MIN
    }

    /// Whether another message may be sent; the last one may go beyond the limit.
    pub(super) fn may_send_more(&self) -> bool {
        let limit = self.common.options.send_buffer.get() as usize;
        self.under_way.get() < if self.is_scarce() { limit.min(SCARCE_BYTES) } else { limit }
    }

    /// Whether a queue has as many entries as it may.
    pub(super) fn is_full(&self) -> bool {
        let len = if self.state.get() == State::Listening {
            self.pending.borrow().len()
        } else {
            self.queue.borrow().len()
        };
        len > self.backlog.get() as usize
    }

    /// Whether the peer of a datagram socket takes another message. If not, this socket is told when it does.
    pub(super) fn peer_has_room(&self) -> bool {
        if self.is_connected_type() {
            return true;
        }
        let Some(peer) = self.peer() else { return true };
        if peer.is_peer(self) || !peer.is_full() {
            return true;
        }
        peer.tell_of_room(self);
        false
    }

    /// Append what `peer` receives, and tell it.
    pub(super) fn deliver(peer: &Self, chunk: Chunk) {
        peer.queue.borrow_mut().push_back(chunk);
        peer.notify(Readiness::READABLE);
    }

    /// Drop all that was received. What the messages hold is dropped with no borrow held.
    pub(super) fn purge(&self) {
        drop(self.queue.take());
    }

    /// The credentials to send with a message to `peer`.
    pub(super) fn credentials_for(&self, peer: &Self, stated: Option<Ucred>, real: Ucred) -> Option<Ucred> {
        let asked = self.is_on(options::name::PASSCRED) || peer.is_on(options::name::PASSCRED);
        stated.or_else(|| (asked || peer.is_embryo.get()).then_some(real))
    }

    /// Tell who sent `chunk`, if that was asked for.
    pub(super) fn tell_credentials(&self, chunk: &Chunk, message: &mut Incoming<'_>) {
        if self.is_on(options::name::PASSCRED) {
            let unknown = Ucred { pid: 0, uid: OVERFLOW_ID, gid: OVERFLOW_ID };
            message.control.push(Control::Credentials(chunk.credentials.unwrap_or(unknown)));
        }
    }

    /// Give away the descriptors of `chunk`, or copies if it is only looked at. Returns whether there are any.
    pub(super) fn tell_rights(chunk: &mut Chunk, message: &mut Incoming<'_>) -> bool {
        let files = match &chunk.rights {
            Some(rights) if message.peeks() => rights.copy(),
            _ => chunk.rights.take().map(Rights::into_files).unwrap_or_default(),
        };
        let any = !files.is_empty();
        if any {
            message.control.push(Control::Rights(files));
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_those_of_linux() {
        assert_eq!(cost(0), 768);
        assert_eq!(cost(1), 768);
        assert_eq!(cost(192), 768);
        assert_eq!(cost(193), 1280);
        assert_eq!(cost(4000), 8448);
        assert!(cost(200_000) >= 200_000 && cost(200_000) < 240_000);
    }
}
