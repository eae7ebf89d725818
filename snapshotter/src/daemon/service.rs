//! containerd's snapshots service: decodes requests, runs them on threads that may block, and says errors as gRPC codes.
//!
//! Codes as containerd's errdefs reads them back: NOT_FOUND, ALREADY_EXISTS, INVALID_ARGUMENT, FAILED_PRECONDITION; RESOURCE_EXHAUSTED when
//! the store is full.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use prost_types::Timestamp as WireTime;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument as _;

use super::api::snapshots_server::Snapshots;
use super::api::{
    CleanupRequest, CommitSnapshotRequest, Info as WireInfo, Kind as WireKind, ListSnapshotsRequest,
    ListSnapshotsResponse, Mount, MountsRequest, MountsResponse, PrepareSnapshotRequest,
    PrepareSnapshotResponse, RemoveSnapshotRequest, StatSnapshotRequest, StatSnapshotResponse,
    UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest, UsageResponse, ViewSnapshotRequest,
    ViewSnapshotResponse,
};
use super::metrics::Metrics;
use crate::layers::catalog::REF_LABEL;
use crate::layers::{FsMount, Info, Kind, Layers, LayersError, Reason, Timestamp};
use crate::memory::Shelf;

/// Snapshots in one message of a List answer (containerd's own service sends as many).
const LIST_BATCH: usize = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    layers: Arc<Layers>,
    metrics: Arc<Metrics>,
    room: LayerRoom,
}

/// Makes room for layers where memory snapshots lie: a pod's image goes before what only makes its start faster.
#[derive(Clone, Debug)]
pub struct LayerRoom {
    /// What gives way.
    pub shelf: Arc<Shelf>,
    /// What is free, beside the reserve, when a layer is about to be unpacked, if snapshots that nobody uses can go for it.
    pub bytes: u64,
}

impl LayerRoom {
    fn make(&self, labels: &BTreeMap<String, String>) {
        // What containerd unpacks a layer into names it.
        let is_unpacked = labels.contains_key(REF_LABEL);
        // A container's own directory takes next to nothing.
        if let Err(error) = self.shelf.give_way(if is_unpacked { self.bytes } else { 0 }) {
            tracing::warn!(%error, "memory snapshots do not give way");
        }
    }
}

impl Service {
    /// Serves `layers`, for which `room` is made.
    #[must_use]
    pub fn new(layers: Arc<Layers>, metrics: Arc<Metrics>, room: LayerRoom) -> Self {
        Self { layers, metrics, room }
    }

