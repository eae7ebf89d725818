//! Events for containerd, in order.
//!
//! Owns [`EventQueue`]: one queue per shim, one event under way at a time, so that the order in which the containers' state machines say
//! things is the order in which containerd hears them (runtime-v2's README, "Events": exit must follow start). An event that cannot be
//! delivered is tried again before the next one is: nothing overtakes. While containerd restarts the queue waits; what containerd itself
//! refuses is given up after [`ATTEMPTS_MAX`] attempts, so that it cannot hold up what follows. decisions/0004.
//!
//! Delivery is by the events service on containerd's ttrpc socket (`TTRPC_ADDRESS`), or, where there is none, by calling
//! `PUBLISH-BINARY --address A publish --topic T --namespace N` with the event on its standard input.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task as proto;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Message, MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use containerd_shim_protos::types::mount::Mount;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use ttrpc::context;

use crate::lifecycle::Exit;

/// Attempts for an event that containerd answers with an error.
pub const ATTEMPTS_MAX: u32 = 5;
/// Longest wait for containerd's answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause before another attempt; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Most events that wait; beyond, the oldest are dropped, with an error in the log.
const QUEUE_MAX: usize = 16 << 10;

/// An event of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A container was created.
    Create {
        /// Container.
        id: String,
        /// Its bundle.
        bundle: String,
        /// Its root file system's mounts.
        rootfs: Vec<Mount>,
        /// stdin, stdout, stderr as containerd named them.
        stdio: [String; 3],
        /// Whether it has a terminal.
        terminal: bool,
        /// Its pid.
        pid: u32,
    },
    /// A container was started.
    Start {
        /// Container.
        id: String,
        /// Its pid.
        pid: u32,
    },
    /// A container's process ended. `exec_id` is the container's id for its first process.
    Exit {
        /// Container.
        id: String,
        /// Process.
        exec_id: String,
        /// Its pid.
        pid: u32,
        /// How and when.
        exit: Exit,
    },
    /// A container was deleted.
    Delete {
        /// Container.
        id: String,
        /// Its pid.
        pid: u32,
        /// How and when it ended.
        exit: Exit,
    },
    /// An exec was added.
    ExecAdded {
        /// Container.
        id: String,
        /// Process.
        exec_id: String,
    },
    /// An exec was started.
    ExecStarted {
        /// Container.
        id: String,
        /// Process.
        exec_id: String,
        /// Its pid.
        pid: u32,
    },
    /// A container ran out of memory.
    Oom {
        /// Container.
        id: String,
    },
    /// A container was paused.
    Paused {
        /// Container.
        id: String,
    },
    /// A container was resumed.
    Resumed {
        /// Container.
        id: String,
    },
}

/// `time` as protobuf has it.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32, ..Timestamp::default() }
}

/// `message` as containerd's typeurl has it: the type's bare name.
#[must_use]
pub fn any<M: MessageFull>(message: &M) -> Any {
    Any {
        type_url: M::descriptor().full_name().to_owned(),
        // Encoding into memory fails only for messages beyond 2 GiB.
        value: message.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

impl Event {
    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &'static str {
        match self {
            Self::Create { .. } => topics::TASK_CREATE_EVENT_TOPIC,
            Self::Start { .. } => topics::TASK_START_EVENT_TOPIC,
            Self::Exit { .. } => topics::TASK_EXIT_EVENT_TOPIC,
            Self::Delete { .. } => topics::TASK_DELETE_EVENT_TOPIC,
            Self::ExecAdded { .. } => topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            Self::ExecStarted { .. } => topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            Self::Oom { .. } => topics::TASK_OOM_EVENT_TOPIC,
            Self::Paused { .. } => topics::TASK_PAUSED_EVENT_TOPIC,
            Self::Resumed { .. } => topics::TASK_RESUMED_EVENT_TOPIC,
        }
    }

    /// Its message.
    fn message(&self) -> Any {
        match self.clone() {
            Self::Create { id, bundle, rootfs, stdio: [stdin, stdout, stderr], terminal, pid } => {
                let io = proto::TaskIO { stdin, stdout, stderr, terminal, ..Default::default() };
                any(&proto::TaskCreate {
                    container_id: id,
                    bundle,
                    rootfs,
                    io: MessageField::some(io),
                    pid,
                    ..Default::default()
                })
            }
            Self::Start { id, pid } => any(&proto::TaskStart { container_id: id, pid, ..Default::default() }),
            Self::Exit { id, exec_id, pid, exit } => any(&proto::TaskExit {
                container_id: id,
                id: exec_id,
                pid,
                exit_status: exit.status,
                exited_at: MessageField::some(timestamp(exit.at)),
                ..Default::default()
            }),
            Self::Delete { id, pid, exit } => any(&proto::TaskDelete {
                container_id: id,
                pid,
                exit_status: exit.status,
                exited_at: MessageField::some(timestamp(exit.at)),
                ..Default::default()
            }),
            Self::ExecAdded { id, exec_id } => {
                any(&proto::TaskExecAdded { container_id: id, exec_id, ..Default::default() })
            }
            Self::ExecStarted { id, exec_id, pid } => {
                any(&proto::TaskExecStarted { container_id: id, exec_id, pid, ..Default::default() })
            }
            Self::Oom { id } => any(&proto::TaskOOM { container_id: id, ..Default::default() }),
            Self::Paused { id } => any(&proto::TaskPaused { container_id: id, ..Default::default() }),
            Self::Resumed { id } => any(&proto::TaskResumed { container_id: id, ..Default::default() }),
        }
    }

    fn envelope(&self, namespace: &str, at: SystemTime) -> Envelope {
        Envelope {
            timestamp: MessageField::some(timestamp(at)),
            namespace: namespace.to_owned(),
            topic: self.topic().to_owned(),
            event: MessageField::some(self.message()),
            ..Default::default()
        }
    }
}

/// How containerd is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Its ttrpc socket.
    Ttrpc {
        /// Path of the socket, with or without `unix://`.
        address: String,
    },
    /// Its program.
    Binary {
        /// The program.
        program: PathBuf,
        /// Its gRPC socket.
        address: String,
    },
}

