//! The containerd shim v2 of SEUSS, and what it shares with `seussctl`.
//!
//! A container is a unikernel guest under KVM; a pod's containers share one shim process. From outside in:
//! [`bootstrap`] and [`serve`] (the process) → [`service`] (ttrpc) → [`sandbox`] (the pod) → [`container`] (one guest) → [`guest`] (the VMM).
//! [`lifecycle`] is the pure state machine that all of it obeys. `DESIGN.md` tells the whole story.
//!
//! Lock order: a container's state, then nothing. The pod's table is never held while a container is locked; the event queue takes events with a
//! container's state locked (that keeps their order) and never blocks; no guest is called with a lock held, since its thread may be
//! waiting for that lock to deliver an event.

pub mod args;
pub mod bootstrap;
pub mod cgroup;
pub mod cleanup;
pub mod container;
pub mod ctl;
pub mod error;
pub mod events;
pub mod guest;
pub mod http;
pub mod image;
pub mod info;
pub mod io;
pub mod layers;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod mount;
pub mod netns;
pub mod oci;
pub mod program;
pub mod record;
pub mod rootview;
pub mod sandbox;
pub mod serve;
pub mod service;
pub mod size;
pub mod snapshots;
pub mod spec;
pub mod terminal;
pub mod threads;
pub mod users;
