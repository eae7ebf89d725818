//! The phases of one pod's life and how long each takes, as `make run` prints and the benchmarks collect them.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::containerd::Containerd;
use crate::cri::spec::{ContainerSpec, Sandbox};
use crate::cri::{log, proto};
use crate::runtime::Runtime;

/// How long a container may take to print and to exit.
const PATIENCE: Duration = Duration::from_secs(60);

/// One pod that ran to its end.
#[derive(Clone, Debug)]
pub struct PodRun {
    /// Phase name and duration, in order.
    pub phases: Vec<(&'static str, Duration)>,
    /// The container's exit code.
    pub exit_code: i32,
    /// What it printed.
    pub log: log::Log,
}

/// Runs a pod with one container until the container exits, then removes both. The container must print something.
///
/// Phases: the five calls, and two times that count from the moment StartContainer is called: `first_output` until the first
/// line is in the log, `exit` until the moment containerd says the program ended.
///
/// # Errors
/// A call fails, or the container neither prints nor exits in a minute.
pub fn run_pod(node: &Containerd, runtime: Runtime, name: &str, spec: &ContainerSpec) -> Result<PodRun> {
    let cri = node.cri();
    let mut phases = Vec::new();
    let sandbox = Sandbox::new(name, runtime, &node.pod_logs());
    let sandbox = timed(&mut phases, "run_pod_sandbox", || cri.run_pod_sandbox(sandbox))?;
    let id = timed(&mut phases, "create_container", || cri.create_container(&sandbox, spec))?;
    let (started, wall) = (Instant::now(), SystemTime::now());
    timed(&mut phases, "start_container", || cri.start_container(&id))?;
    let path = sandbox.log_path(spec);
    log::wait(&path, PATIENCE, |log| !log.stdout.is_empty() || !log.stderr.is_empty())
        .with_context(|| last_words(cri.container_status(&id)))?;
    phases.push(("first_output", started.elapsed()));
    let status = cri.wait_exit(&id, PATIENCE)?;
    let finished = UNIX_EPOCH + Duration::from_nanos(u64::try_from(status.finished_at)?);
    phases.push(("exit", finished.duration_since(wall).unwrap_or_default()));
    let log = log::read(&path)?;
    timed(&mut phases, "stop_and_remove", || {
        cri.remove_container(&id)?;
        cri.stop_pod_sandbox(&sandbox)?;
        cri.remove_pod_sandbox(&sandbox)
    })?;
    Ok(PodRun { phases, exit_code: status.exit_code, log })
}

fn timed<T>(
    phases: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let started = Instant::now();
    let result = work()?;
    phases.push((name, started.elapsed()));
    Ok(result)
}

fn last_words(status: Result<proto::ContainerStatus>) -> String {
    match status {
        Ok(status) => format!(
            "the container is {:?}, exit code {}, {}: {}",
            status.state(),
            status.exit_code,
            status.reason,
            status.message
        ),
        Err(error) => format!("{error:#}"),
    }
}
