//! What happens when a confined thread makes a call that its role does not allow.
//!
//! The filter makes a SIGSYS of it (SECCOMP_RET_TRAP, seccomp(2)), whose handler notes the call in the thread, and lets it fail with EPERM: nothing was done. Whoever
//! runs the thread looks at the note ([`violation`]), and ends what the thread was doing. A thread that has SIGSYS blocked, as none of ours has, is killed with the
//! process by the kernel.
//!
//! Unsafe because a signal handler reads what the kernel gives it, and changes the registers that the call returns to.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

thread_local! {
    /// The first call that was not allowed, plus one; 0: none. Constant-initialised and without a destructor, so that a signal handler may use it.
    static FIRST: Cell<i64> = const { Cell::new(0) };
}

/// `si_code` of a SIGSYS that a filter raised (asm-generic/siginfo.h).
const SYS_SECCOMP: libc::c_int = 1;

/// The head of siginfo_t, as far as a SIGSYS has it (sigaction(2)).
#[repr(C)]
struct Sigsys {
    signo: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    _pad: libc::c_int,
    address: *const libc::c_void,
    number: libc::c_int,
    arch: libc::c_uint,
}

const _: () = assert!(size_of::<Sigsys>() <= size_of::<libc::siginfo_t>());

extern "C" fn on_sigsys(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a siginfo_t, which begins with these fields for this signal.
    let info = unsafe { info.cast::<Sigsys>().read() };
    if info.code != SYS_SECCOMP {
        // Somebody's kill(2): a shim has no use for it.
        return;
    }
    if FIRST.get() == 0 {
        FIRST.set(i64::from(info.number) + 1);
    }
    // SAFETY: the third argument of a handler with SA_SIGINFO is the interrupted thread's ucontext_t.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // The call was not made; this is what it returns.
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = i64::from(-libc::EPERM);
}

/// Install the handler, once per process, and let the signal through on the calling thread.
pub(super) fn install() -> std::io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let last = || std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: sigaction is a C structure of integers and a handler, for which zero is valid.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigsys;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: `action` is complete; the handler only does what a signal handler may.
        let returned = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
        if returned == 0 { Ok(()) } else { Err(last()) }
    });
    installed.map_err(std::io::Error::from_raw_os_error)?;
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: a valid set and a valid signal number.
    unsafe { libc::sigaddset(set.as_mut_ptr(), libc::SIGSYS) };
    // SAFETY: a valid set; a signal mask affects this thread only.
    let returned = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut()) };
    if returned == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(returned)) }
}

/// The first call of the calling thread that its role does not allow, by number. It was not made.
#[must_use]
pub fn violation() -> Option<i64> {
    FIRST.get().checked_sub(1).filter(|number| *number >= 0)
}
