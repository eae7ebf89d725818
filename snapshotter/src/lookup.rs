//! How a shim finds the blobs of a container's layers: by the directories that the snapshotter's mounts name.
//!
//! A committed snapshot's directory is `SNAPSHOT/image` (its blob, mounted) or `SNAPSHOT/fs`, its blob `SNAPSHOT/layer.erofs`, described by `SNAPSHOT/layer.json`. So whoever
//! sees the mounts can open the blobs read-only, without asking the daemon and also while it restarts; a descriptor keeps its blob
//! when the snapshot is removed. decisions/0004 says what else was considered.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

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
    let path = root.join(SERVICE_NOTE);
    let Some((file, _)) = open(&path)? else { return Ok(None) };
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
    let Some((note, _)) = open(&snapshot.join("layer.json"))? else { return Ok(None) };
    let path = snapshot.join("layer.erofs");
    let unfit = |path: &Path, what: String| LookupError::Unfit { path: path.to_owned(), what };
    let note: Note = serde_json::from_reader(io::Read::take(note, 64 << 10))
        .map_err(|error| unfit(&snapshot.join("layer.json"), error.to_string()))?;
    if note.version != NOTE_VERSION {
        return Err(unfit(&snapshot.join("layer.json"), format!("version {}", note.version)));
    }
    let digest = note.digest.parse().map_err(|error| unfit(&path, format!("{error}")))?;
    let Some((file, len_bytes)) = open(&path)? else {
        return Err(unfit(&path, "it is missing".into()));
    };
    if len_bytes != note.len_bytes {
        return Err(unfit(&path, format!("it has {len_bytes} bytes instead of {}", note.len_bytes)));
    }
    Ok(Some(LayerBlob { file, len_bytes, digest, path }))
}

/// Opens a file that nobody but its owner, who must be root or this user, can write.
fn open(path: &Path) -> Result<Option<(File, u64)>, LookupError> {
    let fail = |source| LookupError::Io { path: path.to_owned(), source };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(fail)?,
    };
    let metadata = file.metadata().map_err(fail)?;
    let own = metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_file() || !own || metadata.mode() & 0o022 != 0 {
        let what = format!("a file of user {} with mode {:o}", metadata.uid(), metadata.mode());
        return Err(LookupError::Unfit { path: path.to_owned(), what });
    }
    Ok(Some((file, metadata.len())))
}
