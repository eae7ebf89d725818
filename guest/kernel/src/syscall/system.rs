//! The system as a whole: names, limits, resource use, random numbers.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, SysResult};
use crate::kernel::Kernel;
use crate::task::process::{LIMIT_NOFILE, Limits, UNLIMITED};
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

/// The family.
pub const TABLE: &[Entry] = &[
    full(63, "uname", uname),
    full(97, "getrlimit", getrlimit),
    partial(98, "getrusage", getrusage, "CPU time, peak memory, minor faults"),
    full(99, "sysinfo", sysinfo),
    partial(103, "syslog", not_permitted, "EPERM: there is no kernel log to read"),
    full(160, "setrlimit", setrlimit),
    full(170, "sethostname", sethostname),
    full(171, "setdomainname", setdomainname),
    partial(169, "reboot", not_permitted, "EPERM: no CAP_SYS_BOOT, as in a container"),
    full(302, "prlimit64", prlimit64),
    full(318, "getrandom", getrandom),
];

/// uname's release.
pub const RELEASE: &str = "6.1.0-seuss";
/// uname's version.
pub const VERSION: &str = concat!("#1 seuss ", env!("CARGO_PKG_VERSION"), " unikernel guest");

fn not_permitted(_: &mut Call<'_>) -> SysResult {
    Err(Errno::EPERM.into())
}

fn uname(call: &mut Call<'_>) -> SysResult {
    let mut bytes = vec![0u8; 65 * 6];
    let hostname = call.kernel.hostname.borrow().clone();
    let domainname = call.kernel.domainname.borrow().clone();
    let fields: [&[u8]; 6] =
        [b"Linux", &hostname, RELEASE.as_bytes(), VERSION.as_bytes(), b"x86_64", &domainname];
    for (slot, field) in bytes.chunks_exact_mut(65).zip(fields) {
        let len = field.len().min(64);
        slot[..len].copy_from_slice(&field[..len]);
    }
    call.write(call.args[0], &bytes)?;
    Ok(0)
}

fn new_name(call: &Call<'_>) -> Result<Vec<u8>> {
    if !call.process.credentials.borrow().is_privileged() {
        return Err(Errno::EPERM);
    }
    if call.args[1] > 64 {
        return Err(Errno::EINVAL);
    }
    let mut name = vec![0; call.args[1] as usize];
    call.read(call.args[0], &mut name)?;
    Ok(name)
}

fn sethostname(call: &mut Call<'_>) -> SysResult {
    let name = new_name(call)?;
    *call.kernel.hostname.borrow_mut() = name;
    Ok(0)
}

fn setdomainname(call: &mut Call<'_>) -> SysResult {
    let name = new_name(call)?;
    *call.kernel.domainname.borrow_mut() = name;
    Ok(0)
}

/// Limits of the first process: those of a container under containerd.
#[must_use]
pub fn default_limits(nofile: u64, stack: u64, nproc: u64) -> Limits {
    let mut limits = [(UNLIMITED, UNLIMITED); 16];
    limits[crate::task::process::LIMIT_STACK] = (stack, UNLIMITED);
    limits[4] = (0, UNLIMITED);
    limits[crate::task::process::LIMIT_NPROC] = (nproc, nproc);
    limits[LIMIT_NOFILE] = (nofile, nofile);
    limits[8] = (64 << 10, 64 << 10);
    limits[11] = (4096, 4096);
    limits[12] = (819_200, 819_200);
    limits[13] = (0, 0);
    limits[14] = (0, 0);
    limits
}

fn change_limit(call: &Call<'_>, pid: u32, resource: u64, new: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let process = if pid == 0 { Some(call.process.clone()) } else { call.kernel.process(pid) };
    let process = process.ok_or(Errno::ESRCH)?;
    let mut limits = process.limits.borrow_mut();
    let slot = limits.get_mut(resource as usize).ok_or(Errno::EINVAL)?;
    let old = *slot;
    if let Some((soft, hard)) = new {
        if soft > hard {
            return Err(Errno::EINVAL);
        }
        if hard > old.1 && !call.process.credentials.borrow().is_privileged() {
            return Err(Errno::EPERM);
        }
        *slot = (soft, hard);
    }
    Ok(old)
}

