//! A container's connection to the node's store of memory snapshots.
//!
//! While a container is created the store is asked ([`Visit`]); while it runs, a thread of its own ([`Session`]) keeps what it needs leased, brings new snapshots to
//! the store, and tells it what clones teach. The guest waits for none of this. A store that was restarted finds the leases again; one that is
//! gone for good costs the sharing, not the container.

use std::fmt;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use seuss_snapshotter::memory::protocol::{Fit, Provenance, Quota, Refusal};
use seuss_snapshotter::memory::{Client, ClientError};
use seuss_snapshotter::snapshot::{KeepWorkingSet, SnapshotError, SnapshotId, Store, WorkPage};

use super::rights::{self, Right, Rotation};
use crate::guest::confine::{self, Granted, Reach, Role};
use crate::guest::{Allowance, GuestControl, Lineage, Obstacle, OriginError, StoreRoom, TextBudget};

/// Longest wait for an answer while a container is created: a start without a snapshot is better than none.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for an answer of a store that takes in a snapshot.
const PUT_PATIENCE: Duration = Duration::from_secs(60);
/// A clone that ends by itself before this has died young.
const YOUNG: Duration = Duration::from_secs(10);
/// First and longest wait before a connection is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// Why the store is of no help.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The store.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The snapshot cannot be used here.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// Local files.
    #[error(transparent)]
    Local(#[from] SnapshotError),
    /// Something that the program has read was taken away.
    #[error(
        "files that were mounted have been exchanged since the program began, and it may hold the old ones"
    )]
    Revoked,
    /// Of this process.
    #[error("cannot {operation}: {source}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

/// What the session's thread is asked to do.
enum Job {
    /// Bring the snapshot that `guest` has taken to the store.
    Put { id: SnapshotId, guest: Weak<dyn GuestControl> },
    /// Keep a working set.
    WorkingSet { id: SnapshotId, pages: Vec<WorkPage> },
    /// The container, a clone, has come to life; what it was restored from is judged by it.
    Lives { id: SnapshotId },
    /// It has died by itself.
    Died,
    /// A capture was given up.
    GivenUp { reason: &'static str },
    /// A capture was refused: see what the store has left.
    AskQuota,
    /// A right was taken away: the store is to know, and nothing more of this container is kept.
    Revoke { right: String },
    /// Leave.
    End,
}

/// Hands jobs over, and wakes the thread that does them.
#[derive(Clone)]
pub(super) struct Jobs {
    sender: Sender<Job>,
    wake: Arc<OwnedFd>,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

impl Jobs {
    fn push(&self, job: Job) {
        // A thread that has ended does nothing any more, and is not missed.
        if self.sender.send(job).is_ok() {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Jobs {
    /// A capture was given up, because of this.
    pub(super) fn given_up(&self, obstacle: Obstacle) {
        self.push(Job::GivenUp { reason: obstacle.name() });
    }
}

impl KeepWorkingSet for Jobs {
    fn keep(&self, id: SnapshotId, pages: &[WorkPage]) {
        self.push(Job::WorkingSet { id, pages: pages.to_vec() });
    }
}

/// The store, asked for a snapshot to start from.
#[derive(Debug)]
pub struct Visit {
    socket: PathBuf,
    tenant: String,
    client: Client,
    jobs: Jobs,
    todo: Receiver<Job>,
}

impl Visit {
    /// Connects to the store at `socket` for `tenant`.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn connect(socket: &Path, tenant: &str) -> Result<Self, SessionError> {
        let client = Client::connect(socket, tenant)?;
        client.set_patience(PATIENCE)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SessionError::Host { operation: "make an eventfd", source: errno.into() })?;
        let (sender, todo) = channel();
        let jobs = Jobs { sender, wake: Arc::new(wake) };
        Ok(Self { socket: socket.to_owned(), tenant: tenant.to_owned(), client, jobs, todo })
    }

    /// The deepest snapshot of the first of `keys` that there is one of, leased.
    ///
    /// # Errors
    /// [`SessionError`]: it was found, but cannot be used.
    pub fn find(&self, keys: &[String], fit: &Fit) -> Result<Option<Arc<Lineage>>, SessionError> {
        let Some(entry) = self.client.find(keys, fit)? else { return Ok(None) };
        let keeper: Arc<dyn KeepWorkingSet> = Arc::new(self.jobs.clone());
        Ok(Some(Lineage::of(self.client.lineage(&entry.id, &keeper)?)?))
    }

    /// What guest `guest` may still put.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn quota(&self, guest: &str) -> Result<Quota, SessionError> {
        Ok(self.client.quota(guest)?)
    }

