//! Snapshots of running guests: taking them ([`capture`]), and making clones from them ([`Origin`], [`restore`]).
//!
//! The format and the store are `seuss_snapshotter::snapshot`'s; what the pages mean is told here. Guest memory is hostile, and a snapshot's files
//! may be damaged: every number is checked before it is used as an address.

pub(crate) mod allowance;
pub(crate) mod capture;
mod clerk;
pub(crate) mod cpu;
mod lineage;
pub(crate) mod restore;
mod touches;
mod working_set;

use std::fmt;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seuss_abi::ABI_VERSION;
use seuss_abi::comm::LayerWindow;
use seuss_abi::layout::{
    IMAGES_BYTES_MAPPED, LARGE_PAGE_SIZE, LAYER_GPA, LAYERS_MAX, PAGE_SIZE, PRIVATE_GPA,
};
use seuss_snapshotter::snapshot::{
    CpuSet, ImageRef, Level, Manifest, Placed, SnapshotError, SnapshotId, Store,
};

use crate::config::ImageBlob;
use crate::error::StartError;
use crate::memory::{Gpa, Memory, MemoryError, Window, map_images};
use working_set::{Ground, WorkingSet};

use allowance::Allowance;
pub use lineage::Lineage;

/// What a guest's snapshots are kept under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// The key that the guest names; none where it names none.
    #[default]
    AsNamed,
    /// Keys that say what the guest was started with. What the guest names is added to that of an argument snapshot, and is only a name otherwise.
    Derived {
        /// Of base snapshots over the lowest image, the two lowest, and so on.
        bases: Vec<String>,
        /// Of function snapshots.
        function: String,
    },
}

impl Keys {
    /// The key of what the guest asks for.
    fn of(&self, asked: &Asked) -> String {
        match (self, asked.level) {
            (Self::AsNamed, _) => asked.named.clone(),
            (Self::Derived { bases, .. }, Level::Base) => {
                let key = asked.images.and_then(|count| bases.get(count.checked_sub(1)?));
                key.cloned().unwrap_or_default()
            }
            (Self::Derived { function, .. }, Level::Function) => function.clone(),
            (Self::Derived { function, .. }, Level::Argument) => argument_key(function, &asked.named),
        }
    }
}

/// The key of an argument snapshot: its function's key, and what the program has named.
#[must_use]
pub fn argument_key(function: &str, named: &str) -> String {
    format!("{function}/{named}")
}

