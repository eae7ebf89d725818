//! The guest's end against a VMM that is played by hand: it takes submissions out of the ring and posts events.

use super::*;
use crate::machine::Counters;
use crate::mem::frames::testing::frames;
use crate::mem::user::VecSink;
use crate::task::thread::Context;
use crate::wait::Readiness;
use alloc::rc::Weak;
use seuss_abi::comm::Clock;
use seuss_abi::net::{ADDRESS_BYTES, SEND_TELL};
use std::vec;

/// A machine whose ring, events and answers the tests see and make.
#[derive(Default)]
struct Vmm {
    now_ns: Cell<u64>,
    ring: RefCell<Vec<Submission>>,
    tail: Cell<u32>,
    /// Events that come with the next exit.
    coming: RefCell<VecDeque<Event>>,
    here: RefCell<VecDeque<Event>>,
    calls: RefCell<Vec<(Op, [u64; 6])>>,
    payload: RefCell<Vec<u8>>,
    result: Cell<i64>,
}

impl Vmm {
    /// What was submitted since the last look; an exit.
    fn take(&self) -> Vec<Submission> {
        let tail = self.tail.replace(self.ring.borrow().len() as u32);
        self.here.borrow_mut().extend(self.coming.borrow_mut().drain(..));
        self.ring.borrow()[tail as usize..].to_vec()
    }

    fn commands(&self) -> Vec<u32> {
        self.take().iter().map(|entry| entry.command).collect()
    }
}

impl Machine for Vmm {
    fn host_call(&self, op: Op, args: [u64; 6]) -> i64 {
        self.calls.borrow_mut().push((op, args));
        self.take();
        self.result.get()
    }
    fn host_call_with(&self, op: Op, args: [u64; 6], payload: &mut [u8]) -> i64 {
        let answer = self.payload.borrow();
        let len = answer.len().min(payload.len());
        payload[..len].copy_from_slice(&answer[..len]);
        self.host_call(op, args)
    }
    fn submissions(&self) -> (u32, u32) {
        (self.ring.borrow().len() as u32, self.tail.get())
    }
    fn put_submission(&self, position: u32, entry: &Submission) {
        assert_eq!(position as usize, self.ring.borrow().len());
        self.ring.borrow_mut().push(*entry);
    }
    fn amend_submission(&self, position: u32, entry: &Submission) {
        assert!(position >= self.tail.get(), "the VMM has taken it");
        self.ring.borrow_mut()[position as usize] = *entry;
    }
    fn has_event(&self) -> bool {
        !self.here.borrow().is_empty()
    }
    fn next_event(&self) -> Option<Event> {
        self.here.borrow_mut().pop_front()
    }
    fn tsc(&self) -> u64 {
        self.now_ns.get()
    }
    fn clock(&self) -> Clock {
        Clock { mult: 1, ..Clock::default() }
    }
    fn read_mailbox(&self, _bytes: &mut [u8]) {}
    fn write_capture_area(&self, _bytes: &[u8]) {}
    fn heap_free_bytes(&self) -> usize {
        0
    }
    fn stack(&self) -> (u64, u64) {
        (0, 0)
    }
    fn take_attention(&self) -> bool {
        false
    }
    fn set_wishes(&self, _wants_tick: bool, _next_event_ns: u64) {}
    fn publish(&self, _counters: &Counters) {}
    fn gpa_of(&self, _pointer: *const u8) -> u64 {
        0
    }
    fn load_page_tables(&self, _pml4_gpa: u64) {}
    fn flush_translations(&self) {}
    fn save_extended(&self, _context: *const Context, _area: *mut u8) {}
    fn load_extended(&self, _area: *const u8, _context: *mut Context) {}
    fn segment_bases(&self) -> (u64, u64) {
        (0, 0)
    }
    fn set_segment_bases(&self, _fs: u64, _gs: u64) {}
}

struct Bench {
    vmm: Rc<Vmm>,
    frames: Frames,
    uplink: Rc<Uplink>,
}

fn address(port: u16) -> Vec<u8> {
    let mut address = vec![2, 0];
    address.extend(port.to_be_bytes());
    address.extend([10, 0, 0, 1]);
    address.resize(16, 0);
    address
}

impl Bench {
    fn new() -> Self {
        let vmm = Rc::new(Vmm::default());
        let frames = frames(2048, 1);
        let machine: Rc<dyn Machine> = vmm.clone();
        let uplink = Uplink::new(&machine, &frames);
        Self { vmm, frames, uplink }
    }

