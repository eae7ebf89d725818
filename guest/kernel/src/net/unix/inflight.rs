//! Descriptors in messages (SCM_RIGHTS), and sockets that only such descriptors lead to.
//!
//! A socket whose last descriptor lies in a message in its own queue, or in a circle of such queues, cannot be reached any more. As on Linux
//! (net/unix/garbage.c) such circles are looked for: a socket is suspected if all references to its open file come from messages; suspects
//! that a message in the queue of somebody else leads to are cleared, with all that they lead to; the queues of the others are emptied.
//!
//! Dropping a message may close a socket, whose queue holds messages, and so on: [`InFlight::bury`] does that in a loop, not in depth.

use super::{Shared, UnixSocket};
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::net::{Caller, SocketFile, socket_as};
use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// With more passed sockets under way than this, every message that passes some looks for circles first (UNIX_INFLIGHT_SANE_USER and the like).
const SOCKETS_SANE: usize = 4096;

/// Descriptors in messages.
#[derive(Default)]
pub struct InFlight {
    /// How many each user has under way.
    by_user: RefCell<BTreeMap<u32, u64>>,
    /// Sockets that messages pass.
    sockets: RefCell<BTreeMap<u64, Weak<UnixSocket>>>,
    /// Sockets closed, and messages sent, since circles were looked for.
    since: Cell<usize>,
    /// Files to drop.
    doomed: RefCell<Vec<Rc<File>>>,
    digging: Cell<bool>,
}

/// The AF_UNIX socket that a file is.
fn socket_of(file: &File) -> Option<Rc<UnixSocket>> {
    socket_as(file.ops_as::<SocketFile>()?.socket().clone())
}

/// Descriptors in a message, counted.
pub(super) struct Rights {
    files: Vec<Rc<File>>,
    shared: Rc<Shared>,
    uid: u32,
}

impl Rights {
    /// Count `files` as under way; `None` if there are none.
    ///
    /// # Errors
    /// ETOOMANYREFS: the user has too many under way.
    pub(super) fn check(
        shared: &Rc<Shared>,
        caller: &Caller<'_>,
        files: Vec<Rc<File>>,
    ) -> Result<Option<Self>> {
        if files.is_empty() {
            return Ok(None);
        }
        let in_flight = &shared.in_flight;
        if in_flight.sockets.borrow().len() > SOCKETS_SANE {
            in_flight.closed(shared);
        }
        let uid = caller.credentials.uid;
        let count = in_flight.by_user.borrow().get(&uid).copied().unwrap_or(0);
        if count > caller.descriptors_max && !caller.credentials.is_privileged() {
            return Err(Errno::ETOOMANYREFS);
        }
        shared.env.check_space().map_err(|_| Errno::ETOOMANYREFS)?;
        *in_flight.by_user.borrow_mut().entry(uid).or_default() += files.len() as u64;
        for file in &files {
            if let Some(socket) = socket_of(file) {
                socket.passes.set(socket.passes.get() + 1);
                socket.file.replace(Rc::downgrade(file));
                in_flight.sockets.borrow_mut().insert(socket.id, Rc::downgrade(&socket));
            }
        }
        Ok(Some(Self { files, shared: shared.clone(), uid }))
    }

    /// The files, to look at.
    pub(super) fn copy(&self) -> Vec<Rc<File>> {
        self.files.clone()
    }

    /// The files; they are under way no more.
    pub(super) fn into_files(mut self) -> Vec<Rc<File>> {
        self.arrive()
    }

    fn arrive(&mut self) -> Vec<Rc<File>> {
        let files = core::mem::take(&mut self.files);
        let in_flight = &self.shared.in_flight;
        for socket in files.iter().filter_map(|file| socket_of(file)) {
            socket.passes.set(socket.passes.get().saturating_sub(1));
            if socket.passes.get() == 0 {
                in_flight.sockets.borrow_mut().remove(&socket.id);
            }
        }
        let mut by_user = in_flight.by_user.borrow_mut();
        let left = by_user.get(&self.uid).copied().unwrap_or(0).saturating_sub(files.len() as u64);
        if left == 0 {
            by_user.remove(&self.uid);
        } else {
            by_user.insert(self.uid, left);
        }
        files
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let files = self.arrive();
        self.shared.in_flight.bury(files);
    }
}

