//! The store: the catalogue's rules joined with directories on disk.
//!
//! Owns [`Layers`]. Every change goes to disk first, its record last, and then into the catalogue. One lock covers the catalogue; the long part
//! of a commit (reading the layer, writing its blob) runs without it, its key and name reserved meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::catalog::{Catalog, normalise};
use super::disk::{Disk, remove_all};
use super::error::{LayersError, io_error};
use super::filter::{Filter, any_matches};
use super::record::{BlobRecord, Info, Kind, Record, Timestamp, Usage, VERSION};
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

/// All snapshots below one directory.
#[derive(Debug)]
pub struct Layers {
    disk: Disk,
    options: Options,
    catalog: Mutex<Catalog>,
    overlay_options: Vec<String>,
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
        for record in disk.records()? {
            if record.info.kind != Kind::Committed {
                for path in [disk.blob(record.id), disk.blob_note(record.id)] {
                    recovered.swept += u64::from(path.exists());
                    remove_all(&path)?;
                }
            }
            catalog.insert(record);
        }
        for id in disk.snapshot_ids()? {
            if !catalog.iter().any(|record| record.id == id) {
                disk.remove_files(id)?;
                recovered.swept += 1;
            }
        }
        recovered.snapshots = catalog.len();
        // As containerd's overlayfs snapshotter does: an index would tie an upper directory to its lower ones.
        let index = Path::new("/sys/module/overlay/parameters/index").exists();
        let overlay_options = if index { vec!["index=off".to_owned()] } else { Vec::new() };
        Ok((Self { disk, options, catalog: Mutex::new(catalog), overlay_options }, recovered))
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
        let record = Record { version: VERSION, id, info, usage: Usage::default(), blob: None };
        let parent_fs = catalog.parents(&record)?.first().map(|parent| self.disk.fs(parent.id));
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
        self.mounts_of(&catalog, record)
    }

    /// One directory is a bind mount, several are an overlay.
    fn mounts_of(&self, catalog: &Catalog, record: &Record) -> Result<Vec<FsMount>, LayersError> {
        let lower: Vec<PathBuf> =
            catalog.parents(record)?.iter().map(|parent| self.disk.fs(parent.id)).collect();
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
        let record = Record { version: VERSION, id, info, usage, blob };
        {
            let mut catalog = self.lock();
            self.disk.write_record(&record)?;
            catalog.committed(&active.info.key, record);
        }
        // overlayfs needs it no more; what is left of it goes with the snapshot.
        let _ = remove_all(&self.disk.work(id));
        Ok(())
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
        Ok(Some(BlobRecord { digest, len_bytes: report.len_bytes }))
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
            Kind::Committed => Ok(record.usage),
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
        let bytes = |r: &Record| r.usage.size_bytes + r.blob.as_ref().map_or(0, |blob| blob.len_bytes);
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
