//! The interfaces of the pod as ioctl(2) shows them (netdevice(7)).

use crate::errno::{Errno, Result};
use crate::fs::file::UserMemory;
use crate::uplink::Uplink;
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::net::Interface;

const SIOCGIFNAME: u32 = 0x8910;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFTXQLEN: u32 = 0x8942;
/// Requests about addresses, which only sockets of AF_INET serve: SIOCGIFADDR to SIOCSIFNETMASK.
pub(in crate::net) const INTERNET: core::ops::RangeInclusive<u32> = 0x8915..=0x891c;
/// Bytes of struct ifreq.
const REQUEST_BYTES: usize = 40;
/// Bytes of ifr_name.
const NAME_BYTES: usize = 16;
const AF_INET: u8 = 2;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const IFF_LOOPBACK: u32 = 8;

/// Serve a request about interfaces.
///
/// # Errors
/// ENOTTY (another request), ENODEV, EADDRNOTAVAIL, EFAULT, EPERM (changes).
pub(in crate::net) fn ioctl(
    uplink: &Rc<Uplink>,
    memory: &dyn UserMemory,
    request: u32,
    argument: u64,
) -> Result<u64> {
    match request {
        SIOCGIFCONF => configuration(&uplink.interfaces()?, memory, argument),
        SIOCGIFNAME
        | SIOCGIFFLAGS..=SIOCGIFMETRIC
        | SIOCGIFMTU
        | SIOCGIFHWADDR
        | SIOCGIFINDEX
        | SIOCGIFTXQLEN => {
            let mut bytes = [0; REQUEST_BYTES];
            memory.load(argument, &mut bytes)?;
            answer(&uplink.interfaces()?, request, &mut bytes)?;
            memory.store(argument, &bytes)?;
            Ok(0)
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// struct ifconf: a length and an address of struct ifreqs.
fn configuration(list: &[Interface], memory: &dyn UserMemory, argument: u64) -> Result<u64> {
    let mut head = [0; 16];
    memory.load(argument, &mut head)?;
    let room = i32::from_le_bytes([head[0], head[1], head[2], head[3]]).max(0) as usize / REQUEST_BYTES;
    let mut address = [0; 8];
    address.copy_from_slice(&head[8..]);
    let address = u64::from_le_bytes(address);
    let entries: Vec<_> = list.iter().filter(|entry| entry.address[0] == AF_INET).collect();
    let count = if address == 0 { entries.len() } else { entries.len().min(room) };
    if address != 0 {
        for (at, entry) in entries.iter().take(count).enumerate() {
            let mut bytes = [0; REQUEST_BYTES];
            bytes[..NAME_BYTES].copy_from_slice(&entry.name);
            bytes[NAME_BYTES..NAME_BYTES + 16].copy_from_slice(&entry.address[..16]);
            memory.store(address.wrapping_add((at * REQUEST_BYTES) as u64), &bytes)?;
        }
    }
    memory.store(argument, &((count * REQUEST_BYTES) as u32).to_le_bytes())?;
    Ok(0)
}

fn answer(list: &[Interface], request: u32, bytes: &mut [u8; REQUEST_BYTES]) -> Result {
    let (name, value) = bytes.split_at_mut(NAME_BYTES);
    if request == SIOCGIFNAME {
        let index = u32::from_le_bytes([value[0], value[1], value[2], value[3]]);
        let found = list.iter().find(|entry| entry.index == index).ok_or(Errno::ENODEV)?;
        name.copy_from_slice(&found.name);
        return Ok(());
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
    let is_named = |entry: &&Interface| {
        entry.name[..end] == name[..end] && entry.name.get(end).is_none_or(|byte| *byte == 0)
    };
    let any = list.iter().find(is_named).ok_or(Errno::ENODEV)?;
    let with_address = list.iter().filter(is_named).find(|entry| entry.address[0] == AF_INET);
    let with_address = with_address.ok_or(Errno::EADDRNOTAVAIL);
    let mask = |prefix: u32| u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
    let internet = |host: u32| {
        let mut address = [0; 16];
        address[0] = AF_INET;
        address[4..8].copy_from_slice(&host.to_be_bytes());
        address
    };
    let mut words = [0; 16];
    match request {
        SIOCGIFFLAGS => words[..2].copy_from_slice(&(any.flags as u16).to_le_bytes()),
        SIOCGIFADDR => words.copy_from_slice(&with_address?.address[..16]),
        SIOCGIFNETMASK => words = internet(mask(with_address?.prefix)),
        SIOCGIFBRDADDR => {
            let entry = with_address?;
            let host =
                u32::from_be_bytes([entry.address[4], entry.address[5], entry.address[6], entry.address[7]]);
            words = internet(if entry.flags & IFF_LOOPBACK != 0 { 0 } else { host | !mask(entry.prefix) });
        }
        SIOCGIFMETRIC => {}
        SIOCGIFMTU => words[..4].copy_from_slice(&any.mtu.to_le_bytes()),
        SIOCGIFHWADDR => {
            let kind = if any.flags & IFF_LOOPBACK != 0 { ARPHRD_LOOPBACK } else { ARPHRD_ETHER };
            words[..2].copy_from_slice(&kind.to_le_bytes());
            words[2..10].copy_from_slice(&any.hardware);
        }
        SIOCGIFINDEX => words[..4].copy_from_slice(&any.index.to_le_bytes()),
        SIOCGIFTXQLEN => words[..4].copy_from_slice(&1000_u32.to_le_bytes()),
        // Requests that set something lie between those that get.
        _ => return Err(Errno::EPERM),
    }
    value[..16].copy_from_slice(&words);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<Interface> {
        let mut lo = Interface { index: 1, flags: 0x49, prefix: 8, mtu: 65_536, ..Interface::default() };
        lo.name[..2].copy_from_slice(b"lo");
        lo.address[..8].copy_from_slice(&[2, 0, 0, 0, 127, 0, 0, 1]);
        let mut eth = Interface { index: 2, flags: 0x1043, prefix: 24, mtu: 1500, ..Interface::default() };
        eth.name[..4].copy_from_slice(b"eth0");
        eth.hardware = [2, 3, 4, 5, 6, 7, 0, 0];
        eth.address[..8].copy_from_slice(&[2, 0, 0, 0, 10, 1, 2, 3]);
        Vec::from([lo, eth])
    }

    fn ask(request: u32, name: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..name.len()].copy_from_slice(name);
        answer(&list(), request, &mut bytes)?;
        Ok(bytes[NAME_BYTES..NAME_BYTES + 8].to_vec())
    }

    #[test]
    fn interfaces_are_found_by_their_whole_name() {
        assert_eq!(ask(SIOCGIFADDR, b"eth0"), Ok(Vec::from([2, 0, 0, 0, 10, 1, 2, 3])));
        assert_eq!(ask(SIOCGIFNETMASK, b"eth0"), Ok(Vec::from([2, 0, 0, 0, 255, 255, 255, 0])));
        assert_eq!(ask(SIOCGIFBRDADDR, b"eth0"), Ok(Vec::from([2, 0, 0, 0, 10, 1, 2, 255])));
        assert_eq!(ask(SIOCGIFHWADDR, b"eth0"), Ok(Vec::from([1, 0, 2, 3, 4, 5, 6, 7])));
        assert_eq!(ask(SIOCGIFINDEX, b"lo").map(|bytes| bytes[0]), Ok(1));
        for name in [&b"l"[..], b"eth", b"eth00", b""] {
            assert_eq!(ask(SIOCGIFFLAGS, name), Err(Errno::ENODEV));
        }
        assert_eq!(ask(SIOCGIFADDR + 1, b"lo"), Err(Errno::EPERM));
    }
}
