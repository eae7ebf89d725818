//! `cargo fuzz run -s none artifact` in snapshotter/.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| seuss_snapshotter::fuzz::artifact(bytes));
