//! The way to the host's sockets: the submission ring's producer, the sockets' ends ([`Endpoint`]), and the memory that the VMM fills and sends.
//!
//! Owns [`Uplink`]. The contract is `seuss_abi::net`. Submissions wait in the ring until the guest exits anyway (it idles, or makes a host call), until the ring
//! is half full, or until the first of them is [`FLUSH_NS`] old at a system call: an exit costs tens of microseconds, so one should serve many
//! requests. What the VMM reads ahead is known here when its event has been served, at the latest when the application waits.
//!
//! A call that would fail with EAGAIN looks once more ([`Uplink::look`]) if something that this guest itself submitted may be the answer (both ends of a
//! connection live here), or if the last look is long ago.

pub mod buffers;
mod endpoint;
mod inbox;
mod listing;
mod restore;

#[cfg(test)]
mod tests;

pub use endpoint::{Connecting, Endpoint, Owner};
pub use inbox::COPY_BYTES;

use crate::errno::{Errno, Result};
use crate::machine::Machine;
use crate::mem::frames::Frames;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use buffers::Buffers;
use core::cell::{Cell, RefCell};
use seuss_abi::call::Op;
use seuss_abi::comm::PAYLOAD_SIZE;
use seuss_abi::event::{Event, Kind};
use seuss_abi::net::{Command, HANDLES_MAX, Interface, SUBMISSION_ENTRIES, Submission};

/// Submissions are flushed at the first system call after this time.
const FLUSH_NS: u64 = 1_000_000;
/// A call that finds nothing asks the VMM if the last exit is longer ago than this.
const LOOK_NS: u64 = 1_000_000;

/// The guest's end of everything about sockets.
pub struct Uplink {
    machine: Rc<dyn Machine>,
    buffers: Buffers,
    /// By handle.
    table: RefCell<Vec<Option<Rc<Endpoint>>>>,
    free: RefCell<Vec<u32>>,
    /// When the oldest submission in the ring was made.
    oldest_ns: Cell<u64>,
    /// A submission may be what somebody in this guest waits for.
    urgent: Cell<bool>,
    /// When the VMM last looked, as far as is known here.
    looked_ns: Cell<u64>,
    /// Events of others that came while this one looked.
    deferred: RefCell<VecDeque<Event>>,
    /// Ports of this guest's own sockets, and how many have each.
    ports: RefCell<BTreeMap<u16, u32>>,
    /// Whether the host has IPv6, once it is known.
    has_ipv6: Cell<Option<bool>>,
}

impl Uplink {
    /// No sockets.
    #[must_use]
    pub fn new(machine: &Rc<dyn Machine>, frames: &Frames) -> Rc<Self> {
        Rc::new(Self {
            machine: machine.clone(),
            buffers: Buffers::new(frames),
            table: RefCell::default(),
            free: RefCell::default(),
            oldest_ns: Cell::new(0),
            urgent: Cell::new(false),
            looked_ns: Cell::new(0),
            deferred: RefCell::default(),
            ports: RefCell::default(),
            has_ipv6: Cell::new(None),
        })
    }

    // ---- handles

    /// A free handle.
    ///
    /// # Errors
    /// ENFILE: as many sockets as the VMM keeps are in use.
    fn allocate(&self) -> Result<u32> {
        if let Some(handle) = self.free.borrow_mut().pop() {
            return Ok(handle);
        }
        let mut table = self.table.borrow_mut();
        let handle = u32::try_from(table.len()).ok().filter(|handle| *handle < HANDLES_MAX);
        let handle = handle.ok_or(Errno::ENFILE)?;
        table.push(None);
        Ok(handle)
    }

    fn endpoint(&self, handle: u32) -> Option<Rc<Endpoint>> {
        self.table.borrow().get(handle as usize).cloned().flatten()
    }

    fn install(&self, endpoint: &Rc<Endpoint>) {
        if let Some(slot) = self.table.borrow_mut().get_mut(endpoint.handle() as usize) {
            *slot = Some(endpoint.clone());
        }
    }

