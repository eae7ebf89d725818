//! Servers under load: what the same program answers in pods of several runtimes, on one node.
//!
//! A server runs once per runtime, all at the same time, and the load goes to one after the other, turn by turn: what changes on the
//! machine meanwhile meets them all. The load is made on the same machine, which takes its share of the CPUs.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::containerd::{Containerd, Options};
use crate::load::Load;
use crate::need;
use crate::report::Samples;
use crate::runtime::Runtime;
use crate::servers::{self, Pod, Server};
use crate::tools::Version;

/// A server, how many requests a turn has, and how many of them are in flight.
const MEASURED: [(Server, u32, u32); 4] = [
    (servers::WSGIREF, 2000, 8),
    (servers::GUNICORN, 1000, 8),
    (servers::GUNICORN_ONE_CPU, 1000, 8),
    (servers::REDIS, 20_000, 4),
];

/// Microseconds of a tick of proc_pid_stat(5): USER_HZ is 100 on x86-64.
const TICK_US: u64 = 10_000;

/// Turns the load on those of [`MEASURED`] that `names` has (all, when it is empty) in pods of `runtimes`.
///
/// # Errors
/// A name is unknown, the node cannot run pods, or a request is answered wrong.
pub fn measure(
    version: Version,
    runtimes: &[Runtime],
    names: &[String],
    turns: u32,
) -> Result<Map<String, Value>> {
    let known = |name: &&String| MEASURED.iter().any(|(server, ..)| server.name == **name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        anyhow::bail!("there is no server {name:?}");
    }
    let with_shim = if runtimes.contains(&Runtime::Seuss) { Runtime::Seuss } else { Runtime::Runc };
    let images = MEASURED.map(|(server, ..)| server.image);
    let missing = need::missing_for_node(version, with_shim)
        .or_else(|| need::missing_images(&["pause"]))
        .or_else(|| need::missing_images(&images));
    if let Some(reason) = missing {
        anyhow::bail!("cannot run here: {reason}");
    }
    let node = Containerd::start(Options::for_runtime(version, with_shim)?)?;
    node.import("pause")?;
    let mut cases = Map::new();
    let chosen = |server: &Server| names.is_empty() || names.iter().any(|name| name == server.name);
    for (server, requests, in_flight) in MEASURED.into_iter().filter(|(server, ..)| chosen(server)) {
        let figures = one(&node, runtimes, server, requests, in_flight, turns)
            .with_context(|| server.name)
            .map_err(|error| node.explain(error))?;
        cases.insert(server.name.into(), figures);
    }
    let mut body = Map::new();
    body.insert("unit".into(), "us".into());
    body.insert("servers".into(), Value::Object(cases));
    Ok(body)
}

#[derive(Default)]
struct Figures {
    per_second: Samples,
    latency: Samples,
    cpu: Samples,
}

fn one(
    node: &Containerd,
    runtimes: &[Runtime],
    server: Server,
    requests: u32,
    in_flight: u32,
    turns: u32,
) -> Result<Value> {
    let image = node.import(server.image)?;
    let pods: Vec<(Runtime, Pod)> = runtimes
        .iter()
        .map(|&runtime| Ok((runtime, Pod::start(node, runtime, &server, &image)?)))
        .collect::<Result<_>>()?;
    let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
    for turn in 0..=turns {
        for (runtime, pod) in &pods {
            let load = Load { address: pod.address, requests, in_flight };
            let before = cpu_us(node, pod);
            let outcome = node
                .namespaces()
                .in_network(move || server.load(load))
                .with_context(|| format!("{}: {:?}", runtime.handler(), pod.log()))?;
            // The first turn of each warms caches up.
            if turn == 0 {
                continue;
            }
            let own = figures.entry(runtime.handler()).or_default();
            own.cpu.push((cpu_us(node, pod) - before) / f64::from(requests));
            own.per_second.push(outcome.per_second());
            outcome.latencies.iter().for_each(|latency| own.latency.push(latency.as_secs_f64() * 1e6));
        }
    }
    for (_, pod) in &pods {
        pod.remove(node)?;
    }
    let mut case = Map::new();
    case.insert("requests".into(), requests.into());
    case.insert("in_flight".into(), in_flight.into());
    let mut by_runtime = Map::new();
    for (name, own) in &figures {
        println!(
            "{:<9} {name:<6} {:>7.0} requests/s  latency median {:>7.0} us  p99 {:>7.0} us  CPU {:>5.0} us per request",
            server.name,
            own.per_second.quantile(0.5),
            own.latency.quantile(0.5),
            own.latency.quantile(0.99),
            own.cpu.quantile(0.5),
        );
        by_runtime.insert(
            (*name).to_owned(),
            json!({
                "per_second": own.per_second.summary(),
                "latency": own.latency.summary(),
                "cpu_per_request": own.cpu.summary(),
            }),
        );
    }
    if let (Some(seuss), Some(runc)) = (figures.get("seuss"), figures.get("runc")) {
        let share = seuss.per_second.quantile(0.5) / runc.per_second.quantile(0.5);
        println!("{:<9} seuss answers {share:.2} of what runc does", server.name);
        case.insert("seuss_of_runc".into(), json!((share * 1000.0).round() / 1000.0));
    }
    case.insert("runtimes".into(), Value::Object(by_runtime));
    Ok(Value::Object(case))
}

/// CPU time of the pod's shim and of all that descends from it (with seuss, the shim is all there is).
fn cpu_us(node: &Containerd, pod: &Pod) -> f64 {
    let processes: Vec<(u32, Option<Stat>, String)> = node
        .processes()
        .into_iter()
        .map(|process| (process.pid, Stat::read(process.pid), process.command))
        .collect();
    let mut own: Vec<u32> = processes
        .iter()
        .filter(|(_, _, command)| command.contains("containerd-shim-") && command.contains(&pod.sandbox.id))
        .map(|(pid, ..)| *pid)
        .collect();
    let mut next = 0;
    while let Some(&parent) = own.get(next) {
        next += 1;
        let children = processes
            .iter()
            .filter(|(pid, stat, _)| stat.is_some_and(|stat| stat.parent == parent) && !own.contains(pid));
        let children: Vec<u32> = children.map(|(pid, ..)| *pid).collect();
        own.extend(children);
    }
    let ticks: u64 = processes
        .iter()
        .filter(|(pid, ..)| own.contains(pid))
        .filter_map(|(_, stat, _)| stat.map(|stat| stat.ticks))
        .sum();
    (ticks * TICK_US) as f64
}

/// What proc_pid_stat(5) tells of a process.
#[derive(Clone, Copy)]
struct Stat {
    parent: u32,
    /// utime and stime, and those of children that were waited for.
    ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
        let ticks = (11..15).map(number).sum::<Option<u64>>()?;
        Some(Self { parent: u32::try_from(number(1)?).ok()?, ticks })
    }
}
