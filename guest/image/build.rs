//! Links the image with its own script (a static executable without relocations at the library OS's address), and makes the vDSO that it carries.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let dir = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed=link.ld");
    for argument in [
        "-no-pie",
        "-nostdlib",
        "-nostartfiles",
        "-static",
        "-Wl,-z,norelro",
        "-Wl,--orphan-handling=error",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=4096",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", dir.join("link.ld").display());
    make_vdso(&dir.join("vdso"), &out.join("vdso.so"));
}

/// Assemble and link the vDSO with the C compiler that Rust links with anyway.
fn make_vdso(source: &Path, target: &Path) {
    println!("cargo:rerun-if-changed=vdso");
    let status = Command::new("cc")
        .args(["-shared", "-nostdlib", "-fPIC", "-Wl,-soname=linux-vdso.so.1", "-Wl,--hash-style=both"])
        .args(["-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,norelro", "-Wl,-Bsymbolic", "-Wl,-s"])
        .arg(format!("-Wl,-T,{}", source.join("vdso.ld").display()))
        .arg(format!("-Wa,-I,{}", source.display()))
        .arg("-o")
        .arg(target)
        .arg(source.join("vdso.S"))
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("cc cannot make the vDSO: {status}"),
        Err(error) => panic!("cannot run cc to make the vDSO: {error}; install gcc"),
    }
}
