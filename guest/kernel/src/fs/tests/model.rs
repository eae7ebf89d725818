//! The tree against the host's file system: random changes, the same results.

use super::*;
use crate::errno::Errno;
use crate::fs::change::RenameFlags;
use proptest::prelude::*;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
enum Change {
    MakeDirectory(String),
    RemoveDirectory(String),
    Write(String, u64, Vec<u8>),
    Truncate(String, u64),
    Unlink(String),
    Link(String, String),
    Symlink(String, String),
    Rename(String, String),
    Read(String),
    List(String),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("a"), Just("b"), Just("low"), Just("f"), Just(".."), Just("link")];
    (proptest::collection::vec(name, 1..4), any::<bool>())
        .prop_map(|(names, slash)| {
            // Never above the top: the host's root is elsewhere.
            let mut kept: Vec<&str> = vec![];
            for name in names {
                let depth = kept.iter().filter(|name| **name != "..").count();
                let above = kept.iter().filter(|name| **name == "..").count();
                if name != ".." || depth > above {
                    kept.push(name);
                }
            }
            format!(
                "{}{}",
                kept.join("/"),
                if slash && !kept.is_empty() && kept.len() > 1 { "/" } else { "" }
            )
        })
        .prop_filter("empty path", |path| !path.is_empty())
}

fn change() -> impl Strategy<Value = Change> {
    let bytes = (1usize..6000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]);
    prop_oneof![
        path().prop_map(Change::MakeDirectory),
        path().prop_map(Change::RemoveDirectory),
        (path(), 0u64..10_000, bytes).prop_map(|(path, at, bytes)| Change::Write(path, at, bytes)),
        (path(), 0u64..15_000).prop_map(|(path, size)| Change::Truncate(path, size)),
        path().prop_map(Change::Unlink),
        (path(), path()).prop_map(|(from, to)| Change::Link(from, to)),
        (
            prop_oneof![
                Just("f".to_string()),
                Just("low".to_string()),
                Just("low/../a".to_string()),
                Just("link".to_string())
            ],
            path()
        )
            .prop_map(|(target, at)| Change::Symlink(target, at)),
        (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        path().prop_map(Change::Read),
        path().prop_map(Change::List),
    ]
}

fn seed_tree() -> Item {
    let inner =
        Item::dir(vec![("f", Item::file(&[3; 9000])), ("a", Item::dir(vec![("b", Item::file(b"deep"))]))]);
    Item::dir(vec![("low", inner), ("f", Item::file(&[5; 4096])), ("link", Item::link("low"))])
}

fn copy_out(item: &Item, at: &Path) {
    match item.mode & 0o170_000 {
        0o040_000 => {
            fs::create_dir_all(at).unwrap();
            for (name, child) in &item.children {
                copy_out(child, &at.join(std::str::from_utf8(name).unwrap()));
            }
        }
        0o120_000 => symlink(std::str::from_utf8(&item.data).unwrap(), at).unwrap(),
        _ => fs::write(at, &item.data).unwrap(),
    }
}

type Outcome = Result<Vec<u8>, i32>;

fn host(result: io::Result<Vec<u8>>) -> Outcome {
    result.map_err(|error| error.raw_os_error().unwrap_or(-1))
}

fn on_host(top: &Path, change: &Change) -> Outcome {
    let at = |path: &String| -> PathBuf { PathBuf::from(format!("{}/{path}", top.display())) };
    let done = |result: io::Result<()>| host(result.map(|()| vec![]));
    match change {
        Change::MakeDirectory(path) => done(fs::create_dir(at(path))),
        Change::RemoveDirectory(path) => done(fs::remove_dir(at(path))),
        Change::Write(path, offset, bytes) => done((|| {
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(at(path))?;
            file.write_all_at(bytes, *offset)
        })()),
        Change::Truncate(path, size) => {
            done((|| fs::OpenOptions::new().write(true).open(at(path))?.set_len(*size))())
        }
        Change::Unlink(path) => done(fs::remove_file(at(path))),
        Change::Link(from, to) => done(fs::hard_link(at(from), at(to))),
        Change::Symlink(target, path) => done(symlink(target, at(path))),
        Change::Rename(from, to) => done(fs::rename(at(from), at(to))),
        Change::Read(path) => host(fs::File::open(at(path)).and_then(|mut file| {
            let mut bytes = vec![];
            io::Read::read_to_end(&mut file, &mut bytes)?;
            Ok(bytes)
        })),
        Change::List(path) => host(fs::read_dir(at(path)).and_then(|entries| {
            let mut names = vec![];
            for entry in entries {
                names.push(entry?.file_name().into_string().unwrap());
            }
            names.sort();
            Ok(names.join("\n").into_bytes())
        })),
    }
}

