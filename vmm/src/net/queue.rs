//! The consumer's end of the submission ring.
//!
//! Owns [`SubmissionRing`]: it keeps its own tail; the head comes from the guest and is checked at every look. Each entry is copied once.

use std::mem::offset_of;

use seuss_abi::comm::SUBMISSIONS_OFFSET;
use seuss_abi::layout::COMM_GPA;
use seuss_abi::net::{SUBMISSION_ENTRIES, Submission, Submissions};

use super::NetError;
use crate::memory::{Gpa, Window};

const BASE: u64 = COMM_GPA + SUBMISSIONS_OFFSET;
const HEAD: Gpa = Gpa(BASE + offset_of!(Submissions, head) as u64);
const TAIL: Gpa = Gpa(BASE + offset_of!(Submissions, tail) as u64);
const ENTRIES: Gpa = Gpa(BASE + offset_of!(Submissions, entries) as u64);

/// The VMM's side of the ring.
#[derive(Debug, Default)]
pub(super) struct SubmissionRing {
    tail: u32,
}

impl SubmissionRing {
    /// Entries that wait.
    pub(super) fn filled(&self, comm: &Window) -> Result<u32, NetError> {
        let head: u32 = comm.load(HEAD).unwrap_or(self.tail);
        let filled = head.wrapping_sub(self.tail);
        if filled as usize > SUBMISSION_ENTRIES {
            return Err(NetError::BadHead { head, tail: self.tail });
        }
        Ok(filled)
    }

    /// The next entry. Only for entries that [`Self::filled`] counted.
    pub(super) fn take(&mut self, comm: &Window) -> Submission {
        let index = self.tail as usize % SUBMISSION_ENTRIES;
        self.tail = self.tail.wrapping_add(1);
        comm.load(ENTRIES.plus((index * size_of::<Submission>()) as u64)).unwrap_or_default()
    }

    /// Tell the guest what was consumed.
    pub(super) fn publish(&self, comm: &Window) {
        comm.store(TAIL, self.tail);
    }
}

#[cfg(test)]
mod tests {
    use seuss_abi::layout::COMM_SIZE;

    use super::*;

    #[test]
    fn entries_come_in_order_and_a_scribbled_head_is_refused() {
        let comm = Window::anonymous(Gpa(COMM_GPA), COMM_SIZE, false).expect("memory");
        let mut ring = SubmissionRing { tail: 0xffff_fffe };
        for (at, handle) in [(510_u64, 7_u32), (511, 8), (0, 9)] {
            comm.store(ENTRIES.plus(at * 32 + 4), handle).expect("inside");
        }
        comm.store(HEAD, 1_u32).expect("inside");
        assert_eq!(ring.filled(&comm), Ok(3));
        let handles: Vec<_> = (0..3).map(|_| ring.take(&comm).handle).collect();
        assert_eq!(handles, [7, 8, 9]);
        ring.publish(&comm);
        assert_eq!(comm.load::<u32>(TAIL), Some(1));
        assert_eq!(ring.filled(&comm), Ok(0));
        for head in [0_u32, 514, 0x8000_0000] {
            comm.store(HEAD, head).expect("inside");
            assert_eq!(ring.filled(&comm), Err(NetError::BadHead { head, tail: 1 }));
        }
    }
}
