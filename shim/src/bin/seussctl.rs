//! `seussctl`: runs programs in SEUSS guests. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    seuss_shim::ctl::main()
}