/// Where a guest's snapshots go.
#[derive(Clone, Debug)]
pub struct SnapshotSink {
    /// The store.
    pub store: Arc<Store>,
    /// The guest's root file system as the store knows it, base layer first: the same blobs as the guest's.
    pub images: Vec<ImageRef>,
    /// What they are kept under.
    pub keys: Keys,
    /// A guest that boots takes its base snapshot by itself, when its program is about to look at what is not its runtime's.
    pub base: bool,
    /// Name of snapshots that the host asks for, and of those that the guest asks for without a key.
    pub name: String,
    /// Command line, for people.
    pub command: String,
    /// Whether the program has a terminal.
    pub terminal: bool,
    /// How much the guest may have of them.
    pub allowance: Arc<Allowance>,
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
    /// Its ancestors are others'.
    #[error("snapshot {id} does not fit what it is said to build on")]
    Lineage {
        /// The snapshot.
        id: SnapshotId,
    },
    /// Another root file system.
    #[error("snapshot {id} was taken over another root file system than the one that is offered")]
    Images {
        /// The snapshot.
        id: SnapshotId,
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
    lineage: Arc<Lineage>,
    list: Vec<LayerWindow>,
    pub(crate) images: Vec<Arc<Window>>,
    /// The page-table image, in order of frames.
    tables: Vec<Table>,
    copied: Vec<Placed>,
    working_set: WorkingSet,
    /// Writes of the working set under way.
    writing: Mutex<Vec<Receiver<()>>>,
}

/// A page table of the image: its frame and its content.
type Table = (u32, Box<[u8; PAGE_SIZE as usize]>);

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Origin {
    /// Open snapshot `id` of `store` and map its layers and image blobs.
    ///
    /// # Errors
    /// [`OriginError`]: the snapshot, or one that it builds on, cannot be used on this machine.
    pub fn open(store: &Store, id: SnapshotId) -> Result<Arc<Self>, OriginError> {
        let lineage = Lineage::open(store, id)?;
        let mut blobs = Vec::new();
        for image in &lineage.leaf().manifest().images {
            let name = image.digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
            let file = store.image(image)?.into();
            blobs.push(ImageBlob { file, len_bytes: image.len_bytes, name });
        }
        Self::over(lineage, blobs)
    }

    /// A lineage over `images`, which are those that its manifest names (the caller has compared digests; lengths are compared here). Over those of a base snapshot others
    /// may lie.
    ///
    /// # Errors
    /// [`OriginError`]: the snapshot cannot be used on this machine.
    pub fn over(lineage: Arc<Lineage>, images: Vec<ImageBlob>) -> Result<Arc<Self>, OriginError> {
        use std::os::unix::fs::FileExt as _;
        let leaf = lineage.leaf();
        let (id, manifest) = (leaf.id(), leaf.manifest());
        if manifest.abi_version != ABI_VERSION {
            return Err(OriginError::Abi { id, found: manifest.abi_version });
        }
        working_set::look_at_host();
        check_cpu(id, &manifest.cpu, &cpu::host()?)?;
        let known = manifest.images.iter().map(|image| image.len_bytes);
        let are_known = known.eq(images.iter().take(manifest.images.len()).map(|image| image.len_bytes));
        let end = images.iter().map(|image| image.len_bytes.next_multiple_of(LARGE_PAGE_SIZE)).sum::<u64>();
        let may_be_more = manifest.level == Level::Base && end <= IMAGES_BYTES_MAPPED;
        if !are_known || (images.len() > manifest.images.len() && !may_be_more) {
            return Err(OriginError::Images { id });
        }
        let images = map_images(images)?.into_iter().map(Arc::new).collect();
        let mut tables = Vec::new();
        for (at, frame) in (0_u64..).zip(leaf.table_frames()?) {
            let mut content = Box::new([0; PAGE_SIZE as usize]);
            leaf.tables().read_exact_at(&mut content[..], at * PAGE_SIZE).map_err(|source| {
                let path = std::path::PathBuf::from(format!("{id}/tables"));
                SnapshotError::Io { operation: "read", path, source }
            })?;
            tables.push((frame, content));
        }
        let copied = leaf.copied()?;
        tables.sort_by_key(|(frame, _)| *frame);
        let list = lineage.windows();
        let ground = Ground { tables: &tables, layers: lineage.layers(), list: &list };
        let working_set = WorkingSet::new(&ground, &leaf.working_set());
        let writing = Mutex::default();
        Ok(Arc::new(Self { lineage, list, images, tables, copied, working_set, writing }))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.lineage.leaf().id()
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.lineage.leaf().manifest()
    }

    /// The snapshot that clones are made from, with all that it builds on.
    #[must_use]
    pub fn lineage(&self) -> &Arc<Lineage> {
        &self.lineage
    }

    /// The layers.
    pub(crate) fn layers(&self) -> &Arc<Window> {
        self.lineage.layers()
    }

    /// The layers as the guest learns of them.
    pub(crate) fn layer_windows(&self) -> [LayerWindow; LAYERS_MAX] {
        let mut list = [LayerWindow::default(); LAYERS_MAX];
        list.iter_mut().zip(&self.list).for_each(|(entry, layer)| *entry = *layer);
        list
    }

    /// Learn from a clone that stands still which pages it has used, for later clones; `scouted` are the page tables that a scout runs on. What is learnt is written elsewhere:
    /// see [`Self::wait_for_writes`].
    pub(crate) fn learn(self: &Arc<Self>, memory: &Memory, scouted: Option<Gpa>) {
        let ground = Ground { tables: &self.tables, layers: self.layers(), list: &self.list };
        let Some(pages) = self.working_set.learn(&ground, memory, scouted) else { return };
        let Some(dir) = self.lineage.leaf().own_dir() else {
            return self.kept(self.lineage.leaf().set_working_set(&pages));
        };
        // Files, which the thread that drives the clone does not write.
        let origin = Arc::clone(self);
        let write = move || {
            // The newest, in whichever order several of these run.
            let pages: Vec<_> = origin.working_set.known().pages().copied().collect();
            origin.kept(origin.lineage.leaf().set_working_set(&pages));
        };
        match clerk::write_in(dir.to_owned(), write) {
            Ok(writing) => lock(&self.writing).push(writing),
            Err(error) => tracing::debug!(%error, snapshot = %self.id(), "the working set is not kept"),
        }
    }

    fn kept(&self, kept: Result<(), SnapshotError>) {
        if let Err(error) = kept {
            tracing::debug!(%error, snapshot = %self.id(), "the working set is not kept");
        }
    }

    /// Wait until what was learnt so far is kept: a process may end with its last clone.
    pub(crate) fn wait_for_writes(&self) {
        let writing = std::mem::take(&mut *lock(&self.writing));
        for written in writing {
            // One that was not even begun has hung up, too.
            let _ = written.recv();
        }
    }

    pub(crate) fn depth(&self) -> u64 {
        self.list.len() as u64
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// What must be known of this machine to choose a snapshot for it.
///
/// # Errors
/// [`StartError`]: KVM does not tell its features.
pub fn host_cpu() -> Result<CpuSet, StartError> {
    cpu::host()
}

/// What the guest wants captured.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) level: Level,
    /// The name that the guest gives it; empty: none.
    pub(crate) named: String,
    /// It builds on so many of the images only, the lowest.
    pub(crate) images: Option<usize>,
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
