//! AF_NETLINK (netlink(7)), NETLINK_ROUTE alone: the lists of links and addresses that getifaddrs(3), getaddrinfo(3) and their like ask for.
//!
//! A request is answered while it is sent ([`route`]); the answers wait in the socket's queue. **Not** supported: changes (EPERM), other lists
//! (EOPNOTSUPP), events (groups can be joined, nothing is told), messages between processes.

mod route;

use super::{
    Caller, Common, Control, Incoming, MessageFlags, Net, Outcome, Outgoing, Pause, Socket, SocketType,
    Ucred, family, options,
};
use crate::errno::{Errno, Result};
use crate::fs::Env;
use crate::wait::Readiness;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// NETLINK_ROUTE.
const ROUTE: i32 = 0;
/// Bytes of struct sockaddr_nl.
const ADDRESS_BYTES: usize = 12;
/// Longest request.
const REQUEST_MAX: usize = 64 << 10;
/// SOL_NETLINK.
const SOL_NETLINK: i32 = 270;
/// The options of that level that are accepted, all without effect but for the last: NETLINK_ADD_MEMBERSHIP, DROP_MEMBERSHIP, PKTINFO, BROADCAST_ERROR,
/// NO_ENOBUFS, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
const OPTIONS: &[u32] = &[1, 2, 3, 4, 5, 10, 11, 12];

/// A socket.
pub struct NetlinkSocket {
    common: Common,
    env: Rc<Env>,
    /// Its address among netlink sockets, 0 = none yet.
    port: Cell<u32>,
    groups: Cell<u32>,
    /// The addresses in use.
    ports: Rc<RefCell<BTreeSet<u32>>>,
    queue: RefCell<VecDeque<Vec<u8>>>,
}

/// struct sockaddr_nl.
fn address(port: u32, groups: u32) -> Vec<u8> {
    let mut bytes = family::NETLINK.to_le_bytes().to_vec();
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&port.to_le_bytes());
    bytes.extend_from_slice(&groups.to_le_bytes());
    bytes
}

