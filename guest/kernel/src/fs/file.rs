//! Open file descriptions (open(2), "Open file descriptions"), and what an open file does.

use super::directory::DirEntry;
use super::inotify::event;
use super::node::Node;
use super::notify::Notifier;
use super::walk::Context;
use crate::errno::{Errno, Result};
use crate::mem::pager::Pager;
use crate::mem::user::{Sink, Source};
use crate::wait::Readiness;
use alloc::rc::Rc;
use core::any::Any;
use core::cell::Cell;

/// open(2)'s flags (asm-generic/fcntl.h).
#[allow(missing_docs)]
pub mod flags {
    pub const O_RDONLY: u32 = 0;
    pub const O_WRONLY: u32 = 1;
    pub const O_RDWR: u32 = 2;
    pub const O_ACCMODE: u32 = 3;
    pub const O_CREAT: u32 = 0o100;
    pub const O_EXCL: u32 = 0o200;
    pub const O_NOCTTY: u32 = 0o400;
    pub const O_TRUNC: u32 = 0o1000;
    pub const O_APPEND: u32 = 0o2000;
    pub const O_NONBLOCK: u32 = 0o4000;
    pub const O_DSYNC: u32 = 0o10_000;
    pub const O_ASYNC: u32 = 0o20_000;
    pub const O_DIRECT: u32 = 0o40_000;
    pub const O_LARGEFILE: u32 = 0o100_000;
    pub const O_DIRECTORY: u32 = 0o200_000;
    pub const O_NOFOLLOW: u32 = 0o400_000;
    pub const O_NOATIME: u32 = 0o1_000_000;
    pub const O_CLOEXEC: u32 = 0o2_000_000;
    pub const O_PATH: u32 = 0o10_000_000;
    /// The bit that O_TMPFILE adds to O_DIRECTORY.
    pub const O_TMPFILE: u32 = 0o20_000_000;
    /// Flags that only open(2) looks at; fcntl(F_GETFL) does not show them.
    pub const CREATION: u32 = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC;
    /// Flags that fcntl(F_SETFL) changes.
    pub const SETTABLE: u32 = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
}

use flags::{O_ACCMODE, O_APPEND, O_NONBLOCK, O_PATH, O_RDONLY, O_WRONLY};

/// Where lseek(2) counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// SEEK_SET.
    Start,
    /// SEEK_CUR.
    Current,
    /// SEEK_END.
    End,
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

/// What fallocate(2) may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Make room; the file grows unless `keep_size`.
    Reserve {
        /// FALLOC_FL_KEEP_SIZE.
        keep_size: bool,
    },
    /// FALLOC_FL_PUNCH_HOLE (with KEEP_SIZE) or FALLOC_FL_ZERO_RANGE.
    Zero {
        /// FALLOC_FL_KEEP_SIZE.
        keep_size: bool,
    },
}

/// The application's memory, for operations whose arguments have many shapes.
pub trait UserMemory {
    /// Copy from the application.
    ///
    /// # Errors
    /// EFAULT.
    fn load(&self, address: u64, bytes: &mut [u8]) -> Result;
    /// Copy to the application.
    ///
    /// # Errors
    /// EFAULT.
    fn store(&self, address: u64, bytes: &[u8]) -> Result;
}

/// What an open file does. An operation that would have to wait returns EAGAIN; who wants to wait registers with [`Self::notifier`] and asks
/// again. `file` is the description that the operation came through.
pub trait FileOps: Any {
    /// Read at `offset` (0 where the file is not seekable). Returns how many bytes; 0 = end of file.
    ///
    /// # Errors
    /// EAGAIN, EFAULT, EISDIR, EINVAL, ...
    fn read(&self, _file: &File, _offset: u64, _sink: &mut dyn Sink) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// Whether a read at `offset` needs [`Self::refresh`] before: content that is made when it is read.
    fn needs_refresh(&self, _offset: u64) -> bool {
        false
    }

    /// Make the content again.
    ///
    /// # Errors
    /// ESRCH, EACCES, ...
    fn refresh(&self, _file: &File, _context: &Context<'_>) -> Result {
        Ok(())
    }

