//! An image of an OCI layer: a tar stream, with the layer format's whiteouts turned into overlayfs's.
//!
//! Read first: OCI image specification, "Image Layer Filesystem Changeset". `.wh.NAME` becomes a character device 0/0
//! called NAME, `.wh..wh..opq` the attribute `trusted.overlay.opaque=y` of its directory; other `.wh..wh.*` names
//! (AUFS) are dropped, as are `trusted.overlay.*` attributes that the archive brings along. Whiteouts apply to lower
//! layers only, wherever they stand in the archive.
//!
//! Paths are resolved inside the layer as containerd resolves them: parents through symbolic links (of this layer, or
//! of the layers below when the layer does not name the parent itself), never above the root; the last component is
//! not followed. A parent that nobody names gets the metadata of the directory below it, so that a layer with only
//! `tmp/x` does not change `/tmp`. The root is an exception: when the layer does not name it, it is 0755 and root's, so
//! that most layers' images depend on the layer alone. `..` in an entry's path is refused.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};

use super::error::BuildError;
use super::lower::{Found, Lower};
use super::reader::{Inode, Reader};
use super::tree::{Body, DEPTH_MAX, Metadata, NodeId, Timestamp, Xattr, lossy};
use super::writer::{BuildOptions, BuildReport, Writer};
use crate::compression::Decoder;
use crate::tarstream::{self, Kind, Stream, TarError};

/// Most symbolic links followed for one path, as Linux has it.
const LINKS_MAX: usize = 40;
/// Longest path.
const PATH_BYTES_MAX: usize = 4096;
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// Builds an image of a layer tar (plain, gzip or zstd) into `out`, whose content is replaced.
///
/// Deterministic: the same archive gives the same bytes. The reader is read to its end, also behind the archive's end
/// mark, so that a digest around it sees everything.
///
/// # Errors
/// [`BuildError::Tar`] for a stream that is damaged, truncated or no tar archive; [`BuildError::BadPath`] and the
/// like for hostile entries; the limits of `options`.
pub fn build_from_tar_layer(
    reader: impl Read,
    out: &File,
    options: &BuildOptions,
) -> Result<BuildReport, BuildError> {
    let decoder = Decoder::new(reader).map_err(|source| TarError::Io { offset_bytes: 0, source })?;
    build(decoder, out, options, &Lower::default(), true)
}

/// As [`build_from_tar_layer`], for a plain tar that will lie on top of `lower`. Since a digest is expected to protect
/// the archive, a missing end mark is accepted.
///
/// # Errors
/// As [`build_from_tar_layer`]; [`BuildError::Lower`] when a lower layer is damaged.
pub fn build_from_tar_over(
    reader: impl Read,
    out: &File,
    options: &BuildOptions,
    lower: &Lower<'_>,
) -> Result<BuildReport, BuildError> {
    build(reader, out, options, lower, false)
}

fn build(
    reader: impl Read,
    out: &File,
    options: &BuildOptions,
    lower: &Lower<'_>,
    end_mark_needed: bool,
) -> Result<BuildReport, BuildError> {
    let mut archive = tarstream::Reader::new(Stream(reader), end_mark_needed);
    let mut layer =
        Layer { writer: Writer::new(out, options)?, lower, entries_max: options.entries_max, entries: 0 };
    while let Some(entry) = archive.next_entry()? {
        layer.add(&mut archive, entry)?;
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|source| TarError::Io { offset_bytes: 0, source })?;
    layer.writer.finish()
}

struct Layer<'f, 'l> {
    writer: Writer<'f>,
    lower: &'l Lower<'l>,
    /// Limit for the entries of the archive too, which may repeat itself without making inodes.
    entries_max: u32,
    entries: u32,
}

/// A directory of the layer and the way to it.
struct Place {
    node: NodeId,
    /// Names from the root, symbolic links resolved.
    names: Vec<Vec<u8>>,
    /// Whether lower layers' content shows here.
    transparent: bool,
}

