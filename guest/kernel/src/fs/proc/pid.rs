//! /proc/PID and /proc/PID/task/TID.

use super::fd::Descriptors;
use super::text::{Maker, Source, TextNode};
use super::{ProcessInfo, ProcessStatus, Setting, Shared, parse_number};
use crate::errno::{Errno, Result};
use crate::fs::directory::{DirEntry, Directory, Provider};
use crate::fs::env::FileSystem;
use crate::fs::file::FileOps;
use crate::fs::node::{
    Generated, Kind, Node, S_IFDIR, S_IFLNK, S_IFREG, Seed, Target, make_device, split_device,
};
use crate::fs::walk::Context;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Nanoseconds in a clock tick (USER_HZ = 100).
const TICK_NS: u64 = 10_000_000;

/// What a name in a process' directory is.
#[derive(Clone, Copy)]
enum What {
    Text(Maker),
    Set(Maker, Setting),
    Exe,
    Cwd,
    Root,
    Fd,
    FdInfo,
    Net,
    Task,
}

/// Name, permission bits, what it is.
const NAMES: &[(&str, u32, What)] = &[
    ("auxv", 0o400, What::Text(|source| of(source.processes.auxiliary_vector(source.pid)))),
    ("cgroup", 0o444, What::Text(|_| Ok(b"0::/\n".to_vec()))),
    ("cmdline", 0o444, What::Text(|source| of(source.processes.command_line(source.pid)))),
    ("comm", 0o644, What::Set(comm, Setting::Comm)),
    ("coredump_filter", 0o444, What::Text(|_| Ok(b"00000033\n".to_vec()))),
    ("cwd", 0o777, What::Cwd),
    ("environ", 0o400, What::Text(|source| of(source.processes.environment(source.pid)))),
    ("exe", 0o777, What::Exe),
    ("fd", 0o500, What::Fd),
    ("fdinfo", 0o555, What::FdInfo),
    ("gid_map", 0o444, What::Text(|_| Ok(b"         0          0 4294967295\n".to_vec()))),
    ("io", 0o400, What::Text(io)),
    ("limits", 0o444, What::Text(limits)),
    ("loginuid", 0o444, What::Text(|_| Ok(b"4294967295".to_vec()))),
    ("maps", 0o444, What::Text(maps)),
    ("mountinfo", 0o444, What::Text(super::system::mountinfo)),
    ("mounts", 0o444, What::Text(super::system::mounts)),
    ("net", 0o555, What::Net),
    ("oom_adj", 0o444, What::Text(|_| Ok(b"0\n".to_vec()))),
    ("oom_score", 0o444, What::Text(|_| Ok(b"0\n".to_vec()))),
    ("oom_score_adj", 0o644, What::Set(oom_score_adj, Setting::OomScoreAdj)),
    ("personality", 0o400, What::Text(personality)),
    ("root", 0o777, What::Root),
    ("schedstat", 0o444, What::Text(|_| Ok(b"0 0 0\n".to_vec()))),
    ("sessionid", 0o444, What::Text(|_| Ok(b"4294967295".to_vec()))),
    ("setgroups", 0o444, What::Text(|_| Ok(b"allow\n".to_vec()))),
    ("smaps", 0o444, What::Text(smaps)),
    ("smaps_rollup", 0o444, What::Text(smaps_rollup)),
    ("stat", 0o444, What::Text(stat)),
    ("statm", 0o444, What::Text(statm)),
    ("status", 0o444, What::Text(status)),
    ("task", 0o555, What::Task),
    ("uid_map", 0o444, What::Text(|_| Ok(b"         0          0 4294967295\n".to_vec()))),
    ("wchan", 0o444, What::Text(|_| Ok(b"0".to_vec()))),
];

fn of(text: Option<Vec<u8>>) -> Result<Vec<u8>> {
    text.ok_or(Errno::ESRCH)
}

/// Whether the caller may look into a process (ptrace(2), "Ptrace access mode checking", by user id).
pub(super) fn check_access(context: &Context<'_>, pid: u32) -> Result {
    let status = context.processes.status(pid, pid).ok_or(Errno::ENOENT)?;
    let allowed = context.subject.is_root() || context.subject.uid == status.uids[1];
    if allowed { Ok(()) } else { Err(Errno::EACCES) }
}

