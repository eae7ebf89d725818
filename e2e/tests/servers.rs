//! Servers in pods, reached through the pod's IP from outside: 1,000 requests, 32 in flight, every body checked. runc is the reference.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::load::Load;
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::servers::{self, Pod, Server};
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
    let pod = Pod::start(node, runtime, &server, &image)?;
    let load = Load { address: pod.address, requests: 1000, in_flight: 32 };
    let outcome = node.namespaces().in_network(move || server.load(load));
    let log = pod.log()?;
    let outcome = outcome.with_context(|| format!("{}: {log:?}", server.name))?;
    ensure!(outcome.latencies.len() == 1000, "{} answers", outcome.latencies.len());
    ensure!(log.stderr.is_empty(), "standard error: {}", log.stderr);
    pod.remove(node)?;
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

            #[test]
            fn redis() -> Result<(), Failure> {
                answers(Version::$version, Runtime::$runtime, servers::REDIS)
            }
        })*
    };
}

cases! {
    servers_runc_1_7 = V1_7 Runc;
    servers_seuss_1_7 = V1_7 Seuss;
    servers_seuss_2_1 = V2_1 Seuss;
}
