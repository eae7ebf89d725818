//! Runs one side of a case: starts it in a process group of its own, feeds and reads its streams, ends it when its time is up.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::case::Case;
use crate::{native, paths};

/// No case prints more; what does is broken, and is cut.
const OUTPUT_MAX_BYTES: u64 = 32 << 20;

/// What seussctl logs goes to the program's standard error: errors only, so that a guest that tells of a killed process does not
/// differ from a Linux that tells its own log.
const LOG_VARIABLE: &str = "SEUSS_LOG";
const LOG: &str = "error,seuss_vmm::run=off,seuss_vmm::report=off";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// With a status (128 and the signal's number for a death by signal).
    Exited(i32),
    /// It had to be killed.
    TimedOut(Duration),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exit status {status}"),
            Self::TimedOut(after) => write!(f, "killed after {} s", after.as_secs()),
        }
    }
}

/// What a run left.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub status: Status,
    /// How long it took, start and end included.
    pub elapsed: Duration,
}

/// Runs `case` on Linux.
///
/// # Errors
/// The launcher cannot be started.
pub fn on_linux(case: &Case, root: &Path, launcher: &Path) -> Result<Outcome> {
    let mut command = Command::new(launcher);
    command.args(["native", "--root"]).arg(root);
    if case.limit_memory {
        command.args(["--memory", &case.memory]);
    }
    command.arg("--").args(&case.argv);
    command.env_clear().envs(case.env.iter().map(|(key, value)| (key, value)));
    run(&mut command, case.stdin.as_deref(), case.timeout)
}

/// Runs `case` in the guest: `seussctl run`, in a network namespace of its own.
///
/// # Errors
/// The launcher cannot be started.
pub fn in_guest(case: &Case, root: &Path, launcher: &Path) -> Result<Outcome> {
    let mut command = Command::new(launcher);
    if std::env::var_os(LOG_VARIABLE).is_none() {
        command.env(LOG_VARIABLE, LOG);
    }
    command.args(["own-network", "--"]).arg(paths::seussctl()).args(["run", "--memory", &case.memory]);
    for (key, value) in &case.env {
        command.arg("--env").arg(format!("{key}={value}"));
    }
    command.arg("--rootfs").arg(root).arg("--").args(&case.argv);
    run(&mut command, case.stdin.as_deref(), case.timeout)
}

/// Runs `command` with `stdin` (or none) until it ends or `timeout` is over; then its whole process group is killed.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command, stdin: Option<&[u8]>, timeout: Duration) -> Result<Outcome> {
    let started = Instant::now();
    let input = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let group = Pid::from_child(&child);
    let mut to = child.stdin.take();
    let out = child.stdout.take().context("no standard output")?;
    let err = child.stderr.take().context("no standard error")?;
    std::thread::scope(|scope| {
        let (ended, wait) = mpsc::channel::<()>();
        let watchdog = scope.spawn(move || {
            let timed_out = wait.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout);
            if timed_out {
                let _ = kill_process_group(group, Signal::KILL);
            }
            timed_out
        });
        if let Some((mut to, bytes)) = to.take().zip(stdin) {
            // A program that does not read all of its input is no error.
            scope.spawn(move || drop(to.write_all(bytes)));
        }
        let stdout = scope.spawn(move || read_all(out));
        let stderr = scope.spawn(move || read_all(err));
        let status = child.wait()?;
        let stdout = stdout.join().unwrap_or_default();
        let stderr = stderr.join().unwrap_or_default();
        drop(ended);
        let timed_out = watchdog.join().unwrap_or_default();
        let status =
            if timed_out { Status::TimedOut(timeout) } else { Status::Exited(native::shell_status(status)) };
        Ok(Outcome { stdout, stderr, status, elapsed: started.elapsed() })
    })
}

fn read_all(stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut limited = stream.take(OUTPUT_MAX_BYTES);
    let _ = limited.read_to_end(&mut bytes);
    let _ = std::io::copy(&mut limited.into_inner(), &mut std::io::sink());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_and_status_are_kept() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat; echo err >&2; exit 3"]);
        let outcome = run(&mut shell, Some(b"in"), Duration::from_secs(10)).unwrap();
        assert_eq!((outcome.stdout.as_slice(), outcome.stderr.as_slice()), (&b"in"[..], &b"err\n"[..]));
        assert_eq!(outcome.status, Status::Exited(3));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo started; sleep 100 & wait"]);
        let outcome = run(&mut shell, None, Duration::from_millis(300)).unwrap();
        assert_eq!(outcome.stdout, b"started\n");
        assert!(matches!(outcome.status, Status::TimedOut(_)));
        assert!(outcome.elapsed < Duration::from_secs(20));
    }
}
