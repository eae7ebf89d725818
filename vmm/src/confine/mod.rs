//! Confinement of the threads that hostile input reaches: what each may ask of the kernel, which privileges it goes without, what it may open.
//!
//! Owns [`enter`], which gives up for the calling thread, for good and for threads that it starts, everything that its [`Role`] has no use for: capabilities,
//! the right to gain any by execve(2), files (Landlock), system calls (a seccomp filter). What each role may call is data (`calls`), from which the table in
//! docs/security.md is rendered ([`table`]).
//!
//! Threads share their process' memory. Who takes a confined thread over can write what threads that are not confined will read: see docs/security.md, "What a thread cannot shed".

mod calls;
mod capabilities;
mod landlock;
mod table;
mod trap;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use calls::{REFUSED, Rule, groups};
pub use capabilities::Granted;
pub use landlock::Reach;
pub use table::table;
pub use trap::violation;

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Drives a guest.
    Vcpu,
    /// Makes virtual machines ahead, and the threads that will drive them.
    Pool,
    /// Starts threads on behalf of those that may not.
    Helpers,
    /// Writes one snapshot, or one working set, into a local store.
    Clerk,
    /// Sends what the connections of a guest that has ended had left.
    Linger,
    /// Keeps a container's connection to the node's store of memory snapshots.
    Session,
    /// Asks a program for a page before its snapshot is taken.
    WarmUp,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Vcpu, Self::Pool, Self::Helpers, Self::Clerk, Self::Linger, Self::Session, Self::WarmUp];

    /// Its name in messages and documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Pool => "pool",
            Self::Helpers => "helpers",
            Self::Clerk => "clerk",
            Self::Linger => "linger",
            Self::Session => "session",
            Self::WarmUp => "warm-up",
        }
    }
}

/// Why a thread is not confined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfineError {
    /// The kernel refused a step.
    #[error("cannot {operation}: {}", std::io::Error::from_raw_os_error(*errno))]
    Host {
        /// What was tried.
        operation: &'static str,
        /// errno.
        errno: i32,
    },
    /// Landlock.
    #[error("cannot restrict what the thread may open: {what}")]
    Landlock {
        /// Why.
        what: String,
    },
    /// The filter.
    #[error("cannot install the system-call filter of role {role}: {what}", role = .role.name())]
    Filter {
        /// Whose.
        role: Role,
        /// Why.
        what: String,
    },
}

/// Confine the calling thread, for good: it keeps the capabilities of `granted` that it has, opens what lies in `reach`, and calls what its role calls. Threads that it
/// starts are confined likewise.
///
/// # Errors
/// [`ConfineError`]: the thread is confined in part, and is not to be used.
pub fn enter(role: Role, granted: Granted, reach: Reach<'_>) -> Result<(), ConfineError> {
    let program = program(role)?;
    let host = |operation| {
        move |error: std::io::Error| ConfineError::Host {
            operation,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    };
    trap::install().map_err(host("install the handler of SIGSYS"))?;
    capabilities::keep_only(granted)?;
    rustix::thread::set_no_new_privs(true).map_err(|errno| host("give up new privileges")(errno.into()))?;
    landlock::restrict(reach).map_err(|what| ConfineError::Landlock { what })?;
    seccompiler::apply_filter(program).map_err(|error| ConfineError::Filter { role, what: error.to_string() })
}

/// The name of a system call that some role makes, or its number.
#[must_use]
pub fn call_name(number: i64) -> String {
    let known = Role::ALL.into_iter().flat_map(groups).flat_map(|group| *group);
    match known.into_iter().find(|call| call.number == number) {
        Some(call) => format!("{} ({number})", call.name),
        None => format!("number {number}"),
    }
}

/// Tell, in the log, of a call that the calling thread was not allowed to make; `None` if there was none.
pub fn told_violation(role: Role) -> Option<String> {
    let what = call_name(violation()?);
    tracing::error!(
        role = role.name(),
        call = what,
        "a confined thread made a system call that its role does not allow; it was not carried out"
    );
    Some(what)
}

/// The filter of `role`, compiled once per process.
fn program(role: Role) -> Result<&'static BpfProgram, ConfineError> {
    static PROGRAMS: [OnceLock<Result<BpfProgram, String>>; Role::ALL.len()] =
        [const { OnceLock::new() }; Role::ALL.len()];
    let compiled = PROGRAMS[role as usize].get_or_init(|| compile(role).map_err(|error| error.to_string()));
    compiled.as_ref().map_err(|what| ConfineError::Filter { role, what: what.clone() })
}

