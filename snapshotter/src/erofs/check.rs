//! Full structural validation of an image, before anything trusts it.
//!
//! Visits every inode once, in memory bounded by the number of inodes, in time bounded by the length of the image:
//! structures that overlap (which lets a small image claim endless work) are refused once they add up to more than
//! the image.

use std::collections::HashMap;
use std::fs::File;

use super::error::{CorruptError, Fault};
use super::format::{self, BLOCK, BLOCK_BYTES};
use super::reader::{DirEntry, Inode, ReadAt, Reader};
use super::tree::{DEPTH_MAX, lossy};

/// Most inodes of an image that is accepted.
pub const INODES_MAX: u64 = 1 << 24;

/// What a valid image holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file system; the file may be longer.
    pub image_bytes: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Directories.
    pub directories: u64,
    /// Regular files.
    pub regular_files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Whiteouts.
    pub whiteouts: u64,
    /// Bytes of data of regular files, shared extents counted as often as they are used.
    pub data_bytes: u64,
}

/// Validates an image of `len_bytes` bytes in a file. The file's position is not used.
///
/// # Errors
/// The first damage found, with the path of the file that has it.
pub fn check(file: &File, len_bytes: u64) -> Result<Summary, CorruptError> {
    check_source(file, len_bytes)
}

/// As [`check`], for any source.
///
/// # Errors
/// The first damage found, with the path of the file that has it.
pub fn check_source<S: ReadAt>(source: S, len_bytes: u64) -> Result<Summary, CorruptError> {
    let reader = Reader::open(source, len_bytes)?;
    Checker {
        reader: &reader,
        links: HashMap::new(),
        directories: Vec::new(),
        summary: Summary { image_bytes: reader.image_bytes(), ..Summary::default() },
        directory_bytes: 0,
        xattr_bytes: 0,
    }
    .run()
}

/// What the directories say about an inode.
struct Links {
    claimed: u32,
    found: u64,
    mode: u16,
    /// Index of the directory where it was found first, or of itself.
    directory: u32,
}

/// A directory of the tree; its path is put together only for an error message.
struct Directory {
    /// Index of its parent; the root is its own parent.
    parent: u32,
    depth: usize,
    nid: u64,
    name: Box<[u8]>,
}

struct Checker<'r, S> {
    reader: &'r Reader<S>,
    links: HashMap<u64, Links>,
    directories: Vec<Directory>,
    summary: Summary,
    directory_bytes: u64,
    xattr_bytes: u64,
}

