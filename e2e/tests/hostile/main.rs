//! Attacks and accidents that must not succeed: what crosses tenants, what a capture takes from the middle of something, what a guest costs the node.

mod readiness;