impl<'l> Layer<'_, 'l> {
    fn add<R: tarstream::Skip>(
        &mut self,
        archive: &mut tarstream::Reader<R>,
        entry: tarstream::Entry,
    ) -> Result<(), BuildError> {
        if self.entries >= self.entries_max {
            return Err(BuildError::TooManyEntries { limit: self.entries_max });
        }
        self.entries += 1;
        let path = components(&entry.path)?;
        let (metadata, xattrs) = (metadata_of(&entry), self.xattrs_of(&entry));
        let Some((name, parents)) = path.split_last() else {
            // The root itself.
            if entry.kind == Kind::Directory {
                let opaque = self.writer.tree.node(NodeId::ROOT).is_opaque();
                self.writer.set_metadata(NodeId::ROOT, metadata, with_opaque(xattrs, opaque))?;
                return Ok(());
            }
            return Err(BuildError::BadPath {
                path: lossy(&entry.path),
                reason: "it names the root, and is not a directory",
            });
        };
        if *name == WHITEOUT_OPAQUE {
            let place = self.parent(parents, &entry.path)?;
            return self.make_opaque(place.node);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let place = self.parent(parents, &entry.path)?;
        let present = self.writer.tree.child(place.node, name);
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(place.node, hidden);
        }
        let body = match entry.kind {
            Kind::Directory => return self.directory(place.node, name, present, metadata, xattrs),
            Kind::HardLink => return self.hard_link(&place, name, &entry),
            Kind::File => {
                let size = entry.size_bytes;
                let extent = self.writer.write_data(&entry.path, size, &mut archive.data(&entry));
                Body::File(extent.map_err(|e| cut_off(e, entry.data_offset_bytes))?)
            }
            Kind::Symlink => Body::Symlink(entry.link.as_slice().into()),
            Kind::CharDevice => Body::CharDevice(entry.device.0, entry.device.1),
            Kind::BlockDevice => Body::BlockDevice(entry.device.0, entry.device.1),
            Kind::Fifo => Body::Fifo,
        };
        self.writer.insert(place.node, name, metadata, xattrs, body).map(drop)
    }

    fn directory(
        &mut self,
        parent: NodeId,
        name: &[u8],
        present: Option<NodeId>,
        metadata: Metadata,
        xattrs: Vec<Xattr>,
    ) -> Result<(), BuildError> {
        let node = present.map(|id| (id, self.writer.tree.node(id)));
        match node {
            Some((id, node)) if node.is_dir() => {
                let opaque = node.is_opaque();
                self.writer.set_metadata(id, metadata, with_opaque(xattrs, opaque))?;
            }
            other => {
                // A directory in the place of a whiteout hides what the whiteout hid.
                let hides = other.is_some_and(|(_, node)| node.body.is_whiteout());
                self.writer.insert(parent, name, metadata, with_opaque(xattrs, hides), Body::Dir)?;
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, parent: NodeId, hidden: &[u8]) -> Result<(), BuildError> {
        match self.writer.tree.child(parent, hidden) {
            Some(id) if self.writer.tree.node(id).is_dir() => self.make_opaque(id),
            // A file of this layer hides the lower one by itself.
            Some(_) => Ok(()),
            None => self
                .writer
                .insert(parent, hidden, Metadata::default(), Vec::new(), Body::CharDevice(0, 0))
                .map(drop),
        }
    }

    fn make_opaque(&mut self, id: NodeId) -> Result<(), BuildError> {
        let node = self.writer.tree.node_mut(id);
        if !node.is_opaque() {
            node.xattrs.push(Xattr::opaque());
        }
        Ok(())
    }

    fn hard_link(&mut self, place: &Place, name: &[u8], entry: &tarstream::Entry) -> Result<(), BuildError> {
        let fail =
            |reason| BuildError::BadHardLink { path: lossy(&entry.path), target: lossy(&entry.link), reason };
        let path = components(&entry.link)?;
        let (target_name, parents) = path.split_last().ok_or_else(|| fail("it is the root directory"))?;
        let target_parent = self.parent(parents, &entry.link)?;
        if let Some(target) = self.writer.tree.child(target_parent.node, target_name) {
            let node = self.writer.tree.node(target);
            if node.is_dir() {
                return Err(fail("it is a directory"));
            }
            if node.body.is_whiteout() {
                return Err(fail("it is deleted by this layer"));
            }
            // Linking a file to its own name changes nothing.
            return self.writer.link(place.node, name, target);
        }
        let found =
            self.look_below(&target_parent, target_name)?.ok_or_else(|| fail("there is no such file"))?;
        let linked = self.copy_up(&target_parent, target_name, &found, &entry.path)?;
        match linked {
            Some(target) => self.writer.link(place.node, name, target),
            None => Err(fail("it is a directory")),
        }
    }

    /// Takes a file of a lower layer into this one, as overlayfs does when it gets another link.
    fn copy_up(
        &mut self,
        parent: &Place,
        name: &[u8],
        found: &Found<'_>,
        path: &[u8],
    ) -> Result<Option<NodeId>, BuildError> {
        let (reader, inode) = (found.reader, &found.inode);
        let damaged = |source| BuildError::Lower { index: found.layer, source };
        let body = if inode.is_file() {
            let mut data = FileData { reader, inode, position: 0 };
            Body::File(self.writer.write_data(path, inode.size_bytes, &mut data)?)
        } else if inode.is_symlink() {
            Body::Symlink(reader.read_link(inode).map_err(damaged)?.into())
        } else {
            match inode.mode & super::format::S_IFMT {
                super::format::S_IFDIR => return Ok(None),
                super::format::S_IFCHR => Body::CharDevice(inode.device.0, inode.device.1),
                super::format::S_IFBLK => Body::BlockDevice(inode.device.0, inode.device.1),
                super::format::S_IFIFO => Body::Fifo,
                _ => Body::Socket,
            }
        };
        let xattrs = reader.xattrs(inode).map_err(damaged)?;
        self.writer.insert(parent.node, name, metadata_of_inode(inode), xattrs, body).map(Some)
    }

    /// The directory that `parents` leads to, made where it is missing.
    fn parent(&mut self, parents: &[&[u8]], path: &[u8]) -> Result<Place, BuildError> {
        let bad = |reason| BuildError::BadPath { path: lossy(path), reason };
        let mut todo: VecDeque<Vec<u8>> = parents.iter().map(|name| name.to_vec()).collect();
        let mut stack = vec![(NodeId::ROOT, Vec::new(), !self.writer.tree.node(NodeId::ROOT).is_opaque())];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            let (node, _, transparent) = stack[stack.len() - 1];
            if name == b".." {
                // Only from a link's target; the root is its own parent.
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let place = || Place {
                node,
                names: stack[1..].iter().map(|(_, name, _)| name.clone()).collect(),
                transparent,
            };
            let target = match self.writer.tree.child(node, &name) {
                Some(child) => match &self.writer.tree.node(child).body {
                    Body::Dir => {
                        let transparent = transparent && !self.writer.tree.node(child).is_opaque();
                        stack.push((child, name, transparent));
                        None
                    }
                    Body::Symlink(target) => Some(target.to_vec()),
                    Body::CharDevice(0, 0) => {
                        let child = self.implicit(node, &name, implicit_metadata(), vec![Xattr::opaque()])?;
                        stack.push((child, name, false));
                        None
                    }
                    _ => return Err(bad("a parent is not a directory")),
                },
                None => {
                    let below = self.look_below(&place(), &name)?;
                    let damaged = |index| move |source| BuildError::Lower { index, source };
                    match below {
                        Some(f) if f.inode.is_symlink() => {
                            Some(f.reader.read_link(&f.inode).map_err(damaged(f.layer))?)
                        }
                        Some(f) if f.inode.is_dir() => {
                            let mut xattrs = f.reader.xattrs(&f.inode).map_err(damaged(f.layer))?;
                            xattrs.retain(|x| !x.is_overlay());
                            let child = self.implicit(node, &name, metadata_of_inode(&f.inode), xattrs)?;
                            stack.push((child, name, transparent));
                            None
                        }
                        Some(_) => return Err(bad("a parent is not a directory")),
                        None => {
                            let child = self.implicit(node, &name, implicit_metadata(), Vec::new())?;
                            stack.push((child, name, transparent));
                            None
                        }
                    }
                }
            };
            if let Some(target) = target {
                links += 1;
                if links > LINKS_MAX {
                    return Err(bad("its parents lead through more than 40 symbolic links"));
                }
                if target.starts_with(b"/") {
                    stack.truncate(1);
                }
                for part in target.split(|b| *b == b'/').rev().filter(|p| !matches!(*p, b"" | b".")) {
                    todo.push_front(part.to_vec());
                }
            }
            if stack.len() > DEPTH_MAX || todo.len() > PATH_BYTES_MAX {
                return Err(BuildError::TooDeep { path: lossy(path), limit: DEPTH_MAX });
            }
        }
        let (node, _, transparent) = stack[stack.len() - 1];
        Ok(Place { node, names: stack.drain(1..).map(|(_, name, _)| name).collect(), transparent })
    }

    fn implicit(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        xattrs: Vec<Xattr>,
    ) -> Result<NodeId, BuildError> {
        let id = self.writer.insert(parent, name, metadata, xattrs, Body::Dir)?;
        self.writer.report.depends_on_lower = true;
        Ok(id)
    }

    fn look_below(&mut self, place: &Place, name: &[u8]) -> Result<Option<Found<'l>>, BuildError> {
        self.writer.report.depends_on_lower = true;
        if !place.transparent {
            return Ok(None);
        }
        let path: Vec<&[u8]> = place.names.iter().map(Vec::as_slice).chain([name]).collect();
        self.lower.find(&path)
    }

    fn xattrs_of(&mut self, entry: &tarstream::Entry) -> Vec<Xattr> {
        let mut xattrs: Vec<Xattr> = Vec::new();
        for (name, value) in &entry.xattrs {
            match Xattr::new(name, value).filter(|x| !x.is_overlay()) {
                Some(xattr) => {
                    // The last of two of the same name counts.
                    xattrs.retain(|x| (x.index, &x.suffix) != (xattr.index, &xattr.suffix));
                    xattrs.push(xattr);
                }
                None => self.writer.report.skipped_xattrs += 1,
            }
        }
        xattrs
    }
}

