//! A snapshot being written: invisible until it is committed, gone if it is dropped.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::error::SnapshotError;
use super::manifest::{CpuSet, ImageRef, Level, Manifest, SectionRef};
use super::reader::{MANIFEST, PAGES, Placed, Snapshot, TABLES};
use super::{DEPTH_MAX, LINEAGE_PAGES_MAX, PAGE};

/// How names of drafts begin: nothing that looks for snapshots looks at them.
pub(super) const DRAFT_PREFIX: &str = ".draft-";

/// What the writer knows of the guest, beside pages: see the fields of [`Manifest`] with the same names.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Facts {
    pub level: Level,
    pub key: String,
    pub name: String,
    pub abi_version: u32,
    pub kernel: [u8; 32],
    pub cpu: CpuSet,
    pub private_bytes: u64,
    pub reserved_bytes: u64,
    pub pml4_gpa: u64,
    pub created_ns: u64,
    pub monotonic_ns: u64,
    pub boottime_offset_ns: i64,
    pub generation: u64,
    pub terminal: bool,
    pub command: String,
    pub images: Vec<ImageRef>,
    pub listeners: Vec<String>,
}

/// A file that is digested while it is written.
#[derive(Debug)]
pub struct Section {
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Sha256,
    len_bytes: u64,
}

impl Section {
    fn create(dir: &Path, name: &str) -> Result<Self, SnapshotError> {
        let path = dir.join(name);
        let file = File::create_new(&path).map_err(SnapshotError::io("create", &path))?;
        Ok(Self { path, file: BufWriter::with_capacity(1 << 20, file), hasher: Sha256::new(), len_bytes: 0 })
    }

    /// Append bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]: the store is full, above all.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(bytes).map_err(SnapshotError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.len_bytes += bytes.len() as u64;
        Ok(())
    }

    fn words(&mut self, words: impl Iterator<Item = u32>) -> Result<(), SnapshotError> {
        for word in words {
            self.append(&word.to_le_bytes())?;
        }
        Ok(())
    }

    fn finish(self) -> Result<SectionRef, SnapshotError> {
        let Self { path, file, hasher, len_bytes } = self;
        let file =
            file.into_inner().map_err(|error| SnapshotError::io("write", &path)(error.into_error()))?;
        file.sync_data().map_err(SnapshotError::io("write", &path))?;
        Ok(SectionRef { len_bytes, digest: hasher.finalize().into() })
    }
}

/// A snapshot being written. The order is: layer pages, page tables, then [`Self::commit`].
#[derive(Debug)]
pub struct Draft {
    dir: PathBuf,
    snapshots: PathBuf,
    /// Holds the lock that tells a living draft from one whose writer was killed.
    _lock: File,
    parent: Option<(super::SnapshotId, u32, u64)>,
    pages: Section,
    tables: Section,
    layer_frames: Vec<u32>,
    table_frames: Vec<u32>,
    committed: bool,
}

impl Draft {
    pub(super) fn new(snapshots: &Path, parent: Option<&Snapshot>) -> Result<Self, SnapshotError> {
        let depth = parent.map_or(1, |parent| parent.manifest().depth + 1);
        if depth > DEPTH_MAX {
            let (found, most) = (depth.into(), DEPTH_MAX.into());
            return Err(SnapshotError::TooLarge { what: "deep", found, most });
        }
        let dir = tempfile::Builder::new()
            .prefix(DRAFT_PREFIX)
            .tempdir_in(snapshots)
            .map_err(SnapshotError::io("make a directory in", snapshots))?
            .keep();
        let lock = File::open(&dir).map_err(SnapshotError::io("open", &dir))?;
        // Nobody else knows of it: the lock is free.
        let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        let parent = parent.map(|parent| (parent.id(), depth, parent.manifest().lineage_pages()));
        Ok(Self {
            pages: Section::create(&dir, PAGES)?,
            tables: Section::create(&dir, TABLES)?,
            dir,
            snapshots: snapshots.to_owned(),
            _lock: lock,
            parent,
            layer_frames: Vec::new(),
            table_frames: Vec::new(),
            committed: false,
        })
    }

    fn first_page(&self) -> u64 {
        self.parent.map_or(0, |(_, _, pages)| pages)
    }

