//! New snapshots come in.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::super::note::Note;
use super::super::protocol::{Change, Entry, Provenance, Refusal};
use super::{FILES, Shelf, ShelfError, State, now_ns, rights, stamp};
use crate::snapshot::{Manifest, Snapshot, SnapshotId, manifest};

impl Shelf {
    /// Takes a new snapshot in: `sources` are `pages`, `tables` and `manifest`, each read to its end. Evicts what must go for it. One that is there
    /// already stays as it is.
    ///
    /// # Errors
    /// [`Refusal::Damaged`]: the manifest is none, or the data is not what it says; [`Refusal::NotFound`]: the tenant does not see its parent;
    /// [`Refusal::Full`]; [`Refusal::Quota`]; [`Refusal::Revoked`]: what it was made with, or its parent. Nothing is left behind.
    pub fn put(
        &self,
        tenant: &str,
        mut sources: [File; 3],
        labels: BTreeMap<String, String>,
        pinned: bool,
        origin: Origin,
    ) -> Result<Entry, ShelfError> {
        let Origin { provenance: Provenance { guest, rights }, since } = origin;
        rights::check(&rights)?;
        let draft = {
            let mut state = self.lock();
            state.drafts += 1;
            Draft::new(self.snapshots().join(format!(".draft-put-{}", state.drafts)))?
        };
        // What is a pipe tells nothing before it is read.
        let announced = peek(&sources[2]);
        let parent = announced.as_ref().and_then(|manifest| manifest.parent);
        let bytes = announced.map_or(0, |it| it.pages.len_bytes.saturating_add(it.tables.len_bytes));
        {
            let mut state = self.lock();
            self.refresh(&mut state)?;
            Self::check_rights(&state, tenant, parent, &rights, since)?;
            self.check_shares(&state, (tenant, &guest), bytes, parent)?;
        }
        // More than the budget is refused below, and nothing has to go for it.
        if bytes <= self.options.budget_bytes {
            self.make_space(bytes, parent)?;
        }
        let limits =
            [self.options.budget_bytes, self.options.budget_bytes, (manifest::BODY_MAX + 4096) as u64];
        for ((name, source), limit) in FILES.iter().zip(&mut sources).zip(limits) {
            draft.receive(name, source, limit, |bytes| self.make_space(bytes, parent))?;
        }
        // Sizes, then every digest: what gets a name is what its manifest says.
        let snapshot = Snapshot::open(&draft.dir)?;
        snapshot.verify()?;
        let id = snapshot.id();
        let mut item = self.item(&snapshot);
        let tenant_name = tenant.to_owned();
        item.note =
            Note { tenant: tenant_name, labels, pinned, used_ns: now_ns(), guest, rights, ..Note::default() };
        item.note.labels.retain(|_, value| !value.is_empty());
        let mut state = self.lock();
        self.refresh(&mut state)?;
        if state.items.get(&id).is_some_and(|there| there.visible_to(tenant)) {
            return state.entry(id).ok_or_else(|| ShelfError::new(Refusal::NotFound, "it is gone"));
        }
        let keep = item.manifest.parent;
        if let Some(parent) = keep {
            self.find_id(&mut state, tenant, &parent.to_string())?;
        }
        Self::check_rights(&state, tenant, keep, &item.note.rights, since)?;
        self.make_share(&mut state, (tenant, &item.note.guest), item.bytes, keep)?;
        self.make_room(&mut state, item.bytes, keep)?;
        let failed = |error: std::io::Error| {
            ShelfError::new(Refusal::Internal, format!("cannot keep snapshot {id}: {error}"))
        };
        // The note first: without one, a snapshot would be seen by the node alone; with one and no snapshot, it is swept.
        item.note.write(&self.notes, &id.to_string()).map_err(failed)?;
        draft.publish(&self.snapshots().join(id.to_string())).map_err(failed)?;
        item.verified = stamp(&self.snapshots().join(id.to_string())).ok();
        state.items.insert(id, item);
        state.tell(Change::Added, id);
        state.entry(id).ok_or_else(|| ShelfError::new(Refusal::NotFound, "it is gone"))
    }
}

/// Where a new snapshot comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// What its putter says.
    pub provenance: Provenance,
    /// When its putter's connection began: it may know nothing of what was revoked later.
    pub since: Instant,
}

impl Shelf {
    /// Refuses what builds on something that was revoked, or was made with it.
    fn check_rights(
        state: &State,
        tenant: &str,
        parent: Option<SnapshotId>,
        rights: &[String],
        since: Instant,
    ) -> Result<(), ShelfError> {
        let parent = parent.and_then(|parent| state.items.get(&parent));
        let of_parent = parent.map(|parent| parent.note.unusable.clone()).filter(|reason| !reason.is_empty());
        match of_parent.or_else(|| state.revocations.forbid(tenant, rights, since)) {
            None => Ok(()),
            Some(reason) => {
                Err(ShelfError::new(Refusal::Revoked, format!("the snapshot is not kept: {reason}")))
            }
        }
    }
}

/// The manifest that is about to be read, where it is a file. Its word is not taken for more than for how much may come.
fn peek(mut source: &File) -> Option<Manifest> {
    if !source.metadata().ok()?.is_file() {
        return None;
    }
    let at = source.stream_position().ok()?;
    let mut bytes = Vec::new();
    let read = source.take((manifest::HEADER_BYTES + manifest::BODY_MAX + 1) as u64).read_to_end(&mut bytes);
    source.seek(SeekFrom::Start(at)).ok()?;
    read.ok()?;
    Manifest::decode(&bytes, Path::new(FILES[2])).ok().map(|(manifest, _)| manifest)
}

/// A directory that becomes a snapshot or vanishes.
#[derive(Debug)]
struct Draft {
    dir: PathBuf,
}

impl Draft {
    fn new(dir: PathBuf) -> Result<Self, ShelfError> {
        fs::create_dir(&dir).map_err(|error| {
            ShelfError::new(Refusal::Internal, format!("cannot make {}: {error}", dir.display()))
        })?;
        Ok(Self { dir })
    }

    /// Copies `source` to its end into the file `name`; `make_space` is asked before bytes are written.
    fn receive(
        &self,
        name: &str,
        source: &mut File,
        limit: u64,
        make_space: impl Fn(u64) -> Result<(), ShelfError>,
    ) -> Result<(), ShelfError> {
        let path = self.dir.join(name);
        let failed = |error: std::io::Error| {
            let full = error.kind() == std::io::ErrorKind::StorageFull;
            let refusal = if full { Refusal::Full } else { Refusal::Internal };
            ShelfError::new(refusal, format!("cannot take the {name} of a snapshot in: {error}"))
        };
        let mut file = File::create_new(&path).map_err(failed)?;
        let mut buffer = vec![0; 1 << 20];
        let mut taken = 0;
        loop {
            let got = match source.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                got => got.map_err(failed)?,
            };
            if got == 0 {
                break;
            }
            taken += got as u64;
            if taken > limit {
                let message = format!("the {name} of a snapshot has more than {limit} bytes");
                return Err(ShelfError::new(Refusal::Full, message));
            }
            make_space(got as u64)?;
            file.write_all(&buffer[..got]).map_err(failed)?;
        }
        file.set_permissions(fs::Permissions::from_mode(0o400)).map_err(failed)
    }

    fn publish(self, place: &Path) -> std::io::Result<()> {
        fs::rename(&self.dir, place)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After `publish` it is not there any more.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
