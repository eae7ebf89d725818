//! Hooks around a snapshot: listeners of /dev/seuss before it, /etc/seuss/restore.d of the image after a restore (docs/snapshots.md).

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{skip_without_kvm, skip_without_root};
use seuss_abi::spec::ProcessSpec;
use seuss_shim::guest::{Caution, Guest, GuestConfig, GuestEvent, Keys, NetPrivileges, SnapshotSink};
use seuss_shim::image::RootImage;
use seuss_shim::netns;
use seuss_shim::spec::Network;
use seuss_snapshotter::snapshot::{Level, Store};

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");

struct Place(tempfile::TempDir);

impl Place {
    /// A root file system whose restore.d has these hooks.
    fn new(hooks: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let restore_d = root.join("etc/seuss/restore.d");
        for path in [&restore_d, &root.join("tmp")] {
            fs::create_dir_all(path).unwrap();
        }
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs/hooks.c");
        let program = root.join("hooks");
        let compiled =
            Command::new("cc").args(["-static", "-O1", "-pthread", "-o"]).arg(&program).arg(source).status();
        assert!(compiled.unwrap().success(), "cc cannot build hooks");
        for hook in hooks {
            fs::copy(&program, restore_d.join(hook)).unwrap();
        }
        Self(dir)
    }

    fn in_restore_d(&self, name: &str) -> PathBuf {
        self.0.path().join("root/etc/seuss/restore.d").join(name)
    }

    /// Standard output and error of a command that succeeds, in a network namespace where only the loopback interface is.
    fn seussctl(&self, args: &[&str]) -> (String, String) {
        let output = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh", SEUSSCTL])
            .args(args)
            .env("SEUSS_STORE", self.0.path().join("store"))
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success(), "{args:?}: {stdout}{stderr}");
        (stdout, stderr)
    }

    fn boot(&self) -> (String, String) {
        self.seussctl(&[
            "run",
            "--rootfs",
            "root",
            "--memory",
            "64M",
            "--env",
            "HOSTNAME=booted",
            "--",
            "/hooks",
            "program",
        ])
    }

    fn clone_of(&self, snapshot: &str) -> (String, String) {
        self.seussctl(&["run", "--from", snapshot, "--env", "HOSTNAME=cloned"])
    }
}

#[test]
fn hooks_of_the_image_run_in_order_before_a_clone_goes_on() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let place = Place::new(&["20-speaks", "10-fails", ".hidden", "30-data"]);
    fs::set_permissions(place.in_restore_d("30-data"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(place.in_restore_d("40-nothing"), "no program").unwrap();
    fs::set_permissions(place.in_restore_d("40-nothing"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(place.in_restore_d("50-directory")).unwrap();
    std::os::unix::fs::symlink("/hooks", place.in_restore_d("60-linked")).unwrap();
    let (booted, _) = place.boot();
    assert_eq!(booted, "held 0 log \n", "no restore, no hooks");
    for _ in 0..2 {
        let (cloned, errors) = place.clone_of("hooks");
        let told = |name| format!("{name}:1:32:cloned;");
        let log = ["10-fails", "20-speaks", "60-linked"].map(told).concat();
        assert_eq!(cloned, format!("held 0 log {log}\n"));
        assert!(errors.contains("hook 20-speaks speaks\n"), "{errors}");
        assert!(errors.contains("a restore hook ended with status 3"), "{errors}");
        assert!(errors.contains("restore hook /etc/seuss/restore.d/40-nothing: "), "{errors}");
    }
    // Many clones, one after the other, with virtual machines made ahead.
    let (cloned, _) = place.seussctl(&["clone", "-n", "8", "hooks"]);
    assert_eq!(cloned.lines().filter(|line| line.contains("60-linked:1:32:")).count(), 8, "{cloned}");
}

#[test]
fn a_program_does_not_wait_for_ever_and_hooks_end() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let place = Place::new(&["10-sleeps"]);
    place.boot();
    let (cloned, errors) = place.clone_of("hooks");
    assert_eq!(cloned, "held 1 log 10-sleeps:1:32:cloned;\n");
    assert!(errors.contains("restore hooks take more than a second: the program goes on"), "{errors}");

    let place = Place::new(&["10-forever", "20-never"]);
    place.boot();
    let (cloned, errors) = place.clone_of("hooks");
    let log = "10-forever:1:32:cloned;";
    assert_eq!(cloned, format!("held 1 log {log}\nlater {log}\n"));
    assert!(errors.contains("one is killed, 1 do not begin"), "{errors}");
}

#[test]
fn what_hooks_write_is_bounded() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let place = Place::new(&["10-floods", "20-speaks"]);
    place.boot();
    let (cloned, errors) = place.clone_of("hooks");
    assert!(cloned.contains("20-speaks:1:32:cloned;"), "{cloned}");
    assert_eq!(errors.bytes().filter(|byte| *byte == b'f').count(), 64 << 10);
    assert!(!errors.contains("speaks"), "{errors}");
}

#[test]
fn a_capture_from_outside_waits_for_listeners() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let place = Place::new(&[]);
    let create = [
        "snapshot",
        "create",
        "--ready",
        "--snapshot-name",
        "listener",
        "--memory",
        "64M",
        "--rootfs",
        "root",
        "--",
    ];
    place.seussctl(&[&create[..], &["/hooks", "listener"]].concat());
    let (cloned, _) = place.clone_of("listener");
    // What it did when it was told of the capture is in the clone; the end of the capture is no news there.
    assert_eq!(cloned, "read generation 1 prepared 1\n");
    // One that does not answer holds nothing up for ever.
    let place = Place::new(&[]);
    place.seussctl(&[&create[..], &["/hooks", "listener", "late"]].concat());
    let (cloned, _) = place.clone_of("listener");
    assert_eq!(cloned, "read generation 1 prepared 1\n");
}

