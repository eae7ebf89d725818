//! The store: the catalogue's rules joined with directories on disk.
//!
//! Owns [`Layers`]. Every change goes to disk first, its record last, and then into the catalogue. One lock covers the catalogue; the long part
//! of a commit (reading the layer, writing its blob) runs without it, its key and name reserved meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::catalog::{Catalog, normalise};
use super::disk::{Disk, remove_all};
use super::error::{LayersError, io_error};
use super::filter::{Filter, any_matches};
use super::mounts;
use super::record::{BlobRecord, Files, Info, Kind, Record, Timestamp, Usage, VERSION};
use super::usage;
use crate::erofs::{self, BuildError, BuildOptions};
use crate::lookup::{NOTE_VERSION, Note};
use crate::rootfs::check_and_digest;

/// How a store behaves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sync files before names: for a directory on a disk.
    pub durable: bool,
    /// New snapshots are refused when less than this is free.
    pub reserve_bytes: u64,
    /// Mount the blobs of layers, so that their files are kept once; otherwise each layer also stays a directory.
    pub mount_images: bool,
    /// Limits of blobs.
    pub build: BuildOptions,
}

/// A mount that containerd hands to a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsMount {
    /// `bind` or `overlay`.
    pub kind: &'static str,
    /// What.
    pub source: String,
    /// fstab-style options.
    pub options: Vec<String>,
}

/// The file system that the store lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub size_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// What was found at start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Snapshots.
    pub snapshots: usize,
    /// Things removed that a killed daemon left half-way.
    pub swept: u64,
}

/// Options of every overlay.
fn overlay_options() -> Vec<String> {
    let has = |name: &str| Path::new("/sys/module/overlay/parameters").join(name).exists();
    // As containerd's overlayfs snapshotter does: an index would tie an upper directory to its lower ones. And inode numbers of one
    // device, though each mounted layer is one of its own.
    let options = [("index", "index=off"), ("xino_auto", "xino=on")];
    options.iter().filter(|(name, _)| has(name)).map(|(_, option)| (*option).to_owned()).collect()
}

/// Takes the mounts that stand below a store out of `wanted`, and unmounts those that are not in it; how many those were.
fn take_over(disk: &Disk, wanted: &mut BTreeMap<PathBuf, u64>) -> Result<u64, LayersError> {
    let root = disk.root();
    let real = fs::canonicalize(root).map_err(io_error("look at", root))?;
    let standing = mounts::standing(root).map_err(io_error("list the mounts below", root))?;
    let mut stale = 0;
    for point in standing.iter().rev() {
        let inside = point.strip_prefix(&real).unwrap_or(point);
        if wanted.remove(&root.join(inside)).is_none() {
            mounts::unmount(point).map_err(io_error("unmount", point))?;
            stale += 1;
        }
    }
    Ok(stale)
}

/// All snapshots below one directory.
#[derive(Debug)]
pub struct Layers {
    disk: Disk,
    options: Options,
    catalog: Mutex<Catalog>,
    overlay_options: Vec<String>,
    /// Committed snapshots whose blob should be mounted and is not, since that failed when the store was opened.
    unmounted: Mutex<BTreeSet<u64>>,
}

