//! The answers to requests of NETLINK_ROUTE (rtnetlink(7)).

use crate::errno::{Errno, Result};
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::net::Interface;

/// Bytes of struct nlmsghdr.
const HEADER_BYTES: usize = 16;
/// Bytes of a reply before a new one is begun.
const REPLY_BYTES: usize = 4096;
/// With more bytes of answers than this, further requests of the same message are not looked at: more does not fit into a queue.
const ANSWERS_MAX: usize = 256 << 10;
/// Message types.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// Lower types are the protocol's own.
const RTM_BASE: u16 = 16;
/// Flags of a message.
const REQUEST: u16 = 1;
const MULTI: u16 = 2;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// Attributes of links and of addresses.
const IFLA_ADDRESS: u16 = 1;
const IFLA_BROADCAST: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// IFA_F_PERMANENT.
const PERMANENT: u32 = 0x80;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const IFF_LOOPBACK: u32 = 8;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A request, or what is left of it to read.
struct Request<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    header: &'a [u8],
    body: &'a [u8],
}

/// The pod's interfaces.
pub(super) type Interfaces<'a> = dyn FnMut() -> Result<Vec<Interface>> + 'a;

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Answer all requests in `bytes`, which came from the socket with address `port`: the messages to queue. As on Linux, what is malformed is ignored.
pub(super) fn serve(bytes: &[u8], port: u32, interfaces: &mut Interfaces<'_>) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEADER_BYTES && answers.iter().map(Vec::len).sum::<usize>() < ANSWERS_MAX {
        let len = word(rest, 0) as usize;
        if len < HEADER_BYTES || len > rest.len() {
            break;
        }
        let request = Request {
            kind: half(rest, 4),
            flags: half(rest, 6),
            sequence: word(rest, 8),
            header: &rest[..HEADER_BYTES],
            body: &rest[HEADER_BYTES..len],
        };
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        if request.flags & REQUEST == 0 {
            continue;
        }
        let outcome = if request.kind < RTM_BASE {
            Ok(false)
        } else {
            answer(&request, port, interfaces, &mut answers)
        };
        // A list ends with a message of its own and needs no acknowledgement.
        let acknowledged = request.flags & ACK != 0 && outcome != Ok(true);
        if outcome.is_err() || acknowledged {
            answers.push(acknowledge(&request, port, outcome.err()));
        }
    }
    answers
}

fn message(kind: u16, flags: u16, sequence: u32, port: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&port.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// NLMSG_ERROR: the errno, or 0, and the request; all of it if it failed.
fn acknowledge(request: &Request<'_>, port: u32, errno: Option<Errno>) -> Vec<u8> {
    let mut body = (-errno.map_or(0, |errno| i32::from(errno.0))).to_le_bytes().to_vec();
    body.extend_from_slice(request.header);
    if errno.is_some() {
        body.extend_from_slice(request.body);
    }
    message(NLMSG_ERROR, 0, request.sequence, port, &body)
}

/// Answer one request; returns whether the answer is a list.
fn answer(
    request: &Request<'_>,
    port: u32,
    interfaces: &mut Interfaces<'_>,
    answers: &mut Vec<Vec<u8>>,
) -> Result<bool> {
    let gets = request.kind % 4 == 2;
    if !gets {
        return Err(Errno::EPERM);
    }
    let family = request.body.first().copied().unwrap_or(0);
    let dumps = request.flags & DUMP != 0;
    let list = match request.kind {
        RTM_GETLINK => links(&interfaces()?),
        RTM_GETADDR if dumps => addresses(&interfaces()?, family),
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let kind = if request.kind == RTM_GETLINK { RTM_NEWLINK } else { RTM_NEWADDR };
    if !dumps {
        let (_, body) = find_link(&list, request.body)?;
        answers.push(message(kind, 0, request.sequence, port, body));
        return Ok(false);
    }
    let mut reply = Vec::new();
    for (_, body) in &list {
        if reply.len() + HEADER_BYTES + body.len() > REPLY_BYTES {
            answers.push(core::mem::take(&mut reply));
        }
        reply.extend(message(kind, MULTI, request.sequence, port, body));
    }
    if !reply.is_empty() {
        answers.push(reply);
    }
    answers.push(message(NLMSG_DONE, MULTI, request.sequence, port, &[0; 4]));
    Ok(true)
}

/// A message's body and the interface that it is about.
type Body = (Interface, Vec<u8>);

/// The link that a request without NLM_F_DUMP names, by number or by name.
fn find_link<'a>(list: &'a [Body], request: &[u8]) -> Result<&'a Body> {
    if request.len() < 16 {
        return Err(Errno::EINVAL);
    }
    let index = word(request, 4);
    let name = attribute(&request[16..], IFLA_IFNAME);
    let found = list.iter().find(|(interface, _)| match name {
        _ if index != 0 => interface.index == index,
        Some(name) => trimmed(name) == trimmed(&interface.name),
        None => false,
    });
    if index == 0 && name.is_none() {
        return Err(Errno::EINVAL);
    }
    found.ok_or(Errno::ENODEV)
}

