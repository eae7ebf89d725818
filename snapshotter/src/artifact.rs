//! Memory snapshots as OCI artifacts in an archive: how trees move between nodes and through registries.
//!
//! [`export`] writes an OCI image layout as a tar file, [`Archive`] reads one; `artifact/ARTIFACT.md` says what is in it. Read first: OCI image
//! specification, "Image Layout" and "Guidelines for Artifact Usage".
//!
//! An archive is foreign: nothing of it is used before size and digest are verified, and documents are bounded. What a snapshot holds is a guest's memory: whoever restores it runs
//! its author's code, with the rights of the pod that it is restored for. So [`Archive::open`] wants to know whose archives are trusted ([`Trust`]).

mod documents;
mod error;
mod export;
mod import;
mod signature;

#[cfg(test)]
mod tests;

pub use error::ArtifactError;
pub use export::{Exported, export};
pub use import::{Archive, Imported};
pub use signature::{KeyError, SigningKey, TRUSTED_KEYS_DIR, Trust, TrustedKeys};
