//! Generators of clones under KVM: the calls that make them each clone's own, and that nothing else of the program notices (guest/decisions/0008).

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::skip_without_kvm;

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");

/// A root file system with one program and the libraries that it needs, and a store beside it.
struct Place {
    dir: tempfile::TempDir,
    name: &'static str,
}

/// Copies a file to the same path under `root`, links followed.
fn copy(root: &Path, path: &str) {
    let target = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(path, target).unwrap();
}

/// What ld.so loads for `program`.
fn libraries(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

impl Place {
    fn new(name: &'static str, also: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("tmp")).unwrap();
        let program = root.join(name);
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{name}.c"));
        let made = Command::new("cc")
            .args(["-rdynamic", "-O1", "-pthread", "-mavx", "-o"])
            .args([&program, &source])
            .arg("-ldl")
            .status();
        assert!(made.unwrap().success(), "cc cannot build {name}");
        libraries(&program)
            .iter()
            .map(String::as_str)
            .chain(also.iter().copied())
            .for_each(|path| copy(&root, path));
        Self { dir, name }
    }

    fn seussctl(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(SEUSSCTL)
            .args(args)
            .env("SEUSS_STORE", self.dir.path().join("store"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn ok(&self, args: &[&str]) -> (String, String) {
        let (code, stdout, stderr) = self.seussctl(args);
        assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
        (stdout, stderr)
    }

    fn boot(&self, args: &[&str]) -> String {
        let program = format!("/{}", self.name);
        let head = ["run", "--rootfs", "root", "--memory", "64M", "--", &program];
        self.ok(&[&head[..], args].concat()).0
    }
}

/// What the program prints in a clone of `generation`, from round `round` on: the calls are made once before the snapshot and once in each clone.
fn expected(round: u32, generation: u32) -> String {
    let calls = generation + 1;
    let rounds = (round..2).map(|at| format!("round {at} generation {generation} calls {calls} by 1\n"));
    let rounds: String = rounds.collect();
    rounds + &format!("worker calls {calls}\nworker calls {calls}\nend calls {calls}\n")
}

#[test]
fn a_wait_in_which_a_thread_is_made_to_call_sees_nothing() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new("renew", &[]);
    for wait in ["read", "poll", "epoll", "futex", "sleep", "pause"] {
        assert_eq!(place.boot(&[wait]), expected(0, 0), "{wait}");
        // A clone; it takes the second snapshot itself, whose clone is one of a clone.
        assert_eq!(place.ok(&["run", "--from", "renew-0"]).0, expected(0, 1), "{wait}");
        let (second, log) = place.ok(&["run", "--from", "renew-1"]);
        assert_eq!(second, expected(1, 2), "{wait}");
        assert!(!log.contains("generators"), "{log}");
    }
}

#[test]
fn calls_that_wait_fault_or_hang_do_not_take_the_program_with_them() {
    if skip_without_kvm() {
        return;
    }
    let place = Place::new("renew", &[]);
    let clone_of = |mode: &str| {
        place.boot(&["epoll", mode]);
        place.ok(&["run", "--from", "renew-1"])
    };
    // The other thread holds the lock: it is let go, and sees the call begun but not done.
    let (out, log) = clone_of("lock");
    assert_eq!((out, log.contains("generators")), (expected(1, 1), false), "{log}");
    for (mode, why) in [("fault", "fault"), ("spin", "take too long")] {
        let (out, log) = clone_of(mode);
        assert_eq!(out, expected(1, 1), "{mode}");
        for pid in 1..=3 {
            let line = format!(
                "generators of process {pid}: numbers are its siblings': the calls that seed them anew {why}"
            );
            assert!(log.contains(&line), "{mode}: {log}");
        }
    }
}

#[test]
fn openssl_draws_other_numbers_in_every_thread_and_process_of_every_clone() {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/libcrypto.so.3";
    if skip_without_kvm() {
        return;
    }
    if !Path::new(LIBRARY).exists() {
        eprintln!("skipped: no {LIBRARY}");
        return;
    }
    let place = Place::new("openssl", &[LIBRARY]);
    let mut numbers = HashSet::new();
    let mut look = |text: &str| {
        let of_guest = text.lines().flat_map(|line| line.split(' ').skip(1));
        let of_guest: Vec<_> = of_guest.map(str::to_owned).collect();
        assert_eq!(of_guest.len(), 10, "{text}");
        of_guest
            .into_iter()
            .for_each(|number| assert!(numbers.insert(number.clone()), "{number} again: {text}"));
    };
    look(&place.boot(&[]));
    for _ in 0..4 {
        look(&place.ok(&["run", "--from", "openssl"]).0);
    }
    // Those that a pool has entered ahead of time, too.
    let out = place.ok(&["clone", "-n", "8", "openssl"]).0;
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 40, "{out}");
    lines.chunks(5).for_each(|chunk| look(&chunk.join("\n")));
}
