//! What a guest's sockets may do on the host, which whoever starts the guest decides.
//!
//! Owns [`NetPrivileges`], the outer limit, and [`Owner`], whose sockets they are. A guest has rules of its own for its processes, and states what they may; its
//! word can only narrow what is granted here. Clones get the privileges of their own pod: nothing of them is in a snapshot.
//!
//! **Owner.** The kernel lets several sockets listen at one port (SO_REUSEPORT) if they belong to one user (socket(7)), and /proc/net and ss(8) show him. A
//! socket belongs to the file system user id of the thread that makes it (setfsuid(2)). The VMM's threads are root's, so each socket is made with the container's
//! user id for the time of the call. Going there and back needs no capability once the thread has that id as its saved one, so a thread that was confined afterwards
//! can still do it; everything else that it does is done as before.
//!
//! Unsafe: setresuid(2) and setfsuid(2) of one thread, which the C library's wrappers would make of all of them, or do not know.

use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::interfaces::Files;

/// What sockets of a guest may do beyond what every process may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetPrivileges {
    /// Bind ports below `net.ipv4.ip_unprivileged_port_start` (CAP_NET_BIND_SERVICE).
    pub bind_service: bool,
    /// Bind to an interface, mark packets, take any priority (CAP_NET_RAW, capabilities(7)). Raw sockets there are none, whatever this says.
    pub raw: bool,
    /// Mark packets, take any priority, and buffers beyond `net.core.rmem_max` and `wmem_max` (CAP_NET_ADMIN).
    pub admin: bool,
    /// User id of the host that the sockets belong to; `None`: whoever runs the VMM.
    pub owner: Option<u32>,
}

impl NetPrivileges {
    /// What the calling thread itself may do: for who runs a guest as a program of his own.
    #[must_use]
    pub fn of_this_process() -> Self {
        let own = rustix::thread::capabilities(None).map(|sets| sets.effective);
        let has = |capability| own.is_ok_and(|own| own.contains(capability));
        Self {
            bind_service: has(CapabilitySet::NET_BIND_SERVICE),
            raw: has(CapabilitySet::NET_RAW),
            admin: has(CapabilitySet::NET_ADMIN),
            owner: None,
        }
    }

    /// Whether a port that only privileged processes may bind can be bound, as far as the guest's own rules let it.
    pub(super) fn may_bind(self, address: &[u8], files: &Files) -> bool {
        self.bind_service || !is_privileged_port(address, files)
    }
}

/// Whether only privileged processes of this network namespace may bind the address' port.
pub(super) fn is_privileged_port(address: &[u8], files: &Files) -> bool {
    let port = address.get(2..4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    port != 0 && u32::from(port) < files.first_unprivileged_port()
}

/// The user whose sockets are made on this thread.
#[derive(Debug)]
pub(crate) struct Owner {
    /// File system user ids: the owner's, and the thread's own. `None`: they are the same.
    switch: Option<(u32, u32)>,
}

impl Owner {
    /// Prepares the calling thread, which from now on is the one that makes the sockets.
    ///
    /// # Errors
    /// EPERM: it may not do that (it needs CAP_SETUID once).
    pub(crate) fn settle(owner: Option<u32>) -> rustix::io::Result<Self> {
        let own = fs_uid();
        let Some(owner) = owner.filter(|&owner| owner != own) else { return Ok(Self { switch: None }) };
        const KEEP: libc::c_long = -1;
        // SAFETY: the raw call changes the saved user id of this thread alone; the real and the effective one, on which all else depends, stay.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, KEEP, KEEP, libc::c_long::from(owner)) };
        if done != 0 {
            return Err(Errno::from_raw_os_error(
                std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EPERM),
            ));
        }
        let settled = Self { switch: Some((owner, own)) };
        // setfsuid(2) tells no errors.
        if settled.make(fs_uid) != owner || fs_uid() != own {
            return Err(Errno::PERM);
        }
        Ok(settled)
    }

    /// Runs `make`, whose new sockets are the owner's.
    pub(super) fn make<T>(&self, make: impl FnOnce() -> T) -> T {
        struct Back(u32);
        impl Drop for Back {
            fn drop(&mut self) {
                set_fs_uid(self.0);
            }
        }
        let _back = self.switch.map(|(owner, own)| {
            set_fs_uid(owner);
            Back(own)
        });
        make()
    }
}

