//! The life of a task's process: created, running, stopped, deleted.
//!
//! Owns [`Lifecycle`], the one place that says which request is allowed in which state. Pure: no I/O, no clock, no locks; `container.rs`
//! asks it first and acts afterwards. The same machine serves a container's first process and its execs.
//!
//! ```text
//! Created --begin_start--> Starting --started--> Running <--pause/resume--> Paused
//!    |                        |                     |                         |
//!    | exited (killed first)  | start_failed        | exited                  | exited
//!    +------------------------+----> Stopped <------+-------------------------+
//! Created, Stopped --delete--> Deleted
//! ```

use std::time::SystemTime;

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 plus the signal.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Prepared, not started.
    Created,
    /// Between a start request and its outcome.
    Starting,
    /// Running.
    Running,
    /// Running, but held.
    Paused,
    /// Ended; what is left is its exit status.
    Stopped(Exit),
    /// Gone.
    Deleted,
}

impl State {
    /// The word for it in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped(_) => "stopped",
            Self::Deleted => "deleted",
        }
    }
}

/// A request that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The process has already ended. containerd takes this ("not found") as success when it kills.
    #[error("process already finished")]
    Finished,
    /// The process was deleted.
    #[error("process was deleted")]
    Deleted,
    /// The state does not allow it.
    #[error("cannot {request} a process that is {state}")]
    State {
        /// The request.
        request: &'static str,
        /// The state.
        state: &'static str,
    },
}

/// What to do for a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillEffect {
    /// Deliver it to the process.
    Deliver,
    /// The process was never started: a signal that ends a process by default ends it, others are lost.
    EndUnstarted,
}

/// The state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    state: State,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { state: State::Created }
    }
}

impl Lifecycle {
    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        match self.state {
            State::Stopped(exit) => Some(exit),
            _ => None,
        }
    }

    /// Whether the process exists in a guest now.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(self.state, State::Running | State::Paused)
    }

    fn refuse(&self, request: &'static str) -> Refused {
        match self.state {
            State::Deleted => Refused::Deleted,
            state => Refused::State { request, state: state.name() },
        }
    }

    /// A start was asked for.
    ///
    /// # Errors
    /// Anything but `Created`.
    pub fn begin_start(&mut self) -> Result<(), Refused> {
        match self.state {
            State::Created => {
                self.state = State::Starting;
                Ok(())
            }
            _ => Err(self.refuse("start")),
        }
    }

    /// The start has succeeded. Does nothing unless a start was under way.
    pub fn started(&mut self) {
        if self.state == State::Starting {
            self.state = State::Running;
        }
    }

    /// The start has failed; the process counts as ended with `exit`. Does nothing unless a start was under way.
    pub fn start_failed(&mut self, exit: Exit) {
        if self.state == State::Starting {
            self.state = State::Stopped(exit);
        }
    }

    /// The process has ended. False if that was known already, or makes no sense: then nobody must be told (again).
    pub fn exited(&mut self, exit: Exit) -> bool {
        match self.state {
            State::Created | State::Starting | State::Running | State::Paused => {
                self.state = State::Stopped(exit);
                true
            }
            State::Stopped(_) | State::Deleted => false,
        }
    }

    /// A pause was asked for.
    ///
    /// # Errors
    /// Anything but `Running`.
    pub fn pause(&mut self) -> Result<(), Refused> {
        match self.state {
            State::Running => {
                self.state = State::Paused;
                Ok(())
            }
            _ => Err(self.refuse("pause")),
        }
    }

    /// The end of a pause was asked for.
    ///
    /// # Errors
    /// Anything but `Paused`.
    pub fn resume(&mut self) -> Result<(), Refused> {
        match self.state {
            State::Paused => {
                self.state = State::Running;
                Ok(())
            }
            _ => Err(self.refuse("resume")),
        }
    }

    /// Whether an exec may be added to (or started in) this process' container.
    ///
    /// # Errors
    /// Anything but `Running`.
    pub fn can_exec(&self) -> Result<(), Refused> {
        match self.state {
            State::Running => Ok(()),
            _ => Err(self.refuse("exec in")),
        }
    }

    /// A signal was asked for.
    ///
    /// # Errors
    /// [`Refused::Finished`] after the end, [`Refused::Deleted`] after deletion.
    pub fn kill(&self) -> Result<KillEffect, Refused> {
        match self.state {
            State::Created => Ok(KillEffect::EndUnstarted),
            State::Starting | State::Running | State::Paused => Ok(KillEffect::Deliver),
            State::Stopped(_) => Err(Refused::Finished),
            State::Deleted => Err(Refused::Deleted),
        }
    }

    /// Deletion was asked for. Returns how the process ended, `None` if it was never started.
    ///
    /// # Errors
    /// While it runs or is being started; when it is deleted already.
    pub fn delete(&mut self) -> Result<Option<Exit>, Refused> {
        let exit = match self.state {
            State::Created => None,
            State::Stopped(exit) => Some(exit),
            _ => return Err(self.refuse("delete")),
        };
        self.state = State::Deleted;
        Ok(exit)
    }
}

