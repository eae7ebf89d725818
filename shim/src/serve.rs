//! The shim process itself: from the socket on its standard input to the end of its last container.
//!
//! Owns [`serve`]: log, event delivery, ttrpc server, signals, and the order in which all of it ends.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use seuss_snapshotter::memory::peer;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::args::Flags;
use crate::bootstrap::{TTRPC_ADDRESS, remove_socket};
use crate::events::{Destination, EventQueue};
use crate::guest::Kvm;
use crate::sandbox::Pod;
use crate::{logging, service, threads};

/// How long containers have to end after the shim got SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last events may take to reach containerd.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a shim ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The log.
    #[error("cannot open the log FIFO of the bundle: {source}")]
    Log {
        /// Why.
        source: io::Error,
    },
    /// Standard input is no listening socket.
    #[error("standard input is not the listening socket that `start` passes: {source}")]
    Socket {
        /// Why.
        source: io::Error,
    },
    /// The server.
    #[error("cannot serve: {source}")]
    Server {
        /// Why.
        source: ttrpc::Error,
    },
    /// Something of this process.
    #[error("cannot {operation}: {source}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Serves until containerd is done with the shim.
///
/// # Errors
/// [`ServeError`].
pub fn serve(flags: &Flags) -> Result<(), ServeError> {
    logging::to_fifo(Path::new("log"), flags.debug).map_err(|source| ServeError::Log { source })?;
    // The environment and the mounted files of pods are in this process' memory.
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "a core dump of this process would have the pods' secrets");
    }
    let listener = take_listener().map_err(|source| ServeError::Socket { source })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Host { operation: "start the event loop", source })?;
    let result = runtime.block_on(serve_on(listener, flags));
    if let Err(error) = &result {
        tracing::error!(%error, "the shim ends");
    }
    // Blocking work that is still under way has nobody to answer to.
    runtime.shutdown_background();
    result
}

/// The socket that `start` bound, which is standard input; that becomes /dev/null.
fn take_listener() -> io::Result<UnixListener> {
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let listener = UnixListener::from(socket);
    // Fails for what is no socket.
    listener.local_addr()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    Ok(listener)
}

/// Connections of containerd, which is root, and of whoever else is; those of other users are closed.
fn trusting(listener: UnixListener) -> io::Result<Listener> {
    listener.set_nonblocking(true)?;
    let connections = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
    Ok(Listener::new(connections.filter(|connection| connection.as_ref().map_or(true, peer::is_trusted))))
}

async fn serve_on(listener: UnixListener, flags: &Flags) -> Result<(), ServeError> {
    threads::start_from_here();
    let (events, delivery) = EventQueue::start(destination(flags), flags.namespace.clone());
    let pod = Arc::new(Pod::new(flags.namespace.clone(), events, Arc::new(Kvm)));
    let listener = trusting(listener).map_err(|source| ServeError::Socket { source })?;
    let services = service::services(Arc::clone(&pod), &flags.id);
    let mut server = Server::new().add_listener(listener).register_service(services);
    server.start().await.map_err(|source| ServeError::Server { source })?;
    tracing::info!(id = flags.id, namespace = flags.namespace, pid = std::process::id(), "shim serves");
    let signals = tokio::spawn(obey_signals(Arc::clone(&pod)));

    pod.done().await;

    tracing::info!("shim ends");
    signals.abort();
    let path = PathBuf::from(flags.socket.strip_prefix("unix://").unwrap_or(&flags.socket));
    if let Err(error) = remove_socket(&path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove the shim's socket");
    }
    if let Err(error) = server.shutdown().await {
        tracing::debug!(%error, "the server ends");
    }
    pod.leave_process_group();
    // With the last owner of the queue gone, delivery ends when it has delivered everything.
    drop((server, pod));
    if tokio::time::timeout(FLUSH_TIMEOUT, delivery).await.is_err() {
        tracing::warn!("events are lost: containerd does not take them");
    }
    Ok(())
}

fn destination(flags: &Flags) -> Destination {
    match std::env::var(TTRPC_ADDRESS).ok().filter(|address| !address.is_empty()) {
        Some(address) => Destination::Ttrpc { address },
        None => Destination::Binary { program: flags.publish_binary.clone(), address: flags.address.clone() },
    }
}

/// SIGTERM and SIGINT: the containers get SIGTERM, time to end, then SIGKILL; then the shim ends. A second one makes it end at once.
async fn obey_signals(pod: Arc<Pod>) {
    let streams =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut term), Ok(mut interrupt), Ok(mut hangup)) = streams else {
        tracing::error!("cannot listen for signals");
        return;
    };
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tracing::info!("SIGHUP means nothing to a shim"),
        }
    }
    tracing::warn!("the shim was told to end; its containers get SIGTERM");
    tokio::select! {
        () = end_containers(&pod) => {}
        _ = term.recv() => tracing::warn!("told to end again"),
        _ = interrupt.recv() => tracing::warn!("told to end again"),
    }
    pod.shutdown();
}

async fn end_containers(pod: &Pod) {
    let all = |signo: i32| {
        for container in pod.containers() {
            if let Err(error) = container.kill(None, signo as u32, false) {
                tracing::debug!(%error, id = container.id, "no signal");
            }
        }
    };
    let ended = async {
        for container in pod.containers() {
            let _ = container.wait(None).await;
        }
    };
    all(libc::SIGTERM);
    if tokio::time::timeout(TERM_TIMEOUT, ended).await.is_err() {
        all(libc::SIGKILL);
        for container in pod.containers() {
            let _ = tokio::time::timeout(FLUSH_TIMEOUT, container.wait(None)).await;
        }
    }
}
