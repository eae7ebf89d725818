//! Many clones of one snapshot, one after the other, each asked once: they answer rightly, and no two are alike.
//!
//! `SEUSS_CLONES=1000` for more of them; without it a number that a test run can afford.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use seuss_e2e::need::{self, Failure};
use seuss_e2e::servers::{self, Server};
use seuss_e2e::{command, paths, runtime};

/// How far a clone's clock may be from the host's, in seconds.
const CLOCK_ERROR: f64 = 0.01;

fn since_epoch() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Clones of each snapshot.
fn clones() -> usize {
    std::env::var("SEUSS_CLONES").ok().and_then(|count| count.parse().ok()).unwrap_or(40)
}

/// A store of snapshots of its own, gone with it.
struct Shop {
    dir: tempfile::TempDir,
    seussctl: PathBuf,
}

impl Shop {
    fn new(image: &str) -> Result<Option<Self>> {
        if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&[image])) {
            need::skip(&reason);
            return Ok(None);
        }
        let seussctl = runtime::shim_dir()?.join("seussctl");
        Ok(Some(Self { dir: tempfile::tempdir()?, seussctl }))
    }

    /// `seussctl` in a network namespace of its own, where only the loopback interface is.
    fn seussctl(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(&self.seussctl);
        command.env("SEUSS_STORE", self.dir.path());
        command
    }

    /// Takes a snapshot of a server that is ready.
    fn capture(&self, image: &str, words: &[&str]) -> Result<()> {
        let mut create = self.seussctl();
        create.args([
            "snapshot",
            "create",
            "--ready",
            "--snapshot-name",
            "server",
            "--memory",
            "256M",
            "--rootfs",
        ]);
        command::output(create.arg(paths::rootfs(image)).arg("--").args(words))?;
        Ok(())
    }

    /// The bodies that `count` clones answer with.
    fn ask(&self, count: usize, path: &str) -> Result<Vec<String>> {
        let target = format!("{}/{path}", servers::PORT);
        let mut clone = self.seussctl();
        clone.args(["clone", "-n", &count.to_string(), "--get", &target, "server"]);
        let text = String::from_utf8(command::output(&mut clone)?)?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn answers(server: &Server) -> Result<(), Failure> {
    let Some(shop) = Shop::new(server.image)? else { return Ok(()) };
    shop.capture(server.image, server.command)?;
    let bodies = shop.ask(clones(), "77")?;
    let expected = format!("hello from {}: /77", server.greeting().context("it speaks HTTP")?);
    let wrong = bodies.iter().find(|body| **body != expected);
    Ok(check(wrong.is_none() && bodies.len() == clones(), || format!("{} answers, {wrong:?}", bodies.len()))?)
}

fn check(right: bool, message: impl FnOnce() -> String) -> Result<()> {
    ensure!(right, message());
    Ok(())
}

#[test]
fn wsgiref_answers() -> Result<(), Failure> {
    answers(&servers::WSGIREF)
}

#[test]
fn gunicorn_with_flask_answers() -> Result<(), Failure> {
    answers(&servers::GUNICORN)
}

#[test]
fn asyncio_answers() -> Result<(), Failure> {
    answers(&servers::ASYNCIO)
}

#[test]
fn no_two_clones_are_alike() -> Result<(), Failure> {
    let Some(shop) = Shop::new("python")? else { return Ok(()) };
    let program = with_python_module(include_str!("../programs/identity_server.py"));
    shop.capture("python", &["python3", "-c", &program])?;
    Ok(are_different(
        &shop,
        "who/port",
        &["getrandom", "uuid4", "ssl", "random", "hostname", "id"],
        &["started", "answered", "generation"],
    )?)
}

#[test]
fn no_two_clones_of_node_are_alike() -> Result<(), Failure> {
    let Some(shop) = Shop::new("node")? else { return Ok(()) };
    let program = with_node_module(&shop, include_str!("../programs/identity_server.js"))?;
    shop.capture("node", &["node", "-e", &program])?;
    Ok(are_different(
        &shop,
        "who",
        &["bytes", "async", "uuid", "web", "math", "key", "hostname", "id"],
        &["started", "restored", "answered", "generation"],
    )?)
}

/// `program` of Python, with the module as the image would have it.
fn with_python_module(program: &str) -> String {
    let module = include_str!("../../guest/sdk/python/seuss.py");
    format!(
        "import sys, types\nmodule = types.ModuleType('seuss')\nexec({module:?}, module.__dict__)\nsys.modules['seuss'] = module\n{program}"
    )
}

/// `program` of Node.js, with the module as the image would have it.
fn with_node_module(shop: &Shop, program: &str) -> Result<String> {
    let addon = shop.dir.path().join("seuss.node");
    let source = paths::repository().join("guest/sdk/node/seuss.c");
    command::output(
        Command::new("cc").args(["-shared", "-fPIC", "-O2", "-s", "-o"]).arg(&addon).arg(source),
    )?;
    let addon = std::fs::read(&addon).context("the add-on")?;
    let addon: String = addon.iter().map(|byte| format!("{byte:02x}")).collect();
    let module =
        serde_json::to_string(include_str!("../../guest/sdk/node/seuss.js")).context("the module")?;
    Ok(format!(
        "const fs = require('fs'); fs.writeFileSync('/tmp/seuss.node', Buffer.from('{addon}', 'hex'));\n\
         fs.writeFileSync('/tmp/seuss.js', {module});\n(() => {{ {program} }})();"
    ))
}

/// What a program registered to run before a snapshot has run before one that it did not ask for.
fn hooks_run(shop: &Shop, image: &str, words: &[&str]) -> Result<()> {
    shop.capture(image, words)?;
    for body in shop.ask(4, "hooks")? {
        let ran: Value = serde_json::from_str(&body).context("an answer")?;
        let expected = serde_json::json!({ "before": 1, "after": 0, "restored": 1 });
        check(ran == expected, || format!("{ran} instead of {expected}"))?;
    }
    Ok(())
}

#[test]
fn pythons_hooks_run_around_a_capture_from_outside() -> Result<(), Failure> {
    let Some(shop) = Shop::new("python")? else { return Ok(()) };
    let program = with_python_module(include_str!("../programs/hooks_server.py"));
    Ok(hooks_run(&shop, "python", &["python3", "-c", &program])?)
}

#[test]
fn hooks_of_node_run_around_a_capture_from_outside() -> Result<(), Failure> {
    let Some(shop) = Shop::new("node")? else { return Ok(()) };
    let program = with_node_module(&shop, include_str!("../programs/hooks_server.js"))?;
    Ok(hooks_run(&shop, "node", &["node", "-e", &program])?)
}

/// Clones answer with another value of each of `different`, and with the same of each of `same`.
fn are_different(shop: &Shop, path: &str, different: &[&str], same: &[&str]) -> Result<()> {
    let began = since_epoch();
    let bodies = shop.ask(clones(), path)?;
    let ended = since_epoch();
    let who: Vec<Value> =
        bodies.iter().map(|body| serde_json::from_str(body)).collect::<Result<_, _>>().context("answers")?;
    check(who.len() == clones(), || format!("{} answers", who.len()))?;
    for key in different {
        let values: BTreeSet<String> = who.iter().map(|who| who[*key].to_string()).collect();
        check(values.len() == who.len(), || {
            format!("{key}: {} different ones of {}", values.len(), who.len())
        })?;
    }
    for key in same {
        let values: BTreeSet<String> = who.iter().map(|who| who[*key].to_string()).collect();
        check(values.len() == 1, || format!("{key}: {values:?}"))?;
    }
    // The host's kernel chooses each connection's port, and may choose one again once it is free.
    let ports: BTreeSet<u64> = who.iter().filter_map(|who| who["port"].as_u64()).collect();
    let has_ports = who.iter().any(|who| who["port"].is_u64());
    check(!has_ports || ports.len() > who.len() / 2, || format!("{} different ports", ports.len()))?;
    // One after the other: a clock that stood still, or went on from the snapshot's time, would show.
    let times: Vec<f64> = who.iter().filter_map(|who| who["time"].as_f64()).collect();
    let within = times.iter().all(|time| (began - CLOCK_ERROR..ended + CLOCK_ERROR).contains(time));
    check(times.len() == who.len() && within && times.is_sorted(), || {
        format!("{times:?} between {began} and {ended}")
    })?;
    let differs = who.iter().find(|who| who["answered"] != 1 || who["generation"] != 1);
    check(differs.is_none(), || format!("{differs:?}"))
}
