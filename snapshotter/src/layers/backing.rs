//! The file system that a store lies on: a tmpfs of the daemon's own, or a directory of a disk.
//!
//! Owns [`mount_tmpfs`]. The tmpfs is mounted on the store's directory and stays mounted when the daemon ends: it is what a restarted daemon
//! finds its snapshots on. containerd must see it, so both share a mount namespace, or the daemon's mounts propagate (the systemd unit
//! sets nothing that would give it a namespace of its own).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use super::mounts;
use crate::mountinfo;

/// `f_type` of tmpfs (statfs(2)).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The source of our mounts, as /proc/self/mountinfo shows it.
pub const SOURCE: &str = "seuss-images";

/// Why there is no tmpfs.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// The directory cannot be made or looked at.
    #[error("cannot use {path}: {source}", path = .path.display())]
    Access {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// mount(2) refused.
    #[error("cannot mount a tmpfs of {size_bytes} bytes on {path}: {source}", path = .path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// How large.
        size_bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// Something lies in the directory that a tmpfs would hide.
    #[error(
        "{path} is not empty: a store on disk? Use `--image-store disk`, or remove its content", path = .path.display()
    )]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
}

/// Whether the tmpfs was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mounted {
    /// An earlier daemon's; it has the new size now.
    Found,
    /// A new one.
    New,
}

/// Makes sure that a tmpfs of `size_bytes` is mounted on `root`.
///
/// # Errors
/// [`BackingError`].
pub fn mount_tmpfs(root: &Path, size_bytes: u64) -> Result<Mounted, BackingError> {
    let access = |source| BackingError::Access { path: root.to_owned(), source };
    let failed = |errno: rustix::io::Errno| BackingError::Mount {
        path: root.to_owned(),
        size_bytes,
        source: errno.into(),
    };
    fs::create_dir_all(root).map_err(access)?;
    let root = fs::canonicalize(root).map_err(access)?;
    if is_ours(&root).map_err(access)? {
        let data = format!("size={size_bytes}");
        let data = std::ffi::CString::new(data).unwrap_or_default();
        mount_remount(&root, MountFlags::empty(), data.as_c_str()).map_err(failed)?;
        return Ok(Mounted::Found);
    }
    if fs::read_dir(&root).map_err(access)?.next().is_some() {
        return Err(BackingError::NotEmpty { path: root });
    }
    // Not `nodev`: an image's device nodes must look as they are. Not `noexec`, `nosuid`: containers run from here.
    let base = format!("size={size_bytes},nr_inodes=0,mode=0700");
    let attempt = |data: &str| {
        let data = std::ffi::CString::new(data).unwrap_or_default();
        mount(SOURCE, &root, "tmpfs", MountFlags::empty(), data.as_c_str())
    };
    // Large files get large pages where the kernel has them for tmpfs.
    match attempt(&format!("{base},huge=within_size")) {
        Err(rustix::io::Errno::INVAL) => attempt(&base),
        result => result,
    }
    .map_err(failed)?;
    Ok(Mounted::New)
}

/// Unmounts the layers below `root`, and the tmpfs, and so forgets everything on it; a store on disk stays. Nothing mounted: fine.
///
/// # Errors
/// [`BackingError::Access`].
pub fn unmount_all(root: &Path) -> Result<(), BackingError> {
    let access = |source| BackingError::Access { path: root.to_owned(), source };
    if !root.exists() {
        return Ok(());
    }
    for point in mounts::standing(root).map_err(access)?.iter().rev() {
        mounts::unmount(point).map_err(access)?;
    }
    let root = &fs::canonicalize(root).map_err(access)?;
    if !is_ours(root).map_err(access)? {
        return Ok(());
    }
    unmount(root, UnmountFlags::DETACH).map_err(|errno| access(errno.into()))
}

/// Whether a tmpfs is mounted at `root` itself (and not somewhere above).
fn is_ours(root: &Path) -> io::Result<bool> {
    let stat = rustix::fs::statfs(root)?;
    if u64::try_from(stat.f_type).ok() != Some(TMPFS_MAGIC) {
        return Ok(false);
    }
    let table = mountinfo::table()?;
    Ok(table.iter().any(|mount| mount.point == root && mount.source == SOURCE))
}
