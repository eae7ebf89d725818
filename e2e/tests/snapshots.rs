//! Memory snapshots of pods: the first one of a kind is captured when it is ready, the next one is restored from that without being told to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use seuss_e2e::containerd::Containerd;
use seuss_e2e::cri::log;
use seuss_e2e::cri::spec::ContainerSpec;
use seuss_e2e::load::{self, Load};
use seuss_e2e::need::Failure;
use seuss_e2e::pod::{self, PATIENCE, Pod, restores, sandbox, wait_for_snapshots};
use seuss_e2e::servers::{self, Server};
use seuss_e2e::tools::Version;
use seuss_e2e::{command, paths};
use seuss_snapshotter::snapshot::Manifest;

/// A server that tells what differs from clone to clone.
const IDENTITY: &str = include_str!("../programs/identity_server.py");
/// Whose snapshots those of pods are: the pods' Kubernetes namespace.
const TENANT: &str = "default";
/// Figures of the daemon.
const LEASES: &str = "seuss_snapshotter_memory_leases";

/// Who the program says that it is.
fn identity(pod: &Pod<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&pod.get(servers::PORT, "/who")?)?)
}

fn since_epoch() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The second pod goes on where the first one was ready, and is somebody else.
fn the_second_pod_is_restored(node: &Containerd) -> Result<()> {
    let image = node.import("python")?;
    let spec = |name: &str| {
        ContainerSpec::new("main", &image).command(&["python3", "-c", IDENTITY]).env("HOSTNAME", name)
    };
    let first = Pod::start(node, sandbox(node, "clone-aaaa"), &spec("clone-aaaa"))?;
    wait_for_snapshots(node, 1)?;
    let second = Pod::start(node, sandbox(node, "clone-bb"), &spec("clone-bb"))?;
    let third = Pod::start(node, sandbox(node, "clone-cccc"), &spec("clone-cccc"))?;
    let asked = since_epoch();
    let who = [identity(&second)?, identity(&third)?, identity(&first)?];
    let answered = since_epoch();
    ensure!(restores(node)? == 2, "{} restores\n{who:#?}", restores(node)?);
    for (who, name, generation) in
        [(&who[0], "clone-bb", 1), (&who[1], "clone-cccc", 1), (&who[2], "clone-aaaa", 0)]
    {
        ensure!(who["hostname"] == name, "{who:#}");
        ensure!(who["environment"] == serde_json::json!([format!("HOSTNAME={name}")]), "{who:#}");
        ensure!(who["generation"] == generation, "{who:#}");
        ensure!(who["answered"] == 1, "each has its own memory: {who:#}");
        let time = who["time"].as_f64().context("no time")?;
        ensure!(time > asked - 0.01 && time < answered + 0.01, "{time} is not within {asked} and {answered}");
    }
    ensure!(who[0]["started"] == who[2]["started"] && who[1]["started"] == who[2]["started"], "{who:#?}");
    // OpenSSL's generator, which was used before the snapshot, needs guest/sdk: tests/clones.rs.
    for random in ["getrandom", "uuid4"] {
        ensure!(who[0][random] != who[1][random] && who[0][random] != who[2][random], "{random}: {who:#?}");
    }
    ensure!(pod::snapshots(node)? == 1.0, "clones that are ready are not captured again");
    ensure!(node.snapshotter().metric(LEASES)? >= 2.0, "{}", node.snapshotter().get("/metrics")?);
    for pod in [first, second, third] {
        pod.remove()?;
    }
    node.expect_clean(PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    while node.snapshotter().metric(LEASES)? > 0.0 {
        ensure!(Instant::now() < deadline, "leases are left");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What is started with something else boots; so does a pod of another namespace, and one that asks for it.
fn only_what_fits_is_restored(node: &Containerd) -> Result<()> {
    let image = node.import("python")?;
    let spec = || ContainerSpec::new("main", &image).command(&["python3", "-c", IDENTITY]);
    let first = Pod::start(node, sandbox(node, "first"), &spec())?;
    wait_for_snapshots(node, 1)?;
    let started = identity(&first)?["started"].clone();
    let mut other_namespace = sandbox(node, "tenant");
    if let Some(metadata) = &mut other_namespace.config.metadata {
        metadata.namespace = "other".into();
    }
    let off = sandbox(node, "off").annotation("seuss.dev/snapshot", "off");
    let others = [
        (sandbox(node, "environment"), spec().env("COLOUR", "blue")),
        (sandbox(node, "memory"), spec().memory_bytes(300 << 20)),
        (other_namespace, spec()),
        (off, spec()),
    ];
    for (sandbox, spec) in others {
        let name = sandbox.config.hostname.clone();
        let pod = Pod::start(node, sandbox, &spec)?;
        let who = identity(&pod)?;
        ensure!(who["started"] != started && who["generation"] == 0, "{name}: {who:#}");
        pod.remove()?;
    }
    ensure!(restores(node)? == 0, "{} restores", restores(node)?);
    let wrong = sandbox(node, "wrong").annotation("seuss.dev/snapshot", "sometimes");
    let wrong = node.cri().run_pod_sandbox(wrong)?;
    let error = node.cri().create_container(&wrong, &spec()).and_then(|id| node.cri().start_container(&id));
    let error = format!("{:#}", error.err().context("a wrong annotation was taken")?);
    ensure!(error.contains("seuss.dev/snapshot") && error.contains("sometimes"), "{error}");
    node.cri().stop_pod_sandbox(&wrong)?;
    node.cri().remove_pod_sandbox(&wrong)?;
    first.remove()
}

/// A restored server answers as the first one does, under load.
fn a_restored_server_answers(node: &Containerd, server: Server) -> Result<()> {
    let image = node.import(server.image)?;
    let spec = ContainerSpec::new("server", &image).command(server.command);
    let first = Pod::start(node, sandbox(node, "first"), &spec)?;
    wait_for_snapshots(node, 1)?;
    let second = Pod::start(node, sandbox(node, "second"), &spec)?;
    for pod in [&second, &first] {
        let address = pod.address;
        let outcome = node.namespaces().in_network(move || {
            load::wait_for(address, PATIENCE)?;
            server.load(Load { address, requests: 500, in_flight: 16 })
        })?;
        ensure!(outcome.latencies.len() == 500, "{} answers", outcome.latencies.len());
    }
    ensure!(restores(node)? == 1, "{} restores", restores(node)?);
    let log = log::read(&second.sandbox.log_path(&spec))?;
    ensure!(log.stderr.is_empty(), "{log:?}");
    second.remove()?;
    first.remove()?;
    node.expect_clean(PATIENCE)
}

/// A warm-up request is answered before the snapshot is taken.
fn a_warm_up_request_comes_first(node: &Containerd) -> Result<()> {
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image).command(&["python3", "-c", IDENTITY]);
    let warm = |name: &str| sandbox(node, name).annotation("seuss.dev/warm-up", "8000/warm");
    let first = Pod::start(node, warm("first"), &spec)?;
    wait_for_snapshots(node, 1)?;
    let second = Pod::start(node, warm("second"), &spec)?;
    let who = identity(&second)?;
    ensure!(who["answered"] == 2 && who["generation"] == 1, "{who:#}");
    second.remove()?;
    first.remove()
}

/// A pod of image `image`, in Kubernetes namespace `namespace`.
fn web<'n>(node: &'n Containerd, image: &str, name: &str, namespace: &str) -> Result<Pod<'n>> {
    let image = node.import(image)?;
    let mut sandbox = sandbox(node, name);
    if let Some(metadata) = &mut sandbox.config.metadata {
        metadata.namespace = namespace.into();
    }
    Pod::start(node, sandbox, &ContainerSpec::new("main", &image))
}

