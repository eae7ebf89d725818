//! `seussctl run`: one program in one guest, connected to this process' standard input and output.
//!
//! Owns the way from a command line to a [`GuestConfig`], the passing on of signals, and the exit code.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use seuss_abi::spec::{InjectedFile, ProcessSpec};
use seuss_snapshotter::artifact::ArtifactError;
use seuss_snapshotter::rootfs::{BlobCache, RootfsError};
use seuss_snapshotter::snapshot::{ImageRef, SnapshotError, Store};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::network::NetworkChoice;
use super::timings::{Timings, us};
use super::{EXIT_FAILURE, RunArgs};
use crate::guest::{
    CloneConfig, Guest, GuestConfig, GuestError, GuestEvent, ImageBlob, Keys, Lineage, NetPrivileges, Origin,
    OriginError, RequestError, SnapshotSink, StartError, Stdio, WaitStatus,
};
use crate::image::{ImageError, RootImage};
use crate::netns::NetnsError;
use crate::program::{self, DEFAULT_PATH, ProgramError};
use crate::rootview::ViewError;
use crate::terminal::{RawMode, window_size};
use crate::users::{self, UserError};

/// Signals that are passed on as they are.
const FORWARDED: [i32; 6] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];
/// So many SIGINTs or SIGTERMs within [`INSIST_WITHIN`] end a guest that does not react to them.
const INSIST_COUNT: usize = 3;
const INSIST_WITHIN: Duration = Duration::from_secs(2);

