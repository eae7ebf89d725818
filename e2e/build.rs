//! Generates the clients of CRI (vendored api.proto) and of containerd's snapshots service (the snapshotter's own definition), without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/cri/api.proto");
    let descriptors = protox::compile(["api.proto"], ["proto/cri"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=../snapshotter/proto/snapshots.proto");
    let descriptors = protox::compile(["snapshots.proto"], ["../snapshotter/proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
