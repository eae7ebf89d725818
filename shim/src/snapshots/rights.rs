//! What a container's snapshots depend on, and the end of it.
//!
//! A program that has read a Secret has it in memory, and so has its snapshot. [`of`] names what was mounted by its content; the store keeps the names beside the snapshot and makes it
//! unusable when one of them is revoked. The kubelet rotates a mounted ConfigMap or Secret by exchanging the link `..data` in its directory
//! (kubernetes/pkg/volume/util/atomic_writer.go): a [`Rotation`] tells of it. One thread per shim watches all of them (inotify(7)); it lives as long as the process.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use seuss_abi::spec::InjectedFile;
use seuss_snapshotter::snapshot::store::sha256;

use super::key::is_identity_file;
use crate::oci::Mount;

/// Most rights that are named one by one; those of more mounts become one.
const RIGHTS_MAX: usize = 64;
/// Most directories that are watched by one shim.
const WATCHES_MAX: usize = 256;
/// The link that the kubelet exchanges.
const DATA_LINK: &str = "..data";

/// Something that a program has read, and that can be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// `files:` and a SHA-256 of names and contents: whoever has mounted the same has the same right.
    pub name: String,
    /// The directory of the host that tells of its rotation.
    pub rotates_in: Option<PathBuf>,
}

/// The rights of a container with `mounts`, whose content is in `files`. Files that are a pod's own are given to each clone, and are no right.
#[must_use]
pub fn of(mounts: &[Mount], files: &[InjectedFile]) -> Vec<Right> {
    let mut rights = Vec::new();
    for mount in mounts {
        let Some(name) = name(&mount.destination, files) else { continue };
        let source = Path::new(&mount.source);
        let rotates_in = source.join(DATA_LINK).is_symlink().then(|| source.to_owned());
        rights.push(Right { name, rotates_in });
    }
    if rights.len() > RIGHTS_MAX {
        // Still what the snapshot depends on, if no more by parts; rotations of what is watched end it as before.
        let all = digest(rights.iter().map(|right| (right.name.as_bytes(), &b""[..])));
        rights.iter_mut().for_each(|right| right.name.clone_from(&all));
    }
    rights
}

/// The names for the store.
#[must_use]
pub fn names(rights: &[Right]) -> Vec<String> {
    let mut names: Vec<_> = rights.iter().map(|right| right.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn name(destination: &str, files: &[InjectedFile]) -> Option<String> {
    let destination = destination.trim_end_matches('/').as_bytes();
    let below = |file: &InjectedFile| {
        let rest = file.path.strip_prefix(destination)?;
        (rest.is_empty() || rest.starts_with(b"/")).then(|| rest.to_vec())
    };
    let own = files.iter().filter(|file| !is_identity_file(file));
    let parts: Vec<_> = own.filter_map(|file| Some((below(file)?, file.content.as_slice()))).collect();
    (!parts.is_empty()).then(|| digest(parts.iter().map(|(path, content)| (path.as_slice(), *content))))
}

fn digest<'a>(parts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut bytes = Vec::new();
    for field in parts.flat_map(|(path, content)| [path, content]) {
        bytes.extend_from_slice(&(field.len() as u64).to_le_bytes());
        bytes.extend_from_slice(field);
    }
    let hex: String = sha256(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("files:{hex}")
}

/// Told of a rotation, on the watching thread: must not wait.
type OnRotation = Box<dyn Fn() + Send>;

/// While it lives, the rotation of a directory is told.
#[derive(Debug)]
pub struct Rotation {
    watch: i32,
    number: u64,
}

struct Watcher {
    inotify: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Default)]
struct Watched {
    next: u64,
    /// By inotify's number of the directory: who wants to know.
    by_watch: HashMap<i32, Vec<(u64, OnRotation)>>,
}

impl Watcher {
    /// The shim's, started with the first directory.
    fn get() -> Option<&'static Self> {
        static WATCHER: OnceLock<Option<Watcher>> = OnceLock::new();
        static THREAD: OnceLock<bool> = OnceLock::new();
        let made = || Some(Self { inotify: init(CreateFlags::CLOEXEC).ok()?, watched: Mutex::default() });
        let watcher = WATCHER.get_or_init(made).as_ref()?;
        let start = || {
            let thread = std::thread::Builder::new().name("rotations".to_owned());
            thread.spawn(|| watcher.run()).is_ok()
        };
        THREAD.get_or_init(start).then_some(watcher)
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event)
                    if event.file_name().is_some_and(|name| name.to_bytes() == DATA_LINK.as_bytes()) =>
                {
                    let watched = self.lock();
                    let concerned = watched.by_watch.get(&event.wd());
                    concerned.into_iter().flatten().for_each(|(_, on_rotation)| on_rotation());
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "rotations of mounted files are not seen any more");
                    return;
                }
            }
        }
    }
}

