//! Entries into the library OS and the choice of the thread to go on with.

use super::Kernel;
use super::capture::Restored;
use super::renew::RETURN;
use super::timers::Timer;
use crate::errno::{Errno, Stop, SysResult};
use crate::mem::space::{Access, Fault, Served, Space};
use crate::syscall::call::Call;
use crate::syscall::table;
use crate::task::process::LIMIT_STACK;
use crate::task::signal::{self, SignalInfo};
use crate::task::thread::{Context, Progress, State, Thread, Waiting};
use crate::wait::Tid;
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::call::Op;
use seuss_abi::comm::LayerWindow;

/// Page-fault error code: the page was present.
const ERROR_PRESENT: u64 = 1;
/// Page-fault error code: a store.
pub(super) const ERROR_WRITE: u64 = 2;
/// Page-fault error code: an instruction fetch.
pub(super) const ERROR_FETCH: u64 = 16;

/// A trap of the application.
#[derive(Clone, Copy, Debug)]
pub struct Trap {
    /// Vector.
    pub vector: u64,
    /// Error code, 0 if the vector has none.
    pub error: u64,
    /// Faulting address of a page fault, 0 for other vectors.
    pub address: u64,
}

/// Vector of a page fault.
pub const PAGE_FAULT: u64 = 14;

impl Kernel {
    /// A system call of the current thread, by the `syscall` instruction (`trapped`) or by a patched site. Returns the context to resume.
    pub fn on_syscall(&self, trapped: bool) -> *mut Context {
        self.count(|counters| counters.syscalls += 1);
        if let Some(thread) = self.current() {
            let number = thread.registers().rax;
            if number == RETURN && self.on_return(&thread) {
                self.resting.set(true);
                return self.leave(false);
            }
            thread.with_context(|context| context.exact = 0);
            *thread.progress.borrow_mut() = Progress::default();
            if trapped {
                self.consider_site(&thread, number);
            }
            self.execute(&thread, number);
        }
        self.leave(false)
    }

    /// A trap of the current thread. `read_cr2` is asked for the address of a page fault only if it cannot be told from the instruction: it is
    /// dear on kvm_pvm. Returns the context to resume.
    pub fn on_trap(&self, vector: u64, error: u64, read_cr2: impl Fn() -> u64) -> *mut Context {
        if let Some(thread) = self.current() {
            thread.with_context(|context| context.exact = 1);
            self.trap(&thread, vector, error, &read_cr2);
            // A thread that computes neither waits nor switches: its memory grows by faults.
            self.publish();
        }
        self.leave(false)
    }

    /// The VMM interrupted the current thread. Returns the context to resume.
    pub fn on_upcall(&self) -> *mut Context {
        if let Some(thread) = self.current() {
            thread.with_context(|context| context.exact = 1);
        }
        self.leave(true)
    }

    /// A restore: choose the thread to go on with.
    pub fn on_restore(&self, restored: &Restored<'_>) -> *mut Context {
        self.restored(restored);
        self.leave(false)
    }

    /// A clone that is entered ahead of time: let it call what makes its generators its own, with a seed that no other clone has. Returns the context to resume, or null: there is nothing to call, or
    /// it is done, and the clone waits until it is wanted. Hooks of a program are not for clones that nobody wants yet: where there may be some, everything is called later.
    pub fn on_hold(&self, layers: &[LayerWindow], seed: &[u8; 64]) -> *mut Context {
        self.frames.set_layers(layers);
        self.random.reseed(seed);
        self.slice_start.set(self.machine.tsc());
        if !self.fs.env.snapshots.was_read() {
            self.renew();
            self.holding.set(true);
            self.renewed.set(true);
            return self.leave_held();
        }
        core::ptr::null_mut()
    }

