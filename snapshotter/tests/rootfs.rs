//! From directories and images to blobs.

#[path = "support/image.rs"]
mod image;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use image::{Compression, Files, add_manifest, archive, layout, set_index, write_dir};
use rustix::fs as rfs;
use serde_json::json;
use seuss_snapshotter::erofs;
use seuss_snapshotter::rootfs::{self, Blob, BlobCache, RootfsImage, RootfsOptions};
use support::{Item, Kind, Model, complete, of_image, to_tar, zoo};

fn build(path: &Path) -> Result<RootfsImage, String> {
    build_cached(path, None)
}

fn build_cached(path: &Path, cache: Option<&BlobCache>) -> Result<RootfsImage, String> {
    let options = RootfsOptions { cache, ..RootfsOptions::default() };
    rootfs::open(path).and_then(|source| source.build(&options)).map_err(|e| e.to_string())
}

fn model(blob: &Blob) -> Model {
    let file = File::from(blob.file.try_clone().unwrap());
    assert_eq!(file.metadata().unwrap().len(), blob.len_bytes);
    erofs::check(&file, blob.len_bytes).unwrap();
    of_image(&file)
}

fn two_layers() -> (Vec<Vec<u8>>, Model) {
    let mut upper = Model::new();
    upper.insert(b"".to_vec(), Item::new(Kind::Dir, 0o755));
    upper.insert(b"app".to_vec(), Item::new(Kind::File(b"application".to_vec()), 0o755));
    (vec![to_tar(&zoo(true)), to_tar(&upper)], complete(upper))
}

fn write_archive(files: &Files, path: &Path) {
    fs::write(path, archive(files)).unwrap();
}

#[test]
fn every_form_of_an_image_gives_the_same_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let (layers, upper) = two_layers();
    let mut digests = Vec::new();
    for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let files = layout(&layers, how);
        let path = dir.path().join(format!("{how:?}.tar"));
        write_archive(&files, &path);
        let image = build(&path).unwrap();
        assert_eq!(model(&image.layers[0]), zoo(true));
        assert_eq!(model(&image.layers[1]), upper);
        let config = image.config.unwrap();
        assert_eq!(config.config().as_ref().unwrap().entrypoint().as_ref().unwrap(), &["/bin/app"]);
        digests.push(image.layers.iter().map(|b| b.digest.clone()).collect::<Vec<_>>());

        let unpacked = dir.path().join(format!("{how:?}"));
        write_dir(&files, &unpacked);
        let image = build(&unpacked).unwrap();
        digests.push(image.layers.iter().map(|b| b.digest.clone()).collect::<Vec<_>>());
    }
    // The older form of `docker save`, with a link between equal layers.
    let mut files = Files::new();
    let config = serde_json::to_vec(&image::config("amd64", &layers)).unwrap();
    let name = format!("{}.json", seuss_snapshotter::digest::Digest::of(&config).hex());
    files.insert(name.clone(), config);
    for (i, layer) in layers.iter().enumerate() {
        files.insert(format!("{i}/layer.tar"), layer.clone());
    }
    let manifest =
        json!([{"Config": name, "RepoTags": ["x:latest"], "Layers": ["2/layer.tar", "1/layer.tar"]}]);
    files.insert("manifest.json".into(), serde_json::to_vec(&manifest).unwrap());
    let mut tar = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "2/layer.tar", "../0/layer.tar").unwrap();
    let mut bytes = tar.into_inner().unwrap();
    bytes.truncate(512);
    bytes.extend(archive(&files));
    let path = dir.path().join("docker.tar");
    fs::write(&path, bytes).unwrap();
    digests.push(build(&path).unwrap().layers.iter().map(|b| b.digest.clone()).collect());
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[test]
fn memory_blobs_can_only_be_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "b").unwrap();
    let image = build(dir.path()).unwrap();
    let [blob] = &image.layers[..] else { panic!("one blob for a directory") };
    let file = File::from(blob.file.try_clone().unwrap());
    assert!(file.write_at(b"x", 0).is_err());
    assert!(file.set_len(0).is_err());
    assert_eq!(model(blob)[&b"a"[..]].kind, Kind::File(b"b".to_vec()));
    assert!(image.config.is_none());
}

