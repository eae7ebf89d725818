//! Mounting and unmounting of containers' root file systems (mount(2)).
//!
//! Owns [`mount_all`] and [`unmount_recursive`]. Takes containerd's mounts as its own mount package does: fstab-style options become flags or data;
//! an overlay of more layers than fit into one page is mounted from a directory that makes the paths short.
//!
//! Unsafe: unshare(2) of a helper thread's working directory.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::thread::UnshareFlags;
use seuss_snapshotter::beneath::{Dir, Way};
use seuss_snapshotter::mountinfo::{self, Mounted};

/// Mount data longer than this may not fit into the page that mount(2) copies.
const DATA_MAX: usize = 4096 - 512;

/// Why a root file system could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// mount(2) refused.
    #[error("cannot mount {kind} {from} at {target}: {source}", target = .target.display())]
    Mount {
        /// Kind of file system.
        kind: String,
        /// What.
        from: String,
        /// Where.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount point cannot be made, or mounts cannot be listed.
    #[error("cannot access {path}: {source}", path = .path.display())]
    Access {
        /// Which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// umount(2) refused.
    #[error("cannot unmount {target}: {source}", target = .target.display())]
    Unmount {
        /// Where.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An option that only containerd could resolve.
    #[error("mount option {option} of {from} is not supported")]
    Option {
        /// The option.
        option: String,
        /// What is to be mounted.
        from: String,
    },
}

/// A mount as containerd describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountSpec {
    /// Kind of file system, or `bind`.
    pub kind: String,
    /// What.
    pub source: String,
    /// Where, below the root; usually empty.
    pub target: String,
    /// fstab-style options.
    pub options: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    flags: u32,
    propagation: u32,
    bind: bool,
    recursive: bool,
    data: Vec<String>,
}

/// Mounts `mounts` in order at the directory `name` of `dir`, which is made if it is missing. On an error nothing stays mounted.
///
/// Where a mount goes below another one, the links that it meets are those of the mounted file system, which its author has made: they lead somewhere
/// in the root file system, as they would for a process inside, and never to the host's files.
///
/// # Errors
/// [`MountError`].
pub fn mount_all(mounts: &[MountSpec], dir: &Dir, name: &str) -> Result<(), MountError> {
    let path = dir.path().join(name);
    let access = |source| MountError::Access { path: path.clone(), source };
    dir.make_dir(name).map_err(access)?;
    let mount_in_turn = || {
        mounts.iter().try_for_each(|spec| {
            // Looked up anew each time: a mount covers what was there.
            let place = || {
                let root = dir.dir(Path::new(name), Way::NoLinks).map_err(access)?;
                root.dir(Path::new(&spec.target), Way::InRoot)
                    .map_err(|source| MountError::Access { path: path.join(&spec.target), source })
            };
            mount_one(spec, &place)
        })
    };
    let mounted = mount_in_turn();
    if mounted.is_err()
        && let Err(undo) = unmount_recursive(dir, name)
    {
        tracing::warn!(error = %undo, "a failed mount leaves something behind");
    }
    mounted
}

fn mount_one(spec: &MountSpec, find: &dyn Fn() -> Result<Dir, MountError>) -> Result<(), MountError> {
    let parsed = parse(spec)?;
    let place = find()?;
    let failed = |source: rustix::io::Errno| MountError::Mount {
        kind: spec.kind.clone(),
        from: spec.source.clone(),
        target: place.path().to_owned(),
        source: source.into(),
    };
    // mount(2) takes paths only. This one is the directory's descriptor: what its name comes to mean does not count.
    let target = &*place.in_proc();
    let flags = MountFlags::from_bits_retain(parsed.flags);
    if parsed.bind || spec.kind == "bind" {
        if parsed.recursive {
            mount_bind_recursive(&spec.source, target).map_err(failed)?;
        } else {
            mount_bind(&spec.source, target).map_err(failed)?;
        }
        // The flags of a bind mount only count when it is mounted again.
        if parsed.flags != 0 {
            let top = find()?;
            mount_remount(top.in_proc(), MountFlags::BIND | flags, "").map_err(failed)?;
        }
    } else {
        let data = parsed.data.join(",");
        if data.len() > DATA_MAX && spec.kind == "overlay" {
            mount_long_overlay(&spec.source, target, flags, &parsed.data).map_err(failed)?;
        } else {
            mount_with(&spec.source, target, &spec.kind, flags, &data).map_err(failed)?;
        }
    }
    if parsed.propagation != 0 {
        let top = find()?;
        mount_change(top.in_proc(), MountPropagationFlags::from_bits_retain(parsed.propagation))
            .map_err(failed)?;
    }
    Ok(())
}

fn mount_with(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    data: &str,
) -> rustix::io::Result<()> {
    let data = std::ffi::CString::new(data).map_err(|_| rustix::io::Errno::INVAL)?;
    mount(source, target, kind, flags, data.as_c_str())
}

/// Mounts an overlay whose options are too long, from the directory that all lower layers share, with paths relative to it.
fn mount_long_overlay(
    source: &str,
    target: &Path,
    flags: MountFlags,
    options: &[String],
) -> rustix::io::Result<()> {
    let lower = options.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap_or_default();
    let common = common_directory(&lower.split(':').collect::<Vec<_>>());
    let prefix = format!("{}/", common.trim_end_matches('/'));
    let shorten = |option: &String| match option.strip_prefix("lowerdir=") {
        Some(dirs) => {
            let dirs: Vec<_> = dirs.split(':').map(|dir| dir.strip_prefix(&prefix).unwrap_or(dir)).collect();
            format!("lowerdir={}", dirs.join(":"))
        }
        None => option.clone(),
    };
    let data = options.iter().map(shorten).collect::<Vec<_>>().join(",");
    std::thread::scope(|scope| {
        let work = || {
            // SAFETY: FS gives this thread, which was started for this, a working directory of its own; files, memory and signals stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
            rustix::process::chdir(&*common)?;
            mount_with(source, target, "overlay", flags, &data)
        };
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, work);
        thread.map_err(|_| rustix::io::Errno::AGAIN)?.join().unwrap_or(Err(rustix::io::Errno::IO))
    })
}

