//! Sockets: what all address families share.
//!
//! A family implements [`Socket`]; the system calls (`syscall/net`) know nothing else of it. The layer does what Linux does for every family: it copies
//! and bounds what the application passes, waits, times out, restarts, raises SIGPIPE, keeps the common options ([`options`]) and makes the descriptors. A
//! family does the rest, beginning with the checks of an address (its order of errors differs from family to family).
//!
//! **Waiting.** An operation that cannot finish returns a [`Pause`]. The layer then registers the thread with the socket's own notifier
//! ([`Common::notifier`]) and runs the operation again from its start when that is notified; so whatever may let an operation go on must notify the
//! notifier of the socket that it is an operation of. An operation must have no effect before it pauses that it may not have
//! twice.
//!
//! Read first: socket(7), socket(2), the kernel's net/socket.c and net/core/sock.c.

pub mod address;
pub mod file;
pub mod inet;
pub mod message;
pub mod netlink;
pub mod options;
pub mod unix;

pub use file::SocketFile;
pub use message::{Control, Incoming, MessageFlags, Outgoing, Ucred};
pub use options::Options;

use crate::errno::{Errno, Result};
use crate::fs::file::UserMemory;
use crate::fs::notify::Notifier;
use crate::fs::{Context, Env};
use crate::task::credentials::Credentials;
use crate::wait::{Readiness, Woken};
use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use netlink::NetlinkSocket;
use unix::UnixSocket;

/// Address families (linux/socket.h).
#[allow(missing_docs)]
pub mod family {
    pub const UNSPEC: u16 = 0;
    pub const UNIX: u16 = 1;
    pub const INET: u16 = 2;
    pub const INET6: u16 = 10;
    pub const NETLINK: u16 = 16;
    pub const PACKET: u16 = 17;
    /// One past the highest that Linux knows.
    pub const MAX: u16 = 46;
}

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketType {
    /// SOCK_STREAM.
    Stream = 1,
    /// SOCK_DGRAM.
    Datagram = 2,
    /// SOCK_RAW.
    Raw = 3,
    /// SOCK_RDM: no family here has it.
    ReliableDatagram = 4,
    /// SOCK_SEQPACKET.
    SequencedPacket = 5,
    /// SOCK_DCCP: no family here has it.
    Dccp = 6,
    /// SOCK_PACKET: no family here has it.
    Packet = 10,
}

impl SocketType {
    /// The type with this number. (That a family does not have a type is ESOCKTNOSUPPORT, and the family's to say.)
    ///
    /// # Errors
    /// EINVAL: no such type.
    pub fn from_number(number: u32) -> Result<Self> {
        Ok(match number {
            1 => Self::Stream,
            2 => Self::Datagram,
            3 => Self::Raw,
            4 => Self::ReliableDatagram,
            5 => Self::SequencedPacket,
            6 => Self::Dccp,
            // Linux has no families with types 0 and 7 to 9, but knows the numbers.
            0 | 7..=10 => Self::Packet,
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// Why an operation has no result yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It failed.
    Errno(Errno),
    /// It has to wait for the other side. Nonblocking calls, and calls whose SO_RCVTIMEO or SO_SNDTIMEO is over, fail with EAGAIN.
    WouldBlock,
    /// connect(2) has begun and goes on by itself. Nonblocking calls and those whose time is over fail with EINPROGRESS. (A family that is asked
    /// again while it connects returns EALREADY itself if [`Caller::nonblocking`].)
    InProgress,
    /// The VMM has been asked and answers soon: nonblocking calls wait, too. A signal may interrupt the call; when it starts again, the family goes on with
    /// the answer.
    Host,
}

impl From<Errno> for Pause {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Result of an operation that may have to wait.
pub type Outcome<T = ()> = core::result::Result<T, Pause>;

/// Who performs an operation, and how.
pub struct Caller<'a> {
    /// The guest's sockets.
    pub net: &'a Net,
    /// Where paths are resolved, and with which permissions.
    pub place: &'a Context<'a>,
    /// Process id.
    pub pid: u32,
    /// Who it is.
    pub credentials: &'a Credentials,
    /// RLIMIT_NOFILE, which also bounds the descriptors that a user has under way (unix(7), ETOOMANYREFS).
    pub descriptors_max: u64,
    /// O_NONBLOCK or MSG_DONTWAIT.
    pub nonblocking: bool,
    /// The call has waited and runs again.
    pub again: bool,
}

impl Caller<'_> {
    /// Effective ids, as SO_PEERCRED tells them.
    #[must_use]
    pub fn effective(&self) -> Ucred {
        Ucred { pid: self.pid, uid: self.credentials.euid, gid: self.credentials.egid }
    }

    /// Real ids, as SCM_CREDENTIALS tells them of a sender that passes none.
    #[must_use]
    pub fn real(&self) -> Ucred {
        Ucred { pid: self.pid, uid: self.credentials.uid, gid: self.credentials.gid }
    }
}

/// What shutdown(2) ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SHUT_RD.
    Receive,
    /// SHUT_WR.
    Send,
    /// SHUT_RDWR.
    Both,
}

impl Shutdown {
    /// Whether receiving ends.
    #[must_use]
    pub fn receives(self) -> bool {
        self != Self::Send
    }

