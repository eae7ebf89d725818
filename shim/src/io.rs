//! Standard input and output of containers' processes, as containerd names them.
//!
//! Owns [`ProcessIo`]: the descriptors that the guest gets, and what the shim must hold beside them. The guest's VMM reads and writes
//! containerd's FIFOs itself; no byte is copied by the shim (decisions/0003).
//!
//! - **stdin** is read from the FIFO. The shim holds a writer of it until close-io: without that, the program would read end of file before
//!   containerd (or `kubectl attach`) has opened its end, or between two attaches.
//! - **stdout, stderr** are opened for reading and writing: opening never waits for containerd, a restart of containerd ends nothing (no
//!   EPIPE), and a full FIFO makes the program wait, as a pipe does.
//! - **terminal**: one stream in and one out; the guest's own terminal sits between.
//! - `file:///path` appends to a file; `binary:///path?args` starts a logging program (runtime-v2's README, "Logging").

pub mod binary;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use seuss_snapshotter::beneath::{Dir, Pinned};

use crate::guest::Stdio;
use binary::{BinaryError, Logger};

/// Why standard input or output could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// A FIFO or file cannot be opened.
    #[error("cannot open {stream} {path}: {source}", path = .path.display())]
    Open {
        /// stdin, stdout or stderr.
        stream: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A scheme that is not supported.
    #[error("{stream} {uri:?}: scheme {scheme:?} is not supported (fifo, file and binary are)")]
    Scheme {
        /// stdin, stdout or stderr.
        stream: &'static str,
        /// As containerd gave it.
        uri: String,
        /// Its scheme.
        scheme: String,
    },
    /// A descriptor cannot be duplicated.
    #[error("cannot duplicate a descriptor: {source}")]
    Duplicate {
        /// Why.
        source: io::Error,
    },
    /// The logging program failed.
    #[error(transparent)]
    Binary(#[from] BinaryError),
}

/// Standard input and output as containerd names them in a create or exec request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StdioNames {
    /// Standard input, empty for none.
    pub stdin: String,
    /// Standard output, empty for none.
    pub stdout: String,
    /// Standard error, empty for none.
    pub stderr: String,
    /// Whether they are a terminal.
    pub terminal: bool,
}

/// What a process' standard input and output need in the shim.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// For the guest; taken when the process is started.
    stdio: Option<Stdio>,
    /// Keeps the stdin FIFO from reading as ended.
    stdin_keeper: Option<File>,
    /// Where the shim itself may say something to whoever reads the program's errors.
    messages: Option<File>,
    /// The logging program.
    logger: Option<Logger>,
}

/// Owner of the streams, for a logging program's environment.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub id: &'a str,
}

impl ProcessIo {
    /// Opens what `names` says.
    ///
    /// # Errors
    /// [`IoError`]; nothing stays open then.
    pub fn open(names: &StdioNames, owner: Owner<'_>) -> Result<Self, IoError> {
        let mut io = Self::default();
        let mut stdio = Stdio::default();
        if let Some((reader, keeper)) = open_stdin(&names.stdin)? {
            stdio.stdin = Some(reader.into());
            io.stdin_keeper = Some(keeper);
        }
        match scheme(&names.stdout) {
            Some(("binary", rest)) => {
                let (logger, stdout, stderr) = binary::start(&names.stdout, rest, owner)?;
                io.logger = Some(logger);
                stdio.stdout = Some(stdout);
                stdio.stderr = Some(stderr);
            }
            _ => {
                stdio.stdout = open_output("stdout", &names.stdout)?.map(OwnedFd::from);
                // As runc's shim: file:// takes both, whatever stderr says.
                let stderr = if matches!(scheme(&names.stdout), Some(("file", _))) {
                    &names.stdout
                } else {
                    &names.stderr
                };
                stdio.stderr = open_output("stderr", stderr)?.map(OwnedFd::from);
            }
        }
        if names.terminal {
            stdio.stderr = duplicate(stdio.stdout.as_ref())?;
        }
        io.messages = duplicate(stdio.stderr.as_ref().or(stdio.stdout.as_ref()))?.map(File::from);
        io.stdio = Some(stdio);
        Ok(io)
    }

    /// The descriptors for the guest. A second call gets none.
    pub fn take_stdio(&mut self) -> Stdio {
        self.stdio.take().unwrap_or_default()
    }

