//! `seussctl store` and `seussctl layers`: a look at what seuss-snapshotter keeps, and the means to change it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use seuss_snapshotter::memory::protocol::Entry;
use seuss_snapshotter::memory::{Client, ClientError};

use crate::size::{display_bytes, parse_bytes};

/// Where the store is, and who asks.
#[derive(Args, Debug)]
pub struct Where {
    /// The store's socket
    #[arg(
        long,
        value_name = "PATH",
        env = "SEUSS_STORE",
        default_value = "/run/seuss/store.sock",
        global = true
    )]
    pub store: PathBuf,

    /// See only what this tenant (Kubernetes namespace) sees
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, global = true)]
    pub tenant: String,
}

/// `seussctl store`.
#[derive(Args, Debug)]
pub struct StoreArgs {
    /// Which store.
    #[command(flatten)]
    pub place: Where,
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What can be done with memory snapshots.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// List memory snapshots as a tree
    Ls,
    /// Show everything about one
    Show {
        /// Its id, or the first characters of it
        id: String,
    },
    /// Show how much memory they take, and what could go
    Usage,
    /// Remove a snapshot
    Rm {
        /// Its id, or the first characters of it
        id: String,
        /// And everything that builds on it
        #[arg(short, long)]
        recursive: bool,
    },
    /// Never evict a snapshot
    Pin {
        /// Its id, or the first characters of it
        id: String,
    },
    /// Let a snapshot be evicted again
    Unpin {
        /// Its id, or the first characters of it
        id: String,
    },
    /// Set labels; `KEY=` removes one
    Label {
        /// Its id, or the first characters of it
        id: String,
        /// Labels
        #[arg(required = true, value_name = "KEY=VALUE")]
        labels: Vec<String>,
    },
    /// Digest everything of a snapshot, or of all
    Verify {
        /// Its id, or the first characters of it [default: all]
        id: Option<String>,
    },
    /// Evict unused snapshots, the least recently used first
    Prune {
        /// How much may stay
        #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
        keep: Option<u64>,
    },
    /// Make all snapshots of --tenant unusable at once, and remove them when nobody uses them any more
    Revoke {
        /// Only those that depend on this (`seussctl store show` tells what a snapshot depends on)
        #[arg(long)]
        right: Option<String>,
    },
    /// Print what happens to snapshots until interrupted
    Watch,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store refused or cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No or several snapshots begin with this.
    #[error("{count} snapshots have an id that begins with {id:?}")]
    Ambiguous {
        /// What was given.
        id: String,
        /// How many.
        count: usize,
    },
    /// Not a label.
    #[error("{text:?} is no label: write KEY=VALUE, or KEY= to remove one")]
    Label {
        /// What was given.
        text: String,
    },
    /// Nobody's.
    #[error("say whose snapshots are to be revoked: --tenant NAMESPACE")]
    NoTenant,
    /// Something is damaged.
    #[error("{count} snapshots are damaged")]
    Damaged {
        /// How many.
        count: usize,
    },
}

/// Runs `seussctl store`.
///
/// # Errors
/// [`StoreError`].
pub fn store(args: &StoreArgs) -> Result<(), StoreError> {
    let client = Client::connect(&args.place.store, &args.place.tenant)?;
    match &args.command {
        StoreCommand::Ls => {
            print!("{}", tree(&client.list()?));
            Ok(())
        }
        StoreCommand::Show { id } => {
            let entry = client.stat(&resolve(&client, id)?)?;
            println!("{}", serde_json::to_string_pretty(&entry).unwrap_or_default());
            Ok(())
        }
        StoreCommand::Usage => {
            let figures = client.usage()?;
            println!("snapshots   {}", figures.snapshots);
            println!(
                "used        {} of {}",
                display_bytes(figures.used_bytes),
                display_bytes(figures.budget_bytes)
            );
            println!("evictable   {}", display_bytes(figures.evictable_bytes));
            println!("leases      {}", figures.leases);
            println!("evicted     {} since the daemon started", figures.evicted);
            Ok(())
        }
        StoreCommand::Rm { id, recursive } => {
            let gone = client.remove(&resolve(&client, id)?, *recursive)?;
            gone.iter().for_each(|id| println!("{id}"));
            Ok(())
        }
        StoreCommand::Pin { id } => Ok(client.pin(&resolve(&client, id)?, true)?),
        StoreCommand::Unpin { id } => Ok(client.pin(&resolve(&client, id)?, false)?),
        StoreCommand::Label { id, labels } => {
            let label = |text: &String| {
                let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
                let (key, value) = pair.ok_or_else(|| StoreError::Label { text: text.clone() })?;
                Ok((key.to_owned(), value.to_owned()))
            };
            let labels = labels.iter().map(label).collect::<Result<BTreeMap<_, _>, StoreError>>()?;
            Ok(client.label(&resolve(&client, id)?, &labels)?)
        }
        StoreCommand::Verify { id } => verify(&client, id.as_deref()),
        StoreCommand::Prune { keep } => {
            let gone = client.shrink(keep.unwrap_or(0))?;
            gone.iter().for_each(|id| println!("{id}"));
            Ok(())
        }
        StoreCommand::Revoke { right } => {
            let tenant = &args.place.tenant;
            if tenant.is_empty() {
                return Err(StoreError::NoTenant);
            }
            let count = client.revoke(tenant, right.as_deref())?;
            println!("{count} snapshots are revoked");
            Ok(())
        }
        StoreCommand::Watch => {
            client.watch(|change, id| {
                println!("{id} {change:?}");
                true
            })?;
            Ok(())
        }
    }
}

