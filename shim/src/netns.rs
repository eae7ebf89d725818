//! Network namespaces.
//!
//! Owns [`run_in`]: runs a closure on a thread that is in a container's network namespace. Threads that the closure starts inherit the
//! namespace (clone(2), network_namespaces(7)): that is how a guest's vCPU thread gets there, while the rest of the shim stays in
//! containerd's.
//!
//! Unsafe: unshare(2), which in general can pull a thread's files or memory from under safe code; an ioctl.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::spec::Network;

/// Why a network namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It cannot be opened or joined.
    #[error("cannot enter the network namespace {path}: {source}", path = .path.display())]
    Enter {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new one cannot be made.
    #[error("cannot make a network namespace: {source}")]
    New {
        /// Why.
        source: io::Error,
    },
    /// A parameter cannot be set.
    #[error("cannot set sysctl {key} to {value:?}: {source}")]
    Sysctl {
        /// Its path below /proc/sys.
        key: String,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// A parameter of the host.
    #[error(
        "sysctl {key} is refused: the pod is in the host's network namespace, whose parameters are the host's (drop the sysctl, or hostNetwork)"
    )]
    HostSysctl {
        /// Its path below /proc/sys.
        key: String,
    },
    /// The thread could not be started, or panicked.
    #[error("the thread that entered the network namespace failed")]
    Thread,
}

/// Runs `work` in `network`.
///
/// # Errors
/// [`NetnsError`]; `work` was not run then, unless it panicked.
pub fn run_in<T: Send>(network: &Network, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    if *network == Network::Host {
        return Ok(work());
    }
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("netns".to_owned());
        let thread = builder
            .spawn_scoped(scope, || enter(network).map(|()| work()))
            .map_err(|_| NetnsError::Thread)?;
        thread.join().unwrap_or(Err(NetnsError::Thread))
    })
}

/// Sets network parameters, (path below /proc/sys, value), in `network`: /proc/sys/net shows the reading thread's namespace.
///
/// # Errors
/// [`NetnsError`].
pub fn set_sysctls(network: &Network, sysctls: &[(String, String)]) -> Result<(), NetnsError> {
    let Some((first, _)) = sysctls.first() else { return Ok(()) };
    let refused = || NetnsError::HostSysctl { key: first.clone() };
    if *network == Network::Host {
        return Err(refused());
    }
    // The shim is in containerd's, which is the host's; so is the first process, where it can be seen.
    let hosts: Vec<_> = ["/proc/self/ns/net", "/proc/1/ns/net"].iter().filter_map(identity).collect();
    run_in(network, || {
        // A path may lead to the host's namespace, too.
        if identity("/proc/thread-self/ns/net").is_none_or(|own| hosts.contains(&own)) {
            return Err(refused());
        }
        for (key, value) in sysctls {
            std::fs::write(Path::new("/proc/sys").join(key), value).map_err(|source| NetnsError::Sysctl {
                key: key.clone(),
                value: value.clone(),
                source,
            })?;
        }
        Ok(())
    })?
}

/// Device and inode number of a namespace (namespaces(7)).
fn identity(path: impl AsRef<Path>) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn enter(network: &Network) -> Result<(), NetnsError> {
    match network {
        Network::Host => Ok(()),
        Network::Path(path) => {
            let failed = |source: io::Error| NetnsError::Enter { path: path.clone(), source };
            // A link of /proc/PID/ns is one of the ways to name a namespace. Something else is refused by setns(2), a FIFO does not block.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| failed(e.into()))
        }
        Network::New => {
            // SAFETY: NEWNET changes neither the files nor the memory nor the signal handling of this thread, which was started for this
            // purpose; sockets that other threads have open stay as they are.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(|e| NetnsError::New { source: e.into() })?;
            bring_up_loopback().map_err(|source| NetnsError::New { source })
        }
    }
}

/// Sets the loopback interface up, as every OCI runtime does in a network namespace that it makes (netdevice(7)).
fn bring_up_loopback() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: ifreq is a C structure of integers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (into, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *into = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is complete and outlives the call.
    let returned = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn the_work_and_its_threads_are_inside_and_the_caller_is_not() {
        let before = here();
        let Ok((inside, child)) =
            run_in(&Network::New, || (here(), std::thread::spawn(here).join().unwrap()))
        else {
            eprintln!("skipped: this user may not make network namespaces");
            return;
        };
        assert_ne!(inside, before);
        assert_eq!(inside, child);
        assert_eq!(here(), before);
    }

    #[test]
    fn a_new_namespace_has_loopback() {
        let talk = || {
            let server = std::net::TcpListener::bind("127.0.0.1:0")?;
            std::net::TcpStream::connect(server.local_addr()?).map(drop)
        };
        match run_in(&Network::New, talk) {
            Ok(talked) => assert!(talked.is_ok(), "{talked:?}"),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    #[test]
    fn joining_by_path_finds_that_namespace() {
        let own = Network::Path("/proc/self/ns/net".into());
        match run_in(&own, here) {
            Ok(inside) => assert_eq!(inside, here()),
            Err(error) => eprintln!("skipped: {error}"),
        }
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let error = run_in(&Network::Path("/nonexistent/ns".into()), || ()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ns"), "{error}");
    }

    #[test]
    fn the_hosts_parameters_are_out_of_reach() {
        // One that changes nothing, should it be written.
        let key = "net/ipv4/ip_unprivileged_port_start";
        let value = std::fs::read_to_string(Path::new("/proc/sys").join(key)).unwrap();
        let sysctls = [(key.to_owned(), value)];
        // By whatever name.
        for network in [Network::Host, Network::Path("/proc/self/ns/net".into())] {
            let error = set_sysctls(&network, &sysctls).unwrap_err();
            if matches!(error, NetnsError::Enter { .. }) {
                eprintln!("skipped: {error}");
                continue;
            }
            assert!(matches!(error, NetnsError::HostSysctl { .. }), "{error}");
            assert!(error.to_string().contains(key), "{error}");
        }
        assert!(set_sysctls(&Network::Host, &[]).is_ok());
        match set_sysctls(&Network::New, &sysctls) {
            Err(error @ NetnsError::New { .. }) => eprintln!("skipped: {error}"),
            result => result.unwrap(),
        }
    }

    #[test]
    fn the_host_network_needs_no_thread() {
        let id = std::thread::current().id();
        assert_eq!(run_in(&Network::Host, || std::thread::current().id()).unwrap(), id);
    }
}
