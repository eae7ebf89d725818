//! Mounts of a specification, in the guest's terms.
//!
//! Owns [`inject`]: small files and read-only directories of the host (resolv.conf, hosts, ConfigMaps, Secrets, ...) are copied into the
//! guest's file system as it starts; file systems of the kernel's own making (proc, tmpfs, ...) are the guest's own; everything else
//! is refused by name. **Not** supported: seeing later changes of a mounted file, and writes that reach the host (a guest may write to a file that
//! was mounted writable, /dev/termination-log for one, but only it sees the result).

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use seuss_abi::spec::InjectedFile;

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
    /// A link out of the mounted directory.
    #[error("mount at {destination}: {path} is a symbolic link that leads out of the mounted directory")]
    Escape {
        /// Where.
        destination: String,
        /// The link.
        path: String,
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
        let metadata = fs::metadata(source).map_err(|e| failed(mount, source, e))?;
        let read_only = is_read_only(mount);
        if metadata.is_file() {
            return self.file(mount, source, &metadata, mount.destination.as_bytes().to_vec(), read_only);
        }
        if !metadata.is_dir() {
            return Err(special(mount, source, &metadata));
        }
        if !read_only {
            return Err(MountError::WritableDirectory {
                destination: mount.destination.clone(),
                source_path: mount.source.clone(),
            });
        }
        let root = fs::canonicalize(source).map_err(|e| failed(mount, source, e))?;
        let before = self.files.len();
        self.directory(mount, &root, &root, &mount.destination, 0)?;
        if self.files.len() == before {
            tracing::warn!(
                destination = mount.destination,
                "the mounted directory is empty and does not appear in the guest"
            );
        }
        Ok(())
    }

    fn directory(
        &mut self,
        mount: &Mount,
        root: &Path,
        dir: &Path,
        destination: &str,
        depth: usize,
    ) -> Result<(), MountError> {
        if depth > DEPTH_MAX {
            return Err(MountError::TooMany { destination: mount.destination.clone() });
        }
        let mut entries = fs::read_dir(dir)
            .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
            .map_err(|e| failed(mount, dir, e))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Kubelet's atomic writer: `..data` and what it points to hold the files that the visible links name.
            if name.starts_with("..") {
                continue;
            }
            let path = entry.path();
            let real = match fs::canonicalize(&path) {
                Ok(real) => real,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), "dangling symbolic link in a mounted directory is left out");
                    continue;
                }
                Err(e) => return Err(failed(mount, &path, e)),
            };
            if !real.starts_with(root) {
                return Err(MountError::Escape {
                    destination: mount.destination.clone(),
                    path: path.display().to_string(),
                });
            }
            let metadata = fs::metadata(&real).map_err(|e| failed(mount, &real, e))?;
            let destination = format!("{}/{name}", destination.trim_end_matches('/'));
            if metadata.is_dir() {
                self.directory(mount, root, &real, &destination, depth + 1)?;
            } else if metadata.is_file() {
                self.file(mount, &real, &metadata, destination.into_bytes(), true)?;
            } else {
                return Err(special(mount, &real, &metadata));
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        mount: &Mount,
        source: &Path,
        metadata: &Metadata,
        path: Vec<u8>,
        read_only: bool,
    ) -> Result<(), MountError> {
        if self.files.len() >= FILES_MAX {
            return Err(MountError::TooMany { destination: mount.destination.clone() });
        }
        // The file may grow while it is read: take one byte more than is allowed, and see.
        let left = FILES_BYTES_MAX - self.bytes;
        let mut content = Vec::new();
        File::open(source)
            .and_then(|file| file.take(left + 1).read_to_end(&mut content))
            .map_err(|e| failed(mount, source, e))?;
        if content.len() as u64 > left {
            return Err(MountError::TooLarge { destination: mount.destination.clone() });
        }
        self.bytes += content.len() as u64;
        let mode = mode_for(self.user, metadata.uid(), metadata.gid(), metadata.mode() & 0o777);
        self.files.push(InjectedFile { path, mode, read_only, content });
        Ok(())
    }
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

fn special(mount: &Mount, source: &Path, metadata: &Metadata) -> MountError {
    let kind = metadata.file_type();
    let kind = if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "FIFO"
    } else {
        "device"
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
