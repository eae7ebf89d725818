//! The command line of the conformance suite: `run`, `list`, `bench`, `root`, and the launcher that [`native`] describes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use seuss_conformance::case::{Case, Group};
use seuss_conformance::cgroup::MemoryCgroup;
use seuss_conformance::suite::Suite;
use seuss_conformance::verdict::{NoGuest, Plan, Report, Verdict, judge};
use seuss_conformance::{bench, cpython, native, paths, tree};

/// Runs programs on Linux and in the guest and compares what they print.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run cases and compare (the default)
    Run(RunArgs),
    /// List the cases
    List(Choice),
    /// Run the microbenchmarks on both sides; one JSON object a line
    Bench(RunArgs),
    /// Run CPython's own test suite on both sides and compare case by case with what is known
    Cpython(CpythonArgs),
    /// Build the root file system and print where it is
    Root,
    /// Run a program on Linux as the suite does
    Native(Launch),
    /// As pid 1 of the new namespace (used by `native`)
    #[command(hide = true)]
    Inside(Launch),
    /// Run a command in a network namespace with loopback only
    OwnNetwork {
        /// The command
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
}

#[derive(Args, Default)]
struct Choice {
    /// Cases whose name contains one of these
    filter: Vec<String>,
    /// Only these milestones (`A,B`)
    #[arg(long, value_delimiter = ',', value_parser = Group::parse)]
    group: Vec<Group>,
    /// Only the case of exactly this name
    #[arg(long)]
    exact: Option<String>,
}

#[derive(Args, Default)]
struct RunArgs {
    #[command(flatten)]
    choice: Choice,
    /// Leave the guest out
    #[arg(long)]
    native_only: bool,
    /// Run each case this often on Linux, and demand that all runs agree
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Cases at the same time
    #[arg(long, short, default_value_t = 1)]
    jobs: usize,
    /// Seconds that each side may take, whatever the case says
    #[arg(long)]
    timeout: Option<u64>,
}

#[derive(Args)]
struct CpythonArgs {
    /// Modules (`test_os`); all without one
    modules: Vec<String>,
    /// The modules that `make test` runs
    #[arg(long, conflicts_with = "modules")]
    subset: bool,
    /// Modules at the same time
    #[arg(long, short, default_value_t = 2)]
    jobs: usize,
    /// Keep each module's results here, and do not run again what is there
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Run nothing, only show what is kept
    #[arg(long, requires = "keep")]
    only_kept: bool,
}

