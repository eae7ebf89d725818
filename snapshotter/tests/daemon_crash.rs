//! SIGKILL at random moments of prepare, commit, update and remove under load: after each restart everything that was acknowledged is there and verifies,
//! and everything else is gone.
//!
//! `SEUSS_KILLS=200` for more than the few kills of `make test`; `SEUSS_SEED` for other moments.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use daemon_support::{Client, Daemon, images_mounted, may_mount, nearest, upper};
use seuss_snapshotter::daemon::api::Kind;
use seuss_snapshotter::digest::{Algorithm, Hasher};
use seuss_snapshotter::{erofs, lookup};
use tonic::{Code, Status};

const WORKERS: usize = 4;
/// Most committed snapshots that a worker keeps.
const KEPT: usize = 12;

/// xorshift64*: the same seed gives the same load.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// What a worker knows to be there.
#[derive(Clone, Debug, Default)]
struct World {
    /// Committed snapshots: name to parent and content of the file in them.
    committed: BTreeMap<String, (String, String)>,
    active: BTreeSet<String>,
    /// What was under way when the daemon was killed.
    pending: Option<Pending>,
    next: u64,
}

#[derive(Clone, Debug)]
enum Pending {
    Prepare { key: String },
    Commit { key: String, name: String, parent: String, content: String },
    Remove { key: String },
}

/// Whether the daemon's end, and not a refusal, is why a request failed.
fn cut_off(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
        && (status.message().contains("transport")
            || status.message().contains("h2")
            || status.code() != Code::Internal)
}

/// One step of the load; `Err` when the daemon is gone.
async fn step(
    worker: usize,
    world: &mut World,
    client: &mut Client,
    random: &mut Random,
) -> Result<(), Status> {
    let leaves: Vec<String> = world
        .committed
        .keys()
        .filter(|name| !world.committed.values().any(|(parent, _)| parent == *name))
        .cloned()
        .collect();
    if world.committed.len() > KEPT || (!leaves.is_empty() && random.below(4) == 0) {
        let victim = leaves[random.below(leaves.len() as u64) as usize].clone();
        world.pending = Some(Pending::Remove { key: victim.clone() });
        client.remove(&victim).await?;
        world.committed.remove(&victim);
        world.pending = None;
        return Ok(());
    }
    let number = world.next;
    world.next += 1;
    let names: Vec<&String> = world.committed.keys().collect();
    let parent = match random.below(3) {
        0 => String::new(),
        _ if names.is_empty() => String::new(),
        _ => names[random.below(names.len() as u64) as usize].clone(),
    };
    let key = format!("w{worker}/{number}/key");
    world.pending = Some(Pending::Prepare { key: key.clone() });
    let mounts = client.prepare(&key, &parent).await?;
    world.active.insert(key.clone());
    world.pending = None;
    let (dir, content) = (upper(&mounts), format!("content of {number} of {worker}").repeat(400));
    std::fs::create_dir_all(dir.join("a/b")).unwrap();
    std::fs::write(dir.join("a/b/file"), &content).unwrap();
    if random.below(5) == 0 {
        world.pending = Some(Pending::Remove { key: key.clone() });
        client.remove(&key).await?;
        world.active.remove(&key);
        world.pending = None;
        return Ok(());
    }
    let name = format!("w{worker}/{number}/name");
    world.pending = Some(Pending::Commit {
        key: key.clone(),
        name: name.clone(),
        parent: parent.clone(),
        content: content.clone(),
    });
    client.commit_with(&name, &key, &[("made", "here")]).await?;
    world.active.remove(&key);
    world.committed.insert(name.clone(), (parent, content));
    world.pending = None;
    client.update(&name, &[("made", "there")], &["labels.made"]).await?;
    Ok(())
}

async fn load(worker: usize, mut world: World, mut client: Client, mut random: Random) -> World {
    loop {
        if let Err(status) = step(worker, &mut world, &mut client, &mut random).await {
            assert!(cut_off(&status), "worker {worker} was refused: {status:?}");
            return world;
        }
    }
}

