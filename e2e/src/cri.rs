//! A blocking client of the Container Runtime Interface, as the kubelet uses it.
//!
//! [`Cri`] has one method per RPC; every call has a deadline, so a runtime that hangs fails a test instead of hanging it. What
//! a pod and a container are made of is in [`spec`]; container logs are read by [`log`].
//!
//! Reference: proto/cri/api.proto.

pub mod log;
pub mod spec;

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use self::proto::image_service_client::ImageServiceClient;
use self::proto::runtime_service_client::RuntimeServiceClient;
use self::spec::{ContainerSpec, Sandbox};

/// The generated messages and clients.
#[allow(
    missing_docs,
    clippy::all,
    unused_qualifications,
    unreachable_pub,
    reason = "generated from api.proto"
)]
pub mod proto {
    tonic::include_proto!("runtime.v1");
}

/// How long one RPC may take unless a call says otherwise.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often a container's state is asked for while waiting.
const POLL: Duration = Duration::from_millis(5);

/// A connection to containerd's CRI plugin.
#[derive(Debug)]
pub struct Cri {
    tokio: tokio::runtime::Runtime,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

/// What a command run by ExecSync gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit status.
    pub exit_code: i32,
}

impl Cri {
    /// Connects to a unix socket.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self> {
        // The worker threads let calls of several threads overlap.
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = tokio.block_on(endpoint.connect()).with_context(|| socket.display().to_string())?;
        let (runtime, images) =
            (RuntimeServiceClient::new(channel.clone()), ImageServiceClient::new(channel));
        Ok(Self { tokio, runtime, images })
    }

    /// The generated clients, for calls that have no method here; run their futures with [`Self::call`].
    pub fn clients(&self) -> (RuntimeServiceClient<Channel>, ImageServiceClient<Channel>) {
        (self.runtime.clone(), self.images.clone())
    }

    /// Waits for an RPC, at most `deadline`.
    ///
    /// # Errors
    /// The RPC's status, or that it took too long.
    pub fn call<T>(
        &self,
        name: &str,
        deadline: Duration,
        rpc: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T> {
        let answer = self.tokio.block_on(async { tokio::time::timeout(deadline, rpc).await });
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => bail!("{name}: {:?}: {}", status.code(), status.message()),
            Err(_) => bail!("{name}: no answer after {deadline:?}"),
        }
    }

    /// Why pods cannot be run yet; empty when they can.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn not_ready(&self) -> Result<Vec<String>> {
        let mut client = self.runtime.clone();
        let request = proto::StatusRequest { verbose: false };
        let status =
            self.call("Status", Duration::from_secs(10), async move { client.status(request).await })?.status;
        let conditions = status.context("Status: no status")?.conditions;
        let bad = conditions.into_iter().filter(|condition| {
            !condition.status && (condition.r#type == "RuntimeReady" || condition.r#type == "NetworkReady")
        });
        Ok(bad.map(|condition| format!("{}: {}", condition.r#type, condition.message)).collect())
    }

    /// Name and version of the runtime.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn version(&self) -> Result<String> {
        let mut client = self.runtime.clone();
        let request = proto::VersionRequest { version: "v1".into() };
        let version = self.call("Version", DEADLINE, async move { client.version(request).await })?;
        Ok(format!("{} {}", version.runtime_name, version.runtime_version))
    }

    /// RunPodSandbox; fills in the sandbox's id.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn run_pod_sandbox(&self, mut sandbox: Sandbox) -> Result<Sandbox> {
        if let Some(dir) = sandbox.log_dir() {
            std::fs::create_dir_all(&dir)?;
        }
        let mut client = self.runtime.clone();
        let request = proto::RunPodSandboxRequest {
            config: Some(sandbox.config.clone()),
            runtime_handler: sandbox.handler.clone(),
        };
        let answer =
            self.call("RunPodSandbox", DEADLINE, async move { client.run_pod_sandbox(request).await })?;
        sandbox.id = answer.pod_sandbox_id;
        Ok(sandbox)
    }

    /// PodSandboxStatus.
    ///
    /// # Errors
    /// The RPC fails, NotFound for a removed sandbox.
    pub fn pod_sandbox_status(&self, sandbox: &Sandbox) -> Result<proto::PodSandboxStatus> {
        let mut client = self.runtime.clone();
        let request = proto::PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: false };
        let answer =
            self.call("PodSandboxStatus", DEADLINE, async move { client.pod_sandbox_status(request).await })?;
        answer.status.context("PodSandboxStatus: no status")
    }

    /// StopPodSandbox.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn stop_pod_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        let mut client = self.runtime.clone();
        let request = proto::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        self.call("StopPodSandbox", DEADLINE, async move { client.stop_pod_sandbox(request).await }).map(drop)
    }

    /// RemovePodSandbox.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn remove_pod_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        let mut client = self.runtime.clone();
        let request = proto::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        self.call("RemovePodSandbox", DEADLINE, async move { client.remove_pod_sandbox(request).await })
            .map(drop)
    }

    /// CreateContainer; returns its id.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn create_container(&self, sandbox: &Sandbox, spec: &ContainerSpec) -> Result<String> {
        let mut client = self.runtime.clone();
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(spec.to_config()),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let answer =
            self.call("CreateContainer", DEADLINE, async move { client.create_container(request).await })?;
        Ok(answer.container_id)
    }

    /// StartContainer.
    ///
    /// # Errors
    /// The RPC fails, for instance because the program does not exist.
    pub fn start_container(&self, id: &str) -> Result<()> {
        let mut client = self.runtime.clone();
        let request = proto::StartContainerRequest { container_id: id.into() };
        self.call("StartContainer", DEADLINE, async move { client.start_container(request).await }).map(drop)
    }

    /// ContainerStatus.
    ///
    /// # Errors
    /// The RPC fails, NotFound for a removed container.
    pub fn container_status(&self, id: &str) -> Result<proto::ContainerStatus> {
        let mut client = self.runtime.clone();
        let request = proto::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer =
            self.call("ContainerStatus", DEADLINE, async move { client.container_status(request).await })?;
        answer.status.context("ContainerStatus: no status")
    }

    /// Waits until a container has exited; returns its last status.
    ///
    /// # Errors
    /// It still runs after `timeout`.
    pub fn wait_exit(&self, id: &str, timeout: Duration) -> Result<proto::ContainerStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.container_status(id)?;
            if status.state() == proto::ContainerState::ContainerExited {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("container {id} is still {:?} after {timeout:?}", status.state());
            }
            std::thread::sleep(POLL);
        }
    }

    /// StopContainer: SIGTERM, then SIGKILL after `grace`.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let mut client = self.runtime.clone();
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = proto::StopContainerRequest { container_id: id.into(), timeout };
        self.call("StopContainer", DEADLINE + grace, async move { client.stop_container(request).await })
            .map(drop)
    }

    /// RemoveContainer.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn remove_container(&self, id: &str) -> Result<()> {
        let mut client = self.runtime.clone();
        let request = proto::RemoveContainerRequest { container_id: id.into() };
        self.call("RemoveContainer", DEADLINE, async move { client.remove_container(request).await })
            .map(drop)
    }

    /// ExecSync.
    ///
    /// # Errors
    /// The RPC fails; a command that fails is no error.
    pub fn exec_sync(&self, id: &str, command: &[&str], timeout: Duration) -> Result<ExecOutput> {
        let mut client = self.runtime.clone();
        let request = proto::ExecSyncRequest {
            container_id: id.into(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let answer =
            self.call("ExecSync", DEADLINE + timeout, async move { client.exec_sync(request).await })?;
        Ok(ExecOutput {
            stdout: String::from_utf8_lossy(&answer.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&answer.stderr).into_owned(),
            exit_code: answer.exit_code,
        })
    }

    /// ListContainers: ids and states of all containers.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn list_containers(&self) -> Result<Vec<proto::Container>> {
        let mut client = self.runtime.clone();
        let request = proto::ListContainersRequest { filter: None };
        Ok(self
            .call("ListContainers", DEADLINE, async move { client.list_containers(request).await })?
            .containers)
    }

    /// ListContainerStats, of all running containers.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn list_container_stats(&self) -> Result<Vec<proto::ContainerStats>> {
        let mut client = self.runtime.clone();
        let request = proto::ListContainerStatsRequest { filter: None };
        let answer =
            self.call(
                "ListContainerStats",
                DEADLINE,
                async move { client.list_container_stats(request).await },
            )?;
        Ok(answer.stats)
    }

    /// ListImages.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn list_images(&self) -> Result<Vec<proto::Image>> {
        let mut client = self.images.clone();
        let request = proto::ListImagesRequest { filter: None };
        Ok(self.call("ListImages", DEADLINE, async move { client.list_images(request).await })?.images)
    }

    /// ImageStatus; none when the image is not on the node.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn image_status(&self, image: &str) -> Result<Option<proto::Image>> {
        let mut client = self.images.clone();
        let request = proto::ImageStatusRequest { image: Some(spec::image(image)), verbose: false };
        Ok(self.call("ImageStatus", DEADLINE, async move { client.image_status(request).await })?.image)
    }

    /// RemoveImage.
    ///
    /// # Errors
    /// The RPC fails.
    pub fn remove_image(&self, image: &str) -> Result<()> {
        let mut client = self.images.clone();
        let request = proto::RemoveImageRequest { image: Some(spec::image(image)) };
        self.call("RemoveImage", DEADLINE, async move { client.remove_image(request).await }).map(drop)
    }
}
