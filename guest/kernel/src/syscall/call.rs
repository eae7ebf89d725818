//! One system call being served: who calls, with which arguments, and how to reach the caller's memory.

use crate::errno::{Errno, Result, Stop, SysResult};
use crate::kernel::Kernel;
use crate::mem::user::{Sink, Source};
use crate::task::process::Process;
use crate::task::thread::Thread;
use crate::wait::WaitQueue;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

/// Longest path with its terminating zero (limits.h PATH_MAX).
pub const PATH_MAX: usize = 4096;
/// Most entries of an iovec array (limits.h IOV_MAX).
pub const IOV_MAX: u64 = 1024;
/// Most bytes that one read or write moves (fs.h MAX_RW_COUNT).
pub const MAX_RW_COUNT: u64 = 0x7fff_f000;

/// A system call being served.
pub struct Call<'a> {
    /// The library OS.
    pub kernel: &'a Kernel,
    /// The calling thread.
    pub thread: Rc<Thread>,
    /// Its process.
    pub process: Rc<Process>,
    /// rdi, rsi, rdx, r10, r8, r9.
    pub args: [u64; 6],
}

impl<'a> Call<'a> {
    /// Copy bytes from the application.
    ///
    /// # Errors
    /// EFAULT if any of them is not readable.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result {
        self.process.space().borrow_mut().read(address, bytes)
    }

    /// Copy bytes to the application.
    ///
    /// # Errors
    /// EFAULT if any of them is not writable.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result {
        self.process.space().borrow_mut().write(address, bytes)
    }

    /// Copy `N` bytes from the application.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_array<const N: usize>(&self, address: u64) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Read a 32-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_u32(&self, address: u64) -> Result<u32> {
        Ok(u32::from_le_bytes(self.read_array(address)?))
    }

    /// Read a 64-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_u64(&self, address: u64) -> Result<u64> {
        Ok(u64::from_le_bytes(self.read_array(address)?))
    }

    /// Read `N` consecutive 64-bit words: most of the ABI's structures.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_words<const N: usize>(&self, address: u64) -> Result<[u64; N]> {
        let mut bytes = vec![0; N * 8];
        self.read(address, &mut bytes)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = chunk.try_into().map_or(0, u64::from_le_bytes);
        }
        Ok(words)
    }

    /// Write a 32-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_u32(&self, address: u64, value: u32) -> Result {
        self.write(address, &value.to_le_bytes())
    }

    /// Write a 64-bit word.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_u64(&self, address: u64, value: u64) -> Result {
        self.write(address, &value.to_le_bytes())
    }

    /// Write consecutive 64-bit words.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_words(&self, address: u64, words: &[u64]) -> Result {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.write(address, &bytes)
    }

    /// Read a string without its terminating zero.
    ///
    /// # Errors
    /// EFAULT; `too_long` if there is no zero within `limit` bytes.
    pub fn read_string(&self, address: u64, limit: usize, too_long: Errno) -> Result<Vec<u8>> {
        self.process.space().borrow_mut().read_string(address, limit, too_long)
    }

    /// Read a path (may be empty; the caller decides what that means).
    ///
    /// # Errors
    /// EFAULT, ENAMETOOLONG.
    pub fn read_path(&self, address: u64) -> Result<Vec<u8>> {
        self.read_string(address, PATH_MAX, Errno::ENAMETOOLONG)
    }

    /// A buffer of the application, to read into or write from.
    #[must_use]
    pub fn buffer(&self, address: u64, len: u64) -> UserBuffer {
        UserBuffer::new(self.process.clone(), vec![(address, len.min(MAX_RW_COUNT))])
    }

    /// The buffers of an iovec array (readv(2)).
    ///
    /// # Errors
    /// EINVAL if there are too many or their lengths overflow, EFAULT.
    pub fn buffers(&self, address: u64, count: u64) -> Result<UserBuffer> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let mut pieces = Vec::with_capacity(count as usize);
        let mut left = MAX_RW_COUNT;
        for index in 0..count {
            let [base, len] = self.read_words::<2>(address.wrapping_add(index * 16))?;
            if len > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            pieces.push((base, len.min(left)));
            left -= len.min(left);
        }
        pieces.reverse();
        Ok(UserBuffer::new(self.process.clone(), pieces))
    }

    /// Wait for a queue: the result for a handler to return. The call runs again from its start when the queue wakes.
    ///
    /// # Errors
    /// Always [`Stop::Wait`].
    pub fn wait_for(&self, queue: &WaitQueue) -> SysResult {
        queue.register(self.thread.tid);
        Err(Stop::Wait)
    }

    /// The absolute CLOCK_MONOTONIC deadline of a call that may wait: computed from the relative timeout when the call first runs, remembered when it
    /// runs again. The scheduler wakes the thread then; the handler compares with `kernel.machine.monotonic_ns()`.
    #[must_use]
    pub fn deadline(&self, timeout_ns: u64) -> u64 {
        let mut progress = self.thread.progress.borrow_mut();
        *progress
            .deadline_ns
            .get_or_insert_with(|| self.kernel.machine.monotonic_ns().saturating_add(timeout_ns))
    }
}