impl Layers {
    /// Opens the store at `root`, or makes one; removes what a killed daemon left half-way.
    ///
    /// # Errors
    /// [`LayersError::Locked`], [`LayersError::Record`], [`LayersError::Io`].
    pub fn open(root: &Path, mut options: Options) -> Result<(Self, Recovered), LayersError> {
        options.build.root_time_of_entries = true;
        let disk = Disk::open(root, options.durable)?;
        let mut recovered = Recovered::default();
        let mut catalog = Catalog::new();
        let mut mounted = BTreeMap::new();
        for record in disk.records()? {
            if record.info.kind == Kind::Committed && record.files == Files::Image {
                mounted.insert(disk.image(record.id), record.id);
            }
            catalog.insert(record);
        }
        // Before any name is removed: what a killed daemon was making or removing may still be mounted.
        let stale = take_over(&disk, &mut mounted)?;
        recovered.swept += stale;
        disk.empty_tmp()?;
        for record in catalog.iter().filter(|record| record.info.kind != Kind::Committed) {
            let id = record.id;
            for path in [disk.blob(id), disk.blob_note(id), disk.image(id)] {
                recovered.swept += u64::from(path.exists());
                remove_all(&path)?;
            }
        }
        for id in disk.snapshot_ids()? {
            if !catalog.iter().any(|record| record.id == id) {
                disk.remove_files(id)?;
                recovered.swept += 1;
            }
        }
        for record in catalog.iter().filter(|record| record.files == Files::Image) {
            disk.remove_directory(record.id)?;
        }
        // After a reboot, of a store on disk.
        let mut unmounted = BTreeSet::new();
        for id in mounted.into_values() {
            if let Err(error) = disk.mount_image(id) {
                tracing::error!(id, error = %error, "a layer cannot be used by runtimes on the host's kernel");
                unmounted.insert(id);
            }
        }
        if options.mount_images {
            match mounts::probe(&disk) {
                Ok(way) => tracing::info!(way = ?way, "layers are mounted from their images"),
                Err(why) => {
                    tracing::warn!(
                        why,
                        "layers stay directories beside their images, and take twice the memory"
                    );
                    options.mount_images = false;
                }
            }
        }
        recovered.snapshots = catalog.len();
        let (catalog, unmounted) = (Mutex::new(catalog), Mutex::new(unmounted));
        Ok((Self { disk, options, catalog, overlay_options: overlay_options(), unmounted }, recovered))
    }

