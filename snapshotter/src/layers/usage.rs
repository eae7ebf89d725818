//! What a directory takes: allocated bytes and inodes, hard links counted once (as containerd's fs.DiskUsage counts).

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::record::Usage;

/// Counts `dir` and everything below it, on its own file system. Names that vanish meanwhile are not counted.
///
/// # Errors
/// Something cannot be read.
pub(super) fn of(dir: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let root = fs::symlink_metadata(dir)?;
    let device = root.dev();
    let mut pending = vec![(dir.to_owned(), root)];
    while let Some((path, metadata)) = pending.pop() {
        if metadata.nlink() == 1 || metadata.is_dir() || seen.insert(metadata.ino()) {
            usage.size_bytes += metadata.blocks() * 512;
            usage.inodes += 1;
        }
        if !metadata.is_dir() || metadata.dev() != device {
            continue;
        }
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) => pending.push((entry.path(), metadata)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(usage)
}
