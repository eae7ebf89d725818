//! Equal files of an image share their data blocks.
//!
//! Owns [`Shared`]. Files that could be equal (their lengths and a hash of their first bytes are) are compared byte by byte in the image that is being
//! written: no content is held in memory, and no hash decides. Which files share depends on the order of the files alone, so the same source
//! still gives the same bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::format::{BLOCK, BLOCK_BYTES};

/// Most contents that are remembered: bounds memory (48 bytes each).
const CONTENTS_MAX: usize = 1 << 18;
/// Most contents of one length and one beginning: bounds what a hostile layer can make this compare, to twice its length.
const ALIKE_MAX: usize = 2;
/// Bytes compared at a time; the first ones are few, since most differ early.
const CHUNK_BYTES: usize = 256 << 10;

/// What is known of the files that were written.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Start blocks by length and hash of the beginning.
    contents: HashMap<(u64, u64), Vec<u32>>,
    count: usize,
}

impl Shared {
    /// The start of an earlier file that equals the one of `size_bytes` bytes at block `start`, whose first block begins with `beginning`.
    /// Where there is none, this one is remembered.
    ///
    /// # Errors
    /// The image cannot be read.
    pub(super) fn find(
        &mut self,
        image: &File,
        start: u32,
        size_bytes: u64,
        beginning: &[u8],
    ) -> io::Result<Option<u32>> {
        let key = (size_bytes, hash(&beginning[..beginning.len().min(BLOCK)]));
        let alike = self.contents.get(&key).map_or(&[][..], Vec::as_slice);
        for &earlier in alike {
            if equal(image, earlier, start, size_bytes)? {
                return Ok(Some(earlier));
            }
        }
        if self.count < CONTENTS_MAX && alike.len() < ALIKE_MAX {
            self.contents.entry(key).or_default().push(start);
            self.count += 1;
        }
        Ok(None)
    }
}

fn equal(image: &File, one: u32, other: u32, size_bytes: u64) -> io::Result<bool> {
    let mut buffers = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    while at < size_bytes {
        if at > 0 {
            buffers.0.resize(CHUNK_BYTES, 0);
            buffers.1.resize(CHUNK_BYTES, 0);
        }
        let want = usize::try_from(size_bytes - at).map_or(buffers.0.len(), |left| left.min(buffers.0.len()));
        read_sparse(image, &mut buffers.0[..want], u64::from(one) * BLOCK_BYTES + at)?;
        read_sparse(image, &mut buffers.1[..want], u64::from(other) * BLOCK_BYTES + at)?;
        if buffers.0[..want] != buffers.1[..want] {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}

/// Reads what was written; pages of zeros were not, also at the end of the file.
fn read_sparse(image: &File, buffer: &mut [u8], offset_bytes: u64) -> io::Result<()> {
    let mut have = 0;
    while have < buffer.len() {
        match image.read_at(&mut buffer[have..], offset_bytes + have as u64) {
            Ok(0) => {
                buffer[have..].fill(0);
                break;
            }
            Ok(got) => have += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// FNV-1a: the same on every machine.
fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
