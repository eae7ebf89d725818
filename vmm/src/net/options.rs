//! The socket options that a guest may set and read on host sockets.
//!
//! A list of what may be used, because the VMM's process is privileged: what the kernel asks a privilege for is granted only where the container has it,
//! and IP_TRANSPARENT, TCP_REPAIR, filters and their like cannot be reached at all. SO_LINGER is the guest's own affair, since a lingering close would keep the vCPU thread waiting.

use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::{NetPrivileges, sys};

const SET: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
];

const GET_ONLY: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_ERROR),
    (libc::IPPROTO_TCP, libc::TCP_INFO),
    (libc::IPPROTO_IP, libc::IP_MTU),
];

/// Whether a container has what an option needs.
type Granted = fn(NetPrivileges) -> bool;

/// Options that need a privilege, as the kernel asks for it (capabilities(7), sk_setsockopt in net/core/sock.c).
const PRIVILEGED: &[((i32, i32), Granted)] = &[
    ((libc::SOL_SOCKET, libc::SO_BINDTODEVICE), |may| may.raw),
    ((libc::SOL_SOCKET, libc::SO_MARK), |may| may.raw || may.admin),
    ((libc::SOL_SOCKET, libc::SO_SNDBUFFORCE), |may| may.admin),
    ((libc::SOL_SOCKET, libc::SO_RCVBUFFORCE), |may| may.admin),
];

/// Highest SO_PRIORITY that everybody may set.
const PRIORITY_MAX: i32 = 6;

/// Sets an option for the guest.
///
/// # Errors
/// ENOPROTOOPT: it is none that a guest can set. EPERM: its container may not. setsockopt(2)'s.
pub(super) fn set(
    fd: &OwnedFd,
    level: i32,
    name: i32,
    value: &[u8],
    privileges: NetPrivileges,
) -> rustix::io::Result<()> {
    may_set(level, name, value, privileges)?;
    sys::set_option(fd, level, name, value)
}

fn may_set(level: i32, name: i32, value: &[u8], privileges: NetPrivileges) -> rustix::io::Result<()> {
    if SET.contains(&(level, name)) {
        return Ok(());
    }
    let granted = if (level, name) == (libc::SOL_SOCKET, libc::SO_PRIORITY) {
        let bytes = value.first_chunk().ok_or(Errno::INVAL)?;
        (0..=PRIORITY_MAX).contains(&i32::from_ne_bytes(*bytes)) || privileges.raw || privileges.admin
    } else {
        let known = PRIVILEGED.iter().find(|(option, _)| *option == (level, name));
        let (_, granted) = known.ok_or(Errno::NOPROTOOPT)?;
        granted(privileges)
    };
    if granted { Ok(()) } else { Err(Errno::PERM) }
}

/// Whether the guest may read this option.
pub(super) fn may_get(level: i32, name: i32) -> bool {
    SET.contains(&(level, name)) || GET_ONLY.contains(&(level, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked of an option that nobody needs a privilege for, of one that needs one, and of one that is out of reach.
    fn outcome(level: i32, name: i32, value: i32, privileges: NetPrivileges) -> Result<(), Errno> {
        may_set(level, name, &value.to_ne_bytes(), privileges)
    }

    const NONE: NetPrivileges = NetPrivileges { bind_service: false, raw: false, admin: false, owner: None };
    const ALL: NetPrivileges = NetPrivileges { bind_service: true, raw: true, admin: true, owner: Some(0) };

    #[test]
    fn privileged_options_are_for_those_who_may() {
        let socket = libc::SOL_SOCKET;
        let (raw, admin) = (NetPrivileges { raw: true, ..NONE }, NetPrivileges { admin: true, ..NONE });
        for (name, of_raw, of_admin) in [
            (libc::SO_BINDTODEVICE, true, false),
            (libc::SO_MARK, true, true),
            (libc::SO_RCVBUFFORCE, false, true),
            (libc::SO_SNDBUFFORCE, false, true),
        ] {
            assert_eq!(outcome(socket, name, 1, NONE), Err(Errno::PERM), "{name}");
            assert_eq!(outcome(socket, name, 1, raw).is_ok(), of_raw, "{name}");
            assert_eq!(outcome(socket, name, 1, admin).is_ok(), of_admin, "{name}");
        }
        for (value, of_nobody) in [(0, true), (6, true), (7, false), (-1, false)] {
            assert_eq!(outcome(socket, libc::SO_PRIORITY, value, NONE).is_ok(), of_nobody, "{value}");
            assert_eq!(outcome(socket, libc::SO_PRIORITY, value, raw), Ok(()), "{value}");
        }
        assert_eq!(may_set(socket, libc::SO_PRIORITY, &[1], ALL), Err(Errno::INVAL));
    }

    #[test]
    fn what_no_privilege_buys() {
        for (level, name) in [
            (libc::SOL_SOCKET, libc::SO_LINGER),
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
            (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF),
            (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF),
            (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
            (libc::SOL_SOCKET, libc::SO_ERROR),
            (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
            (libc::IPPROTO_IP, libc::IP_HDRINCL),
            (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
            (libc::IPPROTO_TCP, 19), // TCP_REPAIR
            (libc::IPPROTO_TCP, 31), // TCP_ULP
        ] {
            assert_eq!(outcome(level, name, 1, ALL), Err(Errno::NOPROTOOPT), "{level} {name}");
            assert_eq!(may_get(level, name), name == libc::SO_ERROR && level == libc::SOL_SOCKET);
        }
    }
}
