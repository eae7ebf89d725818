//! Load on servers: so many requests, so many in flight, every answer checked.
//!
//! One thread per request in flight, one connection per HTTP request (`Connection: close`, RFC 9112), or one connection per thread for RESP (Redis).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Longest that one answer may take: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much is asked of a server.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Where it listens.
    pub address: SocketAddr,
    /// Requests in all.
    pub requests: u32,
    /// Requests at the same time.
    pub in_flight: u32,
}

/// How a server stood it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first request's start to the last answer's end.
    pub elapsed: Duration,
    /// Of each request, from connecting to the end of the answer; in no order.
    pub latencies: Vec<Duration>,
}

impl Outcome {
    /// Answers per second.
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

impl Load {
    /// GETs `/N` for each number and expects status 200 and the body that `body` tells.
    ///
    /// # Errors
    /// The first request that fails or is answered otherwise.
    pub fn http(&self, body: impl Fn(u32) -> String + Sync) -> Result<Outcome> {
        self.run(
            || Ok(()),
            |(), number| {
                let answer = get(self.address, &format!("/{number}"))?;
                let expected = body(number);
                ensure!(answer == expected, "request {number}: {answer:?} instead of {expected:?}");
                Ok(())
            },
        )
    }

    /// SETs a key and GETs it, in turns, on one connection per request in flight.
    ///
    /// # Errors
    /// The first request that fails or is answered otherwise.
    pub fn redis(&self) -> Result<Outcome> {
        self.run(
            || Ok((connect(self.address)?, None)),
            |(stream, set): &mut (TcpStream, Option<u32>), number| {
                // What this connection has set, no other one overwrites.
                let (request, expected) = match set.take() {
                    None => {
                        *set = Some(number);
                        (format!("SET key:{number} value:{number}\r\n"), "+OK\r\n".to_owned())
                    }
                    Some(key) => {
                        let value = format!("value:{key}");
                        (format!("GET key:{key}\r\n"), format!("${}\r\n{value}\r\n", value.len()))
                    }
                };
                stream.write_all(request.as_bytes())?;
                let mut answer = vec![0; expected.len()];
                stream.read_exact(&mut answer)?;
                ensure!(answer == expected.as_bytes(), "{request:?}: {:?}", String::from_utf8_lossy(&answer));
                Ok(())
            },
        )
    }

    fn run<S>(
        &self,
        start: impl Fn() -> Result<S> + Sync,
        request: impl Fn(&mut S, u32) -> Result<()> + Sync,
    ) -> Result<Outcome> {
        let next = AtomicU32::new(0);
        let began = Instant::now();
        let work = || -> Result<Vec<Duration>> {
            let mut state = start()?;
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.requests {
                    return Ok(latencies);
                }
                let sent = Instant::now();
                request(&mut state, number).with_context(|| format!("request {number}"))?;
                latencies.push(sent.elapsed());
            }
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.in_flight).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let elapsed = began.elapsed();
        let mut latencies = Vec::new();
        for result in results {
            match result {
                Ok(own) => latencies.extend(own?),
                Err(_) => bail!("a thread of the load panicked"),
            }
        }
        Ok(Outcome { elapsed, latencies })
    }
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The body of one GET, to the end of the connection.
///
/// # Errors
/// No connection, or another status than 200.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = connect(address)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    let answer = String::from_utf8(answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").with_context(|| format!("no end of head in {answer:?}"))?;
    ensure!(head.split(' ').nth(1) == Some("200"), "status line of {head:?}");
    Ok(body.to_owned())
}

/// Waits until something accepts connections at `address`.
///
/// # Errors
/// Nothing does within `timeout`.
pub fn wait_for(address: SocketAddr, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("nothing listens at {address} after {timeout:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers one request per connection with what `answer` makes of the path.
    fn server(answer: fn(&str) -> String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                let count = stream.read(&mut request).unwrap();
                let text = String::from_utf8_lossy(&request[..count]).into_owned();
                let _ = stream.write_all(answer(text.split(' ').nth(1).unwrap_or_default()).as_bytes());
            }
        });
        address
    }

    #[test]
    fn every_answer_is_counted_and_checked() {
        let address = server(|path| format!("HTTP/1.1 200 OK\r\n\r\nto {path}"));
        let load = Load { address, requests: 50, in_flight: 4 };
        let outcome = load.http(|number| format!("to /{number}")).unwrap();
        assert_eq!(outcome.latencies.len(), 50);
        let wrong = load.http(|number| format!("to /{}", number + 1)).unwrap_err();
        assert!(format!("{wrong:#}").contains("instead of"), "{wrong:#}");
    }

    #[test]
    fn another_status_is_an_error() {
        let address = server(|_| "HTTP/1.1 503 Busy\r\n\r\n".into());
        let error = Load { address, requests: 1, in_flight: 1 }.http(|_| String::new()).unwrap_err();
        assert!(format!("{error:#}").contains("503"), "{error:#}");
    }
}
