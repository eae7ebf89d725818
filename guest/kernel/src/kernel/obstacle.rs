//! What stands in the way of a snapshot that nobody in the guest has asked for.
//!
//! A program that asks for its own snapshot knows where it is. One that is captured because it looks ready may be in the middle of something: its clones would do that again, or find half of it
//! gone. So the library OS looks first ([`Kernel::obstacle`]), and says what it sees; the VMM tries again later.

use super::Kernel;
use crate::errno::Errno;
use crate::fs::snapshots::Wanted;
use crate::task::thread::State;
use seuss_abi::call::Op;
use seuss_abi::snapshot::Obstacle;

impl Kernel {
    /// The program has got something that it keeps: it is not at rest yet.
    pub(crate) fn note_growth(&self) {
        self.grown_ns.set(self.machine.monotonic_ns());
    }

    /// Whether a process runs that the VMM has started beside the first one, a restore hook, or a child of one.
    fn has_foreign_process(&self) -> bool {
        self.processes()
            .iter()
            .any(|process| (process.is_foreign || process.is_hook.get()) && !process.is_zombie())
    }

    /// What stands in the way of `wanted`. That something foreign runs stands in the way of every snapshot: no clone knows what to do with it.
    pub(super) fn obstacle(&self, wanted: &Wanted) -> Option<Obstacle> {
        if self.has_foreign_process() {
            return Some(Obstacle::Exec);
        }
        let caution = wanted.caution?;
        let computes = self
            .threads
            .borrow()
            .values()
            .any(|thread| thread.state.get() == State::Runnable && !thread.process.stopped.get());
        let uplink = &self.fs.env.uplink;
        let (incoming, outgoing) = uplink.open_connections();
        let age_ns = self.machine.monotonic_ns().saturating_sub(self.grown_ns.get());
        let is_young = age_ns < caution.settled_ns;
        [
            (incoming, Obstacle::Accepted),
            (outgoing && !caution.reset_connections, Obstacle::Outgoing),
            (computes || !uplink.has_awaited_listener(), Obstacle::Busy),
            (is_young, Obstacle::Settling),
        ]
        .into_iter()
        .find_map(|(stands, obstacle)| stands.then_some(obstacle))
        .or_else(|| self.has_generator().then_some(Obstacle::Generator))
    }

    /// Whether a program keeps a random generator in its memory that clones cannot seed anew; which one is said in the log, once.
    fn has_generator(&self) -> bool {
        let found = self.fixed_generator();
        if let Some(what) = found.as_ref().filter(|_| !self.told_generator.replace(true)) {
            self.log(3, what);
        }
        found.is_some()
    }

    /// Say that the snapshot is not taken, to whoever has asked for it.
    pub(super) fn put_off(&self, obstacle: Obstacle) {
        self.machine.host_call(Op::PutOff, [obstacle as u64, 0, 0, 0, 0, 0]);
        self.fs.env.snapshots.finish(-i64::from(Errno::EBUSY.0));
    }
}
