//! Path resolution (path_resolution(7)).

use super::access::{Access, Subject};
use super::node::{Node, Target};
use super::proc::ProcessInfo;
use crate::errno::{Errno, Result};
use alloc::borrow::Cow;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Most symbolic links in one resolution.
pub const LINKS_MAX: u32 = 40;

/// Who resolves a path, and from where.
#[derive(Clone)]
pub struct Context<'a> {
    /// Whose permissions count.
    pub subject: Subject<'a>,
    /// Where absolute paths start, and where `..` stops.
    pub root: Rc<Node>,
    /// Where relative paths start.
    pub cwd: Rc<Node>,
    /// Permission bits that new nodes do not get.
    pub umask: u32,
    /// What /proc shows.
    pub processes: &'a dyn ProcessInfo,
}

/// What a resolution must not do (openat2(2), "resolve"), and how many links it has followed.
#[derive(Clone, Debug, Default)]
pub struct Restrictions {
    /// RESOLVE_NO_SYMLINKS.
    pub no_links: bool,
    /// RESOLVE_NO_MAGICLINKS: the links of /proc/PID.
    pub no_magic_links: bool,
    /// RESOLVE_NO_XDEV.
    pub no_crossing: bool,
    /// RESOLVE_BENEATH: the directory that must not be left.
    pub beneath: Option<Rc<Node>>,
    /// Links followed so far.
    pub links: u32,
}

impl Restrictions {
    /// Follow a link.
    fn follow(&mut self) -> Result {
        self.links += 1;
        if self.no_links || self.links > LINKS_MAX { Err(Errno::ELOOP) } else { Ok(()) }
    }

    /// Follow a link that leads straight to a node.
    fn jump(&self) -> Result {
        if self.no_magic_links {
            return Err(Errno::ELOOP);
        }
        if self.beneath.is_some() { Err(Errno::EXDEV) } else { Ok(()) }
    }

    /// Go from one node to another.
    fn check_crossing(&self, from: &Rc<Node>, to: &Rc<Node>) -> Result {
        if self.no_crossing && !Rc::ptr_eq(from.fs(), to.fs()) { Err(Errno::EXDEV) } else { Ok(()) }
    }
}

/// The last component of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last<'p> {
    /// A name.
    Name(&'p [u8]),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// The path has no component: the root.
    Root,
}

/// A path without its last component.
#[derive(Debug)]
pub struct Parent<'p> {
    /// The directory that the last component is looked up in.
    pub directory: Rc<Node>,
    /// The last component.
    pub last: Last<'p>,
    /// Whether slashes follow it: it must be a directory.
    pub trailing_slash: bool,
}

impl<'p> Parent<'p> {
    /// The last component as a name to make or remove.
    ///
    /// # Errors
    /// `special` if it is none.
    pub fn name(&self, special: Errno) -> Result<&'p [u8]> {
        if let Last::Name(name) = self.last { Ok(name) } else { Err(special) }
    }
}

fn trim_start(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|byte| **byte == b'/').count();
    &path[slashes..]
}

