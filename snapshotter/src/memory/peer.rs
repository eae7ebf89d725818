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
pub fn uid(socket: impl AsFd) -> io::Result<u32> {
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

/// Whether the process that made the other end of `socket` may use what root and this process' own user keep to themselves: it is one of these. A socket's mode says the same,
/// but not while it is being made, nor after somebody changed it.
#[must_use]
pub fn is_trusted(socket: impl AsFd) -> bool {
    let own = rustix::process::geteuid().as_raw();
    match uid(socket) {
        Ok(0) => true,
        Ok(uid) if uid == own => true,
        Ok(uid) => {
            tracing::debug!(uid, "a connection of another user is closed");
            false
        }
        Err(error) => {
            tracing::debug!(%error, "a connection of nobody is closed");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_this_user() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let me = rustix::process::geteuid().as_raw();
        assert_eq!((uid(&one).unwrap(), uid(&other).unwrap()), (me, me));
        assert!(is_trusted(&one) && !is_trusted(std::fs::File::open("/dev/null").unwrap()));
        assert!(uid(std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
