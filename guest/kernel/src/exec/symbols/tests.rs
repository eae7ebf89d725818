//! Real libraries, compared with `nm`; and whatever else a file may say.

use super::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A shared object that the C compiler makes of `source`.
fn shared_object(source: &str, options: &[&str]) -> Vec<u8> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("seuss-symbols-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (input, output) = (dir.join("a.c"), dir.join("a.so"));
    std::fs::write(&input, source).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1"])
        .args(options)
        .arg("-o")
        .arg(&output)
        .arg(&input)
        .status();
    assert!(made.unwrap().success(), "cc");
    let bytes = std::fs::read(output).unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    bytes
}

/// What `nm` says of the functions that a file exports.
fn exported(path: &Path) -> BTreeMap<String, u64> {
    let output =
        Command::new("nm").args(["-D", "--defined-only", "--without-symbol-versions"]).arg(path).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        let address = u64::from_str_radix(address, 16).ok()?;
        matches!(kind, "T" | "W").then(|| (name.to_owned(), address))
    };
    text.lines().filter_map(line).collect()
}

const SOURCE: &str = "int one(void) { return 1; } int two(void) { return 2; } int datum = 3;
    extern int undefined(void); int three(void) { return undefined(); } static int hidden(void) { return 4; } int four(void) { return hidden(); }";

#[test]
fn functions_are_found_by_either_table() {
    for style in ["-Wl,--hash-style=gnu", "-Wl,--hash-style=sysv"] {
        let bytes = shared_object(SOURCE, &[style]);
        let slice = bytes.as_slice();
        let object = Object::read(&slice).unwrap();
        for name in ["one", "two", "three", "four"] {
            let address = object.function(name.as_bytes()).unwrap_or_else(|| panic!("{style}: {name}"));
            let offset = object.offset_of(address).unwrap();
            assert_eq!(object.address_of_text(offset), Some(address), "{style}: {name}");
        }
        for name in ["datum", "undefined", "hidden", "fiv", "ones", "", &"x".repeat(200)] {
            assert_eq!(object.function(name.as_bytes()), None, "{style}: {name}");
        }
    }
}

#[test]
fn real_libraries_say_what_nm_says() {
    let mut compared = 0;
    for name in ["libcrypto.so.3", "libpython3.11.so.1.0", "libgcrypt.so.20", "libc.so.6"] {
        let path = Path::new("/usr/lib/x86_64-linux-gnu").join(name);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let slice = bytes.as_slice();
        let object = Object::read(&slice).unwrap_or_else(|| panic!("{name}"));
        let functions = exported(&path);
        // Of names with several versions nm shows each; one of them is found.
        let symbols: Vec<_> = functions.iter().filter(|(name, _)| name.len() <= NAME_MAX).collect();
        for (function, _) in symbols.iter().step_by(17) {
            assert!(object.function(function.as_bytes()).is_some(), "{name}: {function}");
        }
        if let Some(address) = functions.get("RAND_poll") {
            assert_eq!(object.function(b"RAND_poll"), Some(*address));
        }
        compared += 1;
    }
    assert!(compared > 0, "a library C programs need is somewhere");
}

#[test]
fn whatever_the_bytes_are_a_look_up_ends() {
    for style in ["-Wl,--hash-style=gnu", "-Wl,--hash-style=sysv"] {
        let good = shared_object(SOURCE, &[style]);
        let names: [&[u8]; 3] = [b"one", b"four", b"absent"];
        let try_all = |bytes: &[u8]| {
            if let Some(object) = Object::read(&bytes) {
                for name in names {
                    let _ = object.function(name);
                }
                let _ = object.address_of_text(u64::MAX);
            }
        };
        for cut in 0..good.len().min(6000) {
            try_all(&good[..cut]);
        }
        // Each byte of headers and tables takes the values that numbers overflow with.
        for at in 0..good.len().min(6000) {
            for value in [0, 0xff, good[at].wrapping_add(1), good[at] ^ 0x80] {
                let mut bad = good.clone();
                bad[at] = value;
                try_all(&bad);
            }
        }
    }
}

#[test]
fn a_chain_without_an_end_is_left() {
    let mut bytes = shared_object(SOURCE, &["-Wl,--hash-style=gnu"]);
    let slice = bytes.as_slice();
    let object = Object::read(&slice).unwrap();
    let table = object.gnu_hash.unwrap() as usize;
    // A filter that lets everything pass, one bucket, and a chain of zeros to the end of the file.
    let words: [u32; 4] = [1, 0, 1, 0];
    for (index, word) in words.iter().enumerate() {
        bytes[table + index * 4..table + index * 4 + 4].copy_from_slice(&word.to_le_bytes());
    }
    bytes[table + 16..table + 24].fill(0xff);
    bytes[table + 24..].fill(0);
    let len = bytes.len();
    bytes.resize(len + (STEPS_MAX as usize + 10) * 4, 0);
    assert_eq!(Object::read(&bytes.as_slice()).and_then(|object| object.function(b"one")), None);
}
