//! Generators of random numbers that live in a program's memory: made each clone's own, by calls into the program.
//!
//! A clone has its snapshot's memory, so that its OpenSSL draws what its siblings' draws. Libraries and interpreters know how to seed themselves anew, but not that they should. So in each
//! process of a clone, before any other instruction of it, one thread that waits in a system call calls them (`plan` finds what). It is taken from its wait as by a signal
//! handler, only that nothing of it shows: registers, extended state, signal mask and the call's progress are kept here; the code is the vDSO's `__seuss_renew`, on the thread's own stack below
//! the red zone; at its end it makes the system call [`RETURN`], and the wait goes on. No call returns EINTR, and no signal is delivered meanwhile.
//!
//! What need not be done in each clone is done once, before the snapshot: the same threads let OpenSSL make its generator, and CPython compile what it will run ([`Kernel::prepare_renewals`]).
//!
//! The process' other threads stand still until the calls are over, or wait themselves: somebody may hold what they wait for. Calls that take longer than [`LIMIT_NS`] or that fault are given up, with a line
//! in the log.

pub(super) mod fixed;
mod plan;

use super::Kernel;
use super::timers::Timer;
use crate::errno::Result;
use crate::mem::area::Protection;
use crate::task::detour::{Detour, Kinds, Plan};
use crate::task::process::Process;
use crate::task::signal::SignalSet;
use crate::task::thread::{Context, ExtendedState, State, Thread};
use crate::wait::Tid;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Number of the system call that ends the calls; there is no other of this number.
pub const RETURN: u64 = 0x5e55;
/// The calls are given up after so much time. They take some hundred microseconds; hooks of the program's own (sdk/python) are among them.
const LIMIT_NS: u64 = 10_000_000_000;
/// What is prepared before a snapshot is given up sooner: whoever asks for the snapshot waits for it, perhaps with a lock.
const LIMIT_PREPARING_NS: u64 = 250_000_000;
/// What a thread that waits on a futex is known by there while it calls.
const AWAY: Tid = 1 << 31;
/// Bytes of stack that calls of libraries need at most, and those of an interpreter.
const ROOM_NATIVE: u64 = 48 << 10;
const ROOM_PYTHON: u64 = 192 << 10;
/// Bytes of fresh seed that the calls find on the stack.
const SEED_BYTES: usize = 64;
/// In an argument: the address of the seed.
const SEED: u64 = u64::MAX;

/// System calls in which programs wait without being in the middle of anything: read, write, poll, readv, writev, select, pause, nanosleep, connect, accept, sendto, recvfrom, sendmsg, recvmsg, wait4,
/// rt_sigtimedwait, rt_sigsuspend, clock_nanosleep, epoll_wait, waitid, pselect6, ppoll, epoll_pwait, accept4, recvmmsg, sendmmsg, epoll_pwait2.
const QUIET: [u64; 27] = [
    0, 1, 7, 19, 20, 23, 34, 35, 42, 43, 44, 45, 46, 47, 61, 128, 130, 230, 232, 247, 270, 271, 281, 288,
    299, 307, 441,
];
/// futex: a lock may be what is waited for.
const FUTEX: u64 = 202;
/// Look-ups of paths, which a base snapshot interrupts: open, stat, lstat, access, chdir, readlink, getdents64, openat, newfstatat, readlinkat, faccessat, statx, openat2, faccessat2. The program holds no lock
/// of its allocator or of a generator there, but perhaps the interpreter's.
const PATHS: [u64; 14] = [2, 4, 6, 21, 80, 89, 217, 257, 262, 267, 269, 332, 437, 439];

/// How well a thread suits, the least first; `None` if it must not call.
fn rank(number: u64, undone: bool, is_first: bool, kinds: Kinds) -> Option<u32> {
    let kind = match number {
        _ if undone => (PATHS.contains(&number) && !kinds.python).then_some(2)?,
        FUTEX => 4,
        _ => QUIET.contains(&number).then_some(0)?,
    };
    Some(kind + u32::from(!is_first))
}

/// What an interpreter is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    /// Compile what clones run.
    Compile,
    /// Run this code object, or compile and run if it is 0.
    Run(u64),
}

