//! Host calls: each is copied, checked and carried out without blocking, but for idle.

use std::mem::offset_of;

use rustix::time::Timespec;
use seuss_abi::call::{Op, Slot};
use seuss_abi::comm::SLOT_OFFSET;
use seuss_abi::layout::COMM_GPA;

use super::log::{self, LINE_MAX};
use super::{End, GuestEvent, Runner};
use crate::clock::monotonic_ns;
use crate::memory::{Direction, Gpa, SegmentList};
use crate::status::WaitStatus;

const SLOT: Gpa = Gpa(COMM_GPA + SLOT_OFFSET);
const RESULT: u64 = offset_of!(Slot, result) as u64;
/// Longest message about the guest's own end taken over, in bytes: it becomes part of errors that several programs of the node log.
const PANIC_MAX: u64 = 1 << 10;

/// Whether a call lets the guest see more than what it was started with.
fn brings_something_in(op: Op) -> bool {
    match op {
        Op::Read
        | Op::Bind
        | Op::Listen
        | Op::Connect
        | Op::Name
        | Op::GetOption
        | Op::SetOption
        | Op::Interfaces
        | Op::Routes => true,
        Op::Exit
        | Op::Panic
        | Op::Idle
        | Op::Write
        | Op::Sync
        | Op::Close
        | Op::Exited
        | Op::Log
        | Op::Started
        | Op::Ready
        | Op::NoBase
        | Op::Capture
        | Op::Hold
        | Op::PutOff => false,
    }
}

impl Runner {
    /// Serve the call in the slot.
    pub(super) fn doorbell(&mut self) -> Result<(), End> {
        let slot: Slot = self.machine.memory.comm().load(SLOT).unwrap_or_default();
        self.recorder.call(&slot);
        self.sockets.drain(&self.machine.memory, &mut self.ring)?;
        if self.sockets.take_answered() && std::mem::take(&mut self.snapshots.answer_due) {
            self.emit(GuestEvent::Answered);
        }
        let result = self.call(&slot)?;
        self.recorder.returned(result);
        self.machine.memory.comm().store(SLOT.plus(RESULT), result);
        Ok(())
    }