    /// The way out of the library OS while only those run who call.
    fn leave_held(&self) -> *mut Context {
        loop {
            if !self.is_renewing() {
                self.holding.set(false);
                return core::ptr::null_mut();
            }
            self.drain_woken();
            let threads: Vec<Rc<Thread>> = self.threads.borrow().values().cloned().collect();
            let calls = |thread: &&Rc<Thread>| {
                thread.detour.borrow().is_some() && thread.state.get() == State::Runnable
            };
            if let Some(thread) = threads.iter().filter(calls).find(|thread| self.prepare(thread)) {
                return self.resume(thread);
            }
            // Nobody waits for anything in a clone that holds: the VMM gives it up.
            self.machine.host_call(Op::Idle, [u64::MAX, 0, 0, 0, 0, 0]);
        }
    }

    /// Start: choose the first thread.
    pub fn on_boot(&self) -> *mut Context {
        self.leave(false)
    }

    fn trap(&self, thread: &Rc<Thread>, vector: u64, error: u64, read_cr2: &dyn Fn() -> u64) {
        let mut trap = Trap { vector, error, address: 0 };
        let info = match vector {
            PAGE_FAULT => match self.find_and_serve_fault(thread, &mut trap, read_cr2) {
                None => return,
                Some(info) => info,
            },
            // SIGFPE FPE_INTDIV; SIGTRAP TRAP_TRACE and TRAP_BRKPT; SIGILL ILL_ILLOPN (traps.c).
            0 => SignalInfo::fault(signal::SIGFPE, 1, thread.registers().rip),
            1 => SignalInfo::fault(signal::SIGTRAP, 2, thread.registers().rip),
            3 => SignalInfo { signo: signal::SIGTRAP, code: SignalInfo::KERNEL, fields: [0; 4] },
            6 => SignalInfo::fault(signal::SIGILL, 2, thread.registers().rip),
            16 | 19 => SignalInfo::fault(
                signal::SIGFPE,
                self.float_code(thread, trap.vector),
                thread.registers().rip,
            ),
            17 => SignalInfo::fault(signal::SIGBUS, 1, 0),
            _ => SignalInfo { signo: signal::SIGSEGV, code: SignalInfo::KERNEL, fields: [0; 4] },
        };
        if !self.give_up_detour(thread, "fault") {
            self.force_signal(thread, info, trap);
        }
    }

    /// Serve a page fault at the address that the instruction tells. Where it tells none, or one that the application may not touch (it may be a wrong guess), CR2
    /// decides.
    fn find_and_serve_fault(
        &self,
        thread: &Rc<Thread>,
        trap: &mut Trap,
        read_cr2: &dyn Fn() -> u64,
    ) -> Option<SignalInfo> {
        if let Some(address) = self.fault_address(thread, trap.error) {
            trap.address = address;
            self.page_fault(thread, *trap)?;
        }
        self.count(|counters| counters.cr2_reads += 1);
        trap.address = read_cr2();
        self.page_fault(thread, *trap)
    }

    /// si_code of a floating-point trap: which unmasked exception the status word shows (SDM vol. 1, 8.5 and 11.5).
    fn float_code(&self, thread: &Rc<Thread>, vector: u64) -> i32 {
        self.save_extended(thread);
        let extended = thread.extended.borrow();
        let bytes = extended.bytes();
        let word = |at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let raised = if vector == 16 { word(2) & !word(0) } else { word(24) & !(word(24) >> 7) };
        match raised & 0x3f {
            bits if bits & 1 != 0 => 7,
            bits if bits & 4 != 0 => 3,
            bits if bits & 8 != 0 => 4,
            bits if bits & 0x12 != 0 => 5,
            bits if bits & 0x20 != 0 => 6,
            _ => 0,
        }
    }

