//! Rights: what a snapshot was made with, and the end of it.
//!
//! A snapshot holds in memory what its program had read: a tenant's data, the content of a mounted Secret. So it names the **rights** that it depends on, and dies with the last of
//! them: what [`Shelf::revoke`] strikes out is found and got no more from then on, nor is anything that builds on it, and its files go as soon as nobody leases it. Clones that run go on; what
//! they want to keep afterwards is refused.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::note::Note;
use super::super::protocol::Refusal;
use super::{Shelf, ShelfError, State};

/// Revocations that are remembered for connections that were there before; the oldest is forgotten first.
const REMEMBERED_MAX: usize = 4096;
/// Most rights of one snapshot, and bytes of each.
const RIGHTS_MAX: usize = 256;
const RIGHT_BYTES_MAX: usize = 128;

/// Revocations of late.
#[derive(Debug, Default)]
pub(super) struct Revocations(VecDeque<Revoked>);

#[derive(Debug)]
struct Revoked {
    at: Instant,
    tenant: String,
    /// `None`: everything of the tenant.
    right: Option<String>,
}

impl Revocations {
    fn add(&mut self, tenant: &str, right: Option<&str>) {
        self.0.truncate(REMEMBERED_MAX - 1);
        self.0.push_front(Revoked {
            at: Instant::now(),
            tenant: tenant.to_owned(),
            right: right.map(str::to_owned),
        });
    }

    /// Why a snapshot with `rights` must not be taken in from a connection that began at `since`: what it was made with was revoked meanwhile.
    pub(super) fn forbid(&self, tenant: &str, rights: &[String], since: Instant) -> Option<String> {
        let newer = self.0.iter().take_while(|revoked| revoked.at >= since);
        let mut own = newer.filter(|revoked| revoked.tenant == tenant);
        let hit = own.find(|revoked| revoked.right.as_ref().is_none_or(|right| rights.contains(right)))?;
        Some(reason(hit.right.as_deref()))
    }
}

/// Whether `rights` can be kept.
pub(super) fn check(rights: &[String]) -> Result<(), ShelfError> {
    let fits = |right: &String| !right.is_empty() && right.len() <= RIGHT_BYTES_MAX;
    if rights.len() > RIGHTS_MAX || !rights.iter().all(fits) {
        let message = format!(
            "a snapshot names at most {RIGHTS_MAX} rights of 1 to {RIGHT_BYTES_MAX} bytes each, not {}",
            rights.len()
        );
        return Err(ShelfError::new(Refusal::Invalid, message));
    }
    Ok(())
}

fn reason(right: Option<&str>) -> String {
    right
        .map_or_else(|| "its tenant was revoked".to_owned(), |right| format!("its right {right} was revoked"))
}

impl Shelf {
    /// Makes everything unusable that `tenant` has put (with `right`: that depends on it), and all that builds on it. Removes what nobody leases; the rest goes with its leases. Tells how many
    /// snapshots it was.
    ///
    /// # Errors
    /// The directory cannot be changed. What was struck out stays so.
    pub fn revoke(&self, tenant: &str, right: Option<&str>) -> Result<u64, ShelfError> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        state.revocations.add(tenant, right);
        let is_meant = |note: &Note| {
            note.tenant == tenant && right.is_none_or(|right| note.rights.iter().any(|own| own == right))
        };
        let meant: Vec<_> =
            state.items.iter().filter(|(_, item)| is_meant(&item.note)).map(|(id, _)| *id).collect();
        let usable =
            |state: &State| state.items.values().filter(|item| item.note.unusable.is_empty()).count() as u64;
        let (before, mut failed) = (usable(&state), None);
        for id in meant {
            // On disk, too: a daemon that is started again must not offer it. What cannot be noted does not keep the others.
            failed = self.condemn(&mut state, id, &reason(right)).err().or(failed);
        }
        let count = before - usable(&state);
        if count > 0 {
            tracing::info!(tenant, right = right.unwrap_or("all"), count, "snapshots were revoked");
        }
        failed.map_or(Ok(count), Err)
    }

    /// What is due: removes what is unusable, as far as it is not in use. To be called once in a while.
    pub fn tidy(&self) {
        let mut state = self.lock();
        match self.refresh(&mut state) {
            Ok(()) => self.sweep(&mut state),
            Err(error) => tracing::warn!(%error, "unusable snapshots are not removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocations_concern_connections_that_were_there() {
        let before = Instant::now();
        let mut revocations = Revocations::default();
        let rights = ["a".to_owned(), "b".to_owned()];
        assert_eq!(revocations.forbid("t", &rights, before), None);
        revocations.add("t", Some("b"));
        assert!(revocations.forbid("t", &rights, before).is_some_and(|reason| reason.contains("right b")));
        assert_eq!(revocations.forbid("t", &rights[..1], before), None);
        assert_eq!(revocations.forbid("u", &rights, before), None);
        let after = Instant::now() + std::time::Duration::from_millis(1);
        assert_eq!(revocations.forbid("t", &rights, after), None, "it knows what is valid now");
        revocations.add("u", None);
        assert!(revocations.forbid("u", &[], before).is_some());
        for _ in 0..2 * REMEMBERED_MAX {
            revocations.add("v", None);
        }
        assert_eq!(revocations.0.len(), REMEMBERED_MAX);
    }

    #[test]
    fn rights_are_few_and_short() {
        assert!(check(&["x".repeat(RIGHT_BYTES_MAX)]).is_ok());
        assert!(check(&[String::new()]).is_err());
        assert!(check(&["x".repeat(RIGHT_BYTES_MAX + 1)]).is_err());
        assert!(check(&vec!["x".to_owned(); RIGHTS_MAX + 1]).is_err());
    }
}