impl Rotation {
    /// Tells `on_rotation` whenever the kubelet exchanges what is in `dir`.
    ///
    /// # Errors
    /// There is no such directory, or too many are watched.
    pub fn watch(dir: &Path, on_rotation: OnRotation) -> std::io::Result<Self> {
        let watcher = Watcher::get().ok_or_else(|| std::io::Error::other("there is no inotify"))?;
        let mut watched = watcher.lock();
        if watched.by_watch.len() >= WATCHES_MAX {
            return Err(std::io::Error::other(format!("{WATCHES_MAX} directories are watched already")));
        }
        let flags = WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let watch = add_watch(&watcher.inotify, dir, flags)?;
        watched.next += 1;
        let number = watched.next;
        watched.by_watch.entry(watch).or_default().push((number, on_rotation));
        Ok(Self { watch, number })
    }
}

impl Drop for Rotation {
    fn drop(&mut self) {
        let Some(watcher) = Watcher::get() else { return };
        let mut watched = watcher.lock();
        if let Some(concerned) = watched.by_watch.get_mut(&self.watch) {
            concerned.retain(|(number, _)| *number != self.number);
            if concerned.is_empty() {
                watched.by_watch.remove(&self.watch);
                // It may be gone with its directory.
                let _ = remove_watch(&watcher.inotify, self.watch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn mount(destination: &str, source: &Path) -> Mount {
        Mount {
            destination: destination.into(),
            kind: "bind".into(),
            source: source.display().to_string(),
            options: vec!["ro".into()],
        }
    }

    fn file(path: &str, content: &str) -> InjectedFile {
        InjectedFile { path: path.into(), mode: 0o644, read_only: true, content: content.into() }
    }

    #[test]
    fn content_is_the_right_and_identity_is_none() {
        let dir = tempfile::tempdir().unwrap();
        symlink("..2026", dir.path().join(DATA_LINK)).unwrap();
        let mounts = [
            mount("/secret", dir.path()),
            mount("/etc/hosts", Path::new("/x")),
            mount("/sec", Path::new("/y")),
        ];
        let rights = |content: &str| of(&mounts, &[file("/secret/a", content), file("/etc/hosts", "1")]);
        let known = rights("1");
        assert_eq!(known.len(), 1, "{known:?}");
        assert_eq!(known[0].rotates_in.as_deref(), Some(dir.path()));
        assert_ne!(known, rights("2"));
        // Elsewhere in another pod: the same right.
        let elsewhere = of(&[mount("/other/", Path::new("/z"))], &[file("/other/a", "1")]);
        assert_eq!((&elsewhere[0].name, &elsewhere[0].rotates_in), (&known[0].name, &None));
        assert_ne!(of(&[mount("/other", Path::new("/z"))], &[file("/other/b", "1")])[0].name, known[0].name);
    }

    #[test]
    fn many_mounts_have_few_rights() {
        let mounts: Vec<_> = (0..200).map(|n| mount(&format!("/m{n}"), Path::new("/x"))).collect();
        let files: Vec<_> = (0..200).map(|n| file(&format!("/m{n}/a"), &n.to_string())).collect();
        let rights = of(&mounts, &files);
        assert_eq!((rights.len(), names(&rights).len()), (200, 1));
    }

    #[test]
    fn rotations_are_told_until_nobody_asks() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, told) = channel();
        let also = sender.clone();
        let first = Rotation::watch(dir.path(), Box::new(move || sender.send(1).unwrap())).unwrap();
        let second = Rotation::watch(dir.path(), Box::new(move || also.send(2).unwrap())).unwrap();
        let rotate = |to: &str| {
            symlink(to, dir.path().join("..data_tmp")).unwrap();
            std::fs::rename(dir.path().join("..data_tmp"), dir.path().join(DATA_LINK)).unwrap();
        };
        std::fs::write(dir.path().join("other"), "").unwrap();
        rotate("..1");
        let patience = Duration::from_secs(20);
        let mut both = [told.recv_timeout(patience).unwrap(), told.recv_timeout(patience).unwrap()];
        both.sort_unstable();
        assert_eq!(both, [1, 2]);
        drop(first);
        rotate("..2");
        assert_eq!(told.recv_timeout(patience), Ok(2));
        drop(second);
        assert!(told.recv_timeout(patience).is_err(), "nobody is left to tell");
    }
}
