//! One HTTP request to a program: to warm it up, and to measure how soon it answers.
//!
//! Owns [`Target`] and [`Target::get`]. HTTP/1.1 as far as that needs (RFC 9112): a GET, `Connection: close`, the answer to its end.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest path of a request.
const PATH_MAX: usize = 2048;
/// Longest answer that is read.
const ANSWER_MAX: u64 = 1 << 20;
/// Longest status line that is told.
const STATUS_MAX: usize = 128;
/// How long is waited before it is looked whether to go on.
const TURN: Duration = Duration::from_millis(200);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_micros(100);

/// What is asked for: `PORT/PATH`, on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// TCP port.
    pub port: u16,
    /// Path, with its leading slash.
    pub path: String,
}

/// Not of the form `PORT/PATH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("say PORT/PATH, as in 8080/healthz")]
pub struct TargetError;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (port, path) = text.trim_start_matches(':').split_once('/').ok_or(TargetError)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(TargetError)?;
        // It becomes a line of a request: no spaces, nothing that ends the line.
        if path.len() > PATH_MAX || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TargetError);
        }
        Ok(Self { port, path: format!("/{path}") })
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When its first byte came.
    pub first_byte: Instant,
    /// The status line.
    pub status: String,
    /// What follows the head, cut off after a mebibyte.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the status is 200.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.status.split(' ').nth(1) == Some("200")
    }
}

/// Whether a read is merely to be tried again.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

impl Target {
    /// Asks, and tries again until somebody listens. All of it takes no longer than `patience`.
    ///
    /// # Errors
    /// Nobody listens, the connection ends before there is a status line, or there is none in time.
    pub fn get(&self, patience: Duration) -> std::io::Result<Answer> {
        self.get_until(patience, &AtomicBool::new(false))
    }

    /// As [`Self::get`], until `stop` is set.
    ///
    /// # Errors
    /// As there; [`std::io::ErrorKind::TimedOut`] when it was stopped.
    pub fn get_until(&self, patience: Duration, stop: &AtomicBool) -> std::io::Result<Answer> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + patience;
        let left = || {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || stop.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            Ok(left.min(TURN))
        };
        let mut stream = loop {
            match TcpStream::connect_timeout(&address, left()?) {
                Ok(stream) => break stream,
                Err(error) => {
                    if left().is_err() {
                        return Err(error);
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        };
        stream.set_write_timeout(Some(patience))?;
        let path = &self.path;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: seuss\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let mut first_byte = None;
        // To its end: no connection is open when this returns. However little comes at a time, and whoever sends it.
        let read = loop {
            let waits = left().and_then(|left| stream.set_read_timeout(Some(left)));
            if let Err(error) = waits {
                break Err(error);
            }
            match stream.read(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    first_byte.get_or_insert_with(Instant::now);
                    answer.extend_from_slice(&buffer[..count]);
                    if answer.len() as u64 > ANSWER_MAX {
                        break Ok(());
                    }
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => break Err(error),
            }
        };
        let Some(first_byte) = first_byte else {
            return Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into()));
        };
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        // The program's words: they end in a log.
        let line = &line[..line.len().min(STATUS_MAX)];
        let status: String =
            String::from_utf8_lossy(line).chars().filter(|letter| !letter.is_control()).collect();
        match (end, read) {
            (Some(end), _) => Ok(Answer { first_byte, status, body: answer.split_off(end + 4) }),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target(":8080/a?b=c"), Ok(Target { port: 8080, path: "/a?b=c".into() }));
        for wrong in ["8080", "x/y", "0/x", "70000/", "80/a b", "80/a\r\nHost: x", ""] {
            assert_eq!(target(wrong), Err(TargetError), "{wrong}");
        }
    }

    #[test]
    fn a_request_is_answered_or_fails() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target { port: listener.local_addr().unwrap().port(), path: "/x?y".into() };
        let server = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in ["HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", "HTTP/1.1 2"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 512];
                let len = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                requests.push(String::from_utf8_lossy(&request[..len]).into_owned());
            }
            requests
        });
        let answer = target.get(Duration::from_secs(20)).unwrap();
        assert!(answer.is_ok() && answer.body == b"body", "{answer:?}");
        assert!(target.get(Duration::from_secs(20)).is_err(), "half an answer");
        assert!(server.join().unwrap()[0].starts_with("GET /x?y HTTP/1.1\r\n"));
        assert!(target.get(Duration::from_millis(5)).is_err(), "nobody listens any more");
    }

    #[test]
    fn an_answer_that_never_ends_is_given_up() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = Target { port: listener.local_addr().unwrap().port(), path: "/".into() };
        // A byte now and then, for as long as somebody listens.
        let drip = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                while stream.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
        assert!(target.get(Duration::from_millis(300)).is_err(), "no head in time");
        // The guest's end ends it, too.
        let stop = AtomicBool::new(true);
        let error = target.get_until(Duration::from_secs(3600), &stop).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| target.get_until(Duration::from_secs(3600), &stop).map(drop));
            std::thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            assert!(asked.join().unwrap().is_err());
        });
        drip.join().unwrap();
    }
}
