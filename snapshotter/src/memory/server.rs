//! The daemon's side of the store's socket: a thread per connection, which decodes and delegates to [`Shelf`].
//!
//! Peers are checked by their credentials (SO_PEERCRED): root, and the daemon's own user.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::channel::{Channel, Listener};
use super::protocol::{LayerEntry, Refusal, Reply, Request, VERSION};
use super::shelf::{Origin, Shelf, ShelfError};
use crate::layers::{Kind, Layers};
use crate::snapshot::SnapshotId;

/// Most connections at a time: a pod has one, seussctl another.
const CONNECTIONS_MAX: usize = 1024;

/// How often a watcher is looked after when nothing happens.
const WATCH_TICK: Duration = Duration::from_secs(1);

/// What connections share.
#[derive(Debug)]
pub struct Server {
    shelf: Arc<Shelf>,
    layers: Arc<Layers>,
    connections: AtomicUsize,
}

impl Server {
    /// Serves `shelf`, and the list of `layers`.
    #[must_use]
    pub fn new(shelf: Arc<Shelf>, layers: Arc<Layers>) -> Arc<Self> {
        Arc::new(Self { shelf, layers, connections: AtomicUsize::new(0) })
    }

    /// Accepts connections until the process ends.
    pub fn run(self: &Arc<Self>, listener: &Listener) {
        loop {
            let channel = match listener.accept() {
                Ok(channel) => channel,
                Err(error) => {
                    tracing::warn!(error = %error, "store: cannot accept");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            if self.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                let _ = channel.send(&refused(Refusal::Denied, "too many connections"), &[]);
                continue;
            }
            let server = Arc::clone(self);
            let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
                let since = Instant::now();
                let leases = HashMap::new();
                Connection { server: &server, channel: &channel, tenant: None, since, leases }.run();
                server.connections.fetch_sub(1, Ordering::Relaxed);
            });
            if let Err(error) = thread {
                self.connections.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(error = %error, "store: no thread for a connection");
            }
        }
    }
}

struct Connection<'s> {
    server: &'s Server,
    channel: &'s Channel,
    /// Known after `Hello`.
    tenant: Option<String>,
    /// When it began.
    since: Instant,
    leases: HashMap<SnapshotId, u64>,
}

fn refused(refusal: Refusal, message: impl Into<String>) -> Reply {
    Reply::Error { refusal, message: message.into() }
}

impl From<ShelfError> for Reply {
    fn from(error: ShelfError) -> Self {
        refused(error.refusal, error.message)
    }
}

