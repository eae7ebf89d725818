//! The store of memory snapshots over its socket: put, find, get, leases, budget, tenants, damage, restarts.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;

use daemon_support::{Daemon, may_mount, skip};
use seuss_snapshotter::memory::protocol::{Change, Entry, Fit, Refusal};
use seuss_snapshotter::memory::{Client, ClientError};
use seuss_snapshotter::snapshot::{
    CpuSet, Facts, ImageRef, KeepWorkingSet, Level, PAGE, Placed, Snapshot, SnapshotId, Store, WorkPage,
};

fn facts(level: Level, key: &str) -> Facts {
    Facts {
        level,
        key: key.into(),
        name: format!("name of {key}"),
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
        terminal: false,
        command: "python3 -c x".into(),
        images: vec![ImageRef { digest: [9; 32], len_bytes: 8192 }],
        listeners: Vec::new(),
    }
}

/// A guest's snapshots before they are put: a directory of the client's own.
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

    /// A snapshot of `pages` pages, all of `byte`.
    fn make(&self, parent: Option<&Snapshot>, level: Level, key: &str, pages: u32, byte: u8) -> Snapshot {
        let mut draft = self.store.draft(parent).unwrap();
        let placed: Vec<Placed> =
            (0..pages).map(|pfn| draft.add_page(pfn, &[byte; PAGE as usize]).unwrap()).collect();
        draft.add_table(9, &[0xee; PAGE as usize]).unwrap();
        draft.commit(facts(level, key), &[], &placed).unwrap()
    }

    fn files(&self, snapshot: &Snapshot) -> [File; 3] {
        let dir = self.dir.path().join("snapshots").join(snapshot.id().to_string());
        ["pages", "tables", "manifest"].map(|name| File::open(dir.join(name)).unwrap())
    }

    fn put(&self, client: &Client, snapshot: &Snapshot) -> Result<Entry, ClientError> {
        let files = self.files(snapshot);
        client.put(files.each_ref().map(AsFd::as_fd), &BTreeMap::new(), false)
    }
}

/// A tmpfs of its own, unmounted when it is dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = std::ffi::CString::new(format!("size={size}")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("seuss-test", dir.path(), "tmpfs", flags, data.as_c_str()).unwrap();
        Self(dir)
    }

    fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.0.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// As layers do.
    fn fill(&self, name: &str, bytes: u64) {
        std::fs::write(self.0.path().join(name), vec![1; bytes as usize]).unwrap();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
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

fn read(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[tokio::test]
async fn what_is_put_is_found_and_got() {
    let daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, ""), Workshop::new());
    let base = shop.make(None, Level::Base, "python", 4, 1);
    let function = shop.make(Some(&base), Level::Function, "app", 2, 2);
    refused(shop.put(&client, &function), Refusal::NotFound, &base.id().to_string());
    let entry = shop.put(&client, &base).unwrap();
    assert_eq!((entry.level.as_str(), entry.key.as_str(), entry.depth), ("base", "python", 1));
    shop.put(&client, &function).unwrap();
    // Again: it is there.
    assert_eq!(shop.put(&client, &function).unwrap().id, function.id().to_string());

    let list = client.list().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].children, list[1].parent.clone()), (1, base.id().to_string()));
    let keys = ["other", "app", "python"].map(String::from);
    assert_eq!(client.find(&keys, &Fit::default()).unwrap().unwrap().id, function.id().to_string());
    assert_eq!(client.find(&keys[2..], &Fit::default()).unwrap().unwrap().id, base.id().to_string());
    assert_eq!(client.find(&keys[..1], &Fit::default()).unwrap(), None);
    let fit = Fit {
        abi_version: 2,
        kernel: "07".repeat(32),
        cpu_features: vec!["avx".into(), "sse2".into()],
        xcr0: 7,
        xsave_bytes: 832,
    };
    assert!(client.find(&keys, &fit).unwrap().is_some());
    assert_eq!(client.find(&keys, &Fit { abi_version: 3, ..fit.clone() }).unwrap(), None);
    assert_eq!(client.find(&keys, &Fit { xcr0: 0xe7, ..fit.clone() }).unwrap(), None);
    assert_eq!(client.find(&keys, &Fit { xsave_bytes: 2696, ..fit.clone() }).unwrap(), None);
    assert_eq!(client.find(&keys, &Fit { cpu_features: vec!["avx".into()], ..fit }).unwrap(), None);

    let got = client.get(&function.id().to_string()).unwrap();
    let [pages, tables, manifest] = shop.files(&function);
    assert_eq!(read(&got.files.pages), read(&pages));
    assert_eq!(read(&got.files.tables), read(&tables));
    assert_eq!(read(&got.files.manifest), read(&manifest));
    // Read-only, whoever has them.
    assert!(got.files.pages.write_at(b"x", 0).is_err());
    assert_eq!(got.files.pages.metadata().unwrap().permissions().mode() & 0o777, 0o400);
    assert_eq!(got.entry.leases, 1);
    refused(client.get("00"), Refusal::NotFound, "00");
}

