//! Threads that confined ones need.
//!
//! A guest's events come on its vCPU thread, which starts no threads, and whose children would be as confined as it is. What takes longer than an event may, or needs what the
//! vCPU thread has given up, is begun from the event loop of the process.

use std::sync::OnceLock;

use tokio::runtime::Handle;

static EVENT_LOOP: OnceLock<Handle> = OnceLock::new();

/// From now on threads are started from the event loop of the calling task.
pub fn start_from_here() {
    // A second one would be as good as the first.
    let _ = EVENT_LOOP.set(Handle::current());
}

/// Runs `work` on a thread of its own, which is not confined. It may begin a moment later; that it cannot is told in the log.
pub fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) {
    let start = move || {
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
            tracing::warn!(%error, name, "no thread");
        }
    };
    match EVENT_LOOP.get() {
        Some(event_loop) => drop(event_loop.spawn(async move { start() })),
        None => start(),
    }
}
