//! Whether a program answers those who ask from outside: the sign that it is ready which a probe waits for, too.

use std::net::Ipv6Addr;

use seuss_abi::net::ADDRESS_BYTES;

use super::pieces::Piece;
use crate::memory::Memory;

/// Bytes of a status line up to its code (RFC 9112, 4): `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

/// What is known of the answers on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nobody outside waits for one.
    #[default]
    Nobodys,
    /// There was none yet.
    Awaited,
    /// It was one that says that the program is at work.
    Good,
}

impl Answer {
    /// On a connection that was accepted from `peer` at `local`, both as sockaddr: who asks from the guest's own addresses is part of the pod.
    pub(super) fn of_connection(local: &[u8; ADDRESS_BYTES], peer: &[u8; ADDRESS_BYTES]) -> Self {
        match (host(local), host(peer)) {
            (Some(local), Some(peer)) if !is_loopback(peer) && local != peer => Self::Awaited,
            _ => Self::Nobodys,
        }
    }

    /// The first bytes that are sent. The piece lies in guest memory: it is copied once. What is no HTTP/1 counts as a good answer.
    pub(super) fn read(piece: &Piece, memory: &Memory) -> Self {
        let mut bytes = [0; STATUS_BYTES];
        let len = bytes.len().min(usize::try_from(piece.len_bytes).unwrap_or(usize::MAX));
        if memory.private().read(piece.gpa, &mut bytes[..len]).is_none() {
            return Self::Nobodys;
        }
        if is_good(&bytes[..len]) { Self::Good } else { Self::Nobodys }
    }

    /// Whether there was a good answer, once.
    pub(super) fn take_good(&mut self) -> bool {
        let good = *self == Self::Good;
        if good {
            *self = Self::Nobodys;
        }
        good
    }
}

fn is_good(bytes: &[u8]) -> bool {
    match bytes.strip_prefix(b"HTTP/1.") {
        Some([_, b' ', class, ..]) => matches!(class, b'2' | b'3'),
        Some(_) => false,
        None => !bytes.is_empty(),
    }
}

/// The address of a sockaddr; IPv4 as an IPv4-mapped one.
fn host(address: &[u8; ADDRESS_BYTES]) -> Option<Ipv6Addr> {
    match i32::from(u16::from_ne_bytes([address[0], address[1]])) {
        libc::AF_INET => {
            let [a, b, c, d] = [address[4], address[5], address[6], address[7]];
            Some(std::net::Ipv4Addr::new(a, b, c, d).to_ipv6_mapped())
        }
        libc::AF_INET6 => {
            let bytes: [u8; 16] = address.get(8..24)?.try_into().ok()?;
            Some(Ipv6Addr::from(bytes))
        }
        _ => None,
    }
}

fn is_loopback(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().map_or(address.is_loopback(), |address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(address: [u8; 4]) -> [u8; ADDRESS_BYTES] {
        let mut bytes = [0; ADDRESS_BYTES];
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[4..8].copy_from_slice(&address);
        bytes
    }

    fn v6(address: Ipv6Addr) -> [u8; ADDRESS_BYTES] {
        let mut bytes = [0; ADDRESS_BYTES];
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        bytes[8..24].copy_from_slice(&address.octets());
        bytes
    }

    #[test]
    fn only_others_count() {
        let (pod, node) = (v4([10, 0, 0, 5]), v4([10, 0, 0, 1]));
        assert_eq!(Answer::of_connection(&pod, &node), Answer::Awaited);
        assert_eq!(Answer::of_connection(&pod, &pod), Answer::Nobodys);
        assert_eq!(Answer::of_connection(&v4([127, 0, 0, 1]), &v4([127, 0, 0, 1])), Answer::Nobodys);
        let mapped = |address: [u8; 4]| v6(std::net::Ipv4Addr::from(address).to_ipv6_mapped());
        assert_eq!(Answer::of_connection(&mapped([10, 0, 0, 5]), &mapped([10, 0, 0, 1])), Answer::Awaited);
        assert_eq!(Answer::of_connection(&mapped([127, 0, 0, 1]), &mapped([127, 0, 0, 9])), Answer::Nobodys);
        assert_eq!(
            Answer::of_connection(&v6(Ipv6Addr::LOCALHOST), &v6(Ipv6Addr::LOCALHOST)),
            Answer::Nobodys
        );
        assert_eq!(Answer::of_connection(&[0; ADDRESS_BYTES], &node), Answer::Nobodys);
    }

    #[test]
    fn answers_are_read() {
        for good in [&b"HTTP/1.1 200"[..], b"HTTP/1.0 304", b"\0\0\x12\x04", b"+PONG"] {
            assert!(is_good(good), "{good:?}");
        }
        for bad in [&b"HTTP/1.1 503"[..], b"HTTP/1.1 404", b"HTTP/1.", b"HTTP/1.1", b""] {
            assert!(!is_good(bad), "{bad:?}");
        }
    }
}
