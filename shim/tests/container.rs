//! The shim binary with containers that run in guests: needs /dev/kvm.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Node, Shim, eventually, refused, skip_without_kvm, skip_without_root, soon};
use containerd_shim_protos::api;
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::types::task::Status;
use ttrpc::Code;

/// containerd's end of a FIFO that a container writes to.
struct Output {
    path: PathBuf,
    file: File,
    text: Vec<u8>,
}

impl Output {
    fn new(node: &Node, name: &str) -> Self {
        let path = node.dir.path().join(name);
        node.fifo(&path);
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        Self { path, file, text: Vec::new() }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn text(&mut self) -> String {
        let _ = self.file.read_to_end(&mut self.text);
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// Whether all writers are gone.
    fn has_ended(&mut self) -> bool {
        let mut byte = [0];
        match self.file.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => {
                self.text.push(byte[0]);
                false
            }
            Err(_) => false,
        }
    }
}

async fn one(node: &mut Node, args: &[&str]) -> Shim {
    node.make_bundle("c1", &node.config(args));
    node.shim("c1").await
}

fn exec_request(exec_id: &str, args: &[&str], stdout: &str) -> api::ExecProcessRequest {
    let process =
        serde_json::json!({"args": args, "cwd": "/", "env": ["PATH=/"], "user": {"uid": 0, "gid": 0}});
    let spec = Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
        value: process.to_string().into_bytes(),
        ..Default::default()
    };
    api::ExecProcessRequest {
        id: "c1".into(),
        exec_id: exec_id.into(),
        stdout: stdout.into(),
        spec: Some(spec).into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_exit_code_and_events_of_a_program() {
    if skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let shim = one(&mut node, &["hello"]).await;
    let mut stdout = Output::new(&node, "stdout");
    shim.create_with(&node, "c1", ["", stdout.name(), ""]).await.unwrap();
    let pid = shim.begin("c1", "").await.unwrap();
    assert_ne!(pid, shim.process.pid);
    assert_eq!(shim.wait("c1", "").await.unwrap(), 7);
    assert_eq!(shim.delete("c1", "").await.unwrap().exit_status, 7);
    assert_eq!(stdout.text(), "hello from the guest\n");
    assert!(stdout.has_ended());
    shim.shutdown("c1").await;
    node.told
        .wait_for(&["/tasks/create c1", "/tasks/start c1", "/tasks/exit c1/c1 7", "/tasks/delete c1"])
        .await;
    node.nothing_is_left(&shim).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_until_close_io() {
    if skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let shim = one(&mut node, &["/cat"]).await;
    let (stdin, mut stdout) = (node.dir.path().join("stdin"), Output::new(&node, "stdout"));
    node.fifo(&stdin);
    shim.create_with(&node, "c1", [stdin.to_str().unwrap(), stdout.name(), ""]).await.unwrap();
    shim.begin("c1", "").await.unwrap();
    for text in ["first\n", "second\n"] {
        // Each with a writer of its own, as `kubectl attach` comes and goes.
        let mut writer = OpenOptions::new().write(true).open(&stdin).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        drop(writer);
        eventually("the program answers", || stdout.text().ends_with(text)).await;
    }
    assert_eq!(shim.state("c1", "").await.unwrap().status(), Status::RUNNING);
    let close = api::CloseIORequest { id: "c1".into(), stdin: true, ..Default::default() };
    shim.task.close_io(soon(), &close).await.unwrap();
    assert_eq!(shim.wait("c1", "").await.unwrap(), 2, "two reads found something");
    shim.delete("c1", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_execs() {
    if skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let shim = one(&mut node, &["/pause"]).await;
    shim.create(&node, "c1").await.unwrap();
    let exec = exec_request("e1", &["/hello"], "");
    assert_eq!(
        refused(shim.task.exec(soon(), &exec).await).0,
        Code::FAILED_PRECONDITION,
        "not before the start"
    );
    shim.begin("c1", "").await.unwrap();

    let mut stdout = Output::new(&node, "e1");
    shim.task.exec(soon(), &exec_request("e1", &["/hello"], stdout.name())).await.unwrap();
    let again = shim.task.exec(soon(), &exec_request("e1", &["/hello"], "")).await;
    assert_eq!(refused(again).0, Code::ALREADY_EXISTS);
    shim.begin("c1", "e1").await.unwrap();
    assert_eq!(shim.wait("c1", "e1").await.unwrap(), 7);
    assert_eq!(shim.delete("c1", "e1").await.unwrap().exit_status, 7);
    assert_eq!(stdout.text(), "hello from the guest\n");
    assert!(stdout.has_ended(), "an exec's output ends with it");

    shim.task.exec(soon(), &exec_request("e2", &["/nosuch"], "")).await.unwrap();
    let (_, message) = refused(shim.begin("c1", "e2").await);
    assert!(message.contains("/nosuch") && message.contains("No such file"), "{message}");
    shim.delete("c1", "e2").await.unwrap();

    shim.task.exec(soon(), &exec_request("e3", &["/pause"], "")).await.unwrap();
    shim.begin("c1", "e3").await.unwrap();
    let pids =
        shim.task.pids(soon(), &api::PidsRequest { id: "c1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(pids.processes.len(), 2);
    shim.kill("c1", "e3", 15).await.unwrap();
    assert_eq!(shim.wait("c1", "e3").await.unwrap(), 128 + 15);
    shim.delete("c1", "e3").await.unwrap();

    shim.task.exec(soon(), &exec_request("e4", &["/pause"], "")).await.unwrap();
    shim.begin("c1", "e4").await.unwrap();
    shim.kill("c1", "", 10).await.unwrap();
    assert_eq!(shim.wait("c1", "").await.unwrap(), 128 + 10);
    assert_eq!(shim.wait("c1", "e4").await.unwrap(), 128 + 9, "an exec ends with its container");
    shim.delete("c1", "").await.unwrap();
    node.told
        .wait_for(&[
            "/tasks/create c1",
            "/tasks/start c1",
            "/tasks/exec-added e1",
            "/tasks/exec-started e1",
            "/tasks/exit c1/e1 7",
            "/tasks/exec-added e2",
            "/tasks/exec-added e3",
            "/tasks/exec-started e3",
            "/tasks/exit c1/e3 143",
            "/tasks/exec-added e4",
            "/tasks/exec-started e4",
            "/tasks/exit c1/e4 137",
            "/tasks/exit c1/c1 138",
            "/tasks/delete c1",
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_kill_and_stats() {
    if skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let shim = one(&mut node, &["/pause"]).await;
    shim.create(&node, "c1").await.unwrap();
    shim.begin("c1", "").await.unwrap();
    let id = || "c1".to_owned();
    let stats = shim.task.stats(soon(), &api::StatsRequest { id: id(), ..Default::default() }).await.unwrap();
    if stats.stats.type_url == "io.containerd.cgroups.v1.Metrics" {
        let metrics = v1::Metrics::parse_from_bytes(&stats.stats.value).unwrap();
        assert_eq!(metrics.memory.usage.limit, 64 << 20);
        assert!(metrics.memory.usage.usage > 0 && metrics.memory.usage.usage < 64 << 20);
        assert!(metrics.cpu.usage.total > 0);
    }
    shim.task.pause(soon(), &api::PauseRequest { id: id(), ..Default::default() }).await.unwrap();
    assert_eq!(shim.state("c1", "").await.unwrap().status(), Status::PAUSED);
    shim.kill("c1", "", 15).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(shim.state("c1", "").await.unwrap().status(), Status::PAUSED, "a held guest takes no signal");
    shim.task.resume(soon(), &api::ResumeRequest { id: id(), ..Default::default() }).await.unwrap();
    assert_eq!(shim.wait("c1", "").await.unwrap(), 143);
    shim.delete("c1", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_ends_a_held_guest() {
    if skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let shim = one(&mut node, &["/pause"]).await;
    shim.create(&node, "c1").await.unwrap();
    shim.begin("c1", "").await.unwrap();
    shim.task.pause(soon(), &api::PauseRequest { id: "c1".into(), ..Default::default() }).await.unwrap();
    shim.kill("c1", "", 9).await.unwrap();
    assert_eq!(shim.wait("c1", "").await.unwrap(), 137);
    assert_eq!(shim.delete("c1", "").await.unwrap().exit_status, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_containers_of_a_pod_in_their_network_and_groups() {
    if skip_without_root() || skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let group = format!("seuss-test-{}-pod", std::process::id());
    let with_group = |mut config: serde_json::Value, id: &str| {
        config["linux"]["cgroupsPath"] = serde_json::json!(format!("/{group}/{id}"));
        config
    };
    // The pod's network namespace, as a CNI plugin would have made it: that of a process of ours.
    let mut holder = std::process::Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
    let pod_network = format!("/proc/{}/ns/net", holder.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    while fs::read_link(&pod_network).unwrap() == own {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let with_network = |mut config: serde_json::Value, path: &str| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(serde_json::json!({"type": "network", "path": path}));
        config
    };
    let sandbox = with_group(node.pod_config("sandbox", "pod", &["/pause"]), "pod");
    node.make_bundle("pod", &with_network(sandbox, &pod_network));
    let shim = node.shim("pod").await;
    shim.create(&node, "pod").await.unwrap();
    shim.begin("pod", "").await.unwrap();
    let mut pids = Vec::new();
    for id in ["one", "two"] {
        // containerd names the sandbox's process here, which is the shim, in containerd's own network.
        let config = with_group(node.pod_config("container", "pod", &["/pause"]), id);
        node.make_bundle(id, &with_network(config, &format!("/proc/{}/ns/net", shim.process.pid)));
        assert_eq!(node.start(id), shim.address);
        shim.create(&node, id).await.unwrap();
        pids.push(shim.begin(id, "").await.unwrap());
    }
    let namespace =
        |tid: u32| fs::read_link(format!("/proc/{}/task/{tid}/ns/net", shim.process.pid)).unwrap();
    let pod = fs::read_link(&pod_network).unwrap();
    assert_eq!((namespace(pids[0]), namespace(pids[1])), (pod.clone(), pod));
    assert_eq!(fs::read_link(format!("/proc/{}/ns/net", shim.process.pid)).unwrap(), own);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let groups = fs::read_to_string(format!("/proc/{}/task/{}/cgroup", shim.process.pid, pids[0])).unwrap();
    assert!(groups.lines().any(|line| line.ends_with("/one")), "{groups}");

    shim.kill("one", "", 9).await.unwrap();
    assert_eq!(shim.wait("one", "").await.unwrap(), 137);
    shim.delete("one", "").await.unwrap();
    assert_eq!(shim.state("two", "").await.unwrap().status(), Status::RUNNING);
    for id in ["two", "pod"] {
        shim.kill(id, "", 9).await.unwrap();
        shim.wait(id, "").await.unwrap();
        shim.delete(id, "").await.unwrap();
    }
    shim.shutdown("pod").await;
    node.nothing_is_left(&shim).await;
    assert_eq!(left_groups(&group), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_after_the_shim_was_killed_with_a_running_guest() {
    if skip_without_root() || skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let group = format!("seuss-test-{}-killed", std::process::id());
    let mut config = node.config(&["/pause"]);
    config["linux"]["cgroupsPath"] = serde_json::json!(format!("/{group}"));
    node.make_bundle("c1", &config);
    let shim = node.shim("c1").await;
    shim.create(&node, "c1").await.unwrap();
    let pid = shim.begin("c1", "").await.unwrap();
    let victim = rustix::process::Pid::from_raw(shim.process.pid as i32).unwrap();
    rustix::process::kill_process(victim, rustix::process::Signal::KILL).unwrap();
    let output = node.call("c1", "delete", b"", &[]);
    let response = api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((response.exit_status, response.pid), (137, pid), "{output:?}");
    node.nothing_is_left(&shim).await;
    assert_eq!(left_groups(&group), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_that_is_too_small_is_an_error_with_advice() {
    if skip_without_kvm() {
        return;
    }
    let mut node = Node::new().await;
    let mut config = node.config(&["/pause"]);
    config["linux"]["resources"]["memory"]["limit"] = serde_json::json!(4 << 20);
    node.make_bundle("c1", &config);
    let shim = node.shim("c1").await;
    let (code, message) = refused(shim.create(&node, "c1").await);
    assert_eq!(code, Code::INVALID_ARGUMENT);
    assert!(message.contains("memory limit 4 MiB is too small"), "{message}");
    shim.shutdown("c1").await;
    node.nothing_is_left(&shim).await;
}

fn left_groups(group: &str) -> usize {
    let mount = Path::new("/sys/fs/cgroup");
    let roots = fs::read_dir(mount).unwrap().flatten().map(|entry| entry.path());
    roots.chain([mount.to_owned()]).filter(|root| root.join(group).exists()).count()
}
