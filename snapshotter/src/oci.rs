//! OCI images from a file: an OCI archive (`skopeo copy ... oci-archive:`, `docker save`, `ctr image export`), an OCI
//! layout directory, or a `docker save` archive of the older form.
//!
//! Read first: OCI image specification, "Image Layout", "Image Index", "Image Manifest". Chooses linux/amd64. Nothing
//! is believed before its digest and size are verified: manifest and configuration when the image is opened, a
//! layer when it has been read ([`LayerReader::finish`]). **Not** supported: compressed archives, encrypted layers,
//! images whose blobs must be fetched.

mod docker;
mod error;
mod image;
mod layer;
pub(crate) mod store;

pub use error::OciError;
pub use image::{Image, PLATFORM};
pub use layer::{Layer, LayerReader};
