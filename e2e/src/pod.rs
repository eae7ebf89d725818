//! A pod with one container, on a node with seuss-snapshotter: what tests of snapshots are made of.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::containerd::{Containerd, Options};
use crate::cri::spec::{ContainerSpec, Sandbox};
use crate::runtime::Runtime;
use crate::tools::Version;
use crate::{load, need, servers};

/// Generous: a loaded machine must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What the shim logs when a container starts from a snapshot.
const RESTORED: &str = "restored from a snapshot";
/// How many memory snapshots the daemon has.
const SNAPSHOTS: &str = "seuss_snapshotter_memory_snapshots";

/// A node with seuss-snapshotter; `None` where it cannot be, which is said.
///
/// # Errors
/// It cannot be started.
pub fn node(version: Version, images: &[&str]) -> Result<Option<Containerd>> {
    let missing = need::missing_for_node(version, Runtime::Seuss)
        .or_else(|| need::missing_images(&[&["pause"], images].concat()));
    if let Some(reason) = missing {
        need::skip(&reason);
        return Ok(None);
    }
    let node = Containerd::start(
        Options::for_runtime(version, Runtime::Seuss)?.with_snapshotter(&["--size", "2GiB"])?,
    )?;
    node.import("pause")?;
    Ok(Some(node))
}

/// A pod whose one container may serve.
pub struct Pod<'n> {
    node: &'n Containerd,
    /// Its sandbox.
    pub sandbox: Sandbox,
    /// Id of its container.
    pub id: String,
    /// Where it serves.
    pub address: SocketAddr,
}

impl<'n> Pod<'n> {
    /// Starts a pod.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn start(node: &'n Containerd, sandbox: Sandbox, spec: &ContainerSpec) -> Result<Self> {
        let sandbox = node.cri().run_pod_sandbox(sandbox)?;
        let ip = node.cri().pod_sandbox_status(&sandbox)?.network.context("the pod has no network")?.ip;
        let ip: IpAddr = ip.parse().with_context(|| format!("pod IP {ip:?}"))?;
        let id = node.cri().create_container(&sandbox, spec)?;
        node.cri().start_container(&id)?;
        Ok(Self { node, sandbox, id, address: SocketAddr::new(ip, servers::PORT) })
    }

    /// Asks for `path` on `port`, once somebody listens.
    ///
    /// # Errors
    /// Nobody answers, or with another status than 200.
    pub fn get(&self, port: u16, path: &str) -> Result<String> {
        let (address, path) = (SocketAddr::new(self.address.ip(), port), path.to_owned());
        self.node.namespaces().in_network(move || {
            load::wait_for(address, PATIENCE)?;
            load::get(address, &path)
        })
    }

    /// Removes it, and waits until it is gone.
    ///
    /// # Errors
    /// containerd refuses that.
    pub fn remove(self) -> Result<()> {
        self.node.cri().stop_container(&self.id, Duration::from_secs(1))?;
        self.node.cri().stop_pod_sandbox(&self.sandbox)?;
        self.node.cri().remove_pod_sandbox(&self.sandbox)
    }
}

/// A sandbox of the seuss runtime.
pub fn sandbox(node: &Containerd, name: &str) -> Sandbox {
    Sandbox::new(name, Runtime::Seuss, &node.pod_logs())
}

/// How many memory snapshots the store has.
///
/// # Errors
/// The daemon does not answer.
pub fn snapshots(node: &Containerd) -> Result<f64> {
    node.snapshotter().metric(SNAPSHOTS)
}

/// Waits until the store has `count` snapshots.
///
/// # Errors
/// It does not get them.
pub fn wait_for_snapshots(node: &Containerd, count: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while snapshots(node)? < f64::from(count) {
        ensure!(Instant::now() < deadline, "no snapshot: {}", node.snapshotter().get("/metrics")?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// How many containers were started from snapshots.
///
/// # Errors
/// The log cannot be read.
pub fn restores(node: &Containerd) -> Result<usize> {
    Ok(fs::read_to_string(node.log_path())?.matches(RESTORED).count())
}