/// The deepest directory that all of `paths` are below.
fn common_directory(paths: &[&str]) -> String {
    let Some((first, rest)) = paths.split_first() else { return "/".to_owned() };
    let mut common: Vec<&str> = first.split('/').collect();
    common.pop();
    for path in rest {
        let same = common.iter().zip(path.split('/')).take_while(|(a, b)| **a == *b).count();
        common.truncate(same);
    }
    let common = common.join("/");
    if common.is_empty() { "/".to_owned() } else { common }
}

fn parse(spec: &MountSpec) -> Result<Parsed, MountError> {
    let mut parsed = Parsed::default();
    for option in &spec.options {
        let (set, clear) = match option.as_str() {
            "ro" => (libc::MS_RDONLY, 0),
            "rw" => (0, libc::MS_RDONLY),
            "nosuid" => (libc::MS_NOSUID, 0),
            "suid" => (0, libc::MS_NOSUID),
            "nodev" => (libc::MS_NODEV, 0),
            "dev" => (0, libc::MS_NODEV),
            "noexec" => (libc::MS_NOEXEC, 0),
            "exec" => (0, libc::MS_NOEXEC),
            "sync" => (libc::MS_SYNCHRONOUS, 0),
            "async" => (0, libc::MS_SYNCHRONOUS),
            "dirsync" => (libc::MS_DIRSYNC, 0),
            "noatime" => (libc::MS_NOATIME, 0),
            "atime" => (0, libc::MS_NOATIME),
            "nodiratime" => (libc::MS_NODIRATIME, 0),
            "diratime" => (0, libc::MS_NODIRATIME),
            "relatime" => (libc::MS_RELATIME, 0),
            "norelatime" => (0, libc::MS_RELATIME),
            "strictatime" => (libc::MS_STRICTATIME, 0),
            "defaults" | "" => (0, 0),
            "bind" => {
                parsed.bind = true;
                continue;
            }
            "rbind" => {
                (parsed.bind, parsed.recursive) = (true, true);
                continue;
            }
            "private" => {
                parsed.propagation = libc::MS_PRIVATE as u32;
                continue;
            }
            "rprivate" => {
                parsed.propagation = (libc::MS_PRIVATE | libc::MS_REC) as u32;
                continue;
            }
            "slave" => {
                parsed.propagation = libc::MS_SLAVE as u32;
                continue;
            }
            "rslave" => {
                parsed.propagation = (libc::MS_SLAVE | libc::MS_REC) as u32;
                continue;
            }
            "shared" => {
                parsed.propagation = libc::MS_SHARED as u32;
                continue;
            }
            "rshared" => {
                parsed.propagation = (libc::MS_SHARED | libc::MS_REC) as u32;
                continue;
            }
            "loop" => return Err(MountError::Option { option: option.clone(), from: spec.source.clone() }),
            other if other.starts_with("X-") || other.starts_with("x-") => {
                return Err(MountError::Option { option: option.clone(), from: spec.source.clone() });
            }
            other => {
                parsed.data.push(other.to_owned());
                continue;
            }
        };
        parsed.flags = (parsed.flags | set as u32) & !(clear as u32);
    }
    Ok(parsed)
}

