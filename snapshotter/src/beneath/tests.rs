//! Attempts to lead a path out of its directory.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::symlink;

use super::*;

/// A directory `in` with a file, beside a file that must not be reached.
fn place() -> (tempfile::TempDir, Dir) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("in/sub")).unwrap();
    fs::write(dir.path().join("outside"), "secret").unwrap();
    fs::write(dir.path().join("in/file"), "content").unwrap();
    let inside = Dir::open(&dir.path().join("in")).unwrap();
    (dir, inside)
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn links_lead_as_far_as_they_may() {
    let (dir, inside) = place();
    let path = dir.path().join("in");
    symlink("../file", path.join("sub/up")).unwrap();
    symlink("../../outside", path.join("sub/out")).unwrap();
    symlink(dir.path().join("outside"), path.join("absolute")).unwrap();
    symlink("/file", path.join("rooted")).unwrap();
    let pin = |name: &str, way| inside.pin(Path::new(name), way);
    assert!(pin("sub/up", Way::Beneath).is_ok());
    assert_eq!(errno(pin("sub/up", Way::NoLinks)), Some(libc::ELOOP));
    for name in ["sub/out", "absolute", "../outside", "/etc/passwd"] {
        assert_eq!(errno(pin(name, Way::Beneath)), Some(libc::EXDEV), "{name}");
    }
    // In a root of its own, a link says where in that root.
    assert!(pin("rooted", Way::InRoot).is_ok());
    assert!(pin("/../../file", Way::InRoot).is_ok());
    for name in ["sub/out", "absolute"] {
        assert_eq!(errno(pin(name, Way::InRoot)), Some(libc::ENOENT), "{name}");
    }
}

#[test]
fn links_of_processes_are_not_followed() {
    let (dir, inside) = place();
    let file = File::open(dir.path().join("outside")).unwrap();
    let magic = format!("/proc/self/fd/{}", file.as_raw_fd());
    assert_eq!(errno(Pinned::open(Path::new(&magic))), Some(libc::ELOOP));
    symlink(&magic, dir.path().join("in/magic")).unwrap();
    assert_eq!(errno(inside.pin(Path::new("magic"), Way::Beneath)), Some(libc::EXDEV));
}

#[test]
fn a_link_can_be_looked_at() {
    let (dir, inside) = place();
    symlink("/etc/shadow", dir.path().join("in/link")).unwrap();
    let link = inside.pin_link(Path::new("link"), Way::Beneath).unwrap();
    assert_eq!(link.kind(), FileType::Symlink);
    assert_eq!(link.link_target().unwrap(), b"/etc/shadow");
    assert_eq!(link.open_regular().unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn what_was_pinned_stays_what_it_was() {
    let (dir, inside) = place();
    let pinned = inside.pin(Path::new("file"), Way::Beneath).unwrap();
    fs::remove_file(dir.path().join("in/file")).unwrap();
    symlink("../outside", dir.path().join("in/file")).unwrap();
    let mut content = String::new();
    pinned.open_regular().unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "content");
}

#[test]
fn a_fifo_neither_blocks_nor_passes_for_a_file() {
    let (dir, inside) = place();
    let path = dir.path().join("in/fifo");
    rfs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let pinned = inside.pin(Path::new("fifo"), Way::Beneath).unwrap();
    assert_eq!(pinned.kind(), FileType::Fifo);
    assert_eq!(inside.read_file("fifo").unwrap_err().kind(), ErrorKind::InvalidInput);
    // And one that is wanted does not wait for its other end.
    assert!(pinned.reopen(OFlags::RDWR).is_ok());
}

#[test]
fn files_are_replaced_and_never_written_through() {
    let (dir, inside) = place();
    let outside = dir.path().join("outside");
    for name in ["note", "note.new"] {
        let _ = fs::remove_file(dir.path().join("in").join(name));
        symlink(&outside, dir.path().join("in").join(name)).unwrap();
    }
    inside.write("note", b"new").unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"secret");
    assert_eq!(inside.read("note", 3).unwrap(), b"new");
    assert_eq!(inside.read("note", 2).unwrap_err().kind(), ErrorKind::FileTooLarge);
    assert_eq!(inside.names().unwrap(), ["file", "note", "sub"]);
}
