//! What a restore does to everything with a deadline: CLOCK_MONOTONIC goes on where it stood, the other clocks have moved on. As after a suspend on Linux, what waits for a
//! time of day or of CLOCK_BOOTTIME happens when that clock says so; what waits for a span of time waits for the rest of it.

use super::Kernel;
use super::timers::{Jump, Timer};
use crate::task::process::Process;
use crate::task::thread::Thread;
use alloc::rc::Rc;

impl Kernel {
    /// A capture: remember how the clocks stand.
    pub(super) fn note_clocks(&self) {
        self.timers.note(&self.machine.clock());
    }

    /// A restore: let deadlines follow their clocks.
    pub(super) fn follow_clocks(&self) {
        let jump = self.timers.jump(&self.machine.clock());
        for process in self.processes() {
            self.shift_posix_timers(&process, jump);
            self.threads_of(&process).iter().for_each(|thread| self.shift_deadline(thread, jump));
        }
        for file in self.timers.take_descriptors() {
            let Some(timer) = file.upgrade() else { continue };
            let (expires_ns, generation) = timer.jumped(jump);
            self.timers.arm(expires_ns, Timer::Descriptor(file, generation));
        }
    }

    fn shift_deadline(&self, thread: &Rc<Thread>, jump: Jump) {
        let mut progress = thread.progress.borrow_mut();
        let Some(deadline_ns) = progress.deadline_ns else { return };
        let shifted_ns = jump.shift(deadline_ns, progress.deadline_base);
        progress.deadline_ns = Some(shifted_ns);
        if shifted_ns != deadline_ns
            && let Some(armed) = thread.timer.take()
        {
            self.timers.cancel(armed);
            thread.timer.set(Some(self.timers.arm(shifted_ns, Timer::Thread(thread.tid))));
        }
    }

    /// What was armed for the old times finds that it is too early.
    fn shift_posix_timers(&self, process: &Process, jump: Jump) {
        for (&id, timer) in process.posix_timers.borrow_mut().iter_mut() {
            let expires_ns = jump.shift(timer.state.expires_ns, timer.base);
            if expires_ns != timer.state.expires_ns {
                timer.state.expires_ns = expires_ns;
                self.timers.arm(expires_ns, Timer::Posix(process.pid, id));
            }
        }
    }
}
