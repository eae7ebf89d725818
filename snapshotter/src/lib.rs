//! Image layers and memory snapshots of a node, kept in memory and shared by every guest on it.
//!
//! - [`rootfs`]: from a directory or an OCI image to checked EROFS blobs, one per layer;
//! - [`oci`]: OCI archives and layouts;
//! - [`erofs`]: the file system images that guests map (format, writer, reader, check);
//! - [`digest`]: content digests.

mod compression;
pub mod digest;
pub mod erofs;
pub mod oci;
pub mod rootfs;
mod tarstream;
