//! Random trees are read back as they were written; damaged images are refused or read, never more.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use seuss_snapshotter::erofs::{self, BuildOptions, check_source};
use support::{Item, Kind, Model, complete, memfd, of_dir, of_image, to_dir, to_tar};

/// Names that directory entries can have, with a taste for what sorts around the dots.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![1_u8..b'/', b'/' + 1..=u8::MAX];
    prop_oneof![
        4 => "[a-c]{1,2}".prop_map(String::into_bytes),
        2 => prop::sample::select(vec![&b"-"[..], b".a", b"...", b".-", b"!", b". "]).prop_map(<[u8]>::to_vec),
        2 => prop::collection::vec(byte.clone(), 1..20),
        1 => prop::collection::vec(byte, 200..256),
    ]
    .prop_filter("not a name", |n| !matches!(n.as_slice(), b"." | b"..") && !n.starts_with(b".wh."))
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        3 => 0_usize..100,
        3 => prop::sample::select(vec![4095, 4096, 4097, 8191, 8192]),
        2 => 0_usize..50_000,
        1 => prop::sample::select(vec![(2 << 20) - 1, 2 << 20, (2 << 20) + 1]),
    ];
    (len, any::<u8>()).prop_map(|(len, seed)| (0..len).map(|i| ((i >> 6) as u8).wrapping_mul(seed)).collect())
}

fn xattrs() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let name = prop_oneof![
        "user\\.[a-z]{1,10}",
        "trusted\\.[a-z]{1,3}",
        "security\\.[b-h]{1,3}",
        "user\\.[a-z]{200,249}",
    ];
    let value = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 4000..9000),
    ];
    prop_oneof![
        3 => Just(BTreeMap::new()),
        1 => prop::collection::btree_map(name.prop_map(String::into_bytes), value, 0..4),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let target =
        prop_oneof![prop::collection::vec(1_u8..=255, 1..60), prop::collection::vec(1_u8..=255, 3000..4096),];
    let kind = prop_oneof![
        6 => Just(Kind::Dir),
        6 => content().prop_map(Kind::File),
        2 => target.prop_map(Kind::Symlink),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(a, b)| Kind::Char(a, b)),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(a, b)| Kind::Block(a, b)),
        1 => Just(Kind::Fifo),
    ];
    let owner = prop_oneof![Just(0_u32), 0..70_000_u32, Just(u32::MAX - 1)];
    // tar's own field holds what is not negative; pax the rest.
    let time = (-1_i64 << 33..1_i64 << 33, 0_u32..1_000_000_000);
    (kind, 0_u16..0o10000, owner.clone(), owner, time, xattrs()).prop_map(
        |(kind, mode, uid, gid, mtime, xattrs)| Item { mode, uid, gid, mtime, xattrs, ..Item::new(kind, 0) },
    )
}

/// A tree: each entry goes into one of the directories made so far; some are further links to earlier files.
fn tree(entries_max: usize) -> impl Strategy<Value = Model> {
    let entry = (
        any::<prop::sample::Index>(),
        name(),
        item(),
        prop::option::weighted(0.1, any::<prop::sample::Index>()),
    );
    (item(), prop::collection::vec(entry, 0..entries_max)).prop_map(|(root, entries)| {
        let mut model = Model::new();
        model.insert(Vec::new(), Item { kind: Kind::Dir, ..root });
        let mut dirs = vec![Vec::new()];
        for (parent, name, item, link) in entries {
            let parent = parent.get(&dirs);
            let path = if parent.is_empty() { name } else { [parent.as_slice(), b"/", &name].concat() };
            if model.contains_key(&path) || path.len() > 1500 {
                continue;
            }
            let files: Vec<Vec<u8>> =
                model.iter().filter(|(_, i)| i.kind != Kind::Dir).map(|(p, _)| p.clone()).collect();
            let item = match link {
                Some(index) if !files.is_empty() => model[index.get(&files)].clone(),
                _ => Item { same_as: path.clone(), ..item },
            };
            if item.kind == Kind::Dir {
                dirs.push(path.clone());
            }
            model.insert(path, item);
        }
        canonical(model)
    })
}

