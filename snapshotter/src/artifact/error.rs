//! Why snapshots cannot be exported or imported.

use std::io;
use std::path::PathBuf;

use super::signature::KeyError;
use crate::memory::ClientError;
use crate::oci::OciError;
use crate::snapshot::{SnapshotError, SnapshotId};

/// An export or import failed. Messages name the archive, the blob or the snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// The archive cannot be written.
    #[error("cannot write the archive: {0}")]
    Write(#[source] io::Error),
    /// A file that is exported is not what its manifest says.
    #[error("snapshot {id} is damaged: the digest of its {part} does not match")]
    Source {
        /// The snapshot.
        id: SnapshotId,
        /// `pages`, `tables`, `image`.
        part: &'static str,
    },
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] OciError),
    /// It is an archive of something else.
    #[error("{} holds no memory snapshots: {what}", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// What there is instead.
        what: String,
    },
    /// Nobody vouches for it.
    #[error(
        "{} is not signed: whoever starts a clone of its snapshots runs its author's code. Have it signed (`seussctl snapshot export --sign KEYFILE`), or, if you \
         know where it comes from, use --allow-unsigned", path.display()
    )]
    Unsigned {
        /// Which.
        path: PathBuf,
    },
    /// Nobody is trusted.
    #[error(
        "{} is signed, but no key is trusted here: put its author's public key into {places} as NAME.pub, or name it with --key", path.display()
    )]
    NoKeys {
        /// Which archive.
        path: PathBuf,
        /// Where keys were looked for.
        places: String,
    },
    /// Whoever vouches for it is not trusted, or not for this.
    #[error("{}: {what}; nothing of it was taken in", path.display())]
    Untrusted {
        /// Which archive.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A part of the archive is not what it must be.
    #[error("{}: {name}: {what}", path.display())]
    Damaged {
        /// Which archive.
        path: PathBuf,
        /// Document, blob or snapshot.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A snapshot, in the store or in the archive.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The node's store refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A snapshot of the archive cannot be taken in.
    #[error("cannot take in snapshot {id} of {}: {source}", path.display())]
    Refused {
        /// Which snapshot.
        id: SnapshotId,
        /// Of which archive.
        path: PathBuf,
        /// Why.
        source: Box<Self>,
    },
}
