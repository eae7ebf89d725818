//! The library OS as a whole: its state, and the three ways into it (system call, trap, upcall).
//!
//! All state has interior mutability; nothing here is ever re-entered, since the vCPU is one and the kernel is not preempted. A `RefCell` is
//! borrowed only for as long as one statement, so that no borrow spans a call into another part.

mod base;
pub mod capture;
pub mod deliver;
pub mod events;
mod fault_address;
mod hooks;
mod identity;
pub mod info;
mod jump;
pub mod life;
mod obstacle;
mod oom;
pub mod patch;
pub mod renew;
pub mod schedule;
pub mod spawn;
pub mod timers;

use crate::errno::{Errno, Result};
use crate::exec::vdso::Vdso;
use crate::fs::snapshots::ID_BYTES;
use crate::fs::{Env, Fs};
use crate::machine::{Counters, Machine};
use crate::mem::frames::{Frames, Gpa};
use crate::mem::space::Space;
use crate::net::Net;
use crate::random::Random;
use crate::task::futex::Futexes;
use crate::task::process::{Pid, Process};
use crate::task::thread::{Calling, Thread};
use crate::wait::{Tid, Woken};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::comm::ImageWindow;
use seuss_abi::spec::ProcessSpec;
use timers::Timers;

/// What does not change while the guest runs.
#[derive(Clone, Debug)]
pub struct Config {
    /// A PML4 with the library OS's part.
    pub template_pml4: Gpa,
    /// XCR0.
    pub xcr0: u64,
    /// Bytes of an XSAVE area.
    pub xsave_bytes: u64,
    /// Most threads and processes.
    pub threads_max: usize,
    /// Memory limit in bytes, for /proc/meminfo.
    pub memory_bytes: u64,
}

/// Default limit of threads and processes of one guest.
pub const THREADS_MAX_DEFAULT: usize = 4096;
/// Frames that applications cannot have, so that the library OS can always finish what it has begun: 1/64 of memory, at least 1 MiB.
pub(crate) fn reserve_pages(total: usize) -> usize {
    (total / 64).max(256)
}

/// What a library OS boots from.
pub struct Boot<'a> {
    /// The machine.
    pub machine: Rc<dyn Machine>,
    /// Physical memory.
    pub frames: Frames,
    /// Seed of the random number generator.
    pub seed: [u8; 64],
    /// EROFS windows, base layer first.
    pub images: &'a [ImageWindow],
    /// The vDSO, a shared object; empty = none.
    pub vdso: &'a [u8],
    /// The VMM takes a base snapshot.
    pub base: bool,
    /// What does not change.
    pub config: Config,
}

/// The library OS.
pub struct Kernel {
    /// Privileged operations and host calls.
    pub machine: Rc<dyn Machine>,
    /// Physical memory.
    pub frames: Frames,
    /// Threads that were woken.
    pub woken: Woken,
    /// The file systems.
    pub fs: Fs,
    /// The sockets.
    pub net: Net,
    /// The vDSO.
    pub vdso: Rc<Vdso>,
    /// Futex waiters.
    pub futexes: Futexes,
    /// Everything with a deadline.
    pub timers: Timers,
    /// The random number generator.
    pub random: Rc<Random>,
    /// What does not change.
    pub config: Config,
    /// Host name.
    pub hostname: RefCell<Vec<u8>>,
    /// Names of environment variables that say who this guest is.
    pub identity: RefCell<Vec<Vec<u8>>>,
    /// Domain name.
    pub domainname: RefCell<Vec<u8>>,
    /// Counters since the last restore.
    pub counters: Cell<Counters>,
    /// Context switches of the guests that this one goes on from.
    switches_before: Cell<u64>,
    /// CPU time of all threads, those included that have ended.
    busy_ns: Cell<u64>,
    threads: RefCell<BTreeMap<Tid, Rc<Thread>>>,
    processes: RefCell<BTreeMap<Pid, Rc<Process>>>,
    run_queue: RefCell<VecDeque<Tid>>,
    next_tid: Cell<Tid>,
    current: RefCell<Option<Rc<Thread>>>,
    /// The thread whose system call is being served: not always the current one, since calls that have waited run again before their thread does.
    pub(crate) calling: Calling,
    /// The thread whose extended state is in the CPU.
    extended_owner: Cell<Tid>,
    /// The address space in CR3, kept alive while it is.
    loaded: RefCell<Option<Rc<RefCell<Space>>>>,
    /// TSC when the current thread last started to run.
    slice_start: Cell<u64>,
    /// The current thread wants others to run first.
    yielding: Cell<bool>,
    /// The VMM knows that the program is ready.
    told_ready: Cell<bool>,
    /// When the program last grew: a listening socket, a thread, a process, a mapped file (CLOCK_MONOTONIC).
    grown_ns: Cell<u64>,
    /// What runs after a restore.
    hooks: hooks::Hooks,
    /// While only the layers of the runtime are shown.
    runtime: RefCell<Option<base::Runtime>>,
    /// The system call of which thread was undone for the base snapshot, and its number.
    undone: Cell<Option<(Tid, u64)>>,
    /// What files were found to say of generators.
    seen: renew::fixed::Seen,
    /// The log has said which generator stands in the way of snapshots.
    told_generator: Cell<bool>,
    /// A snapshot that is wanted waits until nothing can run: calls that prepared it have just ended.
    resting: Cell<bool>,
    /// This clone was entered ahead of time, and only calls.
    holding: Cell<bool>,
    /// What was to be called in this clone was called while it held.
    renewed: Cell<bool>,
    /// Interpreters are told of a restore, too.
    pub renews_interpreters: Cell<bool>,
}

