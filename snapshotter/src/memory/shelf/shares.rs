//! Shares of the store: what one tenant, and one guest, may have of it.
//!
//! A share that is used up is first made room in: the least recently used leaves **of that share** go, which nobody leases, pinned or builds on. Others' snapshots never go for it. Where
//! that is not enough, the new snapshot is refused with the figures. The node itself (the tenant without a name) has no share.

use super::super::protocol::{Change, Quota, Refusal};
use super::{Item, Shelf, ShelfError, State};
use crate::snapshot::SnapshotId;

/// How much snapshots may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many.
    pub snapshots: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Whose share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner<'a> {
    tenant: &'a str,
    /// `None`: all of the tenant's.
    guest: Option<&'a str>,
}

impl Owner<'_> {
    fn owns(&self, item: &Item) -> bool {
        item.note.tenant == self.tenant && self.guest.is_none_or(|guest| item.note.guest == guest)
    }
}

impl Shelf {
    /// The shares that a snapshot of `tenant`'s guest `guest` is part of.
    fn shares<'a>(&self, tenant: &'a str, guest: &'a str) -> Vec<(Owner<'a>, Share)> {
        if tenant.is_empty() {
            return Vec::new();
        }
        let of_tenant = (Owner { tenant, guest: None }, self.options.tenant);
        let of_guest = (Owner { tenant, guest: Some(guest) }, self.options.guest);
        std::iter::once(of_tenant).chain((!guest.is_empty()).then_some(of_guest)).collect()
    }

    /// Whether a snapshot of `bytes` more can be had in the shares that it is part of, if what can go goes.
    pub(super) fn check_shares(
        &self,
        state: &State,
        (tenant, guest): (&str, &str),
        bytes: u64,
        keep: Option<SnapshotId>,
    ) -> Result<(), ShelfError> {
        for (owner, share) in self.shares(tenant, guest) {
            let (used, free) = (state.used_by(owner), state.evictable_of(owner, keep));
            let fits = used.bytes - free.bytes + bytes <= share.bytes
                && used.snapshots - free.snapshots < share.snapshots;
            if !fits {
                let whose = owner.guest.map_or_else(
                    || format!("tenant {tenant}"),
                    |guest| format!("guest {guest} of tenant {tenant}"),
                );
                let name = if owner.guest.is_some() { "guest" } else { "tenant" };
                let message = format!(
                    "the quota of {whose} is used up: {} of {} bytes and {} of {} memory snapshots are used, {bytes} bytes more are wanted, and {} bytes of \
                     theirs can go; remove snapshots (seussctl store rm), or raise {name}_budget or {name}_snapshots",
                    used.bytes, share.bytes, used.snapshots, share.snapshots, free.bytes
                );
                return Err(ShelfError::new(Refusal::Quota, message));
            }
        }
        Ok(())
    }

    /// Evicts, of the shares that a new snapshot of `bytes` is part of, until it fits; `keep` and its ancestors stay. Evicts nothing if that is not enough.
    pub(super) fn make_share(
        &self,
        state: &mut State,
        of: (&str, &str),
        bytes: u64,
        keep: Option<SnapshotId>,
    ) -> Result<(), ShelfError> {
        self.check_shares(state, of, bytes, keep)?;
        for (owner, share) in self.shares(of.0, of.1) {
            loop {
                let used = state.used_by(owner);
                if used.bytes + bytes <= share.bytes && used.snapshots < share.snapshots {
                    break;
                }
                let Some(victim) = state.victim_among(keep, |item| owner.owns(item)) else { break };
                self.drop_item(state, victim, Change::Evicted)?;
                state.evicted += 1;
            }
        }
        Ok(())
    }

    /// What guest `guest` of `tenant` may still put.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn quota(&self, tenant: &str, guest: &str) -> Result<Quota, ShelfError> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let mut left = Share { snapshots: u64::MAX, bytes: self.options.budget_bytes };
        for (owner, share) in self.shares(tenant, guest) {
            let (used, free) = (state.used_by(owner), state.evictable_of(owner, None));
            left.bytes = left.bytes.min(share.bytes.saturating_sub(used.bytes - free.bytes));
            left.snapshots =
                left.snapshots.min(share.snapshots.saturating_sub(used.snapshots - free.snapshots));
        }
        let captures_per_minute = self.options.captures_per_minute;
        Ok(Quota { captures_per_minute, left_snapshots: left.snapshots, left_bytes: left.bytes })
    }
}

impl State {
    fn sum<'a>(items: impl Iterator<Item = &'a Item>) -> Share {
        items.fold(Share { snapshots: 0, bytes: 0 }, |sum, item| Share {
            snapshots: sum.snapshots + 1,
            bytes: sum.bytes + item.bytes,
        })
    }

    fn used_by(&self, owner: Owner<'_>) -> Share {
        Self::sum(self.items.values().filter(|item| owner.owns(item)))
    }

    /// What of a share could be evicted, one leaf after the other, without touching others' snapshots, while `keep` stays.
    fn evictable_of(&self, owner: Owner<'_>, keep: Option<SnapshotId>) -> Share {
        let may_go = |id: &SnapshotId| {
            let mut pending = vec![*id];
            while let Some(id) = pending.pop() {
                let Some(item) = self.items.get(&id) else { continue };
                if !owner.owns(item) || item.note.pinned || keep == Some(id) || self.leases.contains_key(&id)
                {
                    return false;
                }
                pending.extend(self.children(id));
            }
            true
        };
        Self::sum(self.items.iter().filter(|(id, _)| may_go(id)).map(|(_, item)| item))
    }
}
