//! The SEUSS unikernel image: what the library OS needs around it to be a guest.
//!
//! [`entry`] is how the CPU gets in and out, [`boot`] brings the library OS up, [`machine`] gives it the vCPU and the VMM, [`heap`] and
//! [`bytes`] are what a freestanding Rust program lacks, [`panic`] is the last word. All logic is in `seuss_kernel`.
//!
//! Unsafe because this is the bottom: it runs on addresses that the VMM and link.ld fix.
#![no_std]
#![no_main]

extern crate alloc;

mod boot;
mod bytes;
mod entry;
mod heap;
mod machine;
mod panic;