#[tokio::test]
async fn a_processor_that_lacks_something_gets_the_parent() {
    let daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, ""), Workshop::new());
    let base = shop.make(None, Level::Base, "python", 4, 1);
    let mut richer = facts(Level::Function, "app");
    richer.cpu.features.insert(1, "avx512f".into());
    let function = shop.store.draft(Some(&base)).unwrap().commit(richer, &[], &[]).unwrap();
    shop.put(&client, &base).unwrap();
    shop.put(&client, &function).unwrap();
    let keys = ["app", "python"].map(String::from);
    let found = |features: &[&str]| {
        let cpu_features = features.iter().map(|&name| name.to_owned()).collect();
        client.find(&keys, &Fit { cpu_features, ..Fit::default() }).unwrap().map(|entry| entry.id)
    };
    assert_eq!(found(&["avx", "avx512f", "sse2"]), Some(function.id().to_string()));
    assert_eq!(found(&["avx", "sha", "sse2"]), Some(base.id().to_string()), "not the function's");
    assert_eq!(found(&["sha", "sse2"]), None);
}

/// What is told of working sets.
#[derive(Debug, Default)]
struct Told(std::sync::Mutex<Vec<(SnapshotId, Vec<WorkPage>)>>);

impl KeepWorkingSet for Told {
    fn keep(&self, id: SnapshotId, pages: &[WorkPage]) {
        self.0.lock().unwrap().push((id, pages.to_vec()));
    }
}

#[tokio::test]
async fn a_lineage_comes_with_its_working_set() {
    let daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, ""), Workshop::new());
    let base = shop.make(None, Level::Base, "python", 4, 1);
    let function = shop.make(Some(&base), Level::Function, "app", 2, 2);
    shop.put(&client, &base).unwrap();
    shop.put(&client, &function).unwrap();
    let id = function.id().to_string();
    let told = Arc::new(Told::default());
    let keeper: Arc<dyn KeepWorkingSet> = told.clone();
    let lineage = client.lineage(&id, &keeper).unwrap();
    let ids: Vec<_> = lineage.iter().map(Snapshot::id).collect();
    assert_eq!(ids, [base.id(), function.id()], "the root first");
    let leaf = lineage.last().unwrap();
    assert_eq!(leaf.frame_map().unwrap(), function.frame_map().unwrap());
    leaf.verify().unwrap();
    assert!(leaf.working_set().is_empty());
    assert_eq!(client.stat(&base.id().to_string()).unwrap().leases, 1, "all of it is leased");

    // What a clone teaches goes to the keeper, which brings it to the store; the next lineage has it.
    let page = WorkPage { pfn: 1, table: 9, index: 3 };
    leaf.set_working_set(&[page]).unwrap();
    let kept = std::mem::take(&mut *told.0.lock().unwrap());
    assert_eq!(kept, [(function.id(), vec![page])]);
    let mut triples = tempfile::tempfile().unwrap();
    triples.write_all([1_u32, 9, 3].map(u32::to_le_bytes).as_flattened()).unwrap();
    triples.rewind().unwrap();
    client.working_set(&id, triples.as_fd()).unwrap();
    let again = connect(&daemon, "").lineage(&id, &keeper).unwrap();
    assert_eq!(again.last().unwrap().working_set(), [page]);
}

