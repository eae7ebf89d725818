//! Snapshots of running guests: taking them ([`capture`]), and making clones from them ([`Origin`], [`restore`]).
//!
//! The format and the store are `seuss_snapshotter::snapshot`'s; what the pages mean is told here. Guest memory is hostile, and a snapshot's files
//! may be damaged: every number is checked before it is used as an address.

pub(crate) mod capture;
pub(crate) mod cpu;
pub(crate) mod restore;
mod working_set;

use std::fmt;
use std::sync::Arc;

use seuss_abi::ABI_VERSION;
use seuss_abi::comm::LayerWindow;
use seuss_abi::layout::{LAYER_GPA, LAYERS_MAX, PAGE_SIZE, PRIVATE_GPA};
use seuss_snapshotter::snapshot::{
    CpuSet, ImageRef, Level, Manifest, Placed, Snapshot, SnapshotError, SnapshotId, Store,
};

use crate::config::ImageBlob;
use crate::error::StartError;
use crate::memory::{Memory, MemoryError, Window, map_images, map_layers};
use working_set::{Ground, WorkingSet};

/// Where a guest's snapshots go.
#[derive(Clone, Debug)]
pub struct SnapshotSink {
    /// The store.
    pub store: Arc<Store>,
    /// The guest's root file system as the store knows it, base layer first: the same blobs as the guest's.
    pub images: Vec<ImageRef>,
    /// Name of snapshots that the host asks for, and of those that the guest asks for without a key.
    pub name: String,
    /// Command line, for people.
    pub command: String,
    /// Whether the program has a terminal.
    pub terminal: bool,
}

/// Why a snapshot cannot be cloned here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OriginError {
    /// Its files.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM of this machine.
    #[error(transparent)]
    Host(#[from] StartError),
    /// The contract between guest and VMM has changed since.
    #[error("snapshot {id} has ABI version {found}, this VMM has {ABI_VERSION}: take the snapshot anew")]
    Abi {
        /// The snapshot.
        id: SnapshotId,
        /// Its version.
        found: u32,
    },
    /// Another processor.
    #[error("snapshot {id} was taken on another processor: it has {}, this host has {}", wanted, found)]
    Cpu {
        /// The snapshot.
        id: SnapshotId,
        /// What only the snapshot's processor has.
        wanted: String,
        /// What only this one has.
        found: String,
    },
}

/// A snapshot with its lineage, mapped once and shared by every clone of this process.
pub struct Origin {
    id: SnapshotId,
    manifest: Manifest,
    lineage: Vec<Snapshot>,
    list: Vec<LayerWindow>,
    pub(crate) layers: Arc<Window>,
    pub(crate) images: Vec<Arc<Window>>,
    /// The page-table image, in order of frames.
    tables: Vec<Table>,
    copied: Vec<Placed>,
    working_set: WorkingSet,
}

