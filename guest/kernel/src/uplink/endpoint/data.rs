//! Receiving and sending: bytes and datagrams between the application's memory and the buffers that the VMM fills and sends.

use super::super::buffers::Buffer;
use super::super::inbox::COPY_BYTES;
use super::address::{is_loopback, port_of, trimmed};
use super::{Endpoint, Outgoing, PROVIDE_MAX};
use crate::errno::{Errno, Result};
use crate::mem::user::{Sink, Source};
use alloc::vec::Vec;
use seuss_abi::net::{
    ADDRESS_BYTES, Command, DATAGRAM_ALIGN, DatagramHeader, PIECES_MAX, SEND_ADDRESSED, SEND_TELL, Submission,
};

const DATAGRAM_HEADER: usize = size_of::<DatagramHeader>();

impl Endpoint {
    // ---- receiving

    /// Let the VMM read ahead, as far as that is wanted.
    pub fn want(&self) {
        if self.over.get() || self.ended.get() || self.released.get() {
            return;
        }
        let (room, unread, parts) = {
            let inbox = self.inbox.borrow();
            (inbox.room(), inbox.unread(), inbox.parts())
        };
        if room < self.provide.get() / 2 + 1 && unread + room < self.receive_max.get() && parts < PIECES_MAX {
            self.provide_bytes(self.provide.get());
        }
    }

    pub(super) fn provide_bytes(&self, bytes: usize) {
        let buffers = &self.uplink.buffers;
        let buffer = if bytes > PROVIDE_MAX { buffers.take_large(bytes) } else { buffers.take(bytes) };
        let Some(buffer) = buffer else { return };
        let args = [buffer.gpa(), buffer.len() as u64, 0];
        self.inbox.borrow_mut().provide(buffer, 0);
        self.uplink.submit(Command::Provide, self.handle, args);
    }

