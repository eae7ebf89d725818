//! Streams: bytes without borders between messages, but for those that descriptors and credentials make.

use super::inflight::Rights;
use super::queue::Chunk;
use super::{Caller, Incoming, Outcome, Outgoing, State, UnixSocket, options};
use crate::errno::Errno;
use crate::net::{MessageFlags, Pause};
use alloc::vec;

/// Most bytes of a stream in one chunk.
const CHUNK_BYTES: usize = 32 << 10;

impl UnixSocket {
    /// Send what fits.
    pub(super) fn send_stream(&self, caller: &Caller<'_>, message: &mut Outgoing<'_>) -> Outcome<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if !message.destination.is_empty() {
            let connected = self.state.get() == State::Established;
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP }.into());
        }
        let peer = self.peer().ok_or(Errno::ENOTCONN)?;
        let me = self.me.upgrade().ok_or(Errno::EPIPE)?;
        let mut sent = 0;
        let mut rights = Rights::check(&self.shared, caller, core::mem::take(&mut message.rights))?;
        loop {
            if self.ended.get().1 {
                return if sent > 0 { Ok(sent) } else { Err(Errno::EPIPE.into()) };
            }
            let left = message.source.remaining();
            if left == 0 {
                return Ok(sent);
            }
            if let Err(errno) = self.common.check_error() {
                return if sent > 0 { Ok(sent) } else { Err(errno.into()) };
            }
            if !self.may_send_more() {
                return if sent > 0 { Ok(sent) } else { Err(Pause::WouldBlock) };
            }
            let scarce = self.is_scarce();
            let half = (self.common.options.send_buffer.get() as usize / 2).saturating_sub(64);
            let len = left.min(half).min(if scarce { 1024 } else { CHUNK_BYTES });
            let mut data = vec![0; len];
            let fault = match message.source.take(&mut data) {
                Ok(got) if got == len => None,
                Ok(_) => Some(Errno::EFAULT),
                Err(errno) => Some(errno),
            };
            if let Some(errno) = fault {
                return if sent > 0 { Ok(sent) } else { Err(errno.into()) };
            }
            if peer.dead.get() || peer.ended.get().0 {
                return if sent > 0 { Ok(sent) } else { Err(Errno::EPIPE.into()) };
            }
            let credentials = self.credentials_for(&peer, message.credentials, caller.real());
            Self::deliver(&peer, Chunk::new(&me, data, rights.take(), credentials));
            sent += len;
        }
    }

    /// Receive what is there, up to the next border: behind descriptors, and where another sender begins if senders are told.
    pub(super) fn receive_stream(&self, message: &mut Incoming<'_>) -> Outcome<usize> {
        if self.state.get() != State::Established {
            return Err(Errno::EINVAL.into());
        }
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let tells_sender = self.is_on(options::name::PASSCRED);
        let mut sender = (message.done > 0).then(|| self.last_sender.get());
        let (mut got, mut seen) = (0, false);
        // Chunks that are only looked at stay where they are.
        let mut index = 0;
        loop {
            let Some(mut chunk) = self.queue.borrow_mut().remove(index) else { break };
            if tells_sender && sender.is_some_and(|sender| sender != chunk.credentials) {
                self.queue.borrow_mut().insert(index, chunk);
                (message.complete, seen) = (true, true);
                break;
            }
            let count = match message.sink.put(chunk.rest()) {
                Ok(count) => count,
                Err(errno) => {
                    self.queue.borrow_mut().insert(index, chunk);
                    return if seen { Ok(got) } else { Err(errno.into()) };
                }
            };
            if !seen {
                message.name = chunk.sender_name();
                self.tell_credentials(&chunk, message);
            }
            message.complete |= Self::tell_rights(&mut chunk, message);
            (sender, seen) = (Some(chunk.credentials), true);
            got += count;
            let is_short = count < chunk.rest().len();
            if message.peeks() {
                self.queue.borrow_mut().insert(index, chunk);
                index += 1;
            } else if is_short {
                chunk.advance(count);
                self.queue.borrow_mut().insert(index, chunk);
            }
            if is_short || message.complete || message.sink.remaining() == 0 {
                break;
            }
        }
        self.last_sender.set(sender.flatten());
        if seen {
            return Ok(got);
        }
        self.common.check_error()?;
        if self.ended.get().0 { Ok(0) } else { Err(Pause::WouldBlock) }
    }
}