    /// Stays, for as long as the container runs: `origin` is what it starts from, its own snapshots are written to `local` within `allowance`, and
    /// are lost with `rights`.
    ///
    /// # Errors
    /// [`SessionError::Host`]: no thread.
    pub fn stay(self, origin: Option<Arc<Lineage>>, takes: Takes<'_>) -> Result<Session, SessionError> {
        let Takes { local, allowance, guest, rights } = takes;
        let Self { socket, tenant, client, jobs, todo } = self;
        client.set_patience(PUT_PATIENCE)?;
        let keeper: Arc<dyn KeepWorkingSet> = Arc::new(jobs.clone());
        let wake = Arc::clone(&jobs.wake);
        let worker = Worker {
            socket,
            tenant,
            client: Some(client),
            todo,
            wake,
            keeper,
            local,
            allowance,
            provenance: Provenance { guest: guest.to_owned(), rights: rights::names(rights) },
            is_revoked: false,
            lineage: origin,
            retry: RETRY.0,
            judged: None,
            leftover: Vec::new(),
        };
        let text = TextBudget::of_this_thread();
        let run = move || {
            let _text = text.as_ref().map(TextBudget::enter);
            worker.run();
        };
        let thread = std::thread::Builder::new().name("snapshots".to_owned()).spawn(run);
        thread.map_err(|source| SessionError::Host { operation: "start a thread", source })?;
        let rotations = rights.iter().filter_map(|right| {
            let (jobs, dir, right) = (jobs.clone(), right.rotates_in.as_deref()?, right.name.clone());
            let revoke = move || jobs.push(Job::Revoke { right: right.clone() });
            let watched = Rotation::watch(dir, Box::new(revoke));
            let watched = watched.inspect_err(|error| {
                tracing::warn!(%error, dir = %dir.display(), "a rotation of mounted files will not be seen");
            });
            watched.ok()
        });
        let rotations = rotations.collect();
        Ok(Session { jobs, _rotations: rotations })
    }
}

/// What a session is to know of the snapshots that a container takes.
#[derive(Debug)]
pub struct Takes<'a> {
    /// Where they are written.
    pub local: Arc<Store>,
    /// How much there may be of them.
    pub allowance: Arc<Allowance>,
    /// The guest's name at the store.
    pub guest: &'a str,
    /// What they depend on.
    pub rights: &'a [Right],
}

/// A container's place at the store, until it is dropped.
#[derive(Debug)]
pub struct Session {
    jobs: Jobs,
    _rotations: Vec<Rotation>,
}

impl Session {
    /// Brings a snapshot that `guest` has just taken to the store.
    pub fn put(&self, id: SnapshotId, guest: &Arc<dyn GuestControl>) {
        self.jobs.push(Job::Put { id, guest: Arc::downgrade(guest) });
    }

    /// A capture was refused: what the store has left is asked for anew, something may have gone there.
    pub fn ask_quota(&self) {
        self.jobs.push(Job::AskQuota);
    }
}

impl Session {
    /// Hands over what is asked of the store.
    pub(super) fn jobs(&self) -> Jobs {
        self.jobs.clone()
    }

    /// The container, a clone of `id`, runs.
    pub(super) fn lives(&self, id: SnapshotId) {
        self.jobs.push(Job::Lives { id });
    }

