//! `seussctl snapshot`: a local tree of memory snapshots.

use std::fmt::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use seuss_snapshotter::memory::Client;
use seuss_snapshotter::memory::note::Note;
use seuss_snapshotter::snapshot::{Level, Manifest, Snapshot, SnapshotError, SnapshotId, Store, TreeNode};
use tokio::sync::mpsc;

use super::RunArgs;
use super::run::{RunError, boot_config, event_loop};
use super::timings::Timings;
use super::transfer::{ExportArgs, ImportArgs, run_export, run_import};
use crate::guest::{Guest, GuestEvent};
use crate::size::display_bytes;

/// `seussctl snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Run a program until it takes a snapshot (/dev/seuss), or for a time, and keep the snapshot
    Create(Box<CreateArgs>),
    /// List snapshots
    Ls(StoreArgs),
    /// Draw the tree: lineage, sizes, age
    Tree(StoreArgs),
    /// Tell everything about a snapshot, and check its files
    Inspect(OneArgs),
    /// Remove snapshots
    Rm(RmArgs),
    /// Compare the memory of two snapshots
    Diff(DiffArgs),
    /// Write snapshots, and what they build on, to an archive of OCI artifacts
    Export(ExportArgs),
    /// Take the snapshots of such an archive in
    Import(ImportArgs),
}

/// Where the snapshots are.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// Store of memory snapshots: a directory (`ls` takes the socket of a node's store, too)
    #[arg(long, value_name = "DIR", env = "SEUSS_STORE")]
    pub store: PathBuf,

    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Point of a program's life.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LevelName {
    /// The runtime has initialised
    Base,
    /// The program is ready
    Function,
    /// Half-way through a request
    Argument,
}

/// `seussctl snapshot create`.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Take it after this time, instead of when the program asks for it
    #[arg(long, value_name = "MILLISECONDS")]
    pub after_ms: Option<u64>,

    /// Take it when the program waits for connections and nothing else runs
    #[arg(long, conflicts_with = "after_ms")]
    pub ready: bool,

    /// Level of a snapshot that is taken after a time, or when the program is ready
    #[arg(long, value_enum, default_value = "function")]
    pub level: LevelName,

    /// What to run
    #[command(flatten)]
    pub run: RunArgs,
}

/// One snapshot.
#[derive(Args, Debug)]
pub struct OneArgs {
    /// Where
    #[command(flatten)]
    pub store: StoreArgs,

    /// Name, id, or beginning of an id
    pub snapshot: String,
}

/// `seussctl snapshot rm`.
#[derive(Args, Debug)]
pub struct RmArgs {
    /// Where
    #[command(flatten)]
    pub store: StoreArgs,

    /// Also everything that builds on it
    #[arg(short, long)]
    pub recursive: bool,

    /// Name, id, or beginning of an id
    #[arg(required = true)]
    pub snapshots: Vec<String>,
}

/// `seussctl snapshot diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// Where
    #[command(flatten)]
    pub store: StoreArgs,

    /// Name, id, or beginning of an id
    pub old: String,

    /// Name, id, or beginning of an id
    pub new: String,
}

/// Runs the command.
///
/// # Errors
/// [`RunError`].
pub fn run(command: &SnapshotCommand) -> Result<u8, RunError> {
    match command {
        SnapshotCommand::Create(args) => create(args)?,
        SnapshotCommand::Ls(args) => list(args)?,
        SnapshotCommand::Tree(args) => tree(args)?,
        SnapshotCommand::Inspect(args) => inspect(args)?,
        SnapshotCommand::Rm(args) => remove(args)?,
        SnapshotCommand::Diff(args) => diff(args)?,
        SnapshotCommand::Export(args) => run_export(args)?,
        SnapshotCommand::Import(args) => run_import(args)?,
    }
    Ok(0)
}

