//! Host calls: what the guest asks of the VMM.
//!
//! The guest fills the [`Slot`], rings the doorbell (one VM exit) and finds `result` when it continues. The VMM copies the slot
//! once, checks every field, and never blocks except in [`Op::Idle`]. A result below zero is a negated Linux errno;
//! a malformed call ends the guest with an error that names it.

/// The host-call slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    /// An [`Op`].
    pub op: u32,
    /// Zero.
    pub reserved: u32,
    /// Arguments; see [`Op`].
    pub args: [u64; 6],
    /// Written by the VMM.
    pub result: i64,
}

/// One piece of guest memory in a vectored call: it must lie wholly inside the private window (reads into guest memory)
/// or inside the private or an image window (writes out of it).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// Guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// Most segments in one call.
pub const SEGMENTS_MAX: usize = 256;

/// Operations. Handles name descriptors of the VMM: 0, 1, 2 are the first process' stdin, stdout and stderr; others are
/// announced by events.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The guest is done. `args = [wait status of the first process (as wait(2) encodes it)]`. Does not return.
    Exit = 1,
    /// The library OS met an error that it cannot continue from. `args = [gpa of a UTF-8 message, length]`. Does not return.
    Panic = 2,
    /// Nothing is runnable. `args = [CLOCK_MONOTONIC deadline in ns, u64::MAX = none]`. Returns 0 when the event ring is not empty or the
    /// deadline has passed.
    Idle = 3,
    /// Read from a handle, without blocking. `args = [handle, gpa of a Segment array, count]`. Returns bytes (0 = end of file) or -errno
    /// (-EAGAIN: a [`crate::event::Kind::Ready`] event follows when it can be read).
    Read = 4,
    /// Write to a handle, without blocking. Arguments and result as [`Op::Read`].
    Write = 5,
    /// Close a handle. `args = [handle]`.
    Close = 6,
    /// A process that the VMM started with [`crate::event::Kind::Exec`] has ended. `args = [token, wait status]`.
    Exited = 7,
    /// A message for the log. `args = [level 1..=5 (error..trace), gpa, length]`. The VMM limits the rate.
    Log = 8,
    /// A process has started (`args = [token, guest pid]`) or could not (`args = [token, -errno as u64, gpa of a message, its length]`): the first one (token 0), which
    /// ends the guest in that case, or one asked for by [`crate::event::Kind::Exec`].
    Started = 9,
    /// Take the submissions ([`crate::net`]) and post what is ready, without waiting. Returns 0. Every other call takes the submissions first, too.
    Sync = 10,
    /// bind(2): `args = [handle, length, 1 if the calling process may not use ports below net.ipv4.ip_unprivileged_port_start]` (the host grants no more than the container has), the address in the payload; returns the length of the bound address, which is in the payload, or -errno.
    Bind = 11,
    /// listen(2): `args = [handle, backlog]`. Returns 0 or -errno.
    Listen = 12,
    /// connect(2), without waiting: `args = [handle, length]`, the address in the payload. Returns 0, -errno, or -EINPROGRESS
    /// ([`crate::event::Kind::Connected`] follows). The connection's own address is in the payload in both good cases.
    Connect = 13,
    /// getsockname(2) (`args = [handle, 0]`) or getpeername(2) (`[handle, 1]`): returns the length of the address in the payload, or -errno.
    Name = 14,
    /// getsockopt(2): `args = [handle, level, name, length]`. Returns the length of the value in the payload, or -errno.
    GetOption = 15,
    /// setsockopt(2): `args = [handle, level, name, length]`, the value in the payload. Returns 0 or -errno.
    SetOption = 16,
    /// The interfaces of the network namespace: returns how many [`crate::net::Interface`] entries (one per address, at least one per interface) are in the
    /// payload, or -errno.
    Interfaces = 17,
    /// A process waits on a listening socket and nothing is runnable, for the first time in this guest's lineage: the program is ready. Returns 0.
    Ready = 18,
    /// The IPv4 routes of the network namespace: returns how many bytes of text are in the payload, whole lines of /proc/net/route (proc_pid_net(5)) without
    /// its head, as many as fit; or -errno.
    Routes = 19,
    /// This guest, which was booted with [`crate::comm::BootBlock::base`], takes no base snapshot: what it does from now on is not its runtime's alone. Returns 0.
    NoBase = 20,
    /// Take a snapshot of this guest, which is parked: all that a restore needs is in memory, and a restore enters at
    /// [`crate::layout::ENTRY_BOOT`]. The capture area holds the class of every frame ([`crate::snapshot`]). `args = [level, gpa of the key, its length, how many of the
    /// images it builds on (the lowest; 0: all)]`: fewer than all only for the base snapshot that a guest takes by itself, once.
    /// Returns 0 when the snapshot exists, and the guest goes on as it is; or -errno (-EOPNOTSUPP: nobody keeps snapshots here).
    Capture = 32,
    /// This clone was entered ahead of time ([`crate::comm::BootBlock::hold`]) and has read what it was told to. Returns 0 when it is wanted: from then on boot
    /// block, clock and mailbox are its own.
    Hold = 33,
    /// The cautious snapshot that the VMM has asked for is not taken: `args = [what stands in the way, a `[`crate::snapshot::Obstacle`]`]`. Returns 0.
    PutOff = 34,
}

impl Op {
    /// The operation with number `raw`.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Exit,
            2 => Self::Panic,
            3 => Self::Idle,
            4 => Self::Read,
            5 => Self::Write,
            6 => Self::Close,
            7 => Self::Exited,
            8 => Self::Log,
            9 => Self::Started,
            10 => Self::Sync,
            11 => Self::Bind,
            12 => Self::Listen,
            13 => Self::Connect,
            14 => Self::Name,
            15 => Self::GetOption,
            16 => Self::SetOption,
            17 => Self::Interfaces,
            18 => Self::Ready,
            19 => Self::Routes,
            20 => Self::NoBase,
            32 => Self::Capture,
            33 => Self::Hold,
            34 => Self::PutOff,
            _ => return None,
        })
    }
}
