//! OCI images built offline from Debian packages.
//!
//! A recipe (`e2e/images/NAME.recipe`, [`recipe`]) names a parent image, packages and a few steps. [`build`] turns it into an
//! unpacked root file system; [`layer`] writes what differs from the parent's as a deterministic tar layer; [`oci`] wraps
//! the layers of the lineage into an archive that `ctr image import` takes.

pub mod build;
pub mod layer;
pub mod oci;
pub mod recipe;