/// The words that `__seuss_renew` finds on its stack: a count and so many functions with their arguments, then those of the interpreter and its task, or a zero; behind them the seed.
fn table(plan: &Plan, task: Task, at: u64, seed: [u8; SEED_BYTES]) -> Vec<u8> {
    let mut words = Vec::from([plan.native.len() as u64]);
    words.extend(plan.native.iter().flatten());
    match &plan.python {
        Some(functions) => {
            words.extend(functions);
            words.extend(match task {
                Task::Compile => [0, 1],
                Task::Run(code) => [code, 0],
            });
        }
        None => words.push(0),
    }
    let seed_at = at + words.len() as u64 * 8;
    let word = |word: &u64| if *word == SEED { seed_at } else { *word };
    let mut bytes: Vec<u8> = words.iter().flat_map(|value| word(value).to_le_bytes()).collect();
    bytes.extend(seed);
    bytes
}

impl Kernel {
    /// This is a clone: let each process call what makes its generators its own.
    pub(super) fn renew(&self) {
        for process in self.processes() {
            if process.is_zombie() {
                continue;
            }
            let plan = process.renewal.plan.borrow().clone();
            let wanted = self.wanted(plan.kinds());
            let mut due = wanted;
            // One thread for all, or one that can do a part.
            for kinds in [wanted, Kinds { python: false, ..wanted }] {
                if kinds.any()
                    && let Some(thread) = self.choose(&process, kinds)
                    && self.begin_detour(&thread, &plan.only(kinds), Task::Run(process.renewal.code.get()))
                {
                    due = Kinds { native: false, python: wanted.python && !kinds.python };
                    break;
                }
            }
            process.renewal.due.set(due);
        }
        self.undone.set(None);
    }

    /// Interpreters are left alone where the pod says so.
    fn wanted(&self, kinds: Kinds) -> Kinds {
        Kinds { python: kinds.python && self.renews_interpreters.get(), ..kinds }
    }

