//! Snapshots under KVM, as people use them: programs that take one in the middle, and their clones.

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use common::skip_without_kvm;
use seuss_snapshotter::snapshot::Manifest;

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");
/// Programs of tests/programs.
const NAMES: [&str; 3] = ["state", "depth", "held"];

/// A root file system with the C programs of `tests/programs`, and a store beside it.
struct Place {
    dir: tempfile::TempDir,
}

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The programs, compiled once per test process.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = PROGRAMS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        for name in NAMES {
            let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{name}.c"));
            let status = Command::new("cc")
                .args(["-static", "-O1", "-pthread", "-frounding-math", "-mavx", "-o"])
                .arg(dir.path().join(name))
                .arg(source)
                .arg("-lm")
                .status();
            assert!(status.unwrap().success(), "cc cannot build {name}");
        }
        dir
    });
    dir.path()
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("tmp")).unwrap();
        for name in NAMES {
            fs::copy(programs().join(name), root.join(name)).unwrap();
        }
        fs::write(root.join("data"), "what the image has").unwrap();
        Self { dir }
    }

    fn seussctl(&self, args: &[&str]) -> Outcome {
        let output = Command::new(SEUSSCTL)
            .args(args)
            .env("SEUSS_STORE", self.dir.path().join("store"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn ok(&self, args: &[&str]) -> String {
        let Outcome { code, stdout, stderr } = self.seussctl(args);
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        stdout
    }

    fn ids(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.ok(&["snapshot", "ls", "--json"])).unwrap()
    }
}

/// `word` of the line that a program printed.
fn word(line: &str, at: usize) -> &str {
    line.split_whitespace().nth(at).unwrap_or_default()
}

#[test]
fn every_kind_of_state_survives_and_clones_differ() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    let first = place.ok(&["run", "--rootfs", "root", "--memory", "64M", "--", "/state"]);
    assert_eq!((word(&first, 1), word(&first, 5)), ("0", "seuss"), "{first}");
    let count: usize =
        std::env::var("SEUSS_TEST_CLONES").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let mut randoms = HashSet::from([word(&first, 3).to_owned()]);
    for number in 0..count {
        let host = format!("clone-{number}");
        let line = place.ok(&["run", "--from", "state", "--hostname", &host]);
        assert_eq!((word(&line, 1), word(&line, 5)), ("1", &*host), "{line}");
        assert!(randoms.insert(word(&line, 3).to_owned()), "{line}");
    }
    // Two at once, more than once.
    place.ok(&["clone", "--quiet", "-n", "8", "-j", "2", "state"]);
    place.ok(&["snapshot", "inspect", "state"]);
}

/// Times in milliseconds since the program began to wait: what waited for a time of day or of CLOCK_BOOTTIME is late by nothing, what waited for a span waits for its rest.
#[test]
fn waiters_and_timers_go_on_and_follow_their_clocks() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    let after_ms = 3000;
    let numbers = |line: &str| -> Vec<u64> {
        [1, 3, 5, 7].map(|at| word(line, at).parse().unwrap_or_else(|_| panic!("{line}"))).into()
    };
    let line =
        place.ok(&["run", "--rootfs", "root", "--memory", "64M", "--", "/held", &after_ms.to_string()]);
    let [generation, first, due, span] = numbers(&line)[..] else { panic!("{line}") };
    assert!(generation == 0 && first >= after_ms && due >= after_ms && span >= after_ms, "{line}");
    // By now the time has come.
    for _ in 0..2 {
        let line = place.ok(&["run", "--from", "held"]);
        let [generation, first, due, span] = numbers(&line)[..] else { panic!("{line}") };
        assert!(generation == 1 && first < after_ms && due < after_ms && span >= after_ms, "{line}");
    }
}

