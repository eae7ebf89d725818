//! Captures that are cut off: the writer is killed, or its writes fail, after any prefix. The store has the whole snapshot then, or none, and nothing that the next one
//! does not sweep.

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::skip_without_kvm;

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");
/// Places where the layer is cut.
const CUTS: u64 = 6;
/// Kills at any moment of a capture.
const KILLS: u64 = 12;

/// A store, and an image of a root file system whose program takes a snapshot.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("tmp")).unwrap();
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs/state.c");
        let status = Command::new("cc")
            .args(["-static", "-O1", "-pthread", "-frounding-math", "-o"])
            .arg(root.join("state"))
            .arg(source)
            .arg("-lm")
            .status();
        assert!(status.unwrap().success(), "cc cannot build state.c");
        let place = Self { dir };
        place.ok(&["convert", "root", "image"]);
        place
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SEUSS_STORE", self.dir.path().join("store")).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        let output =
            self.command(SEUSSCTL).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What lies where snapshots do, drafts included.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("store/snapshots")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn sizes(&self, id: &str) -> [u64; 2] {
        let dir = self.dir.path().join("store/snapshots").join(id);
        ["pages", "tables"].map(|name| fs::metadata(dir.join(name)).unwrap().len())
    }

    /// A minute has passed, and somebody opens the store. What is left is whole, and goes; how many that were.
    fn sweep(&self) -> usize {
        for name in self.names() {
            let path = self.dir.path().join("store/snapshots").join(name);
            File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
        let known: Vec<serde_json::Value> =
            serde_json::from_str(&self.ok(&["snapshot", "ls", "--json"])).unwrap();
        let known: Vec<_> = known.iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(self.names(), known, "something is left");
        for id in &known {
            // Reads and compares every byte.
            self.ok(&["snapshot", "inspect", id]);
            self.ok(&["run", "--from", id]);
            self.ok(&["snapshot", "rm", id]);
        }
        known.len()
    }
}

/// By so much snapshots of one program differ at most.
const SPREAD_BYTES: u64 = 8 * 4096;

const CREATE: [&str; 8] = ["snapshot", "create", "--rootfs", "image", "--memory", "64M", "--", "/state"];

#[test]
fn a_capture_that_cannot_write_further_leaves_nothing() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    let id = place.ok(&CREATE);
    let [pages, tables] = place.sizes(id.trim());
    assert!(tables < pages && place.sweep() == 1, "{tables} bytes of tables, {pages} of pages");
    // A process may not write to a file beyond this size: SIGXFSZ ends it there, or the write fails. From nothing to all but a few pages: addresses of a program are left to chance, and with
    // them how many pages and tables it has.
    let limits = (0..CUTS).map(|cut| tables * cut / CUTS).chain((0..CUTS).map(|cut| pages * cut / CUTS));
    for limit in limits.chain([pages - SPREAD_BYTES]) {
        for trap in ["", "trap '' XFSZ; "] {
            let script = format!("{trap}ulimit -c 0; ulimit -f {}; exec \"$0\" \"$@\"", limit / 512);
            let status = place.command("sh").args(["-c", &script, SEUSSCTL]).args(CREATE).status().unwrap();
            assert!(!status.success(), "{limit} of {pages} bytes, {trap}");
            if !trap.is_empty() {
                assert_eq!(status.code(), Some(125), "{limit} of {pages} bytes");
                assert!(place.names().is_empty(), "{limit}: who lives to see the failure sweeps");
            }
            assert_eq!(place.sweep(), 0, "{limit} of {pages} bytes, {trap}");
        }
    }
    place.ok(&CREATE);
    assert_eq!(place.sweep(), 1);
}

#[test]
fn a_capture_that_is_killed_leaves_all_or_nothing() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    place.ok(&CREATE);
    place.sweep();
    let mut took = Duration::from_millis(100);
    let mut whole = 0;
    for kill in 0..KILLS {
        let mut child = place.command(SEUSSCTL).args(CREATE).spawn().unwrap();
        while place.names().is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(200));
        }
        // The draft is there: from now on, at any moment until a snapshot is.
        let began = Instant::now();
        if kill == 0 {
            while child.try_wait().unwrap().is_none()
                && place.names().iter().any(|name| name.starts_with('.'))
            {
                std::thread::sleep(Duration::from_micros(200));
            }
            took = began.elapsed();
        } else {
            std::thread::sleep(took * kill as u32 / (KILLS - 2) as u32);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        whole += place.sweep();
    }
    assert!(whole > 0, "the first one was not killed before it was there");
}