    fn page_fault(&self, thread: &Rc<Thread>, trap: Trap) -> Option<SignalInfo> {
        let access = if trap.error & ERROR_FETCH != 0 {
            Access::Execute
        } else if trap.error & ERROR_WRITE != 0 {
            Access::Write
        } else {
            Access::Read
        };
        let space = thread.process.space();
        let stack_limit = thread.process.limit(LIMIT_STACK);
        let served = if self.is_beyond_stack(&space.borrow(), trap.address, stack_limit) {
            Err(Fault::NotMapped)
        } else {
            space.borrow_mut().fault(trap.address, access)
        };
        if served.is_ok() {
            let (own, children) = thread.process.minor_faults.get();
            thread.process.minor_faults.set((own + 1, children));
        }
        match served {
            Ok(Served::CopyOnWrite) => {
                space.borrow().forgive_fault();
                self.count(|counters| counters.faults[1] += 1);
                None
            }
            Ok(Served::SnapshotCopy) => {
                space.borrow().forgive_fault();
                self.count(|counters| counters.faults[2] += 1);
                None
            }
            Ok(Served::Demand) => {
                self.count(|counters| counters.faults[0] += 1);
                None
            }
            Ok(Served::Spurious) => {
                if trap.error & ERROR_PRESENT != 0 {
                    self.machine.flush_translations();
                }
                None
            }
            Err(Fault::NotMapped) => Some(SignalInfo::fault(signal::SIGSEGV, 1, trap.address)),
            Err(Fault::Denied) => Some(SignalInfo::fault(signal::SIGSEGV, 2, trap.address)),
            Err(Fault::BeyondEnd) => Some(SignalInfo::fault(signal::SIGBUS, 2, trap.address)),
            Err(Fault::OutOfMemory) => {
                self.out_of_memory(thread);
                None
            }
        }
    }

    /// Whether `address` lies in the first thread's stack, but further down than RLIMIT_STACK now allows.
    fn is_beyond_stack(&self, space: &Space, address: u64, limit: u64) -> bool {
        address < space.stack_top
            && space.stack_top - address > limit
            && space.area_at(address).is_some_and(|area| area.label == "[stack]")
    }

    /// Serve system call `number` of `thread` and store its result, or let the thread wait.
    fn execute(&self, thread: &Rc<Thread>, number: u64) {
        if self.is_starved() {
            self.out_of_memory(thread);
            if thread.state.get() == State::Dead {
                return;
            }
        }
        let outcome = self.dispatch(thread, number);
        self.signals_from_terminals();
        match outcome {
            Err(Stop::Wait) => self.park(thread, Waiting { number, no_restart: false }),
            Err(Stop::WaitNoRestart) => self.park(thread, Waiting { number, no_restart: true }),
            finished => self.finish(thread, finished),
        }
    }

    fn dispatch(&self, thread: &Rc<Thread>, number: u64) -> SysResult {
        let registers = thread.registers();
        let args = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let process = thread.process.clone();
        self.calling.replace(Some(thread.clone()));
        let mut call = Call { kernel: self, thread: thread.clone(), process, args };
        let base = &self.fs.env.base;
        // A hit outside of a call (input for a terminal) counts before the next one does anything.
        let outcome = match table::handler(number) {
            _ if base.has_hit() => Err(Stop::NoResult),
            Some(handler) => handler(&mut call),
            None => Err(Stop::Errno(Errno::ENOSYS)),
        };
        if base.take_hit() {
            self.after_hit(thread, number);
            return Err(Stop::NoResult);
        }
        outcome
    }

    fn finish(&self, thread: &Rc<Thread>, outcome: SysResult) {
        let value = match outcome {
            Ok(value) => value,
            Err(Stop::Errno(errno)) => errno.as_return_value(),
            Err(Stop::Wait | Stop::WaitNoRestart | Stop::NoResult) => return,
        };
        if outcome != Err(Stop::Errno(Errno::EINTR)) {
            // ppoll and its like let a signal in only if that is what ended the wait.
            if let Some(mask) = thread.saved_mask.take() {
                thread.mask.set(mask);
            }
        }
        thread.with_context(|context| context.registers.rax = value);
    }

