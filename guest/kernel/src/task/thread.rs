//! A thread: registers, signal mask, and what it waits for.

use super::detour::Detour;
use super::process::Process;
use super::signal::{Pending, SignalSet};
use crate::kernel::timers::{Base, TimerKey};
use crate::wait::Tid;
use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::{Cell, RefCell, UnsafeCell};

/// Registers of a thread as the entry code saves and restores them. The order is known to the assembly of guest/image.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Result and number of a system call.
    pub rax: u64,
    /// Callee-saved.
    pub rbx: u64,
    /// Clobbered by SYSCALL.
    pub rcx: u64,
    /// Third argument.
    pub rdx: u64,
    /// Second argument.
    pub rsi: u64,
    /// First argument.
    pub rdi: u64,
    /// Frame pointer.
    pub rbp: u64,
    /// Fifth argument.
    pub r8: u64,
    /// Sixth argument.
    pub r9: u64,
    /// Fourth argument.
    pub r10: u64,
    /// Clobbered by SYSCALL.
    pub r11: u64,
    /// Callee-saved.
    pub r12: u64,
    /// Callee-saved.
    pub r13: u64,
    /// Callee-saved.
    pub r14: u64,
    /// Callee-saved.
    pub r15: u64,
    /// Next instruction. From here on the order is that of an IRET frame.
    pub rip: u64,
    /// Code selector.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u64,
}

/// What the entry code keeps of a thread. `xmm` holds XMM0-15 from entry to return, since the library OS uses those registers; the rest of the
/// extended state stays in the CPU until another thread runs.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub struct Context {
    /// General registers.
    pub registers: Registers,
    /// 1: all registers must be restored exactly (trap, preemption, signal); 0: a system call, whose return clobbers rcx and r11.
    pub exact: u64,
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
    /// Padding to the alignment of `xmm`.
    pub reserved: u64,
    /// XMM0-15.
    pub xmm: [u128; 16],
}

impl Default for Context {
    fn default() -> Self {
        Self {
            registers: Registers {
                cs: u64::from(seuss_abi::layout::USER_CS),
                ss: u64::from(seuss_abi::layout::USER_DS),
                rflags: seuss_abi::layout::RFLAGS | 0x200,
                ..Registers::default()
            },
            exact: 1,
            fs_base: 0,
            gs_base: 0,
            reserved: 0,
            xmm: [0; 16],
        }
    }
}

/// An XSAVE area in standard format (SDM vol. 1, 13.4), 64-byte aligned.
pub struct ExtendedState {
    pointer: *mut u8,
    layout: Layout,
}

impl ExtendedState {
    /// MXCSR after reset.
    const MXCSR: u32 = 0x1f80;
    /// x87 control word after FNINIT.
    const FCW: u16 = 0x37f;

    /// The state of a new program. `bytes` as CPUID leaf 0xd says for XCR0.
    ///
    /// # Panics
    /// If `bytes` overflows: the VMM passed nonsense at boot.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let layout = Layout::from_size_align((bytes as usize).max(576), 64).expect("XSAVE area size");
        // SAFETY: the layout is not empty.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() {
            handle_alloc_error(layout);
        }
        let mut state = Self { pointer, layout };
        let bytes = state.bytes_mut();
        bytes[0..2].copy_from_slice(&Self::FCW.to_le_bytes());
        bytes[24..28].copy_from_slice(&Self::MXCSR.to_le_bytes());
        state.sanitize(0);
        state
    }

    /// The whole area.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation has that size and lives as long as self; XSAVE writes it only between calls.
        unsafe { core::slice::from_raw_parts(self.pointer, self.layout.size()) }
    }

    /// The whole area, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and self is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.pointer, self.layout.size()) }
    }

    /// Where XSAVE and XRSTOR work.
    #[must_use]
    pub fn pointer(&self) -> *mut u8 {
        self.pointer
    }

    /// Make bytes that came from the application safe for XRSTOR (SDM vol. 1, 13.8.1): no component outside `xcr0`, standard format, no reserved MXCSR
    /// or header bit.
    pub fn sanitize(&mut self, xcr0: u64) {
        let bytes = self.bytes_mut();
        let mxcsr = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]) & 0xffff;
        bytes[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        let mut present = [0; 8];
        present.copy_from_slice(&bytes[512..520]);
        let present = u64::from_le_bytes(present) & xcr0;
        bytes[512..576].fill(0);
        bytes[512..520].copy_from_slice(&present.to_le_bytes());
    }
}

impl Clone for ExtendedState {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.layout.size() as u64);
        copy.bytes_mut().copy_from_slice(self.bytes());
        copy
    }
}

impl Drop for ExtendedState {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.pointer, self.layout) }
    }
}

/// Whether a thread can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Runs, or is in the run queue.
    Runnable,
    /// Its system call waits.
    Waiting,
    /// Gone; the object lives only as long as somebody holds it.
    Dead,
}

/// The thread whose system call is being served, for files whose content depends on who looks (signalfd(2)).
pub type Calling = Rc<RefCell<Option<Rc<Thread>>>>;

/// What a system call must remember when it runs again.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// When the call times out (CLOCK_MONOTONIC).
    pub deadline_ns: Option<u64>,
    /// What the deadline follows when clocks jump.
    pub deadline_base: Base,
    /// Bytes moved before the call had to wait.
    pub bytes: u64,
    /// The call has waited at least once.
    pub started: bool,
    /// What the call waited for has happened (futex, sigtimedwait).
    pub woken: bool,
    /// A value of the call's own: a child's pid, a signal number.
    pub value: u64,
    /// A signal interrupts the call: return what there is, or wait again and fail with EINTR.
    pub interrupted: bool,
}