    fn event(&self, kind: Kind, handle: u32, b: u64, c: u64) {
        assert!(self.uplink.event(Event { kind: kind as u32, a: handle, b, c }));
    }

    /// An established connection, and the memory that it receives into.
    fn connected(&self) -> (Rc<Endpoint>, u64) {
        let endpoint = self.uplink.open(2, 1, 6).unwrap();
        *self.vmm.payload.borrow_mut() = address(5000);
        assert_eq!(endpoint.connect(&address(80)), Ok(true));
        let provided = self.vmm.take();
        let provided = provided.iter().find(|entry| entry.command == Command::Provide as u32).unwrap();
        (endpoint, provided.args[0])
    }

    fn listening(&self) -> Rc<Endpoint> {
        let endpoint = self.uplink.open(2, 1, 6).unwrap();
        *self.vmm.payload.borrow_mut() = address(80);
        self.vmm.result.set(16);
        endpoint.bind(&address(80), true).unwrap();
        self.vmm.result.set(0);
        endpoint.listen(100).unwrap();
        endpoint
    }
}

fn read(endpoint: &Endpoint, limit: usize, peeks: bool) -> Vec<u8> {
    let mut sink = VecSink { bytes: Vec::new(), limit };
    endpoint.read(&mut sink, peeks).unwrap();
    sink.bytes
}

#[test]
fn a_socket_that_was_closed_makes_room_for_another_at_the_limit() {
    let bench = Bench::new();
    let mut sockets: Vec<_> = (0..HANDLES_MAX).map(|_| bench.uplink.open(2, 1, 6).unwrap()).collect();
    assert_eq!(bench.uplink.open(2, 1, 6).err(), Some(Errno::ENFILE));
    let closed = sockets.pop().unwrap();
    closed.close(false);
    let told = Event { kind: Kind::Closed as u32, a: closed.handle(), b: 0, c: 0 };
    bench.vmm.coming.borrow_mut().push_back(told);
    assert_eq!(bench.uplink.open(2, 1, 6).map(|socket| socket.handle()), Ok(closed.handle()));
}

#[test]
fn writes_before_an_exit_become_one_piece() {
    let bench = Bench::new();
    let (endpoint, _) = bench.connected();
    assert_eq!(endpoint.write(&mut &b"head "[..]), Ok(5));
    assert_eq!(endpoint.write(&mut &b"body"[..]), Ok(4));
    let sent = bench.vmm.take();
    assert_eq!(sent.len(), 1);
    let mut bytes = vec![0; sent[0].args[1] as usize];
    bench.frames.read(sent[0].args[0], &mut bytes);
    assert_eq!(bytes, b"head body");
    endpoint.write(&mut &b"later"[..]).unwrap();
    assert_eq!(bench.vmm.take().len(), 1, "what the VMM has taken is not changed");
    bench.event(Kind::Sent, endpoint.handle(), 14, 0);
    assert_eq!(endpoint.in_flight(), 0);
}

#[test]
fn a_full_way_out_says_so_and_is_told_of_room() {
    struct Told(Cell<u32>);
    impl Owner for Told {
        fn changed(&self, events: Readiness) {
            assert!(events.contains(Readiness::WRITABLE));
            self.0.set(self.0.get() + 1);
        }
    }
    let bench = Bench::new();
    let (endpoint, _) = bench.connected();
    let told = Rc::new(Told(Cell::new(0)));
    let owner: Weak<dyn Owner> = Rc::<Told>::downgrade(&told);
    endpoint.set_owner(owner);
    let bytes = vec![7; 1 << 20];
    assert_eq!(endpoint.write(&mut &bytes[..]), Ok(256 << 10));
    assert_eq!(endpoint.write(&mut &bytes[..]), Ok(0));
    assert!(!endpoint.has_room());
    let sent = bench.vmm.take();
    assert!(
        sent.last().is_some_and(|entry| entry.args[2] & SEND_TELL != 0),
        "its completion wakes the guest"
    );
    for entry in sent {
        bench.event(Kind::Sent, endpoint.handle(), entry.args[1], 0);
    }
    assert!(endpoint.has_room() && told.0.get() > 0);
}

