//! Reads an archive.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::documents::{
    ARTIFACT_TYPE, ArtifactManifest, Descriptor, EMPTY_TYPE, INDEX_NAME, INDEX_TYPE, Index, LAYOUT_NAME,
    MANIFEST_TYPE, Part, blob_name,
};
use super::error::ArtifactError;
use super::signature::{LIST_NAME, SIGNATURE_NAME, Trust, parse_list};
use crate::digest::Digest;
use crate::memory::Client;
use crate::memory::ClientError;
use crate::memory::protocol::Refusal;
use crate::oci::store::{BlobReader, Store as Members};
use crate::snapshot::manifest::{BODY_MAX, HEADER_BYTES};
use crate::snapshot::reader::{WORKSET_BYTES_MAX, decode_working_set};
use crate::snapshot::{ImageRef, Manifest, SectionRef, SnapshotId, Store, WorkPage};

/// Most snapshots of an archive.
const SNAPSHOTS_MAX: usize = 4096;
/// Most bytes of the manifests of all its snapshots.
const MANIFESTS_BYTES_MAX: u64 = 64 << 20;

/// A snapshot of an archive.
#[derive(Debug)]
struct Archived {
    id: SnapshotId,
    manifest: Manifest,
    working_set: Option<Blob>,
    images: Vec<ImageRef>,
}

#[derive(Clone, Debug)]
struct Blob {
    digest: Digest,
    len_bytes: u64,
}

/// An archive whose documents were read and checked.
#[derive(Debug)]
pub struct Archive {
    members: Members,
    /// Parents before children.
    snapshots: Vec<Archived>,
}

/// What was taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// New snapshots, parents before children.
    pub added: Vec<SnapshotId>,
    /// Snapshots that were there.
    pub known: Vec<SnapshotId>,
}

impl Archive {
    /// Opens an archive (or a layout directory) of somebody whom `trust` trusts, and checks what it says of its snapshots.
    ///
    /// # Errors
    /// [`ArtifactError::Unsigned`], [`ArtifactError::NoKeys`], [`ArtifactError::Untrusted`]; [`ArtifactError::Archive`], [`ArtifactError::Foreign`], [`ArtifactError::Damaged`].
    pub fn open(path: &Path, trust: &Trust) -> Result<Self, ArtifactError> {
        let members = Members::open_path(path)?;
        let foreign = |what: String| ArtifactError::Foreign { path: path.to_owned(), what };
        if members.find(LAYOUT_NAME)?.is_none() {
            return Err(foreign("it is not an OCI image layout (no oci-layout)".to_owned()));
        }
        let signed = signed_list(&members, path, trust)?;
        let index = members.document(INDEX_NAME)?;
        let index: Index = serde_json::from_slice(&index)
            .map_err(|source| crate::oci::OciError::Json { name: INDEX_NAME.to_owned(), source })?;
        if index.schema_version != 2 || !matches!(&*index.media_type, "" | INDEX_TYPE) {
            return Err(foreign(format!(
                "{INDEX_NAME} is of type {:?}, version {}",
                index.media_type, index.schema_version
            )));
        }
        if index.manifests.is_empty() || index.manifests.len() > SNAPSHOTS_MAX {
            let count = index.manifests.len();
            return Err(foreign(format!("{count} manifests, 1 to {SNAPSHOTS_MAX} are accepted")));
        }
        let mut archive = Self { members, snapshots: Vec::new() };
        let (mut ids, mut bytes) = (BTreeSet::new(), 0);
        for descriptor in &index.manifests {
            let blob = archive.blob(descriptor)?;
            if signed.as_ref().is_some_and(|list| !list.contains(&(blob.digest.clone(), blob.len_bytes))) {
                let what = format!("manifest {} is not among those that were signed", blob.digest);
                return Err(ArtifactError::Untrusted { path: path.to_owned(), what });
            }
            let snapshot = archive.snapshot(descriptor, &mut bytes)?;
            if ids.insert(snapshot.id) {
                archive.snapshots.push(snapshot);
            }
        }
        archive.snapshots.sort_by_key(|it| (it.manifest.depth, it.manifest.created_ns, it.id));
        Ok(archive)
    }

    /// Ids of its snapshots, parents before children.
    pub fn ids(&self) -> impl Iterator<Item = SnapshotId> {
        self.snapshots.iter().map(|snapshot| snapshot.id)
    }

    fn path(&self) -> &Path {
        self.members.path()
    }

