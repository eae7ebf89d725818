//! Calls that the host answers at once, options, shutdown and close.

use super::address::{host_of, is_loopback, padded, port_of, trimmed};
use super::{Connecting, Endpoint, PAGE, RECEIVE_MAX, SEND_MAX};
use crate::errno::{Errno, Result};
use crate::net::options::name::{self, SOL_SOCKET};
use alloc::vec::Vec;
use seuss_abi::call::Op;
use seuss_abi::net::{ADDRESS_BYTES, Command};

impl Endpoint {
    /// bind(2); only a `privileged` caller gets ports that need privileges.
    ///
    /// # Errors
    /// The host's.
    pub fn bind(&self, address: &[u8], privileged: bool) -> Result {
        let (mut payload, len) = padded(address);
        let args = [u64::from(self.handle), len, u64::from(!privileged), 0, 0, 0];
        let len = self.uplink.call(Op::Bind, args, &mut payload)?;
        self.set_local(&payload[..(len as usize).min(ADDRESS_BYTES)]);
        if self.datagram {
            self.want();
        }
        Ok(())
    }

    /// listen(2).
    ///
    /// # Errors
    /// The host's.
    pub fn listen(&self, backlog: u32) -> Result {
        self.uplink.call(Op::Listen, [u64::from(self.handle), u64::from(backlog), 0, 0, 0, 0], &mut [])?;
        self.backlog.set(Some(backlog));
        self.prepare();
        Ok(())
    }

    /// connect(2): has it been established (true), or is it under way?
    ///
    /// # Errors
    /// The host's.
    pub fn connect(&self, address: &[u8]) -> Result<bool> {
        let (mut payload, len) = padded(address);
        let result = self.uplink.call(Op::Connect, [u64::from(self.handle), len, 0, 0, 0, 0], &mut payload);
        let established = match result {
            Ok(_) => true,
            Err(Errno::EINPROGRESS) => false,
            Err(errno) => return Err(errno),
        };
        let dissolved = address.get(..2) == Some(&[0, 0]);
        self.set_local(&trimmed(&payload));
        *self.peer.borrow_mut() = if dissolved { Vec::new() } else { trimmed(&padded(address).0) };
        self.find_neighbour();
        if self.datagram {
            self.connecting.set(if dissolved { Connecting::Not } else { Connecting::Done });
            self.want();
            return Ok(true);
        }
        self.over.set(false);
        self.ended.set(false);
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
        // The event may have come with the call.
        if established {
            self.established();
        } else if self.connecting.get() != Connecting::Done && self.error.get().is_none() {
            self.connecting.set(Connecting::UnderWay);
        }
        Ok(self.connecting.get() == Connecting::Done)
    }

    /// getsockname(2).
    ///
    /// # Errors
    /// The host's.
    pub fn local_name(&self) -> Result<Vec<u8>> {
        let known = self.local.borrow().clone();
        if known.get(2..4).is_some_and(|port| port != [0, 0]) {
            return Ok(known);
        }
        let mut payload = [0; ADDRESS_BYTES];
        let len = self.uplink.call(Op::Name, [u64::from(self.handle), 0, 0, 0, 0, 0], &mut payload)?;
        let name = payload[..(len as usize).min(ADDRESS_BYTES)].to_vec();
        self.set_local(&name);
        Ok(name)
    }

    /// getpeername(2).
    #[must_use]
    pub fn peer_name(&self) -> Option<Vec<u8>> {
        Some(self.peer.borrow().clone()).filter(|peer| !peer.is_empty())
    }

    /// getsockopt(2) of the host's socket.
    ///
    /// # Errors
    /// The host's.
    pub fn get_option(&self, level: i32, name: u32, room: usize) -> Result<Vec<u8>> {
        let mut payload = [0; 256];
        let room = room.min(payload.len());
        let args = [u64::from(self.handle), level as u64, u64::from(name), room as u64, 0, 0];
        let len = self.uplink.call(Op::GetOption, args, &mut payload)?;
        Ok(payload[..(len as usize).min(room)].to_vec())
    }

    /// setsockopt(2) of the host's socket, with its answer.
    ///
    /// # Errors
    /// The host's.
    pub fn set_option(&self, level: i32, name: u32, value: &[u8]) -> Result {
        let mut payload = [0; 256];
        let len = value.len().min(payload.len());
        payload[..len].copy_from_slice(&value[..len]);
        let args = [u64::from(self.handle), level as u64, u64::from(name), len as u64, 0, 0];
        self.uplink.call(Op::SetOption, args, &mut payload)?;
        self.remember_option(level, name, &value[..len]);
        Ok(())
    }

    /// setsockopt(2) of the host's socket, for values that were checked: without waiting.
    pub fn post_option(&self, level: i32, name: u32, value: &[u8]) {
        let mut word = [0; 8];
        let len = value.len().min(8);
        word[..len].copy_from_slice(&value[..len]);
        let which = u64::from(level.cast_unsigned()) | u64::from(name) << 32;
        self.uplink.submit(Command::SetOption, self.handle, [which, u64::from_le_bytes(word), len as u64]);
        self.remember_option(level, name, &value[..len]);
    }

    fn remember_option(&self, level: i32, name: u32, value: &[u8]) {
        let number = value.first_chunk().map_or(0, |number| i32::from_le_bytes(*number));
        let within = |max: usize| usize::try_from(number).unwrap_or(0).clamp(PAGE, max);
        match (level, name) {
            (SOL_SOCKET, name::SNDBUF) => self.send_max.set(within(SEND_MAX)),
            (SOL_SOCKET, name::RCVBUF) if !self.datagram => self.receive_max.set(within(RECEIVE_MAX)),
            _ => {}
        }
        let name = name.cast_signed();
        let mut options = self.options.borrow_mut();
        options.retain(|option| (option.0, option.1) != (level, name));
        options.push((level, name, value.to_vec()));
    }

    /// shutdown(2): 0 = receiving, 1 = sending, 2 = both.
    pub fn shut_down(&self, how: u64) {
        self.last_send.set(None);
        self.uplink.submit(Command::Shutdown, self.handle, [how, 0, 0]);
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
    }

    /// close(2): what was written is delivered, unless `abort`. As on Linux, unread bytes make it an abort.
    pub fn close(&self, abort: bool) {
        if self.released.replace(true) {
            return;
        }
        *self.owner.borrow_mut() = None;
        let unread = !self.datagram && self.unread() > 0;
        let waiting: Vec<_> = self.accepted.borrow_mut().drain(..).collect();
        waiting.iter().for_each(|connection| connection.close(true));
        let abort = abort || unread;
        self.uplink.submit(Command::Close, self.handle, [u64::from(abort), 0, 0]);
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
    }

    fn set_local(&self, address: &[u8]) {
        *self.local.borrow_mut() = address.to_vec();
        let port = port_of(address);
        let old = self.port.replace(port);
        self.uplink.count_port(old, false);
        self.uplink.count_port(port, true);
    }

    /// Find out whether the other end may be in this guest: then nobody has to wait for what the host does in between.
    pub(super) fn find_neighbour(&self) {
        let (local, peer) = (self.local.borrow(), self.peer.borrow());
        let here = is_loopback(&peer) || (!peer.is_empty() && host_of(&peer) == host_of(&local));
        self.neighbour.set(here && self.uplink.has_port(port_of(&peer)));
    }
}
