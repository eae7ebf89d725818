//! Sockets: what the guest submits, and what the VMM answers.
//!
//! The host's kernel speaks TCP and UDP; the guest keeps everything else of a socket in its own memory. A host socket is named by a
//! *handle* that the guest chooses, below [`HANDLES_MAX`]; it is free again when [`crate::event::Kind::Closed`] came.
//!
//! **Submissions** go through a single-producer, single-consumer ring and need no VM exit: the VMM empties it at every doorbell, before it sleeps in
//! [`crate::call::Op::Idle`], and at a kick that finds the application (not the library OS) running. So the library OS may change an entry that
//! has not been consumed. What is submitted is in order with the host calls that follow. A submission that names no open socket,
//! or memory outside the private window, ends the guest with an error that names it.
//!
//! **Reading ahead.** The guest gives each socket memory to receive into ([`Command::Provide`]); the VMM fills it in order and tells how many
//! bytes came ([`crate::event::Kind::Received`]). With no memory left it stops reading, and the host's window closes. Streams fill every byte
//! of a piece before they go on with the next. A datagram has a [`DatagramHeader`], is padded to [`DATAGRAM_ALIGN`] bytes, and may span pieces. An
//! accepted connection has an [`AcceptHeader`] at the start of the piece that it was given, and its first bytes behind it.

/// Handles are smaller.
pub const HANDLES_MAX: u32 = 10_240;
/// Most pieces of memory that wait to be filled, or to be sent, per socket; most connections that a listening socket may accept ahead.
pub const PIECES_MAX: usize = 256;
/// Entries of the submission ring, a power of two.
pub const SUBMISSION_ENTRIES: usize = 512;
/// Room for a socket address: `sockaddr_in` or `sockaddr_in6`, zeros behind it. Family 0: none.
pub const ADDRESS_BYTES: usize = 32;
/// A datagram and its header take a multiple of this many bytes.
pub const DATAGRAM_ALIGN: usize = 8;
/// Largest datagram.
pub const DATAGRAM_MAX: usize = 65_535;

/// The submission ring. Both counters run freely.
#[repr(C)]
pub struct Submissions {
    /// Entries produced by the guest.
    pub head: u32,
    /// Entries consumed by the VMM.
    pub tail: u32,
    /// Padding to the entries' alignment.
    pub reserved: [u32; 6],
    /// Entry `n` lies at index `n % SUBMISSION_ENTRIES`.
    pub entries: [Submission; SUBMISSION_ENTRIES],
}

/// One submission.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Submission {
    /// A [`Command`].
    pub command: u32,
    /// The socket.
    pub handle: u32,
    /// See [`Command`].
    pub args: [u64; 3],
}

/// What can be submitted.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make a socket for a free handle: `args = [family, type, protocol]` as socket(2) has them. If the host refuses, every later call on the handle
    /// returns its errno, and [`crate::event::Kind::Failed`] tells it.
    Open = 1,
    /// Receive into this memory: `args = [gpa, length]`.
    Provide = 2,
    /// Let the listening socket accept a connection ahead: `args = [gpa, length, handle of the connection]`.
    Accept = 3,
    /// Send: `args = [gpa, length, flags]`; flags: [`SEND_TELL`], and [`SEND_ADDRESSED`] for a datagram that has its destination
    /// ([`ADDRESS_BYTES`], part of the length) before its bytes. The memory stays the VMM's until [`crate::event::Kind::Sent`].
    Send = 4,
    /// shutdown(2): `args = [how]`, after everything sent before.
    Shutdown = 5,
    /// setsockopt(2): `args = [level | name << 32, value (up to 8 bytes), length of the value]`. Errors are not told.
    SetOption = 6,
    /// Close: `args = [abort]`. 0: what was sent before is delivered; 1: the connection is reset. [`crate::event::Kind::Closed`] follows.
    Close = 7,
    /// bind(2) and listen(2) at once, where nobody waits for the answer (after a restore): `args = [gpa of the address, its length, backlog]`. That it failed is told by
    /// [`crate::event::Kind::Failed`].
    Listen = 8,
}

/// Send: the guest waits for room, so [`crate::event::Kind::Sent`] is to end an idle call.
pub const SEND_TELL: u64 = 1;
/// Send: the datagram has its destination in front.
pub const SEND_ADDRESSED: u64 = 2;

impl Command {
    /// The command with number `raw`.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Open,
            2 => Self::Provide,
            3 => Self::Accept,
            4 => Self::Send,
            5 => Self::Shutdown,
            6 => Self::SetOption,
            7 => Self::Close,
            8 => Self::Listen,
            _ => return None,
        })
    }
}

/// Stands before the bytes of an accepted connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptHeader {
    /// The connection's own address.
    pub local: [u8; ADDRESS_BYTES],
    /// The peer's.
    pub peer: [u8; ADDRESS_BYTES],
}

/// Stands before a received datagram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramHeader {
    /// Bytes that follow.
    pub len_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// Who sent it.
    pub from: [u8; ADDRESS_BYTES],
}

/// A network interface, as [`crate::call::Op::Interfaces`] tells it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Name, zeros behind it.
    pub name: [u8; 16],
    /// Index.
    pub index: u32,
    /// IFF_* flags (netdevice(7)).
    pub flags: u32,
    /// Bits of the netmask.
    pub prefix: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// An address of the interface: `sockaddr_in` or `sockaddr_in6`; family 0: none.
    pub address: [u8; ADDRESS_BYTES],
    /// Hardware address (Ethernet), zeros if there is none.
    pub hardware: [u8; 8],
}

const _: () = {
    assert!(size_of::<Submission>() == 32);
    assert!(SUBMISSION_ENTRIES.is_power_of_two());
    assert!(size_of::<DatagramHeader>().is_multiple_of(DATAGRAM_ALIGN));
};
