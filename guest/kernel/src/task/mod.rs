//! Processes, threads, signals and their life: fork, exec, exit, wait.

pub mod credentials;
pub mod detour;
pub mod futex;
pub mod process;
pub mod signal;
pub mod thread;
