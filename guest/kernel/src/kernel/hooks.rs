//! What runs around a snapshot for those who want to know of it.
//!
//! **Before**: a snapshot that is asked for from outside waits for the listeners of /dev/seuss (`fs::listeners`), for [`ANSWER_NS`] at the most.
//!
//! **After**: a clone runs the executable files of /etc/seuss/restore.d, one after the other. The threads of the captured program wait meanwhile, for [`HOLD_NS`] at the most;
//! hooks that are not done after [`HOOKS_NS`] are killed, and those that have not begun do not. Their processes are told from the program's by `Process::is_hook`, which
//! fork hands on. They run as the program's first process does, with its environment and who this clone is, and write to the container's standard error.

use super::Kernel;
use super::timers::Timer;
use crate::fs::ProcessInfo;
use crate::fs::snapshots::{ID_BYTES, Wanted};
use crate::task::process::{Pid, Process};
use crate::task::signal::SIGKILL;
use crate::wait::Tid;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use seuss_abi::spec::ProcessSpec;

/// How long a capture waits for the answers of listeners.
const ANSWER_NS: u64 = 1_000_000_000;
/// How long the program waits for hooks after a restore.
const HOLD_NS: u64 = 1_000_000_000;
/// How long all hooks may take.
const HOOKS_NS: u64 = 10_000_000_000;
/// How much all hooks of a restore may write.
const OUTPUT_BYTES: usize = 64 << 10;

/// Hooks that are to run, or run.
#[derive(Default)]
pub(super) struct Hooks {
    /// Paths, found when the snapshot was taken or, of a base snapshot, at the restore.
    known: RefCell<Vec<Vec<u8>>>,
    /// Those that have yet to run.
    left: RefCell<VecDeque<Vec<u8>>>,
    /// The one that runs.
    running: Cell<Option<Pid>>,
    /// The next one can begin.
    is_due: Cell<bool>,
    /// Threads of the program that could run but for the hooks.
    held: RefCell<Option<VecDeque<Tid>>>,
    /// What identifies this clone, for their environment.
    identity: Cell<(u64, [u8; ID_BYTES])>,
    /// Bytes that they may still write.
    output: Rc<Cell<usize>>,
    /// When the program goes on, and when hooks are killed.
    deadlines: Cell<(u64, u64)>,
}

impl Kernel {
    /// A snapshot is asked for from outside.
    pub(super) fn announce_capture(&self, wanted: Wanted) {
        // Nobody need prepare for what will not be.
        if let Some(obstacle) = self.obstacle(&wanted) {
            return self.put_off(obstacle);
        }
        if let Some(number) = self.fs.env.snapshots.ask_from_outside(wanted) {
            let at_ns = self.machine.monotonic_ns().saturating_add(ANSWER_NS);
            self.timers.arm(at_ns, Timer::Announcement(number));
        }
    }

    /// The time for answers to announcement `number` is over.
    pub(super) fn capture_unanswered(&self, number: u64) {
        let late = self.fs.env.snapshots.wait_no_longer(number);
        if late > 0 {
            self.log(2, &format!("{late} listeners of /dev/seuss did not answer capture {number} in time"));
        }
    }

    /// A snapshot is about to be taken: what its clones run is known from the files as they are now.
    pub(super) fn note_restore_hooks(&self) {
        *self.hooks.known.borrow_mut() = self.fs.restore_hooks();
    }

    /// This is a clone, with everything in place: its hooks run first.
    pub(super) fn begin_restore_hooks(&self, generation: u64, id: [u8; ID_BYTES]) {
        let hooks = &self.hooks;
        // A clone that was captured while its own hooks ran: they are the old clone's.
        self.release_program();
        hooks.running.set(None);
        let known = hooks.known.borrow().clone();
        if known.is_empty() {
            return;
        }
        hooks.identity.set((generation, id));
        hooks.output.set(OUTPUT_BYTES);
        *hooks.left.borrow_mut() = known.into();
        *hooks.held.borrow_mut() = Some(self.run_queue.take());
        hooks.is_due.set(true);
        let now_ns = self.machine.monotonic_ns();
        hooks.deadlines.set((now_ns + HOLD_NS, now_ns + HOOKS_NS));
        self.timers.arm(now_ns + HOLD_NS, Timer::Hooks);
        self.timers.arm(now_ns + HOOKS_NS, Timer::Hooks);
    }

