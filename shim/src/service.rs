//! The task service: decodes containerd's requests, delegates them to the pod, encodes the answers.
//!
//! Owns [`TaskService`], and [`services`], which offers it under both names that containerd calls it by: `containerd.task.v3.Task` (2.x and late 1.7)
//! and `containerd.task.v2.Task`, whose messages are the same. Every request has a span (namespace, sandbox_id, container_id, exec_id), runs in a
//! task of its own, so that a closed connection does not stop it half-way, and answers with an internal error should it panic.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim_async::{Task, create_task};
use containerd_shim_protos::types::task::{ProcessInfo, Status};
use tracing::{Instrument as _, info_span};
use ttrpc::Code;
use ttrpc::r#async::{Service, TtrpcContext};

use crate::container::CreateRequest;
use crate::error::TaskError;
use crate::events::{any, timestamp};
use crate::io::StdioNames;
use crate::lifecycle::{Exit, State};
use crate::sandbox::Pod;

const V3_NAME: &str = "containerd.task.v3.Task";
const V2_NAME: &str = "containerd.task.v2.Task";

type Answer<T> = ttrpc::Result<T>;

/// The task service of a pod.
#[derive(Clone)]
pub struct TaskService {
    pod: Arc<Pod>,
    sandbox_id: Arc<str>,
}

/// The services of a shim, by name.
#[must_use]
pub fn services(pod: Arc<Pod>, sandbox_id: &str) -> HashMap<String, Service> {
    let task: Arc<dyn Task + Send + Sync> = Arc::new(TaskService { pod, sandbox_id: sandbox_id.into() });
    let mut services = create_task(Arc::clone(&task));
    let mut same = create_task(task);
    if let Some(service) = same.remove(V3_NAME) {
        services.insert(V2_NAME.to_owned(), service);
    }
    services
}

/// Runs `work` where blocking is allowed.
///
/// # Errors
/// [`TaskError::Internal`] if it panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TaskError> {
    let span = tracing::Span::current();
    let joined = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    joined.map_err(|error| TaskError::Internal { what: error.to_string() })
}

fn optional(exec_id: &str) -> Option<&str> {
    Some(exec_id).filter(|id| !id.is_empty())
}

