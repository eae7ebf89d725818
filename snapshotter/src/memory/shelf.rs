//! The memory snapshots of a node: who sees them, who keeps them, what goes when space is short.
//!
//! Owns [`Shelf`]. Files lie in a [`Store`] directory, so that programs which know the format read them without the daemon; the shelf adds
//! notes, leases and the budget. The tree is read again where the directory changed: what others wrote into it is seen.
//!
//! **Tenants.** A snapshot, of whatever level, belongs to the tenant that put it, and only that tenant (and the node, the tenant without a name) sees it: a
//! snapshot holds the memory of the guest that it was taken of. So no lineage is shared.
//!
//! `take` puts new snapshots in, `room` makes room for them, `shares` bounds what one tenant and one guest have, `fate` strikes out those whose clones die, `rights` ends what was
//! revoked.

mod fate;
mod rights;
mod room;
mod shares;
mod take;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::note::Note;
use super::protocol::{Change, Entry, Fit, Refusal};
use crate::snapshot::{Manifest, Snapshot, SnapshotError, SnapshotId, Store, WorkPage};
pub use shares::Share;
pub use take::Origin;

/// Files of a snapshot, in the order in which they are put.
const FILES: [&str; 3] = ["pages", "tables", "manifest"];

/// How often a snapshot's working set may be told. Clones teach it, and one may be hostile: it makes its siblings slower by what fits into the list, and no more.
const TELLINGS_MAX: u32 = 64;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ShelfError {
    /// What kind of refusal.
    pub refusal: Refusal,
    /// In words.
    pub message: String,
}

impl ShelfError {
    fn new(refusal: Refusal, message: impl Into<String>) -> Self {
        Self { refusal, message: message.into() }
    }
}

impl From<SnapshotError> for ShelfError {
    fn from(error: SnapshotError) -> Self {
        let refusal = match &error {
            SnapshotError::NotFound { .. } | SnapshotError::Ambiguous { .. } => Refusal::NotFound,
            SnapshotError::HasChildren { .. } => Refusal::InUse,
            SnapshotError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Refusal::Full
            }
            SnapshotError::Io { .. } => Refusal::Internal,
            _ => Refusal::Damaged,
        };
        Self::new(refusal, error.to_string())
    }
}

/// How a shelf behaves.
#[derive(Clone, Debug)]
pub struct ShelfOptions {
    /// What all snapshots together may take.
    pub budget_bytes: u64,
    /// What stays free of the file system below, which image layers share.
    pub reserve_bytes: u64,
    /// What each tenant may have.
    pub tenant: Share,
    /// What each guest may have.
    pub guest: Share,
    /// Captures that a guest may try in a minute: its shim keeps it.
    pub captures_per_minute: u32,
}

/// A file's identity: another one means that somebody wrote to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([(u64, u64, i64, i64); 3]);

#[derive(Debug)]
struct Item {
    manifest: Manifest,
    bytes: u64,
    note: Note,
    /// How often its working set was told, since the daemon started.
    tellings: u32,
    verified: Option<Stamp>,
}

#[derive(Debug, Default)]
struct State {
    items: BTreeMap<SnapshotId, Item>,
    /// Leases by snapshot.
    leases: HashMap<SnapshotId, u64>,
    watchers: Vec<Sender<(Change, SnapshotId)>>,
    evicted: u64,
    drafts: u64,
    struck_out: u64,
    /// Captures that were given up, by reason.
    given_up: BTreeMap<String, u64>,
    revocations: rights::Revocations,
}

/// An open snapshot of the shelf.
#[derive(Debug)]
pub struct Opened {
    /// What it is.
    pub entry: Entry,
    /// `manifest`, `pages`, `tables`, and the working set if there is one, read-only.
    pub files: Vec<File>,
}