impl InFlight {
    /// Drop files whose end may make others end.
    fn bury(&self, files: Vec<Rc<File>>) {
        self.doomed.borrow_mut().extend(files);
        if self.digging.replace(true) {
            return;
        }
        loop {
            let Some(file) = self.doomed.borrow_mut().pop() else { break };
            drop(file);
        }
        self.digging.set(false);
    }

    /// A socket was closed. Circles are looked for when enough has happened that the search costs little per event.
    pub(super) fn closed(&self, shared: &Shared) {
        let flying = self.sockets.borrow().len();
        if flying == 0 || self.digging.get() {
            return;
        }
        self.since.set(self.since.get() + 1);
        if self.since.get() * 4 >= flying {
            self.since.set(0);
            self.collect(shared);
        }
    }

    /// How many sockets messages pass.
    #[cfg(test)]
    pub(crate) fn sockets(&self) -> usize {
        self.sockets.borrow().len()
    }

    /// Let the next end of a socket look for circles.
    #[cfg(test)]
    pub(super) fn hurry(&self) {
        self.since.set(usize::MAX / 8);
    }

    /// Find circles and empty their queues.
    fn collect(&self, shared: &Shared) {
        let flying: Vec<Rc<UnixSocket>> = self.sockets.borrow().values().filter_map(Weak::upgrade).collect();
        let mut suspects: BTreeMap<u64, (Rc<UnixSocket>, usize)> = flying
            .into_iter()
            .filter(|socket| socket.file.borrow().strong_count() == socket.passes.get())
            .map(|socket| (socket.id, (socket, 0)))
            .collect();
        // References that come from the suspects' own queues.
        let sources: Vec<Rc<UnixSocket>> = suspects.values().map(|(socket, _)| socket.clone()).collect();
        for source in &sources {
            for target in source.passed_sockets() {
                if let Some((_, inner)) = suspects.get_mut(&target.id) {
                    *inner += 1;
                }
            }
        }
        let mut reached: Vec<u64> = suspects
            .iter()
            .filter(|(_, (socket, inner))| *inner < socket.passes.get())
            .map(|(id, _)| *id)
            .collect();
        while let Some(id) = reached.pop() {
            if let Some((socket, _)) = suspects.remove(&id) {
                reached.extend(socket.passed_sockets().iter().map(|target| target.id));
            }
        }
        let mut lost = Vec::new();
        for (socket, _) in suspects.values() {
            lost.extend(socket.take_rights());
        }
        drop((sources, suspects));
        let _ = shared;
        drop(lost);
    }
}

impl UnixSocket {
    /// The queues that only this socket leads to: its own, and those of connections that it did not accept.
    fn queues(&self) -> Vec<Rc<Self>> {
        let mut queues: Vec<Rc<Self>> = self.pending.borrow().iter().cloned().collect();
        queues.extend(self.me.upgrade());
        queues
    }

    /// The sockets that messages in its queues pass, as often as they do.
    fn passed_sockets(&self) -> Vec<Rc<Self>> {
        let mut passed = Vec::new();
        for socket in self.queues() {
            let queue = socket.queue.borrow();
            let files =
                queue.iter().filter_map(|chunk| chunk.rights.as_ref()).flat_map(|rights| &rights.files);
            passed.extend(files.filter_map(|file| socket_of(file)));
        }
        passed
    }

    /// Take all descriptors out of its queues.
    fn take_rights(&self) -> Vec<Rights> {
        let mut taken = Vec::new();
        for socket in self.queues() {
            taken.extend(socket.queue.borrow_mut().iter_mut().filter_map(|chunk| chunk.rights.take()));
        }
        taken
    }
}