#[test]
fn clones_that_were_entered_ahead_of_time_differ_as_others_do() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    place.ok(&["run", "--rootfs", "root", "--memory", "64M", "--", "/state"]);
    // The first ones tell what clones use; from the fifth on, what the pool makes is made with that knowledge.
    let report = place.ok(&["clone", "--quiet", "--json", "-n", "8", "state"]);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["phases"]["entered_ahead_us"]["p99"].as_u64() > Some(0), "{report}");
    let out = place.ok(&["clone", "-n", "8", "state"]);
    let mut randoms = HashSet::new();
    for (number, line) in out.lines().enumerate() {
        assert_eq!((word(line, 1), word(line, 5)), ("1", &*format!("clone-{number}")), "{line}");
        assert!(randoms.insert(word(line, 3).to_owned()), "{line}");
    }
    assert_eq!(randoms.len(), 8, "{out}");
}

#[test]
fn a_clone_of_a_clone_of_a_clone() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    let out = place.ok(&["run", "--rootfs", "root", "--memory", "32M", "--", "/depth"]);
    assert_eq!(out.lines().count(), 5, "{out}");
    let ids = place.ids();
    let depths: Vec<_> = ids.iter().map(|node| node["depth"].as_u64().unwrap()).collect();
    assert_eq!(depths, [1, 2, 3, 4, 5], "each snapshot adds to the one before");
    for level in 1..=5 {
        let id = ids[level - 1]["id"].as_str().unwrap();
        let out = place.ok(&["run", "--from", id]);
        assert!(out.starts_with(&format!("level {level} generation 1\n")), "{out}");
        assert_eq!(out.lines().count(), 6 - level, "{out}");
    }
    // Each of those clones took the rest of the snapshots: five chains from one root, the last of clones of clones.
    let nodes = place.ids();
    assert_eq!(nodes.len(), 5 + 4 + 3 + 2 + 1);
    let deepest = nodes.iter().rfind(|node| node["depth"] == 5).unwrap();
    let again = place.ok(&["run", "--from", deepest["id"].as_str().unwrap()]);
    assert!(again.starts_with("level 5 generation 2\n"), "{again}");
    // A layer has what changed, not what was there: the regions of one level and the library OS's own pages.
    let pages: Vec<_> = ids.iter().map(|node| node["layer_pages"].as_u64().unwrap()).collect();
    assert!(pages[1..].iter().all(|&later| later * 2 < pages[0]), "{pages:?}");

    let tree = place.ok(&["snapshot", "tree"]);
    assert_eq!(tree.lines().count(), 15, "{tree}");
    let refused = place.seussctl(&["snapshot", "rm", ids[0]["id"].as_str().unwrap()]);
    assert_eq!(refused.code, Some(125));
    assert!(refused.stderr.contains("children"), "{}", refused.stderr);
    place.ok(&["snapshot", "rm", "--recursive", ids[0]["id"].as_str().unwrap()]);
    assert!(place.ids().is_empty());
}

