//! A snapshot dies with the last right to it: a Secret's rotation, a namespace's end.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::log;
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;
use seuss_snapshotter::memory::Client;
use seuss_snapshotter::memory::protocol::Entry;

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(120);
/// Whose snapshots those of pods are.
const TENANT: &str = "default";
/// Reads its Secret and serves.
const SERVER: &str = "import socket; secret = open('/secret/token').read(); s = socket.create_server(('', 8000)); print('runs', flush=True)\nwhile True: s.accept()";

/// A Secret as the kubelet mounts it.
fn write_secret(dir: &Path, version: &str, token: &str) -> Result<()> {
    fs::create_dir_all(dir.join(version))?;
    fs::write(dir.join(version).join("token"), token)?;
    symlink(version, dir.join("..data_tmp"))?;
    fs::rename(dir.join("..data_tmp"), dir.join("..data"))?;
    if !dir.join("token").is_symlink() {
        symlink("..data/token", dir.join("token"))?;
    }
    Ok(())
}

fn start(node: &Containerd, name: &str, spec: &ContainerSpec) -> Result<(Sandbox, String)> {
    let pod = Sandbox::new(name, Runtime::Seuss, &node.pod_logs()).annotation("seuss.dev/snapshot", "ready");
    let sandbox = node.cri().run_pod_sandbox(pod)?;
    let id = node.cri().create_container(&sandbox, spec)?;
    node.cri().start_container(&id)?;
    Ok((sandbox, id))
}

fn remove(node: &Containerd, (sandbox, id): &(Sandbox, String)) -> Result<()> {
    node.cri().stop_container(id, Duration::ZERO)?;
    node.cri().stop_pod_sandbox(sandbox)?;
    node.cri().remove_pod_sandbox(sandbox)
}

/// Waits until the node's snapshots are as `wanted`.
fn wait(node: &Containerd, what: &str, wanted: impl Fn(&[Entry]) -> bool) -> Result<Vec<Entry>> {
    let client = Client::connect(&node.snapshotter().store_socket(), "")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let entries = client.list()?;
        if wanted(&entries) {
            return Ok(entries);
        }
        ensure!(Instant::now() < deadline, "{what}: {entries:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn restores(node: &Containerd) -> Result<usize> {
    Ok(fs::read_to_string(node.log_path())?.matches("restored from a snapshot").count())
}

fn a_rotated_secret_is_in_no_clone(node: &Containerd) -> Result<()> {
    let image = node.import("python")?;
    let dir = tempfile::tempdir()?;
    let [secret, copy] = ["secret", "copy"].map(|name| dir.path().join(name));
    write_secret(&secret, "..1", "the old token")?;
    write_secret(&copy, "..1", "the old token")?;
    let spec = |host: &Path| {
        ContainerSpec::new("main", &image)
            .command(&["python3", "-c", SERVER])
            .memory_bytes(128 << 20)
            .mount(host, "/secret", true)
    };
    let first = start(node, "first", &spec(&secret))?;
    let old = wait(node, "no snapshot", |entries| !entries.is_empty())?.remove(0);
    ensure!(old.tenant == TENANT && !old.rights.is_empty() && old.unusable.is_empty(), "{old:?}");

    write_secret(&secret, "..2", "the new token")?;
    wait(node, "it stays usable", |entries| {
        entries.iter().any(|it| it.id == old.id && !it.unusable.is_empty())
    })?;
    // Whoever still has the old Secret boots with it, and whoever has the new one, too.
    let second = start(node, "second", &spec(&copy))?;
    let third = start(node, "third", &spec(&secret))?;
    for (pod, spec) in [(&second, spec(&copy)), (&third, spec(&secret))] {
        log::wait(&pod.0.log_path(&spec), PATIENCE, |log| log.stdout.contains("runs"))?;
    }
    ensure!(restores(node)? == 0, "a pod was restored from what was revoked");
    // The clone that held it goes, and the files with it.
    remove(node, &first)?;
    wait(node, "its files stay", |entries| entries.iter().all(|it| it.id != old.id))?;
    let path = node.snapshotter().root().join("memory/snapshots").join(&old.id);
    let listed = node.command("ls").arg(path.parent().context("a parent")?).output()?;
    ensure!(!String::from_utf8_lossy(&listed.stdout).contains(&old.id), "its directory stays");

    // The namespace ends: an operator says so.
    wait(node, "no new snapshot", |entries| !entries.is_empty())?;
    let client = Client::connect(&node.snapshotter().store_socket(), "")?;
    ensure!(client.revoke(TENANT, None)? > 0);
    let fourth = start(node, "fourth", &spec(&secret))?;
    ensure!(restores(node)? == 0, "a pod was restored from what was revoked");
    for pod in [second, third, fourth] {
        remove(node, &pod)?;
    }
    Ok(())
}

#[test]
fn a_rotated_secret() -> Result<(), Failure> {
    let missing = need::missing_for_node(Version::V2_1, Runtime::Seuss)
        .or_else(|| need::missing_images(&["pause", "python"]));
    if let Some(reason) = missing {
        need::skip(&reason);
        return Ok(());
    }
    let options = Options::for_runtime(Version::V2_1, Runtime::Seuss)?;
    let node = Containerd::start(options.with_snapshotter(&["--size", "2GiB"])?)?;
    node.import("pause")?;
    Ok(a_rotated_secret_is_in_no_clone(&node).map_err(|error| node.explain(error))?)
}
