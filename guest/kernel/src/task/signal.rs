//! Signals as data: sets, actions, pending signals, siginfo, and the frame on the application's stack (signal(7), sigaction(2)).

use super::thread::{Context, ExtendedState, Registers};
use crate::errno::{Errno, Result};
use crate::mem::space::{Space, is_application};
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::layout::{USER_CS, USER_DS};

macro_rules! signals {
    ($($name:ident = $value:literal,)*) => { $(#[allow(missing_docs)] pub const $name: u32 = $value;)* };
}
signals! {
    SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGKILL = 9, SIGUSR1 = 10,
    SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15, SIGSTKFLT = 16, SIGCHLD = 17, SIGCONT = 18,
    SIGSTOP = 19, SIGTSTP = 20, SIGTTIN = 21, SIGTTOU = 22, SIGURG = 23, SIGXCPU = 24, SIGXFSZ = 25, SIGVTALRM = 26,
    SIGPROF = 27, SIGWINCH = 28, SIGIO = 29, SIGPWR = 30, SIGSYS = 31,
}
/// First real-time signal.
pub const SIGRTMIN: u32 = 32;
/// Highest signal number.
pub const SIGNAL_MAX: u32 = 64;
/// Most queued real-time signals of one process or thread (RLIMIT_SIGPENDING).
const QUEUE_MAX: usize = 4096;

/// A set of signals: bit `n - 1` is signal `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// The set of one signal.
    #[must_use]
    pub fn of(signo: u32) -> Self {
        if (1..=SIGNAL_MAX).contains(&signo) { Self(1 << (signo - 1)) } else { Self(0) }
    }

    /// Whether `signo` is in the set.
    #[must_use]
    pub fn contains(self, signo: u32) -> bool {
        self.0 & Self::of(signo).0 != 0
    }

    /// The set without SIGKILL and SIGSTOP, which cannot be blocked.
    #[must_use]
    pub fn blockable(self) -> Self {
        Self(self.0 & !(Self::of(SIGKILL).0 | Self::of(SIGSTOP).0))
    }
}

/// siginfo_t, as far as the kernel fills it in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalInfo {
    /// Signal number.
    pub signo: u32,
    /// si_code: SI_USER 0, SI_KERNEL 0x80, SI_TKILL -6, SI_QUEUE -1, ...
    pub code: i32,
    /// The union, from byte 16 of siginfo_t on: pid and uid, an address, ...
    pub fields: [u64; 4],
}

impl SignalInfo {
    /// si_code of kill(2).
    pub const USER: i32 = 0;
    /// si_code of signals that the kernel makes.
    pub const KERNEL: i32 = 0x80;
    /// si_code of a POSIX timer.
    pub const TIMER: i32 = -2;
    /// si_code of tgkill(2).
    pub const TKILL: i32 = -6;

    /// Sent by a process.
    #[must_use]
    pub fn from_process(signo: u32, code: i32, pid: u32, uid: u32) -> Self {
        Self { signo, code, fields: [u64::from(pid) | u64::from(uid) << 32, 0, 0, 0] }
    }

    /// Made by the kernel without further facts.
    #[must_use]
    pub fn from_kernel(signo: u32) -> Self {
        Self { signo, code: Self::KERNEL, fields: [0; 4] }
    }

    /// A fault at `address`.
    #[must_use]
    pub fn fault(signo: u32, code: i32, address: u64) -> Self {
        Self { signo, code, fields: [address, 0, 0, 0] }
    }

    /// A child changed: `status` as si_status, `code` CLD_*.
    #[must_use]
    pub fn child(code: i32, pid: u32, uid: u32, status: u32, cpu_ticks: u64) -> Self {
        Self {
            signo: SIGCHLD,
            code,
            fields: [u64::from(pid) | u64::from(uid) << 32, u64::from(status), cpu_ticks, 0],
        }
    }

    /// siginfo_t in memory, 128 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[0..4].copy_from_slice(&self.signo.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        for (index, field) in self.fields.iter().enumerate() {
            bytes[16 + index * 8..24 + index * 8].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Read a siginfo_t that an application made (rt_sigqueueinfo(2)).
    #[must_use]
    pub fn decode(signo: u32, bytes: &[u8; 128]) -> Self {
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        Self { signo, code: (word(8) as u32).cast_signed(), fields: [word(16), word(24), word(32), word(40)] }
    }
}

