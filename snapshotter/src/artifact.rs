//! Memory snapshots as OCI artifacts in an archive: how trees move between nodes and through registries.
//!
//! [`export`] writes an OCI image layout as a tar file, [`Archive`] reads one; `artifact/ARTIFACT.md` says what is in it. Read first: OCI image
//! specification, "Image Layout" and "Guidelines for Artifact Usage".
//!
//! An archive is foreign: nothing of it is used before size and digest are verified, and documents are bounded. What a snapshot holds is a guest's memory: whoever restores it runs
//! it, with no more rights than any guest has.

mod documents;
mod error;
mod export;
mod import;

#[cfg(test)]
mod tests;

pub use error::ArtifactError;
pub use export::{Exported, export};
pub use import::{Archive, Imported};
