mod signed;

use std::fs::{self, File};
use std::io::{Cursor, Read as _};
use std::path::PathBuf;

use proptest::prelude::*;

use super::documents::{ARTIFACT_TYPE, LAYOUT, Part};
use super::*;
use crate::erofs;
use crate::snapshot::{CpuSet, Facts, ImageRef, Level, PAGE, Placed, Snapshot, Store, WorkPage};
use crate::tarstream::write::{END, header, padding};

fn facts(name: &str, images: &[ImageRef]) -> Facts {
    Facts {
        level: Level::Function,
        key: format!("key of {name}"),
        name: name.into(),
        abi_version: 2,
        kernel: [7; 32],
        cpu: CpuSet { xcr0: 7, xsave_bytes: 832, features: vec!["avx".into(), "sse2".into()] },
        private_bytes: 16 << 20,
        reserved_bytes: 4096,
        pml4_gpa: 0x1_0000_0000,
        created_ns: std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        monotonic_ns: 5,
        boottime_offset_ns: -3,
        generation: 1,
        terminal: false,
        command: "python3 -c x".into(),
        images: images.to_vec(),
        listeners: Vec::new(),
    }
}

/// A store with a base, two children of it that have the same pages, and a child of one of these.
struct Shop {
    dir: tempfile::TempDir,
    store: Store,
    image: ImageRef,
}

impl Shop {
    fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { dir, store, image: ImageRef { digest: [0; 32], len_bytes: 0 } }
    }

    fn new() -> Self {
        let mut shop = Self::empty();
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("file"), "in the image").unwrap();
        let file = tempfile::tempfile().unwrap();
        let report = erofs::build_from_dir(source.path(), &file, &erofs::BuildOptions::default()).unwrap();
        shop.image = shop.store.add_image(&file, report.len_bytes).unwrap();
        let base = shop.make(None, "base", 1);
        let left = shop.make(Some(&base), "left", 2);
        shop.make(Some(&base), "right", 2);
        let leaf = shop.make(Some(&left), "leaf", 3);
        leaf.set_working_set(&[WorkPage { pfn: 3, table: 9, index: 7 }]).unwrap();
        shop
    }

    fn make(&self, parent: Option<&Snapshot>, name: &str, byte: u8) -> Snapshot {
        let mut draft = self.store.draft(parent).unwrap();
        let placed: Vec<Placed> =
            (0..3).map(|pfn| draft.add_page(pfn, &[byte; PAGE as usize]).unwrap()).collect();
        draft.add_table(9, &[0xee; PAGE as usize]).unwrap();
        draft.commit(facts(name, std::slice::from_ref(&self.image)), &[], &placed).unwrap()
    }

    fn named(&self, name: &str) -> Snapshot {
        self.store.snapshot(self.store.resolve(name).unwrap()).unwrap()
    }

    fn export(&self, names: &[&str]) -> (Vec<u8>, Exported) {
        let lineages = names.iter().flat_map(|name| self.store.lineage(self.named(name).id()).unwrap());
        let mut archive = Vec::new();
        let mut image = |image: &ImageRef| self.store.image(image).ok();
        let exported = export(&mut archive, &lineages.collect::<Vec<_>>(), &mut image, None).unwrap();
        assert_eq!(exported.len_bytes, archive.len() as u64);
        (archive, exported)
    }

    fn import(&self, archive: &[u8]) -> Result<Imported, ArtifactError> {
        let path = self.file(archive);
        Archive::open(&path, &Trust::Anybody)?.into_store(&self.store)
    }

    fn file(&self, archive: &[u8]) -> PathBuf {
        let path = self.dir.path().join("archive.tar");
        fs::write(&path, archive).unwrap();
        path
    }

    /// Nothing but whole snapshots and images is in it.
    fn is_whole(&self) {
        let nodes = self.store.tree().unwrap();
        for node in &nodes {
            let lineage = self.store.lineage(node.id).unwrap();
            lineage.iter().for_each(|snapshot| snapshot.verify().unwrap());
        }
        let count = |dir: &str| fs::read_dir(self.dir.path().join(dir)).unwrap().count();
        assert_eq!(count("snapshots"), nodes.len());
        for entry in fs::read_dir(self.dir.path().join("images")).unwrap() {
            let path = entry.unwrap().path();
            let digest = crate::digest::Digest::of(&fs::read(&path).unwrap());
            assert_eq!(path.file_name().unwrap().to_str().unwrap(), digest.hex());
        }
    }
}