impl Context<'_> {
    /// Where `path` starts: at the root, or at `start`.
    fn origin(&self, start: &Rc<Node>, path: &[u8], limits: &Restrictions) -> Result<Rc<Node>> {
        if path.first() != Some(&b'/') {
            return Ok(start.clone());
        }
        if limits.beneath.is_some() {
            return Err(Errno::EXDEV);
        }
        limits.check_crossing(start, &self.root)?;
        Ok(self.root.clone())
    }

    /// The parent of `node`, not above the root.
    fn above(&self, node: &Rc<Node>) -> Result<Rc<Node>> {
        if Rc::ptr_eq(node, &self.root) {
            return Ok(node.clone());
        }
        match node.parent() {
            Some(parent) => Ok(parent),
            // The top of the tree is its own parent; a removed directory whose parent is gone has none.
            None if node.nlink() != 0 => Ok(node.clone()),
            None => Err(Errno::ENOENT),
        }
    }

    /// One step: the node behind a component of a directory.
    ///
    /// # Errors
    /// ENOTDIR, EACCES, ENOENT, ENAMETOOLONG, EIO.
    pub fn step(&self, directory: &Rc<Node>, name: &[u8]) -> Result<Rc<Node>> {
        if !directory.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        self.subject.check(directory, Access::EXECUTE)?;
        match name {
            b"." => Ok(directory.clone()),
            b".." => self.above(directory),
            _ => directory.lookup(name, self.processes),
        }
    }

    fn step_within(&self, directory: &Rc<Node>, name: &[u8], limits: &Restrictions) -> Result<Rc<Node>> {
        let is_top = limits.beneath.as_ref().is_some_and(|top| Rc::ptr_eq(top, directory));
        if name == b".." && is_top {
            return Err(Errno::EXDEV);
        }
        let node = self.step(directory, name)?;
        limits.check_crossing(directory, &node)?;
        Ok(node)
    }

    /// The node that `path` leads to, from `start` if it is relative. A link in the last place is followed if `follow`.
    ///
    /// # Errors
    /// ENOENT (also for an empty path), ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, EIO.
    pub fn walk(&self, start: &Rc<Node>, path: &[u8], follow: bool) -> Result<Rc<Node>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        self.walk_within(start, path, follow, &mut Restrictions::default())
    }

    /// As [`Self::walk`], within `limits`.
    ///
    /// # Errors
    /// As [`Self::walk`], and EXDEV.
    pub fn walk_within(
        &self,
        start: &Rc<Node>,
        path: &[u8],
        follow: bool,
        limits: &mut Restrictions,
    ) -> Result<Rc<Node>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut at = self.origin(start, path, limits)?;
        let mut rest: Cow<'_, [u8]> = Cow::Borrowed(path);
        let mut position = 0;
        loop {
            let remaining = trim_start(&rest[position..]);
            if remaining.is_empty() {
                let wants_directory = rest.last() == Some(&b'/');
                return if wants_directory && !at.is_directory() { Err(Errno::ENOTDIR) } else { Ok(at) };
            }
            let begin = rest.len() - remaining.len();
            let len = remaining.iter().position(|byte| *byte == b'/').unwrap_or(remaining.len());
            let name = &remaining[..len];
            let node = self.step_within(&at, name, limits)?;
            position = begin + len;
            let is_last = position == rest.len();
            if !node.is_symlink() || (is_last && !follow) {
                at = node;
                continue;
            }
            limits.follow()?;
            match node.target(self)? {
                Target::Node(node, _) => {
                    limits.jump()?;
                    limits.check_crossing(&at, &node)?;
                    at = node;
                }
                Target::Path(target) => {
                    if target.is_empty() {
                        return Err(Errno::ENOENT);
                    }
                    at = self.origin(&at, &target, limits)?;
                    let mut longer = Vec::with_capacity(target.len() + rest.len() - position);
                    longer.extend_from_slice(&target);
                    longer.extend_from_slice(&rest[position..]);
                    rest = Cow::Owned(longer);
                    position = 0;
                }
            }
        }
    }

    /// The directory that holds the last component of `path`, and that component.
    ///
    /// # Errors
    /// As [`Self::walk`].
    pub fn walk_parent<'p>(&self, start: &Rc<Node>, path: &'p [u8]) -> Result<Parent<'p>> {
        self.walk_parent_within(start, path, &mut Restrictions::default())
    }

    fn walk_parent_within<'p>(
        &self,
        start: &Rc<Node>,
        path: &'p [u8],
        limits: &mut Restrictions,
    ) -> Result<Parent<'p>> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        let trailing_slash = end != path.len();
        let begin = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let directory = if begin == 0 {
            self.origin(start, path, limits)?
        } else {
            self.walk_within(start, &path[..begin], true, limits)?
        };
        let last = match &path[begin..end] {
            b"" => Last::Root,
            b"." => Last::Dot,
            b".." => Last::DotDot,
            name => Last::Name(name),
        };
        if !directory.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        Ok(Parent { directory, last, trailing_slash })
    }

    /// As [`Self::walk_parent`] for a regular file that may be made: while the last component is a link, it is followed (if `follow`), so that
    /// what comes back is the place of the file itself (directory and name), and its node if it exists.
    ///
    /// # Errors
    /// As [`Self::walk`]; EISDIR if the path can only be a directory's.
    pub fn walk_for_creation(
        &self,
        start: &Rc<Node>,
        path: &[u8],
        follow: bool,
        limits: &mut Restrictions,
    ) -> Result<Place> {
        let mut start = start.clone();
        let mut path: Cow<'_, [u8]> = Cow::Borrowed(path);
        loop {
            let parent = self.walk_parent_within(&start, &path, limits)?;
            let name = parent.name(Errno::EISDIR)?;
            if parent.trailing_slash {
                return Err(Errno::EISDIR);
            }
            let node = match self.step_within(&parent.directory, name, limits) {
                Ok(node) => Some(node),
                Err(Errno::ENOENT) => None,
                Err(errno) => return Err(errno),
            };
            let Some(link) = node.as_ref().filter(|node| follow && node.is_symlink()) else {
                return Ok(Place { name: name.to_vec(), directory: parent.directory, node });
            };
            limits.follow()?;
            match link.target(self)? {
                Target::Node(node, _) => {
                    limits.jump()?;
                    return Ok(Place { name: name.to_vec(), directory: parent.directory, node: Some(node) });
                }
                Target::Path(target) => {
                    start = parent.directory;
                    path = Cow::Owned(target.to_vec());
                }
            }
        }
    }
}

/// Where a file is, or can be made.
pub struct Place {
    /// The directory.
    pub directory: Rc<Node>,
    /// The name in it.
    pub name: Vec<u8>,
    /// The node of that name.
    pub node: Option<Rc<Node>>,
}
