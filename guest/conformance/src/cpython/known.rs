//! What is known of the suite in the guest: the committed files beside this crate.
//!
//! `cpython/differences.txt` has a line for each case that passes on Linux and not in the guest: module, a space, the case's id.
//! `cpython/reasons.toml` says why, for each module of which less than 95% pass. CPYTHON.md shows both. `SEUSS_BLESS=1` writes
//! the first and the last; reasons are written by people.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::table::{self, Row};
use crate::paths;

/// A module below this share needs a reason.
pub const SHARE_WANTED: f64 = 0.95;

/// The committed files.
#[derive(Clone, Debug, Default)]
pub struct Known {
    differences: BTreeMap<String, BTreeSet<String>>,
    reasons: BTreeMap<String, String>,
}

impl Known {
    /// Reads the files; those that are missing are empty.
    ///
    /// # Errors
    /// One of them cannot be parsed.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(differences_file()).unwrap_or_default();
        let reasons = fs::read_to_string(reasons_file()).unwrap_or_default();
        let reasons = toml::from_str(&reasons).with_context(|| reasons_file().display().to_string())?;
        Ok(Self { differences: parse(&text)?, reasons })
    }

    /// Whether a case is known to differ.
    pub fn differs(&self, module: &str, case: &str) -> bool {
        self.differences.get(module).is_some_and(|cases| cases.contains(case))
    }

    /// The cases of a module that are known to differ.
    pub fn of(&self, module: &str) -> impl Iterator<Item = &str> {
        self.differences.get(module).into_iter().flatten().map(String::as_str)
    }

    /// Why a module is below the wanted share.
    pub fn reason(&self, module: &str) -> Option<&str> {
        self.reasons.get(module).map(String::as_str)
    }

    /// Writes what `rows` tell. The table needs all modules; without them only the differences of those that ran are renewed.
    ///
    /// # Errors
    /// A file cannot be written, or a module below the wanted share has no reason.
    pub fn bless(&self, rows: &[Row], all: bool) -> Result<()> {
        let mut differences = if all { BTreeMap::new() } else { self.differences.clone() };
        for row in rows {
            let cases: BTreeSet<String> = row.differences().map(str::to_owned).collect();
            if cases.is_empty() {
                differences.remove(&row.module);
            } else {
                differences.insert(row.module.clone(), cases);
            }
        }
        fs::write(differences_file(), render(&differences))?;
        if all {
            fs::write(table_file(), table::render(rows, self))?;
        }
        let silent = |row: &&Row| {
            row.share().is_some_and(|share| share < SHARE_WANTED) && self.reason(&row.module).is_none()
        };
        let unexplained: Vec<&str> = rows.iter().filter(silent).map(|row| row.module.as_str()).collect();
        if !unexplained.is_empty() {
            bail!("reasons.toml says nothing of {}", unexplained.join(", "));
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut differences: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (module, case) = line.split_once(' ').with_context(|| format!("no case in {line:?}"))?;
        differences.entry(module.into()).or_default().insert(case.into());
    }
    Ok(differences)
}

fn render(differences: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut text = String::from(
        "# Test cases of CPython's suite that pass on Linux and not in the guest (SEUSS_BLESS=1 seuss-conformance cpython writes this).\n",
    );
    for (module, cases) in differences {
        for case in cases {
            text += &format!("{module} {case}\n");
        }
    }
    text
}

fn differences_file() -> PathBuf {
    paths::source().join("cpython/differences.txt")
}

fn reasons_file() -> PathBuf {
    paths::source().join("cpython/reasons.toml")
}

fn table_file() -> PathBuf {
    paths::source().join("CPYTHON.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_as_it_is_written() {
        let differences = parse("# x\ntest_a a.B.c\ntest_a setUpClass (a.B)\ntest_b (module)\n").unwrap();
        assert_eq!(differences["test_a"].len(), 2);
        assert_eq!(parse(&render(&differences)).unwrap(), differences);
        assert!(parse("test_a\n").is_err());
    }

    #[test]
    fn the_committed_files_are_valid() {
        let known = Known::read().unwrap();
        let modules: Vec<&String> = known.reasons.keys().collect();
        let without: Vec<_> = modules.iter().filter(|module| known.of(module).next().is_none()).collect();
        assert!(without.is_empty(), "reasons for modules without a difference: {without:?}");
    }
}
