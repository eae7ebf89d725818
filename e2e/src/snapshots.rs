//! What a snapshotter costs: latency of its calls through containerd's own API, time to unpack, memory. Figures for `seuss-bench`.
//!
//! Both snapshotters are measured on one node, in turn, by the same calls: containerd's snapshots service, which talks to overlayfs inside of
//! containerd and to seuss-snapshotter over its socket.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use self::proto::snapshots_client::SnapshotsClient;
use self::proto::{
    CommitSnapshotRequest, Kind, ListSnapshotsRequest, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UsageRequest,
};
use crate::containerd::Containerd;
use crate::cri::spec::ContainerSpec;
use crate::phases::run_pod;
use crate::report::{self, Samples};
use crate::runtime::Runtime;
use crate::{command, image, paths};

/// The generated messages and client.
#[allow(
    missing_docs,
    clippy::all,
    unused_qualifications,
    unreachable_pub,
    reason = "generated from snapshots.proto"
)]
mod proto {
    tonic::include_proto!("containerd.services.snapshots.v1");
}

/// Namespace of containerd that is used for this.
const NAMESPACE: &str = "bench";

/// A blocking client of containerd's snapshots service.
struct Snapshots {
    tokio: tokio::runtime::Runtime,
    client: SnapshotsClient<Channel>,
}

type Times = BTreeMap<String, Samples>;

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let name = tonic::metadata::MetadataValue::from_static(NAMESPACE);
    request.metadata_mut().insert("containerd-namespace", name);
    request
}

impl Snapshots {
    fn connect(node: &Containerd) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", node.socket().display()))?;
        let client = SnapshotsClient::new(tokio.block_on(endpoint.connect())?);
        Ok(Self { tokio, client })
    }

    /// The topmost committed snapshot of the one image that is there.
    fn top(&self, snapshotter: &str) -> Result<String> {
        let mut client = self.client.clone();
        self.tokio.block_on(async {
            let list = ListSnapshotsRequest { snapshotter: snapshotter.into(), ..Default::default() };
            let mut stream = client.list(request(list)).await?.into_inner();
            let mut infos = Vec::new();
            while let Some(message) = stream.message().await? {
                infos.extend(message.info);
            }
            let is_top = |name: &str| !infos.iter().any(|info| info.parent == name);
            let top = infos.iter().find(|info| info.kind() == Kind::Committed && is_top(&info.name));
            Ok(top.context("no image is unpacked")?.name.clone())
        })
    }

    /// Bytes of a lineage, as its snapshotter counts.
    fn usage(&self, snapshotter: &str, top: &str) -> Result<i64> {
        let mut client = self.client.clone();
        self.tokio.block_on(async {
            let (mut name, mut bytes) = (top.to_owned(), 0);
            while !name.is_empty() {
                let usage = UsageRequest { snapshotter: snapshotter.into(), key: name.clone() };
                bytes += client.usage(request(usage)).await?.into_inner().size;
                let stat = StatSnapshotRequest { snapshotter: snapshotter.into(), key: name };
                name = client.stat(request(stat)).await?.into_inner().info.context("no answer")?.parent;
            }
            Ok(bytes)
        })
    }

    /// One round of the calls that a container costs, and of those that a layer costs (an empty one).
    fn round(&self, snapshotter: &str, parent: &str, number: u32, times: &mut Times) -> Result<()> {
        let mut client = self.client.clone();
        let (key, name) = (format!("key-{number}"), format!("name-{number}"));
        let mut timed = |phase: &str, began: Instant| {
            times.entry(phase.to_owned()).or_default().push(began.elapsed().as_secs_f64() * 1000.0);
        };
        // Nothing refers to these snapshots: containerd's garbage collector must leave them alone.
        let root = || [("containerd.io/gc.root".to_owned(), "bench".to_owned())].into();
        self.tokio.block_on(async {
            let snapshotter = || snapshotter.to_owned();
            let began = Instant::now();
            client
                .prepare(request(PrepareSnapshotRequest {
                    snapshotter: snapshotter(),
                    key: key.clone(),
                    parent: parent.into(),
                    labels: root(),
                }))
                .await?;
            timed("prepare", began);
            let began = Instant::now();
            client.mounts(request(MountsRequest { snapshotter: snapshotter(), key: key.clone() })).await?;
            timed("mounts", began);
            let began = Instant::now();
            client
                .commit(request(CommitSnapshotRequest {
                    snapshotter: snapshotter(),
                    name: name.clone(),
                    key,
                    labels: root(),
                }))
                .await?;
            timed("commit_empty", began);
            let began = Instant::now();
            client.remove(request(RemoveSnapshotRequest { snapshotter: snapshotter(), key: name })).await?;
            timed("remove", began);
            Ok(())
        })
    }
}

