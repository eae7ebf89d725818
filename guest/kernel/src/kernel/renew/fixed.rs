//! Generators of secrets that would be the same in all clones, because nothing can be called that seeds them anew: such a program is not captured by itself.
//!
//! They are told by the names of mapped files and by symbols, also those of static symbol tables. **Not** told: what is linked statically into a stripped executable (OpenSSL, mbed TLS, Rust's `thread_rng`), and
//! generators that a program has written itself.

use super::plan::Mapped;
use super::{Kernel, Kinds};
use crate::exec::node;
use crate::exec::symbols::{Object, Source};
use crate::mem::area::Backing;
use crate::mem::pager::Pager;
use crate::task::process::Process;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use core::cell::RefCell;

/// Beginnings of file names, and whose they are. What each keeps was looked at (docs/generators.md).
const FILES: [(&[u8], &str); 10] = [
    (b"libgcrypt.so", "libgcrypt, whose nonces"),
    (b"libfreebl", "NSS, whose numbers"),
    (b"libsoftokn3.so", "NSS, whose numbers"),
    (b"libmbedcrypto", "mbed TLS, whose numbers"),
    (b"libtfpsacrypto", "mbed TLS, whose numbers"),
    (b"libwolfssl", "wolfSSL, whose numbers"),
    (b"libbotan-", "Botan, whose numbers"),
    (b"libcryptopp", "Crypto++, whose numbers"),
    (b"libtomcrypt", "LibTomCrypt, whose numbers"),
    (b"libressl", "LibreSSL, whose numbers"),
];
/// Executables by their names: JavaScript engines that keep random numbers where no call reaches.
const PROGRAMS: [(&[u8], &str); 2] = [(b"bun", "Bun, whose UUIDs"), (b"deno", "Deno, whose numbers")];
/// Functions of a static symbol table.
const NAMES: [(&[u8], &str); 5] = [
    (b"RAND_get0_primary", "a static OpenSSL, whose numbers"),
    (b"RAND_DRBG_get0_master", "a static OpenSSL, whose numbers"),
    (b"mbedtls_ctr_drbg_random", "a static mbed TLS, whose numbers"),
    (b"mbedtls_hmac_drbg_random", "a static mbed TLS, whose numbers"),
    (b"wc_RNG_GenerateBlock", "a static wolfSSL, whose numbers"),
];
/// In the names of Rust functions, either mangling: module rand::rngs::thread.
const RUST_THREAD_RNG: &[u8] = b"4rand4rngs6thread";
/// Most bytes of a static symbol table's names that are looked at.
const NAMES_BYTES_MAX: u64 = 32 << 20;

