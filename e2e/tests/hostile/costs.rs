//! What a guest can cost its node: text in logs, snapshots, memory of the host.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seuss_e2e::command;
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::log::{self, Log};
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a guest may cause in a minute (seuss_vmm::text).
const MINUTE_BYTES: u64 = 64 << 10;
/// What containerd itself says of a pod's life.
const OWN_BYTES: u64 = 32 << 10;
const ASKS: &str = include_str!("../../programs/asks_for_snapshots.py");

/// A node with the flags of its seuss-snapshotter, or with overlayfs.
fn start(flags: Option<&[&str]>) -> Result<Option<Containerd>> {
    let missing = need::missing_for_node(Version::V2_1, Runtime::Seuss)
        .or_else(|| need::missing_images(&["pause", "python"]));
    if let Some(reason) = missing {
        need::skip(&reason);
        return Ok(None);
    }
    let options = Options::for_runtime(Version::V2_1, Runtime::Seuss)?;
    let node = Containerd::start(match flags {
        Some(flags) => options.with_snapshotter(flags)?,
        None => options,
    })?;
    node.import("pause")?;
    Ok(Some(node))
}

fn sandbox(node: &Containerd, name: &str) -> Sandbox {
    Sandbox::new(name, Runtime::Seuss, &node.pod_logs())
}

/// Starts a container in a pod of its own.
fn run(node: &Containerd, sandbox: Sandbox, spec: &ContainerSpec) -> Result<(Sandbox, String)> {
    let sandbox = node.cri().run_pod_sandbox(sandbox)?;
    let id = node.cri().create_container(&sandbox, spec)?;
    node.cri().start_container(&id)?;
    Ok((sandbox, id))
}

fn remove(node: &Containerd, sandbox: &Sandbox, id: &str) -> Result<()> {
    node.cri().stop_container(id, Duration::ZERO)?;
    node.cri().stop_pod_sandbox(sandbox)?;
    node.cri().remove_pod_sandbox(sandbox)
}

fn size(path: PathBuf) -> Result<u64> {
    Ok(fs::metadata(&path).with_context(|| path.display().to_string())?.len())
}

/// Runs a pod that asks for snapshots `count` times, `mib` of memory changed before each: what it says.
fn asks(node: &Containerd, count: u32, mib: u32) -> Result<Log> {
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image)
        .command(&["python3", "-c", ASKS, &count.to_string(), &mib.to_string()])
        .memory_bytes(256 << 20);
    let sandbox = sandbox(node, "asks").annotation("seuss.dev/snapshot", "manual");
    let (sandbox, id) = run(node, sandbox, &spec)?;
    let told = log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout.contains("limit: told"))
        .with_context(|| format!("{:?}", node.cri().container_status(&id)))?;
    remove(node, &sandbox, &id)?;
    Ok(told)
}

/// Of every refusal there was a line in containerd's log; a guest can have ten thousands in a second.
fn refused_captures_fill_no_log(node: &Containerd) -> Result<()> {
    let before = size(node.log_path())?;
    let told = asks(node, 20_000, 0)?;
    ensure!(told.stdout.contains("taken: 0\n"), "{told:?}");
    let grown = size(node.log_path())? - before;
    ensure!(grown <= MINUTE_BYTES + OWN_BYTES, "containerd's log grew by {grown} bytes");
    ensure!(fs::read_to_string(node.log_path())?.contains("no snapshot"), "but it is told");
    Ok(())
}

/// One pod took 5.4 GiB in 12 s.
fn a_guest_hoards_no_snapshots(node: &Containerd) -> Result<()> {
    let before = [size(node.log_path())?, size(node.snapshotter().log_path().to_owned())?];
    let told = asks(node, 400, 20)?;
    let taken = told.stdout.lines().find_map(|line| line.strip_prefix("taken: ")).context("it says so")?;
    let taken: u32 = taken.parse()?;
    // Twelve a minute, and however long four hundred attempts take.
    ensure!((1..100).contains(&taken), "{taken} were taken");
    ensure!(told.stdout.contains("refused: Disk quota exceeded"), "{told:?}");
    let used = node.snapshotter().metric("seuss_snapshotter_memory_used_bytes")?;
    ensure!(used <= f64::from(64 << 20), "{used} bytes are used of a guest's budget of 64 MiB");
    let after = [size(node.log_path())?, size(node.snapshotter().log_path().to_owned())?];
    for (before, after) in before.into_iter().zip(after) {
        ensure!(after - before <= MINUTE_BYTES + OWN_BYTES, "a log grew by {} bytes", after - before);
    }
    let log = fs::read_to_string(node.log_path())?;
    let figures = ["12 times a minute", "are left of what may be on its way", "are left of the quota"];
    ensure!(figures.iter().any(|figure| log.contains(figure)), "no figure is told");
    Ok(())
}