/// Imports and unpacks an image afresh; milliseconds.
fn import(node: &Containerd, snapshotter: &str, name: &str) -> Result<f64> {
    let mut import = node.ctr(NAMESPACE);
    import.args(["image", "import", "--snapshotter", snapshotter]).arg(paths::image_archive(name));
    let began = Instant::now();
    command::run(&mut import)?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

fn forget(node: &Containerd, name: &str) -> Result<()> {
    let reference = image::oci::reference(name);
    command::run(node.ctr(NAMESPACE).args(["image", "rm", "--sync", &reference]))
}

/// What the image `name` takes of the store of `node`, which does not have it; bytes.
///
/// # Errors
/// It cannot be imported, or the daemon does not tell.
pub fn store_bytes(node: &Containerd, name: &str) -> Result<f64> {
    let free = || node.snapshotter().metric("seuss_snapshotter_store_free_bytes");
    let before = free()?;
    import(node, node.snapshotter_name(), name)?;
    let after = free()?;
    forget(node, name)?;
    Ok(before - after)
}

/// Measures overlayfs and seuss-snapshotter on `node`, with the image `name`.
///
/// # Errors
/// A call fails.
pub fn measure(node: &Containerd, name: &str, runs: u32) -> Result<Map<String, Value>> {
    let ours = node.snapshotter_name();
    let mut times: BTreeMap<&str, Times> = BTreeMap::new();
    let mut sizes: BTreeMap<&str, i64> = BTreeMap::new();
    let figure = |name: &str| node.snapshotter().metric(&format!("seuss_snapshotter_{name}"));
    let mut memory = Map::new();
    for number in 0..=runs.min(10) {
        for snapshotter in ["overlayfs", ours] {
            let free = figure("store_free_bytes")?;
            let elapsed = import(node, snapshotter, name)?;
            // The first one warms caches up.
            if number > 0 {
                times.entry(snapshotter).or_default().entry("import".into()).or_default().push(elapsed);
            }
            if number == 0 {
                let client = Snapshots::connect(node)?;
                let top = client.top(snapshotter)?;
                sizes.insert(snapshotter, client.usage(snapshotter, &top)?);
                for round in 0..runs {
                    client.round(snapshotter, &top, round, times.entry(snapshotter).or_default())?;
                }
                if snapshotter == ours {
                    memory.insert("image".into(), name.into());
                    memory.insert("blob_bytes".into(), json!(figure("blob_bytes")?));
                    memory.insert("unpacked_bytes".into(), json!(figure("unpacked_bytes")?));
                    memory.insert("store_bytes".into(), json!(free - figure("store_free_bytes")?));
                }
            }
            forget(node, name)?;
        }
    }
    memory.insert("overlayfs_bytes".into(), json!(sizes.get("overlayfs")));
    let archive = fs::metadata(paths::image_archive(name)).map_or(0, |metadata| metadata.len());
    memory.insert("archive_bytes".into(), json!(archive));
    let mut snapshotters = Map::new();
    for (snapshotter, samples) in &times {
        for (phase, samples) in samples {
            println!(
                "{snapshotter:<10} {phase:<14} median {:>8.2} ms  p99 {:>8.2} ms",
                samples.quantile(0.5),
                samples.quantile(0.99)
            );
        }
        snapshotters.insert((*snapshotter).to_owned(), report::summaries(samples));
    }
    println!("{}", Value::Object(memory.clone()));
    let mut body = Map::new();
    body.insert("unit".into(), "ms".into());
    body.insert("snapshotters".into(), Value::Object(snapshotters));
    body.insert("memory".into(), Value::Object(memory));
    Ok(body)
}

/// Phases of pods under the seuss runtime on `node`, whatever its snapshotter.
///
/// # Errors
/// A pod fails.
pub fn pods(node: &Containerd, runs: u32) -> Result<Value> {
    node.import("pause")?;
    let image = node.import("python")?;
    let spec = ContainerSpec::new("main", &image)
        .command(&["python3", "-c", "print('hello')"])
        .memory_bytes(256 << 20);
    let mut times = Times::new();
    for run in 0..=runs {
        let pod = run_pod(node, Runtime::Seuss, "bench", &spec)?;
        if run > 0 {
            for (phase, duration) in pod.phases {
                times.entry(phase.to_owned()).or_default().push(duration.as_secs_f64() * 1000.0);
            }
        }
    }
    for (phase, samples) in &times {
        let name = node.snapshotter_name();
        println!("pod on {name:<10} {phase:<16} median {:>8.1} ms", samples.quantile(0.5));
    }
    Ok(report::summaries(&times))
}
