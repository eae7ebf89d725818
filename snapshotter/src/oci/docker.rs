//! `docker save` archives of the form before OCI: a `manifest.json` that names configuration and layers.
//!
//! Layers have no digest of their own here; the configuration's diff ids verify them.

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::error::OciError;
use super::image::{diff_ids, join, parse, verify};
use super::layer::Layer;
use super::store::Store;
use crate::digest::Digest;

/// An entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn open(
    store: &Store,
    reference: Option<&str>,
) -> Result<(ImageConfiguration, Vec<Layer>), OciError> {
    let entries: Vec<Entry> = parse("manifest.json", &store.document("manifest.json")?)?;
    let entry = choose(entries, reference)?;
    let bytes = store.document(&entry.config)?;
    // The file is called by its digest: HEX.json, or blobs/sha256/HEX.
    let hex = entry.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
    if let Ok(expected) = format!("sha256:{hex}").parse::<Digest>() {
        verify(&entry.config, &bytes, &expected)?;
    }
    let config: ImageConfiguration = parse(&entry.config, &bytes)?;
    let diff_ids = diff_ids(&config)?;
    if diff_ids.len() != entry.layers.len() {
        return Err(OciError::LayerCount { layers: entry.layers.len(), diff_ids: diff_ids.len() });
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (name, diff_id) in entry.layers.into_iter().zip(diff_ids) {
        let size_bytes = store.get(&name)?.left_bytes();
        layers.push(Layer { diff_id, blob_digest: None, size_bytes, name });
    }
    Ok((config, layers))
}

fn choose(mut entries: Vec<Entry>, reference: Option<&str>) -> Result<Entry, OciError> {
    let available = |entries: &[Entry]| {
        join(
            entries
                .iter()
                .flat_map(|e| e.repo_tags.clone().unwrap_or_else(|| vec![e.config.clone()]))
                .collect(),
        )
    };
    if let Some(wanted) = reference {
        let matches = |e: &Entry| e.repo_tags.iter().flatten().any(|tag| tag == wanted);
        return match entries.iter().position(matches) {
            Some(found) => Ok(entries.swap_remove(found)),
            None => Err(OciError::NoReference { wanted: wanted.into(), available: available(&entries) }),
        };
    }
    match entries.len() {
        1 => Ok(entries.remove(0)),
        0 => Err(OciError::Missing { name: "an image in manifest.json".into() }),
        _ => Err(OciError::Ambiguous { available: available(&entries) }),
    }
}
