//! OCI image layout in one tar, with the names that `ctr image import` reads from the index.
//!
//! Reference: OCI image spec v1 ("Image Layout", "Image Configuration").

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use flate2::{Compression as Level, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::layer::MTIME;
use super::recipe::{Compression, Config};

/// The registry of the test images; `.test` is reserved, so nothing can ever be pulled from it.
pub const REGISTRY: &str = "seuss.test";

/// One layer, stored as it goes into the archive.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What made it (for the image's history).
    pub created_by: String,
    /// Digest of the uncompressed tar.
    pub diff_id: String,
    /// Media type of `blob`.
    pub media_type: &'static str,
    /// The stored bytes.
    pub blob: Vec<u8>,
}

impl Layer {
    /// Packs an uncompressed tar.
    ///
    /// # Errors
    /// The compressor fails.
    pub fn pack(created_by: &str, tar: Vec<u8>, compression: Compression) -> Result<Self> {
        let diff_id = digest(&tar);
        let (media_type, blob) = match compression {
            Compression::None => ("application/vnd.oci.image.layer.v1.tar", tar),
            Compression::Gzip => {
                let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Level::fast());
                gzip.write_all(&tar)?;
                ("application/vnd.oci.image.layer.v1.tar+gzip", gzip.finish()?)
            }
        };
        Ok(Self { created_by: created_by.into(), diff_id, media_type, blob })
    }
}

/// The full reference of a test image.
pub fn reference(name: &str) -> String {
    format!("{REGISTRY}/{name}:latest")
}

/// Writes an image of `layers` (base first) to `archive`.
///
/// # Errors
/// The file cannot be written.
pub fn write_archive(archive: &Path, name: &str, layers: &[Layer], config: &Config) -> Result<()> {
    let config_blob = serde_json::to_vec(&image_config(layers, config))?;
    let descriptors: Vec<Value> =
        layers.iter().map(|layer| descriptor(layer.media_type, &layer.blob)).collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config_blob),
        "layers": descriptors,
    }))?;
    let mut manifest_descriptor = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    manifest_descriptor["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    manifest_descriptor["annotations"] = json!({
        "io.containerd.image.name": reference(name),
        "org.opencontainers.image.ref.name": "latest",
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest_descriptor],
    }))?;

    let mut tar = Builder::new(File::create(archive)?);
    add(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut blobs: Vec<&[u8]> = layers.iter().map(|layer| layer.blob.as_slice()).collect();
    blobs.extend([config_blob.as_slice(), manifest.as_slice()]);
    let mut seen = std::collections::BTreeSet::new();
    for blob in blobs {
        let path = format!("blobs/{}", digest(blob).replace(':', "/"));
        if seen.insert(path.clone()) {
            add(&mut tar, &path, blob)?;
        }
    }
    add(&mut tar, "index.json", &index)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

fn image_config(layers: &[Layer], config: &Config) -> Value {
    let created = "2023-11-14T22:13:20Z";
    let mut run = json!({ "Env": config.env });
    let mut set = |key: &str, words: &[String]| {
        if !words.is_empty() {
            run[key] = json!(words);
        }
    };
    set("Cmd", &config.cmd);
    set("Entrypoint", &config.entrypoint);
    if !config.workdir.is_empty() {
        run["WorkingDir"] = json!(config.workdir);
    }
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let history: Vec<Value> =
        layers.iter().map(|layer| json!({ "created": created, "created_by": layer.created_by })).collect();
    json!({
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn add(tar: &mut Builder<File>, path: &str, data: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(MTIME);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data)?;
    Ok(())
}

/// `sha256:HEX` of `data`.
pub fn digest(data: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(data) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
