//! What the vCPU thread shares with the handle that the shim holds: requests one way, state and counters the other.
//!
//! Lock order: none of the locks here is held while another is taken, nor while the shim's callback runs.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use seuss_abi::event::Event;
use seuss_abi::spec::ProcessSpec;
use seuss_snapshotter::snapshot::SnapshotId;

use crate::error::{GuestError, RequestError};
use crate::handles::Channels;
use crate::run::thread;
use crate::snapshot::Lineage;
use crate::stats::Counters;
use crate::status::WaitStatus;
use crate::text::TextBudget;

/// Requests that may wait for a guest before more are refused.
const REQUESTS_MAX: usize = 4096;

/// A request to the vCPU thread.
#[derive(Debug)]
pub(crate) enum Request {
    /// Post this event.
    Post(Event),
    /// Start a process.
    Exec { token: u32, spec: Box<ProcessSpec>, stdio: rustix::io::Result<Channels> },
    /// End of the process' standard input.
    CloseStdin { token: u32 },
    /// Compare the next capture with another lineage: see [`crate::Guest::rebase`].
    Rebase { from: SnapshotId, to: Option<Arc<Lineage>> },
}

#[derive(Debug, Default)]
struct Inbox {
    requests: VecDeque<Request>,
    /// Tokens of processes that were asked for and have not ended.
    tokens: HashSet<u32>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Lifecycle {
    pause_wanted: bool,
    paused: bool,
    /// The thread that can be kicked.
    thread: Option<i32>,
    result: Option<Result<WaitStatus, GuestError>>,
}

/// Shared by one guest's handle and its vCPU thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) counters: Counters,
    /// What this guest may cause in logs.
    pub(crate) text: TextBudget,
    tid: AtomicI32,
    stop: AtomicBool,
    /// A kick is on its way: another one would tell nothing new.
    kicked: AtomicBool,
    wake: OwnedFd,
    inbox: Mutex<Inbox>,
    lifecycle: Mutex<Lifecycle>,
    changed: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere must not become a second one here; what is guarded is valid after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Of a guest that is started by the calling thread, whose budget of text it has if there is one.
    pub(crate) fn new(name: String) -> rustix::io::Result<Self> {
        Ok(Self {
            name,
            counters: Counters::default(),
            text: TextBudget::of_this_thread().unwrap_or_default(),
            tid: AtomicI32::new(0),
            stop: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            inbox: Mutex::default(),
            lifecycle: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Another descriptor of the eventfd that wakes an idle vCPU thread.
    pub(crate) fn wake_descriptor(&self) -> rustix::io::Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.wake, 0)
    }

    // ---- the handle's side

    pub(crate) fn tid(&self) -> i32 {
        self.tid.load(Ordering::Acquire)
    }

    /// Bring the vCPU thread out of KVM_RUN or epoll, to look at its inbox.
    fn kick(&self) {
        if self.kicked.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = rustix::io::write(self.wake.as_fd(), &1_u64.to_ne_bytes());
        // Under the lock: the thread cannot end, and its id not be given to another, between the look and the signal.
        let lifecycle = lock(&self.lifecycle);
        if let Some(tid) = lifecycle.thread {
            thread::kick(tid);
        }
    }

    pub(crate) fn request(&self, request: Request) -> Result<(), RequestError> {
        {
            let mut inbox = lock(&self.inbox);
            if inbox.closed {
                return Err(RequestError::Ended);
            }
            if inbox.requests.len() >= REQUESTS_MAX {
                return Err(RequestError::Busy { waiting: inbox.requests.len() });
            }
            if let Request::Exec { token, .. } = request
                && (token == 0 || !inbox.tokens.insert(token))
            {
                return Err(RequestError::TokenTaken { token });
            }
            inbox.requests.push_back(request);
        }
        self.kick();
        Ok(())
    }

    pub(crate) fn stop(&self) {
        {
            // Under the lock, so that a paused thread cannot look at the flag just before and sleep just after.
            let _state = lock(&self.lifecycle);
            self.stop.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        self.kick();
    }

    /// Ask for a pause or its end; a pause is waited for, unless the vCPU thread itself asks.
    pub(crate) fn set_paused(&self, paused: bool) {
        lock(&self.lifecycle).pause_wanted = paused;
        self.changed.notify_all();
        self.kick();
        if paused && thread::current_tid() != self.tid() {
            let waiting =
                |state: &mut Lifecycle| state.pause_wanted && !state.paused && state.result.is_none();
            let state = lock(&self.lifecycle);
            drop(self.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn wait(&self) -> Result<WaitStatus, GuestError> {
        let state = lock(&self.lifecycle);
        let state = self
            .changed
            .wait_while(state, |state| state.result.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.result.clone().unwrap_or_else(|| Err(GuestError::Host { what: "no result".into() }))
    }

    pub(crate) fn result(&self) -> Option<Result<WaitStatus, GuestError>> {
        lock(&self.lifecycle).result.clone()
    }

    // ---- the vCPU thread's side

    pub(crate) fn thread_started(&self) {
        let tid = thread::current_tid();
        self.tid.store(tid, Ordering::Release);
        lock(&self.lifecycle).thread = Some(tid);
    }

    pub(crate) fn thread_ends(&self) {
        lock(&self.lifecycle).thread = None;
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Take at most so many requests. Kicks from now on signal again.
    pub(crate) fn take_requests(&self, most: usize) -> Vec<Request> {
        self.kicked.store(false, Ordering::SeqCst);
        let mut inbox = lock(&self.inbox);
        let count = inbox.requests.len().min(most);
        inbox.requests.drain(..count).collect()
    }

    /// The process with this token is gone. Returns whether it was known.
    pub(crate) fn forget_token(&self, token: u32) -> bool {
        lock(&self.inbox).tokens.remove(&token)
    }

    /// Stand still while a pause is wanted.
    pub(crate) fn wait_while_paused(&self) {
        let mut state = lock(&self.lifecycle);
        if !state.pause_wanted {
            return;
        }
        state.paused = true;
        self.changed.notify_all();
        while state.pause_wanted && !self.stopping() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.paused = false;
    }

    /// No further requests are taken. Returns those that nobody served, and the tokens of processes that still lived.
    pub(crate) fn close(&self) -> (Vec<Request>, Vec<u32>) {
        let mut inbox = lock(&self.inbox);
        inbox.closed = true;
        let mut tokens: Vec<_> = inbox.tokens.drain().collect();
        tokens.sort_unstable();
        (inbox.requests.drain(..).collect(), tokens)
    }

    pub(crate) fn finish(&self, result: Result<WaitStatus, GuestError>) {
        lock(&self.lifecycle).result = Some(result);
        self.changed.notify_all();
    }
}
