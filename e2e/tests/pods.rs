//! Pods through CRI: the same cases for every runtime and containerd version.
//!
//! runc is the reference: what holds for it must hold for seuss. Run one combination with
//! `cargo nextest run -p seuss-e2e seuss_1_7`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::cri::{Cri, log, proto};
use seuss_e2e::load::{self, Load};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node with the pause and python images and one runtime to test.
struct Bench {
    node: Containerd,
    runtime: Runtime,
    python: String,
}

impl Bench {
    fn start(version: Version, runtime: Runtime) -> Result<Option<Self>> {
        let missing =
            need::missing_for_node(version, runtime).or_else(|| need::missing_images(&["pause", "python"]));
        if let Some(reason) = missing {
            need::skip(&reason);
            return Ok(None);
        }
        let node = Containerd::start(Options::for_runtime(version, runtime)?)?;
        node.import("pause")?;
        let python = node.import("python")?;
        Ok(Some(Self { node, runtime, python }))
    }

    fn cri(&self) -> &Cri {
        self.node.cri()
    }

    fn sandbox(&self, name: &str) -> Result<Sandbox> {
        self.cri().run_pod_sandbox(Sandbox::new(name, self.runtime, &self.node.pod_logs()))
    }

    fn container(&self, name: &str, command: &[&str]) -> ContainerSpec {
        ContainerSpec::new(name, &self.python).command(command)
    }

    /// Creates and starts a container.
    fn start_container(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<String> {
        let id = self.cri().create_container(sandbox, spec)?;
        self.cri().start_container(&id)?;
        Ok(id)
    }

    /// Runs a program to its end; returns the last status and the log.
    fn run(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<(proto::ContainerStatus, log::Log)> {
        let id = self.start_container(sandbox, spec)?;
        let status = self.cri().wait_exit(&id, PATIENCE)?;
        let log = log::wait(&sandbox.log_path(spec), PATIENCE, |_| sandbox.log_path(spec).exists())?;
        Ok((status, log))
    }

    /// Removes a pod and expects that nothing is left of it.
    fn remove(&self, sandbox: &Sandbox) -> Result<()> {
        self.cri().stop_pod_sandbox(sandbox)?;
        self.cri().remove_pod_sandbox(sandbox)?;
        self.node.expect_clean(PATIENCE)
    }
}

fn python_prints_its_version_and_uname(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("uname")?;
    let spec = bench
        .container("main", &["python3", "-c", "import os, sys; print(sys.version.split()[0], *os.uname())"]);
    let (status, log) = bench.run(&sandbox, &spec)?;
    ensure!(status.exit_code == 0, "exit code {}: {log:?}", status.exit_code);
    ensure!(log.stdout.starts_with("3.11.") && log.stdout.contains(" Linux uname "), "{log:?}");
    ensure!(log.stdout.contains("seuss") != bench.runtime.shares_the_kernel(), "whose kernel is it? {log:?}");
    bench.remove(&sandbox)
}

fn exit_code_and_both_streams(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("streams")?;
    let script = "import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.exit(42)";
    let (status, log) = bench.run(&sandbox, &bench.container("main", &["python3", "-c", script]))?;
    ensure!(status.exit_code == 42, "exit code {}", status.exit_code);
    ensure!(status.reason == "Error", "reason {:?}", status.reason);
    ensure!(log.stdout == "to stdout\n" && log.stderr == "to stderr\n", "{log:?}");
    bench.remove(&sandbox)
}

fn missing_program_is_named(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("missing")?;
    let id = bench.cri().create_container(&sandbox, &bench.container("main", &["/no/such/program"]))?;
    let error = bench.cri().start_container(&id).err().context("a missing program was started")?;
    ensure!(error.to_string().contains("/no/such/program"), "the error does not name the program: {error:#}");
    let status = bench.cri().container_status(&id)?;
    ensure!(status.state() == proto::ContainerState::ContainerExited, "{:?}", status.state());
    bench.remove(&sandbox)
}

fn stop_sends_sigterm(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("sigterm")?;
    let script = "import signal, sys, time\n\
        signal.signal(signal.SIGTERM, lambda *_: (print('got SIGTERM', flush=True), sys.exit(7)))\n\
        print('ready', flush=True)\nwhile True: time.sleep(60)";
    let spec = bench.container("main", &["python3", "-c", script]);
    let id = bench.start_container(&sandbox, &spec)?;
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout.contains("ready"))?;
    bench.cri().stop_container(&id, PATIENCE)?;
    let status = bench.cri().container_status(&id)?;
    ensure!(status.exit_code == 7, "exit code {}", status.exit_code);
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout.contains("got SIGTERM"))?;
    bench.remove(&sandbox)
}

