//! Where system calls put bytes and take bytes from: the application's memory, or a buffer in tests.

use crate::errno::Result;
use alloc::vec::Vec;

/// Takes bytes, in order: the buffer of a `read`.
pub trait Sink {
    /// Bytes that still fit.
    fn remaining(&self) -> usize;
    /// Append `bytes`, as many as fit; returns how many that were. EFAULT if nothing could be stored because the address is bad.
    ///
    /// # Errors
    /// EFAULT; ENOMEM if memory for the page could not be had.
    fn put(&mut self, bytes: &[u8]) -> Result<usize>;
}

/// Gives bytes, in order: the buffer of a `write`.
pub trait Source {
    /// Bytes that are left.
    fn remaining(&self) -> usize;
    /// Fill the front of `bytes`; returns how many were there. EFAULT if none could be read because the address is bad.
    ///
    /// # Errors
    /// EFAULT; ENOMEM if memory for the page could not be had.
    fn take(&mut self, bytes: &mut [u8]) -> Result<usize>;
}

/// A sink for kernel buffers with a limit.
#[derive(Debug)]
pub struct VecSink {
    /// What was put.
    pub bytes: Vec<u8>,
    /// Most bytes taken.
    pub limit: usize,
}

impl Sink for VecSink {
    fn remaining(&self) -> usize {
        self.limit - self.bytes.len()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = bytes.len().min(self.remaining());
        self.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

impl Source for &[u8] {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let count = bytes.len().min(self.len());
        let (head, tail) = self.split_at(count);
        bytes[..count].copy_from_slice(head);
        *self = tail;
        Ok(count)
    }
}
