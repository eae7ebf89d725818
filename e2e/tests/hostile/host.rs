//! What a pod could have of the host: files, ports, parameters.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::cri::{Cri, log};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;
use seuss_e2e::{command, paths};

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(120);
/// Below it, ports need a privilege in the pods here.
const PORT_START: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "1024");

/// A node with one image.
struct Bench {
    node: Containerd,
    python: String,
}

impl Bench {
    fn start(version: Version) -> Result<Option<Self>> {
        let missing = need::missing_for_node(version, Runtime::Seuss)
            .or_else(|| need::missing_images(&["pause", "python"]));
        if let Some(reason) = missing {
            need::skip(&reason);
            return Ok(None);
        }
        let node = Containerd::start(Options::for_runtime(version, Runtime::Seuss)?)?;
        node.import("pause")?;
        let python = node.import("python")?;
        Ok(Some(Self { node, python }))
    }

    fn cri(&self) -> &Cri {
        self.node.cri()
    }

    fn sandbox(&self, name: &str) -> Sandbox {
        Sandbox::new(name, Runtime::Seuss, &self.node.pod_logs())
    }

    fn container(&self, name: &str, program: &str) -> ContainerSpec {
        ContainerSpec::new(name, &self.python).command(&["python3", "-c", program])
    }

    fn start_container(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<String> {
        let id = self.cri().create_container(sandbox, spec)?;
        self.cri().start_container(&id)?;
        Ok(id)
    }

    /// What a program prints until its end.
    fn output(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<String> {
        let id = self.start_container(sandbox, spec)?;
        let status = self.cri().wait_exit(&id, PATIENCE)?;
        let log = log::wait(&sandbox.log_path(spec), PATIENCE, |_| sandbox.log_path(spec).exists())?;
        ensure!(status.exit_code == 0, "exit code {}: {log:?}", status.exit_code);
        Ok(log.stdout)
    }

    fn remove(&self, sandbox: &Sandbox) -> Result<()> {
        self.cri().stop_pod_sandbox(sandbox)?;
        self.cri().remove_pod_sandbox(sandbox)?;
        self.node.expect_clean(PATIENCE)
    }
}

/// Links in a mounted directory are what they are in any container: they lead somewhere in the container, and to no file of the node.
fn links_of_a_mounted_directory(bench: &Bench) -> Result<()> {
    const SECRET: &str = "SECRET-only-root-of-the-node-may-read-this";
    const SHOW: &str = "import os\nfor name in sorted(os.listdir('/m')):\n  path = '/m/' + name\n  try: text = open(path).read()\n  \
        except OSError as e: text = e.strerror\n  print(name, os.path.islink(path) and os.readlink(path), text)";
    let dir = tempfile::tempdir()?;
    let (mounted, secret) = (dir.path().join("m"), dir.path().join("secret"));
    std::fs::write(&secret, SECRET)?;
    std::fs::create_dir(&mounted)?;
    std::fs::write(mounted.join("file"), "inside")?;
    let links =
        [("absolute", secret.as_path()), ("image", "/etc/hostname".as_ref()), ("up", "../secret".as_ref())];
    for (name, target) in links {
        std::os::unix::fs::symlink(target, mounted.join(name))?;
    }
    let sandbox = bench.cri().run_pod_sandbox(bench.sandbox("links"))?;
    let shown = bench.output(&sandbox, &bench.container("main", SHOW).mount(&mounted, "/m", true))?;
    let nothing = "No such file or directory";
    let expected = format!(
        "absolute {} {nothing}\nfile False inside\nimage /etc/hostname links\n\nup ../secret {nothing}\n",
        secret.display()
    );
    ensure!(shown == expected, "{shown}");
    bench.remove(&sandbox)
}

const BIND: &str = "import socket\nfor kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n  try:\n    socket.socket(type=kind).bind(('0.0.0.0', 80))\n    print('bound')\n  except PermissionError: print('denied')";

/// Root of a container from which the capability was taken, and a user who never had it.
fn ports_that_need_a_privilege(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("ports").sysctl(PORT_START.0, PORT_START.1);
    let sandbox = bench.cri().run_pod_sandbox(sandbox)?;
    let dropped = bench.container("dropped", BIND).without_capability("NET_BIND_SERVICE");
    ensure!(bench.output(&sandbox, &dropped)? == "denied\ndenied\n", "root without the capability");
    let all = bench.container("all", BIND).without_capability("ALL");
    ensure!(bench.output(&sandbox, &all)? == "denied\ndenied\n", "root without any");
    let user = bench.container("user", BIND).user(1000);
    ensure!(bench.output(&sandbox, &user)? == "denied\ndenied\n", "another user");
    ensure!(bench.output(&sandbox, &bench.container("root", BIND))? == "bound\nbound\n", "root");
    bench.remove(&sandbox)
}

const SHARE: &str = "import socket, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
    try:\n  s.bind(('0.0.0.0', 8080))\n  s.listen()\n  print('listening', flush=True)\nexcept OSError as e:\n  print(e.strerror)";

/// A sidecar of another user that wants a part of the connections that are meant for the pod's server.
fn a_port_of_another_user(bench: &Bench) -> Result<()> {
    let sandbox = bench.cri().run_pod_sandbox(bench.sandbox("share"))?;
    let server = bench.container("server", &format!("{SHARE}\ntime.sleep(600)")).user(1000);
    bench.start_container(&sandbox, &server)?;
    log::wait(&sandbox.log_path(&server), PATIENCE, |log| log.stdout.contains("listening"))?;
    for uid in [2000, 0] {
        let name = format!("u{uid}");
        let output = bench.output(&sandbox, &bench.container(&name, SHARE).user(uid))?;
        ensure!(output == "Address already in use\n", "user {uid}: {output}");
    }
    let own = bench.output(&sandbox, &bench.container("own", SHARE).user(1000))?;
    ensure!(own == "listening\n", "the same user: {own}");
    bench.remove(&sandbox)
}

/// What `seussctl` starts reaches what listens on this machine only if its caller wants that.
fn services_of_this_machine(network: &str) -> Result<bool> {
    const CONNECT: &str = "import socket, sys\ntry:\n  socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)\n  print('reached')\nexcept OSError as e: print(e)";
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let mut seussctl = Command::new(paths::target().join("release/seussctl"));
    seussctl.args(["run", "--network", network, "--rootfs"]).arg(paths::rootfs("python"));
    let output = command::output(seussctl.args(["--", "python3", "-c", CONNECT, &port]))?;
    Ok(String::from_utf8_lossy(&output).contains("reached"))
}

#[test]
fn a_program_without_a_network_reaches_nothing_of_this_machine() -> Result<(), Failure> {
    if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&["python"])) {
        need::skip(&reason);
        return Ok(());
    }
    let [reaches, cut_off] = ["pod", "none"].map(services_of_this_machine);
    let outcome = (reaches?, cut_off?);
    Ok(if outcome == (true, false) { Ok(()) } else { Err(anyhow::anyhow!("with and without: {outcome:?}")) }?)
}

