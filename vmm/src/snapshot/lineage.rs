//! A snapshot and all that it builds on, with their layers mapped.

use std::fmt;
use std::sync::Arc;

use seuss_abi::comm::LayerWindow;
use seuss_abi::layout::PAGE_SIZE;
use seuss_snapshotter::snapshot::{Snapshot, SnapshotError, SnapshotId, Store};

use super::{OriginError, layer_gpa};
use crate::memory::{Window, map_layers};

/// A snapshot with its ancestors: what a clone's memory is read from, and what a capture is compared with.
pub struct Lineage {
    /// Those that [`Self::leaf`] builds on, the root first.
    ancestors: Vec<Arc<Snapshot>>,
    leaf: Arc<Snapshot>,
    layers: Arc<Window>,
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lineage").field("leaf", &self.leaf.id()).field("depth", &self.depth()).finish()
    }
}

impl Lineage {
    /// The lineage of snapshot `id` of `store`.
    ///
    /// # Errors
    /// [`OriginError`]: one of them cannot be opened or mapped, or they do not fit together.
    pub fn open(store: &Store, id: SnapshotId) -> Result<Arc<Self>, OriginError> {
        Self::of(store.lineage(id)?)
    }

    /// A lineage of open snapshots, the root first.
    ///
    /// # Errors
    /// [`OriginError`]: there is none, they cannot be mapped, or they do not fit together.
    pub fn of(snapshots: Vec<Snapshot>) -> Result<Arc<Self>, OriginError> {
        let mut ancestors: Vec<_> = snapshots.into_iter().map(Arc::new).collect();
        let nothing = || SnapshotError::NotFound { name: "of no id".into(), store: "a lineage".into() };
        let leaf = ancestors.pop().ok_or_else(nothing)?;
        Self::new(ancestors, leaf)
    }

    /// This lineage and `leaf`, which builds on it.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn extended(&self, leaf: Snapshot) -> Result<Arc<Self>, OriginError> {
        let ancestors = self.ancestors.iter().chain([&self.leaf]).cloned().collect();
        Self::new(ancestors, Arc::new(leaf))
    }

    fn new(ancestors: Vec<Arc<Snapshot>>, leaf: Arc<Snapshot>) -> Result<Arc<Self>, OriginError> {
        let all: Vec<_> = ancestors.iter().chain([&leaf]).collect();
        let broken = all.windows(2).find(|pair| {
            let [parent, child] = pair else { return false };
            child.manifest().parent != Some(parent.id()) || !child.manifest().builds_on(parent.manifest())
        });
        if broken.is_some() || all.first().is_some_and(|root| root.manifest().parent.is_some()) {
            return Err(OriginError::Lineage { id: leaf.id() });
        }
        let file_bytes = |snapshot: &Snapshot| snapshot.manifest().layer_file_pages() * PAGE_SIZE;
        let files: Vec<_> = all.iter().map(|snapshot| (snapshot.pages(), file_bytes(snapshot))).collect();
        let layers = Arc::new(map_layers(&files)?);
        Ok(Arc::new(Self { ancestors, leaf, layers }))
    }

    /// The youngest of them: the one that clones are made from.
    #[must_use]
    pub fn leaf(&self) -> &Snapshot {
        &self.leaf
    }

    /// Id of the youngest.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.leaf.id()
    }

    /// How many they are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.ancestors.len() + 1
    }

    /// Their layers, one after the other.
    pub(crate) fn layers(&self) -> &Arc<Window> {
        &self.layers
    }

    /// The layers as a guest learns of them.
    pub(super) fn windows(&self) -> Vec<LayerWindow> {
        let window = |snapshot: &Arc<Snapshot>| {
            let manifest = snapshot.manifest();
            LayerWindow { gpa: layer_gpa(manifest.first_page), pages: manifest.layer_pages.into() }
        };
        self.ancestors.iter().chain([&self.leaf]).map(window).collect()
    }
}
