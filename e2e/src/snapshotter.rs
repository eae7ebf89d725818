//! The daemon `seuss-snapshotter` inside a private node.
//!
//! It runs in the node's mount namespace, so its tmpfs and sockets vanish with the node. [`Snapshotter::kill`] and [`Snapshotter::start`] are what
//! recovery is tested with.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespaces;
use crate::{command, paths, progress};

/// The name that containerd knows it by.
pub const NAME: &str = "seuss";

/// How long it may take until it answers.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// A daemon of a node; it ends with the node.
#[derive(Debug)]
pub struct Snapshotter {
    child: Option<Child>,
    binary: PathBuf,
    dir: PathBuf,
    log: PathBuf,
    flags: Vec<String>,
}

impl Snapshotter {
    /// A daemon for `node`, not started; `flags` come after those that name its files.
    pub fn new(node: &Namespaces, binary: &Path, flags: &[String]) -> Self {
        let log = node.root().join("snapshotter.log");
        Self {
            child: None,
            binary: binary.to_owned(),
            dir: node.state().to_owned(),
            log,
            flags: flags.to_vec(),
        }
    }

    /// containerd's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("snap.sock")
    }

    /// The directory of the store, inside the node.
    pub fn root(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Its log.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The socket of the store of memory snapshots.
    pub fn store_socket(&self) -> PathBuf {
        self.dir.join("store.sock")
    }

    fn metrics_socket(&self) -> PathBuf {
        self.dir.join("metrics.sock")
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It cannot be started, or does not answer; the message carries its log.
    pub fn start(&mut self, node: &Namespaces) -> Result<()> {
        // An answer must come from the new one.
        let _ = std::fs::remove_file(self.metrics_socket());
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut daemon = node.command("env");
        daemon.arg(format!("SEUSS_LOG={}", std::env::var("SEUSS_LOG").unwrap_or_else(|_| "info".into())));
        daemon.arg(&self.binary).arg("--root").arg(self.root()).arg("--socket").arg(self.socket());
        daemon.arg("--store-socket").arg(self.store_socket());
        daemon.arg("--metrics-socket").arg(self.metrics_socket()).args(&self.flags);
        daemon.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(daemon.spawn().context("cannot start seuss-snapshotter")?);
        let deadline = Instant::now() + READY_DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("seuss-snapshotter ended: {status}\n{}", self.log_tail());
            }
            if self.socket().exists() && self.get("/healthz").is_ok_and(|text| text.starts_with("ok")) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("seuss-snapshotter is not ready after {READY_DEADLINE:?}:\n{}", self.log_tail())
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, node: &Namespaces) -> Result<()> {
        let mut child = self.child.take().context("seuss-snapshotter does not run")?;
        // The child is nsenter(1); the daemon is its child.
        for process in node.processes() {
            if process.command.starts_with(&*self.binary.to_string_lossy()) {
                crate::containerd::kill(process.pid)?;
            }
        }
        child.wait()?;
        Ok(())
    }

    /// The body that the daemon answers to an HTTP request on its metrics socket.
    ///
    /// # Errors
    /// It does not answer, or not with 200.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.metrics_socket())?;
        stream.set_read_timeout(Some(READY_DEADLINE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: seuss\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200 "), "{head}: {body}");
        Ok(body.to_owned())
    }

    /// A figure of `/metrics`, by its name and labels as they are written there.
    ///
    /// # Errors
    /// There is none.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("no figure {name} in:\n{text}"))?.parse()?)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].iter().map(|line| format!("  | {line}\n")).collect()
    }

    /// Reaps it after the node's processes have been killed.
    pub(crate) fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

/// The daemon's binary: `$SEUSS_SNAPSHOTTER`, else target/release, where it is built when it is missing (and only then).
///
/// # Errors
/// It cannot be built.
pub fn binary() -> Result<PathBuf> {
    const BINARY: &str = "seuss-snapshotter";
    if let Some(binary) = std::env::var_os("SEUSS_SNAPSHOTTER") {
        return std::fs::canonicalize(&binary)
            .with_context(|| format!("SEUSS_SNAPSHOTTER={}", binary.display()));
    }
    let path = paths::target().join("release").join(BINARY);
    if !path.exists() {
        progress::step("building the snapshotter (cargo build --release --package seuss-snapshotter)");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(paths::repository()).args(["build", "--release", "--package", "seuss-snapshotter"]);
        command::run(&mut build)?;
        anyhow::ensure!(path.exists(), "cargo built no {BINARY}");
    }
    Ok(path)
}