#[tokio::test]
async fn pages_are_streamed_through_a_pipe() {
    let daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, ""), Workshop::new());
    let snapshot = shop.make(None, Level::Base, "streamed", 500, 3);
    let [mut pages, tables, manifest] = shop.files(&snapshot);
    let (reader, writer) = std::io::pipe().unwrap();
    let copy = std::thread::spawn(move || std::io::copy(&mut pages, &mut { writer }).unwrap());
    let entry =
        client.put([reader.as_fd(), tables.as_fd(), manifest.as_fd()], &BTreeMap::new(), true).unwrap();
    copy.join().unwrap();
    assert!(entry.pinned);
    client.verify(&entry.id).unwrap();
}

#[tokio::test]
async fn what_does_not_match_its_manifest_is_refused() {
    let daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, ""), Workshop::new());
    let snapshot = shop.make(None, Level::Base, "k", 3, 1);
    let other = shop.make(None, Level::Base, "k", 3, 2);
    let [_, tables, manifest] = shop.files(&snapshot);
    let [wrong, ..] = shop.files(&other);
    let put = |files: [&File; 3]| client.put(files.map(AsFd::as_fd), &BTreeMap::new(), false);
    refused(put([&wrong, &tables, &manifest]), Refusal::Damaged, "digest");
    // The sources stand at their ends now.
    refused(put([&wrong, &tables, &manifest]), Refusal::Damaged, "manifest");
    let mut torn = tempfile::tempfile().unwrap();
    torn.write_all(b"SEUSSNAP rubbish").unwrap();
    torn.rewind().unwrap();
    let [pages, tables, _] = shop.files(&snapshot);
    refused(put([&pages, &tables, &torn]), Refusal::Damaged, "manifest");
    assert_eq!(client.list().unwrap(), []);
    assert_eq!(std::fs::read_dir(daemon.root().join("memory/snapshots")).unwrap().count(), 0);
    // The connection is still good.
    shop.put(&client, &snapshot).unwrap();
}

#[tokio::test]
async fn changed_bytes_are_refused_by_name() {
    let mut daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, ""), Workshop::new());
    let snapshot = shop.make(None, Level::Base, "k", 3, 1);
    let id = snapshot.id().to_string();
    shop.put(&client, &snapshot).unwrap();
    client.get(&id).unwrap();
    let path = daemon.root().join("memory/snapshots").join(&id).join("pages");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    File::options().write(true).open(&path).unwrap().write_at(b"!", 5000).unwrap();
    refused(client.get(&id), Refusal::Damaged, &id);
    refused(client.verify(&id), Refusal::Damaged, &id);
    daemon.kill();
    daemon.restart().await;
    let client = connect(&daemon, "");
    refused(client.get(&id), Refusal::Damaged, &id);
    // A refused get leaves no lease.
    assert_eq!(client.stat(&id).unwrap().leases, 0);
    client.remove(&id, false).unwrap();
}

