//! Chooses an image in a store and reads its manifest and configuration.

use std::path::Path;

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os, Platform};
use serde::de::DeserializeOwned;

use super::docker;
use super::error::OciError;
use super::layer::{Layer, LayerReader};
use super::store::Store;
use crate::beneath::Pinned;
use crate::digest::{Digest, Hasher};

/// The platform whose images are used.
pub const PLATFORM: &str = "linux/amd64";
/// Deepest nesting of indexes.
const INDEX_DEPTH_MAX: usize = 4;
/// Names that archives give their images.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// An image whose manifest and configuration have been verified.
#[derive(Debug)]
pub struct Image {
    store: Store,
    digest: Option<Digest>,
    config: ImageConfiguration,
    layers: Vec<Layer>,
}

impl Image {
    /// Opens an archive or layout directory. `reference` chooses among several images, by the name that the archive
    /// gives them (`docker.io/library/alpine:3.20`, or what `org.opencontainers.image.ref.name` says).
    ///
    /// # Errors
    /// [`OciError`]: not an image, damaged, not for linux/amd64, several to choose from.
    pub fn open(path: &Path, reference: Option<&str>) -> Result<Self, OciError> {
        let pinned = Pinned::open_any(path).map_err(|source| OciError::Open { path: path.into(), source })?;
        Self::open_pinned(pinned, path, reference)
    }

    /// As [`Self::open`], for what was found at `path`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_pinned(pinned: Pinned, path: &Path, reference: Option<&str>) -> Result<Self, OciError> {
        let store = Store::open(pinned, path)?;
        if store.find("oci-layout")?.is_some() {
            return Self::from_index(store, reference);
        }
        if store.find("manifest.json")?.is_some() {
            let (config, layers) = docker::open(&store, reference)?;
            check_platform(&config)?;
            return Ok(Self { store, digest: None, config, layers });
        }
        let reason = "neither oci-layout nor manifest.json is in it".to_owned();
        Err(OciError::NotAnImage { path: store.path().into(), reason })
    }

    fn from_index(store: Store, reference: Option<&str>) -> Result<Self, OciError> {
        let index: ImageIndex = parse("index.json", &store.document("index.json")?)?;
        let chosen = choose(&store, &index, reference)?;
        let manifest: ImageManifest = verified(&store, &chosen)?;
        let config_type = manifest.config().media_type().to_string();
        if !matches!(
            config_type.as_str(),
            "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
        ) {
            let name = blob_name(&digest_of(manifest.config())?);
            return Err(OciError::MediaType { name, media_type: config_type });
        }
        let config: ImageConfiguration = verified(&store, manifest.config())?;
        check_platform(&config)?;
        let diff_ids = diff_ids(&config)?;
        if diff_ids.len() != manifest.layers().len() {
            let (layers, diff_ids) = (manifest.layers().len(), diff_ids.len());
            return Err(OciError::LayerCount { layers, diff_ids });
        }
        let layers = manifest
            .layers()
            .iter()
            .zip(diff_ids)
            .map(|(d, diff_id)| layer(d, diff_id))
            .collect::<Result<_, _>>()?;
        Ok(Self { store, digest: Some(digest_of(&chosen)?), config, layers })
    }

    /// Digest of the manifest; a `docker save` archive of the older form has none.
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The configuration.
    pub const fn config(&self) -> &ImageConfiguration {
        &self.config
    }

    /// The layers, base first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The chain ids of the layers: what each is together with everything below it.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let id = match chain.last() {
                None => layer.diff_id.clone(),
                Some(below) => {
                    let mut hasher = Hasher::new(below.algorithm());
                    hasher.update(format!("{below} {}", layer.diff_id).as_bytes());
                    hasher.finish()
                }
            };
            chain.push(id);
        }
        chain
    }

    /// Starts to read a layer of this image; more than `expanded_bytes_max` bytes of tar are an error.
    ///
    /// # Errors
    /// [`OciError::Missing`], [`OciError::SizeMismatch`], [`OciError::Read`].
    pub fn read_layer(&self, layer: &Layer, expanded_bytes_max: u64) -> Result<LayerReader, OciError> {
        LayerReader::new(layer.clone(), self.store.get(&layer.name)?, expanded_bytes_max)
    }
}

fn layer(descriptor: &Descriptor, diff_id: Digest) -> Result<Layer, OciError> {
    let digest = digest_of(descriptor)?;
    let media_type = descriptor.media_type().to_string();
    let supported = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ]
    .iter()
    .filter_map(|base| media_type.strip_prefix(base))
    .any(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"));
    if !supported {
        return Err(OciError::MediaType { name: blob_name(&digest), media_type });
    }
    Ok(Layer { diff_id, name: blob_name(&digest), blob_digest: Some(digest), size_bytes: descriptor.size() })
}