/// The members of an archive, by the reader that tests have as the independent one.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut reader = tar::Archive::new(archive);
    let entries = reader.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    });
    entries.collect()
}

fn pack(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, bytes) in members {
        archive.extend(header(name, bytes.len() as u64));
        archive.extend(bytes);
        archive.extend(padding(bytes.len() as u64));
    }
    archive.extend(END);
    archive
}

#[test]
fn a_tree_moves_to_another_store() {
    let shop = Shop::new();
    let (archive, exported) = shop.export(&["leaf", "right"]);
    assert_eq!((exported.snapshots.len(), exported.images), (4, 1));
    assert_eq!(shop.export(&["right", "leaf", "base"]).0, archive, "the same snapshots give the same bytes");
    let other = Shop::empty();
    let imported = other.import(&archive).unwrap();
    assert_eq!((&imported.added, imported.known.len()), (&exported.snapshots, 0));
    other.is_whole();
    for name in ["base", "left", "right", "leaf"] {
        let (ours, theirs) = (shop.named(name), other.named(name));
        assert_eq!((ours.id(), ours.manifest()), (theirs.id(), theirs.manifest()));
        assert_eq!(ours.frame_map().unwrap(), theirs.frame_map().unwrap());
        assert_eq!(ours.working_set(), theirs.working_set());
    }
    assert_eq!(other.named("leaf").working_set().len(), 1);
    let mut image = Vec::new();
    other.store.image(&shop.image).unwrap().read_to_end(&mut image).unwrap();
    erofs::check(&other.store.image(&shop.image).unwrap(), image.len() as u64).unwrap();
    // Again: all is there.
    let again = other.import(&archive).unwrap();
    assert_eq!((again.added.len(), again.known.len()), (0, 4));
}

#[test]
fn an_archive_is_a_layout_of_artifacts_with_each_blob_once() {
    let shop = Shop::new();
    let (archive, _) = shop.export(&["leaf", "right"]);
    let members = members(&archive);
    let names: std::collections::BTreeSet<_> = members.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), members.len(), "a blob is there twice");
    for (name, bytes) in &members {
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            assert_eq!(hex, crate::digest::Digest::of(bytes).hex());
        }
    }
    let read = |name: &str| {
        let (_, bytes) = members.iter().find(|(other, _)| other == name).unwrap();
        serde_json::from_slice::<serde_json::Value>(bytes).unwrap()
    };
    assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = read("index.json");
    let manifests = index["manifests"].as_array().unwrap();
    assert_eq!(manifests.len(), 4);
    let mut pages = Vec::new();
    for descriptor in manifests {
        assert_eq!(descriptor["artifactType"], ARTIFACT_TYPE);
        let manifest = read(&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/")));
        assert_eq!(manifest["artifactType"], ARTIFACT_TYPE);
        let layers = manifest["layers"].as_array().unwrap();
        assert!(layers.len() >= 4, "manifest, pages, tables, image: {layers:?}");
        pages.push(layers[1]["digest"].clone());
    }
    // Left and right have the same pages.
    assert_eq!(pages[1], pages[2]);
    assert_ne!(pages[0], pages[1]);
}

#[test]
fn what_is_damaged_or_missing_is_told() {
    let shop = Shop::new();
    let (archive, _) = shop.export(&["leaf"]);
    let whole = members(&archive);
    let expect = |members: &[(String, Vec<u8>)], text: &str| {
        let other = Shop::empty();
        let error = other.import(&pack(members)).unwrap_err().to_string();
        assert!(error.contains(text), "{error:?} does not say {text:?}");
        other.is_whole();
    };
    assert_eq!(pack(&whole), archive);
    for (at, (name, bytes)) in whole.iter().enumerate() {
        if name.starts_with("blobs/") && bytes != b"{}" {
            let mut members = whole.clone();
            let middle = members[at].1.len() / 2;
            members[at].1[middle] ^= 1;
            let hint = bytes.starts_with(b"SEUSSWS1");
            if hint {
                // A working set is a hint.
                let other = Shop::empty();
                other.import(&pack(&members)).unwrap();
                assert!(other.named("leaf").working_set().is_empty());
                continue;
            }
            expect(&members, "damaged");
            members = whole.clone();
            members[at].1.pop();
            expect(&members, "damaged: it has");
            members.remove(at);
            expect(&members, "is not in it");
        }
    }
    // Without the parent's manifest in the index.
    let mut members = whole.clone();
    let mut index: serde_json::Value = serde_json::from_slice(&members[1].1).unwrap();
    index["manifests"].as_array_mut().unwrap().remove(0);
    members[1].1 = serde_json::to_vec(&index).unwrap();
    expect(&members, "no snapshot");
    // In the wrong order it is fine.
    let mut members = whole.clone();
    let mut index: serde_json::Value = serde_json::from_slice(&members[1].1).unwrap();
    index["manifests"].as_array_mut().unwrap().reverse();
    members[1].1 = serde_json::to_vec(&index).unwrap();
    assert_eq!(Shop::empty().import(&pack(&members)).unwrap().added.len(), 3);
}

