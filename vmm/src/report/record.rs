//! What a guest did last: host calls and log lines, and the trace of every exit that `SEUSS_VMM_TRACE=1` asks for.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use seuss_abi::call::{Op, Slot};

const CALLS: usize = 24;
const LINES: usize = 64;

/// One host call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// Since the first entry.
    pub at: Duration,
    /// Raw operation.
    pub op: u32,
    /// Arguments.
    pub args: [u64; 6],
    /// Result; `None` if the call did not return.
    pub result: Option<i64>,
}

impl fmt::Display for CallRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{:.6} ", self.at.as_secs_f64())?;
        match Op::from_raw(self.op) {
            Some(op) => write!(f, "{op:?}")?,
            None => write!(f, "op {:#x}", self.op)?,
        }
        write!(f, "({:#x}, {:#x}, {:#x})", self.args[0], self.args[1], self.args[2])?;
        match self.result {
            Some(result) => write!(f, " = {result}"),
            None => write!(f, " does not return"),
        }
    }
}

/// Keeps the last calls and lines of one guest.
pub(crate) struct Recorder {
    name: String,
    started: Instant,
    calls: VecDeque<CallRecord>,
    log: VecDeque<String>,
    trace: bool,
}

impl Recorder {
    pub(crate) fn new(name: String) -> Self {
        let trace = std::env::var_os("SEUSS_VMM_TRACE").is_some_and(|value| value == "1");
        Self { name, started: Instant::now(), calls: VecDeque::new(), log: VecDeque::new(), trace }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn call(&mut self, slot: &Slot) {
        if self.calls.len() == CALLS {
            self.calls.pop_front();
        }
        let at = self.uptime();
        self.calls.push_back(CallRecord { at, op: slot.op, args: slot.args, result: None });
    }

    pub(crate) fn returned(&mut self, result: i64) {
        if let Some(call) = self.calls.back_mut() {
            call.result = Some(result);
        }
        if self.trace
            && let Some(call) = self.calls.back()
        {
            self.trace_line(&call.to_string());
        }
    }

    pub(crate) fn line(&mut self, line: String) {
        if self.log.len() == LINES {
            self.log.pop_front();
        }
        self.log.push_back(line);
    }

    /// Print a line if every exit is traced. `what` is only drawn then.
    pub(crate) fn trace(&self, what: impl FnOnce() -> String) {
        if self.trace {
            self.trace_line(&what());
        }
    }

    fn trace_line(&self, what: &str) {
        eprintln!("vmm[{}] +{:.6} {what}", self.name, self.uptime().as_secs_f64());
    }

    pub(crate) fn calls(&self) -> Vec<CallRecord> {
        self.calls.iter().cloned().collect()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.iter().cloned().collect()
    }
}
