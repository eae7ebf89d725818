//! The system-call table: number, name, handler and how much of the call is there. SYSCALLS.md is generated from it.

use super::call::Call;
use crate::errno::SysResult;

/// Serves one system call.
pub type Handler = fn(&mut Call<'_>) -> SysResult;

/// How much of a system call is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// All that the manual page says of x86-64.
    Full,
    /// What is missing.
    Partial(&'static str),
}

/// One system call.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Number (asm/unistd_64.h).
    pub number: u16,
    /// Name.
    pub name: &'static str,
    /// Who serves it.
    pub handler: Handler,
    /// How much of it is there.
    pub support: Support,
}

/// A call that is there in full.
#[must_use]
pub const fn full(number: u16, name: &'static str, handler: Handler) -> Entry {
    Entry { number, name, handler, support: Support::Full }
}

/// A call of which something is missing.
#[must_use]
pub const fn partial(number: u16, name: &'static str, handler: Handler, missing: &'static str) -> Entry {
    Entry { number, name, handler, support: Support::Partial(missing) }
}

/// One past the highest number.
const NUMBERS: usize = 512;

/// All families.
pub const FAMILIES: &[&[Entry]] = &[
    super::task::TABLE,
    super::schedule::TABLE,
    super::identity::TABLE,
    super::exec::TABLE,
    super::fs::descriptor::TABLE,
    super::fs::epoll::TABLE,
    super::fs::event::TABLE,
    super::fs::io::TABLE,
    super::fs::lock::TABLE,
    super::fs::open::TABLE,
    super::fs::poll::TABLE,
    super::fs::signalfd::TABLE,
    super::fs::stat::TABLE,
    super::fs::transfer::TABLE,
    super::fs::tree::TABLE,
    super::fs::xattr::TABLE,
    super::futex::TABLE,
    super::memory::TABLE,
    super::net::create::TABLE,
    super::net::name::TABLE,
    super::net::option::TABLE,
    super::net::transfer::TABLE,
    super::pidfd::TABLE,
    super::signal::TABLE,
    super::time::TABLE,
    super::timer::TABLE,
    super::system::TABLE,
];

static HANDLERS: [Option<Handler>; NUMBERS] = by_number();

const fn by_number() -> [Option<Handler>; NUMBERS] {
    let mut handlers = [None; NUMBERS];
    let mut family = 0;
    while family < FAMILIES.len() {
        let entries = FAMILIES[family];
        let mut at = 0;
        while at < entries.len() {
            let entry = &entries[at];
            assert!(handlers[entry.number as usize].is_none(), "two handlers for one system call");
            handlers[entry.number as usize] = Some(entry.handler);
            at += 1;
        }
        family += 1;
    }
    handlers
}

/// The handler of system call `number`.
#[must_use]
pub fn handler(number: u64) -> Option<Handler> {
    HANDLERS.get(usize::try_from(number).ok()?).copied().flatten()
}