/// A pod in the node's network that would change the node's parameters.
fn parameters_of_the_node(bench: &Bench) -> Result<()> {
    let sandbox = bench.sandbox("sysctl").host_network().sysctl("net.ipv4.ip_default_ttl", "77");
    let error = match bench.cri().run_pod_sandbox(sandbox) {
        Ok(_) => anyhow::bail!("the pod runs"),
        Err(error) => error.to_string(),
    };
    ensure!(error.contains("ip_default_ttl"), "{error}");
    // Without it, it may run; and sees what it did not change.
    let sandbox = bench.cri().run_pod_sandbox(bench.sandbox("plain").host_network())?;
    bench.remove(&sandbox)
}

macro_rules! cases {
    ($(run $module:ident = $version:ident;)* cases $cases:tt) => {
        $(cases!(@module $module $version $cases);)*
    };
    (@module $module:ident $version:ident [$($case:ident),* $(,)?]) => {
        mod $module {
            use super::*;
            $(#[test]
            fn $case() -> Result<(), Failure> {
                let Some(bench) = Bench::start(Version::$version)? else { return Ok(()) };
                Ok(super::$case(&bench).map_err(|error| bench.node.explain(error))?)
            })*
        }
    };
}

cases! {
    run host_1_7 = V1_7;
    run host_2_1 = V2_1;
    cases [
        links_of_a_mounted_directory,
        ports_that_need_a_privilege,
        a_port_of_another_user,
        parameters_of_the_node,
    ]
}
