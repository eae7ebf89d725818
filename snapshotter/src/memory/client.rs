//! The store's socket as shims and seussctl use it.
//!
//! A [`Client`] is one connection: what it leases is released when it is dropped. After the daemon was restarted its requests fail with
//! [`ClientError::Io`]; a new client leases again what is still in use ([`Client::lease`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::channel::Channel;
use super::protocol::{
    Change, Entry, Figures, Fit, LayerEntry, Provenance, Quota, Refusal, Reply, Request, VERSION,
};
use crate::snapshot::{KeepWorkingSet, Snapshot, SnapshotError, SnapshotFiles};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon cannot be reached.
    #[error("cannot reach the store at {path}: {source}", path = .path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("the connection to the store failed: {0}")]
    Io(#[from] io::Error),
    /// The store refused.
    #[error("{message}")]
    Refused {
        /// Why.
        refusal: Refusal,
        /// In words.
        message: String,
    },
    /// A snapshot cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store answered something else.
    #[error("the store answered {0:?}, which was not asked")]
    Unexpected(Box<Reply>),
}

/// A snapshot that was got: leased by its connection.
#[derive(Debug)]
pub struct Got {
    /// What it is.
    pub entry: Entry,
    /// Its files.
    pub files: SnapshotFiles,
}

/// A connection to the store.
#[derive(Debug)]
pub struct Client(Channel);

