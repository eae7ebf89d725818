//! What outlives a guest: bytes that it had sent and the host's socket had no room for.
//!
//! On Linux a process may exit while the kernel still delivers. Here one detached thread sends the rest, for a bounded time and of a bounded size.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Once;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::socket::Socket;
use crate::confine::Role;
use crate::helpers;
use crate::memory::Memory;

/// Most bytes kept for one connection.
const BYTES_MAX: usize = 1 << 20;
/// Most connections whose rest is delivered.
const CONNECTIONS_MAX: usize = 64;
/// How long a peer may take nothing.
const PATIENCE: Duration = Duration::from_secs(15);
/// Descriptors that the process wants: a guest's sockets and some more.
const DESCRIPTORS: u64 = 65_536;

/// The rest of one connection.
pub(super) struct Leftover {
    fd: OwnedFd,
    bytes: Vec<u8>,
}

impl Leftover {
    pub(super) fn of(socket: Socket, memory: &Memory) -> Option<Self> {
        if socket.datagram {
            return None;
        }
        let bytes = socket.outbox.copy(memory, BYTES_MAX);
        Some(Self { fd: socket.fd.ok()?, bytes })
    }
}

/// What is left to be sent. Copied for so many connections only: ten thousand sockets with the same memory to send would take gigabytes.
pub(super) fn collect(sockets: impl Iterator<Item = Socket>, memory: &Memory) -> Vec<Leftover> {
    let left = sockets.filter(|socket| !socket.outbox.is_empty());
    left.filter_map(|socket| Leftover::of(socket, memory)).take(CONNECTIONS_MAX).collect()
}

/// Send what is left, in a thread of its own.
pub(super) fn deliver(left: Vec<Leftover>) {
    if left.is_empty() {
        return;
    }
    let run = move || {
        for Leftover { fd, bytes } in left {
            let mut stream = TcpStream::from(fd);
            let ready = stream.set_nonblocking(false).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
            let sent = ready.and_then(|()| stream.write_all(&bytes));
            if let Err(error) = sent {
                tracing::debug!(%error, "a connection's last bytes were not delivered");
            }
        }
    };
    if let Err(error) = helpers::run(Role::Linger, None, run) {
        tracing::warn!(%error, "no thread delivers the last bytes of a guest's connections");
    }
}

/// Let the process have as many descriptors as guests may have sockets, as far as it may.
pub(crate) fn raise_descriptor_limit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let now = getrlimit(Resource::Nofile);
        let enough = now.current.is_none_or(|current| current >= DESCRIPTORS);
        if enough {
            return;
        }
        let maximum = now.maximum.map(|maximum| maximum.max(DESCRIPTORS));
        let wanted = Rlimit { current: Some(DESCRIPTORS), maximum };
        if setrlimit(Resource::Nofile, wanted).is_err() {
            // Not privileged: as far as the hard limit goes.
            let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use seuss_abi::layout::{LARGE_PAGE_SIZE, PRIVATE_GPA};

    use super::*;
    use crate::net::pieces::{Outgoing, Piece};
    use crate::net::socket::Phase;
    use crate::net::sys;

    #[test]
    fn the_rest_of_few_connections_is_copied() {
        let memory = Memory::new(LARGE_PAGE_SIZE, vec![]).expect("memory");
        let looked_at = Cell::new(0);
        let sockets = (0..1000).map(|handle| {
            looked_at.set(looked_at.get() + 1);
            let datagram = handle % 2 == 0;
            let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            let mut socket = Socket::new(handle, fd, datagram, Phase::Connected);
            let piece = Piece::new(&memory, PRIVATE_GPA, LARGE_PAGE_SIZE).expect("inside");
            socket.outbox.push(Outgoing { piece, tell: false, addressed: false });
            socket
        });
        let left = collect(sockets, &memory);
        assert_eq!((left.len(), looked_at.get()), (CONNECTIONS_MAX, 2 * CONNECTIONS_MAX));
        assert!(left.iter().all(|rest| rest.bytes.len() == BYTES_MAX));
    }
}
