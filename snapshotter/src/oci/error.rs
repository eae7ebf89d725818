//! What can be wrong with an image.

use std::io;
use std::path::PathBuf;

use crate::digest::{Digest, ParseDigestError};
use crate::tarstream::TarError;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// The archive or layout cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither an archive nor a layout.
    #[error("{} is not an OCI image: {reason}", path.display())]
    NotAnImage {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The archive is damaged.
    #[error("{}: {source}", path.display())]
    Archive {
        /// Which.
        path: PathBuf,
        /// Why.
        source: TarError,
    },
    /// A member or blob that the image refers to is not there.
    #[error("the image refers to {name}, which is not in it (was it exported completely?)")]
    Missing {
        /// Name in the layout.
        name: String,
    },
    /// A blob cannot be read.
    #[error("cannot read {name}: {source}")]
    Read {
        /// Name in the layout.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A document is not what it should be.
    #[error("{name} is not a valid document of its kind: {source}")]
    Json {
        /// Name in the layout.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A document is suspiciously large.
    #[error("{name} has {size_bytes} bytes; at most {limit_bytes} are accepted")]
    TooLarge {
        /// Name in the layout.
        name: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A digest of an unknown form.
    #[error("{name}: {source}")]
    BadDigest {
        /// Where it stands.
        name: String,
        /// Why.
        source: ParseDigestError,
    },
    /// Content that is not what the image says.
    #[error("{name} is damaged: its content has the digest {found}, the image says {expected}")]
    DigestMismatch {
        /// Name in the layout.
        name: String,
        /// What the image says.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Content of another size than the image says.
    #[error("{name} is damaged: it has {found_bytes} bytes, the image says {expected_bytes}")]
    SizeMismatch {
        /// Name in the layout.
        name: String,
        /// What the image says.
        expected_bytes: u64,
        /// What is there.
        found_bytes: u64,
    },
    /// No image for this platform.
    #[error("no image for {wanted} in it; there is: {available}")]
    NoPlatform {
        /// What was looked for.
        wanted: &'static str,
        /// What there is.
        available: String,
    },
    /// Several images and none chosen.
    #[error("several images in it; name one of: {available}")]
    Ambiguous {
        /// Their names.
        available: String,
    },
    /// No image of that name.
    #[error("no image named {wanted:?} in it; there is: {available}")]
    NoReference {
        /// What was looked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// Indexes inside indexes inside indexes.
    #[error("image indexes are nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Manifest and configuration contradict each other.
    #[error("the manifest has {layers} layers, the configuration {diff_ids} diff ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A blob of a type that is not supported.
    #[error("{name} is of type {media_type}, which is not supported")]
    MediaType {
        /// Name in the layout.
        name: String,
        /// Its type.
        media_type: String,
    },
}
