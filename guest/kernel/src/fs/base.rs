//! The base phase: at first only the layers of the runtime are there.
//!
//! A base snapshot is shared by every application over the same runtime (guest/decisions/0007), so nothing of the application's own layers may have been looked at when it
//! is taken. Until then the root file system is made of the runtime's layers alone (it is *partial*), and each look-up is compared with the layers above, which
//! are known, but not shown. A look that they would answer is a *hit*: it ends the phase, the system call that looked starts again after the snapshot, and
//! the layers above are hung in ([`attach`]): in the guest that was captured its own, in a clone those of its image.
//!
//! **Which layers are the runtime's** is found out on the way: those up to the one that holds the first process' program, scripts apart. If that then looks for another
//! program (`env`, a shell), or for a shared library, in a layer above that is not the topmost one, the layers up to that one belong to the runtime, too, and the phase goes on.
//!
//! What a program has learnt from the runtime's layers must still be true then: names that it has found or missed, and directories that it has listed, must not be answered
//! otherwise by the layers above. If they are, the clone is refused ([`Conflict`]).

use super::device::new_directory;
use super::directory::{Directory, Lower, Slot};
use super::node::{Flags, Node, S_IFLNK, S_IFMT, S_IFREG};
use crate::erofs::Image;
use crate::errno::{Errno, Result};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

/// Most names that are looked up in the phase: all are remembered.
const LOOKUPS_MAX: u32 = 1 << 16;

/// How far the phase is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Everything is there: the usual state.
    #[default]
    Over,
    /// The library OS puts in place what the VMM gives: mounts, files, the working directory.
    SetUp,
    /// The program runs.
    Running,
}

/// The phase, as all file systems see it.
#[derive(Debug, Default)]
pub struct BasePhase {
    stage: Cell<Stage>,
    hit: Cell<bool>,
    /// The hit was a program of this layer.
    program_in: Cell<Option<u8>>,
    lookups: Cell<u32>,
}

impl BasePhase {
    /// Begin: the root file system is about to be made of the runtime's layers.
    pub fn set_up(&self) {
        self.stage.set(Stage::SetUp);
    }

    /// The program runs from now on.
    pub fn run(&self) {
        if self.stage.get() == Stage::SetUp {
            self.stage.set(Stage::Running);
        }
    }

    /// The layers above are there.
    pub fn end(&self) {
        self.stage.set(Stage::Over);
        self.hit.set(false);
        self.program_in.set(None);
    }

    /// Whether the program runs and only the runtime's layers are there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.stage.get() == Stage::Running
    }

    /// The program asks for what is not the runtime's: the call must begin again after the phase. Returns an error for the way out of the call, which nobody sees.
    #[must_use]
    pub fn hit(&self) -> Errno {
        self.hit.set(true);
        Errno::EIO
    }

    /// What comes from outside (standard input, the network) is not the runtime's either.
    ///
    /// # Errors
    /// As [`Self::hit`], while the program runs in the phase.
    pub fn check_outside(&self) -> Result {
        if self.is_running() { Err(self.hit()) } else { Ok(()) }
    }

    /// Whether there was a hit.
    #[must_use]
    pub fn has_hit(&self) -> bool {
        self.hit.get()
    }

    /// Whether there was a hit since the last call.
    #[must_use]
    pub fn take_hit(&self) -> bool {
        self.hit.get() && self.hit.take()
    }

    /// The layer of the program that the hit was, if it was one.
    #[must_use]
    pub fn take_program(&self) -> Option<usize> {
        self.program_in.take().map(usize::from)
    }

    fn count_lookup(&self) -> Result {
        self.lookups.set(self.lookups.get() + 1);
        if self.lookups.get() > LOOKUPS_MAX { Err(self.hit()) } else { Ok(()) }
    }
}

/// Why layers cannot be hung in over a runtime that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The path means something else with them.
    Path(Vec<u8>),
    /// The first process' program is another one with them.
    Program,
    /// They cannot be read.
    Damaged(Errno),
}

impl From<Errno> for Conflict {
    fn from(errno: Errno) -> Self {
        Self::Damaged(errno)
    }
}

impl core::fmt::Display for Conflict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Path(path) => {
                let path = String::from_utf8_lossy(path);
                write!(f, "{path} is another one in the layers above the runtime than it was to the program")
            }
            Self::Program => write!(f, "the layers above the runtime have another program of that name"),
            Self::Damaged(errno) => {
                write!(f, "the layers above the runtime cannot be read: {}", errno.name())
            }
        }
    }
}

/// What layers have under a name.
enum Above {
    Nothing,
    /// Directories, the youngest layer first, which merge with whatever directory is below.
    Directories(Vec<Lower>),
    /// Anything that hides what is below, or is no directory.
    Other(Lower),
}

fn look_above(uppers: &[Lower], name: &[u8]) -> Result<Above> {
    let mut directories = Vec::new();
    for upper in uppers {
        let Some(entry) = upper.image.lookup(&upper.inode, name)? else { continue };
        let found =
            Lower { image: upper.image.clone(), layer: upper.layer, inode: upper.image.inode(entry.nid)? };
        if !found.inode.is_directory() || found.is_opaque()? {
            return Ok(Above::Other(found));
        }
        directories.push(found);
    }
    Ok(if directories.is_empty() { Above::Nothing } else { Above::Directories(directories) })
}

