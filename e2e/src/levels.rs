//! From a snapshot to the first byte of an answer over TCP, at each level of the tree and at several depths.
//!
//! The server is wsgiref in an image's own layer (e2e/programs/levels_server.py). It is captured twice, by `seussctl`: once without a base snapshot, so that the function's is at depth 1; and once with the automatic base
//! snapshot, on which follow the function's and 18 argument snapshots, each taken half-way through a request.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::load;
use crate::namespace::Namespaces;
use crate::report::Samples;
use crate::{command, need, paths, servers};

/// The image.
const IMAGE: &str = "wsgiref";
/// Depth of the last argument snapshot.
const DEEPEST: u32 = 20;
/// Clones that teach the working set and are not counted.
const TEACHERS: &str = "4";
const PATIENCE: Duration = Duration::from_secs(60);
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), servers::PORT);

/// What is measured: its name in the report, the snapshot, whether that lies beneath an application, and in which store it is.
const MEASURED: [(&str, &str, bool, &str); 6] = [
    ("base", "server-base", true, "tree"),
    ("function", "server", false, "tree"),
    ("argument", "argument-3", false, "tree"),
    ("function_depth_1", "server", false, "alone"),
    ("argument_depth_5", "argument-5", false, "tree"),
    ("argument_depth_20", "argument-20", false, "tree"),
];

/// Stores of snapshots, and a network of their own for the servers.
struct Bench {
    dir: PathBuf,
    network: Namespaces,
}

/// Ended with it.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    fn seussctl(&self, store: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.network.init_pid()));
        command.arg(paths::target().join("release/seussctl"));
        command.env("SEUSS_STORE", self.dir.join(store)).env("SEUSS_LAYERS", self.dir.join("layers"));
        command
    }

    fn create(&self, store: &str, more: &[&str]) -> Result<()> {
        let mut create = self.seussctl(store);
        create.args(["snapshot", "create", "--ready", "--snapshot-name", "server", "--memory", "256M"]);
        create.args(more).arg("--rootfs").arg(paths::image_archive(IMAGE));
        command::output(&mut create).map(drop)
    }

    fn get(&self, path: &str) -> Result<String> {
        let path = path.to_owned();
        self.network.in_network(move || {
            load::wait_for(ADDRESS, PATIENCE)?;
            load::get(ADDRESS, &path)
        })
    }

    /// A clone of the function's snapshot, which runs until it is dropped.
    fn clone_of_function(&self) -> Result<Ends> {
        let mut run = self.seussctl("tree");
        run.args(["run", "--from", "server"]).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Ends(run.spawn()?))
    }

    /// Argument snapshots upon each other, from depth 3 on.
    fn take_argument_snapshots(&self) -> Result<()> {
        let server = self.clone_of_function()?;
        for depth in 3..=DEEPEST {
            let answer = self.get(&format!("/argument/argument-{depth}"))?;
            ensure!(answer.contains(&format!("prepared for {} keys", depth - 2)), "{answer:?}");
        }
        drop(server);
        Ok(())
    }

    /// From connecting to the answer's first bytes, of a clone that is idle.
    fn hot(&self, requests: u32) -> Result<Samples> {
        let server = self.clone_of_function()?;
        self.get("/warm-up")?;
        let samples = self.network.in_network(move || {
            let mut samples = Samples::default();
            for _ in 0..requests {
                // It is idle by then.
                std::thread::sleep(Duration::from_millis(5));
                let began = Instant::now();
                load::get(ADDRESS, "/")?;
                samples.push(began.elapsed().as_secs_f64() * 1e6);
            }
            Ok(samples)
        })?;
        drop(server);
        Ok(samples)
    }

    fn ask_clones(&self, store: &str, snapshot: &str, over_image: bool, clones: &str) -> Result<Value> {
        let mut clone = self.seussctl(store);
        let target = format!("{}/", servers::PORT);
        clone.args(["clone", "--json", "--quiet", "--get", &target, "-n", clones]);
        if over_image {
            clone.arg("--rootfs").arg(paths::image_archive(IMAGE));
        }
        let text = command::output(clone.arg(snapshot))?;
        let figures: Value = serde_json::from_slice(&text).context("seussctl clone --json")?;
        ensure!(figures["failed"] == 0, "{} of {clones} clones of {snapshot} failed", figures["failed"]);
        Ok(figures)
    }
}

/// Takes the snapshots, and asks `clones` clones of each.
///
/// # Errors
/// No KVM, no image, or `seussctl` fails.
pub fn measure(clones: u32) -> Result<Map<String, Value>> {
    if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&[IMAGE])) {
        anyhow::bail!("cannot run here: {reason}");
    }
    let network = Namespaces::create()?;
    let dir = network.root().join("levels");
    std::fs::create_dir_all(&dir)?;
    measure_in(&Bench { dir, network }, clones)
}

fn list(bench: &Bench, store: &str) -> Result<Vec<Value>> {
    let text = command::output(bench.seussctl(store).args(["snapshot", "ls", "--json"]))?;
    serde_json::from_slice(&text).context("seussctl snapshot ls --json")
}

fn measure_in(bench: &Bench, clones: u32) -> Result<Map<String, Value>> {
    for store in ["alone", "tree", "layers"] {
        std::fs::create_dir_all(Path::new(&bench.dir).join(store))?;
    }
    bench.create("alone", &[])?;
    bench.create("tree", &["--base"])?;
    bench.take_argument_snapshots()?;
    let mut body = Map::new();
    body.insert("unit".into(), json!("us"));
    for (name, snapshot, over_image, store) in MEASURED {
        bench.ask_clones(store, snapshot, over_image, TEACHERS)?;
        let mut figures = bench.ask_clones(store, snapshot, over_image, &clones.to_string())?;
        let known = list(bench, store)?;
        let known = known.iter().find(|known| known["name"] == snapshot).context("a snapshot is missing")?;
        for key in ["depth", "layer_bytes", "tables_bytes", "copied_pages"] {
            figures[key] = known[key].clone();
        }
        let first_byte = figures["phases"]["first_output_us"].clone();
        println!(
            "{name:<18} depth {:>2}: first byte p50 {:>6} us, p99 {:>6} us; layer {} KiB; KVM's faults {}, ahead {}",
            known["depth"],
            first_byte["p50"],
            first_byte["p99"],
            known["layer_bytes"].as_u64().unwrap_or(0) >> 10,
            figures["phases"]["kvm_faults"]["p50"],
            figures["phases"]["kvm_faults_ahead"]["p50"],
        );
        figures["first_byte"] = first_byte;
        body.insert(name.into(), figures);
    }
    let hot = bench.hot(clones)?;
    println!("hot: answer p50 {:>6.0} us, p99 {:>6.0} us", hot.quantile(0.5), hot.quantile(0.99));
    body.insert("hot".into(), hot.summary());
    Ok(body)
}
