//! Memory snapshots of containers: which one a start uses, when new ones are taken, how they get to the node's store.
//!
//! Owns [`Snapshots`], what a container has to do with them. A snapshot that cannot be had or used is never a reason for a container not to run: the
//! start falls back to the next one, and to booting; the log says why.
//!
//! Annotations are [`policy`]'s, which starts are alike is [`key`]'s, the connection to the store [`session`]'s business.

mod account;
pub mod key;
pub mod policy;
pub mod session;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seuss_abi::ABI_VERSION;
use seuss_abi::spec::{InjectedFile, ProcessSpec};
use seuss_snapshotter::memory::protocol::Fit;
use seuss_snapshotter::snapshot::{Level, SnapshotId, Store};

use crate::guest::{
    GuestControl, ImageBlob, KernelImage, Keys, Lineage, Origin, ShellPool, SnapshotSink, argument_key,
    host_cpu,
};
use crate::netns;
use crate::spec::Network;
use key::Subject;
use policy::Policy;
use session::{Session, SessionError, Visit};

/// Longest wait for the answer to a warm-up request.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(10);

/// Where a container's snapshots are, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Socket of the node's store.
    pub socket: &'a Path,
    /// The Kubernetes namespace, or what stands for one.
    pub tenant: &'a str,
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
    /// What the program was restored from is a function snapshot or more: it was ready then.
    restored_ready: bool,
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
        let session =
            visit.stay(Arc::clone(&local), origin.as_ref().map(|origin| Arc::clone(origin.lineage())))?;
        let sink = SnapshotSink {
            store: local,
            images: subject.images.to_vec(),
            base: origin.is_none() && !bases.is_empty(),
            keys: Keys::Derived { bases, function },
            name: String::new(),
            command: subject.process.command_line(),
            terminal: subject.process.terminal,
        };
        let restored_ready = origin.as_ref().is_some_and(|origin| origin.manifest().level != Level::Base);
        let beginning = origin.map(|origin| {
            let manifest = origin.manifest();
            tracing::info!(
                snapshot = %origin.id(), level = %manifest.level, depth = manifest.depth,
                elapsed_us = began.elapsed().as_micros() as u64, "snapshot found"
            );
            Beginning { pool: ShellPool::one(Arc::clone(&origin)).ok(), origin }
        });
        Ok(Self { policy, session, sink, beginning, restored_ready })
    }

    /// What to start from; `None`: boot.
    pub fn take_beginning(&mut self) -> Option<Beginning> {
        self.beginning.take()
    }

    /// It could not be started from: the container boots.
    pub fn boots(&mut self) {
        self.restored_ready = false;
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
            files: files.cloned().collect(),
            ..ProcessSpec::default()
        }
    }

    /// The program is ready: its function snapshot is taken, after a warm-up request if there is to be one.
    pub fn ready(&self, guest: &Arc<dyn GuestControl>) {
        if !self.policy.mode.at_readiness() || self.restored_ready {
            return;
        }
        let (guest, warm_up) = (Arc::clone(guest), self.policy.warm_up.clone());
        let network = Network::Path(format!("/proc/self/task/{}/ns/net", guest.tid()).into());
        let take = move || {
            if let Some(warm_up) = &warm_up {
                match netns::run_in(&network, || warm_up.get(WARM_UP_PATIENCE)) {
                    Ok(Ok(answer)) => tracing::info!(status = answer.status, "warm-up request answered"),
                    Ok(Err(error)) => tracing::warn!(%error, path = warm_up.path, "warm-up request failed"),
                    Err(error) => tracing::warn!(%error, "no warm-up request"),
                }
            }
            if let Err(error) = guest.snapshot(Level::Function) {
                tracing::debug!(%error, "the guest has ended before its snapshot");
            }
        };
        // Not on the caller's thread, which is the guest's.
        if let Err(error) = std::thread::Builder::new().name("warm-up".to_owned()).spawn(take) {
            tracing::warn!(%error, "no snapshot of the ready program: no thread");
        }
    }

    /// A snapshot of `guest` was taken.
    pub fn taken(&self, id: SnapshotId, guest: &Arc<dyn GuestControl>) {
        self.session.put(id, guest);
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
