//! Memory snapshots of containers: which one a start uses, when new ones are taken, how they get to the node's store.
//!
//! Owns [`Snapshots`], what a container has to do with them. A snapshot that cannot be had or used is never a reason for a container not to run: the
//! start falls back to the next one, and to booting; the log says why.
//!
//! Annotations are [`policy`]'s, which starts are alike is [`key`]'s, when a program is ready [`readiness`]'s, the connection to the store [`session`]'s business.

mod account;
pub mod key;
pub mod policy;
mod readiness;
pub mod rights;
pub mod session;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use seuss_abi::ABI_VERSION;
use seuss_abi::spec::{InjectedFile, ProcessSpec};
use seuss_snapshotter::memory::protocol::Fit;
use seuss_snapshotter::snapshot::{Level, SnapshotId, Store};

use crate::cgroup;
use crate::guest::{
    Allowance, CaptureLimits, GuestControl, ImageBlob, KernelImage, Keys, Lineage, NetPrivileges, Origin,
    ShellPool, SnapshotSink, argument_key, host_cpu,
};
use crate::netns;
use crate::spec::Network;
use key::Subject;
use policy::Policy;
pub use readiness::News;
use readiness::Watch;
use rights::Right;
use session::{Session, SessionError, Takes, Visit};

/// Where a container's snapshots are, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Socket of the node's store.
    pub socket: &'a Path,
    /// The Kubernetes namespace, or what stands for one.
    pub tenant: &'a str,
    /// The container's name there.
    pub guest: &'a str,
    /// What it has read.
    pub rights: &'a [Right],
}

/// What a container starts from.
#[derive(Debug)]
pub struct Beginning {
    /// The snapshot.
    pub origin: Arc<Origin>,
    /// Its virtual machine, made ahead.
    pub pool: Option<Arc<ShellPool>>,
}

/// What a container has to do with snapshots.
#[derive(Debug)]
pub struct Snapshots {
    policy: Policy,
    session: Session,
    sink: SnapshotSink,
    beginning: Option<Beginning>,
    /// What the program was restored from, if it was.
    restored_from: Option<Restored>,
    /// Waits until the program of a guest that has booted is ready.
    watch: Option<Watch>,
}

#[derive(Clone, Copy, Debug)]
struct Restored {
    id: SnapshotId,
    level: Level,
}

impl Snapshots {
    /// Looks for what the container described by `subject` can start from. Blocks, for as long as it takes to map it.
    ///
    /// # Errors
    /// [`SessionError`]: the store is of no help, the container runs without snapshots.
    pub fn plan(
        place: Place<'_>,
        policy: Policy,
        subject: &Subject<'_>,
        network: &Network,
        privileges: NetPrivileges,
        blobs: impl Fn() -> Option<Vec<ImageBlob>>,
    ) -> Result<Self, SessionError> {
        let began = Instant::now();
        let function = key::function(subject);
        let visit = Visit::connect(place.socket, place.tenant)?;
        let fit = fit()?;
        let usable = |lineage: &Arc<Lineage>| {
            let manifest = lineage.leaf().manifest();
            let fits = match manifest.level {
                // Of a runtime, over which others may lie.
                Level::Base => subject.images.starts_with(&manifest.images),
                Level::Function | Level::Argument => subject.images == manifest.images,
            };
            let blobs = blobs().filter(|_| fits)?;
            match Origin::over(Arc::clone(lineage), blobs) {
                Ok(origin) => Some(origin),
                Err(error) => {
                    tracing::warn!(snapshot = %lineage.id(), %error, "a snapshot cannot be used");
                    None
                }
            }
        };
        let bases = if policy.mode.at_base() { key::bases(subject) } else { Vec::new() };
        let mut origin = None;
        // Of several runtimes the one with more layers: more of the start is done.
        let deepest_first: Vec<_> = bases.iter().rev().cloned().collect();
        let argument: Vec<_> = policy.argument.iter().map(|named| argument_key(&function, named)).collect();
        for keys in [&argument, std::slice::from_ref(&function), &deepest_first] {
            if origin.is_some() || keys.is_empty() {
                continue;
            }
            match visit.find(keys, &fit) {
                Ok(found) => origin = found.as_ref().and_then(usable),
                Err(error) => tracing::warn!(?keys, %error, "a snapshot cannot be used"),
            }
        }
        let local = Arc::new(Store::in_memory()?);
        let quota = visit.quota(place.guest)?;
        // What is on its way is at most what a guest of this size can be.
        let limits =
            CaptureLimits { per_minute: quota.captures_per_minute, pending_bytes: subject.memory_bytes };
        let allowance = Arc::new(Allowance::new(limits, Some(Box::new(cgroup::headroom_bytes))));
        allowance.set_room(session::room(&quota));
        let takes = Takes {
            local: Arc::clone(&local),
            allowance: Arc::clone(&allowance),
            guest: place.guest,
            rights: place.rights,
        };
        let session = visit.stay(origin.as_ref().map(|origin| Arc::clone(origin.lineage())), takes)?;
        let sink = SnapshotSink {
            store: local,
            images: subject.images.to_vec(),
            base: origin.is_none() && !bases.is_empty(),
            keys: Keys::Derived { bases, function },
            name: String::new(),
            command: subject.process.command_line(),
            terminal: subject.process.terminal,
            allowance,
        };
        let restored_from =
            origin.as_ref().map(|origin| Restored { id: origin.id(), level: origin.manifest().level });
        let beginning = origin.map(|origin| {
            let manifest = origin.manifest();
            tracing::info!(
                snapshot = %origin.id(), level = %manifest.level, depth = manifest.depth,
                elapsed_us = began.elapsed().as_micros() as u64, "snapshot found"
            );
            Beginning { pool: one_ahead(&origin, network, privileges), origin }
        });
        Ok(Self { policy, session, sink, beginning, restored_from, watch: None })
    }