    /// It has ended, though nobody asked it to.
    pub(super) fn died(&self) {
        self.jobs.push(Job::Died);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What was asked for before is done first.
        self.jobs.push(Job::End);
    }
}

struct Worker {
    socket: PathBuf,
    tenant: String,
    client: Option<Client>,
    todo: Receiver<Job>,
    wake: Arc<OwnedFd>,
    keeper: Arc<dyn KeepWorkingSet>,
    local: Arc<Store>,
    allowance: Arc<Allowance>,
    provenance: Provenance,
    /// Nothing more is kept: something that the program was made with was taken away.
    is_revoked: bool,
    /// What the guest builds on, as the store has it.
    lineage: Option<Arc<Lineage>>,
    retry: Duration,
    /// What the container was restored from, while it is young, and until when it is.
    judged: Option<(SnapshotId, Instant)>,
    /// Local snapshots that are not needed, but for their children.
    leftover: Vec<SnapshotId>,
}

impl Worker {
    fn run(mut self) {
        let reach = Reach::Keep(self.local.root());
        if let Err(error) = confine::enter(Role::Session, Granted::NOTHING, reach) {
            tracing::error!(%error, "no snapshots of this container are kept");
            return;
        }
        loop {
            confine::told_violation(Role::Session);
            match self.todo.try_recv() {
                Ok(Job::Put { id, guest }) => self.put(id, &guest),
                Ok(Job::WorkingSet { id, pages }) => self.tell_working_set(id, &pages),
                Ok(Job::Lives { id }) => self.judged = Some((id, Instant::now() + YOUNG)),
                Ok(Job::Died) => self.judge(false),
                Ok(Job::GivenUp { reason }) => self.tell(|client| client.given_up(reason)),
                Ok(Job::AskQuota) => self.ask_quota(),
                Ok(Job::Revoke { right }) => self.revoke(&right),
                Err(TryRecvError::Empty) => self.wait(),
                Ok(Job::End) | Err(TryRecvError::Disconnected) => return,
            }
        }
    }

    /// Until there is something to do, or the store is gone, or it is time to look for it again.
    fn wait(&mut self) {
        let now = Instant::now();
        let grown_up = self.judged.map(|(_, at)| at.saturating_duration_since(now));
        if grown_up == Some(Duration::ZERO) {
            return self.judge(true);
        }
        let retry = self.client.is_none().then_some(self.retry);
        let longest = retry.into_iter().chain(grown_up).min();
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        let client = self.client.as_ref().map(|client| PollFd::new(client, PollFlags::IN));
        let mut fds: Vec<_> = [PollFd::new(&self.wake, PollFlags::IN)].into_iter().chain(client).collect();
        let waited = poll(&mut fds, longest.as_ref());
        let store_speaks = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        let timed_out = waited == Ok(0);
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        if store_speaks {
            // Nothing was asked: it can only be the end.
            tracing::warn!(socket = %self.socket.display(), "the store of memory snapshots is gone");
            self.client = None;
            self.retry = RETRY.0;
        } else if timed_out && retry.is_some_and(|retry| now.elapsed() >= retry) {
            self.connect_again();
        }
    }

    /// What the container was restored from has a clone that has lived, or died young.
    fn judge(&mut self, lived: bool) {
        if let Some((id, _)) = self.judged.take() {
            self.tell(|client| client.outcome(&id.to_string(), lived));
        }
    }

    /// Tells the store something that nobody waits for.
    fn tell(&mut self, news: impl Fn(&Client) -> Result<(), ClientError>) {
        if let Err(error) = self.ask(|client| Ok(news(client)?)) {
            tracing::debug!(%error, "the store of memory snapshots was not told");
        }
    }

    fn connect_again(&mut self) {
        match self.lease_again() {
            Ok(client) => {
                tracing::info!(socket = %self.socket.display(), "the store of memory snapshots is back");
                self.client = Some(client);
                self.retry = RETRY.0;
            }
            Err(error) => {
                tracing::debug!(%error, "the store of memory snapshots is still gone");
                self.retry = (self.retry * 2).min(RETRY.1);
            }
        }
    }

