//! The run loop: one thread drives one guest.
//!
//! Owns [`Runner`], which lives on the vCPU thread: it enters the guest, serves its calls ([`doorbell`]), interrupts
//! it ([`ticker`], `interrupt`), and turns every way of ending into a result. It never blocks but in an idle call and
//! in a pause, and never panics on what a guest does.

mod capture;
mod control;
mod doorbell;
mod execs;
mod log;
mod oom;
pub(crate) mod thread;
mod ticker;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::time::Timespec;
use seuss_abi::comm::{CLOCK_OFFSET, Clock, MAILBOX_OFFSET};
use seuss_abi::event::{Event, Kind};
use seuss_abi::layout::{COMM_GPA, ENTRY_UPCALL, KERNEL_BASE, KERNEL_END, RFLAGS};
use seuss_abi::snapshot::Obstacle;
use seuss_snapshotter::snapshot::SnapshotId;

use crate::clock::{GuestClock, Sample, monotonic_ns};
use crate::confine::{self, Role};
use crate::error::GuestError;
use crate::events::{BadTail, EventRing};
use crate::handles::Handles;
use crate::kernel::KernelImage;
use crate::kernel::symbols::Symbols;
use crate::memory::Gpa;
use crate::net::{EPOLL_BASE, NetError, Sockets};
use crate::report::{Recorder, Report, Scene};
use crate::seat::Equipment;
use crate::shared::{Request, Shared};
use crate::shell::{DrivenMachine, Machine};
use crate::snapshot::restore::TimeShift;
use crate::snapshot::{Lineage, Origin, SnapshotSink};
use crate::status::WaitStatus;
use crate::text::{self, LeftOut, MINUTE_BYTES};
use crate::vcpu::{ExitReason, KvmError};
use control::ControlPage;
use execs::{Execs, Posted, Waiting};
use oom::OomWatch;
use ticker::{Ticker, Wishes};

/// KVM_RUN may ask to be repeated; so many times in a row is not a guest that runs.
const AGAIN_MAX: u32 = 10_000;
/// Longest report that is logged, in bytes; it must fit into what is kept for last words.
const REPORT_MAX: usize = 14 << 10;
/// What others log when they hear that a guest was out of memory, in bytes: the shim a line, containerd two.
const OOM_TEXT_BYTES: u64 = 1 << 10;

/// What a guest tells whoever started it. Events come on the vCPU thread; `Ended` is the last one.
#[derive(Clone, Debug, PartialEq)]
pub enum GuestEvent {
    /// A process that was started with [`crate::Guest::exec`] has ended.
    Exited {
        /// Its token.
        token: u32,
        /// How.
        status: WaitStatus,
    },
    /// A process asked for with [`crate::Guest::exec`] runs, or could not be started. The first process is told with
    /// token 0, if it runs; if it does not, the guest ends with [`GuestError::NotStarted`].
    ExecStarted {
        /// Its token.
        token: u32,
        /// Its pid inside the guest, or errno.
        result: Result<u32, i32>,
    },
    /// The guest has killed a process because memory is used up. Told at most once a second: a guest can claim anything.
    OutOfMemory,
    /// The program waits on a listening socket for the first time, and nothing else runs: it is ready. Told once in a lineage.
    Ready,
    /// A snapshot was asked for, by the guest or by [`crate::Guest::snapshot`]: it exists, or why not. The guest goes on.
    Captured(Result<SnapshotId, String>),
    /// Somebody outside of the guest has had an answer on a connection: of HTTP one that says 2xx or 3xx. Told once, and once more after each [`Self::PutOff`].
    Answered,
    /// A snapshot that [`crate::Guest::snapshot`] asked for is not taken, because of this. It may be asked for again.
    PutOff(Obstacle),
    /// The guest is gone: its first process ended, it was stopped, or it failed. Processes started with `exec` ended
    /// with it.
    Ended(Result<WaitStatus, GuestError>),
}

/// Receives the events of a guest.
pub(crate) type EventSink = Box<dyn FnMut(GuestEvent) + Send>;