/// The directory of a process, or of a thread (`is_task`).
pub(super) fn new_directory(
    fs: &Rc<FileSystem>,
    shared: &Rc<Shared>,
    pid: u32,
    tid: u32,
    is_task: bool,
) -> Rc<Node> {
    let provider = Process { shared: shared.clone(), pid, tid, is_task };
    let ino = if is_task { u64::from(tid) << 16 | 2 } else { u64::from(pid) << 16 | 1 };
    let seed = Seed { ino, mode: S_IFDIR | 0o555, uid: 0, gid: 0, nlink: 9, time: fs.env.now() };
    Node::new(fs, &seed, Kind::Directory(Directory::provided(Box::new(provider))))
}

struct Process {
    shared: Rc<Shared>,
    pid: u32,
    tid: u32,
    is_task: bool,
}

impl Process {
    fn make(&self, directory: &Rc<Node>, index: usize) -> Option<Rc<Node>> {
        let (name, mode, what) = NAMES.get(index)?;
        let (pid, tid) = (self.pid, self.tid);
        let text = |make, setting| -> (u32, Kind) {
            let shared = Some(self.shared.clone());
            (S_IFREG, Kind::Generated(Box::new(TextNode { make, shared, pid, tid, setting })))
        };
        let link = |which| (S_IFLNK, Kind::Generated(Box::new(Link { pid, which })));
        let provided =
            |provider: Box<dyn Provider>| (S_IFDIR, Kind::Directory(Directory::provided(provider)));
        let (kind_bits, kind) = match *what {
            What::Text(make) => text(make, None),
            What::Set(make, setting) => text(make, Some(setting)),
            What::Exe => link(Which::Exe),
            What::Cwd => link(Which::Cwd),
            What::Root => link(Which::Root),
            What::Fd => provided(Box::new(Descriptors { pid, info: false })),
            What::FdInfo => provided(Box::new(Descriptors { pid, info: true })),
            What::Net => (S_IFDIR, Kind::Directory(Directory::new(Vec::new()))),
            What::Task => provided(Box::new(Tasks { shared: self.shared.clone(), pid })),
        };
        let ino = directory.ino() << 8 | index as u64;
        let nlink = if kind_bits == S_IFDIR { 2 } else { 1 };
        let (uid, gid) = (directory.uid(), directory.gid());
        let seed = Seed { ino, mode: kind_bits | mode, uid, gid, nlink, time: directory.fs().env.now() };
        let node = Node::new(directory.fs(), &seed, kind);
        if kind_bits == S_IFDIR {
            // A directory must stay, so that `..` finds its way.
            directory.insert_entry(name.as_bytes(), &node);
            if matches!(what, What::Net) {
                super::net::fill(&node);
            }
        } else {
            node.set_location(directory, name.as_bytes().into());
        }
        Some(node)
    }

    fn is_alive(&self, processes: &dyn ProcessInfo) -> bool {
        processes.status(self.pid, self.tid).is_some()
    }
}

impl Provider for Process {
    fn process(&self) -> Option<u32> {
        (!self.is_task).then_some(self.pid)
    }

    fn lookup(&self, directory: &Rc<Node>, name: &[u8], processes: &dyn ProcessInfo) -> Result<Rc<Node>> {
        let index =
            NAMES.binary_search_by(|(known, ..)| known.as_bytes().cmp(name)).map_err(|_| Errno::ENOENT)?;
        if !self.is_alive(processes) || (self.is_task && matches!(NAMES[index].2, What::Task)) {
            return Err(Errno::ENOENT);
        }
        if let Some(node) = directory.directory()?.cached(name) {
            node.set_owner(directory.uid(), directory.gid());
            return Ok(node);
        }
        self.make(directory, index).ok_or(Errno::ENOENT)
    }

    fn list(&self, directory: &Rc<Node>, processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        if !self.is_alive(processes) {
            return Err(Errno::ENOENT);
        }
        let entry = |(index, (name, _, what)): (usize, &(&str, u32, What))| {
            let kind = match what {
                What::Text(_) | What::Set(..) => S_IFREG,
                What::Exe | What::Cwd | What::Root => S_IFLNK,
                What::Fd | What::FdInfo | What::Net | What::Task => S_IFDIR,
            };
            let ino = directory.ino() << 8 | index as u64;
            DirEntry { name: name.as_bytes().into(), ino, kind: (kind >> 12) as u8 }
        };
        let shown =
            |(_, (.., what)): &(usize, &(&str, u32, What))| !(self.is_task && matches!(what, What::Task));
        Ok(NAMES.iter().enumerate().filter(shown).map(entry).collect())
    }
}

