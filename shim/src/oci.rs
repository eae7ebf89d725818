//! The part of an OCI runtime specification (`config.json`) that the shim reads.
//!
//! Owns [`Spec`] and its parts, and nothing else: `spec.rs` gives them meaning. Fields that mean nothing to a guest of its own (seccomp,
//! masked paths, ...) are not here. Unknown fields and values never make a specification unreadable, which
//! `oci-spec`'s closed enumerations would: decisions/0002.
//!
//! <https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config.md>

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;
use seuss_snapshotter::beneath::Dir;

/// Name of the specification in a bundle.
pub const FILE_NAME: &str = "config.json";
/// Most bytes of a specification.
const BYTES_MAX: u64 = 16 << 20;

/// Why a specification could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadSpecError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a specification.
    #[error("{path} is not an OCI runtime specification: {source}", path = .path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Go writes an absent list or map as `null`.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The first process.
    pub process: Option<Process>,
    /// The root file system.
    pub root: Option<Root>,
    /// Host name.
    #[serde(deserialize_with = "null_is_empty")]
    pub hostname: String,
    /// Further mounts, in order.
    #[serde(deserialize_with = "null_is_empty")]
    pub mounts: Vec<Mount>,
    /// Programs to run on the host at points of the container's life.
    #[serde(deserialize_with = "null_is_empty")]
    pub hooks: BTreeMap<String, Option<Vec<serde_json::Value>>>,
    /// Annotations.
    #[serde(deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Linux' part.
    #[serde(deserialize_with = "null_is_empty")]
    pub linux: Linux,
}

/// `root`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Directory, relative to the bundle.
    pub path: PathBuf,
    /// Whether it may not be written.
    pub readonly: bool,
}

/// A process: that of `config.json`, or of an exec request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Its terminal's size.
    pub console_size: Option<ConsoleSize>,
    /// User and groups.
    #[serde(deserialize_with = "null_is_empty")]
    pub user: User,
    /// Program and arguments.
    #[serde(deserialize_with = "null_is_empty")]
    pub args: Vec<String>,
    /// Environment.
    #[serde(deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Limits.
    #[serde(deserialize_with = "null_is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Preference of the host's OOM killer.
    pub oom_score_adj: Option<i32>,
    /// Capabilities, of which those of the network mean something to a guest.
    #[serde(deserialize_with = "null_is_empty")]
    pub capabilities: Capabilities,
    /// Whether no program that is executed can get more than its parent has.
    pub no_new_privileges: bool,
}

/// Sets of capabilities, by name (`CAP_NET_RAW`).
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Capabilities {
    /// What any program in the container can have.
    #[serde(deserialize_with = "null_is_empty")]
    pub bounding: Vec<String>,
    /// What programs of unprivileged users keep.
    #[serde(deserialize_with = "null_is_empty")]
    pub ambient: Vec<String>,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConsoleSize {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// User and groups.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Supplementary groups.
    #[serde(deserialize_with = "null_is_empty")]
    pub additional_gids: Vec<u32>,
}

/// A POSIX limit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// `RLIMIT_NOFILE` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// A mount.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    /// Kind of file system; `bind` or empty for a part of the host's.
    #[serde(rename = "type")]
    pub kind: String,
    /// What.
    pub source: String,
    /// fstab-style options.
    #[serde(deserialize_with = "null_is_empty")]
    pub options: Vec<String>,
}

/// `linux`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Linux {
    /// Kernel parameters.
    #[serde(deserialize_with = "null_is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// Limits.
    #[serde(deserialize_with = "null_is_empty")]
    pub resources: Resources,
    /// Cgroup, in cgroupfs or systemd form.
    #[serde(deserialize_with = "null_is_empty")]
    pub cgroups_path: String,
    /// User ids of a user namespace of the container's own.
    #[serde(deserialize_with = "null_is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Namespaces to make or join.
    #[serde(deserialize_with = "null_is_empty")]
    pub namespaces: Vec<Namespace>,
    /// Device nodes beyond the standard ones.
    #[serde(deserialize_with = "null_is_empty")]
    pub devices: Vec<Device>,
}

/// A namespace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// `network`, `pid`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The one to join; empty: a new one.
    #[serde(deserialize_with = "null_is_empty")]
    pub path: String,
}

/// A range of ids of a user namespace.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct IdMapping {
    /// First id in the container.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id on the host.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// Number of ids.
    pub size: u32,
}

/// A device node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Its path in the container.
    pub path: String,
}

/// `linux.resources`; also what an update request carries.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory.
    #[serde(deserialize_with = "null_is_empty")]
    pub memory: Memory,
    /// Processors.
    #[serde(deserialize_with = "null_is_empty")]
    pub cpu: Cpu,
    /// Processes.
    #[serde(deserialize_with = "null_is_empty")]
    pub pids: Pids,
}

/// Limits on memory.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Memory {
    /// Bytes; zero and below: none.
    pub limit: Option<i64>,
}

/// Limits on processor time.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Cpu {
    /// Relative weight, 2..262144.
    pub shares: Option<u64>,
    /// Microseconds in a period; below zero: no limit.
    pub quota: Option<i64>,
    /// Length of a period in microseconds.
    pub period: Option<u64>,
    /// Processors to run on, as `0-3,7`.
    #[serde(deserialize_with = "null_is_empty")]
    pub cpus: String,
}

/// Limit on processes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Pids {
    /// Number; zero and below: none.
    pub limit: Option<i64>,
}

impl Spec {
    /// Reads the specification of the bundle at `bundle`.
    ///
    /// # Errors
    /// [`ReadSpecError`].
    pub fn read(bundle: &Dir) -> Result<Self, ReadSpecError> {
        let path = bundle.path().join(FILE_NAME);
        let text = bundle
            .read(FILE_NAME, BYTES_MAX)
            .map_err(|source| ReadSpecError::Io { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| ReadSpecError::Json { path, source })
    }

    /// The annotation `key`.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}
