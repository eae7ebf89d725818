//! What outlives a guest: bytes that it had sent and the host's socket had no room for.
//!
//! On Linux a process may exit while the kernel still delivers. Here one detached thread sends the rest, for a bounded time and of a bounded size, to all peers at once.

use std::os::fd::OwnedFd;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::socket::Socket;
use crate::confine::Role;
use crate::helpers;
use crate::memory::Memory;
use crate::text::TextBudget;

/// Most bytes kept for one connection...
const BYTES_MAX: usize = 1 << 20;
/// ...and for all of them: the pod pays for it beside its guest's memory.
const TOTAL_BYTES_MAX: usize = 4 << 20;
/// Most connections whose rest is delivered.
const CONNECTIONS_MAX: usize = 64;
/// How long everything may take, however little peers take at a time.
const PATIENCE: Duration = Duration::from_secs(15);
/// Most guests of this process whose rest is being delivered; of others it is thrown away.
const DELIVERIES_MAX: usize = 4;

/// Guests whose rest is being delivered.
static DELIVERIES: AtomicUsize = AtomicUsize::new(0);
/// Descriptors that the process wants: a guest's sockets and some more.
const DESCRIPTORS: u64 = 65_536;

/// The rest of one connection.
pub(super) struct Leftover {
    fd: OwnedFd,
    bytes: Vec<u8>,
}

impl Leftover {
    pub(super) fn of(socket: Socket, memory: &Memory, limit: usize) -> Option<Self> {
        if socket.datagram {
            return None;
        }
        let bytes = socket.outbox.copy(memory, limit.min(BYTES_MAX));
        Some(Self { fd: socket.fd.ok()?, bytes })
    }
}

/// What is left to be sent. Copied for so many connections only: ten thousand sockets with the same memory to send would take gigabytes.
pub(super) fn collect(sockets: impl Iterator<Item = Socket>, memory: &Memory) -> Vec<Leftover> {
    let left = sockets.filter(|socket| !socket.outbox.is_empty());
    let mut room = TOTAL_BYTES_MAX;
    let copied = left.filter_map(|socket| {
        let left = Leftover::of(socket, memory, room).filter(|left| !left.bytes.is_empty())?;
        room -= left.bytes.len();
        Some(left)
    });
    copied.take(CONNECTIONS_MAX).collect()
}

/// Send what is left, in a thread of its own.
pub(super) fn deliver(left: Vec<Leftover>) {
    if left.is_empty() {
        return;
    }
    if DELIVERIES.fetch_add(1, Ordering::Relaxed) >= DELIVERIES_MAX {
        DELIVERIES.fetch_sub(1, Ordering::Relaxed);
        tracing::debug!(connections = left.len(), "the last bytes of connections are thrown away");
        return;
    }
    let text = TextBudget::of_this_thread();
    let run = move || {
        let _text = text.as_ref().map(TextBudget::enter);
        let undelivered = send(left, Instant::now() + PATIENCE);
        DELIVERIES.fetch_sub(1, Ordering::Relaxed);
        if undelivered > 0 {
            tracing::debug!(undelivered, "the last bytes of connections were not delivered");
        }
    };
    if let Err(error) = helpers::run(Role::Linger, None, run) {
        DELIVERIES.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!(%error, "no thread delivers the last bytes of a guest's connections");
    }
}

/// Send to all peers as they take it, until `deadline`. How many connections are left with something.
fn send(mut left: Vec<Leftover>, deadline: Instant) -> usize {
    loop {
        left.retain_mut(|rest| {
            while !rest.bytes.is_empty() {
                match rustix::net::send(&rest.fd, &rest.bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(count) => drop(rest.bytes.drain(..count)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
            }
            false
        });
        let patience = deadline.saturating_duration_since(Instant::now());
        if left.is_empty() || patience.is_zero() {
            return left.len();
        }
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        let mut fds: Vec<_> = left.iter().map(|rest| PollFd::new(&rest.fd, PollFlags::OUT)).collect();
        let _ = poll(&mut fds, Some(&timeout));
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
        assert_eq!(left.iter().map(|rest| rest.bytes.len()).sum::<usize>(), TOTAL_BYTES_MAX);
        assert!(left.iter().all(|rest| rest.bytes.len() == BYTES_MAX));
        let few = |handle| {
            let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            let mut socket = Socket::new(handle, fd, false, Phase::Connected);
            let piece = Piece::new(&memory, PRIVATE_GPA, 1).expect("inside");
            socket.outbox.push(Outgoing { piece, tell: false, addressed: false });
            socket
        };
        looked_at.set(0);
        let sockets = (0..1000).map(few).inspect(|_| looked_at.set(looked_at.get() + 1));
        assert_eq!((collect(sockets, &memory).len(), looked_at.get()), (CONNECTIONS_MAX, CONNECTIONS_MAX));
    }

    #[test]
    fn peers_that_take_little_do_not_hold_the_others_up_nor_the_thread() {
        use std::io::Read as _;
        use std::net::{TcpListener, TcpStream};
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let mut left = Vec::new();
        let mut peers = Vec::new();
        for _ in 0..2 {
            left.push(Leftover {
                fd: TcpStream::connect(address).expect("connects").into(),
                bytes: vec![7; 16 << 20],
            });
            peers.push(listener.accept().expect("accepts").0);
        }
        let mut eager = peers.pop().expect("a peer");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            eager.read_to_end(&mut all).map(|_| all.len())
        });
        // The first peer takes nothing: it is given up, the second gets everything.
        let started = Instant::now();
        assert_eq!(send(left, started + Duration::from_secs(3)), 1);
        assert_eq!(reader.join().expect("joins").expect("reads"), 16 << 20);
    }
}
