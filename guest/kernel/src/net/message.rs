//! What sendmsg(2) and recvmsg(2) move beside bytes.

use crate::fs::File;
use crate::mem::user::{Sink, Source};
use alloc::rc::Rc;
use alloc::vec::Vec;

bitflags::bitflags! {
    /// MSG_ flags (linux/socket.h). Bits that have no name here are kept: Linux ignores those that it does not know.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MessageFlags: u32 {
        /// Out-of-band data.
        const OOB = 0x1;
        /// Leave the data in the queue.
        const PEEK = 0x2;
        /// No gateway.
        const DONTROUTE = 0x4;
        /// Result: control data did not fit.
        const CTRUNC = 0x8;
        /// Return the full length. Result: the record did not fit.
        const TRUNC = 0x20;
        /// Do not wait.
        const DONTWAIT = 0x40;
        /// End of a record.
        const EOR = 0x80;
        /// Wait for all that was asked for.
        const WAITALL = 0x100;
        /// Queued errors instead of data.
        const ERRQUEUE = 0x2000;
        /// No SIGPIPE.
        const NOSIGNAL = 0x4000;
        /// More follows at once.
        const MORE = 0x8000;
        /// recvmmsg(2): wait for the first message only.
        const WAITFORONE = 0x1_0000;
        /// Passed descriptors get FD_CLOEXEC.
        const CMSG_CLOEXEC = 0x4000_0000;
        const _ = !0;
    }
}

/// struct ucred: who sent something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ucred {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Ucred {
    /// "Nobody known": what SO_PEERCRED tells where there is no peer.
    pub const NOBODY: Self = Self { pid: 0, uid: u32::MAX, gid: u32::MAX };
    /// Bytes of struct ucred.
    pub const BYTES: usize = 12;

    /// As the application sees it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.pid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.uid.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.gid.to_le_bytes());
        bytes
    }

    /// As the application wrote it.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { pid: word(0), uid: word(4), gid: word(8) }
    }
}

/// A control message (cmsg(3)).
#[derive(Clone, Debug)]
pub enum Control {
    /// SCM_RIGHTS.
    Rights(Vec<Rc<File>>),
    /// SCM_CREDENTIALS.
    Credentials(Ucred),
    /// Any other.
    Raw {
        /// Level.
        level: i32,
        /// Type.
        kind: i32,
        /// Data.
        data: Vec<u8>,
    },
}

/// A message to send.
pub struct Outgoing<'a> {
    /// The bytes.
    pub source: &'a mut dyn Source,
    /// Where to; empty = the socket's peer.
    pub destination: &'a [u8],
    /// Flags.
    pub flags: MessageFlags,
    /// Descriptors to pass (families that pass them: AF_UNIX). Taken by the first bytes of a stream.
    pub rights: Vec<Rc<File>>,
    /// Credentials that the sender states; the layer has checked them.
    pub credentials: Option<Ucred>,
    /// Other control messages.
    pub control: Vec<Control>,
    /// Bytes of this call that were sent before.
    pub done: usize,
}

impl<'a> Outgoing<'a> {
    /// Bytes alone.
    #[must_use]
    pub fn plain(source: &'a mut dyn Source, flags: MessageFlags) -> Self {
        Self {
            source,
            destination: &[],
            flags,
            rights: Vec::new(),
            credentials: None,
            control: Vec::new(),
            done: 0,
        }
    }
}

/// A message to receive.
pub struct Incoming<'a> {
    /// Where the bytes go.
    pub sink: &'a mut dyn Sink,
    /// Flags of the call.
    pub flags: MessageFlags,
    /// Bytes of this call that were received before (MSG_WAITALL).
    pub done: usize,
    /// Result: who sent it, where that is told (not for connected streams of AF_INET).
    pub name: Option<Vec<u8>>,
    /// Result: control messages, in the order in which they are stored.
    pub control: Vec<Control>,
    /// Result: TRUNC, EOR, OOB, ...
    pub outcome: MessageFlags,
    /// Result: the call ends here, whatever MSG_WAITALL says.
    pub complete: bool,
}

impl<'a> Incoming<'a> {
    /// Into `sink`.
    #[must_use]
    pub fn new(sink: &'a mut dyn Sink, flags: MessageFlags) -> Self {
        Self {
            sink,
            flags,
            done: 0,
            name: None,
            control: Vec::new(),
            outcome: MessageFlags::empty(),
            complete: false,
        }
    }

    /// Whether the data stays in the queue.
    #[must_use]
    pub fn peeks(&self) -> bool {
        self.flags.contains(MessageFlags::PEEK)
    }
}
