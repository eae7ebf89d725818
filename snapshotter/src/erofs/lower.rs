//! What lies below a layer: the merged view of its lower layers, for the few questions that building a layer asks.

use std::fs::File;

use super::error::{BuildError, CorruptError};
use super::reader::{Inode, Reader};
use super::tree::Xattr;

/// The layers below the one that is being built, base first.
#[derive(Debug, Default)]
pub struct Lower<'a> {
    layers: Vec<&'a Reader<File>>,
}

/// Something found in a lower layer.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) reader: &'a Reader<File>,
    pub(super) layer: usize,
    pub(super) inode: Inode,
}

impl<'a> Lower<'a> {
    /// Layers base first.
    pub fn new(layers: Vec<&'a Reader<File>>) -> Self {
        Self { layers }
    }

    /// What the merged tree has at `path`, no symbolic link followed; `None` when there is nothing.
    pub(super) fn find(&self, path: &[&[u8]]) -> Result<Option<Found<'a>>, BuildError> {
        for (layer, reader) in self.layers.iter().enumerate().rev() {
            match find_in(reader, path).map_err(|source| BuildError::Lower { index: layer, source })? {
                Step::Found(inode) => return Ok(Some(Found { reader, layer, inode })),
                Step::Hidden => return Ok(None),
                Step::Below => {}
            }
        }
        Ok(None)
    }
}

enum Step {
    Found(Inode),
    /// Neither here nor below.
    Hidden,
    /// Not here, perhaps below.
    Below,
}

fn find_in(reader: &Reader<File>, path: &[&[u8]]) -> Result<Step, CorruptError> {
    let mut inode = reader.inode(reader.root_nid())?;
    let mut opaque = false;
    for name in path {
        if !inode.is_dir() {
            return Ok(Step::Hidden);
        }
        opaque |= reader.xattrs(&inode)?.contains(&Xattr::opaque());
        match reader.lookup(&inode, name)? {
            Some(child) if child.is_whiteout() => return Ok(Step::Hidden),
            Some(child) => inode = child,
            None if opaque => return Ok(Step::Hidden),
            None => return Ok(Step::Below),
        }
    }
    Ok(Step::Found(inode))
}
