//! A process' file descriptors.

use super::file::File;
use super::locks::Owner;
use crate::errno::{Errno, Result};
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Highest possible value of RLIMIT_NOFILE (fs.nr_open).
pub const NR_OPEN: u64 = 1 << 20;

/// A descriptor.
#[derive(Clone, Debug)]
struct Slot {
    file: Rc<File>,
    close_on_exec: bool,
}

/// The descriptors of a process: shared by its threads (CLONE_FILES), copied by fork.
#[derive(Debug, Default)]
pub struct FdTable {
    slots: Vec<Option<Slot>>,
    /// No descriptor below it is free.
    first_free: usize,
    /// Its address names the table as owner of record locks.
    identity: Rc<u8>,
}

impl FdTable {
    /// A table without descriptors.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table that fork(2) gives the child.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn fork(&self) -> Result<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(self.slots.len()).map_err(|_| Errno::ENOMEM)?;
        slots.extend_from_slice(&self.slots);
        Ok(Self { slots, first_free: self.first_free, identity: Rc::default() })
    }

    /// The owner of the record locks that are set through this table.
    #[must_use]
    pub fn lock_owner(&self) -> Owner {
        Owner::Table(self.number())
    }

    fn number(&self) -> u64 {
        Rc::as_ptr(&self.identity) as u64
    }

    fn slot(&self, fd: i32) -> Result<&Slot> {
        usize::try_from(fd).ok().and_then(|fd| self.slots.get(fd)?.as_ref()).ok_or(Errno::EBADF)
    }

    /// The file of a descriptor, O_PATH or not.
    ///
    /// # Errors
    /// EBADF.
    pub fn get_any(&self, fd: i32) -> Result<Rc<File>> {
        Ok(self.slot(fd)?.file.clone())
    }

    /// The file of a descriptor for anything that O_PATH does not allow.
    ///
    /// # Errors
    /// EBADF.
    pub fn get(&self, fd: i32) -> Result<Rc<File>> {
        let file = &self.slot(fd)?.file;
        if file.is_path() { Err(Errno::EBADF) } else { Ok(file.clone()) }
    }

    /// FD_CLOEXEC.
    ///
    /// # Errors
    /// EBADF.
    pub fn close_on_exec(&self, fd: i32) -> Result<bool> {
        Ok(self.slot(fd)?.close_on_exec)
    }

    /// Set FD_CLOEXEC.
    ///
    /// # Errors
    /// EBADF.
    pub fn set_close_on_exec(&mut self, fd: i32, value: bool) -> Result {
        let slot = usize::try_from(fd).ok().and_then(|fd| self.slots.get_mut(fd)?.as_mut());
        slot.ok_or(Errno::EBADF)?.close_on_exec = value;
        Ok(())
    }

    /// The lowest free descriptor that is at least `min`, and below `limit`.
    fn free(&self, min: u64, limit: u64) -> Result<usize> {
        let limit = limit.min(NR_OPEN);
        let start = (self.first_free as u64).max(min).min(limit) as usize;
        let within = self.slots.get(start..).unwrap_or_default();
        let fd = start + within.iter().position(Option::is_none).unwrap_or(within.len());
        if (fd as u64) < limit { Ok(fd) } else { Err(Errno::EMFILE) }
    }

    /// Make sure that `count` descriptors can be given, before something is done that cannot be undone.
    ///
    /// # Errors
    /// EMFILE.
    pub fn check_room(&self, count: usize, limit: u64) -> Result {
        let mut min = 0;
        for _ in 0..count {
            min = self.free(min, limit)? as u64 + 1;
        }
        Ok(())
    }

    /// Give `file` the lowest free descriptor. `limit` is RLIMIT_NOFILE.
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn insert(&mut self, file: Rc<File>, close_on_exec: bool, limit: u64) -> Result<i32> {
        self.insert_from(file, close_on_exec, 0, limit)
    }

    /// Give `file` the lowest free descriptor that is at least `min` (F_DUPFD).
    ///
    /// # Errors
    /// EMFILE, ENOMEM.
    pub fn insert_from(&mut self, file: Rc<File>, close_on_exec: bool, min: u64, limit: u64) -> Result<i32> {
        let fd = self.free(min, limit)?;
        self.put(fd, Slot { file, close_on_exec })?;
        if min <= self.first_free as u64 {
            self.first_free = fd + 1;
        }
        Ok(fd as i32)
    }

    fn put(&mut self, fd: usize, slot: Slot) -> Result<Option<Slot>> {
        let used = self.slots.len();
        if fd >= used {
            let more = fd + 1 - used;
            // Half a million descriptors take megabytes in one piece.
            let room = self.slots.try_reserve(more).or_else(|_| self.slots.try_reserve_exact(more));
            room.map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(fd + 1, || None);
        }
        Ok(self.slots[fd].replace(slot))
    }

    /// Give `file` descriptor `fd`; what was open there is closed (dup2(2)).
    ///
    /// # Errors
    /// EBADF if `fd` is out of range; ENOMEM.
    pub fn insert_at(&mut self, fd: i32, file: Rc<File>, close_on_exec: bool, limit: u64) -> Result {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit.min(NR_OPEN) {
            return Err(Errno::EBADF);
        }
        if let Some(old) = self.put(index, Slot { file, close_on_exec })? {
            self.released(&old);
        }
        Ok(())
    }

    /// The description lost this descriptor: record locks that the process has on the node go (fcntl(2)).
    fn released(&self, slot: &Slot) {
        if let Some(locks) = slot.file.node().existing_locks() {
            locks.release_table(self.number());
        }
        slot.file.ops().descriptor_closed(&slot.file);
    }

    /// Close a descriptor.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&mut self, fd: i32) -> Result {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = self.slots.get_mut(index).and_then(Option::take).ok_or(Errno::EBADF)?;
        self.first_free = self.first_free.min(index);
        self.released(&slot);
        Ok(())
    }

    /// Every open descriptor, in order.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(fd, _)| fd as i32)
    }

    fn close_where(&mut self, range: core::ops::RangeInclusive<usize>, close: impl Fn(bool) -> bool) {
        let end = range.end().saturating_add(1).min(self.slots.len());
        for index in *range.start()..end {
            let slot = &mut self.slots[index];
            if slot.as_ref().is_some_and(|slot| close(slot.close_on_exec))
                && let Some(slot) = slot.take()
            {
                self.first_free = self.first_free.min(index);
                self.released(&slot);
            }
        }
        let used = self.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.slots.truncate(used);
    }

    /// close_range(2): close all descriptors of a range, or mark them FD_CLOEXEC.
    pub fn close_range(&mut self, first: u32, last: u32, only_mark: bool) {
        if only_mark {
            for index in first as usize..(last as usize).saturating_add(1).min(self.slots.len()) {
                if let Some(slot) = &mut self.slots[index] {
                    slot.close_on_exec = true;
                }
            }
        } else {
            self.close_where(first as usize..=last as usize, |_| true);
        }
    }

    /// execve(2): close the descriptors marked FD_CLOEXEC.
    pub fn exec(&mut self) {
        self.close_where(0..=usize::MAX - 1, |close_on_exec| close_on_exec);
    }

    /// Close everything: the process is gone.
    pub fn close_all(&mut self) {
        self.close_where(0..=usize::MAX - 1, |_| true);
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        self.close_all();
    }
}