/// A store without room is slower, and no more than that.
fn a_full_store_hinders_no_pod(node: &Containerd) -> Result<()> {
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image)
        .command(&[
            "python3",
            "-c",
            "import socket; s = socket.create_server(('', 8000)); print('runs', flush=True); s.accept()",
        ])
        .memory_bytes(128 << 20);
    for name in ["one", "two", "three"] {
        let (sandbox, id) = run(node, sandbox(node, name), &spec)?;
        log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout.contains("runs"))?;
        // Its snapshot is refused, which is told.
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(node.log_path())?.contains("no snapshot") {
            ensure!(Instant::now() < deadline, "nothing is refused");
            std::thread::sleep(Duration::from_millis(20));
        }
        remove(node, &sandbox, &id)?;
    }
    ensure!(node.snapshotter().metric("seuss_snapshotter_memory_snapshots")? == 0.0);
    Ok(())
}

/// The first process takes all there is, in a pod that has little more than its guest: how many MiB it had when it was killed, alone. The pod's other container begins afterwards.
fn takes_all(node: &Containerd, runtime: Runtime) -> Result<u32> {
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image)
        .command(&["python3", "-c", include_str!("../../programs/takes_all.py")])
        .memory_bytes(64 << 20);
    let name = format!("takes-all-{}", runtime.handler());
    let mut pod = Sandbox::new(&name, runtime, &node.pod_logs());
    let parent = limited_group(node, &name, (64 << 20) + OVERHEAD_BYTES)?;
    pod.config.linux.as_mut().context("linux")?.cgroup_parent = parent;
    let (sandbox, id) = run(node, pod, &spec)?;
    let status = node.cri().wait_exit(&id, PATIENCE)?;
    ensure!(status.exit_code == 137 && status.reason == "OOMKilled", "{runtime:?}: {status:?}");
    let peak = "cat /sys/fs/cgroup/memory/$0/memory.max_usage_in_bytes || cat /sys/fs/cgroup/$0/memory.peak";
    let peak = node.command("sh").args(["-c", peak, &name]).output()?.stdout;
    println!("{runtime:?}: the pod took at most {} bytes", String::from_utf8_lossy(&peak).trim());
    let told = log::read(&sandbox.log_path(&spec))?;
    let steps = told.stdout.lines().filter_map(|line| line.strip_suffix(" MiB")?.parse().ok());
    let mib = steps.max().with_context(|| format!("nothing is told: {told:?}"))?;
    node.cri().remove_container(&id)?;
    // The shim lives: it runs another one.
    let sleeper = ContainerSpec::new("sleeper", &image).command(&["sleep", "10000"]).memory_bytes(32 << 20);
    let id = node.cri().create_container(&sandbox, &sleeper)?;
    node.cri().start_container(&id)?;
    remove(node, &sandbox, &id)?;
    Ok(mib)
}

fn who_takes_all_memory_is_killed_alone(node: &Containerd) -> Result<()> {
    let mib = takes_all(node, Runtime::Seuss)?;
    let linux = takes_all(node, Runtime::Runc)?;
    println!("a program in a pod of 64 MiB had {mib} MiB, and {linux} MiB under runc");
    ensure!(mib + 4 >= linux, "a program had {mib} MiB of 64, and {linux} under runc");
    Ok(())
}

/// As the RuntimeClass has it (manifests/runtimeclass.yaml). Images that the shim must copy, since another snapshotter keeps them, come on top.
const OVERHEAD_BYTES: u64 = 48 << 20;

/// A control group with a limit of memory, as the kubelet makes one for a pod.
fn limited_group(node: &Containerd, name: &str, bytes: u64) -> Result<String> {
    let script = format!(
        "if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo +memory > /sys/fs/cgroup/cgroup.subtree_control; d=/sys/fs/cgroup/{name}; f=memory.max; \
         else d=/sys/fs/cgroup/memory/{name}; f=memory.limit_in_bytes; fi; mkdir -p $d && echo {bytes} > $d/$f"
    );
    command::run(node.command("sh").args(["-c", &script]))?;
    Ok(format!("/{name}"))
}

macro_rules! cases {
    ($($case:ident with $flags:expr;)*) => {
        mod cases {
            use super::*;
            $(#[test]
            fn $case() -> Result<(), Failure> {
                let Some(node) = start($flags)? else { return Ok(()) };
                Ok(super::$case(&node).map_err(|error| node.explain(error))?)
            })*
        }
    };
}

cases! {
    refused_captures_fill_no_log with None;
    a_guest_hoards_no_snapshots with Some(&["--size", "2GiB", "--memory-budget", "1GiB", "--guest-budget", "64MiB"]);
    a_full_store_hinders_no_pod with Some(&["--size", "2GiB", "--memory-budget", "64KiB"]);
    who_takes_all_memory_is_killed_alone with Some(&["--size", "2GiB"]);
}