/// What static symbol tables say, by file: they are long.
#[derive(Default)]
pub(in crate::kernel) struct Seen(RefCell<BTreeMap<(u64, u64), Option<&'static str>>>);

fn by_prefix(list: &[(&[u8], &'static str)], name: &[u8]) -> Option<&'static str> {
    list.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, whose)| *whose)
}

fn by_name(list: &[(&[u8], &'static str)], name: &[u8]) -> Option<&'static str> {
    list.iter().find(|(known, _)| *known == name).map(|(_, whose)| *whose)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What one name of a static symbol table tells.
fn of_symbol(name: &[u8]) -> Option<&'static str> {
    let is_rust = name.starts_with(b"_ZN") || name.starts_with(b"_R");
    if is_rust && contains(name, RUST_THREAD_RNG) {
        return Some("Rust's thread_rng, whose numbers");
    }
    by_name(&NAMES, name)
}

/// What the names of an object's static symbol table tell.
fn of_static_names(source: &dyn Source) -> Option<&'static str> {
    let (start, len) = Object::static_names(source)?;
    let end = start.checked_add(len.min(NAMES_BYTES_MAX))?;
    let (mut at, mut kept) = (start, vec![]);
    while at < end {
        let mut chunk = vec![0; (end - at).min(16 << 10) as usize];
        source.read(at, &mut chunk)?;
        at += chunk.len() as u64;
        let mut names = chunk.split(|byte| *byte == 0);
        // A name that began in the chunk before.
        let first = names.next().unwrap_or_default();
        kept.extend_from_slice(first);
        let mut last: Option<&[u8]> = None;
        for name in names {
            let whole = last.replace(name).map_or_else(|| core::mem::take(&mut kept), <[u8]>::to_vec);
            if let Some(whose) = of_symbol(&whole) {
                return Some(whose);
            }
        }
        match last {
            Some(last) => kept = last.to_vec(),
            // A name longer than a chunk is nobody's.
            None if kept.len() > chunk.len() => kept.clear(),
            None => {}
        }
    }
    of_symbol(&kept)
}

impl Kernel {
    /// Why clones of this guest would draw the same secrets, if they would.
    pub(in crate::kernel) fn fixed_generator(&self) -> Option<String> {
        let mut known = super::plan::Known::default();
        for process in self.processes().into_iter().filter(|process| !process.is_zombie()) {
            let found = self.fixed_in(&process).or_else(|| {
                let plan = self.plan(&process, &mut known);
                let kinds = Kinds { python: false, ..plan.kinds() };
                (kinds.native && self.choose(&process, kinds).is_none())
                    .then_some("a generator that no thread of it can seed anew, whose numbers")
            });
            if let Some(whose) = found {
                let name = self.thread(process.pid).map(|thread| thread.comm_bytes()).unwrap_or_default();
                let name = String::from_utf8_lossy(&name).into_owned();
                return Some(format!(
                    "process {} ({name}) has {whose} would be the same in all clones",
                    process.pid
                ));
            }
        }
        None
    }

    fn fixed_in(&self, process: &Process) -> Option<&'static str> {
        let path = process.program.borrow().path.clone();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if let Some(whose) = by_name(&PROGRAMS, name) {
            return Some(whose);
        }
        if node::is_node(&path) && !process.program.borrow().has_module {
            return Some("Node.js without our module, whose UUIDs");
        }
        let space = process.space();
        let space = space.borrow();
        let mut last = (0, 0);
        for area in space.areas() {
            let Backing::Object { pager, .. } = &area.backing else { continue };
            if core::mem::replace(&mut last, pager.identity()) == last {
                continue;
            }
            let path = pager.name();
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if name.starts_with(b"libgnutls.so") && process.threads.borrow().len() > 1 {
                return Some("GnuTLS, which each of its threads has its own generator of, whose numbers");
            }
            if let Some(whose) = by_prefix(&FILES, name).or_else(|| self.fixed_in_object(&**pager)) {
                return Some(whose);
            }
        }
        None
    }

    fn fixed_in_object(&self, pager: &dyn Pager) -> Option<&'static str> {
        let identity = pager.identity();
        if let Some(known) = self.seen.0.borrow().get(&identity) {
            return *known;
        }
        let source = Mapped { frames: &self.frames, pager };
        let exported =
            |name: &[u8]| Object::read(&source).is_some_and(|object| object.function(name).is_some());
        let found = if super::plan::is_unknown_openssl(&source) {
            Some("an OpenSSL that is not 1.1.1 or 3, whose numbers")
        } else {
            // What it exports as well is called.
            of_static_names(&source).filter(|_| !NAMES[..2].iter().any(|(name, _)| exported(name)))
        };
        self.seen.0.borrow_mut().insert(identity, found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn executable(source: &str, options: &[&str]) -> Vec<u8> {
        let dir = std::env::temp_dir().join(format!("seuss-fixed-{}-{}", std::process::id(), options.len()));
        std::fs::create_dir_all(&dir).unwrap();
        let (input, output) = (dir.join("a.c"), dir.join("a"));
        std::fs::write(&input, source).unwrap();
        let made = Command::new("cc").args(options).arg("-o").arg(&output).arg(&input).status();
        assert!(made.unwrap().success(), "cc");
        let bytes = std::fs::read(&output).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        bytes
    }

    #[test]
    fn static_symbol_tables_tell_generators() {
        let rust = "int _ZN4rand4rngs6thread10thread_rng17h0123456789abcdefE(void) { return 1; } int main(void) { return 0; }";
        let tells = |bytes: Vec<u8>| of_static_names(&bytes.as_slice());
        assert_eq!(tells(executable(rust, &[])), Some("Rust's thread_rng, whose numbers"));
        assert_eq!(tells(executable(rust, &["-s", "-O1"])), None, "stripped");
        let mbed = "int mbedtls_ctr_drbg_random(void) { return 1; } int main(void) { return mbedtls_ctr_drbg_random(); }";
        // A static one has more names than a chunk.
        assert_eq!(
            tells(executable(mbed, &["-static", "-O0", "-g"])),
            Some("a static mbed TLS, whose numbers")
        );
        assert_eq!(
            tells(executable("int main(void) { return 0; }", &["-static", "-O1", "-g", "-Wall"])),
            None
        );
    }

    #[test]
    fn damaged_tables_tell_nothing_and_end() {
        let good = executable("int main(void) { return 0; }", &["-O1", "-g", "-Wall", "-Wextra", "-pie"]);
        for at in 0..64 {
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = of_static_names(&bad.as_slice());
            }
        }
        let sections = u64::from_le_bytes(good[40..48].try_into().unwrap()) as usize;
        for at in sections..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = of_static_names(&bad.as_slice());
        }
    }

    #[test]
    fn names_are_told_by_what_they_begin_with() {
        assert!(by_prefix(&FILES, b"libgcrypt.so.20").is_some());
        assert!(by_prefix(&FILES, b"libcrypto.so.3").is_none());
        assert_eq!(
            (by_name(&PROGRAMS, b"bun").is_some(), by_name(&PROGRAMS, b"bunny").is_some()),
            (true, false)
        );
    }
}