/// The snapshots of a node.
#[derive(Debug)]
pub struct Shelf {
    store: Store,
    notes: PathBuf,
    options: ShelfOptions,
    state: Mutex<State>,
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl Shelf {
    /// Opens the shelf at `root`, or makes one; removes what a killed daemon left half-way.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(root: &Path, options: ShelfOptions) -> Result<Self, ShelfError> {
        let failed = |error: std::io::Error| {
            ShelfError::new(Refusal::Internal, format!("cannot use {}: {error}", root.display()))
        };
        let store = Store::open(root)?;
        let notes = root.join("notes");
        fs::create_dir_all(&notes).map_err(failed)?;
        let shelf = Self { store, notes, options, state: Mutex::default() };
        // Our own drafts, and removals that were cut off: no other daemon is here, and nobody else uses these names.
        for entry in fs::read_dir(shelf.snapshots()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.starts_with(b".draft-put-") || name.starts_with(b".draft-removed-") {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        let mut state = shelf.lock();
        shelf.refresh(&mut state)?;
        for entry in fs::read_dir(&shelf.notes).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if id.is_none_or(|id: SnapshotId| !state.items.contains_key(&id)) {
                fs::remove_file(entry.path()).map_err(failed)?;
            }
        }
        shelf.sweep(&mut state);
        drop(state);
        Ok(shelf)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshots(&self) -> PathBuf {
        self.store.root().join("snapshots")
    }

    /// Takes in what others put into the directory, and forgets what they took out.
    fn refresh(&self, state: &mut State) -> Result<(), ShelfError> {
        let dir = self.snapshots();
        let failed = |error: std::io::Error| {
            ShelfError::new(Refusal::Internal, format!("cannot list {}: {error}", dir.display()))
        };
        let mut there = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            if let Some(id) = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse().ok()) {
                there.push(id);
            }
        }
        state.items.retain(|id, _| there.contains(id));
        for id in there {
            if state.items.contains_key(&id) {
                continue;
            }
            match self.store.snapshot(id) {
                Ok(snapshot) => {
                    let item = self.item(&snapshot);
                    state.items.insert(id, item);
                }
                Err(error) => tracing::warn!(snapshot = %id, error = %error, "a snapshot cannot be read"),
            }
        }
        Ok(())
    }

    fn item(&self, snapshot: &Snapshot) -> Item {
        let manifest = snapshot.manifest().clone();
        let bytes = manifest.pages.len_bytes + manifest.tables.len_bytes + 4096;
        let note = Note::read(&self.notes, &snapshot.id().to_string());
        Item { manifest, bytes, note, tellings: 0, verified: None }
    }

    /// Finds a snapshot that `tenant` sees.
    fn find_id(&self, state: &mut State, tenant: &str, id: &str) -> Result<SnapshotId, ShelfError> {
        self.refresh(state)?;
        let missing = || ShelfError::new(Refusal::NotFound, format!("there is no snapshot {id}"));
        let id = id.parse().map_err(|()| missing())?;
        state.items.get(&id).filter(|item| item.visible_to(tenant)).map(|_| id).ok_or_else(missing)
    }

    /// As [`Self::find_id`], for one that is to be used.
    fn find_usable(&self, state: &mut State, tenant: &str, id: &str) -> Result<SnapshotId, ShelfError> {
        let id = self.find_id(state, tenant, id)?;
        match state.items.get(&id).map(|item| item.note.unusable.as_str()) {
            None | Some("") => Ok(id),
            Some(reason) => {
                let message = format!("snapshot {id} must not be used any more: {reason}");
                Err(ShelfError::new(Refusal::NotFound, message))
            }
        }
    }

