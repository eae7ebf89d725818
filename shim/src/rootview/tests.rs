use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, MemfdFlags, Mode, XattrFlags, memfd_create, mknodat, setxattr};
use seuss_snapshotter::erofs::{BuildOptions, build_from_dir};

use super::*;

/// The view of directories, base first.
pub(crate) fn view_of(dirs: &[&Path]) -> RootView {
    let reader = |dir: &&Path| {
        let file = File::from(memfd_create("layer", MemfdFlags::CLOEXEC).unwrap());
        let report = build_from_dir(dir, &file, &BuildOptions::default()).unwrap();
        Reader::open(file, report.len_bytes).unwrap()
    };
    RootView::new(dirs.iter().map(reader).collect())
}

fn content(view: &RootView, path: &str) -> Option<String> {
    let node = view.lookup(path.as_bytes()).unwrap()?;
    Some(String::from_utf8(view.read(&node, 1000).unwrap()).unwrap())
}

#[test]
fn links_stay_inside_the_root() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
    fs::write(dir.path().join("usr/bin/tool"), "tool").unwrap();
    symlink("usr/bin", dir.path().join("bin")).unwrap();
    symlink("/bin/tool", dir.path().join("usr/bin/alias")).unwrap();
    symlink("../../../../bin/alias", dir.path().join("usr/up")).unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    let view = view_of(&[dir.path()]);
    for path in ["/usr/bin/tool", "bin/tool", "//bin/./alias", "/usr/up", "/../bin/../bin/tool"] {
        assert_eq!(content(&view, path).as_deref(), Some("tool"), "{path}");
    }
    assert_eq!(view.lookup(b"/usr/up").unwrap().unwrap().path, b"/usr/bin/tool");
    assert!(view.lookup(b"/usr/bin/tool/x").unwrap().is_none());
    assert!(view.lookup(b"/nosuch/..").unwrap().is_none());
    assert!(view.lookup(b"/").unwrap().unwrap().inode.is_dir());
    assert!(matches!(view.lookup(b"/loop"), Err(ViewError::Loop { .. })));
    let node = view.lookup(b"/bin/tool").unwrap().unwrap();
    assert!(matches!(view.read(&node, 3), Err(ViewError::TooLarge { size_bytes: 4, .. })));
}

#[test]
fn higher_layers_hide_lower_ones() {
    let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (name, text) in
        [("a/keep", "low"), ("a/gone", "low"), ("a/over", "low"), ("b/hidden", "low"), ("c", "file")]
    {
        let path = low.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    for dir in ["a", "b", "c"] {
        fs::create_dir(high.path().join(dir)).unwrap();
    }
    fs::write(high.path().join("a/over"), "high").unwrap();
    fs::write(high.path().join("b/new"), "high").unwrap();
    fs::write(high.path().join("c/inside"), "high").unwrap();
    let marked = mknodat(CWD, high.path().join("a/gone"), FileType::CharacterDevice, Mode::empty(), 0)
        .and_then(|()| setxattr(high.path().join("b"), "trusted.overlay.opaque", b"y", XattrFlags::empty()));
    if let Err(error) = marked {
        eprintln!("skipped: this user may not make an overlay's marks: {error}");
        return;
    }
    let view = view_of(&[low.path(), high.path()]);
    assert_eq!(content(&view, "/a/keep").as_deref(), Some("low"));
    assert_eq!(content(&view, "/a/over").as_deref(), Some("high"));
    assert_eq!(content(&view, "/a/gone"), None);
    assert_eq!(content(&view, "/b/hidden"), None);
    assert_eq!(content(&view, "/b/new").as_deref(), Some("high"));
    assert_eq!(content(&view, "/c/inside").as_deref(), Some("high"), "a directory hides a file");
}

#[test]
fn no_layers_hold_nothing() {
    assert!(view_of(&[]).lookup(b"/").unwrap().is_none());
}
