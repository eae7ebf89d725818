//! The runtimes under test and how their binaries are found.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, paths, progress};

/// A container runtime, by the name of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The reference.
    Runc,
    /// The reference with a runtime written in C.
    Crun,
    /// The shim of this repository.
    Seuss,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Runc, Self::Crun, Self::Seuss];

    /// The handler in containerd's configuration.
    pub fn handler(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Seuss => "seuss",
        }
    }

    /// The runtime type, for `ctr run --runtime`.
    pub fn runtime_type(self) -> &'static str {
        match self {
            Self::Runc | Self::Crun => "io.containerd.runc.v2",
            Self::Seuss => "io.containerd.seuss.v2",
        }
    }

    /// Whether it runs the kernel of the machine: then the program sees the host's kernel version.
    pub fn shares_the_kernel(self) -> bool {
        self != Self::Seuss
    }
}

impl std::str::FromStr for Runtime {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|runtime| runtime.handler() == text)
            .with_context(|| format!("unknown runtime {text:?}: runc, crun or seuss"))
    }
}

/// The directory of `containerd-shim-seuss-v2`: `$SEUSS_SHIM` names the binary; else target/release, where it is built when
/// it is missing (and only then: build after a change, as the Makefile does).
///
/// # Errors
/// The shim cannot be built.
pub fn shim_dir() -> Result<PathBuf> {
    const NAME: &str = "containerd-shim-seuss-v2";
    if let Some(binary) = std::env::var_os("SEUSS_SHIM") {
        let binary =
            std::fs::canonicalize(&binary).with_context(|| format!("SEUSS_SHIM={}", binary.display()))?;
        return binary.parent().map(PathBuf::from).context("SEUSS_SHIM names no file");
    }
    let dir = paths::target().join("release");
    if !dir.join(NAME).exists() {
        progress::step("building the shim (cargo build --release --package seuss-shim)");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(paths::repository()).args(["build", "--release", "--package", "seuss-shim"]);
        command::run(&mut build)?;
        anyhow::ensure!(dir.join(NAME).exists(), "cargo built no {NAME}");
    }
    Ok(dir)
}
