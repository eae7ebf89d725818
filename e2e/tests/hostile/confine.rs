//! Threads of a shim that a guest's input reaches have given up what they have no use for.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::servers;
use seuss_e2e::tools::Version;

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a thread's name that the kernel keeps.
const NAME_MAX: usize = 15;
/// CAP_NET_BIND_SERVICE and CAP_NET_RAW, which containerd grants every container unless its pod says otherwise.
const GRANTED: u64 = 1 << 10 | 1 << 13;
/// Threads that hostile input reaches, beside those that drive guests.
const CONFINED: [&str; 3] = ["seuss-helpers", "seuss-pool", "snapshots"];

/// The fields of a `status` file of /proc.
fn status(task: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(task.join("status"))?;
    let fields = text.lines().filter_map(|line| line.split_once(":\t"));
    Ok(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

/// The thread that drives the guest of container `id`: it has the container's name.
fn driver(id: &str) -> Result<PathBuf> {
    let name = id.get(..NAME_MAX).context("a short id")?;
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(tasks) = fs::read_dir(process.path().join("task")) else { continue };
        for task in tasks.flatten() {
            if fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name) {
                return Ok(task.path());
            }
        }
    }
    anyhow::bail!("no thread is named {name}")
}

fn check_confined(task: &Path, capabilities: u64) -> Result<()> {
    let status = status(task)?;
    let field = |name: &str| status.get(name).with_context(|| format!("{name} of {}", task.display()));
    ensure!(field("Seccomp")? == "2", "{status:#?}");
    ensure!(field("NoNewPrivs")? == "1", "{status:#?}");
    for (name, expected) in
        [("CapEff", capabilities), ("CapPrm", capabilities), ("CapInh", 0), ("CapBnd", 0), ("CapAmb", 0)]
    {
        ensure!(u64::from_str_radix(field(name)?, 16)? == expected, "{name}: {status:#?}");
    }
    Ok(())
}

fn run(node: &Containerd, name: &str) -> Result<(Sandbox, String)> {
    let sandbox = node.cri().run_pod_sandbox(Sandbox::new(name, Runtime::Seuss, &node.pod_logs()))?;
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image).command(servers::WSGIREF.command);
    let id = node.cri().create_container(&sandbox, &spec)?;
    node.cri().start_container(&id)?;
    Ok((sandbox, id))
}

/// The vCPU threads of a pod that booted and of one that was restored, and the threads beside them.
#[test]
fn a_pods_threads_are_confined() -> Result<(), Failure> {
    let version = Version::V2_1;
    let missing = need::missing_for_node(version, Runtime::Seuss)
        .or_else(|| need::missing_images(&["pause", "python"]));
    if let Some(reason) = missing {
        need::skip(&reason);
        return Ok(());
    }
    let options = Options::for_runtime(version, Runtime::Seuss)?.with_snapshotter(&["--size", "2GiB"])?;
    let node = Containerd::start(options)?;
    node.import("pause")?;
    Ok(look(&node)?)
}

fn look(node: &Containerd) -> Result<()> {
    let (booted, id) = run(node, "booted")?;
    let task = driver(&id)?;
    check_confined(&task, GRANTED).context("the pod that booted")?;
    // Its snapshot is written by a confined thread, and brought to the store by another.
    let deadline = Instant::now() + PATIENCE;
    while node.snapshotter().metric("seuss_snapshotter_memory_snapshots")? < 1.0 {
        ensure!(Instant::now() < deadline, "no snapshot: {}", fs::read_to_string(node.log_path())?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let (restored, id) = run(node, "restored")?;
    check_confined(&driver(&id)?, GRANTED).context("the pod that was restored")?;
    let log = fs::read_to_string(node.log_path())?;
    ensure!(log.contains("restored from a snapshot"), "{log}");
    ensure!(!log.contains("a confined thread made a system call"), "{log}");
    let mut seen = Vec::new();
    for other in fs::read_dir(driver(&id)?.parent().context("a directory")?)?.flatten() {
        let Ok(comm) = fs::read_to_string(other.path().join("comm")) else { continue };
        if CONFINED.contains(&comm.trim_end()) {
            let granted = if comm.trim_end() == "seuss-pool" { GRANTED } else { 0 };
            check_confined(&other.path(), granted).with_context(|| comm.clone())?;
            seen.push(comm.trim_end().to_owned());
        }
    }
    ensure!(seen.iter().any(|name| name == "seuss-helpers"), "{seen:?}");
    ensure!(seen.iter().any(|name| name == "snapshots"), "{seen:?}");
    for sandbox in [&booted, &restored] {
        node.cri().stop_pod_sandbox(sandbox)?;
        node.cri().remove_pod_sandbox(sandbox)?;
    }
    node.expect_clean(PATIENCE)
}