/// The manifest's descriptor.
fn choose(store: &Store, index: &ImageIndex, reference: Option<&str>) -> Result<Descriptor, OciError> {
    let names = |d: &Descriptor| -> Vec<String> {
        let annotations = d.annotations().as_ref();
        let name = |key: &&str| annotations.and_then(|a| a.get(*key)).cloned();
        NAME_ANNOTATIONS.iter().filter_map(name).collect()
    };
    let all_names = || {
        let names: Vec<String> = index
            .manifests()
            .iter()
            .map(|d| names(d).into_iter().next().unwrap_or_else(|| d.digest().to_string()))
            .collect();
        join(names)
    };
    let wanted: Vec<&Descriptor> = match reference {
        None => index.manifests().iter().collect(),
        Some(wanted) => index
            .manifests()
            .iter()
            .filter(|d| names(d).iter().any(|n| n == wanted) || d.digest().as_ref() == wanted)
            .collect(),
    };
    if let (true, Some(wanted)) = (wanted.is_empty(), reference) {
        return Err(OciError::NoReference { wanted: wanted.to_owned(), available: all_names() });
    }
    let mut found: Vec<Descriptor> = Vec::new();
    let mut seen = Vec::new();
    for descriptor in wanted {
        if let Some(manifest) = matching(store, descriptor, 0, &mut seen)?
            && !found.iter().any(|f| f.digest() == manifest.digest())
        {
            found.push(manifest);
        }
    }
    match found.len() {
        0 => Err(OciError::NoPlatform { wanted: PLATFORM, available: join(seen) }),
        1 => Ok(found.remove(0)),
        _ => Err(OciError::Ambiguous { available: all_names() }),
    }
}

/// The first manifest for this platform that a descriptor leads to; `seen` collects what was passed over.
fn matching(
    store: &Store,
    descriptor: &Descriptor,
    depth: usize,
    seen: &mut Vec<String>,
) -> Result<Option<Descriptor>, OciError> {
    if let Some(platform) = descriptor.platform()
        && !is_ours(platform)
    {
        seen.push(format!("{}/{}", platform.os(), platform.architecture()));
        return Ok(None);
    }
    match descriptor.media_type().to_string().as_str() {
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => Ok(Some(descriptor.clone())),
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => {
            if depth >= INDEX_DEPTH_MAX {
                return Err(OciError::TooDeep { limit: INDEX_DEPTH_MAX });
            }
            let index: ImageIndex = verified(store, descriptor)?;
            for inner in index.manifests() {
                // Archives often leave out the other platforms' manifests; only ours must be there.
                if let Some(found) = matching(store, inner, depth + 1, seen)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
        other => {
            seen.push(other.to_owned());
            Ok(None)
        }
    }
}

fn is_ours(platform: &Platform) -> bool {
    *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64
}

fn check_platform(config: &ImageConfiguration) -> Result<(), OciError> {
    if *config.os() == Os::Linux && *config.architecture() == Arch::Amd64 {
        return Ok(());
    }
    let available = format!("{}/{}", config.os(), config.architecture());
    Err(OciError::NoPlatform { wanted: PLATFORM, available })
}

pub(super) fn diff_ids(config: &ImageConfiguration) -> Result<Vec<Digest>, OciError> {
    let parse = |text: &String| {
        text.parse()
            .map_err(|source| OciError::BadDigest { name: "a diff id of the configuration".into(), source })
    };
    config.rootfs().diff_ids().iter().map(parse).collect()
}

/// Reads a document and verifies its size and digest.
fn verified<T: DeserializeOwned>(store: &Store, descriptor: &Descriptor) -> Result<T, OciError> {
    let expected = digest_of(descriptor)?;
    let name = blob_name(&expected);
    let bytes = store.document(&name)?;
    if bytes.len() as u64 != descriptor.size() {
        let (expected_bytes, found_bytes) = (descriptor.size(), bytes.len() as u64);
        return Err(OciError::SizeMismatch { name, expected_bytes, found_bytes });
    }
    verify(&name, &bytes, &expected)?;
    parse(&name, &bytes)
}

pub(super) fn verify(name: &str, bytes: &[u8], expected: &Digest) -> Result<(), OciError> {
    let mut hasher = Hasher::new(expected.algorithm());
    hasher.update(bytes);
    let found = hasher.finish();
    if found == *expected {
        return Ok(());
    }
    Err(OciError::DigestMismatch { name: name.to_owned(), expected: expected.clone(), found })
}

pub(super) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Json { name: name.to_owned(), source })
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest, OciError> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|source| OciError::BadDigest { name: "a descriptor".into(), source })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// A list for an error message: sorted, each once, bounded.
pub(super) fn join(mut names: Vec<String>) -> String {
    const SHOWN: usize = 20;
    names.sort();
    names.dedup();
    let rest = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let shown = names.join(", ");
    match (shown.is_empty(), rest) {
        (true, _) => "nothing".into(),
        (false, 0) => shown,
        (false, rest) => format!("{shown} and {rest} more"),
    }
}

/// Keeps the media types that this module matches by text in step with the crate that names them.
#[cfg(test)]
mod tests {
    use oci_spec::image::MediaType;

    #[test]
    fn media_types_have_the_expected_text() {
        assert_eq!(MediaType::ImageIndex.to_string(), "application/vnd.oci.image.index.v1+json");
        assert_eq!(MediaType::ImageManifest.to_string(), "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(MediaType::ImageConfig.to_string(), "application/vnd.oci.image.config.v1+json");
        assert_eq!(MediaType::ImageLayerZstd.to_string(), "application/vnd.oci.image.layer.v1.tar+zstd");
    }
}
