//! containerd's part, for tests of the shim binary: bundles, the log, the events service, the task client.
//!
//! Everything lies in a temporary directory; what a failed test leaves (a shim, mounts) goes with [`Node`]'s drop.

// Each test binary uses its part of this.
#![allow(dead_code, unreachable_pub)]

pub mod elf;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, Events, TaskClient, create_events};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use seuss_shim::record::ProcessId;
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::context::{self, Context};

/// The shim.
pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-seuss-v2");
/// containerd's namespace in these tests.
pub const NAMESPACE: &str = "test-ns";

/// Why this test cannot run here, told by the protocol of e2e/DESIGN.md, "Tests". True if it must be skipped.
pub fn skip_without_kvm() -> bool {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => false,
        Err(error) => skip(&format!("needs /dev/kvm: {error}")),
    }
}

/// True, and says so, unless this is root.
pub fn skip_without_root() -> bool {
    !rustix::process::geteuid().is_root() && skip("needs root (mounts, control groups)")
}

fn skip(reason: &str) -> bool {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    assert!(
        std::env::var("SEUSS_REQUIRE_KVM").as_deref() != Ok("1"),
        "SEUSS_REQUIRE_KVM=1 forbids to skip {test}: {reason}"
    );
    eprintln!("SKIP {test}: {reason}");
    if let Some(path) = std::env::var_os("SEUSS_SKIP_LOG")
        && let Ok(mut log) = OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = writeln!(log, "{test}\t{reason}");
    }
    true
}

/// A deadline's context.
pub fn soon() -> Context {
    context::with_duration(Duration::from_secs(30))
}

/// Polls until `done`, for at most ten seconds.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a stand-in for containerd's events service was told, in short.
#[derive(Clone, Default)]
pub struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn take(&self, topic: &str, message: &[u8]) {
        let detail = match topic {
            "/tasks/exit" => {
                let exit = event::TaskExit::parse_from_bytes(message).unwrap();
                assert!(exit.exited_at.seconds > 0 && exit.pid > 0);
                format!("{}/{} {}", exit.container_id, exit.id, exit.exit_status)
            }
            "/tasks/create" => event::TaskCreate::parse_from_bytes(message).unwrap().container_id,
            "/tasks/start" => event::TaskStart::parse_from_bytes(message).unwrap().container_id,
            "/tasks/delete" => event::TaskDelete::parse_from_bytes(message).unwrap().container_id,
            "/tasks/exec-added" => event::TaskExecAdded::parse_from_bytes(message).unwrap().exec_id,
            "/tasks/exec-started" => event::TaskExecStarted::parse_from_bytes(message).unwrap().exec_id,
            _ => String::new(),
        };
        self.0.lock().unwrap().push(format!("{topic} {detail}").trim_end().to_owned());
    }

    pub async fn wait_for(&self, wanted: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.all().len() < wanted.len() {
            assert!(Instant::now() < deadline, "told only {:?}, not {wanted:?}", self.all());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.all(), wanted);
    }
}

#[async_trait]
impl Events for Told {
    async fn forward(&self, _ctx: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<api::Empty> {
        assert_eq!(request.envelope.namespace, NAMESPACE);
        assert!(request.envelope.timestamp.seconds > 0);
        let event = &request.envelope.event;
        assert!(event.type_url.starts_with("containerd.events.Task"), "{}", event.type_url);
        self.take(&request.envelope.topic, &event.value);
        Ok(api::Empty::default())
    }
}

/// containerd, as far as a shim can tell.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub told: Told,
    server: Option<Server>,
    shims: Vec<ProcessId>,
}

impl Node {
    pub async fn new() -> Self {
        // As containerd is: shims become children of this process, which waits for them at the end.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        // Short: the socket's name has 64 letters.
        let dir = tempfile::Builder::new().prefix("shim").tempdir_in("/tmp").unwrap();
        let mut node = Self { dir, told: Told::default(), server: None, shims: Vec::new() };
        node.listen().await;
        node
    }

    pub fn events_socket(&self) -> PathBuf {
        self.dir.path().join("e")
    }

    /// (Re)starts the events service.
    pub async fn listen(&mut self) {
        let address = format!("unix://{}", self.events_socket().display());
        let service = create_events(Arc::new(self.told.clone()));
        let mut server = Server::new().bind(&address).unwrap().register_service(service);
        server.start().await.unwrap();
        self.server = Some(server);
    }

