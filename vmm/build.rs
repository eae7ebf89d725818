//! Builds the guest image (a workspace of its own in `../guest`) and tells the crate where it is.
//!
//! `SEUSS_GUEST_IMAGE`, if set, names a ready ELF file instead: packagers and people who work on the VMM alone use it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

use sha2::{Digest as _, Sha256};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=SEUSS_GUEST_IMAGE");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let ready = env::var_os("SEUSS_GUEST_IMAGE").filter(|path| !path.is_empty());
    let image = match ready {
        Some(path) => {
            println!("cargo:rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build_guest(&out)?,
    };
    let copy = out.join("seuss-image.elf");
    replace(&image, &copy).map_err(|error| format!("cannot copy {}: {error}", image.display()))?;
    println!("cargo:rustc-env=SEUSS_GUEST_IMAGE_FILE={}", copy.display());
    // Snapshots name the image that they were taken with; digesting it at each start would cost milliseconds.
    let bytes = fs::read(&copy).map_err(|error| format!("cannot read {}: {error}", copy.display()))?;
    let digest: Vec<String> = Sha256::digest(&bytes).iter().map(u8::to_string).collect();
    let digest_file = out.join("seuss-image.sha256");
    fs::write(&digest_file, format!("[{}]", digest.join(", ")))
        .map_err(|error| format!("cannot write {}: {error}", digest_file.display()))?;
    println!("cargo:rustc-env=SEUSS_GUEST_IMAGE_DIGEST_FILE={}", digest_file.display());
    Ok(())
}

/// The image is copied into OUT_DIR so that another profile's build script cannot change it under this crate's compiler.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == bytes) { Ok(()) } else { fs::write(to, bytes) }
}

fn build_guest(out: &Path) -> Result<PathBuf, String> {
    let manifest_dir =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let guest = manifest_dir.join("../guest");
    for part in ["abi", "kernel", "image", "Cargo.toml", "Cargo.lock", ".cargo"] {
        println!("cargo:rerun-if-changed={}", guest.join(part).display());
    }
    let target_dir = guest_target_dir(out);
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&guest).args([
        "build",
        "--release",
        "--package",
        "seuss-image",
        "--bin",
        "seuss-image",
    ]);
    command.arg("--target-dir").arg(&target_dir);
    if guest.join("Cargo.lock").exists() {
        command.arg("--locked");
    }
    // What the outer cargo sets for its own build (flags, wrappers, target, coverage, clippy) must not reach the guest's.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargo_home = matches!(&*text, "CARGO_HOME" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN");
        let scrub = ["MAKEFLAGS", "CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "CLIPPY", "LLVM_PROFILE"];
        if !cargo_home && scrub.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    let output =
        command.output().map_err(|error| format!("cannot run cargo for the guest image: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the guest image does not build ({}):\n{stderr}", output.status));
    }
    Ok(target_dir.join("release/seuss-image"))
}

/// One directory for all profiles and tools: `<target>/guest-image`, found from OUT_DIR (`<target>/<profile>/build/<package>/out`).
fn guest_target_dir(out: &Path) -> PathBuf {
    let target = out.ancestors().nth(4).filter(|dir| dir.join("CACHEDIR.TAG").exists());
    match target {
        Some(dir) => dir.join("guest-image"),
        None => out.join("guest-image"),
    }
}
