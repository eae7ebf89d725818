//! `make bench`: runs benchmark cases and writes target/bench/report.json (keys: e2e/BENCH.md).

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Map, Value, json};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::spec::ContainerSpec;
use seuss_e2e::phases::run_pod;
use seuss_e2e::report::{self, Samples};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;
use seuss_e2e::{command, need, paths, progress, serving, snapshots};

#[derive(Parser)]
#[command(about = "Runs benchmarks and writes target/bench/report.json", version)]
struct Args {
    /// Cases to run; all by default: pod_phases, guest, snapshotter, first_byte, restore, servers.
    #[arg(long)]
    case: Vec<String>,
    /// Runtimes to compare.
    #[arg(long, value_delimiter = ',', default_value = "runc,crun,seuss")]
    runtimes: Vec<Runtime>,
    /// Servers of the case `servers`; all by default: wsgiref, gunicorn, gunicorn_one_cpu, redis.
    #[arg(long, value_delimiter = ',')]
    server: Vec<String>,
    /// containerd series.
    #[arg(long, default_value = "1.7")]
    containerd: Version,
    /// Clones for each depth of the snapshot tree.
    #[arg(long, default_value_t = 200)]
    clones: u32,
    /// Pods per runtime; turns of each runtime in the case `servers`.
    #[arg(long, default_value_t = 25)]
    runs: u32,
}

