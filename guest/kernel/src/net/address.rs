//! Socket addresses: what the bytes of a sockaddr say (unix(7), ip(7), ipv6(7)).

use super::family;
use crate::errno::{Errno, Result};
use alloc::vec::Vec;

/// Bytes of struct sockaddr_storage: no address is longer.
pub const STORAGE_BYTES: usize = 128;
/// Bytes of sa_family_t.
pub const FAMILY_BYTES: usize = 2;
/// Bytes of sun_path.
pub const UNIX_PATH_BYTES: usize = 108;
/// Bytes of struct sockaddr_in.
pub const INET_BYTES: usize = 16;
/// Bytes of struct sockaddr_in6 without the scope (SIN6_LEN_RFC2133): the least that Linux takes.
pub const INET6_BYTES_MIN: usize = 24;
/// Bytes of struct sockaddr_in6.
pub const INET6_BYTES: usize = 28;

/// The family of an address, `None` if it is too short to have one.
#[must_use]
pub fn family_of(address: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes([*address.first()?, *address.get(1)?]))
}

/// An AF_UNIX address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnixAddress {
    /// The family alone: bind(2) chooses an abstract name.
    Unnamed,
    /// A path, without its terminating zero.
    Path(Vec<u8>),
    /// An abstract name, without its leading zero byte; may hold any bytes.
    Abstract(Vec<u8>),
}

impl UnixAddress {
    /// Parse what bind(2), connect(2) or sendto(2) got.
    ///
    /// # Errors
    /// EINVAL: too short, too long, or another family.
    pub fn parse(address: &[u8]) -> Result<Self> {
        let longest = FAMILY_BYTES + UNIX_PATH_BYTES;
        if address.len() < FAMILY_BYTES || address.len() > longest || family_of(address) != Some(family::UNIX)
        {
            return Err(Errno::EINVAL);
        }
        Ok(match &address[FAMILY_BYTES..] {
            [] => Self::Unnamed,
            [0, name @ ..] => Self::Abstract(name.to_vec()),
            path => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                Self::Path(path[..end].to_vec())
            }
        })
    }

    /// Parse what must name somebody.
    ///
    /// # Errors
    /// As [`Self::parse`]; EINVAL: no name.
    pub fn parse_named(address: &[u8]) -> Result<Self> {
        match Self::parse(address)? {
            Self::Unnamed => Err(Errno::EINVAL),
            named => Ok(named),
        }
    }

    /// The sockaddr that getsockname(2) and its like tell; a path ends with a zero byte.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = family::UNIX.to_le_bytes().to_vec();
        match self {
            Self::Unnamed => {}
            Self::Path(path) => {
                bytes.extend_from_slice(path);
                bytes.push(0);
            }
            Self::Abstract(name) => {
                bytes.push(0);
                bytes.extend_from_slice(name);
            }
        }
        bytes
    }
}

/// An AF_INET address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InetAddress {
    /// The family field: AF_INET, or AF_UNSPEC where the caller allows it.
    pub family: u16,
    /// Host byte order.
    pub port: u16,
    /// Network byte order.
    pub ip: [u8; 4],
}

impl InetAddress {
    /// The fields of a sockaddr_in; which family is right is for the caller to say, since operations differ.
    ///
    /// # Errors
    /// EINVAL: too short.
    pub fn parse(address: &[u8]) -> Result<Self> {
        if address.len() < INET_BYTES {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            family: family_of(address).unwrap_or_default(),
            port: u16::from_be_bytes([address[2], address[3]]),
            ip: [address[4], address[5], address[6], address[7]],
        })
    }

    /// As the application gets it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.family.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.port.to_be_bytes());
        bytes.extend_from_slice(&self.ip);
        bytes.resize(INET_BYTES, 0);
        bytes
    }
}

/// An AF_INET6 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inet6Address {
    /// The family field: AF_INET6, or what the caller allows.
    pub family: u16,
    /// Host byte order.
    pub port: u16,
    /// Flow label, network byte order as it came.
    pub flow: u32,
    /// Network byte order.
    pub ip: [u8; 16],
    /// Interface of a link-local address; 0 if the address is too short to have it.
    pub scope: u32,
}

impl Inet6Address {
    /// The fields of a sockaddr_in6; which family is right is for the caller to say.
    ///
    /// # Errors
    /// EINVAL: too short.
    pub fn parse(address: &[u8]) -> Result<Self> {
        if address.len() < INET6_BYTES_MIN {
            return Err(Errno::EINVAL);
        }
        let word = |at: usize| {
            let mut word = [0; 4];
            for (byte, value) in word.iter_mut().zip(address.get(at..).unwrap_or_default()) {
                *byte = *value;
            }
            u32::from_le_bytes(word)
        };
        let mut ip = [0; 16];
        ip.copy_from_slice(&address[8..24]);
        Ok(Self {
            family: family_of(address).unwrap_or_default(),
            port: u16::from_be_bytes([address[2], address[3]]),
            flow: word(4),
            ip,
            scope: if address.len() >= INET6_BYTES { word(24) } else { 0 },
        })
    }

    /// As the application gets it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.family.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.port.to_be_bytes());
        bytes.extend_from_slice(&self.flow.to_le_bytes());
        bytes.extend_from_slice(&self.ip);
        bytes.extend_from_slice(&self.scope.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_addresses_are_read_as_linux_reads_them() {
        let with = |tail: &[u8]| [&1u16.to_le_bytes()[..], tail].concat();
        assert_eq!(UnixAddress::parse(&with(b"")), Ok(UnixAddress::Unnamed));
        assert_eq!(UnixAddress::parse(&with(b"a/b\0rest")), Ok(UnixAddress::Path(b"a/b".to_vec())));
        assert_eq!(UnixAddress::parse(&with(&[b'x'; 108])), Ok(UnixAddress::Path(vec![b'x'; 108])));
        assert_eq!(UnixAddress::parse(&with(&[b'x'; 109])), Err(Errno::EINVAL));
        assert_eq!(UnixAddress::parse(&with(b"\0a\0b")), Ok(UnixAddress::Abstract(b"a\0b".to_vec())));
        assert_eq!(UnixAddress::parse(&[1]), Err(Errno::EINVAL));
        assert_eq!(UnixAddress::parse(&[2, 0, b'x']), Err(Errno::EINVAL));
    }

    #[test]
    fn what_was_parsed_is_written_back() {
        for address in [&b"\x01\0path\0"[..], b"\x01\0\0abstract\0name", b"\x01\0"] {
            assert_eq!(UnixAddress::parse(address).unwrap().to_bytes(), address);
        }
        let inet = [2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let parsed = InetAddress::parse(&inet).unwrap();
        assert_eq!((parsed.port, parsed.ip), (8080, [127, 0, 0, 1]));
        assert_eq!(parsed.to_bytes(), inet);
        assert_eq!(InetAddress::parse(&inet[..15]), Err(Errno::EINVAL));
        let mut inet6 = vec![10, 0, 0, 80, 1, 2, 3, 4];
        inet6.extend((0..16).chain([7, 0, 0, 0]));
        let parsed = Inet6Address::parse(&inet6).unwrap();
        assert_eq!((parsed.port, parsed.ip[15], parsed.scope), (80, 15, 7));
        assert_eq!(parsed.to_bytes(), inet6);
        assert_eq!(Inet6Address::parse(&inet6[..24]).unwrap().scope, 0);
        assert_eq!(Inet6Address::parse(&inet6[..23]), Err(Errno::EINVAL));
    }
}
