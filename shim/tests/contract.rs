//! What docs/snapshots.md promises of a restore, item by item: a program tells each in the guest that was captured and in clones of it.
//!
//! `SEUSS_TEST_CLONES`: how many clones must all be distinct.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{skip_without_kvm, skip_without_root};
use seuss_abi::spec::{InjectedFile, ProcessSpec};
use seuss_shim::guest::{self, CloneConfig, Guest, NetPrivileges, Origin};
use seuss_snapshotter::snapshot::Store;

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");

/// What no other guest has.
const DISTINCT: [&str; 8] =
    ["id", "boot_id", "uuid", "getrandom", "urandom", "at_random", "later_layout", "later_at_random"];
/// What clones have from the program that was captured.
const EQUAL: [&str; 18] = [
    "machine_id",
    "stack_guard",
    "layout",
    "pids",
    "env_other",
    "empty_entries",
    "locale",
    "place",
    "processors",
    "memory",
    "memory_max",
    "file",
    "listens",
    "btime",
    "epoll",
    "new_connection",
    "inotify",
    "unix",
];

type Told = BTreeMap<String, String>;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for name in ["tmp", "etc", "proc"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("data"), "0123456789").unwrap();
        fs::write(root.join("etc/resolv.conf"), "old text\n").unwrap();
        fs::write(root.join("etc/machine-id"), "00000000000000000000000000000001\n").unwrap();
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs/contract.c");
        let compiled =
            Command::new("cc").args(["-static", "-O1", "-o"]).arg(root.join("contract")).arg(source).status();
        assert!(compiled.unwrap().success(), "cc cannot build contract");
        Self(dir)
    }

    /// What seussctl prints, in a network namespace where only the loopback interface is.
    fn seussctl(&self, args: &[&str]) -> String {
        let output = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh", SEUSSCTL])
            .args(args)
            .env("SEUSS_STORE", self.0.path().join("store"))
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{args:?}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
        stdout
    }

    /// Run the program to its snapshot and to its end.
    fn boot(&self, words: &[&str]) -> Told {
        let env = ["HOSTNAME=booted", "POD_NAME=a", "OTHER=kept", "LANG=C.UTF-8", "TZ=UTC-3"];
        let mut args = vec!["run", "--rootfs", "root", "--memory", "64M", "--hostname", "booted"];
        args.extend(["--identity-env", "HOSTNAME", "--identity-env", "POD_NAME"]);
        args.extend(env.iter().flat_map(|entry| ["--env", entry]));
        told(&self.seussctl(&[&args[..], &["--", "/contract"], words].concat()))
    }

    fn clone_as(&self, name: &str, pod: &str) -> Told {
        let (hostname, pod) = (format!("HOSTNAME={name}"), format!("POD_NAME={pod}"));
        told(&self.seussctl(&[
            "run",
            "--from",
            "contract",
            "--hostname",
            name,
            "--env",
            &hostname,
            "--env",
            &pod,
        ]))
    }
}

