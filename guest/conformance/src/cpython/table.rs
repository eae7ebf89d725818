//! The rows of CPYTHON.md.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::cases::{Cases, Verdict};
use super::known::{Known, SHARE_WANTED};

/// What came of a module.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub module: String,
    /// On Linux.
    pub native: Cases,
    /// In the guest.
    pub guest: Cases,
    /// How long it took on Linux.
    pub native_time: Duration,
    /// How long it took in the guest.
    pub guest_time: Duration,
}

impl Row {
    /// The cases that pass on Linux and not in the guest; none of a module that the guest has not run.
    pub fn differences(&self) -> impl Iterator<Item = &str> {
        self.native.passed().filter(|case| !self.guest.is_empty() && !self.guest.has_passed(case))
    }

    /// Those of them that are not known.
    pub fn news<'a>(&'a self, known: &Known) -> Vec<&'a str> {
        self.differences().filter(|case| !known.differs(&self.module, case)).collect()
    }

    /// The known differences that are none any more.
    pub fn cured<'a>(&'a self, known: &'a Known) -> impl Iterator<Item = &'a str> {
        known.of(&self.module).filter(|case| self.guest.has_passed(case))
    }

    /// Which part of the cases that pass on Linux passes in the guest. `None`: none passes on Linux, or the guest has not run it.
    pub fn share(&self) -> Option<f64> {
        let native = self.native.passed().count();
        (native > 0 && !self.guest.is_empty())
            .then(|| (native - self.differences().count()) as f64 / native as f64)
    }

    /// The share in per cent, rounded down, so that 100 means all.
    pub fn share_text(&self) -> String {
        let none = if self.guest.is_empty() { "not run" } else { "-" };
        self.share().map_or(none.into(), per_cent)
    }
}

fn per_cent(share: f64) -> String {
    format!("{:.1}%", (share * 1000.0).floor() / 10.0)
}

/// The sum over modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    modules: usize,
    native: usize,
    guest: usize,
    below: usize,
    not_run: usize,
}

impl Totals {
    /// Of these modules.
    pub fn of(rows: &[Row]) -> Self {
        let mut totals = Self { modules: rows.len(), ..Self::default() };
        for row in rows {
            if row.guest.is_empty() {
                totals.not_run += 1;
                continue;
            }
            let native = row.native.passed().count();
            totals.native += native;
            totals.guest += native - row.differences().count();
            totals.below += usize::from(row.share().is_some_and(|share| share < SHARE_WANTED));
        }
        totals
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = self.guest as f64 / self.native.max(1) as f64;
        write!(
            f,
            "{} modules; of {} test cases that pass on Linux, {} pass in the guest ({}); {} modules are below 95%",
            self.modules,
            self.native,
            self.guest,
            per_cent(share),
            self.below
        )?;
        if self.not_run > 0 {
            write!(f, "; the guest has not run {} modules, which are not counted", self.not_run)?;
        }
        Ok(())
    }
}

/// CPYTHON.md.
pub fn render(rows: &[Row], known: &Known) -> String {
    let mut text = String::from(
        "# CPython's own test suite\n\n\
        Debian's libpython3.11-testsuite, module by module, each in a process of its own, on Linux (as a container) and in the guest.\n\
        Written by `SEUSS_BLESS=1 seuss-conformance cpython`; [README.md](README.md#cpythons-test-suite) tells how. The share is\n\
        that of the cases that pass on Linux and pass in the guest, too; cpython/differences.txt names the others. `(module)` counts\n\
        as one case where a module has none of unittest's. A module that Linux skips needs what the machine or the root does not have.\n\n",
    );
    let _ = writeln!(text, "{}.\n", Totals::of(rows));
    text += "| module | Linux: pass | fail | skip | guest: pass | fail | skip | share | why |\n";
    text += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n";
    for row in rows {
        let count = |cases: &Cases| {
            let [pass, fail, skip] =
                [Verdict::Passed, Verdict::Failed, Verdict::Skipped].map(|verdict| cases.count(verdict));
            format!("{pass} | {fail} | {skip}")
        };
        let why = known.reason(&row.module).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {why} |",
            row.module,
            count(&row.native),
            count(&row.guest),
            row.share_text()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(native: &str, guest: &str) -> Row {
        Row {
            module: "test_x".into(),
            native: Cases::parse(native),
            guest: Cases::parse(guest),
            native_time: Duration::ZERO,
            guest_time: Duration::ZERO,
        }
    }

    #[test]
    fn cases_are_compared_one_by_one() {
        let native = "seuss-case\tpass\ta\nseuss-case\tpass\tb\nseuss-case\tfail\tc\tx\n";
        let row = row(native, "seuss-case\tpass\ta\nseuss-case\tpass\tc\n");
        assert_eq!(row.differences().collect::<Vec<_>>(), ["b"], "equal counts hide nothing");
        assert_eq!(row.share_text(), "50.0%");
        assert_eq!(row.news(&Known::default()), ["b"]);
    }

    #[test]
    fn a_module_that_was_not_run_is_no_failure_and_no_success() {
        let row = row("seuss-case\tpass\ta\n", "");
        assert_eq!((row.share_text(), row.differences().count()), ("not run".into(), 0));
        assert!(Totals::of(&[row]).to_string().contains("has not run 1 modules"));
    }

    #[test]
    fn a_module_that_linux_skips_has_no_share() {
        let row = row("seuss-case\tskip\t(module)\tx\n", "seuss-case\tskip\t(module)\tx\n");
        assert_eq!(row.share(), None);
        let text = render(&[row], &Known::default());
        assert!(text.contains("| test_x | 0 | 0 | 1 | 0 | 0 | 1 | - |  |"), "{text}");
    }
}