/// /proc/PID/task.
struct Tasks {
    shared: Rc<Shared>,
    pid: u32,
}

impl Provider for Tasks {
    fn lookup(&self, directory: &Rc<Node>, name: &[u8], processes: &dyn ProcessInfo) -> Result<Rc<Node>> {
        let tid = parse_number(name).ok_or(Errno::ENOENT)?;
        let alive = processes.threads(self.pid);
        if !alive.contains(&tid) {
            return Err(Errno::ENOENT);
        }
        let names = directory.directory()?;
        if let Some(node) = names.cached(name) {
            return Ok(node);
        }
        let mut dead = Vec::new();
        names.entries.borrow_mut().retain(|name, slot| {
            let lives = parse_number(name).is_some_and(|tid| alive.contains(&tid));
            if !lives {
                dead.push(core::mem::replace(slot, crate::fs::directory::Slot::Absent));
            }
            lives
        });
        let node = new_directory(directory.fs(), &self.shared, self.pid, tid, true);
        node.set_owner(directory.uid(), directory.gid());
        directory.insert_entry(name, &node);
        Ok(node)
    }

    fn list(&self, _directory: &Rc<Node>, processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        let entry = |tid: u32| DirEntry {
            name: format!("{tid}").into_bytes().into(),
            ino: u64::from(tid) << 16 | 2,
            kind: (S_IFDIR >> 12) as u8,
        };
        Ok(processes.threads(self.pid).into_iter().map(entry).collect())
    }
}

#[derive(Clone, Copy)]
enum Which {
    Exe,
    Cwd,
    Root,
}

/// exe, cwd and root: lead straight to a node.
struct Link {
    pid: u32,
    which: Which,
}

impl Generated for Link {
    fn open(&self, _node: &Rc<Node>, _flags: u32, _context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        Err(Errno::ELOOP)
    }

    fn target(&self, _node: &Node, context: &Context<'_>) -> Result<Target> {
        check_access(context, self.pid)?;
        let processes = context.processes;
        let node = match self.which {
            Which::Exe => processes.executable(self.pid),
            Which::Cwd => processes.place(self.pid).map(|place| place.cwd()),
            Which::Root => processes.place(self.pid).map(|place| place.root()),
        }
        .ok_or(Errno::ENOENT)?;
        let text = node.path(&context.root).unwrap_or_else(|_| b"(unreachable)".to_vec());
        Ok(Target::Node(node, text))
    }
}

fn status_of(source: &Source<'_>) -> Result<ProcessStatus> {
    source.processes.status(source.pid, source.tid).ok_or(Errno::ESRCH)
}

fn comm(source: &Source<'_>) -> Result<Vec<u8>> {
    let mut text = status_of(source)?.comm;
    text.push(b'\n');
    Ok(text)
}

fn oom_score_adj(source: &Source<'_>) -> Result<Vec<u8>> {
    Ok(format!("{}\n", status_of(source)?.oom_score_adj).into_bytes())
}

fn io(_source: &Source<'_>) -> Result<Vec<u8>> {
    let names = ["rchar", "wchar", "syscr", "syscw", "read_bytes", "write_bytes", "cancelled_write_bytes"];
    Ok(names.iter().fold(String::new(), |text, name| text + name + ": 0\n").into_bytes())
}

fn stat(source: &Source<'_>) -> Result<Vec<u8>> {
    let status = status_of(source)?;
    let terminal = source.env.terminals.of_session(status.sid);
    let (tty, foreground) = match &terminal {
        Some(terminal) => {
            (make_device(136, terminal.number()) as i64, i64::from(terminal.foreground().get()))
        }
        None => (0, -1),
    };
    let ticks = |ns: u64| ns / TICK_NS;
    let mut text = format!("{} (", source.tid).into_bytes();
    text.extend_from_slice(&status.comm);
    let limit = source.processes.limits(source.pid).map_or(u64::MAX, |limits| limits[5].0);
    let [pending, shared_pending, blocked, ignored, caught] = status.signals;
    let rest = format!(
        ") {} {} {} {} {tty} {foreground} 4194304 {} 0 0 0 {} {} {} {} {} {} {} 0 {} {} {} {limit} 0 0 {} 0 0 {} {} {} {} 0 0 0 {} 0 0 0 0 0 0 \
         0 0 0 0 0 0 0 {}\n",
        status.state,
        status.ppid,
        status.pgid,
        status.sid,
        status.minor_faults,
        ticks(status.cpu_ns.0),
        ticks(status.cpu_ns.1),
        ticks(status.children_cpu_ns.0),
        ticks(status.children_cpu_ns.1),
        20 + status.nice,
        status.nice,
        status.threads,
        ticks(status.start_ns),
        status.vm_bytes,
        status.rss_bytes / 4096,
        status.stack_start,
        pending | shared_pending,
        blocked,
        ignored,
        caught,
        status.exit_signal,
        status.exit_status,
    );
    text.extend_from_slice(rest.as_bytes());
    Ok(text)
}

