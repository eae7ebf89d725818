//! CPython's own test suite (Debian's libpython3.11-testsuite), module by module, on Linux and in the guest.
//!
//! `cpython/collect.py` runs one module and prints the result of each test case ([`cases`]). What passes on Linux should pass in
//! the guest; where it does not, the case stands in `cpython/differences.txt`, and a module with many of them has its reason in
//! `cpython/reasons.toml` ([`known`]). CPYTHON.md is the table of the last full run ([`table`]).
//!
//! A run fails when a case that passes on Linux fails in the guest without standing among the known differences. Some test cases of
//! the suite measure time, so a module with such a case gets a second run, and the better result of each case counts, on both sides.

pub mod cases;
pub mod known;
pub mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::case::{Case, Header};
use crate::exec::{self, Status};
use crate::suite::DIR_IN_ROOT;
use cases::Cases;
use known::Known;
use table::{Row, Totals};

/// The program that runs a module, below this crate and below the suite's directory in the root.
pub const COLLECTOR: &str = "cpython/collect.py";

/// Seconds for one module on one side.
const MODULE_SECONDS: u64 = 1500;

/// A guest's memory: some cases of test_io and test_mmap use more than 512 MiB.
const MEMORY: &str = "2G";

/// What `make test` runs: modules that ask most of a kernel and take little time.
pub const SUBSET: &[&str] = &[
    "test_builtin",
    "test_dict",
    "test_epoll",
    "test_errno",
    "test_fcntl",
    "test_file",
    "test_fileio",
    "test_fork1",
    "test_generators",
    "test_genericpath",
    "test_glob",
    "test_mmap",
    "test_openpty",
    "test_os",
    "test_poll",
    "test_popen",
    "test_posix",
    "test_posixpath",
    "test_pty",
    "test_resource",
    "test_select",
    "test_selectors",
    "test_shutil",
    "test_stat",
    "test_tempfile",
    "test_thread",
    "test_threadsignals",
    "test_time",
    "test_wait3",
    "test_wait4",
];

/// What to run and what to do with it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only these modules; all when empty.
    pub modules: Vec<String>,
    /// Modules at the same time.
    pub jobs: usize,
    /// Write table and known differences instead of comparing with them.
    pub bless: bool,
    /// Keep what the collector prints in this directory (`linux/MODULE`, `guest/MODULE`), and do not run what is there already: a long
    /// run can be stopped and taken up again.
    pub keep: Option<PathBuf>,
    /// Run nothing: show what `keep` holds. The table says of a module without results in the guest that it was not run.
    pub only_kept: bool,
}

/// Where things are.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The directory that Linux runs in.
    pub root: &'a Path,
    /// The same as an EROFS image, for the guest.
    pub image: &'a Path,
    /// The executable that holds the launcher.
    pub launcher: &'a Path,
}

/// Runs the modules; the last line of what is printed counts them as `N passed, N failed, N skipped`. Whether none failed.
///
/// # Errors
/// The suite is not in the root file system, or a file cannot be written.
pub fn run(options: &Options, place: Place<'_>) -> Result<bool> {
    let all = modules(place)?;
    let chosen: Vec<&String> = match options.modules.as_slice() {
        [] => all.iter().collect(),
        names => all.iter().filter(|module| names.contains(module)).collect(),
    };
    let unknown: Vec<&String> = options.modules.iter().filter(|module| !all.contains(module)).collect();
    ensure!(unknown.is_empty(), "the root file system's test suite has no {unknown:?}");
    let known = Known::read()?;
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<Row>> = Mutex::default();
    let width = chosen.iter().map(|module| module.len()).max().unwrap_or_default();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(module) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = match &options.keep {
                        Some(keep) if options.only_kept => kept_row(module, keep),
                        keep => judge(module, &known, keep.as_deref(), place),
                    };
                    print_line(&row, &known, width);
                    rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(row);
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    rows.sort_by(|a, b| a.module.cmp(&b.module));
    let totals = Totals::of(&rows);
    println!("{totals}");
    if options.bless {
        known.bless(&rows, rows.len() == all.len())?;
    }
    let failed =
        if options.bless { 0 } else { rows.iter().filter(|row| !row.news(&known).is_empty()).count() };
    println!("{} passed, {failed} failed, 0 skipped", rows.len() - failed);
    Ok(failed == 0)
}

