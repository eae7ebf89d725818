//! What the store keeps of a snapshot beside its immutable files: whose it is, labels, pin, last use.
//!
//! One JSON file per snapshot in `notes/`, replaced by rename. A snapshot without one (written into the directory by a program that did not
//! ask the daemon) belongs to the node.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Whose it is; empty: the node's.
    pub tenant: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Never evicted.
    pub pinned: bool,
    /// When it was last opened, nanoseconds since 1970.
    pub used_ns: u64,
    /// A clone of it has lived for a while.
    pub lived: bool,
    /// Clones that died young before that.
    pub died: u32,
    /// Why nobody may start from it any more; empty: everybody who sees it may.
    pub unusable: String,
    /// The guest that has taken it; empty: not known.
    pub guest: String,
    /// What it was made with.
    pub rights: Vec<String>,
}

impl Note {
    /// Reads the note of `id`; a missing or unreadable one is the default, which lets nobody but the node see it.
    #[must_use]
    pub fn read(notes: &Path, id: &str) -> Self {
        let path = notes.join(id);
        match fs::read(&path).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(note)) => note,
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), error = %error, "a note is damaged");
                Self::default()
            }
            Err(_) => Self::default(),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// No space.
    pub fn write(&self, notes: &Path, id: &str) -> io::Result<()> {
        let temporary = notes.join(format!(".{id}"));
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(temporary, notes.join(id))
    }
}
