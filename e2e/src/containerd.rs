//! A private containerd: own directories, namespaces, network and cgroups; gone without a trace when dropped.
//!
//! [`Containerd::start`] gives a node that can run pods with runc, crun and the seuss shim. Errors and panics show the tail of
//! containerd's log. `SEUSS_KEEP=1` keeps the node's directories.

mod config;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cri::Cri;
use crate::namespace::{Namespaces, Process};
use crate::runtime::Runtime;
use crate::snapshotter::{self, Snapshotter};
use crate::tools::{Tools, Version};
use crate::{command, image, paths, progress};

/// How long containerd may take until it answers and its network is ready.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// Lines of containerd's log that an error message carries.
const LOG_TAIL_LINES: usize = 25;

/// Characters of each of them.
const LOG_LINE_CHARS: usize = 400;

/// How a node's seuss-snapshotter is started.
#[derive(Clone, Debug)]
pub struct SnapshotterOptions {
    /// The daemon.
    pub binary: PathBuf,
    /// Its flags, but for those that name files.
    pub flags: Vec<String>,
}

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The containerd series.
    pub version: Version,
    /// The directory that holds `containerd-shim-seuss-v2`, when the runtime is wanted.
    pub shim_dir: Option<PathBuf>,
    /// Run seuss-snapshotter, and use it for CRI containers instead of overlayfs.
    pub snapshotter: Option<SnapshotterOptions>,
}

impl Options {
    /// A node of one containerd series without the seuss runtime.
    pub fn new(version: Version) -> Self {
        Self { version, shim_dir: None, snapshotter: None }
    }

    /// A node that can run pods with `runtime`.
    ///
    /// # Errors
    /// The seuss shim is missing and cannot be built.
    pub fn for_runtime(version: Version, runtime: Runtime) -> Result<Self> {
        let shim_dir = match runtime {
            Runtime::Seuss => Some(crate::runtime::shim_dir()?),
            Runtime::Runc | Runtime::Crun => None,
        };
        Ok(Self { shim_dir, ..Self::new(version) })
    }

    /// The same with seuss-snapshotter instead of overlayfs.
    ///
    /// # Errors
    /// The daemon is missing and cannot be built.
    pub fn with_snapshotter(self, flags: &[&str]) -> Result<Self> {
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let snapshotter = SnapshotterOptions { binary: snapshotter::binary()?, flags };
        Ok(Self { snapshotter: Some(snapshotter), ..self })
    }
}

/// Directories where containerd and CNI mount things, whoever's containerd it is.
const SHARED_DIRS: [&str; 2] = ["/run/containerd", "/run/netns"];

/// A running private containerd.
#[derive(Debug)]
pub struct Containerd {
    // Before the namespaces, so that its client goes first.
    cri: Option<Cri>,
    daemon: Option<Child>,
    snapshotter: Option<Snapshotter>,
    tools: Tools,
    options: Options,
    /// Mounts of the host that the node's mount namespace began with.
    inherited: Vec<String>,
    namespaces: Namespaces,
}

impl Containerd {
    /// Starts one and waits until pods can be run.
    ///
    /// # Errors
    /// Not root, packages missing, or containerd does not come up (the message carries its log).
    pub fn start(options: Options) -> Result<Self> {
        let tools = Tools::fetch(options.version)?;
        let namespaces = Namespaces::create()?;
        let snapshotter =
            options.snapshotter.as_ref().map(|it| Snapshotter::new(&namespaces, &it.binary, &it.flags));
        let inherited = SHARED_DIRS.iter().flat_map(|dir| namespaces.mounts_below(Path::new(dir))).collect();
        let mut node = Self { cri: None, daemon: None, snapshotter, tools, options, inherited, namespaces };
        config::write(&node)?;
        if node.snapshotter.is_some() {
            node.start_snapshotter()?;
        }
        node.start_daemon()?;
        Ok(node)
    }