impl Kernel {
    /// Mount the file systems.
    ///
    /// # Errors
    /// What is wrong with the image, and the machine to tell it with.
    fn mount(boot: Boot<'_>, spec: &ProcessSpec) -> core::result::Result<Self, (Rc<dyn Machine>, String)> {
        let Boot { machine, frames, seed, images, vdso, base, config } = boot;
        frames.set_reserve(reserve_pages(frames.total()));
        let woken = Woken::default();
        let random = Rc::new(Random::new(&seed));
        let env = Env::new(&frames, machine.clone(), &woken);
        env.set_random(&random);
        let mut id = [0; ID_BYTES];
        random.fill(&mut id);
        env.snapshots.set_id(id);
        let (fs, runtime) = match base::mount(&env, images, spec, base) {
            Ok(mounted) => mounted,
            Err(error) => return Err((machine, error.to_string())),
        };
        let vdso = match Vdso::new(&frames, vdso) {
            Ok(vdso) => vdso,
            Err(_) => return Err((machine, "no memory for the vDSO".into())),
        };
        let (slice_start, grown_ns) = (machine.tsc(), machine.monotonic_ns());
        Ok(Self {
            net: Net::new(&env),
            fs,
            vdso,
            machine,
            frames,
            woken,
            futexes: Futexes::default(),
            timers: Timers::default(),
            random,
            config,
            hostname: RefCell::new(b"seuss".to_vec()),
            identity: RefCell::new(spec.identity.clone()),
            domainname: RefCell::new(b"(none)".to_vec()),
            counters: Cell::default(),
            switches_before: Cell::new(0),
            busy_ns: Cell::new(0),
            threads: RefCell::default(),
            processes: RefCell::default(),
            run_queue: RefCell::default(),
            next_tid: Cell::new(1),
            current: RefCell::default(),
            calling: Calling::default(),
            extended_owner: Cell::new(0),
            loaded: RefCell::default(),
            slice_start: Cell::new(slice_start),
            yielding: Cell::new(false),
            told_ready: Cell::new(false),
            grown_ns: Cell::new(grown_ns),
            hooks: hooks::Hooks::default(),
            runtime: RefCell::new(runtime),
            undone: Cell::default(),
            told_generator: Cell::default(),
            resting: Cell::default(),
            holding: Cell::default(),
            renewed: Cell::default(),
            seen: renew::fixed::Seen::default(),
            renews_interpreters: Cell::new(!spec.no_hooks),
        })
    }

    /// The thread with this id.
    #[must_use]
    pub fn thread(&self, tid: Tid) -> Option<Rc<Thread>> {
        self.threads.borrow().get(&tid).cloned()
    }

    /// The process with this id, zombies included.
    #[must_use]
    pub fn process(&self, pid: Pid) -> Option<Rc<Process>> {
        self.processes.borrow().get(&pid).cloned()
    }

    /// All processes, zombies included.
    #[must_use]
    pub fn processes(&self) -> Vec<Rc<Process>> {
        self.processes.borrow().values().cloned().collect()
    }

    /// The process that the VMM calls `token` (0 = the first).
    #[must_use]
    pub fn process_of_token(&self, token: u32) -> Option<Rc<Process>> {
        self.processes
            .borrow()
            .values()
            .find(|process| process.token == Some(token) && !process.is_zombie())
            .cloned()
    }

    /// The thread that made the current system call or trap.
    #[must_use]
    pub fn current(&self) -> Option<Rc<Thread>> {
        self.current.borrow().clone()
    }

    /// Threads alive.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        self.threads.borrow().len()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// A process or thread id that is not in use; ids are reused late.
    ///
    /// # Errors
    /// EAGAIN when the guest has as many threads as it may.
    pub fn allocate_tid(&self) -> Result<Tid> {
        const PID_MAX: Tid = 4 << 20;
        if self.thread_count() + self.zombies() >= self.config.threads_max {
            return Err(Errno::EAGAIN);
        }
        loop {
            let tid = self.next_tid.get();
            self.next_tid.set(if tid + 1 >= PID_MAX { 2 } else { tid + 1 });
            if !self.threads.borrow().contains_key(&tid) && !self.processes.borrow().contains_key(&tid) {
                return Ok(tid);
            }
        }
    }

    fn zombies(&self) -> usize {
        self.processes.borrow().values().filter(|process| process.is_zombie()).count()
    }
}
