//! A tar reader for foreign archives: streaming, bounded memory, never panics.
//!
//! Read first: POSIX.1-2017 `pax`, "pax Interchange Format"; GNU tar manual, "Basic Tar Format". Understands ustar,
//! pax (path, linkpath, size, uid, gid, mtime, `SCHILY.xattr.*`), GNU long names and GNU (old) sparse files. **Not**
//! supported, and refused: pax sparse files, multi-volume archives. Paths are handed on as they stand in the archive;
//! whoever uses them must judge them.
//!
//! The `tar` crate is not used here because it reads an extension header of any announced length into memory.

mod header;
pub(crate) mod write;

use std::io::{self, Read, Seek, SeekFrom};

use header::Header;
pub(crate) use header::Kind;

use crate::erofs::Timestamp;

/// Bytes of a tar record.
pub(crate) const RECORD_BYTES: u64 = 512;
/// Longest extension header (long name or pax records): room for a few xattrs of 64 KiB.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Most pieces of a sparse file.
const SPARSE_PIECES_MAX: usize = 1 << 16;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// Reading failed (or decompressing, or a digest's reader gave up).
    #[error("cannot read the archive at offset {offset_bytes:#x}: {source}")]
    Io {
        /// Where.
        offset_bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// The archive ends in the middle of something.
    #[error("the archive is cut off at offset {offset_bytes:#x}, inside {inside}")]
    Truncated {
        /// Where it ends.
        offset_bytes: u64,
        /// What was being read.
        inside: &'static str,
    },
    /// A header that is not one.
    #[error("the tar header at offset {offset_bytes:#x} is damaged: {what}")]
    BadHeader {
        /// Where.
        offset_bytes: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Something that this reader refuses.
    #[error("the tar entry at offset {offset_bytes:#x} is not supported: {what}")]
    Unsupported {
        /// Where.
        offset_bytes: u64,
        /// What it is.
        what: &'static str,
    },
}

/// A source that can pass over data without reading it.
pub(crate) trait Skip: Read {
    /// Passes over `bytes`; an early end is an `UnexpectedEof` error.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// A stream: passes over data by reading it.
#[derive(Debug)]
pub(crate) struct Stream<R>(pub(crate) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Skip for Stream<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let copied = io::copy(&mut self.0.by_ref().take(bytes), &mut io::sink())?;
        if copied == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A file: passes over data by seeking, within its length.
#[derive(Debug)]
pub(crate) struct Seekable<R> {
    inner: R,
    len_bytes: u64,
}

impl<R: Read + Seek> Seekable<R> {
    pub(crate) fn new(mut inner: R) -> io::Result<Self> {
        let len_bytes = inner.seek(SeekFrom::End(0))?;
        inner.rewind()?;
        Ok(Self { inner, len_bytes })
    }
}

impl<R: Read> Read for Seekable<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl<R: Read + Seek> Skip for Seekable<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let target = self.inner.stream_position()?.checked_add(bytes);
        match target.filter(|t| *t <= self.len_bytes) {
            Some(target) => self.inner.seek(SeekFrom::Start(target)).map(drop),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// One member of an archive.
#[derive(Debug)]
pub(crate) struct Entry {
    /// As it stands in the archive.
    pub(crate) path: Vec<u8>,
    /// Target of a link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission, set-id and sticky bits.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    /// Bytes of the file, holes included.
    pub(crate) size_bytes: u64,
    /// Device numbers.
    pub(crate) device: (u32, u32),
    /// Full names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the data lies in the archive.
    pub(crate) data_offset_bytes: u64,
    /// Pieces of a sparse file: offset and length, ascending.
    sparse: Option<Vec<(u64, u64)>>,
}

impl Entry {
    /// Whether the data lies in the archive as one run.
    pub(crate) const fn is_contiguous(&self) -> bool {
        self.sparse.is_none()
    }
}

/// Reads an archive member by member.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    inner: R,
    offset_bytes: u64,
    /// Stored bytes of the current member not yet read, without padding.
    stored_left: u64,
    padding: u64,
    end_mark_needed: bool,
    done: bool,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: header::Pax,
}

impl<R: Skip> Reader<R> {
    /// `end_mark_needed`: an archive without the zero record at its end is taken for truncated. Tar programs accept
    /// that, so it may be false where a digest protects the archive.
    pub(crate) fn new(inner: R, end_mark_needed: bool) -> Self {
        Self { inner, offset_bytes: 0, stored_left: 0, padding: 0, end_mark_needed, done: false }
    }

    /// The source, wherever it stands.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next member; its data can be read with [`Reader::data`] until the next call.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        let mut any_extension = false;
        loop {
            self.finish_member()?;
            let at = self.offset_bytes;
            let Some(header) = self.read_header()? else {
                return if any_extension {
                    Err(TarError::Truncated {
                        offset_bytes: self.offset_bytes,
                        inside: "a long name or pax header",
                    })
                } else {
                    Ok(None)
                };
            };
            let bad = |what| TarError::BadHeader { offset_bytes: at, what };
            let refuse = |what| TarError::Unsupported { offset_bytes: at, what };
            self.stored_left = header.stored_bytes().map_err(bad)?;
            match header.type_flag() {
                b'L' => extensions.path = Some(self.read_long_name(at)?),
                b'K' => extensions.link = Some(self.read_long_name(at)?),
                b'x' | b'X' => {
                    let records = self.read_extension(at)?;
                    extensions.pax.parse(&records).map_err(bad)?;
                }
                // Global pax headers carry comments (git archive); nothing in them describes a file's identity.
                b'g' | b'V' => {}
                b'M' => return Err(refuse("continuation of a multi-volume archive")),
                _ => {
                    if extensions.pax.is_sparse() {
                        return Err(refuse("sparse file in pax format (repack it without --sparse)"));
                    }
                    return self.member(at, &header, extensions).map(Some);
                }
            }
            self.padding = pad(header.stored_bytes().map_err(bad)?);
            any_extension |= matches!(header.type_flag(), b'L' | b'K' | b'x' | b'X');
        }
    }

    /// The data of the current member, as the file has it (holes of a sparse file are zeros).
    pub(crate) fn data<'a>(&'a mut self, entry: &'a Entry) -> EntryData<'a, R> {
        EntryData { reader: self, entry, position: 0 }
    }

    fn member(&mut self, at: u64, header: &Header, extensions: Extensions) -> Result<Entry, TarError> {
        let bad = |what| TarError::BadHeader { offset_bytes: at, what };
        let pax = extensions.pax;
        let path = pax.path.or(extensions.path).unwrap_or_else(|| header.path());
        let link = pax.link.or(extensions.link).unwrap_or_else(|| header.link());
        let kind = header
            .kind(&path)
            .ok_or(TarError::Unsupported { offset_bytes: at, what: "unknown type of entry" })?;
        let stored = if kind.has_data() { pax.size_bytes.unwrap_or(self.stored_left) } else { 0 };
        self.stored_left = stored;
        self.padding = pad(stored);
        let (sparse, size_bytes) = if header.type_flag() == b'S' {
            let (pieces, size) = self.read_sparse_map(at, header, stored)?;
            (Some(pieces), size)
        } else {
            (None, stored)
        };
        let id = |field: Result<u64, &'static str>, pax: Option<u64>| {
            let value = pax.map_or(field, Ok).map_err(bad)?;
            u32::try_from(value).map_err(|_| bad("owner or group above 2^32 - 1"))
        };
        let device = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            header.device().map_err(bad)?
        } else {
            (0, 0)
        };
        Ok(Entry {
            path,
            link,
            kind,
            permissions: header.permissions().map_err(bad)?,
            uid: id(header.uid(), pax.uid)?,
            gid: id(header.gid(), pax.gid)?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => Timestamp { seconds: header.mtime_s().map_err(bad)?, nanoseconds: 0 },
            },
            size_bytes,
            device,
            xattrs: pax.xattrs,
            data_offset_bytes: self.offset_bytes,
            sparse,
        })
    }

    fn read_sparse_map(
        &mut self,
        at: u64,
        header: &Header,
        stored: u64,
    ) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let bad = |what| TarError::BadHeader { offset_bytes: at, what };
        let mut pieces = header.sparse_pieces().map_err(bad)?;
        let mut more = header.sparse_continues();
        while more {
            let mut record = [0; RECORD_BYTES as usize];
            self.read_record(&mut record, "a sparse map")?;
            pieces.extend(header::sparse_pieces_of(&record, 0, 21).map_err(bad)?);
            if pieces.len() > SPARSE_PIECES_MAX {
                return Err(bad("sparse map of more than 65536 pieces"));
            }
            more = record[504] != 0;
        }
        let size = header.sparse_real_bytes().map_err(bad)?;
        let mut end = 0_u64;
        let mut sum = 0_u64;
        pieces.retain(|(_, len)| *len > 0);
        for (offset, len) in &pieces {
            if *offset < end {
                return Err(bad("sparse map out of order"));
            }
            end = offset.checked_add(*len).ok_or_else(|| bad("sparse map beyond 2^64"))?;
            sum = sum.checked_add(*len).ok_or_else(|| bad("sparse map beyond 2^64"))?;
        }
        if end > size || sum != stored {
            return Err(bad("sparse map contradicts the sizes"));
        }
        Ok((pieces, size))
    }

    fn read_long_name(&mut self, at: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.read_extension(at)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_extension(&mut self, at: u64) -> Result<Vec<u8>, TarError> {
        if self.stored_left > EXTENSION_BYTES_MAX {
            return Err(TarError::Unsupported {
                offset_bytes: at,
                what: "extension header of more than 1 MiB",
            });
        }
        let mut bytes = vec![0; self.stored_left as usize];
        self.read_record(&mut bytes, "a long name or pax header")?;
        self.stored_left = 0;
        Ok(bytes)
    }

    /// The next header, or `None` at the end mark (or the end of the stream where that is allowed).
    fn read_header(&mut self) -> Result<Option<Header>, TarError> {
        if self.done {
            return Ok(None);
        }
        let at = self.offset_bytes;
        let mut record = [0; RECORD_BYTES as usize];
        let mut have = 0;
        while have < record.len() {
            match self.inner.read(&mut record[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Io { offset_bytes: at, source }),
            }
        }
        self.offset_bytes += have as u64;
        if have == 0 && !self.end_mark_needed {
            self.done = true;
            return Ok(None);
        }
        if have < record.len() {
            let inside = if have == 0 { "the place of the end mark" } else { "a header" };
            return Err(TarError::Truncated { offset_bytes: self.offset_bytes, inside });
        }
        if record.iter().all(|b| *b == 0) {
            self.done = true;
            return Ok(None);
        }
        Header::new(record).map(Some).map_err(|what| TarError::BadHeader { offset_bytes: at, what })
    }

    fn finish_member(&mut self) -> Result<(), TarError> {
        let rest = self.stored_left.saturating_add(self.padding);
        if rest > 0 {
            self.inner.skip(rest).map_err(|e| self.read_error(e, "a member's data"))?;
            self.offset_bytes = self.offset_bytes.saturating_add(rest);
            (self.stored_left, self.padding) = (0, 0);
        }
        Ok(())
    }

    fn read_record(&mut self, buf: &mut [u8], inside: &'static str) -> Result<(), TarError> {
        self.inner.read_exact(buf).map_err(|e| self.read_error(e, inside))?;
        self.offset_bytes += buf.len() as u64;
        Ok(())
    }

    fn read_error(&self, source: io::Error, inside: &'static str) -> TarError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            TarError::Truncated { offset_bytes: self.offset_bytes, inside }
        } else {
            TarError::Io { offset_bytes: self.offset_bytes, source }
        }
    }
}

/// Reads the data of one member.
#[derive(Debug)]
pub(crate) struct EntryData<'a, R> {
    reader: &'a mut Reader<R>,
    entry: &'a Entry,
    position: u64,
}

impl<R: Skip> Read for EntryData<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.entry.size_bytes - self.position;
        let (stored, run) = match &self.entry.sparse {
            None => (true, left),
            Some(pieces) => {
                let next = pieces.partition_point(|(offset, len)| offset + len <= self.position);
                match pieces.get(next) {
                    Some((offset, len)) if *offset <= self.position => (true, offset + len - self.position),
                    Some((offset, _)) => (false, offset - self.position),
                    None => (false, left),
                }
            }
        };
        let want = buf.len().min(usize::try_from(run).unwrap_or(usize::MAX));
        let n = if stored {
            let n = self.reader.inner.read(&mut buf[..want])?;
            self.reader.offset_bytes += n as u64;
            self.reader.stored_left = self.reader.stored_left.saturating_sub(n as u64);
            n
        } else {
            buf[..want].fill(0);
            want
        };
        self.position += n as u64;
        Ok(n)
    }
}

const fn pad(bytes: u64) -> u64 {
    bytes.wrapping_neg() % RECORD_BYTES
}

#[cfg(test)]
mod tests;
