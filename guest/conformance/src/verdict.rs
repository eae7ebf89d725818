//! Compares what two runs left and shows how they differ.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use similar::{ChangeTag, TextDiff};

use crate::case::{Case, Normalise};
use crate::cgroup;
use crate::exec::{self, Outcome, Status};

/// A difference longer than this is cut.
const DIFF_MAX_LINES: usize = 60;

/// What came of a case.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Both sides agree (or Linux does what the case says, when only Linux was asked).
    Passed,
    /// They do not; the text shows how.
    Failed(String),
    /// It could not run; the text says why.
    Skipped(String),
}

/// A verdict with the time each side took.
#[derive(Clone, Debug)]
pub struct Report {
    /// What came of it.
    pub verdict: Verdict,
    /// The time on Linux.
    pub native: Option<Duration>,
    /// The time in the guest.
    pub guest: Option<Duration>,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The root file system, from [`crate::tree::prepare`].
    pub root: &'a Path,
    /// The same as an EROFS image, from [`crate::tree::image`]: what the guest starts from.
    pub image: &'a Path,
    /// The executable that holds the launcher: seuss-conformance.
    pub launcher: &'a Path,
    /// How often to run on Linux; more than once asks whether the case is deterministic.
    pub repeat: usize,
    /// `None`: run the guest too. Otherwise the reason why not.
    pub no_guest: Option<NoGuest>,
}

/// Why the guest's side is left out.
#[derive(Clone, Debug)]
pub enum NoGuest {
    /// Only Linux was asked for.
    NativeOnly,
    /// The machine cannot run guests.
    Unavailable(String),
}

/// Runs `case` on both sides and compares.
///
/// # Errors
/// The launcher cannot be started.
pub fn judge(case: &Case, plan: &Plan<'_>) -> Result<Report> {
    let mut report = Report { verdict: Verdict::Passed, native: None, guest: None };
    if let Some(path) = case.needs.iter().find(|path| !in_root(plan.root, path)) {
        report.verdict = Verdict::Skipped(format!("the root file system has no {path}"));
        return Ok(report);
    }
    if let Some(NoGuest::Unavailable(reason)) = &plan.no_guest {
        report.verdict = Verdict::Skipped(reason.clone());
        return Ok(report);
    }
    if case.limit_memory && !cgroup::available() {
        report.verdict = Verdict::Skipped("no memory cgroup can be made here".into());
        return Ok(report);
    }
    let linux = exec::on_linux(case, plan.root, plan.launcher)?;
    report.native = Some(linux.elapsed);
    if linux.status != Status::Exited(case.status) {
        let shown = shown("stdout", &linux.stdout) + &shown("stderr", &linux.stderr);
        let text = format!("on Linux: {}, expected exit status {}\n{shown}", linux.status, case.status);
        report.verdict = Verdict::Failed(text);
        return Ok(report);
    }
    for _ in 1..plan.repeat {
        let again = exec::on_linux(case, plan.root, plan.launcher)?;
        if let Some(text) = difference(case, &linux, &again, ("first", "later")) {
            report.verdict = Verdict::Failed(format!("two runs on Linux differ\n{text}"));
            return Ok(report);
        }
    }
    if plan.no_guest.is_none() {
        let guest = exec::in_guest(case, plan.image, plan.launcher)?;
        report.guest = Some(guest.elapsed);
        let differs = difference(case, &linux, &guest, ("linux", "guest"));
        report.verdict = match (differs, &case.known_failure) {
            (None, None) => Verdict::Passed,
            (None, Some(_)) => {
                Verdict::Failed("the guest agrees now: remove known-failure from the case".into())
            }
            (Some(_), Some(reason)) => Verdict::Skipped(format!("known failure: {reason}")),
            (Some(text), None) => Verdict::Failed(text),
        };
    }
    Ok(report)
}

