//! The suite under `cargo test` and nextest: one test for each case.
//!
//! Without a root file system or /dev/kvm the tests are ignored and say why; with `SEUSS_REQUIRE_KVM=1` they fail.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use seuss_conformance::suite::Suite;
use seuss_conformance::verdict::{Plan, Verdict, judge};
use seuss_conformance::{paths, tree};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let suite = match Suite::discover() {
        Ok(suite) => Arc::new(suite),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let root: Arc<OnceLock<Result<(PathBuf, PathBuf), String>>> = Arc::default();
    let trials = (0..suite.cases.len())
        .map(|index| {
            let (suite, root) = (Arc::clone(&suite), Arc::clone(&root));
            let name = suite.cases[index].name.clone();
            Trial::ignorable_test(name, move || {
                if let Some(reason) = missing() {
                    return if paths::kvm_required() { Err(Failed::from(reason)) } else { ignored(&reason) };
                }
                let made = || {
                    let root = tree::prepare(&suite, &|_| {}).map_err(|error| format!("{error:#}"))?;
                    let image = tree::image(&root).map_err(|error| format!("{error:#}"))?;
                    Ok((root, image))
                };
                let (root, image) =
                    root.get_or_init(made).as_ref().map_err(|error| Failed::from(error.as_str()))?;
                let launcher = PathBuf::from(env!("CARGO_BIN_EXE_seuss-conformance"));
                let plan = Plan { root, image, launcher: &launcher, repeat: 1, no_guest: None };
                match judge(&suite.cases[index], &plan)
                    .map_err(|error| Failed::from(format!("{error:#}")))?
                    .verdict
                {
                    Verdict::Passed => Ok(Completion::Completed),
                    Verdict::Failed(text) => Err(Failed::from(text)),
                    Verdict::Skipped(reason) => ignored(&reason),
                }
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn ignored(reason: &str) -> Result<Completion, Failed> {
    println!("skipped: {reason}");
    Ok(Completion::ignored_with(reason))
}

/// What this machine lacks to run the suite, if it lacks something.
fn missing() -> Option<String> {
    let base = paths::base_rootfs();
    let seussctl = paths::seussctl();
    paths::kvm_missing()
        .or_else(|| (!base.is_dir()).then(|| format!("no root file system at {}", base.display())))
        .or_else(|| (!seussctl.is_file()).then(|| format!("no {}", seussctl.display())))
}