    fn park(&self, thread: &Rc<Thread>, waiting: Waiting) {
        if thread.state.get() == State::Dead {
            return;
        }
        if self.has_deliverable_signal(thread) {
            self.interrupt(thread, waiting);
            return;
        }
        let deadline = thread.progress.borrow().deadline_ns;
        thread.progress.borrow_mut().started = true;
        thread.waiting.set(Some(waiting));
        thread.state.set(State::Waiting);
        if thread.detour.borrow().is_some() {
            // Somebody may hold what it waits for.
            self.let_go(&thread.process);
        } else {
            self.renew_late(thread);
            if thread.state.get() != State::Waiting {
                return;
            }
        }
        if let Some(at_ns) = deadline.filter(|at_ns| *at_ns != u64::MAX) {
            let armed = thread.timer.replace(Some(self.timers.arm(at_ns, Timer::Thread(thread.tid))));
            if let Some(old) = armed {
                self.timers.cancel(old);
            }
        }
    }

    /// A signal interrupts a waiting call: the call runs once more and may return what it has; otherwise it fails with EINTR or starts again after the
    /// handler, as the signal's action says (signal(7)).
    fn interrupt(&self, thread: &Rc<Thread>, waiting: Waiting) {
        self.forget_wait(thread);
        thread.progress.borrow_mut().interrupted = true;
        let outcome = self.dispatch(thread, waiting.number);
        self.forget_wait(thread);
        let no_restart = match outcome {
            Err(Stop::Wait) => waiting.no_restart,
            Err(Stop::WaitNoRestart) => true,
            finished => return self.finish(thread, finished),
        };
        if self.next_signal_restarts(thread, no_restart) {
            thread.with_context(|context| {
                context.registers.rip = context.registers.rip.wrapping_sub(2);
                context.registers.rax = waiting.number;
            });
        } else {
            self.finish(thread, Err(Stop::Errno(Errno::EINTR)));
        }
    }

    /// Undo what a waiting call has set up.
    pub(super) fn forget_wait(&self, thread: &Rc<Thread>) {
        if let Some(key) = thread.timer.take() {
            self.timers.cancel(key);
        }
        self.futexes.remove(thread.tid);
    }

    /// Put a thread into the run queue.
    pub(super) fn make_runnable(&self, thread: &Rc<Thread>) {
        thread.state.set(State::Runnable);
        self.queue(&thread.process, thread.tid);
    }

    /// The way out of the library OS: serve what has happened meanwhile, then go on with the current thread, or with another one if the current one waits, is
    /// gone, or has had its turn (`yields`).
    fn leave(&self, yields: bool) -> *mut Context {
        if self.holding.get() {
            return self.leave_held();
        }
        let yields = self.yielding.take() || yields;
        if self.fs.env.snapshots.is_wanted() && !self.resting.take() {
            self.capture();
        }
        let uplink = &self.fs.env.uplink;
        uplink.flush_if_due();
        let has_events = self.machine.has_event() || uplink.has_deferred();
        if self.machine.take_attention() || yields || has_events {
            self.serve_events();
            self.check_cpu_timers();
        }
        let mut candidate = self.current().filter(|thread| thread.state.get() == State::Runnable);
        if yields {
            self.wake_all_due();
            if let Some(thread) = candidate.take() {
                self.run_queue.borrow_mut().push_back(thread.tid);
            }
        }
        loop {
            if let Some(thread) = candidate.take()
                && self.prepare(&thread)
            {
                return self.resume(&thread);
            }
            self.wake_all_due();
            self.advance_hooks();
            candidate = self.next_in_queue();
            if candidate.is_none() {
                self.idle();
            }
        }
    }

    fn next_in_queue(&self) -> Option<Rc<Thread>> {
        loop {
            let tid = self.run_queue.borrow_mut().pop_front()?;
            if let Some(thread) = self.thread(tid).filter(|thread| thread.state.get() == State::Runnable) {
                return Some(thread);
            }
        }
    }