fn in_tree(world: &World, change: &Change) -> Outcome {
    let context = world.context();
    let cwd = &context.cwd;
    let done = |result: Result<(), Errno>| result.map(|()| vec![]).map_err(|errno| i32::from(errno.0));
    match change {
        Change::MakeDirectory(path) => done(context.make_directory(cwd, path.as_bytes(), 0o777).map(drop)),
        Change::RemoveDirectory(path) => done(context.remove_directory(cwd, path.as_bytes())),
        Change::Write(path, offset, bytes) => done((|| {
            let file = context.open(cwd, path.as_bytes(), 0o101, 0o666)?;
            file.write_at(*offset, &mut &bytes[..]).map(drop)
        })()),
        Change::Truncate(path, size) => done((|| {
            let file = context.open(cwd, path.as_bytes(), 1, 0)?;
            file.ops().truncate(&file, *size)
        })()),
        Change::Unlink(path) => done(context.unlink(cwd, path.as_bytes())),
        Change::Link(from, to) => done((|| {
            let node = context.walk(cwd, from.as_bytes(), false)?;
            context.link(&node, cwd, to.as_bytes(), false)
        })()),
        Change::Symlink(target, path) => {
            done(context.make_symlink(cwd, path.as_bytes(), target.as_bytes()).map(drop))
        }
        Change::Rename(from, to) => {
            done(context.rename((cwd, from.as_bytes()), (cwd, to.as_bytes()), RenameFlags::default()))
        }
        Change::Read(path) => world.content(path).map_err(|errno| i32::from(errno.0)),
        Change::List(path) => (|| {
            context.open(cwd, path.as_bytes(), 0o200_000, 0)?;
            Ok(world.names(path)?.join("\n").into_bytes())
        })()
        .map_err(|errno: Errno| i32::from(errno.0)),
    }
}

/// Everything below `directory`: path, type, size, links.
fn census(directory: &Path, prefix: &str, out: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.path().symlink_metadata().unwrap();
        let path = format!("{prefix}/{}", entry.file_name().into_string().unwrap());
        let size = if meta.is_dir() { 0 } else { meta.size() };
        out.push(format!("{path} {:o} {size} {}", meta.mode() & 0o170_000, meta.nlink()));
        if meta.is_dir() {
            census(&entry.path(), &path, out);
        }
    }
}

fn census_of_tree(world: &World, path: &str, out: &mut Vec<String>) {
    let context = world.context();
    for name in world.names(if path.is_empty() { "/" } else { path }).unwrap() {
        let path = format!("{path}/{name}");
        let stat = context.walk(&context.cwd, path.as_bytes(), false).unwrap().stat();
        let is_directory = stat.mode & 0o170_000 == 0o040_000;
        let size = if is_directory { 0 } else { stat.size };
        out.push(format!("{path} {:o} {size} {}", stat.mode & 0o170_000, stat.nlink));
        if is_directory {
            census_of_tree(world, &path, out);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_tree_behaves_as_the_hosts(changes in proptest::collection::vec(change(), 1..40)) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let top = base.join(format!("seuss-model-{}-{number}", std::process::id()));
        copy_out(&seed_tree(), &top);
        let world = World::new(&[seed_tree()]);
        for change in &changes {
            let (want, got) = (on_host(&top, change), in_tree(&world, change));
            if want != got {
                let _ = fs::remove_dir_all(&top);
                let short = |outcome: &Outcome| outcome.as_ref().map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned()).map_err(|errno| *errno);
                prop_assert!(false, "{change:?}: host {:?}, tree {:?}, all: {changes:?}", short(&want), short(&got));
            }
        }
        let (mut want, mut got) = (vec![], vec![]);
        census(&top, "", &mut want);
        let _ = fs::remove_dir_all(&top);
        census_of_tree(&world, "", &mut got);
        prop_assert_eq!(want, got);
    }
}