    /// Write at `offset`. Returns how many bytes; more may have been taken from `source` than were written, so who goes on after a short
    /// write makes a new source.
    ///
    /// # Errors
    /// EAGAIN, EFAULT, ENOSPC, EPIPE, EINVAL, ...
    fn write(&self, _file: &File, _offset: u64, _source: &mut dyn Source) -> Result<usize> {
        Err(Errno::EINVAL)
    }

    /// What can be done without waiting.
    fn poll(&self, _file: &File) -> Readiness {
        Readiness::READABLE | Readiness::WRITABLE
    }

    /// Where changes of readiness are told; `None` if it never changes.
    fn notifier(&self) -> Option<&Notifier> {
        None
    }

    /// Whether the description's offset means something.
    fn is_seekable(&self) -> bool {
        false
    }

    /// lseek(2): the new offset.
    ///
    /// # Errors
    /// ESPIPE, EINVAL, ENXIO, EOVERFLOW.
    fn seek(&self, file: &File, offset: i64, whence: Whence) -> Result<u64> {
        if !self.is_seekable() {
            return Err(Errno::ESPIPE);
        }
        match whence {
            Whence::Start => u64::try_from(offset).map_err(|_| Errno::EINVAL),
            Whence::Current => file.offset().checked_add_signed(offset).ok_or(Errno::EINVAL),
            Whence::End | Whence::Data | Whence::Hole => Err(Errno::EINVAL),
        }
    }

    /// The directory's entries from the description's offset on, which advances past every entry that `emit` accepts. `emit` gets the entry
    /// and the offset behind it, and returns whether it fitted.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT (the directory was removed), EIO.
    fn list(&self, _file: &File, _emit: &mut dyn FnMut(&DirEntry, u64) -> bool) -> Result {
        Err(Errno::ENOTDIR)
    }

    /// ioctl(2), without the requests that every file knows (FIONBIO, FIOCLEX, ...).
    ///
    /// # Errors
    /// ENOTTY, and what the request needs.
    fn ioctl(&self, _file: &File, _memory: &dyn UserMemory, _request: u32, _argument: u64) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// Bytes that a read would return at once (FIONREAD).
    ///
    /// # Errors
    /// ENOTTY.
    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        Err(Errno::ENOTTY)
    }

    /// The object to map.
    ///
    /// # Errors
    /// ENODEV.
    fn pager(&self, _file: &File) -> Result<Rc<dyn Pager>> {
        Err(Errno::ENODEV)
    }

    /// ftruncate(2).
    ///
    /// # Errors
    /// EINVAL, EFBIG, ENOSPC.
    fn truncate(&self, _file: &File, _size: u64) -> Result {
        Err(Errno::EINVAL)
    }

    /// fallocate(2).
    ///
    /// # Errors
    /// ENODEV, ENOSPC, EFBIG.
    fn allocate(&self, _file: &File, _offset: u64, _len: u64, _how: Allocation) -> Result {
        Err(Errno::ENODEV)
    }

    /// fsync(2).
    ///
    /// # Errors
    /// EINVAL where there is nothing to make durable.
    fn sync(&self, _file: &File) -> Result {
        Err(Errno::EINVAL)
    }

    /// A descriptor of this file was closed (close(2), exit, exec); the description may live on.
    fn descriptor_closed(&self, _file: &File) {}
}

/// An open file description.
pub struct File {
    node: Rc<Node>,
    ops: Rc<dyn FileOps>,
    flags: Cell<u32>,
    offset: Cell<u64>,
    /// F_SETOWN.
    owner: Cell<i32>,
    /// F_SETSIG.
    signal: Cell<u32>,
    /// It was opened by the superuser: writing does not take the set-id bits away (CAP_FSETID).
    privileged: Cell<bool>,
}

