//! A container: its guest, its processes, and everything on the host that belongs to it.
//!
//! Owns [`Container`]. A sandbox ("pause") container has no guest: it runs until it is killed. Requests come from [`crate::service`] through
//! [`crate::sandbox`]; news comes from the guest's thread (`news`). Both change the state under one lock, and queue the event that tells of the
//! change under the same lock: so containerd hears things in the order in which they were.
//!
//! - [`prepare`]: from specification and mounts to what a guest needs;
//! - [`process`]: one process, the first or an exec;
//! - `start`: the start of its guest and of execs;
//! - `requests`: what else containerd asks of a container that exists.

mod news;
pub mod prepare;
pub mod process;
mod requests;
mod start;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use containerd_shim_protos::types::mount::Mount;
use seuss_snapshotter::beneath::Dir;

pub use requests::{Pid, StateView};

use crate::cgroup::{Cgroup, relative_path};
use crate::error::TaskError;
use crate::events::{Event, EventQueue};
use crate::guest::{GuestControl, GuestEvent, Hypervisor, TextBudget};
use crate::io::{Owner, ProcessIo, StdioNames};
use crate::lifecycle::Exit;
use crate::mount::MountSpec;
use crate::netns;
use crate::oci::{Cpu, ReadSpecError, Spec};
use crate::record::{ProcessId, Record};
use crate::snapshots::key::Subject;
use crate::snapshots::policy::{Mode, Policy};
use crate::snapshots::{Place, Snapshots, rights};
use crate::spec::{self, GuestPlan, Network, Role};
use prepare::Prepared;
use process::Process;

/// What the containers of a shim share.
pub struct Shared {
    /// containerd's namespace.
    pub namespace: String,
    /// Where their events go.
    pub events: EventQueue,
    /// What starts their guests.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// What the pod's sandbox, created first, lays down for them.
    pub pod: Mutex<PodFacts>,
}

/// What a pod's sandbox determines for its containers.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    /// Host name.
    pub hostname: String,
    /// Network namespace, once there is a sandbox. containerd describes those of the pod's containers as `/proc/PID/ns/net` of the sandbox's process, which is
    /// this one, in containerd's own namespace: so it is the sandbox's that counts.
    pub network: Option<Network>,
    /// Control group of the shim's process.
    pub process_group: Option<Cgroup>,
    /// The highest OOM preference among its containers, which the process has.
    pub oom_score_adj: Option<i32>,
}

impl Shared {
    fn pod(&self) -> MutexGuard<'_, PodFacts> {
        // Plain data: whatever a panic left there is a whole value.
        self.pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request to create a container.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its root file system's mounts.
    pub rootfs: Vec<Mount>,
    /// Its first process' standard input and output.
    pub stdio: StdioNames,
}

/// A container.
pub struct Container {
    /// Its id.
    pub id: String,
    bundle: Dir,
    role: Role,
    network: Network,
    /// Its limit of memory, 0 for a sandbox.
    memory_bytes: u64,
    /// `HOME` of the first process' user, who is most often an exec's, too.
    home: Option<(u32, Vec<u8>)>,
    shared: Arc<Shared>,
    /// What its guest may cause in the node's log.
    text: TextBudget,
    state: Mutex<State>,
}

struct State {
    init: Process,
    execs: std::collections::BTreeMap<String, Process>,
    /// Token of the next exec; 0 is the first process.
    next_token: u32,
    /// For the start.
    plan: Option<(GuestPlan, Prepared)>,
    /// Until it is deleted.
    snapshots: Option<Snapshots>,
    guest: Option<Arc<dyn GuestControl>>,
    /// Somebody has sent a signal to it: its end is no news of its snapshot.
    signalled: bool,
    /// What the guest told before `guest` was there.
    early_news: Vec<GuestEvent>,
    /// The container's own control group.
    group: Option<Cgroup>,
}

