//! Attacks and accidents that must not succeed: what crosses tenants or siblings, what a capture takes from the middle of something, what a guest costs the node, what reaches the host.

mod confine;
mod costs;
mod host;
mod readiness;
mod rights;
mod siblings;