/// A benchmark case: its name in the report and the function that measures it.
type Case = (&'static str, fn(&Args) -> Result<Map<String, Value>>);

const CASES: [Case; 7] = [
    ("pod_phases", pod_phases),
    ("guest", guest),
    ("snapshotter", snapshotter),
    ("first_byte", first_byte),
    ("levels", levels),
    ("restore", restore),
    ("servers", servers),
];

fn main() -> ExitCode {
    let args = Args::parse();
    let mut failed = false;
    for (name, measure) in CASES {
        if !args.case.is_empty() && !args.case.iter().any(|wanted| wanted == name) {
            continue;
        }
        progress::step(format!("benchmark {name}"));
        match measure(&args).and_then(|body| report::merge(name, body)) {
            Ok(path) => progress::detail(format!("written to {}", path.display())),
            Err(error) => {
                progress::warn(format!("benchmark {name}: {error:#}"));
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The phases of a pod that prints one line of Python. The runtimes take turns on one node, so that what changes on the
/// machine meanwhile meets them all.
fn pod_phases(args: &Args) -> Result<Map<String, Value>> {
    let runtime = |wanted: Runtime| args.runtimes.contains(&wanted);
    let with_shim = if runtime(Runtime::Seuss) { Runtime::Seuss } else { Runtime::Runc };
    if let Some(reason) = need::missing_for_node(args.containerd, with_shim) {
        anyhow::bail!("cannot run here: {reason}");
    }
    let node = Containerd::start(Options::for_runtime(args.containerd, with_shim)?)?;
    node.import("pause")?;
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image)
        .command(&["python3", "-c", "print('hello')"])
        .memory_bytes(256 << 20);

    let mut phases: BTreeMap<&str, BTreeMap<String, Samples>> = BTreeMap::new();
    let mut errors: BTreeMap<&str, String> = BTreeMap::new();
    for run in 0..=args.runs {
        for runtime in &args.runtimes {
            let name = runtime.handler();
            if errors.contains_key(name) {
                continue;
            }
            match run_pod(&node, *runtime, "bench", &spec) {
                // The first run of each warms caches up.
                Ok(_) if run == 0 => {}
                Ok(pod) => {
                    for (phase, duration) in pod.phases {
                        let samples = phases.entry(name).or_default().entry(phase.to_owned()).or_default();
                        samples.push(duration.as_secs_f64() * 1000.0);
                    }
                }
                Err(error) => {
                    progress::warn(format!("{name}: {error:#}"));
                    errors.insert(name, format!("{error:#}"));
                }
            }
        }
    }
    let mut runtimes = Map::new();
    for (name, samples) in &phases {
        for (phase, samples) in samples {
            println!(
                "{name:<6} {phase:<16} median {:>8.1} ms  p99 {:>8.1} ms",
                samples.quantile(0.5),
                samples.quantile(0.99)
            );
        }
        runtimes.insert((*name).to_owned(), report::summaries(samples));
    }
    for (name, error) in errors {
        runtimes.insert(name.to_owned(), json!({ "error": error }));
    }
    let mut body = Map::new();
    body.insert("unit".into(), "ms".into());
    body.insert(
        "versions".into(),
        Value::Object(node.tools().versions().into_iter().map(|(name, line)| (name, line.into())).collect()),
    );
    body.insert("runtimes".into(), Value::Object(runtimes));
    Ok(body)
}

/// seuss-snapshotter beside overlayfs: calls, unpacking, memory; and pods under seuss with each of them.
fn snapshotter(args: &Args) -> Result<Map<String, Value>> {
    if let Some(reason) = need::missing_for_node(args.containerd, Runtime::Runc) {
        anyhow::bail!("cannot run here: {reason}");
    }
    let size = ["--size", "2GiB"];
    let kvm = need::missing_kvm().is_none();
    let runtime = if kvm { Runtime::Seuss } else { Runtime::Runc };
    let options = || Options::for_runtime(args.containerd, runtime);
    let node = Containerd::start(options()?.with_snapshotter(&size)?)?;
    let mut body = snapshots::measure(&node, "python", args.runs)?;
    let directories = [&size[..], &["--layer-files", "directory"]].concat();
    let other = Containerd::start(options()?.with_snapshotter(&directories)?)?;
    let twice = snapshots::store_bytes(&other, "python")?;
    println!("bytes of the store with directories beside images: {twice}");
    if let Some(Value::Object(memory)) = body.get_mut("memory") {
        memory.insert("store_bytes_with_directories".into(), twice.into());
    }
    drop(other);
    if kvm {
        let mut pods = Map::new();
        pods.insert("seuss".into(), snapshots::pods(&node, args.runs)?);
        drop(node);
        pods.insert("overlayfs".into(), snapshots::pods(&Containerd::start(options()?)?, args.runs)?);
        body.insert("pods".into(), Value::Object(pods));
    }
    Ok(body)
}

/// From StartContainer to the first byte of a server's answer.
fn first_byte(args: &Args) -> Result<Map<String, Value>> {
    if let Some(reason) = need::missing_for_node(args.containerd, Runtime::Seuss) {
        anyhow::bail!("cannot run here: {reason}");
    }
    let options =
        Options::for_runtime(args.containerd, Runtime::Seuss)?.with_snapshotter(&["--size", "2GiB"])?;
    seuss_e2e::first_byte::measure(&Containerd::start(options)?, &args.runtimes, args.runs)
}

/// Clones of snapshots at each level, asked over TCP.
fn levels(args: &Args) -> Result<Map<String, Value>> {
    seuss_e2e::levels::measure(args.clones)
}

/// Clones of snapshots of CPython at several depths of the tree.
fn restore(args: &Args) -> Result<Map<String, Value>> {
    seuss_e2e::restore::measure(args.clones)
}

/// Servers under load.
fn servers(args: &Args) -> Result<Map<String, Value>> {
    serving::measure(args.containerd, &args.runtimes, &args.server, args.runs)
}

/// The microbenchmarks of the conformance suite, natively and in the guest.
fn guest(_: &Args) -> Result<Map<String, Value>> {
    let mut bench = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    bench.current_dir(paths::repository().join("guest/conformance"));
    bench.args(["run", "--quiet", "--release", "--bin", "seuss-conformance", "--", "bench"]);
    let text = command::output(&mut bench)?;
    let mut rows = Vec::new();
    for line in String::from_utf8_lossy(&text).lines().filter(|line| line.starts_with('{')) {
        println!("{line}");
        rows.push(serde_json::from_str::<Value>(line).with_context(|| format!("not a JSON object: {line}"))?);
    }
    let mut body = Map::new();
    body.insert("rows".into(), Value::Array(rows));
    Ok(body)
}