    /// The deepest snapshot of the first key that there is one of; of several of one depth the youngest.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn find(&self, tenant: &str, keys: &[String], fit: &Fit) -> Result<Option<Entry>, ShelfError> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let state = &*state;
        let of_key = |key: &String| {
            let matching = state.items.iter().filter(|(_, item)| {
                item.manifest.key == *key
                    && item.visible_to(tenant)
                    && item.note.unusable.is_empty()
                    && fits(&item.manifest, fit)
            });
            matching.max_by_key(|(id, item)| (item.manifest.depth, item.manifest.created_ns, **id))
        };
        Ok(keys.iter().find_map(of_key).map(|(id, _)| state.entry(*id)).and_then(|entry| entry))
    }

    /// All snapshots that `tenant` sees, parents before children.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self, tenant: &str) -> Result<Vec<Entry>, ShelfError> {
        let mut state = self.lock();
        self.refresh(&mut state)?;
        let mut ids: Vec<_> =
            state.items.iter().filter(|(_, item)| item.visible_to(tenant)).map(|(id, _)| *id).collect();
        ids.sort_by_key(|id| state.items.get(id).map(|item| (item.manifest.depth, item.manifest.created_ns)));
        Ok(ids.into_iter().filter_map(|id| state.entry(id)).collect())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn stat(&self, tenant: &str, id: &str) -> Result<Entry, ShelfError> {
        let mut state = self.lock();
        let id = self.find_id(&mut state, tenant, id)?;
        state
            .entry(id)
            .ok_or_else(|| ShelfError::new(Refusal::NotFound, format!("there is no snapshot {id}")))
    }

    fn drop_item(&self, state: &mut State, id: SnapshotId, change: Change) -> Result<(), ShelfError> {
        self.store.remove(id, false)?;
        let _ = fs::remove_file(self.notes.join(id.to_string()));
        state.items.remove(&id);
        tracing::info!(snapshot = %id, change = ?change, "snapshot is gone");
        state.tell(change, id);
        Ok(())
    }

    /// Opens a snapshot and leases it. Its digests are compared the first time, and again when somebody wrote to its files.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Damaged`] with its name.
    pub fn get(&self, tenant: &str, id: &str) -> Result<Opened, ShelfError> {
        let id = {
            let mut state = self.lock();
            let id = self.find_usable(&mut state, tenant, id)?;
            // Kept while it is read without the lock.
            *state.leases.entry(id).or_default() += 1;
            id
        };
        let opened = self.open_leased(id);
        if opened.is_err() {
            self.release(id);
        }
        opened
    }

    fn open_leased(&self, id: SnapshotId) -> Result<Opened, ShelfError> {
        let dir = self.snapshots().join(id.to_string());
        let failed = |error: std::io::Error| {
            ShelfError::new(Refusal::Internal, format!("cannot open snapshot {id}: {error}"))
        };
        let snapshot = self.store.snapshot(id)?;
        let found = stamp(&dir).map_err(failed)?;
        let known = self.lock().items.get(&id).and_then(|item| item.verified);
        if known != Some(found) {
            snapshot.verify().map_err(|error| {
                ShelfError::new(Refusal::Damaged, format!("snapshot {id} is refused: {error}"))
            })?;
        }
        let open = |name: &str| File::open(dir.join(name)).map_err(failed);
        let mut files = vec![open("manifest")?, open("pages")?, open("tables")?];
        // A hint: without it clones are slower.
        files.extend(File::open(dir.join("workset")));
        let mut state = self.lock();
        if let Some(item) = state.items.get_mut(&id) {
            item.verified = Some(found);
            item.note.used_ns = now_ns();
            // Losing the time of a use does no harm.
            let _ = item.note.write(&self.notes, &id.to_string());
        }
        let entry = state.entry(id);
        let entry =
            entry.ok_or_else(|| ShelfError::new(Refusal::NotFound, format!("snapshot {id} is gone")))?;
        Ok(Opened { entry, files })
    }

    /// Keeps a snapshot.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn lease(&self, tenant: &str, id: &str) -> Result<SnapshotId, ShelfError> {
        let mut state = self.lock();
        let id = self.find_usable(&mut state, tenant, id)?;
        *state.leases.entry(id).or_default() += 1;
        Ok(id)
    }

    /// Undoes one lease.
    pub fn release(&self, id: SnapshotId) {
        let mut state = self.lock();
        if let Some(count) = state.leases.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                state.leases.remove(&id);
                self.sweep(&mut state);
            }
        }
    }

    /// Sets labels; one without a value is removed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn label(&self, tenant: &str, id: &str, labels: BTreeMap<String, String>) -> Result<(), ShelfError> {
        self.change(tenant, id, |note| {
            note.labels.extend(labels);
            note.labels.retain(|_, value| !value.is_empty());
        })
    }

    /// Pins or unpins.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn pin(&self, tenant: &str, id: &str, pinned: bool) -> Result<(), ShelfError> {
        self.change(tenant, id, |note| note.pinned = pinned)
    }

    fn change(&self, tenant: &str, id: &str, change: impl FnOnce(&mut Note)) -> Result<(), ShelfError> {
        let mut state = self.lock();
        let id = self.find_id(&mut state, tenant, id)?;
        if let Some(item) = state.items.get_mut(&id) {
            change(&mut item.note);
            item.note.write(&self.notes, &id.to_string()).map_err(|error| {
                ShelfError::new(Refusal::Internal, format!("cannot write the note of {id}: {error}"))
            })?;
        }
        state.tell(Change::Changed, id);
        Ok(())
    }

    /// Keeps a new working set, of a snapshot that the tenant sees and may use; it is told only so often.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`], [`Refusal::Quota`].
    pub fn working_set(&self, tenant: &str, id: &str, source: &File) -> Result<(), ShelfError> {
        let id = {
            let mut state = self.lock();
            let id = self.find_usable(&mut state, tenant, id)?;
            if let Some(item) = state.items.get_mut(&id) {
                if item.tellings >= TELLINGS_MAX {
                    let message =
                        format!("the working set of {id} was told {TELLINGS_MAX} times: it is known");
                    return Err(ShelfError::new(Refusal::Quota, message));
                }
                item.tellings += 1;
            }
            id
        };
        let most = (crate::snapshot::reader::WORKSET_MAX * 12) as u64;
        let mut bytes = Vec::new();
        let read = source.take(most + 1).read_to_end(&mut bytes);
        let invalid =
            |what: String| ShelfError::new(Refusal::Invalid, format!("the working set of {id}: {what}"));
        read.map_err(|error| invalid(error.to_string()))?;
        if bytes.len() as u64 > most || !bytes.len().is_multiple_of(12) {
            return Err(invalid(format!("{} bytes", bytes.len())));
        }
        let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let pages =
            words.as_chunks::<3>().0.iter().map(|&[pfn, table, index]| WorkPage { pfn, table, index });
        self.store.snapshot(id)?.set_working_set(&pages.collect::<Vec<_>>())?;
        self.lock().tell(Change::Changed, id);
        Ok(())
    }

    /// Removes a snapshot, with `recursive` everything that builds on it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::InUse`]: something of it is leased, or others build on it.
    pub fn remove(&self, tenant: &str, id: &str, recursive: bool) -> Result<Vec<SnapshotId>, ShelfError> {
        let mut state = self.lock();
        let id = self.find_id(&mut state, tenant, id)?;
        let mut doomed = vec![id];
        let mut at = 0;
        while let Some(parent) = doomed.get(at).copied() {
            doomed.extend(state.children(parent));
            at += 1;
        }
        if !recursive && doomed.len() > 1 {
            let message = format!("snapshot {id}: {} others build on it", doomed.len() - 1);
            return Err(ShelfError::new(Refusal::InUse, message));
        }
        if let Some(leased) = doomed.iter().find(|id| state.leases.contains_key(id)) {
            return Err(ShelfError::new(Refusal::InUse, format!("snapshot {leased} is in use")));
        }
        doomed.reverse();
        for id in &doomed {
            self.drop_item(&mut state, *id, Change::Removed)?;
        }
        Ok(doomed)
    }

    /// Digests everything of a snapshot.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Damaged`].
    pub fn verify(&self, tenant: &str, id: &str) -> Result<(), ShelfError> {
        let id = self.find_id(&mut self.lock(), tenant, id)?;
        self.store
            .snapshot(id)?
            .verify()
            .map_err(|error| ShelfError::new(Refusal::Damaged, format!("snapshot {id} is damaged: {error}")))
    }

    /// Everything that happens from now on.
    #[must_use]
    pub fn watch(&self) -> Receiver<(Change, SnapshotId)> {
        let (sender, receiver) = channel();
        self.lock().watchers.push(sender);
        receiver
    }

    /// Whether `tenant` sees `id`; of one that is gone, only the node.
    #[must_use]
    pub fn sees(&self, tenant: &str, id: SnapshotId) -> bool {
        tenant.is_empty() || self.lock().items.get(&id).is_some_and(|item| item.visible_to(tenant))
    }
}