    /// Runs one request where it may block, with a span, a figure and a log line.
    async fn run<T: Send + 'static>(
        &self,
        method: &'static str,
        key: &str,
        work: impl FnOnce(&Layers) -> Result<T, LayersError> + Send + 'static,
    ) -> Result<T, Status> {
        let span = tracing::info_span!("rpc", method, key);
        let layers = Arc::clone(&self.layers);
        let began = Instant::now();
        let inner = span.clone();
        let task = tokio::task::spawn_blocking(move || inner.in_scope(|| work(&layers)));
        let result = match task.instrument(span.clone()).await {
            Ok(result) => result.map_err(|error| status(&error)),
            Err(error) => Err(Status::internal(format!("{method} of {key} panicked: {error}"))),
        };
        let elapsed = began.elapsed();
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.rpc(method, code, elapsed);
        let elapsed_us = elapsed.as_micros() as u64;
        span.in_scope(|| match &result {
            Ok(_) => tracing::debug!(elapsed_us, "done"),
            // What containerd asks to find out is no news.
            Err(status) if matches!(code, Code::NotFound | Code::AlreadyExists) => {
                tracing::debug!(elapsed_us, error = status.message(), "refused");
            }
            Err(status) => tracing::warn!(elapsed_us, error = status.message(), "failed"),
        });
        result
    }
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<PrepareSnapshotRequest>,
    ) -> Result<Response<PrepareSnapshotResponse>, Status> {
        let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let name = key.clone();
        let (room, labels) = (self.room.clone(), sorted(labels));
        let work = move |layers: &Layers| {
            room.make(&labels);
            layers.create(Kind::Active, &name, &parent, labels)
        };
        let mounts = self.run("Prepare", &key, work).await?;
        Ok(Response::new(PrepareSnapshotResponse { mounts: wire_mounts(mounts) }))
    }

    async fn view(
        &self,
        request: Request<ViewSnapshotRequest>,
    ) -> Result<Response<ViewSnapshotResponse>, Status> {
        let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let name = key.clone();
        let work = move |layers: &Layers| layers.create(Kind::View, &name, &parent, sorted(labels));
        let mounts = self.run("View", &key, work).await?;
        Ok(Response::new(ViewSnapshotResponse { mounts: wire_mounts(mounts) }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Result<Response<MountsResponse>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        let mounts = self.run("Mounts", &key, move |layers| layers.mounts(&name)).await?;
        Ok(Response::new(MountsResponse { mounts: wire_mounts(mounts) }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Result<Response<()>, Status> {
        let CommitSnapshotRequest { name, key, labels, .. } = request.into_inner();
        let active = key.clone();
        let work = move |layers: &Layers| layers.commit(&name, &active, sorted(labels));
        self.run("Commit", &key, work).await.map(Response::new)
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Result<Response<()>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        self.run("Remove", &key, move |layers| layers.remove(&name)).await.map(Response::new)
    }

    async fn stat(
        &self,
        request: Request<StatSnapshotRequest>,
    ) -> Result<Response<StatSnapshotResponse>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        let info = self.run("Stat", &key, move |layers| layers.stat(&name)).await?;
        Ok(Response::new(StatSnapshotResponse { info: Some(wire_info(info)) }))
    }

    async fn update(
        &self,
        request: Request<UpdateSnapshotRequest>,
    ) -> Result<Response<UpdateSnapshotResponse>, Status> {
        let UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let info = info.ok_or_else(|| Status::invalid_argument("no snapshot to update is named"))?;
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let (key, labels) = (info.name.clone(), sorted(info.labels));
        let work = move |layers: &Layers| layers.update(&info.name, &labels, &paths);
        let info = self.run("Update", &key, work).await?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(wire_info(info)) }))
    }

    type ListStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<ListSnapshotsResponse, Status>> + Send + 'static>>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let filters = request.into_inner().filters;
        let infos = self.run("List", "", move |layers| layers.list(&filters)).await?;
        let infos: Vec<WireInfo> = infos.into_iter().map(wire_info).collect();
        let batches: Vec<_> = infos
            .chunks(LIST_BATCH)
            .map(|batch| Ok(ListSnapshotsResponse { info: batch.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(batches))))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Result<Response<UsageResponse>, Status> {
        let key = request.into_inner().key;
        let name = key.clone();
        let usage = self.run("Usage", &key, move |layers| layers.usage(&name)).await?;
        let wire = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(Response::new(UsageResponse { size: wire(usage.size_bytes), inodes: wire(usage.inodes) }))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Result<Response<()>, Status> {
        self.run("Cleanup", "", |layers| layers.cleanup().map(|_| ())).await.map(Response::new)
    }
}

fn status(error: &LayersError) -> Status {
    let code = match error.reason() {
        Reason::NotFound => Code::NotFound,
        Reason::AlreadyExists => Code::AlreadyExists,
        Reason::InvalidArgument => Code::InvalidArgument,
        Reason::FailedPrecondition => Code::FailedPrecondition,
        Reason::ResourceExhausted => Code::ResourceExhausted,
        Reason::Internal => Code::Internal,
    };
    Status::new(code, error.to_string())
}

fn sorted(labels: HashMap<String, String>) -> BTreeMap<String, String> {
    labels.into_iter().collect()
}

fn wire_mounts(mounts: Vec<FsMount>) -> Vec<Mount> {
    let wire = |mount: FsMount| Mount {
        r#type: mount.kind.to_owned(),
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(wire).collect()
}

fn wire_time(time: Timestamp) -> WireTime {
    WireTime { seconds: time.seconds, nanos: i32::try_from(time.nanos).unwrap_or(0) }
}

fn wire_info(info: Info) -> WireInfo {
    let kind = match info.kind {
        Kind::View => WireKind::View,
        Kind::Active => WireKind::Active,
        Kind::Committed => WireKind::Committed,
    };
    WireInfo {
        name: info.key,
        parent: info.parent,
        kind: kind.into(),
        created_at: Some(wire_time(info.created)),
        updated_at: Some(wire_time(info.updated)),
        labels: info.labels.into_iter().collect(),
    }
}
