//! The shim binary and containerd's protocols, with a pod's sandbox: no guest, no KVM.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{NAMESPACE, Node, eventually, refused, soon};
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::types::task::Status;
use ttrpc::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_from_start_to_shutdown() {
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    assert_eq!(shim.create(&node, "pod").await.unwrap().pid, shim.process.pid);
    assert_eq!(refused(shim.create(&node, "pod").await).0, Code::ALREADY_EXISTS);
    assert_eq!(shim.state("pod", "").await.unwrap().status(), Status::CREATED);
    assert_eq!(refused(shim.state("other", "").await).0, Code::NOT_FOUND);
    assert_eq!(shim.begin("pod", "").await.unwrap(), shim.process.pid);
    assert_eq!(refused(shim.begin("pod", "").await).0, Code::FAILED_PRECONDITION);
    let state = shim.state("pod", "").await.unwrap();
    assert_eq!((state.status(), state.pid), (Status::RUNNING, shim.process.pid));
    assert!(state.exited_at.is_none());
    let pids =
        shim.task.pids(soon(), &api::PidsRequest { id: "pod".into(), ..Default::default() }).await.unwrap();
    assert_eq!(pids.processes.iter().map(|p| p.pid).collect::<Vec<_>>(), [shim.process.pid]);
    let connect =
        shim.task.connect(soon(), &api::ConnectRequest { id: "pod".into(), ..Default::default() }).await;
    assert_eq!(connect.unwrap().task_pid, shim.process.pid);
    assert_eq!(refused(shim.delete("pod", "").await).0, Code::FAILED_PRECONDITION);
    shim.shutdown("pod").await;
    assert!(shim.process.is_alive(), "not while there is a container");

    let (waited, killed) = tokio::join!(shim.wait("pod", ""), async {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        shim.kill("pod", "", 9).await
    });
    assert_eq!((waited.unwrap(), killed.unwrap()), (137, ()));
    let state = shim.state("pod", "").await.unwrap();
    assert_eq!((state.status(), state.exit_status), (Status::STOPPED, 137));
    assert!(state.exited_at.seconds > 0);
    assert_eq!(refused(shim.kill("pod", "", 9).await).0, Code::NOT_FOUND);
    let deleted = shim.delete("pod", "").await.unwrap();
    assert_eq!((deleted.exit_status, deleted.pid), (137, shim.process.pid));
    assert_eq!(refused(shim.delete("pod", "").await).0, Code::NOT_FOUND);
    shim.shutdown("pod").await;
    let wanted = ["/tasks/create pod", "/tasks/start pod", "/tasks/exit pod/pod 137", "/tasks/delete pod"];
    node.told.wait_for(&wanted).await;
    node.nothing_is_left(&shim).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_is_named() {
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    shim.create(&node, "pod").await.unwrap();
    shim.begin("pod", "").await.unwrap();
    let id = || "pod".to_owned();
    let (code, message) = refused(
        shim.task.checkpoint(soon(), &api::CheckpointTaskRequest { id: id(), ..Default::default() }).await,
    );
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert!(message.contains("checkpoint"), "{message}");
    let exec = api::ExecProcessRequest { id: id(), exec_id: "e".into(), ..Default::default() };
    let (code, message) = refused(shim.task.exec(soon(), &exec).await);
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert!(message.contains("exec in a sandbox container"), "{message}");
    let (code, _) =
        refused(shim.task.pause(soon(), &api::PauseRequest { id: id(), ..Default::default() }).await);
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert_eq!(refused(shim.state("pod", "e").await).0, Code::NOT_FOUND);
    let log = node.log("pod");
    assert!(log.contains("shim serves"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_the_shim() {
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    node.make_bundle("one", &node.pod_config("container", "pod", &["/nosuch"]));
    assert_eq!(node.start("one"), shim.address);
    assert_eq!(fs::read_to_string(node.bundle("one").join("address")).unwrap(), shim.address);
    let (code, message) = refused(shim.create(&node, "one").await);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("/nosuch: no such program"), "{message}");
    assert_eq!(refused(shim.delete("one", "").await).0, Code::NOT_FOUND);
    assert_eq!(node.mounts(), [""; 0]);
    shim.shutdown("one").await;
    node.nothing_is_left(&shim).await;
    assert_eq!(node.told.all(), [""; 0], "what was not created is not told of");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_names_of_the_service_answer() {
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    for (service, found) in [
        ("containerd.task.v2.Task", true),
        ("containerd.task.v3.Task", true),
        ("containerd.task.v4.Task", false),
    ] {
        let request = ttrpc::Request {
            service: service.to_owned(),
            method: "Connect".to_owned(),
            timeout_nano: 1_000_000_000,
            payload: api::ConnectRequest::default().write_to_bytes().unwrap(),
            ..Default::default()
        };
        let response = shim.client.request(request).await;
        assert_eq!(response.is_ok(), found, "{service}: {response:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_wait_for_containerd_and_keep_their_order() {
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    shim.create(&node, "pod").await.unwrap();
    node.told.wait_for(&["/tasks/create pod"]).await;
    node.deafen().await;
    shim.begin("pod", "").await.unwrap();
    shim.kill("pod", "", 15).await.unwrap();
    assert_eq!(shim.wait("pod", "").await.unwrap(), 0);
    shim.delete("pod", "").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    node.listen().await;
    let wanted = ["/tasks/create pod", "/tasks/start pod", "/tasks/exit pod/pod 0", "/tasks/delete pod"];
    node.told.wait_for(&wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn older_containerds_get_json_or_an_address_and_events_by_the_binary() {
    let mut node = Node::new().await;
    let publish = node.dir.path().join("publish");
    let told = node.dir.path().join("told");
    fs::write(&publish, format!("#!/bin/sh\ncat >/dev/null\necho \"$*\" >>{}\n", told.display())).unwrap();
    fs::set_permissions(&publish, fs::Permissions::from_mode(0o755)).unwrap();
    for (id, envs, protocol) in [("a", &[("MAX_SHIM_VERSION", "2")][..], "json"), ("b", &[][..], "address")] {
        node.make_bundle(id, &node.pod_config("sandbox", id, &["/pause"]));
        let output = node.call(id, "start", b"", envs);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let address = if protocol == "json" {
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (&value["version"], &value["protocol"]),
                (&serde_json::json!(2), &serde_json::json!("ttrpc"))
            );
            value["address"].as_str().unwrap().to_owned()
        } else {
            text
        };
        assert!(address.starts_with("unix:///run/containerd/s/"), "{address}");
        let shim = node.connect(&address).await;
        shim.create(&node, id).await.unwrap();
        let grpc = node.dir.path().join("g");
        let line =
            format!("--address {} publish --topic /tasks/create --namespace {NAMESPACE}\n", grpc.display());
        eventually("the event is published", || {
            fs::read_to_string(&told).is_ok_and(|text| text.contains(&line))
        })
        .await;
        fs::remove_file(&told).unwrap();
        shim.delete(id, "").await.unwrap();
        shim.shutdown(id).await;
        node.nothing_is_left(&shim).await;
    }
    // If nobody else uses them.
    let _ = fs::remove_dir("/run/containerd/s").and_then(|()| fs::remove_dir("/run/containerd"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_start_says_why_and_leaves_nothing() {
    let node = Node::new().await;
    node.make_bundle("pod", &node.config(&["/pause"]));
    fs::write(node.bundle("pod").join("config.json"), "{").unwrap();
    let output = node.call("pod", "start", b"", &[]);
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("is not an OCI runtime specification"), "{message}");
    assert!(output.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_shim_and_tells_the_ends_of_its_containers() {
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    shim.create(&node, "pod").await.unwrap();
    shim.begin("pod", "").await.unwrap();
    let pid = rustix::process::Pid::from_raw(shim.process.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    node.nothing_is_left(&shim).await;
    node.told.wait_for(&["/tasks/create pod", "/tasks/start pod", "/tasks/exit pod/pod 0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_cleans_up_after_a_killed_shim() {
    if common::skip_without_root() {
        return;
    }
    let mut node = Node::new().await;
    let mut config = node.pod_config("sandbox", "pod", &["/pause"]);
    let group = format!("seuss-test-{}-sandbox", std::process::id());
    config["linux"]["cgroupsPath"] = serde_json::json!(format!("/{group}/pod"));
    node.make_bundle("pod", &config);
    let shim = node.shim("pod").await;
    shim.create(&node, "pod").await.unwrap();
    shim.begin("pod", "").await.unwrap();
    let groups = || {
        let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        roots
            .chain(["/sys/fs/cgroup".into()])
            .map(|root| root.join(&group))
            .filter(|dir| dir.exists())
            .count()
    };
    assert!(groups() > 0, "the shim is in a control group");
    let pid = rustix::process::Pid::from_raw(shim.process.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the shim dies", || !shim.process.is_alive()).await;
    // What a shim that died while it created a container leaves; and another container's bundle, which containerd 2 does not delete.
    node.make_bundle("one", &node.pod_config("container", "pod", &["/pause"]));
    let record =
        seuss_shim::record::Record { id: "one".into(), shim: shim.process, pid: 1, cgroups: Vec::new() };
    let bundle = |id: &str| seuss_snapshotter::beneath::Dir::open(&node.bundle(id)).unwrap();
    record.write(&bundle("one")).unwrap();
    for id in ["pod", "one"] {
        seuss_shim::mount::mount_all(
            &[seuss_shim::mount::MountSpec {
                kind: "tmpfs".into(),
                source: "tmpfs".into(),
                ..Default::default()
            }],
            &bundle(id),
            "rootfs",
        )
        .unwrap();
    }
    assert_eq!(node.mounts().len(), 2);
    let output = node.call("pod", "delete", b"", &[]);
    assert!(output.status.success(), "{output:?}");
    let response = api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!((response.exit_status, response.pid), (137, shim.process.pid));
    assert!(response.exited_at.seconds > 0);
    node.nothing_is_left(&shim).await;
    assert_eq!(groups(), 0, "no control group is left");
    let again = node.call("pod", "delete", b"", &[]);
    assert!(again.status.success(), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_leaves_a_living_shim_to_its_other_containers() {
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    shim.create(&node, "pod").await.unwrap();
    shim.begin("pod", "").await.unwrap();
    // A container of the pod that was deleted in the ordinary way: containerd calls the binary all the same.
    node.make_bundle("one", &node.pod_config("container", "pod", &["/pause"]));
    node.start("one");
    let output = node.call("one", "delete", b"", &[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(shim.state("pod", "").await.unwrap().status(), Status::RUNNING);
    // And one that containerd lost touch with: the shim itself deletes it, and ends, as it was the last.
    let output = node.call("pod", "delete", b"", &[]);
    assert_eq!(api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap().exit_status, 137);
    node.nothing_is_left(&shim).await;
    let wanted = ["/tasks/create pod", "/tasks/start pod", "/tasks/exit pod/pod 137", "/tasks/delete pod"];
    node.told.wait_for(&wanted).await;
}

#[test]
fn questions_are_answered_without_a_container() {
    let run = |arg: &str| {
        std::process::Command::new(common::SHIM).arg(arg).stdin(std::process::Stdio::null()).output()
    };
    let version = run("-v").unwrap();
    assert!(version.status.success());
    assert!(String::from_utf8(version.stdout).unwrap().contains("io.containerd.seuss.v2"));
    let info = run("-info").unwrap();
    let info =
        containerd_shim_protos::types::introspection::RuntimeInfo::parse_from_bytes(&info.stdout).unwrap();
    assert_eq!(info.name, "io.containerd.seuss.v2");
    assert!(!run("stop").unwrap().status.success());
}

/// What a shim answers to user `uid`, whom somebody has let at its socket: `None` if it hangs up.
fn asked_by(uid: u32, path: std::path::PathBuf) -> Option<usize> {
    use std::io::{Read as _, Write as _};
    let ask = move || {
        // SAFETY: takes numbers; the system call itself, unlike the C library's function, changes the calling thread alone.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, 0);
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let request = ttrpc::Request {
            service: "containerd.task.v3.Task".into(),
            method: "Connect".into(),
            ..Default::default()
        };
        let body = request.write_to_bytes().unwrap();
        // Length, stream, type (a request), flags: big endian.
        let head = [&(body.len() as u32).to_be_bytes()[..], &1_u32.to_be_bytes(), &[1, 0]].concat();
        let mut answer = [0; 10];
        let answered = stream.write_all(&[head, body].concat()).and_then(|()| stream.read(&mut answer));
        answered.ok().filter(|count| *count > 0)
    };
    std::thread::spawn(ask).join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_roots() {
    if common::skip_without_root() {
        return;
    }
    let mut node = Node::new().await;
    node.make_bundle("pod", &node.pod_config("sandbox", "pod", &["/pause"]));
    let shim = node.shim("pod").await;
    let path = std::path::PathBuf::from(shim.address.strip_prefix("unix://").unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    // Who gets there all the same is asked who he is.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    for dir in path.ancestors().skip(1).take_while(|dir| dir.starts_with(std::env::temp_dir())) {
        if dir != std::env::temp_dir() {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        }
    }
    assert_eq!(asked_by(0, path.clone()), Some(10), "root is answered");
    assert_eq!(asked_by(65_534, path), None, "nobody is not");
    shim.shutdown("pod").await;
}