#[tokio::test]
async fn a_full_store_evicts_unused_leaves() {
    // Three snapshots of 64 pages fit, four do not.
    let daemon = Daemon::start(&["--memory-budget", "900KiB"]).await;
    let (client, shop) = (connect(&daemon, ""), Workshop::new());
    let base = shop.make(None, Level::Base, "base", 64, 1);
    let children: Vec<_> =
        (0..5).map(|n| shop.make(Some(&base), Level::Function, &format!("f{n}"), 64, 10 + n)).collect();
    let id = |n: usize| children[n].id().to_string();
    shop.put(&client, &base).unwrap();
    shop.put(&client, &children[0]).unwrap();
    shop.put(&client, &children[1]).unwrap();
    let ids = || client.list().unwrap().into_iter().map(|entry| entry.id).collect::<Vec<_>>();
    // Used after the other one: that one goes.
    client.get(&id(0)).unwrap();
    client.release(&id(0)).unwrap();
    shop.put(&client, &children[2]).unwrap();
    assert!(!ids().contains(&id(1)) && ids().contains(&id(0)) && ids().len() == 3);
    // Leased by somebody else: the third one goes.
    let holder = connect(&daemon, "");
    holder.lease(&id(0)).unwrap();
    shop.put(&client, &children[3]).unwrap();
    assert!(ids().contains(&id(0)) && !ids().contains(&id(2)));
    // Leased and pinned: there is no room.
    client.pin(&id(3), true).unwrap();
    let figures = client.usage().unwrap();
    assert_eq!((figures.evictable_bytes, figures.evicted, figures.leases), (0, 2, 1));
    refused(shop.put(&client, &children[4]), Refusal::Full, "raise memory_budget");
    assert_eq!(ids().len(), 3);
    refused(client.remove(&id(0), false), Refusal::InUse, &id(0));
    refused(client.remove(&base.id().to_string(), true), Refusal::InUse, &id(0));
    // The end of a connection releases what it leased.
    drop(holder);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while client.usage().unwrap().leases > 0 {
        assert!(std::time::Instant::now() < deadline, "the lease stays");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    shop.put(&client, &children[4]).unwrap();
    assert!(ids().contains(&id(4)) && !ids().contains(&id(0)));
    // Only what is pinned, and what it builds on, cannot go.
    client.shrink(0).unwrap();
    assert_eq!(ids(), [base.id().to_string(), id(3)]);
}

#[tokio::test]
async fn tenants_share_nothing() {
    let daemon = Daemon::start(&[]).await;
    let (node, red, blue) = (connect(&daemon, ""), connect(&daemon, "red"), connect(&daemon, "blue"));
    let shop = Workshop::new();
    let base = shop.make(None, Level::Base, "python", 2, 1);
    let function = shop.make(Some(&base), Level::Function, "app", 2, 2);
    let id = function.id().to_string();
    shop.put(&red, &base).unwrap();
    shop.put(&red, &function).unwrap();
    let keys = ["app", "python"].map(String::from);
    assert_eq!(red.find(&keys, &Fit::default()).unwrap().unwrap().id, id);
    assert_eq!(blue.find(&keys, &Fit::default()).unwrap(), None, "not even the base level");
    assert_eq!(
        (red.list().unwrap().len(), blue.list().unwrap().len(), node.list().unwrap().len()),
        (2, 0, 2)
    );
    for id in [id.clone(), base.id().to_string()] {
        refused(blue.get(&id), Refusal::NotFound, &id);
        refused(blue.lease(&id), Refusal::NotFound, &id);
        refused(blue.remove(&id, false), Refusal::NotFound, &id);
    }
    refused(blue.shrink(0), Refusal::Denied, "node");
    let argument = shop.make(Some(&function), Level::Argument, "arg", 1, 3);
    refused(shop.put(&blue, &argument), Refusal::NotFound, &id);
    shop.put(&red, &argument).unwrap();
}

#[tokio::test]
async fn a_snapshot_whose_first_clones_die_is_struck_out() {
    let mut daemon = Daemon::start(&[]).await;
    let client = connect(&daemon, "red");
    let shop = Workshop::new();
    let function = shop.make(None, Level::Function, "app", 2, 1);
    let argument = shop.make(Some(&function), Level::Argument, "arg", 1, 2);
    let good = shop.make(None, Level::Function, "good", 2, 3);
    for snapshot in [&function, &argument, &good] {
        shop.put(&client, snapshot).unwrap();
    }
    let ids = [&function, &argument, &good].map(|snapshot| snapshot.id().to_string());
    // One clone of each dies; then one of the good snapshot lives, and whatever dies later does not count.
    for id in [&ids[0], &ids[2]] {
        client.outcome(id, false).unwrap();
    }
    client.outcome(&ids[2], true).unwrap();
    client.outcome(&ids[2], false).unwrap();
    client.outcome(&ids[2], false).unwrap();
    let find = |key: &str| client.find(&[key.to_owned()], &Fit::default()).unwrap().map(|entry| entry.id);
    assert_eq!([find("app"), find("good")], [Some(ids[0].clone()), Some(ids[2].clone())]);
    refused(connect(&daemon, "blue").outcome(&ids[0], false), Refusal::NotFound, &ids[0]);
    // The second death strikes it out, with what builds on it; what is leased stays for those who have it.
    let holder = connect(&daemon, "red");
    holder.lease(&ids[1]).unwrap();
    client.outcome(&ids[0], false).unwrap();
    assert_eq!([find("app"), find("arg"), find("good")], [None, None, Some(ids[2].clone())]);
    refused(client.get(&ids[0]), Refusal::NotFound, "died young");
    let unusable =
        |client: &Client| client.list().unwrap().iter().filter(|it| !it.unusable.is_empty()).count();
    assert_eq!(unusable(&client), 2);
    // That is known after a restart, too, and it goes with the last lease.
    drop(holder);
    daemon.kill();
    daemon.restart().await;
    let client = connect(&daemon, "red");
    let left: Vec<String> = client.list().unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(left, [ids[2].clone()]);
    client.given_up("exec").unwrap();
    refused(client.given_up("no such\nword"), Refusal::Invalid, "word");
}

#[tokio::test]
async fn notes_survive_a_kill_and_drafts_do_not() {
    let mut daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, "red"), Workshop::new());
    let base = shop.make(None, Level::Base, "python", 2, 1);
    let function = shop.make(Some(&base), Level::Function, "app", 2, 2);
    let id = function.id().to_string();
    shop.put(&client, &base).unwrap();
    shop.put(&client, &function).unwrap();
    client.label(&id, &[("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into()).unwrap();
    client.label(&id, &[("b".to_owned(), String::new())].into()).unwrap();
    client.pin(&id, true).unwrap();
    let mut triples = tempfile::tempfile().unwrap();
    triples.write_all(&[1u32, 2, 3].map(u32::to_le_bytes).concat()).unwrap();
    triples.rewind().unwrap();
    client.working_set(&id, triples.as_fd()).unwrap();
    let before = client.stat(&id).unwrap();
    assert_eq!(before.labels, [("a".to_owned(), "1".to_owned())].into());
    daemon.kill();
    let memory = daemon.root().join("memory");
    std::fs::create_dir(memory.join("snapshots/.draft-put-7")).unwrap();
    std::fs::write(memory.join("snapshots/.draft-put-7/pages"), "half").unwrap();
    std::fs::write(memory.join("notes").join("0".repeat(32)), "{}").unwrap();
    daemon.restart().await;
    let client = connect(&daemon, "red");
    assert_eq!(client.stat(&id).unwrap(), before);
    client.verify(&id).unwrap();
    assert_eq!(std::fs::read_dir(memory.join("snapshots")).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(memory.join("notes")).unwrap().count(), 2);
    let kept = Snapshot::open(&memory.join("snapshots").join(&id)).unwrap();
    assert_eq!(kept.working_set().len(), 1);
    // The lease of a guest that runs is taken again by its shim.
    client.lease(&id).unwrap();
    refused(client.remove(&id, false), Refusal::InUse, "in use");
}

#[tokio::test]
async fn watchers_hear_what_they_may_see() {
    let daemon = Daemon::start(&[]).await;
    let (client, shop) = (connect(&daemon, "red"), Workshop::new());
    let base = shop.make(None, Level::Base, "python", 2, 1);
    let function = shop.make(Some(&base), Level::Function, "app", 2, 2);
    let watch = |tenant: &str, count: usize| {
        let watcher = connect(&daemon, tenant);
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            ready.send(()).unwrap();
            watcher
                .watch(|change, id| {
                    seen.push((change, id.to_owned()));
                    seen.len() < count
                })
                .unwrap();
            seen
        });
        started.recv().unwrap();
        thread
    };
    let (red, blue) = (watch("red", 3), watch("blue", 1));
    // The watchers' request is under way: give it the time that its answer takes.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (base_id, id) = (base.id().to_string(), function.id().to_string());
    shop.put(&client, &base).unwrap();
    shop.put(&client, &function).unwrap();
    client.pin(&base_id, true).unwrap();
    let other = shop.make(None, Level::Base, "other", 2, 3);
    shop.put(&connect(&daemon, "blue"), &other).unwrap();
    assert_eq!(blue.join().unwrap(), [(Change::Added, other.id().to_string())]);
    assert_eq!(
        red.join().unwrap(),
        [(Change::Added, base_id.clone()), (Change::Added, id), (Change::Changed, base_id)]
    );
}