    fn lease_again(&self) -> Result<Client, ClientError> {
        let client = Client::connect(&self.socket, &self.tenant)?;
        client.set_patience(PUT_PATIENCE)?;
        if let Some(lineage) = &self.lineage {
            // The youngest keeps its ancestors. One that was removed meanwhile is kept by this process' descriptors.
            match client.lease(&lineage.id().to_string()) {
                Err(ClientError::Refused { refusal: Refusal::NotFound | Refusal::Revoked, .. }) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(client)
    }

    /// Carry out a request; one that finds the connection broken is told again on a new one.
    fn ask<T>(&mut self, request: impl Fn(&Client) -> Result<T, SessionError>) -> Result<T, SessionError> {
        for attempt in 0.. {
            let client = match self.client.take() {
                Some(client) => client,
                None => self.lease_again()?,
            };
            match request(&client) {
                Err(SessionError::Client(ClientError::Io(error))) if attempt == 0 => {
                    tracing::debug!(%error, "the store of memory snapshots has hung up");
                }
                Err(SessionError::Client(error @ (ClientError::Io(_) | ClientError::Unexpected(_)))) => {
                    return Err(error.into());
                }
                answer => {
                    self.client = Some(client);
                    return answer;
                }
            }
        }
        unreachable!("the second attempt returns")
    }

    /// Bring a snapshot to the store, and let the guest build on it there. If that fails, the guest builds on what it built on before; the local files go in either
    /// case.
    fn put(&mut self, id: SnapshotId, guest: &Weak<dyn GuestControl>) {
        let (local, keeper) = (Arc::clone(&self.local), Arc::clone(&self.keeper));
        let provenance = self.provenance.clone();
        let is_revoked = self.is_revoked;
        let brought = self.ask(|client| {
            if is_revoked {
                return Err(SessionError::Revoked);
            }
            let files = local.files(id)?;
            let entry = client.put_from(&provenance, files.each_ref().map(|file| file.as_fd()))?;
            tracing::info!(snapshot = %id, level = entry.level, bytes = entry.bytes, "snapshot brought to the store");
            Ok(Lineage::of(client.lineage(&entry.id, &keeper)?)?)
        });
        match brought {
            Ok(lineage) => self.lineage = Some(lineage),
            Err(error) => tracing::warn!(snapshot = %id, %error, "the store does not take the snapshot"),
        }
        if let Some(guest) = guest.upgrade()
            && let Err(error) = guest.rebase(id, self.lineage.clone())
        {
            tracing::debug!(%error, "the guest has ended meanwhile");
        }
        self.leftover.push(id);
        // A child that was taken meanwhile keeps its parent's files until it is brought, too: the youngest goes first.
        let mut left: Vec<_> = std::mem::take(&mut self.leftover);
        while let Some(id) = left.pop() {
            match self.local.remove(id, false) {
                Ok(_) => self.allowance.settle(id),
                Err(SnapshotError::HasChildren { .. }) => self.leftover.push(id),
                Err(error) => {
                    tracing::warn!(snapshot = %id, %error, "the local files of a snapshot are not removed");
                }
            }
        }
        self.leftover.reverse();
        self.ask_quota();
    }

    /// Let the guest's captures know what the store has left for it.
    fn ask_quota(&mut self) {
        let guest = self.provenance.guest.clone();
        match self.ask(|client| Ok(client.quota(&guest)?)) {
            Ok(quota) => self.allowance.set_room(room(&quota)),
            // It says no when it is asked to keep something.
            Err(error) => tracing::debug!(%error, "the store's quota is not known"),
        }
    }

    /// Something that the program has read is not to be read any more.
    fn revoke(&mut self, right: &str) {
        self.is_revoked = true;
        let tenant = self.tenant.clone();
        match self.ask(|client| Ok(client.revoke(&tenant, Some(right))?)) {
            Ok(count) => tracing::info!(
                right,
                count,
                "mounted files were exchanged; snapshots that hold them are revoked"
            ),
            Err(error) => {
                tracing::warn!(%error, right, "snapshots that hold exchanged files are not revoked")
            }
        }
    }

    fn tell_working_set(&mut self, id: SnapshotId, pages: &[WorkPage]) {
        let words = pages.iter().flat_map(|page| [page.pfn, page.table, page.index]);
        let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        let told = self.ask(|client| {
            let file = memory_file(&bytes)
                .map_err(|source| SessionError::Host { operation: "make a file in memory", source })?;
            Ok(client.working_set(&id.to_string(), file.as_fd())?)
        });
        if let Err(error) = told {
            tracing::debug!(snapshot = %id, %error, "a working set is not kept");
        }
    }
}

/// What a quota leaves to a guest.
pub(super) fn room(quota: &Quota) -> StoreRoom {
    StoreRoom { snapshots: quota.left_snapshots, bytes: quota.left_bytes }
}

/// A file with these bytes, read from its start.
fn memory_file(bytes: &[u8]) -> std::io::Result<std::fs::File> {
    use std::io::{Seek as _, Write as _};
    let mut file = std::fs::File::from(rustix::fs::memfd_create("seuss", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}
