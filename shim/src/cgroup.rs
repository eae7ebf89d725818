//! Control groups of containers, by hand-written files (cgroups(7)).
//!
//! Owns [`Cgroup`]. The shim is one process with a vCPU thread per container, so groups are used by what they hold (decisions/0005):
//! - the **process**, and with it all memory, is in the group of the pod's sandbox (or of a container without a pod);
//! - a container's **vCPU thread** is in the container's own group: with cgroup v1 in the cpu and cpuacct hierarchies, with v2 in a threaded group below
//!   the process' group. There the CPU limits apply and CPU time is counted.
//!
//! Memory limits are not written: a guest cannot grow beyond its private window, whose size is the limit. Nothing here is fatal to a
//! container: a machine without usable cgroups runs it without CPU limits, and the log says so.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::oci::Cpu;

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// Hierarchies of cgroup v1 that are used.
const V1_CONTROLLERS: [&str; 3] = ["cpu", "cpuacct", "memory"];
/// Hierarchies of cgroup v1 whose groups may hold single threads.
const V1_THREAD_CONTROLLERS: [&str; 2] = ["cpu", "cpuacct"];

/// Why a group could not be made or used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}: {source}", path = .path.display())]
pub struct CgroupError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Which cgroup interface a machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// One hierarchy per controller (also "hybrid" machines).
    V1,
    /// One hierarchy.
    V2,
}

/// A container's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    version: Version,
    /// Directories that were made, parents first.
    made: Vec<PathBuf>,
    /// The group's directories, one per hierarchy.
    dirs: Vec<PathBuf>,
}

impl Version {
    /// The machine's.
    #[must_use]
    pub fn detect() -> Self {
        if Path::new(MOUNT).join("cgroup.controllers").exists() { Self::V2 } else { Self::V1 }
    }
}

/// `linux.cgroupsPath` below the hierarchies' roots: as it is, or, in systemd's form `slice:prefix:name`, as systemd nests slices.
#[must_use]
pub fn relative_path(cgroups_path: &str) -> PathBuf {
    let mut parts = cgroups_path.split(':');
    let path = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(name), None) if !cgroups_path.contains('/') => {
            let mut path = PathBuf::new();
            let stem = slice.strip_suffix(".slice").unwrap_or(slice);
            let mut at = 0;
            while let Some(dash) = stem[at..].find('-') {
                path.push(format!("{}.slice", &stem[..at + dash]));
                at += dash + 1;
            }
            if !stem.is_empty() && stem != "-" {
                path.push(format!("{stem}.slice"));
            }
            let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}-") };
            path.push(if name.ends_with(".slice") {
                name.to_owned()
            } else {
                format!("{prefix}{name}.scope")
            });
            path
        }
        _ => PathBuf::from(cgroups_path),
    };
    // Never out of the hierarchy.
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

impl Cgroup {
    /// Makes the group at `relative` (see [`relative_path`]) for a process or its threads, with `cpu`'s limits.
    ///
    /// # Errors
    /// [`CgroupError`]; what was made is removed again.
    pub fn create(relative: &Path, cpu: &Cpu) -> Result<Self, CgroupError> {
        Self::create_under(Path::new(MOUNT), Version::detect(), relative, cpu)
    }

    fn create_under(mount: &Path, version: Version, relative: &Path, cpu: &Cpu) -> Result<Self, CgroupError> {
        let roots: Vec<PathBuf> = match version {
            Version::V2 => vec![mount.to_owned()],
            Version::V1 => {
                V1_CONTROLLERS.iter().map(|name| mount.join(name)).filter(|root| root.is_dir()).collect()
            }
        };
        let mut group = Self { version, made: Vec::new(), dirs: Vec::new() };
        for root in &roots {
            if let Err(error) = group.make(root, relative) {
                group.delete();
                return Err(error);
            }
        }
        group.limit(cpu);
        Ok(group)
    }

