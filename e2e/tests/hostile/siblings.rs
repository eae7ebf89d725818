//! What a pod knows of its siblings' secrets: pods and clones of one snapshot draw other numbers from the generators in their memory, with default settings and without hooks of their own.
//!
//! Before clones were made to seed them anew, every line here was equal in all of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::pod::{self, Pod};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;
use seuss_e2e::{command, load, paths, runtime, servers};

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(120);
/// A figure of the daemon.
const SNAPSHOTS: &str = "seuss_snapshotter_memory_snapshots";

/// A program that was used before its snapshot, and what of its answers must differ.
struct Drawer {
    image: &'static str,
    command: &'static [&'static str],
    differ: &'static [&'static str],
}

const PYTHON: Drawer = Drawer {
    image: "python",
    command: &["python3", "-c", include_str!("../../programs/generators_server.py")],
    differ: &["ssl", "random", "name", "uuid1"],
};
const NUMPY: Drawer =
    Drawer { image: "numpy", command: PYTHON.command, differ: &["ssl", "random", "name", "uuid1", "numpy"] };
const NODE: Drawer = Drawer {
    image: "node",
    command: &["node", "-e", include_str!("../../programs/generators_server.js")],
    differ: &["uuid", "web", "values", "bytes", "integer"],
};

/// Every answer says something else of what must differ.
fn all_differ(drawer: &Drawer, answers: &[Value]) -> Result<()> {
    for key in drawer.differ {
        ensure!(answers.iter().all(|answer| !answer[key].is_null()), "{key} is missing: {answers:#?}");
        let values: BTreeSet<String> = answers.iter().map(|answer| answer[key].to_string()).collect();
        ensure!(values.len() == answers.len(), "{key}: {} different ones: {answers:#?}", values.len());
    }
    // The way in is not to be seen.
    ensure!(answers.iter().all(|answer| answer["options"].is_null() || answer["options"] == "undefined"));
    Ok(())
}

fn ask(node: &Containerd, sandbox: &Sandbox) -> Result<Value> {
    let ip = node.cri().pod_sandbox_status(sandbox)?.network.context("the pod has no network")?.ip;
    let ip: IpAddr = ip.parse().with_context(|| format!("pod IP {ip:?}"))?;
    let address = SocketAddr::new(ip, servers::PORT);
    let body = node.namespaces().in_network(move || {
        load::wait_for(address, PATIENCE)?;
        load::get(address, "/")
    })?;
    Ok(serde_json::from_str(&body)?)
}

/// The first pod, which is captured when it is ready, and three that start from that.
fn pods(node: &Containerd, drawer: &Drawer) -> Result<()> {
    let image = node.import(drawer.image)?;
    let before = node.snapshotter().metric(SNAPSHOTS)?;
    let mut sandboxes = Vec::new();
    for number in 0..4 {
        let name = format!("{}-{number}", drawer.image);
        let sandbox = node.cri().run_pod_sandbox(Sandbox::new(&name, Runtime::Seuss, &node.pod_logs()))?;
        let spec = ContainerSpec::new("main", &image).command(drawer.command);
        let id = node.cri().create_container(&sandbox, &spec)?;
        node.cri().start_container(&id)?;
        sandboxes.push((sandbox, id));
        let deadline = Instant::now() + PATIENCE;
        while node.snapshotter().metric(SNAPSHOTS)? <= before {
            ensure!(Instant::now() < deadline, "no snapshot: {}", node.snapshotter().get("/metrics")?);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let answers: Vec<_> = sandboxes.iter().map(|(sandbox, _)| ask(node, sandbox)).collect::<Result<_>>()?;
    all_differ(drawer, &answers)?;
    for (sandbox, id) in sandboxes {
        node.cri().stop_container(&id, Duration::from_secs(1))?;
        node.cri().stop_pod_sandbox(&sandbox)?;
        node.cri().remove_pod_sandbox(&sandbox)?;
    }
    Ok(())
}

#[test]
fn pods_of_one_snapshot_draw_other_numbers() -> Result<(), Failure> {
    let missing = need::missing_for_node(Version::V1_7, Runtime::Seuss)
        .or_else(|| need::missing_images(&["pause", "python", "node"]));
    if let Some(reason) = missing {
        need::skip(&reason);
        return Ok(());
    }
    let options = Options::for_runtime(Version::V1_7, Runtime::Seuss)?;
    let node = Containerd::start(options.with_snapshotter(&["--size", "2GiB"])?)?;
    node.import("pause")?;
    for drawer in [&PYTHON, &NODE] {
        pods(&node, drawer).map_err(|error| node.explain(error))?;
    }
    Ok(())
}

/// `count` clones of one snapshot, from a pool, so that most of them were entered ahead of time.
fn clones(drawer: &Drawer, count: usize) -> Result<(), Failure> {
    if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&[drawer.image])) {
        need::skip(&reason);
        return Ok(());
    }
    let store = tempfile::tempdir().context("a store")?;
    let seussctl = runtime::shim_dir()?.join("seussctl");
    // In a network namespace of its own, where only the loopback interface is.
    let in_namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(&seussctl);
        command.env("SEUSS_STORE", store.path());
        command
    };
    let mut create = in_namespace();
    create.args(["snapshot", "create", "--ready", "--snapshot-name", "drawer", "--rootfs"]);
    command::output(create.arg(paths::rootfs(drawer.image)).arg("--").args(drawer.command))?;
    let mut clone = in_namespace();
    clone.args(["clone", "-n", &count.to_string(), "--get", &format!("{}/", servers::PORT), "drawer"]);
    let text = String::from_utf8(command::output(&mut clone)?).context("answers")?;
    let answers: Vec<Value> =
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("answers")?;
    let check = || -> Result<()> {
        ensure!(answers.len() == count, "{} answers", answers.len());
        all_differ(drawer, &answers)
    };
    Ok(check()?)
}

