//! `cargo fuzz run -s none erofs` in snapshotter/.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| seuss_snapshotter::fuzz::erofs(bytes));
