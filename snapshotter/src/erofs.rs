//! EROFS images: uncompressed, page-aligned, one per image layer.
//!
//! [`build_from_dir`] and [`build_from_tar_layer`] write them, [`check`] validates one before it is trusted,
//! [`Reader`] looks into one. Guests map an image read-only and use the file data in place.

mod check;
mod error;
pub mod format;
mod from_dir;
mod from_tar;
mod layout;
mod lower;
mod reader;
mod shared;
mod tree;
mod writer;

pub use check::{INODES_MAX, Summary, check, check_source};
pub use error::{BuildError, CorruptError, Fault};
pub use from_dir::{build_from_dir, build_from_open_dir};
pub use from_tar::{build_from_tar_layer, build_from_tar_over};
pub use lower::Lower;
pub use reader::{DirEntry, Inode, ReadAt, Reader};
pub use tree::{Body, DEPTH_MAX, Extent, Metadata, NodeId, Timestamp, Xattr};
pub use writer::{BuildOptions, BuildReport, Writer};
