//! Where log lines go.
//!
//! `seussctl` logs to standard error, a shim to the `log` FIFO of its bundle, which containerd copies into its own log. Both take
//! what to log from `SEUSS_LOG` (as `RUST_LOG` elsewhere). What a shim logs for a guest is metered: it ends in a log of the node. What `seussctl` logs is its user's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use seuss_snapshotter::beneath::Pinned;
use seuss_vmm::text::write_line;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Environment variable that says what is logged.
pub const FILTER_VARIABLE: &str = "SEUSS_LOG";

/// What `seussctl` logs unless told otherwise.
const CTL_DEFAULT: &str = "warn,seuss_vmm::run=off,seuss_vmm::report=off";

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(default))
}

/// Logs to standard error; by default without what `seussctl` says itself when a guest ends badly.
pub fn to_stderr() {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(CTL_DEFAULT))
        .with_writer(io::stderr)
        .with_ansi(false);
    // Fails only if there is one already: then that one is used.
    let _ = subscriber.try_init();
}

/// Logs to the FIFO at `path`, and makes it this process' standard error, so that a panic's message gets there, too.
///
/// The FIFO is opened for reading and writing: the shim outlives containerd, and a write must neither fail nor wait when nobody reads.
///
/// # Errors
/// The FIFO cannot be opened.
pub fn to_fifo(path: &Path, debug: bool) -> io::Result<()> {
    let file = Pinned::open(path)?.reopen(OFlags::RDWR)?;
    rustix::stdio::dup2_stderr(OwnedFd::from(file.try_clone()?).as_fd())?;
    let writer = Metered(FifoWriter { file: Arc::new(file) });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(if debug { "debug" } else { "info" }))
        .with_writer(writer)
        .with_ansi(false);
    let _ = subscriber.try_init();
    Ok(())
}

/// Writes to a FIFO; what does not fit is lost.
#[derive(Clone, Debug)]
struct FifoWriter {
    file: Arc<File>,
}

impl io::Write for FifoWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (&*self.file).write(bytes) {
            Ok(count) => Ok(count),
            Err(_) => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes whole messages, from threads that work for a guest only as many as the guest may cause ([`seuss_vmm::text`]).
#[derive(Clone, Debug)]
struct Metered(FifoWriter);

impl io::Write for Metered {
    /// A formatter writes each message at once.
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        write_line(&mut self.0, message)?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<'a> MakeWriter<'a> for Metered {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_guest_fills_no_log() {
        use seuss_vmm::text::{MINUTE_BYTES, TextBudget};
        use std::io::Read as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let metered = Metered(FifoWriter { file: Arc::new(file.try_clone().unwrap()) });
        let subscriber = tracing_subscriber::fmt().with_writer(metered).with_ansi(false).finish();
        let mut read = 0;
        tracing::subscriber::with_default(subscriber, || {
            let budget = TextBudget::default();
            let guest = budget.enter();
            for _ in 0..10_000 {
                tracing::warn!(text = "x".repeat(100), "no snapshot");
                read += (&file).read(&mut [0; 4096]).unwrap_or(0) as u64;
            }
            assert!(budget.take_left_out().is_none(), "no room to tell yet");
            budget.release_last_words();
            assert!(budget.take_left_out().is_some_and(|left| left.lines > 9_000 && left.bytes > 1_000_000));
            drop(guest);
            assert!(read > 0 && read <= MINUTE_BYTES, "{read}");
            tracing::warn!("the shim itself is not metered");
            assert!((&file).read(&mut [0; 4096]).unwrap() > 0);
        });
    }

    #[test]
    fn a_log_that_nobody_reads_stops_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let file = Pinned::open(&path).unwrap().reopen(OFlags::RDWR).unwrap();
        let mut writer = FifoWriter { file: Arc::new(file) };
        for _ in 0..100 {
            writer.write_all(&[b'x'; 4096]).unwrap();
        }
    }
}
