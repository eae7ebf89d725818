//! Counts of passed, failed and skipped tests, read from what test runners print.

use std::fmt;
use std::ops::AddAssign;

/// Counts of one or more test runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed, timed out or could not be started.
    pub failed: u64,
    /// Tests that were not run.
    pub skipped: u64,
}

impl Counts {
    /// `count` passed tests.
    pub fn passed(count: u64) -> Self {
        Self { passed: count, ..Self::default() }
    }

    /// `count` failed tests.
    pub fn failed(count: u64) -> Self {
        Self { failed: count, ..Self::default() }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The counts in a summary line of nextest (`Summary [ 1.0s] 3 tests run: 2 passed, 1 failed, 0 skipped`), of the standard
/// harness (`test result: FAILED. 2 passed; 1 failed; 0 ignored; …`) or of the conformance suite (`2 passed, 1 failed,
/// 0 skipped`); nothing for any other line. nextest indents its summary; the others must start their line, because nextest shows
/// the output of failed tests indented.
pub fn read_line(line: &str) -> Option<Counts> {
    let line = line.trim_end();
    let text = if let Some(rest) = line.trim_start().strip_prefix("Summary [") {
        rest.split_once("run:")?.1
    } else if let Some(rest) = line.strip_prefix("test result:") {
        rest.split_once('.')?.1
    } else if line.starts_with(|first: char| first.is_ascii_digit())
        && line.contains(" passed, ")
        && line.contains(" failed")
    {
        line
    } else {
        return None;
    };
    let mut counts = Counts::default();
    for part in text.split([',', ';']) {
        // "2 passed (1 slow)", "1 timed out", "3 tests"
        let part = part.split('(').next().unwrap_or_default().trim();
        let Some((number, what)) = part.split_once(' ') else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        match what {
            "passed" => counts.passed += number,
            "failed" | "timed out" | "exec failed" => counts.failed += number,
            "skipped" | "ignored" => counts.skipped += number,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_runner() {
        let expected = Counts { passed: 18, failed: 3, skipped: 31 };
        for line in [
            "     Summary [  65.446s] 21 tests run: 18 passed (1 slow), 2 failed, 1 timed out, 31 skipped",
            "test result: FAILED. 18 passed; 3 failed; 31 ignored; 0 measured; 0 filtered out; finished in 0.58s",
            "18 passed, 3 failed, 31 skipped",
        ] {
            assert_eq!(read_line(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in [
            "    test result: ok. 1 passed; 0 failed",
            "PASS [ 0.1s] a::b",
            "test result",
            "3 tests",
            "error: 2 failed",
        ] {
            assert_eq!(read_line(line), None, "{line}");
        }
    }
}
