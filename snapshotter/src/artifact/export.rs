//! Writes an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt as _;

use super::documents::{
    ARTIFACT_TYPE, ArtifactManifest, Descriptor, EMPTY, EMPTY_TYPE, INDEX_NAME, INDEX_TYPE, Index, LAYOUT,
    LAYOUT_NAME, MANIFEST_TYPE, Part, blob_name,
};
use super::error::ArtifactError;
use super::signature::{self, SigningKey};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::snapshot::{ImageRef, Snapshot, SnapshotId};
use crate::tarstream::write::{END, header, padding};

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The snapshots, parents before children.
    pub snapshots: Vec<SnapshotId>,
    /// Image blobs among the archive's.
    pub images: usize,
    /// Length of the archive.
    pub len_bytes: u64,
}

/// Where a blob's bytes are.
enum Source<'s> {
    Bytes(Vec<u8>),
    File(&'s File),
    Own(File),
}

struct Blob<'s> {
    digest: Digest,
    len_bytes: u64,
    source: Source<'s>,
    /// Whose it is, for messages.
    id: SnapshotId,
    part: &'static str,
}

/// Writes an archive of `snapshots`, in which each one's ancestors are; one that is there twice is written once. `image` opens an image of a root file system, where
/// the store has it. With a key, the archive is signed.
///
/// # Errors
/// [`ArtifactError::Key`]; [`ArtifactError::Source`] when a file is not what its manifest says; [`ArtifactError::Write`]. What was written until then is of no use.
pub fn export(
    out: &mut dyn Write,
    snapshots: &[Snapshot],
    image: &mut dyn FnMut(&ImageRef) -> Option<File>,
    signing: Option<&SigningKey>,
) -> Result<Exported, ArtifactError> {
    let unique: BTreeMap<SnapshotId, &Snapshot> =
        snapshots.iter().map(|snapshot| (snapshot.id(), snapshot)).collect();
    let mut unique: Vec<&Snapshot> = unique.into_values().collect();
    unique.sort_by_key(|snapshot| (snapshot.manifest().depth, snapshot.manifest().created_ns, snapshot.id()));
    let mut blobs = Blobs::default();
    let mut exported = Exported::default();
    let mut index = Index {
        schema_version: 2,
        media_type: INDEX_TYPE.to_owned(),
        manifests: Vec::with_capacity(unique.len()),
    };
    let mut manifests = Vec::with_capacity(unique.len());
    for snapshot in unique {
        let (descriptor, digest) = blobs.snapshot(snapshot, image);
        manifests.push((digest, descriptor.size));
        index.manifests.push(descriptor);
        exported.snapshots.push(snapshot.id());
    }
    exported.images = blobs.list.iter().filter(|blob| blob.part == Part::Image.title()).count();
    let mut tar = Tar { out, len_bytes: 0 };
    tar.member(LAYOUT_NAME, LAYOUT)?;
    tar.member(INDEX_NAME, &json(&index))?;
    if let Some(key) = signing {
        let list = signature::list(&manifests);
        tar.member(signature::LIST_NAME, &list)?;
        tar.member(signature::SIGNATURE_NAME, &key.sign(&list)?)?;
    }
    for blob in &blobs.list {
        tar.blob(blob)?;
    }
    tar.write(&END)?;
    tar.out.flush().map_err(ArtifactError::Write)?;
    exported.len_bytes = tar.len_bytes;
    Ok(exported)
}

/// Documents of this module have no content that JSON cannot express.
fn json(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

/// The blobs of an archive, each once.
#[derive(Default)]
struct Blobs<'s> {
    list: Vec<Blob<'s>>,
    known: BTreeSet<Digest>,
}

impl<'s> Blobs<'s> {
    fn add(&mut self, blob: Blob<'s>) {
        if self.known.insert(blob.digest.clone()) {
            self.list.push(blob);
        }
    }

