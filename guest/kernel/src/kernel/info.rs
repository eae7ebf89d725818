//! What /proc shows of the library OS.

use super::Kernel;
use crate::errno::{Errno, Result};
use crate::fs::proc::{CpuModel, Mapping, ProcessStatus, Setter, Setting, SystemStatus};
use crate::fs::{FdTable, FsContext, Node, ProcessInfo};
use crate::mem::area::{Backing, Protection};
use crate::mem::space::Space;
use crate::task::process::{ChildState, Process};
use crate::task::signal::{SIG_DFL, SIG_IGN, SIGNAL_MAX};
use crate::task::thread::{State, Thread};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use seuss_abi::layout::PAGE_SIZE;

/// Longest command line or environment that /proc shows.
const STRINGS_MAX: u64 = 2 << 20;

impl Kernel {
    /// Bytes of a process' memory, as far as they are there.
    fn memory_of(&self, pid: u32, (start, end): (u64, u64)) -> Option<Vec<u8>> {
        let process = self.process(pid)?;
        let mut bytes = vec![0; end.saturating_sub(start).min(STRINGS_MAX) as usize];
        let got = process.space().borrow_mut().read_some(start, &mut bytes);
        bytes.truncate(got);
        Some(bytes)
    }

    fn state_of(process: &Process, thread: Option<&Thread>) -> char {
        match (process.child_state.get(), thread.map(|thread| thread.state.get())) {
            (ChildState::Zombie(_), _) => 'Z',
            _ if process.stopped.get() => 'T',
            (_, Some(State::Waiting)) => 'S',
            _ => 'R',
        }
    }
}

fn sizes(space: &Space) -> (u64, u64, u64) {
    let mut found = (0, 0, 0);
    for area in space.areas() {
        let len = area.end - area.start;
        if area.label == "[stack]" {
            found.2 += len;
        } else if area.protection.contains(Protection::EXECUTE) {
            found.0 += len;
        } else if area.protection.contains(Protection::WRITE) && !area.shared {
            found.1 += len;
        }
    }
    found
}

impl ProcessInfo for Kernel {
    fn current(&self) -> (u32, u32) {
        Self::current(self).map_or((1, 1), |thread| (thread.process.pid, thread.tid))
    }

    fn unix_sockets(&self) -> Vec<u8> {
        crate::net::unix::listing(&self.net.unix)
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.borrow().keys().copied().collect()
    }

    fn threads(&self, pid: u32) -> Vec<u32> {
        match self.process(pid) {
            Some(process) if process.is_zombie() => vec![pid],
            Some(process) => process.threads.borrow().clone(),
            None => Vec::new(),
        }
    }

    fn status(&self, pid: u32, tid: u32) -> Option<ProcessStatus> {
        let process = self.process(pid)?;
        let thread = self.thread(tid).filter(|thread| thread.process.pid == pid);
        if thread.is_none() && !process.is_zombie() {
            return None;
        }
        let who = process.credentials.borrow().clone();
        let space = process.space();
        let space = space.borrow();
        let (vm_bytes, (rss_bytes, rss_peak_bytes)) = (space.size(), space.resident_and_peak());
        let actions = process.actions.borrow().clone();
        let actions = actions.borrow();
        let with = |wanted: &dyn Fn(u64) -> bool| {
            (1..=SIGNAL_MAX)
                .filter(|signo| wanted(actions.get(*signo).handler))
                .fold(0, |set, signo| set | 1u64 << (signo - 1))
        };
        let exit_status = if let ChildState::Zombie(status) = process.child_state.get() { status } else { 0 };
        let program = process.program.borrow();
        let leader = thread.clone().or_else(|| self.thread(pid));
        self.account();
        Some(ProcessStatus {
            ppid: process.parent.get(),
            pgid: process.pgid.get(),
            sid: process.sid.get(),
            comm: leader.as_ref().map(|thread| thread.comm_bytes()).unwrap_or_default(),
            state: Self::state_of(&process, thread.as_deref()),
            threads: process.threads.borrow().len() as u32,
            uids: [who.uid, who.euid, who.suid, who.fsuid],
            gids: [who.gid, who.egid, who.sgid, who.fsgid],
            groups: who.groups,
            umask: process.fs().umask(),
            cpu_ns: (crate::syscall::time::process_cpu_ns(self, &process), 0),
            children_cpu_ns: (process.children_cpu_ns.get(), 0),
            start_ns: process.started_ns,
            minor_faults: process.minor_faults.get().0,
            nice: process.nice.get(),
            vm_bytes,
            vm_peak_bytes: vm_bytes,
            rss_bytes,
            rss_peak_bytes,
            text_data_stack_bytes: sizes(&space),
            signals: [
                thread.as_ref().map_or(0, |thread| thread.pending.borrow().set().0),
                process.pending.borrow().set().0,
                thread.as_ref().map_or(0, |thread| thread.mask.get().0),
                with(&|handler| handler == SIG_IGN),
                with(&|handler| handler != SIG_IGN && handler != SIG_DFL),
            ],
            no_new_privs: process.no_new_privs.get(),
            oom_score_adj: process.oom_score_adj.get(),
            personality: process.personality.get(),
            stack_start: program.stack,
            exit_signal: process.exit_signal.get(),
            exit_status,
            ..ProcessStatus::default()
        })
    }

