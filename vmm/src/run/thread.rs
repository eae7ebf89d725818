//! The vCPU thread's signals, its timer and its CPU clock.
//!
//! One real-time signal, [`kick_signal`], makes KVM_RUN return: its handler sets `immediate_exit` of the vCPU that the
//! interrupted thread drives, so that a kick that arrives just before KVM_RUN is not lost (KVM API, 5,
//! "immediate_exit"). The vCPU thread blocks every other signal: they are for the process' other threads, and a
//! SIGPIPE that stays blocked is an EPIPE.
//!
//! Unsafe because signal handlers, POSIX timers and per-thread clocks are C interfaces.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::OnceLock;
use std::time::Duration;

thread_local! {
    /// Where the kick handler writes 1: `immediate_exit` of this thread's vCPU, or null. Constant-initialised and
    /// without a destructor, so that a signal handler may use it.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(std::ptr::null_mut()) };
}

/// The signal that kicks a vCPU thread.
pub(crate) fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

extern "C" fn on_kick(_signal: libc::c_int) {
    let target = IMMEDIATE_EXIT.get();
    if !target.is_null() {
        // SAFETY: set by this thread to its vCPU's `kvm_run`, which outlives `Kickable`; only this thread and the
        // kernel, when this thread is in KVM_RUN, look at it.
        unsafe { target.write_volatile(1) };
    }
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Install the handler, once per process.
pub(crate) fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: sigaction is a C structure of integers and a handler, for which zero is valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int) = on_kick;
        action.sa_sigaction = handler as libc::sighandler_t;
        // No SA_RESTART: a kick ends whatever wait the thread is in.
        // SAFETY: `action` is complete; the handler only does what a signal handler may.
        let returned = unsafe { libc::sigaction(kick_signal(), &raw const action, std::ptr::null_mut()) };
        check(returned).map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    });
    installed.map_err(io::Error::from_raw_os_error)
}

fn signal_set(fill: unsafe extern "C" fn(*mut libc::sigset_t) -> libc::c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset and sigfillset initialise the set that they are given.
    unsafe { fill(set.as_mut_ptr()) };
    // SAFETY: initialised by the call above, which cannot fail for a valid pointer.
    unsafe { set.assume_init() }
}

/// All signals but SIGSYS, which tells a confined thread that it made a call it may not make: where that one is blocked, the kernel ends the process.
fn all_signals() -> libc::sigset_t {
    let mut set = signal_set(libc::sigfillset);
    // SAFETY: a valid set and a valid signal number.
    unsafe { libc::sigdelset(&raw mut set, libc::SIGSYS) };
    set
}

fn set_mask(how: libc::c_int, set: &libc::sigset_t) -> libc::sigset_t {
    let mut old = signal_set(libc::sigemptyset);
    // SAFETY: both sets are valid; a signal mask affects this thread only.
    unsafe { libc::pthread_sigmask(how, set, &raw mut old) };
    old
}

/// Blocks all signals while it lives: a thread started meanwhile begins with all of them blocked.
pub(crate) struct AllBlocked {
    old: libc::sigset_t,
    /// The mask belongs to the thread that made this.
    _here: PhantomData<*const ()>,
}

impl AllBlocked {
    pub(crate) fn new() -> Self {
        Self { old: set_mask(libc::SIG_SETMASK, &all_signals()), _here: PhantomData }
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        set_mask(libc::SIG_SETMASK, &self.old);
    }
}

/// While it lives, kicks of this thread reach the vCPU that it was made for.
pub(crate) struct Kickable {
    _here: PhantomData<*const ()>,
}

impl Kickable {
    /// # Safety
    /// `immediate_exit` points at the flag of a vCPU that outlives the returned value, and that only this thread
    /// drives.
    pub(crate) unsafe fn new(immediate_exit: *mut u8) -> Self {
        IMMEDIATE_EXIT.set(immediate_exit);
        let mut set = signal_set(libc::sigemptyset);
        // SAFETY: a valid set and a valid signal number.
        unsafe { libc::sigaddset(&raw mut set, kick_signal()) };
        set_mask(libc::SIG_UNBLOCK, &set);
        Self { _here: PhantomData }
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        set_mask(libc::SIG_SETMASK, &all_signals());
        IMMEDIATE_EXIT.set(std::ptr::null_mut());
    }
}

/// Kernel thread id of this thread.
pub(crate) fn current_tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Send the kick signal to thread `tid` of this process. That it has ended meanwhile is not an error.
pub(crate) fn kick(tid: i32) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: no memory is involved; a thread that does not exist gives ESRCH.
    unsafe { libc::tgkill(process, tid, kick_signal()) };
}

/// Wake-ups of this thread from timed waits come within a microsecond, not within the default 50.
pub(crate) fn sharpen_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes a number of nanoseconds and concerns this thread only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
}

/// CPU time of thread `tid` of this process, or `None` when it has ended.
pub(crate) fn cpu_time(tid: i32) -> Option<Duration> {
    // How the kernel encodes the CPU clock of a thread (include/linux/posix-timers_types.h): id inverted,
    // CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED.
    let clock = (!tid << 3) | 6;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for the call to write.
    let returned = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (returned == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// A one-shot timer that kicks the thread that made it.
pub(crate) struct Timer {
    id: libc::timer_t,
}

impl Timer {
    /// A timer for the calling thread on CLOCK_MONOTONIC, not running.
    pub(crate) fn new() -> io::Result<Self> {
        Self::on(libc::CLOCK_MONOTONIC)
    }

    /// The same on the thread's own CPU time.
    pub(crate) fn of_cpu_time() -> io::Result<Self> {
        Self::on(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    fn on(clock: libc::clockid_t) -> io::Result<Self> {
        // SAFETY: sigevent is a C structure of integers, for which zero is valid.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = kick_signal();
        event.sigev_notify_thread_id = current_tid();
        let mut id = std::ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        check(unsafe { libc::timer_create(clock, &raw mut event, &raw mut id) })?;
        Ok(Self { id })
    }

    /// Kick at `deadline_ns` of the timer's clock (at once if that has passed).
    pub(crate) fn arm(&self, deadline_ns: u64) {
        let at = deadline_ns.clamp(1, i64::MAX as u64);
        let value =
            libc::timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        let spec =
            libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: the timer exists while `self` does; the new value is valid, the old one is not asked for.
        unsafe { libc::timer_settime(self.id, libc::TIMER_ABSTIME, &raw const spec, std::ptr::null_mut()) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by `new` and deleted only here.
        unsafe { libc::timer_delete(self.id) };
    }
}