/// A system call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// System-call number.
    pub number: u64,
    /// Whether a signal always interrupts it.
    pub no_restart: bool,
}

/// sigaltstack(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// Size in bytes, 0 = disabled.
    pub len: u64,
    /// SS_AUTODISARM or nothing.
    pub flags: u32,
}

/// Scheduling parameters as sched_setscheduler(2) sets them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// SCHED_*.
    pub number: u32,
    /// Real-time priority, 0 for the other policies.
    pub priority: u32,
    /// SCHED_RESET_ON_FORK: children get no real-time policy, and not this flag.
    pub reset_on_fork: bool,
}

impl Policy {
    /// What a new thread or process starts with.
    #[must_use]
    pub fn inherited(self) -> Self {
        match self {
            Self { reset_on_fork: false, .. } => self,
            Self { priority: 1.., .. } => Self::default(),
            Self { number, .. } => Self { number, ..Self::default() },
        }
    }
}

/// A thread.
pub struct Thread {
    /// Thread id.
    pub tid: Tid,
    /// The process it belongs to.
    pub process: Rc<Process>,
    /// Registers; written by the entry code while the thread is current.
    context: UnsafeCell<Context>,
    /// Extended state while another thread's is in the CPU.
    pub extended: RefCell<ExtendedState>,
    /// Whether it can run.
    pub state: Cell<State>,
    /// What the current system call remembers.
    pub progress: RefCell<Progress>,
    /// The system call that waits.
    pub waiting: Cell<Option<Waiting>>,
    /// Blocked signals.
    pub mask: Cell<SignalSet>,
    /// The mask to go back to when the current call (sigsuspend, ppoll, ...) returns.
    pub saved_mask: Cell<Option<SignalSet>>,
    /// Signals sent to this thread.
    pub pending: RefCell<Pending>,
    /// Alternate signal stack.
    pub alt_stack: Cell<AltStack>,
    /// CLONE_CHILD_CLEARTID, set_tid_address(2).
    pub clear_child_tid: Cell<u64>,
    /// get_robust_list(2).
    pub robust_list: Cell<u64>,
    /// Name (PR_SET_NAME).
    pub comm: RefCell<[u8; 16]>,
    /// Scheduling parameters.
    pub policy: Cell<Policy>,
    /// CPU time used, in nanoseconds.
    pub cpu_ns: Cell<u64>,
    /// The armed deadline of the waiting call.
    pub timer: Cell<Option<TimerKey>>,
    /// Trap number, error code and address of the last fault, for the signal frame.
    pub last_fault: Cell<(u64, u64, u64)>,
    /// What it was about, while it makes calls for the library OS.
    pub detour: RefCell<Option<Box<Detour>>>,
}

impl Thread {
    /// A runnable thread.
    #[must_use]
    pub fn new(tid: Tid, process: Rc<Process>, context: Context, extended: ExtendedState) -> Self {
        Self {
            tid,
            process,
            context: UnsafeCell::new(context),
            extended: RefCell::new(extended),
            state: Cell::new(State::Runnable),
            progress: RefCell::default(),
            waiting: Cell::new(None),
            mask: Cell::default(),
            saved_mask: Cell::new(None),
            pending: RefCell::default(),
            alt_stack: Cell::default(),
            clear_child_tid: Cell::new(0),
            robust_list: Cell::new(0),
            comm: RefCell::default(),
            policy: Cell::default(),
            cpu_ns: Cell::new(0),
            timer: Cell::new(None),
            last_fault: Cell::default(),
            detour: RefCell::default(),
        }
    }

    /// Where the entry code saves the registers.
    #[must_use]
    pub fn context_pointer(&self) -> *mut Context {
        self.context.get()
    }

    /// A copy of the context.
    #[must_use]
    pub fn context(&self) -> Context {
        // SAFETY: the entry code writes the context only while the application runs, never while Rust code does.
        unsafe { (*self.context.get()).clone() }
    }

    /// A copy of the registers.
    #[must_use]
    pub fn registers(&self) -> Registers {
        // SAFETY: as for `context`.
        unsafe { (*self.context.get()).registers }
    }

    /// Change the context.
    pub fn with_context<R>(&self, change: impl FnOnce(&mut Context) -> R) -> R {
        // SAFETY: as for `context`; `change` cannot reach the cell again, since it gets no thread.
        change(unsafe { &mut *self.context.get() })
    }

    /// Replace the mask until the current system call returns (sigsuspend, ppoll, pselect, epoll_pwait).
    pub fn set_temporary_mask(&self, mask: SignalSet) {
        if self.saved_mask.get().is_none() {
            self.saved_mask.set(Some(self.mask.get()));
        }
        self.mask.set(mask.blockable());
    }

    /// Set the name, cut to 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; 16];
        let len = name.len().min(15);
        comm[..len].copy_from_slice(&name[..len]);
        *self.comm.borrow_mut() = comm;
    }

    /// The name without padding.
    #[must_use]
    pub fn comm_bytes(&self) -> Vec<u8> {
        self.comm.borrow().iter().copied().take_while(|byte| *byte != 0).collect()
    }
}
