//! What the collector tells of a module's test cases.

use std::collections::BTreeMap;
use std::fmt;

use crate::exec::{Outcome, Status};

/// What starts a line of the collector.
const MARK: &str = "seuss-case";

/// The id of the one line of a module without unittest cases.
pub const MODULE: &str = "(module)";

/// What came of a test case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It failed, crashed, or hung.
    Failed,
    /// The suite left it out.
    Skipped,
    /// It passed.
    Passed,
}

/// The test cases of a module on one side.
#[derive(Clone, Debug, Default)]
pub struct Cases(BTreeMap<String, (Verdict, String)>);

impl Cases {
    /// Reads what the collector left. A run that it did not finish is one failure.
    pub fn read(outcome: &Outcome) -> Self {
        let cases = Self::parse(&String::from_utf8_lossy(&outcome.stdout));
        match outcome.status {
            Status::Exited(0) if !cases.0.is_empty() => cases,
            status => Self::broken(&format!("{status}; {}", last_line(&outcome.stderr))),
        }
    }

    /// Parses the collector's lines; others are of the tests themselves.
    pub fn parse(text: &str) -> Self {
        let mut cases = BTreeMap::new();
        for line in text.lines() {
            let mut fields = line.splitn(4, '\t');
            if fields.next() != Some(MARK) {
                continue;
            }
            let verdict = match fields.next() {
                Some("pass") => Verdict::Passed,
                Some("skip") => Verdict::Skipped,
                _ => Verdict::Failed,
            };
            let case = fields.next().unwrap_or_default().to_owned();
            cases.insert(case, (verdict, fields.next().unwrap_or_default().to_owned()));
        }
        Self(cases)
    }

    /// A run that told nothing.
    pub fn broken(why: &str) -> Self {
        Self(BTreeMap::from([(MODULE.to_owned(), (Verdict::Failed, why.to_owned()))]))
    }

    /// Takes over what was better in another run.
    pub fn improve(&mut self, other: &Self) {
        for (case, (verdict, why)) in &other.0 {
            match self.0.get(case) {
                Some((old, _)) if old >= verdict => {}
                _ => drop(self.0.insert(case.clone(), (*verdict, why.clone()))),
            }
        }
        // A run that broke says nothing beside one that did not.
        if self.0.len() > 1 && self.0.get(MODULE).is_some_and(|(verdict, _)| *verdict == Verdict::Failed) {
            self.0.remove(MODULE);
        }
    }

    /// Whether nothing is known: the module was not run.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many ended so.
    pub fn count(&self, wanted: Verdict) -> usize {
        self.0.values().filter(|(verdict, _)| *verdict == wanted).count()
    }

    /// The ids of those that passed.
    pub fn passed(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, (verdict, _))| *verdict == Verdict::Passed).map(|(case, _)| case.as_str())
    }

    /// Whether a case passed.
    pub fn has_passed(&self, case: &str) -> bool {
        self.0.get(case).is_some_and(|(verdict, _)| *verdict == Verdict::Passed)
    }

    /// Why a case did not pass.
    pub fn why(&self, case: &str) -> String {
        match self.0.get(case).or_else(|| self.0.get(MODULE)) {
            Some((Verdict::Skipped, why)) => format!("skipped: {why}"),
            Some((_, why)) => why.clone(),
            None => "did not run".to_owned(),
        }
    }
}

impl fmt::Display for Cases {
    /// As the collector tells them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (case, (verdict, why)) in &self.0 {
            let word = match verdict {
                Verdict::Passed => "pass",
                Verdict::Skipped => "skip",
                Verdict::Failed => "fail",
            };
            writeln!(f, "{MARK}\t{word}\t{case}\t{why}")?;
        }
        Ok(())
    }
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "noise\nseuss-case\tpass\ta.B.c\nseuss-case\tfail\ta.B.d\tOSError: x\nseuss-case\tskip\ta.B.e\twhy\n";

    #[test]
    fn lines_of_the_collector_are_read() {
        let cases = Cases::parse(TEXT);
        let counts = [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|verdict| cases.count(verdict));
        assert_eq!(counts, [1, 1, 1]);
        assert_eq!(cases.passed().collect::<Vec<_>>(), ["a.B.c"]);
        assert_eq!((cases.why("a.B.d"), cases.why("a.B.e")), ("OSError: x".into(), "skipped: why".into()));
        assert_eq!(cases.why("a.B.f"), "did not run");
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let cases = Cases::parse(TEXT);
        assert_eq!(Cases::parse(&cases.to_string()).to_string(), cases.to_string());
    }

    #[test]
    fn the_better_of_two_runs_counts() {
        let mut cases = Cases::parse(TEXT);
        cases.improve(&Cases::parse("seuss-case\tpass\ta.B.d\nseuss-case\tfail\ta.B.c\tlate\n"));
        assert!(cases.has_passed("a.B.c") && cases.has_passed("a.B.d"));
        let mut broken = Cases::broken("killed");
        broken.improve(&Cases::parse(TEXT));
        assert_eq!(broken.count(Verdict::Failed), 1);
    }
}
