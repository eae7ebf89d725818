//! The snapshots of a store, and the rules that containerd relies on. No I/O.
//!
//! Owns [`Catalog`]. Methods named `check_…` tell whether something is allowed; what changes the catalogue is called after the change
//! is on disk.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::error::LayersError;
use super::record::{Info, Kind, Record};

/// The label by which an unpacker names the layer that it is about to make (containerd's docs/remote-snapshotter.md).
pub const REF_LABEL: &str = "containerd.io/snapshot.ref";

/// Longest label, key and value together (containerd's labels.Validate).
const LABEL_BYTES_MAX: usize = 4096;

/// Longest key: what fits into a record comfortably. containerd's are its namespace, a number and a digest or an id.
const KEY_BYTES_MAX: usize = 4096;

/// All snapshots, by key or name.
#[derive(Debug, Default)]
pub struct Catalog {
    by_key: BTreeMap<String, Record>,
    /// Children by parent's name.
    children: HashMap<String, HashSet<String>>,
    /// Keys that are being committed, and the names they get.
    committing: HashMap<String, String>,
    next_id: u64,
}

impl Catalog {
    /// An empty catalogue.
    #[must_use]
    pub fn new() -> Self {
        Self { next_id: 1, ..Self::default() }
    }

    /// The snapshot of a key or name.
    ///
    /// # Errors
    /// [`LayersError::NotFound`].
    pub fn get(&self, key: &str) -> Result<&Record, LayersError> {
        self.by_key.get(key).ok_or_else(|| LayersError::NotFound { key: key.to_owned() })
    }

    /// All, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.by_key.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether nothing is on top of `key`.
    #[must_use]
    pub fn is_leaf(&self, key: &str) -> bool {
        !self.children.contains_key(key)
    }

    /// A number for a new directory.
    pub fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Whether a snapshot `key` may be made on top of `parent`.
    ///
    /// # Errors
    /// [`LayersError::Invalid`], [`LayersError::NoParent`], [`LayersError::ParentNotCommitted`], [`LayersError::AlreadyExists`],
    /// [`LayersError::LayerExists`].
    pub fn check_create(
        &self,
        key: &str,
        parent: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), LayersError> {
        check_key(key)?;
        check_labels(labels)?;
        if !parent.is_empty() {
            let record =
                self.by_key.get(parent).ok_or_else(|| LayersError::NoParent { parent: parent.to_owned() })?;
            if record.info.kind != Kind::Committed {
                let kind = record.info.kind;
                return Err(LayersError::ParentNotCommitted { parent: parent.to_owned(), kind });
            }
        }
        self.check_free(key)?;
        let Some(target) = labels.get(REF_LABEL) else { return Ok(()) };
        let same = |record: &&Record| {
            record.info.kind == Kind::Committed
                && record.info.parent == parent
                && record.info.labels.get(REF_LABEL) == Some(target)
        };
        match self.by_key.values().find(same) {
            Some(found) => Err(LayersError::LayerExists {
                key: key.to_owned(),
                target: target.clone(),
                name: found.info.key.clone(),
            }),
            None => Ok(()),
        }
    }

    fn check_free(&self, key: &str) -> Result<(), LayersError> {
        if self.by_key.contains_key(key) || self.committing.values().any(|name| name == key) {
            return Err(LayersError::AlreadyExists { key: key.to_owned() });
        }
        Ok(())
    }

