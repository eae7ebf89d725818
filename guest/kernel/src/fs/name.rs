//! What nodes are called: paths for getcwd(2), /proc and memory maps.

use super::node::{Kind, Location, Node};
use crate::errno::{Errno, Result};
use alloc::rc::Rc;
use alloc::vec::Vec;
use seuss_abi::layout::PAGE_SIZE;

impl Node {
    /// Its path below `root`, for getcwd(2) and /proc. A node that hangs nowhere has its label and number; a removed one has
    /// " (deleted)" behind its last path.
    ///
    /// # Errors
    /// ENOENT if it lies outside `root`; ENAMETOOLONG.
    pub fn path(self: &Rc<Self>, root: &Rc<Self>) -> Result<Vec<u8>> {
        let mut names: Vec<Rc<[u8]>> = Vec::new();
        let mut at = self.clone();
        let mut total = 0;
        while !Rc::ptr_eq(&at, root) {
            let Location { parent, name } = at.location();
            let Some(parent) = parent.upgrade() else {
                if Rc::ptr_eq(&at, self) && !name.is_empty() {
                    return Ok(self.label(&name));
                }
                return Err(Errno::ENOENT);
            };
            total += name.len() + 1;
            if total > PAGE_SIZE as usize {
                return Err(Errno::ENAMETOOLONG);
            }
            names.push(name);
            at = parent;
        }
        let mut path = Vec::with_capacity(total + 10);
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        if self.lost_its_name() {
            path.extend_from_slice(b" (deleted)");
        }
        Ok(path)
    }

    /// Whether the name that it was last known by is gone, or leads to another node.
    fn lost_its_name(self: &Rc<Self>) -> bool {
        if self.nlink() == 0 {
            return true;
        }
        let Location { parent, name } = self.location();
        let parent = parent.upgrade();
        match parent.as_ref().map(|parent| parent.kind()) {
            Some(Kind::Directory(directory)) if !directory.is_provided() => {
                directory.cached(&name).is_none_or(|node| !Rc::ptr_eq(&node, self))
            }
            _ => false,
        }
    }

    fn label(&self, name: &[u8]) -> Vec<u8> {
        let mut text = name.to_vec();
        if name.ends_with(b":") {
            text.extend_from_slice(alloc::format!("[{}]", self.ino()).as_bytes());
        } else if self.nlink() == 0 {
            text.extend_from_slice(b" (deleted)");
        }
        text
    }

    /// Its path from the top of the tree: mappings have no root of their own.
    pub(super) fn path_from_top(&self) -> Vec<u8> {
        let mut names: Vec<Rc<[u8]>> = Vec::new();
        let Location { mut parent, name } = self.location();
        names.push(name);
        let mut total = 0;
        while let Some(node) = parent.upgrade() {
            let above = node.location();
            total += above.name.len() + 1;
            if above.parent.strong_count() == 0 || total > PAGE_SIZE as usize {
                break;
            }
            names.push(above.name);
            parent = above.parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            if !name.starts_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        if self.nlink() == 0 {
            path.extend_from_slice(b" (deleted)");
        }
        path
    }
}
