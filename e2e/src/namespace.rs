//! The namespaces of one private node: network, mounts, processes, cgroups, host name, IPC.
//!
//! A supervisor (scripts/supervisor.sh) holds them. It lives as long as a pipe that only the owning process has open, so the
//! node disappears with its owner whatever happens to it: a panic, SIGKILL, Ctrl-C. What disappears: every process (they are
//! in one PID namespace whose init exits), mounts, interfaces, firewall rules, FIFOs and sockets below /run, cgroups, and the
//! node's two directories.
//!
//! Reference: namespaces(7), pid_namespaces(7), unshare(1), nsenter(1).

use std::fs;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cgroup::Cgroups;
use crate::{paths, progress};

/// How long the supervisor may take to clean up before it is given up on.
const CLEANUP_DEADLINE: Duration = Duration::from_secs(30);

/// A process as the host sees it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Process id on the host.
    pub pid: u32,
    /// Its command line, or its name in brackets.
    pub command: String,
}

/// The namespaces, held until dropped.
#[derive(Debug)]
pub struct Namespaces {
    supervisor: Child,
    init_pid: u32,
    cgroups: Cgroups,
    state: PathBuf,
    root: PathBuf,
}

impl Namespaces {
    /// Makes the namespaces and the node's two directories.
    ///
    /// # Errors
    /// Not root, or unshare(1), mount(8) or ip(8) fails; the message carries what the script said.
    pub fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Short, because socket paths are limited to 108 bytes.
        let state = Path::new("/run/seuss-e2e").join(&id);
        let root = paths::cache().join("run").join(&id);
        for dir in [&state, &root] {
            let _ = fs::remove_dir_all(dir); // Left by a process that had our id.
            fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {} (root is needed)", dir.display()))?;
        }
        // Kept open: the supervisor may remove the file before it is read.
        let mut log = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(root.join("namespaces.log"))?;
        let cgroups = Cgroups::create(&format!("seuss-e2e-{id}"))?;
        let mut supervisor = Command::new("bash");
        let scripts = paths::repository().join("e2e/scripts");
        supervisor.arg(scripts.join("supervisor.sh")).arg(&state).arg(&root);
        supervisor.arg(cgroups.v2.as_deref().unwrap_or(Path::new("")));
        supervisor.arg(scripts.join("init.sh")).args(&cgroups.joined);
        supervisor.env("SEUSS_CGROUPS", cgroups.v1.join(" ")).env("LC_ALL", "C");
        // Out of reach of Ctrl-C: it ends by end of file, after cleaning up.
        supervisor.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut supervisor = supervisor.spawn().context("cannot start bash")?;
        let stdout = supervisor.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(init_pid) = line.strip_prefix("ready ").and_then(|pid| pid.trim().parse().ok()) else {
            drop(supervisor.stdin.take());
            let _ = supervisor.wait();
            let mut said = String::new();
            log.rewind()?;
            log.read_to_string(&mut said)?;
            bail!("cannot make the namespaces of a private node:\n{said}");
        };
        Ok(Self { supervisor, init_pid, cgroups, state, root })
    }

    /// A directory for sockets and state, with a short name; removed at the end.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A directory on disk for what is large; removed at the end.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The host's id of process 1 inside.
    pub fn init_pid(&self) -> u32 {
        self.init_pid
    }

    /// The node's cgroups.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// `path` of the node's mount namespace, as this process can open it.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let inside = path.as_ref();
        Path::new("/proc")
            .join(self.init_pid.to_string())
            .join("root")
            .join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A command that runs `program` inside, in the node's cgroups. The process it starts is a grandchild: kill by
    /// [`Self::processes`], not through the returned command's child.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        const JOIN: &str = r#"while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@""#;
        let mut command = Command::new("bash");
        command.args(["-c", JOIN, "join"]).args(self.cgroups.for_processes()).arg("--");
        command.args(["nsenter", "--net", "--mount", "--pid", "--cgroup", "--uts", "--ipc"]);
        command.arg(format!("--target={}", self.init_pid)).arg("--").arg(program);
        command
    }

    /// Runs `work` on a thread of its own inside the network namespace; sockets it opens reach the pods.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` fails or panics.
    pub fn in_network<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let namespace = fs::File::open(format!("/proc/{}/ns/net", self.init_pid))?;
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(LinkNameSpaceType::Network),
            )?;
            work()
        });
        thread.join().unwrap_or_else(|_| bail!("the work inside the network namespace panicked"))
    }

    /// All processes inside except init and transient commands of this harness.
    pub fn processes(&self) -> Vec<Process> {
        let Ok(own) = fs::read_link(format!("/proc/{}/ns/pid", self.init_pid)) else { return Vec::new() };
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let inside = fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|namespace| namespace == own)
                // Containers have PID namespaces of their own, below ours.
                || fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&self.cgroup_name()));
            if inside && pid != self.init_pid && !is_nsenter(pid) {
                found.push(Process { pid, command: command_line(pid) });
            }
        }
        found
    }

    /// Mount points inside that lie below `prefix`.
    pub fn mounts_below(&self, prefix: &Path) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/mountinfo", self.init_pid)).unwrap_or_default();
        let points = text.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| Path::new(point).starts_with(prefix)).map(str::to_owned).collect()
    }

    fn cgroup_name(&self) -> String {
        let name = self.cgroups.joined.first().and_then(|dir| dir.file_name());
        format!("/{}", name.unwrap_or_default().to_string_lossy())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let deadline = Instant::now() + CLEANUP_DEADLINE;
        while Instant::now() < deadline {
            match self.supervisor.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        progress::warn(format!(
            "cleaning up {} takes too long; its supervisor is killed",
            self.root.display()
        ));
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

/// Whether a process is nsenter(1) or the shell in front of it, both outside our namespaces but in our cgroups.
fn is_nsenter(pid: u32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let parts = command_line(pid);
    name.trim() == "nsenter" || name.trim() == "unshare" || parts.contains("cgroup.procs")
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        return format!("[{}]", name.trim());
    }
    words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ")
}