/// Why a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The layer cache.
    #[error("{source} (--no-cache does without, --cache DIR uses another)")]
    Cache {
        /// Why.
        source: RootfsError,
    },
    /// The root file system.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The image cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The user.
    #[error(transparent)]
    User(#[from] UserError),
    /// The program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The guest's network.
    #[error("{0} (--network none needs root)")]
    Network(#[source] NetnsError),
    /// The guest did not start.
    #[error("cannot start the guest: {0}")]
    Start(#[from] StartError),
    /// The store of snapshots.
    #[error(transparent)]
    Store(#[from] SnapshotError),
    /// A node's store.
    #[error(transparent)]
    Node(#[from] seuss_snapshotter::memory::ClientError),
    /// Snapshots cannot be exported or imported.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A tenant of a store that has none.
    #[error("{store} is a directory: only the node's store, a socket, has tenants", store = .store.display())]
    NoTenants {
        /// Which.
        store: PathBuf,
    },
    /// The snapshot cannot be cloned here.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// No snapshot came of it.
    #[error("no snapshot was taken: {0}")]
    NotTaken(String),
    /// The guest broke, or could not start the program.
    #[error("{}", display_failure(.0))]
    Guest(#[from] GuestError),
    /// Something of this process.
    #[error("cannot {operation}: {source}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The timings.
    #[error("cannot write the timings to {path}: {source}", path = .path.display())]
    Timings {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn display_failure(error: &GuestError) -> String {
    match (error, error.report()) {
        (GuestError::NotStarted { .. }, _) => error.to_string(),
        (_, Some(report)) => format!("the guest failed: {error}\n{report}"),
        (_, None) => format!("the guest failed: {error}"),
    }
}

impl RunError {
    /// The exit code that stands for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Program(error) => error.exit_code(),
            Self::Guest(GuestError::NotStarted { errno, .. }) => program::exit_code_of(*errno),
            _ => EXIT_FAILURE,
        }
    }
}

/// What a guest begins with.
pub(super) enum Beginning {
    /// A program.
    Boot(Box<GuestConfig>),
    /// A snapshot.
    Clone(Box<CloneConfig>),
}

/// Runs the program; returns its exit code.
///
/// # Errors
/// [`RunError`].
pub fn run(args: &RunArgs) -> Result<u8, RunError> {
    let began = Instant::now();
    let mut timings = Timings::default();
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let beginning = match &args.from {
        Some(name) => Beginning::Clone(Box::new(clone_config(args, name, &mut timings)?)),
        None => Beginning::Boot(Box::new(boot_config(args, terminal, &mut timings)?)),
    };
    let runtime = event_loop()?;
    let status = runtime.block_on(drive(beginning, args.network, terminal, &mut timings));
    timings.total_us = us(began.elapsed());
    let code = status.as_ref().map_or_else(RunError::exit_code, |status| status.shell_code() as u8);
    timings.exit_code = code;
    if let Some(path) = &args.timings {
        let written = timings.write(path, args.json);
        written.map_err(|source| RunError::Timings { path: path.clone(), source })?;
    }
    status.map(|_| code)
}

pub(super) fn event_loop() -> Result<tokio::runtime::Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::Host { operation: "start the event loop", source })
}

/// A guest that runs the program from its beginning.
pub(super) fn boot_config(
    args: &RunArgs,
    terminal: bool,
    timings: &mut Timings,
) -> Result<GuestConfig, RunError> {
    let began = Instant::now();
    let image = open_image(args, args.rootfs.as_deref().unwrap_or(Path::new(".")))?;
    timings.rootfs_us = us(began.elapsed());
    timings.rootfs_bytes = image.len_bytes();
    let checking = Instant::now();
    let process = describe(args, &image, terminal)?;
    program::check(&image.view, &process)?;
    timings.check_us = us(checking.elapsed());
    let images = image.blobs()?;
    let snapshots = match &args.store {
        Some(dir) => Some(sink(dir, &images, args, process.command_line(), terminal)?),
        None => None,
    };
    Ok(GuestConfig {
        memory_bytes: args.memory,
        images,
        process,
        stdio: own_stdio()?,
        name: format!("seuss-{}", std::process::id()),
        privileges: NetPrivileges::of_this_process(),
        snapshots,
    })
}

/// Where the snapshots of a guest over `images` go.
fn sink(
    dir: &Path,
    images: &[ImageBlob],
    args: &RunArgs,
    command: String,
    terminal: bool,
) -> Result<SnapshotSink, RunError> {
    let store = Arc::new(Store::open(dir)?);
    let known = keep_images(&store, images)?;
    Ok(SnapshotSink {
        store,
        images: known,
        keys: Keys::AsNamed,
        base: args.base,
        name: args.snapshot_name.clone(),
        command,
        terminal,
        allowance: Arc::default(),
    })
}

/// Bring `images` to the store.
fn keep_images(store: &Store, images: &[ImageBlob]) -> Result<Vec<ImageRef>, RunError> {
    let mut known = Vec::with_capacity(images.len());
    for image in images {
        let file = image
            .file
            .try_clone()
            .map_err(|source| RunError::Host { operation: "duplicate an image's descriptor", source })?;
        known.push(store.add_image(&file.into(), image.len_bytes)?);
    }
    Ok(known)
}

/// Snapshot `name` of `store`, over the root file system `image` instead of its own, if it is that of another application over the runtime of a base snapshot.
pub(super) fn open_origin(
    store: &Store,
    name: &str,
    image: Option<&RootImage>,
) -> Result<(Arc<Origin>, Vec<ImageRef>), RunError> {
    let id = store.resolve(name)?;
    let Some(image) = image else {
        let origin = Origin::open(store, id)?;
        let images = origin.manifest().images.clone();
        return Ok((origin, images));
    };
    let lineage = Lineage::open(store, id)?;
    let images = keep_images(store, &image.blobs()?)?;
    if !images.starts_with(&lineage.leaf().manifest().images) {
        return Err(OriginError::Images { id }.into());
    }
    Ok((Origin::over(lineage, image.blobs()?)?, images))
}

/// A guest that goes on from a snapshot.
fn clone_config(args: &RunArgs, name: &str, timings: &mut Timings) -> Result<CloneConfig, RunError> {
    let began = Instant::now();
    let dir = args.store.as_deref().unwrap_or(Path::new("."));
    let store = Arc::new(Store::open(dir)?);
    let image = args.rootfs.as_deref().map(|rootfs| open_image(args, rootfs)).transpose()?;
    let (origin, images) = open_origin(&store, name, image.as_ref())?;
    timings.rootfs_us = us(began.elapsed());
    let manifest = origin.manifest();
    let snapshots = SnapshotSink {
        store,
        images,
        keys: Keys::AsNamed,
        base: false,
        name: args.snapshot_name.clone(),
        command: manifest.command.clone(),
        terminal: manifest.terminal,
        allowance: Arc::default(),
    };
    Ok(CloneConfig {
        process: ProcessSpec {
            env: given_environment(&args.env),
            ..clone_process(&args.hostname, args.no_hooks)
        },
        origin,
        stdio: own_stdio()?,
        name: format!("seuss-{}", std::process::id()),
        privileges: NetPrivileges::of_this_process(),
        snapshots: Some(snapshots),
        pool: None,
    })
}

/// What a clone is told.
pub(super) fn clone_process(hostname: &str, no_hooks: bool) -> ProcessSpec {
    ProcessSpec {
        args: vec![b"clone".to_vec()],
        hostname: hostname.as_bytes().to_vec(),
        no_hooks,
        ..ProcessSpec::default()
    }
}

/// The command line's variables, those taken from here that are set here.
fn given_environment(own: &[String]) -> Vec<Vec<u8>> {
    let given = |entry: &String| match entry.contains('=') {
        true => Some(entry.clone()),
        false => std::env::var(entry).ok().map(|value| format!("{entry}={value}")),
    };
    own.iter().filter_map(given).map(String::into_bytes).collect()
}

fn open_image(args: &RunArgs, rootfs: &Path) -> Result<RootImage, RunError> {
    let cache = match cache_dir(args).filter(|_| rootfs.is_file() || rootfs.join("oci-layout").is_file()) {
        Some(dir) => Some(BlobCache::open(&dir).map_err(|source| RunError::Cache { source })?),
        None => None,
    };
    Ok(RootImage::open(rootfs, args.image.as_deref(), cache.as_ref())?)
}

fn cache_dir(args: &RunArgs) -> Option<PathBuf> {
    if args.no_cache {
        return None;
    }
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = || var("XDG_CACHE_HOME").or_else(|| var("HOME").map(|home| home.join(".cache")));
    args.cache.clone().or_else(|| base().map(|base| base.join("seuss/layers")))
}

/// The process that the command line and the image describe together.
fn describe(args: &RunArgs, image: &RootImage, terminal: bool) -> Result<ProcessSpec, RunError> {
    let defaults = &image.defaults;
    let command: Vec<Vec<u8>> = if args.program.is_empty() {
        defaults.entrypoint.iter().chain(&defaults.cmd).map(|arg| arg.clone().into_bytes()).collect()
    } else {
        args.program.iter().map(|arg| arg.as_bytes().to_vec()).collect()
    };
    if command.is_empty() {
        return Err(ProgramError::None.into());
    }
    let identity = users::resolve(&image.view, args.user.as_deref().unwrap_or(&defaults.user))?;
    let home = users::home(&image.view, identity.uid)?;
    let cwd = args.cwd.clone().unwrap_or_else(|| defaults.cwd.clone());
    let window = if terminal { window_size(io::stdout().as_fd()) } else { (0, 0) };
    Ok(ProcessSpec {
        args: command,
        env: environment(&defaults.env, &args.env, &home, terminal),
        cwd: if cwd.is_empty() { b"/".to_vec() } else { cwd.into_bytes() },
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
        umask: 0o22,
        terminal,
        window,
        hostname: args.hostname.clone().into_bytes(),
        read_only_root: args.read_only,
        no_hooks: args.no_hooks,
        files: name_resolution(image, args.network)?,
        identity: args.identity_env.iter().map(|name| name.clone().into_bytes()).collect(),
        ..ProcessSpec::default()
    })
}

/// Where names are resolved, if the image does not say: as the caller resolves them, if the guest has his network.
fn name_resolution(image: &RootImage, network: NetworkChoice) -> Result<Vec<InjectedFile>, RunError> {
    let mut files = Vec::new();
    let paths: &[&str] = match network {
        NetworkChoice::Pod => &["/etc/resolv.conf", "/etc/hosts"],
        NetworkChoice::None => &["/etc/hosts"],
    };
    for &path in paths {
        if image.view.lookup(path.as_bytes())?.is_none()
            && let Ok(content) = std::fs::read(path)
        {
            files.push(InjectedFile { path: path.into(), mode: 0o644, read_only: false, content });
        }
    }
    Ok(files)
}

/// The image's environment, changed by the command line's, with what every program may expect.
fn environment(image: &[String], own: &[String], home: &str, terminal: bool) -> Vec<Vec<u8>> {
    let mut entries: Vec<(String, String)> = Vec::new();
    let mut set =
        |key: &str, value: &str, replace: bool| match entries.iter_mut().find(|(name, _)| name == key) {
            Some(entry) if replace => value.clone_into(&mut entry.1),
            Some(_) => {}
            None => entries.push((key.to_owned(), value.to_owned())),
        };
    for entry in image {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(key, value, true);
    }
    for entry in own {
        match entry.split_once('=') {
            Some((key, value)) => set(key, value, true),
            None => {
                if let Ok(value) = std::env::var(entry) {
                    set(entry, &value, true);
                }
            }
        }
    }
    set("PATH", DEFAULT_PATH, false);
    set("HOME", home, false);
    if terminal {
        set("TERM", &std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned()), false);
    }
    entries.into_iter().map(|(key, value)| format!("{key}={value}").into_bytes()).collect()
}

pub(super) fn own_stdio() -> Result<Stdio, RunError> {
    let duplicate = |fd: BorrowedFd<'_>| {
        let fd = fd.try_clone_to_owned();
        fd.map(Some).map_err(|source| RunError::Host { operation: "duplicate a standard descriptor", source })
    };
    Ok(Stdio {
        stdin: duplicate(io::stdin().as_fd())?,
        stdout: duplicate(io::stdout().as_fd())?,
        stderr: duplicate(io::stderr().as_fd())?,
    })
}

/// Starts the guest and passes on signals until it has ended.
async fn drive(
    beginning: Beginning,
    network: NetworkChoice,
    terminal: bool,
    timings: &mut Timings,
) -> Result<WaitStatus, RunError> {
    let mut signals =
        Signals::new().map_err(|source| RunError::Host { operation: "listen for signals", source })?;
    let (sender, mut ended) = mpsc::unbounded_channel();
    let started = Instant::now();
    let events = move |event| match event {
        // The receiver lives until it has got this.
        GuestEvent::Ended(result) => drop(sender.send(result)),
        GuestEvent::Captured(Ok(id)) => tracing::info!(%id, "snapshot taken"),
        GuestEvent::Captured(Err(reason)) => tracing::warn!(reason, "no snapshot"),
        _ => {}
    };
    let guest = network.run(|| {
        Ok(match beginning {
            Beginning::Boot(config) => Guest::start(*config, events)?,
            Beginning::Clone(config) => Guest::restore(*config, events)?,
        })
    })?;
    let running = Instant::now();
    tracing::info!(elapsed_us = us(running - started), tid = guest.tid(), "guest started");
    let raw = if terminal {
        let raw = RawMode::enter(io::stdin());
        Some(raw.map_err(|source| RunError::Host { operation: "put the terminal in raw mode", source })?)
    } else {
        None
    };
    let result = loop {
        tokio::select! {
            result = ended.recv() => break result,
            signo = signals.next() => pass_on(&guest, signo, terminal, &mut signals.insisted),
        }
    };
    // The terminal is as before when anything is said about the guest's end.
    drop(raw);
    timings.run_us = us(running.elapsed());
    timings.start = guest.timings().into();
    timings.guest = guest.stats().into();
    match result {
        Some(result) => Ok(result?),
        None => Ok(guest.wait()?),
    }
}

fn pass_on(guest: &Guest, signo: i32, terminal: bool, insisted: &mut Vec<Instant>) {
    let result = match signo {
        libc::SIGWINCH if terminal => {
            let (rows, columns) = window_size(io::stdout().as_fd());
            guest.resize(0, rows, columns)
        }
        libc::SIGWINCH => Ok(()),
        _ => {
            if signo == libc::SIGINT || signo == libc::SIGTERM {
                let now = Instant::now();
                insisted.retain(|at| now - *at < INSIST_WITHIN);
                insisted.push(now);
            }
            if insisted.len() >= INSIST_COUNT {
                tracing::warn!("the guest is ended by force");
                guest.stop();
                Ok(())
            } else {
                guest.signal(0, signo as u32, false)
            }
        }
    };
    match result {
        Ok(()) | Err(RequestError::Ended) => {}
        Err(error) => tracing::warn!(%error, signo, "a signal is lost"),
    }
}

struct Signals {
    streams: Vec<(i32, Signal)>,
    insisted: Vec<Instant>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let stream = |signo: i32| Ok((signo, signal(SignalKind::from_raw(signo))?));
        let streams = FORWARDED.into_iter().chain([libc::SIGWINCH]).map(stream).collect::<io::Result<_>>()?;
        Ok(Self { streams, insisted: Vec::new() })
    }

    async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (signo, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*signo);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(image: &[&str], own: &[&str]) -> Vec<String> {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let entries = environment(&owned(image), &owned(own), "/root", false);
        entries.into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect()
    }

    #[test]
    fn the_command_line_changes_the_images_environment() {
        assert_eq!(env(&["A=1", "PATH=/x"], &["A=2", "B=a=b"]), ["A=2", "PATH=/x", "B=a=b", "HOME=/root"]);
        assert_eq!(env(&[], &["HOME=/h"]), ["HOME=/h".to_owned(), format!("PATH={DEFAULT_PATH}")]);
    }

    #[test]
    fn a_name_alone_takes_the_value_from_here() {
        // PATH is set wherever tests run.
        let path = std::env::var("PATH").unwrap();
        assert_eq!(env(&["PATH=/x"], &["PATH", "SEUSS_NOT_SET_ANYWHERE"])[0], format!("PATH={path}"));
    }
}
