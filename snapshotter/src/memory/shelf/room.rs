//! Room on the shelf: what snapshots take, and which of them go when a new one does not fit.
//!
//! **Eviction.** The least recently used leaf that nobody leases and nobody pinned goes, then the next. A leased snapshot keeps its ancestors, since they are
//! no leaves.

use super::super::protocol::{Change, Figures, Refusal};
use super::{Shelf, ShelfError, State};
use crate::snapshot::SnapshotId;

impl Shelf {
    /// Evicts until `bytes` more fit; `keep` and its ancestors stay.
    pub(super) fn make_room(
        &self,
        state: &mut State,
        bytes: u64,
        keep: Option<SnapshotId>,
    ) -> Result<(), ShelfError> {
        let budget = self.options.budget_bytes;
        while state.used_bytes() + bytes > budget {
            let Some(victim) = state.victim(keep) else {
                let used = state.used_bytes();
                let message = format!(
                    "the store of memory snapshots is full: {used} of {budget} bytes are used, {bytes} more are needed, and everything is leased, \
                     pinned or built upon; remove snapshots (seussctl store rm), unpin them, or raise memory_budget"
                );
                return Err(ShelfError::new(Refusal::Full, message));
            };
            self.drop_item(state, victim, Change::Evicted)?;
            state.evicted += 1;
        }
        Ok(())
    }

    /// Evicts unused leaves, the least recently used first, until at most `bytes` are used, as far as there are any.
    ///
    /// # Errors
    /// The directory cannot be changed.
    pub fn shrink(&self, bytes: u64) -> Result<Vec<SnapshotId>, ShelfError> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let mut gone = Vec::new();
        while state.used_bytes() > bytes
            && let Some(victim) = state.victim(None)
        {
            self.drop_item(&mut state, victim, Change::Evicted)?;
            state.evicted += 1;
            gone.push(victim);
        }
        Ok(gone)
    }

    /// Figures.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn figures(&self) -> Result<Figures, ShelfError> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let kept = |id: &SnapshotId| {
            // A snapshot stays if it or anything that builds on it is leased or pinned.
            let mut pending = vec![*id];
            while let Some(id) = pending.pop() {
                if state.leases.contains_key(&id) || state.items.get(&id).is_some_and(|item| item.note.pinned)
                {
                    return true;
                }
                pending.extend(state.children(id));
            }
            false
        };
        let evictable = state.items.iter().filter(|(id, _)| !kept(id)).map(|(_, item)| item.bytes).sum();
        Ok(Figures {
            budget_bytes: self.options.budget_bytes,
            used_bytes: state.used_bytes(),
            evictable_bytes: evictable,
            snapshots: state.items.len() as u64,
            leases: state.leases.values().sum(),
            evicted: state.evicted,
        })
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.items.values().map(|item| item.bytes).sum()
    }

    fn victim(&self, keep: Option<SnapshotId>) -> Option<SnapshotId> {
        let free = self.items.iter().filter(|(id, item)| {
            !item.note.pinned
                && Some(**id) != keep
                && !self.leases.contains_key(id)
                && self.children(**id).is_empty()
        });
        free.min_by_key(|(id, item)| (item.note.used_ns, **id)).map(|(id, _)| *id)
    }
}
