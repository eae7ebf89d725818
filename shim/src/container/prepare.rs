//! From a container's mounts to what a guest needs of its root file system.
//!
//! Owns [`prepare`]. Where SEUSS' own snapshotter keeps the layers as images, the guest gets those, and nothing is mounted or read. The slow way,
//! for other snapshotters: mount what they offer, read all of it into one image in memory, unmount. The log says which it was and how long
//! it took.

use std::path::{Path, PathBuf};
use std::time::Instant;

use seuss_abi::layout::IMAGE_WINDOWS_MAX;
use seuss_abi::spec::ProcessSpec;
use seuss_snapshotter::beneath::{Dir, Way};
use seuss_snapshotter::snapshot::ImageRef;

use crate::error::TaskError;
use crate::guest::ImageBlob;
use crate::image::{ImageError, RootImage};
use crate::layers::{self, KeptLayers};
use crate::mount::{self, MountSpec};
use crate::oci::Spec;
use crate::{program, users};

/// Name of the root directory in a bundle.
pub const ROOT_DIR: &str = "rootfs";

/// The root file system of a container, ready for its guest.
#[derive(Debug)]
pub struct Prepared {
    /// Its layers, base first.
    pub images: Vec<ImageBlob>,
    /// The layers as snapshots name them, where their digests are known.
    pub refs: Option<Vec<ImageRef>>,
    /// Socket of the node's store of memory snapshots.
    pub store: Option<PathBuf>,
}

impl Prepared {
    /// The layers again, for another guest.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn images_again(&self) -> std::io::Result<Vec<ImageBlob>> {
        let again = |image: &ImageBlob| {
            let file = image.file.try_clone()?;
            Ok(ImageBlob { file, len_bytes: image.len_bytes, name: image.name.clone() })
        };
        self.images.iter().map(again).collect()
    }
}

/// Mounts `mounts` at the bundle's root directory, makes the image, unmounts, and checks that `process` can run in it. Completes the
/// environment of `process` (`HOME`).
///
/// # Errors
/// [`TaskError`]; nothing stays mounted.
pub fn prepare(
    bundle: &Dir,
    spec: &Spec,
    mounts: &[MountSpec],
    process: &mut ProcessSpec,
) -> Result<Prepared, TaskError> {
    // The specification's author names a directory of the bundle, or one anywhere on the host, which is his right: he runs containers.
    let root = || -> Result<Dir, TaskError> {
        let name = spec.root.as_ref().map_or(Path::new(""), |root| &root.path);
        let name = if name.as_os_str().is_empty() { Path::new(ROOT_DIR) } else { name };
        let opened = if name.is_absolute() { Dir::open(name) } else { bundle.dir(name, Way::Beneath) };
        opened.map_err(|source| ImageError::Io { path: bundle.path().join(name), source }.into())
    };
    let mut store = None;
    let image = match kept_layers(mounts) {
        Some(kept) => {
            store.clone_from(&kept.store);
            kept_image(kept)?
        }
        None if mounts.is_empty() => read_image(root()?)?,
        None => {
            mount::mount_all(mounts, bundle, ROOT_DIR)?;
            let image = root().and_then(read_image);
            let unmounted = mount::unmount_recursive(bundle, ROOT_DIR);
            let image = image?;
            unmounted?;
            image
        }
    };
    if !process.env.iter().any(|entry| entry.starts_with(b"HOME=")) {
        let home = users::home(&image.view, process.uid)?;
        process.env.push(format!("HOME={home}").into_bytes());
    }
    program::check(&image.view, process)?;
    Ok(Prepared { images: image.blobs()?, refs: image.refs(), store })
}

/// The layers that the snapshotter keeps. Trouble with them is no reason to refuse a container: its files can still be read.
fn kept_layers(mounts: &[MountSpec]) -> Option<KeptLayers> {
    match layers::kept_layers(mounts) {
        Ok(kept) => {
            kept.filter(|kept| kept.blobs.len() + usize::from(kept.upper.is_some()) <= IMAGE_WINDOWS_MAX)
        }
        Err(error) => {
            tracing::warn!(error = %error, "the snapshotter's image of a layer cannot be used");
            None
        }
    }
}

fn kept_image(kept: KeptLayers) -> Result<RootImage, TaskError> {
    let began = Instant::now();
    let image = RootImage::from_kept(kept)?;
    tracing::info!(
        elapsed_us = began.elapsed().as_micros() as u64,
        bytes = image.len_bytes(),
        layers = image.layer_count(),
        "root file system taken from the snapshotter's images"
    );
    Ok(image)
}

fn read_image(root: Dir) -> Result<RootImage, TaskError> {
    let began = Instant::now();
    let image = RootImage::from_directory(root)?;
    tracing::info!(
        elapsed_us = began.elapsed().as_micros() as u64,
        bytes = image.len_bytes(),
        layers = image.layer_count(),
        "root file system read into an image (the slow way: containerd's snapshotter does not keep images for SEUSS)"
    );
    Ok(image)
}