#[derive(Args)]
struct Launch {
    /// The root file system; that of the suite when left out
    #[arg(long)]
    root: Option<PathBuf>,
    /// Hold it to this much memory (`256M`) with a cgroup
    #[arg(long)]
    memory: Option<String>,
    /// Program and arguments
    #[arg(last = true, required = true)]
    argv: Vec<String>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command.unwrap_or(Command::Run(RunArgs {
        repeat: 1,
        jobs: 1,
        ..RunArgs::default()
    }))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("seuss-conformance: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run_cases(&args),
        Command::List(choice) => list(&choice),
        Command::Bench(args) => run_benches(&args),
        Command::Cpython(args) => run_cpython(args),
        Command::Root => {
            println!("{}", prepared(&Suite::discover()?)?.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Native(launch) => {
            let root = match launch.root {
                Some(root) => root,
                None => prepared(&Suite::discover()?)?,
            };
            let limit = launch.memory.as_deref().map(MemoryCgroup::with_limit).transpose()?;
            let status = native::outside(&root, &launch.argv, limit.as_ref())?;
            Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
        }
        Command::Inside(launch) => {
            native::inside(&launch.root.context("no root")?, &launch.argv)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::OwnNetwork { argv } => {
            use std::os::unix::process::CommandExt;
            native::own_network()?;
            let (program, args) = argv.split_first().context("no program")?;
            let error = std::process::Command::new(program).args(args).exec();
            bail!("{program}: {error}");
        }
    }
}

fn run_cpython(args: CpythonArgs) -> Result<ExitCode> {
    if let Some(NoGuest::Unavailable(reason)) = no_guest(false)? {
        println!("{reason}\n0 passed, 0 failed, 1 skipped");
        return Ok(ExitCode::SUCCESS);
    }
    let root = prepared(&Suite::discover()?)?;
    let image = tree::image(&root)?;
    let launcher = std::env::current_exe()?;
    let modules = match args.subset {
        true => cpython::SUBSET.iter().map(|&module| module.to_owned()).collect(),
        false => args.modules,
    };
    let bless = std::env::var_os("SEUSS_BLESS").is_some_and(|value| value == "1");
    let options =
        cpython::Options { modules, jobs: args.jobs, bless, keep: args.keep, only_kept: args.only_kept };
    let fine = cpython::run(&options, cpython::Place { root: &root, image: &image, launcher: &launcher })?;
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn prepared(suite: &Suite) -> Result<PathBuf> {
    tree::prepare(suite, &|step| eprintln!("conformance: {step}"))
}

fn chosen<'a>(cases: &'a [Case], choice: &Choice) -> Vec<&'a Case> {
    let wanted = |case: &&Case| {
        choice.exact.as_ref().is_none_or(|exact| case.name == *exact)
            && (choice.filter.is_empty()
                || choice.filter.iter().any(|part| case.name.contains(part.as_str())))
            && (choice.group.is_empty() || choice.group.contains(&case.group))
    };
    cases.iter().filter(wanted).collect()
}

fn list(choice: &Choice) -> Result<ExitCode> {
    let suite = Suite::discover()?;
    for case in chosen(&suite.cases, choice) {
        println!("{:?} {:<32} {}", case.group, case.name, case.summary);
    }
    Ok(ExitCode::SUCCESS)
}

/// Why the guest's side is left out, if it is.
fn no_guest(native_only: bool) -> Result<Option<NoGuest>> {
    if native_only {
        return Ok(Some(NoGuest::NativeOnly));
    }
    if let Some(reason) = paths::kvm_missing() {
        if paths::kvm_required() {
            bail!("{reason}, and SEUSS_REQUIRE_KVM=1");
        }
        return Ok(Some(NoGuest::Unavailable(reason)));
    }
    let seussctl = paths::seussctl();
    if !seussctl.is_file() {
        bail!(
            "no {} (cargo build --release -p seuss-shim builds it; SEUSSCTL names another)",
            seussctl.display()
        );
    }
    Ok(None)
}

fn run_cases(args: &RunArgs) -> Result<ExitCode> {
    let suite = Suite::discover()?;
    let root = prepared(&suite)?;
    let launcher = std::env::current_exe()?;
    let no_guest = no_guest(args.native_only)?;
    let image = if no_guest.is_none() { tree::image(&root)? } else { root.clone() };
    let plan = Plan { root: &root, image: &image, launcher: &launcher, repeat: args.repeat, no_guest };
    let cases: Vec<Case> = chosen(&suite.cases, &args.choice)
        .into_iter()
        .map(|case| Case { timeout: args.timeout.map_or(case.timeout, Duration::from_secs), ..case.clone() })
        .collect();

    let width = cases.iter().map(|case| case.name.len()).max().unwrap_or_default();
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = judge(case, &plan).unwrap_or_else(|error| Report {
                        verdict: Verdict::Failed(format!("{error:#}\n")),
                        native: None,
                        guest: None,
                    });
                    let mut reports = reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    print_line(case, &report, width);
                    reports.push(report);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = |kind: fn(&Verdict) -> bool| reports.iter().filter(|report| kind(&report.verdict)).count();
    let passed = count(|verdict| matches!(verdict, Verdict::Passed));
    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let skipped = count(|verdict| matches!(verdict, Verdict::Skipped(_)));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_line(case: &Case, report: &Report, width: usize) {
    let seconds =
        |time: Option<Duration>| time.map_or("-".into(), |time| format!("{:.2}s", time.as_secs_f64()));
    let (word, note) = match &report.verdict {
        Verdict::Passed => ("ok", String::new()),
        Verdict::Failed(_) => ("FAIL", String::new()),
        Verdict::Skipped(reason) => ("skip", format!("  ({reason})")),
    };
    let (native, guest) = (seconds(report.native), seconds(report.guest));
    println!("{word:<4} {:?} {:<width$}  linux {native:>7}  guest {guest:>7}{note}", case.group, case.name);
    if let Verdict::Failed(text) = &report.verdict {
        for line in text.lines() {
            println!("     {line}");
        }
    }
}

fn run_benches(args: &RunArgs) -> Result<ExitCode> {
    let suite = Suite::discover()?;
    let root = prepared(&suite)?;
    let launcher = std::env::current_exe()?;
    let no_guest = no_guest(args.native_only)?;
    let image = if no_guest.is_none() { tree::image(&root)? } else { root.clone() };
    let plan = Plan { root: &root, image: &image, launcher: &launcher, repeat: 1, no_guest };
    let mut failed = false;
    for case in chosen(&suite.benches, &args.choice) {
        match bench::measure(case, &plan) {
            Ok(rows) => rows.iter().for_each(|row| println!("{row}")),
            Err(error) => {
                eprintln!("seuss-conformance: {}: {error:#}", case.name);
                failed = true;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