/// The first pod of another version of an application goes on where the runtime had initialised; the second one where that version was ready. An image that
/// changes the runtime boots, and so does a pod of another namespace.
fn applications_over_one_runtime_share_its_base(node: &Containerd) -> Result<()> {
    let first = web(node, "web", "first", "one")?;
    // The base snapshot and the function's.
    wait_for_snapshots(node, 2)?;
    let other = web(node, "web2", "other", "one")?;
    ensure!(restores(node)? == 1, "{} restores", restores(node)?);
    wait_for_snapshots(node, 3)?;
    let same = web(node, "web2", "same", "one")?;
    let patched = web(node, "web-patched", "patched", "one")?;
    let stranger = web(node, "web2", "stranger", "two")?;
    let who =
        [identity(&first)?, identity(&other)?, identity(&same)?, identity(&patched)?, identity(&stranger)?];
    let expected = [(1, 0, "first"), (2, 1, "other"), (2, 2, "same"), (3, 0, "patched"), (2, 0, "stranger")];
    for (who, (version, generation, name)) in who.iter().zip(expected) {
        ensure!(who["version"] == version && who["generation"] == generation, "{name}: {who:#}");
        ensure!(who["hostname"] == name, "{name}: {who:#}");
    }
    ensure!(who[1]["started"] == who[2]["started"] && who[0]["started"] != who[1]["started"], "{who:#?}");
    ensure!(restores(node)? == 2, "{} restores", restores(node)?);
    let log = fs::read_to_string(node.log_path())?;
    let refusal = log.lines().find(|line| line.contains("cannot start from a snapshot"));
    ensure!(refusal.is_some_and(|line| line.contains("/usr/lib/python3.11")), "{refusal:?}");
    for pod in [first, other, same, patched, stranger] {
        pod.remove()?;
    }
    node.expect_clean(PATIENCE)
}

