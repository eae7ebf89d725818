//! SIGKILL at random moments of put, evict and remove under load: after each restart every snapshot verifies, what was acknowledged is there
//! (as far as the budget keeps it), and nothing else is. `SEUSS_KILLS`, `SEUSS_SEED` as in daemon_crash.rs.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon_support::Daemon;
use seuss_snapshotter::memory::{Client, ClientError};
use seuss_snapshotter::snapshot::{CpuSet, Facts, Level, PAGE, Snapshot, Store};

const WORKERS: u64 = 3;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn facts(key: String) -> Facts {
    Facts {
        level: Level::Base,
        key,
        name: String::new(),
        abi_version: 2,
        kernel: [7; 32],
        cpu: CpuSet::default(),
        private_bytes: 16 << 20,
        reserved_bytes: 4096,
        pml4_gpa: 0x1_0000_0000,
        created_ns: std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
        monotonic_ns: 5,
        boottime_offset_ns: 0,
        generation: 0,
        terminal: false,
        command: String::new(),
        images: Vec::new(),
        listeners: Vec::new(),
    }
}

/// A snapshot of 40 pages, and its files.
fn make(store: &Store, parent: Option<&Snapshot>, key: String) -> (Snapshot, [PathBuf; 3]) {
    let byte = key.bytes().fold(1_u8, u8::wrapping_add);
    let mut draft = store.draft(parent).unwrap();
    let placed: Vec<_> = (0..40).map(|pfn| draft.add_page(pfn, &[byte; PAGE as usize]).unwrap()).collect();
    let snapshot = draft.commit(facts(key), &placed, &placed).unwrap();
    let dir = store.root().join("snapshots").join(snapshot.id().to_string());
    (snapshot, ["pages", "tables", "manifest"].map(|name| dir.join(name)))
}

/// Puts chains of snapshots, and removes some, until the daemon is gone; what was acknowledged, and what was removed or about to be.
fn load(socket: &Path, shop: &Store, tag: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut there, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let Ok(client) = Client::connect(socket, "") else { return (there, gone) };
    for round in 0.. {
        let mut parent: Option<Snapshot> = None;
        for depth in 0..3 {
            let (snapshot, files) = make(shop, parent.as_ref(), format!("{tag}/{round}/{depth}"));
            let files = files.map(|path| File::open(path).unwrap());
            match client.put(files.each_ref().map(AsFd::as_fd), &BTreeMap::new(), false) {
                Ok(entry) => there.insert(entry.id),
                // Its parent was evicted.
                Err(ClientError::Refused { .. }) => break,
                Err(_) => return (there, gone),
            };
            parent = Some(snapshot);
        }
        if round % 3 == 2
            && let Some(leaf) = parent
        {
            let id = leaf.id().to_string();
            gone.insert(id.clone());
            there.remove(&id);
            if matches!(client.remove(&id, false), Err(ClientError::Io(_))) {
                return (there, gone);
            }
        }
    }
    (there, gone)
}

async fn kills(budget: &str, keeps_all: bool) {
    let kills = number("SEUSS_KILLS", 12) / 2;
    let mut seed = number("SEUSS_SEED", 42).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut daemon = Daemon::start(&["--memory-budget", budget]).await;
    let mut known = BTreeSet::new();
    for kill in 0..kills {
        let (mut workers, mut shops) = (Vec::new(), Vec::new());
        for worker in 0..WORKERS {
            let dir = tempfile::tempdir().unwrap();
            let (socket, shop) = (daemon.store_socket(), Store::open(dir.path()).unwrap());
            shops.push(dir);
            workers.push(std::thread::spawn(move || load(&socket, &shop, &format!("{kill}/{worker}"))));
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros(2_000 + (seed >> 33) % 80_000));
        daemon.kill();
        let mut removed = BTreeSet::new();
        for worker in workers {
            let (there, gone) = worker.join().unwrap();
            known.extend(there);
            removed.extend(gone);
        }
        known.retain(|id| !removed.contains(id));
        daemon.restart().await;
        let client = Client::connect(&daemon.store_socket(), "").unwrap();
        let entries = client.list().unwrap();
        let listed: BTreeSet<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        for entry in &entries {
            client.verify(&entry.id).unwrap();
            assert!(entry.parent.is_empty() || listed.contains(&entry.parent), "an orphan: {entry:?}");
        }
        if keeps_all {
            let lost: Vec<_> = known.difference(&listed).collect();
            assert!(lost.is_empty(), "kill {kill}: lost {lost:?}");
        }
        let figures = client.usage().unwrap();
        assert!(figures.used_bytes <= figures.budget_bytes && figures.leases == 0, "{figures:?}");
        let count = |dir: &str| std::fs::read_dir(daemon.root().join("memory").join(dir)).unwrap().count();
        assert_eq!(count("snapshots"), listed.len(), "kill {kill}");
        assert!(count("notes") <= listed.len(), "kill {kill}: notes of nothing");
        // What was under way may have arrived.
        known = listed;
        if known.len() > 100 {
            client.shrink(0).unwrap();
            known.clear();
        }
    }
    println!("{kills} kills, {} snapshots at the end", known.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_is_there() {
    kills("64MiB", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eviction_is_never_half_done() {
    kills("2MiB", false).await;
}