    /// Starts the daemon again after [`Self::kill_daemon`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_daemon(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut daemon = self.command("containerd");
        daemon.arg("--config").arg(self.config_path());
        daemon.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(daemon.spawn().context("cannot start containerd")?);
        self.wait_ready().map_err(|error| self.explain(error))
    }

    /// Starts the snapshotter again after [`Self::kill_snapshotter`].
    ///
    /// # Errors
    /// The node has none, or it does not come up.
    pub fn start_snapshotter(&mut self) -> Result<()> {
        self.snapshotter.as_mut().context("the node has no snapshotter")?.start(&self.namespaces)
    }

    /// Kills the snapshotter with SIGKILL.
    ///
    /// # Errors
    /// The node has none, or it does not run.
    pub fn kill_snapshotter(&mut self) -> Result<()> {
        self.snapshotter.as_mut().context("the node has no snapshotter")?.kill(&self.namespaces)
    }

    /// The node's seuss-snapshotter.
    ///
    /// # Panics
    /// It was made without.
    pub fn snapshotter(&self) -> &Snapshotter {
        self.snapshotter.as_ref().expect("the node has a snapshotter")
    }

    /// The name of the snapshotter that containers use.
    pub fn snapshotter_name(&self) -> &'static str {
        if self.snapshotter.is_some() { snapshotter::NAME } else { "overlayfs" }
    }

    /// Kills the daemon with SIGKILL; shims and containers stay.
    ///
    /// # Errors
    /// The daemon does not run.
    pub fn kill_daemon(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("containerd does not run")?;
        self.cri = None;
        for process in self.processes() {
            if process.command.contains("containerd --config") {
                kill(process.pid)?;
            }
        }
        daemon.wait()?;
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_DEADLINE;
        let mut last = String::from("no answer");
        while Instant::now() < deadline {
            if let Some(status) = self.daemon.as_mut().and_then(|daemon| daemon.try_wait().ok().flatten()) {
                bail!("containerd ended: {status}");
            }
            if self.socket().exists() {
                match Cri::connect(&self.socket())
                    .and_then(|cri| cri.not_ready().map(|reasons| (cri, reasons)))
                {
                    Ok((cri, reasons)) if reasons.is_empty() => {
                        self.cri = Some(cri);
                        return Ok(());
                    }
                    Ok((_, reasons)) => last = reasons.join("; "),
                    Err(error) => last = format!("{error:#}"),
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("containerd is not ready after {READY_DEADLINE:?}: {last}")
    }

    /// The CRI client.
    ///
    /// # Panics
    /// The daemon has been killed and not started again.
    pub fn cri(&self) -> &Cri {
        self.cri.as_ref().expect("containerd runs")
    }

    /// The container tools of this node.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// What the node was made of.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The node's namespaces: processes, mounts, network, cgroups.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// A command that runs inside the node with its tools on `PATH`.
    pub fn command(&self, program: &str) -> Command {
        let mut path = self.tools.search_path();
        if let Some(dir) = &self.options.shim_dir {
            path = format!("{}:{path}", dir.display());
        }
        let mut command = self.namespaces.command("env");
        command.arg(format!("PATH={path}")).arg(program);
        command
    }

    /// `ctr` inside the node, in containerd's namespace `namespace` ("k8s.io" is CRI's).
    pub fn ctr(&self, namespace: &str) -> Command {
        let mut ctr = self.command("ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", namespace]);
        ctr
    }

    /// Imports a test image into `namespace`, building it first when it is missing; returns its reference.
    ///
    /// # Errors
    /// The image cannot be built or imported.
    pub fn import_into(&self, namespace: &str, name: &str) -> Result<String> {
        let archive = paths::image_archive(name);
        if !archive.exists() {
            image::build::build(&[name])?;
        }
        let mut import = self.ctr(namespace);
        import.args(["image", "import", "--snapshotter", self.snapshotter_name()]).arg(archive);
        command::run(&mut import).map_err(|error| self.explain(error))?;
        Ok(image::oci::reference(name))
    }

    /// [`Self::import_into`] CRI's namespace.
    ///
    /// # Errors
    /// As there.
    pub fn import(&self, name: &str) -> Result<String> {
        self.import_into("k8s.io", name)
    }

    /// Processes inside, as the host sees them: containerd, shims, containers.
    pub fn processes(&self) -> Vec<Process> {
        self.namespaces.processes()
    }

    /// Everything a pod could have left: processes but containerd, mounts of containers, FIFOs, cgroups of containers,
    /// network namespaces. Empty on a clean node.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        for process in self.processes() {
            let daemon = process.command.contains("containerd --config")
                || process.command.contains("seuss-snapshotter --root");
            if !daemon {
                left.push(format!("process {} {}", process.pid, process.command));
            }
        }
        let own = [self.namespaces.state(), self.namespaces.root()];
        for prefix in own.into_iter().chain(SHARED_DIRS.map(Path::new)) {
            let mounts = self.namespaces.mounts_below(prefix);
            left.extend(
                mounts
                    .into_iter()
                    .filter(|point| Path::new(point) != prefix && !self.is_store(point))
                    .filter(|point| !self.inherited.contains(point))
                    .map(|point| format!("mount {point}")),
            );
        }
        for (kind, dir) in [("fifo", "/run/containerd/fifo"), ("socket", "/run/containerd/s")] {
            let entries = fs::read_dir(self.namespaces.path(dir)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("{kind} {dir}/{}", entry.file_name().to_string_lossy())));
        }
        for cgroup in self.namespaces.cgroups().containers() {
            // CRI and ctr keep their parent group.
            if cgroup != "k8s.io" && cgroup != "default" {
                left.push(format!("cgroup {cgroup}"));
            }
        }
        left
    }

    /// Whether a mount is the snapshotter's own.
    fn is_store(&self, point: &str) -> bool {
        self.snapshotter.as_ref().is_some_and(|snapshotter| Path::new(point).starts_with(snapshotter.root()))
    }

    /// Waits until nothing is left of the pods that ran.
    ///
    /// # Errors
    /// Something is left after `timeout`; the message lists it.
    pub fn expect_clean(&self, timeout: Duration) -> Result<()> {
        self.expect_clean_except(&[], timeout)
    }

    /// [`Self::expect_clean`], but for the kinds of things (first words of [`Self::leftovers`]) that a runtime is known to
    /// leave.
    ///
    /// # Errors
    /// As there.
    pub fn expect_clean_except(&self, known: &[&str], timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut left = self.leftovers();
            left.retain(|what| !known.iter().any(|kind| what.split(' ').next() == Some(*kind)));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("left behind on the node:\n  {}", left.join("\n  "));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Adds the tail of containerd's log to an error.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let tail = self.log_tail();
        anyhow::anyhow!("{error:#}\ncontainerd {} says:\n{tail}", self.options.version.name())
    }

    /// The last lines of containerd's log.
    pub fn log_tail(&self) -> String {
        let mut text = String::new();
        if let Ok(mut log) = File::open(self.log_path()) {
            let _ = log.read_to_string(&mut text);
        }
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("loading plugin")).collect();
        let shown = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        let cut = |line: &&str| format!("  | {}\n", line.chars().take(LOG_LINE_CHARS).collect::<String>());
        shown.iter().map(cut).collect()
    }

    /// Where containerd's log goes.
    pub fn log_path(&self) -> PathBuf {
        self.namespaces.root().join("containerd.log")
    }

    /// containerd's socket, reachable from outside the node too.
    pub fn socket(&self) -> PathBuf {
        self.namespaces.state().join("containerd.sock")
    }

    /// Where pods' logs go (the parent of `log_directory`).
    pub fn pod_logs(&self) -> PathBuf {
        self.namespaces.root().join("pods")
    }

    fn config_path(&self) -> PathBuf {
        self.namespaces.root().join("config.toml")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            progress::warn(format!("the test failed; containerd {} says:", self.options.version.name()));
            eprint!("{}", self.log_tail());
            if let Some(snapshotter) = &self.snapshotter {
                eprint!("the snapshotter says:\n{}", snapshotter.log_tail());
            }
        }
        // The daemon's parent (nsenter) ends when the namespaces' init kills it; reap it after that.
        self.cri = None;
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill(self.namespaces.init_pid());
            let _ = daemon.wait();
        }
        if let Some(mut snapshotter) = self.snapshotter.take() {
            let _ = kill(self.namespaces.init_pid());
            snapshotter.reap();
        }
    }
}

/// Sends SIGKILL to a process this harness started.
///
/// # Errors
/// No such process, or it belongs to somebody else.
pub fn kill(pid: u32) -> Result<()> {
    let raw = i32::try_from(pid)?;
    let pid = rustix::process::Pid::from_raw(raw).context("a process id is positive")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).with_context(|| format!("kill {raw}"))
}
