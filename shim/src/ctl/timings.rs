//! What `seussctl run --timings` reports.
//!
//! Owns [`Timings`]; its JSON keys are a contract (DESIGN.md, "Timings"): all times in microseconds.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::guest::{GuestStats, StartTimings};

/// Phases of a run, in order, and figures of the guest.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timings {
    /// Opening and converting the root file system.
    pub rootfs_us: u64,
    /// Its size.
    pub rootfs_bytes: u64,
    /// Looking up users and checking the program.
    pub check_us: u64,
    /// Start of the guest.
    pub start: Start,
    /// From the start's end to the guest's end.
    pub run_us: u64,
    /// From the command's beginning to the guest's end.
    pub total_us: u64,
    /// Figures of the guest at its end.
    pub guest: Figures,
    /// Exit code handed on.
    pub exit_code: u8,
}

/// Phases of a guest's start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Start {
    /// Opening and checking /dev/kvm.
    pub hypervisor_us: u64,
    /// KVM_CREATE_VM.
    pub vm_create_us: u64,
    /// KVM_CREATE_VCPU and its features.
    pub vcpu_create_us: u64,
    /// Making and mapping the windows of guest memory.
    pub memory_map_us: u64,
    /// Kernel image, page tables, boot block.
    pub load_us: u64,
    /// KVM_SET_USER_MEMORY_REGION.
    pub memory_slots_us: u64,
    /// KVM_SET_* of the entry state.
    pub registers_us: u64,
    /// Starting the vCPU thread.
    pub thread_us: u64,
    /// All of these.
    pub total_us: u64,
    /// From the first KVM_RUN to the first exit.
    pub first_exit_us: u64,
}

/// Figures of a guest.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Figures {
    /// CPU time of the vCPU thread.
    pub cpu_us: u64,
    /// Host calls, without idle ones.
    pub exits_calls: u64,
    /// Idle calls.
    pub exits_idle: u64,
    /// Kicks.
    pub exits_kicks: u64,
    /// Demand-paging faults.
    pub faults_demand: u64,
    /// Copy-on-write faults of the guest's own making.
    pub faults_native_cow: u64,
    /// First writes to pages of a snapshot's layers.
    pub faults_snapshot_cow: u64,
    /// System calls.
    pub syscalls: u64,
    /// Memory in use at the end.
    pub used_bytes: u64,
    /// Memory limit.
    pub limit_bytes: u64,
}

/// `duration` in microseconds.
#[must_use]
pub fn us(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

impl From<StartTimings> for Start {
    fn from(timings: StartTimings) -> Self {
        Self {
            hypervisor_us: us(timings.hypervisor),
            vm_create_us: us(timings.vm_create),
            vcpu_create_us: us(timings.vcpu_create),
            memory_map_us: us(timings.memory_map),
            load_us: us(timings.load),
            memory_slots_us: us(timings.memory_slots),
            registers_us: us(timings.registers),
            thread_us: us(timings.thread),
            total_us: us(timings.total),
            first_exit_us: us(timings.first_exit),
        }
    }
}

impl From<GuestStats> for Figures {
    fn from(stats: GuestStats) -> Self {
        Self {
            cpu_us: us(stats.cpu_time),
            exits_calls: stats.exits.calls,
            exits_idle: stats.exits.idle,
            exits_kicks: stats.exits.kicks,
            faults_demand: stats.faults.demand,
            faults_native_cow: stats.faults.native_cow,
            faults_snapshot_cow: stats.faults.snapshot_cow,
            syscalls: stats.syscalls,
            used_bytes: stats.used_bytes,
            limit_bytes: stats.limit_bytes,
        }
    }
}

impl Timings {
    /// Writes the report to `path` (`-`: standard error), as JSON or for people.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, json: bool) -> std::io::Result<()> {
        let mut text = if json {
            serde_json::to_string_pretty(self).map_err(std::io::Error::from)?
        } else {
            self.table()
        };
        text.push('\n');
        if path == Path::new("-") {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            std::fs::write(path, text)
        }
    }

    fn table(&self) -> String {
        let start = &self.start;
        let rows = [
            ("root file system", self.rootfs_us),
            ("checks", self.check_us),
            ("start", start.total_us),
            ("  open KVM", start.hypervisor_us),
            ("  create VM", start.vm_create_us),
            ("  create vCPU", start.vcpu_create_us),
            ("  map memory", start.memory_map_us),
            ("  load kernel", start.load_us),
            ("  memory slots", start.memory_slots_us),
            ("  registers", start.registers_us),
            ("  thread", start.thread_us),
            ("run", self.run_us),
            ("  to first exit", start.first_exit_us),
            ("total", self.total_us),
        ];
        let mut text = String::from("phase                     ms");
        for (name, time_us) in rows {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{name:<18}{:>10.3}", time_us as f64 / 1000.0);
        }
        let guest = &self.guest;
        let _ = write!(
            text,
            "\nguest: {:.3} ms CPU, {} system calls, {} exits ({} idle, {} kicks), {} page faults, {} of {} used",
            guest.cpu_us as f64 / 1000.0,
            guest.syscalls,
            guest.exits_calls + guest.exits_idle + guest.exits_kicks,
            guest.exits_idle,
            guest.exits_kicks,
            guest.faults_demand + guest.faults_native_cow + guest.faults_snapshot_cow,
            crate::size::display_bytes(guest.used_bytes),
            crate::size::display_bytes(guest.limit_bytes),
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_report() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.json");
        let timings = Timings { rootfs_us: 1500, exit_code: 3, ..Timings::default() };
        timings.write(&path, true).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(value["rootfs_us"], 1500);
        assert_eq!(value["start"]["vm_create_us"], 0);
        assert_eq!(value["exit_code"], 3);
        timings.write(&path, false).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("root file system       1.500"));
    }
}