fn stop_kills_what_ignores_sigterm(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("sigkill")?;
    let script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
        print('ready', flush=True)\nwhile True: time.sleep(60)";
    let spec = bench.container("main", &["python3", "-c", script]);
    let id = bench.start_container(&sandbox, &spec)?;
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout.contains("ready"))?;
    bench.cri().stop_container(&id, Duration::from_secs(1))?;
    let status = bench.cri().container_status(&id)?;
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    bench.cri().remove_container(&id)?;
    bench.remove(&sandbox)
}

fn two_containers_of_a_pod(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("two")?;
    let lasting = bench
        .container("lasting", &["python3", "-c", "import time; print('one', flush=True); time.sleep(600)"]);
    let lasting_id = bench.start_container(&sandbox, &lasting)?;
    log::wait(&sandbox.log_path(&lasting), PATIENCE, |log| log.stdout == "one\n")?;
    let short =
        bench.container("short", &["python3", "-c", "import socket; print('two', socket.gethostname())"]);
    let (status, log) = bench.run(&sandbox, &short)?;
    ensure!(status.exit_code == 0 && log.stdout == "two two\n", "{status:?} {log:?}");
    let status = bench.cri().container_status(&lasting_id)?;
    ensure!(
        status.state() == proto::ContainerState::ContainerRunning,
        "the other container is {:?}",
        status.state()
    );
    bench.remove(&sandbox)
}

fn large_output_arrives_whole(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("large")?;
    let script = "for i in range(20000): print(f'{i:08} ' + 'x' * (i % 200))";
    let (status, log) = bench.run(&sandbox, &bench.container("main", &["python3", "-c", script]))?;
    let expected: String = (0..20000).map(|i| format!("{i:08} {}\n", "x".repeat(i % 200))).collect();
    ensure!(status.exit_code == 0, "exit code {}", status.exit_code);
    ensure!(log.stdout == expected, "{} bytes of output instead of {}", log.stdout.len(), expected.len());
    bench.remove(&sandbox)
}

fn killed_shim_leaves_nothing(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("orphan")?;
    let spec = bench
        .container("main", &["python3", "-c", "import time; print('ready', flush=True); time.sleep(600)"]);
    let id = bench.start_container(&sandbox, &spec)?;
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout == "ready\n")?;
    let shims: Vec<_> = bench
        .node
        .processes()
        .into_iter()
        .filter(|process| process.command.contains("containerd-shim-"))
        .collect();
    ensure!(!shims.is_empty(), "no shim among {:?}", bench.node.processes());
    for shim in shims {
        seuss_e2e::containerd::kill(shim.pid)?;
    }
    let status = bench.cri().wait_exit(&id, PATIENCE)?;
    ensure!(status.exit_code != 0, "a killed container exited with 0");
    bench.cri().remove_container(&id)?;
    bench.cri().stop_pod_sandbox(&sandbox)?;
    bench.cri().remove_pod_sandbox(&sandbox)?;
    // runc's shim leaves its socket, and runc 1.1 sometimes a cgroup; ours must not.
    let known: &[&str] = if bench.runtime == Runtime::Seuss { &[] } else { &["socket", "cgroup"] };
    bench.node.expect_clean_except(known, PATIENCE)
}

fn ctr_runs_a_program(bench: &Bench) -> Result<()> {
    let image = bench.node.import_into("default", "python")?;
    let runtime = bench.runtime.runtime_type();
    let script = "import sys; print('from ctr', 6 * 7); sys.exit(3)";
    let mut ctr = bench.node.ctr("default");
    ctr.args(["run", "--rm", "--runtime", runtime, &image, "by-ctr", "python3", "-c", script]);
    let done = ctr.output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(stdout == "from ctr 42\n", "{stdout:?} {stderr:?}");
    ensure!(done.status.code() == Some(3), "{}: {stderr}", done.status);
    bench.node.expect_clean(PATIENCE)
}

fn stats_of_a_running_container(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("stats")?;
    let spec = bench.container(
        "main",
        &["python3", "-c", "x = bytearray(50 << 20)\nprint('ready', flush=True)\nwhile True: pass"],
    );
    let id = bench.start_container(&sandbox, &spec)?;
    log::wait(&sandbox.log_path(&spec), PATIENCE, |log| log.stdout == "ready\n")?;
    let stats = bench.cri().list_container_stats()?;
    let own =
        stats.iter().find(|stats| stats.attributes.as_ref().is_some_and(|attributes| attributes.id == id));
    let own = own.context("the container has no statistics")?;
    let memory = own
        .memory
        .as_ref()
        .and_then(|memory| memory.working_set_bytes.as_ref())
        .map_or(0, |value| value.value);
    ensure!(memory > 50 << 20, "working set of {memory} bytes");
    bench.remove(&sandbox)
}