#[test]
fn small_buffers_of_the_application_bound_both_ways() {
    let bench = Bench::new();
    let (endpoint, first) = bench.connected();
    endpoint.post_option(1, 7, &8192_i32.to_le_bytes());
    endpoint.post_option(1, 8, &16384_i32.to_le_bytes());
    assert_eq!(endpoint.write(&mut &vec![7; 1 << 20][..]), Ok(8192));
    assert!(!endpoint.has_room());
    // Nobody reads: the VMM fills what it is given, until it is given no more.
    let mut memory = VecDeque::from([(first, 4096)]);
    let mut received = 0;
    while let Some((_, len)) = memory.pop_front() {
        bench.event(Kind::Received, endpoint.handle(), len, 0);
        received += len;
        let provided = bench.vmm.take().into_iter().filter(|entry| entry.command == Command::Provide as u32);
        memory.extend(provided.map(|entry| (entry.args[0], entry.args[1])));
    }
    assert!((16384..=24576).contains(&received), "{received} bytes were read ahead");
    assert_eq!(read(&endpoint, usize::MAX, false).len() as u64, received);
    assert!(bench.vmm.commands().contains(&(Command::Provide as u32)), "and it goes on");
}

#[test]
fn many_small_pieces_fill_the_way_out() {
    let bench = Bench::new();
    let (endpoint, _) = bench.connected();
    let mut last = Vec::new();
    while endpoint.write(&mut &b"x"[..]) == Ok(1) {
        assert!(endpoint.in_flight() < 1000, "every write is a piece of its own here");
        last = bench.vmm.take();
    }
    assert!(!endpoint.has_room(), "a poll that says writable would never end");
    assert!(last[0].args[2] & SEND_TELL != 0, "its completion wakes the guest");
    bench.event(Kind::Sent, endpoint.handle(), endpoint.in_flight() as u64, 0);
    assert!(endpoint.has_room());
}

#[test]
fn streams_are_read_in_order_across_pieces_and_memory_comes_back() {
    let bench = Bench::new();
    let before = bench.frames.available();
    let (endpoint, mut at) = bench.connected();
    let mut expected = Vec::new();
    for round in 0..20_u8 {
        let bytes = vec![round; 4096];
        bench.frames.write(at, &bytes);
        expected.extend(&bytes);
        bench.event(Kind::Received, endpoint.handle(), 4096, 0);
        let provided = bench.vmm.take();
        let next = provided.iter().find(|entry| entry.command == Command::Provide as u32);
        at = next.map_or(at + 4096, |entry| entry.args[0]);
        if round == 2 {
            break;
        }
    }
    assert_eq!(read(&endpoint, 5000, true), expected[..5000]);
    assert_eq!(read(&endpoint, 5000, false), expected[..5000]);
    bench.event(Kind::EndOfStream, endpoint.handle(), 0, 0);
    assert_eq!(read(&endpoint, 1 << 20, false), expected[5000..]);
    assert!(endpoint.has_ended());
    endpoint.close(false);
    assert_eq!(bench.vmm.take().last().map(|entry| (entry.command, entry.args[0])), Some((7, 0)));
    let handle = endpoint.handle();
    drop(endpoint);
    bench.event(Kind::Closed, handle, 0, 0);
    assert!(before - bench.frames.available() < 64, "but for the buffers that are kept warm");
    assert_eq!(bench.uplink.open(2, 1, 6).unwrap().handle(), handle, "the handle is free again");
}

