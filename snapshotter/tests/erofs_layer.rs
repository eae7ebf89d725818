//! What a layer's tar means: whiteouts, replaced entries, links, hostile paths.

mod support;

use seuss_snapshotter::erofs::{self, BuildOptions, BuildReport};
use support::{Item, Kind, Model, append, memfd, of_image};

type Entries<'a> = &'a [(&'a str, Item)];

fn tar(entries: Entries<'_>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, item) in entries {
        append(&mut tar, path.as_bytes(), item);
    }
    tar.into_inner().unwrap()
}

fn build(bytes: &[u8]) -> Result<(Model, BuildReport), String> {
    let image = memfd();
    let report =
        erofs::build_from_tar_layer(bytes, &image, &BuildOptions::default()).map_err(|e| e.to_string())?;
    erofs::check(&image, report.len_bytes).unwrap();
    Ok((of_image(&image), report))
}

fn model(entries: Entries<'_>) -> Model {
    build(&tar(entries)).unwrap().0
}

fn dir() -> Item {
    Item::new(Kind::Dir, 0o750)
}

fn file(text: &str) -> Item {
    Item::new(Kind::File(text.into()), 0o640)
}

fn symlink(target: &str) -> Item {
    Item::new(Kind::Symlink(target.into()), 0o777)
}

fn hard_link(target: &str) -> Item {
    Item { same_as: target.into(), ..file("") }
}

fn kind<'m>(model: &'m Model, path: &str) -> Option<&'m Kind> {
    model.get(path.as_bytes()).map(|item| &item.kind)
}

fn is_opaque(model: &Model, path: &str) -> bool {
    model[path.as_bytes()].xattrs.get(&b"trusted.overlay.opaque"[..]).is_some_and(|v| v == b"y")
}

const WHITEOUT: Kind = Kind::Char(0, 0);

#[test]
fn whiteouts() {
    let got = model(&[
        ("a", dir()),
        ("a/.wh.gone", file("")),
        ("b", dir()),
        ("b/.wh..wh..opq", file("")),
        ("b/kept", file("k")),
        ("c", dir()),
        ("c/kept", file("k")),
        ("c/.wh..wh..opq", file("")),
        (".wh.top", file("")),
        (".wh..wh.plnk", dir()),
        (".wh..wh.aufs", file("")),
    ]);
    assert_eq!(kind(&got, "a/gone"), Some(&WHITEOUT));
    assert_eq!(kind(&got, "top"), Some(&WHITEOUT));
    assert!(is_opaque(&got, "b") && is_opaque(&got, "c") && !is_opaque(&got, "a"));
    assert_eq!(kind(&got, "b/kept"), kind(&got, "c/kept"));
    assert_eq!(got.len(), 8, "{got:?}");
}

#[test]
fn a_whiteout_does_not_touch_its_own_layer() {
    for swapped in [false, true] {
        let mut entries = vec![
            ("f", file("new")),
            (".wh.f", file("")),
            ("d", dir()),
            (".wh.d", file("")),
            ("d/x", file("x")),
        ];
        if swapped {
            entries = vec![
                (".wh.f", file("")),
                ("f", file("new")),
                (".wh.d", file("")),
                ("d", dir()),
                ("d/x", file("x")),
            ];
        }
        let got = model(&entries);
        assert_eq!(kind(&got, "f"), Some(&Kind::File(b"new".to_vec())));
        assert!(is_opaque(&got, "d"));
        assert_eq!(kind(&got, "d/x"), Some(&Kind::File(b"x".to_vec())));
    }
    // Also when only something below says that it is a directory again.
    let got = model(&[(".wh.d", file("")), ("d/x", file("x"))]);
    assert!(is_opaque(&got, "d"));
}

