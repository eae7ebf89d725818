//! The harness itself: that it cleans up, however its owner ends.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::paths;
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;

const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a private node can be had; says SKIP otherwise.
fn can_run() -> bool {
    let missing = need::missing_for_node(Version::V1_7, Runtime::Runc)
        .or_else(|| need::missing_images(&["pause", "base", "python"]));
    if let Some(reason) = &missing {
        need::skip(reason);
    }
    missing.is_none()
}

/// What a node of the process `owner` would leave on the machine.
fn traces_of(owner: u32) -> Vec<PathBuf> {
    let name = format!("{owner}-0");
    let mut found = vec![Path::new("/run/seuss-e2e").join(&name), paths::cache().join("run").join(&name)];
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy() == format!("seuss-e2e-{name}") {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push(entry.path());
            }
        }
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&format!("/run/seuss-e2e/{name}")) {
            found.push(entry.path());
        }
    }
    found.retain(|path| path.exists());
    found
}

#[test]
fn killed_owner_leaves_nothing() -> Result<(), Failure> {
    if !can_run() {
        return Ok(());
    }
    let script = "import time; print('ready', flush=True); time.sleep(600)";
    let mut owner = Command::new(env!("CARGO_BIN_EXE_seuss-e2e-run"))
        .args(["--runtime", "runc", "--", "python3", "-c", script])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("spawn")?;
    let mut lines =
        BufReader::new(owner.stderr.take().context("stderr is piped")?).lines().map_while(Result::ok);
    if !lines.any(|line| line.contains("pod 1 of 1")) {
        return Err(anyhow::anyhow!("the owner ended early").into());
    }
    let deadline = Instant::now() + PATIENCE;
    let runs_a_pod = || {
        let shim = "containerd-shim-runc-v2";
        fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
            let line = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default())
                .into_owned();
            line.contains(shim) && line.contains(&format!("/run/seuss-e2e/{}-0", owner.id()))
        })
    };
    while !runs_a_pod() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    let owner_pid = owner.id();
    // Two directories, a cgroup, and at least supervisor, init, containerd, shim.
    if !runs_a_pod() || traces_of(owner_pid).len() < 7 {
        return Err(anyhow::anyhow!("no pod came up: {:?}", traces_of(owner_pid)).into());
    }
    owner.kill().context("kill")?;
    owner.wait().context("wait")?;
    let deadline = Instant::now() + PATIENCE;
    while !traces_of(owner_pid).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    let left = traces_of(owner_pid);
    if !left.is_empty() {
        return Err(anyhow::anyhow!("a killed owner leaves {left:?}").into());
    }
    Ok(())
}

#[test]
fn containerd_restart_keeps_the_pod() -> Result<(), Failure> {
    if !can_run() {
        return Ok(());
    }
    let mut node = Containerd::start(Options::new(Version::V1_7))?;
    node.import("pause")?;
    let image = node.import("base")?;
    let sandbox = node.cri().run_pod_sandbox(Sandbox::new("restart", Runtime::Runc, &node.pod_logs()))?;
    let spec = ContainerSpec::new("main", &image).command(&["sleep", "600"]);
    let id = node.cri().create_container(&sandbox, &spec)?;
    node.cri().start_container(&id)?;
    node.kill_daemon()?;
    node.start_daemon()?;
    check(&node, &sandbox, &id).map_err(|error| node.explain(error))?;
    Ok(())
}

fn check(node: &Containerd, sandbox: &Sandbox, id: &str) -> Result<()> {
    let output =
        node.cri().exec_sync(id, &["sh", "-c", "echo still here; echo err >&2; exit 5"], PATIENCE)?;
    ensure!(
        (output.stdout.as_str(), output.stderr.as_str(), output.exit_code) == ("still here\n", "err\n", 5),
        "{output:?}"
    );
    ensure!(node.cri().list_containers()?.len() == 1, "one container is listed");
    ensure!(node.cri().list_images()?.len() == 2, "two images are listed");
    ensure!(node.cri().image_status("seuss.test/base:latest")?.is_some(), "the image is known");
    ensure!(node.cri().image_status("seuss.test/nothing:latest")?.is_none(), "no other image is known");
    let status = node.cri().pod_sandbox_status(sandbox)?;
    let ip = status.network.context("a network")?.ip;
    ensure!(ip.starts_with("10.88."), "address {ip}");
    node.namespaces().in_network(move || {
        // Nobody listens: the pod's kernel answers with a reset, so the address is reachable from the node.
        let error = std::net::TcpStream::connect((ip.as_str(), 9)).err().context("a listener")?;
        ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{error}");
        Ok(())
    })?;
    node.cri().stop_container(id, Duration::from_secs(1))?;
    node.cri().remove_container(id)?;
    node.cri().stop_pod_sandbox(sandbox)?;
    node.cri().remove_pod_sandbox(sandbox)?;
    node.expect_clean(PATIENCE)
}
