//! The messages of the store's socket: JSON, one per packet (SOCK_SEQPACKET), descriptors beside it (SCM_RIGHTS).
//!
//! A connection begins with [`Request::Hello`]. Every request gets one [`Reply`], but for lists (many `Entry` or `Layer`, then `Done`) and
//! `Watch` (`Event` until the connection ends). What a connection leases is released when it ends, however it ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the protocol; the other side's must be the same.
pub const VERSION: u32 = 4;

/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Most descriptors beside a message.
pub const DESCRIPTORS_MAX: usize = 4;

/// What must be equal in a snapshot for a guest to start from it, beside its key. Empty and zero: anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fit {
    /// Version of the contract between guest and VMM.
    pub abi_version: u32,
    /// SHA-256 of the guest image, hexadecimal.
    pub kernel: String,
    /// Features that the processor has; a snapshot that needs another does not fit. Empty: not looked at.
    pub cpu_features: Vec<String>,
    /// XCR0, which must be equal.
    pub xcr0: u64,
    /// Bytes of an XSAVE area, which must be equal.
    pub xsave_bytes: u64,
}

/// Where a new snapshot comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The guest that has taken it, by whatever name is its alone; its quota counts it. Empty: none, only the tenant's quota counts.
    pub guest: String,
    /// What it was made with and must not outlive: see [`Request::Revoke`].
    pub rights: Vec<String>,
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// The first message: who asks.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// The tenant whose snapshots are seen (a Kubernetes namespace); empty: the node itself, which sees all.
        tenant: String,
    },
    /// The snapshot of the first of `keys` that there is one of, the deepest where there are several.
    Find {
        /// Keys, best first.
        keys: Vec<String>,
        /// What must fit.
        fit: Fit,
    },
    /// A new snapshot. Three descriptors: `pages`, `tables`, `manifest`, each read from where it stands to its end, in this order: files,
    /// or pipes that are written meanwhile.
    Put {
        /// Labels.
        labels: BTreeMap<String, String>,
        /// Never evicted.
        pinned: bool,
        /// Whose it is.
        #[serde(default)]
        provenance: Provenance,
    },
    /// What a guest of this tenant may still put.
    Quota {
        /// The guest.
        guest: String,
    },
    /// Ends the right of a tenant's snapshots to be used: those that name it, and what builds on them, are found and got no more, and are removed as soon as nobody leases them.
    /// What connections that are open now put later is refused if it names it.
    Revoke {
        /// Whose. The asking tenant, or, for the node, any.
        tenant: String,
        /// Which; `None`: everything of the tenant.
        right: Option<String>,
    },
    /// Opens a snapshot and leases it. Its `manifest`, `pages` and `tables` come back as descriptors, and its working set where one is known.
    Get {
        /// Which.
        id: String,
    },
    /// Keeps a snapshot, and so its ancestors, until `Release` or the end of the connection.
    Lease {
        /// Which.
        id: String,
    },
    /// Undoes one `Lease` or `Get`.
    Release {
        /// Which.
        id: String,
    },
    /// All snapshots that the tenant sees, parents before children.
    List,
    /// One of them.
    Stat {
        /// Which.
        id: String,
    },
    /// Sets labels; one without a value is removed.
    Label {
        /// Which.
        id: String,
        /// What to set.
        labels: BTreeMap<String, String>,
    },
    /// Pins or unpins.
    Pin {
        /// Which.
        id: String,
        /// Whether it is never evicted.
        pinned: bool,
    },
    /// A new working set: one descriptor, triples of little-endian u32 (frame, page table, index).
    WorkingSet {
        /// Whose.
        id: String,
    },
    /// What became of a clone: it has lived for a while, or has died young. Snapshots whose first clones die are struck out.
    Outcome {
        /// Its snapshot.
        id: String,
        /// Whether it has lived.
        lived: bool,
    },
    /// A capture was given up. It is counted.
    GivenUp {
        /// Why, as one word.
        reason: String,
    },
    /// Removes a snapshot.
    Remove {
        /// Which.
        id: String,
        /// And everything that builds on it.
        recursive: bool,
    },
    /// Evicts unused leaves until at most `bytes` are used.
    Shrink {
        /// How much may stay.
        bytes: u64,
    },
    /// Figures.
    Usage,
    /// Digests everything of a snapshot.
    Verify {
        /// Which.
        id: String,
    },
    /// Events from now on; the connection is used for nothing else.
    Watch,
    /// Image layers.
    Layers,
}

