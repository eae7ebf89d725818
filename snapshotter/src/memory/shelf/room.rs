//! Room on the shelf: what snapshots take, and which of them go when a new one does not fit.
//!
//! **Eviction.** The least recently used leaf that nobody leases and nobody pinned goes, then the next. A leased snapshot keeps its ancestors, since they are
//! no leaves.

use super::super::protocol::{Change, Figures, Refusal};
use super::{Item, Shelf, ShelfError, State};
use crate::snapshot::SnapshotId;

impl Shelf {
    /// Evicts until `bytes` more fit into the budget; `keep` and its ancestors stay. Evicts nothing if that is not enough.
    pub(super) fn make_room(
        &self,
        state: &mut State,
        bytes: u64,
        keep: Option<SnapshotId>,
    ) -> Result<(), ShelfError> {
        let budget = self.options.budget_bytes;
        let over = |state: &State| (state.used_bytes() + bytes).saturating_sub(budget);
        let full = |state: &State| {
            let used = state.used_bytes();
            let message = format!(
                "the store of memory snapshots is full: {used} of {budget} bytes are used, {bytes} more are needed, and too much is leased, \
                 pinned or built upon; remove snapshots (seussctl store rm), unpin them, or raise memory_budget"
            );
            ShelfError::new(Refusal::Full, message)
        };
        if over(state) > state.evictable_bytes(keep) {
            return Err(full(state));
        }
        while over(state) > 0 {
            let victim = state.victim(keep).ok_or_else(|| full(state))?;
            self.drop_item(state, victim, Change::Evicted)?;
            state.evicted += 1;
        }
        Ok(())
    }

    /// Evicts until `bytes` more can be written to the file system and the reserve is still free; image layers lie there, too. `keep` and its ancestors stay.
    /// Evicts nothing if that is not enough.
    pub(super) fn make_space(&self, bytes: u64, keep: Option<SnapshotId>) -> Result<(), ShelfError> {
        if self.space(bytes)?.short_bytes == 0 {
            return Ok(());
        }
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let full = |space: Space| {
            let Space { free_bytes, size_bytes, .. } = space;
            let message = format!(
                "no space for memory snapshots beside the image layers: {free_bytes} of {size_bytes} bytes are free, {bytes} more are needed and a reserve of {} \
                 is kept, and too little can be evicted; remove images that are not used (crictl rmi --prune) or snapshots (seussctl store rm), or raise the size \
                 of the store",
                self.options.reserve_bytes
            );
            ShelfError::new(Refusal::Full, message)
        };
        let space = self.space(bytes)?;
        if space.short_bytes > state.evictable_bytes(keep) {
            return Err(full(space));
        }
        loop {
            let space = self.space(bytes)?;
            if space.short_bytes == 0 {
                return Ok(());
            }
            let victim = state.victim(keep).ok_or_else(|| full(space))?;
            self.drop_item(&mut state, victim, Change::Evicted)?;
            state.evicted += 1;
        }
    }

    /// Image layers are about to come: evicts what nobody uses until `bytes` are free beside the reserve, as far as there is something.
    ///
    /// # Errors
    /// The directory cannot be changed.
    pub fn give_way(&self, bytes: u64) -> Result<(), ShelfError> {
        if self.space(bytes)?.short_bytes == 0 {
            return Ok(());
        }
        let mut state = self.lock();
        self.refresh(&mut state)?;
        while self.space(bytes)?.short_bytes > 0
            && let Some(victim) = state.victim(None)
        {
            self.drop_item(&mut state, victim, Change::Evicted)?;
            state.evicted += 1;
        }
        Ok(())
    }

    /// The file system below the shelf, if `bytes` are about to be written.
    fn space(&self, bytes: u64) -> Result<Space, ShelfError> {
        let root = self.store.root();
        let stat = rustix::fs::statvfs(root).map_err(|errno| {
            let message = format!("cannot ask for the space of {}: {errno}", root.display());
            ShelfError::new(Refusal::Internal, message)
        })?;
        let (size_bytes, free_bytes) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
        let wanted = bytes.saturating_add(self.options.reserve_bytes);
        // A tmpfs without a limit has no size.
        let short_bytes = if size_bytes == 0 { 0 } else { wanted.saturating_sub(free_bytes) };
        Ok(Space { size_bytes, free_bytes, short_bytes })
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
        Ok(Figures {
            budget_bytes: self.options.budget_bytes,
            used_bytes: state.used_bytes(),
            evictable_bytes: state.evictable_bytes(None),
            snapshots: state.items.len() as u64,
            leases: state.leases.values().sum(),
            evicted: state.evicted,
        })
    }
}

/// What a file system has.
#[derive(Clone, Copy, Debug)]
struct Space {
    size_bytes: u64,
    free_bytes: u64,
    /// What is missing.
    short_bytes: u64,
}

impl State {
    /// Bytes of all snapshots that could be evicted, one leaf after the other, while `keep` stays.
    fn evictable_bytes(&self, keep: Option<SnapshotId>) -> u64 {
        let kept = |id: &SnapshotId| {
            // A snapshot stays if it or anything that builds on it is leased, pinned or kept.
            let mut pending = vec![*id];
            while let Some(id) = pending.pop() {
                let pinned = self.items.get(&id).is_some_and(|item| item.note.pinned);
                if pinned || keep == Some(id) || self.leases.contains_key(&id) {
                    return true;
                }
                pending.extend(self.children(id));
            }
            false
        };
        self.items.iter().filter(|(id, _)| !kept(id)).map(|(_, item)| item.bytes).sum()
    }

    fn used_bytes(&self) -> u64 {
        self.items.values().map(|item| item.bytes).sum()
    }

    fn victim(&self, keep: Option<SnapshotId>) -> Option<SnapshotId> {
        self.victim_among(keep, |_| true)
    }

    /// The least recently used leaf of those that `counts`, which nobody leases and nobody pinned.
    pub(super) fn victim_among(
        &self,
        keep: Option<SnapshotId>,
        counts: impl Fn(&Item) -> bool,
    ) -> Option<SnapshotId> {
        let free = self.items.iter().filter(|(id, item)| {
            !item.note.pinned
                && counts(item)
                && Some(**id) != keep
                && !self.leases.contains_key(id)
                && self.children(**id).is_empty()
        });
        free.min_by_key(|(id, item)| (item.note.used_ns, **id)).map(|(id, _)| *id)
    }
}
