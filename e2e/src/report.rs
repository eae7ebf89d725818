//! The benchmark report, target/bench/report.json: one file that every benchmark adds its case to.
//!
//! BENCH.md documents the keys. A benchmark never judges a figure; it prints and records it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::{command, paths};

/// Raised when a key changes its meaning.
const SCHEMA: u32 = 1;

/// Durations or sizes measured repeatedly.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a measurement.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that a share of `quantile` (0 to 1) of the samples does not exceed; the nearest rank.
    pub fn quantile(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank is small and positive"
        )]
        let rank = (quantile * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    /// `median`, `p99`, `min`, `max`, `n`, rounded to thousandths.
    pub fn summary(&self) -> Value {
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        json!({
            "median": round(self.quantile(0.5)),
            "p99": round(self.quantile(0.99)),
            "min": round(self.quantile(0.0)),
            "max": round(self.quantile(1.0)),
            "n": self.len(),
        })
    }
}

/// The report's path: target/bench/report.json.
pub fn path() -> PathBuf {
    paths::target().join("bench/report.json")
}

/// Adds or replaces one case, stamped with the machine, the revision and the time.
///
/// # Errors
/// The report cannot be read or written, or is no JSON object.
pub fn merge(case: &str, mut body: Map<String, Value>) -> Result<PathBuf> {
    let path = path();
    let mut report = match fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice::<Map<String, Value>>(&text).with_context(|| path.display().to_string())?
        }
        Err(_) => Map::new(),
    };
    body.insert("revision".into(), revision().into());
    body.insert("time".into(), SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().into());
    report.insert("schema".into(), SCHEMA.into());
    report.insert("machine".into(), machine());
    let cases = report.entry("cases").or_insert_with(|| json!({}));
    cases.as_object_mut().context("\"cases\" is no object")?.insert(case.into(), Value::Object(body));
    fs::create_dir_all(path.parent().context("a report lies in a directory")?)?;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec_pretty(&report)?)?;
    fs::rename(&temporary, &path)?;
    Ok(path)
}

/// The git revision, with `+` when files differ from it.
pub fn revision() -> String {
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.arg("-C").arg(paths::repository()).args(args);
        command::output(&mut git).map(|text| String::from_utf8_lossy(&text).trim().to_owned())
    };
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Ok(revision) => {
            let changed = git(&["status", "--porcelain"]).is_ok_and(|text| !text.is_empty());
            revision + if changed { "+" } else { "" }
        }
        Err(_) => "unknown".into(),
    }
}

/// What the figures depend on.
pub fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let flags = field("flags");
    let has = |flag: &str| flags.split(' ').any(|have| have == flag);
    let memory_kb: u64 = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default();
    json!({
        "cpu": field("model name"),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_mb": memory_kb / 1024,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "kvm": crate::need::missing_kvm().is_none(),
        "hardware_virtualisation": has("vmx") || has("svm"),
        "runs_in_a_vm": has("hypervisor"),
    })
}

/// Samples by name, as an object of their summaries.
pub fn summaries(samples: &BTreeMap<String, Samples>) -> Value {
    Value::Object(samples.iter().map(|(name, samples)| (name.clone(), samples.summary())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut samples = Samples::default();
        (1..=100).rev().for_each(|value| samples.push(f64::from(value)));
        assert_eq!((samples.quantile(0.0), samples.quantile(0.5)), (1.0, 50.0));
        assert_eq!((samples.quantile(0.99), samples.quantile(1.0)), (99.0, 100.0));
    }
}