impl Client {
    /// Connects as `tenant`; empty: the node itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(path: &Path, tenant: &str) -> Result<Self, ClientError> {
        let channel = Channel::connect(path)
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let client = Self(channel);
        client.done(&Request::Hello { version: VERSION, tenant: tenant.to_owned() }, &[])?;
        Ok(client)
    }

    /// From now on no request waits longer than this for its answer; it fails with [`ClientError::Io`] then, and the connection is of no use any more.
    ///
    /// # Errors
    /// setsockopt(2)'s.
    pub fn set_patience(&self, patience: Duration) -> Result<(), ClientError> {
        Ok(self.0.set_patience(patience)?)
    }

    fn receive(&self) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        match self.0.receive()? {
            None => Err(ClientError::Io(io::ErrorKind::UnexpectedEof.into())),
            Some((Reply::Error { refusal, message }, _)) => Err(ClientError::Refused { refusal, message }),
            Some(answer) => Ok(answer),
        }
    }

    fn ask(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Reply, ClientError> {
        self.0.send(request, files)?;
        Ok(self.receive()?.0)
    }

    fn done(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        match self.ask(request, files)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// The snapshot of the first of `keys` that there is one of; see [`Request::Find`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn find(&self, keys: &[String], fit: &Fit) -> Result<Option<Entry>, ClientError> {
        match self.ask(&Request::Find { keys: keys.to_vec(), fit: fit.clone() }, &[])? {
            Reply::Entry(entry) => Ok(Some(entry)),
            Reply::Nothing => Ok(None),
            other => Err(unexpected(other)),
        }
    }

    /// Puts a snapshot: `pages`, `tables`, `manifest`, each read by the store from where it stands to its end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn put(
        &self,
        [pages, tables, manifest]: [BorrowedFd<'_>; 3],
        labels: &BTreeMap<String, String>,
        pinned: bool,
    ) -> Result<Entry, ClientError> {
        let provenance = Provenance::default();
        let request = Request::Put { labels: labels.clone(), pinned, provenance };
        self.entry(&request, &[pages, tables, manifest])
    }

    /// As [`Self::put`], and says where the snapshot comes from.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn put_from(
        &self,
        provenance: &Provenance,
        [pages, tables, manifest]: [BorrowedFd<'_>; 3],
    ) -> Result<Entry, ClientError> {
        let provenance = provenance.clone();
        let request = Request::Put { labels: BTreeMap::new(), pinned: false, provenance };
        self.entry(&request, &[pages, tables, manifest])
    }

    fn entry(&self, request: &Request, files: &[BorrowedFd<'_>]) -> Result<Entry, ClientError> {
        match self.ask(request, files)? {
            Reply::Entry(entry) => Ok(entry),
            other => Err(unexpected(other)),
        }
    }

    /// What guest `guest` of this tenant may still put.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn quota(&self, guest: &str) -> Result<Quota, ClientError> {
        match self.ask(&Request::Quota { guest: guest.to_owned() }, &[])? {
            Reply::Quota(quota) => Ok(quota),
            other => Err(unexpected(other)),
        }
    }

    /// Ends the right of `tenant`'s snapshots to be used, of all or of those that depend on `right`; see [`Request::Revoke`]. How many it were.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn revoke(&self, tenant: &str, right: Option<&str>) -> Result<u64, ClientError> {
        let request = Request::Revoke { tenant: tenant.to_owned(), right: right.map(str::to_owned) };
        match self.ask(&request, &[])? {
            Reply::Revoked { count } => Ok(count),
            other => Err(unexpected(other)),
        }
    }

    /// Opens a snapshot and leases it.
    ///
    /// # Errors
    /// [`ClientError`]; [`Refusal::Damaged`] if its bytes are not what was written.
    pub fn get(&self, id: &str) -> Result<Got, ClientError> {
        self.0.send(&Request::Get { id: id.to_owned() }, &[])?;
        let (reply, files) = self.receive()?;
        let mut files = files.into_iter().map(File::from);
        match (reply, files.next(), files.next(), files.next()) {
            (Reply::Entry(entry), Some(manifest), Some(pages), Some(tables)) => {
                let files = SnapshotFiles { manifest, pages, tables, working_set: files.next() };
                Ok(Got { entry, files })
            }
            (other, ..) => Err(unexpected(other)),
        }
    }

    /// Opens and leases a snapshot and all that it builds on, the root first. `keeper` gets what clones of it teach.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Snapshot`] if they do not fit together. What was leased until then stays so until the connection ends.
    pub fn lineage(&self, id: &str, keeper: &Arc<dyn KeepWorkingSet>) -> Result<Vec<Snapshot>, ClientError> {
        let open = |id: &str| Ok::<_, ClientError>(Snapshot::lent(self.get(id)?.files, Arc::clone(keeper))?);
        let mut lineage = vec![open(id)?];
        while let Some(child) = lineage.last()
            && let Some(parent) = child.manifest().parent
        {
            let parent = open(&parent.to_string())?;
            if !child.manifest().builds_on(parent.manifest()) {
                let what = format!("it does not fit its parent {}", parent.id());
                return Err(SnapshotError::damaged(child.id().to_string(), what).into());
            }
            lineage.push(parent);
        }
        lineage.reverse();
        Ok(lineage)
    }

    /// Keeps a snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn lease(&self, id: &str) -> Result<(), ClientError> {
        self.done(&Request::Lease { id: id.to_owned() }, &[])
    }

    /// Undoes one lease.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn release(&self, id: &str) -> Result<(), ClientError> {
        self.done(&Request::Release { id: id.to_owned() }, &[])
    }

    /// All snapshots that are seen, parents before children.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn list(&self) -> Result<Vec<Entry>, ClientError> {
        self.0.send(&Request::List, &[])?;
        let mut entries = Vec::new();
        loop {
            match self.receive()?.0 {
                Reply::Entry(entry) => entries.push(entry),
                Reply::Done => return Ok(entries),
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Image layers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn layers(&self) -> Result<Vec<LayerEntry>, ClientError> {
        self.0.send(&Request::Layers, &[])?;
        let mut layers = Vec::new();
        loop {
            match self.receive()?.0 {
                Reply::Layer(layer) => layers.push(layer),
                Reply::Done => return Ok(layers),
                other => return Err(unexpected(other)),
            }
        }
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn stat(&self, id: &str) -> Result<Entry, ClientError> {
        match self.ask(&Request::Stat { id: id.to_owned() }, &[])? {
            Reply::Entry(entry) => Ok(entry),
            other => Err(unexpected(other)),
        }
    }

    /// Sets labels; one without a value is removed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn label(&self, id: &str, labels: &BTreeMap<String, String>) -> Result<(), ClientError> {
        self.done(&Request::Label { id: id.to_owned(), labels: labels.clone() }, &[])
    }

    /// Pins or unpins.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn pin(&self, id: &str, pinned: bool) -> Result<(), ClientError> {
        self.done(&Request::Pin { id: id.to_owned(), pinned }, &[])
    }

    /// Keeps a new working set: triples of little-endian u32 (frame, page table, index).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn working_set(&self, id: &str, triples: BorrowedFd<'_>) -> Result<(), ClientError> {
        self.done(&Request::WorkingSet { id: id.to_owned() }, &[triples])
    }

    /// Tells what became of a clone of `id`: it has lived for a while, or has died young.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn outcome(&self, id: &str, lived: bool) -> Result<(), ClientError> {
        self.done(&Request::Outcome { id: id.to_owned(), lived }, &[])
    }

    /// Tells that a capture was given up, for `reason` (one word).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn given_up(&self, reason: &str) -> Result<(), ClientError> {
        self.done(&Request::GivenUp { reason: reason.to_owned() }, &[])
    }

    /// Removes a snapshot, with `recursive` everything that builds on it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn remove(&self, id: &str, recursive: bool) -> Result<Vec<String>, ClientError> {
        self.removed(&Request::Remove { id: id.to_owned(), recursive })
    }

    /// Evicts unused leaves until at most `bytes` are used.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn shrink(&self, bytes: u64) -> Result<Vec<String>, ClientError> {
        self.removed(&Request::Shrink { bytes })
    }

    fn removed(&self, request: &Request) -> Result<Vec<String>, ClientError> {
        match self.ask(request, &[])? {
            Reply::Removed { ids } => Ok(ids),
            other => Err(unexpected(other)),
        }
    }

    /// Figures.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn usage(&self) -> Result<Figures, ClientError> {
        match self.ask(&Request::Usage, &[])? {
            Reply::Usage(figures) => Ok(figures),
            other => Err(unexpected(other)),
        }
    }

    /// Digests everything of a snapshot.
    ///
    /// # Errors
    /// [`ClientError`]; [`Refusal::Damaged`].
    pub fn verify(&self, id: &str) -> Result<(), ClientError> {
        self.done(&Request::Verify { id: id.to_owned() }, &[])
    }

    /// Calls `each` with everything that happens from now on, until it says `false` or the daemon ends.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn watch(self, mut each: impl FnMut(Change, &str) -> bool) -> Result<(), ClientError> {
        self.done(&Request::Watch, &[])?;
        loop {
            match self.receive()?.0 {
                Reply::Event { change, id } if each(change, &id) => {}
                Reply::Event { .. } => return Ok(()),
                other => return Err(unexpected(other)),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn unexpected(reply: Reply) -> ClientError {
    ClientError::Unexpected(Box::new(reply))
}
