//! Images against other implementations: fsck.erofs, mkfs.erofs and the kernel.

mod support;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use seuss_snapshotter::erofs::{self, BuildOptions};
use support::{complete, memfd, of_dir, of_image, run, to_dir, to_tar, zoo};

fn image_of_tar(tar: &[u8], path: &Path) -> File {
    let file = File::create_new(path).unwrap();
    erofs::build_from_tar_layer(tar, &file, &BuildOptions::default()).unwrap();
    File::open(path).unwrap()
}

/// A mount that goes away with the value.
struct Mount(PathBuf);

impl Mount {
    /// `None`, with a message, where the kernel or this user cannot mount.
    fn new(image: &Path, at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let args = ["-t", "erofs", "-o", "ro,loop"].map(OsStr::new);
        let (ok, text) = run("mount", &[&args[..], &[image.as_os_str(), at.as_os_str()]].concat())?;
        if !ok {
            println!("skipped: cannot mount an EROFS image here: {text}");
            return None;
        }
        Some(Self(at.to_path_buf()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = run("umount", &[self.0.as_os_str()]);
        if let Some((false, text)) = unmounted {
            println!("umount: {text}");
        }
    }
}

#[test]
fn fsck_accepts_the_zoo() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zoo.erofs");
    let image = image_of_tar(&to_tar(&zoo(true)), &path);
    erofs::check(&image, image.metadata().unwrap().len()).unwrap();
    assert_eq!(of_image(&image), zoo(true));
    let Some((ok, text)) = run("fsck.erofs", &[path.as_os_str()]) else { return };
    assert!(ok, "{text}");
    let Some((ok, text)) = run("dump.erofs", &[OsStr::new("-s"), path.as_os_str()]) else { return };
    assert!(ok && text.contains("0xE0F5E1E2"), "{text}");
    println!("{text}");
}

#[test]
fn fsck_extracts_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zoo.erofs");
    drop(image_of_tar(&to_tar(&zoo(false)), &path));
    let out = dir.path().join("out");
    let mut extract = std::ffi::OsString::from("--extract=");
    extract.push(&out);
    let Some((ok, text)) = run("fsck.erofs", &[&extract, path.as_os_str()]) else { return };
    assert!(ok, "{text}");
    let (got, want) = (of_dir(&out), zoo(false));
    assert_eq!(got.len(), want.len());
    for (path, want) in want {
        // This version of fsck.erofs restores neither hard links nor xattrs.
        assert_eq!(got[&path].kind, want.kind, "{}", String::from_utf8_lossy(&path));
    }
}

#[test]
fn the_kernel_sees_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zoo.erofs");
    drop(image_of_tar(&to_tar(&zoo(true)), &path));
    let Some(mount) = Mount::new(&path, &dir.path().join("mnt")) else { return };
    let got = of_dir(&mount.0);
    for (path, want) in zoo(true) {
        assert_eq!(got.get(&path), Some(&want), "{}", String::from_utf8_lossy(&path));
    }
    assert_eq!(got.len(), zoo(true).len());
}

#[test]
fn a_directory_of_the_host_survives() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let devices = rustix::process::geteuid().is_root();
    if !to_dir(&zoo(devices), &source) {
        return;
    }
    let image = memfd();
    let report = erofs::build_from_dir(&source, &image, &BuildOptions::default()).unwrap();
    assert_eq!(report.len_bytes, image.metadata().unwrap().len());
    let summary = erofs::check(&image, report.len_bytes).unwrap();
    assert_eq!((summary.inodes, summary.directories), (report.inodes, report.directories));
    assert_eq!(of_image(&image), of_dir(&source));
    assert_eq!(of_image(&image), zoo(devices));

    let again = memfd();
    erofs::build_from_dir(&source, &again, &BuildOptions::default()).unwrap();
    assert!(bytes(&image) == bytes(&again), "the same tree gives the same bytes");
}

