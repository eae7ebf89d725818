//! Confined threads: what a role does not allow does not happen, and what it kept it can use.
//!
//! Each attack runs on a thread of its own that is confined as the role, in a child process where the thread might end the process.

mod common;

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;

use seuss_vmm::NetPrivileges;
use seuss_vmm::confine::{self, Granted, Reach, Role};

/// All that a guest can be granted.
fn all() -> Granted {
    Granted::from(ALL)
}

const ALL: NetPrivileges = NetPrivileges { bind_service: true, raw: true, admin: true, owner: None };
/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW.
const ALL_BITS: u64 = 1 << 10 | 1 << 12 | 1 << 13;

/// A system call that an attacker would make: its name, its number, arguments, and the error that it gets.
struct Attack {
    name: &'static str,
    number: libc::c_long,
    args: [u64; 6],
    errno: i32,
}

/// What no role allows.
fn attacks(path: &CString, buffer: &mut [u8]) -> Vec<Attack> {
    let path = path.as_ptr() as u64;
    let memory = buffer.as_mut_ptr() as u64;
    let me = u64::from(std::process::id());
    let attack = |name, number, args| Attack { name, number, args, errno: libc::EPERM };
    vec![
        attack("execve", libc::SYS_execve, [path, 0, 0, 0, 0, 0]),
        attack("execveat", libc::SYS_execveat, [u64::MAX, path, 0, 0, 0, 0]),
        attack("ptrace", libc::SYS_ptrace, [libc::PTRACE_ATTACH as u64, 1, 0, 0, 0, 0]),
        attack("process_vm_writev", libc::SYS_process_vm_writev, [me, memory, 0, memory, 0, 0]),
        attack("process_vm_readv", libc::SYS_process_vm_readv, [me, memory, 0, memory, 0, 0]),
        attack("setns", libc::SYS_setns, [0, libc::CLONE_NEWNET as u64, 0, 0, 0, 0]),
        attack("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]),
        attack("mount", libc::SYS_mount, [path, path, path, 0, 0, 0]),
        attack("fsopen", libc::SYS_fsopen, [path, 0, 0, 0, 0, 0]),
        attack("bpf", libc::SYS_bpf, [0, memory, 0, 0, 0, 0]),
        attack("perf_event_open", libc::SYS_perf_event_open, [memory, 0, 0, 0, 0, 0]),
        attack("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        attack("io_uring_setup", libc::SYS_io_uring_setup, [1, memory, 0, 0, 0, 0]),
        attack("init_module", libc::SYS_init_module, [memory, 0, path, 0, 0, 0]),
        attack("kexec_load", libc::SYS_kexec_load, [0; 6]),
        attack("kill of pid 1", libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
        attack("tgkill of another process", libc::SYS_tgkill, [1, 1, 0, 0, 0, 0]),
        attack(
            "socket(AF_PACKET)",
            libc::SYS_socket,
            [libc::AF_PACKET as u64, libc::SOCK_RAW as u64, 0, 0, 0, 0],
        ),
        attack(
            "socket(NETLINK_NETFILTER)",
            libc::SYS_socket,
            [libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, libc::NETLINK_NETFILTER as u64, 0, 0, 0],
        ),
        attack(
            "socket(AF_VSOCK)",
            libc::SYS_socket,
            [libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0],
        ),
        attack(
            "mmap of code",
            libc::SYS_mmap,
            [0, 4096, 7, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64, u64::MAX, 0],
        ),
        attack("mprotect to code", libc::SYS_mprotect, [memory & !4095, 4096, 7, 0, 0, 0]),
        attack("ioctl(TIOCSTI)", libc::SYS_ioctl, [0, libc::TIOCSTI, memory, 0, 0, 0]),
        attack("ioctl(KVM_SET_SIGNAL_MASK)", libc::SYS_ioctl, [0, 0x4004_ae8b, memory, 0, 0, 0]),
        attack("prctl(PR_SET_DUMPABLE)", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0]),
        attack("setuid", libc::SYS_setuid, [1; 6]),
        attack("rt_sigaction", libc::SYS_rt_sigaction, [libc::SIGSYS as u64, 0, 0, 8, 0, 0]),
        attack("open_by_handle_at", libc::SYS_open_by_handle_at, [0, memory, 0, 0, 0, 0]),
        attack("pidfd_open", libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0]),
        attack("pidfd_getfd", libc::SYS_pidfd_getfd, [0; 6]),
    ]
}

/// The error of a system call, 0 if it succeeds.
fn errno_of(number: libc::c_long, args: [u64; 6]) -> i32 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: calls that must not be carried out; should one be, its arguments are addresses of live memory of this test, or nonsense that the kernel refuses.
    let returned = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if returned < 0 { std::io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 }
}

