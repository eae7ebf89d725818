//! Progress lines on standard error, one per step, so that a person sees what a long run does and where it stopped.

use std::fmt::Display;

/// Announces a step.
pub fn step(message: impl Display) {
    eprintln!("==> {message}");
}

/// Tells a detail of the current step.
pub fn detail(message: impl Display) {
    eprintln!("    {message}");
}

/// Warns of something the run survives.
pub fn warn(message: impl Display) {
    eprintln!("  ! {message}");
}