impl File {
    /// A description of `node`; `flags` are open(2)'s.
    #[must_use]
    pub fn new(node: Rc<Node>, ops: Rc<dyn FileOps>, flags: u32) -> Rc<Self> {
        if flags & O_ACCMODE != O_RDONLY && flags & O_PATH == 0 {
            node.count_writer(1);
        }
        Rc::new(Self {
            node,
            ops,
            flags: Cell::new(flags & !flags::CREATION),
            offset: Cell::new(0),
            owner: Cell::new(0),
            signal: Cell::new(0),
            privileged: Cell::new(false),
        })
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Rc<Node> {
        &self.node
    }

    /// Its behaviour.
    #[must_use]
    pub fn ops(&self) -> &Rc<dyn FileOps> {
        &self.ops
    }

    /// Its behaviour, if it is a `T`.
    #[must_use]
    pub fn ops_as<T: FileOps>(&self) -> Option<&T> {
        let any: &dyn Any = &*self.ops;
        any.downcast_ref()
    }

    /// Its behaviour, if it is a `T`, to keep.
    #[must_use]
    pub fn ops_rc<T: FileOps>(&self) -> Option<Rc<T>> {
        let any: Rc<dyn Any> = self.ops.clone();
        any.downcast().ok()
    }

    /// Status flags and access mode.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags.get()
    }

    /// Replace the flags that can change (F_SETFL).
    pub fn set_flags(&self, flags: u32) {
        self.flags.set(self.flags.get() & !flags::SETTABLE | flags & flags::SETTABLE);
    }

    /// Whether O_NONBLOCK is set.
    #[must_use]
    pub fn is_nonblocking(&self) -> bool {
        self.flags.get() & O_NONBLOCK != 0
    }

    /// Whether it was opened with O_PATH: only its node counts.
    #[must_use]
    pub fn is_path(&self) -> bool {
        self.flags.get() & O_PATH != 0
    }

    /// Whether the access mode allows reading.
    #[must_use]
    pub fn can_read(&self) -> bool {
        self.flags.get() & (O_ACCMODE | O_PATH) != O_WRONLY && !self.is_path()
    }

    /// Whether the access mode allows writing.
    #[must_use]
    pub fn can_write(&self) -> bool {
        self.flags.get() & O_ACCMODE != O_RDONLY && !self.is_path()
    }

    /// The offset.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Set the offset.
    pub fn set_offset(&self, offset: u64) {
        self.offset.set(offset);
    }

    /// Who gets SIGIO (F_SETOWN); kept, **not** used.
    #[must_use]
    pub fn owner(&self) -> &Cell<i32> {
        &self.owner
    }

    /// Which signal instead of SIGIO (F_SETSIG); kept, **not** used.
    #[must_use]
    pub fn signal(&self) -> &Cell<u32> {
        &self.signal
    }