    /// Standard input ends once what was written so far is read (close-io).
    pub fn close_stdin(&mut self) {
        self.stdin_keeper = None;
    }

    /// Says `message` on the process' standard error, if there is room for it.
    pub fn say(&mut self, message: &str) {
        if let Some(file) = &mut self.messages
            && let Err(error) = file.write_all(format!("{message}\n").as_bytes())
        {
            tracing::debug!(%error, message, "cannot write to the container's standard error");
        }
    }

    /// Lets go of everything: readers see end of file as soon as the guest has let go, too. A logging program gets time to end.
    pub fn close(&mut self) {
        self.stdio = None;
        self.stdin_keeper = None;
        self.messages = None;
        if let Some(logger) = self.logger.take() {
            logger.finish();
        }
    }
}

impl Drop for ProcessIo {
    fn drop(&mut self) {
        self.close();
    }
}

/// Splits `scheme://rest`; `None` for a plain path, `fifo://` included.
fn scheme(uri: &str) -> Option<(&str, &str)> {
    uri.split_once("://").filter(|(scheme, _)| *scheme != "fifo")
}

fn plain_path(uri: &str) -> &str {
    uri.strip_prefix("fifo://").unwrap_or(uri)
}

fn open_stdin(uri: &str) -> Result<Option<(File, File)>, IoError> {
    if uri.is_empty() {
        return Ok(None);
    }
    if let Some((scheme, _)) = scheme(uri) {
        return Err(IoError::Scheme { stream: "stdin", uri: uri.to_owned(), scheme: scheme.to_owned() });
    }
    let path = Path::new(plain_path(uri));
    let failed = |source| IoError::Open { stream: "stdin", path: path.to_owned(), source };
    // Pinned once: reader and keeper are ends of the same FIFO, and neither waits for the other.
    let pinned = Pinned::open(path).map_err(failed)?;
    // The reader first: a FIFO cannot be opened for writing, without waiting, before it has one.
    let reader = pinned.reopen(OFlags::RDONLY).map_err(failed)?;
    let keeper = match pinned.kind() {
        FileType::Fifo => pinned.reopen(OFlags::WRONLY).map_err(failed)?,
        _ => duplicate_file(&reader)?,
    };
    Ok(Some((reader, keeper)))
}

fn open_output(stream: &'static str, uri: &str) -> Result<Option<File>, IoError> {
    if uri.is_empty() {
        return Ok(None);
    }
    let failed = |path: &Path, source| IoError::Open { stream, path: path.to_owned(), source };
    match scheme(uri) {
        None => {
            let path = Path::new(plain_path(uri));
            let pinned = Pinned::open(path).map_err(|e| failed(path, e))?;
            let flags = match pinned.kind() {
                FileType::Fifo => OFlags::RDWR,
                _ => OFlags::WRONLY | OFlags::APPEND,
            };
            pinned.reopen(flags).map(Some).map_err(|e| failed(path, e))
        }
        Some(("file", rest)) => {
            let path = Path::new(rest.split(['?', '#']).next().unwrap_or(rest));
            open_log(path).map(Some).map_err(|e| failed(path, e))
        }
        Some((scheme, _)) => Err(IoError::Scheme { stream, uri: uri.to_owned(), scheme: scheme.to_owned() }),
    }
}

/// The file of a `file://`, made with its directories if it is missing. containerd's client names it, so links are followed; what it leads to must be
/// a file, or a device like /dev/null: a FIFO would make the container wait for somebody.
fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let (dir, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidInput)?;
    let dir = Dir::open(dir)?;
    let pinned = match Pinned::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => dir.create(name)?,
        pinned => pinned?,
    };
    match pinned.kind() {
        FileType::RegularFile | FileType::CharacterDevice => pinned.reopen(OFlags::WRONLY | OFlags::APPEND),
        kind => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is a {kind:?}, not a file"))),
    }
}

fn duplicate(fd: Option<&OwnedFd>) -> Result<Option<OwnedFd>, IoError> {
    fd.map(OwnedFd::try_clone).transpose().map_err(|source| IoError::Duplicate { source })
}

fn duplicate_file(file: &File) -> Result<File, IoError> {
    file.try_clone().map_err(|source| IoError::Duplicate { source })
}

#[cfg(test)]
mod tests;