fn create(args: &CreateArgs) -> Result<(), RunError> {
    let mut timings = Timings::default();
    let config = boot_config(&args.run, false, &mut timings)?;
    let Some(sink) = &config.snapshots else {
        return Err(RunError::NotTaken("--store DIR is needed".into()));
    };
    let store = Arc::clone(&sink.store);
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let (is_ready, mut ready) = mpsc::unbounded_channel();
    let events = move |event| match event {
        // The receivers live until the guest has ended.
        GuestEvent::Ready => drop(is_ready.send(())),
        GuestEvent::Captured(outcome) => drop(sender.send(outcome)),
        GuestEvent::PutOff(obstacle) => drop(sender.send(Err(obstacle.to_string()))),
        GuestEvent::Ended(result) => {
            let how = result.map_or_else(|error| error.to_string(), |status| status.to_string());
            drop(sender.send(Err(format!("the program has ended ({how})"))));
        }
        _ => {}
    };
    let guest = args.run.network.run(|| Ok(Guest::start(config, events)?))?;
    let level = match args.level {
        LevelName::Base => Level::Base,
        LevelName::Function => Level::Function,
        LevelName::Argument => Level::Argument,
    };
    let outcome = event_loop()?.block_on(async {
        let after = args.after_ms.map(Duration::from_millis);
        let timer = tokio::time::sleep(after.unwrap_or(Duration::MAX));
        tokio::pin!(timer);
        let mut asked = after.is_none();
        loop {
            tokio::select! {
                outcome = outcomes.recv() => match outcome {
                    Some(Ok(id)) if args.run.base && is_base(&store, id) => {
                        println!("{id}");
                        continue;
                    }
                    other => break other,
                },
                () = &mut timer, if !asked => asked = true,
                Some(()) = ready.recv(), if args.ready => {}
            }
            if let Err(error) = guest.snapshot(level, None) {
                break Some(Err(error.to_string()));
            }
        }
    });
    guest.stop();
    match outcome {
        Some(Ok(id)) => {
            println!("{id}");
            Ok(())
        }
        Some(Err(reason)) => Err(RunError::NotTaken(reason)),
        None => Err(RunError::NotTaken("the guest is gone".into())),
    }
}

