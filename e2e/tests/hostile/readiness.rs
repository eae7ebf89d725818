//! A program is not captured in the middle of something, and a snapshot whose clones die is not used for long.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use seuss_e2e::containerd::Containerd;
use seuss_e2e::cri::spec::ContainerSpec;
use seuss_e2e::need::Failure;
use seuss_e2e::pod::{self, PATIENCE, Pod, restores, sandbox, wait_for_snapshots};
use seuss_e2e::servers::PORT;
use seuss_e2e::tools::Version;

/// Listens early, and waits for an answer on a connection before it serves.
const STARTING: &str = include_str!("../../programs/starting.py");
/// Serves with what it asks for on a connection that stays open.
const POOLED: &str = include_str!("../../programs/pooled.py");
/// Listens on an inner port for a while before it serves.
const INNER_PORT: &str = include_str!("../../programs/inner_port.py");
/// Ends in every clone.
const MORTAL: &str = include_str!("../../programs/mortal.py");

fn run(case: impl FnOnce(&Containerd) -> Result<()>) -> Result<(), Failure> {
    let Some(node) = pod::node(Version::V2_1, &["python"])? else { return Ok(()) };
    Ok(case(&node).map_err(|error| node.explain(error))?)
}

fn python<'n>(node: &'n Containerd, name: &str, program: &str) -> Result<Pod<'n>> {
    let image = node.import("python")?;
    Pod::start(
        node,
        sandbox(node, name),
        &ContainerSpec::new("main", &image).command(&["python3", "-c", program]),
    )
}

fn wait_for_metric(node: &Containerd, name: &str, value: f64) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while node.snapshotter().metric(name).unwrap_or(0.0) < value {
        ensure!(
            Instant::now() < deadline,
            "{name} does not reach {value}: {}",
            node.snapshotter().get("/metrics")?
        );
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// An early listener and a connection that is unanswered: it is captured when it serves, and every further pod does, too.
#[test]
fn a_program_that_is_still_starting() -> Result<(), Failure> {
    run(|node| {
        let first = python(node, "first", STARTING)?;
        ensure!(first.get(PORT, "/")? == "rows", "the first pod");
        wait_for_snapshots(node, 1)?;
        for name in ["second", "third"] {
            let pod = python(node, name, STARTING)?;
            ensure!(pod.get(PORT, "/")? == "rows", "the {name} pod");
            pod.remove()?;
        }
        ensure!(restores(node)? == 2, "{} restores", restores(node)?);
        first.remove()
    })
}

/// A connection that is kept open would be reset in every clone: there is no snapshot, and a figure says why.
#[test]
fn a_program_with_a_pooled_connection() -> Result<(), Failure> {
    run(|node| {
        let first = python(node, "first", POOLED)?;
        ensure!(first.get(PORT, "/")? == "rows", "the first pod");
        wait_for_metric(
            node,
            "seuss_snapshotter_memory_given_up_total{reason=\"outgoing-connection\"}",
            1.0,
        )?;
        let second = python(node, "second", POOLED)?;
        ensure!(second.get(PORT, "/")? == "rows", "the second pod");
        ensure!(pod::snapshots(node)? == 0.0 && restores(node)? == 0, "it was captured");
        second.remove()?;
        first.remove()
    })
}

/// With leave, connections are reset: the program sees it, and connects again.
#[test]
fn a_pooled_connection_that_may_be_reset() -> Result<(), Failure> {
    run(|node| {
        let image = node.import("python")?;
        let spec = ContainerSpec::new("main", &image).command(&["python3", "-c", POOLED]);
        let start = |name: &str| {
            Pod::start(node, sandbox(node, name).annotation("seuss.dev/snapshot-connections", "reset"), &spec)
        };
        let first = start("first")?;
        ensure!(first.get(PORT, "/")? == "rows", "the first pod");
        wait_for_snapshots(node, 1)?;
        let second = start("second")?;
        ensure!(second.get(PORT, "/")? == "rows" && restores(node)? == 1, "the second pod");
        second.remove()?;
        first.remove()
    })
}

/// What opens an inner port first is captured when it has opened the real one.
#[test]
fn a_program_with_an_inner_port() -> Result<(), Failure> {
    run(|node| {
        let first = python(node, "first", INNER_PORT)?;
        ensure!(first.get(PORT, "/")? == "generation 0", "the first pod");
        wait_for_snapshots(node, 1)?;
        let second = python(node, "second", INNER_PORT)?;
        let opened_in = second.get(PORT, "/")?;
        ensure!(opened_in == "generation 0" && restores(node)? == 1, "it was captured before: {opened_in}");
        second.remove()?;
        first.remove()
    })
}

/// An exec is no part of a snapshot: not of one that is taken while it runs, since that one waits for its end.
#[test]
fn a_program_beside_an_exec() -> Result<(), Failure> {
    run(|node| {
        let first = python(node, "first", STARTING)?;
        thread::scope(|scope| {
            let exec =
                scope.spawn(|| node.cri().exec_sync(&first.id, &["sh", "-c", "sleep 4 & wait"], PATIENCE));
            ensure!(first.get(PORT, "/")? == "rows", "the first pod");
            wait_for_snapshots(node, 1)?;
            ensure!(exec.is_finished(), "it was captured beside the exec");
            Ok(())
        })?;
        let second = python(node, "second", STARTING)?;
        for _ in 0..3 {
            ensure!(second.get(PORT, "/")? == "rows", "the second pod");
            let said =
                node.cri().exec_sync(&second.id, &["sh", "-c", "ls /proc | grep -c '^[0-9]'"], PATIENCE)?;
            // The program, the shell, ls and grep.
            ensure!(said.exit_code == 0 && said.stdout == "4\n", "{said:?}");
        }
        ensure!(restores(node)? == 1, "{} restores", restores(node)?);
        second.remove()?;
        first.remove()
    })
}

/// Two clones that die young strike their snapshot out: the next pod boots, and serves.
#[test]
fn a_snapshot_whose_clones_die() -> Result<(), Failure> {
    run(|node| {
        let first = python(node, "first", MORTAL)?;
        ensure!(first.get(PORT, "/")? == "alive", "the first pod");
        wait_for_snapshots(node, 1)?;
        for name in ["second", "third"] {
            let clone = python(node, name, MORTAL)?;
            let ended = node.cri().wait_exit(&clone.id, PATIENCE)?;
            ensure!(ended.exit_code == 7, "{ended:?}");
            clone.remove()?;
        }
        wait_for_metric(node, "seuss_snapshotter_memory_struck_out_total", 1.0)?;
        first.remove()?;
        let deadline = Instant::now() + PATIENCE;
        while pod::snapshots(node)? > 0.0 {
            ensure!(Instant::now() < deadline, "the snapshot stays");
            thread::sleep(Duration::from_millis(50));
        }
        let fourth = python(node, "fourth", MORTAL)?;
        ensure!(fourth.get(PORT, "/")? == "alive" && restores(node)? == 2, "the fourth pod");
        fourth.remove()
    })
}
