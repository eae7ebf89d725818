//! AF_INET and AF_INET6: TCP and UDP, spoken by the host's kernel in the pod's network namespace (`crate::uplink`).
//!
//! Here is what a socket answers from the guest's memory: states, readiness, order of errors, as Linux has them. Anything that only the host knows
//! (whether an address is free, what an option's value is) is asked of the VMM; what was checked here is submitted without waiting.
//!
//! Read first: tcp(7), udp(7), ip(7), ipv6(7); the kernel's net/ipv4/{af_inet,tcp,udp}.c.
//!
//! **Not** supported: raw sockets, multicast, out-of-band data, MSG_ERRQUEUE, IP_PKTINFO and other control messages, TCP Fast Open; SO_LINGER with a time does not make
//! close(2) wait.

mod datagram;
pub(super) mod interfaces;
mod options;
mod stream;

use super::{
    Caller, Common, Incoming, MessageFlags, Outcome, Outgoing, Pause, Shutdown, Socket, SocketType, address,
    family,
};
use crate::errno::{Errno, Result};
use crate::fs::file::UserMemory;
use crate::uplink::{Connecting, Endpoint, Owner, Uplink};
use crate::wait::{Readiness, Woken};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::Cell;

/// IPPROTO_TCP.
const TCP: i32 = 6;
/// IPPROTO_UDP.
const UDP: i32 = 17;
/// A TCP or UDP socket.
pub struct InetSocket {
    common: Common,
    endpoint: Rc<Endpoint>,
    me: Weak<Self>,
    woken: Woken,
    shut_receive: Cell<bool>,
    shut_send: Cell<bool>,
    /// A nonblocking connect(2) has begun, and no call has told its end.
    untold: Cell<bool>,
    /// IP_RECVERR, IPV6_RECVERR.
    queues_errors: Cell<bool>,
}