fn compile(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in groups(role).iter().flat_map(|group| *group) {
        let of_call = rules.entry(call.number).or_default();
        of_call.extend(rules_of(call.rule)?);
    }
    let refused = refused_of(role);
    let filter = SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, TargetArch::x86_64)?;
    let filter: BpfProgram = filter.try_into()?;
    // Jumps are relative: what comes before changes none of them.
    Ok(refused.into_iter().chain(filter).collect())
}

/// The part of the filter that answers with an error to what is refused without consequences.
fn refused_of(role: Role) -> BpfProgram {
    let allowed =
        |number: i64| groups(role).iter().flat_map(|group| *group).any(|call| call.number == number);
    let instruction = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    // The number of the call is the first word of seccomp_data.
    let mut program = vec![instruction((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0)];
    for (number, _, errno) in REFUSED.iter().filter(|(number, ..)| !allowed(*number)) {
        let (equal, answer) =
            ((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, (libc::BPF_RET | libc::BPF_K) as u16);
        program.push(instruction(equal, 1, *number as u32));
        program.push(instruction(answer, 0, libc::SECCOMP_RET_ERRNO | (*errno as u32)));
    }
    program
}

fn rules_of(rule: Rule) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let one = |arg, operator, value| {
        let condition = SeccompCondition::new(arg, SeccompCmpArgLen::Dword, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    match rule {
        Rule::Any => Ok(Vec::new()),
        Rule::OneOf { arg, values } => {
            values.iter().map(|(value, _)| one(arg, SeccompCmpOp::Eq, *value)).collect()
        }
        Rule::Without { arg, bits, .. } => Ok(vec![one(arg, SeccompCmpOp::MaskedEq(bits), 0)?]),
        Rule::With { arg, bits, .. } => Ok(vec![one(arg, SeccompCmpOp::MaskedEq(bits), bits)?]),
        Rule::Both { first, second, .. } => {
            let condition =
                |(arg, value)| SeccompCondition::new(arg, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
            Ok(vec![SeccompRule::new(vec![condition(first)?, condition(second)?])?])
        }
        Rule::OwnProcess { arg } => Ok(vec![one(arg, SeccompCmpOp::Eq, u64::from(std::process::id()))?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_conditional_and_not() {
        for role in Role::ALL {
            let mut plain = BTreeMap::new();
            for call in groups(role).iter().flat_map(|group| *group) {
                let is_plain = call.rule == Rule::Any;
                let known = *plain.entry(call.number).or_insert(is_plain);
                assert_eq!(
                    known, is_plain,
                    "{role:?} {}: in one group with a condition, in another without",
                    call.name
                );
            }
        }
    }

    #[test]
    fn roles_are_in_the_order_of_their_numbers() {
        assert!(Role::ALL.iter().enumerate().all(|(index, role)| *role as usize == index));
    }

    #[test]
    fn what_a_child_may_do_its_parent_may() {
        let may = |role: Role| -> std::collections::BTreeSet<(i64, String)> {
            let calls = groups(role).iter().flat_map(|group| *group);
            calls.map(|call| (call.number, format!("{:?}", call.rule))).collect()
        };
        for (parent, child) in
            [(Role::Pool, Role::Vcpu), (Role::Helpers, Role::Clerk), (Role::Helpers, Role::Linger)]
        {
            let missing: Vec<_> = may(child).difference(&may(parent)).cloned().collect();
            assert!(missing.is_empty(), "{parent:?} starts {child:?}, which wants more: {missing:?}");
        }
    }
}
