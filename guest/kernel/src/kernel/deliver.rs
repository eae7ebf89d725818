//! Sending and delivering signals.

use super::Kernel;
use super::schedule::Trap;
use crate::errno::Result;
use crate::task::process::{ChildState, Pid, Process};
use crate::task::signal::{
    self, Action, Default, Delivery, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SIG_DFL, SIG_IGN,
    SIGCONT, SIGKILL, SIGNAL_MAX, SIGSEGV, SignalInfo, SignalSet,
};
use crate::task::thread::{AltStack, State, Thread};
use alloc::rc::Rc;

/// The stop signals.
const STOPS: SignalSet = SignalSet(
    1 << (signal::SIGSTOP - 1)
        | 1 << (signal::SIGTSTP - 1)
        | 1 << (signal::SIGTTIN - 1)
        | 1 << (signal::SIGTTOU - 1),
);
/// SS_AUTODISARM.
const AUTODISARM: u32 = 1 << 31;

impl Kernel {
    /// Send a signal to a process: any thread that does not block it takes it.
    ///
    /// # Errors
    /// EAGAIN when too many real-time signals are queued.
    pub fn send_to_process(&self, process: &Rc<Process>, info: SignalInfo) -> Result {
        if process.is_zombie() || !(1..=SIGNAL_MAX).contains(&info.signo) {
            return Ok(());
        }
        self.prepare_send(process, info.signo);
        let threads = self.threads_of(process);
        let blocked = threads.iter().all(|thread| thread.mask.get().contains(info.signo));
        let dropped =
            self.protects_init(process, info) || process.actions.borrow().borrow().ignores(info.signo);
        if !blocked && dropped {
            return Ok(());
        }
        process.pending.borrow_mut().push(info)?;
        self.fs.signal_arrived(info.signo);
        let takes = |thread: &&Rc<Thread>| !thread.mask.get().contains(info.signo);
        let waiting = threads.iter().filter(takes).find(|thread| thread.state.get() == State::Waiting);
        match waiting {
            Some(thread) => self.woken.push(thread.tid),
            // One that waits for the signal itself (sigtimedwait, signalfd) blocks it.
            None => threads.iter().for_each(|thread| self.woken.push(thread.tid)),
        }
        Ok(())
    }

    /// Send a signal to one thread.
    ///
    /// # Errors
    /// EAGAIN when too many real-time signals are queued.
    pub fn send_to_thread(&self, thread: &Rc<Thread>, info: SignalInfo) -> Result {
        let process = &thread.process;
        if !(1..=SIGNAL_MAX).contains(&info.signo) {
            return Ok(());
        }
        self.prepare_send(process, info.signo);
        let blocked = thread.mask.get().contains(info.signo);
        let dropped =
            self.protects_init(process, info) || process.actions.borrow().borrow().ignores(info.signo);
        if !blocked && dropped {
            return Ok(());
        }
        thread.pending.borrow_mut().push(info)?;
        self.fs.signal_arrived(info.signo);
        self.woken.push(thread.tid);
        Ok(())
    }

    /// Send a signal that a system call of `thread` causes (SIGPIPE, SIGXFSZ).
    pub fn raise(&self, thread: &Rc<Thread>, signo: u32) {
        let _ = self.send_to_thread(thread, SignalInfo::from_kernel(signo));
    }

    /// The first process of a PID namespace gets only signals that it handles, except SIGKILL and SIGSTOP from outside (pid_namespaces(7)).
    fn protects_init(&self, process: &Rc<Process>, info: SignalInfo) -> bool {
        let from_inside = info.code != SignalInfo::KERNEL;
        let unhandled = process.actions.borrow().borrow().get(info.signo).handler == SIG_DFL;
        from_inside && unhandled && process.pid == 1
    }

    /// A stop drops pending SIGCONTs and the other way round; SIGCONT and SIGKILL make a stopped process go on.
    fn prepare_send(&self, process: &Rc<Process>, signo: u32) {
        let drop = match signo {
            SIGCONT => STOPS,
            _ if STOPS.contains(signo) => SignalSet::of(SIGCONT),
            _ => SignalSet(0),
        };
        if drop.0 != 0 {
            process.pending.borrow_mut().discard(drop);
            for thread in self.threads_of(process) {
                thread.pending.borrow_mut().discard(drop);
            }
        }
        if (signo == SIGCONT || signo == SIGKILL) && process.stopped.replace(false) {
            for thread in self.threads_of(process) {
                if thread.state.get() == State::Runnable {
                    self.make_runnable(&thread);
                }
            }
            if signo == SIGCONT {
                process.child_state.set(ChildState::Continued);
                self.tell_parent_of_change(process);
            }
        }
    }

    /// Signal `thread` about a fault of its own: it cannot be ignored or blocked.
    pub(super) fn force_signal(&self, thread: &Rc<Thread>, info: SignalInfo, trap: Trap) {
        thread.last_fault.set((trap.vector, trap.error, trap.address));
        self.force(thread, info);
    }

    fn force(&self, thread: &Rc<Thread>, info: SignalInfo) {
        let process = &thread.process;
        let blocked = thread.mask.get().contains(info.signo);
        let actions = process.actions.borrow().clone();
        if blocked || actions.borrow().get(info.signo).handler == SIG_IGN {
            actions.borrow_mut().set(info.signo, Action::default());
            thread.mask.set(SignalSet(thread.mask.get().0 & !SignalSet::of(info.signo).0));
        }
        let _ = thread.pending.borrow_mut().push(info);
    }

    fn deliverable(&self, thread: &Thread) -> SignalSet {
        let pending = thread.pending.borrow().set().0 | thread.process.pending.borrow().set().0;
        SignalSet(pending & !thread.mask.get().0)
    }

