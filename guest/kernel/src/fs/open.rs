//! open(2): from a path, or a node, to a description; and the behaviour of regular files and directories.

use super::access::Access;
use super::data::Data;
use super::directory::DirEntry;
use super::file::{Allocation, File, FileOps, Whence, flags};
use super::inotify::event;
use super::node::{Flags, Kind, Node, S_IFDIR, S_IFREG};
use super::pipe::{PipeEnd, fifo_of};
use super::walk::{Context, Restrictions};
use crate::errno::{Errno, Result};
use crate::mem::pager::Pager;
use crate::mem::user::{Sink, Source};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use flags::{
    O_ACCMODE, O_CREAT, O_DIRECTORY, O_EXCL, O_NOATIME, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_TMPFILE,
    O_TRUNC, O_WRONLY,
};

/// Flags that count with O_PATH.
const PATH_FLAGS: u32 = O_PATH | O_DIRECTORY | O_NOFOLLOW | flags::O_CLOEXEC;

impl Context<'_> {
    /// openat(2): open `path` from `start`, making it with permissions `mode` if O_CREAT says so. A FIFO that has no other end yet is opened all
    /// the same; the caller waits (fifo(7)).
    ///
    /// # Errors
    /// Those of open(2), but ENFILE and EMFILE.
    pub fn open(&self, start: &Rc<Node>, path: &[u8], flags: u32, mode: u32) -> Result<Rc<File>> {
        self.open_within(start, path, flags, mode, &mut Restrictions::default())
    }

    /// As [`Self::open`], within `limits` (openat2(2)).
    ///
    /// # Errors
    /// As [`Self::open`], and EXDEV.
    pub fn open_within(
        &self,
        start: &Rc<Node>,
        path: &[u8],
        flags: u32,
        mode: u32,
        limits: &mut Restrictions,
    ) -> Result<Rc<File>> {
        let flags = if flags & O_PATH != 0 { flags & PATH_FLAGS } else { flags };
        if flags & O_TMPFILE != 0 {
            return self.open_unnamed(start, path, flags, mode, limits);
        }
        let follow = flags & O_NOFOLLOW == 0;
        if flags & O_CREAT == 0 {
            let node = self.walk_within(start, path, follow, limits)?;
            if node.nlink() > 1 && !node.is_directory() {
                self.remember_name(start, path, follow, &node);
            }
            return self.open_node(&node, flags);
        }
        if flags & O_DIRECTORY != 0 {
            return Err(Errno::EINVAL);
        }
        let exclusive = flags & O_EXCL != 0;
        let place = self.walk_for_creation(start, path, follow && !exclusive, limits)?;
        match place.node {
            Some(_) if exclusive => Err(Errno::EEXIST),
            Some(node) => self.open_node(&node, flags),
            None => {
                let mode = S_IFREG | mode & 0o7777;
                let node = self.make(&place.directory, &place.name, mode, Kind::Regular(Data::empty()))?;
                // The maker may use it as asked, whatever its mode says.
                Ok(self.opened(node.clone(), node, flags))
            }
        }
    }

    /// Of a node's several names, the one that it was opened by is what /proc shows.
    fn remember_name(&self, start: &Rc<Node>, path: &[u8], follow: bool, node: &Rc<Node>) {
        if let Ok(place) = self.walk_for_creation(start, path, follow, &mut Restrictions::default())
            && place.node.is_some_and(|found| Rc::ptr_eq(&found, node))
        {
            node.set_location(&place.directory, place.name.into());
        }
    }

    /// A description of a node that was opened; watchers learn of it.
    fn opened(&self, node: Rc<Node>, ops: Rc<dyn FileOps>, flags: u32) -> Rc<File> {
        node.tell(event::OPEN);
        let file = File::new(node, ops, flags);
        file.set_privileged(self.subject.is_root());
        file
    }

    fn open_unnamed(
        &self,
        start: &Rc<Node>,
        path: &[u8],
        flags: u32,
        mode: u32,
        limits: &mut Restrictions,
    ) -> Result<Rc<File>> {
        if flags & O_DIRECTORY == 0 || flags & O_ACCMODE == O_RDONLY {
            return Err(Errno::EINVAL);
        }
        let directory = self.walk_within(start, path, true, limits)?;
        if !directory.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        directory.check_writable()?;
        self.subject.check(&directory, Access::WRITE | Access::EXECUTE)?;
        if !matches!(directory.fs().kind.name, "overlay" | "tmpfs") {
            return Err(Errno::EOPNOTSUPP);
        }
        directory.fs().env.check_space()?;
        let node = self.unnamed(&directory, S_IFREG | mode & 0o7777, Kind::Regular(Data::empty()));
        node.set_nlink(0);
        node.set_location(&directory, alloc::format!("#{}", node.ino()).into_bytes().into());
        if flags & O_EXCL == 0 {
            node.add_flags(Flags::LINKABLE);
        }
        Ok(self.opened(node.clone(), node, flags & !(O_TMPFILE | O_DIRECTORY)))
    }

    /// Open a node that exists.
    ///
    /// # Errors
    /// Those of open(2) that do not come from the path.
    pub fn open_node(&self, node: &Rc<Node>, flags: u32) -> Result<Rc<File>> {
        if flags & O_DIRECTORY != 0 && !node.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if flags & O_PATH != 0 {
            return Ok(File::new(node.clone(), Rc::new(PathOnly), flags & PATH_FLAGS));
        }
        if node.is_symlink() {
            return Err(Errno::ELOOP);
        }
        let mode = flags & O_ACCMODE;
        let writes = mode != O_RDONLY || flags & O_TRUNC != 0;
        if node.is_directory() && (writes || flags & O_CREAT != 0) {
            return Err(Errno::EISDIR);
        }
        let mut wanted = Access::empty();
        if mode != O_WRONLY {
            wanted |= Access::READ;
        }
        if writes {
            wanted |= Access::WRITE;
        }
        self.subject.check(node, wanted)?;
        if flags & O_NOATIME != 0 && !self.subject.owns(node) {
            return Err(Errno::EPERM);
        }
        let ops: Rc<dyn FileOps> = match node.kind() {
            Kind::Regular(_) => {
                if writes {
                    node.check_writable()?;
                }
                if flags & O_TRUNC != 0 {
                    self.truncate(node, 0)?;
                }
                node.clone()
            }
            Kind::Directory(_) => Rc::new(DirectoryFile::new(node)?),
            Kind::Fifo(_) => {
                let pipe = fifo_of(node)?;
                if mode == O_WRONLY && flags & O_NONBLOCK != 0 && pipe.refuses_writers() {
                    return Err(Errno::ENXIO);
                }
                PipeEnd::new(&pipe, flags)
            }
            Kind::Device(device) => super::device::open(*device, node, flags, self)?,
            Kind::Generated(generated) => generated.open(node, flags, self)?,
            Kind::Symlink(_) => return Err(Errno::ELOOP),
            Kind::Socket(_) | Kind::Anonymous => return Err(Errno::ENXIO),
        };
        Ok(self.opened(node.clone(), ops, flags))
    }
}

