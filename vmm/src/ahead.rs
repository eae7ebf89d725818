//! Entering a clone before it is wanted.
//!
//! The clone uses once what it will use and waits in [`Op::Hold`]: what KVM does at the first use of a page, 20 us and more where it pages by shadow tables, is done before somebody
//! waits for the clone. It is told nothing yet, so it is nobody's clone. The guest is hostile here as everywhere: it gets [`LIMIT`], and anything but the one
//! call ends the attempt.

use std::mem::offset_of;
use std::time::Duration;

use seuss_abi::call::{Op, Slot};
use seuss_abi::comm::SLOT_OFFSET;
use seuss_abi::layout::COMM_GPA;

use crate::memory::Gpa;
use crate::run::thread::{self, Timer};
use crate::shell::Machine;
use crate::vcpu::ExitReason;

/// So much CPU time a clone may take: some fifty times what it needs. Time that others have the CPU does not count.
const LIMIT: Duration = Duration::from_secs(1);

/// Why a clone is not held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AheadError {
    /// The host.
    #[error("no timer: {0}")]
    Timer(#[from] std::io::Error),
    /// It takes too long.
    #[error("it does not hold within {LIMIT:?} of CPU time")]
    TooLong,
    /// The thread that was to enter it.
    #[error("its thread cannot be used: {0}")]
    Confined(String),
    /// Nobody wants it any more.
    #[error("the pool ends")]
    Cancelled,
    /// It does something else.
    #[error("{0} instead of holding")]
    Exit(ExitReason),
    /// It makes another call.
    #[error("host call {0} instead of holding")]
    Call(u32),
}

/// Enter the clone in `machine`, which has been told to hold, on the calling thread, whose signals are all blocked afterwards. A kick makes it look at `cancelled`.
///
/// # Errors
/// [`AheadError`]; the machine is gone.
pub(crate) fn enter(machine: Machine, cancelled: impl Fn() -> bool) -> Result<Machine, AheadError> {
    thread::install_handler()?;
    let timer = Timer::of_cpu_time()?;
    let spent = || thread::cpu_time(thread::current_tid()).unwrap_or_default();
    let limit = spent() + LIMIT;
    let mut machine = machine.drive();
    timer.arm(limit.as_nanos() as u64);
    loop {
        // First the flag, then what it stands for: a kick from here on makes the next KVM_RUN return.
        machine.vcpu.clear_immediate_exit();
        if cancelled() {
            return Err(AheadError::Cancelled);
        }
        if spent() >= limit {
            return Err(AheadError::TooLong);
        }
        match machine.vcpu.run() {
            ExitReason::Doorbell => break,
            ExitReason::Kicked => {}
            ExitReason::Again => std::thread::yield_now(),
            other => return Err(AheadError::Exit(other)),
        }
    }
    let slot = Gpa(COMM_GPA + SLOT_OFFSET);
    let comm = machine.memory.comm();
    let op = comm.load::<Slot>(slot).unwrap_or_default().op;
    if op != Op::Hold as u32 {
        return Err(AheadError::Call(op));
    }
    comm.store(slot.plus(offset_of!(Slot, result) as u64), 0_i64);
    drop(timer);
    Ok(machine.park())
}