fn personality(source: &Source<'_>) -> Result<Vec<u8>> {
    Ok(format!("{:08x}\n", status_of(source)?.personality).into_bytes())
}

fn statm(source: &Source<'_>) -> Result<Vec<u8>> {
    let status = status_of(source)?;
    let (text, data, _) = status.text_data_stack_bytes;
    let pages = [status.vm_bytes, status.rss_bytes, 0, text, 0, data, 0].map(|bytes| bytes / 4096);
    let [size, resident, shared, text, lib, data, dirty] = pages;
    Ok(format!("{size} {resident} {shared} {text} {lib} {data} {dirty}\n").into_bytes())
}

fn status(source: &Source<'_>) -> Result<Vec<u8>> {
    let status = status_of(source)?;
    let word = match status.state {
        'R' => "running",
        'S' => "sleeping",
        'D' => "disk sleep",
        'T' => "stopped",
        'Z' => "zombie",
        _ => "dead",
    };
    let (pid, tid) = (source.pid, source.tid);
    let [uid, euid, suid, fsuid] = status.uids;
    let [gid, egid, sgid, fsgid] = status.gids;
    let mut text = b"Name:\t".to_vec();
    text.extend_from_slice(&status.comm);
    let mut out = String::new();
    let groups: String = status.groups.iter().map(|group| format!("{group} ")).collect();
    let fd_size = source.processes.files(pid).map_or(0, |files| {
        let last = files.borrow().descriptors().last().unwrap_or(0) as u64;
        (last + 1).next_multiple_of(64).max(64)
    });
    let _ = write!(
        out,
        "\nUmask:\t{:04o}\nState:\t{} ({word})\nTgid:\t{pid}\nNgid:\t0\nPid:\t{tid}\nPPid:\t{}\nTracerPid:\t0\n\
         Uid:\t{uid}\t{euid}\t{suid}\t{fsuid}\nGid:\t{gid}\t{egid}\t{sgid}\t{fsgid}\nFDSize:\t{fd_size}\nGroups:\t{groups}\n\
         NStgid:\t{pid}\nNSpid:\t{tid}\nNSpgid:\t{}\nNSsid:\t{}\n",
        status.umask, status.state, status.ppid, status.pgid, status.sid,
    );
    if status.state != 'Z' {
        let (code, data, stack) = status.text_data_stack_bytes;
        let lines = [
            ("VmPeak", status.vm_peak_bytes.max(status.vm_bytes)),
            ("VmSize", status.vm_bytes),
            ("VmLck", 0),
            ("VmPin", 0),
            ("VmHWM", status.rss_peak_bytes.max(status.rss_bytes)),
            ("VmRSS", status.rss_bytes),
            ("RssAnon", status.rss_bytes),
            ("RssFile", 0),
            ("RssShmem", 0),
            ("VmData", data),
            ("VmStk", stack),
            ("VmExe", code),
            ("VmLib", 0),
            ("VmPTE", 0),
            ("VmSwap", 0),
        ];
        for (name, bytes) in lines {
            let _ = writeln!(out, "{name}:\t{:8} kB", bytes / 1024);
        }
        out.push_str("CoreDumping:\t0\nTHP_enabled:\t1\n");
    }
    let [pending, shared_pending, blocked, ignored, caught] = status.signals;
    let queue = source.processes.limits(pid).map_or(0, |limits| limits[11].0);
    let capabilities: u64 = if euid == 0 { 0x1ff_ffff_ffff } else { 0 };
    let _ = write!(
        out,
        "Threads:\t{}\nSigQ:\t0/{queue}\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared_pending:016x}\nSigBlk:\t{blocked:016x}\n\
         SigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\nCapInh:\t{:016x}\nCapPrm:\t{capabilities:016x}\n\
         CapEff:\t{capabilities:016x}\nCapBnd:\t000001ffffffffff\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\nSeccomp:\t0\n\
         Seccomp_filters:\t0\nSpeculation_Store_Bypass:\tvulnerable\nSpeculationIndirectBranch:\tconditional enabled\n\
         Cpus_allowed:\t1\nCpus_allowed_list:\t0\nMems_allowed:\t1\nMems_allowed_list:\t0\n\
         voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
        status.threads,
        0,
        0,
        u32::from(status.no_new_privs),
        status.switches.0,
        status.switches.1,
    );
    text.extend_from_slice(out.as_bytes());
    Ok(text)
}