/// Buffers of the application, consumed from the front.
pub struct UserBuffer {
    process: Rc<Process>,
    /// Address and length of what is left, the next piece last.
    pieces: Vec<(u64, u64)>,
    /// The pieces as they were.
    original: Vec<(u64, u64)>,
    at: u64,
}

impl UserBuffer {
    fn new(process: Rc<Process>, pieces: Vec<(u64, u64)>) -> Self {
        Self { process, original: pieces.clone(), pieces, at: 0 }
    }

    /// Bytes moved so far.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.at
    }

    /// Keep only the first `count` bytes.
    pub fn truncate(&mut self, count: u64) {
        let mut left = count;
        for (_, len) in self.pieces.iter_mut().rev() {
            *len = (*len).min(left);
            left -= *len;
        }
        self.original.clone_from(&self.pieces);
    }

    /// Leave out the first `count` bytes: they were moved when the call ran before.
    pub fn skip(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let Some((_, step)) = self.next_piece(left as usize) else { return };
            self.advance(step);
            left -= step as u64;
        }
    }

    /// Go back so that `moved` bytes count as moved: a writer may have taken more than it wrote.
    pub fn rewind_to(&mut self, moved: u64) {
        if moved < self.at {
            self.pieces = self.original.clone();
            self.at = 0;
            self.skip(moved);
        }
    }

    fn next_piece(&mut self, want: usize) -> Option<(u64, usize)> {
        while let Some((address, len)) = self.pieces.last_mut() {
            if *len == 0 {
                self.pieces.pop();
                continue;
            }
            return Some((*address, (*len).min(want as u64) as usize));
        }
        None
    }

    fn advance(&mut self, count: usize) {
        if let Some((address, len)) = self.pieces.last_mut() {
            *address += count as u64;
            *len -= count as u64;
        }
        self.at += count as u64;
    }
}

impl Sink for UserBuffer {
    fn remaining(&self) -> usize {
        self.pieces.iter().map(|(_, len)| *len as usize).sum()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let Some((address, count)) = self.next_piece(bytes.len() - done) else { break };
            let stored = self.process.space().borrow_mut().write_some(address, &bytes[done..done + count]);
            self.advance(stored);
            done += stored;
            if stored < count {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
        }
        Ok(done)
    }
}

impl Source for UserBuffer {
    fn remaining(&self) -> usize {
        Sink::remaining(self)
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let Some((address, count)) = self.next_piece(bytes.len() - done) else { break };
            let fetched =
                self.process.space().borrow_mut().read_some(address, &mut bytes[done..done + count]);
            self.advance(fetched);
            done += fetched;
            if fetched < count {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
            }
        }
        Ok(done)
    }
}
