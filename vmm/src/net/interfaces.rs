//! The interfaces of the vCPU thread's network namespace (getifaddrs(3)), and its routes.
//!
//! Unsafe because getifaddrs is a C list.

use std::ffi::CStr;
use std::ptr::null_mut;

use rustix::io::Errno;
use seuss_abi::net::{ADDRESS_BYTES, Interface};

use super::socket::address_len;

/// Frees a list of getifaddrs(3).
struct List(*mut libc::ifaddrs);

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: made by getifaddrs, freed once.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

/// All interfaces, with their addresses: one entry per address, or one without any.
pub(super) fn list() -> rustix::io::Result<Vec<Interface>> {
    let mut list = List(null_mut());
    // SAFETY: the pointer is valid for the call to write.
    if unsafe { libc::getifaddrs(&raw mut list.0) } != 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno));
    }
    let mut links: Vec<Interface> = Vec::new();
    let mut addresses = Vec::new();
    let mut at = list.0;
    while !at.is_null() {
        // SAFETY: an entry of the list, which lives until the function ends.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        let mut interface = Interface { flags: entry.ifa_flags, ..Interface::default() };
        // SAFETY: every entry has a name, a C string.
        let name = unsafe { CStr::from_ptr(entry.ifa_name) };
        for (into, &byte) in interface.name.iter_mut().take(15).zip(name.to_bytes()) {
            *into = byte;
        }
        // SAFETY: a C string.
        interface.index = unsafe { libc::if_nametoindex(entry.ifa_name) };
        if entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: not null, and at least a family long.
        let family = i32::from(unsafe { (*entry.ifa_addr).sa_family });
        if family == libc::AF_PACKET {
            // SAFETY: an address of this family is a sockaddr_ll.
            let link = unsafe { entry.ifa_addr.cast::<libc::sockaddr_ll>().read_unaligned() };
            if link.sll_hatype == libc::ARPHRD_ETHER {
                interface.hardware[..6].copy_from_slice(&link.sll_addr[..6]);
            }
            interface.mtu = mtu(&name.to_string_lossy());
            links.push(interface);
            continue;
        }
        let raw = bytes(entry.ifa_addr, family);
        if address_len(&raw) > 0 {
            interface.address = raw;
            interface.prefix = prefix(&bytes(entry.ifa_netmask, family), family);
            addresses.push(interface);
        }
    }
    let mut all = Vec::new();
    for link in links {
        let own: Vec<_> = addresses.iter().filter(|address| address.index == link.index).collect();
        if own.is_empty() {
            all.push(link);
        }
        all.extend(own.into_iter().map(|address| Interface {
            mtu: link.mtu,
            hardware: link.hardware,
            ..*address
        }));
    }
    Ok(all)
}

/// The lines of /proc/net/route without its head, as many as fit into `room` bytes.
pub(super) fn routes(room: usize) -> rustix::io::Result<String> {
    // /proc/self would show the namespace of the process' first thread.
    let text = std::fs::read_to_string("/proc/thread-self/net/route")
        .map_err(|error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let mut lines = String::new();
    for line in text.split_inclusive('\n').skip(1) {
        if lines.len() + line.len() > room {
            break;
        }
        lines += line;
    }
    Ok(lines)
}

fn mtu(name: &str) -> u32 {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).unwrap_or_default();
    text.trim().parse().unwrap_or(if name == "lo" { 65_536 } else { 1500 })
}

/// The address at `pointer`, zeros behind it.
fn bytes(pointer: *const libc::sockaddr, family: i32) -> [u8; ADDRESS_BYTES] {
    let mut raw = [0; ADDRESS_BYTES];
    let len = match family {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        libc::AF_INET6 => size_of::<libc::sockaddr_in6>(),
        _ => 0,
    };
    if !pointer.is_null() {
        // SAFETY: an address of this family has `len` bytes, which is at most the buffer.
        unsafe { std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), raw.as_mut_ptr(), len) };
    }
    raw
}

/// Bits of a netmask.
fn prefix(mask: &[u8; ADDRESS_BYTES], family: i32) -> u32 {
    let bits = if family == libc::AF_INET { &mask[4..8] } else { &mask[8..24] };
    bits.iter().map(|byte| byte.count_ones()).sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn routes_are_whole_lines_of_this_namespace() {
        let text = std::fs::read_to_string("/proc/thread-self/net/route").expect("routes");
        let (_, lines) = text.split_once('\n').expect("a head");
        assert_eq!(super::routes(usize::MAX).expect("routes"), lines);
        assert_eq!(super::routes(3).expect("routes"), "");
    }

    #[test]
    fn loopback_is_there() {
        let list = super::list().expect("interfaces");
        let loopback: Vec<_> = list.iter().filter(|entry| entry.name.starts_with(b"lo\0")).collect();
        assert!(!loopback.is_empty(), "{list:?}");
        for entry in loopback.iter().filter(|entry| entry.address[0] == 2) {
            assert_eq!((&entry.address[4..8], entry.prefix), (&[127, 0, 0, 1][..], 8));
            assert!(entry.index > 0 && entry.mtu > 0);
        }
    }
}
