//! What one tenant, one guest may have of the store; layers go before snapshots; what was revoked is gone.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use daemon_support::{Daemon, may_mount, skip};
use seuss_snapshotter::memory::protocol::{Entry, Fit, Provenance, Refusal};
use seuss_snapshotter::memory::{Client, ClientError};
use seuss_snapshotter::snapshot::{CpuSet, Facts, ImageRef, Level, PAGE, Placed, Snapshot, Store};

/// Bytes of a snapshot of 64 pages as the store counts them, about.
const SNAPSHOT: u64 = 280 << 10;

/// Makes snapshots.
struct Workshop {
    dir: tempfile::TempDir,
    store: Store,
}

impl Workshop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { dir, store }
    }

    fn make(&self, parent: Option<&Snapshot>, level: Level, key: &str) -> Snapshot {
        let mut draft = self.store.draft(parent).unwrap();
        let byte = key.bytes().fold(1, u8::wrapping_add);
        let placed: Vec<Placed> =
            (0..64).map(|pfn| draft.add_page(pfn, &[byte; PAGE as usize]).unwrap()).collect();
        draft.add_table(9, &[0xee; PAGE as usize]).unwrap();
        let facts = Facts {
            level,
            key: key.into(),
            name: String::new(),
            abi_version: 2,
            kernel: [7; 32],
            cpu: CpuSet { xcr0: 7, xsave_bytes: 832, features: Vec::new() },
            private_bytes: 16 << 20,
            reserved_bytes: 4096,
            pml4_gpa: 0x1_0000_0000,
            monotonic_ns: 5,
            created_ns: std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
            boottime_offset_ns: 0,
            generation: 1,
            terminal: false,
            command: String::new(),
            images: vec![ImageRef { digest: [9; 32], len_bytes: 8192 }],
            listeners: Vec::new(),
        };
        draft.commit(facts, &[], &placed).unwrap()
    }

    fn files(&self, snapshot: &Snapshot) -> [File; 3] {
        let dir = self.dir.path().join("snapshots").join(snapshot.id().to_string());
        ["pages", "tables", "manifest"].map(|name| File::open(dir.join(name)).unwrap())
    }

    /// Puts what guest `guest` has taken, with `rights`.
    fn put(
        &self,
        client: &Client,
        snapshot: &Snapshot,
        guest: &str,
        rights: &[&str],
    ) -> Result<Entry, ClientError> {
        let rights = rights.iter().map(|&right| right.to_owned()).collect();
        let provenance = Provenance { guest: guest.to_owned(), rights };
        client.put_from(&provenance, self.files(snapshot).each_ref().map(AsFd::as_fd))
    }

    fn put_new(&self, client: &Client, key: &str, guest: &str) -> Result<Entry, ClientError> {
        self.put(client, &self.make(None, Level::Function, key), guest, &[])
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, wanted: Refusal, text: &str) {
    match result {
        Err(ClientError::Refused { refusal, message }) => {
            assert_eq!(refusal, wanted, "{message}");
            assert!(message.contains(text), "{message:?} does not say {text:?}");
        }
        other => panic!("must be refused, but: {other:?}"),
    }
}

fn connect(daemon: &Daemon, tenant: &str) -> Client {
    Client::connect(&daemon.store_socket(), tenant).unwrap()
}

fn is_found(client: &Client, key: &str) -> bool {
    client.find(&[key.to_owned()], &Fit::default()).unwrap().is_some()
}

#[tokio::test]
async fn a_tenant_fills_its_share_and_nobody_elses() {
    let flags = ["--memory-budget", "20MiB", "--tenant-budget", "1MiB", "--guest-budget", "1MiB"];
    let daemon = Daemon::start(&flags).await;
    let shop = Workshop::new();
    let (one, other) = (connect(&daemon, "one"), connect(&daemon, "other"));
    shop.put_new(&other, "theirs", "g").unwrap();
    // Three fit: the oldest of its own goes for each more.
    for n in 0..12 {
        shop.put_new(&one, &format!("k{n}"), &format!("g{n}")).unwrap();
    }
    let keys: Vec<_> = one.list().unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["k9", "k10", "k11"]);
    assert!(is_found(&other, "theirs"));
    let left = one.quota("new").unwrap();
    assert!(left.left_bytes > (1 << 20) - 4096 && left.left_bytes <= 1 << 20, "{left:?}: all of it can go");
    // What is in use does not go, and the refusal has the figures.
    for entry in one.list().unwrap() {
        one.lease(&entry.id).unwrap();
    }
    refused(
        shop.put_new(&one, "k12", "g12"),
        Refusal::Quota,
        "of 1048576 bytes and 3 of 1024 memory snapshots are used",
    );
    let left = one.quota("new").unwrap();
    assert!(left.left_bytes < SNAPSHOT, "{left:?}");
    assert_eq!((left.captures_per_minute, left.left_snapshots), (12, 64));
    shop.put_new(&other, "more of theirs", "g").unwrap();
    // The node itself has no share.
    let node = connect(&daemon, "");
    for n in 0..6 {
        shop.put_new(&node, &format!("n{n}"), "").unwrap();
    }
    assert!(is_found(&other, "theirs"));
}

