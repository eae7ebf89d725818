//! Mounts of a specification, in the guest's terms.
//!
//! Owns [`inject`]: small files and read-only directories of the host (resolv.conf, hosts, ConfigMaps, Secrets, ...) are copied into the
//! guest's file system as it starts; file systems of the kernel's own making (proc, tmpfs, ...) are the guest's own; everything else
//! is refused by name. A mounted directory is walked by descriptors, and nothing outside of it is opened whoever swaps links in it: a link that
//! leads to something inside is followed, every other one is copied as the link it is, and leads wherever it leads in the guest, as it would in
//! any container. **Not** supported: seeing later changes of a mounted file, and writes that reach the host (a guest may write to a file that
//! was mounted writable, /dev/termination-log for one, but only it sees the result).

use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use seuss_abi::spec::{InjectedFile, LINK};
use seuss_snapshotter::beneath::{Dir, Pinned, Way};

use crate::oci::{Mount, User};

/// Most bytes of all mounted files together: what fits into the guest's mailbox beside arguments and environment.
pub const FILES_BYTES_MAX: u64 = 768 << 10;
/// Most files of all mounts together.
pub const FILES_MAX: usize = 2048;
/// Deepest nesting of a mounted directory.
const DEPTH_MAX: usize = 16;

/// File systems that a guest makes for itself.
const GUESTS_OWN: [&str; 8] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"];

/// Why a mount cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A kind of file system.
    #[error("mount at {destination}: file system type {kind:?} is not supported")]
    Kind {
        /// Where.
        destination: String,
        /// Its type.
        kind: String,
    },
    /// A directory that the program could write to.
    #[error(
        "mount at {destination}: a writable directory of the host ({source_path}) is not supported yet; mount it read-only, or drop it: \
         every directory of the image can be written in the guest"
    )]
    WritableDirectory {
        /// Where.
        destination: String,
        /// What.
        source_path: String,
    },
    /// A socket, device or FIFO.
    #[error("mount at {destination}: {source_path} is a {kind} of the host, which a guest cannot reach")]
    Special {
        /// Where.
        destination: String,
        /// What.
        source_path: String,
        /// Its kind.
        kind: &'static str,
    },
    /// Too much.
    #[error(
        "mount at {destination}: the mounted files have more than {FILES_BYTES_MAX} bytes in all; larger mounts are not supported yet \
         (put the data into the image)"
    )]
    TooLarge {
        /// Where the limit was passed.
        destination: String,
    },
    /// Too many.
    #[error(
        "mount at {destination}: the mounts have more than {FILES_MAX} files in all, or more than {DEPTH_MAX} levels of directories"
    )]
    TooMany {
        /// Where the limit was passed.
        destination: String,
    },
    /// Reading failed.
    #[error("mount at {destination}: cannot read {path}: {source}", path = .path.display())]
    Io {
        /// Where.
        destination: String,
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The files that stand for `mounts`, for a process of `user`.
///
/// # Errors
/// [`MountError`], naming the mount that cannot be met.
pub fn inject(mounts: &[Mount], user: &User) -> Result<Vec<InjectedFile>, MountError> {
    let mut collector = Collector { user, files: Vec::new(), bytes: 0 };
    for mount in mounts {
        if is_bind(mount) {
            collector.bind(mount)?;
        } else if !GUESTS_OWN.contains(&mount.kind.as_str()) {
            return Err(MountError::Kind {
                destination: mount.destination.clone(),
                kind: mount.kind.clone(),
            });
        }
    }
    Ok(collector.files)
}

fn is_bind(mount: &Mount) -> bool {
    mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

fn is_read_only(mount: &Mount) -> bool {
    // As mount(8): the last word wins.
    mount
        .options
        .iter()
        .rev()
        .find(|option| matches!(option.as_str(), "ro" | "rw" | "rro"))
        .is_some_and(|option| option != "rw")
}

struct Collector<'a> {
    user: &'a User,
    files: Vec<InjectedFile>,
    bytes: u64,
}

impl Collector<'_> {
    fn bind(&mut self, mount: &Mount) -> Result<(), MountError> {
        // The pod's shared memory: each guest has its own /dev/shm.
        if mount.destination.trim_end_matches('/') == "/dev/shm" {
            return Ok(());
        }
        let source = Path::new(&mount.source);
        // Opened once, whatever its name comes to mean afterwards. containerd names it: links on the way are followed, as mount(2) does.
        let pinned = Pinned::open(source).map_err(|e| failed(mount, source, e))?;
        let read_only = is_read_only(mount);
        match pinned.kind() {
            FileType::RegularFile => {
                return self.file(mount, source, &pinned, mount.destination.as_bytes().to_vec(), read_only);
            }
            FileType::Directory if read_only => {}
            FileType::Directory => {
                return Err(MountError::WritableDirectory {
                    destination: mount.destination.clone(),
                    source_path: mount.source.clone(),
                });
            }
            kind => return Err(special(mount, source, kind)),
        }
        let before = self.files.len();
        let trail = vec![pinned.identity()];
        let root = pinned.into_dir(source).map_err(|e| failed(mount, source, e))?;
        let names = root.names().map_err(|e| failed(mount, source, e))?;
        let mut walk = Walk { mount, root: &root, trail };
        for name in names {
            self.entry(&mut walk, Path::new(&name))?;
        }
        if self.files.len() == before {
            tracing::warn!(
                destination = mount.destination,
                "the mounted directory is empty and does not appear in the guest"
            );
        }
        Ok(())
    }

    /// What is at `path` in the mounted directory, and below.
    fn entry(&mut self, walk: &mut Walk<'_>, path: &Path) -> Result<(), MountError> {
        let mount = walk.mount;
        // Kubelet's atomic writer: `..data` and what it points to hold the files that the visible links name.
        if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"..")) {
            return Ok(());
        }
        let source = walk.root.path().join(path);
        let destination = [mount.destination.trim_end_matches('/').as_bytes(), path.as_os_str().as_bytes()];
        let destination = destination.join(&b'/');
        let pinned = match walk.root.pin(path, Way::Beneath) {
            Ok(pinned) => pinned,
            Err(error) if leads_elsewhere(&error) => return self.link(walk, path, destination),
            Err(error) => return Err(failed(mount, &source, error)),
        };
        match pinned.kind() {
            FileType::RegularFile => self.file(mount, &source, &pinned, destination, true),
            // A link to a directory that it lies in.
            FileType::Directory if walk.trail.contains(&pinned.identity()) => {
                self.link(walk, path, destination)
            }
            FileType::Directory => {
                if walk.trail.len() > DEPTH_MAX {
                    return Err(MountError::TooMany { destination: mount.destination.clone() });
                }
                walk.trail.push(pinned.identity());
                let dir = pinned.into_dir(&source).map_err(|e| failed(mount, &source, e))?;
                for name in dir.names().map_err(|e| failed(mount, &source, e))? {
                    self.entry(walk, &path.join(name))?;
                }
                walk.trail.pop();
                Ok(())
            }
            kind => Err(special(mount, &source, kind)),
        }
    }

    /// The link at `path`, as it is.
    fn link(&mut self, walk: &Walk<'_>, path: &Path, destination: Vec<u8>) -> Result<(), MountError> {
        let mount = walk.mount;
        let source = walk.root.path().join(path);
        let content = match walk.root.pin_link(path, Way::Beneath).and_then(|link| link.link_target()) {
            Ok(content) => content,
            // It was a link a moment ago, or is gone.
            Err(error) if leads_elsewhere(&error) || error.kind() == io::ErrorKind::InvalidInput => {
                tracing::warn!(path = %source.display(), "a mounted directory changes while it is read; a link is left out");
                return Ok(());
            }
            Err(error) => return Err(failed(mount, &source, error)),
        };
        self.add(mount, InjectedFile { path: destination, mode: LINK | 0o777, read_only: true, content })
    }

    fn file(
        &mut self,
        mount: &Mount,
        source: &Path,
        pinned: &Pinned,
        path: Vec<u8>,
        read_only: bool,
    ) -> Result<(), MountError> {
        let left = FILES_BYTES_MAX - self.bytes;
        let file = pinned.open_regular().map_err(|e| failed(mount, source, e))?;
        // The descriptor's own figures; and the file may grow while it is read: take one byte more than is allowed, and see.
        let stat = rustix::fs::fstat(&file).map_err(|e| failed(mount, source, e.into()))?;
        let mut content = Vec::new();
        if stat.st_size.cast_unsigned() <= left {
            file.take(left + 1).read_to_end(&mut content).map_err(|e| failed(mount, source, e))?;
        }
        if stat.st_size.cast_unsigned() > left || content.len() as u64 > left {
            return Err(MountError::TooLarge { destination: mount.destination.clone() });
        }
        let mode = mode_for(self.user, stat.st_uid, stat.st_gid, stat.st_mode & 0o777);
        self.add(mount, InjectedFile { path, mode, read_only, content })
    }

    fn add(&mut self, mount: &Mount, file: InjectedFile) -> Result<(), MountError> {
        if self.files.len() >= FILES_MAX {
            return Err(MountError::TooMany { destination: mount.destination.clone() });
        }
        self.bytes = self.bytes.saturating_add(file.content.len() as u64);
        if self.bytes > FILES_BYTES_MAX {
            return Err(MountError::TooLarge { destination: mount.destination.clone() });
        }
        self.files.push(file);
        Ok(())
    }
}