/// A description opened with O_PATH.
struct PathOnly;

impl FileOps for PathOnly {}

/// Regular files: the node itself is the behaviour.
impl FileOps for Node {
    fn read(&self, _file: &File, offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        let count = self.data()?.read(&self.fs().env.frames, offset, sink)?;
        if count > 0 {
            self.tell(event::ACCESS);
        }
        Ok(count)
    }

    fn write(&self, file: &File, offset: u64, source: &mut dyn Source) -> Result<usize> {
        if source.remaining() == 0 {
            return Ok(0);
        }
        let data = self.data()?;
        data.check_seals(offset.saturating_add(source.remaining() as u64))?;
        let count = data.write(&self.fs().env.frames, offset, source)?;
        if !file.is_privileged() {
            self.drop_set_ids();
        }
        self.touch_modify();
        self.tell(event::MODIFY);
        Ok(count)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let data = self.data()?;
        let base = match whence {
            Whence::Start => 0,
            Whence::Current => file.offset(),
            Whence::End => data.size(),
            Whence::Data | Whence::Hole => {
                let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                return data.seek_extent(offset, whence == Whence::Data);
            }
        };
        base.checked_add_signed(offset).ok_or(Errno::EINVAL)
    }

    fn pager(&self, file: &File) -> Result<Rc<dyn Pager>> {
        Ok(file.node().clone())
    }

