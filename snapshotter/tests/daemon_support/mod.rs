//! A daemon of its own for each test, and a client of it.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use seuss_snapshotter::daemon::api::snapshots_client::SnapshotsClient;
use seuss_snapshotter::daemon::api::{
    CommitSnapshotRequest, Info, ListSnapshotsRequest, Mount, MountsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest, UsageRequest, UsageResponse,
    ViewSnapshotRequest,
};
use seuss_snapshotter::layers::backing;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a daemon may take to come up.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// A daemon with a store on disk (in memory, where /dev/shm is).
pub(crate) struct Daemon {
    child: Option<Child>,
    dir: tempfile::TempDir,
    flags: Vec<String>,
    /// A shell command that comes before it, in a mount namespace of its own.
    before: Option<String>,
}

impl Daemon {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        Self::start_in(&dir, flags).await
    }

    /// With a store of its own below `dir`.
    pub(crate) async fn start_in(dir: &Path, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut daemon = Self { child: None, dir, flags, before: None };
        daemon.restart().await;
        daemon
    }

    /// Starts it where an earlier one ended, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        let deadline = Instant::now() + READY_DEADLINE;
        loop {
            if let Ok(mut client) = self.try_client().await
                && client.stat("none").await.is_err_and(|status| status.code() == Code::NotFound)
            {
                return;
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().unwrap()) {
                panic!("the daemon ended: {status}\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the daemon does not answer:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Starts it without waiting.
    pub(crate) fn spawn(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let binary = env!("CARGO_BIN_EXE_seuss-snapshotter");
        let mut command = match &self.before {
            None => Command::new(binary),
            Some(script) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", &format!("{script} && exec \"$@\""), "sh", binary]);
                command
            }
        };
        let child = command
            .arg("--root")
            .arg(self.root())
            .arg("--socket")
            .arg(self.socket())
            .arg("--store-socket")
            .arg(self.store_socket())
            .args(["--config", "/dev/null", "--image-store", "disk"])
            .args(
                ["--metrics-socket", "none"]
                    .iter()
                    .filter(|_| !self.flags.iter().any(|f| f == "--metrics-socket")),
            )
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// What its next start is told; see [`Self::restart`].
    pub(crate) fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// Its next starts are in a mount namespace of its own, after `script`.
    pub(crate) fn set_before(&mut self, script: Option<&str>) {
        self.before = script.map(str::to_owned);
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub(crate) fn store_socket(&self) -> PathBuf {
        self.dir.path().join("store-sock")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) async fn client(&self) -> Client {
        self.try_client().await.unwrap()
    }

    async fn try_client(&self) -> Result<Client, tonic::transport::Error> {
        let uri = format!("unix://{}", self.socket().display());
        let channel = Endpoint::try_from(uri)?.connect().await?;
        Ok(Client(SnapshotsClient::new(channel)))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Err(error) = backing::unmount_all(&self.root()) {
            eprintln!("{error}");
        }
        if std::thread::panicking() {
            eprintln!("the daemon says:\n{}", self.log());
        }
    }
}

/// Short forms of the requests.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) SnapshotsClient<Channel>);

pub(crate) fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

impl Client {
    pub(crate) async fn prepare(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        self.prepare_with(key, parent, &[]).await
    }

    pub(crate) async fn prepare_with(
        &mut self,
        key: &str,
        parent: &str,
        pairs: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = PrepareSnapshotRequest {
            snapshotter: "seuss".into(),
            key: key.into(),
            parent: parent.into(),
            labels: labels(pairs),
        };
        Ok(self.0.prepare(request).await?.into_inner().mounts)
    }

    pub(crate) async fn view(&mut self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let request = ViewSnapshotRequest { key: key.into(), parent: parent.into(), ..Default::default() };
        Ok(self.0.view(request).await?.into_inner().mounts)
    }

    pub(crate) async fn mounts(&mut self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = MountsRequest { key: key.into(), ..Default::default() };
        Ok(self.0.mounts(request).await?.into_inner().mounts)
    }

    pub(crate) async fn commit(&mut self, name: &str, key: &str) -> Result<(), Status> {
        self.commit_with(name, key, &[]).await
    }

    pub(crate) async fn commit_with(
        &mut self,
        name: &str,
        key: &str,
        pairs: &[(&str, &str)],
    ) -> Result<(), Status> {
        let request = CommitSnapshotRequest {
            name: name.into(),
            key: key.into(),
            labels: labels(pairs),
            ..Default::default()
        };
        self.0.commit(request).await.map(|_| ())
    }

    pub(crate) async fn remove(&mut self, key: &str) -> Result<(), Status> {
        let request = RemoveSnapshotRequest { key: key.into(), ..Default::default() };
        self.0.remove(request).await.map(|_| ())
    }

