//! Virtual machines made ahead for clones of one snapshot.
//!
//! Making a virtual machine with its memory slots is most of what a restore costs in KVM, and nothing in it depends on the clone: a pool makes them on a
//! thread of its own and copies the snapshot's pages into them; a restore tells the clone who it is, and enters. A shell in the pool costs what KVM keeps for a virtual
//! machine and its slots, and the pages.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seuss_snapshotter::snapshot::Level;

use crate::ahead::AheadError;
use crate::confine::{self, Granted, Reach, Role};
use crate::error::StartError;
use crate::helpers;
use crate::hypervisor::Hypervisor;
use crate::memory::{Gpa, Memory};
use crate::net::{NetEquipment, NetPrivileges};
use crate::run::thread;
use crate::seat::Seat;
use crate::shell::{Machine, Shell};
use crate::snapshot::Origin;
use crate::snapshot::restore::{self, Filled};
use crate::stats::StartTimings;
use crate::text::TextBudget;

/// A machine that is ready but for what its clone is told, and the TSC's frequency that KVM told.
pub(crate) struct Prepared {
    pub(crate) machine: Machine,
    pub(crate) tsc_khz: Option<u32>,
    /// How its private window was filled, if it was.
    pub(crate) filled: Option<Filled>,
    /// Whether it was entered, and waits in [`seuss_abi::call::Op::Hold`]: the VMM must not change its page tables any more.
    pub(crate) held: bool,
    /// The thread that will drive it, if one was made.
    pub(crate) seat: Option<Seat>,
    /// How long making it ahead of time took, and of that entering it.
    pub(crate) ahead: [Duration; 2],
}

/// Make the virtual machine of a clone: everything but pages.
pub(crate) fn prepare(origin: &Origin, timings: &mut StartTimings) -> Result<Prepared, StartError> {
    let manifest = origin.manifest();
    let started = Instant::now();
    // All of the application is still to come.
    let grows = manifest.level == Level::Base;
    let memory =
        Memory::of_clone(manifest.private_bytes, grows, origin.images.clone(), Arc::clone(origin.layers()))?;
    timings.memory_map = started.elapsed();
    let shell = Shell::new(Hypervisor::shared()?, timings)?;
    let tsc_khz = shell.tsc_khz();
    let machine = shell.fill(memory, Gpa(manifest.pml4_gpa), timings)?;
    Ok(Prepared { machine, tsc_khz, filled: None, held: false, seat: None, ahead: [Duration::ZERO; 2] })
}

/// So long after one was taken the next one is not begun, unless somebody waits for it: KVM_CREATE_VM holds the process' memory map for a millisecond, in which the clone that
/// was just taken could neither start its thread nor touch a page.
const REST: Duration = Duration::from_millis(5);

#[derive(Default)]
struct State {
    ready: VecDeque<Prepared>,
    failed: Option<StartError>,
    ends: bool,
    /// When the last one was taken, unless none was there.
    taken: Option<Instant>,
    /// Who waits for one.
    waiting: usize,
    /// The thread that enters a clone now.
    entering: Option<i32>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Virtual machines for clones of one snapshot. Dropping it ends its thread and gives everything back.
pub struct ShellPool {
    origin: Arc<Origin>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for ShellPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShellPool").field("ready", &self.shared.lock().ready.len()).finish()
    }
}

impl ShellPool {
    /// Keep `size` virtual machines ready for clones of `origin`. Returns at once; [`Self::wait`] waits for the first ones.
    ///
    /// # Errors
    /// [`StartError::Host`]: no thread.
    pub fn new(origin: Arc<Origin>, size: usize) -> Result<Arc<Self>, StartError> {
        Self::start(origin, size, true, NetPrivileges::of_this_process())
    }

