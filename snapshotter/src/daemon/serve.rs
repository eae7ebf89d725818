//! Start and end of the daemon: tmpfs, store, sockets, signals.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;

use super::api::snapshots_server::SnapshotsServer;
use super::config::{Config, ImageStore, LayerFiles};
use super::metrics::{self, Metrics};
use super::notify::notify;
use super::service::{LayerRoom, Service};
use crate::layers::backing::{self, BackingError, Mounted};
use crate::layers::{Layers, LayersError, Options};
use crate::lookup::{NOTE_VERSION, SERVICE_NOTE, ServiceNote};
use crate::memory::channel::Listener;
use crate::memory::peer;
use crate::memory::server::Server;
use crate::memory::{Shelf, ShelfError, ShelfOptions};

/// How often the store is tidied up: what was revoked goes at once, and here if that failed.
const TIDY_PAUSE: Duration = Duration::from_secs(20);

/// Why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no tmpfs.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The store cannot be opened.
    #[error(transparent)]
    Layers(#[from] LayersError),
    /// The store of memory snapshots cannot be opened.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// A socket cannot be made.
    #[error("cannot listen on {path}: {source}", path = .path.display())]
    Listen {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Shims cannot be told where the store is.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Note {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(io::Error),
    /// gRPC ended.
    #[error("serving containerd failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(config: &Config) -> Result<(), ServeError> {
    if config.image_store == ImageStore::Memory {
        let mounted = backing::mount_tmpfs(&config.root, config.size_bytes)?;
        let found = mounted == Mounted::Found;
        tracing::info!(root = %config.root.display(), bytes = config.size_bytes, found, "tmpfs is mounted");
    }
    let options = Options {
        durable: config.image_store == ImageStore::Disk,
        reserve_bytes: config.reserve_bytes,
        mount_images: config.layer_files == LayerFiles::Image,
        ..Options::default()
    };
    let (layers, recovered) = Layers::open(&config.root, options)?;
    tracing::info!(snapshots = recovered.snapshots, swept = recovered.swept, "store is open");
    let options = ShelfOptions {
        budget_bytes: config.memory_budget_bytes,
        reserve_bytes: config.reserve_bytes,
        tenant: config.tenant,
        guest: config.guest,
        captures_per_minute: config.captures_per_minute,
    };
    let shelf = Shelf::open(&config.root.join("memory"), options)?;
    let (layers, shelf) = (Arc::new(layers), Arc::new(shelf));
    let metrics = Arc::new(Metrics::new(Arc::clone(&shelf)));
    let room = LayerRoom { shelf: Arc::clone(&shelf), bytes: config.layer_room_bytes };
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    if let Some(path) = &config.metrics_socket {
        tokio::spawn(metrics::serve(listen(path)?, Arc::clone(&layers), Arc::clone(&metrics)));
    }
    serve_store(&config.store_socket, shelf, &layers)?;
    tell_where(config)?;
    let listener = listen(&config.socket)?;
    tracing::info!(socket = %config.socket.display(), "serving containerd");
    notify("READY=1\nSTATUS=serving containerd");
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify("STOPPING=1");
        tracing::info!("ending: requests under way are finished first");
    };
    // Only containerd has business here.
    let connections = UnixListenerStream::new(listener)
        .filter(|connection| connection.as_ref().map_or(true, peer::is_trusted));
    tonic::transport::Server::builder()
        .add_service(SnapshotsServer::new(Service::new(layers, metrics, room)))
        .serve_with_incoming_shutdown(connections, stop)
        .await?;
    for path in [&config.socket, &config.store_socket].into_iter().chain(&config.metrics_socket) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// Serves the store of memory snapshots, on threads of its own.
fn serve_store(path: &Path, shelf: Arc<Shelf>, layers: &Arc<Layers>) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listen { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let listener = Listener::bind(path).map_err(failed)?;
    let tidied = Arc::clone(&shelf);
    let tidy = move || {
        loop {
            std::thread::sleep(TIDY_PAUSE);
            tidied.tidy();
        }
    };
    std::thread::Builder::new().name("store-tidy".to_owned()).spawn(tidy).map(drop).map_err(failed)?;
    let server = Server::new(shelf, Arc::clone(layers));
    let accept = move || server.run(&listener);
    std::thread::Builder::new().name("store-accept".to_owned()).spawn(accept).map(drop).map_err(failed)
}

/// Leaves word for the shims, which know the store's directory from the mounts that containerd passes them.
fn tell_where(config: &Config) -> Result<(), ServeError> {
    let path = config.root.join(SERVICE_NOTE);
    let note = ServiceNote { version: NOTE_VERSION, store_socket: config.store_socket.clone() };
    let write = || {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(&note)?)?;
        fs::set_permissions(&new, Permissions::from_mode(0o644))?;
        fs::rename(&new, &path)
    };
    write().map_err(|source| ServeError::Note { path: path.clone(), source })
}

/// Listens on `path`, for root only. A socket that is there belongs to an earlier daemon: the store's lock says that none is running.
fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let make = || {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        // Bound under another name and renamed, so that at any time the name leads to a socket that somebody answers, if to any.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let _ = fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        Ok(listener)
    };
    make().map_err(|source| ServeError::Listen { path: path.to_owned(), source })
}
