//! A bounded fuzzer on stable Rust: real EROFS images, manifests and archives, mutated, for `SEUSS_FUZZ_SECONDS` (2; `make test` takes more).
//!
//! Mutations are followed by mending the checksum most of the time, so that they get past it. The sequence depends on the seed alone
//! (`SEUSS_SEED`); a failure prints the round, and the input's path.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use seuss_snapshotter::artifact::export;
use seuss_snapshotter::erofs::{self, BuildOptions, format};
use seuss_snapshotter::fuzz;
use seuss_snapshotter::snapshot::{CpuSet, Facts, ImageRef, Level, PAGE, Snapshot, Store, manifest};
use sha2::{Digest, Sha256};

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Changes a few places. `hot` are ranges where the structure is.
fn mutate(bytes: &mut Vec<u8>, hot: &[std::ops::Range<usize>], random: &mut Random) {
    const WORDS: [u64; 10] = [0, 1, 2, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x8000_0000, u64::MAX, 1 << 63];
    for _ in 0..=random.below(4) {
        let range = &hot[random.below(hot.len())];
        let (start, end) = (range.start.min(bytes.len()), range.end.min(bytes.len()));
        if start + 8 >= end {
            continue;
        }
        let at = start + random.below(end - start - 8);
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at..at + 2].copy_from_slice(&(random.next() as u16).to_le_bytes()),
            3 => bytes[at..at + 4].copy_from_slice(&(WORDS[random.below(WORDS.len())] as u32).to_le_bytes()),
            4 => bytes[at..at + 8].copy_from_slice(&WORDS[random.below(WORDS.len())].to_le_bytes()),
            5 => {
                let from = start + random.below(end - start - 8);
                bytes.copy_within(from..from + 8, at);
            }
            _ if random.below(8) == 0 => bytes.truncate(at),
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
}

/// Runs `target` on mutations of `seeds` until the time is over.
fn run(name: &str, seeds: &[(Vec<u8>, Vec<std::ops::Range<usize>>)], mend: fn(&mut [u8]), target: fn(&[u8])) {
    let deadline = Instant::now() + Duration::from_secs(number("SEUSS_FUZZ_SECONDS", 2));
    let mut random = Random(number("SEUSS_SEED", 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut rounds = 0_u64;
    seeds.iter().for_each(|(seed, _)| target(seed));
    while Instant::now() < deadline {
        let (seed, hot) = &seeds[random.below(seeds.len())];
        let mut input = seed.clone();
        mutate(&mut input, hot, &mut random);
        if random.below(8) != 0 {
            mend(&mut input);
        }
        let began = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let path = std::env::temp_dir().join(format!("seuss-fuzz-{name}-{rounds}"));
            std::fs::write(&path, &input).unwrap();
            panic!("round {rounds} fails; the input is {}", path.display());
        }
        assert!(began.elapsed() < Duration::from_secs(30), "round {rounds} takes {:?}", began.elapsed());
        rounds += 1;
    }
    println!("{name}: {rounds} inputs");
}

/// An image of a small tree with everything in it, and where its metadata is.
fn image(dir: &Path, large: bool) -> (Vec<u8>, Vec<std::ops::Range<usize>>) {
    std::fs::create_dir_all(dir.join("usr/lib/deep")).unwrap();
    std::fs::write(dir.join("usr/lib/file"), vec![7; 9000]).unwrap();
    std::fs::hard_link(dir.join("usr/lib/file"), dir.join("usr/other")).unwrap();
    std::os::unix::fs::symlink("usr/lib", dir.join("lib")).unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    if large {
        // A directory of several blocks.
        (0..400)
            .for_each(|n| std::fs::write(dir.join(format!("usr/a-rather-long-name-{n:04}")), "x").unwrap());
    }
    let path = dir.with_extension("erofs");
    let file = std::fs::File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    erofs::build_from_dir(dir, &file, &BuildOptions::default()).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let block: [u8; format::SUPER_BYTES] =
        bytes[format::SUPER_OFFSET..format::SUPER_OFFSET + format::SUPER_BYTES].try_into().unwrap();
    let meta = format::Superblock::decode(&block).meta_block as usize * format::BLOCK;
    let hot = vec![
        format::SUPER_OFFSET..format::SUPER_OFFSET + format::SUPER_BYTES,
        meta..bytes.len(),
        meta..meta + 4096,
    ];
    (bytes, hot)
}

fn mend_image(bytes: &mut [u8]) {
    let Some(first) = bytes.first_chunk_mut::<{ format::BLOCK }>() else { return };
    let place = format::SUPER_OFFSET..format::SUPER_OFFSET + format::SUPER_BYTES;
    let raw: [u8; format::SUPER_BYTES] = first[place.clone()].try_into().unwrap();
    let superblock = format::Superblock { checksum: 0, ..format::Superblock::decode(&raw) };
    first[place.clone()].copy_from_slice(&superblock.encode());
    let checksum = format::super_checksum(first);
    first[place].copy_from_slice(&format::Superblock { checksum, ..superblock }.encode());
}

fn mend_manifest(bytes: &mut [u8]) {
    if bytes.len() >= manifest::HEADER_BYTES {
        let len = (bytes.len() - manifest::HEADER_BYTES) as u32;
        bytes[16..20].copy_from_slice(&len.to_le_bytes());
        let digest = Sha256::digest(&bytes[manifest::HEADER_BYTES..]);
        bytes[32..64].copy_from_slice(&digest);
    }
}

#[test]
fn erofs_reader() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = [image(&dir.path().join("small"), false), image(&dir.path().join("large"), true)];
    run("erofs", &seeds, mend_image, fuzz::erofs);
}