fn told(out: &str) -> Told {
    out.lines()
        .map(|line| line.split_once('=').unwrap_or_else(|| panic!("{out}")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn number(told: &Told, name: &str) -> f64 {
    told[name].parse().unwrap_or_else(|_| panic!("{name}: {}", told[name]))
}

#[test]
fn clones_are_what_the_contract_says() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let place = Place::new();
    let booted = place.boot(&[]);
    assert_eq!(booted["generation"], "0", "{booted:?}");
    assert_eq!((&*booted["connection"], &*booted["told"]), ("EAGAIN", "0"), "{booted:?}");
    // Time that a clone must have slept through.
    std::thread::sleep(Duration::from_millis(1200));
    let long = "l".repeat(3000);
    let mut all = vec![booted];
    for (name, pod) in [("c1", "web-7d4b9c6f5-with-a-longer-name"), ("c2", ""), ("c3", &*long)] {
        let clone = place.clone_as(name, pod);
        assert_eq!(clone["generation"], "1", "{clone:?}");
        assert_eq!(clone["told"], "1", "poll tells of the restore: {clone:?}");
        assert_eq!(clone["connection"], "ECONNRESET", "{clone:?}");
        assert_eq!([&*clone["hostname"], &clone["hostname_in_proc"], &clone["env_hostname"]], [name; 3]);
        // Beyond the room that is kept for it a value goes elsewhere: the program's own array (setenv(3)) does not lead there, execve's does.
        let own = if pod.len() > 256 { "(null)" } else { pod };
        assert_eq!([&*clone["env_pod"], &clone["child_pod"]], [own, pod]);
        assert_eq!(clone["boot_id_changed"], "1", "{clone:?}");
        // As after a suspend.
        let passed =
            ["passed_monotonic", "passed_realtime", "passed_boottime"].map(|name| number(&clone, name));
        let [monotonic, realtime, boottime] = passed;
        assert!(monotonic >= 0.0 && realtime - monotonic > 1.0, "{clone:?}");
        assert!((realtime - boottime).abs() < 0.1, "{clone:?}");
        assert!(number(&clone, "age") > 1.0, "{clone:?}");
        all.push(clone);
    }
    for guest in &all {
        for name in ["uptime_is_boottime", "started_is_kept", "btime_and_uptime_are_now"] {
            assert_eq!(guest[name], "1", "{name}: {guest:?}");
        }
        assert_eq!(
            (&*guest["new_connection"], &*guest["epoll"], &*guest["empty_entries"]),
            ("hello", "3", "0")
        );
    }
    for name in EQUAL {
        let values: BTreeSet<_> = all.iter().map(|guest| &guest[name]).collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
    }
    are_distinct(&all);
}

fn are_distinct(all: &[Told]) {
    for name in DISTINCT {
        let values: BTreeSet<_> = all.iter().map(|guest| &guest[name]).collect();
        assert_eq!(values.len(), all.len(), "{name}: of {} guests {} differ", all.len(), values.len());
    }
}

/// The shim's part: files that are a pod's own are put in place of the old ones.
#[test]
fn a_pods_own_files_are_there_before_its_program_goes_on() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let place = Place::new();
    let booted = place.boot(&["quick"]);
    assert_eq!((&*booted["resolv"], &*booted["resolv_open"]), ("old text", "old text"));
    let store = Store::open(&place.0.path().join("store")).unwrap();
    let origin = Origin::open(&store, store.resolve("contract").unwrap()).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let file = InjectedFile {
        path: b"/etc/resolv.conf".to_vec(),
        mode: 0o644,
        read_only: true,
        content: b"new text\n".to_vec(),
    };
    let config = CloneConfig {
        origin,
        process: ProcessSpec { args: vec![b"clone".to_vec()], files: vec![file], ..ProcessSpec::default() },
        stdio: guest::Stdio { stdout: Some(writer.into()), ..guest::Stdio::default() },
        name: "clone".to_owned(),
        privileges: NetPrivileges::default(),
        snapshots: None,
        pool: None,
    };
    let guest = Guest::restore(config, |_| {}).unwrap();
    assert_eq!(guest.wait().unwrap().code(), Some(0));
    drop(guest);
    let mut out = String::new();
    reader.read_to_string(&mut out).unwrap();
    let clone = told(&out);
    assert_eq!((&*clone["resolv"], &*clone["resolv_open"]), ("new text", "old text"));
}

/// All clones of one snapshot, however many, have of their own what the contract says that they have.
#[test]
fn any_number_of_clones_are_distinct() {
    if skip_without_kvm() || skip_without_root() {
        return;
    }
    let count: usize =
        std::env::var("SEUSS_TEST_CLONES").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let place = Place::new();
    let mut all = vec![place.boot(&["quick"])];
    let out = place.seussctl(&["clone", "-n", &count.to_string(), "contract"]);
    // One after the other: each begins with its generation.
    let clones: Vec<_> = out.split("generation=1\n").skip(1).map(told).collect();
    assert_eq!(clones.len(), count);
    let hostnames: BTreeSet<_> = clones.iter().map(|clone| &clone["hostname"]).collect();
    assert_eq!(hostnames.len(), count);
    all.extend(clones);
    are_distinct(&all);
}
