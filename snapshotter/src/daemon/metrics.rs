//! Figures for Prometheus and the health of the daemon, over HTTP on a unix socket: `GET /metrics`, `GET /healthz`.
//!
//! ```text
//! curl --unix-socket /run/seuss/metrics.sock http://seuss/metrics
//! ```
//! Requests are read to the end of their header and answered one per connection; nothing else of HTTP is understood.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::Code;

use crate::layers::{Files, Kind, Layers};
use crate::memory::{Shelf, peer};

/// Longest request that is read.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RpcLabels {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

/// What is counted while the daemon runs.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RpcLabels, Counter>,
    seconds: Family<MethodLabels, Histogram, fn() -> Histogram>,
    shelf: Arc<Shelf>,
}

fn rpc_histogram() -> Histogram {
    // 50 microseconds to 13 seconds.
    Histogram::new(exponential_buckets(50e-6, 4.0, 10))
}

impl Metrics {
    /// Nothing is counted yet; figures of memory snapshots come from `shelf`.
    #[must_use]
    pub fn new(shelf: Arc<Shelf>) -> Self {
        let requests = Family::<RpcLabels, Counter>::default();
        let seconds: Family<MethodLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(rpc_histogram);
        let mut registry = Registry::with_prefix("seuss_snapshotter");
        registry.register("requests", "Requests of containerd, by method and gRPC code", requests.clone());
        registry.register("request_seconds", "Time that requests took", seconds.clone());
        Self { registry, requests, seconds, shelf }
    }

    /// A request was answered.
    pub fn rpc(&self, method: &'static str, code: Code, elapsed: Duration) {
        self.requests.get_or_create(&RpcLabels { method, code: format!("{code:?}") }).inc();
        self.seconds.get_or_create(&MethodLabels { method }).observe(elapsed.as_secs_f64());
    }

    /// The text that Prometheus reads (OpenMetrics).
    #[must_use]
    pub fn render(&self, layers: &Layers) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            return text;
        }
        let end = text.rfind("# EOF").unwrap_or(text.len());
        text.truncate(end);
        let mut gauge = |name: &str, help: &str, rows: &[(&str, u64)]| {
            let _ = writeln!(text, "# HELP seuss_snapshotter_{name} {help}.");
            let _ = writeln!(text, "# TYPE seuss_snapshotter_{name} gauge");
            for (labels, value) in rows {
                let _ = writeln!(text, "seuss_snapshotter_{name}{labels} {value}");
            }
        };
        let records = layers.records();
        let count = |kind: Kind| records.iter().filter(|record| record.info.kind == kind).count() as u64;
        let kinds = [
            ("{kind=\"active\"}", count(Kind::Active)),
            ("{kind=\"committed\"}", count(Kind::Committed)),
            ("{kind=\"view\"}", count(Kind::View)),
        ];
        gauge("snapshots", "Snapshots of file systems", &kinds);
        let files = |files: Files| {
            records.iter().filter(|r| r.info.kind == Kind::Committed && r.files == files).count() as u64
        };
        let places =
            [("{files=\"directory\"}", files(Files::Directory)), ("{files=\"image\"}", files(Files::Image))];
        gauge("layers", "Committed layers, by where their files are for the host's kernel", &places);
        let mut digests = std::collections::BTreeMap::new();
        for blob in records.iter().filter_map(|record| record.blob.as_ref()) {
            digests.insert(&blob.digest, blob.len_bytes);
        }
        gauge("blobs", "EROFS images of layers, equal ones once", &[("", digests.len() as u64)]);
        gauge("blob_bytes", "Bytes of these images", &[("", digests.values().sum())]);
        let unpacked = records.iter().map(|record| record.usage.size_bytes).sum();
        gauge("unpacked_bytes", "Bytes of committed layers as they were unpacked", &[("", unpacked)]);
        if let Ok(space) = layers.space() {
            gauge("store_size_bytes", "Size of the file system below the store", &[("", space.size_bytes)]);
            gauge("store_free_bytes", "What is free of it", &[("", space.free_bytes)]);
        }
        if let Ok(figures) = self.shelf.figures() {
            gauge("memory_snapshots", "Memory snapshots", &[("", figures.snapshots)]);
            gauge("memory_budget_bytes", "What memory snapshots may take", &[("", figures.budget_bytes)]);
            gauge("memory_used_bytes", "What they take", &[("", figures.used_bytes)]);
            gauge(
                "memory_evictable_bytes",
                "What of it could be evicted now",
                &[("", figures.evictable_bytes)],
            );
            gauge("memory_leases", "Leases of memory snapshots", &[("", figures.leases)]);
            let _ = writeln!(
                text,
                "# HELP seuss_snapshotter_memory_evicted Memory snapshots evicted since the start."
            );
            let _ = writeln!(text, "# TYPE seuss_snapshotter_memory_evicted counter");
            let _ = writeln!(text, "seuss_snapshotter_memory_evicted_total {}", figures.evicted);
        }
        let mut counter = |name: &str, help: &str, rows: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP seuss_snapshotter_{name} {help}.");
            let _ = writeln!(text, "# TYPE seuss_snapshotter_{name} counter");
            for (labels, value) in rows {
                let _ = writeln!(text, "seuss_snapshotter_{name}_total{labels} {value}");
            }
        };
        let given_up: Vec<_> = self.shelf.captures_given_up();
        let by_reason =
            given_up.into_iter().map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), count));
        counter(
            "memory_given_up",
            "Captures that were given up, by what stood in the way",
            &by_reason.collect::<Vec<_>>(),
        );
        let struck_out = self.shelf.struck_out();
        counter(
            "memory_struck_out",
            "Memory snapshots struck out since their first clones died",
            &[(String::new(), struck_out)],
        );
        text.push_str("# EOF\n");
        text
    }
}

/// Answers until the process ends.
pub async fn serve(listener: UnixListener, layers: Arc<Layers>, metrics: Arc<Metrics>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if !peer::is_trusted(&stream) => drop(stream),
            Ok((stream, _)) => {
                let (layers, metrics) = (Arc::clone(&layers), Arc::clone(&metrics));
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, &layers, &metrics)).await;
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "metrics: cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, layers: &Layers, metrics: &Metrics) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics")) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ("200 OK", kind, metrics.render(layers))
        }
        (Some("GET"), Some("/healthz")) => match layers.space() {
            Ok(space) => (
                "200 OK",
                "text/plain",
                format!("ok\n{} bytes free of {}\n", space.free_bytes, space.size_bytes),
            ),
            Err(error) => ("503 Service Unavailable", "text/plain", format!("{error}\n")),
        },
        (Some("GET"), _) => ("404 Not Found", "text/plain", "there are /metrics and /healthz\n".to_owned()),
        _ => ("400 Bad Request", "text/plain", "only GET is understood\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
