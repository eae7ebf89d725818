//! The life of threads and processes: clone, exit, wait.

use super::Kernel;
use crate::errno::{Errno, Result};
use crate::fs::FdTable;
use crate::mem::space::Space;
use crate::task::process::{ChildState, LIMIT_NPROC, Parts, Pid, Process, UNLIMITED};
use crate::task::signal::{SA_NOCLDSTOP, SA_NOCLDWAIT, SIG_IGN, SIGCHLD, SignalInfo};
use crate::task::thread::{Context, State, Thread};
use crate::wait::Readiness;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use seuss_abi::call::Op;

/// CLD_* of SIGCHLD.
const CLD_EXITED: i32 = 1;
const CLD_KILLED: i32 = 2;
const CLD_STOPPED: i32 = 5;
const CLD_CONTINUED: i32 = 6;
/// Most frames of a robust list that are walked (ROBUST_LIST_LIMIT).
const ROBUST_LIST_LIMIT: usize = 2048;

/// What a new process shares with its parent (clone(2)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sharing {
    /// CLONE_VM.
    pub space: bool,
    /// CLONE_FILES.
    pub files: bool,
    /// CLONE_FS.
    pub fs: bool,
    /// CLONE_SIGHAND.
    pub actions: bool,
}

impl Kernel {
    /// The living threads of a process.
    #[must_use]
    pub fn threads_of(&self, process: &Process) -> Vec<Rc<Thread>> {
        process.threads.borrow().iter().filter_map(|tid| self.thread(*tid)).collect()
    }

    pub(super) fn add_thread(&self, thread: &Rc<Thread>) {
        self.note_growth();
        self.threads.borrow_mut().insert(thread.tid, thread.clone());
        self.make_runnable(thread);
    }

    pub(super) fn add_process(&self, process: &Rc<Process>) {
        self.processes.borrow_mut().insert(process.pid, process.clone());
    }

    /// RLIMIT_NPROC: whether the real user of `process` may have another thread or process. Zombies count until they are waited for; user 0 and
    /// whoever has capabilities are exempt (getrlimit(2)).
    ///
    /// # Errors
    /// EAGAIN.
    fn check_user_limit(&self, process: &Process) -> Result {
        let limit = process.limit(LIMIT_NPROC);
        let who = process.credentials.borrow();
        if limit == UNLIMITED || who.uid == 0 || who.is_privileged() {
            return Ok(());
        }
        if self.threads_of_user(who.uid) >= limit {
            return Err(Errno::EAGAIN);
        }
        process.user_has_too_many.set(false);
        Ok(())
    }

    fn threads_of_user(&self, uid: u32) -> u64 {
        let processes = self.processes.borrow();
        let own = processes.values().filter(|other| other.credentials.borrow().uid == uid);
        own.map(|other| if other.is_zombie() { 1 } else { other.threads.borrow().len() as u64 }).sum()
    }

    /// The real user of `process` was `old` before setuid(2) or its like, which does not fail over RLIMIT_NPROC: [`Self::check_user_at_exec`] does.
    pub fn user_changed(&self, process: &Process, old: u32) {
        let uid = process.credentials.borrow().uid;
        if uid != old {
            let others = self.threads_of_user(uid).saturating_sub(process.threads.borrow().len() as u64);
            process.user_has_too_many.set(uid != 0 && others > process.limit(LIMIT_NPROC));
        }
    }

    /// execve(2) of a process that became a user with too many processes fails while the user has too many.
    ///
    /// # Errors
    /// EAGAIN.
    pub fn check_user_at_exec(&self, process: &Process) -> Result {
        let uid = process.credentials.borrow().uid;
        if process.user_has_too_many.get() && self.threads_of_user(uid) > process.limit(LIMIT_NPROC) {
            return Err(Errno::EAGAIN);
        }
        process.user_has_too_many.set(false);
        Ok(())
    }

    /// Start a thread of `parent`'s process.
    ///
    /// # Errors
    /// EAGAIN when the guest has as many threads as it may.
    pub fn clone_thread(&self, parent: &Rc<Thread>, context: Context) -> Result<Rc<Thread>> {
        self.check_user_limit(&parent.process)?;
        let tid = self.allocate_tid()?;
        self.save_extended(parent);
        let extended = parent.extended.borrow().clone();
        let thread = Rc::new(Thread::new(tid, parent.process.clone(), context, extended));
        thread.mask.set(parent.mask.get());
        thread.policy.set(parent.policy.get().inherited());
        *thread.comm.borrow_mut() = *parent.comm.borrow();
        parent.process.threads.borrow_mut().push(tid);
        self.add_thread(&thread);
        Ok(thread)
    }

