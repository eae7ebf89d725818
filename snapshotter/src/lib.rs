//! Image layers and memory snapshots of a node, kept in memory and shared by every guest on it.
//!
//! - [`rootfs`]: from a directory or an OCI image to checked EROFS blobs, one per layer;
//! - `layers`: containerd's snapshots of file systems, with a blob per committed layer (feature `daemon`);
//! - [`memory`]: the store of memory snapshots as a service;
//! - [`lookup`]: from a layer's directory to its blob;
//! - `daemon`: the process around `layers` (feature `daemon`);
//! - [`oci`]: OCI archives and layouts;
//! - [`erofs`]: the file system images that guests map (format, writer, reader, check);
//! - [`snapshot`]: memory snapshots (format, reader, writer, local store);
//! - [`artifact`]: memory snapshots as OCI artifacts;
//! - [`digest`]: content digests;
//! - [`beneath`]: files of directories whose content somebody else decides;
//! - [`mountinfo`]: the table of mounts.

pub mod artifact;
pub mod beneath;
mod compression;
#[cfg(feature = "daemon")]
pub mod daemon;
pub mod digest;
pub mod erofs;
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "daemon")]
pub mod layers;
pub mod lookup;
pub mod memory;
pub mod mountinfo;
pub mod oci;
pub mod rootfs;
pub mod snapshot;
mod tarstream;