    /// Whether sending ends.
    #[must_use]
    pub fn sends(self) -> bool {
        self != Self::Receive
    }
}

/// What the layer keeps of every socket.
#[derive(Debug)]
pub struct Common {
    /// Address family.
    pub family: u16,
    /// Type.
    pub kind: SocketType,
    /// Protocol, as SO_PROTOCOL tells it.
    pub protocol: i32,
    /// Where changes of readiness are told, and who waits in an operation.
    pub notifier: Notifier,
    /// An error that the next operation, or SO_ERROR, reports once.
    pub error: Cell<Option<Errno>>,
    /// SOL_SOCKET options.
    pub options: Options,
    /// The node's number in sockfs once there is a descriptor, 0 before: how /proc/net names the socket.
    pub ino: Cell<u64>,
    /// Owner of the node (stat(2), /proc/net).
    pub owner: Cell<(u32, u32)>,
}

impl Common {
    /// Defaults of a new socket.
    #[must_use]
    pub fn new(woken: &Woken, family: u16, kind: SocketType, protocol: i32) -> Self {
        Self {
            family,
            kind,
            protocol,
            notifier: Notifier::new(woken),
            error: Cell::new(None),
            options: Options::default(),
            ino: Cell::new(0),
            owner: Cell::new((0, 0)),
        }
    }

    /// Report a pending error, once.
    ///
    /// # Errors
    /// The pending error.
    pub fn check_error(&self) -> Result {
        match self.error.take() {
            Some(errno) => Err(errno),
            None => Ok(()),
        }
    }
}

/// A socket of some family. Addresses are the bytes of a sockaddr as the application gave them (0 to 128 bytes) or as it gets them.
pub trait Socket: Any {
    /// What all sockets have.
    fn common(&self) -> &Common;

