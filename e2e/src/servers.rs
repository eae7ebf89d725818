//! The servers that the end-to-end tests and the benchmark put load on: each on port 8000 of its pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::containerd::Containerd;
use crate::cri::log;
use crate::cri::spec::{ContainerSpec, Sandbox};
use crate::load::{self, Load, Outcome};
use crate::runtime::Runtime;

/// Port of every server.
pub const PORT: u16 = 8000;

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Name of the case.
    pub name: &'static str,
    /// Test image that it runs from.
    pub image: &'static str,
    /// Its program and arguments.
    pub command: &'static [&'static str],
    /// What it prints when it listens.
    pub ready: &'static str,
    /// CPU limit of its container in thousandths of a CPU; zero is none.
    pub cpu_millis: i64,
    /// What is asked of it.
    protocol: Protocol,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    /// HTTP, and what is put before the path in an answer.
    Http { greeting: &'static str },
    /// RESP.
    Redis,
}

impl Server {
    /// What it puts before the path in an answer; none if it does not speak HTTP.
    pub fn greeting(&self) -> Option<&'static str> {
        match self.protocol {
            Protocol::Http { greeting } => Some(greeting),
            Protocol::Redis => None,
        }
    }

    /// Puts load on it and checks every answer.
    ///
    /// # Errors
    /// The first request that fails or is answered otherwise.
    pub fn load(&self, load: Load) -> Result<Outcome> {
        match self.protocol {
            Protocol::Http { greeting } => load.http(|number| format!("hello from {greeting}: /{number}\n")),
            Protocol::Redis => load.redis(),
        }
    }
}

/// A pod of one server that listens.
#[derive(Debug)]
pub struct Pod {
    /// The pod.
    pub sandbox: Sandbox,
    /// Its container.
    pub container: String,
    /// Where the server listens.
    pub address: SocketAddr,
    log: std::path::PathBuf,
}

impl Pod {
    /// Starts `server` in a pod of its own and waits until it listens. Its image and `pause` must have been imported; `image` is
    /// the reference.
    ///
    /// # Errors
    /// A call fails, or it does not listen in a minute.
    pub fn start(node: &Containerd, runtime: Runtime, server: &Server, image: &str) -> Result<Self> {
        let cri = node.cri();
        let sandbox = cri.run_pod_sandbox(Sandbox::new(server.name, runtime, &node.pod_logs()))?;
        let ip = cri.pod_sandbox_status(&sandbox)?.network.context("the pod has no network")?.ip;
        let ip: IpAddr = ip.parse().with_context(|| format!("pod IP {ip:?}"))?;
        let mut spec = ContainerSpec::new("server", image).command(server.command);
        spec.cpu_millis = server.cpu_millis;
        let container = cri.create_container(&sandbox, &spec)?;
        cri.start_container(&container)?;
        let log = sandbox.log_path(&spec);
        log::wait(&log, PATIENCE, |log| log.stdout.contains(server.ready))?;
        let address = SocketAddr::new(ip, PORT);
        node.namespaces().in_network(move || load::wait_for(address, PATIENCE))?;
        Ok(Self { sandbox, container, address, log })
    }

    /// What the server has printed.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> Result<log::Log> {
        log::read(&self.log)
    }

    /// Stops and removes the pod.
    ///
    /// # Errors
    /// A call fails.
    pub fn remove(&self, node: &Containerd) -> Result<()> {
        node.cri().stop_pod_sandbox(&self.sandbox)?;
        node.cri().remove_pod_sandbox(&self.sandbox)
    }
}

const fn http(
    name: &'static str,
    image: &'static str,
    command: &'static [&'static str],
    greeting: &'static str,
) -> Server {
    Server { name, image, command, ready: "ready", cpu_millis: 0, protocol: Protocol::Http { greeting } }
}

/// http.server, a thread per connection.
pub const HTTP_SERVER: Server = http(
    "http_server",
    "python",
    &["python3", "-c", include_str!("../programs/http_server.py")],
    "http.server",
);
/// wsgiref, one request after the other.
pub const WSGIREF: Server =
    http("wsgiref", "python", &["python3", "-c", include_str!("../programs/wsgiref_server.py")], "wsgiref");
/// Flask under gunicorn with two forked workers and threads.
pub const GUNICORN: Server =
    http("gunicorn", "flask", &["python3", "-c", include_str!("../programs/gunicorn_flask.py")], "flask");
/// The same with a limit of one CPU, which is what a guest has.
pub const GUNICORN_ONE_CPU: Server = Server { name: "gunicorn_one_cpu", cpu_millis: 1000, ..GUNICORN };
/// asyncio streams.
pub const ASYNCIO: Server =
    http("asyncio", "python", &["python3", "-c", include_str!("../programs/asyncio_server.py")], "asyncio");
/// redis-server, its data in memory only.
pub const REDIS: Server = Server {
    name: "redis",
    image: "redis",
    command: &["redis-server", "--port", "8000", "--save", "", "--protected-mode", "no"],
    ready: "Ready to accept connections",
    cpu_millis: 0,
    protocol: Protocol::Redis,
};