fn limits(source: &Source<'_>) -> Result<Vec<u8>> {
    /// Name and unit of RLIMIT_CPU .. RLIMIT_RTTIME.
    const LIMITS: [(&str, &str); 16] = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    check_access(source.context, source.pid)?;
    let limits = source.processes.limits(source.pid).ok_or(Errno::ESRCH)?;
    let show = |value: u64| if value == u64::MAX { String::from("unlimited") } else { format!("{value}") };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in LIMITS.iter().zip(limits) {
        let _ = writeln!(text, "{name:<25} {:<20} {:<20} {unit:<10}", show(soft), show(hard));
    }
    Ok(text.into_bytes())
}

fn mapping_line(out: &mut Vec<u8>, area: &super::Mapping) {
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    let (read, write, execute) = area.rights;
    let (major, minor) = split_device(area.identity.0);
    let head = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {major:02x}:{minor:02x} {} ",
        area.start,
        area.end,
        flag(read, 'r'),
        flag(write, 'w'),
        flag(execute, 'x'),
        if area.shared { 's' } else { 'p' },
        area.offset,
        area.identity.1,
    );
    out.extend_from_slice(head.as_bytes());
    if !area.name.is_empty() {
        out.resize(out.len() + 73usize.saturating_sub(head.len()), b' ');
        out.extend_from_slice(&area.name);
    }
    out.push(b'\n');
}

fn mappings(source: &Source<'_>) -> Result<Vec<super::Mapping>> {
    check_access(source.context, source.pid)?;
    source.processes.mappings(source.pid).ok_or(Errno::ESRCH)
}

fn maps(source: &Source<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    mappings(source)?.iter().for_each(|area| mapping_line(&mut out, area));
    Ok(out)
}

fn smaps_body(out: &mut Vec<u8>, size: Option<u64>, rss: u64) {
    let mut text = String::new();
    if let Some(size) = size {
        let _ = write!(
            text,
            "Size:           {:8} kB\nKernelPageSize: {:8} kB\nMMUPageSize:    {:8} kB\n",
            size / 1024,
            4,
            4
        );
    }
    let kilobytes = rss / 1024;
    let lines = [
        ("Rss", kilobytes),
        ("Pss", kilobytes),
        ("Shared_Clean", 0),
        ("Shared_Dirty", 0),
        ("Private_Clean", 0),
        ("Private_Dirty", kilobytes),
        ("Referenced", kilobytes),
        ("Anonymous", kilobytes),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", 0),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "{:<16}{value:8} kB", format!("{name}:"));
    }
    out.extend_from_slice(text.as_bytes());
}

fn smaps(source: &Source<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for area in mappings(source)? {
        mapping_line(&mut out, &area);
        smaps_body(&mut out, Some(area.end - area.start), area.rss_bytes);
        let (read, write, execute) = area.rights;
        let mut flags = String::from("VmFlags:");
        for (set, name) in [(read, " rd"), (write, " wr"), (execute, " ex"), (area.shared, " sh")] {
            flags.push_str(if set { name } else { "" });
        }
        flags.push_str(" \n");
        out.extend_from_slice(flags.as_bytes());
    }
    Ok(out)
}

fn smaps_rollup(source: &Source<'_>) -> Result<Vec<u8>> {
    let areas = mappings(source)?;
    let (start, end) = (areas.first().map_or(0, |area| area.start), areas.last().map_or(0, |area| area.end));
    let mut out = format!("{start:08x}-{end:08x} ---p 00000000 00:00 0                          [rollup]\n")
        .into_bytes();
    smaps_body(&mut out, None, areas.iter().map(|area| area.rss_bytes).sum());
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_sorted_for_the_search() {
        assert!(super::NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
