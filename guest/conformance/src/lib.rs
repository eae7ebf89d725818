//! The conformance suite: every program runs twice, on Linux and in the guest, and both runs must print the same bytes and
//! end with the same status.
//!
//! What lives here: finding the cases ([`suite`]), building the root file system that both sides see ([`tree`]), running a
//! program on Linux ([`native`]) and in the guest ([`exec`]), comparing ([`verdict`]). The programs themselves are in
//! `programs/`, the microbenchmarks in `bench/`. README.md tells how to add one.
//!
//! Errors are `anyhow` with context: the reader is a person who looks at a failed test.

pub mod bench;
pub mod case;
pub mod cgroup;
pub mod cpython;
pub mod exec;
pub mod native;
pub mod paths;
pub mod suite;
pub mod tree;
pub mod verdict;
