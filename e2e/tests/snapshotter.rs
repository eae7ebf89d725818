//! containerd with `snapshotter = "seuss"`: import, unpack, run under runc and under seuss, look, remove, collect garbage, recover.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seuss_e2e::command;
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::log;
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::snapshotter::NAME;
use seuss_e2e::tools::Version;

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the shim logs when it needed no walk of the root file system, and when it did.
const KEPT: &str = "root file system taken from the snapshotter's images";
const SLOW: &str = "the slow way";

/// A node whose containers' file systems seuss-snapshotter keeps.
fn start(version: Version, runtime: Runtime, flags: &[&str]) -> Result<Option<Containerd>> {
    let missing =
        need::missing_for_node(version, runtime).or_else(|| need::missing_images(&["pause", "python"]));
    if let Some(reason) = missing {
        need::skip(&reason);
        return Ok(None);
    }
    let flags = [&["--size", "1GiB"][..], flags].concat();
    Containerd::start(Options::for_runtime(version, runtime)?.with_snapshotter(&flags)?).map(Some)
}

/// Runs a Python program in a pod; its output.
fn python(node: &Containerd, runtime: Runtime, image: &str, name: &str, script: &str) -> Result<String> {
    let sandbox = node.cri().run_pod_sandbox(Sandbox::new(name, runtime, &node.pod_logs()))?;
    let spec = ContainerSpec::new("main", image).command(&["python3", "-c", script]);
    let id = node.cri().create_container(&sandbox, &spec)?;
    node.cri().start_container(&id)?;
    let status = node.cri().wait_exit(&id, PATIENCE)?;
    let log = log::wait(&sandbox.log_path(&spec), PATIENCE, |_| sandbox.log_path(&spec).exists())?;
    ensure!(status.exit_code == 0, "exit code {}: {log:?}", status.exit_code);
    node.cri().stop_pod_sandbox(&sandbox)?;
    node.cri().remove_pod_sandbox(&sandbox)?;
    node.expect_clean(PATIENCE)?;
    Ok(log.stdout)
}

