//! System calls: what a handler gets, the table, and the families of handlers.

pub mod call;
pub mod exec;
pub mod fs;
pub mod futex;
pub mod identity;
pub mod memory;
pub mod net;
pub mod pidfd;
pub mod schedule;
pub mod signal;
pub mod system;
pub mod table;
pub mod task;
pub mod time;
pub mod timer;