/// Port and groups of an address.
fn parse(bytes: &[u8]) -> Result<(u32, u32)> {
    if bytes.len() < ADDRESS_BYTES || super::address::family_of(bytes) != Some(family::NETLINK) {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok((word(4), word(8)))
}

impl NetlinkSocket {
    /// socket(2).
    ///
    /// # Errors
    /// ESOCKTNOSUPPORT, EPROTONOSUPPORT.
    pub fn create(net: &Net, kind: SocketType, protocol: i32) -> Result<Rc<Self>> {
        if !matches!(kind, SocketType::Raw | SocketType::Datagram) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if protocol != ROUTE {
            return Err(Errno::EPROTONOSUPPORT);
        }
        Ok(Rc::new(Self {
            common: Common::new(&net.env.woken, family::NETLINK, kind, protocol),
            env: net.env.clone(),
            port: Cell::new(0),
            groups: Cell::new(0),
            ports: net.netlink_ports.clone(),
            queue: RefCell::default(),
        }))
    }

    fn is_taken(&self, port: u32) -> bool {
        self.ports.borrow().contains(&port)
    }

    fn take_port(&self, port: u32) {
        self.ports.borrow_mut().insert(port);
        self.port.set(port);
    }

    /// A socket without an address gets its process' id; a further one of the process a number that is no process id.
    fn bind_if_unbound(&self, caller: &Caller<'_>) {
        if self.port.get() == 0 {
            let mut port = caller.pid;
            let mut step = self.env.next_id() as u32;
            while self.is_taken(port) {
                port = u32::MAX - 4096 - step % (1 << 30);
                step = step.wrapping_add(1);
            }
            self.take_port(port);
        }
    }

    /// Queue answers; what exceeds SO_RCVBUF is lost, and reported as ENOBUFS.
    fn answer(&self, messages: Vec<Vec<u8>>) {
        let room = self.common.options.receive_buffer.get() as usize;
        for message in messages {
            let used: usize = self.queue.borrow().iter().map(Vec::len).sum();
            if used + message.len() > room {
                self.common.error.set(Some(Errno::ENOBUFS));
                break;
            }
            self.queue.borrow_mut().push_back(message);
        }
        self.common.notifier.notify(Readiness::READABLE);
    }
}

impl Socket for NetlinkSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, caller: &Caller<'_>, bytes: &[u8]) -> Outcome {
        let (port, groups) = parse(bytes)?;
        let own = self.port.get();
        if own != 0 && port != own {
            return Err(Errno::EINVAL.into());
        }
        if own == 0 && port != 0 {
            if self.is_taken(port) {
                return Err(Errno::EADDRINUSE.into());
            }
            self.take_port(port);
        }
        self.bind_if_unbound(caller);
        self.groups.set(groups);
        Ok(())
    }

    fn connect(&self, caller: &Caller<'_>, bytes: &[u8]) -> Outcome {
        if super::address::family_of(bytes) == Some(family::UNSPEC) {
            return Ok(());
        }
        let (port, groups) = parse(bytes)?;
        if port != 0 || groups != 0 {
            return Err(Errno::EPERM.into());
        }
        self.bind_if_unbound(caller);
        Ok(())
    }

    fn local_name(&self) -> Outcome<Vec<u8>> {
        Ok(address(self.port.get(), self.groups.get()))
    }

    fn peer_name(&self) -> Outcome<Vec<u8>> {
        Ok(address(0, 0))
    }

    fn send(&self, caller: &Caller<'_>, message: &mut Outgoing<'_>) -> Outcome<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        if !message.destination.is_empty() {
            let (port, groups) = parse(message.destination)?;
            if groups != 0 {
                return Err(Errno::EPERM.into());
            }
            if port != 0 {
                return Err(Errno::ECONNREFUSED.into());
            }
        }
        self.bind_if_unbound(caller);
        let len = message.source.remaining();
        if len > REQUEST_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let mut request = vec![0; len];
        if message.source.take(&mut request)? < len {
            return Err(Errno::EFAULT.into());
        }
        let mut list = None;
        let interfaces = &mut || match &list {
            Some(list) => Ok(Vec::clone(list)),
            None => Ok(list.insert(self.env.uplink.interfaces()?).clone()),
        };
        self.answer(route::serve(&request, self.port.get(), interfaces));
        Ok(len)
    }

    fn receive(&self, _caller: &Caller<'_>, message: &mut Incoming<'_>) -> Outcome<usize> {
        if message.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        message.complete = true;
        self.common.check_error()?;
        let Some(bytes) = self.queue.borrow_mut().pop_front() else { return Err(Pause::WouldBlock) };
        let stored = message.sink.put(&bytes);
        let len = bytes.len();
        if message.peeks() {
            self.queue.borrow_mut().push_front(bytes);
        }
        let stored = stored?;
        message.name = Some(address(0, 0));
        if self.common.options.is_on(options::name::PASSCRED) {
            message.control.push(Control::Credentials(Ucred::default()));
        }
        if stored < len {
            message.outcome |= MessageFlags::TRUNC;
        }
        Ok(if message.flags.contains(MessageFlags::TRUNC) { len } else { stored })
    }

    fn set_option(&self, _caller: &Caller<'_>, level: i32, name: u32, value: &[u8]) -> Outcome {
        if level != SOL_NETLINK || !OPTIONS.contains(&name) {
            return Err(Errno::ENOPROTOOPT.into());
        }
        if value.len() < 4 { Err(Errno::EINVAL.into()) } else { Ok(()) }
    }

    fn get_option(&self, level: i32, name: u32, _room: usize) -> Outcome<Vec<u8>> {
        if level != SOL_NETLINK || !OPTIONS.contains(&name) {
            return Err(Errno::ENOPROTOOPT.into());
        }
        Ok(vec![0; 4])
    }

    fn poll(&self) -> Readiness {
        let mut ready = Readiness::WRITABLE;
        ready.set(Readiness::READABLE, !self.queue.borrow().is_empty());
        ready.set(Readiness::ERROR, self.common.error.get().is_some());
        ready
    }

    fn release(&self) {
        self.ports.borrow_mut().remove(&self.port.take());
        self.queue.take();
    }
}
