//! Where log lines go.
//!
//! `seussctl` logs to standard error, a shim to the `log` FIFO of its bundle, which containerd copies into its own log. Both take
//! what to log from `SEUSS_LOG` (as `RUST_LOG` elsewhere).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;
use seuss_snapshotter::beneath::Pinned;
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
    let writer = FifoWriter { file: Arc::new(file) };
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

impl<'a> MakeWriter<'a> for FifoWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

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
