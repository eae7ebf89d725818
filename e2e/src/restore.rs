//! The cost of clones: a CPython program that takes snapshots one upon the other, and clones of some of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{command, idle, need, paths};

/// Depths that are measured.
pub const DEPTHS: [u32; 3] = [1, 5, 20];
/// Memory of the guests.
const MEMORY: &str = "256M";

/// Serves one request through wsgiref for every snapshot, without a network: what a function does between being asked and answering.
const PROGRAM: &str = r#"
import io, json, os, sys
from wsgiref.handlers import SimpleHandler
table = {n: str(n) * 3 for n in range(20000)}
def app(environ, start):
    start('200 OK', [('Content-Type', 'application/json')])
    return [json.dumps({'path': environ['PATH_INFO'], 'value': table[777], 'pid': os.getpid()}).encode()]
def serve(path):
    out = io.BytesIO()
    handler = SimpleHandler(io.BytesIO(), out, sys.stderr, {'PATH_INFO': path, 'REQUEST_METHOD': 'GET', 'SERVER_PROTOCOL': 'HTTP/1.0'})
    handler.run(app)
    return out.getvalue()
device = os.open('/dev/seuss', os.O_RDWR)
serve('/warm-up')
for depth in range(1, 21):
    table[depth] = 'changed %d' % depth
    os.write(device, b'snapshot function depth-%d' % depth)
    os.write(1, serve('/depth/%d' % depth))
os.write(device, b'snapshot function idle')
os.write(1, b'ready\n')
while path := os.read(0, 4096).decode().strip():
    os.write(1, serve(path).rpartition(b'\n')[2] + b'\n')
"#;

/// Takes the snapshots in a store of their own, and starts `clones` clones of each depth of [`DEPTHS`], each until its first output.
///
/// # Errors
/// No KVM, no image, or `seussctl` fails.
pub fn measure(clones: u32) -> Result<Map<String, Value>> {
    if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&["python"])) {
        anyhow::bail!("cannot run here: {reason}");
    }
    let store = paths::target().join("bench/snapshots");
    let _ = std::fs::remove_dir_all(&store);
    let result = measure_in(&store, clones);
    std::fs::remove_dir_all(&store).with_context(|| format!("cannot remove {}", store.display()))?;
    result
}

fn seussctl(store: &Path) -> Command {
    let program: PathBuf = paths::target().join("release/seussctl");
    let mut command = Command::new(program);
    command.env("SEUSS_STORE", store);
    command
}

fn measure_in(store: &Path, clones: u32) -> Result<Map<String, Value>> {
    let mut run = seussctl(store);
    run.args(["run", "--memory", MEMORY, "--rootfs"]).arg(paths::rootfs("python"));
    run.args(["--", "/usr/bin/python3", "-c", PROGRAM]);
    command::output(&mut run)?;
    let list = command::output(seussctl(store).args(["snapshot", "ls", "--json"]))?;
    let list: Vec<Value> = serde_json::from_slice(&list).context("seussctl snapshot ls --json")?;

    let mut depths = Map::new();
    for depth in DEPTHS {
        let name = format!("depth-{depth}");
        // The first clones teach the working set.
        command::output(seussctl(store).args([
            "clone",
            "--json",
            "--quiet",
            "--until-output",
            "-n",
            "4",
            &name,
        ]))?;
        let mut args = vec!["clone", "--json", "--quiet", "--until-output", "-n"];
        let count = clones.to_string();
        args.extend([count.as_str(), &name]);
        let text = command::output(seussctl(store).args(&args))?;
        let mut figures: Value = serde_json::from_slice(&text).context("seussctl clone --json")?;
        let snapshot = list.iter().find(|node| node["name"] == *name).context("a snapshot is missing")?;
        figures["layer_bytes"] = snapshot["layer_bytes"].clone();
        figures["tables_bytes"] = snapshot["tables_bytes"].clone();
        figures["copied_pages"] = snapshot["copied_pages"].clone();
        let of = |phase: &str, rank: &str| figures["phases"][phase][rank].as_u64().unwrap_or(0);
        let all_us = figures["all_us"].as_f64().unwrap_or(f64::NAN);
        let per_second = f64::from(clones) / all_us * 1e6;
        println!(
            "depth {depth:>2}: first output p50 {:>6} us, p99 {:>6} us; start {} us; made ahead {} us; {} snapshot faults; KVM's faults {}, ahead {}; \
             {per_second:.0} clones/s; layer {} KiB",
            of("first_output_us", "p50"),
            of("first_output_us", "p99"),
            of("start_us", "p50"),
            of("made_ahead_us", "p50"),
            of("faults_snapshot_cow", "p50"),
            of("kvm_faults", "p50"),
            of("kvm_faults_ahead", "p50"),
            snapshot["layer_bytes"].as_u64().unwrap_or(0) >> 10,
        );
        figures["clones_per_second"] = json!(per_second.round());
        depths.insert(depth.to_string(), figures);
    }
    let hot = idle::answer(seussctl(store), "idle")?;
    println!("hot: answer p50 {:>6.0} us, p99 {:>6.0} us", hot.quantile(0.5), hot.quantile(0.99));
    let memory = idle::memory(|| seussctl(store), "idle")?;
    println!(
        "idle: {} KiB private for each clone",
        memory["further_clone_bytes"].as_u64().unwrap_or(0) >> 10
    );
    let mut body = Map::new();
    body.insert("hot".into(), hot.summary());
    body.insert("idle".into(), memory);
    body.insert("unit".into(), json!("us"));
    body.insert("depths".into(), Value::Object(depths));
    Ok(body)
}