/// Unmounts everything at and below the directory `name` of `dir`, last mounted first. Busy mounts are detached: they vanish when their last user does.
///
/// # Errors
/// [`MountError`], for the first that cannot be unmounted; the others are unmounted all the same.
pub fn unmount_recursive(dir: &Dir, name: &str) -> Result<(), MountError> {
    let access = |path: PathBuf| move |source| MountError::Access { path, source };
    // The table has paths without links.
    let root = match dir.dir(Path::new(name), Way::NoLinks).and_then(|root| root.real_path()) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(access(dir.path().join(name))(source)),
    };
    let table = mountinfo::table().map_err(access("/proc/self/mountinfo".into()))?;
    let mut result = Ok(());
    for target in mounted_below(&table, &root).into_iter().rev() {
        let flags = UnmountFlags::NOFOLLOW | UnmountFlags::DETACH;
        match unmount(target, flags) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) if result.is_ok() => {
                result = Err(MountError::Unmount { target: target.to_owned(), source: error.into() });
            }
            Err(_) => {}
        }
    }
    result
}

/// Mount points at and below `root`, in the order of mounting.
fn mounted_below<'t>(table: &'t [Mounted], root: &Path) -> Vec<&'t Path> {
    table.iter().map(|mount| &*mount.point).filter(|point| point.starts_with(root)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn spec(kind: &str, source: &str, options: &[&str]) -> MountSpec {
        MountSpec {
            kind: kind.to_owned(),
            source: source.to_owned(),
            target: String::new(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    #[test]
    fn options_become_flags_and_data() {
        let parsed =
            parse(&spec("overlay", "overlay", &["ro", "nosuid", "rw", "index=off", "lowerdir=/a:/b"]))
                .unwrap();
        assert_eq!(parsed.flags, libc::MS_NOSUID as u32);
        assert_eq!(parsed.data, ["index=off", "lowerdir=/a:/b"]);
        let parsed = parse(&spec("bind", "/x", &["rbind", "ro", "rslave"])).unwrap();
        assert!(parsed.bind && parsed.recursive);
        assert_eq!(parsed.propagation, (libc::MS_SLAVE | libc::MS_REC) as u32);
        assert!(matches!(parse(&spec("ext4", "/x.img", &["loop"])), Err(MountError::Option { .. })));
        assert!(matches!(
            parse(&spec("overlay", "o", &["X-containerd.dmverity=1"])),
            Err(MountError::Option { .. })
        ));
    }

    #[test]
    fn the_common_directory_of_layers() {
        assert_eq!(common_directory(&["/s/1/fs", "/s/2/fs"]), "/s");
        assert_eq!(common_directory(&["/s/1/fs", "/t/2/fs"]), "/");
        assert_eq!(common_directory(&["/s/1/fs"]), "/s/1");
        assert_eq!(common_directory(&["/s/1/fs", "/s/1/fs"]), "/s/1");
    }

    #[test]
    fn mount_points_are_found() {
        let table = b"21 1 0:20 / / rw - ext4 /dev/x rw\n30 21 0:30 / /b/rootfs rw shared:1 - overlay overlay rw\n\
                     31 30 0:31 / /b/rootfs/a\\040b rw - tmpfs tmpfs rw\n32 21 0:32 / /b/rootfs2 rw - tmpfs tmpfs rw\n";
        assert_eq!(
            mounted_below(&mountinfo::parse(table), Path::new("/b/rootfs")),
            [Path::new("/b/rootfs"), Path::new("/b/rootfs/a b")]
        );
    }

    #[test]
    fn mounts_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Dir::open(dir.path()).unwrap();
        let (source, root) = (dir.path().join("source"), dir.path().join("rootfs"));
        fs::create_dir_all(source.join("sub")).unwrap();
        fs::write(source.join("file"), "x").unwrap();
        let mut inner = spec("tmpfs", "tmpfs", &["size=64k"]);
        inner.target = "/sub".to_owned();
        let mounts = [spec("bind", source.to_str().unwrap(), &["rbind", "ro"]), inner];
        match mount_all(&mounts, &bundle, "rootfs") {
            Err(MountError::Mount { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: this user may not mount");
                return;
            }
            result => result.unwrap(),
        }
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "x");
        assert_eq!(fs::write(root.join("file"), "y").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        fs::write(root.join("sub/new"), "z").unwrap();
        unmount_recursive(&bundle, "rootfs").unwrap();
        assert!(!root.join("file").exists());
        assert!(!source.join("sub/new").exists());
        unmount_recursive(&bundle, "rootfs").unwrap();
        unmount_recursive(&bundle, "none").unwrap();
    }

    #[test]
    fn links_of_an_image_lead_nowhere_on_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Dir::open(dir.path()).unwrap();
        let (image, victim) = (dir.path().join("image"), dir.path().join("victim"));
        fs::create_dir_all(image.join("real")).unwrap();
        fs::create_dir_all(&victim).unwrap();
        fs::write(victim.join("file"), "precious").unwrap();
        // A mount point that the image's author has made a link to a directory of the host.
        std::os::unix::fs::symlink(&victim, image.join("out")).unwrap();
        std::os::unix::fs::symlink("/real", image.join("rooted")).unwrap();
        let onto = |target: &str| MountSpec { target: target.to_owned(), ..spec("tmpfs", "tmpfs", &[]) };
        let image = spec("bind", image.to_str().unwrap(), &["rbind"]);
        match mount_all(&[image.clone(), onto("/out")], &bundle, "rootfs") {
            Err(MountError::Mount { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: this user may not mount");
                return;
            }
            result => assert!(matches!(result, Err(MountError::Access { .. })), "{result:?}"),
        }
        assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "precious", "nothing covers it");
        mount_all(&[image, onto("/rooted")], &bundle, "rootfs").unwrap();
        fs::write(dir.path().join("rootfs/real/new"), "x").unwrap();
        unmount_recursive(&bundle, "rootfs").unwrap();
        assert!(!dir.path().join("image/real/new").exists(), "the link led into the image's own directory");
    }

    #[test]
    fn mount_points_that_are_not_text_hinder_nothing() {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = tempfile::tempdir().unwrap();
        let bundle = Dir::open(dir.path()).unwrap();
        bundle.make_dir("odd").unwrap();
        // Somebody else's mount point with a name in Latin-1.
        let odd = dir.path().join("odd").join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        fs::create_dir(&odd).unwrap();
        if let Err(error) = mount("tmpfs", &odd, "tmpfs", MountFlags::empty(), None) {
            eprintln!("skipped: this user may not mount: {error}");
            return;
        }
        let mounted = mount_all(&[spec("tmpfs", "tmpfs", &[])], &bundle, "rootfs");
        let unmounted = unmount_recursive(&bundle, "rootfs");
        // And it can be unmounted itself.
        let odd_unmounted = unmount_recursive(&bundle, "odd");
        mounted.unwrap();
        unmounted.unwrap();
        odd_unmounted.unwrap();
        assert!(!mountinfo::table().unwrap().iter().any(|mount| mount.point.starts_with(dir.path())));
    }

    #[test]
    fn a_failed_mount_undoes_the_earlier_ones() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Dir::open(dir.path()).unwrap();
        let root = dir.path().join("rootfs");
        let mounts = [spec("tmpfs", "tmpfs", &[]), spec("nosuchfs", "x", &[])];
        let error = mount_all(&mounts, &bundle, "rootfs").unwrap_err();
        assert!(matches!(error, MountError::Mount { .. }), "{error}");
        assert!(mounted_below(&mountinfo::table().unwrap(), &root).is_empty());
    }

    #[test]
    fn overlays_of_many_layers() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Dir::open(dir.path()).unwrap();
        let long = dir.path().join("x".repeat(100));
        let mut lower = Vec::new();
        for number in 0..60 {
            let layer = long.join(number.to_string());
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(number.to_string()), "x").unwrap();
            lower.push(layer.to_str().unwrap().to_owned());
        }
        let option = format!("lowerdir={}", lower.join(":"));
        assert!(option.len() > DATA_MAX);
        let root = dir.path().join("rootfs");
        match mount_all(&[spec("overlay", "overlay", &[&option])], &bundle, "rootfs") {
            Err(error) => eprintln!("skipped: no overlay here: {error}"),
            Ok(()) => {
                assert_eq!(fs::read_dir(&root).unwrap().count(), 60);
                unmount_recursive(&bundle, "rootfs").unwrap();
            }
        }
    }
}
