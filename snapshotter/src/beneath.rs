//! Files of directories whose content somebody else decides: opened once, beneath the directory, and used through that descriptor.
//!
//! Owns [`Dir`], a directory, and [`Pinned`], whatever a path led to. A path is resolved by the kernel in one step (openat2(2)) that cannot leave the
//! directory, whoever swaps links meanwhile; what it led to is pinned (`O_PATH`) and looked at before anything is opened for reading, so no FIFO blocks
//! and no device wakes up. Pinned files are opened through `/proc/self/fd`, which names the file and not a path.
//!
//! Which way fits what is written down in shim/DESIGN.md, "Paths".

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// openat2(2) gives up with EAGAIN when a rename anywhere in the system may have fooled it; so often it is asked again.
const ATTEMPTS: usize = 128;

/// How a path beneath a directory is resolved. No way follows the links of /proc/PID/fd and their like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// No symbolic links at all: for names that a program of ours has given.
    NoLinks,
    /// Links may lead anywhere beneath the directory; one that leads out of it, or is absolute, is an error (EXDEV).
    Beneath,
    /// The directory is the root of all links and of `..`, as for a process that was chrooted there.
    InRoot,
}

impl Way {
    fn flags(self) -> ResolveFlags {
        match self {
            Self::NoLinks => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
            Self::Beneath => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
            Self::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        }
    }
}

