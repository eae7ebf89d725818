//! Runs the microbenchmarks on both sides in turn and pairs their figures.
//!
//! A benchmark prints one JSON object a line: `name`, `unit`, `median`, `p99`, and what else it wants to tell.

use serde_json::{Map, Value, json};

use anyhow::{Context, Result, bail};

use crate::case::Case;
use crate::exec::{self, Outcome, Status};
use crate::verdict::Plan;

/// Runs one benchmark; one object for each figure it prints: `name`, `unit`, `native`, and `guest` unless left out.
///
/// # Errors
/// Either side fails or prints no JSON.
pub fn measure(case: &Case, plan: &Plan<'_>) -> Result<Vec<Value>> {
    let native = figures(&exec::on_linux(case, plan.root, plan.launcher)?).context("on Linux")?;
    let guest = match plan.no_guest {
        Some(_) => Vec::new(),
        None => figures(&exec::in_guest(case, plan.image, plan.launcher)?).context("in the guest")?,
    };
    let mut rows = Vec::new();
    for mut figure in native {
        let (name, unit) = (figure.remove("name"), figure.remove("unit"));
        let mut row = json!({ "name": name, "unit": unit, "native": figure });
        if let Some(other) = guest.iter().find(|other| other.get("name") == name.as_ref()) {
            let mut other = other.clone();
            other.retain(|key, _| key != "name" && key != "unit");
            row["guest"] = Value::Object(other);
        }
        rows.push(row);
    }
    Ok(rows)
}

fn figures(outcome: &Outcome) -> Result<Vec<Map<String, Value>>> {
    let stdout = String::from_utf8_lossy(&outcome.stdout);
    if outcome.status != Status::Exited(0) {
        bail!("{}\n{stdout}{}", outcome.status, String::from_utf8_lossy(&outcome.stderr));
    }
    stdout
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a JSON object: {line}")))
        .collect()
}