impl<S: ReadAt> Checker<'_, S> {
    fn run(mut self) -> Result<Summary, CorruptError> {
        let root = self.reader.root_nid();
        let inode = self.reader.inode(root).map_err(|e| at("/".into(), e))?;
        if !inode.is_dir() {
            return Err(at("/".into(), bad(root, Fault::NotDirectory)));
        }
        self.visit(&inode).map_err(|e| at("/".into(), e))?;
        self.directories.push(Directory { parent: 0, depth: 0, nid: root, name: (*b"").into() });
        let mut next = 0;
        while next < self.directories.len() {
            self.directory(next)?;
            next += 1;
        }
        self.finish()
    }

    fn directory(&mut self, index: usize) -> Result<(), CorruptError> {
        let Directory { parent, depth, nid, .. } = self.directories[index];
        let parent_nid = self.directories[parent as usize].nid;
        let entries = self.entries(nid, parent_nid).map_err(|e| at(self.path(index, None), e))?;
        let mut subdirectories = 0;
        for entry in entries {
            let mut check = || {
                let mode = match self.links.get_mut(&entry.nid) {
                    Some(links) if links.mode & format::S_IFMT == format::S_IFDIR => {
                        return Err(bad(entry.nid, Fault::DirectoryLoop));
                    }
                    Some(links) => {
                        links.found += 1;
                        links.mode
                    }
                    None => {
                        let child = self.reader.inode(entry.nid)?;
                        self.visit(&child)?;
                        if let Some(links) = self.links.get_mut(&entry.nid) {
                            links.directory = index as u32;
                        }
                        if child.is_dir() {
                            if depth >= DEPTH_MAX {
                                return Err(bad(entry.nid, Fault::TooDeep(DEPTH_MAX)));
                            }
                            subdirectories += 1;
                            self.directories.push(Directory {
                                parent: index as u32,
                                depth: depth + 1,
                                nid: entry.nid,
                                name: entry.name.clone().into(),
                            });
                        }
                        child.mode
                    }
                };
                if entry.file_type == format::dirent_type(mode) {
                    Ok(())
                } else {
                    Err(bad(entry.nid, Fault::EntryType { entry: entry.file_type, mode }))
                }
            };
            if let Err(e) = check() {
                return Err(at(self.path(index, Some(&entry.name)), e));
            }
        }
        if let Some(links) = self.links.get_mut(&nid) {
            links.found = 2 + subdirectories;
            links.directory = index as u32;
        }
        Ok(())
    }

    /// A directory's entries without "." and "..", which are checked.
    fn entries(&mut self, nid: u64, parent_nid: u64) -> Result<Vec<DirEntry>, CorruptError> {
        let inode = self.reader.inode(nid)?;
        self.directory_bytes = self.directory_bytes.saturating_add(inode.size_bytes);
        if self.directory_bytes > self.summary.image_bytes {
            return Err(bad(nid, Fault::Overlap));
        }
        let (mut dot, mut dotdot) = (false, false);
        let mut entries = Vec::new();
        self.reader.for_each_entry(&inode, |entry| {
            match &*entry.name {
                b"." => dot = entry.nid == nid && entry.file_type == 2,
                b".." => dotdot = entry.nid == parent_nid && entry.file_type == 2,
                _ => entries.push(entry),
            }
            Ok(())
        })?;
        for (name, right, expected) in [(".", dot, nid), ("..", dotdot, parent_nid)] {
            if !right {
                return Err(bad(nid, Fault::DotEntry { name, expected }));
            }
        }
        Ok(entries)
    }

    /// The path of a directory, or of an entry in it.
    fn path(&self, index: usize, entry: Option<&[u8]>) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = entry.into_iter().collect();
        let mut directory = &self.directories[index];
        while directory.depth > 0 {
            parts.push(&directory.name);
            directory = &self.directories[directory.parent as usize];
        }
        parts.push(b"");
        parts.reverse();
        if parts.len() == 1 { b"/".to_vec() } else { parts.join(&b'/') }
    }

    /// Checks an inode seen for the first time.
    fn visit(&mut self, inode: &Inode) -> Result<(), CorruptError> {
        if self.summary.inodes >= INODES_MAX {
            return Err(CorruptError::TooMany { what: "inodes", limit: INODES_MAX });
        }
        self.summary.inodes += 1;
        self.links
            .insert(inode.nid, Links { claimed: inode.nlink, found: 1, mode: inode.mode, directory: 0 });
        self.xattr_bytes = self.xattr_bytes.saturating_add(inode.xattr_bytes);
        if self.xattr_bytes > self.summary.image_bytes {
            return Err(bad(inode.nid, Fault::Overlap));
        }
        self.reader.xattrs(inode)?;
        match inode.mode & format::S_IFMT {
            format::S_IFDIR => self.summary.directories += 1,
            format::S_IFREG => {
                self.summary.regular_files += 1;
                self.summary.data_bytes = self.summary.data_bytes.saturating_add(inode.size_bytes);
                self.regular_file(inode)?;
            }
            format::S_IFLNK => {
                self.summary.symlinks += 1;
                self.reader.read_link(inode)?;
            }
            _ => self.summary.whiteouts += u64::from(inode.is_whiteout()),
        }
        Ok(())
    }

    /// Guests map file data: it must be pages, and the last page must show nothing but the file.
    fn regular_file(&self, inode: &Inode) -> Result<(), CorruptError> {
        let tail = inode.size_bytes % BLOCK_BYTES;
        if tail == 0 {
            return Ok(());
        }
        if inode.inline_bytes() > 0 {
            return Err(bad(inode.nid, Fault::InlineFile(tail)));
        }
        let mut rest = [0; BLOCK];
        let rest = &mut rest[..BLOCK - tail as usize];
        self.reader.read(rest, inode.data_offset_bytes() + inode.size_bytes)?;
        if rest.iter().any(|b| *b != 0) {
            return Err(bad(inode.nid, Fault::DirtyTail));
        }
        Ok(())
    }

    fn finish(self) -> Result<Summary, CorruptError> {
        // The smallest inode number, so that the message does not depend on the hash's order.
        let wrong =
            self.links.iter().filter(|(_, l)| u64::from(l.claimed) != l.found).min_by_key(|(nid, _)| **nid);
        if let Some((nid, links)) = wrong {
            let fault = Fault::Links { claimed: links.claimed, found: links.found };
            let is_dir = links.mode & format::S_IFMT == format::S_IFDIR;
            let path = self.path(links.directory as usize, (!is_dir).then_some(&b"*"[..]));
            return Err(at(path, bad(*nid, fault)));
        }
        let (claimed, found) = (self.reader.superblock().inodes, self.summary.inodes);
        if claimed != found {
            return Err(CorruptError::InodeCount { claimed, found });
        }
        Ok(self.summary)
    }
}

fn bad(nid: u64, fault: Fault) -> CorruptError {
    CorruptError::Inode { nid, fault }
}

fn at(path: Vec<u8>, source: CorruptError) -> CorruptError {
    CorruptError::At { path: lossy(&path), source: Box::new(source) }
}