    /// Stops the events service, as when containerd stops.
    pub async fn deafen(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.shutdown().await.unwrap();
            fs::remove_file(self.events_socket()).unwrap();
        }
    }

    pub fn bundle(&self, id: &str) -> PathBuf {
        self.dir.path().join(id)
    }

    /// Makes a bundle with programs /hello, /cat and /pause in its root directory, and containerd's log FIFO.
    pub fn make_bundle(&self, id: &str, config: &serde_json::Value) -> PathBuf {
        let bundle = self.bundle(id);
        let root = bundle.join("rootfs");
        fs::create_dir_all(&root).unwrap();
        for (name, program) in
            [("hello", elf::hello("hello from the guest\n", 7)), ("cat", elf::cat()), ("pause", elf::pause())]
        {
            fs::write(root.join(name), program).unwrap();
            fs::set_permissions(root.join(name), Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
        self.fifo(&bundle.join("log"));
        bundle
    }

    pub fn fifo(&self, path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    /// The specification of a container that runs `args`.
    pub fn config(&self, args: &[&str]) -> serde_json::Value {
        serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {"args": args, "env": ["PATH=/"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": "rootfs"},
            "annotations": {},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}],
                "resources": {"memory": {"limit": 64 << 20}, "cpu": {"shares": 128}}
            }
        })
    }

    /// The same, as CRI makes it for a pod.
    pub fn pod_config(&self, kind: &str, sandbox_id: &str, args: &[&str]) -> serde_json::Value {
        let mut config = self.config(args);
        config["annotations"] = serde_json::json!({
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.sandbox-id": sandbox_id
        });
        config
    }

    /// Runs the shim binary with `action` as containerd does.
    pub fn call(&self, id: &str, action: &str, stdin: &[u8], envs: &[(&str, &str)]) -> Output {
        let mut command = Command::new(SHIM);
        let grpc = self.dir.path().join("g");
        command.current_dir(self.bundle(id)).args(["-namespace", NAMESPACE, "-address"]).arg(grpc);
        command.args(["-publish-binary"]).arg(self.dir.path().join("publish")).args(["-id", id]);
        if action == "delete" {
            command.arg("-bundle").arg(self.bundle(id));
        }
        command.arg(action).env_remove("TTRPC_ADDRESS").envs(envs.iter().copied());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    /// `start`, with containerd 2.3's protocol and the sockets in this directory.
    pub fn start(&self, id: &str) -> String {
        let params = BootstrapParams {
            instance_id: id.to_owned(),
            namespace: NAMESPACE.to_owned(),
            containerd_ttrpc_address: self.events_socket().display().to_string(),
            containerd_grpc_address: self.dir.path().join("g").display().to_string(),
            socket_dir: Some(self.dir.path().join("s").display().to_string()),
            ..Default::default()
        };
        let output = self.call(id, "start", &params.write_to_bytes().unwrap(), &[]);
        assert!(output.status.success(), "{output:?}");
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((result.version, &*result.protocol), (3, "ttrpc"));
        result.address
    }

    /// Connects to a shim, and remembers it for the end.
    pub async fn connect(&mut self, address: &str) -> Shim {
        let client = Client::connect(address).await.unwrap();
        let task = TaskClient::new(client.clone());
        let connected = task.connect(soon(), &api::ConnectRequest::default()).await.unwrap();
        let process = ProcessId::of(connected.shim_pid).expect("the shim runs");
        self.shims.push(process);
        Shim { client, task, process, address: address.to_owned() }
    }

    /// Starts the shim for `id` and connects.
    pub async fn shim(&mut self, id: &str) -> Shim {
        let address = self.start(id);
        self.connect(&address).await
    }

    /// What the shim of bundle `id` logged and nobody read yet.
    pub fn log(&self, id: &str) -> String {
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).custom_flags(libc::O_NONBLOCK).open(self.bundle(id).join("log")).unwrap();
        let mut text = Vec::new();
        let _ = file.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Nothing of `id` is left but what containerd itself removes.
    pub async fn nothing_is_left(&self, shim: &Shim) {
        eventually("the shim ends", || !shim.process.is_alive()).await;
        let socket = shim.address.strip_prefix("unix://").unwrap();
        assert!(!Path::new(socket).exists(), "the socket is left");
        assert_eq!(self.mounts(), [""; 0]);
    }

    /// Mounts in this directory.
    pub fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().to_str().unwrap();
        table.lines().filter(|line| line.contains(here)).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for shim in &self.shims {
            let Some(pid) = rustix::process::Pid::from_raw(shim.pid as i32) else { continue };
            if shim.is_alive() {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            // Fails where somebody else is its parent.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
        let (parent, name) = (self.dir.path().parent().unwrap(), self.dir.path().file_name().unwrap());
        let parent = seuss_snapshotter::beneath::Dir::open(parent).unwrap();
        let _ = seuss_shim::mount::unmount_recursive(&parent, name.to_str().unwrap());
    }
}

/// A connected shim.
pub struct Shim {
    pub client: Client,
    pub task: TaskClient,
    pub process: ProcessId,
    pub address: String,
}

impl Shim {
    pub async fn create(&self, node: &Node, id: &str) -> ttrpc::Result<api::CreateTaskResponse> {
        self.create_with(node, id, ["", "", ""]).await
    }

    pub async fn create_with(
        &self,
        node: &Node,
        id: &str,
        [stdin, stdout, stderr]: [&str; 3],
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        let request = api::CreateTaskRequest {
            id: id.to_owned(),
            bundle: node.bundle(id).display().to_string(),
            stdin: stdin.to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            ..Default::default()
        };
        self.task.create(soon(), &request).await
    }

    pub async fn begin(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request =
            api::StartRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        Ok(self.task.start(soon(), &request).await?.pid)
    }

    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32) -> ttrpc::Result<()> {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = api::KillRequest { id, exec_id, signal, ..Default::default() };
        self.task.kill(soon(), &request).await.map(drop)
    }

    pub async fn wait(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request =
            api::WaitRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        Ok(self.task.wait(soon(), &request).await?.exit_status)
    }

    pub async fn delete(&self, id: &str, exec_id: &str) -> ttrpc::Result<api::DeleteResponse> {
        let request =
            api::DeleteRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.task.delete(soon(), &request).await
    }

    pub async fn state(&self, id: &str, exec_id: &str) -> ttrpc::Result<api::StateResponse> {
        let request =
            api::StateRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.task.state(soon(), &request).await
    }

    pub async fn shutdown(&self, id: &str) {
        let request = api::ShutdownRequest { id: id.to_owned(), ..Default::default() };
        // It may end before it answers.
        let _ = self.task.shutdown(soon(), &request).await;
    }
}

/// The status of a refused request.
pub fn refused<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (ttrpc::Code, String) {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => (status.code(), status.message),
        other => panic!("not refused: {other:?}"),
    }
}
