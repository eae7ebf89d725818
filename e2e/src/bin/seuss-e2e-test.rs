//! `make test`: every layer of tests in turn, and one closing line `N passed, N failed, N skipped`.
//!
//! A stage is a command; its output is shown as it comes and its counts are read from the summary lines of nextest, of the
//! standard test harness and of the conformance suite. A check without such a line (format, lints, builds) counts as one
//! test. Tests that skip themselves say so in the file `$SEUSS_SKIP_LOG` (see `seuss_e2e::need`).

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};
use clap::Parser;
use seuss_e2e::summary::{Counts, read_line};
use seuss_e2e::{command, paths, progress};

#[derive(Parser)]
#[command(about = "Runs all layers of tests", version)]
struct Args {
    /// Only stages whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// One command of the test run.
struct Stage {
    name: &'static str,
    dir: PathBuf,
    words: Vec<String>,
    env: Vec<(&'static str, String)>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("seuss-e2e-test: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    fs::create_dir_all(paths::cache())?;
    let skip_log = paths::cache().join("skipped.txt");
    let _ = fs::remove_file(&skip_log);
    let mut total = Counts::default();
    let mut failed_stages = Vec::new();
    for stage in stages() {
        if args.only.as_ref().is_some_and(|only| !stage.name.contains(only.as_str())) {
            continue;
        }
        progress::step(format!("{}: {}", stage.name, stage.words.join(" ")));
        let counts = stage.run(&skip_log).with_context(|| stage.name)?;
        progress::detail(format!("{}: {counts}", stage.name));
        if counts.failed > 0 {
            failed_stages.push(stage.name);
        }
        total += counts;
    }
    let skipped = fs::read_to_string(&skip_log).unwrap_or_default();
    for line in skipped.lines() {
        println!("skipped: {}", line.replace('\t', ": "));
        // Such a test returned early, so it was counted as passed.
        total.passed = total.passed.saturating_sub(1);
        total.skipped += 1;
    }
    if !failed_stages.is_empty() {
        println!("failed stages: {}", failed_stages.join(", "));
    }
    println!("{total}");
    Ok(total.failed == 0)
}

impl Stage {
    fn run(&self, skip_log: &Path) -> Result<Counts> {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 2>&1", "stage"]).args(&self.words).current_dir(&self.dir);
        command.env("SEUSS_SKIP_LOG", skip_log).envs(self.env.iter().map(|(key, value)| (*key, value)));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut counts = None;
        for line in BufReader::new(child.stdout.take().context("stdout is piped")?).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            if let Some(more) = read_line(&line) {
                *counts.get_or_insert_with(Counts::default) += more;
            }
        }
        let status = child.wait()?;
        let mut counts =
            counts.unwrap_or(if status.success() { Counts::passed(1) } else { Counts::failed(1) });
        if !status.success() && counts.failed == 0 {
            progress::warn(format!("{}: {status}", self.name));
            counts.failed = 1;
        }
        Ok(counts)
    }
}

/// All stages, cheapest first.
fn stages() -> Vec<Stage> {
    let root = paths::repository();
    let guest = root.join("guest");
    let conformance = guest.join("conformance");
    let shim = paths::target().join("release/containerd-shim-seuss-v2").to_string_lossy().into_owned();
    let snapshotter = paths::target().join("release/seuss-snapshotter").to_string_lossy().into_owned();
    let nextest = command::find("cargo-nextest").is_some() || home_bin("cargo-nextest");
    let stage = |name, dir: &Path, line: &str| Stage {
        name,
        dir: dir.to_path_buf(),
        words: line.split_whitespace().map(str::to_owned).collect(),
        env: Vec::new(),
    };
    let config = root.join("e2e/nextest.toml");
    let tests = |name, dir: &Path, options: &str| {
        let runner = if nextest {
            format!(
                "cargo nextest run --no-tests=pass --config-file {} --no-fail-fast {options}",
                config.display()
            )
        } else {
            format!("cargo test --no-fail-fast {options}")
        };
        stage(name, dir, &runner)
    };
    let mut stages = Vec::new();
    let workspaces = [
        (["format", "lints"], &root),
        (["format guest", "lints guest"], &guest),
        (["format conformance", "lints conformance"], &conformance),
    ];
    for ([format, lints], dir) in workspaces {
        if dir.join("Cargo.toml").exists() {
            stages.push(stage(format, dir, "cargo fmt --all --check"));
            // The image is no_std: it must not be built together with the other crates' dev-dependencies.
            let packages =
                if *dir == guest { "--package seuss-abi --package seuss-kernel" } else { "--workspace" };
            let line = format!("cargo clippy --quiet {packages} --all-targets -- -D warnings");
            stages.push(stage(lints, dir, &line));
        }
    }
    stages.push(stage(
        "shim",
        &root,
        "cargo build --quiet --release --package seuss-shim --package seuss-snapshotter",
    ));
    stages.push(stage("lints image", &guest, "cargo clippy --quiet --package seuss-image -- -D warnings"));
    stages.push(tests("guest", &guest, "--package seuss-abi --package seuss-kernel"));
    stages.push(tests("host", &root, "--workspace --exclude seuss-e2e"));
    if conformance.join("Cargo.toml").exists() {
        stages.push(stage(
            "images",
            &root,
            "cargo run --quiet --package seuss-e2e --bin seuss-e2e-setup -- images",
        ));
        stages.push(tests("conformance tool", &conformance, "--lib --bins"));
        stages.push(stage("conformance", &conformance, "cargo run --quiet --bin seuss-conformance -- run"));
        let subset = "cargo run --quiet --bin seuss-conformance -- cpython --subset";
        stages.push(stage("cpython", &conformance, subset));
    }
    // A minute of fuzzing: two targets side by side. More: SEUSS_FUZZ_SECONDS, or snapshotter/fuzz.
    let mut fuzz = tests("fuzz", &root, "--package seuss-snapshotter --test fuzz");
    let seconds = std::env::var("SEUSS_FUZZ_SECONDS").unwrap_or_else(|_| "30".to_owned());
    fuzz.env.push(("SEUSS_FUZZ_SECONDS", seconds));
    stages.push(fuzz);
    let mut e2e = tests("e2e", &root, "--package seuss-e2e");
    e2e.env.push(("SEUSS_SHIM", shim));
    e2e.env.push(("SEUSS_SNAPSHOTTER", snapshotter));
    stages.push(e2e);
    stages
}

/// cargo finds its subcommands in its own bin directory too.
fn home_bin(program: &str) -> bool {
    std::env::var_os("HOME").is_some_and(|home| Path::new(&home).join(".cargo/bin").join(program).is_file())
}
