//! What happens when memory is used up: the process with the greatest badness is killed.
//!
//! Reference: proc(5), /proc/PID/oom_score and oom_score_adj; mm/oom_kill.c (oom_badness).

use super::Kernel;
use crate::task::process::Process;
use crate::task::signal::SIGKILL;
use crate::task::thread::Thread;
use alloc::rc::Rc;
use alloc::string::String;
use seuss_abi::layout::PAGE_SIZE;

/// The oom_score_adj of what is never killed for others' sake.
const NEVER: i32 = -1000;

/// How much would be won by killing a process with `resident_pages`, of `total_pages` in all: `None` if it must not be.
pub(crate) fn badness(resident_pages: u64, oom_score_adj: i32, total_pages: u64) -> Option<i64> {
    if oom_score_adj == NEVER {
        return None;
    }
    let resident = i64::try_from(resident_pages).unwrap_or(i64::MAX / 2);
    let share = i64::try_from(total_pages / 1000).unwrap_or(i64::MAX / 4096);
    Some(resident.saturating_add(share.saturating_mul(i64::from(oom_score_adj))))
}

impl Kernel {
    /// Whether the library OS can hardly get memory for objects of its own (open files, sockets, timers, …): its heap has grown into the frames that are
    /// kept for it. A system call that begins then could fail where it must not, so a process has to go first, as in a memory cgroup of Linux,
    /// which charges such objects, too.
    pub(super) fn is_starved(&self) -> bool {
        if self.frames.available() > 0 {
            return false;
        }
        let bytes = |pages: usize| pages * PAGE_SIZE as usize;
        bytes(self.frames.free()) + self.machine.heap_free_bytes() < bytes(self.frames.reserve()) / 2
    }

    /// Memory is used up: the process that would give back most is killed, and the log says so. `thread` asked; it asks again if it still lives.
    pub(super) fn out_of_memory(&self, thread: &Rc<Thread>) {
        let victim = self.victim().unwrap_or_else(|| thread.process.clone());
        let name = self.thread(victim.pid).map(|leader| leader.comm_bytes()).unwrap_or_default();
        let limit_mib = self.config.memory_bytes >> 20;
        let message = alloc::format!(
            "out of memory: killed process {} ({}): the guest's {limit_mib} MiB are used up",
            victim.pid,
            String::from_utf8_lossy(&name),
        );
        self.log(2, &message);
        self.count(|counters| counters.oom_kills += 1);
        self.exit_process(&victim, SIGKILL);
    }

    /// The process with the greatest badness; of two equals the younger one.
    fn victim(&self) -> Option<Rc<Process>> {
        let total = self.config.memory_bytes / PAGE_SIZE;
        let rated =
            self.processes().into_iter().filter(|process| !process.is_zombie()).filter_map(|process| {
                let resident = process.space().borrow().resident_and_peak().0 / PAGE_SIZE;
                Some((badness(resident, process.oom_score_adj.get(), total)?, process))
            });
        rated.max_by_key(|(badness, process)| (*badness, process.pid)).map(|(_, process)| process)
    }
}

#[cfg(test)]
mod tests {
    use super::badness;

    #[test]
    fn the_adjustment_counts_in_thousandths_of_all_memory() {
        assert_eq!(badness(100, 0, 65536), Some(100));
        assert_eq!(badness(100, 1000, 65536), Some(100 + 65_000));
        assert_eq!(badness(100, -10, 65536), Some(100 - 650));
        assert_eq!(badness(u64::MAX, -1000, 65536), None);
        assert!(badness(u64::MAX, 1000, u64::MAX).is_some());
    }
}