impl TaskService {
    /// Runs a request in a task and a span of its own.
    async fn serve<T, F>(&self, method: &'static str, id: &str, exec_id: &str, work: F) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TaskError>> + Send + 'static,
    {
        let span = info_span!(
            "rpc",
            method,
            namespace = self.pod.namespace(),
            sandbox_id = &*self.sandbox_id,
            container_id = id,
            exec_id
        );
        let work = async move {
            let result = work.await;
            match &result {
                Ok(_) => tracing::debug!("done"),
                // containerd asks for what is gone all the time, and takes the answer for what it is.
                Err(error) if error.code() == Code::NOT_FOUND => tracing::debug!(%error, "not found"),
                Err(error) => tracing::info!(%error, "refused"),
            }
            result
        };
        match tokio::spawn(work.instrument(span)).await {
            Ok(result) => Ok(result?),
            Err(error) => {
                tracing::error!(method, container_id = id, %error, "a request failed inside the shim");
                Err(TaskError::Internal { what: format!("{method}: {error}") }.into())
            }
        }
    }
}

fn stdio_names(stdin: String, stdout: String, stderr: String, terminal: bool) -> StdioNames {
    StdioNames { stdin, stdout, stderr, terminal }
}

fn status(state: State) -> Status {
    match state {
        State::Created | State::Starting => Status::CREATED,
        State::Running => Status::RUNNING,
        State::Paused => Status::PAUSED,
        State::Stopped(_) => Status::STOPPED,
        State::Deleted => Status::UNKNOWN,
    }
}

fn delete_response(pid: u32, exit: Exit) -> api::DeleteResponse {
    api::DeleteResponse {
        pid,
        exit_status: exit.status,
        exited_at: MessageField::some(timestamp(exit.at)),
        ..Default::default()
    }
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _ctx: &TtrpcContext, req: api::StateRequest) -> Answer<api::StateResponse> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("State", &id, &exec_id, async move {
            let view = pod.get(&req.id)?.state(optional(&req.exec_id))?;
            let exit = match view.state {
                State::Stopped(exit) => Some(exit),
                _ => None,
            };
            Ok(api::StateResponse {
                id: req.id,
                exec_id: req.exec_id,
                bundle: view.bundle,
                pid: view.pid,
                status: status(view.state).into(),
                stdin: view.stdio.stdin,
                stdout: view.stdio.stdout,
                stderr: view.stdio.stderr,
                terminal: view.stdio.terminal,
                exit_status: exit.map_or(0, |exit| exit.status),
                exited_at: exit.map(|exit| timestamp(exit.at)).into(),
                ..Default::default()
            })
        })
        .await
    }

    async fn create(
        &self,
        _ctx: &TtrpcContext,
        req: api::CreateTaskRequest,
    ) -> Answer<api::CreateTaskResponse> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Create", &id, "", async move {
            if !req.checkpoint.is_empty() {
                let what = format!("starting from checkpoint {}", req.checkpoint);
                return Err(TaskError::Unsupported { what, hint: " yet" });
            }
            let request = CreateRequest {
                id: req.id,
                bundle: PathBuf::from(req.bundle),
                rootfs: req.rootfs,
                stdio: stdio_names(req.stdin, req.stdout, req.stderr, req.terminal),
            };
            let container = blocking(move || pod.create(request)).await??;
            Ok(api::CreateTaskResponse { pid: container.pid(), ..Default::default() })
        })
        .await
    }

    async fn start(&self, _ctx: &TtrpcContext, req: api::StartRequest) -> Answer<api::StartResponse> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("Start", &id, &exec_id, async move {
            let container = pod.get(&req.id)?;
            let pid = container.start(optional(&req.exec_id)).await?;
            Ok(api::StartResponse { pid, ..Default::default() })
        })
        .await
    }

    async fn delete(&self, _ctx: &TtrpcContext, req: api::DeleteRequest) -> Answer<api::DeleteResponse> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("Delete", &id, &exec_id, async move {
            let (pid, exit) = match optional(&req.exec_id) {
                Some(exec_id) => pod.get(&req.id)?.delete_exec(exec_id)?,
                None => blocking(move || pod.delete(&req.id)).await??,
            };
            Ok(delete_response(pid, exit))
        })
        .await
    }

    async fn pids(&self, _ctx: &TtrpcContext, req: api::PidsRequest) -> Answer<api::PidsResponse> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Pids", &id, "", async move {
            let info = |pid: crate::container::Pid| {
                let details =
                    pid.exec_id.map(|exec_id| any(&ProcessDetails { exec_id, ..Default::default() }));
                ProcessInfo { pid: pid.pid, info: details.into(), ..Default::default() }
            };
            let processes = pod.get(&req.id)?.pids().into_iter().map(info).collect();
            Ok(api::PidsResponse { processes, ..Default::default() })
        })
        .await
    }

    async fn pause(&self, _ctx: &TtrpcContext, req: api::PauseRequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Pause", &id, "", async move {
            let container = pod.get(&req.id)?;
            if container.is_sandbox() {
                return Err(container.unsupported_in_sandbox("pause"));
            }
            blocking(move || container.pause()).await??;
            Ok(api::Empty::default())
        })
        .await
    }

    async fn resume(&self, _ctx: &TtrpcContext, req: api::ResumeRequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Resume", &id, "", async move {
            let container = pod.get(&req.id)?;
            blocking(move || container.resume()).await??;
            Ok(api::Empty::default())
        })
        .await
    }

    async fn checkpoint(&self, _ctx: &TtrpcContext, req: api::CheckpointTaskRequest) -> Answer<api::Empty> {
        let id = req.id.clone();
        self.serve("Checkpoint", &id, "", async move {
            let what = "checkpoint (a named snapshot of the guest)".to_owned();
            Err(TaskError::Unsupported { what, hint: " yet" })
        })
        .await
    }

    async fn kill(&self, _ctx: &TtrpcContext, req: api::KillRequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("Kill", &id, &exec_id, async move {
            pod.get(&req.id)?.kill(optional(&req.exec_id), req.signal, req.all)?;
            Ok(api::Empty::default())
        })
        .await
    }

    async fn exec(&self, _ctx: &TtrpcContext, req: api::ExecProcessRequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("Exec", &id, &exec_id, async move {
            let names = stdio_names(req.stdin, req.stdout, req.stderr, req.terminal);
            let description = req.spec.into_option().unwrap_or_default();
            pod.get(&req.id)?.exec(&req.exec_id, names, &description.value)?;
            Ok(api::Empty::default())
        })
        .await
    }

    async fn resize_pty(&self, _ctx: &TtrpcContext, req: api::ResizePtyRequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("ResizePty", &id, &exec_id, async move {
            pod.get(&req.id)?.resize(optional(&req.exec_id), req.height, req.width)?;
            Ok(api::Empty::default())
        })
        .await
    }

    async fn close_io(&self, _ctx: &TtrpcContext, req: api::CloseIORequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("CloseIO", &id, &exec_id, async move {
            let container = pod.get(&req.id)?;
            if req.stdin {
                container.close_stdin(optional(&req.exec_id))?;
            }
            Ok(api::Empty::default())
        })
        .await
    }

    async fn update(&self, _ctx: &TtrpcContext, req: api::UpdateTaskRequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Update", &id, "", async move {
            let resources = req.resources.into_option().unwrap_or_default();
            pod.get(&req.id)?.update(&resources.value)?;
            Ok(api::Empty::default())
        })
        .await
    }

    async fn wait(&self, _ctx: &TtrpcContext, req: api::WaitRequest) -> Answer<api::WaitResponse> {
        let pod = Arc::clone(&self.pod);
        let (id, exec_id) = (req.id.clone(), req.exec_id.clone());
        self.serve("Wait", &id, &exec_id, async move {
            let exit = pod.get(&req.id)?.wait(optional(&req.exec_id)).await?;
            Ok(api::WaitResponse {
                exit_status: exit.status,
                exited_at: MessageField::some(timestamp(exit.at)),
                ..Default::default()
            })
        })
        .await
    }

    async fn stats(&self, _ctx: &TtrpcContext, req: api::StatsRequest) -> Answer<api::StatsResponse> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Stats", &id, "", async move {
            let stats = MessageField::some(pod.get(&req.id)?.metrics());
            Ok(api::StatsResponse { stats, ..Default::default() })
        })
        .await
    }

    async fn connect(&self, _ctx: &TtrpcContext, req: api::ConnectRequest) -> Answer<api::ConnectResponse> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Connect", &id, "", async move {
            // As runc's shim: containerd also asks before there is a container.
            let task_pid = pod.get(&req.id).map_or(0, |container| container.pid());
            Ok(api::ConnectResponse {
                shim_pid: std::process::id(),
                task_pid,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Default::default()
            })
        })
        .await
    }

    async fn shutdown(&self, _ctx: &TtrpcContext, req: api::ShutdownRequest) -> Answer<api::Empty> {
        let pod = Arc::clone(&self.pod);
        let id = req.id.clone();
        self.serve("Shutdown", &id, "", async move {
            if req.now {
                pod.shutdown();
            } else {
                pod.shutdown_if_empty();
            }
            Ok(api::Empty::default())
        })
        .await
    }
}
