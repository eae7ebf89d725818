//! The layers of container images, and what runs on top of them: containerd's file-system snapshots ("FsSnapshot").
//!
//! Owns [`Layers`], the store behind containerd's snapshots service. A snapshot is a directory that overlayfs stacks on its parents'
//! directories; of a committed one there is an EROFS blob, which guests map ([`crate::lookup`] finds it by the directory) and the host's kernel mounts.
//! [`catalog`] knows the rules of keys, names and parents and does no I/O; [`disk`] knows where everything lies.
//!
//! Rules after containerd's docs/snapshotters/README.md and the behaviour of its overlayfs snapshotter, which tests compare with.

pub mod backing;
pub mod catalog;
mod disk;
mod error;
pub mod filter;
mod loopdev;
mod mounts;
pub mod record;
mod store;
mod usage;

pub use error::{LayersError, Reason};
pub use record::{BlobRecord, Files, Info, Kind, Timestamp, Usage};
pub use store::{FsMount, Layers, Options, Recovered, Space};