fn ctr(node: &Containerd, namespace: &str, words: &[&str]) -> Result<String> {
    let output = command::output(node.ctr(namespace).args(words))?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// The lines of `ctr snapshots tree` of a snapshotter.
fn tree(node: &Containerd, snapshotter: &str) -> Result<BTreeSet<String>> {
    let text = ctr(node, "k8s.io", &["snapshots", "--snapshotter", snapshotter, "tree"])?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The committed snapshots of the daemon, by its own figures.
fn committed(node: &Containerd) -> Result<f64> {
    node.snapshotter().metric("seuss_snapshotter_snapshots{kind=\"committed\"}")
}

/// A pod sees its image's files, whoever runs it; and the second pod shares them.
fn a_pod_runs(node: &Containerd, runtime: Runtime) -> Result<()> {
    node.import("pause")?;
    let image = node.import("python")?;
    let script = "import os, json, ssl; print(sorted(os.listdir('/usr'))[:2], os.path.islink('/bin'))";
    let first = python(node, runtime, &image, "first", script)?;
    ensure!(first == "['bin', 'games'] True\n", "{first:?}");
    let second = python(node, runtime, &image, "second", script)?;
    ensure!(second == first, "{second:?}");
    if runtime == Runtime::Seuss {
        let log = std::fs::read_to_string(node.log_path())?;
        ensure!(log.contains(KEPT), "the shim does not say that it used the snapshotter's images");
        ensure!(!log.contains(SLOW), "the shim read a root file system");
    }
    // pause, and the layers of base and python.
    ensure!(committed(node)? == 3.0, "{}", node.snapshotter().get("/metrics")?);
    layers_are_there_once(node)
}

/// Every layer is mounted from its image, and no directory takes as much again.
fn layers_are_there_once(node: &Containerd) -> Result<()> {
    let figure = |name: &str| node.snapshotter().metric(&format!("seuss_snapshotter_{name}"));
    ensure!(figure("layers{files=\"image\"}")? == 3.0, "{}", node.snapshotter().get("/metrics")?);
    let mounted = node.namespaces().mounts_below(&node.snapshotter().root());
    ensure!(mounted.len() == 4, "not the tmpfs and three layers: {mounted:?}");
    let taken = figure("store_size_bytes")? - figure("store_free_bytes")? - figure("memory_used_bytes")?;
    let unpacked = figure("unpacked_bytes")?;
    ensure!(taken < unpacked * 1.2 + f64::from(2 << 20), "{taken} bytes for layers of {unpacked}");
    Ok(())
}

/// What ctr shows agrees with overlayfs: the same names in the same tree, the same usage to a page per directory.
fn ctr_agrees_with_overlayfs(node: &Containerd, _: Runtime) -> Result<()> {
    node.import("python")?;
    let archive = seuss_e2e::paths::image_archive("python");
    let archive = archive.to_str().context("a path in UTF-8")?;
    ctr(node, "k8s.io", &["image", "import", "--snapshotter", "overlayfs", archive])?;
    let (ours, theirs) = (tree(node, NAME)?, tree(node, "overlayfs")?);
    ensure!(!ours.is_empty() && ours == theirs, "{ours:?} instead of {theirs:?}");
    for snapshotter in [NAME, "overlayfs"] {
        let list = ctr(node, "k8s.io", &["snapshots", "--snapshotter", snapshotter, "ls"])?;
        ensure!(list.lines().count() == 1 + ours.len() && list.contains("Committed"), "{list}");
    }
    let usage =
        |snapshotter| ctr(node, "k8s.io", &["snapshots", "--snapshotter", snapshotter, "usage", "-b"]);
    let figures = |text: &str| -> Vec<(String, f64, u64)> {
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some(((*words.first()?).to_owned(), words.get(1)?.parse().ok()?, words.get(2)?.parse().ok()?))
        };
        text.lines().skip(1).filter_map(row).collect()
    };
    let (ours, theirs) = (figures(&usage(NAME)?), figures(&usage("overlayfs")?));
    ensure!(ours.len() == theirs.len() && !ours.is_empty(), "{ours:?} {theirs:?}");
    for ((name, size, inodes), (other, their_size, their_inodes)) in ours.into_iter().zip(theirs) {
        ensure!(name == other && inodes == their_inodes, "{name} {inodes}, {other} {their_inodes}");
        ensure!(size > their_size * 0.8 && size < their_size * 1.2, "{name}: {size} bytes, not {their_size}");
    }
    Ok(())
}

/// An image that is removed leaves nothing in the store, and its memory is free again.
fn garbage_is_collected(node: &Containerd, runtime: Runtime) -> Result<()> {
    let free = || node.snapshotter().metric("seuss_snapshotter_store_free_bytes");
    let before = free()?;
    node.import("pause")?;
    let image = node.import("python")?;
    ensure!(free()? < before, "an image takes memory");
    python(node, runtime, &image, "once", "print(1)")?;
    // CRI keeps a second name of each image, its digest.
    let images = ctr(node, "k8s.io", &["image", "ls", "--quiet"])?;
    let names: Vec<&str> = images.lines().collect();
    ctr(node, "k8s.io", &[&["image", "rm", "--sync"], names.as_slice()].concat())?;
    let deadline = Instant::now() + PATIENCE;
    while committed(node)? > 0.0 {
        ensure!(Instant::now() < deadline, "left: {:?}", tree(node, NAME)?);
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(node.snapshotter().metric("seuss_snapshotter_snapshots{kind=\"active\"}")? == 0.0, "active ones");
    let mounted = node.namespaces().mounts_below(&node.snapshotter().root());
    ensure!(mounted.len() == 1, "not the tmpfs alone: {mounted:?}");
    // The records' directory and the lock stay.
    ensure!(before - free()? < 64.0 * 1024.0, "{} bytes are still taken", before - free()?);
    Ok(())
}

/// Two namespaces of containerd share what they unpacked.
fn namespaces_share_layers(node: &Containerd, _: Runtime) -> Result<()> {
    node.import("python")?;
    let before = committed(node)?;
    let bytes = || node.snapshotter().metric("seuss_snapshotter_blob_bytes");
    let blobs = bytes()?;
    node.import_into("default", "python")?;
    ensure!(bytes()? == blobs, "the second namespace's images are not the first one's");
    ensure!(committed(node)? <= 2.0 * before, "{} snapshots", committed(node)?);
    Ok(())
}

/// A killed daemon comes back with everything; containers that run notice nothing.
fn the_daemon_is_killed(node: &mut Containerd, runtime: Runtime) -> Result<()> {
    node.import("pause")?;
    let image = node.import("python")?;
    let sandbox = node.cri().run_pod_sandbox(Sandbox::new("lasting", runtime, &node.pod_logs()))?;
    let script = "import time, sys; print('ready', flush=True)\n\
        while not __import__('os').path.exists('/tmp/never'):\n import this; time.sleep(0.01); print('tick', flush=True)";
    let spec = ContainerSpec::new("main", &image).command(&["python3", "-c", script]);
    let id = node.cri().create_container(&sandbox, &spec)?;
    node.cri().start_container(&id)?;
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout.contains("ready"))?;
    let before = tree(node, NAME)?;
    node.kill_snapshotter()?;
    let ticks = |log: &log::Log| log.stdout.matches("tick").count();
    let seen = log::wait(&sandbox.log_path(&spec), PATIENCE, |log| ticks(log) > 3)?;
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| ticks(log) > ticks(&seen) + 3)?;
    node.start_snapshotter()?;
    ensure!(tree(node, NAME)? == before, "{:?} instead of {before:?}", tree(node, NAME)?);
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| ticks(log) > ticks(&seen) + 6)?;
    node.cri().stop_container(&id, Duration::from_secs(1))?;
    node.cri().stop_pod_sandbox(&sandbox)?;
    node.cri().remove_pod_sandbox(&sandbox)?;
    let output = python(node, runtime, &image, "after", "print('still here')")?;
    ensure!(output == "still here\n", "{output:?}");
    Ok(())
}

macro_rules! combinations {
    ($(run $module:ident = $version:ident $runtime:ident;)* cases $cases:tt) => {
        $(combinations!(@module $module $version $runtime $cases);)*
    };
    (@module $module:ident $version:ident $runtime:ident [$($case:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            $(#[test]
            fn $case() -> Result<(), Failure> {
                let Some(node) = start(Version::$version, Runtime::$runtime, &[])? else { return Ok(()) };
                Ok(super::$case(&node, Runtime::$runtime).map_err(|error| node.explain(error))?)
            })*
            #[test]
            fn the_daemon_is_killed() -> Result<(), Failure> {
                let Some(mut node) = start(Version::$version, Runtime::$runtime, &[])? else { return Ok(()) };
                let result = super::the_daemon_is_killed(&mut node, Runtime::$runtime);
                Ok(result.map_err(|error| node.explain(error))?)
            }
        }
    };
}

combinations! {
    run runc_1_7 = V1_7 Runc;
    run runc_2_1 = V2_1 Runc;
    run seuss_1_7 = V1_7 Seuss;
    run seuss_2_1 = V2_1 Seuss;
    cases [a_pod_runs, ctr_agrees_with_overlayfs, garbage_is_collected, namespaces_share_layers]
}