fn set_fs_uid(uid: u32) -> u32 {
    // SAFETY: the call changes this thread's file system user id, and no memory.
    let before = unsafe { libc::setfsuid(uid) };
    before.cast_unsigned()
}

/// The thread's file system user id: an id that there cannot be changes nothing.
fn fs_uid() -> u32 {
    set_fs_uid(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::sys;

    fn address(port: u16) -> Vec<u8> {
        let family = (libc::AF_INET as u16).to_ne_bytes();
        [&family[..], &port.to_be_bytes(), &[127, 0, 0, 1], &[0; 8]].concat()
    }

    #[test]
    fn low_ports_are_for_those_who_may() {
        let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
        let first: u16 = first.trim().parse().unwrap();
        let (nobody, somebody) =
            (NetPrivileges::default(), NetPrivileges { bind_service: true, ..NetPrivileges::default() });
        for port in [first, 8080, 65_535, 0] {
            assert!(nobody.may_bind(&address(port), &Files::open()), "{port}");
        }
        if let Some(low) = first.checked_sub(1).filter(|port| *port > 0) {
            assert!(
                !nobody.may_bind(&address(low), &Files::open())
                    && somebody.may_bind(&address(low), &Files::open())
            );
        }
    }

    /// The user that /proc/net/tcp shows for the listening socket at `port`.
    fn shown_owner(port: u16) -> Option<u32> {
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let local = format!("0100007F:{port:04X}");
        let line = table.lines().find(|line| line.split_whitespace().nth(1) == Some(&local))?;
        line.split_whitespace().nth(7)?.parse().ok()
    }

    fn listen(owner: &Owner, port: u16) -> rustix::io::Result<(std::os::fd::OwnedFd, u16)> {
        let fd = owner.make(|| sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0))?;
        sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &1_i32.to_ne_bytes())?;
        sys::bind(&fd, &address(port))?;
        rustix::net::listen(&fd, 8)?;
        let (name, _) = sys::name(&fd, false)?;
        Ok((fd, u16::from_be_bytes([name[2], name[3]])))
    }

    #[test]
    fn a_port_of_one_user_is_not_shared_with_another() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root makes sockets of others");
            return;
        }
        // Threads of their own: their ids stay changed.
        let as_user = |uid: u32, port: u16| {
            std::thread::spawn(move || {
                let owner = Owner::settle(Some(uid)).unwrap();
                let own = fs_uid();
                let made = listen(&owner, port);
                assert_eq!(fs_uid(), own, "only the call was the owner's");
                made
            })
            .join()
            .unwrap()
        };
        let (_first, port) = as_user(4711, 0).unwrap();
        assert_eq!(shown_owner(port), Some(4711));
        assert_eq!(as_user(4712, port).unwrap_err(), Errno::ADDRINUSE, "another container's");
        assert_eq!(as_user(0, port).unwrap_err(), Errno::ADDRINUSE, "root's");
        assert!(as_user(4711, port).is_ok(), "his own");
    }

    #[test]
    fn a_confined_thread_still_makes_sockets_of_its_owner() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root makes sockets of others");
            return;
        }
        std::thread::spawn(|| {
            let owner = Owner::settle(Some(4713)).unwrap();
            let none = CapabilitySet::empty();
            let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
            rustix::thread::set_capabilities(None, sets).unwrap();
            let (_fd, port) = listen(&owner, 0).unwrap();
            assert_eq!(shown_owner(port), Some(4713));
        })
        .join()
        .unwrap();
    }
}