    /// What to start from; `None`: boot.
    pub fn take_beginning(&mut self) -> Option<Beginning> {
        self.beginning.take()
    }

    /// It could not be started from: the container boots.
    pub fn boots(&mut self) {
        self.restored_from = None;
    }

    /// Where the guest's own snapshots go.
    #[must_use]
    pub fn sink(&self) -> SnapshotSink {
        self.sink.clone()
    }

    /// What a clone of a snapshot of `level` is told: what differs from pod to pod. Before the program has looked at any mounted file, that is all of them.
    #[must_use]
    pub fn identity(&self, process: &ProcessSpec, level: Level) -> ProcessSpec {
        let names = &self.policy.identity_env;
        let env = process.env.iter().filter(|entry| key::is_identity_env(entry, names));
        let is_told = |file: &&InjectedFile| level == Level::Base || key::is_identity_file(file);
        let files = process.files.iter().filter(is_told);
        ProcessSpec {
            args: process.args.clone(),
            hostname: process.hostname.clone(),
            env: env.cloned().collect(),
            identity: names.iter().map(|name| name.clone().into_bytes()).collect(),
            files: files.cloned().collect(),
            no_hooks: process.no_hooks,
            ..ProcessSpec::default()
        }
    }

    /// The container runs on `guest`.
    pub fn runs(&mut self, guest: &Arc<dyn GuestControl>) {
        if let Some(restored) = self.restored_from {
            self.session.lives(restored.id);
        }
        // What was restored from a function snapshot, or from what builds on one, was ready then.
        if self.restored_from.is_none_or(|restored| restored.level == Level::Base) {
            self.watch = Watch::begin(&self.policy, guest, self.session.jobs());
        }
    }

    /// The container's first process has ended, though nobody asked it to.
    pub fn died(&self) {
        self.session.died();
    }

    /// The program or its guest has done something.
    pub fn hear(&self, news: News) {
        if let Some(watch) = &self.watch {
            watch.tell(news);
        }
    }

    /// The guest has ended.
    pub fn ended(&self) {
        if let Some(watch) = &self.watch {
            watch.end();
        }
    }

    /// A snapshot was refused.
    pub fn refused(&self) {
        self.session.ask_quota();
    }

    /// A snapshot of `guest` was taken.
    pub fn taken(&self, id: SnapshotId, guest: &Arc<dyn GuestControl>) {
        self.session.put(id, guest);
    }
}

/// A virtual machine made ahead, with the thread that will drive it in `network`.
fn one_ahead(origin: &Arc<Origin>, network: &Network, privileges: NetPrivileges) -> Option<Arc<ShellPool>> {
    let make = || ShellPool::one(Arc::clone(origin), privileges).ok();
    match network {
        // One that is made at the start, with the thread.
        Network::New => make(),
        Network::Host | Network::Path(_) => netns::run_in(network, make).ok().flatten(),
    }
}

fn fit() -> Result<Fit, SessionError> {
    let host = |error: crate::guest::StartError| SessionError::Origin(error.into());
    let kernel = KernelImage::chosen().map_err(|error| host(error.into()))?;
    let cpu = host_cpu().map_err(host)?;
    Ok(Fit {
        abi_version: ABI_VERSION,
        kernel: kernel.digest().iter().map(|byte| format!("{byte:02x}")).collect(),
        cpu_features: cpu.features,
        xcr0: cpu.xcr0,
        xsave_bytes: cpu.xsave_bytes,
    })
}
