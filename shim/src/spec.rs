//! An OCI specification, in the guest's terms.
//!
//! Owns [`translate`] (specification to [`GuestPlan`]), [`translate_exec`] and [`role`]. What a guest of its own makes pointless is ignored
//! (most capabilities, seccomp, masked paths, IPC and UTS namespaces: the program cannot reach the host's kernel). What a program would miss is
//! refused with an error that names it; nothing is dropped silently. Mounts are in [`mounts`].

pub mod mounts;

use std::path::PathBuf;

use seuss_abi::comm::MAILBOX_SIZE;
use seuss_abi::layout::{PRIVATE_MAX, PRIVATE_MIN};
use seuss_abi::spec::ProcessSpec;

use crate::guest::NetPrivileges;
use crate::oci::{Cpu, IdMapping, Process, Spec};
use crate::size::display_bytes;
use crate::snapshots::policy::has_no_hooks;
use mounts::MountError;

/// Memory of a guest whose container has no limit.
pub const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;
/// What a guest has beside its limit, for its library OS: page tables, kernel image, heap. On Linux the kernel's memory is not the program's, either; the RuntimeClass' overhead pays for it.
pub const LIBRARY_OS_BYTES: u64 = 4 << 20;

/// Annotation: "sandbox" or "container".
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// Annotation: id of the container's pod sandbox.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// Annotation: Kubernetes namespace of the pod.
pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";

/// Device nodes that every container has by the OCI specification: the guest has its own.
const STANDARD_DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
];

/// Stands for users without a number on the host (/proc/sys/kernel/overflowuid).
const OVERFLOW_UID: u32 = 65_534;

/// Why a specification cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No `process`.
    #[error("the specification has no process")]
    NoProcess,
    /// No arguments.
    #[error("process.args is empty: give the container a command, or the image an Entrypoint")]
    NoArguments,
    /// Too little memory.
    #[error(
        "memory limit {limit} is too small: a guest needs at least {least} for itself (raise resources.limits.memory)",
        limit = display_bytes(*.limit_bytes), least = display_bytes(*.least_bytes)
    )]
    Memory {
        /// The limit.
        limit_bytes: u64,
        /// The least that works.
        least_bytes: u64,
    },
    /// A mount cannot be met.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Hooks.
    #[error("OCI hooks ({which}) are not supported: there is no process on the host that they could act on")]
    Hooks {
        /// Kind of hook.
        which: String,
    },
    /// A device.
    #[error(
        "device {path} is not supported: a guest has no access to the host's devices (run it without it, and not privileged)"
    )]
    Device {
        /// Its path.
        path: String,
    },
    /// The host's process namespace.
    #[error(
        "the host's process namespace (hostPID) is not supported: a guest cannot see or signal the host's processes"
    )]
    HostPid,
    /// A kernel parameter.
    #[error("sysctl {key} is not supported: only net.* is (it applies to the pod's network namespace)")]
    Sysctl {
        /// Its name.
        key: String,
    },
    /// The description does not fit.
    #[error(
        "arguments, environment and mounted files have {size_bytes} bytes together; the guest takes {limit_bytes} (use smaller ConfigMaps and Secrets)"
    )]
    TooLarge {
        /// Size of the encoded description.
        size_bytes: usize,
        /// The limit.
        limit_bytes: u64,
    },
}

/// What a container is in its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The pod's sandbox ("pause") container.
    Sandbox,
    /// A container of the pod with that sandbox.
    Container {
        /// Id of the sandbox.
        sandbox_id: String,
    },
    /// A container without a pod (`ctr run`).
    Alone,
}

/// Network namespace of a container's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// The host's.
    Host,
    /// The one at this path.
    Path(PathBuf),
    /// A new one.
    New,
}

/// Everything that is needed to start a container's guest, except its images and descriptors.
#[derive(Clone, Debug)]
pub struct GuestPlan {
    /// The first process.
    pub process: ProcessSpec,
    /// Memory limit.
    pub memory_bytes: u64,
    /// Where its sockets will be.
    pub network: Network,
    /// What they may do there.
    pub privileges: NetPrivileges,
    /// `linux.cgroupsPath`, empty if there is none.
    pub cgroups_path: String,
    /// Limits on processor time.
    pub cpu: Cpu,
    /// `process.oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
}

/// The container's role, from the annotations that containerd's CRI plugin sets.
#[must_use]
pub fn role(spec: &Spec) -> Role {
    match (spec.annotation(CONTAINER_TYPE), spec.annotation(SANDBOX_ID)) {
        (Some("sandbox"), _) => Role::Sandbox,
        (_, Some(sandbox_id)) => Role::Container { sandbox_id: sandbox_id.to_owned() },
        _ => Role::Alone,
    }
}

/// Translates a container's specification. `hostname` is the pod's, for a container whose specification has none.
///
/// Reads the files that the mounts name.
///
/// # Errors
/// [`SpecError`], naming what cannot be met.
pub fn translate(spec: &Spec, hostname: &str) -> Result<GuestPlan, SpecError> {
    let process = spec.process.as_ref().ok_or(SpecError::NoProcess)?;
    refuse_unsupported(spec)?;
    let mut translated = translate_exec(process)?;
    let hostname = if spec.hostname.is_empty() { hostname } else { &spec.hostname };
    translated.hostname = hostname.as_bytes().to_vec();
    translated.no_hooks = has_no_hooks(spec);
    translated.read_only_root = spec.root.as_ref().is_some_and(|root| root.readonly);
    translated.nproc =
        spec.linux.resources.pids.limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0);
    translated.files = mounts::inject(&spec.mounts, &process.user)?;
    let size_bytes = translated.encode().len();
    if size_bytes as u64 > MAILBOX_SIZE {
        return Err(SpecError::TooLarge { size_bytes, limit_bytes: MAILBOX_SIZE });
    }
    Ok(GuestPlan {
        process: translated,
        memory_bytes: memory_bytes(spec)? + LIBRARY_OS_BYTES,
        network: network(spec),
        privileges: net_privileges(spec, process),
        cgroups_path: spec.linux.cgroups_path.clone(),
        cpu: spec.linux.resources.cpu.clone(),
        oom_score_adj: process.oom_score_adj,
    })
}

