//! UDP (the kernel's udp_sendmsg, udp_recvmsg, udp_poll).

use super::super::{Caller, Incoming, MessageFlags, Outcome, Outgoing, Pause, address, family, options};
use super::InetSocket;
use crate::errno::{Errno, Result};
use crate::uplink::Connecting;
use crate::wait::Readiness;

/// Largest payload over IPv4, and over IPv6.
const PAYLOAD_MAX: (usize, usize) = (65_507, 65_527);

impl InetSocket {
    /// The destination of a datagram, empty = the peer.
    fn check_destination(&self, destination: &[u8]) -> Result {
        if destination.is_empty() {
            let connected = self.endpoint.connecting() == Connecting::Done;
            return if connected { Ok(()) } else { Err(Errno::EDESTADDRREQ) };
        }
        let of_four =
            self.common.family == family::INET || address::family_of(destination) == Some(family::INET);
        if destination.len() < if of_four { address::INET_BYTES } else { address::INET6_BYTES_MIN } {
            return Err(Errno::EINVAL);
        }
        match address::family_of(destination) {
            Some(family::INET) => {}
            Some(family::UNSPEC) if of_four => {}
            Some(family::INET6) if !of_four => {}
            _ => return Err(Errno::EAFNOSUPPORT),
        }
        if destination[2..4] == [0, 0] {
            return Err(Errno::EINVAL);
        }
        let is_broadcast = of_four && destination[4..8] == [255; 4];
        if is_broadcast && !self.common.options.is_on(options::name::BROADCAST) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    pub(super) fn send_datagram(&self, message: &mut Outgoing<'_>) -> Outcome<usize> {
        let len = message.source.remaining();
        let most = if self.common.family == family::INET { PAYLOAD_MAX.0 } else { PAYLOAD_MAX.1 };
        if len > most {
            return Err(Errno::EMSGSIZE.into());
        }
        self.check_destination(message.destination)?;
        if let Some(errno) = self.pending() {
            return Err(errno.into());
        }
        if self.shut_send.get() {
            return Err(Errno::EPIPE.into());
        }
        let mut destination = message.destination.to_vec();
        if let [0, 0, ..] = destination[..] {
            destination[0] = family::INET as u8;
        }
        if !self.endpoint.write_datagram(&destination, message.source)? {
            return Err(Pause::WouldBlock);
        }
        self.endpoint.want();
        Ok(len)
    }

    pub(super) fn receive_datagram(&self, caller: &Caller<'_>, message: &mut Incoming<'_>) -> Outcome<usize> {
        let mut looked = false;
        loop {
            if let Some(errno) = self.pending() {
                return Err(errno.into());
            }
            if let Some((len, from)) = self.endpoint.next_datagram() {
                let peeks = message.peeks();
                let copied = self.endpoint.read_datagram(len, message.sink, peeks)?;
                message.name = Some(from);
                message.outcome.set(MessageFlags::TRUNC, copied < len);
                return Ok(if message.flags.contains(MessageFlags::TRUNC) { len } else { copied });
            }
            if self.shut_receive.get() {
                return Ok(0);
            }
            self.endpoint.want();
            if looked || !self.looks(caller) {
                return Err(Pause::WouldBlock);
            }
            looked = true;
        }
    }

    pub(super) fn poll_datagram(&self) -> Readiness {
        let shut = (self.shut_receive.get(), self.shut_send.get());
        let mut ready = Readiness::empty();
        ready.set(Readiness::READABLE, shut.0 || self.endpoint.unread() > 0);
        ready.set(Readiness::READ_HANGUP, shut.0);
        ready.set(Readiness::HANGUP, shut == (true, true));
        ready.set(Readiness::WRITABLE, self.endpoint.has_room());
        ready.set(Readiness::ERROR, self.has_error());
        ready
    }
}