#[test]
fn connections_are_prepared_accepted_and_aborted() {
    let bench = Bench::new();
    let listener = bench.listening();
    let prepared = bench.vmm.take();
    assert!(prepared.len() >= 8 && prepared.iter().all(|entry| entry.command == Command::Accept as u32));
    let [gpa, _, connection] = prepared[0].args;
    bench.frames.write(gpa, &address(80));
    bench.frames.write(gpa + ADDRESS_BYTES as u64, &address(4000));
    bench.frames.write(gpa + 64, b"request");
    assert!(listener.accept().is_none());
    bench.event(Kind::Accepted, listener.handle(), connection, 0);
    bench.event(Kind::Received, connection as u32, 7, 0);
    assert_eq!(bench.vmm.commands().first(), Some(&3), "another one is prepared");
    let accepted = listener.accept().unwrap();
    assert_eq!((accepted.local_name(), accepted.peer_name()), (Ok(address(80)), Some(address(4000))));
    assert_eq!(read(&accepted, 3, false), b"req");
    accepted.close(false);
    let closed = bench.vmm.take();
    assert_eq!(
        closed.iter().map(|entry| (entry.command, entry.args[0])).collect::<Vec<_>>(),
        [(7, 1)],
        "unread bytes: a reset"
    );
    // One that nobody accepted is reset with the listening socket.
    bench.frames.write(prepared[1].args[0], &[0; 64]);
    bench.event(Kind::Accepted, listener.handle(), prepared[1].args[2], 0);
    bench.vmm.take();
    listener.close(false);
    let closed = bench.vmm.take();
    assert_eq!(
        closed.iter().map(|entry| (entry.handle, entry.args[0])).collect::<Vec<_>>(),
        [(prepared[1].args[2] as u32, 1), (listener.handle(), 0)]
    );
    // So is one that the VMM accepted meanwhile.
    bench.event(Kind::Accepted, listener.handle(), prepared[2].args[2], 0);
    assert_eq!(
        bench.vmm.take().first().map(|entry| (entry.handle, entry.args[0])),
        Some((prepared[2].args[2] as u32, 1))
    );
}

#[test]
fn what_waits_is_flushed_in_time() {
    let bench = Bench::new();
    let (endpoint, _) = bench.connected();
    let syncs = || bench.vmm.calls.borrow().iter().filter(|(op, _)| *op == Op::Sync).count();
    bench.vmm.now_ns.set(5_000_000);
    endpoint.write(&mut &b"x"[..]).unwrap();
    bench.uplink.flush_if_due();
    assert_eq!(syncs(), 0);
    bench.vmm.now_ns.set(6_000_000);
    bench.uplink.flush_if_due();
    assert_eq!(syncs(), 1);
    assert!(!bench.uplink.look(), "the VMM has just looked");
    for _ in 0..SUBMISSION_ENTRIES / 2 {
        endpoint.post_option(6, 1, &[1, 0, 0, 0]);
    }
    bench.uplink.flush_if_due();
    assert_eq!(syncs(), 2, "half full");
    for _ in 0..=SUBMISSION_ENTRIES {
        endpoint.post_option(6, 1, &[1, 0, 0, 0]);
    }
    assert_eq!(syncs(), 3, "full");
}

#[test]
fn events_of_others_are_kept_in_order() {
    let bench = Bench::new();
    let (endpoint, _) = bench.connected();
    let other = |kind: Kind| Event { kind: kind as u32, a: 1, b: 2, c: 0 };
    bench.vmm.coming.borrow_mut().extend([
        other(Kind::Signal),
        Event { kind: 6, a: endpoint.handle(), b: 0, c: 0 },
        other(Kind::Exec),
    ]);
    bench.uplink.sync();
    assert!(endpoint.has_ended() && bench.uplink.has_deferred());
    let kinds: Vec<u32> =
        core::iter::from_fn(|| bench.uplink.take_deferred()).map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Signal as u32, Kind::Exec as u32]);
}

#[test]
fn datagrams_span_pieces() {
    let bench = Bench::new();
    let endpoint = bench.uplink.open(2, 2, 17).unwrap();
    endpoint.want();
    let provided = bench.vmm.take();
    let at = provided.last().unwrap().args[0];
    let mut datagram = vec![6, 0, 0, 0, 0, 0, 0, 0];
    datagram.extend(address(53));
    datagram.resize(40, 0);
    datagram.extend(b"answer\0\0");
    bench.frames.write(at, &datagram);
    bench.event(Kind::Received, endpoint.handle(), 48, 0);
    assert_eq!(endpoint.next_datagram(), Some((6, address(53))));
    let mut sink = VecSink { bytes: Vec::new(), limit: 4 };
    assert_eq!(endpoint.read_datagram(6, &mut sink, true), Ok(4), "cut off, and still there");
    let mut sink = VecSink { bytes: Vec::new(), limit: 100 };
    assert_eq!(endpoint.read_datagram(6, &mut sink, false), Ok(6));
    assert_eq!((sink.bytes, endpoint.next_datagram()), (b"answer".to_vec(), None));
    bench.event(Kind::Starved, endpoint.handle(), 60_000, 0);
    assert!(bench.vmm.take().last().is_some_and(|entry| entry.command == 2 && entry.args[1] >= 60_000));
}