    /// Add the content of frame `pfn` to the layer; tells where it lies, counted over the lineage.
    ///
    /// # Errors
    /// [`SnapshotError`]: the layers are too large, or the store is full.
    pub fn add_page(&mut self, pfn: u32, content: &[u8; PAGE as usize]) -> Result<Placed, SnapshotError> {
        let page = self.first_page() + self.layer_frames.len() as u64;
        // The index needs a page for every 1024.
        let most = LINEAGE_PAGES_MAX - LINEAGE_PAGES_MAX / 512;
        if page >= most {
            return Err(SnapshotError::TooLarge { what: "large (pages)", found: page + 1, most });
        }
        self.pages.append(content)?;
        self.layer_frames.push(pfn);
        Ok(Placed { pfn, page: page as u32 })
    }

    /// Add a page table of the page-table image: frame `pfn` with this content.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn add_table(&mut self, pfn: u32, content: &[u8; PAGE as usize]) -> Result<(), SnapshotError> {
        self.tables.append(content)?;
        self.table_frames.push(pfn);
        Ok(())
    }

    /// Make it a snapshot: finish the files, write the manifest, rename. `copied` is what a restore must copy, `map` says for every frame that the lineage
    /// holds where its youngest page is.
    ///
    /// # Errors
    /// [`SnapshotError`]; nothing is left behind.
    pub fn commit(
        mut self,
        facts: Facts,
        copied: &[Placed],
        map: &[Placed],
    ) -> Result<Snapshot, SnapshotError> {
        let layer_pages = self.layer_frames.len() as u32;
        let frames = std::mem::take(&mut self.layer_frames);
        self.pages.words(frames.into_iter())?;
        let tail = self.pages.len_bytes.next_multiple_of(PAGE) - self.pages.len_bytes;
        self.pages.append(&vec![0; tail as usize])?;
        let table_frames = std::mem::take(&mut self.table_frames);
        let table_pages = table_frames.len() as u32;
        self.tables.words(table_frames.into_iter())?;
        for list in [copied, map] {
            self.tables.words(list.iter().flat_map(|placed| [placed.pfn, placed.page]))?;
        }
        let empty = |dir: &Path| Section::create(dir, ".finished");
        let pages = std::mem::replace(&mut self.pages, empty(&self.dir)?).finish()?;
        std::fs::remove_file(self.dir.join(".finished")).map_err(SnapshotError::io("remove", &self.dir))?;
        let tables = std::mem::replace(&mut self.tables, empty(&self.dir)?).finish()?;
        std::fs::remove_file(self.dir.join(".finished")).map_err(SnapshotError::io("remove", &self.dir))?;
        let manifest = Manifest {
            parent: self.parent.map(|(id, ..)| id),
            depth: self.parent.map_or(1, |(_, depth, _)| depth),
            level: facts.level,
            key: facts.key,
            name: facts.name,
            created_ns: facts.created_ns,
            abi_version: facts.abi_version,
            kernel: facts.kernel,
            cpu: facts.cpu,
            private_bytes: facts.private_bytes,
            reserved_bytes: facts.reserved_bytes,
            pml4_gpa: facts.pml4_gpa,
            monotonic_ns: facts.monotonic_ns,
            boottime_offset_ns: facts.boottime_offset_ns,
            generation: facts.generation,
            terminal: facts.terminal,
            command: facts.command,
            images: facts.images,
            listeners: facts.listeners,
            first_page: self.first_page() as u32,
            layer_pages,
            table_pages,
            copied_pages: copied.len() as u32,
            mapped_frames: map.len() as u32,
            pages,
            tables,
        };
        let (bytes, id) = manifest.encode();
        let path = self.dir.join(MANIFEST);
        std::fs::write(&path, &bytes).map_err(SnapshotError::io("write", &path))?;
        // What was written must be what can be read.
        Manifest::decode(&bytes, &path)?;
        let target = self.snapshots.join(id.to_string());
        std::fs::rename(&self.dir, &target).map_err(SnapshotError::io("rename to", &target))?;
        self.committed = true;
        Snapshot::open(&target)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            // If it cannot be removed now, the next `Store::open` sweeps it.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
