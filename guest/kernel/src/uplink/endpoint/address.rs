//! The bytes of socket addresses.

use alloc::vec::Vec;
use seuss_abi::net::ADDRESS_BYTES;

/// An address in the room that the contract has for it, and its length.
pub(super) fn padded(address: &[u8]) -> ([u8; ADDRESS_BYTES], u64) {
    const INET6_BYTES: usize = 28;
    let mut bytes = [0; ADDRESS_BYTES];
    let len = address.len().min(INET6_BYTES);
    bytes[..len].copy_from_slice(&address[..len]);
    (bytes, len as u64)
}

/// An address without the zeros behind it; empty if its family is none of the internet's.
pub(super) fn trimmed(address: &[u8]) -> Vec<u8> {
    let len = match address {
        [2, 0, ..] => 16,
        [10, 0, ..] => 28,
        _ => 0,
    };
    address.get(..len).unwrap_or_default().to_vec()
}

/// The host part of an address.
pub(super) fn host_of(address: &[u8]) -> &[u8] {
    match address {
        [2, 0, ..] => address.get(4..8).unwrap_or_default(),
        [10, 0, ..] => address.get(8..24).unwrap_or_default(),
        _ => &[],
    }
}

/// The port of an address, 0 if it has none.
pub(super) fn port_of(address: &[u8]) -> u16 {
    address.get(2..4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]))
}

/// Whether an address is of this host alone: 127.0.0.0/8, ::1, or the former in the latter's family.
pub(super) fn is_loopback(address: &[u8]) -> bool {
    const MAPPED: [u8; 13] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127];
    const LOCALHOST: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let host = host_of(address);
    match host.len() {
        4 => host[0] == 127,
        16 => host == LOCALHOST || host.starts_with(&MAPPED),
        _ => false,
    }
}
