//! Events: what the VMM tells the guest.
//!
//! A single-producer, single-consumer ring. `head` counts entries produced (VMM), `tail` entries consumed (guest), both
//! free-running; the VMM never produces more than [`RING_ENTRIES`] beyond `tail`, and keeps what does not fit.

/// Entries in the ring, a power of two.
pub const RING_ENTRIES: usize = 512;

/// The event ring.
#[repr(C)]
pub struct Ring {
    /// Entries produced by the VMM (free-running).
    pub head: u32,
    /// Entries consumed by the guest (free-running).
    pub tail: u32,
    /// Padding to the entries' alignment.
    pub reserved: [u32; 6],
    /// Entry `n` lies at index `n % RING_ENTRIES`.
    pub entries: [Event; RING_ENTRIES],
}

/// One event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// A [`Kind`].
    pub kind: u32,
    /// See [`Kind`].
    pub a: u32,
    /// See [`Kind`].
    pub b: u64,
    /// See [`Kind`].
    pub c: u64,
}

/// Kinds of events.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Handle `a` changed: `b` holds [`READABLE`], [`WRITABLE`], [`HANGUP`], [`ERROR`] bits. Edge-triggered, as EPOLLET.
    Ready = 1,
    /// Send signal `b` to the process of token `a` (0 = the first process); `c` = 1: to every process of the guest.
    Signal = 2,
    /// Start another process: its [`crate::spec::ProcessSpec`] is in the mailbox (`b` bytes from its start), its token is `a`. The guest answers with
    /// [`crate::call::Op::Started`]; the VMM leaves the mailbox alone until then.
    Exec = 3,
    /// Terminal of token `a` now has `b` rows and `c` columns.
    WindowSize = 4,
    /// Socket `a` received `b` bytes into the memory that it was provided with, in order (headers of datagrams and padding included).
    Received = 5,
    /// The peer of socket `a` will send nothing more.
    EndOfStream = 6,
    /// Socket `a` has errno `b`. `c` = 1: the connection is over, nothing will be received or sent any more; 0: a passing error.
    Failed = 7,
    /// The host has taken (or, after [`Self::Failed`], thrown away) `b` bytes more of what socket `a` sends, destinations of datagrams included.
    Sent = 8,
    /// Listening socket `a` has a connection: the next one of those prepared with [`crate::net::Command::Accept`].
    Accepted = 9,
    /// The connecting of socket `a` has ended, with errno `b` (0 = connected).
    Connected = 10,
    /// Socket `a` is closed: the last event of this handle.
    Closed = 11,
    /// The next datagram of socket `a` needs `b` bytes of memory, more than is provided.
    Starved = 12,
    /// Take a snapshot of level `a` ([`crate::snapshot`]) as soon as possible: [`crate::call::Op::Capture`] follows. `b`: [`crate::snapshot::CAUTIOUS`] and what goes with
    /// it, [`crate::call::Op::PutOff`] may follow instead then; `c`: nanoseconds for which the program must have settled.
    Snapshot = 32,
}

impl Kind {
    /// The kind with number `raw`.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Ready,
            2 => Self::Signal,
            3 => Self::Exec,
            4 => Self::WindowSize,
            5 => Self::Received,
            6 => Self::EndOfStream,
            7 => Self::Failed,
            8 => Self::Sent,
            9 => Self::Accepted,
            10 => Self::Connected,
            11 => Self::Closed,
            12 => Self::Starved,
            32 => Self::Snapshot,
            _ => return None,
        })
    }
}

/// Data can be read, or end of file was reached.
pub const READABLE: u64 = 1;
/// Data can be written.
pub const WRITABLE: u64 = 2;
/// The peer is gone.
pub const HANGUP: u64 = 4;
/// An error is pending.
pub const ERROR: u64 = 8;