/// A page table of the image: its frame and its content.
type Table = (u32, Box<[u8; PAGE_SIZE as usize]>);

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Origin {
    /// Open snapshot `id` of `store` and map its layers and image blobs.
    ///
    /// # Errors
    /// [`OriginError`]: the snapshot, or one that it builds on, cannot be used on this machine.
    pub fn open(store: &Store, id: SnapshotId) -> Result<Arc<Self>, OriginError> {
        use std::os::unix::fs::FileExt as _;
        let lineage = store.lineage(id)?;
        let Some(leaf) = lineage.last() else {
            let (name, store) = (id.to_string(), store.root().to_owned());
            return Err(SnapshotError::NotFound { name, store }.into());
        };
        let manifest = leaf.manifest().clone();
        if manifest.abi_version != ABI_VERSION {
            return Err(OriginError::Abi { id, found: manifest.abi_version });
        }
        check_cpu(id, &manifest.cpu, &cpu::host()?)?;
        let files: Vec<_> = lineage
            .iter()
            .map(|snapshot| (snapshot.pages(), snapshot.manifest().layer_file_pages() * PAGE_SIZE))
            .collect();
        let layers = Arc::new(map_layers(&files)?);
        let mut blobs = Vec::new();
        for image in &manifest.images {
            let name = image.digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            let file = store.image(image)?.into();
            blobs.push(ImageBlob { file, len_bytes: image.len_bytes, name });
        }
        let images = map_images(blobs)?.into_iter().map(Arc::new).collect();
        let mut tables = Vec::new();
        for (at, frame) in (0_u64..).zip(leaf.table_frames()?) {
            let mut content = Box::new([0; PAGE_SIZE as usize]);
            leaf.tables().read_exact_at(&mut content[..], at * PAGE_SIZE).map_err(|source| {
                let path = store.root().join("snapshots").join(id.to_string()).join("tables");
                SnapshotError::Io { operation: "read", path, source }
            })?;
            tables.push((frame, content));
        }
        let copied = leaf.copied()?;
        tables.sort_by_key(|(frame, _)| *frame);
        let list: Vec<_> = lineage.iter().map(|snapshot| layer_window(snapshot.manifest())).collect();
        let ground = Ground { tables: &tables, layers: &layers, list: &list };
        let working_set = WorkingSet::new(&ground, &leaf.working_set());
        Ok(Arc::new(Self { id, manifest, lineage, list, layers, images, tables, copied, working_set }))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The snapshot that clones are made from.
    pub(crate) fn leaf(&self) -> Option<&Snapshot> {
        self.lineage.last()
    }

    /// The layers as the guest learns of them.
    pub(crate) fn layer_windows(&self) -> [LayerWindow; LAYERS_MAX] {
        let mut list = [LayerWindow::default(); LAYERS_MAX];
        list.iter_mut().zip(&self.list).for_each(|(entry, layer)| *entry = *layer);
        list
    }

    /// Learn from a clone that stands still which pages it has used, for later clones.
    pub(crate) fn learn(&self, memory: &Memory, scout: bool) {
        let ground = Ground { tables: &self.tables, layers: &self.layers, list: &self.list };
        if let Some(pages) = self.working_set.learn(&ground, memory, scout)
            && let Some(leaf) = self.leaf()
            && let Err(error) = leaf.set_working_set(&pages)
        {
            tracing::debug!(%error, snapshot = %self.id, "the working set is not kept");
        }
    }

    pub(crate) fn depth(&self) -> u64 {
        self.lineage.len() as u64
    }
}

fn layer_window(manifest: &Manifest) -> LayerWindow {
    LayerWindow { gpa: layer_gpa(manifest.first_page), pages: manifest.layer_pages.into() }
}

/// Where page `page` of a lineage lies.
fn layer_gpa(page: u32) -> u64 {
    LAYER_GPA + u64::from(page) * PAGE_SIZE
}

/// Where frame `pfn` has its place.
fn frame_gpa(pfn: u32) -> u64 {
    PRIVATE_GPA + u64::from(pfn) * PAGE_SIZE
}

fn check_cpu(id: SnapshotId, snapshot: &CpuSet, host: &CpuSet) -> Result<(), OriginError> {
    let missing = cpu::only_in(snapshot, host);
    if missing.is_empty() {
        return Ok(());
    }
    let surplus = cpu::only_in(host, snapshot);
    let text =
        |names: Vec<String>| if names.is_empty() { "nothing else".to_owned() } else { names.join(" ") };
    Err(OriginError::Cpu { id, wanted: text(missing), found: text(surplus) })
}

/// What the guest wants captured.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) level: Level,
    pub(crate) key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_processor_is_refused_with_both_sets() {
        let set = |features: &[&str]| CpuSet {
            xcr0: 7,
            xsave_bytes: 832,
            features: features.iter().map(|&name| name.to_owned()).collect(),
        };
        let id = SnapshotId([7; 16]);
        assert!(check_cpu(id, &set(&["sse2"]), &set(&["avx", "sse2"])).is_ok(), "a richer host will do");
        let error = check_cpu(id, &set(&["avx512f", "sse2"]), &set(&["sse2", "sha"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("it has avx512f, this host has sha"), "{text}");
        let error = check_cpu(id, &CpuSet { xcr0: 0xe7, ..set(&[]) }, &set(&[])).unwrap_err();
        assert!(error.to_string().contains("xcr0=0xe7"), "{error}");
    }
}