/// A base and its child.
fn snapshots(dir: &Path) -> [Snapshot; 2] {
    let store = Store::open(dir).unwrap();
    let facts = || Facts {
        level: Level::Base,
        key: "key".into(),
        name: "name".into(),
        abi_version: 2,
        kernel: [7; 32],
        cpu: CpuSet { xcr0: 7, xsave_bytes: 832, features: vec!["avx".into(), "sse2".into()] },
        private_bytes: 16 << 20,
        reserved_bytes: 4096,
        pml4_gpa: 0x1_0000_0000,
        created_ns: std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        monotonic_ns: 5,
        boottime_offset_ns: -3,
        generation: 1,
        terminal: true,
        command: "python3 -c x".into(),
        images: vec![ImageRef { digest: [9; 32], len_bytes: 8192 }],
        listeners: vec!["tcp 0.0.0.0:80".into()],
    };
    let mut draft = store.draft(None).unwrap();
    let placed = draft.add_page(1, &[1; PAGE as usize]).unwrap();
    let base = draft.commit(facts(), &[placed], &[placed]).unwrap();
    let child = store.draft(Some(&base)).unwrap().commit(facts(), &[], &[placed]).unwrap();
    [base, child]
}

#[test]
fn snapshot_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = snapshots(dir.path()).map(|snapshot| {
        let path = dir.path().join("snapshots").join(snapshot.id().to_string()).join("manifest");
        let bytes = std::fs::read(path).unwrap();
        let all = 0..bytes.len();
        (bytes, vec![all.clone(), 8..64, 64..all.end])
    });
    run("manifest", &seeds, mend_manifest, fuzz::manifest);
}

/// Headers of tar: their sums are right again.
fn mend_archive(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

#[test]
fn snapshot_archive() {
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Vec::new();
    export(&mut archive, &snapshots(dir.path()), &mut |_| None, None).unwrap();
    // Layout and index are in front, and nothing digests them.
    let hot = vec![0..512, 1024..3072, 0..archive.len()];
    run("archive", &[(archive, hot)], mend_archive, fuzz::artifact);
}
