//! A local directory of snapshots and of the image blobs that they were taken over.
//!
//! `snapshots/<id>/` are the snapshots, `images/<sha256>` the EROFS blobs. Everything appears by rename, so readers need no lock.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use sha2::{Digest as _, Sha256};

use super::draft::{DRAFT_PREFIX, Draft};
use super::error::SnapshotError;
use super::manifest::{ImageRef, Manifest, SnapshotId};
use super::reader::{MANIFEST, PAGES, Snapshot, TABLES, digest_of, read_manifest};

/// A local store.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// The file system that it is alone on, if it is one of [`Store::in_memory`].
    _mount: Option<Arc<OwnedFd>>,
}

/// A snapshot as it stands in the tree: parents come before children, siblings in order of age.
#[derive(Clone, Debug)]
pub struct TreeNode {
    /// Its id.
    pub id: SnapshotId,
    /// Its manifest.
    pub manifest: Manifest,
    /// Ids of its children.
    pub children: Vec<SnapshotId>,
}

impl Store {
    /// Open or make the store in `root`, and sweep what killed writers left.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        Self::at(root.to_owned(), None)
    }

    /// A store of this process alone, on a tmpfs that is mounted nowhere: it is gone with the last clone of it. Snapshots that are open then stay readable.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]: mostly that the process may not mount.
    pub fn in_memory() -> Result<Self, SnapshotError> {
        let mount = || -> rustix::io::Result<OwnedFd> {
            let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(&context, "mode", "700")?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        let mount = mount()
            .map_err(|errno| SnapshotError::io("mount a tmpfs for", Path::new("snapshots"))(errno.into()))?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Self::at(root, Some(Arc::new(mount)))
    }

    fn at(root: PathBuf, mount: Option<Arc<OwnedFd>>) -> Result<Self, SnapshotError> {
        let store = Self { root, _mount: mount };
        for dir in [store.snapshots_dir(), store.images_dir()] {
            fs::create_dir_all(&dir).map_err(SnapshotError::io("make", &dir))?;
        }
        store.sweep();
        Ok(store)
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn snapshots_dir(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Remove drafts that nobody writes any more: their lock went with the writer.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.snapshots_dir()) else { return };
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().starts_with(DRAFT_PREFIX) {
                continue;
            }
            let Ok(dir) = File::open(entry.path()) else { continue };
            // A draft is locked right after it was made: one that is young may not be yet.
            let young = dir
                .metadata()
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 5));
            if !young && flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                tracing::info!(draft = %entry.path().display(), "a draft that its writer left is removed");
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Begin a snapshot on top of `parent`.
    ///
    /// # Errors
    /// [`SnapshotError`]: too deep, no room.
    pub fn draft(&self, parent: Option<&Snapshot>) -> Result<Draft, SnapshotError> {
        Draft::new(&self.snapshots_dir(), parent)
    }

    /// Open a snapshot.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn snapshot(&self, id: SnapshotId) -> Result<Snapshot, SnapshotError> {
        let dir = self.snapshots_dir().join(id.to_string());
        if !dir.exists() {
            return Err(SnapshotError::NotFound { name: id.to_string(), store: self.root.clone() });
        }
        Snapshot::open(&dir)
    }

    /// The files of a snapshot, opened anew, as a store that takes it in reads them: `pages`, `tables`, `manifest`.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn files(&self, id: SnapshotId) -> Result<[File; 3], SnapshotError> {
        let dir = self.snapshots_dir().join(id.to_string());
        let open = |name: &str| {
            let path = dir.join(name);
            File::open(&path).map_err(SnapshotError::io("open", &path))
        };
        Ok([open(PAGES)?, open(TABLES)?, open(MANIFEST)?])
    }

    /// A snapshot and its ancestors, the root first.
    ///
    /// # Errors
    /// [`SnapshotError`]: one of them cannot be opened, or they do not fit together.
    pub fn lineage(&self, id: SnapshotId) -> Result<Vec<Snapshot>, SnapshotError> {
        let mut lineage = vec![self.snapshot(id)?];
        while let Some(parent) = lineage.last().and_then(|last| last.manifest().parent) {
            let parent = self.snapshot(parent)?;
            if lineage.last().is_some_and(|child| !child.manifest().builds_on(parent.manifest())) {
                let dir = self.snapshots_dir().join(id.to_string());
                return Err(SnapshotError::damaged(
                    dir,
                    format!("it does not fit its parent {}", parent.id()),
                ));
            }
            lineage.push(parent);
        }
        lineage.reverse();
        Ok(lineage)
    }

    /// Find a snapshot by id, by the beginning of an id (four digits or more), or by name; of several with one name the youngest.
    ///
    /// # Errors
    /// [`SnapshotError::NotFound`], [`SnapshotError::Ambiguous`].
    pub fn resolve(&self, name: &str) -> Result<SnapshotId, SnapshotError> {
        if let Ok(id) = name.parse::<SnapshotId>()
            && self.snapshots_dir().join(name).exists()
        {
            return Ok(id);
        }
        let nodes = self.tree()?;
        let named = nodes.iter().filter(|node| node.manifest.name == name);
        if let Some(youngest) = named.max_by_key(|node| (node.manifest.created_ns, node.id)) {
            return Ok(youngest.id);
        }
        let matching: Vec<_> =
            nodes.iter().filter(|node| name.len() >= 4 && node.id.to_string().starts_with(name)).collect();
        match matching[..] {
            [node] => Ok(node.id),
            [] => Err(SnapshotError::NotFound { name: name.to_owned(), store: self.root.clone() }),
            _ => Err(SnapshotError::Ambiguous {
                name: name.to_owned(),
                count: matching.len(),
                store: self.root.clone(),
            }),
        }
    }

    /// All snapshots that can be read, parents before children. Those that cannot be read are logged.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn tree(&self) -> Result<Vec<TreeNode>, SnapshotError> {
        let dir = self.snapshots_dir();
        let mut nodes: Vec<TreeNode> = Vec::new();
        for entry in fs::read_dir(&dir).map_err(SnapshotError::io("read", &dir))? {
            let entry = entry.map_err(SnapshotError::io("read", &dir))?;
            let name = entry.file_name();
            let Some(_) = name.to_str().and_then(|name| name.parse::<SnapshotId>().ok()) else { continue };
            match read_manifest(&entry.path()) {
                Ok((manifest, id)) => nodes.push(TreeNode { id, manifest, children: Vec::new() }),
                Err(error) => tracing::warn!(%error, "a snapshot cannot be read"),
            }
        }
        nodes.sort_by_key(|node| (node.manifest.depth, node.manifest.created_ns, node.id));
        let links: Vec<_> = nodes.iter().filter_map(|node| Some((node.manifest.parent?, node.id))).collect();
        for (parent, child) in links {
            if let Some(node) = nodes.iter_mut().find(|node| node.id == parent) {
                node.children.push(child);
            }
        }
        Ok(nodes)
    }

    /// Remove a snapshot; with `recursive` everything that builds on it, too.
    ///
    /// # Errors
    /// [`SnapshotError::HasChildren`], [`SnapshotError::NotFound`], [`SnapshotError::Io`].
    pub fn remove(&self, id: SnapshotId, recursive: bool) -> Result<Vec<SnapshotId>, SnapshotError> {
        let nodes = self.tree()?;
        let Some(node) = nodes.iter().find(|node| node.id == id) else {
            return Err(SnapshotError::NotFound { name: id.to_string(), store: self.root.clone() });
        };
        if !recursive && !node.children.is_empty() {
            return Err(SnapshotError::HasChildren { id, count: node.children.len() });
        }
        let mut doomed = vec![id];
        let mut at = 0;
        while at < doomed.len() {
            let children = nodes.iter().filter(|node| node.manifest.parent == Some(doomed[at]));
            let children: Vec<_> = children.map(|node| node.id).collect();
            doomed.extend(children);
            at += 1;
        }
        // Children first: a removal that is cut off leaves a tree.
        doomed.reverse();
        for id in &doomed {
            let dir = self.snapshots_dir().join(id.to_string());
            let hidden = self.snapshots_dir().join(format!("{DRAFT_PREFIX}removed-{id}"));
            fs::rename(&dir, &hidden).map_err(SnapshotError::io("remove", &dir))?;
            fs::remove_dir_all(&hidden).map_err(SnapshotError::io("remove", &hidden))?;
        }
        Ok(doomed)
    }

    /// Keep an image blob; one that is there already is not written again. `file` is read from its start.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn add_image(&self, file: &File, len_bytes: u64) -> Result<ImageRef, SnapshotError> {
        let dir = self.images_dir();
        let digest = digest_of(file, len_bytes).map_err(SnapshotError::io("read an image for", &dir))?;
        let image = ImageRef { digest, len_bytes };
        let path = self.image_path(&image);
        if !path.exists() {
            let mut temporary =
                tempfile::NamedTempFile::new_in(&dir).map_err(SnapshotError::io("make a file in", &dir))?;
            let mut buffer = vec![0; 1 << 20];
            let mut at = 0;
            while at < len_bytes {
                let want = (len_bytes - at).min(buffer.len() as u64) as usize;
                std::os::unix::fs::FileExt::read_exact_at(file, &mut buffer[..want], at)
                    .map_err(SnapshotError::io("read an image for", &dir))?;
                temporary.write_all(&buffer[..want]).map_err(SnapshotError::io("write", &path))?;
                at += want as u64;
            }
            let read_only = rustix::fs::Mode::from_raw_mode(0o444);
            rustix::fs::fchmod(temporary.as_file().as_fd(), read_only)
                .map_err(|errno| SnapshotError::io("write", &path)(errno.into()))?;
            temporary.persist(&path).map_err(|error| SnapshotError::io("rename to", &path)(error.error))?;
        }
        Ok(image)
    }

    pub(super) fn image_path(&self, image: &ImageRef) -> PathBuf {
        let name: String = image.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.images_dir().join(name)
    }

    /// Open an image blob of a snapshot. Its length is checked.
    ///
    /// # Errors
    /// [`SnapshotError`]: it is not there, or it is cut off.
    pub fn image(&self, image: &ImageRef) -> Result<File, SnapshotError> {
        let path = self.image_path(image);
        let file = File::open(&path).map_err(SnapshotError::io("open", &path))?;
        let found = file.metadata().map_err(SnapshotError::io("look at", &path))?.len();
        if found != image.len_bytes {
            return Err(SnapshotError::Truncated { path, found, wanted: image.len_bytes });
        }
        Ok(file)
    }
}

/// SHA-256 of bytes, for [`Manifest::kernel`].
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
