//! What is known of a snapshot, as it is kept in its record file.
//!
//! Plain data; JSON, one file per snapshot, read again when the daemon starts. [`VERSION`] is raised when the meaning changes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Version of the record.
pub const VERSION: u32 = 1;

/// What a snapshot is (containerd's docs/snapshotters/README.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Can be read, by one key.
    View,
    /// Can be written, by one key, and committed.
    Active,
    /// Never changes, has a name, can be a parent.
    Committed,
}

impl Kind {
    /// As filters have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A time of the real-time clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
}

impl Timestamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs().cast_signed(), nanos: since.subsec_nanos() }
    }
}

/// What a snapshot takes, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes.
    pub size_bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// The EROFS blob of a committed snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRecord {
    /// Its sha256, `sha256:HEX`.
    pub digest: String,
    /// Its length.
    pub len_bytes: u64,
    /// What it takes of the store: its length without its holes.
    #[serde(default)]
    pub allocated_bytes: u64,
}

/// Where the host's kernel finds the files of a committed snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Files {
    /// In the directory that they were written to.
    #[default]
    Directory,
    /// In its blob, which is mounted; the directory is gone.
    Image,
}

impl Files {
    /// As figures and lists have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Image => "image",
        }
    }
}

/// What containerd is told of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Key of an active snapshot or view, name of a committed one.
    pub key: String,
    /// Name of the parent; empty: none.
    pub parent: String,
    /// What it is.
    pub kind: Kind,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last changed.
    pub updated: Timestamp,
    /// Labels; none of them empty.
    pub labels: BTreeMap<String, String>,
}

/// A record file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Number of its directory.
    pub id: u64,
    /// What containerd knows.
    #[serde(flatten)]
    pub info: Info,
    /// What its directory took; of a committed snapshot.
    #[serde(default)]
    pub usage: Usage,
    /// Where its files are.
    #[serde(default)]
    pub files: Files,
    /// Its blob; of a committed snapshot whose content EROFS can express.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobRecord>,
}

impl Record {
    /// What a committed snapshot takes without its parents, its files counted once: the blob where it is mounted, else the directory (a blob
    /// beside that comes on top).
    #[must_use]
    pub fn takes(&self) -> Usage {
        match (&self.blob, self.files) {
            (Some(blob), Files::Image) => {
                Usage { size_bytes: blob.allocated_bytes, inodes: self.usage.inodes }
            }
            _ => self.usage,
        }
    }
}