#[test]
fn a_directory_is_not_left() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let inner = source.join("mount");
    fs::create_dir_all(&inner).unwrap();
    drop(std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap());
    std::os::unix::fs::symlink("/etc", source.join("etc")).unwrap();
    let build = |dir: &Path| {
        let image = memfd();
        let report =
            erofs::build_from_dir(dir, &image, &BuildOptions::default()).map_err(|e| e.to_string())?;
        erofs::check(&image, report.len_bytes).unwrap();
        Ok::<_, String>(of_image(&image))
    };
    let model = build(&source).unwrap();
    assert_eq!(model[&b"socket"[..]].kind, support::Kind::Socket);
    assert_eq!(model[&b"etc"[..]].kind, support::Kind::Symlink(b"/etc".to_vec()));

    let tmpfs = ["-t", "tmpfs", "none"].map(OsStr::new);
    if let Some((true, _)) = run("mount", &[&tmpfs[..], &[inner.as_os_str()]].concat()) {
        let mount = Mount(inner.clone());
        fs::write(inner.join("secret"), "of another file system").unwrap();
        let model = build(&source).unwrap();
        assert!(model.contains_key(&b"mount"[..]) && !model.contains_key(&b"mount/secret"[..]));
        drop(mount);
    } else {
        println!("skipped: cannot mount a tmpfs here");
    }

    let missing = build(&dir.path().join("missing")).unwrap_err();
    assert!(missing.contains("cannot open the directory"), "{missing}");
    // Deeper than a path can name: made level by level.
    let mut at = rustix::fs::open(&source, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..600 {
        rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    let deep = build(&source).unwrap_err();
    assert!(deep.contains("nested deeper than 512 levels"), "{deep}");
}

#[test]
fn images_of_mkfs_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let mut model = zoo(rustix::process::geteuid().is_root());
    // mkfs.erofs puts attributes that several files have into the shared area.
    for path in ["usr/bin/[", "usr/bin/test", "usr/bin/sudo", "usr/bin/ping"] {
        let item = model.get_mut(path.as_bytes()).unwrap();
        item.xattrs.insert(b"user.same".to_vec(), b"value".to_vec());
    }
    if !to_dir(&complete(model), &source) {
        return;
    }
    let path = dir.path().join("mkfs.erofs");
    let args = [OsStr::new("-x1"), path.as_os_str(), source.as_os_str()];
    let Some((ok, text)) = run("mkfs.erofs", &args) else { return };
    assert!(ok, "{text}");
    let image = File::open(&path).unwrap();
    let (mut got, mut want) = (of_image(&image), of_dir(&source));
    // mkfs.erofs 1.5 stores the seconds only.
    for item in got.values_mut().chain(want.values_mut()) {
        item.mtime.1 = 0;
    }
    for (path, want) in &want {
        assert_eq!(got.get(path), Some(want), "{}", String::from_utf8_lossy(path));
    }
    assert_eq!(got.len(), want.len());
    // Its inline tails of regular files cannot be mapped by guests, and the check says so.
    let error = erofs::check(&image, image.metadata().unwrap().len()).unwrap_err().to_string();
    assert!(error.contains("not page-aligned"), "{error}");
}

#[test]
fn a_large_tree_is_bounded_and_valid() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.erofs");
    let mut tar = tar::Builder::new(Vec::new());
    let dirs = support::Item::new(support::Kind::Dir, 0o755);
    for d in 0..100 {
        support::append(&mut tar, format!("d{d}").as_bytes(), &dirs);
        for f in 0..1000 {
            let item = support::Item::new(support::Kind::File(format!("{d}/{f}").into_bytes()), 0o644);
            support::append(&mut tar, format!("d{d}/f{f}").as_bytes(), &item);
        }
    }
    let image = image_of_tar(&tar.into_inner().unwrap(), &path);
    let summary = erofs::check(&image, image.metadata().unwrap().len()).unwrap();
    assert_eq!(summary.regular_files, 100_000);
    assert_eq!(summary.directories, 101);
    let Some((ok, text)) = run("fsck.erofs", &[path.as_os_str()]) else { return };
    assert!(ok, "{text}");
}

fn bytes(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
