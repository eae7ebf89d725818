//! A read-only look into a root file system made of EROFS layers, from the host.
//!
//! Owns [`RootView`]: path look-ups through all layers with the overlay's rules (the topmost entry wins, whiteouts and opaque directories
//! hide what lies below), symbolic links resolved inside the root. It serves the checks that are made before a guest starts (is the
//! program there, whose uid is "www-data"), so that a user reads "no such program" and not an errno from inside a guest. It must not
//! be used for the guest's own file access: the guest reads the same layers itself.

use std::fs::File;

use seuss_snapshotter::erofs::{CorruptError, Inode, Reader};

/// Most symbolic links in one look-up, as on Linux (path_resolution(7)).
const SYMLINKS_MAX: usize = 40;

/// Why a path could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// A layer is damaged.
    #[error("layer {layer} of the root file system is damaged: {source}")]
    Corrupt {
        /// Which layer, counted from the base, 0.
        layer: usize,
        /// What is wrong.
        source: CorruptError,
    },
    /// Too many symbolic links.
    #[error("{path}: too many levels of symbolic links")]
    Loop {
        /// The path looked up.
        path: String,
    },
    /// The file is larger than the caller wants.
    #[error("{path} has {size_bytes} bytes, more than the {limit_bytes} that are read")]
    TooLarge {
        /// The path looked up.
        path: String,
        /// Its size.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
}

/// A file of the merged root file system.
#[derive(Clone, Debug)]
pub struct Node {
    /// Layer that holds it (for a directory: the topmost one that does).
    layer: usize,
    /// Its inode there.
    pub inode: Inode,
    /// Further layers that contribute to a directory, top down.
    below: Vec<(usize, Inode)>,
    /// Absolute path after all symbolic links.
    pub path: Vec<u8>,
}

/// The merged view.
#[derive(Debug)]
pub struct RootView {
    layers: Vec<Reader<File>>,
}

impl RootView {
    /// A view of `layers`, base first.
    #[must_use]
    pub fn new(layers: Vec<Reader<File>>) -> Self {
        Self { layers }
    }

    /// The file at `path` (absolute, or taken to be), last symbolic link followed; `None` if there is none.
    ///
    /// # Errors
    /// [`ViewError::Corrupt`], [`ViewError::Loop`].
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Node>, ViewError> {
        let mut pending: Vec<Vec<u8>> = components(path);
        let mut links = 0;
        let Some(root) = self.root()? else { return Ok(None) };
        let mut trail = vec![root];
        while let Some(name) = pending.pop() {
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            // The trail is never empty: it starts with the root, which `..` does not leave.
            let Some(dir) = trail.last() else { return Ok(None) };
            if !dir.inode.is_dir() {
                return Ok(None);
            }
            let Some(node) = self.child(dir, &name)? else { return Ok(None) };
            if node.inode.is_symlink() {
                links += 1;
                if links > SYMLINKS_MAX {
                    return Err(ViewError::Loop { path: lossy(path) });
                }
                let layer = node.layer;
                let target = self.layers[layer].read_link(&node.inode).map_err(corrupt(layer))?;
                if target.first() == Some(&b'/') {
                    trail.truncate(1);
                }
                pending.extend(components(&target));
                continue;
            }
            trail.push(node);
        }
        Ok(trail.pop())
    }

    /// The content of a regular file.
    ///
    /// # Errors
    /// [`ViewError::Corrupt`]; [`ViewError::TooLarge`] if it has more than `limit_bytes`.
    pub fn read(&self, node: &Node, limit_bytes: u64) -> Result<Vec<u8>, ViewError> {
        let size_bytes = node.inode.size_bytes;
        if size_bytes > limit_bytes {
            return Err(ViewError::TooLarge { path: lossy(&node.path), size_bytes, limit_bytes });
        }
        self.read_at(node, 0, size_bytes as usize)
    }

    /// At most `len_bytes` of a regular file from `offset_bytes` on; fewer at its end.
    ///
    /// # Errors
    /// [`ViewError::Corrupt`].
    pub fn read_at(&self, node: &Node, offset_bytes: u64, len_bytes: usize) -> Result<Vec<u8>, ViewError> {
        let mut content = vec![0; len_bytes];
        let mut have = 0;
        while have < len_bytes {
            let got = self.layers[node.layer]
                .read_at(&node.inode, offset_bytes + have as u64, &mut content[have..])
                .map_err(corrupt(node.layer))?;
            if got == 0 {
                break;
            }
            have += got;
        }
        content.truncate(have);
        Ok(content)
    }

    fn root(&self) -> Result<Option<Node>, ViewError> {
        let mut found = Vec::new();
        for (layer, reader) in self.layers.iter().enumerate().rev() {
            let inode = reader.inode(reader.root_nid()).map_err(corrupt(layer))?;
            found.push((layer, inode));
        }
        Ok(stack(found, b"/".to_vec()))
    }

    /// The entry `name` of `dir` by the overlay's rules.
    fn child(&self, dir: &Node, name: &[u8]) -> Result<Option<Node>, ViewError> {
        let mut found: Vec<(usize, Inode)> = Vec::new();
        let parts = std::iter::once((dir.layer, &dir.inode)).chain(dir.below.iter().map(|(l, i)| (*l, i)));
        for (layer, inode) in parts {
            let reader = &self.layers[layer];
            let Some(child) = reader.lookup(inode, name).map_err(corrupt(layer))? else { continue };
            if child.is_whiteout() {
                break;
            }
            if !child.is_dir() {
                // Below a directory of a higher layer a file is hidden by it.
                if found.is_empty() {
                    found.push((layer, child));
                }
                break;
            }
            let opaque = self.is_opaque(layer, &child)?;
            found.push((layer, child));
            if opaque {
                break;
            }
        }
        let mut path = dir.path.clone();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(stack(found, path))
    }

    fn is_opaque(&self, layer: usize, inode: &Inode) -> Result<bool, ViewError> {
        let xattrs = self.layers[layer].xattrs(inode).map_err(corrupt(layer))?;
        Ok(xattrs.iter().any(|x| x.name() == b"trusted.overlay.opaque" && x.value() == b"y"))
    }
}

fn corrupt(layer: usize) -> impl FnOnce(CorruptError) -> ViewError {
    move |source| ViewError::Corrupt { layer, source }
}

fn stack(mut found: Vec<(usize, Inode)>, path: Vec<u8>) -> Option<Node> {
    if found.is_empty() {
        return None;
    }
    let (layer, inode) = found.remove(0);
    Some(Node { layer, inode, below: found, path })
}

/// The names of a path, last first; `.` and empty names left out.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
pub(crate) mod tests;
