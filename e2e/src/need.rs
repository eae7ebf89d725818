//! What a test needs of the machine: root, /dev/kvm, downloaded tools.
//!
//! A test that cannot run says `SKIP` with the reason, adds itself to the file `$SEUSS_SKIP_LOG` (so that `make test` can count
//! it: the test harness knows no skipping at run time) and returns. With `SEUSS_REQUIRE_KVM=1`, as CI sets it on machines
//! that have /dev/kvm, it fails instead. Crates that cannot use this module keep the same protocol.

use std::fs::{File, OpenOptions};
use std::io::Write;

use crate::runtime::Runtime;
use crate::tools::{Tools, Version};
use crate::{image, paths};

/// The error of a test function: shows its causes and no backtrace, which would hide them.
pub struct Failure(anyhow::Error);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:#}", self.0)
    }
}

/// Why a private node with `runtime` cannot run here; nothing when it can.
pub fn missing_for_node(version: Version, runtime: Runtime) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root (namespaces, mounts, cgroups)".into());
    }
    if runtime == Runtime::Seuss
        && let Some(reason) = missing_kvm()
    {
        return Some(reason);
    }
    for program in ["ip", "nsenter", "unshare", "dpkg-deb", "apt-get"] {
        if crate::command::find(program).is_none() {
            return Some(format!("needs the program {program}"));
        }
    }
    Tools::fetch(version).err().map(|error| format!("needs Debian packages: {error:#}"))
}

/// Why test images cannot be had here; builds those that are missing.
pub fn missing_images(names: &[&str]) -> Option<String> {
    let missing: Vec<&str> =
        names.iter().copied().filter(|name| !paths::image_archive(name).exists()).collect();
    if missing.is_empty() {
        return None;
    }
    image::build::build(&missing)
        .err()
        .map(|error| format!("needs the images {}: {error:#}", missing.join(", ")))
}

/// Why /dev/kvm cannot be used; nothing when it can.
pub fn missing_kvm() -> Option<String> {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("needs /dev/kvm: {error}")),
    }
}

/// Reports a skipped test.
///
/// # Panics
/// `SEUSS_REQUIRE_KVM=1` is set: then nothing may be skipped.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    assert!(
        std::env::var("SEUSS_REQUIRE_KVM").as_deref() != Ok("1"),
        "SEUSS_REQUIRE_KVM=1 forbids to skip {test}: {reason}"
    );
    eprintln!("SKIP {test}: {reason}");
    if let Some(path) = std::env::var_os("SEUSS_SKIP_LOG")
        && let Ok(mut log) = OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = writeln!(log, "{test}\t{}", reason.lines().next().unwrap_or_default());
    }
}
