//! What /proc shows of processes and of the system: the process table's side of the contract.

use crate::errno::Result;
use crate::fs::env::FsContext;
use crate::fs::node::Node;
use crate::fs::table::FdTable;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

/// One thread, and its process, as /proc/PID/stat and status show them.
#[derive(Clone, Debug, Default)]
pub struct ProcessStatus {
    /// Parent's process id.
    pub ppid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// The thread's name, at most 15 bytes.
    pub comm: Vec<u8>,
    /// `R`, `S`, `T`, `Z`, ...
    pub state: char,
    /// Threads of the process.
    pub threads: u32,
    /// Real, effective, saved and file-system user id.
    pub uids: [u32; 4],
    /// Real, effective, saved and file-system group id.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// CPU time in user and kernel mode, in nanoseconds.
    pub cpu_ns: (u64, u64),
    /// The same of children that were waited for.
    pub children_cpu_ns: (u64, u64),
    /// Start, in nanoseconds of CLOCK_BOOTTIME.
    pub start_ns: u64,
    /// Minor page faults.
    pub minor_faults: u64,
    /// Mapped bytes (VmSize).
    pub vm_bytes: u64,
    /// Most that `vm_bytes` has been.
    pub vm_peak_bytes: u64,
    /// Bytes in frames (VmRSS).
    pub rss_bytes: u64,
    /// Most that `rss_bytes` has been.
    pub rss_peak_bytes: u64,
    /// Bytes of executable areas, of writable private areas, and of the stack.
    pub text_data_stack_bytes: (u64, u64, u64),
    /// Signals: pending for the thread, for the process, blocked, ignored, caught; bit `n - 1` is signal `n`.
    pub signals: [u64; 5],
    /// Nice value.
    pub nice: i32,
    /// oom_score_adj.
    pub oom_score_adj: i32,
    /// no_new_privs.
    pub no_new_privs: bool,
    /// Voluntary and involuntary context switches.
    pub switches: (u64, u64),
    /// personality(2).
    pub personality: u32,
    /// Start of the stack, and of code, data and heap, as far as they are known.
    pub stack_start: u64,
    /// Exit signal to the parent (SIGCHLD).
    pub exit_signal: u32,
    /// The wait status of a zombie.
    pub exit_status: u32,
}

/// One area of an address space.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Read, write, execute.
    pub rights: (bool, bool, bool),
    /// MAP_SHARED.
    pub shared: bool,
    /// Offset in the file.
    pub offset: u64,
    /// Device number and inode number, zeros without a file.
    pub identity: (u64, u64),
    /// File or `[heap]` and the like, possibly empty.
    pub name: Vec<u8>,
    /// Bytes in frames.
    pub rss_bytes: u64,
}

/// The whole system.
#[derive(Clone, Debug, Default)]
pub struct SystemStatus {
    /// Nanoseconds since boot (CLOCK_BOOTTIME).
    pub uptime_ns: u64,
    /// Boot, in seconds since the epoch.
    pub boot_time_s: u64,
    /// Nanoseconds that the vCPU was busy in user mode, in kernel mode, and idle.
    pub cpu_ns: (u64, u64, u64),
    /// Context switches since boot.
    pub switches: u64,
    /// Processes and threads made since boot.
    pub forks: u64,
    /// Runnable threads, all threads.
    pub running_total: (u32, u32),
    /// The last process id given.
    pub last_pid: u32,
    /// Load averages in hundredths.
    pub load: [u32; 3],
    /// RLIMIT_NPROC's ceiling: most threads of the guest.
    pub threads_max: u32,
    /// CPU model as CPUID's brand string, and TSC frequency in kHz.
    pub cpu: CpuModel,
}

/// What /proc/cpuinfo shows.
#[derive(Clone, Debug, Default)]
pub struct CpuModel {
    /// CPUID vendor, such as `GenuineIntel`.
    pub vendor: Vec<u8>,
    /// Brand string.
    pub brand: Vec<u8>,
    /// Family, model, stepping.
    pub version: (u32, u32, u32),
    /// TSC frequency in kHz.
    pub khz: u64,
    /// Feature names, separated by spaces.
    pub flags: Vec<u8>,
}

/// What a file in /proc can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// /proc/PID/comm.
    Comm,
    /// /proc/PID/oom_score_adj.
    OomScoreAdj,
}

/// Takes what was written to a file in /proc.
pub type Setter = Box<dyn Fn(&[u8]) -> Result>;

/// The process table, for /proc. A process that is gone has no values.
pub trait ProcessInfo {
    /// Process and thread id of the caller.
    fn current(&self) -> (u32, u32);
    /// All process ids.
    fn pids(&self) -> Vec<u32>;
    /// The thread ids of a process; empty if it does not exist.
    fn threads(&self, pid: u32) -> Vec<u32>;
    /// A thread.
    fn status(&self, pid: u32, tid: u32) -> Option<ProcessStatus>;
    /// The text of /proc/net/unix.
    fn unix_sockets(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Arguments, each with a terminating zero.
    fn command_line(&self, pid: u32) -> Option<Vec<u8>>;
    /// Environment, each with a terminating zero.
    fn environment(&self, pid: u32) -> Option<Vec<u8>>;
    /// The auxiliary vector's bytes.
    fn auxiliary_vector(&self, pid: u32) -> Option<Vec<u8>>;
    /// Areas, in order of address.
    fn mappings(&self, pid: u32) -> Option<Vec<Mapping>>;
    /// The executable.
    fn executable(&self, pid: u32) -> Option<Rc<Node>>;
    /// Root and working directory.
    fn place(&self, pid: u32) -> Option<Rc<FsContext>>;
    /// Descriptors.
    fn files(&self, pid: u32) -> Option<Rc<RefCell<FdTable>>>;
    /// Resource limits, soft and hard, by number.
    fn limits(&self, pid: u32) -> Option<[(u64, u64); 16]>;
    /// What takes a setting of a thread.
    fn setter(&self, pid: u32, tid: u32, setting: Setting) -> Option<Setter>;
    /// The whole system.
    fn system(&self) -> SystemStatus;
    /// The host name.
    fn hostname(&self) -> Vec<u8>;
}

/// A system without processes, for walks of the library OS itself.
pub(crate) struct Nobody;

impl ProcessInfo for Nobody {
    fn current(&self) -> (u32, u32) {
        (0, 0)
    }
    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }
    fn threads(&self, _pid: u32) -> Vec<u32> {
        Vec::new()
    }
    fn status(&self, _pid: u32, _tid: u32) -> Option<ProcessStatus> {
        None
    }
    fn command_line(&self, _pid: u32) -> Option<Vec<u8>> {
        None
    }
    fn environment(&self, _pid: u32) -> Option<Vec<u8>> {
        None
    }
    fn auxiliary_vector(&self, _pid: u32) -> Option<Vec<u8>> {
        None
    }
    fn mappings(&self, _pid: u32) -> Option<Vec<Mapping>> {
        None
    }
    fn executable(&self, _pid: u32) -> Option<Rc<Node>> {
        None
    }
    fn place(&self, _pid: u32) -> Option<Rc<FsContext>> {
        None
    }
    fn files(&self, _pid: u32) -> Option<Rc<RefCell<FdTable>>> {
        None
    }
    fn limits(&self, _pid: u32) -> Option<[(u64, u64); 16]> {
        None
    }
    fn setter(&self, _pid: u32, _tid: u32, _setting: Setting) -> Option<Setter> {
        None
    }
    fn system(&self) -> SystemStatus {
        SystemStatus::default()
    }
    fn hostname(&self) -> Vec<u8> {
        Vec::new()
    }
}
