//! From a container's mounts to what a guest needs of its root file system.
//!
//! Owns [`prepare`]. The slow way, for containers whose layers are not kept as images by SEUSS' own snapshotter: mount what containerd's
//! snapshotter offers, read all of it into one image in memory, unmount. The log says how long it took.

use std::path::Path;
use std::time::Instant;

use seuss_abi::spec::ProcessSpec;

use crate::error::TaskError;
use crate::guest::ImageBlob;
use crate::image::RootImage;
use crate::mount::{self, MountSpec};
use crate::oci::Spec;
use crate::{program, users};

/// The root file system of a container, ready for its guest.
#[derive(Debug)]
pub struct Prepared {
    /// Its layers, base first.
    pub images: Vec<ImageBlob>,
}

/// Mounts `mounts` at the bundle's root directory, makes the image, unmounts, and checks that `process` can run in it. Completes the
/// environment of `process` (`HOME`).
///
/// # Errors
/// [`TaskError`]; nothing stays mounted.
pub fn prepare(
    bundle: &Path,
    spec: &Spec,
    mounts: &[MountSpec],
    process: &mut ProcessSpec,
) -> Result<Prepared, TaskError> {
    let root = match &spec.root {
        Some(root) if !root.path.as_os_str().is_empty() => bundle.join(&root.path),
        _ => bundle.join("rootfs"),
    };
    let image = if mounts.is_empty() {
        read_image(&root)
    } else {
        let target = bundle.join("rootfs");
        mount::mount_all(mounts, &target)?;
        let image = read_image(&root);
        let unmounted = mount::unmount_recursive(&target);
        let image = image?;
        unmounted?;
        Ok(image)
    }?;
    if !process.env.iter().any(|entry| entry.starts_with(b"HOME=")) {
        let home = users::home(&image.view, process.uid)?;
        process.env.push(format!("HOME={home}").into_bytes());
    }
    program::check(&image.view, process)?;
    Ok(Prepared { images: image.blobs()? })
}

fn read_image(root: &Path) -> Result<RootImage, TaskError> {
    let began = Instant::now();
    let image = RootImage::open(root, None, None)?;
    tracing::info!(
        elapsed_us = began.elapsed().as_micros() as u64,
        bytes = image.len_bytes(),
        layers = image.layer_count(),
        "root file system read into an image (the slow way: containerd's snapshotter does not keep images for SEUSS)"
    );
    Ok(image)
}