    /// The thread that suits best.
    fn choose(&self, process: &Process, kinds: Kinds) -> Option<Rc<Thread>> {
        let ranked = self.threads_of(process).into_iter().filter_map(|thread| {
            let rank = self.rank(&thread, kinds)?;
            Some((rank, thread))
        });
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, thread)| thread)
    }

    fn rank(&self, thread: &Thread, kinds: Kinds) -> Option<u32> {
        let waiting = thread.waiting.get().map(|waiting| waiting.number);
        let undone = self.undone.get().filter(|(tid, _)| *tid == thread.tid).map(|(_, number)| number);
        let number = waiting.or(undone)?;
        let is_first = thread.tid == thread.process.pid;
        let rank = rank(number, waiting.is_none(), is_first, kinds)?;
        let room = if kinds.python { ROOM_PYTHON } else { ROOM_NATIVE };
        let rsp = thread.registers().rsp;
        let space = thread.process.space();
        let space = space.borrow();
        let stack = space.area_at(rsp.wrapping_sub(1))?;
        let fits = rsp.checked_sub(room).is_some_and(|low| low >= stack.start)
            && stack.protection.contains(Protection::WRITE)
            && !stack.shared;
        (fits && thread.detour.borrow().is_none()).then_some(rank)
    }

    /// `thread` is about to wait: perhaps it can call what is still due.
    pub(super) fn renew_late(&self, thread: &Rc<Thread>) {
        let renewal = &thread.process.renewal;
        let due = renewal.due.get();
        if !due.any() || thread.detour.borrow().is_some() {
            return;
        }
        for kinds in [due, Kinds { python: false, ..due }, Kinds { native: false, ..due }] {
            if kinds.any() && self.rank(thread, kinds).is_some() {
                // More is mapped than when the snapshot was taken.
                let plan = self.plan(&thread.process, &mut plan::Known::default()).only(self.wanted(kinds));
                let left = Kinds { native: due.native && !kinds.native, python: due.python && !kinds.python };
                renewal.due.set(left);
                self.begin_detour(thread, &plan, Task::Run(renewal.code.get()));
                return;
            }
        }
    }

    /// A snapshot is wanted: let each process prepare what its clones will do, if it has not. Returns whether some thread is calling, so that the snapshot comes later.
    pub(super) fn prepare_renewals(&self) -> bool {
        let mut known = plan::Known::default();
        for process in self.processes().into_iter().filter(|process| !process.is_zombie()) {
            let plan = self.plan(&process, &mut known);
            if process.renewal.prepared.borrow().as_ref() == Some(&plan) {
                continue;
            }
            let wanted = self.wanted(plan.kinds());
            *process.renewal.prepared.borrow_mut() = Some(plan.clone());
            for kinds in [wanted, Kinds { python: false, ..wanted }] {
                if kinds.any()
                    && let Some(thread) = self.choose(&process, kinds)
                    && self.begin_detour(&thread, &plan.only(kinds), Task::Compile)
                {
                    break;
                }
            }
        }
        self.is_renewing()
    }

    /// Whether some thread is calling: no snapshot is taken meanwhile.
    pub(super) fn is_renewing(&self) -> bool {
        self.threads.borrow().values().any(|thread| thread.detour.borrow().is_some())
    }

    /// Take `thread` from its wait and let it call what `plan` says. Returns whether it does.
    fn begin_detour(&self, thread: &Rc<Thread>, plan: &Plan, task: Task) -> bool {
        if !plan.kinds().any() {
            return false;
        }
        let process = &thread.process;
        let entry = self.vdso.entry(&process.space().borrow());
        let Some(entry) = entry.filter(|_| process.renewal.turn.get().is_none()) else { return false };
        let Ok(stack) = self.push_table(thread, plan, task) else { return false };
        self.save_extended(thread);
        self.forget_extended(thread);
        if let Some(key) = thread.timer.take() {
            self.timers.cancel(key);
        }
        self.futexes.rename(thread.tid, thread.tid | AWAY);
        let limit_ns = if task == Task::Compile { LIMIT_PREPARING_NS } else { LIMIT_NS };
        let limit_ns = self.machine.monotonic_ns().saturating_add(limit_ns);
        let mut context = Context { fs_base: thread.context().fs_base, ..Context::default() };
        context.gs_base = thread.context().gs_base;
        (context.registers.rip, context.registers.rsp) = (entry, stack);
        let fresh = ExtendedState::new(self.config.xsave_bytes);
        let detour = Detour {
            context: thread.with_context(|own| core::mem::replace(own, context)),
            extended: thread.extended.replace(fresh),
            mask: thread.mask.replace(SignalSet(u64::MAX).blockable()),
            saved_mask: thread.saved_mask.take(),
            progress: thread.progress.take(),
            waiting: thread.waiting.take(),
            prepares: task == Task::Compile,
            limit: self.timers.arm(limit_ns, Timer::Detour(thread.tid)),
        };
        *thread.detour.borrow_mut() = Some(Box::new(detour));
        process.renewal.turn.set(Some(thread.tid));
        if thread.state.get() == State::Waiting {
            self.make_runnable(thread);
        }
        true
    }

    /// Lay down the table of calls below the red zone; returns its address.
    fn push_table(&self, thread: &Thread, plan: &Plan, task: Task) -> Result<u64> {
        let mut seed = [0; SEED_BYTES];
        self.random.fill(&mut seed);
        let len = table(plan, task, 0, seed).len() as u64;
        let at = (thread.registers().rsp.wrapping_sub(128 + len)) & !63;
        thread.process.space().borrow_mut().write(at, &table(plan, task, at, seed))?;
        Ok(at)
    }

    /// The calls have come to their end, with the system call [`RETURN`]. Returns whether `thread` was calling at all.
    pub(super) fn on_return(&self, thread: &Rc<Thread>) -> bool {
        let code = thread.registers().rdi;
        let is_calling = self.end_detour(thread);
        if is_calling && code != 0 {
            thread.process.renewal.code.set(code);
        }
        is_calling
    }

    /// The calls are over: the thread's wait goes on. Returns whether it was calling at all.
    pub(super) fn end_detour(&self, thread: &Rc<Thread>) -> bool {
        let Some(detour) = thread.detour.take() else { return false };
        let Detour { context, extended, mask, saved_mask, progress, waiting, limit, .. } = *detour;
        self.timers.cancel(limit);
        self.forget_wait(thread);
        self.futexes.rename(thread.tid | AWAY, thread.tid);
        if self.current().is_some_and(|current| current.tid == thread.tid) {
            self.machine.set_segment_bases(context.fs_base, context.gs_base);
        }
        thread.with_context(|own| *own = context);
        *thread.extended.borrow_mut() = extended;
        self.forget_extended(thread);
        thread.mask.set(mask);
        thread.saved_mask.set(saved_mask);
        *thread.progress.borrow_mut() = progress;
        thread.waiting.set(waiting);
        if thread.state.get() == State::Waiting {
            self.make_runnable(thread);
        }
        self.let_go(&thread.process);
        true
    }

    /// Thread `tid` of the calls does not come back by itself.
    pub(super) fn give_up_detour(&self, thread: &Rc<Thread>, why: &str) -> bool {
        let prepares = thread.detour.borrow().as_ref().is_some_and(|detour| detour.prepares);
        let is_calling = self.end_detour(thread);
        if is_calling {
            let what = if prepares {
                "the calls that prepare clones"
            } else {
                "numbers are its siblings': the calls that seed them anew"
            };
            self.log(2, &format!("generators of process {}: {what} {why}", thread.process.pid));
        }
        is_calling
    }

    /// The other threads of the process go on.
    pub(super) fn let_go(&self, process: &Process) {
        process.renewal.turn.set(None);
        for tid in process.renewal.held.take() {
            if let Some(thread) = self.thread(tid).filter(|thread| thread.state.get() == State::Runnable) {
                self.make_runnable(&thread);
            }
        }
    }

    /// A thread ends, or becomes another program: whatever it was called for is void.
    pub fn forget_detour(&self, thread: &Thread) {
        let Some(detour) = thread.detour.take() else { return };
        self.timers.cancel(detour.limit);
        self.futexes.remove(thread.tid | AWAY);
        self.let_go(&thread.process);
    }

    /// A wake-up on a futex is for the wait that the thread was taken from.
    pub(crate) fn mark_woken(&self, tids: &[Tid]) {
        for tid in tids {
            let Some(thread) = self.thread(*tid & !AWAY) else { continue };
            match &mut *thread.detour.borrow_mut() {
                Some(detour) if *tid & AWAY != 0 => detour.progress.woken = true,
                _ => thread.progress.borrow_mut().woken = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_wait_for_nothing_of_the_process_come_first() {
        let native = Kinds { native: true, python: false };
        let all = Kinds { native: true, python: true };
        let order = [rank(232, false, true, all), rank(43, false, false, all), rank(FUTEX, false, true, all)];
        assert!(order.is_sorted() && order.iter().all(Option::is_some), "{order:?}");
        // fork, vfork, clone: a parent whose stack its child uses; a call that does not wait.
        for number in [56, 57, 58, 435, 59, 9, 12, 500, u64::MAX] {
            assert_eq!(rank(number, false, true, all), None, "{number}");
        }
        assert!(rank(257, true, true, native).is_some(), "in a base snapshot");
        assert_eq!(
            (rank(257, true, true, all), rank(257, false, true, native), rank(59, true, true, native)),
            (None, None, None)
        );
    }

    #[test]
    fn the_table_is_as_the_vdso_reads_it() {
        let python = Some([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        let plan = Plan { native: Vec::from([[0x1000, SEED, 32, 0]]), python };
        let bytes = table(&plan, Task::Run(0xc0de), 0x7000, [0xab; SEED_BYTES]);
        let word = |at: usize| bytes[at * 8..at * 8 + 8].try_into().map(u64::from_le_bytes).unwrap();
        assert_eq!([word(0), word(1), word(2), word(3), word(4)], [1, 0x1000, 0x7000 + 18 * 8, 32, 0]);
        assert_eq!([word(5), word(15), word(16), word(17)], [1, 11, 0xc0de, 0]);
        assert_eq!((&bytes[18 * 8..], bytes.len()), (&[0xab; SEED_BYTES][..], 18 * 8 + SEED_BYTES));
        let compile = table(&plan, Task::Compile, 0, [0; SEED_BYTES]);
        assert_eq!((compile[16 * 8], compile[17 * 8]), (0, 1));
        let none = table(&Plan::default(), Task::Compile, 0, [0; SEED_BYTES]);
        assert_eq!((none[..16].iter().all(|byte| *byte == 0), none.len()), (true, 16 + SEED_BYTES));
    }
}
