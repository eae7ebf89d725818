//! What a thread may open (landlock(7)): nothing, or what lies below some directories. Descriptors that it has are not concerned.
//!
//! A kernel without Landlock, or with an older one, gives less; the log says so once.

use std::path::Path;
use std::sync::{Once, OnceLock};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

/// The newest rights that are handled: more exist, of which nothing here has an opinion.
const NEWEST: ABI = ABI::V5;

/// What a thread may open, from now on.
#[derive(Clone, Copy, Debug)]
pub enum Reach<'a> {
    /// Whatever the process may open.
    Anything,
    /// No file at all.
    Nothing,
    /// Files below these directories, for reading.
    Read(&'a [&'a Path]),
    /// Everything below this directory; nothing of it can be executed.
    Keep(&'a Path),
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .create()
}

/// The one without any rule, made once.
fn nothing() -> Result<RulesetCreated, RulesetError> {
    static NOTHING: OnceLock<Option<RulesetCreated>> = OnceLock::new();
    let known = NOTHING.get_or_init(|| ruleset().ok()).as_ref();
    match known.and_then(|known| known.try_clone().ok()) {
        Some(again) => Ok(again),
        None => ruleset(),
    }
}

/// Restrict the calling thread. `Err` is for people; a kernel that has no Landlock is no error.
pub(super) fn restrict(reach: Reach<'_>) -> Result<(), String> {
    let beneath = |set: RulesetCreated, path: &Path, rights| -> Result<RulesetCreated, String> {
        let dir = PathFd::new(path).map_err(|error| error.to_string())?;
        set.add_rule(PathBeneath::new(dir, rights)).map_err(|error| error.to_string())
    };
    let told = |error: RulesetError| error.to_string();
    let set = match reach {
        Reach::Anything => return Ok(()),
        Reach::Nothing => nothing().map_err(told)?,
        Reach::Read(paths) => {
            let rights = AccessFs::ReadFile | AccessFs::ReadDir;
            paths.iter().try_fold(ruleset().map_err(told)?, |set, path| beneath(set, path, rights))?
        }
        Reach::Keep(path) => {
            let rights = AccessFs::from_all(NEWEST) & !AccessFs::Execute;
            beneath(ruleset().map_err(told)?, path, rights)?
        }
    };
    let status = set.restrict_self().map_err(told)?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let what = if status.ruleset == RulesetStatus::NotEnforced { "no" } else { "only a part of" };
            tracing::warn!("this kernel offers {what} Landlock: filters of system calls are what keeps threads from files");
        });
    }
    Ok(())
}