/// What happens when a signal is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// End the process.
    Terminate,
    /// End the process; a shell says "core dumped".
    Core,
    /// Nothing.
    Ignore,
    /// Stop the process.
    Stop,
    /// Continue it.
    Continue,
}

/// The default action of a signal (signal(7)).
#[must_use]
pub fn default_action(signo: u32) -> Default {
    match signo {
        SIGCHLD | SIGURG | SIGWINCH => Default::Ignore,
        SIGCONT => Default::Continue,
        SIGSTOP | SIGTSTP | SIGTTIN | SIGTTOU => Default::Stop,
        SIGQUIT | SIGILL | SIGTRAP | SIGABRT | SIGBUS | SIGFPE | SIGSEGV | SIGXCPU | SIGXFSZ | SIGSYS => {
            Default::Core
        }
        _ => Default::Terminate,
    }
}

/// struct sigaction of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// SIG_DFL, SIG_IGN or the handler's address.
    pub handler: u64,
    /// SA_* flags.
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Signals blocked while the handler runs.
    pub mask: SignalSet,
}

/// SIG_DFL.
pub const SIG_DFL: u64 = 0;
/// SIG_IGN.
pub const SIG_IGN: u64 = 1;
/// No zombie, no stop reports.
pub const SA_NOCLDSTOP: u64 = 1;
/// Children are reaped by themselves.
pub const SA_NOCLDWAIT: u64 = 2;
/// Use the alternate stack.
pub const SA_ONSTACK: u64 = 0x0800_0000;
/// Restart interrupted system calls.
pub const SA_RESTART: u64 = 0x1000_0000;
/// Do not block the signal in its handler.
pub const SA_NODEFER: u64 = 0x4000_0000;
/// Back to the default once delivered.
pub const SA_RESETHAND: u64 = 0x8000_0000;

/// The actions of a process.
#[derive(Clone, Debug)]
pub struct Actions([Action; SIGNAL_MAX as usize]);

impl core::default::Default for Actions {
    fn default() -> Self {
        Self([Action::default(); SIGNAL_MAX as usize])
    }
}

impl Actions {
    /// The action of `signo` (1..=64).
    #[must_use]
    pub fn get(&self, signo: u32) -> Action {
        self.0.get((signo as usize).wrapping_sub(1)).copied().unwrap_or_default()
    }

    /// Set the action of `signo`.
    pub fn set(&mut self, signo: u32, action: Action) {
        if let Some(slot) = self.0.get_mut((signo as usize).wrapping_sub(1)) {
            *slot = action;
        }
    }

    /// Whether delivering `signo` would do nothing.
    #[must_use]
    pub fn ignores(&self, signo: u32) -> bool {
        let action = self.get(signo);
        action.handler == SIG_IGN || (action.handler == SIG_DFL && default_action(signo) == Default::Ignore)
    }

    /// What execve(2) leaves: handlers become SIG_DFL, ignored signals stay ignored.
    pub fn reset_handlers(&mut self) {
        for action in &mut self.0 {
            let kept = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
            *action = Action { handler: kept, ..Action::default() };
        }
    }
}

/// Signals that were sent and not yet delivered, in order of sending.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    queue: Vec<SignalInfo>,
}

impl Pending {
    /// The pending signals as a set.
    #[must_use]
    pub fn set(&self) -> SignalSet {
        SignalSet(self.queue.iter().fold(0, |set, info| set | SignalSet::of(info.signo).0))
    }

    /// Add a signal. A standard signal that is pending already is not added again; real-time signals queue up to a limit.
    ///
    /// # Errors
    /// EAGAIN when the queue is full.
    pub fn push(&mut self, info: SignalInfo) -> Result {
        if info.signo < SIGRTMIN && self.set().contains(info.signo) {
            return Ok(());
        }
        if self.queue.len() >= QUEUE_MAX {
            return Err(Errno::EAGAIN);
        }
        self.queue.push(info);
        Ok(())
    }

