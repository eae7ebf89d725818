//! The SEUSS library OS.
//!
//! A unikernel kernel as a library: address spaces, processes and threads, file systems and the Linux x86-64 system calls.
//! It runs at CPL 3 in the guest, on one vCPU, and never preempts itself, so it has no locks: state lives in one
//! [`kernel::Kernel`] and in `Rc`s. The few privileged operations are behind [`machine::Machine`]; with a stand-in for it, everything here runs
//! under `cargo test` on the host.
//!
//! **System calls that wait.** There is one kernel stack, not one per thread. A call that cannot finish registers its
//! thread with a [`wait::WaitQueue`] and returns [`errno::Stop::Wait`]; when the queue wakes, the call runs again from its start, with
//! what it must remember (deadlines, bytes done) in the thread's `Progress`. So a waiting thread is plain data, which is what a snapshot wants.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod erofs;
pub mod errno;
pub mod exec;
pub mod fs;
pub mod kernel;
pub mod machine;
pub mod mem;
pub mod net;
pub mod random;
pub mod syscall;
pub mod task;
pub mod uplink;
pub mod wait;
