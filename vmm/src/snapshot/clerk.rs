//! Files of snapshots, written for a thread that opens none.
//!
//! A capture runs on the vCPU thread, since the guest stands still for it. Its draft is begun and committed by a clerk ([`crate::helpers`]), whose
//! Landlock domain is the store; in between the vCPU thread appends to descriptors.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use seuss_snapshotter::snapshot::{Draft, Facts, Placed, Snapshot, SnapshotError, Store};

use super::Lineage;
use super::capture::CaptureError;
use crate::confine::Role;
use crate::helpers;

enum End {
    Commit { draft: Draft, facts: Box<Facts>, copied: Vec<Placed>, map: Vec<Placed> },
    Abandon(Draft),
}

/// A draft, with the clerk that began it.
pub(super) struct ClerkDraft {
    /// Until it is given back.
    draft: Option<Draft>,
    end: SyncSender<End>,
    done: Receiver<Result<Snapshot, SnapshotError>>,
}

impl ClerkDraft {
    /// Have a draft on top of `parent`'s youngest begun in `store`.
    pub(super) fn begin(store: &Arc<Store>, parent: Option<&Arc<Lineage>>) -> Result<Self, CaptureError> {
        let (begun, draft) = sync_channel(1);
        let (end, ended) = sync_channel(1);
        let (tell, done) = sync_channel(1);
        let (store, parent) = (Arc::clone(store), parent.cloned());
        let root = store.root().to_owned();
        let work = move || {
            let draft = store.draft(parent.as_deref().map(Lineage::leaf));
            // Whoever asked waits for the answer, and then for its own end.
            if begun.send(draft).is_err() {
                return;
            }
            match ended.recv() {
                Ok(End::Commit { draft, facts, copied, map }) => {
                    let _ = tell.send(draft.commit(*facts, &copied, &map));
                }
                Ok(End::Abandon(draft)) => drop(draft),
                Err(_) => {}
            }
        };
        helpers::run(Role::Clerk, Some(root), work)
            .map_err(|error| CaptureError::Clerk(error.to_string()))?;
        let draft = draft.recv().map_err(|_| CaptureError::Clerk(GONE.to_owned()))??;
        Ok(Self { draft: Some(draft), end, done })
    }

    /// What is being written.
    pub(super) fn draft(&mut self) -> Result<&mut Draft, CaptureError> {
        self.draft.as_mut().ok_or_else(|| CaptureError::Clerk(GONE.to_owned()))
    }

    /// Make it a snapshot.
    pub(super) fn commit(
        mut self,
        facts: Facts,
        copied: Vec<Placed>,
        map: Vec<Placed>,
    ) -> Result<Snapshot, CaptureError> {
        let gone = || CaptureError::Clerk(GONE.to_owned());
        let draft = self.draft.take().ok_or_else(gone)?;
        self.end.send(End::Commit { draft, facts: Box::new(facts), copied, map }).map_err(|_| gone())?;
        Ok(self.done.recv().map_err(|_| gone())??)
    }
}

const GONE: &str = "it has ended";

impl Drop for ClerkDraft {
    fn drop(&mut self) {
        if let Some(draft) = self.draft.take() {
            // Its files are removed where that is allowed; the process may end right after its guest, so this is waited for: the clerk hangs up.
            if self.end.send(End::Abandon(draft)).is_ok() {
                let _ = self.done.recv();
            }
        }
    }
}

/// Have what `write` does done by a clerk in the directory `dir`. Not waited for: what is returned hangs up when it is done.
pub(super) fn write_in(dir: PathBuf, write: impl FnOnce() + Send + 'static) -> std::io::Result<Receiver<()>> {
    let (working, done) = sync_channel(0);
    helpers::run(Role::Clerk, Some(dir), move || {
        write();
        drop(working);
    })?;
    Ok(done)
}