/// Runs `seussctl layers`.
///
/// # Errors
/// [`StoreError`].
pub fn layers(place: &Where) -> Result<(), StoreError> {
    let layers = Client::connect(&place.store, &place.tenant)?.layers()?;
    println!("{:<10} {:>10} {:>10} {:<9}  {:<19}  KEY", "KIND", "UNPACKED", "IMAGE", "FILES", "SHA256");
    for layer in &layers {
        let digest = layer.digest.get(..19).unwrap_or("-");
        let size = |bytes: u64| if bytes == 0 { "-".to_owned() } else { display_bytes(bytes) };
        let (unpacked, image) = (size(layer.unpacked_bytes), size(layer.image_bytes));
        let (kind, files, key) = (&layer.kind, &layer.files, &layer.key);
        println!("{kind:<10} {unpacked:>10} {image:>10} {files:<9}  {digest:<19}  {key}");
    }
    Ok(())
}

/// The id that begins with `start`.
fn resolve(client: &Client, start: &str) -> Result<String, StoreError> {
    let matching: Vec<String> =
        client.list()?.into_iter().map(|entry| entry.id).filter(|id| id.starts_with(start)).collect();
    match matching.as_slice() {
        [id] => Ok(id.clone()),
        other => Err(StoreError::Ambiguous { id: start.to_owned(), count: other.len() }),
    }
}

fn verify(client: &Client, id: Option<&str>) -> Result<(), StoreError> {
    let ids = match id {
        Some(id) => vec![resolve(client, id)?],
        None => client.list()?.into_iter().map(|entry| entry.id).collect(),
    };
    let mut count = 0;
    for id in ids {
        match client.verify(&id) {
            Ok(()) => println!("{id} is whole"),
            Err(ClientError::Refused { message, .. }) => {
                println!("{message}");
                count += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if count == 0 { Ok(()) } else { Err(StoreError::Damaged { count }) }
}

/// The snapshots as an indented tree, with a heading.
pub(super) fn tree(entries: &[Entry]) -> String {
    let mut text =
        format!("{:<34} {:>9} {:>6} {:>8}  {:<20} KEY\n", "ID", "SIZE", "LEASES", "USED", "TENANT");
    let known = |id: &str| entries.iter().any(|entry| entry.id == id);
    let mut pending: Vec<(&Entry, usize)> =
        entries.iter().rev().filter(|entry| !known(&entry.parent)).map(|entry| (entry, 0)).collect();
    while let Some((entry, indent)) = pending.pop() {
        let used = Duration::from_nanos(entry.used_ns);
        let ago = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(used);
        let used = if entry.used_ns == 0 { "-".to_owned() } else { format!("{}s", ago.as_secs()) };
        let id = format!("{}{}", "  ".repeat(indent), entry.id);
        let pin = if entry.pinned { " (pinned)" } else { "" };
        let tenant = if entry.tenant.is_empty() { "-" } else { &entry.tenant };
        let reason = if entry.unusable.is_empty() {
            String::new()
        } else {
            format!(" (unusable: {})", entry.unusable)
        };
        text.push_str(&format!(
            "{id:<34} {:>9} {:>6} {used:>8}  {tenant:<20} {} {}{pin}{reason}\n",
            display_bytes(entry.bytes),
            entry.leases,
            entry.level,
            entry.key
        ));
        pending.extend(entries.iter().rev().filter(|e| e.parent == entry.id).map(|e| (e, indent + 1)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, parent: &str) -> Entry {
        Entry {
            id: id.into(),
            parent: parent.into(),
            level: "base".into(),
            key: format!("key-{id}"),
            name: String::new(),
            depth: 1,
            bytes: 4096,
            created_ns: 0,
            used_ns: 0,
            tenant: String::new(),
            labels: BTreeMap::new(),
            pinned: id == "c",
            leases: 0,
            children: 0,
            unusable: match id {
                "b" => "its tenant was revoked".into(),
                "d" => "its first clones died".into(),
                _ => String::new(),
            },
            rights: Vec::new(),
        }
    }

    #[test]
    fn children_stand_below_their_parents() {
        // The parent of `d` is not seen.
        let text = tree(&[entry("a", ""), entry("b", ""), entry("d", "x"), entry("c", "a")]);
        let ids: Vec<&str> = text.lines().skip(1).map(|line| line.get(..4).unwrap_or_default()).collect();
        assert_eq!(ids, ["a   ", "  c ", "b   ", "d   "]);
        assert!(text.contains("base key-c (pinned)"), "{text}");
        assert!(text.contains("base key-d (unusable: its first clones died)"), "{text}");
        assert!(text.contains("base key-b (unusable: its tenant was revoked)"), "{text}");
    }
}
