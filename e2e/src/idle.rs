//! Idle clones: how much memory one keeps for itself, and how fast it answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::report::Samples;

/// Clones that are idle at once when their memory is counted.
const CLONES: u64 = 17;
/// Requests to one clone.
const REQUESTS: u32 = 200;

/// A child that is ended when it is no longer needed.
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, input, output })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.output.read_line(&mut line)? > 0, "seussctl ended early");
        Ok(line)
    }

    /// Memory that no other process shares, page cache included, in bytes.
    fn private_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            number.with_context(|| format!("no {name} in {path}"))
        };
        Ok((kib("Private_Dirty:")? + kib("Private_Clean:")?) << 10)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of clones of `snapshot`, whose program prints `ready` and then answers each line with a line.
///
/// # Errors
/// `seussctl` fails, or /proc cannot be read.
pub fn memory(seussctl: impl Fn() -> Command, snapshot: &str) -> Result<Value> {
    let private_bytes = |clones: u64| {
        let mut command = seussctl();
        let count = clones.to_string();
        command.args(["clone", "--pool", "0", "-n", &count, "-j", &count, snapshot]);
        let mut running = Running::start(command)?;
        for _ in 0..clones {
            running.line()?;
        }
        running.private_bytes()
    };
    let (one, all) = (private_bytes(1)?, private_bytes(CLONES)?);
    Ok(json!({
        "clones": CLONES,
        "process_bytes": all,
        "per_clone_bytes": all / CLONES,
        "further_clone_bytes": all.saturating_sub(one) / (CLONES - 1),
    }))
}

/// Time from a request to an idle clone to its answer, in microseconds.
///
/// # Errors
/// `seussctl` fails.
pub fn answer(mut command: Command, snapshot: &str) -> Result<Samples> {
    command.args(["run", "--from", snapshot]);
    let mut clone = Running::start(command)?;
    clone.line()?;
    let mut samples = Samples::default();
    for number in 0..REQUESTS {
        let began = Instant::now();
        clone.input.write_all(format!("/request/{number}\n").as_bytes())?;
        let line = clone.line()?;
        samples.push(began.elapsed().as_secs_f64() * 1e6);
        anyhow::ensure!(line.contains(&format!("/request/{number}\"")), "a wrong answer: {line}");
    }
    Ok(samples)
}