    /// Start a process with one thread, a child of `parent`'s process (fork(2), vfork(2), clone(2)).
    ///
    /// # Errors
    /// EAGAIN when the guest has as many threads as it may; ENOMEM.
    pub fn clone_process(
        &self,
        parent: &Rc<Thread>,
        context: Context,
        sharing: Sharing,
    ) -> Result<Rc<Thread>> {
        if self.frames.available() < 64 {
            return Err(Errno::ENOMEM);
        }
        self.check_user_limit(&parent.process)?;
        let pid = self.allocate_tid()?;
        let process = &parent.process;
        let space: Rc<RefCell<Space>> = if sharing.space {
            process.space()
        } else {
            Rc::new(RefCell::new(process.space().borrow().fork()?))
        };
        let files = if sharing.files {
            process.files()
        } else {
            let copy: FdTable = process.files().borrow().fork()?;
            Rc::new(RefCell::new(copy))
        };
        let actions = process.actions.borrow().clone();
        let actions = if sharing.actions { actions } else { Rc::new(RefCell::new(actions.borrow().clone())) };
        let parts = Parts {
            space,
            files,
            fs: if sharing.fs { process.fs() } else { Rc::new(process.fs().fork()) },
            actions,
            credentials: process.credentials.borrow().clone(),
            limits: *process.limits.borrow(),
        };
        let now_ns = self.machine.boottime_ns();
        let child = Rc::new(Process::new(pid, Some(process), None, parts, &self.woken, now_ns));
        self.save_extended(parent);
        let extended = parent.extended.borrow().clone();
        let thread = Rc::new(Thread::new(pid, child.clone(), context, extended));
        thread.mask.set(parent.mask.get());
        thread.policy.set(parent.policy.get().inherited());
        thread.alt_stack.set(if sharing.space { Default::default() } else { parent.alt_stack.get() });
        *thread.comm.borrow_mut() = *parent.comm.borrow();
        self.add_process(&child);
        process.children.borrow_mut().push(pid);
        self.add_thread(&thread);
        Ok(thread)
    }

    /// A thread ends; with the last one its process does.
    pub fn exit_thread(&self, thread: &Rc<Thread>, code: u32) {
        let process = thread.process.clone();
        let is_last = process.threads.borrow().len() <= 1;
        if is_last {
            self.exit_process(&process, (code & 0xff) << 8);
        } else {
            self.end_thread(thread);
        }
    }

    fn end_thread(&self, thread: &Rc<Thread>) {
        if thread.state.replace(State::Dead) == State::Dead {
            return;
        }
        if self.current().is_some_and(|current| current.tid == thread.tid) {
            self.account();
        }
        self.forget_wait(thread);
        self.forget_detour(thread);
        self.release_robust_futexes(thread);
        let process = &thread.process;
        let clear = thread.clear_child_tid.get();
        if clear != 0 && process.space().borrow_mut().write(clear, &[0; 4]).is_ok() {
            self.futex_wake(process, clear, 1);
        }
        process.dead_cpu_ns.set(process.dead_cpu_ns.get() + thread.cpu_ns.get());
        process.threads.borrow_mut().retain(|tid| *tid != thread.tid);
        self.threads.borrow_mut().remove(&thread.tid);
        self.forget_extended(thread);
        let is_current = self.current.borrow().as_ref().is_some_and(|current| current.tid == thread.tid);
        if is_current {
            *self.current.borrow_mut() = None;
        }
    }

    /// The thread that calls execve(2) takes the process id as its own, if it is not the first thread.
    #[must_use]
    pub fn become_leader(&self, thread: &Rc<Thread>) -> Rc<Thread> {
        let process = &thread.process;
        if thread.tid == process.pid {
            return thread.clone();
        }
        if let Some(old) = self.thread(process.pid) {
            self.end_thread(&old);
        }
        let extended = thread.extended.borrow().clone();
        let leader = Rc::new(Thread::new(process.pid, process.clone(), thread.context(), extended));
        leader.mask.set(thread.mask.get());
        *leader.comm.borrow_mut() = *thread.comm.borrow();
        leader.cpu_ns.set(thread.cpu_ns.get());
        process.threads.borrow_mut().insert(0, process.pid);
        self.add_thread(&leader);
        leader
    }

