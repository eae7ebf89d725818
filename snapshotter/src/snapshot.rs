//! Memory snapshots of guests as directories of immutable files, and the tree that they form.
//!
//! Owns the format ([`manifest`], byte by byte in `snapshot/FORMAT.md`), reading ([`Snapshot`]), writing ([`Draft`]) and a local
//! directory of snapshots and image blobs ([`Store`]). What the pages mean is the VMM's business: nothing here knows of KVM.
//!
//! A snapshot is its parent plus the pages that changed. It is written under a temporary name, digested, and renamed: who looks
//! finds the whole snapshot or none.

mod codec;
pub mod draft;
mod error;
pub mod manifest;
pub mod reader;
mod receive;
pub mod store;

#[cfg(test)]
mod tests;

pub use draft::{Draft, Facts, Section};
pub use error::SnapshotError;
pub use manifest::{CpuSet, ImageRef, Level, Manifest, SectionRef, SnapshotId, VERSION};
pub use reader::{KeepWorkingSet, Placed, Snapshot, SnapshotFiles, WorkPage};
pub use store::{Store, TreeNode};

/// Size of a page in bytes.
pub const PAGE: u64 = 4096;
/// Longest lineage: base, its child, and so on.
pub const DEPTH_MAX: u32 = 120;
/// Most pages that the layers of one lineage hold together (index pages counted): 4 GiB.
pub const LINEAGE_PAGES_MAX: u64 = 1 << 20;
