//! Runs a program on Linux the way a container does: pid 1 of its own pid namespace, a writable overlay over the root, its
//! own /proc, /dev, network (loopback only) and host name, on one CPU because the guest has one vCPU.
//!
//! Two stages, both this same executable: [`outside`] makes the namespaces and the overlay and waits; [`inside`] is pid 1 of
//! the new pid namespace, mounts what needs it, and becomes the program. Nothing is left behind: all mounts belong to the
//! mount namespace, and the program dies with [`outside`].
//!
//! Reference: namespaces(7), pivot_root(2), the overlayfs document of the kernel.
//!
//! Unsafe: unshare(2), close_range(2), rt_sigaction(2) and the ioctl that brings the loopback interface up have no safe
//! form.

use std::ffi::CString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};

use crate::cgroup::MemoryCgroup;
use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, pivot_root, set_parent_process_death_signal, setrlimit, setsid,
    umask,
};
use rustix::thread::{
    CapabilitySet, CpuSet, UnshareFlags, remove_capability_from_bounding_set, sched_getcpu, sched_setaffinity,
};

/// The overlay's parts, on a tmpfs that this mount namespace alone has over the directory `native` beside the root.
const UPPER: &str = "upper";
const WORK: &str = "work";
const MERGED: &str = "root";

/// Makes the namespaces, runs `argv` in them and returns its status as a shell would give it.
///
/// # Errors
/// Not root, no overlayfs, or no such root.
pub fn outside(root: &Path, argv: &[String], limit: Option<&MemoryCgroup>) -> Result<i32> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    close_inherited();
    new_namespaces(UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS)?;
    own_network()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make mounts private")?;
    let scratch = root.with_file_name("native");
    fs::create_dir_all(&scratch)?;
    let merged = mount_overlay(root, &scratch)?;
    one_cpu()?;
    limit.map(MemoryCgroup::enter).transpose()?;
    let mut child = Command::new("/proc/self/exe")
        .args(["inside", "--root"])
        .arg(&merged)
        .arg("--")
        .args(argv)
        .spawn()
        .context("cannot start the second stage")?;
    Ok(shell_status(child.wait()?))
}

/// Brings loopback up in a network namespace of this process's own.
///
/// # Errors
/// Not root.
pub fn own_network() -> Result<()> {
    new_namespaces(UnshareFlags::NEWNET)?;
    loopback_up().context("cannot bring the loopback interface up")
}

/// The exit status as a shell gives it: 128 and the signal's number for a death by signal.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// As pid 1 of the new namespace: mounts /proc, /dev and /sys, enters `root`, becomes `argv`. Returns only on failure.
///
/// # Errors
/// A mount that fails, or a program that cannot be executed.
pub fn inside(root: &Path, argv: &[String]) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Its own: pivot_root would change the root of the process that waits outside too.
    new_namespaces(UnshareFlags::NEWNS)?;
    let none = MountFlags::empty();
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", root.join("proc"), "proc", quiet, None).context("cannot mount /proc")?;
    mount("sysfs", root.join("sys"), "sysfs", quiet | MountFlags::RDONLY, None)
        .context("cannot mount /sys")?;
    mount("tmpfs", root.join("dev"), "tmpfs", MountFlags::NOSUID, Some(c"mode=755"))
        .context("cannot mount /dev")?;
    make_devices(&root.join("dev"))?;
    mount("devpts", root.join("dev/pts"), "devpts", none, Some(c"newinstance,ptmxmode=0666,mode=620"))?;
    mount(
        "tmpfs",
        root.join("dev/shm"),
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=1777"),
    )?;
    rustix::process::chdir(root)?;
    pivot_root(".", ".").context("cannot change the root")?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;

    rustix::system::sethostname(b"conformance")?;
    umask(Mode::from_raw_mode(0o022));
    for (resource, soft) in [(Resource::Stack, 8 << 20), (Resource::Nofile, 1024), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(soft), ..getrlimit(resource) };
        setrlimit(resource, limit).context("cannot set a resource limit")?;
    }
    rustix::process::setpriority_process(None, 0).context("cannot set the nice value")?;
    setsid().context("cannot make a session")?;
    without_the_machine()?;
    default_signals();
    let (program, args) = argv.split_first().context("no program")?;
    let error = Command::new(program).args(args).exec();
    bail!("{program}: {error}");
}