    fn start(
        origin: Arc<Origin>,
        size: usize,
        refill: bool,
        privileges: NetPrivileges,
    ) -> Result<Arc<Self>, StartError> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let (of_thread, source) = (Arc::clone(&shared), Arc::clone(&origin));
        // What a confined thread could not do any more.
        let host = |operation| {
            move |error: std::io::Error| StartError::Host {
                operation,
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            }
        };
        helpers::start().map_err(host("start the thread that helps guests"))?;
        thread::install_handler().map_err(host("install the kick signal's handler"))?;
        // Signals are for the process' other threads.
        let blocked = thread::AllBlocked::new();
        let text = TextBudget::of_this_thread();
        let thread = std::thread::Builder::new()
            .name("seuss-pool".into())
            .spawn(move || {
                let _text = text.as_ref().map(TextBudget::enter);
                fill(&of_thread, &source, size, refill, privileges);
            })
            .map_err(host("start the pool's thread"))?;
        drop(blocked);
        Ok(Arc::new(Self { origin, shared, thread: Some(thread) }))
    }

    /// Make one virtual machine ahead, for a clone with these privileges in the calling thread's network namespace, and no other when it is taken.
    ///
    /// # Errors
    /// [`StartError::Host`]: no thread.
    pub fn one(origin: Arc<Origin>, privileges: NetPrivileges) -> Result<Arc<Self>, StartError> {
        Self::start(origin, 1, false, privileges)
    }

    /// Wait until a virtual machine is ready.
    ///
    /// # Errors
    /// [`StartError`]: none can be made. The next call tries again.
    pub fn wait(&self) -> Result<(), StartError> {
        let mut state = self.shared.lock();
        state.waiting += 1;
        self.shared.changed.notify_all();
        let empty = |state: &mut State| state.ready.is_empty() && state.failed.is_none() && !state.ends;
        let mut state = self.shared.changed.wait_while(state, empty).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        let failed = state.failed.take();
        self.shared.changed.notify_all();
        match failed {
            Some(error) if state.ready.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Take a virtual machine, if one is ready.
    pub(crate) fn take(&self) -> Option<Prepared> {
        let mut state = self.shared.lock();
        let taken = state.ready.pop_front();
        state.taken = taken.is_some().then(Instant::now);
        drop(state);
        self.shared.changed.notify_all();
        taken
    }
}

impl Drop for ShellPool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ends = true;
        if let Some(tid) = state.entering {
            thread::kick(tid);
        }
        drop(state);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let left = std::mem::take(&mut self.shared.lock().ready);
        left.iter()
            .filter_map(|prepared| prepared.filled)
            .for_each(|filled| restore::unfill(filled, &self.origin));
    }
}

/// The pool's thread: fills it, and keeps it full if it is to be refilled. A failure is kept until somebody has seen it.
fn fill(shared: &Arc<Shared>, origin: &Origin, size: usize, refill: bool, privileges: NetPrivileges) {
    // Its children are to make sockets for the owner, too: they get the saved user id.
    let settled = NetEquipment::new(privileges).map_err(|errno| StartError::Host {
        operation: "make sockets for the container's user",
        errno: errno.raw_os_error(),
    });
    let confined = settled.and_then(|_| {
        let reach = Reach::Read(&[Path::new("/proc")]);
        confine::enter(Role::Pool, Granted::from(privileges), reach).map_err(StartError::from)
    });
    if let Err(error) = confined {
        shared.lock().failed = Some(error);
        shared.changed.notify_all();
        return;
    }
    // One that is wanted at once is not entered ahead: what earlier clones used is more than what the first answer needs.
    let mut may_hold = refill;
    let mut made = 0;
    loop {
        if made >= size && !refill {
            return;
        }
        let state = shared.lock();
        let idle = |state: &mut State| !state.ends && (state.ready.len() >= size || state.failed.is_some());
        let state = shared.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let rests = |state: &State| REST.checked_sub(state.taken?.elapsed()).filter(|_| state.waiting == 0);
        let mut state = state;
        while let Some(left) = rests(&state).filter(|_| !state.ends) {
            let waited = shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.ends {
            return;
        }
        drop(state);
        let prepared = make(shared, origin, &mut may_hold, privileges);
        confine::told_violation(Role::Pool);
        let mut state = shared.lock();
        match prepared {
            Ok(prepared) => {
                made += usize::from(prepared.is_some());
                state.ready.extend(prepared);
            }
            Err(error) => {
                tracing::warn!(%error, snapshot = %origin.id(), "no virtual machine can be made ahead");
                state.failed = Some(error);
            }
        }
        drop(state);
        shared.changed.notify_all();
    }
}

/// Make one; none if the pool ends meanwhile. If it cannot be entered ahead of time, the next ones are not, either: a snapshot whose guest does not hold is a slow one,
/// and not an error.
fn make(
    shared: &Arc<Shared>,
    origin: &Origin,
    may_hold: &mut bool,
    privileges: NetPrivileges,
) -> Result<Option<Prepared>, StartError> {
    let began = Instant::now();
    let seat = Seat::new(privileges)?;
    let prepared = prepare(origin, &mut StartTimings::default())?;
    let filled = Some(restore::fill(&prepared.machine.memory, origin)?);
    if !*may_hold || !filled.is_some_and(|filled| restore::may_hold(filled, origin)) {
        let ahead = [began.elapsed(), Duration::ZERO];
        return Ok(Some(Prepared { filled, ahead, seat: Some(seat), ..prepared }));
    }
    let entering = Instant::now();
    restore::tell_to_hold(&prepared.machine.memory, origin)?;
    let pool = Arc::clone(shared);
    shared.lock().entering = seat.tid();
    let entered = seat.enter_ahead(prepared.machine, move || pool.lock().ends);
    shared.lock().entering = None;
    match entered {
        Ok(machine) => {
            let ahead = [began.elapsed(), entering.elapsed()];
            Ok(Some(Prepared { machine, filled, held: true, ahead, seat: Some(seat), ..prepared }))
        }
        Err(AheadError::Cancelled) => Ok(None),
        Err(error) => {
            tracing::warn!(%error, snapshot = %origin.id(), "a clone cannot be entered ahead of time");
            *may_hold = false;
            make(shared, origin, may_hold, privileges)
        }
    }
}