    fn damaged(&self, name: &str, what: impl Into<String>) -> ArtifactError {
        ArtifactError::Damaged { path: self.path().to_owned(), name: name.to_owned(), what: what.into() }
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, ArtifactError> {
        let digest = descriptor.digest.parse().map_err(|source| crate::oci::OciError::BadDigest {
            name: descriptor.media_type.clone(),
            source,
        })?;
        Ok(Blob { digest, len_bytes: descriptor.size })
    }

    /// A blob's bytes, of which at least the number is right.
    fn open_blob(&self, blob: &Blob) -> Result<BlobReader, ArtifactError> {
        let name = blob_name(&blob.digest);
        let reader = self.members.get(&name)?;
        if reader.left_bytes() != blob.len_bytes {
            let (found_bytes, expected_bytes) = (reader.left_bytes(), blob.len_bytes);
            return Err(crate::oci::OciError::SizeMismatch { name, expected_bytes, found_bytes }.into());
        }
        Ok(reader)
    }

    /// Reads a small blob, and compares its digest.
    fn read_blob(&self, blob: &Blob, limit_bytes: u64) -> Result<Vec<u8>, ArtifactError> {
        let name = blob_name(&blob.digest);
        if blob.len_bytes > limit_bytes {
            let size_bytes = blob.len_bytes;
            return Err(crate::oci::OciError::TooLarge { name, size_bytes, limit_bytes }.into());
        }
        let mut bytes = Vec::new();
        self.open_blob(blob)?
            .read_to_end(&mut bytes)
            .map_err(|source| crate::oci::OciError::Read { name: name.clone(), source })?;
        let mut hasher = crate::digest::Hasher::new(blob.digest.algorithm());
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != blob.digest {
            let expected = blob.digest.clone();
            return Err(crate::oci::OciError::DigestMismatch { name, expected, found }.into());
        }
        Ok(bytes)
    }

    /// Reads what the archive says of one snapshot.
    fn snapshot(&self, descriptor: &Descriptor, total: &mut u64) -> Result<Archived, ArtifactError> {
        let foreign = |what: String| ArtifactError::Foreign { path: self.path().to_owned(), what };
        if descriptor.media_type != MANIFEST_TYPE {
            return Err(foreign(format!("{} is of type {:?}", descriptor.digest, descriptor.media_type)));
        }
        let blob = self.blob(descriptor)?;
        let name = blob_name(&blob.digest);
        let bytes = self.read_blob(&blob, 8 << 20)?;
        let document: ArtifactManifest = serde_json::from_slice(&bytes)
            .map_err(|source| crate::oci::OciError::Json { name: name.clone(), source })?;
        match document.artifact_type.as_deref() {
            Some(ARTIFACT_TYPE) if document.config.media_type == EMPTY_TYPE => {}
            Some(kind) => return Err(foreign(format!("{name} is an artifact of type {kind:?}"))),
            None => {
                let config = &document.config.media_type;
                return Err(foreign(format!("{name} is an image with a configuration of type {config:?}")));
            }
        }
        let mut parts: [Option<Blob>; 4] = [const { None }; 4];
        let mut images = Vec::new();
        for layer in &document.layers {
            let part = Part::of(&layer.media_type)
                .ok_or_else(|| self.damaged(&name, format!("a layer is of type {:?}", layer.media_type)))?;
            let blob = self.blob(layer)?;
            if part == Part::Image {
                images.push(blob);
            } else if parts[part as usize].replace(blob).is_some() {
                return Err(self.damaged(&name, format!("it has two layers of type {:?}", layer.media_type)));
            }
        }
        let [Some(manifest), Some(pages), Some(tables), working_set] = parts else {
            return Err(self.damaged(&name, "manifest, pages or tables are missing"));
        };
        *total = total.saturating_add(manifest.len_bytes);
        if *total > MANIFESTS_BYTES_MAX {
            let limit_bytes = MANIFESTS_BYTES_MAX;
            let name = "the manifests of its snapshots".to_owned();
            return Err(crate::oci::OciError::TooLarge { name, size_bytes: *total, limit_bytes }.into());
        }
        let bytes = self.read_blob(&manifest, (HEADER_BYTES + BODY_MAX) as u64)?;
        let (manifest, id) = Manifest::decode(&bytes, &self.path().join(blob_name(&manifest.digest)))?;
        for (part, blob, section) in [("pages", &pages, manifest.pages), ("tables", &tables, manifest.tables)]
        {
            if !is(blob, section) {
                return Err(self.damaged(&name, format!("its {part} are not those of snapshot {id}")));
            }
        }
        let of_image = |blob: &Blob| {
            let same = |image: &&ImageRef| {
                image.len_bytes == blob.len_bytes && blob.digest.sha256() == Some(image.digest)
            };
            let found = manifest.images.iter().find(same).cloned();
            found.ok_or_else(|| self.damaged(&name, format!("{} is no image of snapshot {id}", blob.digest)))
        };
        let images = images.iter().map(of_image).collect::<Result<_, _>>()?;
        Ok(Archived { id, manifest, working_set, images })
    }

    fn section(&self, section: SectionRef) -> Result<BlobReader, ArtifactError> {
        let digest = Digest::of_sha256(&section.digest);
        self.open_blob(&Blob { digest, len_bytes: section.len_bytes })
    }

    /// A hint: one that is damaged is none.
    fn working_set(&self, snapshot: &Archived) -> Vec<WorkPage> {
        let read = |blob: &Blob| self.read_blob(blob, WORKSET_BYTES_MAX).ok();
        let bytes = snapshot.working_set.as_ref().and_then(read).unwrap_or_default();
        decode_working_set(&bytes)
    }

    /// Takes all snapshots, and the images that are with them, into a local store.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`] with the first snapshot that cannot be taken in; those before it are in the store.
    pub fn into_store(&self, store: &Store) -> Result<Imported, ArtifactError> {
        self.import(|snapshot| {
            for image in &snapshot.images {
                let digest = Digest::of_sha256(&image.digest);
                let mut source = self.open_blob(&Blob { digest, len_bytes: image.len_bytes })?;
                store.receive_image(image, &mut source)?;
            }
            if store.snapshot(snapshot.id).is_ok() {
                return Ok(false);
            }
            let (mut pages, mut tables) =
                (self.section(snapshot.manifest.pages)?, self.section(snapshot.manifest.tables)?);
            let taken = store.receive(&snapshot.manifest, &mut pages, &mut tables)?;
            let known = self.working_set(snapshot);
            if !known.is_empty() {
                taken.set_working_set(&known)?;
            }
            Ok(true)
        })
    }

    /// Puts all snapshots into the node's store, as the tenant of `client`. Images are the node's own layers: those in the archive are not read.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`] with the first snapshot that is refused; those before it are in the store.
    pub fn into_daemon(&self, client: &Client) -> Result<Imported, ArtifactError> {
        self.import(|snapshot| {
            let id = snapshot.id.to_string();
            match client.stat(&id) {
                Ok(_) => return Ok(false),
                Err(ClientError::Refused { refusal: Refusal::NotFound, .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let manifest = snapshot.manifest.encode().0;
            let (pages, tables) =
                (self.section(snapshot.manifest.pages)?, self.section(snapshot.manifest.tables)?);
            put(client, pages, tables, manifest)?;
            let known = self.working_set(snapshot);
            if !known.is_empty() {
                let triples: Vec<u8> = known
                    .iter()
                    .flat_map(|page| [page.pfn, page.table, page.index])
                    .flat_map(u32::to_le_bytes)
                    .collect();
                let file = memory_file(&triples).map_err(ClientError::Io)?;
                client.working_set(&id, file.as_fd())?;
            }
            Ok(true)
        })
    }

    fn import(
        &self,
        mut one: impl FnMut(&Archived) -> Result<bool, ArtifactError>,
    ) -> Result<Imported, ArtifactError> {
        let mut imported = Imported::default();
        for snapshot in &self.snapshots {
            let id = snapshot.id;
            let new = one(snapshot).map_err(|source| ArtifactError::Refused {
                id,
                path: PathBuf::from(self.path()),
                source: Box::new(source),
            })?;
            if new { imported.added.push(id) } else { imported.known.push(id) }
        }
        Ok(imported)
    }
}

/// The manifests that a trusted key has signed; `None` if anybody's are taken.
fn signed_list(
    members: &Members,
    path: &Path,
    trust: &Trust,
) -> Result<Option<BTreeSet<(Digest, u64)>>, ArtifactError> {
    let Trust::Signed(keys) = trust else { return Ok(None) };
    let path = path.to_owned();
    if members.find(LIST_NAME)?.is_none() || members.find(SIGNATURE_NAME)?.is_none() {
        return Err(ArtifactError::Unsigned { path });
    }
    if keys.is_empty() {
        return Err(ArtifactError::NoKeys { path, places: keys.places() });
    }
    let (list, signature) = (members.document(LIST_NAME)?, members.document(SIGNATURE_NAME)?);
    let key = match keys.verify(&list, &signature) {
        Ok(key) => key,
        Err(what) => return Err(ArtifactError::Untrusted { path, what }),
    };
    tracing::info!(archive = %path.display(), key = %key.display(), "the archive's signature is good");
    let what = format!("{LIST_NAME} is signed, but no list of snapshots that is known here");
    parse_list(&list).map(Some).ok_or(ArtifactError::Untrusted { path, what })
}

fn is(blob: &Blob, section: SectionRef) -> bool {
    blob.len_bytes == section.len_bytes && blob.digest.sha256() == Some(section.digest)
}

/// Puts a snapshot whose files are members of an archive: the daemon reads them from pipes.
fn put(
    client: &Client,
    pages: BlobReader,
    tables: BlobReader,
    manifest: Vec<u8>,
) -> Result<(), ArtifactError> {
    let failed = |error: io::Error| ArtifactError::Client(ClientError::Io(error));
    let (pages_end, mut pages_in) = io::pipe().map_err(failed)?;
    let (tables_end, mut tables_in) = io::pipe().map_err(failed)?;
    let manifest = memory_file(&manifest).map_err(failed)?;
    std::thread::scope(|scope| {
        let (mut pages, mut tables) = (pages, tables);
        let writer = scope.spawn(move || {
            io::copy(&mut pages, &mut pages_in)?;
            drop(pages_in);
            io::copy(&mut tables, &mut tables_in)
        });
        let put = client.put(
            [pages_end.as_fd(), tables_end.as_fd(), manifest.as_fd()],
            &std::collections::BTreeMap::new(),
            false,
        );
        // Refused: nobody reads what the writer still has.
        drop((pages_end, tables_end));
        let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        put?;
        written.map(drop).map_err(failed)
    })
}

fn memory_file(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("seuss-import", rustix::fs::MemfdFlags::CLOEXEC)?);
    io::Write::write_all(&mut file, bytes)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}