#[test]
fn an_exported_snapshot_is_cloned_from_another_store() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    place.ok(&["run", "--rootfs", "root", "--memory", "64M", "--", "/state"]);
    let ids = place.ids();
    let last = ids.last().unwrap()["id"].as_str().unwrap();
    // By name, and by the beginning of its id: once.
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let file = |name: &str, text: String| fs::write(place.dir.path().join(name), text).unwrap();
    file("secret", pair.sk.to_box(None).unwrap().into_string());
    fs::create_dir(place.dir.path().join("keys")).unwrap();
    file("keys/author.pub", pair.pk.to_box().unwrap().into_string());
    let exported = place.ok(&["snapshot", "export", "--sign", "secret", "state", &last[..8], "moved.tar"]);
    let refused =
        place.seussctl(&["snapshot", "import", "--store", "other", "--trusted-keys", "none", "moved.tar"]);
    assert_eq!(refused.code, Some(125));
    assert!(refused.stderr.contains("no key is trusted"), "{}", refused.stderr);
    let trusting = ["snapshot", "import", "--store", "other", "--trusted-keys", "keys"];
    let imported = place.ok(&[&trusting[..], &["moved.tar"]].concat());
    assert!(exported.lines().any(|id| id == last) && exported == imported, "{exported}{imported}");
    let report = place.ok(&[&trusting[..], &["--json", "moved.tar"]].concat());
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["added"].as_array().map(Vec::len), Some(0), "{report}");
    let (here, there) =
        (place.ok(&["run", "--from", last]), place.ok(&["run", "--store", "other", "--from", last]));
    // The clones differ in what clones differ in.
    assert_eq!((word(&here, 0), word(&here, 1)), (word(&there, 0), word(&there, 1)), "{here}{there}");
    // Without the image of the root file system nothing can be cloned: who imports must have it.
    place.ok(&["snapshot", "export", "--without-images", last, "bare.tar"]);
    let refused = place.seussctl(&["snapshot", "import", "--store", "bare", "bare.tar"]);
    assert_eq!(refused.code, Some(125), "unsigned");
    assert!(refused.stderr.contains("--allow-unsigned"), "{}", refused.stderr);
    place.ok(&["snapshot", "import", "--store", "bare", "--allow-unsigned", "bare.tar"]);
    let refused = place.seussctl(&["run", "--store", "bare", "--from", last]);
    assert_eq!(refused.code, Some(125), "{}", refused.stderr);
    let mut archive = fs::read(place.dir.path().join("moved.tar")).unwrap();
    let middle = archive.len() / 2;
    archive[middle] ^= 1;
    fs::write(place.dir.path().join("damaged.tar"), archive).unwrap();
    let refused = place.seussctl(&[
        "snapshot",
        "import",
        "--store",
        "third",
        "--key",
        "keys/author.pub",
        "damaged.tar",
    ]);
    assert_eq!(refused.code, Some(125));
    assert!(refused.stderr.contains("digest"), "{}", refused.stderr);
    let refused = place.seussctl(&["snapshot", "export", "nobody", "x.tar"]);
    assert!(refused.stderr.contains("no snapshot \"nobody\""), "{}", refused.stderr);
    assert!(!place.dir.path().join("x.tar").exists());
}

#[test]
fn what_cannot_be_taken_or_restored_is_told() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new();
    // Without a store the request fails in the program (EOPNOTSUPP), and the program goes on to tell it.
    let Outcome { code, stdout, .. } =
        place.seussctl(&["run", "--rootfs", "root", "--memory", "64M", "--", "/state", "snapshot nonsense"]);
    assert_eq!(code, Some(8), "{stdout}");
    let id = place.ok(&["snapshot", "create", "--rootfs", "root", "--memory", "64M", "--", "/state"]);
    let dir = place.dir.path().join("store/snapshots").join(id.trim());
    for (name, words) in
        [("pages", "pages is cut off"), ("tables", "tables is cut off"), ("manifest", "manifest")]
    {
        let whole = fs::read(dir.join(name)).unwrap();
        fs::write(dir.join(name), &whole[..whole.len() / 2]).unwrap();
        let refused = place.seussctl(&["run", "--from", id.trim()]);
        assert_eq!(refused.code, Some(125));
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        fs::write(dir.join(name), whole).unwrap();
    }
    // A snapshot of a processor that has more: its manifest says so, and is what its id is the digest of.
    let whole = fs::read(dir.join("manifest")).unwrap();
    let (mut manifest, _) = Manifest::decode(&whole, &dir).unwrap();
    manifest.cpu.features.push("zz-made-up".into());
    let (bytes, other) = manifest.encode();
    let other_dir = dir.with_file_name(other.to_string());
    fs::create_dir(&other_dir).unwrap();
    fs::write(other_dir.join("manifest"), bytes).unwrap();
    for name in ["pages", "tables"] {
        fs::copy(dir.join(name), other_dir.join(name)).unwrap();
    }
    let refused = place.seussctl(&["run", "--from", &other.to_string()]);
    assert_eq!(refused.code, Some(125));
    let words = format!("snapshot {other} was taken on another processor: it has zz-made-up, this host has ");
    assert!(refused.stderr.contains(&words), "{}", refused.stderr);
    place.ok(&["snapshot", "rm", &other.to_string()]);
    let refused = place.seussctl(&["run", "--from", "nobody"]);
    assert!(refused.stderr.contains("no snapshot \"nobody\""), "{}", refused.stderr);
    place.ok(&["run", "--from", id.trim()]);
}