    /// All threads of `process` but `survivor` end (execve(2)).
    pub fn end_other_threads(&self, survivor: &Rc<Thread>) {
        for thread in self.threads_of(&survivor.process) {
            if thread.tid != survivor.tid {
                self.end_thread(&thread);
            }
        }
    }

    /// get_robust_list(2): locks that a dead thread held become free, with FUTEX_OWNER_DIED.
    fn release_robust_futexes(&self, thread: &Rc<Thread>) {
        let head = thread.robust_list.get();
        if head == 0 {
            return;
        }
        let process = &thread.process;
        let space = process.space();
        let word = |address: u64| {
            let mut bytes = [0; 8];
            space.borrow_mut().read(address, &mut bytes).map(|()| u64::from_le_bytes(bytes))
        };
        let (Ok(mut entry), Ok(offset), Ok(pending)) =
            (word(head), word(head.wrapping_add(8)), word(head.wrapping_add(16)))
        else {
            return;
        };
        let mut locks = Vec::new();
        while entry & !1 != head && locks.len() < ROBUST_LIST_LIMIT {
            locks.push(entry);
            match word(entry & !1) {
                Ok(next) => entry = next,
                Err(_) => break,
            }
        }
        if pending != 0 {
            locks.push(pending);
        }
        for lock in locks {
            let address = (lock & !1).wrapping_add(offset);
            let mut bytes = [0; 4];
            if space.borrow_mut().read(address, &mut bytes).is_err() {
                continue;
            }
            let value = u32::from_le_bytes(bytes);
            if value & 0x3fff_ffff == thread.tid {
                let freed = (value & 0x8000_0000) | 0x4000_0000;
                if space.borrow_mut().write(address, &freed.to_le_bytes()).is_ok() && value & 0x8000_0000 != 0
                {
                    self.futex_wake(process, address, 1);
                }
            }
        }
    }

    /// A process ends with wait status `status`: threads, memory and files go at once, the zombie stays for its parent.
    pub fn exit_process(&self, process: &Rc<Process>, status: u32) {
        if process.is_zombie() {
            return;
        }
        process.note_rss();
        for thread in self.threads_of(process) {
            self.end_thread(&thread);
        }
        process.stopped.set(false);
        process.child_state.set(ChildState::Zombie(status));
        self.release_vfork_parent(process);
        process.set_files(Rc::new(RefCell::new(FdTable::default())));
        process.pending.borrow_mut().discard(crate::task::signal::SignalSet(u64::MAX));
        if let Ok(empty) = Space::new(&self.frames, self.config.template_pml4) {
            process.set_space(Rc::new(RefCell::new(empty)));
        }
        if process.pid == 1 {
            // As in a PID namespace, the end of the first process ends all others.
            self.publish();
            self.machine.host_call(Op::Exit, [u64::from(status), 0, 0, 0, 0, 0]);
            self.panic("the VMM let the guest continue after its end");
        }
        process.ended.notify(Readiness::READABLE);
        self.orphan_children(process);
        self.tell_parent_of_exit(process, status);
    }

    /// A vfork(2) parent goes on: its child has exec'ed or ended.
    pub fn release_vfork_parent(&self, process: &Process) {
        if let Some(tid) = process.vfork_parent.take() {
            self.woken.push(tid);
        }
    }

    fn orphan_children(&self, process: &Rc<Process>) {
        let heir = self.reaper_of(process);
        for pid in process.children.take() {
            let Some(child) = self.process(pid) else { continue };
            child.parent.set(heir.as_ref().map_or(0, |heir| heir.pid));
            if child.death_signal.get() != 0 {
                let _ = self.send_to_process(&child, SignalInfo::from_kernel(child.death_signal.get()));
            }
            match &heir {
                Some(heir) => {
                    heir.children.borrow_mut().push(pid);
                    if child.is_zombie() {
                        heir.child_changed.wake_all();
                        self.signal_child_exit(heir, &child);
                    }
                }
                None if child.is_zombie() => self.forget_process(pid),
                None => {}
            }
        }
    }

    fn reaper_of(&self, process: &Rc<Process>) -> Option<Rc<Process>> {
        let mut at = process.parent.get();
        while let Some(ancestor) = self.process(at) {
            if ancestor.is_subreaper.get() && !ancestor.is_zombie() {
                return Some(ancestor);
            }
            at = ancestor.parent.get();
        }
        self.process(1).filter(|init| !init.is_zombie())
    }

