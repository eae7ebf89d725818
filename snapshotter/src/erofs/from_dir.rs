//! An image of a directory of the host.
//!
//! Never follows a symbolic link: every name is pinned (`O_PATH`, `O_NOFOLLOW`) relative to its directory's descriptor, and used through that, so a
//! tree that is changed meanwhile can spoil the image but not lead out of the directory, and nothing but regular files and directories is
//! opened. Does not enter other mounts: a mount point becomes an empty directory.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::error::BuildError;
use super::tree::{Body, DEPTH_MAX, Metadata, NodeId, Timestamp, Xattr};
use super::writer::{BuildOptions, BuildReport, Writer};
use crate::beneath::Dir;

/// Xattrs that describe the host's policy, or an overlay's bookkeeping, rather than the file.
const HOST_XATTRS: [&[u8]; 8] = [
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"trusted.overlay.origin",
    b"trusted.overlay.impure",
    b"trusted.overlay.nlink",
    b"trusted.overlay.upper",
    b"trusted.overlay.uuid",
];
/// Xattrs by which an overlay finds a file's data or a directory's entries elsewhere: what reads the image does not know them.
const OVERLAY_REFERENCES: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// Builds an image of the directory at `dir` into `out`. See [`build_from_open_dir`].
///
/// # Errors
/// [`BuildError::Source`] when it cannot be opened; [`build_from_open_dir`]'s.
pub fn build_from_dir(dir: &Path, out: &File, options: &BuildOptions) -> Result<BuildReport, BuildError> {
    let opened = Dir::open(dir).map_err(|source| BuildError::Source {
        action: "open the directory",
        path: dir.into(),
        source,
    })?;
    build_from_open_dir(&opened, out, options)
}

/// Builds an image of `dir` into `out`, whose content is replaced.
///
/// Deterministic: the same tree (names, data, metadata, times, xattrs) gives the same bytes. `security.selinux`, `ima`
/// and `evm` attributes and overlayfs's notes on origins are left out. Whiteouts and opaque markers in overlayfs's form are kept as
/// they are.
///
/// # Errors
/// [`BuildError::Unsupported`] for what overlayfs with `redirect_dir` or `metacopy` leaves behind.
/// [`BuildError::Source`] when something cannot be read, [`BuildError::TooDeep`], and what [`Writer`] returns.
pub fn build_from_open_dir(dir: &Dir, out: &File, options: &BuildOptions) -> Result<BuildReport, BuildError> {
    let root = dir.open_for_listing().map_err(|source| BuildError::Source {
        action: "open the directory",
        path: dir.path().into(),
        source,
    })?;
    let mut walk = Walk {
        writer: Writer::new(out, options)?,
        hard_links: HashMap::new(),
        device: 0,
        newest: Timestamp::default(),
        path: dir.path().to_path_buf(),
    };
    let stat = walk.io("stat", rfs::fstat(&root))?;
    walk.device = stat.st_dev;
    let xattrs = walk.fd_xattrs(root.as_fd())?;
    walk.writer.set_metadata(NodeId::ROOT, metadata(&stat), xattrs.clone())?;
    let root = walk.frame(root, NodeId::ROOT)?;
    walk.run(root)?;
    if options.root_time_of_entries {
        let metadata = Metadata { mtime: walk.newest, ..metadata(&stat) };
        walk.writer.set_metadata(NodeId::ROOT, metadata, xattrs)?;
    }
    walk.writer.finish()
}

/// An open directory and the names that are still to be done, last one first.
struct Frame {
    fd: OwnedFd,
    node: NodeId,
    names: Vec<CString>,
}

struct Walk<'f> {
    writer: Writer<'f>,
    hard_links: HashMap<(u64, u64), NodeId>,
    device: u64,
    /// Newest modification time of the root's entries.
    newest: Timestamp,
    /// Where the walk is.
    path: PathBuf,
}

