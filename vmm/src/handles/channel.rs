//! One descriptor behind a handle, and how to use it without ever blocking the vCPU thread.
//!
//! A description that other processes share (the shell's terminal, a pipe that a parent reads) must not be left with
//! `O_NONBLOCK` set. So:
//! - FIFOs, pipes and terminals are opened anew through `/proc/self/fd`, which gives a description of our own, with
//!   `O_NONBLOCK`;
//! - sockets take `MSG_DONTWAIT` with every call;
//! - regular files, block devices and the memory devices (`/dev/null` and its like) do not block for long and are used
//!   as they are (a shared file offset must stay shared);
//! - anything else (pty masters, whose reopening would make another pty; descriptions that cannot be reopened) is used
//!   with `RWF_NOWAIT`, or, if its driver does not know that, polled before each call and written to in small pieces.
//!   A kick interrupts the call should it block after all.
//!
//! Unsafe because the vectored calls take raw pieces of guest memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fstat, major, minor, open};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::memory::SegmentList;

/// Bytes that a polled description takes at once: a writable pipe has room for PIPE_BUF, a terminal for a little.
const POLLED_WRITE_MAX: u64 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A description of our own, or one that has `O_NONBLOCK` anyway.
    NonBlocking,
    Socket,
    /// Never waits for a peer, and epoll does not take it.
    File,
    Polled,
}

/// A descriptor and how to use it.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
    kind: Kind,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

impl Channel {
    /// Take over `fd`.
    pub(crate) fn adopt(fd: OwnedFd) -> rustix::io::Result<Self> {
        let stat = fstat(&fd)?;
        let flags = fcntl_getfl(&fd)?;
        let access = flags & OFlags::RWMODE;
        let (readable, writable) = (access != OFlags::WRONLY, access != OFlags::RDONLY);
        let otherwise = if flags.contains(OFlags::NONBLOCK) { Kind::NonBlocking } else { Kind::Polled };
        let device = (major(stat.st_rdev), minor(stat.st_rdev));
        let (kind, fresh) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Socket => (Kind::Socket, None),
            FileType::RegularFile | FileType::BlockDevice | FileType::Directory => (Kind::File, None),
            FileType::CharacterDevice if device.0 == 1 => (Kind::File, None),
            FileType::Fifo => (otherwise, reopen(&fd, access)),
            FileType::CharacterDevice if device != (5, 2) && rustix::termios::isatty(&fd) => {
                (otherwise, reopen(&fd, access))
            }
            _ => (otherwise, None),
        };
        Ok(match fresh {
            Some(fd) => Self { fd, kind: Kind::NonBlocking, readable, writable },
            None => Self { fd, kind, readable, writable },
        })
    }

    /// Read into guest memory: bytes, 0 at the end of file.
    pub(crate) fn read(&self, mut into: SegmentList<'_>) -> rustix::io::Result<usize> {
        match self.kind {
            Kind::NonBlocking | Kind::File => vectored(libc::readv, &self.fd, &into),
            Kind::Socket => message(&self.fd, &mut into, Message::Receive),
            Kind::Polled => match vectored_nowait(libc::preadv2, &self.fd, &into) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::SPIPE) => {
                    self.wait_not(PollFlags::IN)?;
                    vectored(libc::readv, &self.fd, &into)
                }
                result => result,
            },
        }
    }

    /// Write out of guest memory: bytes.
    pub(crate) fn write(&self, mut from: SegmentList<'_>) -> rustix::io::Result<usize> {
        match self.kind {
            Kind::NonBlocking | Kind::File => vectored(libc::writev, &self.fd, &from),
            Kind::Socket => message(&self.fd, &mut from, Message::Send),
            Kind::Polled => match vectored_nowait(libc::pwritev2, &self.fd, &from) {
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::SPIPE) => {
                    self.wait_not(PollFlags::OUT)?;
                    from.truncate(POLLED_WRITE_MAX);
                    vectored(libc::writev, &self.fd, &from)
                }
                result => result,
            },
        }
    }

    /// EAGAIN unless `what` (or an end of the connection) is there now.
    fn wait_not(&self, what: PollFlags) -> rustix::io::Result<()> {
        let mut list = [PollFd::new(&self.fd, what)];
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut list, Some(&none))? == 0 { Err(Errno::AGAIN) } else { Ok(()) }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Another description of the same pipe or terminal. `None` where that does not work (no /proc, no permission, a FIFO
/// whose other end is gone).
fn reopen(fd: &OwnedFd, access: OFlags) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).ok()
}

/// What a system call returned, with errno.
fn outcome(returned: isize) -> rustix::io::Result<usize> {
    usize::try_from(returned).map_err(|_| {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Errno::from_raw_os_error(errno)
    })
}

type Vectored = unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int) -> isize;
type VectoredFlags =
    unsafe extern "C" fn(libc::c_int, *const libc::iovec, libc::c_int, libc::off_t, libc::c_int) -> isize;

fn vectored(call: Vectored, fd: &OwnedFd, list: &SegmentList<'_>) -> rustix::io::Result<usize> {
    let pieces = list.iovecs();
    // SAFETY: every piece was checked to lie in a mapped window when the list was made (writable ones for a read); the
    // list borrows the memory, so that it stays mapped. Guest memory holds no Rust objects.
    outcome(unsafe { call(fd.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int) })
}

fn vectored_nowait(call: VectoredFlags, fd: &OwnedFd, list: &SegmentList<'_>) -> rustix::io::Result<usize> {
    let pieces = list.iovecs();
    // SAFETY: as in `vectored`. Offset -1 is the current position.
    outcome(unsafe {
        call(fd.as_raw_fd(), pieces.as_ptr(), pieces.len() as libc::c_int, -1, libc::RWF_NOWAIT)
    })
}

#[derive(Clone, Copy)]
enum Message {
    Send,
    Receive,
}

fn message(fd: &OwnedFd, list: &mut SegmentList<'_>, way: Message) -> rustix::io::Result<usize> {
    let pieces = list.iovecs();
    // SAFETY: msghdr is a C structure of integers and pointers for which zero bytes mean "none".
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = pieces.as_ptr().cast_mut();
    header.msg_iovlen = pieces.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    outcome(match way {
        // SAFETY: as in `vectored`; sendmsg does not write through the header's pointers.
        Message::Send => unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) },
        // SAFETY: as in `vectored`; recvmsg writes to the pieces and the header alone, there is no room for names or
        // control data.
        Message::Receive => unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) },
    })
}