    /// Reserves `name` for the active snapshot `key`, which cannot be removed or committed again until [`Self::committed`] or
    /// [`Self::commit_failed`]; returns its record.
    ///
    /// # Errors
    /// [`LayersError::Invalid`], [`LayersError::AlreadyExists`], [`LayersError::NotFound`], [`LayersError::NotActive`],
    /// [`LayersError::Committing`].
    pub fn begin_commit(
        &mut self,
        name: &str,
        key: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Record, LayersError> {
        check_key(name)?;
        check_labels(labels)?;
        self.check_free(name)?;
        let record = self.get(key)?;
        if record.info.kind != Kind::Active {
            return Err(LayersError::NotActive { key: key.to_owned(), kind: record.info.kind });
        }
        if self.committing.contains_key(key) {
            return Err(LayersError::Committing { key: key.to_owned() });
        }
        let record = record.clone();
        self.committing.insert(key.to_owned(), name.to_owned());
        Ok(record)
    }

    /// The commit of `key` did not happen.
    pub fn commit_failed(&mut self, key: &str) {
        self.committing.remove(key);
    }

    /// `key` has become `record`.
    pub fn committed(&mut self, key: &str, record: Record) {
        self.committing.remove(key);
        self.forget(key);
        self.insert(record);
    }

    /// Whether `key` may be removed; returns its record.
    ///
    /// # Errors
    /// [`LayersError::NotFound`], [`LayersError::HasChildren`], [`LayersError::Committing`].
    pub fn check_remove(&self, key: &str) -> Result<&Record, LayersError> {
        let record = self.get(key)?;
        if let Some(child) = self.children.get(key).and_then(|children| children.iter().min()) {
            return Err(LayersError::HasChildren { key: key.to_owned(), child: child.clone() });
        }
        if self.committing.contains_key(key) {
            return Err(LayersError::Committing { key: key.to_owned() });
        }
        Ok(record)
    }

    /// `key` is gone.
    pub fn forget(&mut self, key: &str) {
        let Some(record) = self.by_key.remove(key) else { return };
        if let Some(siblings) = self.children.get_mut(&record.info.parent) {
            siblings.remove(key);
            if siblings.is_empty() {
                self.children.remove(&record.info.parent);
            }
        }
    }

    /// A snapshot is there, new or changed.
    pub fn insert(&mut self, record: Record) {
        self.next_id = self.next_id.max(record.id + 1);
        if !record.info.parent.is_empty() {
            self.children.entry(record.info.parent.clone()).or_default().insert(record.info.key.clone());
        }
        self.by_key.insert(record.info.key.clone(), record);
    }

    /// The parents of `record`, nearest first.
    ///
    /// # Errors
    /// [`LayersError::NoParent`]: cannot happen, parents are not removed before their children.
    pub fn parents(&self, record: &Record) -> Result<Vec<&Record>, LayersError> {
        let mut parents = Vec::new();
        let mut name = &record.info.parent;
        while !name.is_empty() {
            let parent =
                self.by_key.get(name).ok_or_else(|| LayersError::NoParent { parent: name.clone() })?;
            name = &parent.info.parent;
            parents.push(parent);
        }
        Ok(parents)
    }

    /// What `info` becomes by an Update with these paths (containerd's field mask); no paths: all that can be changed.
    ///
    /// # Errors
    /// [`LayersError::NotFound`]; [`LayersError::Invalid`] for a field that cannot be changed.
    pub fn updated(
        &self,
        key: &str,
        labels: &BTreeMap<String, String>,
        paths: &[String],
    ) -> Result<Record, LayersError> {
        let mut record = self.get(key)?.clone();
        if paths.is_empty() {
            record.info.labels = labels.clone();
        }
        for path in paths {
            match path.strip_prefix("labels.") {
                Some(label) => {
                    let value = labels.get(label).cloned().unwrap_or_default();
                    record.info.labels.insert(label.to_owned(), value);
                }
                None if path == "labels" => record.info.labels = labels.clone(),
                None => {
                    let what = format!("cannot update the field {path:?} of snapshot {key}");
                    return Err(LayersError::Invalid { what });
                }
            }
        }
        check_labels(&record.info.labels)?;
        normalise(&mut record.info);
        Ok(record)
    }
}

/// Labels without a value do not exist.
pub fn normalise(info: &mut Info) {
    info.labels.retain(|_, value| !value.is_empty());
}

fn check_key(key: &str) -> Result<(), LayersError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let what = format!("a snapshot's key has 1 to {KEY_BYTES_MAX} bytes, this one {}", key.len());
        return Err(LayersError::Invalid { what });
    }
    Ok(())
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), LayersError> {
    match labels.iter().find(|(key, value)| key.len() + value.len() > LABEL_BYTES_MAX) {
        Some((key, value)) => {
            let start: String = key.chars().take(64).collect();
            let bytes = key.len() + value.len();
            let what = format!("label {start:?} has {bytes} bytes, at most {LABEL_BYTES_MAX} are allowed");
            Err(LayersError::Invalid { what })
        }
        None => Ok(()),
    }
}