/// Layers and memory snapshots share a tmpfs: its reserve stays free, whatever the budget allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_go_when_layers_need_the_space() {
    if !may_mount() {
        skip("needs root (mounts)");
        return;
    }
    const MIB: u64 = 1 << 20;
    let tmpfs = Tmpfs::new("40m");
    let daemon = Daemon::start_in(tmpfs.0.path(), &["--memory-budget", "30MiB", "--reserve", "6MiB"]).await;
    let client = Client::connect(&daemon.store_socket(), "").unwrap();
    let shop = Workshop::new();
    // A bit more than 4 MiB each: 16 of the 30 MiB of the budget.
    let snapshots: Vec<_> =
        (0..8).map(|n| shop.make(None, Level::Base, &format!("key {n}"), 1050, n)).collect();
    for snapshot in &snapshots[..4] {
        shop.put(&client, snapshot).unwrap();
    }
    assert_eq!(client.usage().unwrap().evicted, 0);
    // Layers take what was left: the next one does not fit beside them.
    tmpfs.fill("layers", tmpfs.free_bytes() - 7 * MIB);
    shop.put(&client, &snapshots[4]).unwrap();
    assert_eq!(client.usage().unwrap().evicted, 1);
    refused(client.stat(&snapshots[0].id().to_string()), Refusal::NotFound, "no snapshot");
    assert!(tmpfs.free_bytes() >= 6 * MIB);
    // Through pipes, too, whose content tells its size only when it is read.
    let [pages, tables, manifest] = shop.files(&snapshots[5]);
    let piped = [pages, tables, manifest].map(|mut file| {
        let (end, mut start) = std::io::pipe().unwrap();
        (end, std::thread::spawn(move || std::io::copy(&mut file, &mut start)))
    });
    let ends = piped.each_ref().map(|(end, _)| end.as_fd());
    client.put(ends, &BTreeMap::new(), false).unwrap();
    assert_eq!(client.usage().unwrap().evicted, 2);
    assert!(tmpfs.free_bytes() >= 6 * MIB);
    // What is leased or pinned stays, and then it is said, and nothing else is lost for it.
    let kept = [2, 3, 4].map(|n: usize| snapshots[n].id().to_string());
    kept.iter().for_each(|id| client.pin(id, true).unwrap());
    client.get(&snapshots[5].id().to_string()).unwrap();
    let before = (tmpfs.free_bytes(), client.usage().unwrap());
    refused(shop.put(&client, &snapshots[6]), Refusal::Full, "beside the image layers");
    assert_eq!(client.usage().unwrap(), before.1);
    // The daemon's log is on it, too.
    assert!(tmpfs.free_bytes().abs_diff(before.0) < 64 << 10);
    // Two would have to go, one could: it stays.
    client.pin(&kept[0], false).unwrap();
    let large = shop.make(None, Level::Base, "large", 2200, 9);
    refused(shop.put(&client, &large), Refusal::Full, "raise the size");
    client.stat(&kept[0]).unwrap();
    shop.put(&client, &snapshots[6]).unwrap();
    refused(client.stat(&kept[0]), Refusal::NotFound, "no snapshot");
    std::fs::remove_file(tmpfs.0.path().join("layers")).unwrap();
    shop.put(&client, &snapshots[7]).unwrap();
    assert_eq!(client.usage().unwrap().evicted, 3);
}

/// A daemon in a PID namespace of its own does not see the processes of its clients, and serves them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_outside_of_the_pid_namespace_are_served() {
    if !may_mount() {
        skip("needs root (namespaces)");
        return;
    }
    let mut daemon = Daemon::start(&[]).await;
    daemon.kill();
    daemon.set_before(Some("exec unshare --pid --fork --kill-child \"$@\"; true"));
    daemon.restart().await;
    let client = Client::connect(&daemon.store_socket(), "").unwrap();
    let shop = Workshop::new();
    shop.put(&client, &shop.make(None, Level::Base, "key", 10, 1)).unwrap();
    assert_eq!(client.list().unwrap().len(), 1);
}