/// A handle to the queue. Clones feed the same queue.
#[derive(Clone, Debug)]
pub struct EventQueue {
    sender: mpsc::UnboundedSender<(Event, SystemTime)>,
}

impl EventQueue {
    /// Starts delivery to `destination`. The task ends when all handles are gone and the queue is empty.
    #[must_use]
    pub fn start(destination: Destination, namespace: String) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let delivery = Delivery { destination, namespace, client: None };
        (Self { sender }, tokio::spawn(delivery.run(receiver)))
    }

    /// A queue whose events the caller takes, for tests.
    #[must_use]
    pub fn to_channel() -> (Self, mpsc::UnboundedReceiver<(Event, SystemTime)>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender }, receiver)
    }

    /// Takes an event. Never blocks, so that it can be called with a container's lock held: that is what keeps the order.
    pub fn push(&self, event: Event) {
        tracing::debug!(topic = event.topic(), "event");
        if self.sender.send((event, SystemTime::now())).is_err() {
            tracing::error!("an event came after the end of delivery and is lost");
        }
    }
}

enum DeliverError {
    /// containerd was not reached; worth trying until it is.
    Unreachable(String),
    /// containerd said no.
    Refused(String),
}

struct Delivery {
    destination: Destination,
    namespace: String,
    client: Option<EventsClient>,
}

impl Delivery {
    async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<(Event, SystemTime)>) {
        while let Some((event, at)) = receiver.recv().await {
            if receiver.len() > QUEUE_MAX {
                tracing::error!(
                    topic = event.topic(),
                    "too many events wait for containerd; this one is dropped"
                );
                continue;
            }
            self.deliver(&event, at).await;
        }
    }

    async fn deliver(&mut self, event: &Event, at: SystemTime) {
        let envelope = event.envelope(&self.namespace, at);
        let topic = event.topic();
        let mut backoff = BACKOFF_MIN;
        let mut refused = 0;
        loop {
            match self.attempt(&envelope).await {
                Ok(()) => return,
                Err(DeliverError::Refused(error)) => {
                    refused += 1;
                    if refused >= ATTEMPTS_MAX {
                        tracing::error!(topic, error, "containerd refuses an event; it is dropped");
                        return;
                    }
                    tracing::warn!(topic, error, "containerd refuses an event; trying again");
                }
                Err(DeliverError::Unreachable(error)) => {
                    tracing::warn!(topic, error, "containerd cannot be reached for an event; trying again");
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn attempt(&mut self, envelope: &Envelope) -> Result<(), DeliverError> {
        match self.destination.clone() {
            Destination::Ttrpc { address } => self.forward(&address, envelope).await,
            Destination::Binary { program, address } => publish(&program, &address, envelope).await,
        }
    }

    async fn forward(&mut self, address: &str, envelope: &Envelope) -> Result<(), DeliverError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let address = format!("unix://{}", address.strip_prefix("unix://").unwrap_or(address));
                let client =
                    Client::connect(&address).await.map_err(|e| DeliverError::Unreachable(e.to_string()))?;
                self.client.insert(EventsClient::new(client)).clone()
            }
        };
        let request = ForwardRequest { envelope: MessageField::some(envelope.clone()), ..Default::default() };
        match client.forward(context::with_duration(CALL_TIMEOUT), &request).await {
            Ok(_) => Ok(()),
            Err(ttrpc::Error::RpcStatus(status)) => Err(DeliverError::Refused(status.message)),
            Err(error) => {
                self.client = None;
                Err(DeliverError::Unreachable(error.to_string()))
            }
        }
    }
}

async fn publish(program: &PathBuf, address: &str, envelope: &Envelope) -> Result<(), DeliverError> {
    let unreachable = |e: std::io::Error| DeliverError::Unreachable(format!("{}: {e}", program.display()));
    let mut child = tokio::process::Command::new(program)
        .args([
            "--address",
            address,
            "publish",
            "--topic",
            &envelope.topic,
            "--namespace",
            &envelope.namespace,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(unreachable)?;
    let event = envelope.event.write_to_bytes().unwrap_or_default();
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&event).await.map_err(unreachable)?;
    }
    let output = tokio::time::timeout(CALL_TIMEOUT, child.wait_with_output())
        .await
        .map_err(|_| DeliverError::Unreachable("the publish binary does not end".to_owned()))?
        .map_err(unreachable)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(DeliverError::Refused(format!("{}: {message}", output.status)))
}