    fn call(&mut self, slot: &Slot) -> Result<i64, End> {
        let unknown = || End::Protocol(format!("host call with unknown operation {:#x}", slot.op));
        let op = Op::from_raw(slot.op).ok_or_else(unknown)?;
        let counters = &self.shared.counters;
        if op == Op::Idle {
            counters.idle.count()
        } else {
            counters.calls.count()
        }
        let [a, b, c, ..] = slot.args;
        if brings_something_in(op) {
            self.snapshots.base_is_due = false;
        }
        match op {
            Op::Exit => Err(End::Status(status(op, a)?)),
            Op::Panic => Err(End::Panic(self.message(Gpa(a), b, PANIC_MAX))),
            Op::Idle => self.idle(a).map(|()| 0),
            Op::Read => self.transfer(op, a, Gpa(b), c, Direction::IntoGuest),
            Op::Write => self.transfer(op, a, Gpa(b), c, Direction::OutOfGuest),
            Op::Close => Ok(self.handles.close(handle(op, a)?)),
            Op::Exited => self.exited(a, b),
            Op::Log => {
                self.log(a, Gpa(b), c);
                Ok(0)
            }
            Op::Ready => {
                // Once in a lineage, whatever the guest says.
                if !std::mem::replace(&mut self.told_ready, true) {
                    self.emit(GuestEvent::Ready);
                }
                Ok(0)
            }
            Op::Capture => self.capture(a, Gpa(b), c, slot.args[3]),
            Op::NoBase => {
                self.snapshots.base_is_due = false;
                Ok(0)
            }
            Op::PutOff => self.put_off(a),
            Op::Hold => Err(End::Protocol("Hold of a guest that was not entered ahead of time".into())),
            Op::Started if a == 0 => self.first_started(b, Gpa(c), slot.args[3]),
            Op::Started => self.started(a, b),
            Op::Sync => {
                self.harvest(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                Ok(0)
            }
            Op::Bind
            | Op::Listen
            | Op::Connect
            | Op::Name
            | Op::GetOption
            | Op::SetOption
            | Op::Interfaces
            | Op::Routes => {
                let result = self.sockets.call(op, &slot.args, &self.machine.memory, &mut self.ring);
                self.ring.flush(self.machine.memory.comm())?;
                Ok(result)
            }
        }
    }

    fn transfer(
        &mut self,
        op: Op,
        number: u64,
        list: Gpa,
        count: u64,
        direction: Direction,
    ) -> Result<i64, End> {
        let number = handle(op, number)?;
        let list = SegmentList::resolve(&self.machine.memory, list, count, direction)
            .map_err(|error| End::Protocol(format!("{op:?} of handle {number}: {error}")))?;
        Ok(match direction {
            Direction::IntoGuest => self.handles.read(number, list),
            Direction::OutOfGuest => self.handles.write(number, list),
        })
    }

    /// Text at `gpa`, for people: a bad address gives a text that says so.
    pub(super) fn message(&self, gpa: Gpa, len_bytes: u64, most: u64) -> String {
        let mut bytes = vec![0; len_bytes.min(most) as usize];
        let window = self.machine.memory.window(gpa);
        match window.and_then(|window| window.read(gpa, &mut bytes)) {
            Some(()) => log::printable(&bytes, most as usize),
            None => format!("(a message of {len_bytes} bytes at gpa {gpa}, which is outside of memory)"),
        }
    }

    fn log(&mut self, level: u64, gpa: Gpa, len_bytes: u64) {
        let line = self.message(gpa, len_bytes, LINE_MAX);
        log::emit(&self.shared.name, level, &line);
        self.recorder.trace(|| format!("log: {line}"));
        self.recorder.line(line);
    }

    fn exited(&mut self, token: u64, raw: u64) -> Result<i64, End> {
        let status = status(Op::Exited, raw)?;
        let known = u32::try_from(token).ok().filter(|&token| token != 0 && self.shared.forget_token(token));
        let token =
            known.ok_or_else(|| End::Protocol(format!("Exited of token {token:#x}, which is not alive")))?;
        self.execs.ended(token);
        self.emit(GuestEvent::Exited { token, status });
        Ok(0)
    }

    /// The first process runs, or cannot: then the guest is of no use.
    fn first_started(&mut self, result: u64, message: Gpa, len_bytes: u64) -> Result<i64, End> {
        let wrong = || End::Protocol(format!("Started(0, {result:#x}): wrong, or the second one"));
        let started = started_result(result).filter(|_| self.execs.first_answered()).ok_or_else(wrong)?;
        if let Err(errno) = started {
            return Err(End::NotStarted { errno, message: self.message(message, len_bytes, PANIC_MAX) });
        }
        self.emit(GuestEvent::ExecStarted { token: 0, result: started });
        self.post_exec()?;
        Ok(0)
    }

    fn started(&mut self, token: u64, result: u64) -> Result<i64, End> {
        let wrong = || End::Protocol(format!("Started({token:#x}, {result:#x}) without such a request"));
        let exec = self.execs.answered(token).ok_or_else(wrong)?;
        let result = started_result(result).ok_or_else(wrong)?;
        if result.is_err() {
            for number in exec.stdio {
                self.handles.close(number);
            }
            self.execs.ended(exec.token);
            self.shared.forget_token(exec.token);
        }
        self.emit(GuestEvent::ExecStarted { token: exec.token, result });
        self.post_exec()?;
        Ok(0)
    }

    /// Wait until there is an event or `deadline_ns` of CLOCK_MONOTONIC has passed.
    fn idle(&mut self, deadline_ns: u64) -> Result<(), End> {
        let deadline_ns = self.snapshots.shift.to_host(deadline_ns);
        self.learn();
        self.publish();
        loop {
            // First the flag, then what it stands for; see `look_around`.
            self.machine.vcpu.clear_immediate_exit();
            self.take_requests()?;
            self.pause_or_stop()?;
            self.post_exec()?;
            self.ring.flush(self.machine.memory.comm())?;
            let waiting = self.ring.wakes(self.machine.memory.comm())?;
            let now_ns = monotonic_ns();
            if waiting || now_ns >= deadline_ns {
                // What else is ready by now saves an idle call later.
                self.harvest(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))?;
                break;
            }
            self.harvest(duration(deadline_ns, now_ns))?;
        }
        self.refresh_clock(monotonic_ns());
        Ok(())
    }
}

/// The second argument of `Started`: a pid or a negated errno.
fn started_result(raw: u64) -> Option<Result<u32, i32>> {
    match raw as i64 {
        errno @ -4095..=-1 => Some(Err(-errno as i32)),
        pid => u32::try_from(pid).ok().map(Ok),
    }
}

/// From now to the deadline; `None` for "no deadline".
fn duration(deadline_ns: u64, now_ns: u64) -> Option<Timespec> {
    if deadline_ns == u64::MAX {
        return None;
    }
    let left = deadline_ns.saturating_sub(now_ns);
    Some(Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 })
}

fn handle(op: Op, raw: u64) -> Result<u32, End> {
    u32::try_from(raw).map_err(|_| End::Protocol(format!("{op:?} of handle {raw:#x}, which is no handle")))
}

fn status(op: Op, raw: u64) -> Result<WaitStatus, End> {
    WaitStatus::from_raw(raw).ok_or_else(|| End::Protocol(format!("{op:?} with wait status {raw:#x}")))
}
