//! Images of layers as directories: the host's kernel mounts them (erofs), so that runc reads the bytes that guests map.
//!
//! Owns [`mount`], [`unmount`], [`standing`] and [`probe`]. The kernel reads the file itself where it can (Linux 6.12,
//! `CONFIG_EROFS_FS_BACKED_BY_FILE`, and a file system that has `read_folio`: ext4 and xfs, not tmpfs), else through a loop device. Mounts outlive the
//! daemon, as its tmpfs does; containerd must see them just like that ([`super::backing`]).

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, getxattr, makedev, mknodat, setxattr};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, unmount as umount2};

use super::disk::{Disk, remove_all};
use super::loopdev;
use crate::erofs::{self, BuildOptions};
use crate::mountinfo;

/// The file system's name.
const KIND: &str = "erofs";

/// What the probe puts into an image and wants to see again: what overlayfs and exec(2) look for.
const XATTRS: [(&str, &[u8]); 2] = [
    ("trusted.overlay.opaque", b"y"),
    // VFS_CAP_REVISION_2, effective: CAP_NET_BIND_SERVICE (linux/capability.h).
    ("security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
];

/// How the kernel reads a mounted image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The file itself.
    File,
    /// A loop device over it.
    Loop,
}

/// Mounts `image` read-only on the directory `target`.
///
/// # Errors
/// The kernel has no erofs, refuses the image, or there is no loop device where one is needed.
pub(super) fn mount(image: &Path, target: &Path) -> io::Result<Way> {
    // Not `nodev`, `nosuid`, `noexec`: containers run from here.
    let attempt =
        |source: &Path| rustix::mount::mount(source, target, KIND, MountFlags::RDONLY, None::<&CStr>);
    match attempt(image) {
        Ok(()) => Ok(Way::File),
        // It wants a block device.
        Err(Errno::NOTBLK) => {
            let (device, _kept) = loopdev::attach(&File::open(image)?)?;
            attempt(&device)?;
            Ok(Way::Loop)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Unmounts what is mounted on `target`, if anything is. Who uses it goes on (overlays and bind mounts hold the file system, MNT_DETACH).
///
/// # Errors
/// umount(2) fails.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Nothing is mounted there, or the directory is missing.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

/// Where images are mounted below `root`, in the order in which they were.
///
/// # Errors
/// The table cannot be read.
pub(super) fn standing(root: &Path) -> io::Result<Vec<PathBuf>> {
    let root = fs::canonicalize(root)?;
    let table = mountinfo::table()?.into_iter();
    let ours =
        table.filter(|mount| mount.kind == KIND && mount.point != root && mount.point.starts_with(&root));
    Ok(ours.map(|mount| mount.point).collect())
}

/// Whether layers can be mounted here: builds an image with what layers need, mounts it, and looks.
///
/// # Errors
/// They cannot, and why.
pub(super) fn probe(disk: &Disk) -> Result<Way, String> {
    let (dir, image, target) = (disk.tmp("probe", 0), disk.tmp("probe", 1), disk.tmp("probe", 2));
    let result = try_probe(&dir, &image, &target);
    let undone = unmount(&target).map_err(|error| format!("cannot unmount {}: {error}", target.display()));
    for path in [&dir, &image, &target] {
        let _ = remove_all(path);
    }
    result.and_then(|way| undone.map(|()| way))
}

fn try_probe(dir: &Path, image: &Path, target: &Path) -> Result<Way, String> {
    let said = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    let make = || {
        fs::create_dir(dir)?;
        fs::create_dir(target)?;
        for (name, value) in XATTRS {
            setxattr(dir, name, value, XattrFlags::empty())?;
        }
        mknodat(CWD, dir.join("gone"), FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?;
        File::options().create_new(true).read(true).write(true).open(image)
    };
    let file = make().map_err(said("make what a layer may hold"))?;
    erofs::build_from_dir(dir, &file, &BuildOptions::default()).map_err(|error| error.to_string())?;
    drop(file);
    let way = mount(image, target).map_err(said("mount an EROFS image"))?;
    for (name, value) in XATTRS {
        let mut found = vec![0; value.len() + 1];
        let seen = getxattr(target, name, &mut found[..]).map_err(|errno| {
            format!("{name} of a mounted image cannot be read ({errno}): a kernel without CONFIG_EROFS_FS_XATTR or _SECURITY?")
        })?;
        if found.get(..seen) != Some(value) {
            return Err(format!("{name} of a mounted image is not what it was"));
        }
    }
    let gone =
        fs::symlink_metadata(target.join("gone")).map_err(said("see a whiteout of a mounted image"))?;
    if !gone.file_type().is_char_device() || gone.rdev() != 0 {
        return Err("a whiteout of a mounted image is none".to_owned());
    }
    Ok(way)
}