/// Names each inode by its smallest path, as the readers do, and lets that path come first in an archive.
fn canonical(mut model: Model) -> Model {
    let mut smallest: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, item) in &model {
        if item.kind != Kind::Dir {
            smallest.entry(item.same_as.clone()).or_insert_with(|| path.clone());
        }
    }
    for (path, item) in &mut model {
        item.same_as = if item.kind == Kind::Dir { path.clone() } else { smallest[&item.same_as].clone() };
    }
    complete(model)
}

fn image_of(model: &Model) -> (fs::File, u64) {
    let image = memfd();
    let report = erofs::build_from_tar_layer(&to_tar(model)[..], &image, &BuildOptions::default()).unwrap();
    (image, report.len_bytes)
}

fn bytes_of(image: &fs::File, len_bytes: u64) -> Vec<u8> {
    let mut bytes = vec![0; len_bytes as usize];
    image.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn assert_same(got: &Model, want: &Model) {
    for (path, want) in want {
        assert_eq!(got.get(path), Some(want), "{}", String::from_utf8_lossy(path));
    }
    assert_eq!(got.len(), want.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_layer_is_read_back(model in tree(60)) {
        let (image, len_bytes) = image_of(&model);
        let summary = erofs::check(&image, len_bytes).unwrap();
        assert_eq!(summary.directories, model.values().filter(|i| i.kind == Kind::Dir).count() as u64);
        assert_same(&of_image(&image), &model);
        let (again, _) = image_of(&model);
        assert!(bytes_of(&image, len_bytes) == bytes_of(&again, len_bytes), "the same layer gives the same bytes");
    }

    #[test]
    fn a_wide_directory_is_read_back(names in prop::collection::btree_set(name(), 0..600)) {
        let mut model = Model::new();
        model.insert(Vec::new(), Item::new(Kind::Dir, 0o755));
        for name in names {
            model.insert(name, Item::new(Kind::Fifo, 0o644));
        }
        let model = complete(model);
        let (image, len_bytes) = image_of(&model);
        erofs::check(&image, len_bytes).unwrap();
        assert_same(&of_image(&image), &model);
    }

    /// Whatever is damaged: no panic, no endless work, and what passes the check can be read.
    #[test]
    fn damage_is_survived(
        model in tree(12), hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_metadata in any::<bool>(), fix_checksum in any::<bool>(),
    ) {
        let (image, len_bytes) = image_of(&model);
        let mut bytes = bytes_of(&image, len_bytes);
        let meta_block = u32::from_le_bytes(bytes[1064..1068].try_into().unwrap());
        let start = if in_metadata { meta_block as usize * 4096 } else { 1024 };
        let end = if in_metadata { bytes.len() } else { 1152 };
        for (index, value) in hits {
            let at = start + index.index(end - start);
            bytes[at] = value;
        }
        if fix_checksum {
            let first: &[u8; 4096] = bytes[..4096].try_into().unwrap();
            let sum = erofs::format::super_checksum(first);
            bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
        }
        if check_source(&bytes[..], len_bytes).is_ok() {
            let damaged = memfd();
            damaged.write_all_at(&bytes, 0).unwrap();
            drop(of_image(&damaged));
        }
    }

    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 4096..20_000), blocks in 0_u32..6) {
        bytes[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
        bytes[1032..1056].fill(0);
        bytes[1036] = 12;
        bytes[1060..1064].copy_from_slice(&blocks.to_le_bytes());
        bytes[1104..1152].fill(0);
        drop(check_source(&bytes[..], bytes.len() as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_is_read_back(model in tree(40)) {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        if to_dir(&model, &source) {
            let image = memfd();
            let report = erofs::build_from_dir(&source, &image, &BuildOptions::default()).unwrap();
            erofs::check(&image, report.len_bytes).unwrap();
            assert_same(&of_image(&image), &of_dir(&source));
        }
    }
}