fn is_base(store: &Store, id: SnapshotId) -> bool {
    store.snapshot(id).is_ok_and(|snapshot| snapshot.manifest().level == Level::Base)
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// "12 s", "3 min", "5 h", "2 d".
fn display_age(created_ns: u64, now_ns: u64) -> String {
    match now_ns.saturating_sub(created_ns) / 1_000_000_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Bytes that a snapshot alone takes.
fn own_bytes(manifest: &Manifest) -> u64 {
    manifest.pages.len_bytes + manifest.tables.len_bytes
}

fn describe(id: SnapshotId, manifest: &Manifest, children: &[SnapshotId]) -> Value {
    json!({
        "id": id.to_string(),
        "parent": manifest.parent.map(|id| id.to_string()),
        "children": children.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "depth": manifest.depth,
        "level": manifest.level.as_str(),
        "key": manifest.key,
        "name": manifest.name,
        "created_ns": manifest.created_ns,
        "command": manifest.command,
        "generation": manifest.generation,
        "abi_version": manifest.abi_version,
        "private_bytes": manifest.private_bytes,
        "layer_pages": manifest.layer_pages,
        "table_pages": manifest.table_pages,
        "copied_pages": manifest.copied_pages,
        "layer_bytes": manifest.pages.len_bytes,
        "tables_bytes": manifest.tables.len_bytes,
        "images": manifest.images.len(),
    })
}

fn print_json(value: &Value) {
    println!("{value:#}");
}

fn list(args: &StoreArgs) -> Result<(), RunError> {
    let is_socket = std::fs::metadata(&args.store).is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket {
        // The daemon's own list.
        let entries = Client::connect(&args.store, "")?.list()?;
        if args.json {
            print_json(&json!(entries));
        } else {
            print!("{}", super::store::tree(&entries));
        }
        return Ok(());
    }
    let nodes = Store::open(&args.store)?.tree()?;
    // Of a node's store: whose they are, and whether they can be used, lies beside them.
    let notes = args.store.join("notes");
    // Without one, it is the default.
    let note = |id: SnapshotId| Note::read(&notes, &id.to_string());
    if args.json {
        let described = nodes.iter().map(|node| {
            let mut value = describe(node.id, &node.manifest, &node.children);
            let Note { tenant, unusable, .. } = note(node.id);
            value["tenant"] = tenant.into();
            value["unusable"] = unusable.into();
            value
        });
        print_json(&Value::from(described.collect::<Vec<_>>()));
        return Ok(());
    }
    let tenant_heading = if notes.is_dir() { format!("{:<20}", "TENANT") } else { String::new() };
    println!(
        "{:<34}{tenant_heading}{:<20}{:<10}{:>6}{:>12}{:>10}  COMMAND",
        "ID", "NAME", "LEVEL", "DEPTH", "SIZE", "AGE"
    );
    let now_ns = now_ns();
    for TreeNode { id, manifest, .. } in &nodes {
        let Note { tenant, unusable, .. } = note(*id);
        let tenant = if notes.is_dir() { format!("{:<20}", shorten(&tenant, 19)) } else { String::new() };
        let reason = if unusable.is_empty() { String::new() } else { format!(" (unusable: {unusable})") };
        println!(
            "{:<34}{tenant}{:<20}{:<10}{:>6}{:>12}{:>10}  {}{reason}",
            id.to_string(),
            shorten(&manifest.name, 19),
            manifest.level,
            manifest.depth,
            display_bytes(own_bytes(manifest)),
            display_age(manifest.created_ns, now_ns),
            shorten(&manifest.command, 40),
        );
    }
    Ok(())
}

fn shorten(text: &str, most: usize) -> String {
    let printable: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if printable.chars().count() <= most {
        return printable;
    }
    printable.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

fn tree(args: &StoreArgs) -> Result<(), RunError> {
    let nodes = Store::open(&args.store)?.tree()?;
    let roots: Vec<_> = nodes.iter().filter(|node| node.manifest.parent.is_none()).collect();
    if args.json {
        let all: Vec<_> = roots.iter().map(|root| nested(root, &nodes)).collect();
        print_json(&Value::from(all));
        return Ok(());
    }
    let mut text = String::new();
    for root in roots {
        draw(root, &nodes, "", "", now_ns(), &mut text);
    }
    print!("{text}");
    Ok(())
}

fn nested(node: &TreeNode, nodes: &[TreeNode]) -> Value {
    let children = nodes.iter().filter(|child| node.children.contains(&child.id));
    let mut value = describe(node.id, &node.manifest, &[]);
    value["children"] = children.map(|child| nested(child, nodes)).collect();
    value
}

fn draw(node: &TreeNode, nodes: &[TreeNode], first: &str, rest: &str, now_ns: u64, text: &mut String) {
    let manifest = &node.manifest;
    let id = node.id.to_string();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{first}{} {} {} {} {}",
        &id[..12],
        manifest.level,
        if manifest.name.is_empty() { "-" } else { &manifest.name },
        display_bytes(own_bytes(manifest)),
        display_age(manifest.created_ns, now_ns),
    );
    let children: Vec<_> = nodes.iter().filter(|child| node.children.contains(&child.id)).collect();
    for (at, child) in children.iter().enumerate() {
        let last = at + 1 == children.len();
        let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(child, nodes, &format!("{rest}{branch}"), &format!("{rest}{below}"), now_ns, text);
    }
}

fn open(args: &StoreArgs, name: &str) -> Result<Snapshot, SnapshotError> {
    let store = Store::open(&args.store)?;
    store.snapshot(store.resolve(name)?)
}

fn inspect(args: &OneArgs) -> Result<(), RunError> {
    let snapshot = open(&args.store, &args.snapshot)?;
    let manifest = snapshot.manifest();
    let nodes = Store::open(&args.store.store)?.tree()?;
    let children = nodes.iter().find(|node| node.id == snapshot.id()).map(|node| node.children.clone());
    let mut value = describe(snapshot.id(), manifest, &children.unwrap_or_default());
    value["working_set_pages"] =
        snapshot.working_set().iter().filter(|page| !page.is_only_used()).count().into();
    value["cpu"] = json!({
        "xcr0": manifest.cpu.xcr0, "xsave_bytes": manifest.cpu.xsave_bytes, "features": manifest.cpu.features,
    });
    snapshot.verify()?;
    value["verified"] = true.into();
    if args.store.json {
        print_json(&value);
    } else if let Value::Object(fields) = value {
        for (key, value) in fields {
            match value {
                Value::String(text) => println!("{key:<20}{text}"),
                Value::Null => println!("{key:<20}-"),
                other => println!("{key:<20}{other}"),
            }
        }
    }
    Ok(())
}

fn remove(args: &RmArgs) -> Result<(), RunError> {
    let store = Store::open(&args.store.store)?;
    let mut removed = Vec::new();
    for name in &args.snapshots {
        removed.extend(store.remove(store.resolve(name)?, args.recursive)?);
    }
    let removed: Vec<_> = removed.iter().map(ToString::to_string).collect();
    if args.store.json {
        print_json(&Value::from(removed))
    } else {
        println!("{}", removed.join("\n"))
    }
    Ok(())
}

fn diff(args: &DiffArgs) -> Result<(), RunError> {
    use std::collections::BTreeMap;
    let (old, new) = (open(&args.store, &args.old)?, open(&args.store, &args.new)?);
    let map = |snapshot: &Snapshot| -> Result<BTreeMap<u32, u32>, SnapshotError> {
        Ok(snapshot.frame_map()?.into_iter().map(|placed| (placed.pfn, placed.page)).collect())
    };
    let (before, after) = (map(&old)?, map(&new)?);
    // Where one descends from the other, equal pages are the same page of a common layer.
    let common = common_pages(args, &old, &new)?;
    let same = |pfn: &u32, page: &u32| u64::from(*page) < common && before.get(pfn) == Some(page);
    let shared = after.iter().filter(|(pfn, page)| same(pfn, page)).count();
    let added = after.keys().filter(|pfn| !before.contains_key(pfn)).count();
    let gone = before.keys().filter(|pfn| !after.contains_key(pfn)).count();
    let changed = after.len() - shared - added;
    if args.store.json {
        print_json(&json!({
            "old": old.id().to_string(), "new": new.id().to_string(), "shared_pages": shared,
            "changed_pages": changed, "added_pages": added, "gone_pages": gone,
        }));
    } else {
        println!(
            "shared   {shared:>8} pages\nchanged  {changed:>8}\nadded    {added:>8}\ngone     {gone:>8}"
        );
    }
    Ok(())
}

/// Pages of the layers that both lineages begin with.
fn common_pages(args: &DiffArgs, old: &Snapshot, new: &Snapshot) -> Result<u64, SnapshotError> {
    let store = Store::open(&args.store.store)?;
    let (old, new) = (store.lineage(old.id())?, store.lineage(new.id())?);
    let both = old.iter().zip(&new).take_while(|(old, new)| old.id() == new.id());
    Ok(both.last().map_or(0, |(snapshot, _)| snapshot.manifest().lineage_pages()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_names_are_for_people() {
        let second = 1_000_000_000;
        assert_eq!(display_age(0, 5 * second), "5 s");
        assert_eq!(display_age(0, 300 * second), "5 min");
        assert_eq!(display_age(0, 3 * 86_400 * second), "3 d");
        assert_eq!(display_age(9, 0), "0 s", "a clock that was set back");
        assert_eq!(shorten("abcdef", 4), "abc…");
        assert_eq!(shorten("a\nb", 4), "a b");
    }
}
