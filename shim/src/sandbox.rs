//! The pod: the containers that share this shim.
//!
//! Owns [`Pod`]: the table of containers, and when the shim is done. The table's lock is only held to look; creating and deleting happen
//! without it, with the id reserved.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::cgroup::Origin;
use crate::container::{Container, CreateRequest, PodFacts, Shared};
use crate::error::TaskError;
use crate::events::EventQueue;
use crate::guest::Hypervisor;
use crate::lifecycle::Exit;

enum Slot {
    Creating,
    Ready(Arc<Container>),
}

/// The containers of a shim.
pub struct Pod {
    shared: Arc<Shared>,
    slots: Mutex<HashMap<String, Slot>>,
    /// Where the process was before it went into the pod's control group.
    origin: Origin,
    done: watch::Sender<bool>,
}

impl Pod {
    /// An empty pod.
    #[must_use]
    pub fn new(namespace: String, events: EventQueue, hypervisor: Arc<dyn Hypervisor>) -> Self {
        let pod = Mutex::new(PodFacts::default());
        Self {
            shared: Arc::new(Shared { namespace, events, hypervisor, pod }),
            slots: Mutex::default(),
            origin: Origin::of_this_process(),
            done: watch::Sender::new(false),
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        // Every change is one insertion or removal.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// containerd's namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    /// The container `id`.
    ///
    /// # Errors
    /// [`TaskError::NoContainer`].
    pub fn get(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        match self.slots().get(id) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            Some(Slot::Creating) | None => Err(TaskError::NoContainer { id: id.to_owned() }),
        }
    }

    /// Creates a container. Blocks.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn create(&self, request: CreateRequest) -> Result<Arc<Container>, TaskError> {
        let id = request.id.clone();
        match self.slots().entry(id.clone()) {
            std::collections::hash_map::Entry::Occupied(_) => {
                return Err(TaskError::Exists { what: "container", id });
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(Slot::Creating);
            }
        }
        let reserved = Reserved { pod: self, id: &id };
        let container = Container::create(&self.shared, request)?;
        self.slots().insert(id.clone(), Slot::Ready(Arc::clone(&container)));
        std::mem::forget(reserved);
        Ok(container)
    }

    /// Deletes a container that has ended. Blocks.
    ///
    /// # Errors
    /// [`TaskError`].
    pub fn delete(&self, id: &str) -> Result<(u32, Exit), TaskError> {
        let deleted = self.get(id)?.delete()?;
        self.slots().remove(id);
        Ok(deleted)
    }

    /// All containers.
    #[must_use]
    pub fn containers(&self) -> Vec<Arc<Container>> {
        let ready = |slot: &Slot| match slot {
            Slot::Ready(container) => Some(Arc::clone(container)),
            Slot::Creating => None,
        };
        self.slots().values().filter_map(ready).collect()
    }

    /// containerd is done with the shim: it ends if no container is left.
    pub fn shutdown_if_empty(&self) {
        if self.slots().is_empty() {
            self.done.send_replace(true);
        }
    }

    /// Ends the shim, whatever it holds.
    pub fn shutdown(&self) {
        self.done.send_replace(true);
    }

    /// Waits until the shim should end.
    pub async fn done(&self) {
        // The sender lives as long as `self`.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    /// Leaves the pod's control group and removes it. The last thing that a shim does with its pod.
    pub fn leave_process_group(&self) {
        let group = self.shared.pod.lock().unwrap_or_else(PoisonError::into_inner).process_group.take();
        if let Some(group) = group {
            self.origin.return_to();
            group.delete();
        }
    }
}

/// Gives a reserved id back, unless forgotten.
struct Reserved<'a> {
    pod: &'a Pod,
    id: &'a str,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.pod.slots().remove(self.id);
    }
}