    /// bind(2).
    ///
    /// # Errors
    /// EADDRINUSE, EADDRNOTAVAIL, EINVAL, EACCES, ...
    fn bind(&self, _caller: &Caller<'_>, _address: &[u8]) -> Outcome {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// listen(2); `backlog` lies between 0 and SOMAXCONN.
    ///
    /// # Errors
    /// EOPNOTSUPP, EINVAL, EADDRINUSE, ...
    fn listen(&self, _caller: &Caller<'_>, _backlog: u32) -> Outcome {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// accept(2): the oldest connection that waits. The layer has made sure that there is room for a descriptor.
    ///
    /// # Errors
    /// EOPNOTSUPP, EINVAL (not listening), ECONNABORTED, ...
    fn accept(&self, _caller: &Caller<'_>) -> Outcome<Rc<dyn Socket>> {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// connect(2). Called again with the same address when it has paused, until it does not; then it returns what became of the connection.
    ///
    /// # Errors
    /// ECONNREFUSED, EISCONN, EALREADY, EINVAL, EAFNOSUPPORT, ...
    fn connect(&self, _caller: &Caller<'_>, _address: &[u8]) -> Outcome {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// getsockname(2).
    ///
    /// # Errors
    /// ENOBUFS.
    fn local_name(&self) -> Outcome<Vec<u8>>;

    /// getpeername(2), and the address that accept(2) tells.
    ///
    /// # Errors
    /// ENOTCONN.
    fn peer_name(&self) -> Outcome<Vec<u8>>;

    /// Take bytes from `message.source` and send them; returns how many were sent. More may have been taken. A stream sends what fits and returns a short
    /// count; the layer calls again for the rest (with `rights` taken and `message.done` advanced). A stream that returns EPIPE makes the layer raise SIGPIPE.
    ///
    /// # Errors
    /// EPIPE, ENOTCONN, EDESTADDRREQ, EMSGSIZE, ECONNRESET, EFAULT, ...
    fn send(&self, caller: &Caller<'_>, message: &mut Outgoing<'_>) -> Outcome<usize>;

    /// Receive into `message.sink`; returns how many bytes (0 = end of the stream), or a record's full length with MSG_TRUNC. The layer calls
    /// again where MSG_WAITALL or SO_RCVLOWAT asks for more, unless `message.complete` was set.
    ///
    /// # Errors
    /// ENOTCONN, ECONNRESET, EFAULT, ...
    fn receive(&self, caller: &Caller<'_>, message: &mut Incoming<'_>) -> Outcome<usize>;

    /// shutdown(2).
    ///
    /// # Errors
    /// ENOTCONN.
    fn shutdown(&self, _how: Shutdown) -> Outcome {
        Err(Errno::EOPNOTSUPP.into())
    }

    /// setsockopt(2) for all levels but SOL_SOCKET, and for the options of SOL_SOCKET that [`Options`] does not know (SO_BINDTODEVICE, filters, ...).
    ///
    /// # Errors
    /// ENOPROTOOPT, EOPNOTSUPP, EINVAL, ...
    fn set_option(&self, _caller: &Caller<'_>, level: i32, _name: u32, _value: &[u8]) -> Outcome {
        Err(no_option(level).into())
    }

    /// getsockopt(2), as [`Self::set_option`]: the value, of which at most `room` bytes reach the application.
    ///
    /// # Errors
    /// ENOPROTOOPT, EOPNOTSUPP, EINVAL, ...
    fn get_option(&self, level: i32, _name: u32, _room: usize) -> Outcome<Vec<u8>> {
        Err(no_option(level).into())
    }

    /// A SOL_SOCKET option was checked and is about to be kept in [`Common::options`]: a family that must tell somebody else does so.
    ///
    /// # Errors
    /// ENOPROTOOPT, EOPNOTSUPP: the option means nothing for this family. The option is not kept.
    fn common_option(&self, _name: u32, _value: &[u8]) -> Outcome {
        Ok(())
    }

    /// SO_ERROR: the pending error, which is cleared.
    fn take_error(&self) -> Option<Errno> {
        self.common().error.take()
    }

    /// SO_ACCEPTCONN.
    fn is_listening(&self) -> bool {
        false
    }

    /// SO_PEERCRED; `None`: no process known.
    fn peer_credentials(&self) -> Option<Ucred> {
        None
    }

    /// SO_PEERGROUPS.
    ///
    /// # Errors
    /// ENODATA.
    fn peer_groups(&self) -> Result<Vec<u32>> {
        Err(Errno::ENODATA)
    }

    /// What can be done without waiting, errors and hang-ups included.
    fn poll(&self) -> Readiness;

    /// FIONREAD, SIOCINQ.
    ///
    /// # Errors
    /// EINVAL (listening), ENOTTY.
    fn bytes_readable(&self) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// SIOCOUTQ: bytes sent that the other side has not taken.
    ///
    /// # Errors
    /// EINVAL (listening), ENOTTY.
    fn bytes_unsent(&self) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// Other requests of ioctl(2).
    ///
    /// # Errors
    /// ENOTTY, and what the request needs.
    fn ioctl(&self, _memory: &dyn UserMemory, _request: u32, _argument: u64) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// The last descriptor was closed. The layer does not use the socket afterwards.
    fn release(&self) {}
}

/// What a family without options of its own says of one.
fn no_option(level: i32) -> Errno {
    if level == options::name::SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP }
}

/// `socket` as a `T`, if it is one.
#[must_use]
pub fn socket_as<T: Socket>(socket: Rc<dyn Socket>) -> Option<Rc<T>> {
    let any: Rc<dyn Any> = socket;
    any.downcast().ok()
}

/// All sockets of the guest.
pub struct Net {
    /// Memory, clock, wake-ups.
    pub env: Rc<Env>,
    /// AF_UNIX.
    pub unix: Rc<unix::Shared>,
    /// Addresses of AF_NETLINK sockets in use.
    pub netlink_ports: Rc<RefCell<BTreeSet<u32>>>,
}

impl Net {
    /// No sockets yet.
    #[must_use]
    pub fn new(env: &Rc<Env>) -> Self {
        Self { env: env.clone(), unix: unix::Shared::new(env), netlink_ports: Rc::default() }
    }

    /// socket(2): a socket of `family`.
    ///
    /// # Errors
    /// EAFNOSUPPORT, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM, ENOBUFS.
    pub fn create(
        &self,
        caller: &Caller<'_>,
        family: u16,
        kind: SocketType,
        protocol: i32,
    ) -> Result<Rc<dyn Socket>> {
        self.check_space()?;
        match family {
            family::UNIX => Ok(UnixSocket::create(&self.unix, kind, protocol)?),
            family::INET | family::INET6 => {
                inet::create(&self.env.uplink, &self.env.woken, caller, family, kind, protocol)
            }
            family::NETLINK => Ok(NetlinkSocket::create(self, kind, protocol)?),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// socketpair(2): two sockets connected to each other.
    ///
    /// # Errors
    /// As [`Self::create`]; EOPNOTSUPP.
    pub fn create_pair(
        &self,
        caller: &Caller<'_>,
        family: u16,
        kind: SocketType,
        protocol: i32,
    ) -> Result<[Rc<dyn Socket>; 2]> {
        self.check_space()?;
        if family == family::UNIX {
            let pair = UnixSocket::create_pair(&self.unix, kind, protocol, caller)?;
            return Ok(pair.map(|socket| -> Rc<dyn Socket> { socket }));
        }
        self.create(caller, family, kind, protocol)?;
        Err(Errno::EOPNOTSUPP)
    }

    /// Whether memory for another socket or message can be spared.
    ///
    /// # Errors
    /// ENOBUFS.
    pub fn check_space(&self) -> Result {
        self.env.check_space().map_err(|_| Errno::ENOBUFS)
    }
}

impl core::fmt::Debug for Net {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Net").finish_non_exhaustive()
    }
}