/// Data of a file of a lower layer.
struct FileData<'a> {
    reader: &'a Reader<File>,
    inode: &'a Inode,
    position: u64,
}

impl Read for FileData<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read_at(self.inode, self.position, buf).map_err(io::Error::other)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// Splits a path; leading slashes and "." fall away.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, BuildError> {
    let bad = |reason| BuildError::BadPath { path: lossy(path), reason };
    if path.len() > PATH_BYTES_MAX {
        return Err(bad("it is longer than 4096 bytes"));
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(bad("it contains \"..\"")),
            _ => parts.push(part),
        }
    }
    if parts.len() > DEPTH_MAX {
        return Err(BuildError::TooDeep { path: lossy(path), limit: DEPTH_MAX });
    }
    Ok(parts)
}

fn metadata_of(entry: &tarstream::Entry) -> Metadata {
    Metadata { permissions: entry.permissions, uid: entry.uid, gid: entry.gid, mtime: entry.mtime }
}

fn metadata_of_inode(inode: &Inode) -> Metadata {
    Metadata { permissions: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid, mtime: inode.mtime }
}

fn implicit_metadata() -> Metadata {
    Metadata { permissions: 0o755, uid: 0, gid: 0, mtime: Timestamp::default() }
}

fn with_opaque(mut xattrs: Vec<Xattr>, opaque: bool) -> Vec<Xattr> {
    if opaque {
        xattrs.push(Xattr::opaque());
    }
    xattrs
}

/// A member that is shorter than announced means that the archive is.
fn cut_off(error: BuildError, data_offset_bytes: u64) -> BuildError {
    match error {
        BuildError::ShortData { found_bytes, .. } => {
            let offset_bytes = data_offset_bytes.saturating_add(found_bytes);
            TarError::Truncated { offset_bytes, inside: "a member's data" }.into()
        }
        other => other,
    }
}
