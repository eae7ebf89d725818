//! Why an operation on snapshots was refused or failed.

use std::io;
use std::path::{Path, PathBuf};

use super::record::Kind;

/// What kind of answer an error is; the daemon makes gRPC codes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no such snapshot.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The request makes no sense.
    InvalidArgument,
    /// The snapshot is not in the state for this.
    FailedPrecondition,
    /// The store is full.
    ResourceExhausted,
    /// The store failed.
    Internal,
}

/// An operation on snapshots was refused or failed. Texts name the snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayersError {
    /// No such key or name.
    #[error("snapshot {key} does not exist")]
    NotFound {
        /// Which.
        key: String,
    },
    /// The parent is missing.
    #[error("parent snapshot {parent} does not exist")]
    NoParent {
        /// Which.
        parent: String,
    },
    /// The key or name is taken.
    #[error("snapshot {key} already exists")]
    AlreadyExists {
        /// Which.
        key: String,
    },
    /// The layer that an unpacker is about to make is here already (label `containerd.io/snapshot.ref`).
    #[error("snapshot {key} already exists: {target} is committed here as {name}")]
    LayerExists {
        /// The key that was asked for.
        key: String,
        /// The layer's reference.
        target: String,
        /// The committed snapshot that holds it.
        name: String,
    },
    /// Only committed snapshots can be parents.
    #[error("parent snapshot {parent} is not committed but {kind}")]
    ParentNotCommitted {
        /// Which.
        parent: String,
        /// What it is.
        kind: Kind,
    },
    /// Only active snapshots can be committed.
    #[error("snapshot {key} is not active but {kind}")]
    NotActive {
        /// Which.
        key: String,
        /// What it is.
        kind: Kind,
    },
    /// Committed snapshots have no mounts.
    #[error("snapshot {key} is committed: only active snapshots and views have mounts")]
    NotMountable {
        /// Which.
        key: String,
    },
    /// It has children.
    #[error("cannot remove snapshot {key}: {child} is on top of it")]
    HasChildren {
        /// Which.
        key: String,
        /// One of them.
        child: String,
    },
    /// It is being committed.
    #[error("snapshot {key} is being committed")]
    Committing {
        /// Which.
        key: String,
    },
    /// A key, name, label or field that is not allowed.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// No space is left.
    #[error(
        "the image store {path} is full: {used_bytes} of {size_bytes} bytes are used{advice}; remove images that are not used (crictl rmi --prune) or raise the size of the store", path = .path.display()
    )]
    Full {
        /// The store.
        path: PathBuf,
        /// Bytes used.
        used_bytes: u64,
        /// Its size.
        size_bytes: u64,
        /// What could go, with a leading `; `, or nothing.
        advice: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}", path = .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record cannot be read.
    #[error("the record {path} is damaged: {what}", path = .path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another daemon uses the directory.
    #[error("another seuss-snapshotter uses {path}", path = .path.display())]
    Locked {
        /// Which.
        path: PathBuf,
    },
}

impl LayersError {
    /// What kind of answer this is.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } | Self::NoParent { .. } => Reason::NotFound,
            Self::AlreadyExists { .. } | Self::LayerExists { .. } => Reason::AlreadyExists,
            Self::ParentNotCommitted { .. } | Self::Invalid { .. } => Reason::InvalidArgument,
            Self::NotActive { .. }
            | Self::NotMountable { .. }
            | Self::HasChildren { .. }
            | Self::Committing { .. } => Reason::FailedPrecondition,
            Self::Full { .. } => Reason::ResourceExhausted,
            Self::Io { .. } | Self::Record { .. } | Self::Locked { .. } => Reason::Internal,
        }
    }

    /// Whether the file system had no space left.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// Makes a [`LayersError::Io`] of an error.
pub(super) fn io_error<E: Into<io::Error>>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> LayersError + use<E> {
    let path = path.to_owned();
    move |source| LayersError::Io { action, path, source: source.into() }
}