/// socket(2).
///
/// # Errors
/// EINVAL, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EPERM, ENFILE, EAFNOSUPPORT (the host has no IPv6).
pub(super) fn create(
    uplink: &Rc<Uplink>,
    woken: &Woken,
    caller: &Caller<'_>,
    family: u16,
    kind: SocketType,
    protocol: i32,
) -> Result<Rc<dyn Socket>> {
    if !(0..256).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    let protocol = match (kind, protocol) {
        (SocketType::Stream, 0 | TCP) => TCP,
        (SocketType::Datagram, 0 | UDP) => UDP,
        (SocketType::Stream | SocketType::Datagram, _) => return Err(Errno::EPROTONOSUPPORT),
        (SocketType::Raw, _) if !caller.credentials.is_privileged() => return Err(Errno::EPERM),
        (SocketType::Raw, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    let endpoint = uplink.open(family, kind as u32, protocol as u32)?;
    Ok(InetSocket::new(woken, family, kind, endpoint))
}

impl InetSocket {
    fn new(woken: &Woken, family: u16, kind: SocketType, endpoint: Rc<Endpoint>) -> Rc<Self> {
        let protocol = if kind == SocketType::Stream { TCP } else { UDP };
        let socket = Rc::new_cyclic(|me: &Weak<Self>| Self {
            common: Common::new(woken, family, kind, protocol),
            endpoint,
            me: me.clone(),
            woken: woken.clone(),
            shut_receive: Cell::new(false),
            shut_send: Cell::new(false),
            untold: Cell::new(false),
            queues_errors: Cell::new(false),
        });
        let owner: Weak<dyn Owner> = socket.me.clone();
        socket.endpoint.set_owner(owner);
        socket
    }

    /// The host's socket.
    #[must_use]
    pub fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }

    fn is_stream(&self) -> bool {
        self.common.kind == SocketType::Stream
    }

    /// Take the pending error.
    fn pending(&self) -> Option<Errno> {
        self.common.error.take().or_else(|| self.endpoint.take_error())
    }

    fn has_error(&self) -> bool {
        self.common.error.get().is_some() || self.endpoint.error().is_some()
    }

    /// A nonblocking call has found nothing: look whether there is something by now, and whether it is worth another try.
    fn looks(&self, caller: &Caller<'_>) -> bool {
        caller.nonblocking && self.endpoint.uplink().look()
    }

    /// Check an address for bind(2) and connect(2).
    fn check_address(&self, bytes: &[u8]) -> Result {
        let (least, own) = match self.common.family {
            family::INET => (address::INET_BYTES, family::INET),
            _ => (address::INET6_BYTES_MIN, family::INET6),
        };
        if bytes.len() < least {
            return Err(Errno::EINVAL);
        }
        if address::family_of(bytes) != Some(own) {
            return Err(Errno::EAFNOSUPPORT);
        }
        Ok(())
    }
}

impl Owner for InetSocket {
    fn changed(&self, events: Readiness) {
        self.common.notifier.notify(events);
    }

    fn is_awaited(&self) -> bool {
        self.common.notifier.is_awaited()
    }

    fn identity(&self) -> (u32, u64) {
        (self.common.owner.get().0, self.common.ino.get())
    }
}

impl Socket for InetSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, caller: &Caller<'_>, address: &[u8]) -> Outcome {
        let unspecified = self.common.family == family::INET
            && address.len() >= address::INET_BYTES
            && address::family_of(address) == Some(family::UNSPEC)
            && address[4..8] == [0; 4];
        if !unspecified {
            self.check_address(address)?;
        }
        let mut address = address.to_vec();
        address[..2].copy_from_slice(&self.common.family.to_le_bytes());
        self.endpoint.bind(&address, caller.credentials.is_privileged())?;
        Ok(())
    }

    fn listen(&self, _caller: &Caller<'_>, backlog: u32) -> Outcome {
        if !self.is_stream() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        self.endpoint.listen(backlog)?;
        Ok(())
    }

    fn accept(&self, caller: &Caller<'_>) -> Outcome<Rc<dyn Socket>> {
        if !self.is_stream() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if !self.is_listening() || self.shut_receive.get() {
            return Err(Errno::EINVAL.into());
        }
        let mut accepted = self.endpoint.accept();
        if accepted.is_none() && self.looks(caller) {
            accepted = self.endpoint.accept();
        }
        let endpoint = accepted.ok_or(Pause::WouldBlock)?;
        let socket = Self::new(&self.woken, self.common.family, SocketType::Stream, endpoint);
        socket.common.options.inherit(&self.common.options);
        Ok(socket)
    }

    fn connect(&self, caller: &Caller<'_>, address: &[u8]) -> Outcome {
        if address.len() < address::FAMILY_BYTES {
            return Err(Errno::EINVAL.into());
        }
        if address::family_of(address) == Some(family::UNSPEC) {
            self.endpoint.connect(&[0; address::INET_BYTES])?;
            return Ok(());
        }
        if self.is_stream() {
            return self.connect_stream(caller, address);
        }
        self.check_address(address)?;
        self.endpoint.connect(address)?;
        Ok(())
    }

    fn local_name(&self) -> Outcome<Vec<u8>> {
        Ok(self.endpoint.local_name()?)
    }

    fn peer_name(&self) -> Outcome<Vec<u8>> {
        self.endpoint.uplink().settle();
        let connected =
            self.endpoint.connecting() == Connecting::Done && !(self.is_stream() && self.endpoint.is_over());
        Ok(self.endpoint.peer_name().filter(|_| connected).ok_or(Errno::ENOTCONN)?)
    }

    fn send(&self, caller: &Caller<'_>, message: &mut Outgoing<'_>) -> Outcome<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if self.is_stream() { self.send_stream(caller, message) } else { self.send_datagram(message) }
    }

    fn receive(&self, caller: &Caller<'_>, message: &mut Incoming<'_>) -> Outcome<usize> {
        if message.flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN.into());
        }
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EINVAL.into());
        }
        if self.is_stream() {
            self.receive_stream(caller, message)
        } else {
            self.receive_datagram(caller, message)
        }
    }

    fn shutdown(&self, how: Shutdown) -> Outcome {
        let connected = self.endpoint.connecting() == Connecting::Done && !self.endpoint.is_over();
        if !connected && !self.is_listening() {
            return Err(Errno::ENOTCONN.into());
        }
        self.shut_receive.set(self.shut_receive.get() || how.receives());
        self.shut_send.set(self.shut_send.get() || how.sends());
        self.endpoint.shut_down(match how {
            Shutdown::Receive => 0,
            Shutdown::Send => 1,
            Shutdown::Both => 2,
        });
        self.common.notifier.notify(Readiness::all());
        Ok(())
    }

    fn set_option(&self, _caller: &Caller<'_>, level: i32, name: u32, value: &[u8]) -> Outcome {
        Ok(options::set(self, level, name, value)?)
    }

    fn get_option(&self, level: i32, name: u32, room: usize) -> Outcome<Vec<u8>> {
        Ok(options::get(self, level, name, room)?)
    }

    fn common_option(&self, name: u32, value: &[u8]) -> Outcome {
        options::common(self, name, value);
        Ok(())
    }

    fn take_error(&self) -> Option<Errno> {
        self.endpoint.uplink().settle();
        self.pending()
    }

    fn is_listening(&self) -> bool {
        self.endpoint.is_listening()
    }

    fn poll(&self) -> Readiness {
        if self.is_stream() { self.poll_stream() } else { self.poll_datagram() }
    }

    fn bytes_readable(&self) -> Result<u64> {
        if self.is_listening() {
            return Err(Errno::EINVAL);
        }
        // A program that asks in a loop must get an answer that changes.
        let _ = self.endpoint.uplink().look();
        if self.is_stream() {
            return Ok(self.endpoint.unread() as u64);
        }
        Ok(self.endpoint.next_datagram().map_or(0, |(len, _)| len as u64))
    }

    fn bytes_unsent(&self) -> Result<u64> {
        if self.is_listening() { Err(Errno::EINVAL) } else { Ok(self.endpoint.in_flight() as u64) }
    }

    fn ioctl(&self, memory: &dyn UserMemory, request: u32, argument: u64) -> Result<u64> {
        interfaces::ioctl(self.endpoint.uplink(), memory, request, argument)
    }

    fn release(&self) {
        self.endpoint.close(self.common.options.linger.get() == Some(0) && self.is_stream());
    }
}

impl core::fmt::Debug for InetSocket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("InetSocket")
            .field("common", &self.common)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
