//! Calls into a program that the library OS makes in a clone (`crate::kernel::renew`): what is to be called, and what the thread that makes them was about.

use super::signal::SignalSet;
use super::thread::{Context, ExtendedState, Progress, Waiting};
use crate::kernel::timers::TimerKey;
use crate::wait::Tid;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// Kinds of calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Functions of libraries.
    pub native: bool,
    /// The interpreter.
    pub python: bool,
}

impl Kinds {
    /// Whether there is any.
    #[must_use]
    pub fn any(self) -> bool {
        self.native || self.python
    }
}

/// A function and its first three arguments.
pub type Function = [u64; 4];

/// The functions of the interpreter that the vDSO's `__seuss_renew` calls, in its order.
pub type Interpreter = [u64; 11];

/// What is called in a process of a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Functions of libraries, one after the other.
    pub native: Vec<Function>,
    /// CPython.
    pub python: Option<Interpreter>,
}

impl Plan {
    /// The kinds of calls in it.
    #[must_use]
    pub fn kinds(&self) -> Kinds {
        Kinds { native: !self.native.is_empty(), python: self.python.is_some() }
    }

    /// The part that is of these kinds.
    #[must_use]
    pub fn only(&self, kinds: Kinds) -> Self {
        Self {
            native: if kinds.native { self.native.clone() } else { Vec::new() },
            python: self.python.filter(|_| kinds.python),
        }
    }
}

/// What a process knows of its calls.
#[derive(Debug, Default)]
pub struct Renewal {
    /// What clones of the last snapshot call.
    pub plan: RefCell<Plan>,
    /// What no thread could call yet: the first one that waits where it may does.
    pub due: Cell<Kinds>,
    /// The thread that is calling; the others of its process stand still.
    pub turn: Cell<Option<Tid>>,
    /// Those of them that could run.
    pub held: RefCell<Vec<Tid>>,
    /// What was prepared for clones, if it was: generators made, text compiled.
    pub prepared: RefCell<Option<Plan>>,
    /// The interpreter's code object for what clones run, 0 if there is none.
    pub code: Cell<u64>,
}

impl Renewal {
    /// What a child begins with that has a copy of the process' memory.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { code: self.code.clone(), prepared: self.prepared.clone(), ..Self::default() }
    }

    /// The process becomes another program.
    pub fn exec(&self) {
        self.code.set(0);
        *self.prepared.borrow_mut() = None;
    }

    /// Whether thread `tid` must not run now.
    #[must_use]
    pub fn holds(&self, tid: Tid) -> bool {
        self.turn.get().is_some_and(|turn| turn != tid)
    }
}

/// What a thread was about when it was made to call.
pub struct Detour {
    /// Registers.
    pub context: Context,
    /// Extended state.
    pub extended: ExtendedState,
    /// Blocked signals.
    pub mask: SignalSet,
    /// The mask to go back to when its system call returns.
    pub saved_mask: Option<SignalSet>,
    /// What its system call remembers.
    pub progress: Progress,
    /// The system call that waits.
    pub waiting: Option<Waiting>,
    /// It prepares a snapshot.
    pub prepares: bool,
    /// When it is given up.
    pub limit: TimerKey,
}
