//! What becomes of a snapshot by its clones: one whose first clones die young is struck out.
//!
//! A program that was captured in the middle of something takes that with it into every clone. Nobody can tell from outside before clones run; so the first ones are watched.

use super::super::protocol::{Change, Refusal};
use super::{Shelf, ShelfError, State};
use crate::snapshot::SnapshotId;

/// So many clones that die young, before one has lived, strike their snapshot out.
const DEATHS_MAX: u32 = 2;
/// Most reasons for captures that were given up that are counted apart.
const REASONS_MAX: usize = 32;
/// Longest name of a reason in bytes.
const REASON_BYTES_MAX: usize = 32;

impl Shelf {
    /// A clone of `id` has lived for a while, or has died young.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn outcome(&self, tenant: &str, id: &str, lived: bool) -> Result<(), ShelfError> {
        let mut state = self.lock();
        let id = self.find_id(&mut state, tenant, id)?;
        let Some(item) = state.items.get_mut(&id) else { return Ok(()) };
        if item.note.lived {
            return Ok(());
        }
        if lived {
            item.note.lived = true;
        } else {
            item.note.died = item.note.died.saturating_add(1);
        }
        if item.note.died >= DEATHS_MAX {
            let reason = format!("its first {DEATHS_MAX} clones died young");
            tracing::warn!(snapshot = %id, tenant, reason, "snapshot struck out");
            state.struck_out += 1;
            return self.condemn(&mut state, id, &reason);
        }
        self.keep_note(&mut state, id)
    }

    /// A capture was given up, for this reason.
    ///
    /// # Errors
    /// [`Refusal::Invalid`]: the reason is no short word.
    pub fn given_up(&self, reason: &str) -> Result<(), ShelfError> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX || !reason.bytes().all(is_word) {
            let message = "a reason is a word of at most 32 lower-case letters and hyphens";
            return Err(ShelfError::new(Refusal::Invalid, message));
        }
        let mut state = self.lock();
        let known = state.given_up.contains_key(reason) || state.given_up.len() < REASONS_MAX;
        *state.given_up.entry(if known { reason } else { "other" }.to_owned()).or_default() += 1;
        Ok(())
    }

    /// How many captures were given up since the daemon started, by reason.
    #[must_use]
    pub fn captures_given_up(&self) -> Vec<(String, u64)> {
        self.lock().given_up.iter().map(|(reason, count)| (reason.clone(), *count)).collect()
    }

    /// How many snapshots were struck out since the daemon started.
    #[must_use]
    pub fn struck_out(&self) -> u64 {
        self.lock().struck_out
    }

    /// Nobody starts from `id`, nor from what builds on it, any more. They go when nobody leases them.
    pub(super) fn condemn(&self, state: &mut State, id: SnapshotId, reason: &str) -> Result<(), ShelfError> {
        let mut doomed = vec![id];
        let mut at = 0;
        while let Some(parent) = doomed.get(at).copied() {
            doomed.extend(state.children(parent));
            at += 1;
        }
        for id in doomed {
            if let Some(item) = state.items.get_mut(&id).filter(|item| item.note.unusable.is_empty()) {
                reason.clone_into(&mut item.note.unusable);
                self.keep_note(state, id)?;
            }
        }
        self.sweep(state);
        Ok(())
    }

    /// Removes what is unusable and nobody leases, children first.
    pub(super) fn sweep(&self, state: &mut State) {
        loop {
            let is_over = |(id, item): &(&SnapshotId, &super::Item)| {
                !item.note.unusable.is_empty()
                    && !state.leases.contains_key(id)
                    && state.children(**id).is_empty()
            };
            let Some(id) = state.items.iter().find(is_over).map(|(id, _)| *id) else { return };
            if let Err(error) = self.drop_item(state, id, Change::Removed) {
                tracing::warn!(snapshot = %id, %error, "an unusable snapshot is not removed");
                return;
            }
        }
    }

    fn keep_note(&self, state: &mut State, id: SnapshotId) -> Result<(), ShelfError> {
        if let Some(item) = state.items.get(&id) {
            item.note.write(&self.notes, &id.to_string()).map_err(|error| {
                ShelfError::new(Refusal::Internal, format!("cannot write the note of {id}: {error}"))
            })?;
        }
        state.tell(Change::Changed, id);
        Ok(())
    }
}