fn out_of_memory_is_told(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("oom")?;
    let script = "kept = []\nwhile True: kept.append(b'x' * (4 << 20))";
    let mut spec = bench.container("main", &["python3", "-c", script]);
    spec.memory_bytes = 128 << 20;
    let (status, log) = bench.run(&sandbox, &spec)?;
    ensure!(status.exit_code == 137, "exit code {}: {log:?}", status.exit_code);
    ensure!(status.reason == "OOMKilled", "reason {:?}", status.reason);
    bench.remove(&sandbox)
}

fn what_cannot_be_executed_is_named(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("not-executable")?;
    for (name, program) in [("text", "/etc/passwd"), ("directory", "/usr/lib")] {
        let id = bench.cri().create_container(&sandbox, &bench.container(name, &[program]))?;
        let error =
            bench.cri().start_container(&id).err().with_context(|| format!("{program} was started"))?;
        ensure!(error.to_string().contains(program), "the error does not name {program}: {error:#}");
        let status = bench.cri().container_status(&id)?;
        ensure!(status.exit_code != 0, "exit code of {program}");
    }
    bench.remove(&sandbox)
}

/// A server whose answers name the request.
const SERVER: &str = "
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments): pass
class Server(WSGIServer): request_queue_size = 128
def answer(environ, start):
    start('200 OK', [('Content-Type', 'text/plain')])
    return [f'this is {environ[\"PATH_INFO\"]}'.encode() * 20]
make_server('', 8000, answer, Server, Quiet).serve_forever()";

fn serves_the_outside_and_its_neighbour(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("server")?;
    bench.start_container(&sandbox, &bench.container("server", &["python3", "-c", SERVER]))?;
    let network = bench.cri().pod_sandbox_status(&sandbox)?.network.context("the pod has no network")?;
    let server = SocketAddr::new(network.ip.parse()?, 8000);
    let measured = bench.node.namespaces().in_network(move || {
        load::wait_for(server, PATIENCE)?;
        let load = Load { address: server, requests: 100, in_flight: 8 };
        load.http(|number| format!("this is /{number}").repeat(20))
    })?;
    ensure!(measured.latencies.len() == 100, "{} answers", measured.latencies.len());
    let script = "import urllib.request\n\
        print(urllib.request.urlopen('http://localhost:8000/x').read()[:10].decode())\n\
        print(open('/etc/resolv.conf').read().count('nameserver') > 0)\n\
        routes = [line.split() for line in open('/proc/net/route')]\n\
        print([route[0] for route in routes if route[1] == '00000000'])\n\
        print(open('/sys/class/net/eth0/operstate').read().strip())";
    let (status, log) = bench.run(&sandbox, &bench.container("neighbour", &["python3", "-c", script]))?;
    ensure!(status.exit_code == 0 && log.stdout == "this is /x\nTrue\n['eth0']\nup\n", "{status:?} {log:?}");
    bench.remove(&sandbox)
}

/// One module per runtime and version, one test per case.
macro_rules! combinations {
    ($(run $module:ident = $version:ident $runtime:ident;)* cases $cases:tt) => {
        $(combinations!(@module $module $version $runtime $cases);)*
    };
    (@module $module:ident $version:ident $runtime:ident [$($case:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            $(#[test]
            fn $case() -> Result<(), Failure> {
                let Some(bench) = Bench::start(Version::$version, Runtime::$runtime)? else { return Ok(()) };
                Ok(super::$case(&bench).map_err(|error| bench.node.explain(error))?)
            })*
        }
    };
}

combinations! {
    run runc_1_7 = V1_7 Runc;
    run runc_2_1 = V2_1 Runc;
    run seuss_1_7 = V1_7 Seuss;
    run seuss_2_1 = V2_1 Seuss;
    cases [
        python_prints_its_version_and_uname,
        exit_code_and_both_streams,
        missing_program_is_named,
        stop_sends_sigterm,
        stop_kills_what_ignores_sigterm,
        two_containers_of_a_pod,
        large_output_arrives_whole,
        killed_shim_leaves_nothing,
        ctr_runs_a_program,
        stats_of_a_running_container,
        out_of_memory_is_told,
        what_cannot_be_executed_is_named,
        serves_the_outside_and_its_neighbour,
    ]
}