    fn command_line(&self, pid: u32) -> Option<Vec<u8>> {
        let range = self.process(pid)?.program.borrow().arguments;
        self.memory_of(pid, range)
    }

    fn environment(&self, pid: u32) -> Option<Vec<u8>> {
        let program = self.process(pid)?.program.borrow().clone();
        let (start, end) = program.environment;
        let mut text = self.memory_of(pid, (start, program.identity.clamp(start, end)))?;
        // Without the room that is kept for longer values: a reader takes an empty string for the end.
        for piece in [(program.identity.clamp(start, end), end)].into_iter().chain(program.moved_environment)
        {
            let strings = self.memory_of(pid, piece)?;
            for string in strings.split(|byte| *byte == 0).filter(|string| !string.is_empty()) {
                text.extend_from_slice(string);
                text.push(0);
            }
        }
        Some(text)
    }

    fn auxiliary_vector(&self, pid: u32) -> Option<Vec<u8>> {
        Some(self.process(pid)?.program.borrow().auxv.clone())
    }

    fn mappings(&self, pid: u32) -> Option<Vec<Mapping>> {
        let process = self.process(pid)?;
        let space = process.space();
        let space = space.borrow();
        let map = |area: &crate::mem::area::Area| {
            let (name, identity, offset) = match &area.backing {
                Backing::Anonymous => (area.label.as_bytes().to_vec(), (0, 0), 0),
                Backing::Object { pager, first_page } => {
                    (pager.name(), pager.identity(), first_page * PAGE_SIZE)
                }
            };
            Mapping {
                start: area.start,
                end: area.end,
                rights: (
                    area.protection.contains(Protection::READ),
                    area.protection.contains(Protection::WRITE),
                    area.protection.contains(Protection::EXECUTE),
                ),
                shared: area.shared,
                offset,
                identity,
                name,
                rss_bytes: space.resident(area.start, area.end),
            }
        };
        Some(space.areas().map(map).collect())
    }

    fn executable(&self, pid: u32) -> Option<Rc<Node>> {
        self.process(pid)?.program.borrow().node.clone()
    }

    fn place(&self, pid: u32) -> Option<Rc<FsContext>> {
        self.process(pid).filter(|process| !process.is_zombie()).map(|process| process.fs())
    }

    fn files(&self, pid: u32) -> Option<Rc<RefCell<FdTable>>> {
        self.process(pid).map(|process| process.files())
    }

    fn limits(&self, pid: u32) -> Option<[(u64, u64); 16]> {
        Some(*self.process(pid)?.limits.borrow())
    }

    fn setter(&self, _pid: u32, tid: u32, setting: Setting) -> Option<Setter> {
        let thread = self.thread(tid)?;
        Some(match setting {
            Setting::Comm => Box::new(move |name: &[u8]| -> Result {
                let name = name.strip_suffix(b"\n").unwrap_or(name);
                thread.set_comm(name);
                Ok(())
            }),
            Setting::OomScoreAdj => Box::new(move |value: &[u8]| -> Result {
                let text = core::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
                let value: i32 = text.trim().parse().map_err(|_| Errno::EINVAL)?;
                if !(-1000..=1000).contains(&value) {
                    return Err(Errno::EINVAL);
                }
                thread.process.oom_score_adj.set(value);
                Ok(())
            }),
        })
    }