/// Runs `work` on a thread that is confined as `role`.
fn confined<T: Send>(role: Role, reach: Reach<'_>, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            confine::enter(role, all(), reach).expect("confined");
            work()
        });
        thread.join().expect("the thread goes on after a refused call")
    })
}

#[test]
fn no_role_lets_through_what_an_attacker_wants() {
    for role in Role::ALL {
        let path = CString::new("/proc/self/exe").expect("no NUL");
        let mut buffer = vec![0; 16 << 10];
        for Attack { name, number, args, errno } in attacks(&path, &mut buffer) {
            // Its own thread each: the first violation is what is noted. Fields of `/proc` that it would open are out of reach for all.
            let (found, noted) =
                confined(role, Reach::Nothing, move || (errno_of(number, args), confine::violation()));
            assert_eq!(found, errno, "{role:?}: {name}");
            assert_eq!(noted, Some(number), "{role:?}: {name} is noted");
        }
    }
}

#[test]
fn ioctls_are_those_of_the_role() {
    let mut memory = MaybeUninit::<[u8; 4096]>::zeroed();
    let address = memory.as_mut_ptr() as u64;
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let fd = null.as_raw_fd() as u64;
    let errno = |role, request| {
        confined(role, Reach::Nothing, move || {
            (errno_of(libc::SYS_ioctl, [fd, request, address, 0, 0, 0]), confine::violation())
        })
    };
    // /dev/null knows none of them: ENOTTY is what the driver says, EPERM what the filter does.
    let (run, create_vm, set_sregs) = (0xae80, 0xae01, 0x4138_ae84);
    assert_eq!(errno(Role::Vcpu, run), (libc::ENOTTY, None));
    assert_eq!(errno(Role::Vcpu, create_vm), (libc::EPERM, Some(libc::SYS_ioctl)));
    assert_eq!(errno(Role::Vcpu, set_sregs), (libc::EPERM, Some(libc::SYS_ioctl)));
    assert_eq!(errno(Role::Pool, create_vm), (libc::ENOTTY, None));
    for role in [Role::Helpers, Role::Clerk, Role::Linger, Role::Session, Role::WarmUp] {
        assert_eq!(errno(role, run), (libc::EPERM, Some(libc::SYS_ioctl)), "{role:?}");
    }
}

#[test]
fn a_vcpu_thread_opens_nothing_and_starts_nothing() {
    let path = CString::new("/etc/passwd").expect("no NUL");
    let address = path.as_ptr() as u64;
    let open = [libc::AT_FDCWD as i64 as u64, address, libc::O_RDONLY as u64, 0, 0, 0];
    for role in [Role::Vcpu, Role::Linger, Role::WarmUp] {
        let (opened, spawned, noted) = confined(role, Reach::Nothing, move || {
            let opened = errno_of(libc::SYS_openat, open);
            let spawned = std::thread::Builder::new().spawn(|| ()).map(|_| ()).map_err(|e| e.raw_os_error());
            (opened, spawned, confine::violation())
        });
        // Libraries try these and do without: the thread goes on.
        assert_eq!((opened, spawned, noted), (libc::EACCES, Err(Some(libc::EPERM)), None), "{role:?}");
    }
}

#[test]
fn a_clerk_keeps_to_its_directory() {
    let (own, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    std::fs::write(other.path().join("secret"), "x").expect("write");
    let has_landlock = errno_of(libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0, 0]) == 0;
    let (written, read, linked) = confined(Role::Clerk, Reach::Keep(own.path()), || {
        (
            std::fs::write(own.path().join("file"), "y").map_err(|error| error.kind()),
            std::fs::read(other.path().join("secret")).map_err(|error| error.kind()),
            std::fs::write(other.path().join("new"), "z").map_err(|error| error.kind()),
        )
    });
    assert_eq!(written, Ok(()));
    if has_landlock {
        let denied = std::io::ErrorKind::PermissionDenied;
        assert_eq!((read, linked), (Err(denied), Err(denied)));
    } else {
        eprintln!("this kernel has no Landlock: what the clerk opens is not looked at");
    }
}