    /// Timer `id` has expired `count` more times while its signal is pending: returns the overrun that the signal now carries, `None` if it is not pending.
    pub fn add_overrun(&mut self, signo: u32, id: u32, count: u32) -> Option<u32> {
        let is_timer = |info: &&mut SignalInfo| {
            info.signo == signo && info.code == SignalInfo::TIMER && info.fields[0] as u32 == id
        };
        let info = self.queue.iter_mut().find(is_timer)?;
        let overrun = ((info.fields[0] >> 32) as u32).saturating_add(count).min(i32::MAX as u32);
        info.fields[0] = u64::from(id) | u64::from(overrun) << 32;
        Some(overrun)
    }

    /// Take the pending signal with the lowest number out of `allowed`; synchronous faults come first.
    pub fn take(&mut self, allowed: SignalSet) -> Option<SignalInfo> {
        let rank = |info: &SignalInfo| {
            let synchronous = matches!(info.signo, SIGSEGV | SIGBUS | SIGILL | SIGTRAP | SIGFPE | SIGSYS);
            (!synchronous, info.signo)
        };
        let candidates = self.queue.iter().enumerate().filter(|(_, info)| allowed.contains(info.signo));
        let (at, _) = candidates.min_by_key(|(at, info)| (rank(info), *at))?;
        Some(self.queue.remove(at))
    }

    /// Drop the pending signals in `set` (a SIGCONT drops stops, and the other way round).
    pub fn discard(&mut self, set: SignalSet) {
        self.queue.retain(|info| !set.contains(info.signo));
    }
}

/// Bytes of struct rt_sigframe up to the floating-point state: pretcode, ucontext, siginfo.
const FRAME_BYTES: usize = 8 + 304 + 128;
const UCONTEXT: usize = 8;
const MCONTEXT: usize = UCONTEXT + 40;
const SIGMASK: usize = MCONTEXT + 256;
const SIGINFO: usize = UCONTEXT + 304;
/// fpstate pointer within struct sigcontext.
const FPSTATE: usize = MCONTEXT + 184;
/// UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS.
const UC_FLAGS: u64 = 7;
/// FP_XSTATE_MAGIC1 and FP_XSTATE_MAGIC2 (asm/sigcontext.h).
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
/// Where struct _fpx_sw_bytes lies in the FXSAVE image.
const SW_BYTES: usize = 464;
/// Flags that sigreturn may change: CF PF AF ZF SF TF DF OF NT RF AC ID.
const USER_FLAGS: u64 = 0x0025_4dd5;

/// What a frame is built from.
pub struct Delivery<'a> {
    /// The signal.
    pub info: SignalInfo,
    /// Its action.
    pub action: Action,
    /// The mask that the handler's return restores.
    pub mask: SignalSet,
    /// The alternate stack: base, length, flags as stored in uc_stack; and whether to switch to it.
    pub alt_stack: (u64, u64, u32),
    /// Switch to the alternate stack.
    pub use_alt_stack: bool,
    /// Trap number, error code and CR2 of the fault, if it was one.
    pub fault: (u64, u64, u64),
    /// XCR0.
    pub xcr0: u64,
    /// The extended state to save.
    pub extended: &'a ExtendedState,
}

