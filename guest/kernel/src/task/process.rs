//! A process: what its threads share.

use super::credentials::Credentials;
use super::detour::Renewal;
use super::signal::{Actions, Pending};
use crate::fs::notify::Notifier;
use crate::fs::{FdTable, FsContext, Node};
use crate::kernel::timers::Base;
use crate::mem::space::Space;
use crate::wait::{Tid, WaitQueue, Woken};
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// A process id: the tid of its first thread.
pub type Pid = Tid;

/// Resource limits (getrlimit(2)): soft and hard value of RLIMIT_CPU .. RLIMIT_RTTIME.
pub type Limits = [(u64, u64); 16];

/// RLIMIT_CPU.
pub const LIMIT_CPU: usize = 0;
/// RLIMIT_FSIZE.
pub const LIMIT_FSIZE: usize = 1;
/// RLIMIT_DATA.
pub const LIMIT_DATA: usize = 2;
/// RLIMIT_AS.
pub const LIMIT_AS: usize = 9;
/// RLIMIT_STACK.
pub const LIMIT_STACK: usize = 3;
/// RLIMIT_NPROC.
pub const LIMIT_NPROC: usize = 6;
/// RLIMIT_NOFILE.
pub const LIMIT_NOFILE: usize = 7;
/// "No limit".
pub const UNLIMITED: u64 = u64::MAX;

/// What `execve` set, for /proc and for error messages.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Absolute path of the executable.
    pub path: Vec<u8>,
    /// The executable (/proc/PID/exe).
    pub node: Option<Rc<Node>>,
    /// Arguments and environment as they lie on the stack: addresses of first byte and end.
    pub arguments: (u64, u64),
    /// Likewise for the environment.
    pub environment: (u64, u64),
    /// Where in it the variables begin that say who the guest is, with room for longer ones.
    pub identity: u64,
    /// Where such variables were put that had become too long for their room: first byte and end.
    pub moved_environment: Vec<(u64, u64)>,
    /// The auxiliary vector, as bytes.
    pub auxv: Vec<u8>,
    /// Lowest address of the code, its end, start of the stack.
    pub code: (u64, u64),
    /// Initial stack pointer.
    pub stack: u64,
    /// Node.js with our module (exec/node.rs).
    pub has_module: bool,
}

/// How a process ended or changed, as wait(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// Running.
    Running,
    /// Stopped by this signal, not yet reported.
    Stopped(u32),
    /// Continued, not yet reported.
    Continued,
    /// Ended with this wait status.
    Zombie(u32),
}

/// ITIMER_REAL of setitimer(2).
#[derive(Clone, Copy, Debug, Default)]
pub struct IntervalTimer {
    /// Next expiry (CLOCK_MONOTONIC), 0 = disarmed.
    pub expires_ns: u64,
    /// Period, 0 = once.
    pub interval_ns: u64,
}

/// A timer of timer_create(2).
#[derive(Clone, Debug, Default)]
pub struct PosixTimer {
    /// Clock id.
    pub clock: u64,
    /// Signal, 0 = none.
    pub signo: u32,
    /// Receiving thread, or the process.
    pub tid: Option<Tid>,
    /// si_value.
    pub value: u64,
    /// Expiry and period.
    pub state: IntervalTimer,
    /// What the expiry follows when clocks jump.
    pub base: Base,
    /// Expiries that the last signal stands for beyond the first.
    pub overrun: u32,
}