/// A walk through a mounted directory.
struct Walk<'a> {
    mount: &'a Mount,
    root: &'a Dir,
    /// The directories that are open, outermost first.
    trail: Vec<(u64, u64)>,
}

/// Whether a path does not lead to anything inside the directory: out of it, nowhere, in a circle, or through a file.
fn leads_elsewhere(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::XDEV | Errno::NOENT | Errno::LOOP | Errno::NOTDIR))
}

/// Permission bits in the guest, where injected files belong to root, such that `user` may do there what `mode` with `uid` and `gid` allows
/// here (a Secret's 0640 with the pod's fsGroup must stay readable).
fn mode_for(user: &User, uid: u32, gid: u32, mode: u32) -> u32 {
    let allowed = if user.uid == uid {
        mode >> 6
    } else if user.gid == gid || user.additional_gids.contains(&gid) {
        mode >> 3
    } else {
        mode
    };
    mode | (allowed & 7)
}

fn special(mount: &Mount, source: &Path, kind: FileType) -> MountError {
    let kind = match kind {
        FileType::Socket => "socket",
        FileType::Fifo => "FIFO",
        _ => "device",
    };
    MountError::Special {
        destination: mount.destination.clone(),
        source_path: source.display().to_string(),
        kind,
    }
}

fn failed(mount: &Mount, path: &Path, source: io::Error) -> MountError {
    MountError::Io { destination: mount.destination.clone(), path: path.to_owned(), source }
}