/// What cannot be seeded anew: libgcrypt keeps its nonces to itself. There is no snapshot, a figure says why, and every pod serves.
#[test]
fn a_program_whose_generator_cannot_be_seeded_is_not_captured() -> Result<(), Failure> {
    const PROGRAM: &str = "import ctypes, http.server\nctypes.CDLL('libgcrypt.so.20').gcry_check_version(None)\n\
        class Application(http.server.BaseHTTPRequestHandler):\n    \
            def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b'here')\n\
        http.server.ThreadingHTTPServer(('0.0.0.0', 8000), Application).serve_forever()";
    let Some(node) = pod::node(Version::V1_7, &["conformance"])? else { return Ok(()) };
    let case = || -> Result<()> {
        let image = node.import("conformance")?;
        let spec = ContainerSpec::new("main", &image).command(&["python3", "-c", PROGRAM]);
        let first = Pod::start(&node, pod::sandbox(&node, "first"), &spec)?;
        ensure!(first.get(servers::PORT, "/")? == "here", "the first pod");
        let figure = "seuss_snapshotter_memory_given_up_total{reason=\"random-generator\"}";
        let deadline = Instant::now() + PATIENCE;
        while node.snapshotter().metric(figure).unwrap_or(0.0) < 1.0 {
            ensure!(Instant::now() < deadline, "it is not given up: {}", node.snapshotter().get("/metrics")?);
            std::thread::sleep(Duration::from_millis(50));
        }
        let second = Pod::start(&node, pod::sandbox(&node, "second"), &spec)?;
        ensure!(second.get(servers::PORT, "/")? == "here", "the second pod");
        let log = std::fs::read_to_string(node.log_path())?;
        // Its runtime's base snapshot is from before the library was there.
        ensure!(!log.contains("level=function"), "it was captured");
        ensure!(
            log.contains("libgcrypt, whose nonces would be the same in all clones"),
            "the log says nothing"
        );
        second.remove()?;
        first.remove()
    };
    Ok(case().map_err(|error| node.explain(error))?)
}

/// In the middle of the base phase: OpenSSL was used, and the program looks at its application for the first time.
const IN_BASE: &str = "import os, ssl\nssl.RAND_bytes(4)\nos.stat('/app/server.py')\n\
    print(ssl.RAND_bytes(8).hex(), flush=True)";

#[test]
fn clones_of_a_base_snapshot_draw_other_numbers() -> Result<(), Failure> {
    if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&["web"])) {
        need::skip(&reason);
        return Ok(());
    }
    let store = tempfile::tempdir().context("a store")?;
    let seussctl = || {
        let mut command = Command::new(runtime::shim_dir()?.join("seussctl"));
        command.args(["run", "--store"]).arg(store.path());
        command.arg("--rootfs").arg(paths::image_archive("web"));
        anyhow::Ok(command)
    };
    let mut boot = seussctl()?;
    boot.args(["--base", "--snapshot-name", "runtime", "--", "python3", "-I", "-c", IN_BASE]);
    let mut numbers = BTreeSet::from([command::output(&mut boot)?]);
    for _ in 0..3 {
        numbers.insert(command::output(seussctl()?.args(["--from", "runtime-base"]))?);
    }
    let check = || -> Result<()> {
        ensure!(numbers.len() == 4, "{numbers:?}");
        Ok(())
    };
    Ok(check()?)
}

/// Clones of each snapshot; `SEUSS_CLONES=10000` for all that the contract promises.
fn count() -> usize {
    std::env::var("SEUSS_CLONES").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

#[test]
fn clones_of_python_draw_other_numbers() -> Result<(), Failure> {
    clones(&PYTHON, count())
}

#[test]
fn clones_of_python_with_numpy_draw_other_numbers() -> Result<(), Failure> {
    clones(&NUMPY, count())
}

#[test]
fn clones_of_node_draw_other_numbers() -> Result<(), Failure> {
    clones(&NODE, count())
}
