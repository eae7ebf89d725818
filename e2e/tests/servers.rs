//! Servers in pods, reached through the pod's IP from outside: 1,000 requests, 32 in flight, every body checked. runc is the reference.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::log;
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::load::{self, Load};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::servers::{self, Server};
use seuss_e2e::tools::Version;

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

fn answers(version: Version, runtime: Runtime, server: Server) -> Result<(), Failure> {
    let missing =
        need::missing_for_node(version, runtime).or_else(|| need::missing_images(&["pause", server.image]));
    if let Some(reason) = missing {
        need::skip(&reason);
        return Ok(());
    }
    let node = Containerd::start(Options::for_runtime(version, runtime)?)?;
    Ok(serve(&node, runtime, server).map_err(|error| node.explain(error))?)
}

fn serve(node: &Containerd, runtime: Runtime, server: Server) -> Result<()> {
    node.import("pause")?;
    let image = node.import(server.image)?;
    let cri = node.cri();
    let sandbox = cri.run_pod_sandbox(Sandbox::new(server.name, runtime, &node.pod_logs()))?;
    let ip = cri.pod_sandbox_status(&sandbox)?.network.context("the pod has no network")?.ip;
    let address =
        SocketAddr::new(ip.parse::<IpAddr>().with_context(|| format!("pod IP {ip:?}"))?, servers::PORT);
    let spec = ContainerSpec::new("server", &image).command(&server.command());
    let id = cri.create_container(&sandbox, &spec)?;
    cri.start_container(&id)?;
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout.contains("ready"))?;
    let outcome = node.namespaces().in_network(move || {
        load::wait_for(address, PATIENCE)?;
        Load { address, requests: 1000, in_flight: 32 }.http(|number| server.body(number))
    });
    let log = log::read(&sandbox.log_path(&spec))?;
    let outcome = outcome.with_context(|| format!("{}: {log:?}", server.name))?;
    ensure!(outcome.latencies.len() == 1000, "{} answers", outcome.latencies.len());
    ensure!(log.stderr.is_empty(), "standard error: {}", log.stderr);
    cri.stop_pod_sandbox(&sandbox)?;
    cri.remove_pod_sandbox(&sandbox)?;
    node.expect_clean(PATIENCE)
}

macro_rules! cases {
    ($($module:ident = $version:ident $runtime:ident;)*) => {
        $(mod $module {
            use super::*;

            #[test]
            fn http_server() -> Result<(), Failure> {
                answers(Version::$version, Runtime::$runtime, servers::HTTP_SERVER)
            }

            #[test]
            fn wsgiref() -> Result<(), Failure> {
                answers(Version::$version, Runtime::$runtime, servers::WSGIREF)
            }

            #[test]
            fn gunicorn_with_flask() -> Result<(), Failure> {
                answers(Version::$version, Runtime::$runtime, servers::GUNICORN)
            }

            #[test]
            fn asyncio() -> Result<(), Failure> {
                answers(Version::$version, Runtime::$runtime, servers::ASYNCIO)
            }
        })*
    };
}

cases! {
    servers_runc_1_7 = V1_7 Runc;
    servers_seuss_1_7 = V1_7 Seuss;
    servers_seuss_2_1 = V2_1 Seuss;
}