#[test]
fn after_a_restore_listeners_listen_and_connections_are_lost() {
    let bench = Bench::new();
    let listener = bench.listening();
    listener.post_option(1, 2, &[1, 0, 0, 0]);
    let (connection, _) = bench.connected();
    connection.write(&mut &b"unsent"[..]).unwrap();
    let closing = bench.uplink.open(2, 1, 6).unwrap();
    closing.close(false);
    bench.vmm.take();
    bench.vmm.calls.borrow_mut().clear();
    bench.vmm.result.set(0);
    bench.uplink.after_restore().unwrap();
    assert!(bench.vmm.calls.borrow().is_empty(), "it costs no exit");
    let submitted = bench.vmm.take();
    let of_listener: Vec<_> = submitted.iter().filter(|entry| entry.handle == listener.handle()).collect();
    let commands: Vec<u32> = of_listener.iter().map(|entry| entry.command).collect();
    assert_eq!(commands[..4], [1, 6, 8, 3], "open, option, listen, accept ahead");
    let opened: Vec<u32> =
        submitted.iter().filter(|entry| entry.command == 1).map(|entry| entry.handle).collect();
    assert_eq!(opened, [listener.handle(), connection.handle()], "what was prepared before is not opened");
    let [at, len, backlog] = of_listener[2].args;
    let mut bound = vec![0; len as usize];
    bench.frames.read(at, &mut bound);
    assert_eq!((bound, backlog), (address(80), 100));
    assert_eq!(connection.take_error(), Some(Errno::ECONNRESET));
    assert!(connection.is_over() && connection.in_flight() == 0 && !listener.is_over());
    let holder = bench.uplink.endpoint(closing.handle());
    assert!(holder.is_none_or(|other| !Rc::ptr_eq(&other, &closing)), "what was closing is gone");
}

#[test]
fn tables_show_who_listens_and_who_is_connected() {
    let bench = Bench::new();
    assert_eq!(bench.uplink.table(2, false), "");
    let _listener = bench.listening();
    let (_connection, _) = bench.connected();
    let table = bench.uplink.table(2, false);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("   0: 0100000A:0050 00000000:0000 0A 00000000:00000000 "), "{table}");
    assert!(lines[1].starts_with("   1: 0100000A:1388 0100000A:0050 01 "), "{table}");
    assert_eq!(
        (lines.len(), bench.uplink.table(10, false), bench.uplink.table(2, true)),
        (2, "".into(), "".into())
    );
}

#[test]
fn handles_and_memory_are_bounded() {
    let bench = Bench::new();
    let opened: Vec<_> = (0..HANDLES_MAX).map(|_| bench.uplink.open(2, 1, 6).unwrap()).collect();
    assert_eq!(bench.uplink.open(2, 1, 6).err(), Some(Errno::ENFILE));
    opened[7].close(false);
    assert_eq!(bench.uplink.open(2, 1, 6).err(), Some(Errno::ENFILE), "not before the VMM is done with it");
    bench.event(Kind::Closed, 7, 0, 0);
    assert!(bench.uplink.open(2, 1, 6).is_ok());
}

#[test]
fn open_connections_are_told_by_who_has_opened_them() {
    let bench = Bench::new();
    assert_eq!(bench.uplink.open_connections(), (false, false));
    let listener = bench.listening();
    let prepared = bench.vmm.take();
    let prepared = prepared.iter().find(|entry| entry.command == Command::Accept as u32).unwrap();
    assert_eq!(bench.uplink.open_connections(), (false, false), "a listening socket is none");
    let accept = |peer: &[u8]| {
        let mut header = [0; size_of::<seuss_abi::net::AcceptHeader>()];
        header[..16].copy_from_slice(&address(80));
        header[ADDRESS_BYTES..ADDRESS_BYTES + peer.len()].copy_from_slice(peer);
        bench.frames.write(prepared.args[0], &header);
        bench.event(Kind::Accepted, listener.handle(), prepared.args[2], 0);
        listener.accept().unwrap()
    };
    let mut client = address(7000);
    client[7] = 9;
    let incoming = accept(&client);
    assert_eq!(bench.uplink.open_connections(), (true, false));
    let (outgoing, _) = bench.connected();
    assert_eq!(bench.uplink.open_connections(), (true, true));
    bench.event(Kind::Failed, outgoing.handle(), 104, 1);
    assert_eq!(bench.uplink.open_connections(), (true, false), "what is over is not open");
    incoming.close(false);
    assert_eq!(bench.uplink.open_connections(), (false, false));
}