#[tokio::test]
async fn a_guest_has_a_share_of_its_tenants() {
    let flags = ["--memory-budget", "20MiB", "--guest-snapshots", "2", "--captures-per-minute", "3"];
    let daemon = Daemon::start(&flags).await;
    let shop = Workshop::new();
    let client = connect(&daemon, "one");
    shop.put_new(&client, "sibling", "b").unwrap();
    for n in 0..5 {
        shop.put_new(&client, &format!("k{n}"), "a").unwrap();
    }
    let keys: Vec<_> = client.list().unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["sibling", "k3", "k4"]);
    for entry in client.list().unwrap() {
        client.lease(&entry.id).unwrap();
    }
    refused(shop.put_new(&client, "k5", "a"), Refusal::Quota, "guest a of tenant one");
    let quota = client.quota("a").unwrap();
    assert_eq!((quota.left_snapshots, quota.captures_per_minute), (0, 3));
    // Another one of the same tenant is not hindered.
    assert_eq!(client.quota("b").unwrap().left_snapshots, 1);
    shop.put_new(&client, "k6", "b").unwrap();
    // As it was after a restart: whose a snapshot is lies beside it.
    let mut daemon = daemon;
    daemon.kill();
    daemon.restart().await;
    let client = connect(&daemon, "one");
    assert_eq!(client.list().unwrap().len(), 4);
    shop.put_new(&client, "k7", "a").unwrap();
    assert_eq!(client.list().unwrap().len(), 4, "one of its own went");
}

#[tokio::test]
async fn what_is_announced_too_large_is_not_read() {
    let daemon = Daemon::start(&["--memory-budget", "20MiB", "--tenant-budget", "100KiB"]).await;
    let shop = Workshop::new();
    let client = connect(&daemon, "one");
    let snapshot = shop.make(None, Level::Function, "k");
    let [pages, tables, manifest] = shop.files(&snapshot);
    let files = [pages.as_fd(), tables.as_fd(), manifest.as_fd()];
    refused(client.put_from(&Provenance::default(), files), Refusal::Quota, "bytes more are wanted");
    let at = std::io::Seek::stream_position(&mut &pages).unwrap();
    assert_eq!(at, 0, "nothing was copied");
}

