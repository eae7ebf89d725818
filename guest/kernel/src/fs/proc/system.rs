//! /proc/meminfo and the other files about the whole system.

use super::{Maker, RELEASE, Shared, Source, TextNode};
use crate::errno::{Errno, Result};
use crate::fs::device::{hang, hang_link};
use crate::fs::node::{Kind, Node, S_IFREG, split_device};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Nanoseconds in a clock tick (USER_HZ = 100).
const TICK_NS: u64 = 10_000_000;

const FILES: &[(&str, Maker)] = &[
    ("cmdline", |_| Ok(b"seuss\n".to_vec())),
    ("cpuinfo", cpuinfo),
    ("devices", |_| Ok(b"Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n\nBlock devices:\n".to_vec())),
    ("filesystems", |_| Ok(FILESYSTEMS.as_bytes().to_vec())),
    ("loadavg", loadavg),
    ("meminfo", meminfo),
    ("partitions", |_| Ok(b"major minor  #blocks  name\n\n".to_vec())),
    ("stat", stat),
    ("swaps", |_| Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())),
    ("uptime", uptime),
    ("version", |_| Ok(version().into_bytes())),
    ("vmstat", vmstat),
];

const FILESYSTEMS: &str = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup2\nnodev\tpipefs\nnodev\tsockfs\nnodev\tdevpts\n\
                           nodev\toverlay\n\terofs\n";

/// /proc/version.
fn version() -> String {
    format!("Linux version {RELEASE} (seuss@seuss) (rustc) {}\n", crate::syscall::system::VERSION)
}

/// Hang the files into /proc.
pub(super) fn fill(root: &Rc<Node>, shared: &Rc<Shared>) {
    for (name, make) in FILES {
        let text = TextNode { make: *make, shared: Some(shared.clone()), pid: 0, tid: 0, setting: None };
        hang(root, name, &Node::system(root.fs(), S_IFREG | 0o444, Kind::Generated(Box::new(text))));
    }
    hang_link(root, "mounts", "self/mounts");
}