/// Why the run loop is over.
#[derive(Debug)]
enum End {
    Status(WaitStatus),
    Protocol(String),
    Panic(String),
    NotStarted { errno: i32, message: String },
    Exit(ExitReason),
    Kvm(KvmError),
    Host(String),
}

impl From<BadTail> for End {
    fn from(error: BadTail) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<NetError> for End {
    fn from(error: NetError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<KvmError> for End {
    fn from(error: KvmError) -> Self {
        Self::Kvm(error)
    }
}

/// Everything that one guest's thread works on.
pub(crate) struct Runner {
    machine: DrivenMachine,
    shared: Arc<Shared>,
    handles: Handles,
    sockets: Sockets,
    ring: EventRing,
    clock: GuestClock,
    ticker: Ticker,
    execs: Execs,
    recorder: Recorder,
    oom: OomWatch,
    kernel: KernelImage,
    reserved_bytes: u64,
    events: EventSink,
    snapshots: Snapshots,
    /// Whether it was told that the program is ready.
    told_ready: bool,
    /// Whether it was told that there is no store for its snapshots.
    told_no_store: bool,
}

/// What the runner knows of snapshots.
pub(crate) struct Snapshots {
    /// Where they go.
    pub(crate) sink: Option<SnapshotSink>,
    /// What this guest was restored from, or captured as last.
    pub(crate) parent: Option<Arc<Lineage>>,
    /// The library OS's own page tables.
    pub(crate) pml4: Gpa,
    /// The guest's clocks against the host's.
    pub(crate) shift: TimeShift,
    /// How often the lineage was restored.
    pub(crate) generation: u64,
    /// What there is to learn from this guest.
    pub(crate) learning: Option<Learning>,
    /// The guest may take its base snapshot: it has seen nothing but its runtime so far.
    pub(crate) base_is_due: bool,
    /// Snapshots that the guest was asked for and has not answered.
    pub(crate) owed: u64,
    /// The next answer to somebody outside is told.
    pub(crate) answer_due: bool,
}

/// A young clone, whose use of memory tells what later ones will use.
pub(crate) struct Learning {
    /// What it was restored from.
    pub(crate) origin: Arc<Origin>,
    /// How often it is looked at.
    pub(crate) looks_left: u32,
    /// Whether its page tables tell what it reads, too.
    pub(crate) scout: bool,
}

/// What a runner is made of.
pub(crate) struct Parts {
    pub(crate) machine: Machine,
    pub(crate) shared: Arc<Shared>,
    pub(crate) handles: Handles,
    /// Another descriptor of the handles' epoll instance.
    pub(crate) epoll: OwnedFd,
    pub(crate) stdin: u32,
    pub(crate) clock: GuestClock,
    pub(crate) kernel: KernelImage,
    pub(crate) reserved_bytes: u64,
    pub(crate) events: EventSink,
    pub(crate) snapshots: Snapshots,
}

impl Runner {
    /// A runner on the calling thread, which is the one that will run it.
    pub(crate) fn new(parts: Parts, equipment: Equipment) -> Self {
        let Parts {
            machine,
            shared,
            handles,
            stdin,
            clock,
            kernel,
            reserved_bytes,
            events,
            snapshots,
            epoll,
        } = parts;
        let ticker = Ticker::new(equipment.timer);
        let sockets = Sockets::new(epoll, equipment.net);
        Self {
            recorder: Recorder::new(shared.name.clone()),
            machine: machine.drive(),
            shared,
            handles,
            sockets,
            ring: EventRing::default(),
            clock,
            ticker,
            execs: Execs::new(stdin),
            oom: OomWatch::default(),
            kernel,
            reserved_bytes,
            events,
            snapshots,
            told_ready: false,
            told_no_store: false,
        }
    }

    /// Run the guest to its end, tell everybody, and let everything go.
    pub(crate) fn run(mut self) {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.until_end()));
        let result =
            ended.unwrap_or_else(|_| Err(GuestError::Host { what: "the vCPU thread panicked".into() }));
        self.shared.text.release_last_words();
        self.tell_left_out();
        match &result {
            Ok(status) => tracing::debug!(guest = self.shared.name, %status, "guest ended"),
            Err(error) => {
                tracing::error!(guest = self.shared.name, %error, "guest failed");
                if let Some(report) = error.report() {
                    let text = text::cut(report.to_string(), REPORT_MAX);
                    tracing::error!(target: "seuss_vmm::report", guest = self.shared.name, "{text}");
                    self.recorder.trace(|| report.to_string());
                }
            }
        }
        self.learn();
        if let Some(learning) = &self.snapshots.learning {
            learning.origin.wait_for_writes();
        }
        let mut unanswered = self.execs.unanswered();
        let (requests, tokens) = self.shared.close();
        unanswered.extend(requests.iter().filter_map(|request| match request {
            Request::Exec { token, .. } => Some(*token),
            _ => None,
        }));
        // Before anybody hears of the end: what reads the guest's output sees its end first.
        self.handles.clear();
        self.sockets.end(&self.machine.memory);
        drop(requests);
        for token in tokens {
            // A request that never reached the guest did not start; anything else was killed with it.
            let event = if unanswered.contains(&token) {
                GuestEvent::ExecStarted { token, result: Err(libc::ESRCH) }
            } else {
                GuestEvent::Exited { token, status: WaitStatus::signalled(libc::SIGKILL as u8) }
            };
            self.emit(event);
        }
        if let Some(cpu_time) = thread::cpu_time(thread::current_tid()) {
            self.shared.counters.final_cpu_ns.set(cpu_time.as_nanos() as u64);
        }
        let ahead = self.machine.faults_ahead;
        self.shared.counters.kvm_faults.set(self.machine.faults());
        self.shared.counters.kvm_faults_ahead.set(ahead);
        self.recorder.trace(|| format!("KVM's statistics:{}", self.machine.kvm_statistics()));
        self.publish();
        if self.oom.is_owed() {
            self.emit(GuestEvent::OutOfMemory);
        }
        self.shared.finish(result.clone());
        self.emit(GuestEvent::Ended(result));
    }

    fn emit(&mut self, event: GuestEvent) {
        // The callback is the caller's; should it panic, the guest's end must still be told to those who wait.
        let sink = &mut self.events;
        let called = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink(event)));
        if called.is_err() {
            tracing::error!(guest = self.shared.name, "the event callback panicked");
        }
    }

    fn until_end(&mut self) -> Result<WaitStatus, GuestError> {
        let mut last = ExitReason::Kicked;
        let end = self.enter_until_end(&mut last);
        let report = |runner: &Self| {
            let symbols = Symbols::read(&runner.kernel);
            let (vcpu, memory) = (&runner.machine.vcpu, &runner.machine.memory);
            let scene = Scene { vcpu, memory, symbols: &symbols, recorder: &runner.recorder };
            Box::new(Report::draw(last, &scene))
        };
        if let Some(call) = confine::told_violation(Role::Vcpu) {
            let what =
                format!("the vCPU thread made system call {call}, which it may not make; the guest is ended");
            return Err(GuestError::Host { what });
        }
        match end {
            End::Status(status) => Ok(status),
            End::Protocol(what) => Err(GuestError::Protocol { what, report: report(self) }),
            End::NotStarted { errno, message } => Err(GuestError::NotStarted { errno, message }),
            End::Panic(message) => Err(GuestError::Panic { message, report: report(self) }),
            End::Exit(reason) => Err(GuestError::UnexpectedExit { reason, report: report(self) }),
            End::Kvm(error) => Err(GuestError::Kvm { error, report: report(self) }),
            End::Host(what) => Err(GuestError::Host { what }),
        }
    }

    fn enter_until_end(&mut self, last: &mut ExitReason) -> End {
        let mut again = 0;
        let mut first = Some(Instant::now());
        // Not through a kick: what was asked for before the first entry, and the first readiness.
        if let Err(end) = self.look_around() {
            return end;
        }
        loop {
            let wishes = self.wishes();
            self.ticker.before_entry(&wishes, monotonic_ns());
            let exit = self.machine.vcpu.run();
            if let Some(first) = first.take() {
                self.shared.counters.first_exit_ns.set(first.elapsed().as_nanos() as u64);
            }
            // Where a kick found the guest: many of them make a profile.
            self.recorder.trace(|| match self.machine.vcpu.registers() {
                Ok(registers) if matches!(exit, ExitReason::Kicked) => {
                    format!("exit: {exit} at rip {:#x}", registers.rip)
                }
                _ => format!("exit: {exit}"),
            });
            *last = exit;
            let served = match last {
                ExitReason::Doorbell => self.doorbell(),
                ExitReason::Kicked => self.kicked(),
                ExitReason::Again if again < AGAIN_MAX => {
                    again += 1;
                    std::thread::yield_now();
                    continue;
                }
                unexpected => return End::Exit(unexpected.clone()),
            };
            again = 0;
            if let Err(end) = served {
                return end;
            }
            if confine::violation().is_some() {
                return End::Host("a forbidden system call".into());
            }
        }
    }

    fn control(&self) -> ControlPage<'_> {
        ControlPage(self.machine.memory.comm())
    }

    fn wishes(&self) -> Wishes {
        let control = self.control();
        Wishes {
            attention: control.attention(),
            wants_tick: control.wants_tick(),
            next_event_ns: self.snapshots.shift.to_host(control.next_event_ns()),
        }
    }

    /// Take the guest's own figures over, and tell of what they say.
    fn publish(&mut self) {
        self.control().publish(&self.shared.counters, self.reserved_bytes);
        let Self { oom, shared, .. } = self;
        // Whoever hears of it logs it: where there is no room for that, it waits. The last one is told at the end in any case.
        let may_tell = || shared.text.pay(OOM_TEXT_BYTES);
        if oom.is_news(shared.counters.oom_kills.get(), monotonic_ns(), may_tell) {
            self.emit(GuestEvent::OutOfMemory);
        }
        self.tell_left_out();
    }

    /// Say how much this guest's budget of text has swallowed, if there is room to say so.
    fn tell_left_out(&self) {
        if let Some(LeftOut { lines, bytes }) = self.shared.text.take_left_out() {
            let guest = &self.shared.name;
            tracing::warn!(
                guest,
                lines,
                bytes,
                "left out of the log: a guest causes at most {MINUTE_BYTES} bytes a minute"
            );
        }
    }

    /// A kick: see what there is, and interrupt the guest if it concerns it.
    fn kicked(&mut self) -> Result<(), End> {
        self.shared.counters.kicks.count();
        self.learn();
        let posted = self.look_around()?;
        let now_ns = monotonic_ns();
        let wishes = self.wishes();
        let due = self.ticker.schedule.is_due(&wishes, now_ns);
        if posted || due {
            self.control().set_attention();
        }
        if posted || due || wishes.attention {
            self.interrupt()?;
        }
        Ok(())
    }

    /// Take requests and readiness. Returns whether the ring got anything.
    fn look_around(&mut self) -> Result<bool, End> {
        // First the flag, then what it stands for: a kick from here on makes the next KVM_RUN return.
        self.machine.vcpu.clear_immediate_exit();
        self.take_requests()?;
        self.pause_or_stop()?;
        self.publish();
        self.post_exec()?;
        self.refresh_clock(monotonic_ns());
        self.drain_at_kick()?;
        self.harvest(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Take what the guest has submitted, unless its library OS is running: that may be changing what it submitted last.
    fn drain_at_kick(&mut self) -> Result<(), End> {
        if self.sockets.has_submissions(&self.machine.memory) && !self.library_os_runs()? {
            self.sockets.drain(&self.machine.memory, &mut self.ring)?;
        }
        Ok(())
    }

    fn library_os_runs(&self) -> Result<bool, End> {
        Ok((KERNEL_BASE..KERNEL_END).contains(&self.machine.vcpu.registers()?.rip))
    }

    /// If the application runs, enter the guest at its upcall address; the library OS is left alone.
    fn interrupt(&mut self) -> Result<(), End> {
        let vcpu = &self.machine.vcpu;
        let mut registers = vcpu.registers()?;
        if (KERNEL_BASE..KERNEL_END).contains(&registers.rip) {
            return Ok(());
        }
        // An exception on its way belongs to the interrupted instruction: it goes first.
        if vcpu.special_registers()?.ss.dpl != 3 || vcpu.event_in_flight()? {
            return Ok(());
        }
        self.control().set_upcall(registers.rip, registers.rsp, registers.rflags);
        registers.rip = ENTRY_UPCALL;
        registers.rflags = RFLAGS;
        vcpu.set_registers(&registers)?;
        self.ticker.schedule.delivered();
        self.shared.counters.upcalls.count();
        self.recorder.trace(|| "upcall".into());
        Ok(())
    }

    fn refresh_clock(&mut self, now_ns: u64) {
        let shift = self.snapshots.shift;
        if !self.clock.is_stale(shift.to_guest(now_ns)) {
            return;
        }
        self.clock.refresh(shift.apply(Sample::take()));
        // The guest stands still while its page is written, so that it sees the odd sequence never, and the change of
        // the even one when it was interrupted while reading.
        let page: Clock = self.clock.page();
        self.machine.memory.comm().store(Gpa(COMM_GPA + CLOCK_OFFSET), page);
    }

    /// Wait for readiness, serve the sockets that are ready, and post events. Returns whether the ring got anything that the guest should be woken for.
    fn harvest(&mut self, timeout: Option<Timespec>) -> Result<bool, End> {
        let comm = self.machine.memory.comm();
        let flushed = self.ring.flush(comm)?;
        let room = self.ring.room(comm)?;
        let ring = &mut self.ring;
        let waited = self.handles.wait(timeout, room, |event| ring.push(event));
        let waited =
            waited.map_err(|errno| End::Host(format!("cannot wait for the guest's handles: {errno}")))?;
        for (name, flags) in waited.others {
            let handle = (name - EPOLL_BASE) as u32;
            self.sockets.ready(handle, flags, &self.machine.memory, &mut self.ring);
        }
        Ok(self.ring.flush(self.machine.memory.comm())? || flushed)
    }

    fn take_requests(&mut self) -> Result<(), End> {
        let room = self.ring.room(self.machine.memory.comm())?;
        for request in self.shared.take_requests(room) {
            match request {
                Request::Post(event) => {
                    if event.kind == Kind::Snapshot as u32 {
                        self.snapshots.owed += 1;
                    }
                    self.ring.push(event);
                }
                Request::Exec { token, spec, stdio } => self.execs.ask(Waiting { token, spec, stdio }),
                Request::Rebase { from, to } => {
                    let parent = &mut self.snapshots.parent;
                    if parent.as_ref().is_some_and(|parent| parent.id() == from) {
                        *parent = to;
                    }
                }
                Request::CloseStdin { token } => {
                    if let Some(handle) = self.execs.stdin(token) {
                        self.handles.finish_input(handle);
                    }
                }
            }
        }
        Ok(())
    }

    fn pause_or_stop(&mut self) -> Result<(), End> {
        self.shared.wait_while_paused();
        if self.shared.stopping() {
            return Err(End::Status(WaitStatus::signalled(libc::SIGKILL as u8)));
        }
        Ok(())
    }

    /// Put the next waiting process into the mailbox, if it is free.
    fn post_exec(&mut self) -> Result<(), End> {
        while let Some(Waiting { token, mut spec, stdio }) = self.execs.next() {
            match stdio.and_then(|stdio| self.handles.adopt(stdio)) {
                Ok(numbers) => {
                    spec.stdio = numbers;
                    let blob = spec.encode();
                    let mailbox = Gpa(COMM_GPA + MAILBOX_OFFSET);
                    let written = self.machine.memory.comm().write(mailbox, &blob);
                    written.ok_or_else(|| End::Host("a process description does not fit".into()))?;
                    self.ring.push(Event { kind: Kind::Exec as u32, a: token, b: blob.len() as u64, c: 0 });
                    self.execs.posted(Posted { token, stdio: numbers });
                }
                Err(errno) => {
                    self.shared.forget_token(token);
                    let result = Err(errno.raw_os_error());
                    self.emit(GuestEvent::ExecStarted { token, result });
                }
            }
        }
        Ok(())
    }
}