    /// Copy received bytes of a stream to `sink`, and take them unless `peeks`.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read(&self, sink: &mut dyn Sink, peeks: bool) -> Result<usize> {
        let limit = self.unread();
        let done = self.copy(0, limit, sink)?;
        if !peeks {
            self.inbox.borrow_mut().consume(&self.uplink.buffers, done);
            self.want();
        }
        Ok(done)
    }

    /// Copy `limit` bytes from `skip` on, as many as the sink takes.
    fn copy(&self, skip: usize, limit: usize, sink: &mut dyn Sink) -> Result<usize> {
        let mut bytes = [0; COPY_BYTES];
        let mut done = 0;
        while done < limit && sink.remaining() > 0 {
            let want = (limit - done).min(sink.remaining()).min(COPY_BYTES);
            let got = self.inbox.borrow().peek(&self.uplink.buffers, skip + done, &mut bytes[..want]);
            if got == 0 {
                break;
            }
            match sink.put(&bytes[..got]) {
                Ok(put) => {
                    done += put;
                    if put < got {
                        break;
                    }
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Length and sender of the datagram that is next.
    #[must_use]
    pub fn next_datagram(&self) -> Option<(usize, Vec<u8>)> {
        let mut header = [0; DATAGRAM_HEADER];
        let got = self.inbox.borrow().peek(&self.uplink.buffers, 0, &mut header);
        if got < DATAGRAM_HEADER {
            return None;
        }
        let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        Some((len, trimmed(&header[8..])))
    }

    /// Copy the next datagram to `sink` (what does not fit is lost), and take it unless `peeks`. Returns how many bytes were copied.
    ///
    /// # Errors
    /// EFAULT; the datagram stays.
    pub fn read_datagram(&self, len: usize, sink: &mut dyn Sink, peeks: bool) -> Result<usize> {
        let done = self.copy(DATAGRAM_HEADER, len, sink)?;
        if !peeks {
            let whole = (DATAGRAM_HEADER + len).next_multiple_of(DATAGRAM_ALIGN);
            self.inbox.borrow_mut().consume(&self.uplink.buffers, whole);
            self.want();
        }
        Ok(done)
    }

    // ---- sending

    /// Take bytes of a stream from `source`; returns how many, 0 = there is no room now.
    ///
    /// # Errors
    /// EFAULT; ENOBUFS: no memory, and nothing under way whose end would bring some.
    pub fn write(&self, source: &mut dyn Source) -> Result<usize> {
        let mut done = 0;
        while source.remaining() > 0 {
            let room = self.send_max.get().saturating_sub(self.in_flight.get());
            if room == 0 {
                break;
            }
            let added = self.append(source, room);
            let added = if added == Ok(0) { self.write_piece(source, room) } else { added };
            match added {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Fill `buffer` from `at` on.
    fn fill(&self, gpa: u64, limit: usize, source: &mut dyn Source) -> Result<usize> {
        let mut bytes = [0; COPY_BYTES];
        let mut done = 0;
        while done < limit {
            let want = (limit - done).min(source.remaining()).min(COPY_BYTES);
            if want == 0 {
                break;
            }
            match source.take(&mut bytes[..want]) {
                Ok(0) => break,
                Ok(got) => {
                    self.uplink.buffers.frames().write(gpa + done as u64, &bytes[..got]);
                    done += got;
                }
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn tell(&self, in_flight: usize) -> u64 {
        let many = self.outbox.borrow().len() >= PIECES_MAX / 2;
        if in_flight > self.send_max.get() / 2 || many { SEND_TELL } else { 0 }
    }

    /// Add to the last piece, if the VMM has not taken it.
    fn append(&self, source: &mut dyn Source, room: usize) -> Result<usize> {
        let Some((position, flags)) = self.last_send.get() else { return Ok(0) };
        if !self.uplink.is_waiting(position) {
            self.last_send.set(None);
            return Ok(0);
        }
        let Some((gpa, used, free)) = self
            .outbox
            .borrow()
            .back()
            .map(|last| (last.buffer.gpa(), last.used, last.buffer.len() - last.used))
        else {
            return Ok(0);
        };
        let added = self.fill(gpa + used as u64, free.min(room), source)?;
        if added > 0 {
            if let Some(last) = self.outbox.borrow_mut().back_mut() {
                last.used += added;
            }
            self.in_flight.set(self.in_flight.get() + added);
            let args = [gpa, (used + added) as u64, flags | self.tell(self.in_flight.get())];
            let entry = Submission { command: Command::Send as u32, handle: self.handle, args };
            self.uplink.amend(position, &entry);
        }
        Ok(added)
    }

    fn write_piece(&self, source: &mut dyn Source, room: usize) -> Result<usize> {
        if self.outbox.borrow().len() >= PIECES_MAX {
            return Ok(0);
        }
        let want = source.remaining().min(room);
        let Some(buffer) = self.uplink.buffers.take(want) else {
            return if self.in_flight.get() == 0 { Err(Errno::ENOBUFS) } else { Ok(0) };
        };
        let used = match self.fill(buffer.gpa(), buffer.len().min(room), source) {
            Ok(used) if used > 0 => used,
            other => {
                self.uplink.buffers.give(buffer);
                return other;
            }
        };
        self.in_flight.set(self.in_flight.get() + used);
        let flags = self.tell(self.in_flight.get());
        self.submit_send(buffer, used, flags);
        Ok(used)
    }

    fn submit_send(&self, buffer: Buffer, used: usize, flags: u64) {
        let gpa = buffer.gpa();
        self.outbox.borrow_mut().push_back(Outgoing { buffer, used, sent: 0 });
        let position = self.uplink.submit(Command::Send, self.handle, [gpa, used as u64, flags]);
        self.last_send.set(if self.datagram { None } else { Some((position, flags)) });
        if self.neighbour.get() {
            self.uplink.set_urgent();
        }
    }

    /// Send a datagram, to `destination` if that is not empty. Returns whether there was room.
    ///
    /// # Errors
    /// EFAULT, ENOBUFS.
    pub fn write_datagram(&self, destination: &[u8], source: &mut dyn Source) -> Result<bool> {
        let len = source.remaining();
        let head = if destination.is_empty() { 0 } else { ADDRESS_BYTES };
        let full = self.in_flight.get() > 0 && self.in_flight.get() + head + len > self.send_max.get();
        if full || self.outbox.borrow().len() >= PIECES_MAX {
            return Ok(false);
        }
        let buffers = &self.uplink.buffers;
        // A piece is never empty: an empty datagram without destination gets the peer's.
        let peer = self.peer.borrow();
        let destination = if head + len == 0 { &peer[..] } else { destination };
        let head = if destination.is_empty() { 0 } else { ADDRESS_BYTES };
        let whole = head + len;
        let buffer = if whole > PROVIDE_MAX { buffers.take_large(whole) } else { buffers.take(whole) };
        let Some(buffer) = buffer.filter(|buffer| buffer.len() >= whole) else { return Err(Errno::ENOBUFS) };
        if head > 0 {
            let mut address = [0; ADDRESS_BYTES];
            let count = destination.len().min(ADDRESS_BYTES);
            address[..count].copy_from_slice(&destination[..count]);
            buffers.frames().write(buffer.gpa(), &address);
        }
        match self.fill(buffer.gpa() + head as u64, len, source) {
            Ok(got) if got == len => {}
            other => {
                buffers.give(buffer);
                return other.and(Err(Errno::EFAULT));
            }
        }
        self.in_flight.set(self.in_flight.get() + whole);
        let flags = self.tell(self.in_flight.get()) | if head > 0 { SEND_ADDRESSED } else { 0 };
        if is_loopback(destination) && self.uplink.has_port(port_of(destination)) {
            self.neighbour.set(true);
        }
        self.submit_send(buffer, whole, flags);
        Ok(true)
    }
}
