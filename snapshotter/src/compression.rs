//! Finds out how a stream is compressed (by its first bytes, as containerd does) and decompresses it.

use std::fmt;
use std::io::{self, BufReader, Read};

const BUFFER_BYTES: usize = 256 << 10;

/// The source with the bytes put back that were looked at.
type Source<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

/// A decompressing reader.
pub(crate) enum Decoder<R: Read> {
    Plain(Source<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
}

impl<R: Read> fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `inner`.
    pub(crate) fn new(mut inner: R) -> io::Result<Self> {
        let mut head = Vec::with_capacity(6);
        inner.by_ref().take(6).read_to_end(&mut head)?;
        let inner = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(head.clone()).chain(inner));
        if head.starts_with(&[0x1f, 0x8b]) {
            Ok(Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(inner))))
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Ok(Self::Zstd(Box::new(zstd::Decoder::with_buffer(inner)?)))
        } else if head.starts_with(b"\xfd7zXZ\0") || head.starts_with(b"BZh") {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "compressed with xz or bzip2; only gzip and zstd are supported",
            ))
        } else {
            Ok(Self::Plain(inner))
        }
    }

    /// The source, wherever it stands.
    pub(crate) fn into_inner(self) -> R {
        let source = match self {
            Self::Plain(r) => r,
            Self::Gzip(r) => r.into_inner(),
            Self::Zstd(r) => r.finish(),
        };
        source.into_inner().into_inner().1
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(r) => r.read(buf),
            Self::Gzip(r) => r.read(buf),
            Self::Zstd(r) => r.read(buf),
        }
    }
}
