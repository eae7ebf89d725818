//! The benchmark case `first_byte`: from the call of StartContainer to the first byte of a server's answer, through the pod's IP.
//!
//! Under seuss in up to three ways: booted (`seuss.dev/snapshot: off`), restored from the function snapshot of a pod that was ready before, and from the base snapshot that namespaces share. The runtimes take turns on one
//! node, whose images seuss-snapshotter keeps.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::containerd::Containerd;
use crate::cri::spec::{ContainerSpec, Sandbox};
use crate::report::{self, Samples};
use crate::runtime::Runtime;
use crate::servers;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_micros(100);

/// wsgiref, as a program that needs no name server: `wsgiref.simple_server` looks its own name up.
const WSGIREF: &str = include_str!("../programs/identity_server.py");

/// One way to start a server.
struct Way {
    name: &'static str,
    runtime: Runtime,
    /// Value of `seuss.dev/snapshot`.
    snapshot: Option<&'static str>,
    /// Each time in another Kubernetes namespace, which shares base snapshots only.
    stranger: bool,
}

const WAYS: [Way; 5] = [
    Way { name: "runc", runtime: Runtime::Runc, snapshot: None, stranger: false },
    Way { name: "crun", runtime: Runtime::Crun, snapshot: None, stranger: false },
    Way { name: "seuss_boot", runtime: Runtime::Seuss, snapshot: Some("off"), stranger: false },
    Way { name: "seuss_restored", runtime: Runtime::Seuss, snapshot: None, stranger: false },
    Way { name: "seuss_base", runtime: Runtime::Seuss, snapshot: None, stranger: true },
];

/// A server.
struct Case {
    name: &'static str,
    image: &'static str,
    /// Empty: the image's.
    command: &'static [&'static str],
    /// Whether there is a layer above the interpreter's, and so a base snapshot.
    has_base: bool,
}

const CASES: [Case; 4] = [
    Case { name: "wsgiref", image: "python", command: &["python3", "-c", WSGIREF], has_base: false },
    Case { name: "wsgiref_layer", image: "wsgiref", command: &[], has_base: true },
    Case {
        name: "gunicorn",
        image: servers::GUNICORN.image,
        command: servers::GUNICORN.command,
        has_base: true,
    },
    Case {
        name: "asyncio",
        image: servers::ASYNCIO.image,
        command: servers::ASYNCIO.command,
        has_base: false,
    },
];

/// A pod that serves.
struct Served {
    sandbox: Sandbox,
    phases: Vec<(&'static str, Duration)>,
}

fn serve(node: &Containerd, way: &Way, run: u32, spec: &ContainerSpec) -> Result<Served> {
    let mut sandbox = Sandbox::new("bench", way.runtime, &node.pod_logs());
    if let Some(metadata) = sandbox.config.metadata.as_mut().filter(|_| way.stranger) {
        metadata.namespace = format!("stranger-{run}");
    }
    if let Some(value) = way.snapshot {
        sandbox = sandbox.annotation("seuss.dev/snapshot", value);
    }
    let mut phases = Vec::new();
    let began = Instant::now();
    let sandbox = node.cri().run_pod_sandbox(sandbox)?;
    phases.push(("run_pod_sandbox", began.elapsed()));
    let ip = node.cri().pod_sandbox_status(&sandbox)?.network.context("the pod has no network")?.ip;
    let address = SocketAddr::new(ip.parse::<IpAddr>()?, servers::PORT);
    let began = Instant::now();
    let id = node.cri().create_container(&sandbox, spec)?;
    phases.push(("create_container", began.elapsed()));
    let namespaces = node.namespaces();
    let (started, answered) = std::thread::scope(|scope| {
        let began = Instant::now();
        let asking = scope.spawn(move || namespaces.in_network(move || first_byte(address)));
        let started = node.cri().start_container(&id).map(|()| began.elapsed());
        let answered = asking.join().unwrap_or_else(|_| bail!("the asking thread panicked"));
        (started, answered.map(|at| at.duration_since(began)))
    });
    phases.push(("start_container", started?));
    phases.push(("first_byte", answered?));
    Ok(Served { sandbox, phases })
}

/// Asks until something answers; when the first byte came.
fn first_byte(address: SocketAddr) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => stream,
            Err(_) if Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("nobody answers at {address}")),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /1 HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer[..1])?;
        let at = Instant::now();
        stream.read_exact(&mut answer[1..])?;
        ensure!(
            &answer == b"HTTP/1.1 200" || &answer == b"HTTP/1.0 200",
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
        return Ok(at);
    }
}

fn remove(node: &Containerd, served: &Served) -> Result<()> {
    node.cri().stop_pod_sandbox(&served.sandbox)?;
    node.cri().remove_pod_sandbox(&served.sandbox)
}

/// Measures `runs` starts of each server in each way that is among `runtimes`.
///
/// # Errors
/// A pod fails.
pub fn measure(node: &Containerd, runtimes: &[Runtime], runs: u32) -> Result<Map<String, Value>> {
    node.import("pause")?;
    let mut body = Map::new();
    body.insert("unit".into(), "ms".into());
    for Case { name, image, command, has_base } in CASES {
        let image = node.import(image)?;
        let spec = ContainerSpec::new("server", &image).command(command).memory_bytes(256 << 20);
        let before = snapshots(node)?;
        let mut times: BTreeMap<&str, BTreeMap<String, Samples>> = BTreeMap::new();
        for run in 0..=runs {
            let possible = |way: &&Way| runtimes.contains(&way.runtime) && (has_base || !way.stranger);
            for way in WAYS.iter().filter(possible) {
                let served =
                    serve(node, way, run, &spec).with_context(|| format!("{name} under {}", way.name))?;
                if run == 0 && way.name == "seuss_restored" {
                    // The first of its kind: the others start from what is captured of it.
                    wait_for_snapshots(node, before + if has_base { 2.0 } else { 1.0 })?;
                }
                remove(node, &served)?;
                if run > 0 {
                    for (phase, duration) in served.phases {
                        let samples = times.entry(way.name).or_default().entry(phase.to_owned()).or_default();
                        samples.push(duration.as_secs_f64() * 1000.0);
                    }
                }
            }
        }
        let mut ways = Map::new();
        for (way, samples) in &times {
            for (phase, samples) in samples {
                let (median, p99) = (samples.quantile(0.5), samples.quantile(0.99));
                println!("{name:<13} {way:<15} {phase:<16} median {median:>8.1} ms  p99 {p99:>8.1} ms");
            }
            ways.insert((*way).to_owned(), report::summaries(samples));
        }
        let bytes = node.snapshotter().metric("seuss_snapshotter_memory_used_bytes")?;
        ways.insert("store_bytes".into(), json!(bytes));
        body.insert(name.to_owned(), Value::Object(ways));
    }
    Ok(body)
}

fn snapshots(node: &Containerd) -> Result<f64> {
    node.snapshotter().metric("seuss_snapshotter_memory_snapshots")
}

fn wait_for_snapshots(node: &Containerd, count: f64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while snapshots(node)? < count {
        ensure!(Instant::now() < deadline, "no snapshot is taken");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
