//! Links the image with its own script: a static executable without relocations at the library OS's address.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
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
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{dir}/link.ld");
}