fn new_namespaces(flags: UnshareFlags) -> Result<()> {
    // SAFETY: this process has one thread and none of the flags is FILES, so no file descriptor changes hands.
    unsafe { rustix::thread::unshare_unsafe(flags) }.context("cannot make namespaces (run as root)")
}

/// Whatever this process was handed beyond the three streams stays out of the program, and does not enlarge its table of
/// descriptors, by which select(2) judges.
fn close_inherited() {
    // SAFETY: called before this process opens any descriptor of its own.
    unsafe { libc::close_range(3, u32::MAX, 0) };
}

/// No container may do what no namespace separates: set the machine's clock, restart it, load modules. Gone from the bounding set, these
/// capabilities are gone for good when the program is executed (capabilities(7)).
fn without_the_machine() -> Result<()> {
    for capability in [CapabilitySet::SYS_TIME, CapabilitySet::SYS_BOOT, CapabilitySet::SYS_MODULE] {
        remove_capability_from_bounding_set(capability).context("cannot drop a capability")?;
    }
    Ok(())
}

/// What the caller ignores would be ignored by the program too. glibc's own signal(3) leaves 32 and 33 out: the call is raw.
fn default_signals() {
    // struct sigaction of the kernel: handler SIG_DFL, no flags, no restorer, empty mask.
    let default = [0_u64; 4];
    for number in 1..=64 {
        // SAFETY: the kernel reads 32 bytes and writes nothing; SIGKILL and SIGSTOP are refused, which is fine.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), std::ptr::null::<u64>(), 8)
        };
    }
}

/// netdevice(7): interface flags are read and written through an ioctl with the name.
fn loopback_up() -> std::io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain old data, for which all zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn mount_overlay(root: &Path, scratch: &Path) -> Result<std::path::PathBuf> {
    mount("tmpfs", scratch, "tmpfs", MountFlags::empty(), Some(c"mode=755"))
        .context("cannot mount a tmpfs")?;
    for directory in [UPPER, WORK, MERGED] {
        fs::create_dir(scratch.join(directory))?;
    }
    let merged = scratch.join(MERGED);
    let option = |path: &Path| {
        let text = path.to_str().filter(|text| !text.contains([',', ':'])).map(str::to_owned);
        text.with_context(|| format!("{}: overlayfs takes no path with a comma or a colon", path.display()))
    };
    let (lower, upper, work) = (option(root)?, option(&scratch.join(UPPER))?, option(&scratch.join(WORK))?);
    let data = CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}"))?;
    mount("overlay", &merged, "overlay", MountFlags::empty(), Some(data.as_c_str()))
        .context("cannot mount an overlay")?;
    Ok(merged)
}

fn make_devices(dev: &Path) -> Result<()> {
    let nodes = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
    let saved = umask(Mode::empty());
    for (name, minor) in nodes {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, dev.join(name), FileType::CharacterDevice, mode, makedev(1, minor))?;
    }
    mknodat(CWD, dev.join("tty"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(5, 0))?;
    umask(saved);
    fs::create_dir(dev.join("pts"))?;
    fs::create_dir(dev.join("shm"))?;
    symlink("pts/ptmx", dev.join("ptmx"))?;
    symlink("/proc/self/fd", dev.join("fd"))?;
    for (name, fd) in [("stdin", 0), ("stdout", 1), ("stderr", 2)] {
        symlink(format!("/proc/self/fd/{fd}"), dev.join(name))?;
    }
    Ok(())
}

/// Stays on the CPU this process runs on.
fn one_cpu() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(sched_getcpu());
    sched_setaffinity(None, &set)?;
    Ok(())
}
