//! One HTTP request to a program: to warm it up, and to measure how soon it answers.
//!
//! Owns [`Target`] and [`Target::get`]. HTTP/1.1 as far as that needs (RFC 9112): a GET, `Connection: close`, the answer to its end.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Longest path of a request.
const PATH_MAX: usize = 2048;
/// Longest answer that is read.
const ANSWER_MAX: u64 = 1 << 20;
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

impl Target {
    /// Asks, and tries again until somebody listens. Nothing is waited for longer than `patience`.
    ///
    /// # Errors
    /// Nobody listens, or the connection ends before there is a status line.
    pub fn get(&self, patience: Duration) -> std::io::Result<Answer> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let deadline = Instant::now() + patience;
        let mut stream = loop {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(PAUSE),
            }
        };
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let path = &self.path;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: seuss\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = vec![0; 1];
        stream.read_exact(&mut answer)?;
        let first_byte = Instant::now();
        // To its end: no connection is open when this returns.
        let read = stream.take(ANSWER_MAX).read_to_end(&mut answer);
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let status = String::from_utf8_lossy(line).into_owned();
        match (end, read) {
            (Some(end), _) => Ok(Answer { first_byte, status, body: answer.split_off(end + 4) }),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(std::io::ErrorKind::UnexpectedEof.into()),
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
}