    pub(crate) async fn stat(&mut self, key: &str) -> Result<Info, Status> {
        let request = StatSnapshotRequest { key: key.into(), ..Default::default() };
        Ok(self.0.stat(request).await?.into_inner().info.unwrap())
    }

    pub(crate) async fn update(
        &mut self,
        key: &str,
        pairs: &[(&str, &str)],
        paths: &[&str],
    ) -> Result<Info, Status> {
        let request = UpdateSnapshotRequest {
            info: Some(Info { name: key.into(), labels: labels(pairs), ..Default::default() }),
            update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(|&p| p.into()).collect() }),
            ..Default::default()
        };
        Ok(self.0.update(request).await?.into_inner().info.unwrap())
    }

    pub(crate) async fn list(&mut self, filters: &[&str]) -> Result<Vec<Info>, Status> {
        let request = ListSnapshotsRequest {
            filters: filters.iter().map(|&filter| filter.into()).collect(),
            ..Default::default()
        };
        let mut stream = self.0.list(request).await?.into_inner();
        let mut infos = Vec::new();
        while let Some(message) = stream.message().await? {
            infos.extend(message.info);
        }
        Ok(infos)
    }

    pub(crate) async fn usage(&mut self, key: &str) -> Result<UsageResponse, Status> {
        let request = UsageRequest { key: key.into(), ..Default::default() };
        Ok(self.0.usage(request).await?.into_inner())
    }
}

/// Where images of layers are mounted below `root`.
pub(crate) fn images_mounted(root: &Path) -> Vec<PathBuf> {
    let root = std::fs::canonicalize(root).unwrap();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter(|line| line.contains(" - erofs ")).map(|line| line.split(' ').nth(4));
    points.flatten().map(PathBuf::from).filter(|point| point.starts_with(&root)).collect()
}

/// The directory of the layer that a view of it, or an active snapshot upon it, names first.
pub(crate) fn nearest(mounts: &[Mount]) -> PathBuf {
    let [mount] = mounts else { panic!("one mount, not {mounts:?}") };
    match mount.r#type.as_str() {
        "bind" => mount.source.clone().into(),
        _ => {
            let lower = mount.options.iter().find_map(|option| option.strip_prefix("lowerdir=")).unwrap();
            lower.split(':').next().unwrap().into()
        }
    }
}

/// The directory that an active snapshot is written in: its bind mount's source, or its overlay's upper directory.
pub(crate) fn upper(mounts: &[Mount]) -> PathBuf {
    let [mount] = mounts else { panic!("one mount, not {mounts:?}") };
    match mount.r#type.as_str() {
        "bind" => mount.source.clone().into(),
        _ => mount.options.iter().find_map(|option| option.strip_prefix("upperdir=")).unwrap().into(),
    }
}

/// Asserts the gRPC code of a refusal.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err("must be refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(text), "{:?} does not say {text:?}", status.message());
}

/// Reports a test that cannot run here (protocol of e2e/DESIGN.md).
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    assert!(std::env::var("SEUSS_REQUIRE_KVM").as_deref() != Ok("1"), "forbidden to skip {test}: {reason}");
    eprintln!("SKIP {test}: {reason}");
    if let Some(path) = std::env::var_os("SEUSS_SKIP_LOG")
        && let Ok(mut log) = std::fs::File::options().create(true).append(true).open(path)
    {
        let _ = std::io::Write::write_all(&mut log, format!("{test}\t{reason}\n").as_bytes());
    }
}

/// Mounts `mounts` in a mount namespace of its own at a fresh directory and runs a shell script there; its output.
pub(crate) fn mounted(mounts: &[Mount], script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = mounting(mounts, dir.path(), script).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}: {stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The command for that, with `dir` as the directory.
pub(crate) fn mounting(mounts: &[Mount], dir: &Path, script: &str) -> Command {
    let mut text = String::from("set -e\n");
    for mount in mounts {
        let options = mount.options.join(",");
        let (target, source) = (dir.display(), &mount.source);
        if mount.r#type == "bind" {
            let (recursive, rest): (Vec<_>, Vec<_>) = mount.options.iter().partition(|o| *o == "rbind");
            assert!(!recursive.is_empty());
            text.push_str(&format!("mount --rbind {source} {target}\n"));
            if rest.iter().any(|option| *option == "ro") {
                text.push_str(&format!("mount -o remount,bind,ro {target}\n"));
            }
        } else {
            text.push_str(&format!("mount -t {} -o '{options}' {source} {target}\n", mount.r#type));
        }
    }
    text.push_str(&format!("cd {}\n{script}\n", dir.display()));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &text]);
    command
}

/// Whether this user may mount.
pub(crate) fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
        && Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success())
}
