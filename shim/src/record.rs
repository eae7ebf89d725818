//! What a shim leaves in a container's bundle for whoever must clean up after it.
//!
//! Owns [`Record`] (`seuss.json`): written as soon as there is something to clean up, read by the `delete` action when the shim itself cannot be
//! asked any more.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};
use seuss_snapshotter::beneath::Dir;

use crate::cgroup::Cgroup;
use crate::error::TaskError;

/// Name of the record in a bundle.
pub const FILE_NAME: &str = "seuss.json";
/// Most bytes of a record.
const BYTES_MAX: u64 = 1 << 20;

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (proc(5), stat, field 22).
    pub start_ticks: u64,
}

impl ProcessId {
    /// The process with number `pid` now.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name may hold anything, parentheses and spaces, too: what follows its last parenthesis starts with field 3.
        let fields = stat.rsplit_once(')')?.1;
        let start_ticks = fields.split_whitespace().nth(22 - 3)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        Self::of(pid).unwrap_or(Self { pid, start_ticks: 0 })
    }

    /// Whether it still runs (a zombie does not).
    #[must_use]
    pub fn is_alive(self) -> bool {
        let zombie = fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with(['Z', 'X'])));
        zombie == Some(false) && Self::of(self.pid) == Some(self)
    }
}

/// What there is of a container outside its shim's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The container.
    pub id: String,
    /// The shim.
    pub shim: ProcessId,
    /// pid that containerd was told.
    pub pid: u32,
    /// Its control groups.
    pub cgroups: Vec<Cgroup>,
}

impl Record {
    /// Writes the record into `bundle`, replacing an earlier one at once.
    ///
    /// # Errors
    /// [`TaskError::Record`].
    pub fn write(&self, bundle: &Dir) -> Result<(), TaskError> {
        let failed = |source: io::Error| TaskError::Record { path: bundle.path().join(FILE_NAME), source };
        let text = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        bundle.write(FILE_NAME, &text).map_err(failed)
    }

    /// The record in `bundle`; `None` if there is none that can be read.
    #[must_use]
    pub fn read(bundle: &Dir) -> Option<Self> {
        let text = bundle.read(FILE_NAME, BYTES_MAX).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = Dir::open(dir.path()).unwrap();
        assert_eq!(Record::read(&bundle), None);
        let record = Record { id: "a".into(), shim: ProcessId::own(), pid: 7, cgroups: Vec::new() };
        record.write(&bundle).unwrap();
        assert_eq!(Record::read(&bundle), Some(record));
        fs::write(dir.path().join(FILE_NAME), "{").unwrap();
        assert_eq!(Record::read(&bundle), None);
    }

    #[test]
    fn processes_are_told_apart() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        assert!(!ProcessId { start_ticks: own.start_ticks + 1, ..own }.is_alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = ProcessId::of(child.id());
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(!id.is_some_and(ProcessId::is_alive), "a zombie is not alive");
        child.wait().unwrap();
    }
}
