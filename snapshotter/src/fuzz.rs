//! What fuzzers call with bytes that somebody else made: no input may panic, loop, or ask for more memory than it has bytes for.
//!
//! Used by tests/fuzz.rs, which mutates real files for a bounded time on stable Rust, and by `fuzz/`, cargo-fuzz targets for longer runs.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::artifact::Archive;
use crate::erofs::{self, Reader};
use crate::snapshot::Manifest;

/// Directories that are entered when an unchecked image is read.
const DIRECTORIES_MAX: usize = 256;

/// Opens an EROFS image, checks it, and reads it, whatever the check said: the shim's view reads images that root could have changed.
///
/// # Panics
/// An image that passed the check cannot be read: that is a bug.
pub fn erofs(image: &[u8]) {
    let len_bytes = image.len() as u64;
    let sound = erofs::check_source(image, len_bytes).is_ok();
    let Ok(reader) = Reader::open(image, len_bytes) else {
        assert!(!sound, "a sound image does not open");
        return;
    };
    if sound {
        let walked = reader.walk();
        assert!(walked.is_ok(), "a sound image cannot be walked: {walked:?}");
    }
    let mut pending = vec![reader.root_nid()];
    let mut entered = 0;
    while let Some(nid) = pending.pop() {
        let Ok(inode) = reader.inode(nid) else { continue };
        let _ = reader.xattrs(&inode);
        let _ = reader.read_link(&inode);
        let mut buffer = [0; 512];
        for offset_bytes in [0, inode.size_bytes / 2, inode.size_bytes.saturating_sub(100), u64::MAX - 100] {
            let _ = reader.read_at(&inode, offset_bytes, &mut buffer);
        }
        let _ = reader.lookup(&inode, b"usr");
        if let Ok(entries) = reader.read_dir(&inode) {
            entered += 1;
            if entered < DIRECTORIES_MAX {
                pending.extend(entries.iter().map(|entry| entry.nid));
                pending.truncate(1 << 16);
            }
        }
    }
}

/// Decodes a manifest; what decodes must encode to the same bytes, or the id would not vouch for the content.
///
/// # Panics
/// It does not: that is a bug.
pub fn manifest(bytes: &[u8]) {
    if let Ok((manifest, id)) = Manifest::decode(bytes, Path::new("fuzz")) {
        let (encoded, again) = manifest.encode();
        assert!(encoded == bytes && again == id, "a manifest does not encode to what it was decoded from");
    }
}

/// Opens an archive of memory snapshots, which reads all its documents.
///
/// # Panics
/// There are no memory files here.
pub fn artifact(bytes: &[u8]) {
    let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.expect("a memory file"));
    file.write_all(bytes).expect("a memory file can be written");
    if let Ok(archive) = Archive::open(
        Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())),
        &crate::artifact::Trust::Anybody,
    ) {
        assert!(archive.ids().count() > 0, "an archive of nothing is accepted");
    }
}