    /// The handle names nothing any more.
    fn forget(&self, handle: u32) {
        let gone = self.table.borrow_mut().get_mut(handle as usize).and_then(Option::take);
        if gone.is_some() {
            self.free.borrow_mut().push(handle);
        }
    }

    fn count_port(&self, port: u16, more: bool) {
        if port == 0 {
            return;
        }
        let mut ports = self.ports.borrow_mut();
        let count = ports.entry(port).or_default();
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            ports.remove(&port);
        }
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports.borrow().contains_key(&port)
    }

    /// A new host socket. That the host refuses it is told later, but for IPv6, which a host may lack.
    ///
    /// # Errors
    /// ENFILE; EAFNOSUPPORT.
    pub fn open(self: &Rc<Self>, family: u16, kind: u32, protocol: u32) -> Result<Rc<Endpoint>> {
        const INET6: u16 = 10;
        if family == INET6 && self.has_ipv6.get() == Some(false) {
            return Err(Errno::EAFNOSUPPORT);
        }
        // A handle is free when the VMM has taken the close of its socket.
        let handle = self.allocate().or_else(|_| {
            self.sync();
            self.allocate()
        })?;
        let endpoint = Endpoint::new(self, handle, family, kind != 1);
        self.install(&endpoint);
        self.submit(Command::Open, handle, [u64::from(family), u64::from(kind), u64::from(protocol)]);
        if family == INET6 && self.has_ipv6.get().is_none() {
            self.sync();
            let refused = endpoint.take_error() == Some(Errno::EAFNOSUPPORT);
            self.has_ipv6.set(Some(!refused));
            if refused {
                endpoint.close(false);
                return Err(Errno::EAFNOSUPPORT);
            }
        }
        Ok(endpoint)
    }

    /// The host's interfaces.
    ///
    /// # Errors
    /// What the VMM reports.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        const BYTES: usize = size_of::<Interface>();
        let mut payload = [0; 32 * BYTES];
        let count = self.call(Op::Interfaces, [0; 6], &mut payload)?;
        let word = |bytes: &[u8], at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let entries = payload.chunks_exact(BYTES).take(count as usize);
        Ok(entries
            .map(|bytes| {
                let mut interface = Interface::default();
                interface.name.copy_from_slice(&bytes[..16]);
                interface.index = word(bytes, 16);
                interface.flags = word(bytes, 20);
                interface.prefix = word(bytes, 24);
                interface.mtu = word(bytes, 28);
                interface.address.copy_from_slice(&bytes[32..64]);
                interface.hardware.copy_from_slice(&bytes[64..72]);
                interface
            })
            .collect())
    }

    /// The host's IPv4 routes, as lines of /proc/net/route.
    ///
    /// # Errors
    /// What the VMM reports.
    pub fn routes(&self) -> Result<Vec<u8>> {
        let mut payload = vec![0; PAYLOAD_SIZE];
        let len = self.call(Op::Routes, [0; 6], &mut payload)?;
        payload.truncate(len as usize);
        Ok(payload)
    }

    // ---- submissions and calls

    /// Submit; returns the entry's position in the ring.
    fn submit(&self, command: Command, handle: u32, args: [u64; 3]) -> u32 {
        let (mut head, tail) = self.machine.submissions();
        if head == tail {
            self.oldest_ns.set(self.machine.monotonic_ns());
        }
        if head.wrapping_sub(tail) as usize >= SUBMISSION_ENTRIES {
            // Its events stay in their ring: whoever submits may hold a borrow.
            self.machine.host_call(Op::Sync, [0; 6]);
            head = self.machine.submissions().0;
        }
        self.machine.put_submission(head, &Submission { command: command as u32, handle, args });
        head
    }

    /// Replace an entry, if the VMM has not taken it. Returns whether it could be.
    fn amend(&self, position: u32, entry: &Submission) -> bool {
        let waits = self.is_waiting(position);
        if waits {
            self.machine.amend_submission(position, entry);
        }
        waits
    }

    /// Whether the VMM has not yet taken the entry at `position`.
    fn is_waiting(&self, position: u32) -> bool {
        let (head, tail) = self.machine.submissions();
        position.wrapping_sub(tail) < head.wrapping_sub(tail)
    }

    /// What was submitted may be what others in this guest wait for.
    fn set_urgent(&self) {
        self.urgent.set(true);
    }

    /// Make a host call with a payload.
    ///
    /// # Errors
    /// What the VMM reports.
    fn call(&self, op: Op, args: [u64; 6], payload: &mut [u8]) -> Result<u64> {
        let result = self.machine.host_call_with(op, args, payload);
        self.serve();
        u64::try_from(result).map_err(|_| Errno(u16::try_from(-result).unwrap_or(Errno::EIO.0)))
    }

    /// Exit, so that the VMM takes what was submitted and tells what has come.
    pub fn sync(&self) {
        self.machine.host_call(Op::Sync, [0; 6]);
        self.looked();
        self.serve();
    }

    /// The VMM has just looked.
    pub fn looked(&self) {
        self.urgent.set(false);
        self.looked_ns.set(self.machine.monotonic_ns());
    }

    /// Before readiness is told: let what this guest sent to itself arrive.
    pub fn settle(&self) {
        if self.urgent.get() {
            self.sync();
        }
    }

    /// A call is about to return EAGAIN: is there something after all? Returns whether it is worth trying again.
    #[must_use]
    pub fn look(&self) -> bool {
        if self.table.borrow().is_empty() {
            return false;
        }
        if !self.urgent.get() && self.machine.monotonic_ns().wrapping_sub(self.looked_ns.get()) < LOOK_NS {
            return false;
        }
        self.sync();
        true
    }

    /// Flush what has waited for long, or is much.
    pub fn flush_if_due(&self) {
        let (head, tail) = self.machine.submissions();
        let waiting = head.wrapping_sub(tail) as usize;
        if waiting == 0 {
            return;
        }
        let due = waiting >= SUBMISSION_ENTRIES / 2
            || self.machine.monotonic_ns().wrapping_sub(self.oldest_ns.get()) >= FLUSH_NS;
        if due {
            self.sync();
        }
    }

    // ---- events

    /// Serve the events of sockets, keep the others.
    fn serve(&self) {
        while let Some(event) = self.machine.next_event() {
            if !self.event(event) {
                self.deferred.borrow_mut().push_back(event);
            }
        }
    }

    /// An event that came while this one looked, and is another's.
    pub fn take_deferred(&self) -> Option<Event> {
        self.deferred.borrow_mut().pop_front()
    }

    /// Whether [`Self::take_deferred`] has something.
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        !self.deferred.borrow().is_empty()
    }

    /// Whether somebody waits for connections.
    #[must_use]
    pub fn has_awaited_listener(&self) -> bool {
        self.table.borrow().iter().flatten().any(|endpoint| endpoint.is_listening() && endpoint.is_awaited())
    }

    /// Whether connections of the host's are open that others have opened, and that this guest has.
    #[must_use]
    pub fn open_connections(&self) -> (bool, bool) {
        let table = self.table.borrow();
        let mut open = table.iter().flatten().filter_map(|endpoint| endpoint.open_connection());
        open.by_ref().fold((false, false), |(incoming, outgoing), is_incoming| {
            (incoming || is_incoming, outgoing || !is_incoming)
        })
    }

    /// Serve an event. Returns whether it was one of a socket.
    pub fn event(&self, event: Event) -> bool {
        let Event { kind, a: handle, b, c } = event;
        let Some(kind) = Kind::from_raw(kind) else { return false };
        match kind {
            Kind::Ready | Kind::Signal | Kind::Exec | Kind::WindowSize => return false,
            Kind::Closed => {
                if let Some(endpoint) = self.endpoint(handle) {
                    endpoint.closed();
                    self.forget(handle);
                }
            }
            _ => {
                if let Some(endpoint) = self.endpoint(handle) {
                    endpoint.event(kind, b, c);
                }
            }
        }
        true
    }
}

impl core::fmt::Debug for Uplink {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Uplink").field("buffers", &self.buffers).finish_non_exhaustive()
    }
}
