//! What a pod sandbox and a container are made of, with the defaults the kubelet would fill in.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::proto;
use crate::runtime::Runtime;

/// A pod sandbox: its configuration, which later calls must repeat, and its id once it runs.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// Empty before RunPodSandbox.
    pub id: String,
    /// The runtime handler.
    pub handler: String,
    /// As given to RunPodSandbox.
    pub config: proto::PodSandboxConfig,
}

impl Sandbox {
    /// A pod `name` whose containers' logs go below `logs`.
    pub fn new(name: &str, runtime: Runtime, logs: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let uid = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let config = proto::PodSandboxConfig {
            metadata: Some(proto::PodSandboxMetadata {
                name: name.into(),
                uid: uid.clone(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: logs.join(format!("default_{name}_{uid}")).to_string_lossy().into_owned(),
            linux: Some(proto::LinuxPodSandboxConfig {
                security_context: Some(Default::default()),
                ..Default::default()
            }),
            ..Default::default()
        };
        Self { id: String::new(), handler: runtime.handler().into(), config }
    }

    /// Adds a pod annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.config.annotations.insert(key.into(), value.into());
        self
    }

    /// Sets a kernel parameter.
    pub fn sysctl(mut self, key: &str, value: &str) -> Self {
        self.config.linux.get_or_insert_default().sysctls.insert(key.into(), value.into());
        self
    }

    /// Uses the node's network (`hostNetwork: true`).
    pub fn host_network(mut self) -> Self {
        let context = &mut self.config.linux.get_or_insert_default().security_context;
        let options = &mut context.get_or_insert_default().namespace_options;
        options.get_or_insert_default().network = proto::NamespaceMode::Node.into();
        self
    }

    /// The directory of its containers' logs.
    pub fn log_dir(&self) -> Option<PathBuf> {
        let dir = &self.config.log_directory;
        (!dir.is_empty()).then(|| PathBuf::from(dir))
    }

    /// The log file of one of its containers.
    pub fn log_path(&self, container: &ContainerSpec) -> PathBuf {
        Path::new(&self.config.log_directory).join(container.log_name())
    }
}

/// A container of a pod.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Name within the pod.
    pub name: String,
    /// Image reference.
    pub image: String,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's arguments when not empty.
    pub args: Vec<String>,
    /// Environment on top of the image's.
    pub env: Vec<(String, String)>,
    /// Annotations of the container.
    pub annotations: Vec<(String, String)>,
    /// Host path, container path, read-only.
    pub mounts: Vec<(PathBuf, String, bool)>,
    /// Memory limit; zero is none.
    pub memory_bytes: i64,
    /// CPU limit in thousandths of a CPU; zero is none.
    pub cpu_millis: i64,
    /// Working directory; the image's when empty.
    pub working_dir: String,
    /// Keep standard input open for attach.
    pub stdin: bool,
    /// Allocate a terminal.
    pub tty: bool,
    /// User, capabilities, namespaces.
    pub security: proto::LinuxContainerSecurityContext,
}

impl ContainerSpec {
    /// A container that runs the image's own program.
    pub fn new(name: &str, image: &str) -> Self {
        Self { name: name.into(), image: image.into(), ..Self::default() }
    }

    /// Sets the program and its arguments.
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Limits the memory.
    pub fn memory_bytes(mut self, bytes: i64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Mounts a host directory or file.
    pub fn mount(mut self, host: &Path, container: &str, readonly: bool) -> Self {
        self.mounts.push((host.into(), container.into(), readonly));
        self
    }

    /// Runs as this user, not as the image's.
    pub fn user(mut self, uid: i64) -> Self {
        self.security.run_as_user = Some(proto::Int64Value { value: uid });
        self
    }

    /// Takes a capability away (`NET_BIND_SERVICE`).
    pub fn without_capability(mut self, name: &str) -> Self {
        self.security.capabilities.get_or_insert_default().drop_capabilities.push(name.into());
        self
    }

    fn log_name(&self) -> String {
        format!("{}/0.log", self.name)
    }

    /// The message CreateContainer takes.
    pub fn to_config(&self) -> proto::ContainerConfig {
        const CPU_PERIOD_US: i64 = 100_000;
        let resources = proto::LinuxContainerResources {
            memory_limit_in_bytes: self.memory_bytes,
            cpu_period: if self.cpu_millis > 0 { CPU_PERIOD_US } else { 0 },
            cpu_quota: self.cpu_millis * CPU_PERIOD_US / 1000,
            ..Default::default()
        };
        let mount = |(host, container, readonly): &(PathBuf, String, bool)| proto::Mount {
            container_path: container.clone(),
            host_path: host.to_string_lossy().into_owned(),
            readonly: *readonly,
            ..Default::default()
        };
        proto::ContainerConfig {
            metadata: Some(proto::ContainerMetadata { name: self.name.clone(), attempt: 0 }),
            image: Some(image(&self.image)),
            command: self.command.clone(),
            args: self.args.clone(),
            working_dir: self.working_dir.clone(),
            envs: self
                .env
                .iter()
                .map(|(key, value)| proto::KeyValue { key: key.clone(), value: value.clone().into() })
                .collect(),
            annotations: self.annotations.iter().cloned().collect(),
            mounts: self.mounts.iter().map(mount).collect(),
            log_path: self.log_name(),
            stdin: self.stdin,
            stdin_once: self.stdin,
            tty: self.tty,
            linux: Some(proto::LinuxContainerConfig {
                resources: Some(resources),
                security_context: Some(self.security.clone()),
            }),
            ..Default::default()
        }
    }
}

/// An image by reference.
pub fn image(reference: &str) -> proto::ImageSpec {
    proto::ImageSpec { image: reference.into(), ..Default::default() }
}