    /// Whether it was opened with the superuser's rights.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.privileged.get()
    }

    pub(crate) fn set_privileged(&self, privileged: bool) {
        self.privileged.set(privileged);
    }

    /// A number for this description that no other has while it lives.
    #[must_use]
    pub fn id(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }

    /// What can be done without waiting.
    #[must_use]
    pub fn poll(&self) -> Readiness {
        self.ops.poll(self)
    }

    /// read(2): at the offset, which advances.
    ///
    /// # Errors
    /// EBADF, and as [`FileOps::read`].
    pub fn read(&self, sink: &mut dyn Sink) -> Result<usize> {
        if !self.can_read() {
            return Err(Errno::EBADF);
        }
        let offset = if self.ops.is_seekable() { self.offset.get() } else { 0 };
        let count = self.ops.read(self, offset, sink)?;
        if self.ops.is_seekable() {
            self.offset.set(offset + count as u64);
        }
        Ok(count)
    }

    /// pread(2).
    ///
    /// # Errors
    /// EBADF, ESPIPE, and as [`FileOps::read`].
    pub fn read_at(&self, offset: u64, sink: &mut dyn Sink) -> Result<usize> {
        if !self.can_read() {
            return Err(Errno::EBADF);
        }
        if !self.ops.is_seekable() {
            return Err(Errno::ESPIPE);
        }
        self.ops.read(self, offset, sink)
    }

    /// write(2): at the offset, which advances, or at the end with O_APPEND.
    ///
    /// # Errors
    /// EBADF, and as [`FileOps::write`].
    pub fn write(&self, source: &mut dyn Source) -> Result<usize> {
        if !self.can_write() {
            return Err(Errno::EBADF);
        }
        if !self.ops.is_seekable() {
            return self.ops.write(self, 0, source);
        }
        let append = self.flags.get() & O_APPEND != 0;
        let offset = if append { self.node.size() } else { self.offset.get() };
        let count = self.ops.write(self, offset, source)?;
        self.offset.set(offset + count as u64);
        Ok(count)
    }

    /// pwrite(2). As on Linux, O_APPEND wins over the offset.
    ///
    /// # Errors
    /// EBADF, ESPIPE, and as [`FileOps::write`].
    pub fn write_at(&self, offset: u64, source: &mut dyn Source) -> Result<usize> {
        if !self.can_write() {
            return Err(Errno::EBADF);
        }
        if !self.ops.is_seekable() {
            return Err(Errno::ESPIPE);
        }
        let append = self.flags.get() & O_APPEND != 0;
        self.ops.write(self, if append { self.node.size() } else { offset }, source)
    }

    /// lseek(2).
    ///
    /// # Errors
    /// ESPIPE, EINVAL, ENXIO, EBADF.
    pub fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        if self.is_path() {
            return Err(Errno::EBADF);
        }
        let offset = self.ops.seek(self, offset, whence)?;
        if offset > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        self.offset.set(offset);
        Ok(offset)
    }

    /// What mmap(2) maps, if the access mode allows it (`shared`: MAP_SHARED; `writable`: PROT_WRITE).
    ///
    /// # Errors
    /// EBADF, EACCES, ENODEV, EPERM (sealed).
    pub fn mapping(&self, shared: bool, writable: bool) -> Result<Mapping> {
        if self.is_path() {
            return Err(Errno::EBADF);
        }
        if !self.can_read() || (shared && writable && !self.can_write()) {
            return Err(Errno::EACCES);
        }
        let pager = self.ops.pager(self)?;
        match self.node.data() {
            Ok(data) if shared && self.can_write() && data.is_sealable() => {
                let sealed = data.check_seals(0).is_err();
                if sealed && writable {
                    return Err(Errno::EPERM);
                }
                let pager = if sealed { pager } else { super::data::WritableMapping::of(&self.node) };
                Ok(Mapping { pager, writable: !sealed })
            }
            _ => Ok(Mapping { pager, writable: self.can_write() }),
        }
    }

    /// Read `bytes` at `offset`, for the library OS itself; returns how many there were.
    ///
    /// # Errors
    /// As [`FileOps::read`].
    pub fn read_kernel(&self, offset: u64, bytes: &mut [u8]) -> Result<usize> {
        let mut sink = SliceSink { bytes, done: 0 };
        self.ops.read(self, offset, &mut sink)?;
        Ok(sink.done)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if self.flags.get() & O_ACCMODE != O_RDONLY && !self.is_path() {
            self.node.count_writer(-1);
            self.node.tell(event::CLOSE_WRITE);
        } else if !self.is_path() {
            self.node.tell(event::CLOSE_NOWRITE);
        }
        if let Some(locks) = self.node.existing_locks() {
            locks.release_description(self.id());
        }
    }
}

impl core::fmt::Debug for File {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("File")
            .field("node", &self.node)
            .field("flags", &format_args!("{:o}", self.flags.get()))
            .field("offset", &self.offset.get())
            .finish_non_exhaustive()
    }
}

/// What a mapping of a file shows.
pub struct Mapping {
    /// The object.
    pub pager: Rc<dyn Pager>,
    /// Whether a shared mapping may be made writable later.
    pub writable: bool,
}

/// A sink that fills a slice.
#[derive(Debug)]
pub struct SliceSink<'a> {
    /// Where the bytes go.
    pub bytes: &'a mut [u8],
    /// How many are there.
    pub done: usize,
}

impl Sink for SliceSink<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.done
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = bytes.len().min(self.remaining());
        self.bytes[self.done..self.done + count].copy_from_slice(&bytes[..count]);
        self.done += count;
        Ok(count)
    }
}