    /// Whether a signal is pending that `thread` does not block and that does something.
    pub fn has_deliverable_signal(&self, thread: &Thread) -> bool {
        let set = self.deliverable(thread);
        if set.0 == 0 {
            return false;
        }
        let actions = thread.process.actions.borrow().clone();
        let actions = actions.borrow();
        (1..=SIGNAL_MAX).any(|signo| set.contains(signo) && !actions.ignores(signo))
    }

    /// Whether the call that the next signal interrupts starts again afterwards.
    pub(super) fn next_signal_restarts(&self, thread: &Thread, no_restart: bool) -> bool {
        let set = self.deliverable(thread);
        let actions = thread.process.actions.borrow().clone();
        let actions = actions.borrow();
        let next = (1..=SIGNAL_MAX).find(|signo| set.contains(*signo) && !actions.ignores(*signo));
        let Some(action) = next.map(|signo| actions.get(signo)) else { return true };
        action.handler == SIG_DFL || (!no_restart && action.flags & SA_RESTART != 0)
    }

    /// Deliver what is pending. Returns whether the thread goes on.
    pub(super) fn deliver_signals(&self, thread: &Rc<Thread>) -> bool {
        loop {
            if thread.state.get() != State::Runnable || thread.process.stopped.get() {
                return false;
            }
            let allowed = SignalSet(!thread.mask.get().0);
            let own = thread.pending.borrow_mut().take(allowed);
            let Some(info) = own.or_else(|| thread.process.pending.borrow_mut().take(allowed)) else { break };
            self.deliver(thread, info);
        }
        if let Some(mask) = thread.saved_mask.take() {
            thread.mask.set(mask);
        }
        true
    }

    fn deliver(&self, thread: &Rc<Thread>, info: SignalInfo) {
        let process = &thread.process;
        let actions = process.actions.borrow().clone();
        let action = actions.borrow().get(info.signo);
        if action.handler == SIG_IGN {
            return;
        }
        if action.handler != SIG_DFL && info.signo != SIGKILL {
            if action.flags & SA_RESETHAND != 0 {
                actions.borrow_mut().set(info.signo, Action::default());
            }
            if self.enter_handler(thread, info, action).is_err() {
                // The stack cannot take the frame (signal(7)): SIGSEGV, which ends the process if it was that already.
                if info.signo == SIGSEGV {
                    actions.borrow_mut().set(SIGSEGV, Action::default());
                }
                self.force(thread, SignalInfo::from_kernel(SIGSEGV));
            }
            return;
        }
        match signal::default_action(info.signo) {
            Default::Ignore | Default::Continue => {}
            Default::Terminate => self.exit_process(process, info.signo),
            Default::Core => self.exit_process(process, info.signo),
            Default::Stop => {
                if process.pid == 1 {
                    return;
                }
                process.stopped.set(true);
                process.child_state.set(ChildState::Stopped(info.signo));
                self.tell_parent_of_change(process);
            }
        }
    }

    fn enter_handler(&self, thread: &Rc<Thread>, info: SignalInfo, action: Action) -> Result {
        self.save_extended(thread);
        let old_mask = thread.saved_mask.take().unwrap_or_else(|| thread.mask.get());
        let alt = thread.alt_stack.get();
        let rsp = thread.registers().rsp;
        let on_alt = alt.len > 0 && rsp > alt.base && rsp <= alt.base + alt.len;
        let use_alt_stack = action.flags & SA_ONSTACK != 0 && alt.len > 0 && !on_alt;
        let shown = if alt.len == 0 { 2 } else { alt.flags | u32::from(on_alt) };
        let space = thread.process.space();
        let extended = thread.extended.borrow();
        let delivery = Delivery {
            info,
            action,
            mask: old_mask,
            alt_stack: (alt.base, alt.len, shown),
            use_alt_stack,
            // As on Linux, the last fault, whatever the signal is for.
            fault: thread.last_fault.get(),
            xcr0: self.config.xcr0,
            extended: &extended,
        };
        let pushed =
            thread.with_context(|context| signal::push_frame(&mut space.borrow_mut(), context, &delivery));
        pushed?;
        if use_alt_stack && alt.flags & AUTODISARM != 0 {
            thread.alt_stack.set(AltStack::default());
        }
        let own = if action.flags & SA_NODEFER != 0 { 0 } else { SignalSet::of(info.signo).0 };
        thread.mask.set(SignalSet(thread.mask.get().0 | action.mask.0 | own).blockable());
        Ok(())
    }

    /// ITIMER_REAL has expired.
    pub(super) fn alarm(&self, pid: Pid, now_ns: u64) {
        let Some(process) = self.process(pid) else { return };
        let mut timer = process.real_timer.get();
        if timer.expires_ns == 0 || timer.expires_ns > now_ns {
            return;
        }
        let _ = self.send_to_process(&process, SignalInfo::from_kernel(signal::SIGALRM));
        timer.expires_ns = match timer.interval_ns {
            0 => 0,
            interval => now_ns - (now_ns - timer.expires_ns) % interval + interval,
        };
        process.real_timer.set(timer);
        if timer.expires_ns != 0 {
            self.timers.arm(timer.expires_ns, super::timers::Timer::Alarm(pid));
        }
    }

    /// Write a line to the VMM's log. Levels: 1 error .. 5 trace.
    pub fn log(&self, level: u64, message: &str) {
        // On the heap: a clone's constants do not lie at the guest-physical address that the image would tell.
        let message = message.as_bytes().to_vec();
        let gpa = self.machine.gpa_of(message.as_ptr());
        self.machine.host_call(seuss_abi::call::Op::Log, [level, gpa, message.len() as u64, 0, 0, 0]);
    }
}
