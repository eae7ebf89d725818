//! End-to-end harness of SEUSS for Kubernetes.
//!
//! What lives here: everything that tests, demonstrations and benchmarks need around the product and that is not the
//! product: packages fetched without touching the base system ([`apt`], [`tools`]), OCI images built offline from Debian
//! packages ([`image`]). DESIGN.md beside this crate tells how the parts fit together.
//!
//! Errors are `anyhow` with context: the reader is a person who looks at a failed test.

pub mod apt;
pub mod cgroup;
pub mod command;
pub mod containerd;
pub mod cri;
pub mod first_byte;
pub mod idle;
pub mod image;
pub mod levels;
pub mod load;
pub mod namespace;
pub mod need;
pub mod paths;
pub mod phases;
pub mod pod;
pub mod progress;
pub mod report;
pub mod restore;
pub mod runtime;
pub mod servers;
pub mod serving;
pub mod snapshots;
pub mod snapshotter;
pub mod summary;
pub mod tools;