impl Item {
    fn visible_to(&self, tenant: &str) -> bool {
        tenant.is_empty() || self.note.tenant == tenant
    }
}

impl State {
    fn children(&self, id: SnapshotId) -> Vec<SnapshotId> {
        let children = self.items.iter().filter(|(_, item)| item.manifest.parent == Some(id));
        children.map(|(id, _)| *id).collect()
    }

    fn tell(&mut self, change: Change, id: SnapshotId) {
        self.watchers.retain(|watcher| watcher.send((change, id)).is_ok());
    }

    fn entry(&self, id: SnapshotId) -> Option<Entry> {
        let item = self.items.get(&id)?;
        Some(Entry {
            id: id.to_string(),
            parent: item.manifest.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            level: item.manifest.level.to_string(),
            key: item.manifest.key.clone(),
            name: item.manifest.name.clone(),
            depth: item.manifest.depth,
            bytes: item.bytes,
            created_ns: item.manifest.created_ns,
            used_ns: item.note.used_ns,
            tenant: item.note.tenant.clone(),
            labels: item.note.labels.clone(),
            pinned: item.note.pinned,
            unusable: item.note.unusable.clone(),
            leases: self.leases.get(&id).copied().unwrap_or(0),
            children: self.children(id).len() as u64,
            rights: item.note.rights.clone(),
        })
    }
}

fn fits(manifest: &Manifest, fit: &Fit) -> bool {
    let hex = || manifest.kernel.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    (fit.abi_version == 0 || fit.abi_version == manifest.abi_version)
        && (fit.kernel.is_empty() || fit.kernel == hex())
        && (fit.xcr0 == 0 || fit.xcr0 == manifest.cpu.xcr0)
        && (fit.xsave_bytes == 0 || fit.xsave_bytes == manifest.cpu.xsave_bytes)
        && (fit.cpu_features.is_empty()
            || manifest.cpu.features.iter().all(|feature| fit.cpu_features.contains(feature)))
}

fn stamp(dir: &Path) -> std::io::Result<Stamp> {
    let of = |name: &str| {
        let metadata = fs::metadata(dir.join(name))?;
        Ok::<_, std::io::Error>((
            metadata.ino(),
            metadata.len(),
            metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        ))
    };
    Ok(Stamp([of(FILES[0])?, of(FILES[1])?, of(FILES[2])?]))
}
