//! The socket system calls, on descriptors that never block.
//!
//! Unsafe because they take pieces of guest memory as raw vectors and addresses as bytes.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use seuss_abi::net::ADDRESS_BYTES;

/// A socket address as the kernel has it, zeros behind it.
pub(super) type Address = [u8; ADDRESS_BYTES];

fn outcome(returned: isize) -> rustix::io::Result<usize> {
    usize::try_from(returned).map_err(|_| last())
}

fn last() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn adopt(returned: libc::c_int) -> rustix::io::Result<OwnedFd> {
    if returned < 0 {
        return Err(last());
    }
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(returned) })
}

/// socket(2), not blocking.
pub(super) fn socket(family: i32, kind: i32, protocol: i32) -> rustix::io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    adopt(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) })
}

/// accept4(2), not blocking, with the peer's address.
pub(super) fn accept(fd: &OwnedFd) -> rustix::io::Result<(OwnedFd, Address)> {
    let mut address = [0; ADDRESS_BYTES];
    let mut len = ADDRESS_BYTES as libc::socklen_t;
    // SAFETY: the buffer has `len` bytes, which the kernel does not exceed.
    let returned = unsafe {
        libc::accept4(
            fd.as_raw_fd(),
            address.as_mut_ptr().cast(),
            &raw mut len,
            libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
        )
    };
    Ok((adopt(returned)?, address))
}

/// bind(2).
pub(super) fn bind(fd: &OwnedFd, address: &[u8]) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads `address.len()` bytes.
    let returned =
        unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) };
    outcome(returned as isize).map(drop)
}

/// connect(2).
pub(super) fn connect(fd: &OwnedFd, address: &[u8]) -> rustix::io::Result<()> {
    // SAFETY: the kernel reads `address.len()` bytes.
    let returned =
        unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), address.len() as libc::socklen_t) };
    outcome(returned as isize).map(drop)
}

/// getsockname(2) or getpeername(2): the address and its length.
pub(super) fn name(fd: &OwnedFd, peer: bool) -> rustix::io::Result<(Address, usize)> {
    let mut address = [0; ADDRESS_BYTES];
    let mut len = ADDRESS_BYTES as libc::socklen_t;
    let call = if peer { libc::getpeername } else { libc::getsockname };
    // SAFETY: the buffer has `len` bytes, which the kernel does not exceed.
    let returned = unsafe { call(fd.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut len) };
    outcome(returned as isize).map(|_| (address, (len as usize).min(ADDRESS_BYTES)))
}

/// getsockopt(2) into `value`: how many bytes there are.
pub(super) fn get_option(fd: &OwnedFd, level: i32, name: i32, value: &mut [u8]) -> rustix::io::Result<usize> {
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: the buffer has `len` bytes, which the kernel does not exceed.
    let returned =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, value.as_mut_ptr().cast(), &raw mut len) };
    outcome(returned as isize).map(|_| (len as usize).min(value.len()))
}

/// setsockopt(2).
pub(super) fn set_option(fd: &OwnedFd, level: i32, name: i32, value: &[u8]) -> rustix::io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes.
    let returned = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    outcome(returned as isize).map(drop)
}

/// The pending error (SO_ERROR), taken.
pub(super) fn take_error(fd: &OwnedFd) -> i32 {
    let mut value = [0; 4];
    match get_option(fd, libc::SOL_SOCKET, libc::SO_ERROR, &mut value) {
        Ok(_) => i32::from_ne_bytes(value),
        Err(errno) => errno.raw_os_error(),
    }
}

/// FIONREAD: of a datagram socket, the bytes of the next datagram.
pub(super) fn readable_bytes(fd: &OwnedFd) -> usize {
    rustix::io::ioctl_fionread(fd).map_or(0, |bytes| bytes as usize)
}

/// Whether a datagram (or an error) waits.
pub(super) fn has_datagram(fd: &OwnedFd) -> bool {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes nothing, the buffer has no bytes.
    let returned = unsafe { libc::recv(fd.as_raw_fd(), std::ptr::null_mut(), 0, flags) };
    outcome(returned) != Err(Errno::AGAIN)
}

fn message(iovecs: &mut [libc::iovec], name: &mut [u8]) -> libc::msghdr {
    // SAFETY: msghdr is a C structure of integers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    if !name.is_empty() {
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = name.len() as libc::socklen_t;
    }
    message
}

/// recvmsg(2) into pieces of guest memory.
///
/// # Safety
/// Every piece is mapped and writable, and no Rust object lies in it.
pub(super) unsafe fn receive(
    fd: &OwnedFd,
    iovecs: &mut [libc::iovec],
    from: &mut [u8],
) -> rustix::io::Result<usize> {
    let mut message = message(iovecs, from);
    // SAFETY: the message is complete; its vectors are the caller's promise, its name a slice.
    outcome(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
}

/// sendmsg(2) from pieces of guest memory; `to` is empty or a destination.
///
/// # Safety
/// Every piece is mapped.
pub(super) unsafe fn send(
    fd: &OwnedFd,
    iovecs: &mut [libc::iovec],
    to: &mut [u8],
) -> rustix::io::Result<usize> {
    let message = message(iovecs, to);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the message is complete; its vectors are the caller's promise, its name a slice.
    outcome(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
}