    fn lock(&self) -> MutexGuard<'_, Catalog> {
        // A panic while the lock was held cannot leave the catalogue half-changed: its methods do not panic between steps.
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.disk.root()
    }

    /// Makes an active snapshot or a view; returns its mounts.
    ///
    /// # Errors
    /// [`LayersError`]; nothing is left behind.
    ///
    /// # Panics
    /// `kind` is `Committed`.
    pub fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<FsMount>, LayersError> {
        assert!(kind != Kind::Committed, "committed snapshots come from commit");
        let mut catalog = self.lock();
        catalog.check_create(key, parent, &labels)?;
        self.check_space(&catalog)?;
        let id = catalog.take_id();
        let now = Timestamp::now();
        let mut info =
            Info { key: key.to_owned(), parent: parent.to_owned(), kind, created: now, updated: now, labels };
        normalise(&mut info);
        let record = Record {
            version: VERSION,
            id,
            info,
            usage: Usage::default(),
            files: Files::Directory,
            blob: None,
        };
        self.check_mounted(&catalog, &record)?;
        let parent_fs = catalog.parents(&record)?.first().map(|parent| self.disk.files(parent));
        let made = self
            .disk
            .make_snapshot(id, parent_fs.as_deref(), kind == Kind::Active)
            .and_then(|()| self.disk.write_record(&record));
        if let Err(error) = made {
            let _ = remove_all(&self.disk.tmp("new", id));
            let _ = self.disk.remove_files(id);
            return Err(self.explain(error, &catalog));
        }
        let mounts = self.mounts_of(&catalog, &record)?;
        catalog.insert(record);
        Ok(mounts)
    }

    /// The mounts of an active snapshot or a view.
    ///
    /// # Errors
    /// [`LayersError::NotFound`], [`LayersError::NotMountable`].
    pub fn mounts(&self, key: &str) -> Result<Vec<FsMount>, LayersError> {
        let catalog = self.lock();
        let record = catalog.get(key)?;
        if record.info.kind == Kind::Committed {
            return Err(LayersError::NotMountable { key: key.to_owned() });
        }
        self.check_mounted(&catalog, record)?;
        self.mounts_of(&catalog, record)
    }

    /// Tries again to mount what could not be mounted at the start and `record` needs.
    fn check_mounted(&self, catalog: &Catalog, record: &Record) -> Result<(), LayersError> {
        let mut unmounted = self.unmounted.lock().unwrap_or_else(PoisonError::into_inner);
        if unmounted.is_empty() {
            return Ok(());
        }
        for parent in catalog.parents(record)? {
            if unmounted.contains(&parent.id) {
                self.disk.mount_image(parent.id)?;
                unmounted.remove(&parent.id);
            }
        }
        Ok(())
    }

    /// One directory is a bind mount, several are an overlay.
    fn mounts_of(&self, catalog: &Catalog, record: &Record) -> Result<Vec<FsMount>, LayersError> {
        let lower: Vec<PathBuf> =
            catalog.parents(record)?.iter().map(|parent| self.disk.files(parent)).collect();
        let view = record.info.kind == Kind::View;
        let text = |path: &Path| path.display().to_string();
        let alone = match lower.as_slice() {
            [] => Some(self.disk.fs(record.id)),
            [only] if view => Some(only.clone()),
            _ => None,
        };
        if let Some(dir) = alone {
            let options = vec![if view { "ro" } else { "rw" }.to_owned(), "rbind".to_owned()];
            return Ok(vec![FsMount { kind: "bind", source: text(&dir), options }]);
        }
        let mut options = self.overlay_options.clone();
        if !view {
            options.push(format!("workdir={}", text(&self.disk.work(record.id))));
            options.push(format!("upperdir={}", text(&self.disk.fs(record.id))));
        }
        let lower: Vec<String> = lower.iter().map(|dir| text(dir)).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        Ok(vec![FsMount { kind: "overlay", source: "overlay".to_owned(), options }])
    }

    /// Makes the committed snapshot `name` of the active snapshot `key`, and its blob.
    ///
    /// # Errors
    /// [`LayersError`]; `key` stays active.
    pub fn commit(&self, name: &str, key: &str, labels: BTreeMap<String, String>) -> Result<(), LayersError> {
        let active = self.lock().begin_commit(name, key, &labels)?;
        let result = self.commit_reserved(name, &active, labels);
        if let Err(error) = result {
            let _ = self.disk.unmount_image(active.id);
            let _ = remove_all(&self.disk.blob_note(active.id));
            let _ = remove_all(&self.disk.blob(active.id));
            let mut catalog = self.lock();
            catalog.commit_failed(key);
            return Err(self.explain(error, &catalog));
        }
        Ok(())
    }

    fn commit_reserved(
        &self,
        name: &str,
        active: &Record,
        labels: BTreeMap<String, String>,
    ) -> Result<(), LayersError> {
        let id = active.id;
        let fs = self.disk.fs(id);
        let usage = usage::of(&fs).map_err(io_error("count the files of", &fs))?;
        let blob = self.build_blob(name, id)?;
        self.disk.sync_files(id)?;
        let files = if blob.is_some() { self.mount(name, id) } else { Files::Directory };
        let now = Timestamp::now();
        let mut info = Info {
            key: name.to_owned(),
            parent: active.info.parent.clone(),
            kind: Kind::Committed,
            created: now,
            updated: now,
            labels,
        };
        normalise(&mut info);
        let record = Record { version: VERSION, id, info, usage, files, blob };
        {
            let mut catalog = self.lock();
            self.disk.write_record(&record)?;
            catalog.committed(&active.info.key, record);
        }
        // They are needed no more; what is left of them goes with the snapshot.
        let _ = remove_all(&self.disk.work(id));
        if files == Files::Image
            && let Err(error) = self.disk.remove_directory(id)
        {
            tracing::warn!(snapshot = name, error = %error, "files of a layer that is mounted stay for now");
        }
        Ok(())
    }

    /// Mounts the blob of a snapshot that is about to be committed; where that fails, its directory stays.
    fn mount(&self, name: &str, id: u64) -> Files {
        if !self.options.mount_images {
            return Files::Directory;
        }
        match self.disk.mount_image(id) {
            Ok(()) => Files::Image,
            Err(error) => {
                tracing::warn!(snapshot = name, error = %error, "this layer stays a directory beside its image");
                let _ = self.disk.unmount_image(id);
                Files::Directory
            }
        }
    }

    /// Makes the blob of a snapshot's files. `None` if EROFS cannot express them: runtimes on the host's kernel still can use them.
    fn build_blob(&self, name: &str, id: u64) -> Result<Option<BlobRecord>, LayersError> {
        let began = Instant::now();
        let (fs, tmp, place) = (self.disk.fs(id), self.disk.tmp("blob", id), self.disk.blob(id));
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o400).open(&tmp);
        let file = file.map_err(io_error("make", &tmp))?;
        let report = match erofs::build_from_dir(&fs, &file, &self.options.build) {
            Ok(report) => report,
            Err(error) => {
                let _ = remove_all(&tmp);
                return match error {
                    BuildError::Output { source, .. } => Err(io_error("write", &tmp)(source)),
                    BuildError::Source { action, path, source } => {
                        Err(LayersError::Io { action, path, source })
                    }
                    other => {
                        tracing::warn!(snapshot = name, error = %other,
                            "no EROFS image of this layer: guests will have to read it file by file");
                        Ok(None)
                    }
                };
            }
        };
        let checked = check_and_digest(name, &file, report.len_bytes);
        let digest = checked.map_err(|error| {
            let _ = remove_all(&tmp);
            LayersError::Io { action: "check", path: tmp.clone(), source: std::io::Error::other(error) }
        })?;
        let allocated_bytes = file.metadata().map_err(io_error("look at", &tmp))?.blocks() * 512;
        drop(file);
        let digest = digest.to_string();
        let twin = self.twin(&digest);
        let placed = match &twin {
            // Another snapshot has the same bytes: one copy serves both.
            Some(twin) => fs::hard_link(self.disk.blob(*twin), &place)
                .and_then(|()| fs::remove_file(&tmp))
                // It was removed meanwhile.
                .or_else(|_| fs::rename(&tmp, &place)),
            None => fs::rename(&tmp, &place),
        };
        placed.map_err(io_error("make", &place))?;
        let note = Note { version: NOTE_VERSION, digest: digest.clone(), len_bytes: report.len_bytes };
        let text = serde_json::to_vec(&note).unwrap_or_default();
        self.disk.replace(&self.disk.tmp("note", id), &self.disk.blob_note(id), &text)?;
        tracing::info!(
            snapshot = name,
            elapsed_us = began.elapsed().as_micros() as u64,
            bytes = report.len_bytes,
            files = report.regular_files,
            shared = twin.is_some(),
            "layer has its image"
        );
        Ok(Some(BlobRecord { digest, len_bytes: report.len_bytes, allocated_bytes }))
    }

    /// A snapshot whose blob has this digest.
    fn twin(&self, digest: &str) -> Option<u64> {
        let catalog = self.lock();
        let found =
            catalog.iter().find(|record| record.blob.as_ref().is_some_and(|blob| blob.digest == digest));
        found.map(|record| record.id)
    }

    /// Removes a snapshot that nothing is on top of.
    ///
    /// # Errors
    /// [`LayersError::NotFound`], [`LayersError::HasChildren`], [`LayersError::Committing`], [`LayersError::Io`].
    pub fn remove(&self, key: &str) -> Result<(), LayersError> {
        let id = {
            let mut catalog = self.lock();
            let id = catalog.check_remove(key)?.id;
            self.disk.remove_record(id)?;
            catalog.forget(key);
            id
        };
        // It is gone; files that cannot be removed now are removed at the next cleanup.
        if let Err(error) = self.disk.remove_files(id) {
            tracing::warn!(snapshot = key, error = %error, "files of a removed snapshot stay for now");
        }
        Ok(())
    }

    /// What containerd is told of a snapshot.
    ///
    /// # Errors
    /// [`LayersError::NotFound`].
    pub fn stat(&self, key: &str) -> Result<Info, LayersError> {
        self.lock().get(key).map(|record| record.info.clone())
    }

    /// The record of a snapshot.
    ///
    /// # Errors
    /// [`LayersError::NotFound`].
    pub fn record(&self, key: &str) -> Result<Record, LayersError> {
        self.lock().get(key).cloned()
    }

    /// Changes labels; see [`Catalog::updated`].
    ///
    /// # Errors
    /// [`LayersError::NotFound`], [`LayersError::Invalid`], [`LayersError::Io`].
    pub fn update(
        &self,
        key: &str,
        labels: &BTreeMap<String, String>,
        paths: &[String],
    ) -> Result<Info, LayersError> {
        let mut catalog = self.lock();
        let mut record = catalog.updated(key, labels, paths)?;
        record.info.updated = Timestamp::now();
        self.disk.write_record(&record).map_err(|error| self.explain(error, &catalog))?;
        let info = record.info.clone();
        catalog.insert(record);
        Ok(info)
    }

    /// The snapshots that any of `filters` matches, in order of their keys.
    ///
    /// # Errors
    /// [`LayersError::Invalid`].
    pub fn list(&self, filters: &[String]) -> Result<Vec<Info>, LayersError> {
        let filters = filters.iter().map(|text| Filter::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let catalog = self.lock();
        let matching = catalog.iter().map(|record| &record.info).filter(|info| any_matches(&filters, info));
        Ok(matching.cloned().collect())
    }

    /// All records.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().iter().cloned().collect()
    }

    /// What a snapshot takes without its parents: counted now if it is active; nothing if it is a view.
    ///
    /// # Errors
    /// [`LayersError::NotFound`], [`LayersError::Io`].
    pub fn usage(&self, key: &str) -> Result<Usage, LayersError> {
        let record = self.record(key)?;
        match record.info.kind {
            Kind::Committed => Ok(record.takes()),
            Kind::View => Ok(Usage::default()),
            Kind::Active => {
                let fs = self.disk.fs(record.id);
                usage::of(&fs).map_err(io_error("count the files of", &fs))
            }
        }
    }

    /// Removes files of snapshots that are gone.
    ///
    /// # Errors
    /// [`LayersError::Io`].
    pub fn cleanup(&self) -> Result<u64, LayersError> {
        self.disk.empty_trash()
    }

    /// The file system below the store.
    ///
    /// # Errors
    /// [`LayersError::Io`].
    pub fn space(&self) -> Result<Space, LayersError> {
        let root = self.root();
        let stat = rustix::fs::statvfs(root).map_err(io_error("ask for the space of", root))?;
        Ok(Space { size_bytes: stat.f_blocks * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
    }

    fn check_space(&self, catalog: &Catalog) -> Result<(), LayersError> {
        let space = self.space()?;
        if space.size_bytes > 0 && space.free_bytes < self.options.reserve_bytes {
            return Err(self.full(space, catalog));
        }
        Ok(())
    }

    /// Says what could be done when an operation failed for lack of space.
    fn explain(&self, error: LayersError, catalog: &Catalog) -> LayersError {
        match self.space() {
            Ok(space) if error.is_full() => self.full(space, catalog),
            _ => error,
        }
    }

    fn full(&self, space: Space, catalog: &Catalog) -> LayersError {
        let leaves =
            catalog.iter().filter(|r| r.info.kind == Kind::Committed && catalog.is_leaf(&r.info.key));
        let beside = |r: &Record| match (&r.blob, r.files) {
            (Some(blob), Files::Directory) => blob.allocated_bytes,
            _ => 0,
        };
        let bytes = |r: &Record| r.takes().size_bytes + beside(r);
        let advice = leaves.max_by_key(|record| bytes(record)).map(|record| {
            let mib = bytes(record).div_ceil(1 << 20);
            format!("; the largest layer that nothing is on top of is {} ({mib} MiB)", record.info.key)
        });
        LayersError::Full {
            path: self.root().to_owned(),
            used_bytes: space.size_bytes.saturating_sub(space.free_bytes),
            size_bytes: space.size_bytes,
            advice: advice.unwrap_or_default(),
        }
    }
}
