//! Where an image's blobs are: members of a tar archive, or files of a directory. Finds them by name and reads them.
//!
//! An archive is indexed once by its headers; blobs are then read in place. Names never reach the host's file system
//! except in a layout directory, where [`crate::beneath`] keeps them in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use super::error::OciError;
use crate::beneath::{Dir, Pinned, Way};
use crate::tarstream::{self, Kind, Seekable};

/// Most members of an archive.
const MEMBERS_MAX: usize = 100_000;
/// Most links from one member to the next (old `docker save` archives link equal layers).
const LINKS_MAX: usize = 8;
/// Largest JSON document, as containerd has it.
const DOCUMENT_BYTES_MAX: u64 = 8 << 20;

/// An opened archive or layout.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(Dir),
    Archive { file: Arc<File>, members: BTreeMap<Vec<u8>, Member> },
}

#[derive(Clone, Debug)]
enum Member {
    Data { offset_bytes: u64, size_bytes: u64 },
    Link(Vec<u8>),
    Other,
}

/// A blob's bytes.
#[derive(Debug)]
pub(crate) struct BlobReader {
    file: Arc<File>,
    position: u64,
    left: u64,
}

impl BlobReader {
    pub(crate) fn left_bytes(&self) -> u64 {
        self.left
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let n = self.file.read_at(&mut buf[..want], self.position)?;
        self.position += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

impl Store {
    /// What is at `path`, which the user of a command has typed.
    pub(crate) fn open_path(path: &Path) -> Result<Self, OciError> {
        let pinned = Pinned::open_any(path).map_err(|source| OciError::Open { path: path.into(), source })?;
        Self::open(pinned, path)
    }

    /// What `pinned`, found at `path`, holds.
    pub(crate) fn open(pinned: Pinned, path: &Path) -> Result<Self, OciError> {
        let open_error = |source| OciError::Open { path: path.into(), source };
        let place = match pinned.kind() {
            FileType::Directory => Place::Directory(pinned.into_dir(path).map_err(open_error)?),
            FileType::RegularFile => {
                let file = Arc::new(pinned.open_regular().map_err(open_error)?);
                let members = index(path, &file)?;
                Place::Archive { file, members }
            }
            _ => {
                let reason = "it is neither a file nor a directory".to_owned();
                return Err(OciError::NotAnImage { path: path.into(), reason });
            }
        };
        Ok(Self { path: path.into(), place })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A member by its name in the layout; `None` when there is none.
    pub(crate) fn find(&self, name: &str) -> Result<Option<BlobReader>, OciError> {
        let read_error = |source| OciError::Read { name: name.to_owned(), source };
        match &self.place {
            Place::Directory(dir) => {
                let pinned = match dir.pin(Path::new(name), Way::Beneath) {
                    Ok(pinned) => pinned,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(read_error(e)),
                };
                let file = pinned.open_regular().map_err(read_error)?;
                let left = file.metadata().map_err(read_error)?.len();
                Ok(Some(BlobReader { file: Arc::new(file), position: 0, left }))
            }
            Place::Archive { file, members } => {
                let mut name = name.as_bytes().to_vec();
                for _ in 0..LINKS_MAX {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Data { offset_bytes, size_bytes }) => {
                            let file = Arc::clone(file);
                            return Ok(Some(BlobReader { file, position: *offset_bytes, left: *size_bytes }));
                        }
                        Some(Member::Link(target)) => name.clone_from(target),
                        Some(Member::Other) => {
                            return Err(read_error(io::Error::other("it is not a regular file")));
                        }
                    }
                }
                Err(read_error(io::Error::other("too many links")))
            }
        }
    }

    /// As [`Store::find`], for what must be there.
    pub(crate) fn get(&self, name: &str) -> Result<BlobReader, OciError> {
        self.find(name)?.ok_or_else(|| OciError::Missing { name: name.to_owned() })
    }

    /// Reads a whole JSON document.
    pub(crate) fn document(&self, name: &str) -> Result<Vec<u8>, OciError> {
        let mut blob = self.get(name)?;
        let size_bytes = blob.left_bytes();
        if size_bytes > DOCUMENT_BYTES_MAX {
            let limit_bytes = DOCUMENT_BYTES_MAX;
            return Err(OciError::TooLarge { name: name.to_owned(), size_bytes, limit_bytes });
        }
        let mut bytes = Vec::with_capacity(size_bytes as usize);
        blob.read_to_end(&mut bytes).map_err(|source| OciError::Read { name: name.to_owned(), source })?;
        Ok(bytes)
    }
}

/// Finds the members of an archive.
fn index(path: &Path, file: &Arc<File>) -> Result<BTreeMap<Vec<u8>, Member>, OciError> {
    let not_an_image = |reason: &str| OciError::NotAnImage { path: path.into(), reason: reason.to_owned() };
    let open_error = |source| OciError::Open { path: path.into(), source };
    let mut head = [0; 6];
    let have = file.read_at(&mut head, 0).map_err(open_error)?;
    if head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || head == *b"\xfd7zXZ\0"
    {
        return Err(not_an_image("the archive is compressed; decompress it first (gunzip, zstd -d, unxz)"));
    }
    if have == 0 {
        return Err(not_an_image("the file is empty"));
    }
    let source = Seekable::new(io::BufReader::with_capacity(4096, &**file)).map_err(open_error)?;
    let mut archive = tarstream::Reader::new(source, false);
    let mut members = BTreeMap::new();
    loop {
        let entry = match archive.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(members),
            Err(source) if members.is_empty() => {
                return Err(not_an_image(&format!("it is not a tar archive ({source})")));
            }
            Err(source) => return Err(OciError::Archive { path: path.into(), source }),
        };
        if members.len() >= MEMBERS_MAX {
            return Err(not_an_image("it has more than 100000 members"));
        }
        let Some(name) = resolve(b"", &entry.path) else { continue };
        let parent = name.iter().rposition(|b| *b == b'/').map_or(&b""[..], |slash| &name[..slash]);
        let member = match entry.kind {
            Kind::File if entry.is_contiguous() => {
                Member::Data { offset_bytes: entry.data_offset_bytes, size_bytes: entry.size_bytes }
            }
            Kind::Symlink => resolve(parent, &entry.link).map_or(Member::Other, Member::Link),
            Kind::HardLink => resolve(b"", &entry.link).map_or(Member::Other, Member::Link),
            Kind::Directory => continue,
            _ => Member::Other,
        };
        members.insert(name, member);
    }
}

/// A path of the archive in its plain form; `None` when it leads out of it.
fn resolve(parent: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = parent.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    (!path.starts_with(b"/")).then(|| parts.join(&b'/'))
}
