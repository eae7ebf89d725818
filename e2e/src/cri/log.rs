//! Container logs in the CRI format: `TIME STREAM P|F TEXT`, where P means that the line goes on in the next entry.
//!
//! Reference: kubernetes/design-proposals "kubelet-cri-logging".

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The streams of a log, joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What the container wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Reads a log file.
///
/// # Errors
/// The file cannot be read or a line is not in the format.
pub fn read(path: &Path) -> Result<Log> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    parse(&String::from_utf8_lossy(&text))
}

/// Waits until `done` accepts the log; the log lags behind the container's exit by a moment.
///
/// # Errors
/// `done` still refuses after `timeout`; the message carries the log.
pub fn wait(path: &Path, timeout: Duration, done: impl Fn(&Log) -> bool) -> Result<Log> {
    let deadline = Instant::now() + timeout;
    loop {
        let log = if path.exists() { read(path)? } else { Log::default() };
        if done(&log) {
            return Ok(log);
        }
        if Instant::now() > deadline {
            bail!("the log is not as expected after {timeout:?}: {log:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Parses the format.
///
/// # Errors
/// A line that is not in it.
pub fn parse(text: &str) -> Result<Log> {
    let mut log = Log::default();
    // A line still being written has no newline yet.
    let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
    for line in complete.lines() {
        let mut fields = line.splitn(4, ' ');
        let (Some(_time), Some(stream), Some(tag)) = (fields.next(), fields.next(), fields.next()) else {
            bail!("not a CRI log line: {line:?}");
        };
        let out = match stream {
            "stdout" => &mut log.stdout,
            "stderr" => &mut log.stderr,
            _ => bail!("unknown stream in the log line {line:?}"),
        };
        out.push_str(fields.next().unwrap_or_default());
        if tag.split(':').next() == Some("F") {
            out.push('\n');
        }
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_partial_lines() {
        let log =
            parse("t stdout P ab\nt stderr F e r r\nt stdout F c\nt stdout F \nt stdout F unfini").unwrap();
        assert_eq!(log, Log { stdout: "abc\n\n".into(), stderr: "e r r\n".into() });
    }
}
