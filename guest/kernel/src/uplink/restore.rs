//! After a snapshot was restored: the host's sockets are gone, the guest's memory still has their ends.

use super::{Endpoint, Uplink};
use crate::errno::Result;
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::net::Command;

impl Uplink {
    /// Before a capture: memory that is only kept warm is no part of a snapshot.
    pub fn drop_kept(&self) {
        self.buffers.drop_kept();
    }

    /// Make the host's sockets anew, from what memory says: listening sockets listen again on their addresses, bound ones and datagram sockets are bound again,
    /// everything with a connection gets ECONNRESET. The rings are the new virtual machine's, and empty. Called once, before any application code runs. Listening
    /// needs no exit: that an address is taken is told by an event, and is an error of the socket.
    ///
    /// # Errors
    /// Of the first socket that cannot be made again; the others are made.
    pub fn after_restore(self: &Rc<Self>) -> Result {
        let all: Vec<Rc<Endpoint>> = self.table.borrow().iter().flatten().cloned().collect();
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for endpoint in all {
            if endpoint.released.get() {
                gone.push(endpoint);
            } else if endpoint.backlog.get().is_some() {
                gone.extend(endpoint.drop_ahead());
                kept.push(endpoint);
            } else {
                kept.push(endpoint);
            }
        }
        for endpoint in &gone {
            endpoint.closed();
            self.forget(endpoint.handle());
        }
        // Before the first is reopened: its handle may be one that has just become free.
        kept.retain(|endpoint| self.endpoint(endpoint.handle()).is_some());
        let mut outcome = Ok(());
        for endpoint in &kept {
            outcome = outcome.and(self.reopen(endpoint));
        }
        outcome
    }

    fn reopen(&self, endpoint: &Rc<Endpoint>) -> Result {
        let kind = if endpoint.is_datagram() { 2 } else { 1 };
        self.submit(Command::Open, endpoint.handle(), [u64::from(endpoint.family), kind, 0]);
        let backlog = endpoint.backlog.get();
        let connected = backlog.is_none() && endpoint.connecting() != super::Connecting::Not;
        if connected && !endpoint.is_datagram() {
            endpoint.lose();
            return Ok(());
        }
        endpoint.begin_anew();
        let options = endpoint.options.borrow().clone();
        for (level, name, value) in options {
            endpoint.post_option(level, name.cast_unsigned(), &value);
        }
        if let Some(backlog) = backlog {
            return endpoint.listen_again(backlog);
        }
        let local = endpoint.local.borrow().clone();
        if !local.is_empty() {
            endpoint.bind(&local, true)?;
        }
        if connected {
            let peer = endpoint.peer_name().unwrap_or_default();
            endpoint.connect(&peer)?;
        }
        Ok(())
    }
}