impl Container {
    /// Creates a container: everything but running it. Blocks, for as long as it takes to read the root file system.
    ///
    /// # Errors
    /// [`TaskError`]; nothing is left behind.
    pub fn create(shared: &Arc<Shared>, request: CreateRequest) -> Result<Arc<Self>, TaskError> {
        let bundle = Dir::open(&request.bundle)
            .map_err(|source| ReadSpecError::Io { path: request.bundle.clone(), source })?;
        let spec = Spec::read(&bundle)?;
        let role = spec::role(&spec);
        let network = match role {
            Role::Sandbox => shared.pod().network.insert(spec::network(&spec)).clone(),
            Role::Container { .. } => shared.pod().network.clone().unwrap_or_else(|| spec::network(&spec)),
            Role::Alone => spec::network(&spec),
        };
        let owner = Owner { namespace: &shared.namespace, id: &request.id };
        let io = ProcessIo::open(&request.stdio, owner)?;
        let plan = match role {
            Role::Sandbox => {
                netns::set_sysctls(&network, &spec::net_sysctls(&spec)?)?;
                None
            }
            Role::Container { .. } | Role::Alone => {
                Some(plan_guest(shared, &request, &bundle, &spec, &role)?)
            }
        };
        let memory_bytes = plan.as_ref().map_or(0, |(plan, _)| plan.memory_bytes - spec::LIBRARY_OS_BYTES);
        let text = TextBudget::default();
        // The threads that this starts work for the guest.
        let metered = text.enter();
        let snapshots = match &plan {
            Some((plan, prepared)) => plan_snapshots(shared, &request.id, &spec, plan, prepared, &network)?,
            None => None,
        };
        drop(metered);
        let home = plan.as_ref().and_then(|(plan, _)| {
            let home = plan.process.env.iter().find(|entry| entry.starts_with(b"HOME="))?;
            Some((plan.process.uid, home.clone()))
        });
        let group = make_group(shared, &request.id, &role, &spec);
        let pid = std::process::id();
        let container = Arc::new(Self {
            id: request.id.clone(),
            bundle,
            role,
            network,
            memory_bytes,
            home,
            shared: Arc::clone(shared),
            text,
            state: Mutex::new(State {
                init: Process::new(request.stdio.clone(), io, pid),
                execs: Default::default(),
                next_token: 1,
                plan,
                snapshots,
                guest: None,
                signalled: false,
                early_news: Vec::new(),
                group,
            }),
        });
        container.share_facts(&spec);
        if let Err(error) = container.write_record(&container.lock()) {
            container.release_host_side();
            return Err(error);
        }
        shared.events.push(Event::Create {
            id: request.id,
            bundle: request.bundle.display().to_string(),
            rootfs: request.rootfs,
            stdio: [request.stdio.stdin, request.stdio.stdout, request.stdio.stderr],
            terminal: request.stdio.terminal,
            pid,
        });
        Ok(container)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug that has been answered with an internal error; the container must still be killable and deletable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is the pod's sandbox.
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        self.role == Role::Sandbox
    }

    /// Lets the pod's other containers and the process know what concerns them.
    fn share_facts(&self, spec: &Spec) {
        let mut pod = self.shared.pod();
        if self.role == Role::Sandbox {
            pod.hostname.clone_from(&spec.hostname);
        }
        let wanted = spec.process.as_ref().and_then(|process| process.oom_score_adj);
        // The sandbox's own wish (-998) is for a process that holds nothing; this one holds the containers.
        let wanted = wanted.filter(|_| self.role != Role::Sandbox);
        if let Some(score) = wanted.filter(|score| pod.oom_score_adj.is_none_or(|has| has < *score)) {
            pod.oom_score_adj = Some(score);
            if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
                tracing::warn!(%error, score, "cannot set the OOM score of the shim; it keeps its own");
            }
        }
    }

    fn write_record(&self, state: &State) -> Result<(), TaskError> {
        let process_group =
            self.owns_process_group().then(|| self.shared.pod().process_group.clone()).flatten();
        let record = Record {
            id: self.id.clone(),
            shim: ProcessId::own(),
            pid: state.init.pid,
            cgroups: state.group.iter().cloned().chain(process_group).collect(),
        };
        record.write(&self.bundle)
    }

    fn owns_process_group(&self) -> bool {
        matches!(self.role, Role::Sandbox | Role::Alone)
    }

    /// Removes what the container has on the host besides its guest: control groups (but the process' own, which the process must leave
    /// first) and mounts.
    fn release_host_side(&self) {
        let group = self.lock().group.take();
        if let Some(group) = group {
            if let Some(process) = &self.shared.pod().process_group {
                group.evacuate(process);
            }
            group.delete();
        }
        if let Err(error) = crate::mount::unmount_recursive(&self.bundle, prepare::ROOT_DIR) {
            tracing::warn!(%error, "cannot unmount the container's root file system");
        }
    }
}

