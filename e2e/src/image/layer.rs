//! What differs between two directories, as a deterministic OCI layer.
//!
//! The same two trees give the same bytes: entries are sorted, times are [`MTIME`], owners are numeric. Files removed from the
//! parent become whiteouts (OCI image spec, "Layer Filesystem Changeset").
//!
//! **not** supported: extended attributes, sockets.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use tar::{Builder, EntryType, Header};

/// The modification time of every file in every image: 2023-11-14, a date after Debian 12's release.
pub const MTIME: u64 = 1_700_000_000;

/// Sets the time of everything below `root` to [`MTIME`], so that a directory and the image made from it list alike.
///
/// # Errors
/// The tree cannot be read, or belongs to somebody else.
pub fn fix_times(root: &Path) -> Result<()> {
    let time = Timespec { tv_sec: MTIME.cast_signed(), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    let mut paths = walk(root)?;
    // Children before their directory.
    paths.reverse();
    paths.push(PathBuf::new());
    for path in paths {
        let full = root.join(&path);
        utimensat(CWD, &full, &times, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| full.display().to_string())?;
    }
    Ok(())
}

/// Writes what `root` has and `parent` has not (or has otherwise) as a tar to `out`; returns the number of entries.
///
/// # Errors
/// A tree cannot be read, holds a socket, or `out` fails.
pub fn write(root: &Path, parent: Option<&Path>, out: impl Write) -> Result<usize> {
    let mut tar = Builder::new(out);
    let mut hard_links: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut written = 0;
    for path in changed(root, parent)? {
        let meta = fs::symlink_metadata(root.join(&path))?;
        let first = (meta.nlink() > 1 && meta.is_file()).then(|| (meta.dev(), meta.ino()));
        match first.and_then(|key| hard_links.get(&key)) {
            Some(target) => {
                let mut header = header(&meta, EntryType::Link);
                tar.append_link(&mut header, &path, target)?;
            }
            None => append(&mut tar, root, &path, &meta).with_context(|| path.display().to_string())?,
        }
        if let Some(key) = first {
            hard_links.entry(key).or_insert(path);
        }
        written += 1;
    }
    for path in removed(root, parent)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let whiteout = path.with_file_name(format!(".wh.{name}"));
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mtime(MTIME);
        header.set_mode(0o600);
        header.set_size(0);
        tar.append_data(&mut header, whiteout, std::io::empty())?;
        written += 1;
    }
    tar.into_inner()?.flush()?;
    Ok(written)
}

fn append(tar: &mut Builder<impl Write>, root: &Path, path: &Path, meta: &Metadata) -> Result<()> {
    let full = root.join(path);
    let kind = meta.file_type();
    if kind.is_dir() {
        let mut header = header(meta, EntryType::Directory);
        tar.append_data(&mut header, path, std::io::empty())?;
    } else if kind.is_symlink() {
        let mut header = header(meta, EntryType::Symlink);
        tar.append_link(&mut header, path, fs::read_link(&full)?)?;
    } else if kind.is_file() {
        let mut header = header(meta, EntryType::Regular);
        header.set_size(meta.len());
        tar.append_data(&mut header, path, File::open(&full)?)?;
    } else if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
        let entry = if kind.is_fifo() {
            EntryType::Fifo
        } else if kind.is_char_device() {
            EntryType::Char
        } else {
            EntryType::Block
        };
        let mut header = header(meta, entry);
        header.set_device_major(rustix::fs::major(meta.rdev()))?;
        header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
        tar.append_data(&mut header, path, std::io::empty())?;
    } else {
        bail!("a layer cannot hold a file of this type: {kind:?}");
    }
    Ok(())
}

fn header(meta: &Metadata, entry: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry);
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(u64::from(meta.uid()));
    header.set_gid(u64::from(meta.gid()));
    header.set_mtime(MTIME);
    header.set_size(0);
    header
}

/// The paths to write, sorted, each with the directories above it.
fn changed(root: &Path, parent: Option<&Path>) -> Result<Vec<PathBuf>> {
    let paths = walk(root)?;
    let Some(parent) = parent else { return Ok(paths) };
    let mut keep = std::collections::BTreeSet::new();
    for path in paths {
        if !same(&root.join(&path), &parent.join(&path))? {
            let above =
                path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).map(Path::to_path_buf);
            keep.extend(above);
            keep.insert(path);
        }
    }
    Ok(keep.into_iter().collect())
}

/// The topmost paths that the parent has and `root` has not.
fn removed(root: &Path, parent: Option<&Path>) -> Result<Vec<PathBuf>> {
    let Some(parent) = parent else { return Ok(Vec::new()) };
    let gone = |path: &Path| fs::symlink_metadata(root.join(path)).is_err();
    Ok(walk(parent)?
        .into_iter()
        .filter(|path| {
            gone(path) && !path.parent().is_some_and(|dir| !dir.as_os_str().is_empty() && gone(dir))
        })
        .collect())
}

/// Everything below `root`, relative, sorted, without following links.
fn walk(root: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(dir) = todo.pop() {
        let full = root.join(&dir);
        for entry in fs::read_dir(&full).with_context(|| full.display().to_string())? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                todo.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn same(new: &Path, old: &Path) -> Result<bool> {
    let a = fs::symlink_metadata(new)?;
    let Ok(b) = fs::symlink_metadata(old) else { return Ok(false) };
    if (a.mode(), a.uid(), a.gid(), a.rdev()) != (b.mode(), b.uid(), b.gid(), b.rdev()) {
        return Ok(false);
    }
    if a.is_symlink() {
        return Ok(fs::read_link(new)? == fs::read_link(old)?);
    }
    if a.is_file() {
        return Ok(a.len() == b.len() && same_bytes(new, old)?);
    }
    Ok(true)
}

fn same_bytes(new: &Path, old: &Path) -> Result<bool> {
    let mut left = Vec::new();
    let mut right = Vec::new();
    File::open(new)?.read_to_end(&mut left)?;
    File::open(old)?.read_to_end(&mut right)?;
    Ok(left == right)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap();
        entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn only_differences_and_whiteouts() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        for root in [&old, &new] {
            fs::create_dir_all(root.join("etc/deep")).unwrap();
            fs::write(root.join("etc/same"), "same").unwrap();
        }
        fs::create_dir_all(old.join("gone/below")).unwrap();
        fs::write(old.join("etc/changed"), "a").unwrap();
        fs::write(new.join("etc/changed"), "b").unwrap();
        fs::write(new.join("etc/deep/new"), "n").unwrap();
        symlink("changed", new.join("etc/link")).unwrap();
        fs::hard_link(new.join("etc/deep/new"), new.join("etc/twin")).unwrap();

        let mut tar = Vec::new();
        write(&new, Some(&old), &mut tar).unwrap();
        let expected = ["etc", "etc/changed", "etc/deep", "etc/deep/new", "etc/link", "etc/twin", ".wh.gone"];
        assert_eq!(names(&tar), expected);

        let mut again = Vec::new();
        write(&new, Some(&old), &mut again).unwrap();
        assert_eq!(tar, again, "a layer must not depend on when it is written");
    }
}
