//! Where things are: the repository, cargo's target directory, and the harness's cache.
//!
//! Everything the harness makes lives below one cache directory (`$SEUSS_CACHE`, or `target/e2e`), so that removing that
//! directory returns a machine to its first state. Nothing here creates files.

use std::env;
use std::path::{Path, PathBuf};

/// The root of the repository this crate was built from.
pub fn repository() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_path_buf()
}

/// Cargo's target directory: `$CARGO_TARGET_DIR` or `target` in the repository.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => repository().join(dir),
        None => repository().join("target"),
    }
}

/// The harness's cache: `$SEUSS_CACHE` or `target/e2e`.
pub fn cache() -> PathBuf {
    match env::var_os("SEUSS_CACHE") {
        Some(dir) => repository().join(dir),
        None => target().join("e2e"),
    }
}

/// The recipes of the test images.
pub fn recipes() -> PathBuf {
    repository().join("e2e/images")
}

/// The OCI archives that `make images` writes (`NAME.oci.tar`).
pub fn images() -> PathBuf {
    cache().join("images")
}

/// The archive of one image.
pub fn image_archive(name: &str) -> PathBuf {
    images().join(format!("{name}.oci.tar"))
}

/// The unpacked root file system of one image.
pub fn rootfs(name: &str) -> PathBuf {
    cache().join("rootfs").join(name)
}