/// Bytes up to the first zero.
fn trimmed(name: &[u8]) -> &[u8] {
    &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len())]
}

/// The attribute `wanted`.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while rest.len() >= 4 {
        let len = usize::from(half(rest, 0));
        if len < 4 || len > rest.len() {
            return None;
        }
        if half(rest, 2) & 0x3fff == wanted {
            return Some(&rest[4..len]);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&((4 + value.len()) as u16).to_le_bytes());
    body.extend_from_slice(&kind.to_le_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn put_string(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let mut value = trimmed(value).to_vec();
    value.push(0);
    put(body, kind, &value);
}

/// struct ifinfomsg and its attributes, one for each link.
fn links(list: &[Interface]) -> Vec<Body> {
    let mut found: Vec<Body> = Vec::new();
    for link in list {
        if found.iter().any(|(known, _)| known.index == link.index) {
            continue;
        }
        let is_loopback = link.flags & IFF_LOOPBACK != 0;
        let kind = if is_loopback { ARPHRD_LOOPBACK } else { ARPHRD_ETHER };
        let mut body = vec![0; 2];
        body.extend_from_slice(&kind.to_le_bytes());
        body.extend_from_slice(&link.index.to_le_bytes());
        body.extend_from_slice(&link.flags.to_le_bytes());
        body.extend_from_slice(&[0; 4]);
        put_string(&mut body, IFLA_IFNAME, &link.name);
        put(&mut body, IFLA_TXQLEN, &1000_u32.to_le_bytes());
        // IF_OPER_UNKNOWN, IF_OPER_UP.
        put(&mut body, IFLA_OPERSTATE, &[if is_loopback { 0 } else { 6 }]);
        put(&mut body, IFLA_MTU, &link.mtu.to_le_bytes());
        put(&mut body, IFLA_ADDRESS, &link.hardware[..6]);
        put(&mut body, IFLA_BROADCAST, &[if is_loopback { 0 } else { 0xff }; 6]);
        found.push((*link, body));
    }
    found
}

/// struct ifaddrmsg and its attributes, one for each address of `family` (0 = all).
fn addresses(list: &[Interface], family: u8) -> Vec<Body> {
    let of_family = |address: &&Interface| match address.address[0] {
        own @ (AF_INET | AF_INET6) => family == 0 || family == own,
        _ => false,
    };
    list.iter().filter(of_family).map(|address| (*address, address_body(address))).collect()
}

fn address_body(entry: &Interface) -> Vec<u8> {
    let family = entry.address[0];
    let is_loopback = entry.flags & IFF_LOOPBACK != 0;
    let is_link_local = family == AF_INET6 && entry.address[8] == 0xfe && entry.address[9] & 0xc0 == 0x80;
    // RT_SCOPE_HOST, LINK, UNIVERSE.
    let scope = if is_loopback {
        254
    } else if is_link_local {
        253
    } else {
        0
    };
    let mut body = vec![family, entry.prefix as u8, PERMANENT as u8, scope];
    body.extend_from_slice(&entry.index.to_le_bytes());
    if family == AF_INET {
        let own = &entry.address[4..8];
        put(&mut body, IFA_ADDRESS, own);
        put(&mut body, IFA_LOCAL, own);
        if !is_loopback && entry.prefix < 31 {
            let host = u32::from_be_bytes([own[0], own[1], own[2], own[3]]);
            let broadcast = host | u32::MAX.checked_shr(entry.prefix).unwrap_or(0);
            put(&mut body, IFA_BROADCAST, &broadcast.to_be_bytes());
        }
        put_string(&mut body, IFA_LABEL, &entry.name);
    } else {
        put(&mut body, IFA_ADDRESS, &entry.address[8..24]);
    }
    put(&mut body, IFA_FLAGS, &PERMANENT.to_le_bytes());
    let forever = [u32::MAX, u32::MAX, 0, 0];
    let forever: Vec<u8> = forever.iter().flat_map(|word| word.to_le_bytes()).collect();
    put(&mut body, IFA_CACHEINFO, &forever);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list() -> Result<Vec<Interface>> {
        let mut lo = Interface { index: 1, flags: 0x49, prefix: 8, mtu: 65_536, ..Interface::default() };
        lo.name[..2].copy_from_slice(b"lo");
        lo.address[..8].copy_from_slice(&[2, 0, 0, 0, 127, 0, 0, 1]);
        let mut lo6 = Interface { prefix: 128, address: [0; 32], ..lo };
        (lo6.address[0], lo6.address[23]) = (10, 1);
        let mut eth = Interface { index: 2, flags: 0x1043, prefix: 24, mtu: 1500, ..Interface::default() };
        eth.name[..4].copy_from_slice(b"eth0");
        eth.address[..8].copy_from_slice(&[2, 0, 0, 0, 10, 1, 2, 3]);
        Ok(Vec::from([lo, lo6, eth]))
    }

    /// Types of all messages in the answers.
    fn ask(request: &[u8]) -> Vec<u16> {
        let mut kinds = Vec::new();
        for answer in serve(request, 77, &mut list) {
            let mut rest = &answer[..];
            while !rest.is_empty() {
                assert_eq!((word(rest, 8), word(rest, 12)), (5, 77), "sequence and port");
                kinds.push(half(rest, 4));
                rest = &rest[(word(rest, 0) as usize).next_multiple_of(4)..];
            }
        }
        kinds
    }

    fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        message(kind, REQUEST | flags, 5, 0, body)
    }

    #[test]
    fn lists_have_every_link_once_and_every_address() {
        assert_eq!(ask(&request(RTM_GETLINK, DUMP, &[0; 16])), [16, 16, 3]);
        assert_eq!(ask(&request(RTM_GETADDR, DUMP, &[0; 8])), [20, 20, 20, 3]);
        assert_eq!(ask(&request(RTM_GETADDR, DUMP, &[2, 0, 0, 0])), [20, 20, 3]);
        assert_eq!(ask(&request(RTM_GETADDR, DUMP, &[10])), [20, 3]);
        assert_eq!(ask(&request(RTM_GETADDR, DUMP, &[77])), [3]);
    }

    #[test]
    fn single_links_are_found_or_not() {
        let mut by_index = [0; 16];
        by_index[4] = 2;
        assert_eq!(ask(&request(RTM_GETLINK, 0, &by_index)), [16]);
        assert_eq!(ask(&request(RTM_GETLINK, ACK, &by_index)), [16, 2]);
        by_index[4] = 9;
        assert_eq!(ask(&request(RTM_GETLINK, 0, &by_index)), [2]);
        let mut by_name = vec![0; 16];
        put_string(&mut by_name, IFLA_IFNAME, b"eth0");
        assert_eq!(ask(&request(RTM_GETLINK, 0, &by_name)), [16]);
    }

    #[test]
    fn changes_are_refused() {
        let answers = serve(&request(RTM_NEWADDR, ACK, &[1; 8]), 77, &mut list);
        assert_eq!(answers.len(), 1);
        assert_eq!(word(&answers[0], 16) as i32, -1);
        assert_eq!(ask(&request(26, DUMP, &[0; 12])), [2]);
    }

    proptest! {
        #[test]
        fn no_request_breaks_anything(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 14u16..30, len in any::<u32>()) {
            let mut request = request(kind, DUMP & bytes.len() as u16, &bytes);
            serve(&request, 1, &mut list);
            request[..4].copy_from_slice(&len.to_le_bytes());
            serve(&request, 1, &mut list);
            serve(&bytes, 1, &mut list);
        }
    }
}