#[test]
fn the_cache_builds_once_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let (layers, _) = two_layers();
    write_archive(&layout(&layers, Compression::Gzip), &path);
    let place = dir.path().join("cache");
    let cache = BlobCache::open(&place).unwrap();
    let first = build_cached(&path, Some(&cache)).unwrap();
    let inode = |blob: &Blob| rfs::fstat(&blob.file).unwrap().st_ino;
    let second = build_cached(&path, Some(&cache)).unwrap();
    for (a, b) in first.layers.iter().zip(&second.layers) {
        assert_eq!((inode(a), &a.digest, a.len_bytes), (inode(b), &b.digest, b.len_bytes));
        assert!(rfs::fcntl_getfl(&a.file).unwrap().bits() & 3 == rfs::OFlags::RDONLY.bits());
    }
    let names = || {
        let mut names: Vec<String> =
            fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names().len(), 2, "{:?}", names());
    // A damaged entry is built again.
    let victim = place.join(&names()[0]);
    fs::set_permissions(&victim, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    File::options().write(true).open(&victim).unwrap().write_all_at(&[0xff; 64], 1024).unwrap();
    let third = build_cached(&path, Some(&cache)).unwrap();
    for (a, b) in first.layers.iter().zip(&third.layers) {
        assert_eq!(a.digest, b.digest);
    }
    assert_eq!(names().len(), 2);
    // Left behind by a killed builder; another is still being built.
    let stale = place.join(".building-stale");
    let fresh = place.join(".building-fresh");
    for path in [&stale, &fresh] {
        fs::write(path, "x").unwrap();
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    File::options().write(true).open(&stale).unwrap().set_modified(old).unwrap();
    drop(BlobCache::open(&place).unwrap());
    assert!(!stale.exists() && fresh.exists());
}

#[test]
fn a_failed_build_leaves_nothing_in_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let mut files = layout(&two_layers().0, Compression::Gzip);
    let blob = files.values_mut().max_by_key(|b| b.len()).unwrap();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    write_archive(&files, &path);
    let cache = BlobCache::open(&dir.path().join("cache")).unwrap();
    let error = build_cached(&path, Some(&cache)).unwrap_err();
    assert!(error.contains("is damaged: its content has the digest"), "{error}");
    assert_eq!(fs::read_dir(cache.dir()).unwrap().count(), 0);
}

#[test]
fn parents_that_a_layer_does_not_name_look_as_below() {
    let dir = tempfile::tempdir().unwrap();
    let mut base = Model::new();
    base.insert(b"tmp".to_vec(), Item::new(Kind::Dir, 0o1777).time(77, 8).xattr("user.a", b"b"));
    base.insert(b"usr".to_vec(), Item::new(Kind::Dir, 0o755));
    base.insert(b"usr/lib".to_vec(), Item::new(Kind::Dir, 0o750));
    base.insert(b"usr/lib/libc.so".to_vec(), Item::new(Kind::File(b"C library".to_vec()), 0o755));
    base.insert(b"lib".to_vec(), Item::new(Kind::Symlink(b"usr/lib".to_vec()), 0o777));
    let mut upper = tar::Builder::new(Vec::new());
    let file = |text: &str| Item::new(Kind::File(text.as_bytes().to_vec()), 0o644);
    support::append(&mut upper, b"tmp/x", &file("x"));
    support::append(&mut upper, b"lib/y", &file("y"));
    support::append(&mut upper, b"new/z", &file("z"));
    let mut link = file("");
    link.same_as = b"usr/lib/libc.so".to_vec();
    support::append(&mut upper, b"usr/lib/libc.so.6", &link);
    let layers = [to_tar(&complete(base)), upper.into_inner().unwrap()];
    let path = dir.path().join("image.tar");
    write_archive(&layout(&layers, Compression::None), &path);
    let cache = BlobCache::open(&dir.path().join("cache")).unwrap();
    let image = build_cached(&path, Some(&cache)).unwrap();
    let got = model(&image.layers[1]);
    let tmp = &got[&b"tmp"[..]];
    assert_eq!((tmp.mode, tmp.mtime, tmp.xattrs.len()), (0o1777, (77, 8), 1));
    assert_eq!(got[&b"usr/lib/y"[..]].kind, Kind::File(b"y".to_vec()));
    assert_eq!(got[&b"usr/lib"[..]].mode, 0o750);
    assert!(!got.contains_key(&b"lib"[..]));
    assert_eq!(got[&b"new"[..]].mode, 0o755);
    // The lower file came along, so that both names are the same file.
    assert_eq!(got[&b"usr/lib/libc.so.6"[..]].same_as, b"usr/lib/libc.so");
    assert_eq!(got[&b"usr/lib/libc.so"[..]].kind, Kind::File(b"C library".to_vec()));
    // Such a blob belongs to this chain only.
    let chained = fs::read_dir(cache.dir()).unwrap();
    let chained = chained.filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().contains("-chain-"));
    assert_eq!(chained.count(), 1);
    assert_eq!(build_cached(&path, Some(&cache)).unwrap().layers[1].digest, image.layers[1].digest);
}