/// A process.
pub struct Process {
    /// Process id.
    pub pid: Pid,
    /// Parent's pid; 0 for processes that the VMM started.
    pub parent: Cell<Pid>,
    /// Process group.
    pub pgid: Cell<Pid>,
    /// Session.
    pub sid: Cell<Pid>,
    /// The VMM's name for a process that it started.
    pub token: Option<u32>,
    /// The VMM has started it, or one that it descends from, beside the first process.
    pub is_foreign: bool,
    space: RefCell<Rc<RefCell<Space>>>,
    files: RefCell<Rc<RefCell<FdTable>>>,
    fs: RefCell<Rc<FsContext>>,
    /// Who it is.
    pub credentials: RefCell<Credentials>,
    /// Signal actions.
    pub actions: RefCell<Rc<RefCell<Actions>>>,
    /// Signals sent to the process.
    pub pending: RefCell<Pending>,
    /// Threads, the first one first.
    pub threads: RefCell<Vec<Tid>>,
    /// Children, zombies among them.
    pub children: RefCell<Vec<Pid>>,
    /// What wait(2) tells the parent.
    pub child_state: Cell<ChildState>,
    /// Set while all threads are stopped by a signal.
    pub stopped: Cell<bool>,
    /// Woken when a child changes.
    pub child_changed: WaitQueue,
    /// Told when it ends, and when it is waited for (pidfd_open(2)).
    pub ended: Notifier,
    /// Nothing is left of it but what descriptors hold.
    pub reaped: Cell<bool>,
    /// The signal that the parent gets at exit, 0 = none.
    pub exit_signal: Cell<u32>,
    /// Set while a vfork(2) parent waits: its tid.
    pub vfork_parent: Cell<Option<Tid>>,
    /// It is a restore hook, or a descendant of one.
    pub is_hook: Cell<bool>,
    /// Has called execve since fork (setpgid(2)).
    pub has_execed: Cell<bool>,
    /// It became a user who had more processes than RLIMIT_NPROC allows: the next execve(2) looks again (PF_NPROC_EXCEEDED).
    pub user_has_too_many: Cell<bool>,
    /// The program.
    pub program: RefCell<Program>,
    /// Resource limits.
    pub limits: RefCell<Limits>,
    /// ITIMER_REAL.
    pub real_timer: Cell<IntervalTimer>,
    /// POSIX timers by id.
    pub posix_timers: RefCell<BTreeMap<u32, PosixTimer>>,
    /// The next POSIX timer's id.
    pub next_timer: Cell<u32>,
    /// PR_SET_PDEATHSIG.
    pub death_signal: Cell<u32>,
    /// Takes over orphaned descendants.
    pub is_subreaper: Cell<bool>,
    /// PR_SET_DUMPABLE.
    pub dumpable: Cell<bool>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: Cell<bool>,
    /// personality(2).
    pub personality: Cell<u32>,
    /// Nice value.
    pub nice: Cell<i32>,
    /// What /proc/PID/oom_score_adj adds to the process' badness, in thousandths of all memory (-1000 to 1000).
    pub oom_score_adj: Cell<i32>,
    /// Page faults that were served, and those of children that were waited for.
    pub minor_faults: Cell<(u64, u64)>,
    /// Most bytes in memory, as far as it was looked at; and of children that were waited for.
    pub peak_rss: Cell<(u64, u64)>,
    /// ITIMER_VIRTUAL and ITIMER_PROF, in CPU time of the process.
    pub cpu_timers: Cell<[IntervalTimer; 2]>,
    /// When it was made (CLOCK_BOOTTIME).
    pub started_ns: u64,
    /// CPU time of threads that have ended.
    pub dead_cpu_ns: Cell<u64>,
    /// CPU time of children that were waited for.
    pub children_cpu_ns: Cell<u64>,
    /// Calls that make its generators its own in a clone.
    pub renewal: Renewal,
}

/// What a new process starts with.
pub struct Parts {
    /// Address space.
    pub space: Rc<RefCell<Space>>,
    /// Open files.
    pub files: Rc<RefCell<FdTable>>,
    /// Root, working directory, umask.
    pub fs: Rc<FsContext>,
    /// Signal actions.
    pub actions: Rc<RefCell<Actions>>,
    /// Who it is.
    pub credentials: Credentials,
    /// Resource limits.
    pub limits: Limits,
}