/// The bytes that a daemon keeps for a committed snapshot are whole: files, image, digest.
fn verify(dir: &Path, content: &str) {
    assert_eq!(std::fs::read_to_string(dir.join("a/b/file")).unwrap(), content);
    let blob = lookup::layer_blob(dir).unwrap().expect("a committed layer has an image");
    erofs::check(&blob.file, blob.len_bytes).unwrap();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut &blob.file, &mut bytes).unwrap();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(&bytes);
    assert_eq!(hasher.finish(), blob.digest);
}

/// Compares what a restarted daemon has with what a worker knows, and settles what was under way.
async fn settle(worker: usize, world: &mut World, client: &mut Client, views: &mut u64) {
    let infos = client.list(&[&format!("name~=|^w{worker}/|")]).await.unwrap();
    let committed: BTreeSet<String> =
        infos.iter().filter(|info| info.kind() == Kind::Committed).map(|info| info.name.clone()).collect();
    let active: BTreeSet<String> =
        infos.iter().filter(|info| info.kind() == Kind::Active).map(|info| info.name.clone()).collect();
    match world.pending.take() {
        Some(Pending::Prepare { key }) if active.contains(&key) => {
            world.active.insert(key);
        }
        Some(Pending::Commit { key, name, parent, content }) => {
            assert!(committed.contains(&name) != active.contains(&key), "{key} is lost, or there twice");
            if committed.contains(&name) {
                world.active.remove(&key);
                world.committed.insert(name, (parent, content));
            }
        }
        Some(Pending::Remove { key }) if !committed.contains(&key) && !active.contains(&key) => {
            world.committed.remove(&key);
            world.active.remove(&key);
        }
        Some(Pending::Prepare { .. } | Pending::Remove { .. }) | None => {}
    }
    assert_eq!(committed, world.committed.keys().cloned().collect(), "worker {worker}: committed snapshots");
    assert_eq!(active, world.active, "worker {worker}: active snapshots");
    for info in &infos {
        if let Some((parent, content)) = world.committed.get(&info.name) {
            assert_eq!(&info.parent, parent);
            // A view of it names its directory.
            *views += 1;
            let view = format!("view/{views}");
            let mounts = client.view(&view, &info.name).await.unwrap();
            verify(&nearest(&mounts), content);
            client.remove(&view).await.unwrap();
        }
    }
    for key in std::mem::take(&mut world.active) {
        client.remove(&key).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_committed_is_lost_and_nothing_else_stays() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (kills, seed) = (number("SEUSS_KILLS", 20), number("SEUSS_SEED", 42));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut daemon = Daemon::start(&[]).await;
    let mut worlds = vec![World::default(); WORKERS];
    let (mut views, mut swept) = (0, 0);
    for kill in 0..kills {
        let mut workers = Vec::new();
        for (worker, world) in worlds.drain(..).enumerate() {
            let client = daemon.client().await;
            let random =
                Random((seed + kill * 64 + worker as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            workers.push(tokio::spawn(load(worker, world, client, random)));
        }
        tokio::time::sleep(Duration::from_micros(500 + random.below(60_000))).await;
        daemon.kill();
        for worker in workers {
            worlds.push(worker.await.unwrap());
        }
        daemon.restart().await;
        let mut client = daemon.client().await;
        for (worker, world) in worlds.iter_mut().enumerate() {
            settle(worker, world, &mut client, &mut views).await;
        }
        // On disk there is what is listed, and no more.
        let count = |dir: &str| std::fs::read_dir(daemon.root().join(dir)).unwrap().count();
        let known: usize = worlds.iter().map(|world| world.committed.len()).sum();
        assert_eq!((count("snapshots"), count("records"), count("tmp")), (known, known, 0), "kill {kill}");
        if may_mount() {
            assert_eq!(images_mounted(&daemon.root()).len(), known, "kill {kill}: mounted layers");
            let left = std::fs::read_dir(daemon.root().join("snapshots")).unwrap();
            let twice: Vec<_> =
                left.map(|dir| dir.unwrap().path().join("fs")).filter(|fs| fs.exists()).collect();
            assert!(twice.is_empty(), "kill {kill}: directories of mounted layers: {twice:?}");
        }
        swept += 1;
    }
    let log = daemon.log();
    let found = log.lines().filter(|line| line.contains("swept") && !line.contains("swept=0")).count();
    let kept: usize = worlds.iter().map(|world| world.committed.len()).sum();
    println!(
        "{swept} kills, {found} times something half-made was swept, {kept} snapshots at the end, {views} verified"
    );
}
