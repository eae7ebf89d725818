//! Files in memory for layers that no cache keeps.
//!
//! On a tmpfs of its own with large pages where this process may make one: then a guest needs a fault for 2 MiB of an image instead of
//! one for 4 KiB. Else a memfd, whose page size the machine decides (/sys/kernel/mm/transparent_hugepage/shmem_enabled).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self as rfs, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

use super::RootfsError;

/// An empty file in memory for `layer`.
pub(super) fn file(layer: &str) -> Result<File, RootfsError> {
    let failed = |e: Errno| RootfsError::Memory { layer: layer.into(), source: e.into() };
    large_pages().or_else(|_| small_pages()).map(File::from).map_err(failed)
}

/// A file without a name on a tmpfs that is mounted nowhere; both are gone with the descriptor.
fn large_pages() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "huge", "always")?;
    fsconfig_set_string(&context, "mode", "700")?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rfs::openat(&mount, ".", flags, Mode::RUSR | Mode::WUSR)
}

fn small_pages() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 there is no NOEXEC_SEAL.
    rfs::memfd_create("seuss-layer", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rfs::memfd_create("seuss-layer", flags))
}

/// Nobody can write to, grow or shrink the file any more: a memfd is sealed; of another file only a read-only description is left.
pub(super) fn freeze(layer: &str, file: File) -> Result<OwnedFd, RootfsError> {
    let failed = |source: io::Error| RootfsError::Memory { layer: layer.into(), source };
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    match rfs::fcntl_add_seals(&file, seals) {
        Ok(()) => Ok(file.into()),
        // No file of a mounted tmpfs can be sealed (fcntl(2), F_ADD_SEALS).
        Err(Errno::PERM | Errno::INVAL) => {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            Ok(File::open(path).map_err(failed)?.into())
        }
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_frozen_can_only_be_read() {
        let files = [small_pages().ok(), large_pages().ok()];
        for file in files.into_iter().flatten() {
            let mut file = File::from(file);
            file.write_all(b"layer").unwrap();
            let frozen = File::from(freeze("test", file).unwrap());
            let mut bytes = [0; 5];
            frozen.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"layer");
            assert!(frozen.write_all_at(b"x", 0).is_err());
            assert!(frozen.set_len(0).is_err());
        }
    }
}
