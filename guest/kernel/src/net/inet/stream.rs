//! TCP: connecting, bytes, readiness (the kernel's tcp_poll, tcp_recvmsg_locked, tcp_sendmsg_locked).

use super::super::{Caller, Incoming, Outcome, Outgoing, Pause};
use super::InetSocket;
use crate::errno::Errno;
use crate::uplink::Connecting;
use crate::wait::Readiness;

impl InetSocket {
    pub(super) fn connect_stream(&self, caller: &Caller<'_>, address: &[u8]) -> Outcome {
        let endpoint = &self.endpoint;
        match endpoint.connecting() {
            Connecting::Done if caller.again || self.untold.take() => {
                self.untold.set(false);
                return Ok(());
            }
            Connecting::Done => return Err(Errno::EISCONN.into()),
            Connecting::UnderWay if caller.nonblocking && !caller.again => return Err(Errno::EALREADY.into()),
            Connecting::UnderWay => return Err(Pause::InProgress),
            Connecting::Not => {}
        }
        // The end of an attempt that nobody was told of.
        self.untold.set(false);
        if let Some(errno) = self.pending() {
            return Err(errno.into());
        }
        self.check_address(address)?;
        let established = endpoint.connect(address)?;
        // Even over loopback a handshake of Linux ends when connect(2) has let go of the socket, and so does a refusal.
        if caller.nonblocking {
            self.untold.set(true);
            return Err(Pause::InProgress);
        }
        if established {
            return Ok(());
        }
        if let Some(errno) = self.pending() {
            return Err(errno.into());
        }
        self.untold.set(true);
        Err(Pause::InProgress)
    }

    pub(super) fn receive_stream(&self, caller: &Caller<'_>, message: &mut Incoming<'_>) -> Outcome<usize> {
        let endpoint = &self.endpoint;
        let mut looked = false;
        loop {
            if endpoint.unread() > 0 {
                let peeks = message.peeks();
                return Ok(endpoint.read(message.sink, peeks)?);
            }
            if endpoint.has_ended() && !endpoint.is_over() {
                return Ok(0);
            }
            if let Some(errno) = self.pending() {
                return Err(errno.into());
            }
            if endpoint.is_over() || self.shut_receive.get() {
                return Ok(0);
            }
            match endpoint.connecting() {
                Connecting::Not => return Err(Errno::ENOTCONN.into()),
                Connecting::UnderWay => return Err(Pause::WouldBlock),
                Connecting::Done => endpoint.want(),
            }
            if looked || !self.looks(caller) {
                return Err(Pause::WouldBlock);
            }
            looked = true;
        }
    }

    pub(super) fn send_stream(&self, caller: &Caller<'_>, message: &mut Outgoing<'_>) -> Outcome<usize> {
        let endpoint = &self.endpoint;
        if let Some(errno) = self.pending() {
            return Err(errno.into());
        }
        if self.shut_send.get() || endpoint.is_over() {
            return Err(Errno::EPIPE.into());
        }
        match endpoint.connecting() {
            Connecting::Not => return Err(Errno::EPIPE.into()),
            Connecting::UnderWay => return Err(Pause::WouldBlock),
            Connecting::Done => {}
        }
        if message.source.remaining() == 0 {
            return Ok(0);
        }
        let mut count = endpoint.write(message.source)?;
        if count == 0 && self.looks(caller) {
            count = endpoint.write(message.source)?;
        }
        if count == 0 { Err(Pause::WouldBlock) } else { Ok(count) }
    }

    pub(super) fn poll_stream(&self) -> Readiness {
        let endpoint = &self.endpoint;
        let mut ready = Readiness::empty();
        if endpoint.is_listening() {
            ready.set(Readiness::READABLE, endpoint.waiting() > 0 || self.shut_receive.get());
            return ready;
        }
        ready.set(Readiness::ERROR, self.has_error());
        if endpoint.connecting() == Connecting::UnderWay {
            return ready;
        }
        let over = endpoint.is_over();
        let fresh = endpoint.connecting() == Connecting::Not;
        let receives_no_more = endpoint.has_ended() || self.shut_receive.get() || over;
        ready.set(Readiness::READABLE, endpoint.unread() > 0 || receives_no_more);
        ready.set(Readiness::READ_HANGUP, receives_no_more);
        ready.set(Readiness::WRITABLE, endpoint.has_room() || self.shut_send.get() || over);
        ready.set(Readiness::HANGUP, over || fresh || (receives_no_more && self.shut_send.get()));
        ready
    }
}
