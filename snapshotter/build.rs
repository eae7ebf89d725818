//! Generates containerd's snapshots service (and, for tests, its client) from proto/snapshots.proto, without protoc.

#[cfg(feature = "daemon")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/snapshots.proto");
    let descriptors = protox::compile(["snapshots.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "daemon"))]
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
}