/// All modules of the suite in the root file system, as regrtest lists them.
fn modules(place: Place<'_>) -> Result<Vec<String>> {
    let listed = exec::on_linux(&case(&["--list"])?, place.root, place.launcher)?;
    if listed.status != Status::Exited(0) {
        bail!(
            "the root file system holds no CPython test suite (make images builds one that does): {}",
            String::from_utf8_lossy(&listed.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).collect())
}

fn case(args: &[&str]) -> Result<Case> {
    let header = Header::parse(&format!(
        "#: group = \"F\"\n#: summary = \"CPython's test suite\"\n#: memory = \"{MEMORY}\"\n#: timeout = {MODULE_SECONDS}"
    ))?;
    let mut argv = vec!["/usr/bin/python3".to_owned(), format!("{DIR_IN_ROOT}/{COLLECTOR}")];
    argv.extend(args.iter().map(|&arg| arg.to_owned()));
    Ok(Case::new("cpython".into(), argv, &header.context("a header")?))
}

/// Runs a module on both sides, and once more where the guest does worse than is known.
fn judge(module: &str, known: &Known, keep: Option<&Path>, place: Place<'_>) -> Row {
    let mut row = one_run(module, keep, place);
    if keep.is_none() && !row.news(known).is_empty() {
        let again = one_run(module, None, place);
        row.native.improve(&again.native);
        row.guest.improve(&again.guest);
    }
    row
}

fn one_run(module: &str, keep: Option<&Path>, place: Place<'_>) -> Row {
    let (native, native_time) = on_side(module, Side::Linux, keep, place);
    let (guest, guest_time) = on_side(module, Side::Guest, keep, place);
    Row { module: module.to_owned(), native, guest, native_time, guest_time }
}

/// What an earlier run kept.
fn kept_row(module: &str, keep: &Path) -> Row {
    let cases = |side| {
        fs::read_to_string(keep.join(side).join(module)).map(|text| Cases::parse(&text)).unwrap_or_default()
    };
    let (native, guest) = (cases("linux"), cases("guest"));
    Row { module: module.to_owned(), native, guest, native_time: Duration::ZERO, guest_time: Duration::ZERO }
}

/// Where a module runs.
#[derive(Clone, Copy)]
enum Side {
    Linux,
    Guest,
}

fn on_side(module: &str, side: Side, keep: Option<&Path>, place: Place<'_>) -> (Cases, Duration) {
    let name = if matches!(side, Side::Linux) { "linux" } else { "guest" };
    let file = keep.map(|directory| directory.join(name).join(module));
    if let Some(text) = file.as_ref().and_then(|file| fs::read_to_string(file).ok()) {
        return (Cases::parse(&text), Duration::ZERO);
    }
    let outcome = case(&[module]).and_then(|case| match side {
        Side::Linux => exec::on_linux(&case, place.root, place.launcher),
        Side::Guest => exec::in_guest(&case, place.image, place.launcher),
    });
    match outcome {
        Ok(outcome) => {
            let cases = Cases::read(&outcome);
            if let Some(file) = file {
                let _ = fs::create_dir_all(file.parent().unwrap_or(Path::new(".")));
                let _ = fs::write(file, cases.to_string());
            }
            (cases, outcome.elapsed)
        }
        Err(error) => (Cases::broken(&format!("{error:#}")), Duration::ZERO),
    }
}

fn print_line(row: &Row, known: &Known, width: usize) {
    let news = row.news(known);
    let word = if news.is_empty() { "ok" } else { "FAIL" };
    println!(
        "{word:<4} {:<width$}  linux {:>5} passed {:>6.1}s  guest {:>5} passed {:>6.1}s  {}",
        row.module,
        row.native.passed().count(),
        row.native_time.as_secs_f64(),
        row.guest.passed().count(),
        row.guest_time.as_secs_f64(),
        row.share_text(),
    );
    for case in news {
        println!("     {case}: {}", row.guest.why(case));
    }
    let cured: BTreeSet<&str> = row.cured(known).collect();
    if !cured.is_empty() {
        println!("     {} known differences agree now (SEUSS_BLESS=1 takes them off the list)", cured.len());
    }
}
