//! Files: the tree of nodes, open files, descriptors, pipes, devices, /proc and /sys.
//!
//! One tree of [`node::Node`]s in memory. A node of the root file system may start out as an inode of the image's EROFS layers
//! ([`overlay`]); what is written moves into frames page by page, and directories remember what was made and removed. Other
//! file systems (/proc, /dev, /sys, /dev/shm) are trees of their own, grafted in at a name. [`walk`] resolves paths, [`change`] changes the
//! tree, [`open`] makes a [`file::File`] (an open file description) whose behaviour is a [`file::FileOps`], and [`table::FdTable`]
//! holds a process' descriptors.
//!
//! Read first: path_resolution(7), inode(7), the kernel's Documentation/filesystems/overlayfs.rst.
//!
//! Rules here: no function holds a borrow of a node's cells while it calls a [`crate::mem::user::Sink`] or
//! [`crate::mem::user::Source`] (a page fault in the caller's buffer may come back to the same node); nothing recurses along the tree's depth.
//! **Not** supported: access times that reading updates (as with the mount option noatime).

pub mod access;
pub mod base;
pub mod change;
pub mod data;
pub mod device;
pub mod directory;
pub mod env;
pub mod epoll;
pub mod eventfd;
pub mod file;
mod hooks;
pub mod host;
pub mod inotify;
pub mod listeners;
pub mod locks;
pub mod mount;
mod name;
pub mod node;
pub mod notify;
pub mod open;
pub mod overlay;
pub mod pidfd;
pub mod pipe;
pub mod proc;
pub mod snapshots;
pub mod sysfs;
pub mod table;
pub mod timerfd;
pub mod tty;
pub mod walk;

#[cfg(test)]
pub(crate) mod tests;

pub use access::{Access, Subject};
pub use env::{Env, FileSystem, FsContext};
pub use file::{File, FileOps};
pub use mount::Fs;
pub use node::Node;
pub use proc::ProcessInfo;
pub use table::FdTable;
pub use walk::Context;