/// As a pod's shim asks: who answers an announcement is on its way back to waiting, and does not stand in the way of the capture by that.
#[test]
fn a_cautious_capture_does_not_find_its_own_listeners_busy() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let place = Place::new(&[]);
    let image = RootImage::open(&place.0.path().join("root"), None, None).unwrap();
    let store = Arc::new(Store::open(&place.0.path().join("store")).unwrap());
    let known =
        |blob: seuss_shim::guest::ImageBlob| store.add_image(&blob.file.into(), blob.len_bytes).unwrap();
    let images = image.blobs().unwrap().into_iter().map(known).collect();
    let sink = SnapshotSink {
        store: Arc::clone(&store),
        images,
        keys: Keys::AsNamed,
        base: false,
        name: "listener".to_owned(),
        command: "hooks".to_owned(),
        terminal: false,
        allowance: Arc::default(),
    };
    let (_reader, writer) = std::io::pipe().unwrap();
    let config = GuestConfig {
        memory_bytes: 64 << 20,
        images: image.blobs().unwrap(),
        process: ProcessSpec {
            args: vec![b"/hooks".to_vec(), b"listener".to_vec()],
            ..ProcessSpec::default()
        },
        // A clone has the streams that the captured guest had.
        stdio: seuss_shim::guest::Stdio { stdout: Some(writer.into()), ..Default::default() },
        name: "listener".to_owned(),
        privileges: NetPrivileges::default(),
        snapshots: Some(sink),
    };
    let (sender, events) = mpsc::channel();
    let start = || {
        let told = move |event| {
            let _ = sender.send(event);
        };
        Guest::start(config, told)
    };
    let guest = netns::run_in(&Network::New, start).unwrap().unwrap();
    let next = || events.recv_timeout(Duration::from_secs(60)).expect("an event");
    while !matches!(next(), GuestEvent::Ready) {}
    let caution = Caution { reset_connections: false, settled: Duration::ZERO };
    guest.snapshot(Level::Function, Some(caution)).unwrap();
    loop {
        match next() {
            GuestEvent::Captured(taken) => {
                taken.expect("a snapshot");
                break;
            }
            GuestEvent::PutOff(obstacle) => panic!("put off: {obstacle}"),
            GuestEvent::Ended(result) => panic!("ended: {result:?}"),
            _ => {}
        }
    }
    guest.stop();
    drop(guest);
    let (cloned, _) = place.clone_of("listener");
    assert_eq!(cloned, "read generation 1 prepared 1\n");
}
