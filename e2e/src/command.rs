//! Running other programs: an error carries the command line, the exit status and the tail of what it printed.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How many bytes of a failed program's output an error message carries.
const TAIL_BYTES: usize = 4096;

/// Runs `command` and returns what it wrote to standard output.
///
/// # Errors
/// The program cannot be started, or ends with anything but exit status 0.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let line = display(command);
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start: {line}"))?;
    if !done.status.success() {
        bail!("{line}: {}\n{}{}", done.status, tail(&done.stdout), tail(&done.stderr));
    }
    Ok(done.stdout)
}

/// Runs `command` for its effect; its output is shown only when it fails.
///
/// # Errors
/// As [`output`].
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs `command` with this process's standard output and error.
///
/// # Errors
/// As [`output`].
pub fn run_shown(command: &mut Command) -> Result<()> {
    let line = display(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start: {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

/// Where `program` lies on `PATH` or in the system's sbin directories (which are not on every user's `PATH`).
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into(), "/usr/bin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The last part of a program's output as text, starting on its own line when not empty.
pub fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(TAIL_BYTES);
    let text = String::from_utf8_lossy(&bytes[start..]);
    if text.trim().is_empty() { String::new() } else { format!("{}\n", text.trim_end()) }
}

/// The command line for messages.
pub fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