    fn make(&mut self, root: &Path, relative: &Path) -> Result<(), CgroupError> {
        let mut dir = root.to_owned();
        for part in relative {
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => self.made.push(dir.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(CgroupError { operation: "make the control group", path: dir, source });
                }
            }
        }
        self.dirs.push(dir);
        Ok(())
    }

    /// For cgroup v2: the threaded group `name` below this one, for threads of the process that is in this one.
    ///
    /// # Errors
    /// [`CgroupError`], among others where the group has processes of several parents or lacks the cpu controller.
    pub fn threaded_child(&self, name: &str, cpu: &Cpu) -> Result<Self, CgroupError> {
        let mut group = Self { version: self.version, made: Vec::new(), dirs: Vec::new() };
        let Some(dir) = self.dirs.first() else { return Ok(group) };
        let path = dir.join(name);
        let failed =
            |operation, path: &Path, source| CgroupError { operation, path: path.to_owned(), source };
        fs::create_dir(&path).map_err(|e| failed("make the control group", &path, e))?;
        group.made.push(path.clone());
        group.dirs.push(path.clone());
        let kind = path.join("cgroup.type");
        if let Err(source) = fs::write(&kind, "threaded") {
            group.delete();
            return Err(failed("write", &kind, source));
        }
        // Without the cpu controller the group still counts CPU time; only limits need it.
        if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), "+cpu") {
            tracing::warn!(%error, dir = %dir.display(), "no cpu controller for containers' own groups");
        }
        group.limit(cpu);
        Ok(group)
    }

    /// Whether threads of one process can be in groups like this one while the process is in another.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Applies CPU limits; what the machine refuses is logged.
    pub fn limit(&self, cpu: &Cpu) {
        let files: Vec<(&str, String)> = match self.version {
            Version::V1 => v1_limits(cpu),
            Version::V2 => v2_limits(cpu),
        };
        let Some(dir) = self.dirs.iter().find(|dir| self.version == Version::V2 || is_in(dir, "cpu")) else {
            return;
        };
        for (name, value) in files {
            if let Err(error) = fs::write(dir.join(name), &value) {
                tracing::warn!(%error, dir = %dir.display(), name, value, "cannot set a CPU limit");
            }
        }
    }

    /// Moves process `pid` with all its threads into the group.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn add_process(&self, pid: u32) -> Result<(), CgroupError> {
        self.write_all(|_| Some("cgroup.procs"), pid)
    }

    /// Moves thread `tid` into the group.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn add_thread(&self, tid: u32) -> Result<(), CgroupError> {
        match self.version {
            Version::V2 => self.write_all(|_| Some("cgroup.threads"), tid),
            Version::V1 => {
                let threads =
                    |dir: &Path| V1_THREAD_CONTROLLERS.iter().any(|name| is_in(dir, name)).then_some("tasks");
                self.write_all(threads, tid)
            }
        }
    }

    /// Moves the threads that are still here into `to`, a group of the same process: what a guest leaves to be done (its connections' last bytes, a request under way) goes on there.
    pub fn evacuate(&self, to: &Self) {
        let file = if self.version == Version::V2 { "cgroup.threads" } else { "tasks" };
        for (dir, target) in self.dirs.iter().flat_map(|dir| {
            let same = to
                .dirs
                .iter()
                .filter(|other| self.version == Version::V2 || hierarchy(dir) == hierarchy(other));
            same.map(move |target| (dir, target))
        }) {
            for tid in fs::read_to_string(dir.join(file)).unwrap_or_default().lines() {
                if let Err(error) = fs::write(target.join(file), tid) {
                    // Most often: it has just ended.
                    tracing::debug!(%error, tid, dir = %dir.display(), "a thread stays in its control group");
                }
            }
        }
    }

    fn write_all(&self, file: impl Fn(&Path) -> Option<&'static str>, id: u32) -> Result<(), CgroupError> {
        for dir in &self.dirs {
            let Some(name) = file(dir) else { continue };
            let path = dir.join(name);
            fs::write(&path, id.to_string()).map_err(|source| CgroupError {
                operation: "write",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Whether no process or thread is in the group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let lists = ["cgroup.procs", "cgroup.threads", "tasks"];
        let listed = |dir: &PathBuf| {
            lists.iter().any(|list| fs::read(dir.join(list)).is_ok_and(|ids| !ids.is_empty()))
        };
        !self.dirs.iter().any(listed)
    }

    /// CPU time that the group used, if the machine counts it.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        match self.version {
            Version::V1 => {
                let dir = self.dirs.iter().find(|dir| is_in(dir, "cpuacct"))?;
                let text = fs::read_to_string(dir.join("cpuacct.usage")).ok()?;
                text.trim().parse().ok().map(Duration::from_nanos)
            }
            Version::V2 => {
                let text = fs::read_to_string(self.dirs.first()?.join("cpu.stat")).ok()?;
                let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
                line.trim().parse().ok().map(Duration::from_micros)
            }
        }
    }

    /// Periods, throttled periods and time throttled, if the group has a limit.
    #[must_use]
    pub fn throttling(&self) -> (u64, u64, Duration) {
        let dir = self.dirs.iter().find(|dir| self.version == Version::V2 || is_in(dir, "cpu"));
        let text = dir.and_then(|dir| fs::read_to_string(dir.join("cpu.stat")).ok()).unwrap_or_default();
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        let throttled = match self.version {
            Version::V1 => field("throttled_time").map(Duration::from_nanos),
            Version::V2 => field("throttled_usec").map(Duration::from_micros),
        };
        (field("nr_periods").unwrap_or(0), field("nr_throttled").unwrap_or(0), throttled.unwrap_or_default())
    }

    /// Removes what was made, deepest first. Parents that others use by now stay.
    pub fn delete(&self) {
        for dir in self.made.iter().rev() {
            match fs::remove_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // A parent: another container of the pod has its group there.
                Err(error) if !self.dirs.contains(dir) => {
                    tracing::debug!(%error, dir = %dir.display(), "control group stays")
                }
                Err(error) => tracing::warn!(%error, dir = %dir.display(), "cannot remove the control group"),
            }
        }
    }
}