    fn bytes_readable(&self, file: &File) -> Result<u64> {
        Ok(self.size().saturating_sub(file.offset()))
    }

    fn truncate(&self, file: &File, size: u64) -> Result {
        self.data()?.check_seals_resize(size)?;
        self.resize(size)?;
        if !file.is_privileged() {
            self.drop_set_ids();
        }
        Ok(())
    }

    fn allocate(&self, _file: &File, offset: u64, len: u64, how: Allocation) -> Result {
        let data = self.data()?;
        let frames = &self.fs().env.frames;
        let end = offset.checked_add(len).filter(|end| *end <= super::data::SIZE_MAX).ok_or(Errno::EFBIG)?;
        let (keep_size, zero) = match how {
            Allocation::Reserve { keep_size } => (keep_size, false),
            Allocation::Zero { keep_size } => (keep_size, true),
        };
        data.check_seals(if keep_size { offset } else { end })?;
        if zero {
            data.punch(frames, offset, end.min(data.size()))?;
        } else if len.div_ceil(seuss_abi::layout::PAGE_SIZE) > frames.available() as u64 {
            return Err(Errno::ENOSPC);
        }
        if !keep_size && end > data.size() {
            data.truncate(frames, end)?;
        }
        self.touch_modify();
        self.tell(event::MODIFY);
        Ok(())
    }

    fn sync(&self, _file: &File) -> Result {
        Ok(())
    }
}

/// An open directory: its listing is taken when it is first read, and again after a rewind.
pub struct DirectoryFile {
    node: Rc<Node>,
    listing: RefCell<Option<Vec<DirEntry>>>,
    /// What a generated directory lists, from when its start was last read.
    generated: RefCell<Vec<DirEntry>>,
    is_generated: bool,
}

impl DirectoryFile {
    fn new(node: &Rc<Node>) -> Result<Self> {
        let is_generated = node.directory()?.is_provided();
        Ok(Self {
            node: node.clone(),
            listing: RefCell::default(),
            generated: RefCell::default(),
            is_generated,
        })
    }
}

impl FileOps for DirectoryFile {
    fn read(&self, _file: &File, _offset: u64, _sink: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn needs_refresh(&self, offset: u64) -> bool {
        self.is_generated && offset == 0
    }

    fn refresh(&self, file: &File, context: &Context<'_>) -> Result {
        self.generated.replace(file.node().list(context.processes)?);
        self.listing.replace(None);
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        let base = match whence {
            Whence::Start => 0,
            Whence::Current => file.offset(),
            Whence::End | Whence::Data | Whence::Hole => return Err(Errno::EINVAL),
        };
        let offset = base.checked_add_signed(offset).ok_or(Errno::EINVAL)?;
        if offset == 0 {
            self.listing.replace(None);
        }
        Ok(offset)
    }

    fn list(&self, file: &File, emit: &mut dyn FnMut(&DirEntry, u64) -> bool) -> Result {
        if self.node.nlink() == 0 {
            return Err(Errno::ENOENT);
        }
        if self.listing.borrow().is_none() {
            let mut listing = Vec::new();
            let parent = self.node.parent().unwrap_or_else(|| self.node.clone());
            let special = |name: &[u8], ino| DirEntry { name: name.into(), ino, kind: (S_IFDIR >> 12) as u8 };
            listing.push(special(b".", self.node.ino()));
            listing.push(special(b"..", parent.ino()));
            if self.is_generated {
                listing.append(&mut self.generated.borrow_mut());
            } else {
                listing.extend(self.node.list_stored_entries()?);
            }
            self.listing.replace(Some(listing));
        }
        let listing = self.listing.borrow();
        let Some(listing) = &*listing else { return Ok(()) };
        let mut at = file.offset();
        while let Some(entry) = usize::try_from(at).ok().and_then(|index| listing.get(index)) {
            if !emit(entry, at + 1) {
                break;
            }
            at += 1;
            file.set_offset(at);
        }
        Ok(())
    }

    fn sync(&self, _file: &File) -> Result {
        Ok(())
    }
}