#[test]
fn later_entries_replace_earlier_ones() {
    let got = model(&[
        ("d", dir()),
        ("d/x", file("1")),
        ("d", Item::new(Kind::Dir, 0o711)),
        ("f", dir()),
        ("f/lost", file("1")),
        ("f", file("2")),
        ("g", file("1")),
        ("g", symlink("d")),
        ("h", symlink("d")),
        ("h", dir()),
    ]);
    assert_eq!(got[&b"d"[..]].mode, 0o711);
    assert_eq!(kind(&got, "d/x"), Some(&Kind::File(b"1".to_vec())));
    assert_eq!(kind(&got, "f"), Some(&Kind::File(b"2".to_vec())));
    assert_eq!(kind(&got, "g"), Some(&Kind::Symlink(b"d".to_vec())));
    assert_eq!(kind(&got, "h"), Some(&Kind::Dir));
    assert_eq!(got.len(), 6);
}

#[test]
fn parents_are_followed_inside_the_layer_only() {
    let mut bytes = tar(&[
        ("usr/lib", dir()),
        ("lib", symlink("usr/lib")),
        ("abs", symlink("/usr")),
        ("up", symlink("../../../../etc")),
        ("lib/a", file("a")),
        ("abs/lib/b", file("b")),
        ("up/c", file("c")),
    ]);
    // The crate that writes archives refuses absolute names unless asked like this.
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    header.set_mode(0o755);
    header.set_path_absolute("/./absolute//d/").unwrap();
    header.set_cksum();
    bytes.splice(..0, header.as_bytes().iter().copied());
    let got = build(&bytes).unwrap().0;
    for path in ["usr/lib/a", "usr/lib/b", "etc/c", "absolute/d"] {
        assert!(kind(&got, path).is_some(), "{path}");
    }
    assert_eq!(kind(&got, "lib"), Some(&Kind::Symlink(b"usr/lib".to_vec())));
}

#[test]
fn hostile_paths_are_refused() {
    let error = |entries: Entries<'_>| build(&tar(entries)).unwrap_err();
    for (name, field) in [("../x", 0), ("a/../../x", 0), ("a/..", 0), ("f", 157)] {
        // The crate that writes archives refuses such names itself.
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(if field == 0 { tar::EntryType::Regular } else { tar::EntryType::Link });
        header.set_size(0);
        header.set_mode(0o644);
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[157..169].copy_from_slice(b"../../passwd");
        header.set_cksum();
        let message = build(&[&header.as_bytes()[..], &[0; 1024]].concat()).unwrap_err();
        assert!(message.contains("contains \"..\""), "{name}: {message}");
    }
    assert!(
        error(&[("a", symlink("b")), ("b", symlink("a")), ("a/x", file(""))]).contains("40 symbolic links")
    );
    assert!(error(&[("a", file("")), ("a/x", file(""))]).contains("a parent is not a directory"));
    assert!(error(&[("a", hard_link("missing"))]).contains("there is no such file"));
    assert!(error(&[("d", dir()), ("a", hard_link("d"))]).contains("it is a directory"));
    assert!(error(&[(".wh.d", file("")), ("a", hard_link("d"))]).contains("it is deleted by this layer"));
    assert!(error(&[(".", file("root"))]).contains("names the root"));
    assert!(error(&[(&format!("{}x", "d/".repeat(600)), file(""))]).contains("deeper than 512"));
    assert!(error(&[(&"n".repeat(256), file(""))]).contains("longer than 255 bytes"));
    let deep = format!("{}x", "d/".repeat(500));
    assert_eq!(model(&[(&deep, file("deep"))]).len(), 502);
}