    /// Let threads run whose wait queue was woken or whose deadline has passed.
    fn wake_all_due(&self) {
        if self.timers.next_ns() != u64::MAX {
            let now_ns = self.machine.monotonic_ns();
            while let Some(timer) = self.timers.pop(now_ns) {
                match timer {
                    Timer::Thread(tid) => self.woken.push(tid),
                    Timer::Detour(tid) => {
                        if let Some(thread) = self.thread(tid) {
                            self.give_up_detour(&thread, "take too long");
                        }
                    }
                    Timer::Alarm(pid) => self.alarm(pid, now_ns),
                    Timer::Posix(pid, id) => self.posix_timer(pid, id, now_ns),
                    Timer::Announcement(number) => self.capture_unanswered(number),
                    Timer::Hooks => self.hooks_are_late(now_ns),
                    Timer::Descriptor(file, setting) => {
                        let next_ns = file.upgrade().and_then(|file| file.fired(setting));
                        if let Some(next_ns) = next_ns {
                            self.timers.arm(next_ns, Timer::Descriptor(file, setting));
                        }
                    }
                }
            }
        }
        self.drain_woken();
    }

    /// Put the threads that were woken into the run queue.
    fn drain_woken(&self) {
        while !self.woken.is_empty() {
            for tid in self.woken.take() {
                self.wake(tid);
            }
        }
    }

    fn wake(&self, tid: Tid) {
        if let Some(thread) = self.thread(tid).filter(|thread| thread.state.get() == State::Waiting) {
            self.make_runnable(&thread);
        }
    }

    /// Wait for the VMM until something happens.
    fn idle(&self) {
        self.account();
        self.publish();
        if self.threads.borrow().is_empty() {
            // The last thread's end has told the VMM; it does not let the guest go on.
            self.panic("no thread is left and the VMM let the guest continue");
        }
        if !self.told_ready.get() && self.fs.env.uplink.has_awaited_listener() {
            self.told_ready.set(true);
            self.give_up_base();
            self.machine.host_call(Op::Ready, [0; 6]);
        }
        self.fs.env.snapshots.ask_for_answered();
        if self.fs.env.snapshots.is_wanted() && !self.is_renewing() {
            // Its announcement was answered, or has waited for long enough; or it was put off until calls were over, and they were given up.
            return self.capture();
        }
        self.machine.take_attention();
        self.machine.host_call(Op::Idle, [self.timers.next_ns(), 0, 0, 0, 0, 0]);
        self.fs.env.uplink.looked();
        self.slice_start.set(self.machine.tsc());
        self.serve_events();
        if self.fs.env.snapshots.is_wanted() {
            self.capture();
        }
    }

    /// Bring a runnable thread to where its application can go on: finish its waiting call, deliver its signals.
    fn prepare(&self, thread: &Rc<Thread>) -> bool {
        if thread.process.stopped.get() {
            // SIGCONT puts it into the queue again.
            return false;
        }
        if thread.process.renewal.holds(thread.tid) {
            thread.process.renewal.held.borrow_mut().push(thread.tid);
            return false;
        }
        if let Some(waiting) = thread.waiting.take() {
            if let Some(key) = thread.timer.take() {
                self.timers.cancel(key);
            }
            self.execute(thread, waiting.number);
            if thread.state.get() != State::Runnable {
                return false;
            }
        }
        self.deliver_signals(thread)
    }

