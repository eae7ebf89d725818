//! The calls that answer at once: bind, listen, connect, names, options.

use rustix::io::Errno;
use seuss_abi::call::Op;
use seuss_abi::comm::{PAYLOAD_OFFSET, PAYLOAD_SIZE};
use seuss_abi::layout::COMM_GPA;
use seuss_abi::net::ADDRESS_BYTES;

use super::socket::{Phase, address_len};
use super::{NetPrivileges, Sockets, interfaces, options, sys};
use crate::events::EventRing;
use crate::memory::{Gpa, Memory};

const PAYLOAD: Gpa = Gpa(COMM_GPA + PAYLOAD_OFFSET);
/// Most connections that the host keeps for a listening socket, whatever the guest asks for.
const BACKLOG_MAX: u64 = 4096;
/// Longest option value that is read or written.
const OPTION_MAX: usize = 256;

fn result(outcome: rustix::io::Result<i64>) -> i64 {
    outcome.unwrap_or_else(|errno| -i64::from(errno.raw_os_error()))
}

fn payload(memory: &Memory, len: u64, most: usize) -> rustix::io::Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|&len| len <= most.min(PAYLOAD_SIZE)).ok_or(Errno::INVAL)?;
    let mut bytes = vec![0; len];
    memory.comm().read(PAYLOAD, &mut bytes).ok_or(Errno::FAULT)?;
    Ok(bytes)
}

fn answer(memory: &Memory, bytes: &[u8]) -> i64 {
    memory.comm().write(PAYLOAD, bytes);
    bytes.len() as i64
}

/// An address of the internet families. AF_UNSPEC is let through for connect(2), which it undoes.
fn address(memory: &Memory, len: u64) -> rustix::io::Result<Vec<u8>> {
    let bytes = payload(memory, len, ADDRESS_BYTES)?;
    let unspecified = bytes.get(..2) == Some(&[0, 0]);
    if bytes.len() < 2 || (!unspecified && address_len(&bytes) == 0) {
        return Err(Errno::AFNOSUPPORT);
    }
    Ok(bytes)
}

impl Sockets {
    /// Serve `op`, which is one of those of sockets.
    pub(crate) fn call(&mut self, op: Op, args: &[u64; 6], memory: &Memory, ring: &mut EventRing) -> i64 {
        let [handle, b, c, d, ..] = *args;
        if op == Op::Interfaces {
            return result(interfaces::list().map(|list| {
                let entry = size_of::<seuss_abi::net::Interface>();
                let count = list.len().min(PAYLOAD_SIZE / entry);
                for (at, interface) in list.iter().take(count).enumerate() {
                    memory.comm().store(PAYLOAD.plus((at * entry) as u64), *interface);
                }
                count as i64
            }));
        }
        if op == Op::Routes {
            return result(self.files.routes(PAYLOAD_SIZE).map(|text| answer(memory, text.as_bytes())));
        }
        let Ok(handle) = u32::try_from(handle) else { return result(Err(Errno::BADF)) };
        result(match op {
            Op::Bind => self.bind(handle, b, c != 0, memory),
            Op::Listen => self.listen(handle, b, memory, ring),
            Op::Connect => self.connect(handle, b, memory, ring),
            Op::Name => self.name(handle, b != 0, memory),
            Op::GetOption => self.get_option(handle, (b, c, d), memory),
            Op::SetOption => self.set_option(handle, (b, c, d), memory),
            _ => Err(Errno::NOSYS),
        })
    }

    fn bind(
        &mut self,
        handle: u32,
        len: u64,
        unprivileged: bool,
        memory: &Memory,
    ) -> rustix::io::Result<i64> {
        let address = address(memory, len)?;
        // The guest's word narrows what it may, never widens it.
        let privileges =
            NetPrivileges { bind_service: self.privileges.bind_service && !unprivileged, ..self.privileges };
        self.get(handle).ok_or(Errno::BADF)?.fd()?;
        if !privileges.may_bind(&address, &self.files) {
            return Err(Errno::ACCESS);
        }
        let fd = self.get(handle).ok_or(Errno::BADF)?.fd()?;
        sys::bind(fd, &address)?;
        let (bound, len) = sys::name(fd, false)?;
        Ok(answer(memory, &bound[..len]))
    }

    fn listen(
        &mut self,
        handle: u32,
        backlog: u64,
        memory: &Memory,
        ring: &mut EventRing,
    ) -> rustix::io::Result<i64> {
        let socket = self.get(handle).ok_or(Errno::BADF)?;
        rustix::net::listen(socket.fd()?, backlog.min(BACKLOG_MAX) as i32)?;
        socket.phase = Phase::Listening;
        socket.readable = true;
        self.watch(handle);
        self.accept(handle, memory, ring);
        Ok(0)
    }

    /// Bind and listen, for a submission.
    pub(super) fn listen_at(
        &mut self,
        handle: u32,
        address: &[u8],
        backlog: u64,
        memory: &Memory,
        ring: &mut EventRing,
    ) -> rustix::io::Result<()> {
        if address_len(address) == 0 {
            return Err(Errno::AFNOSUPPORT);
        }
        if !self.privileges.may_bind(address, &self.files) {
            return Err(Errno::ACCESS);
        }
        sys::bind(self.get(handle).ok_or(Errno::BADF)?.fd()?, address)?;
        self.listen(handle, backlog, memory, ring).map(drop)
    }

    fn connect(
        &mut self,
        handle: u32,
        len: u64,
        memory: &Memory,
        ring: &mut EventRing,
    ) -> rustix::io::Result<i64> {
        let address = address(memory, len)?;
        let socket = self.get(handle).ok_or(Errno::BADF)?;
        let connected = sys::connect(socket.fd()?, &address);
        if !socket.datagram {
            match connected {
                Ok(()) => socket.phase = Phase::Connected,
                Err(Errno::INPROGRESS) => socket.phase = Phase::Connecting,
                Err(_) => {}
            }
        }
        if connected.is_ok() || connected == Err(Errno::INPROGRESS) {
            let own = sys::name(socket.fd()?, false).map_or([0; ADDRESS_BYTES], |(address, _)| address);
            memory.comm().write(PAYLOAD, &own);
        }
        self.watch(handle);
        self.advance(handle, memory, ring);
        connected.map(|()| 0)
    }

    fn name(&mut self, handle: u32, peer: bool, memory: &Memory) -> rustix::io::Result<i64> {
        let (address, len) = sys::name(self.get(handle).ok_or(Errno::BADF)?.fd()?, peer)?;
        Ok(answer(memory, &address[..len]))
    }

    fn get_option(
        &mut self,
        handle: u32,
        (level, name, len): (u64, u64, u64),
        memory: &Memory,
    ) -> rustix::io::Result<i64> {
        let (level, name) = (level as i32, name as i32);
        let fd = self.get(handle).ok_or(Errno::BADF)?.fd()?;
        if !options::may_get(level, name) {
            return Err(Errno::NOPROTOOPT);
        }
        let mut value = vec![0; len.min(OPTION_MAX as u64) as usize];
        let len = sys::get_option(fd, level, name, &mut value)?;
        Ok(answer(memory, &value[..len]))
    }

    fn set_option(
        &mut self,
        handle: u32,
        (level, name, len): (u64, u64, u64),
        memory: &Memory,
    ) -> rustix::io::Result<i64> {
        let (level, name) = (level as i32, name as i32);
        let value = payload(memory, len, OPTION_MAX)?;
        let privileges = self.privileges;
        let fd = self.get(handle).ok_or(Errno::BADF)?.fd()?;
        options::set(fd, level, name, &value, privileges).map(|()| 0)
    }
}