    fn tell_parent_of_exit(&self, process: &Rc<Process>, status: u32) {
        if let Some(token) = process.token {
            self.machine.host_call(Op::Exited, [u64::from(token), u64::from(status), 0, 0, 0, 0]);
            self.forget_process(process.pid);
            return;
        }
        self.hook_ended(process.pid, status);
        let Some(parent) = self.process(process.parent.get()).filter(|parent| !parent.is_zombie()) else {
            self.forget_process(process.pid);
            return;
        };
        self.signal_child_exit(&parent, process);
        let action = parent.actions.borrow().borrow().get(SIGCHLD);
        let unwanted = action.handler == SIG_IGN || action.flags & SA_NOCLDWAIT != 0;
        if unwanted && process.exit_signal.get() == SIGCHLD {
            parent.children.borrow_mut().retain(|pid| *pid != process.pid);
            self.forget_process(process.pid);
        }
        parent.child_changed.wake_all();
    }

    fn signal_child_exit(&self, parent: &Rc<Process>, child: &Rc<Process>) {
        let ChildState::Zombie(status) = child.child_state.get() else { return };
        let (code, value) =
            if status & 0x7f == 0 { (CLD_EXITED, status >> 8) } else { (CLD_KILLED, status & 0x7f) };
        let signo = child.exit_signal.get();
        if signo != 0 {
            let uid = child.credentials.borrow().uid;
            let ticks = child.dead_cpu_ns.get() / 10_000_000;
            let info = SignalInfo { signo, ..SignalInfo::child(code, child.pid, uid, value, ticks) };
            let _ = self.send_to_process(parent, info);
        }
    }

    /// Tell the parent that a child was stopped or continued.
    pub(super) fn tell_parent_of_change(&self, process: &Rc<Process>) {
        let Some(parent) = self.process(process.parent.get()) else { return };
        let (code, value) = match process.child_state.get() {
            ChildState::Stopped(signo) => (CLD_STOPPED, signo),
            ChildState::Continued => (CLD_CONTINUED, crate::task::signal::SIGCONT),
            _ => return,
        };
        if parent.actions.borrow().borrow().get(SIGCHLD).flags & SA_NOCLDSTOP == 0 {
            let uid = process.credentials.borrow().uid;
            let _ = self.send_to_process(&parent, SignalInfo::child(code, process.pid, uid, value, 0));
        }
        parent.child_changed.wake_all();
    }

    /// CLONE_PARENT: the child is its creator's sibling.
    pub fn adopt_by_grandparent(&self, child: &Rc<Process>, creator: &Rc<Process>) {
        creator.children.borrow_mut().retain(|pid| *pid != child.pid);
        child.parent.set(creator.parent.get());
        if let Some(parent) = self.process(creator.parent.get()) {
            parent.children.borrow_mut().push(child.pid);
        }
    }

    /// A parent has waited for a zombie.
    pub fn reap(&self, parent: &Process, child: &Process) {
        let spent = child.dead_cpu_ns.get() + child.children_cpu_ns.get();
        parent.children_cpu_ns.set(parent.children_cpu_ns.get() + spent);
        let ((faults, below), (child_faults, grandchildren)) =
            (parent.minor_faults.get(), child.minor_faults.get());
        parent.minor_faults.set((faults, below + child_faults + grandchildren));
        let ((rss, largest), (child_rss, grandchild_rss)) = (parent.peak_rss.get(), child.peak_rss.get());
        parent.peak_rss.set((rss, largest.max(child_rss).max(grandchild_rss)));
        self.remove_process(child.pid);
    }

    /// A zombie is gone; only descriptors may hold it.
    fn remove_process(&self, pid: Pid) -> Option<Rc<Process>> {
        let process = self.processes.borrow_mut().remove(&pid)?;
        process.reaped.set(true);
        process.ended.notify(Readiness::READABLE | Readiness::HANGUP);
        Some(process)
    }

    /// Remove a zombie for good.
    pub fn forget_process(&self, pid: Pid) {
        let removed = self.remove_process(pid);
        if let Some(parent) = removed.and_then(|process| self.process(process.parent.get())) {
            parent.children.borrow_mut().retain(|child| *child != pid);
        }
    }
}