/// A snapshot as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Its parent's; empty: none.
    pub parent: String,
    /// `base`, `function`, `argument`.
    pub level: String,
    /// What it is a snapshot of.
    pub key: String,
    /// For people.
    pub name: String,
    /// Layers of its lineage.
    pub depth: u32,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it was taken, nanoseconds since 1970.
    pub created_ns: u64,
    /// When it was last opened, nanoseconds since 1970.
    pub used_ns: u64,
    /// Whose it is; empty: the node's.
    pub tenant: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Never evicted.
    pub pinned: bool,
    /// Why nobody may start from it any more; empty: it is usable.
    #[serde(default)]
    pub unusable: String,
    /// How many leases it has.
    pub leases: u64,
    /// How many snapshots build on it directly.
    pub children: u64,
    /// What it depends on: see [`Request::Revoke`].
    #[serde(default)]
    pub rights: Vec<String>,
}

/// What a guest may still put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Captures that it may try in a minute.
    pub captures_per_minute: u32,
    /// Snapshots that fit into the shares of guest and tenant.
    pub left_snapshots: u64,
    /// Bytes that do.
    pub left_bytes: u64,
}

/// An image layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerEntry {
    /// Key or name.
    pub key: String,
    /// Its parent's name; empty: none.
    pub parent: String,
    /// `active`, `view`, `committed`.
    pub kind: String,
    /// Bytes as unpacked.
    pub unpacked_bytes: u64,
    /// Bytes of its image; 0: it has none.
    pub image_bytes: u64,
    /// sha256 of its image; empty: it has none.
    pub digest: String,
    /// Where its files are: `image` (mounted), `directory`; empty: it has none of its own.
    #[serde(default)]
    pub files: String,
}

/// Figures of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// What snapshots may take.
    pub budget_bytes: u64,
    /// What they take.
    pub used_bytes: u64,
    /// What could be evicted now, one leaf after the other.
    pub evictable_bytes: u64,
    /// How many there are.
    pub snapshots: u64,
    /// Leases.
    pub leases: u64,
    /// How many were evicted since the daemon started.
    pub evicted: u64,
}

/// What happened to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// Its labels, pin or working set changed.
    Changed,
    /// It was removed.
    Removed,
    /// It was evicted.
    Evicted,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Not understood, or not allowed in this place.
    Invalid,
    /// The peer may not use the store.
    Denied,
    /// There is no such snapshot, as far as the tenant sees.
    NotFound,
    /// It is leased, pinned, or others build on it.
    InUse,
    /// The budget is used up by what cannot be evicted.
    Full,
    /// The share of the tenant or of the guest is used up.
    Quota,
    /// What it was made with was revoked.
    Revoked,
    /// Its bytes are not what was written.
    Damaged,
    /// The store failed.
    Internal,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Done; the last of a list.
    Done,
    /// A snapshot; one of a list.
    Entry(Entry),
    /// Find: there is none.
    Nothing,
    /// An image layer.
    Layer(LayerEntry),
    /// Figures.
    Usage(Figures),
    /// What may still be put.
    Quota(Quota),
    /// So many snapshots were revoked.
    Revoked {
        /// How many.
        count: u64,
    },
    /// Ids that were removed.
    Removed {
        /// Children first.
        ids: Vec<String>,
    },
    /// Something happened.
    Event {
        /// What.
        change: Change,
        /// To which.
        id: String,
    },
    /// Refused.
    Error {
        /// Why.
        refusal: Refusal,
        /// In words.
        message: String,
    },
}