/// A snapshot that the program has taken half-way through a request is found by the key that it named; where there is none, the function's does.
fn an_argument_snapshot_is_found_by_its_key(node: &Containerd) -> Result<()> {
    let image = node.import("wsgiref")?;
    let pod = |name: &str, argument: Option<&str>| {
        let mut sandbox = sandbox(node, name);
        if let Some(key) = argument {
            sandbox = sandbox.annotation("seuss.dev/argument", key);
        }
        Pod::start(node, sandbox, &ContainerSpec::new("main", &image))
    };
    let ask = |pod: &Pod<'_>, path: &'static str| {
        let address = pod.address;
        node.namespaces().in_network(move || {
            load::wait_for(address, PATIENCE)?;
            load::get(address, path)
        })
    };
    let first = pod("first", None)?;
    wait_for_snapshots(node, 2)?;
    let answer = ask(&first, "/argument/user-7")?;
    ensure!(answer.contains("prepared for 1 keys"), "{answer}");
    wait_for_snapshots(node, 3)?;
    for (name, argument, prepared) in
        [("same", Some("user-7"), 1), ("other", Some("user-8"), 0), ("none", None, 0)]
    {
        let pod = pod(name, argument)?;
        let answer = ask(&pod, "/")?;
        ensure!(answer.contains(&format!("prepared for {prepared} keys")), "{name}: {answer}");
        pod.remove()?;
    }
    ensure!(restores(node)? == 3, "{} restores", restores(node)?);
    first.remove()
}

/// The daemon is killed: pods go on, its leases are taken again, and the next pod is restored as before.
fn the_store_comes_back(node: &mut Containerd) -> Result<()> {
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image).command(&["python3", "-c", IDENTITY]);
    {
        let first = Pod::start(node, sandbox(node, "first"), &spec)?;
        wait_for_snapshots(node, 1)?;
        identity(&first)?;
    }
    node.kill_snapshotter()?;
    node.start_snapshotter()?;
    let node = &*node;
    let deadline = Instant::now() + PATIENCE;
    while node.snapshotter().metric(LEASES)? < 1.0 {
        ensure!(Instant::now() < deadline, "the first pod's lease is not taken again");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = Pod::start(node, sandbox(node, "second"), &spec)?;
    let who = identity(&second)?;
    ensure!(who["generation"] == 1 && restores(node)? == 1, "{who:#}");
    second.remove()
}

