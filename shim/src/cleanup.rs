//! The `delete` action: cleans up after a shim that containerd cannot talk to any more.
//!
//! Owns [`delete`]. containerd calls it after every container's end too, while the shim may be serving the rest of the pod. So a shim that answers
//! is asked to delete the container itself; one that does not gets time to end (it may be delivering its last events), then SIGKILL; and what only
//! a dead shim leaves (mounts, control groups, its socket) is removed, for the pod's other containers, too: containerd 2 does not ask for
//! those.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use seuss_snapshotter::beneath::{Dir, Way};
use ttrpc::context;
use ttrpc::proto::Code;

use crate::bootstrap::{ADDRESS_FILE, remove_socket};
use crate::container::prepare::ROOT_DIR;
use crate::events::timestamp;
use crate::mount::unmount_recursive;
use crate::record::Record;

/// Longest wait for a shim's answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a shim without its socket may take to end: it delivers its last events.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the kernel may take to empty the control groups of a killed process.
const CGROUP_TIMEOUT: Duration = Duration::from_secs(1);
/// Most bytes of a shim's address.
const ADDRESS_BYTES_MAX: u64 = 4096;
/// Exit status of what was killed: 128 + SIGKILL.
const KILLED: u32 = 137;

/// What a shim says when it is asked to delete a container.
enum Answer {
    /// It has deleted it, and how it had ended.
    Deleted(api::DeleteResponse),
    /// It does not have it.
    Unknown,
    /// It does not answer.
    None,
}

/// Cleans up after container `id` with bundle `bundle`. Problems are logged: there is nobody who could do more.
pub async fn delete(id: &str, bundle: &Path) -> api::DeleteResponse {
    let opened = Dir::open(bundle);
    let opened = opened.inspect_err(|error| tracing::warn!(%error, "the bundle cannot be opened")).ok();
    let record = opened.as_ref().and_then(Record::read);
    let mut response = api::DeleteResponse {
        pid: record.as_ref().map_or(0, |record| record.pid),
        exit_status: KILLED,
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..Default::default()
    };
    let address = opened.as_ref().and_then(|bundle| bundle.read(ADDRESS_FILE, ADDRESS_BYTES_MAX).ok());
    let address = address.and_then(|bytes| String::from_utf8(bytes).ok());
    let socket =
        address.map(|text| PathBuf::from(text.trim().strip_prefix("unix://").unwrap_or(text.trim())));
    let answer = match &socket {
        Some(socket) => ask_shim(socket, id).await,
        None => Answer::None,
    };
    match answer {
        Answer::Deleted(deleted) => response = deleted,
        Answer::Unknown => {}
        Answer::None => {
            if let Some(record) = &record {
                end_shim(record);
            }
            if let Some(socket) = &socket
                && let Err(error) = remove_socket(socket)
            {
                tracing::warn!(%error, socket = %socket.display(), "cannot remove the dead shim's socket");
            }
            if let Some(record) = &record {
                clean_siblings(bundle, record);
            }
        }
    }
    if let Some(bundle) = &opened {
        clean_bundle(bundle, record.as_ref());
    }
    response
}

/// Asks the shim at `socket` to kill and delete the container.
async fn ask_shim(socket: &Path, id: &str) -> Answer {
    let connect = Client::connect(&format!("unix://{}", socket.display())).await;
    let Ok(client) = connect else { return Answer::None };
    let client = TaskClient::new(client);
    let context = || context::with_duration(CALL_TIMEOUT);
    let kill = api::KillRequest { id: id.to_owned(), signal: 9, all: true, ..Default::default() };
    match client.kill(context(), &kill).await {
        Ok(_) => {
            let wait = api::WaitRequest { id: id.to_owned(), ..Default::default() };
            if let Err(error) = client.wait(context(), &wait).await {
                tracing::warn!(%error, id, "the shim does not say that the container ended");
            }
        }
        // Not found: ended, or not there; delete tells which.
        Err(ttrpc::Error::RpcStatus(_)) => {}
        Err(_) => return Answer::None,
    }
    let request = api::DeleteRequest { id: id.to_owned(), ..Default::default() };
    match client.delete(context(), &request).await {
        Ok(response) => {
            let shutdown = api::ShutdownRequest { id: id.to_owned(), ..Default::default() };
            // It only ends if that was its last container; it may end before it answers.
            let _ = client.shutdown(context(), &shutdown).await;
            Answer::Deleted(response)
        }
        Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::NOT_FOUND => Answer::Unknown,
        Err(ttrpc::Error::RpcStatus(status)) => {
            tracing::warn!(id, status = status.message, "the shim cannot delete the container");
            Answer::Unknown
        }
        Err(_) => Answer::None,
    }
}

/// Waits a moment for a shim to end, and ends it if it does not.
fn end_shim(record: &Record) {
    let Some(pid) = i32::try_from(record.shim.pid).ok().and_then(Pid::from_raw) else { return };
    // First the descriptor, then the look: what it stands for cannot become another process.
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if !record.shim.is_alive() || ended_within(&pidfd, END_TIMEOUT) {
        return;
    }
    tracing::warn!(pid = record.shim.pid, "the shim does not answer; it is killed");
    if let Err(error) = pidfd_send_signal(&pidfd, Signal::KILL) {
        tracing::warn!(%error, pid = record.shim.pid, "cannot kill the shim");
    }
    if !ended_within(&pidfd, END_TIMEOUT) {
        tracing::warn!(pid = record.shim.pid, "the killed shim does not end");
    }
}

fn ended_within(pidfd: &OwnedFd, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(ready) => return ready > 0,
            Err(_) => return true,
        }
    }
}

/// The other bundles of a dead shim's pod.
fn clean_siblings(bundle: &Path, record: &Record) {
    if record.shim.is_alive() {
        return;
    }
    let (Some(parent), Some(own)) = (bundle.parent(), bundle.file_name()) else { return };
    let siblings = Dir::open(parent).and_then(|dir| Ok((dir.names()?, dir)));
    let Ok((names, dir)) = siblings else { return };
    for name in names.iter().filter(|name| *name != own) {
        let Ok(bundle) = dir.dir(Path::new(name), Way::NoLinks) else { continue };
        if let Some(sibling) = Record::read(&bundle).filter(|sibling| sibling.shim == record.shim) {
            tracing::info!(id = sibling.id, "cleaning up after another container of the pod");
            clean_bundle(&bundle, Some(&sibling));
        }
    }
}

fn clean_bundle(bundle: &Dir, record: Option<&Record>) {
    if let Err(error) = unmount_recursive(bundle, ROOT_DIR) {
        tracing::warn!(%error, "cannot unmount the root file system");
    }
    let Some(record) = record else { return };
    // While the shim lives its groups are its own to remove; those of a container that it has deleted are gone.
    if record.shim.is_alive() {
        return;
    }
    let deadline = Instant::now() + CGROUP_TIMEOUT;
    for group in &record.cgroups {
        while !group.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        group.delete();
    }
}
