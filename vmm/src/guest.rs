//! The handle of a running guest: [`Guest`].

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use seuss_abi::comm::MAILBOX_SIZE;
use seuss_abi::event::{Event, Kind};
use seuss_abi::snapshot;
use seuss_abi::spec::ProcessSpec;
use seuss_snapshotter::snapshot::{Level, SnapshotId};

use crate::boot;
use crate::clock::{GuestClock, Sample, measure_tsc_khz};
use crate::config::{Caution, CloneConfig, GuestConfig, Stdio};
use crate::error::{GuestError, RequestError, StartError};
use crate::handles::{Channels, Handles};
use crate::hypervisor::Hypervisor;
use crate::kernel::KernelImage;
use crate::memory::{Gpa, Memory};
use crate::pool::{self, Prepared, ShellPool};
use crate::run::{EventSink, GuestEvent, Learning, Parts, Snapshots, thread};
use crate::seat::Seat;
use crate::shared::{Request, Shared};
use crate::shell::Shell;
use crate::snapshot::Lineage;
use crate::snapshot::restore::{self, TimeShift};
use crate::stats::{GuestStats, StartTimings};
use crate::status::WaitStatus;

/// Highest signal number on Linux.
const SIGNAL_MAX: u32 = 64;

/// So many times a young clone is looked at for what belongs to the working set: whenever it idles, and at kicks. A server may wait long for its first request: time
/// does not count.
const LEARN_LOOKS: u32 = 64;

/// A running guest. Dropping it stops the guest and waits until everything it held is released.
#[derive(Debug)]
pub struct Guest {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    timings: StartTimings,
}

