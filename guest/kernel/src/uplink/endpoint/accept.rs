//! Listening: connections that are prepared for the VMM to accept into, and those that wait. What becomes of an end after a restore.

use super::super::buffers::Buffer;
use super::address::{padded, trimmed};
use super::{Connecting, Endpoint, PAGE};
use crate::errno::{Errno, Result};
use crate::wait::Readiness;
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::net::{ADDRESS_BYTES, AcceptHeader, Command};

/// Connections that a listening socket prepares at most.
const AHEAD_MAX: usize = 128;
const ACCEPT_HEADER: usize = size_of::<AcceptHeader>();

impl Endpoint {
    /// Let the VMM accept connections ahead.
    pub(super) fn prepare(&self) {
        let Some(backlog) = self.backlog.get().filter(|_| !self.released.get()) else { return };
        let wanted = self.ahead_max.get().min(backlog as usize + 1);
        while self.ahead.borrow().len() < wanted {
            let Some(buffer) = self.uplink.buffers.take(PAGE) else { return };
            if self.prepare_with(buffer).is_err() {
                return;
            }
        }
    }

    /// Prepare one connection in `buffer`.
    fn prepare_with(&self, buffer: Buffer) -> Result {
        let handle = match self.uplink.allocate() {
            Ok(handle) => handle,
            Err(errno) => {
                self.uplink.buffers.give(buffer);
                return Err(errno);
            }
        };
        let args = [buffer.gpa(), buffer.len() as u64, u64::from(handle)];
        let prepared = Self::new(&self.uplink, handle, self.family, false);
        prepared.inbox.borrow_mut().provide(buffer, 0);
        self.uplink.install(&prepared);
        self.ahead.borrow_mut().push_back(prepared);
        self.uplink.submit(Command::Accept, self.handle, args);
        Ok(())
    }

    pub(super) fn accept_event(&self) {
        let Some(connection) = self.ahead.borrow_mut().pop_front() else { return };
        let mut header = [0; ACCEPT_HEADER];
        {
            let mut inbox = connection.inbox.borrow_mut();
            inbox.received(ACCEPT_HEADER);
            inbox.peek(&self.uplink.buffers, 0, &mut header);
            inbox.consume(&self.uplink.buffers, ACCEPT_HEADER);
        }
        *connection.local.borrow_mut() = trimmed(&header[..ADDRESS_BYTES]);
        *connection.peer.borrow_mut() = trimmed(&header[ADDRESS_BYTES..]);
        connection.connecting.set(Connecting::Done);
        connection.incoming.set(true);
        connection.send_max.set(self.send_max.get());
        connection.receive_max.set(self.receive_max.get());
        connection.find_neighbour();
        if self.released.get() {
            connection.close(true);
            return;
        }
        self.accepted.borrow_mut().push_back(connection);
        if self.ahead.borrow().is_empty() {
            self.ahead_max.set((self.ahead_max.get() * 2).min(AHEAD_MAX));
        }
        self.prepare();
        self.changed(Readiness::READABLE);
    }

    /// The oldest connection that waits.
    #[must_use]
    pub fn accept(&self) -> Option<Rc<Self>> {
        self.accepted.borrow_mut().pop_front()
    }

    /// After a restore: listen again, without waiting for the answer. The address goes where the first connection's will be.
    pub(in crate::uplink) fn listen_again(&self, backlog: u32) -> Result {
        let buffer = self.uplink.buffers.take(PAGE).ok_or(Errno::ENOBUFS)?;
        let (address, len) = padded(&self.local.borrow());
        self.uplink.buffers.frames().write(buffer.gpa(), &address);
        self.uplink.submit(Command::Listen, self.handle, [buffer.gpa(), len, u64::from(backlog)]);
        let outcome = self.prepare_with(buffer);
        self.prepare();
        outcome
    }

    /// After a restore: the connection is lost.
    pub(in crate::uplink) fn lose(&self) {
        if self.connecting.get() != Connecting::Not {
            self.error.set(Some(Errno::ECONNRESET));
            self.connecting.set(Connecting::Done);
        }
        self.end_of_connection();
        self.outbox.borrow_mut().drain(..).for_each(|outgoing| self.uplink.buffers.give(outgoing.buffer));
        self.in_flight.set(0);
        self.last_send.set(None);
        self.changed(Readiness::all());
    }

    /// After a restore: nothing is prepared any more. Returns what was.
    pub(in crate::uplink) fn drop_ahead(&self) -> Vec<Rc<Self>> {
        let accepted: Vec<_> = self.accepted.borrow_mut().drain(..).collect();
        self.ahead.borrow_mut().drain(..).chain(accepted).collect()
    }

    /// After a restore: receiving begins anew.
    pub(in crate::uplink) fn begin_anew(&self) {
        self.inbox.borrow_mut().clear(&self.uplink.buffers);
        if self.datagram {
            self.want();
        }
    }
}