#[test]
fn those_who_keep_files_clear_them_away() {
    for role in [Role::Clerk, Role::Session] {
        let own = tempfile::tempdir().expect("a directory");
        let cleared = confined(role, Reach::Keep(own.path()), || {
            let draft = own.path().join("draft");
            std::fs::create_dir(&draft)?;
            std::fs::write(draft.join("pages"), "x")?;
            std::fs::rename(&draft, own.path().join("id"))?;
            std::fs::remove_dir_all(own.path().join("id"))?;
            let temporary = tempfile::NamedTempFile::new_in(own.path())?;
            temporary.persist(own.path().join("workset")).map_err(|error| error.error)?;
            Ok::<_, std::io::Error>(confine::violation())
        });
        assert_eq!(cleared.expect("allowed"), None, "{role:?}");
    }
}

#[test]
fn a_pools_threads_are_threads_of_this_process() {
    let (child, fork) = confined(Role::Pool, Reach::Nothing, || {
        let child = std::thread::spawn(|| {
            // Less than its parent, from now on.
            confine::enter(Role::Vcpu, all(), Reach::Nothing).map(|()| errno_of(libc::SYS_setns, [0; 6]))
        });
        (child.join().expect("a thread"), errno_of(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]))
    });
    assert_eq!(child, Ok(libc::EPERM));
    assert_eq!(fork, libc::EPERM, "a process of its own");
}

/// The fields of the calling thread's status that say what it may do.
fn status() -> Vec<(String, String)> {
    let text = std::fs::read_to_string("/proc/thread-self/status").expect("a status");
    let wanted = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    fields.filter(|(name, _)| wanted.contains(name)).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

#[test]
fn capabilities_go_and_what_is_granted_stays() {
    let before = status();
    let root = before.iter().any(|(name, value)| name == "CapEff" && u64::from_str_radix(value, 16) != Ok(0));
    for (granted, kept) in [(Granted::NOTHING, 0_u64), (all(), ALL_BITS)] {
        // A helper's filter lets it read its status.
        let status = std::thread::spawn(move || {
            confine::enter(Role::Helpers, granted, Reach::Anything).expect("confined");
            status()
        });
        let status = status.join().expect("a status");
        let value = |field: &str| {
            let found = status.iter().find(|(name, _)| name == field).expect("the field");
            u64::from_str_radix(&found.1, 16).expect("a number")
        };
        let kept = if root { kept } else { 0 };
        assert_eq!((value("CapEff"), value("CapPrm"), value("CapInh"), value("CapAmb")), (kept, kept, 0, 0));
        assert_eq!((value("NoNewPrivs"), value("Seccomp")), (1, 2));
        if root {
            assert_eq!(value("CapBnd"), 0);
        }
    }
    assert_eq!(status(), before, "this thread is what it was");
}

guest!(idles: concat!("2:\n", call!("3", "-1"), "jmp 2b"));
guest!(is_ready: concat!(call!("18"), "2:\n", call!("3", "-1"), "jmp 2b"));

#[test]
fn the_thread_of_a_guest_is_confined() {
    if !common::kvm() {
        return;
    }
    let root = rustix::process::geteuid().is_root();
    for (privileges, kept) in [(NetPrivileges::default(), 0_u64), (ALL, ALL_BITS)] {
        let config = seuss_vmm::GuestConfig { privileges, ..common::config() };
        let started = common::start(config, idles()).expect("starts");
        let path = format!("/proc/self/task/{}/status", started.guest.tid());
        let status = std::fs::read_to_string(path).expect("a status");
        let kept = if root { kept } else { 0 };
        for line in ["Seccomp:\t2".to_owned(), "NoNewPrivs:\t1".to_owned(), format!("CapEff:\t{kept:016x}")] {
            assert!(status.lines().any(|found| found == line), "{line}: {status}");
        }
    }
}

#[test]
fn a_forbidden_call_ends_its_guest_and_no_other() {
    if !common::kvm() {
        return;
    }
    let other = common::start(common::config(), idles()).expect("starts");
    // Events are told on the vCPU thread: whoever takes that over would be there, too.
    let guest = seuss_vmm::Guest::start_image(common::config(), common::image(&is_ready()), |event| {
        if event == seuss_vmm::GuestEvent::Ready {
            assert_eq!(errno_of(libc::SYS_setns, [0, libc::CLONE_NEWNET as u64, 0, 0, 0, 0]), libc::EPERM);
        }
    });
    let error = guest.expect("starts").wait().expect_err("it is ended").to_string();
    assert!(
        error.contains(&format!("number {}", libc::SYS_setns)) && error.contains("may not make"),
        "{error}"
    );
    assert_eq!(other.guest.result(), None, "the other one goes on");
}