fn host(operation: &'static str) -> impl FnOnce(std::io::Error) -> StartError {
    move |error| StartError::Host { operation, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

impl Guest {
    /// Start a guest from the embedded image. On return the virtual machine is made and its vCPU thread runs.
    ///
    /// `events` is called on the vCPU thread: it must not block for long, and the guest stands still meanwhile.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start(
        config: GuestConfig,
        events: impl FnMut(GuestEvent) + Send + 'static,
    ) -> Result<Self, StartError> {
        Self::start_image(config, KernelImage::chosen()?, events)
    }

    /// As [`Self::start`], with another guest image.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn start_image(
        config: GuestConfig,
        kernel: KernelImage,
        events: impl FnMut(GuestEvent) + Send + 'static,
    ) -> Result<Self, StartError> {
        let span = tracing::info_span!("start", guest = config.name);
        let _entered = span.enter();
        start(config, kernel, Box::new(events))
    }

    /// Start a clone of a snapshot. The first process is told of as if it had started ([`GuestEvent::ExecStarted`] with token 0).
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind.
    pub fn restore(
        config: CloneConfig,
        events: impl FnMut(GuestEvent) + Send + 'static,
    ) -> Result<Self, StartError> {
        let span = tracing::info_span!("restore", guest = config.name, snapshot = %config.origin.id());
        let _entered = span.enter();
        restore(config, Box::new(events))
    }

    /// Ask the guest for a snapshot of `level`; [`GuestEvent::Captured`] answers, or [`GuestEvent::PutOff`]: with `caution` where its clones could not go on, without where a process
    /// of [`Self::exec`] runs.
    ///
    /// # Errors
    /// [`RequestError::Ended`], [`RequestError::Busy`].
    pub fn snapshot(&self, level: Level, caution: Option<Caution>) -> Result<(), RequestError> {
        let flags = caution.map_or(0, |caution| {
            snapshot::CAUTIOUS | if caution.reset_connections { snapshot::RESET_CONNECTIONS } else { 0 }
        });
        let settled = caution.map_or(Duration::ZERO, |caution| caution.settled);
        let settled_ns = u64::try_from(settled.as_nanos()).unwrap_or(u64::MAX);
        self.post(Kind::Snapshot, level.number(), flags, settled_ns)
    }

    /// What the guest captures next is compared with `to` instead of with snapshot `from`, if that is what it captured last. `to` is the same snapshot in another
    /// place, or what came before it, if it was not kept; nothing stands for a guest that was booted.
    ///
    /// # Errors
    /// [`RequestError::Ended`], [`RequestError::Busy`].
    pub fn rebase(&self, from: SnapshotId, to: Option<Arc<Lineage>>) -> Result<(), RequestError> {
        self.shared.request(Request::Rebase { from, to })
    }

    /// Kernel thread id of the vCPU thread: what containerd is told as the container's pid.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.shared.tid()
    }

    /// Send signal `signo` to the process of `token` (0 = the first process), or with `all` to every process of the
    /// guest.
    ///
    /// # Errors
    /// [`RequestError::BadSignal`], [`RequestError::Ended`], [`RequestError::Busy`].
    pub fn signal(&self, token: u32, signo: u32, all: bool) -> Result<(), RequestError> {
        if !(1..=SIGNAL_MAX).contains(&signo) {
            return Err(RequestError::BadSignal { signo });
        }
        self.post(Kind::Signal, token, signo.into(), all.into())
    }

    /// Start another process in the guest. [`GuestEvent::ExecStarted`] answers, [`GuestEvent::Exited`] tells its end.
    /// `spec.stdio` is overwritten.
    ///
    /// # Errors
    /// [`RequestError`]: the token is taken, the description is empty or too large, the guest has ended.
    pub fn exec(&self, token: u32, spec: ProcessSpec, stdio: Stdio) -> Result<(), RequestError> {
        if spec.args.is_empty() {
            return Err(RequestError::NoArguments);
        }
        let len_bytes = spec.encode().len() as u64;
        if len_bytes > MAILBOX_SIZE {
            return Err(RequestError::SpecTooLarge { len_bytes });
        }
        // Here, where files may be opened.
        let stdio = Channels::of(stdio);
        self.shared.request(Request::Exec { token, spec: Box::new(spec), stdio })
    }

    /// The terminal of `token`'s process has a new size.
    ///
    /// # Errors
    /// [`RequestError::Ended`], [`RequestError::Busy`].
    pub fn resize(&self, token: u32, rows: u16, columns: u16) -> Result<(), RequestError> {
        self.post(Kind::WindowSize, token, rows.into(), columns.into())
    }

    /// End the standard input of `token`'s process: it reads what is still there, then the end of file.
    ///
    /// # Errors
    /// [`RequestError::Ended`], [`RequestError::Busy`].
    pub fn close_stdin(&self, token: u32) -> Result<(), RequestError> {
        self.shared.request(Request::CloseStdin { token })
    }

    /// Stop entering the guest. On return it stands still (or has ended).
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Continue after [`Self::pause`].
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// End the guest now: what SIGKILL is to a container. Does not wait; a second call changes nothing.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// Wait until the guest has ended.
    ///
    /// # Errors
    /// [`GuestError`] if it failed.
    pub fn wait(&self) -> Result<WaitStatus, GuestError> {
        self.shared.wait()
    }

    /// How the guest ended, or `None` while it runs.
    #[must_use]
    pub fn result(&self) -> Option<Result<WaitStatus, GuestError>> {
        self.shared.result()
    }

    /// Figures as of the guest's last exit.
    #[must_use]
    pub fn stats(&self) -> GuestStats {
        let counters = &self.shared.counters;
        let finished = Duration::from_nanos(counters.final_cpu_ns.get());
        let cpu_time =
            if finished.is_zero() { thread::cpu_time(self.tid()).unwrap_or_default() } else { finished };
        counters.stats(cpu_time)
    }

    /// How long the phases of the start took.
    #[must_use]
    pub fn timings(&self) -> StartTimings {
        let first_exit = Duration::from_nanos(self.shared.counters.first_exit_ns.get());
        StartTimings { first_exit, ..self.timings }
    }

    fn post(&self, kind: Kind, token: u32, b: u64, c: u64) -> Result<(), RequestError> {
        self.shared.request(Request::Post(Event { kind: kind as u32, a: token, b, c }))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shared.stop();
        // The callback itself may drop the guest: a thread cannot wait for its own end.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

/// Run `phase` and note how long it took.
fn timed<T>(into: &mut Duration, phase: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = phase();
    *into = started.elapsed();
    result
}

fn start(config: GuestConfig, kernel: KernelImage, events: EventSink) -> Result<Guest, StartError> {
    let started = Instant::now();
    let mut timings = StartTimings::default();
    let GuestConfig { memory_bytes, images, mut process, stdio, name, privileges, snapshots } = config;
    let private_bytes = boot::private_bytes(memory_bytes, &kernel)?;
    let hypervisor = timed(&mut timings.hypervisor, Hypervisor::shared)?;
    let shared = Arc::new(Shared::new(name).map_err(|errno| host("make an eventfd")(errno.into()))?);
    let wake = shared.wake_descriptor().map_err(|errno| host("duplicate an eventfd")(errno.into()))?;
    let mut handles = Handles::new(wake).map_err(|errno| host("make an epoll instance")(errno.into()))?;
    process.stdio =
        handles.adopt_first(stdio).map_err(|errno| host("use the standard descriptors")(errno.into()))?;
    let spec = boot::encode(&process)?;
    // It is confined while the virtual machine is made.
    let seat = Seat::new(privileges)?;
    let memory = timed(&mut timings.memory_map, || Memory::new(private_bytes, images))?;
    let shell = Shell::new(hypervisor, &mut timings)?;
    let tsc_khz = shell.tsc_khz().unwrap_or_else(measure_tsc_khz);
    let clock = GuestClock::new(Sample::take(), tsc_khz);
    let features = &shell.hypervisor().features;
    let base = snapshots.as_ref().is_some_and(|sink| sink.base);
    let loaded = timed(&mut timings.load, || boot::load(&memory, &kernel, features, &clock, &spec, base))?;
    let machine = shell.fill(memory, loaded.pml4, &mut timings)?;
    shared.counters.limit_bytes.set(private_bytes);
    shared.counters.used_bytes.set(loaded.reserved_bytes);
    let parts = Parts {
        machine,
        shared: Arc::clone(&shared),
        epoll: handles.epoll().map_err(|errno| host("duplicate an epoll instance")(errno.into()))?,
        handles,
        stdin: process.stdio[0],
        clock,
        kernel,
        reserved_bytes: loaded.reserved_bytes,
        events,
        snapshots: Snapshots {
            sink: snapshots,
            parent: None,
            pml4: loaded.pml4,
            shift: TimeShift::default(),
            generation: 0,
            learning: None,
            base_is_due: base,
            owed: 0,
            answer_due: true,
        },
    };
    launch(parts, seat, timings, started)
}

fn restore(config: CloneConfig, events: EventSink) -> Result<Guest, StartError> {
    let started = Instant::now();
    let mut timings = StartTimings::default();
    let CloneConfig { origin, mut process, stdio, name, privileges, snapshots, pool } = config;
    let manifest = origin.manifest();
    let kernel = KernelImage::chosen()?;
    let shared = Arc::new(Shared::new(name).map_err(|errno| host("make an eventfd")(errno.into()))?);
    let wake = shared.wake_descriptor().map_err(|errno| host("duplicate an eventfd")(errno.into()))?;
    let mut handles = Handles::new(wake).map_err(|errno| host("make an epoll instance")(errno.into()))?;
    process.stdio =
        handles.adopt_first(stdio).map_err(|errno| host("use the standard descriptors")(errno.into()))?;
    let spec = boot::encode(&process)?;
    let prepared = match pool.as_deref().and_then(ShellPool::take) {
        Some(prepared) => prepared,
        None => pool::prepare(&origin, &mut timings)?,
    };
    let Prepared { machine, tsc_khz, filled, held, ahead, seat } = prepared;
    // One that was made for clones of another network namespace is of no use here.
    let seat = match seat.filter(|seat| seat.fits(privileges)) {
        Some(seat) => seat,
        None => Seat::new(privileges)?,
    };
    [timings.made_ahead, timings.entered_ahead] = ahead;
    let tsc_khz = tsc_khz.unwrap_or_else(measure_tsc_khz);
    let now = Sample::take();
    let shift = TimeShift::new(manifest.monotonic_ns, manifest.boottime_offset_ns, manifest.created_ns, now);
    let clock = GuestClock::new(shift.apply(now), tsc_khz);
    let scout = timed(&mut timings.load, || {
        let filled = match filled.filter(|&filled| held || restore::is_current(filled, &origin)) {
            Some(filled) => filled,
            None => restore::fill(&machine.memory, &origin)?,
        };
        restore::tell(&machine.memory, &origin, &clock, &spec).map(|()| filled.scout)
    })?;
    let pml4 = Gpa(manifest.pml4_gpa);
    shared.counters.limit_bytes.set(manifest.private_bytes);
    shared.counters.used_bytes.set(manifest.reserved_bytes);
    let parts = Parts {
        machine,
        shared: Arc::clone(&shared),
        epoll: handles.epoll().map_err(|errno| host("duplicate an epoll instance")(errno.into()))?,
        handles,
        stdin: process.stdio[0],
        clock,
        kernel,
        reserved_bytes: manifest.reserved_bytes,
        events,
        snapshots: Snapshots {
            sink: snapshots,
            generation: manifest.generation + 1,
            parent: Some(Arc::clone(origin.lineage())),
            pml4,
            shift,
            learning: Some(Learning { origin: Arc::clone(&origin), looks_left: LEARN_LOOKS, scout }),
            base_is_due: false,
            owed: 0,
            answer_due: true,
        },
    };
    launch(parts, seat, timings, started)
}

/// Let the thread begin, and say how long everything took.
fn launch(
    parts: Parts,
    seat: Seat,
    mut timings: StartTimings,
    started: Instant,
) -> Result<Guest, StartError> {
    let shared = Arc::clone(&parts.shared);
    let generation = parts.snapshots.generation;
    let thread = timed(&mut timings.thread, || seat.drive(parts))?;
    timings.total = started.elapsed();
    tracing::info!(
        generation,
        elapsed_us = timings.total.as_micros() as u64,
        hypervisor_us = timings.hypervisor.as_micros() as u64,
        vm_create_us = timings.vm_create.as_micros() as u64,
        vcpu_create_us = timings.vcpu_create.as_micros() as u64,
        memory_map_us = timings.memory_map.as_micros() as u64,
        load_us = timings.load.as_micros() as u64,
        memory_slots_us = timings.memory_slots.as_micros() as u64,
        registers_us = timings.registers.as_micros() as u64,
        thread_us = timings.thread.as_micros() as u64,
        tid = shared.tid(),
        "guest started"
    );
    Ok(Guest { shared, thread: Some(thread), timings })
}
