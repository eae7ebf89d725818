//! Memory snapshots move between stores of nodes as archives, over the daemons' sockets.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::path::PathBuf;
use std::sync::Arc;

use daemon_support::Daemon;
use seuss_snapshotter::artifact::{Archive, ArtifactError, Trust, export};
use seuss_snapshotter::memory::Client;
use seuss_snapshotter::snapshot::{
    CpuSet, Facts, KeepWorkingSet, Level, PAGE, Snapshot, SnapshotId, Store, WorkPage,
};

fn facts(level: Level) -> Facts {
    Facts {
        level,
        key: format!("key of a {level}"),
        name: String::new(),
        abi_version: 2,
        kernel: [7; 32],
        cpu: CpuSet::default(),
        private_bytes: 64 << 20,
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

/// A base and a function upon it, of more pages than a pipe holds; the archive of both.
fn archive(dir: &tempfile::TempDir) -> (Vec<SnapshotId>, PathBuf) {
    let store = Store::open(dir.path()).unwrap();
    let mut lineage: Vec<Snapshot> = Vec::new();
    for (level, byte) in [(Level::Base, 1), (Level::Function, 2)] {
        let mut draft = store.draft(lineage.last()).unwrap();
        let placed: Vec<_> =
            (0..500).map(|pfn| draft.add_page(pfn, &[byte; PAGE as usize]).unwrap()).collect();
        draft.add_table(9, &[0xee; PAGE as usize]).unwrap();
        lineage.push(draft.commit(facts(level), &[], &placed).unwrap());
    }
    lineage[1].set_working_set(&[WorkPage { pfn: 3, table: 9, index: 7 }]).unwrap();
    let path = dir.path().join("archive.tar");
    let mut file = std::fs::File::create_new(&path).unwrap();
    export(&mut file, &lineage, &mut |_| None, None).unwrap();
    (lineage.iter().map(Snapshot::id).collect(), path)
}

#[derive(Debug)]
struct Nobody;

impl KeepWorkingSet for Nobody {
    fn keep(&self, _: SnapshotId, _: &[WorkPage]) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lineage_moves_from_node_to_node() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, path) = archive(&dir);
    let daemon = Daemon::start(&[]).await;
    let client = Client::connect(&daemon.store_socket(), "shop").unwrap();
    let imported = Archive::open(&path, &Trust::Anybody).unwrap().into_daemon(&client).unwrap();
    assert_eq!((&imported.added, imported.known.len()), (&ids, 0));
    let entries = client.list().unwrap();
    assert_eq!(entries.iter().map(|entry| &*entry.tenant).collect::<Vec<_>>(), ["shop", "shop"]);
    for entry in &entries {
        client.verify(&entry.id).unwrap();
    }
    let again = Archive::open(&path, &Trust::Anybody).unwrap().into_daemon(&client).unwrap();
    assert_eq!((again.added.len(), &again.known), (0, &ids));
    // Out of the daemon comes what went in, working set and all.
    let keeper: Arc<dyn KeepWorkingSet> = Arc::new(Nobody);
    let lineage = client.lineage(&ids[1].to_string(), &keeper).unwrap();
    let mut bytes = Vec::new();
    export(&mut bytes, &lineage, &mut |_| None, None).unwrap();
    assert!(bytes == std::fs::read(&path).unwrap(), "the archive of the daemon's snapshots is another one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_ends_an_import() {
    let dir = tempfile::tempdir().unwrap();
    let (ids, path) = archive(&dir);
    // The second does not fit.
    let daemon = Daemon::start(&["--memory-budget", "3MiB"]).await;
    let client = Client::connect(&daemon.store_socket(), "").unwrap();
    let error = Archive::open(&path, &Trust::Anybody).unwrap().into_daemon(&client).unwrap_err();
    assert!(matches!(&error, ArtifactError::Refused { id, .. } if *id == ids[1]), "{error}");
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(client.list().unwrap().len(), 1);
    // Damage of pages is found by the daemon, which has read them by then.
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(4096).position(|page| page == [1; 4096]).unwrap();
    bytes[at + 5000] = 7;
    std::fs::write(&path, bytes).unwrap();
    client.remove(&ids[0].to_string(), false).unwrap();
    let error = Archive::open(&path, &Trust::Anybody).unwrap().into_daemon(&client).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
    assert_eq!(client.list().unwrap().len(), 0);
}