impl Process {
    /// A process with one thread of the same id.
    #[must_use]
    pub fn new(
        pid: Pid,
        parent: Option<&Self>,
        token: Option<u32>,
        parts: Parts,
        woken: &Woken,
        now_ns: u64,
    ) -> Self {
        Self {
            pid,
            parent: Cell::new(parent.map_or(0, |parent| parent.pid)),
            pgid: Cell::new(parent.map_or(pid, |parent| parent.pgid.get())),
            sid: Cell::new(parent.map_or(pid, |parent| parent.sid.get())),
            token,
            is_foreign: token.is_some_and(|token| token != 0)
                || parent.is_some_and(|parent| parent.is_foreign),
            space: RefCell::new(parts.space),
            files: RefCell::new(parts.files),
            fs: RefCell::new(parts.fs),
            credentials: RefCell::new(parts.credentials),
            actions: RefCell::new(parts.actions),
            pending: RefCell::default(),
            threads: RefCell::new(vec![pid]),
            children: RefCell::default(),
            child_state: Cell::new(ChildState::Running),
            stopped: Cell::new(false),
            child_changed: WaitQueue::new(woken),
            ended: Notifier::new(woken),
            reaped: Cell::new(false),
            exit_signal: Cell::new(super::signal::SIGCHLD),
            vfork_parent: Cell::new(None),
            is_hook: Cell::new(parent.is_some_and(|parent| parent.is_hook.get())),
            has_execed: Cell::new(false),
            user_has_too_many: Cell::new(false),
            program: RefCell::new(parent.map(|parent| parent.program.borrow().clone()).unwrap_or_default()),
            limits: RefCell::new(parts.limits),
            real_timer: Cell::default(),
            posix_timers: RefCell::default(),
            next_timer: Cell::new(0),
            death_signal: Cell::new(0),
            is_subreaper: Cell::new(false),
            dumpable: Cell::new(true),
            no_new_privs: Cell::new(parent.is_some_and(|parent| parent.no_new_privs.get())),
            personality: Cell::new(parent.map_or(0, |parent| parent.personality.get())),
            nice: Cell::new(parent.map_or(0, |parent| parent.nice.get())),
            oom_score_adj: Cell::new(parent.map_or(0, |parent| parent.oom_score_adj.get())),
            minor_faults: Cell::default(),
            peak_rss: Cell::default(),
            cpu_timers: Cell::default(),
            started_ns: now_ns,
            dead_cpu_ns: Cell::new(0),
            children_cpu_ns: Cell::new(0),
            renewal: parent.map_or_else(Renewal::default, |parent| parent.renewal.fork()),
        }
    }

    /// The address space.
    #[must_use]
    pub fn space(&self) -> Rc<RefCell<Space>> {
        self.space.borrow().clone()
    }

    /// Exchange the address space (exec).
    pub fn set_space(&self, space: Rc<RefCell<Space>>) {
        *self.space.borrow_mut() = space;
    }

    /// The open files.
    #[must_use]
    pub fn files(&self) -> Rc<RefCell<FdTable>> {
        self.files.borrow().clone()
    }

    /// Exchange the table of open files (unshare, exit).
    pub fn set_files(&self, files: Rc<RefCell<FdTable>>) {
        *self.files.borrow_mut() = files;
    }

    /// Root, working directory, umask.
    #[must_use]
    pub fn fs(&self) -> Rc<FsContext> {
        self.fs.borrow().clone()
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn is_zombie(&self) -> bool {
        matches!(self.child_state.get(), ChildState::Zombie(_))
    }

    /// Whether ITIMER_VIRTUAL, ITIMER_PROF or RLIMIT_CPU is set.
    #[must_use]
    pub fn has_cpu_timers(&self) -> bool {
        self.cpu_timers.get().iter().any(|timer| timer.expires_ns != 0) || self.limit(LIMIT_CPU) != UNLIMITED
    }

    /// Bring the peak of memory use up to date.
    pub fn note_rss(&self) {
        let peak = self.space().borrow().resident_and_peak().1;
        let (own, children) = self.peak_rss.get();
        self.peak_rss.set((own.max(peak), children));
    }

    /// The soft limit of `resource`.
    #[must_use]
    pub fn limit(&self, resource: usize) -> u64 {
        self.limits.borrow().get(resource).map_or(UNLIMITED, |limit| limit.0)
    }
}