#[test]
fn limits_hold() {
    let build = |options: BuildOptions, bytes: &[u8]| {
        erofs::build_from_tar_layer(bytes, &memfd(), &options).unwrap_err().to_string()
    };
    let many = tar(&[("a", file("")), ("b", file("")), ("c", file(""))]);
    let error = build(BuildOptions { entries_max: 3, ..BuildOptions::default() }, &many);
    assert!(error.contains("more than 3 entries"), "{error}");
    let attributes = file("").xattr("user.large", &[1; 50_000]);
    let heavy: Vec<u8> = tar(&[("a", attributes.clone()), ("a", attributes.clone()), ("a", attributes)]);
    let error = build(BuildOptions { metadata_bytes_max: 120_000, ..BuildOptions::default() }, &heavy);
    assert!(error.contains("more than 120000 bytes of names"), "{error}");
    let repeated = tar(&[("d", dir()), ("d", dir()), ("d", dir()), ("d", dir())]);
    let error = build(BuildOptions { entries_max: 3, ..BuildOptions::default() }, &repeated);
    assert!(error.contains("more than 3 entries"), "{error}");
}

#[test]
fn foreign_attributes() {
    let (got, report) = build(&tar(&[(
        "f",
        file("x")
            .xattr("security.capability", b"cap")
            .xattr("trusted.overlay.opaque", b"y")
            .xattr("trusted.overlay.redirect", b"/etc")
            .xattr("trusted.mine", b"1")
            .xattr("com.apple.provenance", b"2"),
    )]))
    .unwrap();
    let names: Vec<&[u8]> = got[&b"f"[..]].xattrs.keys().map(Vec::as_slice).collect();
    assert_eq!(names, [&b"security.capability"[..], b"trusted.mine"]);
    assert_eq!(report.skipped_xattrs, 3);
}

#[test]
fn truncated_and_broken_archives() {
    let good = tar(&[("a", file(&"x".repeat(5000))), ("b", dir())]);
    for cut in [0, 1, 511, 512, 3000, 5631, 5632, 6143, 6144] {
        let error = build(&good[..cut]).unwrap_err();
        assert!(error.contains("is cut off at offset"), "{cut}: {error}");
    }
    build(&good[..6656]).unwrap();
    let gzip = {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&good).unwrap();
        encoder.finish().unwrap()
    };
    build(&gzip).unwrap();
    for cut in [3, 10, gzip.len() - 9] {
        assert!(build(&gzip[..cut]).is_err(), "{cut}");
    }
    assert!(build(b"\xfd7zXZ\0 and so on").unwrap_err().contains("xz or bzip2"));
}

#[test]
fn large_files_are_aligned_for_large_pages() {
    use std::os::unix::fs::MetadataExt;
    let big = |byte| Item::new(Kind::File(vec![byte; (2 << 20) + 1]), 0o644);
    let small = |byte| Item::new(Kind::File(vec![byte; 100_000]), 0o644);
    let mut model = Model::new();
    for (i, item) in [small(1), big(2), small(3), small(4), big(5), small(6)].into_iter().enumerate() {
        model.insert(format!("f{i}").into_bytes(), item);
    }
    let model = support::complete(model);
    let image = memfd();
    let report =
        erofs::build_from_tar_layer(&support::to_tar(&model)[..], &image, &BuildOptions::default()).unwrap();
    let reader = erofs::Reader::open(&image, report.len_bytes).unwrap();
    for (path, inode) in reader.walk().unwrap() {
        if inode.is_file() {
            let align = if inode.size_bytes > 2 << 20 { 2 << 20 } else { 4096 };
            assert_eq!(inode.data_offset_bytes() % align, 0, "{}", String::from_utf8_lossy(&path));
        }
    }
    // Small files lie in the gap before the first large one; what remains of the gaps costs no memory.
    assert!(report.len_bytes <= 9 << 20, "{}", report.len_bytes);
    assert!(image.metadata().unwrap().blocks() * 512 < 5 << 20);
}