    /// Make `thread` current: its address space, its extended state, its segment bases.
    fn resume(&self, thread: &Rc<Thread>) -> *mut Context {
        let previous = self.current.borrow().clone();
        let switched = previous.as_ref().is_none_or(|previous| previous.tid != thread.tid);
        if switched {
            self.account();
            if let Some(previous) = previous {
                self.save_bases(&previous);
            }
            self.count(|counters| counters.switches += 1);
            *self.current.borrow_mut() = Some(thread.clone());
            let context = thread.context();
            self.machine.set_segment_bases(context.fs_base, context.gs_base);
        }
        if self.extended_owner.get() != thread.tid {
            self.park_extended();
            let extended = thread.extended.borrow();
            self.machine.load_extended(extended.pointer(), thread.context_pointer());
            self.extended_owner.set(thread.tid);
        }
        let space = thread.process.space();
        let is_loaded = self.loaded.borrow().as_ref().is_some_and(|loaded| Rc::ptr_eq(loaded, &space));
        let stale = space.borrow().take_stale();
        if !is_loaded {
            self.machine.load_page_tables(space.borrow().root());
            *self.loaded.borrow_mut() = Some(space);
        } else if stale {
            self.machine.flush_translations();
        }
        // Who was woken meanwhile must not wait until this thread waits itself.
        self.drain_woken();
        let ticks = !self.run_queue.borrow().is_empty() || thread.process.has_cpu_timers();
        self.machine.set_wishes(ticks, self.timers.next_ns());
        if switched {
            self.publish();
        }
        thread.context_pointer()
    }

    /// sched_yield(2): others come first.
    pub fn yield_current(&self) {
        self.yielding.set(true);
    }

    /// Bring the segment bases of the current thread up to date before its context is copied.
    pub fn save_bases_of(&self, thread: &Rc<Thread>) {
        if self.current().is_some_and(|current| current.tid == thread.tid) {
            self.save_bases(thread);
        }
    }

    /// Keep the segment bases that a thread may have set by itself.
    pub(super) fn save_bases(&self, thread: &Rc<Thread>) {
        let (fs_base, gs_base) = self.machine.segment_bases();
        thread.with_context(|context| (context.fs_base, context.gs_base) = (fs_base, gs_base));
    }

    /// Move the extended state of its owner out of the CPU.
    pub(super) fn park_extended(&self) {
        if let Some(owner) = self.thread(self.extended_owner.get()) {
            self.save_extended(&owner);
        }
        self.extended_owner.set(0);
    }

    /// Bring `thread.extended` up to date.
    pub fn save_extended(&self, thread: &Rc<Thread>) {
        if self.extended_owner.get() == thread.tid {
            self.machine.save_extended(thread.context_pointer(), thread.extended.borrow().pointer());
        }
    }

    /// `thread.extended` was replaced: what the CPU holds for the thread is void.
    pub fn forget_extended(&self, thread: &Rc<Thread>) {
        if self.extended_owner.get() == thread.tid {
            self.extended_owner.set(0);
        }
    }

    /// Charge the time since the last call to the current thread.
    pub fn account(&self) {
        let now = self.machine.tsc();
        let start = self.slice_start.replace(now);
        if let Some(thread) = self.current() {
            let spent = self.machine.clock().elapsed_ns(start, now);
            thread.cpu_ns.set(thread.cpu_ns.get() + spent);
            self.busy_ns.set(self.busy_ns.get() + spent);
        }
    }

    pub(super) fn publish(&self) {
        let used = self.frames.total() - self.frames.available().min(self.frames.total());
        let threads = self.thread_count() as u32;
        let processes = self.processes.borrow().len() as u32;
        self.count(|counters| {
            (counters.used_pages, counters.threads, counters.processes) = (used as u64, threads, processes);
        });
        self.machine.publish(&self.counters.get());
    }

    /// End the guest: the library OS cannot go on.
    pub fn panic(&self, message: &str) -> ! {
        // On the heap: a clone's constants do not lie at the guest-physical address that the image would tell.
        let message = message.as_bytes().to_vec();
        let gpa = self.machine.gpa_of(message.as_ptr());
        loop {
            self.machine.host_call(Op::Panic, [gpa, message.len() as u64, 0, 0, 0, 0]);
        }
    }
}