/// What a capture leaves to the shim itself.
const SLACK_BYTES: u64 = 8 << 20;

/// Bytes that this process may still take before a memory limit of its control group, or of one above it, is met (memory that the kernel can take back counts as free); `None`: no limit is set.
#[must_use]
pub fn headroom_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let version = Version::detect();
    let line = text.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_memory = match version {
            Version::V2 => controllers.is_empty(),
            Version::V1 => controllers.split(',').any(|name| name == "memory"),
        };
        is_memory.then_some(path)
    })?;
    let mount = Path::new(MOUNT);
    let root = if version == Version::V2 { mount.to_owned() } else { mount.join("memory") };
    headroom_below(&root, version, Path::new(line.trim_start_matches('/')))
}

fn headroom_below(root: &Path, version: Version, relative: &Path) -> Option<u64> {
    let [limit, usage] = match version {
        Version::V2 => ["memory.max", "memory.current"],
        Version::V1 => ["memory.limit_in_bytes", "memory.usage_in_bytes"],
    };
    let number = |dir: &Path, name: &str| {
        fs::read_to_string(dir.join(name)).ok().and_then(|text| text.trim().parse::<u64>().ok())
    };
    let reclaimable = |dir: &Path| {
        let text = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let names = if version == Version::V2 {
            ["inactive_file", "active_file"]
        } else {
            ["total_inactive_file", "total_active_file"]
        };
        let of = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok())
        };
        names.into_iter().filter_map(of).sum::<u64>()
    };
    let of_group = |dir: &Path| {
        // "max", and v1's largest number, are no limits.
        let limit = number(dir, limit).filter(|limit| *limit < 1 << 60)?;
        let used = number(dir, usage)?.saturating_sub(reclaimable(dir));
        Some(limit.saturating_sub(used).saturating_sub(SLACK_BYTES))
    };
    relative.ancestors().filter_map(|part| of_group(&root.join(part))).min()
}

/// The groups that a process is in, so that it can go back there.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// `cgroup.procs` files.
    files: Vec<PathBuf>,
}

impl Origin {
    /// The calling process' groups (/proc/self/cgroup).
    #[must_use]
    pub fn of_this_process() -> Self {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let files = text.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let mount = Path::new(MOUNT);
            let root = match (controllers, Version::detect()) {
                ("", Version::V2) => mount.to_owned(),
                ("", Version::V1) => return None,
                (controllers, _) => {
                    let name = controllers.split(',').find(|name| V1_CONTROLLERS.contains(name))?;
                    mount.join(name)
                }
            };
            Some(root.join(path).join("cgroup.procs"))
        });
        Self { files: files.collect() }
    }

    /// Moves the calling process back.
    pub fn return_to(&self) {
        for file in &self.files {
            if let Err(error) = fs::write(file, std::process::id().to_string()) {
                tracing::warn!(%error, file = %file.display(), "cannot leave the pod's control group");
            }
        }
    }
}

/// The hierarchy of cgroup v1 that a group's directory is in.
fn hierarchy(dir: &Path) -> Option<&'static str> {
    V1_CONTROLLERS.into_iter().find(|name| is_in(dir, name))
}

fn is_in(dir: &Path, controller: &str) -> bool {
    // The hierarchy is the component below the mount point, or, in tests, below any root.
    dir.components().any(|part| part.as_os_str() == controller)
}

fn v1_limits(cpu: &Cpu) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares > 0) {
        files.push(("cpu.shares", shares.to_string()));
    }
    if let Some(period) = cpu.period.filter(|period| *period > 0) {
        files.push(("cpu.cfs_period_us", period.to_string()));
    }
    if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
        files.push(("cpu.cfs_quota_us", quota.to_string()));
    }
    files
}

fn v2_limits(cpu: &Cpu) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    if let Some(shares) = cpu.shares.filter(|shares| *shares > 0) {
        // As runc converts: [2..262144] to [1..10000].
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        files.push(("cpu.weight", weight.to_string()));
    }
    if cpu.quota.is_some() || cpu.period.is_some() {
        let quota =
            cpu.quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        let period = cpu.period.filter(|period| *period > 0).unwrap_or(100_000);
        files.push(("cpu.max", format!("{quota} {period}")));
    }
    files
}

#[cfg(test)]
mod tests;
