//! Where a store keeps what: directories, record files, their order of writing. Knows no rules.
//!
//! ```text
//! ROOT/lock                        held by the daemon
//! ROOT/records/ID.json             a snapshot's record: it exists if and only if this file does
//! ROOT/snapshots/ID/fs             its files as they are written; the upper directory of overlays
//! ROOT/snapshots/ID/image          its files once it is committed: its blob is mounted here, and `fs` is gone
//! ROOT/snapshots/ID/work           overlayfs's, until it is committed
//! ROOT/snapshots/ID/layer.erofs    the blob of a committed snapshot
//! ROOT/snapshots/ID/layer.json     its digest and length, for [`crate::lookup`]
//! ROOT/tmp/…                       what is being made or removed; emptied at start
//! ```
//! A record is replaced by rename, and is the last thing written and the first thing removed: whatever a killed daemon leaves is either
//! complete or has no record, and then it is swept. On tmpfs nothing needs fsync; on disk `durable` syncs files before their names.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::{LayersError, io_error};
use super::mounts;
use super::record::{Files, Record, VERSION};

/// The store's directories.
#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
    durable: bool,
    _lock: File,
}

impl Disk {
    /// Makes the directories where they are missing, and takes the lock.
    pub(super) fn open(root: &Path, durable: bool) -> Result<Self, LayersError> {
        for dir in [root.to_owned(), root.join("records"), root.join("snapshots"), root.join("tmp")] {
            make_dir(&dir, 0o700)?;
        }
        let path = root.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(io_error("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LayersError::Locked { path: root.to_owned() });
            }
            result => result.map_err(io_error("lock", &path))?,
        }
        Ok(Self { root: root.to_owned(), durable, _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn snapshot(&self, id: u64) -> PathBuf {
        self.root.join("snapshots").join(id.to_string())
    }

    pub(super) fn fs(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("fs")
    }

    /// Where its blob is mounted.
    pub(super) fn image(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("image")
    }

    /// Where the files of a committed snapshot are.
    pub(super) fn files(&self, record: &Record) -> PathBuf {
        match record.files {
            Files::Directory => self.fs(record.id),
            Files::Image => self.image(record.id),
        }
    }

    pub(super) fn work(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("work")
    }

    pub(super) fn blob(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("layer.erofs")
    }

    pub(super) fn blob_note(&self, id: u64) -> PathBuf {
        self.snapshot(id).join("layer.json")
    }

    /// A path in `tmp`; `what` and `id` together are used once at a time.
    pub(super) fn tmp(&self, what: &str, id: u64) -> PathBuf {
        self.root.join("tmp").join(format!("{what}-{id}"))
    }

    fn record(&self, id: u64) -> PathBuf {
        self.root.join("records").join(format!("{id}.json"))
    }

    /// Makes the directories of a new snapshot; `like` is the directory whose owner and mode its root gets.
    pub(super) fn make_snapshot(
        &self,
        id: u64,
        like: Option<&Path>,
        writable: bool,
    ) -> Result<(), LayersError> {
        let new = self.tmp("new", id);
        make_dir(&new, 0o700)?;
        let fs = new.join("fs");
        make_dir(&fs, 0o755)?;
        if writable {
            make_dir(&new.join("work"), 0o711)?;
        }
        if let Some(like) = like {
            let metadata = fs::metadata(like).map_err(io_error("read the owner of", like))?;
            let set = std::os::unix::fs::chown(&fs, Some(metadata.uid()), Some(metadata.gid()))
                .and_then(|()| fs::set_permissions(&fs, Permissions::from_mode(metadata.mode() & 0o7777)));
            set.map_err(io_error("set owner and mode of", &fs))?;
        }
        let place = self.snapshot(id);
        fs::rename(&new, &place).map_err(io_error("make", &place))
    }

    /// Writes a record: from now on the snapshot is there, or is what the record says.
    pub(super) fn write_record(&self, record: &Record) -> Result<(), LayersError> {
        let text = serde_json::to_vec(record)
            .map_err(|error| LayersError::Record { path: self.record(record.id), what: error.to_string() })?;
        self.replace(&self.tmp("record", record.id), &self.record(record.id), &text)
    }

    /// Writes `bytes` to `path` by way of `tmp`.
    pub(super) fn replace(&self, tmp: &Path, path: &Path, bytes: &[u8]) -> Result<(), LayersError> {
        let write = || {
            let mut file =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(tmp)?;
            file.write_all(bytes)?;
            if self.durable {
                file.sync_all()?;
            }
            fs::rename(tmp, path)?;
            self.sync_parent(path)
        };
        write().map_err(io_error("write", path)).inspect_err(|_| {
            let _ = fs::remove_file(tmp);
        })
    }

    /// Makes names in the directory of `path` durable, where that is wanted.
    fn sync_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if self.durable => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// Makes everything below a snapshot durable, where that is wanted (syncfs(2)).
    pub(super) fn sync_files(&self, id: u64) -> Result<(), LayersError> {
        if !self.durable {
            return Ok(());
        }
        let dir = self.snapshot(id);
        let file = File::open(&dir).map_err(io_error("open", &dir))?;
        rustix::fs::syncfs(&file).map_err(io_error("sync", &dir))
    }

    /// Removes a record: from now on the snapshot is not there.
    pub(super) fn remove_record(&self, id: u64) -> Result<(), LayersError> {
        let path = self.record(id);
        fs::remove_file(&path).and_then(|()| self.sync_parent(&path)).map_err(io_error("remove", &path))
    }

    /// Mounts a committed snapshot's blob.
    pub(super) fn mount_image(&self, id: u64) -> Result<(), LayersError> {
        let target = self.image(id);
        make_dir(&target, 0o755)?;
        mounts::mount(&self.blob(id), &target)
            .map(drop)
            .map_err(io_error("mount the image of the layer on", &target))
    }

    /// Undoes [`Self::mount_image`].
    pub(super) fn unmount_image(&self, id: u64) -> Result<(), LayersError> {
        let target = self.image(id);
        mounts::unmount(&target).map_err(io_error("unmount", &target))?;
        remove_all(&target)
    }

    /// Removes the directory that a snapshot's files were written to: they are in its blob.
    pub(super) fn remove_directory(&self, id: u64) -> Result<(), LayersError> {
        let (place, trash) = (self.fs(id), self.tmp("removed-fs", id));
        match fs::rename(&place, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(io_error("remove", &place))?,
        }
        remove_all(&trash)
    }

    /// Removes a snapshot's files, which have no record any more.
    pub(super) fn remove_files(&self, id: u64) -> Result<(), LayersError> {
        self.unmount_image(id)?;
        let (place, trash) = (self.snapshot(id), self.tmp("removed", id));
        match fs::rename(&place, &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result.map_err(io_error("remove", &place))?,
        }
        remove_all(&trash)
    }

    /// Removes what killed or failed operations left. Must not be called while others run.
    pub(super) fn empty_tmp(&self) -> Result<u64, LayersError> {
        let dir = self.root.join("tmp");
        let mut removed = 0;
        for path in list(&dir)? {
            remove_all(&path)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Removes what removals left half-way (their files have no record, and their name in `tmp` is final).
    pub(super) fn empty_trash(&self) -> Result<u64, LayersError> {
        let mut removed = 0;
        for path in list(&self.root.join("tmp"))? {
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"removed-")) {
                remove_all(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Reads all records. Files with other names are left alone, damaged ones are errors: this directory is the daemon's own.
    pub(super) fn records(&self) -> Result<Vec<Record>, LayersError> {
        let mut records = Vec::new();
        for path in list(&self.root.join("records"))? {
            let text = fs::read(&path).map_err(io_error("read", &path))?;
            let damaged = |what: String| LayersError::Record { path: path.clone(), what };
            let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
            if record.version != VERSION {
                return Err(damaged(format!("version {} instead of {VERSION}", record.version)));
            }
            if path != self.record(record.id) {
                return Err(damaged(format!("it is the record of {}", record.id)));
            }
            records.push(record);
        }
        records.sort_by_key(|record| record.id);
        Ok(records)
    }

    /// Numbers of all directories below `snapshots`; names that are no number are removed.
    pub(super) fn snapshot_ids(&self) -> Result<Vec<u64>, LayersError> {
        let mut ids = Vec::new();
        for path in list(&self.root.join("snapshots"))? {
            let name = path.file_name().and_then(|name| name.to_str());
            match name.and_then(|name| name.parse().ok()) {
                Some(id) => ids.push(id),
                None => remove_all(&path)?,
            }
        }
        Ok(ids)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, LayersError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        paths.push(entry.map_err(io_error("list", dir))?.path());
    }
    Ok(paths)
}

/// Makes a directory of exactly this mode, if it is missing.
fn make_dir(dir: &Path, mode: u32) -> Result<(), LayersError> {
    let made = match DirBuilder::new().mode(mode).recursive(mode == 0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    // The process's umask must not show in a container's root directory.
    made.and_then(|()| fs::set_permissions(dir, Permissions::from_mode(mode)))
        .map_err(io_error("make the directory", dir))
}

/// Removes a file or a tree; missing is fine.
pub(super) fn remove_all(path: &Path) -> Result<(), LayersError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}