/// `seussctl snapshot` on a node's store, as the tenant of its pods.
fn seussctl_snapshot(node: &Containerd, verb: &str, words: &[&str]) -> Result<String> {
    let mut command = Command::new(paths::target().join("release/seussctl"));
    command.args(["snapshot", verb, "--tenant", TENANT, "--store"]).arg(node.snapshotter().store_socket());
    Ok(String::from_utf8(command::output(command.args(words))?)?)
}

/// A key pair of whoever moves snapshots, in files: the secret one's and the public one's path.
fn keys(dir: &Path) -> Result<(String, String)> {
    let pair = minisign::KeyPair::generate_unencrypted_keypair()?;
    let path = |name: &str| dir.join(name).display().to_string();
    fs::write(path("secret"), pair.sk.to_box(None)?.into_string())?;
    fs::write(path("author.pub"), pair.pk.to_box()?.into_string())?;
    Ok((path("secret"), path("author.pub")))
}

/// What was ready on one node is restored on another one, which has never started it: the layers that both pull give the same images.
fn a_snapshot_moves(version: Version) -> Result<(), Failure> {
    let spec = |image: &str| ContainerSpec::new("main", image).command(&["python3", "-c", IDENTITY]);
    let dir = tempfile::tempdir().map_err(anyhow::Error::from)?;
    let archive = dir.path().join("moved.tar");
    let archive = archive.to_str().context("a path in UTF-8")?;
    let (secret, public) = keys(dir.path())?;
    let Some(node) = pod::node(version, &["python"])? else { return Ok(()) };
    let capture = || {
        let first = Pod::start(&node, sandbox(&node, "first"), &spec(&node.import("python")?))?;
        wait_for_snapshots(&node, 1)?;
        let mut list = Command::new(paths::target().join("release/seussctl"));
        list.args(["store", "ls", "--store"]).arg(node.snapshotter().store_socket());
        let list = String::from_utf8(command::output(&mut list)?)?;
        let id = list.lines().nth(1).and_then(|line| line.split(' ').next()).context(list.clone())?;
        let exported = seussctl_snapshot(&node, "export", &["--sign", &secret, id, archive])?;
        ensure!(exported.trim() == id, "{exported}");
        let started = identity(&first)?["started"].clone();
        first.remove()?;
        Ok((exported, started))
    };
    let (exported, started) = capture().map_err(|error| node.explain(error))?;
    drop(node);
    let Some(node) = pod::node(version, &["python"])? else { return Ok(()) };
    let restore = || {
        let refused = seussctl_snapshot(&node, "import", &["--trusted-keys", "/nonexistent", archive]);
        ensure!(refused.is_err_and(|error| format!("{error:#}").contains("no key is trusted")), "unasked");
        let imported = seussctl_snapshot(&node, "import", &["--key", &public, archive])?;
        ensure!(imported == exported, "{imported} instead of {exported}");
        let pod = Pod::start(&node, sandbox(&node, "second"), &spec(&node.import("python")?))?;
        let who = identity(&pod)?;
        ensure!(restores(&node)? == 1 && who["generation"] == 1, "{who:#}");
        ensure!(who["started"] == started && who["hostname"] == "second", "{started} {who:#}");
        pod.remove()
    };
    Ok(restore().map_err(|error| node.explain(error))?)
}

/// Puts a copy of the store's only snapshot beside it, younger, and of a processor that this one is not.
fn put_another_processors(store: &Path, change: impl FnOnce(&mut Manifest)) -> Result<PathBuf> {
    let dir = fs::read_dir(store)?.next().context("no snapshot")??.path();
    let (mut manifest, id) = Manifest::decode(&fs::read(dir.join("manifest"))?, &dir)?;
    manifest.created_ns += 1;
    change(&mut manifest);
    let (bytes, other) = manifest.encode();
    // The store looks for directories with such names whenever it is asked.
    let hidden = store.join(".other");
    fs::create_dir(&hidden)?;
    fs::write(hidden.join("manifest"), bytes)?;
    for name in ["pages", "tables"] {
        fs::copy(dir.join(name), hidden.join(name))?;
    }
    let notes = store.with_file_name("notes");
    if notes.join(id.to_string()).exists() {
        fs::copy(notes.join(id.to_string()), notes.join(other.to_string()))?;
    }
    fs::rename(&hidden, store.join(other.to_string()))?;
    Ok(dir)
}