impl Connection<'_> {
    fn run(mut self) {
        if !self.channel.is_trusted() {
            let _ = self.channel.send(&refused(Refusal::Denied, "only root may use the store"), &[]);
            return;
        }
        loop {
            let (request, descriptors) = match self.channel.receive::<Request>() {
                Ok(Some(message)) => message,
                Ok(None) => return,
                Err(error) => {
                    let _ = self.channel.send(&refused(Refusal::Invalid, error.to_string()), &[]);
                    return;
                }
            };
            let span = tracing::debug_span!("store", tenant = self.tenant.as_deref().unwrap_or(""));
            let answered = span.in_scope(|| match self.answer(request, descriptors) {
                Ok(()) => Ok(()),
                Err(Failed::Refused(error)) => {
                    tracing::debug!(error = %error, "refused");
                    self.channel.send(&Reply::from(error), &[])
                }
                Err(Failed::Gone(error)) => Err(error),
            });
            if answered.is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Result<(), Failed> {
        let shelf = &self.server.shelf;
        if let Request::Hello { version, tenant } = request {
            if version != VERSION {
                let message = format!("the store speaks version {VERSION}, not {version}");
                return Err(invalid(message));
            }
            self.tenant = Some(tenant);
            return self.say(&Reply::Done);
        }
        let Some(tenant) = self.tenant.clone() else { return Err(invalid("the first request is Hello")) };
        let tenant = tenant.as_str();
        match request {
            Request::Hello { .. } => Ok(()),
            Request::Find { keys, fit } => {
                let found = shelf.find(tenant, &keys, &fit)?;
                self.say(&found.map_or(Reply::Nothing, Reply::Entry))
            }
            Request::Put { labels, pinned, provenance } => {
                let files: Vec<File> = descriptors.into_iter().map(File::from).collect();
                let origin = Origin { provenance, since: self.since };
                let sources: [File; 3] = files
                    .try_into()
                    .map_err(|_| invalid("Put takes three descriptors: pages, tables, manifest"))?;
                self.say(&Reply::Entry(shelf.put(tenant, sources, labels, pinned, origin)?))
            }
            Request::Quota { guest } => self.say(&Reply::Quota(shelf.quota(tenant, &guest)?)),
            Request::Revoke { tenant: whose, right } => {
                if whose.is_empty() || !(tenant.is_empty() || tenant == whose) {
                    let message = format!("{tenant:?} cannot revoke rights of {whose:?}");
                    return Err(Failed::Refused(ShelfError { refusal: Refusal::Denied, message }));
                }
                self.say(&Reply::Revoked { count: shelf.revoke(&whose, right.as_deref())? })
            }
            Request::Get { id } => {
                let opened = shelf.get(tenant, &id)?;
                if let Ok(id) = opened.entry.id.parse() {
                    *self.leases.entry(id).or_default() += 1;
                }
                let files: Vec<_> = opened.files.iter().map(AsFd::as_fd).collect();
                self.channel.send(&Reply::Entry(opened.entry), &files).map_err(Failed::Gone)
            }
            Request::Lease { id } => {
                let id = shelf.lease(tenant, &id)?;
                *self.leases.entry(id).or_default() += 1;
                self.say(&Reply::Done)
            }
            Request::Release { id } => {
                let held = id.parse().ok().and_then(|id: SnapshotId| Some((id, self.leases.get_mut(&id)?)));
                let Some((id, count)) = held else {
                    return Err(invalid(format!("this connection has no lease of {id}")));
                };
                *count -= 1;
                if *count == 0 {
                    self.leases.remove(&id);
                }
                shelf.release(id);
                self.say(&Reply::Done)
            }
            Request::List => {
                for entry in shelf.list(tenant)? {
                    self.say(&Reply::Entry(entry))?;
                }
                self.say(&Reply::Done)
            }
            Request::Stat { id } => self.say(&Reply::Entry(shelf.stat(tenant, &id)?)),
            Request::Label { id, labels } => {
                shelf.label(tenant, &id, labels)?;
                self.say(&Reply::Done)
            }
            Request::Pin { id, pinned } => {
                shelf.pin(tenant, &id, pinned)?;
                self.say(&Reply::Done)
            }
            Request::WorkingSet { id } => {
                let [source] = <[OwnedFd; 1]>::try_from(descriptors)
                    .map_err(|_| invalid("WorkingSet takes one descriptor"))?;
                shelf.working_set(tenant, &id, &File::from(source))?;
                self.say(&Reply::Done)
            }
            Request::Outcome { id, lived } => {
                shelf.outcome(tenant, &id, lived)?;
                self.say(&Reply::Done)
            }
            Request::GivenUp { reason } => {
                shelf.given_up(&reason)?;
                self.say(&Reply::Done)
            }
            Request::Remove { id, recursive } => {
                let ids = shelf.remove(tenant, &id, recursive)?;
                self.say(&Reply::Removed { ids: ids.iter().map(ToString::to_string).collect() })
            }
            Request::Shrink { bytes } => {
                if !tenant.is_empty() {
                    let message = "only the node itself may evict".to_owned();
                    return Err(Failed::Refused(ShelfError { refusal: Refusal::Denied, message }));
                }
                let ids = shelf.shrink(bytes)?;
                self.say(&Reply::Removed { ids: ids.iter().map(ToString::to_string).collect() })
            }
            Request::Usage => self.say(&Reply::Usage(shelf.figures()?)),
            Request::Verify { id } => {
                shelf.verify(tenant, &id)?;
                self.say(&Reply::Done)
            }
            Request::Watch => self.watch(tenant),
            Request::Layers => {
                for record in self.server.layers.records() {
                    let (image_bytes, digest) =
                        record.blob.map_or((0, String::new()), |blob| (blob.len_bytes, blob.digest));
                    let files = match record.info.kind {
                        Kind::View => String::new(),
                        Kind::Active | Kind::Committed => record.files.as_str().to_owned(),
                    };
                    self.say(&Reply::Layer(LayerEntry {
                        key: record.info.key,
                        parent: record.info.parent,
                        kind: record.info.kind.to_string(),
                        unpacked_bytes: record.usage.size_bytes,
                        image_bytes,
                        digest,
                        files,
                    }))?;
                }
                self.say(&Reply::Done)
            }
        }
    }

    /// Tells events until the other end is closed.
    fn watch(&self, tenant: &str) -> Result<(), Failed> {
        let events = self.server.shelf.watch();
        self.say(&Reply::Done)?;
        loop {
            match events.recv_timeout(WATCH_TICK) {
                Ok((change, id)) if self.server.shelf.sees(tenant, id) => {
                    self.say(&Reply::Event { change, id: id.to_string() })?;
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let mut polled =
                        [rustix::event::PollFd::new(self.channel, rustix::event::PollFlags::empty())];
                    let _ = rustix::event::poll(&mut polled, Some(&rustix::time::Timespec::default()));
                    if polled[0].revents().contains(rustix::event::PollFlags::HUP) {
                        return Err(Failed::Gone(std::io::ErrorKind::BrokenPipe.into()));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn say(&self, reply: &Reply) -> Result<(), Failed> {
        self.channel.send(reply, &[]).map_err(Failed::Gone)
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        for (id, count) in self.leases.drain() {
            (0..count).for_each(|_| self.server.shelf.release(id));
        }
    }
}

enum Failed {
    Refused(ShelfError),
    /// The other end is closed.
    Gone(std::io::Error),
}

impl From<ShelfError> for Failed {
    fn from(error: ShelfError) -> Self {
        Self::Refused(error)
    }
}

fn invalid(message: impl Into<String>) -> Failed {
    Failed::Refused(ShelfError { refusal: Refusal::Invalid, message: message.into() })
}
