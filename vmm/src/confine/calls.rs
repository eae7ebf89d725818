//! The filters of system calls, as data: what a thread of each role may ask of the kernel. The table in docs/security.md is rendered from here.
//!
//! A list says what a role's own code does, found by reading and by tracing runs of all tests. What a library would like besides, and does without, is in [`REFUSED`].

use super::Role;

/// What is asked of a call's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing.
    Any,
    /// The low 32 bits of argument `arg` (counted from 0) are one of these values, which have names.
    OneOf { arg: u8, values: &'static [(u64, &'static str)] },
    /// None of these bits is set in argument `arg`.
    Without { arg: u8, bits: u64, name: &'static str },
    /// All of these bits are set in argument `arg`.
    With { arg: u8, bits: u64, name: &'static str },
    /// Two arguments have these values: number and value of each.
    Both { first: (u8, u64), second: (u8, u64), name: &'static str },
    /// Argument `arg` is the id of this process.
    OwnProcess { arg: u8 },
}

/// A system call that is allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: i64,
    pub(super) name: &'static str,
    pub(super) rule: Rule,
}

macro_rules! calls {
    ($($number:ident $name:literal $(($rule:expr))?),* $(,)?) => {
        &[$(Call { number: libc::$number, name: $name, rule: calls!(@rule $($rule)?) }),*]
    };
    (@rule) => { Rule::Any };
    (@rule $rule:expr) => { $rule };
}

const NO_CODE: Rule = Rule::Without { arg: 2, bits: libc::PROT_EXEC as u64, name: "PROT_EXEC" };
const ONLY_A_NAME: Rule = Rule::OneOf { arg: 0, values: &[(libc::PR_SET_NAME as u64, "PR_SET_NAME")] };

/// What every thread does: memory, locks, signals, descriptors that it has, its own end.
const BASE: &[Call] = calls![
    SYS_read "read", SYS_write "write", SYS_close "close",
    // The standard library of debug builds looks whether what it closes is open.
    SYS_fcntl "fcntl" (Rule::OneOf { arg: 1, values: &[
        (libc::F_GETFD as u64, "F_GETFD"),
        (libc::F_DUPFD_CLOEXEC as u64, "F_DUPFD_CLOEXEC"),
    ] }),
    SYS_futex "futex", SYS_sched_yield "sched_yield",
    SYS_mmap "mmap" (NO_CODE), SYS_mprotect "mprotect" (NO_CODE),
    SYS_munmap "munmap", SYS_mremap "mremap", SYS_madvise "madvise", SYS_brk "brk",
    SYS_rt_sigprocmask "rt_sigprocmask", SYS_rt_sigreturn "rt_sigreturn", SYS_sigaltstack "sigaltstack",
    SYS_restart_syscall "restart_syscall",
    SYS_clock_gettime "clock_gettime", SYS_getrandom "getrandom",
    SYS_getpid "getpid", SYS_gettid "gettid", SYS_tgkill "tgkill" (Rule::OwnProcess { arg: 0 }),
    SYS_prctl "prctl" (ONLY_A_NAME),
    SYS_exit "exit",
];

/// What drives a guest: its vCPU, its descriptors, its sockets, its timer.
const GUEST: &[Call] = calls![
    SYS_ioctl "ioctl" (Rule::OneOf { arg: 1, values: &[
        (0xae80, "KVM_RUN"),
        (0x8090_ae81, "KVM_GET_REGS"),
        (0x4090_ae82, "KVM_SET_REGS"),
        (0x8138_ae83, "KVM_GET_SREGS"),
        (0x8040_ae9f, "KVM_GET_VCPU_EVENTS"),
        (0xaece, "KVM_GET_STATS_FD"),
        (libc::FIONREAD, "FIONREAD"),
        (libc::SIOCGIFMTU, "SIOCGIFMTU"),
    ] }),
    SYS_readv "readv", SYS_writev "writev", SYS_preadv2 "preadv2", SYS_pwritev2 "pwritev2", SYS_pread64 "pread64",
    SYS_poll "poll", SYS_ppoll "ppoll",
    SYS_epoll_ctl "epoll_ctl", SYS_epoll_pwait2 "epoll_pwait2", SYS_epoll_pwait "epoll_pwait", SYS_epoll_wait "epoll_wait",
    SYS_socket "socket" (Rule::OneOf { arg: 0, values: &[
        (libc::AF_INET as u64, "AF_INET"),
        (libc::AF_INET6 as u64, "AF_INET6"),
    ] }),
    SYS_socket "socket" (Rule::Both {
        first: (0, libc::AF_NETLINK as u64), second: (2, libc::NETLINK_ROUTE as u64), name: "AF_NETLINK with NETLINK_ROUTE",
    }),
    SYS_bind "bind", SYS_listen "listen", SYS_accept4 "accept4", SYS_connect "connect", SYS_shutdown "shutdown",
    SYS_getsockname "getsockname", SYS_getpeername "getpeername",
    SYS_getsockopt "getsockopt", SYS_setsockopt "setsockopt",
    SYS_sendmsg "sendmsg", SYS_recvmsg "recvmsg", SYS_sendto "sendto", SYS_recvfrom "recvfrom",
    SYS_timer_create "timer_create", SYS_timer_settime "timer_settime", SYS_timer_delete "timer_delete",
    // Between its own and its guest's, which is its saved one: no other without privileges.
    SYS_setfsuid "setfsuid",
];

/// What makes virtual machines.
const MACHINES: &[Call] = calls![
    SYS_ioctl "ioctl" (Rule::OneOf { arg: 1, values: &[
        (0xae01, "KVM_CREATE_VM"),
        (0xae03, "KVM_CHECK_EXTENSION"),
        (0xae04, "KVM_GET_VCPU_MMAP_SIZE"),
        (0xae41, "KVM_CREATE_VCPU"),
        (0x4020_ae46, "KVM_SET_USER_MEMORY_REGION"),
        (0x4138_ae84, "KVM_SET_SREGS"),
        (0x4008_ae89, "KVM_SET_MSRS"),
        (0x41a0_ae8d, "KVM_SET_FPU"),
        (0x4008_ae90, "KVM_SET_CPUID2"),
        (0xaea3, "KVM_GET_TSC_KHZ"),
        (0x4188_aea7, "KVM_SET_XCRS"),
        (0x4018_aee1, "KVM_SET_DEVICE_ATTR"),
    ] }),
];

/// What starts threads, and what these do before they are confined further.
const THREADS: &[Call] = calls![
    // clone3, whose flags are out of a filter's sight, is refused as if the kernel did not know it; the C library uses clone then.
    SYS_clone "clone" (Rule::With {
        arg: 0, bits: (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_FILES) as u64, name: "CLONE_THREAD|CLONE_VM|CLONE_FILES",
    }),
    SYS_set_robust_list "set_robust_list", SYS_rseq "rseq", SYS_sched_getaffinity "sched_getaffinity",
    SYS_prctl "prctl" (Rule::OneOf { arg: 0, values: &[
        (libc::PR_SET_NO_NEW_PRIVS as u64, "PR_SET_NO_NEW_PRIVS"),
        (libc::PR_CAPBSET_READ as u64, "PR_CAPBSET_READ"),
        (libc::PR_CAPBSET_DROP as u64, "PR_CAPBSET_DROP"),
        (libc::PR_CAP_AMBIENT as u64, "PR_CAP_AMBIENT"),
        (libc::PR_SET_TIMERSLACK as u64, "PR_SET_TIMERSLACK"),
    ] }),
    SYS_capget "capget", SYS_capset "capset", SYS_setresuid "setresuid",
    SYS_seccomp "seccomp",
    SYS_landlock_create_ruleset "landlock_create_ruleset", SYS_landlock_add_rule "landlock_add_rule",
    SYS_landlock_restrict_self "landlock_restrict_self",
    SYS_openat "openat", SYS_statx "statx", SYS_fstat "fstat", SYS_newfstatat "newfstatat",
    SYS_prlimit64 "prlimit64", SYS_timer_create "timer_create",
];

/// What keeps files of snapshots.
const FILES: &[Call] = calls![
    SYS_openat "openat", SYS_statx "statx", SYS_fstat "fstat", SYS_newfstatat "newfstatat", SYS_lseek "lseek",
    SYS_pread64 "pread64", SYS_pwrite64 "pwrite64", SYS_flock "flock",
    // To read a directory, the C library looks how its descriptor was opened, and marks it.
    SYS_fcntl "fcntl" (Rule::OneOf { arg: 1, values: &[(libc::F_GETFL as u64, "F_GETFL"), (libc::F_SETFD as u64, "F_SETFD")] }), SYS_fdatasync "fdatasync",
    SYS_getdents64 "getdents64", SYS_fchmod "fchmod", SYS_chmod "chmod",
    SYS_mkdir "mkdir", SYS_rmdir "rmdir", SYS_unlink "unlink", SYS_unlinkat "unlinkat",
    SYS_rename "rename", SYS_renameat "renameat", SYS_renameat2 "renameat2",
];

/// What sends the last bytes of connections.
const LAST_BYTES: &[Call] = calls![
    SYS_sendto "sendto", SYS_poll "poll", SYS_ppoll "ppoll",
];

/// What speaks with the node's store.
const STORE: &[Call] = calls![
    SYS_socket "socket" (Rule::OneOf { arg: 0, values: &[(libc::AF_UNIX as u64, "AF_UNIX")] }),
    SYS_connect "connect", SYS_setsockopt "setsockopt", SYS_sendmsg "sendmsg", SYS_recvmsg "recvmsg",
    SYS_poll "poll", SYS_ppoll "ppoll", SYS_memfd_create "memfd_create",
];

/// What asks a program for a page.
const REQUEST: &[Call] = calls![
    SYS_socket "socket" (Rule::OneOf { arg: 0, values: &[(libc::AF_INET as u64, "AF_INET")] }),
    SYS_connect "connect", SYS_poll "poll", SYS_ppoll "ppoll", SYS_getsockopt "getsockopt", SYS_setsockopt "setsockopt",
    SYS_ioctl "ioctl" (Rule::OneOf { arg: 1, values: &[(libc::FIONBIO, "FIONBIO")] }),
    SYS_sendto "sendto", SYS_recvfrom "recvfrom", SYS_clock_nanosleep "clock_nanosleep",
];

/// Calls that libraries make and do without, with the error that they get where a role does not allow them: the C library looks into /proc before it trims its heap, a panic
/// looks for the program's symbols, and a thread is started with all signals blocked, SIGSYS too. Any other call that is not allowed is a sign that the thread does not do what
/// its code says.
pub(super) const REFUSED: &[(i64, &str, i32)] = &[
    (libc::SYS_clone3, "clone3", libc::ENOSYS),
    (libc::SYS_clone, "clone", libc::EPERM),
    (libc::SYS_openat, "openat", libc::EACCES),
    (libc::SYS_open, "open", libc::EACCES),
    (libc::SYS_readlink, "readlink", libc::EACCES),
    (libc::SYS_statx, "statx", libc::EACCES),
    (libc::SYS_newfstatat, "newfstatat", libc::EACCES),
    (libc::SYS_getcwd, "getcwd", libc::EACCES),
];

/// The groups of calls that a role's list is made of. A call of several groups is allowed if one of them allows it.
pub(super) fn groups(role: Role) -> &'static [&'static [Call]] {
    match role {
        Role::Vcpu => &[BASE, GUEST],
        // Its children are vCPU threads, and what they may do is a part of what their parent may.
        Role::Pool => &[BASE, GUEST, MACHINES, THREADS],
        Role::Helpers => &[BASE, FILES, LAST_BYTES, THREADS],
        Role::Clerk => &[BASE, FILES],
        Role::Linger => &[BASE, LAST_BYTES],
        Role::Session => &[BASE, FILES, STORE],
        Role::WarmUp => &[BASE, REQUEST],
    }
}