/// Whether signal `signo` ends a process that has no handler for it (signal(7), "Standard signals").
#[must_use]
pub fn ends_by_default(signo: u32) -> bool {
    use libc::{SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH};
    let ignored_or_stopping = [SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH];
    signo != 0 && !ignored_or_stopping.contains(&(signo as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(status: u32) -> Exit {
        Exit { status, at: SystemTime::UNIX_EPOCH }
    }

    fn in_state(state: State) -> Lifecycle {
        Lifecycle { state }
    }

    const ALL: [State; 6] = [
        State::Created,
        State::Starting,
        State::Running,
        State::Paused,
        State::Stopped(Exit { status: 3, at: SystemTime::UNIX_EPOCH }),
        State::Deleted,
    ];

    #[test]
    fn a_whole_life() {
        let mut life = Lifecycle::default();
        assert_eq!(life.begin_start(), Ok(()));
        life.started();
        assert_eq!(life.pause(), Ok(()));
        assert_eq!(life.resume(), Ok(()));
        assert!(life.exited(exit(7)));
        assert!(!life.exited(exit(9)), "an exit is told once");
        assert_eq!(life.exit(), Some(exit(7)));
        assert_eq!(life.delete(), Ok(Some(exit(7))));
        assert_eq!(life.delete(), Err(Refused::Deleted));
    }

    #[test]
    fn only_what_was_created_starts() {
        for state in ALL {
            let mut life = in_state(state);
            assert_eq!(life.begin_start().is_ok(), state == State::Created, "{state:?}");
        }
    }

    #[test]
    fn a_failed_start_leaves_something_to_delete() {
        let mut life = Lifecycle::default();
        life.begin_start().unwrap();
        life.start_failed(exit(127));
        assert_eq!(life.delete(), Ok(Some(exit(127))));
    }

    #[test]
    fn what_runs_cannot_be_deleted() {
        for state in [State::Starting, State::Running, State::Paused] {
            assert!(matches!(in_state(state).delete(), Err(Refused::State { .. })), "{state:?}");
        }
        assert_eq!(in_state(State::Created).delete(), Ok(None));
    }

    #[test]
    fn killing_what_has_ended_is_not_found() {
        assert_eq!(in_state(State::Stopped(exit(0))).kill(), Err(Refused::Finished));
        assert_eq!(in_state(State::Deleted).kill(), Err(Refused::Deleted));
        assert_eq!(in_state(State::Created).kill(), Ok(KillEffect::EndUnstarted));
        assert_eq!(in_state(State::Paused).kill(), Ok(KillEffect::Deliver));
    }

    #[test]
    fn pause_resume_and_exec_need_the_right_state() {
        for state in ALL {
            assert_eq!(in_state(state).pause().is_ok(), state == State::Running);
            assert_eq!(in_state(state).resume().is_ok(), state == State::Paused);
            assert_eq!(in_state(state).can_exec().is_ok(), state == State::Running);
        }
    }

    #[test]
    fn late_news_changes_nothing() {
        let mut life = in_state(State::Stopped(exit(1)));
        life.started();
        life.start_failed(exit(2));
        assert_eq!(life.exit(), Some(exit(1)));
    }

    #[test]
    fn signals_that_end() {
        for signo in [1, 2, 3, 9, 10, 15, 34] {
            assert!(ends_by_default(signo), "{signo}");
        }
        for signo in [0, 17, 18, 19, 20, 28] {
            assert!(!ends_by_default(signo), "{signo}");
        }
    }
}
