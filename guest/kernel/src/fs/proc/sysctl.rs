//! /proc/sys: the settings that programs look at. They cannot be changed (EROFS, as where a container's /proc/sys is read-only).

use super::{Maker, RELEASE, Shared, Source, TextNode, static_text};
use crate::errno::{Errno, Result};
use crate::fs::device::{hang, new_directory};
use crate::fs::node::{Flags, Kind, Node, S_IFREG};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

const FIXED: &[(&str, &str)] = &[
    ("fs/aio-max-nr", "65536\n"),
    ("fs/epoll/max_user_watches", "1048576\n"),
    ("fs/file-max", "9223372036854775807\n"),
    ("fs/inotify/max_queued_events", "16384\n"),
    ("fs/inotify/max_user_instances", "128\n"),
    ("fs/inotify/max_user_watches", "65536\n"),
    ("fs/mount-max", "100000\n"),
    ("fs/nr_open", "1048576\n"),
    ("fs/pipe-max-size", "1048576\n"),
    ("fs/protected_hardlinks", "0\n"),
    ("fs/protected_symlinks", "0\n"),
    ("fs/suid_dumpable", "0\n"),
    ("kernel/cap_last_cap", "40\n"),
    ("kernel/core_pattern", "core\n"),
    ("kernel/domainname", "(none)\n"),
    ("kernel/dmesg_restrict", "1\n"),
    ("kernel/keys/maxkeys", "200\n"),
    ("kernel/msgmax", "8192\n"),
    ("kernel/msgmnb", "16384\n"),
    ("kernel/msgmni", "32000\n"),
    ("kernel/ngroups_max", "65536\n"),
    ("kernel/ostype", "Linux\n"),
    ("kernel/overflowgid", "65534\n"),
    ("kernel/overflowuid", "65534\n"),
    ("kernel/perf_event_paranoid", "4\n"),
    ("kernel/pid_max", "4194304\n"),
    ("kernel/random/entropy_avail", "256\n"),
    ("kernel/random/poolsize", "256\n"),
    ("kernel/randomize_va_space", "2\n"),
    ("kernel/sched_rt_runtime_us", "950000\n"),
    ("kernel/seccomp/actions_avail", "\n"),
    ("kernel/sem", "32000\t1024000000\t500\t32000\n"),
    ("kernel/shmall", "18446744073692774399\n"),
    ("kernel/shmmax", "18446744073692774399\n"),
    ("kernel/shmmni", "4096\n"),
    ("kernel/unprivileged_userns_clone", "0\n"),
    ("kernel/yama/ptrace_scope", "1\n"),
    ("net/core/rmem_default", "212992\n"),
    ("net/core/rmem_max", "212992\n"),
    ("net/core/somaxconn", "4096\n"),
    ("net/core/wmem_default", "212992\n"),
    ("net/core/wmem_max", "212992\n"),
    ("net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("net/ipv4/tcp_fin_timeout", "60\n"),
    ("net/ipv4/tcp_keepalive_time", "7200\n"),
    ("net/ipv4/tcp_max_syn_backlog", "4096\n"),
    ("net/ipv4/ip_unprivileged_port_start", "0\n"),
    ("net/ipv6/bindv6only", "0\n"),
    ("net/ipv6/conf/all/disable_ipv6", "0\n"),
    ("net/ipv6/conf/default/disable_ipv6", "0\n"),
    ("vm/max_map_count", "65530\n"),
    ("vm/min_free_kbytes", "1024\n"),
    ("vm/mmap_min_addr", "65536\n"),
    ("vm/nr_hugepages", "0\n"),
    ("vm/overcommit_memory", "0\n"),
    ("vm/overcommit_ratio", "50\n"),
    ("vm/swappiness", "60\n"),
];

const MADE: &[(&str, Maker)] = &[
    ("kernel/hostname", hostname),
    ("kernel/osrelease", |_| Ok(format!("{RELEASE}\n").into_bytes())),
    ("kernel/random/boot_id", boot_id),
    ("kernel/random/uuid", uuid),
    ("kernel/threads-max", threads_max),
    ("kernel/version", |_| Ok(format!("{}\n", crate::syscall::system::VERSION).into_bytes())),
];

/// Hang /proc/sys into /proc.
pub(super) fn fill(root: &Rc<Node>, shared: &Rc<Shared>) {
    let fs = root.fs();
    let sys = new_directory(fs, 0o555);
    hang(root, "sys", &sys);
    let place = |path: &'static str, node: &Rc<Node>| {
        let mut at = sys.clone();
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                node.add_flags(Flags::READ_ONLY);
                hang(&at, name, node);
                return;
            }
            let known = at.directory().ok().and_then(|directory| directory.cached(name.as_bytes()));
            at = known.unwrap_or_else(|| {
                let made = new_directory(fs, 0o555);
                hang(&at, name, &made);
                made
            });
        }
    };
    for (path, text) in FIXED {
        place(path, &static_text(fs, 0o444, text));
    }
    for (path, make) in MADE {
        let text = TextNode { make: *make, shared: Some(shared.clone()), pid: 0, tid: 0, setting: None };
        place(path, &Node::system(fs, S_IFREG | 0o444, Kind::Generated(Box::new(text))));
    }
}

fn hostname(source: &Source<'_>) -> Result<Vec<u8>> {
    let mut name = source.processes.hostname();
    name.push(b'\n');
    Ok(name)
}

fn threads_max(source: &Source<'_>) -> Result<Vec<u8>> {
    Ok(format!("{}\n", source.processes.system().threads_max).into_bytes())
}

/// A random UUID, version 4 (RFC 4122).
fn format_uuid(mut bytes: [u8; 16]) -> Vec<u8> {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    text.into_bytes()
}

fn boot_id(source: &Source<'_>) -> Result<Vec<u8>> {
    let shared = source.shared.ok_or(Errno::ENOENT)?;
    let guest = source.env.snapshots.id();
    let bytes = match shared.boot_id.get() {
        Some((of, bytes)) if of == guest => bytes,
        _ => {
            let mut bytes = [0; 16];
            source.env.fill_random(&mut bytes)?;
            shared.boot_id.set(Some((guest, bytes)));
            bytes
        }
    };
    Ok(format_uuid(bytes))
}

fn uuid(source: &Source<'_>) -> Result<Vec<u8>> {
    let mut bytes = [0; 16];
    source.env.fill_random(&mut bytes)?;
    Ok(format_uuid(bytes))
}
