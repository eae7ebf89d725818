//! Who is at the other end of a unix socket (SO_PEERCRED, unix(7)).
//!
//! Unsafe: getsockopt(2). rustix's own does not know peers of another PID namespace, whose process id is 0 here: a daemon in a container has such peers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _};

/// User id of the process that made the other end of `socket`.
///
/// # Errors
/// getsockopt(2)'s.
pub(super) fn uid(socket: impl AsFd) -> io::Result<u32> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let mut len_bytes = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, place) = (socket.as_fd().as_raw_fd(), credentials.as_mut_ptr().cast());
    // SAFETY: the descriptor is open for the duration of the call, and the kernel writes at most `len_bytes` bytes to `place`, which has as many.
    let done =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut len_bytes) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was zeroed, and is three integers, for which all bytes are fine.
    Ok(unsafe { credentials.assume_init() }.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_this_user() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let me = rustix::process::geteuid().as_raw();
        assert_eq!((uid(&one).unwrap(), uid(&other).unwrap()), (me, me));
        assert!(uid(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
