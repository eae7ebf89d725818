//! Where things are, and what the environment says about them.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `SEUSSCTL` | the program that runs a guest | `target/release/seussctl` |
//! | `SEUSS_CONFORMANCE_ROOTFS` | base root file system, a directory | `target/e2e/rootfs/conformance`, else `…/python` |
//! | `SEUSS_CACHE` | the end-to-end harness's cache | `target/e2e` |
//! | `SEUSS_REQUIRE_KVM` | `1`: a missing /dev/kvm is a failure, not a reason to skip | |

use std::env;
use std::path::{Path, PathBuf};

/// This crate's directory, which holds `programs/` and `bench/`.
pub fn source() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let source = source();
    source.ancestors().nth(2).unwrap_or(Path::new("/")).to_path_buf()
}

fn target() -> PathBuf {
    repository().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// What the suite builds: compiled programs and the root file system; one directory for each base.
pub fn work() -> PathBuf {
    let base = base_rootfs();
    target().join("conformance").join(base.file_name().unwrap_or("base".as_ref()))
}

/// The program that runs a guest.
pub fn seussctl() -> PathBuf {
    env::var_os("SEUSSCTL").map_or_else(|| target().join("release/seussctl"), |path| repository().join(path))
}

/// The root file system the suite starts from.
pub fn base_rootfs() -> PathBuf {
    if let Some(dir) = env::var_os("SEUSS_CONFORMANCE_ROOTFS") {
        return repository().join(dir);
    }
    let cache = env::var_os("SEUSS_CACHE").map_or_else(|| target().join("e2e"), |dir| repository().join(dir));
    let own = cache.join("rootfs/conformance");
    if own.is_dir() { own } else { cache.join("rootfs/python") }
}

/// Why guests cannot run on this machine, if they cannot.
pub fn kvm_missing() -> Option<String> {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    opened.err().map(|error| format!("/dev/kvm: {error}"))
}

/// Whether a missing /dev/kvm is a failure.
pub fn kvm_required() -> bool {
    env::var_os("SEUSS_REQUIRE_KVM").is_some_and(|value| value == "1")
}