fn meminfo(source: &Source<'_>) -> Result<Vec<u8>> {
    let frames = &source.env.frames;
    let (total, free) = (frames.total() as u64 * 4, frames.available() as u64 * 4);
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", total - free),
        ("Inactive", 0),
        ("Active(anon)", total - free),
        ("Inactive(anon)", 0),
        ("Active(file)", 0),
        ("Inactive(file)", 0),
        ("Unevictable", 0),
        ("Mlocked", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", total - free),
        ("Mapped", 0),
        ("Shmem", 0),
        ("KReclaimable", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("KernelStack", 0),
        ("PageTables", 0),
        ("NFS_Unstable", 0),
        ("Bounce", 0),
        ("WritebackTmp", 0),
        ("CommitLimit", total),
        ("Committed_AS", total - free),
        ("VmallocTotal", 34_359_738_367),
        ("VmallocUsed", 0),
        ("VmallocChunk", 0),
        ("Percpu", 0),
        ("AnonHugePages", 0),
        ("ShmemHugePages", 0),
        ("FileHugePages", 0),
    ];
    let mut text = String::new();
    for (name, kilobytes) in lines {
        let _ = writeln!(text, "{:<16}{kilobytes:8} kB", format!("{name}:"));
    }
    text.push_str("HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n");
    text.push_str("Hugepagesize:       2048 kB\nHugetlb:               0 kB\n");
    Ok(text.into_bytes())
}

fn cpuinfo(source: &Source<'_>) -> Result<Vec<u8>> {
    let cpu = source.processes.system().cpu;
    let (family, model, stepping) = cpu.version;
    let mhz = format!("{}.{:03}", cpu.khz / 1000, cpu.khz % 1000);
    let mut text = b"processor\t: 0\nvendor_id\t: ".to_vec();
    text.extend_from_slice(&cpu.vendor);
    text.extend_from_slice(
        format!("\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: ").as_bytes(),
    );
    text.extend_from_slice(&cpu.brand);
    let middle = format!(
        "\nstepping\t: {stepping}\ncpu MHz\t\t: {mhz}\nphysical id\t: 0\nsiblings\t: 1\ncore id\t\t: 0\ncpu cores\t: 1\n\
         apicid\t\t: 0\ninitial apicid\t: 0\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: 13\nwp\t\t: yes\nflags\t\t: "
    );
    text.extend_from_slice(middle.as_bytes());
    text.extend_from_slice(&cpu.flags);
    let end = format!(
        "\nbogomips\t: {}.{:02}\nclflush size\t: 64\ncache_alignment\t: 64\naddress sizes\t: 46 bits physical, 48 bits virtual\n\
         power management:\n\n",
        cpu.khz / 500,
        cpu.khz % 500 / 5,
    );
    text.extend_from_slice(end.as_bytes());
    Ok(text)
}

fn stat(source: &Source<'_>) -> Result<Vec<u8>> {
    let system = source.processes.system();
    let (user, kernel, idle) = system.cpu_ns;
    let line = format!("{} 0 {} {} 0 0 0 0 0 0", user / TICK_NS, kernel / TICK_NS, idle / TICK_NS);
    Ok(format!(
        "cpu  {line}\ncpu0 {line}\nintr 0\nctxt {}\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\nsoftirq 0\n",
        system.switches, system.boot_time_s, system.forks, system.running_total.0.max(1),
    )
    .into_bytes())
}

fn uptime(source: &Source<'_>) -> Result<Vec<u8>> {
    let system = source.processes.system();
    let show = |ns: u64| format!("{}.{:02}", ns / 1_000_000_000, ns / 10_000_000 % 100);
    Ok(format!("{} {}\n", show(system.uptime_ns), show(system.cpu_ns.2)).into_bytes())
}

fn loadavg(source: &Source<'_>) -> Result<Vec<u8>> {
    let system = source.processes.system();
    let [one, five, fifteen] = system.load.map(|load| format!("{}.{:02}", load / 100, load % 100));
    let (running, total) = system.running_total;
    Ok(format!("{one} {five} {fifteen} {running}/{total} {}\n", system.last_pid).into_bytes())
}

fn vmstat(source: &Source<'_>) -> Result<Vec<u8>> {
    let frames = &source.env.frames;
    let used = frames.total().saturating_sub(frames.available());
    Ok(format!(
        "nr_free_pages {}\nnr_anon_pages {used}\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\noom_kill 0\n",
        frames.available()
    )
    .into_bytes())
}

/// /proc/PID/mounts.
pub(super) fn mounts(source: &Source<'_>) -> Result<Vec<u8>> {
    let shared = source.shared.ok_or(Errno::ENOENT)?;
    let mut text = Vec::new();
    for mount in shared.mounts.borrow().iter() {
        let kind = mount.root.fs().kind.name;
        text.extend_from_slice(kind.as_bytes());
        text.push(b' ');
        text.extend_from_slice(&mount.path);
        text.extend_from_slice(format!(" {kind} {} 0 0\n", mount.options).as_bytes());
    }
    Ok(text)
}

/// /proc/PID/mountinfo.
pub(super) fn mountinfo(source: &Source<'_>) -> Result<Vec<u8>> {
    let shared = source.shared.ok_or(Errno::ENOENT)?;
    let mut text = Vec::new();
    let mounts = shared.mounts.borrow();
    for (index, mount) in mounts.iter().enumerate() {
        // The mount that this one lies in: the last earlier one with the longest path that is a prefix.
        let parent = mounts[..index]
            .iter()
            .enumerate()
            .filter(|(_, other)| mount.path.starts_with(&other.path))
            .max_by_key(|(_, other)| other.path.len())
            .map_or(0, |(at, _)| at + 1);
        let fs = mount.root.fs();
        let (major, minor) = split_device(fs.device);
        text.extend_from_slice(format!("{} {parent} {major}:{minor} / ", index + 1).as_bytes());
        text.extend_from_slice(&mount.path);
        let kind = fs.kind.name;
        text.extend_from_slice(format!(" {} - {kind} {kind} rw\n", mount.options).as_bytes());
    }
    Ok(text)
}
