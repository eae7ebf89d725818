use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::manifest::{HEADER_BYTES, MAGIC};
use super::*;

fn facts(name: &str) -> Facts {
    Facts {
        level: Level::Function,
        key: "key".into(),
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
        images: vec![ImageRef { digest: [9; 32], len_bytes: 8192 }],
        listeners: vec!["tcp 0.0.0.0:8080".into()],
    }
}

fn manifest() -> Manifest {
    let facts = facts("golden");
    Manifest {
        parent: None,
        depth: 1,
        level: facts.level,
        key: facts.key,
        name: facts.name,
        created_ns: 1_700_000_000_000_000_000,
        abi_version: facts.abi_version,
        kernel: facts.kernel,
        cpu: facts.cpu,
        private_bytes: facts.private_bytes,
        reserved_bytes: facts.reserved_bytes,
        pml4_gpa: facts.pml4_gpa,
        monotonic_ns: facts.monotonic_ns,
        boottime_offset_ns: facts.boottime_offset_ns,
        generation: facts.generation,
        terminal: facts.terminal,
        command: facts.command,
        images: facts.images,
        listeners: facts.listeners,
        first_page: 0,
        layer_pages: 2,
        table_pages: 1,
        copied_pages: 1,
        mapped_frames: 2,
        pages: SectionRef { len_bytes: 3 * PAGE, digest: [1; 32] },
        tables: SectionRef { len_bytes: PAGE + 4 + 3 * 8, digest: [2; 32] },
    }
}

fn page(byte: u8) -> [u8; PAGE as usize] {
    [byte; PAGE as usize]
}

fn make(store: &Store, parent: Option<&Snapshot>, name: &str, frames: &[(u32, u8)]) -> Snapshot {
    let mut draft = store.draft(parent).unwrap();
    let mut map: Vec<Placed> = parent.map(|parent| parent.frame_map().unwrap()).unwrap_or_default();
    let mut copied = Vec::new();
    for &(pfn, byte) in frames {
        let placed = draft.add_page(pfn, &page(byte)).unwrap();
        map.retain(|old| old.pfn != pfn);
        map.push(placed);
        copied.push(placed);
    }
    map.sort();
    draft.add_table(9, &page(0xee)).unwrap();
    draft.commit(facts(name), &copied, &map).unwrap()
}

#[test]
fn a_manifest_survives_and_has_the_golden_bytes() {
    let (bytes, id) = manifest().encode();
    assert_eq!(Manifest::decode(&bytes, Path::new("m")).unwrap(), (manifest(), id));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/golden");
    if std::env::var_os("SEUSS_BLESS").is_some() {
        fs::write(golden.join("manifest-v1"), &bytes).unwrap();
        fs::write(golden.join("manifest-v1.id"), format!("{id}\n")).unwrap();
    }
    let known = fs::read(golden.join("manifest-v1")).unwrap();
    assert_eq!(bytes, known, "the format changed: bump VERSION and add another golden file");
    assert_eq!(id.to_string(), fs::read_to_string(golden.join("manifest-v1.id")).unwrap().trim());
}

#[test]
fn other_versions_are_refused_by_number() {
    for version in [0_u32, 2, 99] {
        let (mut bytes, _) = manifest().encode();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let error = Manifest::decode(&bytes, Path::new("some/manifest")).unwrap_err().to_string();
        assert!(error.contains(&format!("version {version}")) && error.contains("some/manifest"), "{error}");
    }
    let error = Manifest::decode(b"something else", Path::new("x")).unwrap_err();
    assert!(matches!(error, SnapshotError::NotASnapshot { .. }), "{error}");
}