/// What needs another processor is not started from: another snapshot is, or the container boots.
fn another_processors_snapshot_is_passed_over(node: &Containerd) -> Result<()> {
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image).command(&["python3", "-c", IDENTITY]);
    let first = Pod::start(node, sandbox(node, "first"), &spec)?;
    wait_for_snapshots(node, 1)?;
    let started = identity(&first)?["started"].clone();
    first.remove()?;
    let store = node.namespaces().path(node.snapshotter().root().join("memory/snapshots"));
    let fits = put_another_processors(&store, |manifest| manifest.cpu.features.push("zz-made-up".into()))?;
    let second = Pod::start(node, sandbox(node, "second"), &spec)?;
    let who = identity(&second)?;
    ensure!(who["started"] == started && restores(node)? == 1, "the one that fits: {who:#}");
    second.remove()?;
    fs::remove_dir_all(fits)?;
    let third = Pod::start(node, sandbox(node, "third"), &spec)?;
    let who = identity(&third)?;
    ensure!(who["started"] != started && who["generation"] == 0 && restores(node)? == 1, "{who:#}");
    third.remove()
}

macro_rules! cases {
    ($($module:ident = $version:ident;)*) => {
        $(mod $module {
            use super::*;

            fn run(images: &[&str], case: impl FnOnce(&Containerd) -> Result<()>) -> Result<(), Failure> {
                let Some(node) = pod::node(Version::$version, images)? else { return Ok(()) };
                Ok(case(&node).map_err(|error| node.explain(error))?)
            }

            #[test]
            fn the_second_pod_is_restored() -> Result<(), Failure> {
                run(&["python"], super::the_second_pod_is_restored)
            }

            #[test]
            fn only_what_fits_is_restored() -> Result<(), Failure> {
                run(&["python"], super::only_what_fits_is_restored)
            }

            #[test]
            fn applications_over_one_runtime_share_its_base() -> Result<(), Failure> {
                run(&["web", "web2", "web-patched"], super::applications_over_one_runtime_share_its_base)
            }

            #[test]
            fn an_argument_snapshot_is_found_by_its_key() -> Result<(), Failure> {
                run(&["wsgiref"], super::an_argument_snapshot_is_found_by_its_key)
            }

            #[test]
            fn another_processors_snapshot_is_passed_over() -> Result<(), Failure> {
                run(&["python"], super::another_processors_snapshot_is_passed_over)
            }

            #[test]
            fn a_warm_up_request_comes_first() -> Result<(), Failure> {
                run(&["python"], super::a_warm_up_request_comes_first)
            }

            #[test]
            fn wsgiref() -> Result<(), Failure> {
                run(&["python"], |node| a_restored_server_answers(node, servers::WSGIREF))
            }

            #[test]
            fn asyncio() -> Result<(), Failure> {
                run(&["python"], |node| a_restored_server_answers(node, servers::ASYNCIO))
            }

            #[test]
            fn gunicorn_with_flask() -> Result<(), Failure> {
                run(&["flask"], |node| a_restored_server_answers(node, servers::GUNICORN))
            }

            #[test]
            fn a_snapshot_moves() -> Result<(), Failure> {
                super::a_snapshot_moves(Version::$version)
            }

            #[test]
            fn the_store_comes_back() -> Result<(), Failure> {
                let Some(mut node) = pod::node(Version::$version, &["python"])? else { return Ok(()) };
                let result = super::the_store_comes_back(&mut node);
                Ok(result.map_err(|error| node.explain(error))?)
            }
        })*
    };
}

cases! {
    snapshots_1_7 = V1_7;
    snapshots_2_1 = V2_1;
}