    fn system(&self) -> SystemStatus {
        let clock = self.machine.clock();
        self.account();
        // While it was a snapshot it was neither busy nor idle: what Linux says of a suspend.
        let (awake_ns, busy_ns) = (self.machine.monotonic_ns(), self.busy_ns.get());
        let boot_ns = clock.realtime_offset_ns.saturating_sub(clock.boottime_offset_ns);
        let threads = self.threads.borrow();
        let running = threads.values().filter(|thread| thread.state.get() == State::Runnable).count();
        SystemStatus {
            uptime_ns: self.machine.boottime_ns(),
            boot_time_s: boot_ns.max(0).cast_unsigned() / 1_000_000_000,
            cpu_ns: (busy_ns, 0, awake_ns.saturating_sub(busy_ns)),
            switches: self.switches_before.get() + self.counters.get().switches,
            forks: u64::from(self.next_tid.get()),
            running_total: (running as u32, threads.len() as u32),
            last_pid: self.next_tid.get().saturating_sub(1),
            load: [0; 3],
            threads_max: self.config.threads_max as u32,
            cpu: cpu_model(&clock),
        }
    }

    fn hostname(&self) -> Vec<u8> {
        self.hostname.borrow().clone()
    }
}

/// What CPUID says of the CPU (SDM vol. 2, CPUID).
fn cpu_model(clock: &seuss_abi::comm::Clock) -> CpuModel {
    use core::arch::x86_64::__cpuid;
    let vendor = __cpuid(0);
    let version = __cpuid(1);
    let words =
        |registers: &[u32]| registers.iter().flat_map(|register| register.to_le_bytes()).collect::<Vec<u8>>();
    let mut brand = Vec::new();
    if __cpuid(0x8000_0000).eax >= 0x8000_0004 {
        for leaf in 0x8000_0002..=0x8000_0004 {
            let part = __cpuid(leaf);
            brand.extend(words(&[part.eax, part.ebx, part.ecx, part.edx]));
        }
    }
    let end = brand.iter().position(|byte| *byte == 0).unwrap_or(brand.len());
    brand.truncate(end);
    let eax = version.eax;
    let (family, model) = (eax >> 8 & 15, eax >> 4 & 15);
    let extended = family == 6 || family == 15;
    let flags: Vec<&str> = [
        (version.edx, 0, "fpu"),
        (version.edx, 4, "tsc"),
        (version.edx, 8, "cx8"),
        (version.edx, 15, "cmov"),
        (version.edx, 23, "mmx"),
        (version.edx, 24, "fxsr"),
        (version.edx, 25, "sse"),
        (version.edx, 26, "sse2"),
        (version.ecx, 0, "pni"),
        (version.ecx, 1, "pclmulqdq"),
        (version.ecx, 9, "ssse3"),
        (version.ecx, 12, "fma"),
        (version.ecx, 13, "cx16"),
        (version.ecx, 19, "sse4_1"),
        (version.ecx, 20, "sse4_2"),
        (version.ecx, 23, "popcnt"),
        (version.ecx, 25, "aes"),
        (version.ecx, 26, "xsave"),
        (version.ecx, 28, "avx"),
        (version.ecx, 30, "rdrand"),
    ]
    .into_iter()
    .filter(|(register, bit, _)| register >> bit & 1 == 1)
    .map(|(_, _, name)| name)
    .collect();
    // mult / 2^shift nanoseconds for a tick.
    let khz = if clock.mult == 0 {
        0
    } else {
        ((1_000_000u128 << (clock.shift & 127)) / u128::from(clock.mult)) as u64
    };
    CpuModel {
        vendor: words(&[vendor.ebx, vendor.edx, vendor.ecx]),
        brand,
        version: (
            if family == 15 { family + (eax >> 20 & 0xff) } else { family },
            if extended { model | (eax >> 16 & 15) << 4 } else { model },
            eax & 15,
        ),
        khz,
        flags: flags.join(" ").into_bytes(),
    }
}
