//! A local store takes in what was made elsewhere: snapshots and images whose bytes come from a reader that nobody trusts.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::draft::DRAFT_PREFIX;
use super::error::SnapshotError;
use super::manifest::{ImageRef, Manifest};
use super::reader::{MANIFEST, PAGES, Snapshot, TABLES};
use super::store::Store;
use crate::erofs;

impl Store {
    /// Takes a snapshot in: `pages` and `tables` are read as far as `manifest` says, and must be what it says. One that is there stays as it is, and
    /// nothing is read.
    ///
    /// # Errors
    /// [`SnapshotError`]: its parent is not here or does not fit, the bytes are others, the store is full. Nothing is left behind.
    pub fn receive(
        &self,
        manifest: &Manifest,
        pages: &mut dyn Read,
        tables: &mut dyn Read,
    ) -> Result<Snapshot, SnapshotError> {
        let (bytes, id) = manifest.encode();
        if let Ok(there) = self.snapshot(id) {
            return Ok(there);
        }
        if let Some(parent) = manifest.parent {
            let parent = self.snapshot(parent)?;
            if !manifest.builds_on(parent.manifest()) {
                let what = format!("it does not fit its parent {}", parent.id());
                return Err(SnapshotError::damaged(id.to_string(), what));
            }
        }
        let snapshots = self.snapshots_dir();
        let draft = tempfile::Builder::new()
            .prefix(DRAFT_PREFIX)
            .tempdir_in(&snapshots)
            .map_err(SnapshotError::io("make a directory in", &snapshots))?;
        let dir = draft.path();
        let lock = File::open(dir).map_err(SnapshotError::io("open", dir))?;
        // Nobody else knows of it: the lock is free.
        let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        let files: [(&str, &mut dyn Read, u64); 3] = [
            (PAGES, pages, manifest.pages.len_bytes),
            (TABLES, tables, manifest.tables.len_bytes),
            (MANIFEST, &mut &bytes[..], bytes.len() as u64),
        ];
        for (name, source, len_bytes) in files {
            let path = dir.join(name);
            let mut file = File::create_new(&path).map_err(SnapshotError::io("create", &path))?;
            copy(source, &mut file, len_bytes, &path, |_| {})?;
            file.sync_data().map_err(SnapshotError::io("write", &path))?;
        }
        // Lengths, then digests: what gets a name is what its manifest says.
        Snapshot::open(dir)?.verify()?;
        let target = snapshots.join(id.to_string());
        match fs::rename(dir, &target) {
            // Somebody else was faster with the same one.
            Err(_) if target.exists() => {}
            renamed => renamed.map_err(SnapshotError::io("rename to", &target))?,
        }
        Snapshot::open(&target)
    }

    /// Takes an image blob in: `source` is read as far as `image` says, and must be what it says, and a sound EROFS image. One that is there stays as it
    /// is, and nothing is read.
    ///
    /// # Errors
    /// [`SnapshotError`]: the bytes are others, or the store is full. Nothing is left behind.
    pub fn receive_image(&self, image: &ImageRef, source: &mut dyn Read) -> Result<(), SnapshotError> {
        let path = self.image_path(image);
        if path.exists() {
            return Ok(());
        }
        let dir = self.images_dir();
        let mut temporary =
            tempfile::NamedTempFile::new_in(&dir).map_err(SnapshotError::io("make a file in", &dir))?;
        let mut hasher = Sha256::new();
        copy(source, temporary.as_file_mut(), image.len_bytes, &path, |bytes| hasher.update(bytes))?;
        let digest: [u8; 32] = hasher.finalize().into();
        if digest != image.digest {
            return Err(SnapshotError::damaged(path, "its digest does not match"));
        }
        erofs::check(temporary.as_file(), image.len_bytes)
            .map_err(|error| SnapshotError::damaged(&path, error.to_string()))?;
        rustix::fs::fchmod(temporary.as_file().as_fd(), rustix::fs::Mode::from_raw_mode(0o444))
            .map_err(|errno| SnapshotError::io("write", &path)(errno.into()))?;
        temporary.persist(&path).map_err(|error| SnapshotError::io("rename to", &path)(error.error))?;
        Ok(())
    }
}

/// Copies exactly `len_bytes` bytes.
fn copy(
    source: &mut dyn Read,
    file: &mut File,
    len_bytes: u64,
    path: &Path,
    mut each: impl FnMut(&[u8]),
) -> Result<(), SnapshotError> {
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < len_bytes {
        let want = (len_bytes - done).min(buffer.len() as u64) as usize;
        let got = match source.read(&mut buffer[..want]) {
            Ok(0) => {
                return Err(SnapshotError::Truncated {
                    path: path.to_owned(),
                    found: done,
                    wanted: len_bytes,
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            got => got.map_err(SnapshotError::io("read what becomes", path))?,
        };
        each(&buffer[..got]);
        file.write_all(&buffer[..got]).map_err(SnapshotError::io("write", path))?;
        done += got as u64;
    }
    Ok(())
}
