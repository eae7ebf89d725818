//! Why a snapshot cannot be read, written or found.

use std::io;
use std::path::PathBuf;

use super::manifest::SnapshotId;

/// An operation on snapshots failed. Messages name the snapshot or the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file system said no.
    #[error("cannot {operation} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a manifest at all.
    #[error("{path} is not a snapshot's manifest (no magic number)", path = .path.display())]
    NotASnapshot {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of this program.
    #[error("{path} has format version {found}, this program reads version {known}: take the snapshot anew", path = .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version known here.
        known: u32,
    },
    /// Cut off.
    #[error("{path} is cut off: {found} bytes, {wanted} expected", path = .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes there.
        found: u64,
        /// Bytes wanted.
        wanted: u64,
    },
    /// Bytes differ from what was written.
    #[error("{path} is damaged: {what}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// No snapshot of this name.
    #[error("no snapshot {name:?} in {store}", store = .store.display())]
    NotFound {
        /// Name, id or prefix of an id.
        name: String,
        /// The store.
        store: PathBuf,
    },
    /// Several snapshots of this name.
    #[error("{name:?} names {count} snapshots in {store}: use an id", store = .store.display())]
    Ambiguous {
        /// Name or prefix of an id.
        name: String,
        /// How many.
        count: usize,
        /// The store.
        store: PathBuf,
    },
    /// It cannot be removed while others build on it.
    #[error("snapshot {id} has {count} children: remove them first (--recursive does)")]
    HasChildren {
        /// The snapshot.
        id: SnapshotId,
        /// How many.
        count: usize,
    },
    /// A limit of the format.
    #[error("the snapshot is too {what}: {found}, at most {most} are possible")]
    TooLarge {
        /// deep, large.
        what: &'static str,
        /// What it would have.
        found: u64,
        /// The limit.
        most: u64,
    },
}

impl SnapshotError {
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    pub(crate) fn damaged(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}
