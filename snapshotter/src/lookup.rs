//! How a shim finds the blobs of a container's layers: by the directories that the snapshotter's mounts name.
//!
//! A committed snapshot's directory is `SNAPSHOT/image` (its blob, mounted) or `SNAPSHOT/fs`, its blob `SNAPSHOT/layer.erofs`, described by `SNAPSHOT/layer.json`. So whoever
//! sees the mounts can open the blobs read-only, without asking the daemon and also while it restarts; a descriptor keeps its blob
//! when the snapshot is removed. decisions/0004 says what else was considered.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::beneath::{Dir, Way};
use crate::digest::Digest;

/// Description of a layer's blob, in its snapshot's directory.
const NOTE: &str = "layer.json";
/// A layer's blob, in its snapshot's directory.
const BLOB: &str = "layer.erofs";

/// Version of `layer.json`.
pub const NOTE_VERSION: u32 = 1;

/// Content of `layer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// [`NOTE_VERSION`].
    pub version: u32,
    /// sha256 of the blob, `sha256:HEX`.
    pub digest: String,
    /// Its length.
    pub len_bytes: u64,
}

/// Name of the file in the store's directory that says where the daemon serves memory snapshots.
pub const SERVICE_NOTE: &str = "service.json";

/// Content of [`SERVICE_NOTE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNote {
    /// [`NOTE_VERSION`].
    pub version: u32,
    /// Socket of the store of memory snapshots, an absolute path.
    pub store_socket: PathBuf,
}

/// Where the daemon that keeps the layer in `dir` serves memory snapshots; `None` if it does not say so.
///
/// # Errors
/// [`LookupError`]: it says so in a file that must not be used.
pub fn store_socket(dir: &Path) -> Result<Option<PathBuf>, LookupError> {
    // ROOT/snapshots/ID/image
    let Some(root) = dir.ancestors().nth(3) else { return Ok(None) };
    let Some(root) = open_dir(root)? else { return Ok(None) };
    let path = root.path().join(SERVICE_NOTE);
    let Some((file, _)) = open(&root, SERVICE_NOTE)? else { return Ok(None) };
    let unfit = |what: String| LookupError::Unfit { path: path.clone(), what };
    let note: ServiceNote =
        serde_json::from_reader(io::Read::take(file, 64 << 10)).map_err(|error| unfit(error.to_string()))?;
    if note.version != NOTE_VERSION || !note.store_socket.is_absolute() {
        return Err(unfit(format!("version {}, socket {}", note.version, note.store_socket.display())));
    }
    Ok(Some(note.store_socket))
}

/// A layer's blob, open for reading.
#[derive(Debug)]
pub struct LayerBlob {
    /// The blob.
    pub file: File,
    /// Its length.
    pub len_bytes: u64,
    /// Its sha256.
    pub digest: Digest,
    /// Where it is.
    pub path: PathBuf,
}

/// Why a layer's blob cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} cannot be used: {what}", path = .path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The blob of the layer whose files are in `dir`; `None` if its snapshotter keeps none (`dir` belongs to another snapshotter, or EROFS
/// cannot express the layer).
///
/// # Errors
/// [`LookupError`]: there is one, but it must not be used.
pub fn layer_blob(dir: &Path) -> Result<Option<LayerBlob>, LookupError> {
    let ours = dir.file_name().is_some_and(|name| name == "image" || name == "fs");
    let Some(snapshot) = dir.parent().filter(|_| ours) else { return Ok(None) };
    // One descriptor for both files: they are the same snapshot's, whatever happens to its name meanwhile.
    let Some(snapshot) = open_dir(snapshot)? else { return Ok(None) };
    let path = |name: &str| snapshot.path().join(name);
    let Some((note, _)) = open(&snapshot, NOTE)? else { return Ok(None) };
    let unfit = |name: &str, what: String| LookupError::Unfit { path: path(name), what };
    let note: Note = serde_json::from_reader(io::Read::take(note, 64 << 10))
        .map_err(|error| unfit(NOTE, error.to_string()))?;
    if note.version != NOTE_VERSION {
        return Err(unfit(NOTE, format!("version {}", note.version)));
    }
    let digest = note.digest.parse().map_err(|error| unfit(NOTE, format!("{error}")))?;
    let Some((file, len_bytes)) = open(&snapshot, BLOB)? else {
        return Err(unfit(BLOB, "it is missing".into()));
    };
    if len_bytes != note.len_bytes {
        return Err(unfit(BLOB, format!("it has {len_bytes} bytes instead of {}", note.len_bytes)));
    }
    Ok(Some(LayerBlob { file, len_bytes, digest, path: path(BLOB) }))
}

/// The directory at `path`, which containerd has named.
fn open_dir(path: &Path) -> Result<Option<Dir>, LookupError> {
    match Dir::open(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(LookupError::Io { path: path.to_owned(), source }),
    }
}

/// Opens a file of `dir` that nobody but its owner, who must be root or this user, can write.
fn open(dir: &Dir, name: &str) -> Result<Option<(File, u64)>, LookupError> {
    let path = || dir.path().join(name);
    let pinned = match dir.pin_link(Path::new(name), Way::NoLinks) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        pinned => pinned.map_err(|source| LookupError::Io { path: path(), source })?,
    };
    let stat = pinned.stat();
    let own = stat.st_uid == 0 || stat.st_uid == rustix::process::geteuid().as_raw();
    if pinned.kind() != FileType::RegularFile || !own || stat.st_mode & 0o022 != 0 {
        let what =
            format!("a {:?} of user {} with mode {:o}", pinned.kind(), stat.st_uid, stat.st_mode & 0o7777);
        return Err(LookupError::Unfit { path: path(), what });
    }
    let len_bytes = stat.st_size.cast_unsigned();
    let file = pinned.open_regular().map_err(|source| LookupError::Io { path: path(), source })?;
    Ok(Some((file, len_bytes)))
}
