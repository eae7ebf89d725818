//! The contract between the SEUSS guest and its VMM.
//!
//! Owns every number and layout that both sides must agree on: the guest-physical windows and where the library OS
//! maps them ([`layout`]), the shared communication window ([`comm`]), the calls that the guest makes to the VMM
//! ([`call`]), the events that the VMM posts to the guest ([`event`]), its sockets ([`net`]), what a capture says of its memory ([`snapshot`]) and the description of a process to start
//! ([`spec`]). `no_std`, no dependencies, no behaviour beyond encoding.
//!
//! Every structure here that lies in shared memory is read by the other side as hostile bytes: copy once, check, use.
#![no_std]

extern crate alloc;

pub mod call;
pub mod comm;
pub mod event;
pub mod layout;
pub mod net;
pub mod snapshot;
pub mod spec;

/// Version of this contract. The VMM refuses a guest image, and the guest refuses a boot block, of another version.
pub const ABI_VERSION: u32 = 7;