fn open(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        match rfs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// A directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// The directory at `path` of the host, which somebody whom we trust has named: links on the way are followed, but those of /proc/PID/fd and their
    /// like.
    ///
    /// # Errors
    /// openat2(2)'s; ENOTDIR.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = open(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Where it was found, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `path`, beneath this directory, leads to.
    ///
    /// # Errors
    /// openat2(2)'s: EXDEV if it leads out of the directory, ELOOP if a link is met that must not be followed.
    pub fn pin(&self, path: &Path, way: Way) -> io::Result<Pinned> {
        let fd = open(self.fd.as_fd(), relative(path, way), OFlags::PATH, Mode::empty(), way.flags())?;
        Pinned::new(fd)
    }

    /// As [`Self::pin`], with a symbolic link itself where `path` ends in one.
    ///
    /// # Errors
    /// openat2(2)'s.
    pub fn pin_link(&self, path: &Path, way: Way) -> io::Result<Pinned> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = open(self.fd.as_fd(), relative(path, way), flags, Mode::empty(), way.flags())?;
        Pinned::new(fd)
    }

    /// The directory at `path` beneath this one.
    ///
    /// # Errors
    /// As [`Self::pin`].
    pub fn dir(&self, path: &Path, way: Way) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = open(self.fd.as_fd(), relative(path, way), flags, Mode::empty(), way.flags())?;
        Ok(Self { fd, path: self.path.join(path) })
    }

    /// The directory at `path` beneath this one, made if it is missing (0711); its parents must be there.
    ///
    /// # Errors
    /// mkdirat(2)'s, openat2(2)'s.
    pub fn make_dir(&self, name: &str) -> io::Result<Self> {
        match rfs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o711)) {
            Ok(()) | Err(Errno::EXIST) => self.dir(Path::new(name), Way::NoLinks),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The regular file `name`, open for reading.
    ///
    /// # Errors
    /// openat2(2)'s; [`io::ErrorKind::InvalidInput`] if it is something else.
    pub fn read_file(&self, name: &str) -> io::Result<File> {
        self.pin(Path::new(name), Way::NoLinks)?.open_regular()
    }

    /// The whole content of the regular file `name`, which may have `most` bytes.
    ///
    /// # Errors
    /// As [`Self::read_file`]; [`io::ErrorKind::FileTooLarge`].
    pub fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(self.read_file(name)?, most + 1), &mut content)?;
        if content.len() as u64 > most {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it has more than {most} bytes"),
            ));
        }
        Ok(content)
    }

    /// Puts a regular file with `content` at `name`, at once: whoever looks sees the whole old one or the whole new one. Nothing that was there is followed or written to.
    ///
    /// # Errors
    /// The calls'; nothing but the old file is left then.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.new");
        // What an earlier attempt left.
        let _ = rfs::unlinkat(&self.fd, &temporary, rfs::AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(0o644);
        let fd = open(self.fd.as_fd(), Path::new(&temporary), flags, mode, Way::NoLinks.flags())?;
        let written = io::Write::write_all(&mut File::from(fd), content)
            .and_then(|()| Ok(rfs::renameat(&self.fd, &temporary, &self.fd, name)?));
        if written.is_err() {
            let _ = rfs::unlinkat(&self.fd, &temporary, rfs::AtFlags::empty());
        }
        written
    }

    /// The regular file `name`, made (0644) if nothing is there.
    ///
    /// # Errors
    /// openat2(2)'s: EISDIR, ELOOP if it is a link.
    pub fn create(&self, name: &OsStr) -> io::Result<Pinned> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(0o644);
        Pinned::new(open(self.fd.as_fd(), Path::new(name), flags, mode, Way::NoLinks.flags())?)
    }

    /// A descriptor to list it with, or to work from.
    ///
    /// # Errors
    /// openat2(2)'s: whoever may not read the directory.
    pub fn open_for_listing(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        open(self.fd.as_fd(), Path::new("."), flags, Mode::empty(), ResolveFlags::BENEATH)
    }

    /// Names of its entries but `.` and `..`, sorted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in rfs::Dir::new(self.open_for_listing()?)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The path that the kernel has for it now, without links; for comparing with the table of mounts.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn real_path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(in_proc(&self.fd))
    }

    /// A path that names this very directory, for calls that take no descriptor (mount(2)); good for as long as this is alive.
    #[must_use]
    pub fn in_proc(&self) -> PathBuf {
        in_proc(&self.fd)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// No target is the root itself, for mounts; openat2(2) finds nothing at an empty path.
fn relative(path: &Path, way: Way) -> &Path {
    match way {
        Way::InRoot if path.as_os_str().is_empty() => Path::new("."),
        _ => path,
    }
}

fn in_proc(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// What a path led to, whatever it is; not opened, and nothing but this very file from now on.
#[derive(Debug)]
pub struct Pinned {
    fd: OwnedFd,
    stat: Stat,
}

impl Pinned {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = rfs::fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// What the path `path` of the host leads to. See [`Dir::open`].
    ///
    /// # Errors
    /// openat2(2)'s.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::new(open(CWD, path, OFlags::PATH, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?)
    }

    /// What `path` of the host leads to by whatever links, those of /proc/PID/fd too: for what the user of a command has typed (`/dev/stdin`).
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open_any(path: &Path) -> io::Result<Self> {
        Self::new(rfs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Owner, mode, size: as of when it was pinned.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Device and inode number.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// Opens it with `flags`; `O_NONBLOCK`, `O_NOCTTY` and `O_CLOEXEC` are added.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn reopen(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(File::from(rfs::open(in_proc(&self.fd), flags, Mode::empty())?))
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] if it is no regular file; open(2)'s.
    pub fn open_regular(&self) -> io::Result<File> {
        if self.kind() != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        self.reopen(OFlags::RDONLY)
    }

    /// The regular file `name` in this directory, if there is one: a look, for telling directories apart.
    #[must_use]
    pub fn has_file(&self, name: &str) -> bool {
        let way = Way::Beneath.flags();
        let found = open(self.fd.as_fd(), Path::new(name), OFlags::PATH, Mode::empty(), way);
        found.and_then(Self::new).is_ok_and(|pinned| pinned.kind() == FileType::RegularFile)
    }

    /// The directory that it is; `path` is for messages.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn into_dir(self, path: &Path) -> io::Result<Dir> {
        if self.kind() != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok(Dir { fd: self.fd, path: path.to_owned() })
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// readlinkat(2)'s: it is none.
    pub fn link_target(&self) -> io::Result<Vec<u8>> {
        Ok(rfs::readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }
}

impl AsFd for Pinned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