/// Build the frame of a handler (arch/x86/include/asm/sigframe.h) and point `context` at the handler.
///
/// # Errors
/// EFAULT if the stack cannot take it: the process gets SIGSEGV.
pub fn push_frame(space: &mut Space, context: &mut Context, delivery: &Delivery<'_>) -> Result {
    let registers = context.registers;
    let top = if delivery.use_alt_stack {
        delivery.alt_stack.0.wrapping_add(delivery.alt_stack.1)
    } else {
        registers.rsp.wrapping_sub(128)
    };
    let state = delivery.extended.bytes();
    let fpstate = top.wrapping_sub(state.len() as u64 + 4) & !63;
    let frame = (fpstate.wrapping_sub(FRAME_BYTES as u64) & !15).wrapping_sub(8);
    if delivery.use_alt_stack && frame < delivery.alt_stack.0 {
        return Err(Errno::EFAULT);
    }

    let mut bytes = vec![0u8; FRAME_BYTES];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, delivery.action.restorer);
    put(UCONTEXT, UC_FLAGS);
    put(UCONTEXT + 16, delivery.alt_stack.0);
    put(UCONTEXT + 24, u64::from(delivery.alt_stack.2));
    put(UCONTEXT + 32, delivery.alt_stack.1);
    for (index, value) in sigcontext(&registers).into_iter().enumerate() {
        put(MCONTEXT + index * 8, value);
    }
    put(MCONTEXT + 144, u64::from(USER_CS) | u64::from(USER_DS) << 48);
    put(MCONTEXT + 152, delivery.fault.1);
    put(MCONTEXT + 160, delivery.fault.0);
    put(MCONTEXT + 168, delivery.mask.0);
    put(MCONTEXT + 176, delivery.fault.2);
    put(FPSTATE, fpstate);
    put(SIGMASK, delivery.mask.0);
    bytes[SIGINFO..SIGINFO + 128].copy_from_slice(&delivery.info.encode());

    let mut image = Vec::with_capacity(state.len() + 4);
    image.extend_from_slice(state);
    let software = [u64::from(MAGIC1) | (state.len() as u64 + 4) << 32, delivery.xcr0, state.len() as u64];
    for (index, word) in software.iter().enumerate() {
        image[SW_BYTES + index * 8..SW_BYTES + 8 + index * 8].copy_from_slice(&word.to_le_bytes());
    }
    image.extend_from_slice(&MAGIC2.to_le_bytes());
    space.write(fpstate, &image)?;
    space.write(frame, &bytes)?;

    context.exact = 1;
    context.registers = Registers {
        rip: delivery.action.handler,
        rsp: frame,
        rdi: u64::from(delivery.info.signo),
        rsi: frame + SIGINFO as u64,
        rdx: frame + UCONTEXT as u64,
        rax: 0,
        rflags: registers.rflags & !0x400 & !0x100,
        ..registers
    };
    Ok(())
}

/// The registers in the order of struct sigcontext, r8 to flags.
fn sigcontext(registers: &Registers) -> [u64; 18] {
    let r = registers;
    [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
        r.rcx, r.rsp, r.rip, r.rflags,
    ]
}

/// What [`pop_frame`] brings back besides the registers.
pub struct Popped {
    /// The signal mask.
    pub mask: SignalSet,
    /// The extended state, sanitized.
    pub extended: ExtendedState,
    /// uc_stack: base, length, flags.
    pub alt_stack: (u64, u64, u32),
}

/// Undo [`push_frame`]: rt_sigreturn(2). `context.registers.rsp` is that of the system call.
///
/// # Errors
/// EFAULT: the frame cannot be read, or asks for an address outside the application.
pub fn pop_frame(
    space: &mut Space,
    context: &mut Context,
    template: &ExtendedState,
    xcr0: u64,
) -> Result<Popped> {
    let frame = context.registers.rsp.wrapping_sub(8);
    let mut bytes = vec![0u8; FRAME_BYTES];
    space.read(frame, &mut bytes)?;
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let register = |index: usize| word(MCONTEXT + index * 8);

    let mut extended = ExtendedState::new(template.bytes().len() as u64);
    let fpstate = word(FPSTATE);
    if fpstate != 0 {
        let mut state = vec![0u8; template.bytes().len()];
        // A frame with the legacy 512 bytes only carries no magic number.
        let full =
            space.read(fpstate, &mut state).is_ok() && state[SW_BYTES..SW_BYTES + 4] == MAGIC1.to_le_bytes();
        if !full {
            space.read(fpstate, &mut state[..512])?;
            state[512..].fill(0);
            state[512] = 3;
        }
        extended.bytes_mut().copy_from_slice(&state);
        extended.sanitize(xcr0);
    }
    let rip = register(16);
    if !is_application(rip) {
        return Err(Errno::EFAULT);
    }
    context.exact = 1;
    context.registers = Registers {
        r8: register(0),
        r9: register(1),
        r10: register(2),
        r11: register(3),
        r12: register(4),
        r13: register(5),
        r14: register(6),
        r15: register(7),
        rdi: register(8),
        rsi: register(9),
        rbp: register(10),
        rbx: register(11),
        rdx: register(12),
        rax: register(13),
        rcx: register(14),
        rsp: register(15),
        rip,
        rflags: (context.registers.rflags & !USER_FLAGS) | (register(17) & USER_FLAGS),
        ..context.registers
    };
    Ok(Popped {
        mask: SignalSet(word(SIGMASK)).blockable(),
        extended,
        alt_stack: (word(UCONTEXT + 16), word(UCONTEXT + 32), word(UCONTEXT + 24) as u32),
    })
}