    /// Where a thread of `process` waits for its turn: with the program's, if that is held, else in the run queue.
    pub(super) fn queue(&self, process: &Process, tid: Tid) {
        match self.hooks.held.borrow_mut().as_mut().filter(|_| !process.is_hook.get()) {
            Some(held) => held.push_back(tid),
            None => self.run_queue.borrow_mut().push_back(tid),
        }
    }

    /// Start the next hook if it is its turn. Called from the scheduler's loop, where nothing of the library OS is under way.
    pub(super) fn advance_hooks(&self) {
        while self.hooks.is_due.take() {
            let next = self.hooks.left.borrow_mut().pop_front();
            let Some(path) = next else { return self.release_program() };
            match self.start_hook(&path) {
                Ok(pid) => self.hooks.running.set(Some(pid)),
                Err(message) => {
                    self.log(2, &format!("restore hook {}: {message}", String::from_utf8_lossy(&path)));
                    self.hooks.is_due.set(true);
                }
            }
        }
    }

    fn start_hook(&self, path: &[u8]) -> Result<Pid, String> {
        let program = self.process(1).ok_or("the guest has no first process")?;
        let (generation, id) = self.hooks.identity.get();
        let environment = ProcessInfo::environment(self, 1).unwrap_or_default();
        let mut env: Vec<Vec<u8>> = environment.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        env.retain(|entry| !entry.is_empty() && !entry.starts_with(b"SEUSS_"));
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        env.push(format!("SEUSS_GENERATION={generation}").into_bytes());
        env.push(format!("SEUSS_ID={id}").into_bytes());
        let who = program.credentials.borrow().clone();
        let spec = ProcessSpec {
            args: [path.to_vec()].into(),
            env,
            uid: who.uid,
            gid: who.gid,
            groups: who.groups,
            umask: 0o22,
            ..ProcessSpec::default()
        };
        let stdio = self.fs.hook_stdio(&self.hooks.output).map_err(|errno| String::from(errno.name()))?;
        let pid = self.spawn_hook(&spec, stdio).map_err(|error| error.message)?;
        Ok(pid)
    }

    /// A process ended: if it is the hook that runs, the next one can begin.
    pub(super) fn hook_ended(&self, pid: Pid, status: u32) {
        if self.hooks.running.get() != Some(pid) {
            return;
        }
        self.hooks.running.set(None);
        self.hooks.is_due.set(true);
        if status != 0 {
            let (how, number) =
                if status & 0x7f == 0 { ("status", status >> 8) } else { ("signal", status & 0x7f) };
            self.log(2, &format!("a restore hook ended with {how} {number}"));
        }
    }

    /// One of the hooks' times is over.
    pub(super) fn hooks_are_late(&self, now_ns: u64) {
        let (hold, end) = self.hooks.deadlines.get();
        if now_ns >= hold && self.hooks.held.borrow().is_some() {
            self.log(2, "restore hooks take more than a second: the program goes on");
            self.release_program();
        }
        let running = self.hooks.running.get().and_then(|pid| self.process(pid));
        let left = self.hooks.left.borrow().len();
        if now_ns >= end && (running.is_some() || left > 0) {
            self.log(2, &format!("restore hooks take too long: one is killed, {left} do not begin"));
            self.hooks.left.borrow_mut().clear();
            if let Some(process) = running {
                self.exit_process(&process, SIGKILL);
            }
        }
    }

    /// The program's threads run from now on.
    fn release_program(&self) {
        if let Some(held) = self.hooks.held.take() {
            self.run_queue.borrow_mut().extend(held);
        }
    }
}