#[test]
fn what_lower_layers_delete_does_not_show_through() {
    let dir = tempfile::tempdir().unwrap();
    let layer = |entries: &[(&str, Item)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, item) in entries {
            support::append(&mut tar, path.as_bytes(), item);
        }
        tar.into_inner().unwrap()
    };
    let dir_item = || Item::new(Kind::Dir, 0o700);
    let file = || Item::new(Kind::File(Vec::new()), 0o644);
    let layers = [
        layer(&[
            ("a", dir_item()),
            ("b", dir_item()),
            ("b/c", dir_item()),
            ("kept", dir_item()),
            ("f", file()),
        ]),
        layer(&[(".wh.a", file()), ("b", dir_item()), ("b/.wh..wh..opq", file()), (".wh.f", file())]),
        layer(&[("a/x", file()), ("b/c/x", file()), ("kept/x", file())]),
    ];
    let path = dir.path().join("image.tar");
    write_archive(&layout(&layers, Compression::Gzip), &path);
    let top = model(&build(&path).unwrap().layers[2]);
    let mode = |path: &str| top[path.as_bytes()].mode;
    assert_eq!((mode("a"), mode("b"), mode("b/c"), mode("kept")), (0o755, 0o700, 0o755, 0o700));

    let mut link = file();
    link.same_as = b"f".to_vec();
    let layers = [layers[0].clone(), layers[1].clone(), layer(&[("g", link)])];
    write_archive(&layout(&layers, Compression::Gzip), &path);
    let error = build(&path).unwrap_err();
    assert!(error.contains("cannot be a hard link to \"f\": there is no such file"), "{error}");
}

#[test]
fn the_right_image_is_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let layer = |name: &str| {
        let mut model = Model::new();
        model.insert(name.as_bytes().to_vec(), Item::new(Kind::File(Vec::new()), 0o644));
        vec![to_tar(&complete(model))]
    };
    let has = |image: &RootfsImage, name: &str| model(&image.layers[0]).contains_key(name.as_bytes());
    // One index of several platforms; only ours is present, as in `docker save --platform`.
    let mut files = Files::new();
    let mut ours = add_manifest(&mut files, "amd64", &layer("ours"), Compression::Gzip);
    ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let other = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 5,
        "digest": format!("sha256:{}", "a".repeat(64)), "platform": {"os": "linux", "architecture": "arm64"}});
    let attestation = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 5,
        "digest": format!("sha256:{}", "b".repeat(64)), "platform": {"os": "unknown", "architecture": "unknown"}});
    let index = json!({"schemaVersion": 2, "manifests": [other, attestation, ours]});
    let index = image::add_json(&mut files, "application/vnd.oci.image.index.v1+json", &index);
    set_index(&mut files, &[index]);
    write_archive(&files, &path);
    assert!(has(&build(&path).unwrap(), "ours"));

    // Two images: one must be named.
    let mut files = Files::new();
    let mut one = add_manifest(&mut files, "amd64", &layer("one"), Compression::Gzip);
    one["annotations"] = json!({"io.containerd.image.name": "example.com/one:1"});
    let mut two = add_manifest(&mut files, "amd64", &layer("two"), Compression::Gzip);
    two["annotations"] = json!({"org.opencontainers.image.ref.name": "two"});
    set_index(&mut files, &[one, two]);
    write_archive(&files, &path);
    let error = build(&path).unwrap_err();
    assert!(error.contains("name one of: example.com/one:1, two"), "{error}");
    for (reference, name) in [("example.com/one:1", "one"), ("two", "two")] {
        let source = rootfs::open_named(&path, Some(reference)).unwrap();
        assert!(has(&source.build(&RootfsOptions::default()).unwrap(), name));
    }
    let error = rootfs::open_named(&path, Some("three")).unwrap_err().to_string();
    assert!(error.contains("no image named \"three\""), "{error}");

    // Another platform only, known from the configuration alone.
    let mut files = Files::new();
    let arm = add_manifest(&mut files, "arm64", &layer("arm"), Compression::Gzip);
    set_index(&mut files, &[arm]);
    write_archive(&files, &path);
    let error = build(&path).unwrap_err();
    assert!(error.contains("no image for linux/amd64 in it; there is: linux/arm64"), "{error}");
}

