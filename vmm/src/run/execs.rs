//! Processes that the shim asks for: one description at a time goes through the mailbox.

use std::collections::{HashMap, VecDeque};

use seuss_abi::spec::ProcessSpec;

use crate::handles::{Channels, NO_HANDLE};

/// A request that waits for the mailbox.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) token: u32,
    pub(super) spec: Box<ProcessSpec>,
    pub(super) stdio: rustix::io::Result<Channels>,
}

/// A request that the guest has been told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Posted {
    pub(super) token: u32,
    pub(super) stdio: [u32; 3],
}

#[derive(Debug, PartialEq, Eq)]
enum Mailbox {
    /// Holds the first process' description, which the guest has not answered for.
    FirstProcess,
    Free,
    /// Holds the description of a process that the guest has not answered for.
    Taken(Posted),
}

/// The mailbox, who waits for it, and whose stdin is which handle.
#[derive(Debug)]
pub(super) struct Execs {
    waiting: VecDeque<Waiting>,
    mailbox: Mailbox,
    stdin: HashMap<u32, u32>,
}

impl Execs {
    /// The first process' description is in the mailbox, its stdin is `stdin`.
    pub(super) fn new(stdin: u32) -> Self {
        Self { waiting: VecDeque::new(), mailbox: Mailbox::FirstProcess, stdin: HashMap::from([(0, stdin)]) }
    }

    pub(super) fn ask(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// The guest answers for the first process. Returns whether it had not done so yet.
    pub(super) fn first_answered(&mut self) -> bool {
        let first = self.mailbox == Mailbox::FirstProcess;
        if first {
            self.mailbox = Mailbox::Free;
        }
        first
    }

    /// The next request that the mailbox is free for.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        if self.mailbox == Mailbox::Free { self.waiting.pop_front() } else { None }
    }

    /// The mailbox now holds the description of `posted`.
    pub(super) fn posted(&mut self, posted: Posted) {
        self.stdin.insert(posted.token, posted.stdio[0]);
        self.mailbox = Mailbox::Taken(posted);
    }

    /// The guest answers for `token`: gives the request back if it is the one in the mailbox.
    pub(super) fn answered(&mut self, token: u64) -> Option<Posted> {
        match self.mailbox {
            Mailbox::Taken(posted) if u64::from(posted.token) == token => {
                self.mailbox = Mailbox::Free;
                Some(posted)
            }
            _ => None,
        }
    }

    /// The process is gone.
    pub(super) fn ended(&mut self, token: u32) {
        self.stdin.remove(&token);
    }

    /// The handle of a process' stdin, if it has one.
    pub(super) fn stdin(&self, token: u32) -> Option<u32> {
        self.stdin.get(&token).copied().filter(|&handle| handle != NO_HANDLE)
    }

    /// Everything that the guest never answered for: waiting and in the mailbox.
    pub(super) fn unanswered(&self) -> Vec<u32> {
        let taken = match self.mailbox {
            Mailbox::Taken(posted) => Some(posted.token),
            _ => None,
        };
        taken.into_iter().chain(self.waiting.iter().map(|waiting| waiting.token)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(execs: &mut Execs, token: u32) {
        execs.ask(Waiting { token, spec: Box::default(), stdio: Channels::of(crate::Stdio::default()) });
    }

    #[test]
    fn one_description_at_a_time() {
        let mut execs = Execs::new(0);
        ask(&mut execs, 7);
        ask(&mut execs, 8);
        assert!(execs.next().is_none(), "the first process' description may be unread");
        assert!(execs.first_answered());
        assert_eq!(execs.next().map(|waiting| waiting.token), Some(7));
        execs.posted(Posted { token: 7, stdio: [3, 4, 5] });
        assert!(!execs.first_answered(), "answered twice");
        assert!(execs.next().is_none(), "7 has not been answered");
        assert_eq!(execs.unanswered(), [7, 8]);
        assert_eq!(execs.answered(8), None);
        assert_eq!(execs.answered(7).map(|posted| posted.stdio), Some([3, 4, 5]));
        assert_eq!(execs.answered(7), None, "answered twice");
        assert_eq!(execs.next().map(|waiting| waiting.token), Some(8));
        assert_eq!((execs.stdin(0), execs.stdin(7)), (Some(0), Some(3)));
        execs.ended(7);
        assert_eq!(execs.stdin(7), None);
    }
}