#[test]
fn what_is_something_else_is_told() {
    let shop = Shop::empty();
    let expect = |archive: &[u8], text: &str| {
        let error = shop.import(archive).unwrap_err().to_string();
        assert!(error.contains(text), "{error:?} does not say {text:?}");
        shop.is_whole();
    };
    expect(b"", "the file is empty");
    expect(b"something else", "not a tar archive");
    expect(&pack(&[("a".into(), b"x".to_vec())]), "no oci-layout");
    let layout = ("oci-layout".to_owned(), LAYOUT.to_vec());
    expect(&pack(std::slice::from_ref(&layout)), "index.json");
    let index = |text: &str| pack(&[layout.clone(), ("index.json".to_owned(), text.into())]);
    expect(&index("{"), "index.json is not a valid document");
    expect(&index(r#"{"schemaVersion":2,"manifests":[]}"#), "0 manifests");
    expect(&index(r#"{"schemaVersion":1,"manifests":[]}"#), "version 1");
    let digest = crate::digest::Digest::of(b"x");
    let one = |media_type: &str| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{media_type}","digest":"{digest}","size":1}}]}}"#
        )
    };
    expect(&index(&one("application/vnd.oci.image.index.v1+json")), "is of type");
    expect(&index(&one("application/vnd.oci.image.manifest.v1+json")), "is not in it");
    // A container image.
    let image = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0","size":0},"layers":[]}"#;
    let digest = crate::digest::Digest::of(image.as_bytes());
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{}}}]}}"#,
        image.len()
    );
    let blob = (format!("blobs/sha256/{}", digest.hex()), image.as_bytes().to_vec());
    expect(&pack(&[layout.clone(), ("index.json".to_owned(), text.into()), blob]), "is an image with");
}

#[test]
fn an_export_notices_damage() {
    let shop = Shop::new();
    let lineage = shop.store.lineage(shop.named("left").id()).unwrap();
    let pages = shop.dir.path().join(format!("snapshots/{}/pages", shop.named("left").id()));
    let mut bytes = fs::read(&pages).unwrap();
    bytes[5000] ^= 1;
    fs::write(&pages, bytes).unwrap();
    let error = export(&mut Cursor::new(Vec::new()), &lineage, &mut |_| None::<File>, None).unwrap_err();
    assert!(matches!(&error, ArtifactError::Source { part: "pages", .. }), "{error}");
}

#[test]
fn parts_have_their_media_types() {
    for part in [Part::Manifest, Part::Pages, Part::Tables, Part::WorkingSet, Part::Image] {
        assert_eq!(Part::of(part.media_type()), Some(part));
    }
    assert_eq!(Part::of("application/vnd.seuss.memory-snapshot.pages.v2"), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happened to an archive: what is taken in is whole.
    #[test]
    fn mutated_archives_are_refused_or_whole(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        documents in any::<bool>(),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local!(static ARCHIVE: Vec<u8> = Shop::new().export(&["leaf", "right"]).0);
        let mut archive = ARCHIVE.with(Clone::clone);
        // Headers, layout and index are in front.
        let span = if documents { 4096 } else { archive.len() };
        for (at, byte) in flips {
            archive[at.index(span)] = byte;
        }
        if let Some(cut) = cut {
            archive.truncate(cut.index(archive.len()));
        }
        let shop = Shop::empty();
        if let Ok(imported) = shop.import(&archive) {
            prop_assert!(!imported.added.is_empty());
        }
        shop.is_whole();
    }
}
