//! A directory of blobs: built once per layer, found again by the layer's digest.
//!
//! Files are called `v1-layer-ALGORITHM-HEX-BLOBHEX.erofs` (or `v1-chain-...`): what it is the image of, and the
//! sha256 of the image, so that one atomic rename publishes both. They are written under a temporary name, which a
//! lock protects from being swept by others; SIGKILL leaves at most such a file, which the next [`BlobCache::open`]
//! removes. Several processes may use one directory. Whoever can write to it is trusted, as far as the file's content
//! passes [`crate::erofs::check`].

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{self as rfs, FlockOperation, OFlags};
use tempfile::NamedTempFile;

use super::RootfsError;
use crate::digest::Digest;

/// Version of names and of the images' layout: changes when [`crate::erofs::Writer`] would place things differently.
const VERSION: &str = "v2";
const TEMPORARY_PREFIX: &str = ".building-";
/// A temporary file younger than this is left alone: its builder may not have locked it yet.
const TEMPORARY_AGE: Duration = Duration::from_secs(60);

/// A directory that keeps the blobs of layers.
#[derive(Debug)]
pub struct BlobCache {
    dir: PathBuf,
}

/// What a blob is the image of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key<'a> {
    /// A layer, by its diff id.
    Layer(&'a Digest),
    /// A layer on top of certain others, by its chain id.
    Chain(&'a Digest),
}

impl Key<'_> {
    fn prefix(self) -> String {
        let (kind, digest) = match self {
            Self::Layer(digest) => ("layer", digest),
            Self::Chain(digest) => ("chain", digest),
        };
        format!("{VERSION}-{kind}-{}-{}-", digest.algorithm().as_str(), digest.hex())
    }
}

/// A blob found in the cache, not checked.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) file: File,
    pub(super) len_bytes: u64,
    pub(super) digest: Digest,
    pub(super) path: PathBuf,
}

impl BlobCache {
    /// Opens the directory, makes it where it is missing, and removes what killed builders left.
    ///
    /// # Errors
    /// [`RootfsError::Cache`].
    pub fn open(dir: &Path) -> Result<Self, RootfsError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| {
            RootfsError::Cache { action: "make the directory", path: dir.into(), source }
        })?;
        let cache = Self { dir: dir.into() };
        for path in cache.list()? {
            let temporary =
                path.file_name().is_some_and(|n| n.as_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()));
            if temporary && is_abandoned(&path) {
                cache.remove(&path)?;
            }
        }
        Ok(cache)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn find(&self, key: Key<'_>) -> Result<Option<Cached>, RootfsError> {
        let prefix = key.prefix();
        for path in self.list()? {
            let digest = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_prefix(&prefix))
                .and_then(|rest| rest.strip_suffix(".erofs"))
                .and_then(|hex| format!("sha256:{hex}").parse().ok());
            let Some(digest) = digest else { continue };
            match open_read_only(&path) {
                Ok((file, len_bytes)) => return Ok(Some(Cached { file, len_bytes, digest, path })),
                // Removed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(RootfsError::Cache { action: "open", path, source }),
            }
        }
        Ok(None)
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), RootfsError> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(RootfsError::Cache { action: "remove", path: path.into(), source: e })
            }
            _ => Ok(()),
        }
    }

    /// Starts a blob under a temporary name.
    pub(super) fn start(&self) -> Result<Building<'_>, RootfsError> {
        let fail = |source| RootfsError::Cache { action: "make a file in", path: self.dir.clone(), source };
        let temporary =
            tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(&self.dir).map_err(fail)?;
        rfs::flock(temporary.as_file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| fail(e.into()))?;
        Ok(Building { cache: self, temporary })
    }

    fn list(&self) -> Result<Vec<PathBuf>, RootfsError> {
        let fail = |source| RootfsError::Cache { action: "list", path: self.dir.clone(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            paths.push(entry.map_err(fail)?.path());
        }
        Ok(paths)
    }
}

/// A blob being built; dropped without a commit, it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Building<'c> {
    cache: &'c BlobCache,
    temporary: NamedTempFile,
}

impl Building<'_> {
    pub(super) fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// Publishes the blob and gives it back open for reading only.
    pub(super) fn commit(self, key: Key<'_>, digest: &Digest) -> Result<File, RootfsError> {
        let path = self.cache.dir.join(format!("{}{}.erofs", key.prefix(), digest.hex()));
        let fail = |action| {
            let path = path.clone();
            move |source| RootfsError::Cache { action, path, source }
        };
        let file = self.temporary.as_file();
        file.set_permissions(Permissions::from_mode(0o400)).map_err(fail("protect"))?;
        // The name must not come to mean a file whose data was lost with the power.
        file.sync_data().map_err(fail("write"))?;
        self.temporary.persist(&path).map_err(|e| fail("publish")(e.error))?;
        open_read_only(&path).map(|(file, _)| file).map_err(fail("open"))
    }
}

fn open_read_only(path: &Path) -> io::Result<(File, u64)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Whether a temporary file is old and nobody holds its lock.
fn is_abandoned(path: &Path) -> bool {
    let Ok((file, _)) = open_read_only(path) else { return false };
    let old = file
        .metadata()
        .and_then(|m| m.modified())
        .is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > TEMPORARY_AGE));
    old && rfs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}
