//! A seat: a thread that will drive a guest, made and confined before its guest is known.
//!
//! Owns [`Seat`]. Confining a thread takes a fifth of a millisecond, most of it for the kernel's translation of the filter: a pool does it ahead of time, and a start meanwhile makes the
//! virtual machine. What needs files or privileges of the process is done here, before the thread has neither: its timer, the files that tell of its network namespace.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crate::ahead::{self, AheadError};
use crate::confine::{self, Granted, Reach, Role};
use crate::error::StartError;
use crate::helpers;
use crate::net::{NetEquipment, NetPrivileges, linger};
use crate::run::thread::{self, Timer};
use crate::run::{Parts, Runner};
use crate::shared::Shared;
use crate::shell::Machine;

/// Longest name of a thread that the kernel keeps, in bytes.
const NAME_MAX: usize = 15;

/// Which network namespace a thread is in: device and inode of its file below /proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Netns(u64, u64);

impl Netns {
    fn current() -> Option<Self> {
        let stat = rustix::fs::stat("/proc/thread-self/ns/net").ok()?;
        Some(Self(stat.st_dev, stat.st_ino))
    }
}

/// What a thread in its seat has, and a guest needs.
pub(crate) struct Equipment {
    pub(crate) timer: Timer,
    pub(crate) net: NetEquipment,
}

enum Order {
    /// Enter a clone before it is wanted.
    Ahead {
        machine: Box<Machine>,
        cancelled: Box<dyn Fn() -> bool + Send>,
        back: SyncSender<Result<Machine, AheadError>>,
    },
    /// Drive a guest to its end.
    Drive { parts: Box<Parts>, ready: SyncSender<Result<(), StartError>> },
}

/// A confined thread that waits for its guest. Dropping it ends the thread.
pub(crate) struct Seat {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    tid: Receiver<i32>,
    netns: Option<Netns>,
    privileges: NetPrivileges,
}

fn host(operation: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |error| StartError::Host { operation, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

impl Seat {
    /// A thread in the calling thread's network namespace, for a guest with these privileges. It is not waited for.
    ///
    /// # Errors
    /// [`StartError::Host`]: no thread.
    pub(crate) fn new(privileges: NetPrivileges) -> Result<Self, StartError> {
        helpers::start().map_err(host("start the thread that helps guests"))?;
        thread::install_handler().map_err(host("install the kick signal's handler"))?;
        let (orders, todo) = channel();
        let (tell, tid) = sync_channel(1);
        let blocked = thread::AllBlocked::new();
        let spawned = std::thread::Builder::new()
            .name("seuss-vcpu".into())
            .spawn(move || sit(&todo, &tell, privileges));
        drop(blocked);
        let thread = spawned.map_err(host("start the vCPU thread"))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), tid, netns: Netns::current(), privileges })
    }

    /// Whether it is in the calling thread's network namespace, and has these privileges.
    pub(crate) fn fits(&self, privileges: NetPrivileges) -> bool {
        self.privileges == privileges && self.netns.is_some() && self.netns == Netns::current()
    }

    /// Its thread id, once: waits until the thread runs.
    pub(crate) fn tid(&self) -> Option<i32> {
        self.tid.recv().ok()
    }

    /// Enter `machine`, which has been told to hold, ahead of time, and wait for that.
    pub(crate) fn enter_ahead(
        &self,
        machine: Machine,
        cancelled: impl Fn() -> bool + Send + 'static,
    ) -> Result<Machine, AheadError> {
        let (back, returned) = sync_channel(1);
        let order = Order::Ahead { machine: Box::new(machine), cancelled: Box::new(cancelled), back };
        let gone = || AheadError::Confined("it has ended".to_owned());
        self.orders.as_ref().ok_or_else(gone)?.send(order).map_err(|_| gone())?;
        returned.recv().map_err(|_| gone())?
    }

    /// Drive the guest that `parts` make. On return it is about to be entered.
    ///
    /// # Errors
    /// [`StartError`]: the thread could not be confined, or something that it needs could not be had.
    pub(crate) fn drive(mut self, parts: Parts) -> Result<JoinHandle<()>, StartError> {
        let (ready, is_ready) = sync_channel(1);
        let gone = || StartError::Host { operation: "start the vCPU thread", errno: libc::EIO };
        let orders = self.orders.take().ok_or_else(gone)?;
        let sent = orders.send(Order::Drive { parts: Box::new(parts), ready });
        let answer = sent.map_err(|_| gone()).and_then(|()| is_ready.recv().map_err(|_| gone()));
        let thread = self.thread.take().ok_or_else(gone)?;
        match answer.and_then(|answer| answer) {
            Ok(()) => Ok(thread),
            Err(error) => {
                let _ = thread.join();
                Err(error)
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Everything that needs the process' privileges or files; then there are none.
fn equip(privileges: NetPrivileges) -> Result<Equipment, StartError> {
    linger::raise_descriptor_limit();
    thread::sharpen_timers();
    let timer = Timer::new().map_err(host("make the vCPU thread's timer"))?;
    let net = NetEquipment::new(privileges)
        .map_err(|errno| host("make sockets for the container's user")(errno.into()))?;
    confine::enter(Role::Vcpu, Granted::from(privileges), Reach::Nothing)?;
    Ok(Equipment { timer, net })
}

/// The thread: waits for orders, and ends with its guest.
fn sit(orders: &Receiver<Order>, tell: &SyncSender<i32>, privileges: NetPrivileges) {
    let _ = tell.send(thread::current_tid());
    let equipped = equip(privileges);
    while let Ok(order) = orders.recv() {
        match order {
            Order::Ahead { machine, cancelled, back } => {
                let entered = match &equipped {
                    Ok(_) => {
                        let entered = ahead::enter(*machine, cancelled);
                        match confine::told_violation(Role::Vcpu) {
                            Some(call) => Err(AheadError::Confined(format!("it made system call {call}"))),
                            None => entered,
                        }
                    }
                    Err(error) => Err(AheadError::Confined(error.to_string())),
                };
                // The pool waits for exactly this.
                let _ = back.send(entered);
            }
            Order::Drive { parts, ready } => {
                match equipped {
                    Ok(equipment) => drive(*parts, equipment, &ready),
                    Err(error) => drop(ready.send(Err(error))),
                }
                return;
            }
        }
    }
}

/// Drive a guest.
fn drive(parts: Parts, equipment: Equipment, ready: &SyncSender<Result<(), StartError>>) {
    struct Started(Arc<Shared>);
    impl Drop for Started {
        fn drop(&mut self) {
            self.0.thread_ends();
        }
    }
    let started = Started(Arc::clone(&parts.shared));
    let _text = started.0.text.enter();
    started.0.thread_started();
    // The kernel keeps so many bytes of a thread's name, and none after a NUL.
    let name: Vec<u8> = started.0.name.bytes().filter(|&byte| byte != 0).take(NAME_MAX).collect();
    let _ = rustix::thread::set_name(&CString::new(name).unwrap_or_default());
    let runner = Runner::new(parts, equipment);
    // The other end waits for exactly this; it cannot be gone.
    let _ = ready.send(Ok(()));
    runner.run();
}
