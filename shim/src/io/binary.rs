//! Logging programs: the `binary://` scheme of standard output.
//!
//! Owns [`Logger`]: the program that `binary:///path?key=value` names, run with `key value` as arguments, container id and namespace in
//! its environment, the container's output on descriptors 3 and 4, and descriptor 5 to say (by closing it, or writing) that it is ready.
//! That is the contract of containerd's `runtime/v2/logging` package.
//!
//! Unsafe: the program's descriptors are put in place between fork and exec.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio as ProcessStdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

use super::Owner;

/// Longest wait for a logging program to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for it to end once its input has ended; then SIGTERM, and after as long again SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a logging program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// No path.
    #[error("{uri:?} names no program; write binary:///path/to/program?argument=value")]
    NoProgram {
        /// As containerd gave it.
        uri: String,
    },
    /// It did not start.
    #[error("cannot start the logging program {program}: {source}")]
    Start {
        /// Its path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It did not get ready.
    #[error("the logging program {program} was not ready within {timeout:?}", timeout = READY_TIMEOUT)]
    NotReady {
        /// Its path.
        program: String,
    },
}

/// A running logging program.
#[derive(Debug)]
pub struct Logger {
    child: Child,
}

/// Starts the program that `rest` (what follows `binary://` in `uri`) names. Returns it with the container's ends of stdout and stderr.
pub(super) fn start(
    uri: &str,
    rest: &str,
    owner: Owner<'_>,
) -> Result<(Logger, OwnedFd, OwnedFd), BinaryError> {
    let (program, query) = rest.split_once('?').unwrap_or((rest, ""));
    let program = decode(program);
    if program.is_empty() {
        return Err(BinaryError::NoProgram { uri: uri.to_owned() });
    }
    let failed = |source: io::Error| BinaryError::Start { program: program.clone(), source };
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()));
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    let (ready_read, ready_write) = pipe()?;
    let mut command = Command::new(&program);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.arg(decode(key));
        if !value.is_empty() {
            command.arg(decode(value));
        }
    }
    command
        .env("CONTAINER_ID", owner.id)
        .env("CONTAINER_NAMESPACE", owner.namespace)
        .stdin(ProcessStdio::null())
        .stdout(ProcessStdio::null())
        .stderr(ProcessStdio::null());
    // Above the numbers that the program gets, so that putting one in place never closes another.
    let high = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 10).map_err(|e| failed(e.into()));
    let sources = [high(&out_read)?, high(&err_read)?, high(&ready_write)?];
    let places: [(RawFd, RawFd); 3] =
        [(sources[0].as_raw_fd(), 3), (sources[1].as_raw_fd(), 4), (sources[2].as_raw_fd(), 5)];
    let put_in_place = move || {
        for (from, to) in places {
            // SAFETY: dup2 takes and returns plain numbers; in the child, `from` is open (a copy of `sources`) and nothing uses `to` yet.
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and only calls dup2, which is async-signal-safe; it allocates nothing.
    unsafe { command.pre_exec(put_in_place) };
    let child = command.spawn().map_err(failed)?;
    let mut logger = Logger { child };
    drop((sources, ready_write, out_read, err_read));
    if !wait_ready(ready_read) {
        let _ = logger.child.kill();
        let _ = logger.child.wait();
        return Err(BinaryError::NotReady { program });
    }
    Ok((logger, out_write, err_write))
}

/// Whether the program says that it is ready in time: it writes a byte or closes the descriptor.
fn wait_ready(ready: OwnedFd) -> bool {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let mut fds = [PollFd::new(&ready, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return std::fs::File::from(ready).read(&mut [0]).is_ok(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

impl Logger {
    /// Waits in the background for the program to end, now that its input ends; ends it if it does not.
    pub(super) fn finish(mut self) {
        let reap = move || {
            for signal in [Signal::TERM, Signal::KILL] {
                let deadline = Instant::now() + END_TIMEOUT;
                while Instant::now() < deadline {
                    match self.child.try_wait() {
                        Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                        Ok(Some(_)) | Err(_) => return,
                    }
                }
                tracing::warn!(
                    pid = self.child.id(),
                    ?signal,
                    "the logging program does not end; it gets a signal"
                );
                if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
                    // It has not been waited for, so the number is still its own.
                    let _ = kill_process(pid, signal);
                }
            }
            let _ = self.child.wait();
        };
        crate::threads::spawn("logger-reaper", reap);
    }
}

/// Undoes URL encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|digit| (*digit as char).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            (b'+', ..) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