#[test]
fn files_and_images_beyond_4_gib() {
    use std::os::unix::fs::MetadataExt;
    const SIZE: u64 = 5 << 30;
    // A sparse file (GNU form) whose only data are its last 512 bytes.
    let mut record = tar::Header::new_gnu();
    record.set_entry_type(tar::EntryType::GNUSparse);
    record.set_path("sparse").unwrap();
    record.set_mode(0o644);
    record.set_size(512);
    record.as_gnu_mut().unwrap().set_real_size(SIZE);
    let piece = &mut record.as_gnu_mut().unwrap().sparse[0];
    piece.set_offset(SIZE - 512);
    piece.set_length(512);
    record.set_cksum();
    let bytes = [&record.as_bytes()[..], &[9; 512], &[0; 1024]].concat();
    let image = memfd();
    let report = erofs::build_from_tar_layer(&bytes[..], &image, &BuildOptions::default()).unwrap();
    assert!(report.len_bytes > SIZE);
    erofs::check(&image, report.len_bytes).unwrap();
    let reader = erofs::Reader::open(&image, report.len_bytes).unwrap();
    let root = reader.inode(reader.root_nid()).unwrap();
    let inode = reader.lookup(&root, b"sparse").unwrap().unwrap();
    let mut end = [0; 600];
    assert_eq!(reader.read_at(&inode, SIZE - 600, &mut end).unwrap(), 600);
    assert!(end[..88].iter().all(|b| *b == 0) && end[88..].iter().all(|b| *b == 9));
    assert!(image.metadata().unwrap().blocks() * 512 < 1 << 20, "holes stay holes");
}

#[test]
fn equal_files_share_their_blocks() {
    use std::os::unix::fs::MetadataExt;
    let large = "large".repeat((3 << 20) / 5);
    let almost = format!("{}x", &large[..large.len() - 1]);
    let entries: [(&str, Item); 9] = [
        ("a", file("one page")),
        ("b", file("one page")),
        ("large", file(&large)),
        ("almost", file(&almost)),
        ("zeros", file(&"\0".repeat(10_000))),
        ("again", Item { mode: 0o755, ..file(&large) }),
        ("zeros again", file(&"\0".repeat(10_000))),
        ("almost again", file(&almost)),
        ("last", file("something else")),
    ];
    let image = memfd();
    let report = erofs::build_from_tar_layer(&tar(&entries)[..], &image, &BuildOptions::default()).unwrap();
    erofs::check(&image, report.len_bytes).unwrap();
    let of_large = (large.len() as u64).next_multiple_of(4096);
    assert_eq!(report.shared_bytes, 4096 + 2 * of_large + 3 * 4096);
    assert!(image.metadata().unwrap().blocks() * 512 < 2 * of_large + (1 << 20));
    let reader = erofs::Reader::open(&image, report.len_bytes).unwrap();
    let root = reader.inode(reader.root_nid()).unwrap();
    let offset = |name: &str| reader.lookup(&root, name.as_bytes()).unwrap().unwrap().data_offset_bytes();
    for (one, other) in [("a", "b"), ("large", "again"), ("almost", "almost again"), ("zeros", "zeros again")]
    {
        assert_eq!(offset(one), offset(other), "{one}");
    }
    assert_ne!(offset("large"), offset("almost"));
    // All that was written after a file which turned out to be there is whole.
    let got = of_image(&image);
    for (path, item) in &entries {
        assert_eq!(
            (&got[path.as_bytes()].kind, got[path.as_bytes()].mode),
            (&item.kind, item.mode),
            "{path}"
        );
    }
}

#[test]
fn the_layout_is_pinned() {
    // Snapshots refer to pages of these images. When this fails because the layout changed on purpose, change the
    // version in rootfs/cache.rs with it.
    let image = memfd();
    let tar = support::to_tar(&support::zoo(true));
    let report = erofs::build_from_tar_layer(&tar[..], &image, &BuildOptions::default()).unwrap();
    let mut bytes = vec![0; report.len_bytes as usize];
    std::os::unix::fs::FileExt::read_exact_at(&image, &mut bytes, 0).unwrap();
    let digest = seuss_snapshotter::digest::Digest::of(&bytes).to_string();
    assert_eq!(digest, "sha256:a406031f9c777e0be0e2d8864d16480c9d7c6cc73aae0c3fc9656e102bc65b05");
}
