//! /sys, as far as programs look: CPUs, transparent huge pages, network interfaces, and the control group's limits.

mod net;

use super::device::{hang, new_directory};
use super::env::{CGROUP2, Env, FileSystem, SYSFS};
use super::node::{Kind, Node, S_IFREG};
use super::proc::{Maker, TextNode, static_text};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use seuss_abi::layout::PAGE_SIZE;

const FIXED: &[(&str, &str)] = &[
    ("devices/system/cpu/isolated", "\n"),
    ("devices/system/cpu/kernel_max", "0\n"),
    ("devices/system/cpu/offline", "\n"),
    ("devices/system/cpu/online", "0\n"),
    ("devices/system/cpu/possible", "0\n"),
    ("devices/system/cpu/present", "0\n"),
    ("devices/system/cpu/cpu0/topology/core_cpus_list", "0\n"),
    ("devices/system/cpu/cpu0/topology/core_id", "0\n"),
    ("devices/system/cpu/cpu0/topology/physical_package_id", "0\n"),
    ("devices/system/cpu/cpu0/topology/thread_siblings_list", "0\n"),
    ("devices/system/node/online", "0\n"),
    ("devices/system/node/possible", "0\n"),
    ("devices/system/node/has_cpu", "0\n"),
    ("devices/system/node/node0/cpulist", "0\n"),
    ("kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"),
    ("kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n"),
    ("kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n"),
];

const CGROUP_FIXED: &[(&str, &str)] = &[
    ("cgroup.controllers", "cpu memory pids\n"),
    ("cgroup.max.depth", "max\n"),
    ("cgroup.subtree_control", "\n"),
    ("cgroup.type", "domain\n"),
    ("cpu.max", "max 100000\n"),
    ("cpu.weight", "100\n"),
    ("cpuset.cpus.effective", "0\n"),
    ("cpuset.mems.effective", "0\n"),
    ("memory.high", "max\n"),
    ("memory.low", "0\n"),
    ("memory.min", "0\n"),
    ("memory.swap.current", "0\n"),
    ("memory.swap.max", "0\n"),
];

const CGROUP_MADE: &[(&str, Maker)] = &[
    ("memory.current", |source| {
        let frames = &source.env.frames;
        let used = frames.total().saturating_sub(frames.available()) as u64;
        Ok(format!("{}\n", used * PAGE_SIZE).into_bytes())
    }),
    ("memory.max", |source| Ok(format!("{}\n", source.env.frames.total() as u64 * PAGE_SIZE).into_bytes())),
    ("pids.current", |source| Ok(format!("{}\n", source.processes.system().running_total.1).into_bytes())),
    ("pids.max", |source| Ok(format!("{}\n", source.processes.system().threads_max).into_bytes())),
    ("cgroup.procs", |source| {
        let lines = source.processes.pids().into_iter().map(|pid| format!("{pid}\n"));
        Ok(lines.collect::<String>().into_bytes())
    }),
];

fn directory(root: &Rc<Node>, path: &str) -> Rc<Node> {
    let mut at = root.clone();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let known = at.directory().ok().and_then(|directory| directory.cached(name.as_bytes()));
        at = known.unwrap_or_else(|| {
            let made = new_directory(at.fs(), 0o755);
            hang(&at, name, &made);
            made
        });
    }
    at
}

/// The root directory of /sys, with the control groups' file system in it.
pub(crate) fn make_tree(env: &Rc<Env>) -> Rc<Node> {
    let fs = FileSystem::new(env, SYSFS, None);
    let root = new_directory(&fs, 0o555);
    for (path, text) in FIXED {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        hang(&directory(&root, parent), name, &static_text(&fs, 0o444, text));
    }
    hang(&directory(&root, "class"), "net", &net::directory(&fs));
    directory(&root, "block");
    let groups_fs = FileSystem::new(env, CGROUP2, None);
    let groups = new_directory(&groups_fs, 0o555);
    for (name, text) in CGROUP_FIXED {
        hang(&groups, name, &static_text(&groups_fs, 0o444, text));
    }
    for (name, make) in CGROUP_MADE {
        let text = TextNode { make: *make, shared: None, pid: 0, tid: 0, setting: None };
        hang(&groups, name, &Node::system(&groups_fs, S_IFREG | 0o444, Kind::Generated(Box::new(text))));
    }
    hang(&directory(&root, "fs"), "cgroup", &groups);
    root
}
