//! Events from the VMM.

use super::Kernel;
use crate::errno::Errno;
use crate::fs::snapshots::{Caution, Wanted};
use crate::task::signal::SignalInfo;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use seuss_abi::call::Op;
use seuss_abi::comm::MAILBOX_SIZE;
use seuss_abi::event::{Event, Kind};
use seuss_abi::snapshot;
use seuss_abi::spec::ProcessSpec;

impl Kernel {
    /// Serve all events in the ring.
    pub(super) fn serve_events(&self) {
        let uplink = &self.fs.env.uplink;
        while let Some(event) = uplink.take_deferred().or_else(|| self.machine.next_event()) {
            self.serve_event(event);
        }
        self.signals_from_terminals();
    }

    fn serve_event(&self, event: Event) {
        match Kind::from_raw(event.kind) {
            Some(Kind::Ready) => self.fs.env.handles.ready(event.a, event.b),
            Some(Kind::Signal) => self.signal_from_host(event.a, event.b as u32, event.c == 1),
            Some(Kind::Exec) => self.exec_from_host(event.a, event.b),
            Some(Kind::Snapshot) => {
                self.give_up_base();
                let caution = Caution {
                    reset_connections: event.b & snapshot::RESET_CONNECTIONS != 0,
                    settled_ns: event.c,
                };
                self.announce_capture(Wanted {
                    level: u64::from(event.a),
                    key: Vec::new(),
                    images: 0,
                    caution: (event.b & snapshot::CAUTIOUS != 0).then_some(caution),
                });
            }
            Some(Kind::WindowSize) => self.resize(event.a, (event.b as u16, event.c as u16)),
            Some(_) => {
                self.fs.env.uplink.event(event);
            }
            None => self.log(2, &format!("event of unknown kind {}", event.kind)),
        }
    }

    fn resize(&self, token: u32, window: (u16, u16)) {
        let session = self.process_of_token(token).map(|process| process.sid.get());
        if let Some(terminal) = session.and_then(|sid| self.fs.env.terminals.of_session(sid)) {
            terminal.set_window(window);
        }
    }

    /// Send the signals that keys of terminals made.
    pub(super) fn signals_from_terminals(&self) {
        for (group, signo) in self.fs.env.terminals.take_signals() {
            for process in self.processes().iter().filter(|process| process.pgid.get() == group) {
                let _ = self.send_to_process(process, SignalInfo::from_kernel(signo));
            }
        }
    }

    fn signal_from_host(&self, token: u32, signo: u32, all: bool) {
        self.give_up_base();
        let info = SignalInfo::from_process(signo, SignalInfo::KERNEL, 0, 0);
        if all {
            for process in self.processes() {
                let _ = self.send_to_process(&process, info);
            }
        } else if let Some(process) = self.process_of_token(token) {
            let _ = self.send_to_process(&process, info);
        }
    }

    fn exec_from_host(&self, token: u32, len_bytes: u64) {
        self.give_up_base();
        let mut blob = vec![0; len_bytes.min(MAILBOX_SIZE) as usize];
        self.machine.read_mailbox(&mut blob);
        match ProcessSpec::decode(&blob) {
            Ok(spec) => self.start(token, &spec),
            Err(error) => {
                self.log(1, &format!("{error}"));
                let errno = (-i64::from(Errno::EINVAL.0)).cast_unsigned();
                self.machine.host_call(Op::Started, [u64::from(token), errno, 0, 0, 0, 0]);
            }
        }
    }
}