/// How two outcomes differ, if they do.
fn difference(case: &Case, left: &Outcome, right: &Outcome, names: (&str, &str)) -> Option<String> {
    let mut text = String::new();
    if left.status != right.status {
        let _ = writeln!(text, "{}: {}\n{}: {}", names.0, left.status, names.1, right.status);
    }
    for (stream, a, b) in [("stdout", &left.stdout, &right.stdout), ("stderr", &left.stderr, &right.stderr)] {
        let (a, b) = (normalised(case, a), normalised(case, b));
        if a != b {
            let _ = writeln!(text, "--- {stream} ({})\n+++ {stream} ({})", names.0, names.1);
            text += &line_diff(&a, &b);
        }
    }
    (!text.is_empty()).then_some(text)
}

fn normalised(case: &Case, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in &case.normalise {
        bytes = match change {
            Normalise::Digits => {
                let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
                for byte in bytes {
                    if !byte.is_ascii_digit() {
                        out.push(byte);
                    } else if out.last() != Some(&b'N') {
                        out.push(b'N');
                    }
                }
                out
            }
            Normalise::SortLines => {
                let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
                lines.sort_unstable();
                lines.concat()
            }
        };
    }
    bytes
}

/// The lines that differ, with their surroundings; bytes that are not UTF-8 are shown escaped.
fn line_diff(a: &[u8], b: &[u8]) -> String {
    let (a, b) = (printable(a), printable(b));
    let diff = TextDiff::from_lines(&a, &b);
    let mut text = String::new();
    let mut lines = 0;
    for (index, group) in diff.grouped_ops(2).iter().enumerate() {
        if index > 0 {
            text += "  …\n";
        }
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            lines += 1;
            if lines > DIFF_MAX_LINES {
                return text + "  … more\n";
            }
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let _ = writeln!(text, "{sign} {}", change.value().trim_end_matches('\n'));
        }
    }
    if a.ends_with('\n') != b.ends_with('\n') {
        text += "  (one of them does not end with a line feed)\n";
    }
    text
}

fn printable(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text += chunk.valid();
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
        text
    })
}

fn shown(stream: &str, bytes: &[u8]) -> String {
    let text = printable(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let cut = lines.len().saturating_sub(DIFF_MAX_LINES);
    lines[cut..].iter().fold(String::new(), |text, line| format!("{text}{stream}: {line}\n"))
}

/// Whether `path` exists in the root file system, symbolic links followed as a chroot would.
fn in_root(root: &Path, path: &str) -> bool {
    let mut path = path.to_owned();
    for _ in 0..8 {
        let in_root = root.join(path.trim_start_matches('/'));
        match std::fs::read_link(&in_root) {
            Ok(target) if target.is_absolute() => path = target.to_string_lossy().into_owned(),
            Ok(target) => {
                let parent = Path::new(&path).parent().unwrap_or(Path::new("/"));
                path = parent.join(target).to_string_lossy().into_owned();
            }
            Err(_) => return in_root.exists(),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Header;

    fn case(extra: &str) -> Case {
        let text = format!("//: group = \"A\"\n//: summary = \"x\"\n{extra}");
        Case::new("x/y".into(), vec!["/x".into()], &Header::parse(&text).unwrap().unwrap())
    }

    fn outcome(stdout: &str, status: i32) -> Outcome {
        let stdout = stdout.as_bytes().to_vec();
        Outcome { stdout, stderr: vec![], status: Status::Exited(status), elapsed: Duration::ZERO }
    }

    #[test]
    fn equal_runs_do_not_differ() {
        let (a, b) = (outcome("a\nb\n", 0), outcome("a\nb\n", 0));
        assert_eq!(difference(&case(""), &a, &b, ("linux", "guest")), None);
    }

    #[test]
    fn a_difference_names_stream_line_and_status() {
        let (a, b) = (outcome("a\nb\n", 0), outcome("a\nc\n", 139));
        let text = difference(&case(""), &a, &b, ("linux", "guest")).unwrap();
        assert!(text.contains("guest: exit status 139"), "{text}");
        assert!(text.contains("- b\n+ c\n"), "{text}");
    }

    #[test]
    fn normalised_output_is_compared() {
        let digits = case("//: normalise = [\"digits\", \"sort-lines\"]\n");
        let (a, b) = (outcome("pid 12\nx\n", 0), outcome("x\npid 7\n", 0));
        assert_eq!(difference(&digits, &a, &b, ("linux", "guest")), None);
    }
}