/// Translates a process to start in a running guest.
///
/// # Errors
/// [`SpecError::NoArguments`].
pub fn translate_exec(process: &Process) -> Result<ProcessSpec, SpecError> {
    if process.args.is_empty() {
        return Err(SpecError::NoArguments);
    }
    let bytes = |list: &[String]| list.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let size = process.console_size.unwrap_or_default();
    let nofile =
        process.rlimits.iter().find(|limit| limit.kind == "RLIMIT_NOFILE").map_or(0, |limit| limit.soft);
    Ok(ProcessSpec {
        args: bytes(&process.args),
        env: bytes(&process.env),
        cwd: if process.cwd.is_empty() { b"/".to_vec() } else { process.cwd.as_bytes().to_vec() },
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        umask: process.user.umask.unwrap_or(0o22),
        terminal: process.terminal,
        window: (clamp(size.height), clamp(size.width)),
        nofile,
        ..ProcessSpec::default()
    })
}

/// Network namespace of a container or sandbox.
#[must_use]
pub fn network(spec: &Spec) -> Network {
    match spec.linux.namespaces.iter().find(|namespace| namespace.kind == "network") {
        None => Network::Host,
        Some(namespace) if namespace.path.is_empty() => Network::New,
        Some(namespace) => Network::Path(PathBuf::from(&namespace.path)),
    }
}

/// What sockets of a container may do on the host: as much as any program in it could under runc.
///
/// That is the bounding set, for a container whose first process is root's, or in which a set-user-id program or one with file capabilities could make use of it; else
/// what is ambient (capabilities(7)). Which process of the guest may do what is the guest's own affair, within this.
#[must_use]
pub fn net_privileges(spec: &Spec, process: &Process) -> NetPrivileges {
    let sets = &process.capabilities;
    let reachable =
        if process.user.uid == 0 || !process.no_new_privileges { &sets.bounding } else { &sets.ambient };
    let has = |name: &str| reachable.iter().any(|capability| capability == name);
    NetPrivileges {
        bind_service: has("CAP_NET_BIND_SERVICE"),
        raw: has("CAP_NET_RAW"),
        admin: has("CAP_NET_ADMIN"),
        owner: Some(host_uid(spec, process.user.uid)),
    }
}

/// The host's number of a container's user.
fn host_uid(spec: &Spec, uid: u32) -> u32 {
    let mappings = &spec.linux.uid_mappings;
    if mappings.is_empty() {
        return uid;
    }
    let within = |mapping: &IdMapping| {
        let offset = uid.checked_sub(mapping.container_id).filter(|offset| *offset < mapping.size)?;
        mapping.host_id.checked_add(offset)
    };
    mappings.iter().find_map(within).unwrap_or(OVERFLOW_UID)
}

/// Kernel parameters of the network namespace, as (path below /proc/sys, value).
///
/// # Errors
/// [`SpecError::Sysctl`] for a parameter that is not the network's.
pub fn net_sysctls(spec: &Spec) -> Result<Vec<(String, String)>, SpecError> {
    let entry = |(key, value): (&String, &String)| {
        if key.starts_with("net.") && !key.contains("..") && !key.contains('/') {
            Ok((key.replace('.', "/"), value.clone()))
        } else {
            Err(SpecError::Sysctl { key: key.clone() })
        }
    };
    spec.linux.sysctl.iter().map(entry).collect()
}

fn memory_bytes(spec: &Spec) -> Result<u64, SpecError> {
    let limit = spec
        .linux
        .resources
        .memory
        .limit
        .and_then(|limit| u64::try_from(limit).ok())
        .filter(|limit| *limit > 0);
    let bytes = limit.unwrap_or(DEFAULT_MEMORY_BYTES);
    if bytes < PRIVATE_MIN {
        return Err(SpecError::Memory { limit_bytes: bytes, least_bytes: PRIVATE_MIN });
    }
    if bytes > PRIVATE_MAX {
        tracing::warn!(
            limit_bytes = bytes,
            used_bytes = PRIVATE_MAX,
            "memory limit is larger than the largest guest"
        );
    }
    Ok(bytes.min(PRIVATE_MAX))
}

fn refuse_unsupported(spec: &Spec) -> Result<(), SpecError> {
    let hook = spec.hooks.iter().find(|(_, list)| list.as_ref().is_some_and(|list| !list.is_empty()));
    if let Some((which, _)) = hook {
        return Err(SpecError::Hooks { which: which.clone() });
    }
    if let Some(device) =
        spec.linux.devices.iter().find(|device| !STANDARD_DEVICES.contains(&device.path.as_str()))
    {
        return Err(SpecError::Device { path: device.path.clone() });
    }
    net_sysctls(spec)?;
    match spec.linux.namespaces.iter().find(|namespace| namespace.kind == "pid") {
        None => Err(SpecError::HostPid),
        Some(namespace) if !namespace.path.is_empty() => {
            // CRI's default where the caller says nothing (crictl), so it cannot be refused; the kubelet asks for it with shareProcessNamespace.
            tracing::info!(
                "the pod's containers share a process namespace by its configuration; guests see only their own processes"
            );
            Ok(())
        }
        Some(_) => Ok(()),
    }
}

fn clamp(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