impl Walk<'_> {
    fn run(&mut self, root: Frame) -> Result<(), BuildError> {
        let mut stack = vec![root];
        while let Some(top) = stack.last_mut() {
            let Some(name) = top.names.pop() else {
                stack.pop();
                if !stack.is_empty() {
                    self.path.pop();
                }
                continue;
            };
            self.path.push(OsStr::from_bytes(name.as_bytes()));
            match self.entry(top, &name)? {
                Some(child) if stack.len() > DEPTH_MAX => {
                    drop(child);
                    return Err(BuildError::TooDeep {
                        path: self.path.display().to_string(),
                        limit: DEPTH_MAX,
                    });
                }
                Some(child) => stack.push(child),
                None => {
                    self.path.pop();
                }
            }
        }
        Ok(())
    }

    /// Adds one entry; a directory's frame is returned, to be done next.
    fn entry(&mut self, parent: &Frame, name: &CString) -> Result<Option<Frame>, BuildError> {
        // Pinned first, then looked at, then opened: what is opened is what was seen, and no device wakes up.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pinned = self.io("open", rfs::openat(&parent.fd, name, flags, Mode::empty()))?;
        let stat = self.io("stat", rfs::fstat(&pinned))?;
        if parent.node == NodeId::ROOT {
            self.newest = self.newest.max(metadata(&stat).mtime);
        }
        let kind = FileType::from_raw_mode(stat.st_mode);
        let id = (stat.st_dev, stat.st_ino);
        if kind != FileType::Directory
            && stat.st_nlink > 1
            && let Some(target) = self.hard_links.get(&id)
        {
            self.writer.link(parent.node, name.as_bytes(), *target)?;
            return Ok(None);
        }
        let open = |flags| {
            let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
            let flags = flags | OFlags::CLOEXEC;
            rfs::open(&path, flags | OFlags::NOATIME, Mode::empty()).or_else(|e| match e {
                // O_NOATIME is for owners only.
                Errno::PERM => rfs::open(&path, flags, Mode::empty()),
                e => Err(e),
            })
        };
        let device = (rfs::major(stat.st_rdev), rfs::minor(stat.st_rdev));
        let (body, meta, xattrs) = match kind {
            FileType::Directory => {
                let fd = self.io("open", open(OFlags::RDONLY | OFlags::DIRECTORY))?;
                let stat = self.io("stat", rfs::fstat(&fd))?;
                let xattrs = self.fd_xattrs(fd.as_fd())?;
                let node =
                    self.writer.insert(parent.node, name.as_bytes(), metadata(&stat), xattrs, Body::Dir)?;
                return if stat.st_dev == self.device { self.frame(fd, node).map(Some) } else { Ok(None) };
            }
            FileType::RegularFile => {
                let fd = self.io("open", open(OFlags::RDONLY | OFlags::NONBLOCK))?;
                // Its size as of now: it may have grown.
                let stat = self.io("stat", rfs::fstat(&fd))?;
                let xattrs = self.fd_xattrs(fd.as_fd())?;
                let size_bytes = stat.st_size.cast_unsigned();
                let path = self.path.as_os_str().as_bytes().to_vec();
                let extent = self.writer.write_data(&path, size_bytes, &mut File::from(fd))?;
                (Body::File(extent), metadata(&stat), xattrs)
            }
            FileType::Symlink => {
                let target = self.io("read the link", rfs::readlinkat(&pinned, "", Vec::new()))?;
                (Body::Symlink(target.into_bytes().into()), metadata(&stat), self.pinned_xattrs(&pinned)?)
            }
            FileType::CharacterDevice => {
                (Body::CharDevice(device.0, device.1), metadata(&stat), self.pinned_xattrs(&pinned)?)
            }
            FileType::BlockDevice => {
                (Body::BlockDevice(device.0, device.1), metadata(&stat), self.pinned_xattrs(&pinned)?)
            }
            FileType::Fifo => (Body::Fifo, metadata(&stat), self.pinned_xattrs(&pinned)?),
            FileType::Socket => (Body::Socket, metadata(&stat), self.pinned_xattrs(&pinned)?),
            FileType::Unknown => {
                return Err(BuildError::Unsupported {
                    path: self.path.display().to_string(),
                    what: "files of an unknown type",
                });
            }
        };
        let node = self.writer.insert(parent.node, name.as_bytes(), meta, xattrs, body)?;
        if stat.st_nlink > 1 {
            self.hard_links.insert(id, node);
        }
        Ok(None)
    }

    /// Lists a directory.
    fn frame(&self, fd: OwnedFd, node: NodeId) -> Result<Frame, BuildError> {
        let mut names = Vec::new();
        for entry in self.io("list", rfs::Dir::read_from(&fd))? {
            let entry = self.io("list", entry)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Frame { fd, node, names })
    }

    fn fd_xattrs(&mut self, fd: impl AsFd) -> Result<Vec<Xattr>, BuildError> {
        let fd = fd.as_fd();
        self.xattrs(|list| rfs::flistxattr(fd, list), |name, value| rfs::fgetxattr(fd, name, value))
    }

    /// Attributes of something that is pinned and must not be opened: by the link of its descriptor, which leads to it, a symbolic link too.
    fn pinned_xattrs(&mut self, pinned: &OwnedFd) -> Result<Vec<Xattr>, BuildError> {
        let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
        let path = path.as_str();
        self.xattrs(|list| rfs::listxattr(path, list), |name, value| rfs::getxattr(path, name, value))
    }

    fn xattrs(
        &mut self,
        list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
        get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Vec<Xattr>, BuildError> {
        const ACTION: &str = "read the extended attributes of";
        let names = match grow(&list) {
            Ok(names) => names,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(e) => return self.io(ACTION, Err(e)),
        };
        let mut xattrs = Vec::new();
        for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
            if HOST_XATTRS.contains(&name) {
                self.writer.report.skipped_xattrs += 1;
                continue;
            }
            if OVERLAY_REFERENCES.contains(&name) {
                return Err(BuildError::Unsupported {
                    path: self.path.display().to_string(),
                    what: "references of overlayfs (redirect_dir, metacopy)",
                });
            }
            match grow(|value: &mut [u8]| get(name, value)) {
                Ok(value) => match Xattr::new(name, &value) {
                    Some(xattr) => xattrs.push(xattr),
                    None => self.writer.report.skipped_xattrs += 1,
                },
                // Removed meanwhile.
                Err(Errno::NODATA) => {}
                // A file capability that is malformed or belongs to another user namespace: it has no effect here.
                Err(Errno::INVAL | Errno::OVERFLOW) => self.writer.report.skipped_xattrs += 1,
                Err(e) => return self.io(ACTION, Err(e)),
            }
        }
        Ok(xattrs)
    }

    fn io<T>(&self, action: &'static str, result: Result<T, Errno>) -> Result<T, BuildError> {
        result.map_err(|e| BuildError::Source { action, path: self.path.clone(), source: e.into() })
    }
}

/// Calls `fill` with larger buffers until the value fits; the kernel's limit for lists and values is 64 KiB.
fn grow(fill: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = [0; 256];
    match fill(&mut buffer) {
        Ok(n) => return Ok(buffer[..n].to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    let mut buffer = vec![0; 64 << 10];
    let n = fill(&mut buffer)?;
    buffer.truncate(n);
    Ok(buffer)
}

fn metadata(stat: &Stat) -> Metadata {
    Metadata {
        permissions: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 },
    }
}