/// Whether the dynamic loader looks for files of this name (ld.so(8)): they belong to programs. A layer that brings some has an `ld.so.cache` of its own, as ldconfig(8) writes it.
fn is_loaders(name: &[u8]) -> bool {
    name == b"ld.so.cache" || name.ends_with(b".so") || name.windows(4).any(|part| part == b".so.")
}

/// The roots of `images`, of which the lowest is layer `first`; the youngest comes first.
fn roots(first: u8, images: &[Rc<Image>]) -> Result<Vec<Lower>> {
    let mut roots = Vec::new();
    for (layer, image) in (first..).zip(images) {
        roots.insert(0, Lower { image: image.clone(), layer, inode: image.inode(image.root())? });
    }
    Ok(roots)
}

impl Node {
    /// As a look-up in the layers, while only the runtime's are there.
    ///
    /// # Errors
    /// A hit; EIO, ENOSPC.
    pub(super) fn lookup_in_runtime(
        self: &Rc<Self>,
        directory: &Directory,
        name: &[u8],
    ) -> Result<Option<Rc<Self>>> {
        let phase = &self.fs().env.base;
        phase.count_lookup()?;
        let uppers = match look_above(&directory.uppers(), name)? {
            Above::Nothing => return self.lookup_lower(directory, name),
            Above::Directories(uppers) => uppers,
            Above::Other(found) => {
                let is_program = match found.inode.mode & S_IFMT {
                    S_IFREG => found.inode.mode & 0o111 != 0 || is_loaders(name),
                    S_IFLNK => self.location().name.ends_with(b"bin") || is_loaders(name),
                    _ => false,
                };
                phase.program_in.set(is_program.then_some(found.layer));
                return Err(phase.hit());
            }
        };
        let node = match self.lookup_lower(directory, name)? {
            Some(node) if node.is_directory() => node,
            Some(_) => {
                directory.entries.borrow_mut().remove(name);
                return Err(phase.hit());
            }
            // It stands for a directory that will be there: the working directory, or one that the VMM's files are put into.
            None if phase.stage.get() == Stage::SetUp => {
                let node = new_directory(self.fs(), 0o755);
                node.add_flags(Flags::PROVIDED);
                self.insert_entry(name, &node);
                node
            }
            None => return Err(phase.hit()),
        };
        node.directory()?.set_uppers(uppers);
        Ok(Some(node))
    }
}

/// Hang `shown` in over the layers below `first`, of which the file system of `root` is made. With `hidden`, the layers above, of which there may be none, it is partial from now on: look-ups
/// are remembered and compared with them. Without, it is whole.
///
/// # Errors
/// [`Conflict`]; the tree is not to be used then.
pub fn attach(
    root: &Rc<Node>,
    first: u8,
    shown: &[Rc<Image>],
    hidden: Option<&[Rc<Image>]>,
) -> core::result::Result<(), Conflict> {
    let uppers = roots(first, shown)?;
    for upper in &uppers {
        if upper.is_opaque()? {
            return Err(Conflict::Path(b"/".to_vec()));
        }
    }
    let above = roots(first + shown.len() as u8, hidden.unwrap_or_default())?;
    let mut todo = vec![(root.clone(), uppers, above)];
    while let Some((node, uppers, hidden)) = todo.pop() {
        let directory = node.directory()?;
        if directory.was_listed() && !uppers.is_empty() {
            return Err(Conflict::Path(node.path_from_top()));
        }
        for (name, slot) in directory.entries.borrow().iter() {
            let below = match slot {
                Slot::Node(child) if child.flags().contains(Flags::MOUNTED) => continue,
                Slot::Node(child) => Some(child).filter(|child| child.is_directory()),
                Slot::Whiteout | Slot::Absent => None,
            };
            let mut watch = |child: &Rc<Node>, uppers| -> Result {
                let Above::Directories(hidden) = look_above(&hidden, name)? else {
                    todo.push((child.clone(), uppers, Vec::new()));
                    return Ok(());
                };
                todo.push((child.clone(), uppers, hidden));
                Ok(())
            };
            match (below, look_above(&uppers, name)?) {
                (None, Above::Nothing) => {}
                (Some(child), Above::Nothing) => watch(child, Vec::new())?,
                (Some(child), Above::Directories(uppers))
                    if child.flags().intersects(Flags::LOWER | Flags::PROVIDED) =>
                {
                    watch(child, uppers)?;
                }
                _ => {
                    let path = [&node.path_from_top(), &b"/"[..], name].concat();
                    let root = usize::from(path.starts_with(b"//"));
                    return Err(Conflict::Path(path[root..].to_vec()));
                }
            }
        }
        node.show_above(directory, uppers);
        directory.set_uppers(hidden);
    }
    if let Some(overlay) = &root.fs().overlay {
        overlay.set_partial(hidden.is_some());
    }
    Ok(())
}

impl Node {
    /// The directory merges with `uppers`. Its attributes are the youngest layer's, unless the program has changed them.
    fn show_above(&self, directory: &Directory, uppers: Vec<Lower>) {
        let top = uppers.first().map(|top| top.inode);
        directory.merge_uppers(uppers);
        let flags = self.flags();
        let Some(top) = top else { return };
        if flags.intersects(Flags::LOWER | Flags::PROVIDED) {
            self.remove_flags(Flags::COUNTED);
            let own = flags.contains(Flags::DIRTY) && !flags.contains(Flags::PROVIDED);
            if !own {
                self.set_mode(top.mode);
                self.set_owner(top.uid, top.gid);
                self.set_times(super::overlay::times(&top));
            }
        }
    }
}
