//! The JSON documents of an archive, and the names in them (`ARTIFACT.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

pub(super) const LAYOUT_NAME: &str = "oci-layout";
pub(super) const INDEX_NAME: &str = "index.json";
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const ARTIFACT_TYPE: &str = "application/vnd.seuss.memory-snapshot.v1";
pub(super) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The empty config.
pub(super) const EMPTY: &[u8] = b"{}";

/// What a layer of a manifest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Manifest,
    Pages,
    Tables,
    WorkingSet,
    Image,
}

impl Part {
    const ALL: [Self; 5] = [Self::Manifest, Self::Pages, Self::Tables, Self::WorkingSet, Self::Image];

    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Manifest => "application/vnd.seuss.memory-snapshot.manifest.v1",
            Self::Pages => "application/vnd.seuss.memory-snapshot.pages.v1",
            Self::Tables => "application/vnd.seuss.memory-snapshot.tables.v1",
            Self::WorkingSet => "application/vnd.seuss.memory-snapshot.workset.v1",
            Self::Image => "application/vnd.seuss.memory-snapshot.image.v1+erofs",
        }
    }

    /// Name of the file that it is; of an image, its kind.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Pages => "pages",
            Self::Tables => "tables",
            Self::WorkingSet => "workset",
            Self::Image => "image",
        }
    }

    pub(super) fn of(media_type: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.media_type() == media_type)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(super) fn new(media_type: &str, digest: &Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            artifact_type: None,
            digest: digest.to_string(),
            size,
            annotations: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ArtifactManifest {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A blob's name in the layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}
