//! The daemon `seuss-snapshotter`: a process around [`crate::layers`], which containerd knows as a proxy plugin.
//!
//! - [`config`]: file and flags;
//! - [`serve`]: sockets, start and end of the process;
//! - [`service`]: containerd's snapshots service, which decodes and delegates;
//! - [`metrics`]: figures for Prometheus, health;
//! - [`notify`]: systemd's protocol.

pub mod config;
pub mod metrics;
pub mod notify;
pub mod serve;
pub mod service;

/// containerd's snapshots service, generated from proto/snapshots.proto.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
pub mod api {
    tonic::include_proto!("containerd.services.snapshots.v1");
}
