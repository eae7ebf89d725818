//! The servers that the end-to-end tests and the benchmark put load on: programs of programs/, each on port 8000 of its pod.

/// Port of every server.
pub const PORT: u16 = 8000;

/// A server.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Name of the case.
    pub name: &'static str,
    /// Test image that it runs from.
    pub image: &'static str,
    /// Its Python program.
    pub program: &'static str,
    /// What it puts before the path in its answer.
    greeting: &'static str,
}

impl Server {
    /// The command of its container.
    pub fn command(&self) -> [&'static str; 3] {
        ["python3", "-c", self.program]
    }

    /// What it answers to `GET /number`.
    pub fn body(&self, number: u32) -> String {
        format!("hello from {}: /{number}\n", self.greeting)
    }
}

/// http.server, a thread per connection.
pub const HTTP_SERVER: Server = Server {
    name: "http_server",
    image: "python",
    program: include_str!("../programs/http_server.py"),
    greeting: "http.server",
};
/// wsgiref, one request after the other.
pub const WSGIREF: Server = Server {
    name: "wsgiref",
    image: "python",
    program: include_str!("../programs/wsgiref_server.py"),
    greeting: "wsgiref",
};
/// Flask under gunicorn with two forked workers and threads.
pub const GUNICORN: Server = Server {
    name: "gunicorn",
    image: "flask",
    program: include_str!("../programs/gunicorn_flask.py"),
    greeting: "flask",
};
/// asyncio streams.
pub const ASYNCIO: Server = Server {
    name: "asyncio",
    image: "python",
    program: include_str!("../programs/asyncio_server.py"),
    greeting: "asyncio",
};
