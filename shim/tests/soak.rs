//! Restores and exits of one snapshot, over and over in one process: nothing is left of them.
//!
//! `SEUSS_SOAK_RESTORES`: how many (make soak: 100,000). A test target of its own, since it looks at its whole process.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::skip_without_kvm;
use seuss_abi::spec::ProcessSpec;
use seuss_shim::guest::{CloneConfig, Guest, NetPrivileges, Origin, ShellPool, Stdio};
use seuss_snapshotter::snapshot::Store;

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");
/// So many run at once.
const LOOPS: usize = 4;
/// Restores of which it is not known yet what they leave: caches fill, clones are learnt from.
const WARM_UP: usize = 100;
/// Memory of this process may differ by so much between two looks.
const SLACK_KIB: usize = 4096;

/// A program that asks for its snapshot and ends; clones have nothing to do but to end.
const PROGRAM: &str = "#include <fcntl.h>\n#include <unistd.h>\n\
    int main(void) { return write(open(\"/dev/seuss\", O_RDWR), \"snapshot function soak\", 22) != 22; }\n";

/// What this process has, and what lies in the store.
#[derive(Clone, Copy, Debug)]
struct Look {
    rss_kib: usize,
    threads: usize,
    descriptors: usize,
    mappings: usize,
    store_bytes: u64,
}

impl Look {
    fn now(store: &Path) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| -> usize {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            rss_kib: field("VmRSS:"),
            threads: field("Threads:"),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            mappings: fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
            store_bytes: size_of_tree(store),
        }
    }
}

/// A look after threads that have nothing more to do are gone.
fn settled(store: &Path) -> Look {
    std::thread::sleep(Duration::from_millis(300));
    Look::now(store)
}

fn size_of_tree(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let sizes = entries.map(|entry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => size_of_tree(&entry.path()),
        _ => entry.metadata().unwrap().len(),
    });
    sizes.sum()
}

/// Restore and end `count` clones, from a pool that ends with them.
fn soak(origin: &Arc<Origin>, store: &Path, count: usize) {
    let pool = ShellPool::new(Arc::clone(origin), LOOPS + 1).unwrap();
    let restore = || {
        pool.wait().unwrap();
        let config = CloneConfig {
            origin: Arc::clone(origin),
            process: ProcessSpec { args: vec![b"soak".to_vec()], ..ProcessSpec::default() },
            stdio: Stdio::default(),
            name: "soak".to_owned(),
            privileges: NetPrivileges::default(),
            snapshots: None,
            pool: Some(Arc::clone(&pool)),
        };
        let guest = Guest::restore(config, |_| {}).unwrap();
        assert_eq!(guest.wait().unwrap().code(), Some(0));
    };
    let (begun, began) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..LOOPS {
            scope.spawn(|| {
                loop {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    restore();
                    if number.is_multiple_of((count / 20).max(1)) {
                        let seconds = began.elapsed().as_secs_f64();
                        println!("{number} of {count} restores in {seconds:.1} s: {:?}", Look::now(store));
                    }
                }
            });
        }
    });
}

#[test]
fn restores_and_exits_leave_nothing() {
    if skip_without_kvm() {
        return;
    }
    let count: usize =
        std::env::var("SEUSS_SOAK_RESTORES").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let dir = tempfile::tempdir().unwrap();
    let (root, store) = (dir.path().join("root"), dir.path().join("store"));
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("soak.c"), PROGRAM).unwrap();
    let compiled = Command::new("cc")
        .args(["-static", "-O1", "-o"])
        .args([root.join("soak"), dir.path().join("soak.c")])
        .status();
    assert!(compiled.unwrap().success(), "cc cannot build soak");
    let taken = Command::new(SEUSSCTL)
        .args(["run", "--memory", "32M", "--rootfs"])
        .arg(&root)
        .args(["--", "/soak"])
        .env("SEUSS_STORE", &store)
        .status();
    assert!(taken.unwrap().success(), "no snapshot");

    let opened = Store::open(&store).unwrap();
    let origin = Origin::open(&opened, opened.resolve("soak").unwrap()).unwrap();
    soak(&origin, &store, WARM_UP);
    let first = settled(&store);
    let began = Instant::now();
    soak(&origin, &store, count);
    let took = began.elapsed();
    let last = settled(&store);
    println!("{count} restores, {:.0} a second: {first:?}, then {last:?}", count as f64 / took.as_secs_f64());
    assert!(last.threads <= first.threads && last.descriptors <= first.descriptors, "{first:?} {last:?}");
    assert_eq!(last.store_bytes, first.store_bytes);
    // The allocator may keep a few more arenas and stacks than before, whatever the count.
    assert!(last.mappings <= first.mappings + 16, "{first:?} {last:?}");
    assert!(last.rss_kib <= first.rss_kib + SLACK_KIB, "{first:?} {last:?}");
}
