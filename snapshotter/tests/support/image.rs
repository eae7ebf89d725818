//! Makes OCI images out of layer tars.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use seuss_snapshotter::digest::Digest;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The files of a layout, by name.
pub type Files = BTreeMap<String, Vec<u8>>;

pub fn compress(bytes: &[u8], how: Compression) -> Vec<u8> {
    match how {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

pub fn add_blob(files: &mut Files, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
    digest
}

pub fn add_json(files: &mut Files, media_type: &str, value: &Value) -> Value {
    let bytes = serde_json::to_vec(value).unwrap();
    let digest = add_blob(files, &bytes);
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
}

pub fn config(architecture: &str, layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    json!({
        "architecture": architecture, "os": "linux",
        "config": {"Entrypoint": ["/bin/app"], "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "unknown": {"is": "ignored"},
    })
}

/// Adds a manifest with its configuration and layers; gives its descriptor.
pub fn add_manifest(files: &mut Files, architecture: &str, layers: &[Vec<u8>], how: Compression) -> Value {
    let suffix = match how {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    let mut descriptors = Vec::new();
    for layer in layers {
        let stored = compress(layer, how);
        let digest = add_blob(files, &stored);
        descriptors.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
            "digest": digest.to_string(), "size": stored.len(),
        }));
    }
    let config = add_json(files, "application/vnd.oci.image.config.v1+json", &config(architecture, layers));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": descriptors,
    });
    add_json(files, "application/vnd.oci.image.manifest.v1+json", &manifest)
}

pub fn set_index(files: &mut Files, manifests: &[Value]) {
    files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    files.insert("index.json".into(), serde_json::to_vec(&index).unwrap());
}

/// A layout with one image.
pub fn layout(layers: &[Vec<u8>], how: Compression) -> Files {
    let mut files = Files::new();
    let manifest = add_manifest(&mut files, "amd64", layers, how);
    set_index(&mut files, &[manifest]);
    files
}

pub fn write_dir(files: &Files, dir: &Path) {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

pub fn archive(files: &Files) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}
