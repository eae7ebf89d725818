//! Options of TCP, IP and IPv6 (tcp(7), ip(7), ipv6(7)): the host's. Those that programs set on every connection are checked here and submitted.

use super::super::options::name as socket;
use super::{InetSocket, TCP};
use crate::errno::{Errno, Result};
use alloc::vec::Vec;

const IP: i32 = 0;
const IPV6: i32 = 41;
/// IP_RECVERR.
const RECVERR: u32 = 11;
/// IPV6_RECVERR.
const RECVERR6: u32 = 25;
const NODELAY: u32 = 1;
const CORK: u32 = 3;
const KEEPIDLE: u32 = 4;
const KEEPINTVL: u32 = 5;
const KEEPCNT: u32 = 6;
const QUICKACK: u32 = 12;
const USER_TIMEOUT: u32 = 18;

/// setsockopt(2) of other levels than SOL_SOCKET.
pub(super) fn set(owner: &InetSocket, level: i32, name: u32, value: &[u8]) -> Result {
    if !matches!(level, IP | IPV6 | TCP) || (level == TCP && !owner.is_stream()) {
        return Err(Errno::ENOPROTOOPT);
    }
    if matches!((level, name), (IP, RECVERR) | (IPV6, RECVERR6)) {
        // glibc's resolver insists on it. The queue of errors stays empty; errors are reported by the next call.
        owner.queues_errors.set(value.first().is_some_and(|byte| *byte != 0));
        return Ok(());
    }
    if level != TCP {
        return owner.endpoint.set_option(level, name, value);
    }
    let number = match value {
        [a, b, c, d, ..] => i32::from_le_bytes([*a, *b, *c, *d]),
        _ => return Err(Errno::EINVAL),
    };
    // The bounds are those of net/ipv4/tcp.c.
    let fits = match name {
        NODELAY | CORK | QUICKACK => true,
        KEEPIDLE | KEEPINTVL => (1..=32_767).contains(&number),
        KEEPCNT => (1..=127).contains(&number),
        USER_TIMEOUT => number >= 0,
        _ => return owner.endpoint.set_option(level, name, value),
    };
    if !fits {
        return Err(Errno::EINVAL);
    }
    owner.endpoint.post_option(level, name, &value[..4]);
    Ok(())
}

/// getsockopt(2) of what the layer does not know.
pub(super) fn get(owner: &InetSocket, level: i32, name: u32, room: usize) -> Result<Vec<u8>> {
    if !matches!(level, IP | IPV6 | TCP) || (level == TCP && !owner.is_stream()) {
        return Err(Errno::ENOPROTOOPT);
    }
    if matches!((level, name), (IP, RECVERR) | (IPV6, RECVERR6)) {
        return Ok(i32::from(owner.queues_errors.get()).to_le_bytes().to_vec());
    }
    owner.endpoint.get_option(level, name, room)
}

/// A SOL_SOCKET option that the layer keeps: the host is told if it has to do with it.
pub(super) fn common(owner: &InetSocket, name: u32, value: &[u8]) {
    let for_host = [
        socket::REUSEADDR,
        socket::REUSEPORT,
        socket::KEEPALIVE,
        socket::BROADCAST,
        socket::DONTROUTE,
        socket::SNDBUF,
        socket::RCVBUF,
    ];
    if for_host.contains(&name) {
        owner.endpoint.post_option(socket::SOL_SOCKET, name, &value[..value.len().min(4)]);
    }
}
