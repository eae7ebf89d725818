//! Changes of the tree: making, linking, renaming and removing nodes, and their attributes. Each checks permissions.

use super::access::Access;
use super::data::Data;
use super::directory::{Directory, NAME_MAX};
use super::inotify::event;
use super::node::{Flags, Kind, LINK_MAX, Node, S_IFDIR, S_IFMT, S_IFREG, Seed, Times};
use super::walk::Context;
use crate::errno::{Errno, Result};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use seuss_abi::layout::PAGE_SIZE;

/// Set-user-id, set-group-id.
const SET_IDS: u32 = 0o6000;
/// S_ISGID.
const SET_GID: u32 = 0o2000;

/// What renameat2(2) may be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenameFlags {
    /// RENAME_NOREPLACE.
    pub no_replace: bool,
    /// RENAME_EXCHANGE.
    pub exchange: bool,
}

/// A time to set (utimensat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// UTIME_OMIT.
    Keep,
    /// UTIME_NOW.
    Now,
    /// Nanoseconds since the epoch.
    At(i64),
}

impl Context<'_> {
    /// Check that names can be made in `directory`.
    fn check_growth(&self, directory: &Rc<Node>, name: &[u8]) -> Result {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if directory.nlink() == 0 {
            return Err(Errno::ENOENT);
        }
        directory.check_writable()?;
        self.subject.check(directory, Access::WRITE | Access::EXECUTE)?;
        if !matches!(directory.fs().kind.name, "overlay" | "tmpfs") {
            // proc(5) has no way to make a name at all.
            return Err(if directory.fs().kind.name == "proc" { Errno::ENOENT } else { Errno::EPERM });
        }
        directory.fs().env.check_space()
    }

    fn check_absent(&self, directory: &Rc<Node>, name: &[u8]) -> Result {
        match self.step(directory, name) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// A node of type and permissions `mode` that hangs nowhere yet, with the owner that a node made in `directory` gets.
    pub fn unnamed(&self, directory: &Rc<Node>, mode: u32, kind: Kind) -> Rc<Node> {
        let is_directory = mode & S_IFMT == S_IFDIR;
        let inherits = directory.mode() & SET_GID != 0;
        let mut mode = mode & (S_IFMT | 0o7777) & !(self.umask & 0o777);
        if inherits && is_directory {
            mode |= SET_GID;
        }
        let seed = Seed {
            ino: 0,
            mode,
            uid: self.subject.uid,
            gid: if inherits { directory.gid() } else { self.subject.gid },
            nlink: if is_directory { 2 } else { 1 },
            time: directory.fs().env.now(),
        };
        Node::new(directory.fs(), &seed, kind)
    }

    fn hang(directory: &Rc<Node>, name: &[u8], node: &Rc<Node>) {
        directory.insert_entry(name, node);
        if node.is_directory() {
            directory.set_nlink(directory.nlink() + 1);
        }
        directory.touch_modify();
    }

    /// As [`Self::hang`]; watchers learn of a new name.
    fn hang_new(directory: &Rc<Node>, name: &[u8], node: &Rc<Node>) {
        Self::hang(directory, name, node);
        directory.tell_of_child(event::CREATE, name, node, 0);
    }

    /// Make a node.
    ///
    /// # Errors
    /// EEXIST, EACCES, EROFS, ENOENT (the directory was removed), ENAMETOOLONG, ENOSPC, EPERM (the file system takes no new nodes).
    pub fn make(&self, directory: &Rc<Node>, name: &[u8], mode: u32, kind: Kind) -> Result<Rc<Node>> {
        self.check_absent(directory, name)?;
        self.check_growth(directory, name)?;
        if mode & S_IFMT == S_IFDIR && directory.stat().nlink >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        let node = self.unnamed(directory, mode, kind);
        Self::hang_new(directory, name, &node);
        Ok(node)
    }

    /// mkdir(2).
    ///
    /// # Errors
    /// As [`Self::make`].
    pub fn make_directory(&self, start: &Rc<Node>, path: &[u8], mode: u32) -> Result<Rc<Node>> {
        let parent = self.walk_parent(start, path)?;
        let name = parent.name(Errno::EEXIST)?;
        let kind = Kind::Directory(Directory::new(Vec::new()));
        self.make(&parent.directory, name, S_IFDIR | mode & 0o1777, kind)
    }

    /// symlink(2).
    ///
    /// # Errors
    /// As [`Self::make`]; ENOENT for an empty target.
    pub fn make_symlink(&self, start: &Rc<Node>, path: &[u8], target: &[u8]) -> Result<Rc<Node>> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= PAGE_SIZE as usize {
            return Err(Errno::ENAMETOOLONG);
        }
        let parent = self.walk_parent(start, path)?;
        let name = parent.name(Errno::EEXIST)?;
        self.refuse_trailing_slash(&parent.directory, name, parent.trailing_slash)?;
        let no_mask = Context { umask: 0, ..self.clone() };
        no_mask.make(&parent.directory, name, super::node::S_IFLNK | 0o777, Kind::Symlink(target.into()))
    }

    /// mknod(2), for all but directories. `device` counts for device nodes.
    ///
    /// # Errors
    /// As [`Self::make`]; EPERM (devices need user id 0), EINVAL.
    pub fn make_node(&self, start: &Rc<Node>, path: &[u8], mode: u32, device: u64) -> Result<Rc<Node>> {
        let (mode, kind) = match mode & S_IFMT {
            0 | S_IFREG => (S_IFREG | mode & 0o7777, Kind::Regular(Data::empty())),
            super::node::S_IFIFO => (mode, Kind::Fifo(RefCell::default())),
            super::node::S_IFSOCK => (mode, Kind::Socket(RefCell::default())),
            super::node::S_IFCHR | super::node::S_IFBLK => {
                if !self.subject.is_root() {
                    return Err(Errno::EPERM);
                }
                (mode, Kind::Device(device))
            }
            S_IFDIR => return Err(Errno::EPERM),
            _ => return Err(Errno::EINVAL),
        };
        let parent = self.walk_parent(start, path)?;
        let name = parent.name(Errno::EEXIST)?;
        self.refuse_trailing_slash(&parent.directory, name, parent.trailing_slash)?;
        self.make(&parent.directory, name, mode, kind)
    }

    /// A name with a slash behind it cannot become something that is no directory.
    fn refuse_trailing_slash(&self, directory: &Rc<Node>, name: &[u8], trailing_slash: bool) -> Result {
        if !trailing_slash {
            return Ok(());
        }
        self.check_absent(directory, name)?;
        Err(Errno::ENOENT)
    }

    /// link(2): another name for `node`.
    ///
    /// # Errors
    /// EPERM (a directory), EXDEV, EMLINK, ENOENT (`node` was removed), and as [`Self::make`].
    pub fn link(&self, node: &Rc<Node>, start: &Rc<Node>, path: &[u8], revive: bool) -> Result {
        let parent = self.walk_parent(start, path)?;
        let name = parent.name(Errno::EEXIST)?;
        self.refuse_trailing_slash(&parent.directory, name, parent.trailing_slash)?;
        self.check_absent(&parent.directory, name)?;
        if node.is_directory() {
            return Err(Errno::EPERM);
        }
        if !Rc::ptr_eq(node.fs(), parent.directory.fs()) {
            return Err(Errno::EXDEV);
        }
        if node.nlink() == 0 && !(revive && node.flags().contains(Flags::LINKABLE)) {
            return Err(Errno::ENOENT);
        }
        if node.nlink() >= LINK_MAX {
            return Err(Errno::EMLINK);
        }
        self.check_growth(&parent.directory, name)?;
        node.set_nlink(node.nlink() + 1);
        node.touch_change();
        node.tell_itself(event::ATTRIB);
        Self::hang_new(&parent.directory, name, node);
        Ok(())
    }

    /// Take a name away from a node.
    fn unhang(directory: &Rc<Node>, name: &[u8], node: &Rc<Node>) {
        directory.remove_entry(name);
        if node.is_directory() {
            directory.set_nlink(directory.nlink().saturating_sub(1));
            node.set_nlink(0);
            node.add_flags(Flags::COUNTED);
        } else {
            node.set_nlink(node.nlink().saturating_sub(1));
        }
        node.touch_change();
        directory.touch_modify();
        if !node.is_directory() {
            node.tell_itself(event::ATTRIB);
        }
        if node.nlink() == 0 {
            node.fs().forget_links(node);
            node.tell_itself(event::DELETE_SELF);
            node.watches().end();
        }
    }

    fn check_removable(&self, directory: &Rc<Node>, node: &Rc<Node>) -> Result {
        directory.check_writable()?;
        self.subject.check_removal(directory, node)?;
        if node.flags().contains(Flags::MOUNTED) {
            return Err(Errno::EBUSY);
        }
        if matches!(directory.fs().kind.name, "overlay" | "tmpfs") { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// unlink(2).
    ///
    /// # Errors
    /// EISDIR, ENOENT, ENOTDIR, EACCES, EPERM, EROFS, EBUSY (a mount point).
    pub fn unlink(&self, start: &Rc<Node>, path: &[u8]) -> Result {
        let parent = self.walk_parent(start, path)?;
        let name = parent.name(Errno::EISDIR)?;
        let node = self.step(&parent.directory, name)?;
        if node.is_directory() {
            return Err(Errno::EISDIR);
        }
        if parent.trailing_slash {
            return Err(Errno::ENOTDIR);
        }
        self.check_removable(&parent.directory, &node)?;
        Self::unhang(&parent.directory, name, &node);
        parent.directory.tell_of_child(event::DELETE, name, &node, 0);
        Ok(())
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// ENOTDIR, ENOTEMPTY, EINVAL (`.`), ENOENT, EACCES, EPERM, EROFS, EBUSY.
    pub fn remove_directory(&self, start: &Rc<Node>, path: &[u8]) -> Result {
        let parent = self.walk_parent(start, path)?;
        let name = match parent.last {
            super::walk::Last::Name(name) => name,
            super::walk::Last::Dot => return Err(Errno::EINVAL),
            super::walk::Last::DotDot => return Err(Errno::ENOTEMPTY),
            super::walk::Last::Root => return Err(Errno::EBUSY),
        };
        let node = self.step(&parent.directory, name)?;
        if !node.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        self.check_removable(&parent.directory, &node)?;
        if !node.is_empty_directory() {
            return Err(Errno::ENOTEMPTY);
        }
        Self::unhang(&parent.directory, name, &node);
        parent.directory.tell_of_child(event::DELETE, name, &node, 0);
        Ok(())
    }

    /// Whether `node` is `directory` or lies above it.
    fn is_above(node: &Rc<Node>, directory: &Rc<Node>) -> bool {
        let mut at = Some(directory.clone());
        while let Some(here) = at {
            if Rc::ptr_eq(&here, node) {
                return true;
            }
            at = here.parent();
        }
        false
    }

    /// renameat2(2).
    ///
    /// # Errors
    /// EXDEV, EINVAL (into itself), EISDIR, ENOTDIR, ENOTEMPTY, EEXIST, EBUSY, ENOENT, EACCES, EPERM, EROFS, ENAMETOOLONG, ENOSPC.
    pub fn rename(&self, from: (&Rc<Node>, &[u8]), to: (&Rc<Node>, &[u8]), flags: RenameFlags) -> Result {
        let (old, new) = (self.walk_parent(from.0, from.1)?, self.walk_parent(to.0, to.1)?);
        if !Rc::ptr_eq(old.directory.fs(), new.directory.fs()) {
            return Err(Errno::EXDEV);
        }
        let old_name = old.name(Errno::EBUSY)?;
        let taken = if flags.no_replace { Errno::EEXIST } else { Errno::EBUSY };
        let new_name = new.name(taken)?;
        let node = self.step(&old.directory, old_name)?;
        let replaced = match self.step(&new.directory, new_name) {
            Ok(_) if flags.no_replace => return Err(Errno::EEXIST),
            Ok(replaced) => Some(replaced),
            Err(Errno::ENOENT) if !flags.exchange => None,
            Err(errno) => return Err(errno),
        };
        let other_is_directory =
            flags.exchange && replaced.as_ref().is_some_and(|other| other.is_directory());
        let slash_wrong =
            (old.trailing_slash || (new.trailing_slash && !flags.exchange)) && !node.is_directory();
        if slash_wrong || (flags.exchange && new.trailing_slash && !other_is_directory) {
            return Err(Errno::ENOTDIR);
        }
        if node.is_directory() && Self::is_above(&node, &new.directory) {
            return Err(Errno::EINVAL);
        }
        if let Some(other) = &replaced
            && other.is_directory()
            && Self::is_above(other, &old.directory)
        {
            return Err(if flags.exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        if replaced.as_ref().is_some_and(|other| Rc::ptr_eq(other, &node)) {
            return Ok(());
        }
        self.check_removable(&old.directory, &node)?;
        match &replaced {
            Some(other) => {
                self.check_removable(&new.directory, other)?;
                if !flags.exchange {
                    Self::check_replaceable(&node, other)?;
                }
            }
            None => self.check_growth(&new.directory, new_name)?,
        }
        let moved_elsewhere = node.is_directory() && !Rc::ptr_eq(&old.directory, &new.directory);
        if moved_elsewhere {
            // Its `..` changes.
            self.subject.check(&node, Access::WRITE)?;
        }
        let moved_back = replaced.clone().filter(|_| flags.exchange);
        match replaced {
            Some(other) if flags.exchange => {
                Self::detach(&old.directory, old_name, &node);
                Self::detach(&new.directory, new_name, &other);
                Self::hang(&old.directory, old_name, &other);
                other.touch_change();
            }
            Some(other) => {
                Self::unhang(&new.directory, new_name, &other);
                Self::detach(&old.directory, old_name, &node);
            }
            None => Self::detach(&old.directory, old_name, &node),
        }
        Self::hang(&new.directory, new_name, &node);
        node.touch_change();
        Self::tell_of_move((&old.directory, old_name), (&new.directory, new_name), &node);
        if let Some(other) = moved_back {
            Self::tell_of_move((&new.directory, new_name), (&old.directory, old_name), &other);
        }
        Ok(())
    }

    fn tell_of_move(from: (&Rc<Node>, &[u8]), to: (&Rc<Node>, &[u8]), node: &Rc<Node>) {
        let cookie = node.fs().env.next_id() as u32;
        from.0.tell_of_child(event::MOVED_FROM, from.1, node, cookie);
        to.0.tell_of_child(event::MOVED_TO, to.1, node, cookie);
        node.tell_itself(event::MOVE_SELF);
    }

    fn detach(directory: &Rc<Node>, name: &[u8], node: &Rc<Node>) {
        directory.remove_entry(name);
        if node.is_directory() {
            directory.set_nlink(directory.nlink().saturating_sub(1));
        }
        directory.touch_modify();
    }

    fn check_replaceable(node: &Rc<Node>, replaced: &Rc<Node>) -> Result {
        match (node.is_directory(), replaced.is_directory()) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            (true, true) if !replaced.is_empty_directory() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    /// chmod(2).
    ///
    /// # Errors
    /// EPERM, EROFS.
    pub fn set_mode(&self, node: &Rc<Node>, mode: u32) -> Result {
        node.check_writable()?;
        if !self.subject.owns(node) {
            return Err(Errno::EPERM);
        }
        let foreign = !self.subject.is_root() && !self.subject.in_group(node.gid());
        node.set_mode(if foreign { mode & !SET_GID } else { mode });
        node.touch_change();
        node.tell(event::ATTRIB);
        Ok(())
    }

    /// chown(2); `None` leaves an id as it is.
    ///
    /// # Errors
    /// EPERM, EROFS.
    pub fn set_owner(&self, node: &Rc<Node>, uid: Option<u32>, gid: Option<u32>) -> Result {
        node.check_writable()?;
        if !self.subject.is_root() {
            let owner_stays = self.subject.uid == node.uid() && uid.is_none_or(|uid| uid == node.uid());
            let group_allowed = gid.is_none_or(|gid| gid == node.gid() || self.subject.in_group(gid));
            if !owner_stays || !group_allowed {
                return Err(Errno::EPERM);
            }
        }
        node.set_owner(uid.unwrap_or(node.uid()), gid.unwrap_or(node.gid()));
        if !node.is_directory() && (uid.is_some() || gid.is_some()) {
            let executable_group = node.mode() & 0o010 != 0;
            let dropped = if executable_group { SET_IDS } else { 0o4000 };
            node.set_mode(node.mode() & !dropped);
        }
        node.touch_change();
        node.tell(event::ATTRIB);
        Ok(())
    }

    /// utimensat(2): access and modification time.
    ///
    /// # Errors
    /// EACCES (setting to now needs write permission), EPERM (setting to another time needs ownership), EROFS.
    pub fn set_times(&self, node: &Rc<Node>, access: SetTime, modify: SetTime) -> Result {
        node.check_writable()?;
        if access == SetTime::Keep && modify == SetTime::Keep {
            return Ok(());
        }
        if !self.subject.owns(node) {
            if access != SetTime::Now || modify != SetTime::Now {
                return Err(Errno::EPERM);
            }
            self.subject.check(node, Access::WRITE)?;
        }
        let now = node.fs().env.now();
        let pick = |wanted, old| match wanted {
            SetTime::Keep => old,
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let old = node.times();
        let times = Times { access: pick(access, old.access), modify: pick(modify, old.modify), ..old };
        node.set_times(times);
        node.touch_change();
        node.tell(event::ATTRIB);
        Ok(())
    }

    /// truncate(2) of a node that may be written.
    ///
    /// # Errors
    /// EISDIR, EINVAL, EFBIG, ENOSPC, EROFS, EIO.
    pub fn truncate(&self, node: &Rc<Node>, size: u64) -> Result {
        node.check_writable()?;
        node.resize(size)?;
        if !self.subject.is_root() {
            node.drop_set_ids();
        }
        Ok(())
    }
}

impl Node {
    /// Set the size of a regular file, whoever asks.
    ///
    /// # Errors
    /// EISDIR, EINVAL, EFBIG, ENOSPC, EIO.
    pub fn resize(&self, size: u64) -> Result {
        self.data()?.truncate(&self.fs().env.frames, size)?;
        self.touch_modify();
        self.tell(event::MODIFY);
        Ok(())
    }

    /// Writing takes the set-id bits away, unless root writes.
    pub(crate) fn drop_set_ids(&self) {
        let mode = self.mode();
        if mode & SET_IDS != 0 {
            let kept = if mode & 0o010 == 0 { SET_GID } else { 0 };
            self.set_mode(mode & !(SET_IDS & !kept));
        }
    }
}