#[test]
fn a_tree_is_written_listed_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = make(&store, None, "base", &[(1, 1), (2, 2)]);
    let left = make(&store, Some(&base), "left", &[(2, 3)]);
    let right = make(&store, Some(&base), "right", &[]);
    let leaf = make(&store, Some(&left), "leaf", &[(700, 4)]);
    let lineage = store.lineage(leaf.id()).unwrap();
    assert_eq!(lineage.iter().map(Snapshot::id).collect::<Vec<_>>(), [base.id(), left.id(), leaf.id()]);
    lineage.iter().for_each(|snapshot| snapshot.verify().unwrap());
    // Two pages and an index of one; then one and one.
    assert_eq!((left.manifest().first_page, leaf.manifest().first_page), (3, 5));
    assert_eq!(
        leaf.frame_map().unwrap(),
        [Placed { pfn: 1, page: 0 }, Placed { pfn: 2, page: 3 }, Placed { pfn: 700, page: 5 }]
    );
    assert_eq!(leaf.table_frames().unwrap(), [9]);
    assert_eq!(store.resolve("left").unwrap(), left.id());
    assert_eq!(store.resolve(&leaf.id().to_string()[..8]).unwrap(), leaf.id());
    assert!(matches!(store.resolve("nobody"), Err(SnapshotError::NotFound { .. })));
    let tree = store.tree().unwrap();
    assert_eq!(tree.len(), 4);
    assert_eq!(tree[0].children, [left.id(), right.id()]);
    assert!(matches!(store.remove(left.id(), false), Err(SnapshotError::HasChildren { count: 1, .. })));
    assert_eq!(store.remove(left.id(), true).unwrap(), [leaf.id(), left.id()]);
    assert_eq!(store.tree().unwrap().len(), 2);
    // What is open stays readable.
    leaf.verify().unwrap();
}

#[test]
fn a_working_set_is_kept_and_damage_forgets_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = make(&store, None, "base", &[(1, 1)]);
    assert!(base.working_set().is_empty());
    let set = [WorkPage { pfn: 1, table: 9, index: 511 }, WorkPage { pfn: 1 << 30, table: 9, index: 0 }];
    base.set_working_set(&set).unwrap();
    assert_eq!(base.working_set(), set[..1], "frames outside of memory are dropped");
    let path = dir.path().join("snapshots").join(base.id().to_string()).join("workset");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(base.working_set().is_empty());
}

#[test]
fn a_dropped_draft_leaves_nothing_and_a_killed_one_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut draft = store.draft(None).unwrap();
    draft.add_page(1, &page(1)).unwrap();
    assert!(store.tree().unwrap().is_empty(), "a draft is not a snapshot");
    drop(draft);
    let snapshots = dir.path().join("snapshots");
    assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 0);
    // A writer that was killed: its directory without its lock, some time ago.
    let left = snapshots.join(".draft-killed");
    fs::create_dir(&left).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    fs::File::open(&left).unwrap().set_modified(old).unwrap();
    Store::open(dir.path()).unwrap();
    assert!(!left.exists());
}

#[test]
fn cut_off_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let base = make(&store, None, "base", &[(1, 1), (2, 2)]);
    let home = dir.path().join("snapshots").join(base.id().to_string());
    for name in ["manifest", "pages", "tables"] {
        let whole = fs::read(home.join(name)).unwrap();
        for keep in [0, 9, whole.len() / 2, whole.len() - 1] {
            fs::write(home.join(name), &whole[..keep]).unwrap();
            let error = store.snapshot(base.id()).unwrap_err().to_string();
            assert!(error.contains(name), "{name} cut to {keep}: {error}");
        }
        fs::write(home.join(name), &whole).unwrap();
    }
    store.snapshot(base.id()).unwrap().verify().unwrap();
    fs::rename(&home, home.with_file_name("00".repeat(16))).unwrap();
    let error = store.snapshot("00".repeat(16).parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("not of 0000"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any flipped bit is found: in the manifest by opening, elsewhere by verifying, and nothing panics.
    #[test]
    fn a_flipped_bit_is_found(file in 0..3_usize, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let base = make(&store, None, "base", &[(1, 1), (2, 2)]);
        let name = ["manifest", "pages", "tables"][file];
        let path = dir.path().join("snapshots").join(base.id().to_string()).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();
        let outcome = store.snapshot(base.id()).and_then(|snapshot| snapshot.verify());
        prop_assert!(outcome.is_err(), "{name}, byte {at}, bit {bit}");
    }

    /// Bytes that are no manifest are refused, whatever they are.
    #[test]
    fn noise_is_refused(mut noise in prop::collection::vec(any::<u8>(), 0..600), magic: bool) {
        if magic && noise.len() >= 12 {
            noise[..8].copy_from_slice(&MAGIC);
            noise[8..12].copy_from_slice(&VERSION.to_le_bytes());
        }
        prop_assert!(Manifest::decode(&noise, Path::new("noise")).is_err());
    }

    /// Every prefix of a manifest is refused.
    #[test]
    fn prefixes_are_refused(at in any::<prop::sample::Index>()) {
        let (bytes, _) = manifest().encode();
        let cut = at.index(bytes.len());
        prop_assert!(cut < HEADER_BYTES || bytes.len() > HEADER_BYTES);
        prop_assert!(Manifest::decode(&bytes[..cut], Path::new("cut")).is_err());
    }
}
