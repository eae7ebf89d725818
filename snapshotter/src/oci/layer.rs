//! A layer of an image, and a reader that gives its tar stream and verifies it.

use std::io::{self, Read};

use super::error::OciError;
use super::store::BlobReader;
use crate::compression::Decoder;
use crate::digest::{Algorithm, Digest, HashingReader};

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar: the layer's identity.
    pub diff_id: Digest,
    /// Digest of the blob as stored; a `docker save` archive has none.
    pub blob_digest: Option<Digest>,
    /// Bytes of the blob as stored.
    pub size_bytes: u64,
    /// Name of the blob in the layout.
    pub name: String,
}

/// A layer's uncompressed tar stream. What was read may be used only after [`LayerReader::finish`] agreed.
#[derive(Debug)]
pub struct LayerReader {
    layer: Layer,
    inner: HashingReader<Limited<Decoder<HashingReader<BlobReader>>>>,
}

impl LayerReader {
    pub(super) fn new(layer: Layer, blob: BlobReader, expanded_bytes_max: u64) -> Result<Self, OciError> {
        let found_bytes = blob.left_bytes();
        if found_bytes != layer.size_bytes {
            let expected_bytes = layer.size_bytes;
            return Err(OciError::SizeMismatch { name: layer.name, expected_bytes, found_bytes });
        }
        let algorithm = layer.blob_digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let decoder = Decoder::new(HashingReader::new(blob, algorithm))
            .map_err(|source| OciError::Read { name: layer.name.clone(), source })?;
        let limited = Limited { inner: decoder, left: expanded_bytes_max, limit: expanded_bytes_max };
        let inner = HashingReader::new(limited, layer.diff_id.algorithm());
        Ok(Self { layer, inner })
    }

    /// Reads what is left and compares both digests with the image's.
    ///
    /// # Errors
    /// [`OciError::DigestMismatch`], [`OciError::Read`].
    pub fn finish(mut self) -> Result<(), OciError> {
        let name = self.layer.name;
        let read_error = |source| OciError::Read { name: name.clone(), source };
        // The stored blob is judged first: when it is damaged, everything else follows from that.
        let drained = io::copy(&mut self.inner, &mut io::sink());
        let (limited, diff_id, _) = self.inner.into_parts();
        let mut blob = limited.inner.into_inner();
        io::copy(&mut blob, &mut io::sink()).map_err(read_error)?;
        let (_, blob_digest, _) = blob.into_parts();
        if let Some(expected) = self.layer.blob_digest
            && expected != blob_digest
        {
            return Err(OciError::DigestMismatch { name, expected, found: blob_digest });
        }
        drained.map_err(read_error)?;
        if self.layer.diff_id != diff_id {
            return Err(OciError::DigestMismatch { name, expected: self.layer.diff_id, found: diff_id });
        }
        Ok(())
    }
}

impl Read for LayerReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

/// A reader that fails, rather than ends, behind a number of bytes.
#[derive(Debug)]
struct Limited<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it expands to more than {} bytes", self.limit),
            )
        })?;
        Ok(n)
    }
}
