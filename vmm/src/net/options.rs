//! The socket options that a guest may set and read on host sockets.
//!
//! A list of what may be used, because the VMM's process is privileged: SO_BINDTODEVICE, SO_MARK, IP_TRANSPARENT, TCP_REPAIR, filters and their
//! like must not be reached through it. SO_LINGER is the guest's own affair, since a lingering close would keep the vCPU thread waiting.

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

/// Whether the guest may set this option.
pub(super) fn may_set(level: i32, name: i32) -> bool {
    SET.contains(&(level, name))
}

/// Whether the guest may read this option.
pub(super) fn may_get(level: i32, name: i32) -> bool {
    may_set(level, name) || GET_ONLY.contains(&(level, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_options_are_out_of_reach() {
        for (level, name) in [
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
            (libc::SOL_SOCKET, libc::SO_MARK),
            (libc::SOL_SOCKET, libc::SO_LINGER),
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
            (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
            (libc::IPPROTO_TCP, 19), // TCP_REPAIR
        ] {
            assert!(!may_set(level, name) && !may_get(level, name), "{level} {name}");
        }
        assert!(may_get(libc::SOL_SOCKET, libc::SO_ERROR) && !may_set(libc::SOL_SOCKET, libc::SO_ERROR));
    }
}