    /// Adds all blobs of a snapshot; the descriptor of its manifest, and its digest.
    fn snapshot(
        &mut self,
        snapshot: &'s Snapshot,
        image: &mut dyn FnMut(&ImageRef) -> Option<File>,
    ) -> (Descriptor, Digest) {
        let (id, manifest) = (snapshot.id(), snapshot.manifest());
        let mut layers = Vec::new();
        let mut part = |part: Part, digest: Digest, len_bytes: u64, source: Source<'s>| {
            let mut layer = Descriptor::new(part.media_type(), &digest, len_bytes);
            layer.annotations.insert("org.opencontainers.image.title".into(), part.title().into());
            layers.push(layer);
            self.add(Blob { digest, len_bytes, source, id, part: part.title() });
        };
        let bytes = manifest.encode().0;
        part(Part::Manifest, Digest::of(&bytes), bytes.len() as u64, Source::Bytes(bytes));
        for (kind, section, file) in [
            (Part::Pages, manifest.pages, snapshot.pages()),
            (Part::Tables, manifest.tables, snapshot.tables()),
        ] {
            part(kind, Digest::of_sha256(&section.digest), section.len_bytes, Source::File(file));
        }
        if let Some(bytes) = snapshot.working_set_bytes() {
            part(Part::WorkingSet, Digest::of(&bytes), bytes.len() as u64, Source::Bytes(bytes));
        }
        for wanted in &manifest.images {
            if let Some(file) = image(wanted) {
                let digest = Digest::of_sha256(&wanted.digest);
                part(Part::Image, digest, wanted.len_bytes, Source::Own(file));
            }
        }
        let config = Descriptor::new(EMPTY_TYPE, &Digest::of(EMPTY), EMPTY.len() as u64);
        let empty = Source::Bytes(EMPTY.to_vec());
        self.add(Blob {
            digest: Digest::of(EMPTY),
            len_bytes: EMPTY.len() as u64,
            source: empty,
            id,
            part: "config",
        });
        let annotations = annotations(snapshot);
        let document = ArtifactManifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: Some(ARTIFACT_TYPE.to_owned()),
            config,
            layers,
            annotations: annotations.clone(),
        };
        let bytes = json(&document);
        let mut descriptor = Descriptor::new(MANIFEST_TYPE, &Digest::of(&bytes), bytes.len() as u64);
        descriptor.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        descriptor.annotations = annotations;
        let digest = Digest::of(&bytes);
        let len_bytes = bytes.len() as u64;
        let blob = Blob {
            digest: digest.clone(),
            len_bytes,
            source: Source::Bytes(bytes),
            id,
            part: "OCI manifest",
        };
        self.add(blob);
        (descriptor, digest)
    }
}

fn annotations(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let manifest = snapshot.manifest();
    let all = [
        ("id", snapshot.id().to_string()),
        ("parent", manifest.parent.map(|id| id.to_string()).unwrap_or_default()),
        ("level", manifest.level.to_string()),
        ("key", manifest.key.clone()),
        ("name", manifest.name.clone()),
    ];
    let some = all.into_iter().filter(|(_, value)| !value.is_empty());
    some.map(|(key, value)| (format!("dev.seuss.snapshot.{key}"), value)).collect()
}

struct Tar<'o> {
    out: &'o mut dyn Write,
    len_bytes: u64,
}

impl Tar<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.len_bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(ArtifactError::Write)
    }

    fn member(&mut self, name: &str, bytes: &[u8]) -> Result<(), ArtifactError> {
        self.write(&header(name, bytes.len() as u64))?;
        self.write(bytes)?;
        self.write(padding(bytes.len() as u64))
    }

    /// Writes a blob, and compares what it is with what it must be.
    fn blob(&mut self, blob: &Blob<'_>) -> Result<(), ArtifactError> {
        let name = blob_name(&blob.digest);
        let file = match &blob.source {
            Source::Bytes(bytes) => return self.member(&name, bytes),
            Source::File(file) => file,
            Source::Own(file) => file,
        };
        let differs = || ArtifactError::Source { id: blob.id, part: blob.part };
        self.write(&header(&name, blob.len_bytes))?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < blob.len_bytes {
            let want = (blob.len_bytes - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..want], at).map_err(|_| differs())?;
            hasher.update(&buffer[..want]);
            self.write(&buffer[..want])?;
            at += want as u64;
        }
        if hasher.finish() != blob.digest {
            return Err(differs());
        }
        self.write(padding(blob.len_bytes))
    }
}