fn getrlimit(call: &mut Call<'_>) -> SysResult {
    let (soft, hard) = change_limit(call, 0, call.args[0], None)?;
    call.write_words(call.args[1], &[soft, hard])?;
    Ok(0)
}

fn setrlimit(call: &mut Call<'_>) -> SysResult {
    let [soft, hard] = call.read_words(call.args[1])?;
    change_limit(call, 0, call.args[0], Some((soft, hard)))?;
    Ok(0)
}

fn prlimit64(call: &mut Call<'_>) -> SysResult {
    let [pid, resource, new, old, ..] = call.args;
    let wanted =
        if new == 0 { None } else { Some(call.read_words::<2>(new).map(|[soft, hard]| (soft, hard))?) };
    let (soft, hard) = change_limit(call, pid as u32, resource, wanted)?;
    if old != 0 {
        call.write_words(old, &[soft, hard])?;
    }
    Ok(0)
}

/// struct rusage: CPU time, peak memory and page faults.
#[must_use]
pub fn usage(cpu_ns: u64, peak_rss: u64, minor_faults: u64) -> Vec<u8> {
    let mut words = [0u64; 18];
    words[0] = cpu_ns / 1_000_000_000;
    // What ran at all has used a microsecond.
    words[1] = (cpu_ns % 1_000_000_000).div_ceil(1000).min(999_999);
    words[4] = peak_rss / 1024;
    words[8] = minor_faults;
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn getrusage(call: &mut Call<'_>) -> SysResult {
    let process = &call.process;
    process.note_rss();
    let (rss, children_rss) = process.peak_rss.get();
    let (faults, children_faults) = process.minor_faults.get();
    let bytes = match call.args[0] as u32 as i32 {
        0 => usage(super::time::process_cpu_ns(call.kernel, process), rss, faults),
        1 => {
            call.kernel.account();
            usage(call.thread.cpu_ns.get(), rss, faults)
        }
        -1 => usage(process.children_cpu_ns.get(), children_rss, children_faults),
        _ => return Err(Errno::EINVAL.into()),
    };
    call.write(call.args[1], &bytes)?;
    Ok(0)
}

impl Kernel {
    /// Bytes of memory: total and free.
    #[must_use]
    pub fn memory_bytes(&self) -> (u64, u64) {
        (self.frames.total() as u64 * PAGE_SIZE, self.frames.available() as u64 * PAGE_SIZE)
    }
}

fn sysinfo(call: &mut Call<'_>) -> SysResult {
    let (total, free) = call.kernel.memory_bytes();
    // Seconds of CLOCK_BOOTTIME, begun ones included (kernel/sys.c).
    let uptime = call.kernel.machine.boottime_ns().div_ceil(1_000_000_000);
    let processes = call.kernel.thread_count() as u64;
    // uptime, loads, totalram, freeram, sharedram, bufferram, totalswap, freeswap, procs, totalhigh, freehigh, mem_unit.
    let words = [uptime, 0, 0, 0, total, free, 0, 0, 0, 0, processes & 0xffff, 0, 0, 1];
    call.write_words(call.args[0], &words)?;
    Ok(0)
}

fn getrandom(call: &mut Call<'_>) -> SysResult {
    let [address, len, flags, ..] = call.args;
    if flags & !7 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let len = len.min(0x01ff_ffff);
    let mut done = 0;
    let mut chunk = [0; 256];
    while done < len {
        let count = (len - done).min(chunk.len() as u64) as usize;
        call.kernel.random.fill(&mut chunk[..count]);
        if call.write(address.wrapping_add(done), &chunk[..count]).is_err() {
            return if done == 0 { Err(Errno::EFAULT.into()) } else { Ok(done) };
        }
        done += count as u64;
    }
    Ok(done)
}