#[test]
fn damaged_and_hostile_images_are_refused_with_reasons() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let (layers, _) = two_layers();
    let good = layout(&layers, Compression::Gzip);
    let refused = |files: &Files| {
        write_archive(files, &path);
        build(&path).unwrap_err()
    };
    for (name, bytes) in good.clone() {
        // Every byte that is protected by a digest.
        if name.starts_with("blobs/") {
            let mut files = good.clone();
            let blob = files.get_mut(&name).unwrap();
            let last = blob.len() - 1;
            blob[last] ^= 0x20;
            let error = refused(&files);
            assert!(error.contains("digest"), "{name}: {error}");
            let mut files = good.clone();
            files.get_mut(&name).unwrap().push(b' ');
            let error = refused(&files);
            assert!(error.contains("is damaged: it has"), "{name}: {error}");
            let mut files = good.clone();
            files.remove(&name);
            let error = refused(&files);
            assert!(error.contains("which is not in it"), "{name}: {error}");
        } else {
            let mut files = good.clone();
            files.insert(name.clone(), bytes[..bytes.len() / 2].to_vec());
            if name == "index.json" {
                assert!(refused(&files).contains("index.json is not a valid document"));
            }
        }
    }
    let mut files = good.clone();
    let evil = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 5,
        "digest": "sha256:../../../../../../etc/passwd"});
    set_index(&mut files, &[evil]);
    let error = refused(&files);
    assert!(error.contains("index.json is not a valid document"), "{error}");

    // More or fewer layers than diff ids.
    let mut files = Files::new();
    let mut manifest = add_manifest(&mut files, "amd64", &layers, Compression::None);
    let name = format!("blobs/sha256/{}", &manifest["digest"].as_str().unwrap()[7..]);
    let mut document: serde_json::Value = serde_json::from_slice(&files[&name]).unwrap();
    document["layers"].as_array_mut().unwrap().pop();
    manifest = image::add_json(&mut files, "application/vnd.oci.image.manifest.v1+json", &document);
    set_index(&mut files, &[manifest]);
    let error = refused(&files);
    assert!(error.contains("1 layers, the configuration 2 diff ids"), "{error}");

    // An index that contains itself cannot exist (digests), but a long chain can.
    let mut files = Files::new();
    let mut inner = add_manifest(&mut files, "amd64", &layers, Compression::None);
    for _ in 0..10 {
        let index = json!({"schemaVersion": 2, "manifests": [inner]});
        inner = image::add_json(&mut files, "application/vnd.oci.image.index.v1+json", &index);
    }
    set_index(&mut files, &[inner]);
    let error = refused(&files);
    assert!(error.contains("nested deeper than"), "{error}");

    // Not images at all.
    for (bytes, reason) in [
        (Vec::new(), "the file is empty"),
        (vec![7; 10_000], "not a tar archive"),
        (image::compress(&archive(&good), Compression::Gzip), "decompress it first"),
        (vec![0; 1024], "neither oci-layout nor manifest.json"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = build(&path).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    assert!(build(&dir.path().join("nowhere")).unwrap_err().contains("cannot open the root file system"));

    // A truncated archive, at every kind of place.
    let whole = archive(&good);
    for len in (0..whole.len()).step_by(whole.len() / 97) {
        fs::write(&path, &whole[..len]).unwrap();
        let error = build(&path).err();
        assert!(error.is_some() || len > whole.len() - 2048, "cut at {len} of {}", whole.len());
    }
}

#[test]
fn a_layout_cannot_reach_out_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let layout_dir = dir.path().join("layout");
    let files = layout(&two_layers().0, Compression::Gzip);
    write_dir(&files, &layout_dir);
    let name = files.iter().filter(|(n, _)| n.starts_with("blobs/")).max_by_key(|(_, b)| b.len()).unwrap().0;
    let outside = dir.path().join("outside");
    fs::rename(layout_dir.join(name), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, layout_dir.join(name)).unwrap();
    let error = build(&layout_dir).unwrap_err();
    assert!(error.contains("cannot read"), "{error}");
}

#[test]
fn a_bomb_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let mut bomb = Model::new();
    bomb.insert(b"zeros".to_vec(), Item::new(Kind::File(vec![0; 64 << 20]), 0o644));
    write_archive(&layout(&[to_tar(&complete(bomb))], Compression::Zstd), &path);
    let build = erofs::BuildOptions { data_bytes_max: 1 << 20, ..erofs::BuildOptions::default() };
    let options = RootfsOptions { build, cache: None };
    let error = rootfs::open(&path).unwrap().build(&options).unwrap_err().to_string();
    assert!(error.contains("more than 1048576 bytes of file data"), "{error}");
}