#[tokio::test]
async fn what_was_revoked_is_unusable_at_once_and_gone_with_its_last_user() {
    let mut daemon = Daemon::start(&[]).await;
    let shop = Workshop::new();
    let client = connect(&daemon, "one");
    let function = shop.make(None, Level::Function, "f");
    let argument = shop.make(Some(&function), Level::Argument, "f/a");
    shop.put(&client, &function, "g", &["secret:1", "config:2"]).unwrap();
    shop.put(&client, &argument, "g", &["config:2"]).unwrap();
    shop.put(&client, &shop.make(None, Level::Function, "unconcerned"), "g", &["config:2"]).unwrap();
    let other = connect(&daemon, "other");
    // Nobody else is concerned.
    shop.put(&other, &shop.make(None, Level::Function, "o"), "g", &["secret:1"]).unwrap();
    let id = |snapshot: &Snapshot| snapshot.id().to_string();
    // A clone runs.
    let clone = connect(&daemon, "one");
    let got = clone.get(&id(&argument)).unwrap();

    refused(other.revoke("one", Some("secret:1")), Refusal::Denied, "cannot revoke");
    refused(connect(&daemon, "").revoke("", None), Refusal::Denied, "cannot revoke");
    assert_eq!(client.revoke("one", Some("secret:3")).unwrap(), 0);
    assert_eq!(client.revoke("one", Some("secret:1")).unwrap(), 2, "and what builds on it");
    for key in ["f", "f/a"] {
        assert!(!is_found(&client, key), "{key}");
    }
    assert!(is_found(&client, "unconcerned") && is_found(&other, "o"));
    refused(client.get(&id(&argument)), Refusal::NotFound, "its right secret:1 was revoked");
    refused(client.lease(&id(&function)), Refusal::NotFound, "its right secret:1 was revoked");
    assert!(client.stat(&id(&argument)).unwrap().unusable.contains("secret:1"), "the list says why");
    // The clone goes on, and keeps nothing new of it.
    assert!(got.files.pages.metadata().unwrap().len() > 0);
    let more = shop.make(Some(&argument), Level::Argument, "f/b");
    refused(shop.put(&clone, &more, "g", &[]), Refusal::Revoked, "the snapshot is not kept");
    // Nor does one that boots with the old Secret, and was there before.
    let late = shop.make(None, Level::Function, "late");
    refused(shop.put(&clone, &late, "g", &["secret:1"]), Refusal::Revoked, "its right secret:1");
    // One that comes later has read what is valid now, be it the same.
    shop.put(&connect(&daemon, "one"), &late, "g", &["secret:1"]).unwrap();

    // A daemon that was killed has not forgotten.
    daemon.kill();
    daemon.restart().await;
    let client = connect(&daemon, "one");
    assert!(!is_found(&client, "f") && !is_found(&client, "f/a"));
    // Nobody leases it any more: it is gone as soon as the daemon looks.
    let deadline = Instant::now() + Duration::from_secs(60);
    while daemon.root().join("memory/snapshots").join(id(&function)).exists() {
        assert!(Instant::now() < deadline, "it stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(is_found(&client, "unconcerned"));
    assert_eq!(connect(&daemon, "").revoke("one", None).unwrap(), 2);
    assert_eq!(client.list().unwrap(), []);
}

#[tokio::test]
async fn the_last_lease_takes_what_was_revoked_with_it() {
    let daemon = Daemon::start(&[]).await;
    let shop = Workshop::new();
    let (client, clone) = (connect(&daemon, "one"), connect(&daemon, "one"));
    let entry = shop.put(&client, &shop.make(None, Level::Function, "f"), "g", &["s"]).unwrap();
    client.pin(&entry.id, true).unwrap();
    clone.lease(&entry.id).unwrap();
    client.revoke("one", Some("s")).unwrap();
    let dir = daemon.root().join("memory/snapshots").join(&entry.id);
    assert!(dir.exists());
    clone.release(&entry.id).unwrap();
    assert!(!dir.exists() && client.list().unwrap().is_empty(), "pinned or not");
}

#[tokio::test]
async fn a_hostile_clone_teaches_little() {
    let daemon = Daemon::start(&[]).await;
    let shop = Workshop::new();
    let client = connect(&daemon, "one");
    let id = shop.put_new(&client, "f", "g").unwrap().id;
    let list = |entries: usize| {
        let mut file = tempfile::tempfile().unwrap();
        let words = (0..entries as u32).flat_map(|n| [n % 64, 9, n]);
        file.write_all(&words.flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
        file.rewind().unwrap();
        file
    };
    refused(client.working_set(&id, list(11_265).as_fd()), Refusal::Invalid, "bytes");
    let other = connect(&daemon, "other");
    refused(other.working_set(&id, list(1).as_fd()), Refusal::NotFound, &id);
    let told = (0..100).filter(|n| client.working_set(&id, list(n + 1).as_fd()).is_ok()).count();
    assert_eq!(told, 63, "and one that was refused");
    let file = daemon.root().join("memory/snapshots").join(&id).join("workset");
    assert_eq!(file.metadata().unwrap().len(), 40 + 12 * 63);
}

#[tokio::test]
async fn layers_go_before_snapshots_that_nobody_uses() {
    if !may_mount() {
        return skip("needs root (mounts)");
    }
    // The store is all that there is in this file system: 16 MiB, 12 of which snapshots may take.
    let dir = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(dir.path(), "16M");
    let flags = [
        "--memory-budget",
        "12MiB",
        "--tenant-budget",
        "12MiB",
        "--guest-budget",
        "12MiB",
        "--reserve",
        "1MiB",
        "--layer-room",
        "8MiB",
    ];
    let daemon = Daemon::start_in(dir.path(), &flags).await;
    let shop = Workshop::new();
    let client = connect(&daemon, "one");
    for n in 0..40 {
        shop.put_new(&client, &format!("k{n}"), "g").unwrap();
    }
    let free = || {
        let stat = rustix::fs::statvfs(dir.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    };
    assert!(free() < 6 << 20, "{} bytes are free", free());
    let mut layers = daemon.client().await;
    layers.prepare("container", "").await.unwrap();
    assert!(free() < 6 << 20, "a container's directory needs none of it");
    layers.prepare_with("extract-1", "", &[("containerd.io/snapshot.ref", "sha256:1")]).await.unwrap();
    assert!(free() >= 8 << 20, "{} bytes are free", free());
    assert!(!client.list().unwrap().is_empty(), "no more than that");
    drop(daemon);
    drop(mounted);
}

/// A tmpfs, unmounted when it is dropped.
struct Mounted<'a>(&'a std::path::Path);

impl<'a> Mounted<'a> {
    fn new(dir: &'a std::path::Path, size: &str) -> Self {
        let data = std::ffi::CString::new(format!("size={size}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("seuss-test", dir, "tmpfs", flags, data.as_c_str()).unwrap();
        Self(dir)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}
