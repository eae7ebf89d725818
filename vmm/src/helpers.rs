//! Work that a confined thread has done for it, each piece on a thread of its own that is confined for just that.
//!
//! A vCPU thread starts no threads and opens no files. What needs either (the files of a snapshot, the last bytes of its connections) it hands to one thread of the process that was
//! started before any guest ran, and whose children are confined as [`Role::Clerk`] or [`Role::Linger`]. What is handed over is code of this crate with its data: who takes the
//! vCPU thread over can forge that, and gets what those roles may do.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::confine::{self, Granted, Reach, Role};
use crate::run::thread::AllBlocked;

struct Job {
    role: Role,
    /// The directory that it works in; without one it opens nothing.
    keeps: Option<PathBuf>,
    work: Box<dyn FnOnce() + Send>,
}

/// Start the thread, once per process. To be called by threads that are not confined, before guests run.
///
/// # Errors
/// No thread.
pub(crate) fn start() -> io::Result<()> {
    sender().map(drop)
}

fn sender() -> io::Result<&'static Sender<Job>> {
    static JOBS: OnceLock<Result<Sender<Job>, i32>> = OnceLock::new();
    let jobs = JOBS.get_or_init(|| {
        let (sender, jobs) = channel();
        // Signals are for the process' other threads.
        let _blocked = AllBlocked::new();
        let thread = std::thread::Builder::new().name("seuss-helpers".into()).spawn(move || serve(&jobs));
        thread.map(|_| sender).map_err(|error| error.raw_os_error().unwrap_or(libc::EAGAIN))
    });
    jobs.as_ref().map_err(|errno| io::Error::from_raw_os_error(*errno))
}

/// Have `work` done on a thread that is confined as `role`, which opens what is below `keeps` and nothing else. Does not wait.
///
/// # Errors
/// There are no helpers.
pub(crate) fn run(
    role: Role,
    keeps: Option<PathBuf>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    sender()?.send(Job { role, keeps, work: Box::new(work) }).map_err(gone)
}

fn serve(jobs: &Receiver<Job>) {
    if let Err(error) = confine::enter(Role::Helpers, Granted::NOTHING, Reach::Anything) {
        tracing::error!(%error, "the helpers cannot be confined: guests take no snapshots");
        return;
    }
    while let Ok(Job { role, keeps, work }) = jobs.recv() {
        let confined = move || {
            let reach = keeps.as_deref().map_or(Reach::Nothing, Reach::Keep);
            if let Err(error) = confine::enter(role, Granted::NOTHING, reach) {
                tracing::error!(%error, role = role.name(), "a helper cannot be confined, and does nothing");
                return;
            }
            work();
            confine::told_violation(role);
        };
        if let Err(error) = std::thread::Builder::new().name(role.name().into()).spawn(confined) {
            tracing::warn!(%error, role = role.name(), "no thread for a helper");
        }
    }
}
