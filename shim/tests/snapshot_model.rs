//! Random programs of map, write, protect, move, share, fork, free, capture and restore against a model of memory ([`model`]).
//!
//! The program (programs/memory.c) does what it is told, line by line; the model says what it must answer. Up to three guests of one tree are alive at once: the one
//! that booted, clones, clones of clones, children of one snapshot. The same lines run on Linux, which keeps the model honest.
//!
//! `SEUSS_SEED=1 SEUSS_MODEL_CASES=100 SEUSS_MODEL_STEPS=400`: which, how many, how long. A failure tells the seed; fewer steps of the same
//! seed are a prefix of the same case.

mod common;
mod model;

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use common::skip_without_kvm;
use model::{Model, Random};

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");
/// Guests at once.
const GUESTS: usize = 3;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// The program, compiled once per test process.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PROGRAM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs/memory.c");
        let status = Command::new("cc").args(["-static", "-O1", "-o"]).arg(&path).arg(source).status();
        assert!(status.unwrap().success(), "cc cannot build memory.c");
        (dir, path)
    });
    path
}

/// A program that runs, with what its memory must hold.
struct Run {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    model: Model,
    generation: usize,
    history: String,
}

impl Run {
    fn start(command: &mut Command, model: Model, generation: usize, history: String) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, orders, answers, model, generation, history }
    }

    fn expect(&mut self, order: &str, right: &str) {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let answer = answer.trim_end();
        assert!(
            answer == right,
            "after\n{}{order}\nthe answer is\n{answer}\nand not\n{right}\n{}",
            self.history,
            difference(answer, right)
        );
    }

    fn ask(&mut self, order: &str, right: &str) {
        writeln!(self.orders.as_ref().unwrap(), "{order}").unwrap();
        self.expect(order, right);
    }

    /// One operation.
    fn step(&mut self, random: &mut Random) {
        let operation = self.model.choose(random);
        let right = self.model.apply(&operation);
        self.ask(&operation.to_string(), right);
        writeln!(self.history, "{operation}").unwrap();
    }

    /// All of memory is as it must be.
    fn check(&mut self, random: &mut Random) {
        for (question, right) in self.model.questions(random) {
            self.ask(&question, &right);
        }
        writeln!(self.history, "(checked)").unwrap();
    }

    /// Ends as a program that finds the end of its input.
    fn end(mut self) {
        drop(self.orders.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It has ended, or the test fails and nobody needs it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where two lists of sums differ first.
fn difference(answer: &str, right: &str) -> String {
    let pairs = answer.split(' ').zip(right.split(' '));
    let wrong: Vec<_> =
        pairs.enumerate().filter(|(_, (one, other))| one != other).map(|(at, _)| at).collect();
    format!("different at {wrong:?}")
}

/// The file that the program maps, and the root file system of a guest.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("root/tmp")).unwrap();
    fs::write(dir.path().join("root/data"), model::image_file()).unwrap();
    fs::copy(program(), dir.path().join("root/memory")).unwrap();
    dir
}

/// Says the seed if the test fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEUSS_SEED={} SEUSS_MODEL_CASES=1", self.0);
        }
    }
}

fn cases(default: usize, case: impl Fn(&mut Random)) {
    let first = number("SEUSS_SEED", 42) as u64;
    for seed in first..first + number("SEUSS_MODEL_CASES", default) as u64 {
        let _seed = Seed(seed);
        case(&mut Random(seed));
    }
}

#[test]
fn the_model_is_what_linux_does() {
    cases(4, |random| {
        let dir = root();
        let mut command = Command::new(program());
        command.arg(dir.path().join("root/data")).arg(dir.path().join("new"));
        let mut run = Run::start(&mut command, Model::new(), 0, String::new());
        for step in 1..=number("SEUSS_MODEL_STEPS", 400) {
            run.step(random);
            if step % 20 == 0 {
                run.check(random);
            }
        }
        run.check(random);
        run.end();
    });
}

/// A snapshot, and what was in it.
struct Taken {
    name: String,
    model: Model,
    generation: usize,
    /// The order that took it: clones answer it.
    order: String,
    history: String,
}

fn guest(dir: &Path) -> Command {
    let mut command = Command::new(SEUSSCTL);
    command.arg("run").env("SEUSS_STORE", dir.join("store")).current_dir(dir);
    command
}

#[test]
fn snapshots_hold_what_the_model_holds() {
    if skip_without_kvm() {
        return;
    }
    cases(2, |random| {
        let dir = root();
        let mut boot = guest(dir.path());
        boot.args([
            "--no-cache",
            "--rootfs",
            "root",
            "--memory",
            "64M",
            "--",
            "/memory",
            "/data",
            "/tmp/new",
        ]);
        let mut runs = vec![Run::start(&mut boot, Model::new(), 0, String::new())];
        let mut taken: Vec<Taken> = Vec::new();
        for _ in 0..number("SEUSS_MODEL_STEPS", 400) {
            let at = random.below(runs.len());
            match random.below(100) {
                0..4 => {
                    let run = &mut runs[at];
                    let processes = run.model.processes();
                    let name = format!("s{}", taken.len());
                    let order = format!("{} snapshot {name}", processes[random.below(processes.len())]);
                    run.ask(&order, &format!("generation {}", run.generation));
                    writeln!(run.history, "{order}").unwrap();
                    let (model, generation, history) =
                        (run.model.clone(), run.generation, run.history.clone());
                    taken.push(Taken { name, model, generation, order, history });
                    if random.chance(50) {
                        run.check(random);
                    }
                }
                4..9 if !taken.is_empty() => {
                    if runs.len() == GUESTS {
                        let mut run = runs.swap_remove(at);
                        run.check(random);
                        run.end();
                    }
                    // Mostly the youngest: deep trees.
                    let from = if random.chance(50) { taken.len() - 1 } else { random.below(taken.len()) };
                    let from = &taken[from];
                    let (mut model, generation) = (from.model.clone(), from.generation + 1);
                    model.restore();
                    let history = format!("{}(clone of {})\n", from.history, from.name);
                    let mut command = guest(dir.path());
                    let command = command.args(["--from", &from.name]);
                    let mut run = Run::start(command, model, generation, history);
                    run.expect(&from.order, &format!("generation {generation}"));
                    // A check reads everything; without it the first thing may be a write.
                    if random.chance(50) {
                        run.check(random);
                    }
                    runs.push(run);
                }
                9..13 => runs[at].check(random),
                _ => runs[at].step(random),
            }
        }
        for mut run in runs {
            run.check(random);
            run.end();
        }
    });
}
