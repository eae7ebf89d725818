//! The interfaces of the vCPU thread's network namespace (getifaddrs(3)), and its routes.
//!
//! The vCPU thread opens no files: those of /proc that tell of its network namespace are opened before ([`Files`]) and read again when they are wanted. Interfaces are asked for by
//! sockets.
//!
//! Unsafe because getifaddrs is a C list, and for an ioctl.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::ptr::null_mut;

use rustix::io::Errno;
use seuss_abi::net::{ADDRESS_BYTES, Interface};

use super::socket::address_len;

/// Longest text that is read of a file of /proc.
const TEXT_MAX: usize = 1 << 20;

/// Files of /proc that show the network namespace of the thread that opened them.
#[derive(Debug)]
pub(crate) struct Files {
    routes: Option<File>,
    first_port: Option<File>,
}

impl Files {
    /// Those of the calling thread's namespace. One that is not there shows nothing.
    pub(crate) fn open() -> Self {
        Self {
            // /proc/self would show the namespace of the process' first thread.
            routes: File::open("/proc/thread-self/net/route").ok(),
            first_port: File::open("/proc/sys/net/ipv4/ip_unprivileged_port_start").ok(),
        }
    }

    /// The lines of /proc/net/route without its head, as many as fit into `room` bytes.
    pub(super) fn routes(&self, room: usize) -> rustix::io::Result<String> {
        let text = self.routes.as_ref().map_or(Ok(String::new()), text)?;
        let mut lines = String::new();
        for line in text.split_inclusive('\n').skip(1) {
            if lines.len() + line.len() > room {
                break;
            }
            lines += line;
        }
        Ok(lines)
    }

    /// The first port that unprivileged processes may bind (ip(7), ip_unprivileged_port_start).
    pub(super) fn first_unprivileged_port(&self) -> u32 {
        let text = self.first_port.as_ref().and_then(|file| text(file).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
    }
}

/// What `file` says now: reading from its start makes the kernel write it anew.
fn text(file: &File) -> rustix::io::Result<String> {
    let errno = |error: std::io::Error| Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO));
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while bytes.len() < TEXT_MAX {
        match file.read_at(&mut piece, bytes.len() as u64).map_err(errno)? {
            0 => break,
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

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
    let socket = super::sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).ok();
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
            interface.index = link.sll_ifindex.cast_unsigned();
            interface.mtu = mtu(socket.as_ref(), name);
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
        // An address is named by its label, which is its interface's name, or that and a colon (netdevice(7)).
        let is_own = |address: &&Interface| {
            let label = address.name.split(|byte| matches!(byte, 0 | b':')).next();
            label == link.name.split(|byte| *byte == 0).next()
        };
        let own: Vec<_> = addresses.iter().filter(is_own).collect();
        if own.is_empty() {
            all.push(link);
        }
        all.extend(own.into_iter().map(|address| Interface {
            index: link.index,
            mtu: link.mtu,
            hardware: link.hardware,
            ..*address
        }));
    }
    Ok(all)
}

/// The MTU of interface `name` (netdevice(7)).
fn mtu(socket: Option<&std::os::fd::OwnedFd>, name: &CStr) -> u32 {
    let otherwise = if name == c"lo" { 65_536 } else { 1500 };
    // SAFETY: ifreq is a C structure of integers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (into, &byte) in request.ifr_name.iter_mut().take(15).zip(name.to_bytes()) {
        *into = byte.cast_signed();
    }
    let Some(socket) = socket else { return otherwise };
    // SAFETY: the request is complete, has room for the answer, and outlives the call.
    let returned = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    // SAFETY: the call has set this member.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    if returned == 0 { u32::try_from(mtu).unwrap_or(otherwise) } else { otherwise }
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
        let files = super::Files::open();
        for _ in 0..2 {
            assert_eq!(files.routes(usize::MAX).expect("routes"), lines);
        }
        assert_eq!(files.routes(3).expect("routes"), "");
        let first =
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("a sysctl");
        assert_eq!(files.first_unprivileged_port().to_string(), first.trim());
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