fn plan_guest(
    shared: &Shared,
    request: &CreateRequest,
    bundle: &Dir,
    spec: &Spec,
    role: &Role,
) -> Result<(GuestPlan, Prepared), TaskError> {
    let pod_hostname = shared.pod().hostname.clone();
    let short_id: String = request.id.chars().take(12).collect();
    let hostname =
        if matches!(role, Role::Alone) || pod_hostname.is_empty() { short_id } else { pod_hostname };
    let mut plan = spec::translate(spec, &hostname)?;
    plan.process.identity = Policy::read(spec)?.identity_env.into_iter().map(String::into_bytes).collect();
    let mounts: Vec<MountSpec> = request.rootfs.iter().map(mount_spec).collect();
    let prepared = prepare::prepare(bundle, spec, &mounts, &mut plan.process)?;
    Ok((plan, prepared))
}

/// What the container has to do with snapshots; nothing where there is no store for them.
fn plan_snapshots(
    shared: &Shared,
    id: &str,
    spec: &Spec,
    plan: &GuestPlan,
    prepared: &Prepared,
    network: &Network,
) -> Result<Option<Snapshots>, TaskError> {
    let policy = Policy::read(spec)?;
    let (Some(socket), Some(images)) = (&prepared.store, &prepared.refs) else { return Ok(None) };
    // A terminal is somebody's: a clone would go on in the middle of a conversation.
    if policy.mode == Mode::Off || plan.process.terminal {
        return Ok(None);
    }
    let tenant = match spec.annotation(spec::SANDBOX_NAMESPACE) {
        Some(namespace) => namespace.to_owned(),
        None => format!("containerd/{}", shared.namespace),
    };
    let identity_env = policy.identity_env.clone();
    let subject = Subject {
        tenant: &tenant,
        images,
        process: &plan.process,
        memory_bytes: plan.memory_bytes,
        identity_env: &identity_env,
    };
    let rights = rights::of(&spec.mounts, &plan.process.files);
    let place = Place { socket, tenant: &tenant, guest: id, rights: &rights };
    let planned =
        Snapshots::plan(place, policy, &subject, network, plan.privileges, || prepared.images_again().ok());
    Ok(planned.inspect_err(|error| tracing::warn!(%error, "the container runs without snapshots")).ok())
}

fn mount_spec(mount: &Mount) -> MountSpec {
    MountSpec {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// Makes the container's control group; without one it runs all the same.
fn make_group(shared: &Shared, id: &str, role: &Role, spec: &Spec) -> Option<Cgroup> {
    let path = &spec.linux.cgroups_path;
    // The sandbox's own share is the smallest there is, meant for a process that sleeps; this one serves the pod.
    let none = Cpu::default();
    let cpu = if *role == Role::Sandbox { &none } else { &spec.linux.resources.cpu };
    if path.is_empty() {
        return None;
    }
    let made = match role {
        // The group of the whole process.
        Role::Sandbox | Role::Alone => {
            let made = Cgroup::create(&relative_path(path), cpu).and_then(|group| {
                group.add_process(std::process::id()).inspect_err(|_| group.delete())?;
                Ok(group)
            });
            match made {
                Ok(group) => {
                    shared.pod().process_group = Some(group);
                    return None;
                }
                Err(error) => Err(error),
            }
        }
        Role::Container { .. } => match shared.pod().process_group.as_ref() {
            Some(process) if process.version() == crate::cgroup::Version::V2 => {
                process.threaded_child(id, cpu)
            }
            _ => Cgroup::create(&relative_path(path), cpu),
        },
    };
    made.inspect_err(|error| tracing::warn!(%error, "the container runs without a control group of its own"))
        .ok()
}

fn now_exit(status: u32) -> Exit {
    Exit { status, at: SystemTime::now() }
}

#[cfg(test)]
mod tests;
