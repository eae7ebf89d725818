//! The store of memory snapshots as a service: put, find, lease, evict, over a unix socket that passes descriptors.
//!
//! - [`protocol`]: the messages;
//! - [`channel`]: a socket that keeps messages apart and carries descriptors;
//! - [`client`]: what shims and seussctl use;
//! - [`shelf`]: the snapshots of a node: tenants, leases, budget;
//! - [`server`]: the daemon's side (feature `daemon`).
//!
//! What a snapshot is, and its files, is [`crate::snapshot`]'s business.

pub mod channel;
pub mod client;
pub mod note;
pub mod peer;
pub mod protocol;
#[cfg(feature = "daemon")]
pub mod server;
pub mod shelf;

pub use client::{Client, ClientError};
pub use shelf::{Share, Shelf, ShelfError, ShelfOptions};
