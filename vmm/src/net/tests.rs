//! The sockets of a guest that is played here: submissions are written into the ring by hand, events are taken off the queue.

mod privileges;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use proptest::prelude::*;
use rustix::event::epoll;
use seuss_abi::call::Op;
use seuss_abi::comm::{EVENTS_OFFSET, PAYLOAD_OFFSET};
use seuss_abi::event::{RING_ENTRIES, Ring};
use seuss_abi::layout::{COMM_GPA, LARGE_PAGE_SIZE, PRIVATE_GPA};
use seuss_abi::net::{DATAGRAM_MAX, SUBMISSION_ENTRIES, Submissions};

use super::*;
use crate::handles::Handles;
use crate::memory::Gpa;

const HEAD: Gpa = Gpa(COMM_GPA + SUBMISSIONS_OFFSET);
const PAYLOAD: Gpa = Gpa(COMM_GPA + PAYLOAD_OFFSET);

struct Bench {
    sockets: Sockets,
    handles: Handles,
    ring: EventRing,
    memory: Memory,
    head: u32,
    tail: u32,
}

impl Bench {
    fn new() -> Self {
        Self::with(NetPrivileges::default())
    }

    fn with(privileges: NetPrivileges) -> Self {
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd");
        let handles = Handles::new(wake).expect("epoll");
        let equipment = NetEquipment::new(privileges).expect("an owner");
        let sockets = Sockets::new(handles.epoll().expect("dup"), equipment);
        let memory = Memory::new(LARGE_PAGE_SIZE, vec![]).expect("memory");
        Self { sockets, handles, ring: EventRing::default(), memory, head: 0, tail: 0 }
    }

    fn submit(&mut self, command: Command, handle: u32, args: [u64; 3]) {
        let index = self.head as usize % SUBMISSION_ENTRIES;
        let at = HEAD.plus((std::mem::offset_of!(Submissions, entries) + index * 32) as u64);
        let entry = Submission { command: command as u32, handle, args };
        self.memory.comm().store(at, entry).expect("inside");
        self.head = self.head.wrapping_add(1);
        self.memory.comm().store(HEAD, self.head).expect("inside");
    }

    fn drain(&mut self) -> Result<(), NetError> {
        self.sockets.drain(&self.memory, &mut self.ring)
    }

    fn call(&mut self, op: Op, args: [u64; 6]) -> i64 {
        self.drain().expect("good submissions");
        self.sockets.call(op, &args, &self.memory, &mut self.ring)
    }

    /// Put a loopback address into the payload.
    fn address(&self, port: u16) -> u64 {
        let mut address = vec![2, 0];
        address.extend(port.to_be_bytes());
        address.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        self.memory.comm().write(PAYLOAD, &address).expect("inside");
        address.len() as u64
    }

    fn port(&self) -> u16 {
        let mut port = [0; 2];
        self.memory.comm().read(PAYLOAD.plus(2), &mut port).expect("inside");
        u16::from_be_bytes(port)
    }

    /// Wait up to `ms` for readiness and take the events, as (kind, handle, b).
    fn events(&mut self, ms: i64) -> Vec<(u32, u32, u64)> {
        let timeout = rustix::time::Timespec { tv_sec: 0, tv_nsec: ms * 1_000_000 };
        let waited = self.handles.wait(Some(timeout), 100, |_| {}).expect("epoll");
        for (name, flags) in waited.others {
            self.sockets.ready((name - EPOLL_BASE) as u32, flags, &self.memory, &mut self.ring);
        }
        self.ring.flush(self.memory.comm()).expect("the tail is right");
        let head: u32 = self.memory.comm().load(Gpa(COMM_GPA + EVENTS_OFFSET)).expect("inside");
        let mut list = Vec::new();
        while self.tail != head {
            let index = self.tail as usize % RING_ENTRIES;
            let at = EVENTS_OFFSET as usize + std::mem::offset_of!(Ring, entries) + index * 24;
            let event: Event = self.memory.comm().load(Gpa(COMM_GPA + at as u64)).expect("inside");
            list.push((event.kind, event.a, event.b));
            self.tail = self.tail.wrapping_add(1);
        }
        self.memory.comm().store(Gpa(COMM_GPA + EVENTS_OFFSET + 4), self.tail).expect("inside");
        list
    }

    /// Collect events until `kind` comes.
    fn until(&mut self, kind: Kind) -> Vec<(u32, u32, u64)> {
        let mut list = Vec::new();
        for _ in 0..200 {
            list.extend(self.events(50));
            if list.iter().any(|event| event.0 == kind as u32) {
                return list;
            }
        }
        panic!("no {kind:?} among {list:?}");
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.private().read(Gpa(at), &mut bytes).expect("inside");
        bytes
    }

    fn listener(&mut self, handle: u32) -> u16 {
        self.submit(Command::Open, handle, [2, 1, 0]);
        let len = self.address(0);
        assert_eq!(self.call(Op::Bind, [handle.into(), len, 0, 0, 0, 0]), 16);
        let port = self.port();
        assert_eq!(self.call(Op::Listen, [handle.into(), 8, 0, 0, 0, 0]), 0);
        port
    }
}

const A: u64 = PRIVATE_GPA;
const B: u64 = PRIVATE_GPA + 0x1_0000;

#[test]
fn connections_and_their_first_bytes_come_ahead_and_answers_go_out_together() {
    let mut bench = Bench::new();
    let port = bench.listener(3);
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    client.write_all(b"request").expect("writes");
    bench.submit(Command::Accept, 3, [A, 4096, 4]);
    bench.drain().expect("good");
    assert_eq!(bench.until(Kind::Received), [(9, 3, 4), (5, 4, 7)]);
    assert_eq!(bench.bytes(A + 64, 7), b"request");
    let header = bench.bytes(A, 64);
    assert_eq!(header[2..8], [&port.to_be_bytes()[..], &[127, 0, 0, 1]].concat()[..], "own address");
    let peer = client.local_addr().expect("has one").port();
    assert_eq!(header[34..36], peer.to_be_bytes(), "peer's port");

    bench.memory.private().write(Gpa(B), b"head body").expect("inside");
    bench.submit(Command::Send, 4, [B, 5, 0]);
    bench.submit(Command::Send, 4, [B + 5, 4, SEND_TELL]);
    bench.submit(Command::Close, 4, [0, 0, 0]);
    bench.drain().expect("good");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("reads to the end");
    assert_eq!(answer, "head body");
    let events = bench.until(Kind::Closed);
    assert_eq!(events, [(8, 4, 9), (11, 4, 0)]);
}

#[test]
fn no_memory_no_reading_and_the_end_comes_last() {
    let mut bench = Bench::new();
    let server = TcpListener::bind("127.0.0.1:0").expect("listens");
    bench.submit(Command::Open, 0, [2, 1, 6]);
    let len = bench.address(server.local_addr().expect("has one").port());
    let connected = bench.call(Op::Connect, [0, len, 0, 0, 0, 0]);
    let (mut peer, _) = server.accept().expect("accepts");
    if connected != 0 {
        assert_eq!(connected, -i64::from(libc::EINPROGRESS));
        bench.until(Kind::Connected);
    }
    peer.write_all(b"0123456789").expect("writes");
    drop(peer);
    assert_eq!(bench.events(50), []);
    bench.submit(Command::Provide, 0, [A, 4, 0]);
    bench.drain().expect("good");
    assert_eq!(bench.events(0), [(5, 0, 4)]);
    bench.submit(Command::Provide, 0, [A + 4, 100, 0]);
    bench.drain().expect("good");
    assert_eq!(bench.until(Kind::EndOfStream), [(5, 0, 6), (6, 0, 0)]);
    assert_eq!(bench.bytes(A, 10), b"0123456789");
}

#[test]
fn a_full_peer_holds_back_and_a_closing_socket_still_delivers() {
    const BIG: u64 = 1 << 20;
    let mut bench = Bench::new();
    let port = bench.listener(0);
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    bench.submit(Command::Accept, 0, [A, 4096, 1]);
    bench.drain().expect("good");
    bench.until(Kind::Accepted);
    for _ in 0..20 {
        bench.submit(Command::Send, 1, [PRIVATE_GPA, BIG, SEND_TELL]);
    }
    bench.submit(Command::Shutdown, 1, [1, 0, 0]);
    bench.submit(Command::Close, 1, [0, 0, 0]);
    bench.drain().expect("good");
    assert!(!bench.events(10).iter().any(|event| event.0 == Kind::Closed as u32), "20 MiB fit nowhere");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).map(|_| all.len())
    });
    let events = bench.until(Kind::Closed);
    assert!(events.iter().any(|event| event.0 == Kind::Sent as u32));
    assert_eq!(reader.join().expect("no panic").expect("reads"), 20 * BIG as usize);
}

#[test]
fn aborting_resets() {
    let mut bench = Bench::new();
    let port = bench.listener(0);
    let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    bench.submit(Command::Accept, 0, [A, 4096, 1]);
    bench.submit(Command::Close, 1, [1, 0, 0]);
    bench.drain().expect("good");
    let error = client.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn refused_and_over() {
    let mut bench = Bench::new();
    let free = TcpListener::bind("127.0.0.1:0").expect("listens").local_addr().expect("has one").port();
    bench.submit(Command::Open, 0, [2, 1, 0]);
    let len = bench.address(free);
    let result = bench.call(Op::Connect, [0, len, 0, 0, 0, 0]);
    if result == -i64::from(libc::EINPROGRESS) {
        assert!(bench.until(Kind::Connected).contains(&(10, 0, libc::ECONNREFUSED as u64)));
    } else {
        assert_eq!(result, -i64::from(libc::ECONNREFUSED));
    }
    let port = bench.listener(1);
    let client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    bench.submit(Command::Accept, 1, [A, 4096, 2]);
    bench.drain().expect("good");
    bench.until(Kind::Accepted);
    let _ = sys::set_option(&client.into(), libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert!(bench.until(Kind::Failed).contains(&(7, 2, libc::ECONNRESET as u64)));
    bench.submit(Command::Send, 2, [A, 10, 0]);
    bench.submit(Command::Close, 2, [0, 0, 0]);
    bench.drain().expect("good");
    assert_eq!(bench.events(0), [(8, 2, 10), (11, 2, 0)], "what cannot be sent is given back");
}

#[test]
fn datagrams_keep_their_bounds_and_wait_for_room() {
    let mut bench = Bench::new();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("binds");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    bench.submit(Command::Open, 0, [2, 2, 17]);
    let len = bench.address(0);
    assert_eq!(bench.call(Op::Bind, [0, len, 0, 0, 0, 0]), 16);
    let to = ("127.0.0.1", bench.port());
    for bytes in [&b"one"[..], b"", &[7; 5000]] {
        peer.send_to(bytes, to).expect("sends");
    }
    bench.submit(Command::Provide, 0, [A, 44, 0]);
    bench.submit(Command::Provide, 0, [A + 44, 100, 0]);
    bench.drain().expect("good");
    let events = bench.events(50);
    assert_eq!(events, [(12, 0, 48), (5, 0, 48 + 40), (12, 0, 5040)]);
    let seen = bench.bytes(A, 88);
    assert_eq!((&seen[..4], &seen[40..43], &seen[48..52]), (&[3, 0, 0, 0][..], &b"one"[..], &[0; 4][..]));
    assert_eq!(seen[10..12], peer.local_addr().expect("has one").port().to_be_bytes());
    bench.submit(Command::Provide, 0, [A + 144, 5000, 0]);
    bench.drain().expect("good");
    assert_eq!(bench.events(0), [(5, 0, 5040)]);
    assert_eq!(bench.bytes(A + 88 + 40, 5000), [7; 5000]);

    let mut out = vec![2, 0];
    out.extend(peer.local_addr().expect("has one").port().to_be_bytes());
    out.extend([127, 0, 0, 1]);
    out.resize(ADDRESS_BYTES, 0);
    out.extend(b"answer");
    bench.memory.private().write(Gpa(B), &out).expect("inside");
    bench.submit(Command::Send, 0, [B, out.len() as u64, SEND_ADDRESSED]);
    bench.drain().expect("good");
    let mut buffer = [0; DATAGRAM_MAX];
    let (count, from) = peer.recv_from(&mut buffer).expect("receives");
    assert_eq!((&buffer[..count], from.port()), (&b"answer"[..], to.1));
}

#[test]
fn listening_needs_no_answer_after_a_restore() {
    let mut bench = Bench::new();
    let mut address = vec![2, 0, 0, 0, 127, 0, 0, 1];
    address.resize(16, 0);
    bench.memory.private().write(Gpa(A), &address).expect("inside");
    bench.submit(Command::Open, 0, [2, 1, 6]);
    bench.submit(Command::Listen, 0, [A, 16, 5]);
    bench.submit(Command::Accept, 0, [A, 4096, 1]);
    assert_eq!(bench.call(Op::Name, [0, 0, 0, 0, 0, 0]), 16);
    let port = bench.port();
    let _client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    assert_eq!(bench.until(Kind::Accepted), [(9, 0, 1)]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("listens");
    address[2..4].copy_from_slice(&taken.local_addr().expect("has one").port().to_be_bytes());
    bench.memory.private().write(Gpa(B), &address).expect("inside");
    bench.submit(Command::Open, 2, [2, 1, 6]);
    bench.submit(Command::Listen, 2, [B, 16, 5]);
    bench.drain().expect("good");
    assert_eq!(bench.events(0), [(7, 2, libc::EADDRINUSE as u64)]);
}

#[test]
fn what_breaks_the_contract_is_named() {
    let bad: [(Command, u32, [u64; 3]); 13] = [
        (Command::Listen, 0, [A, 33, 1]),
        (Command::Open, HANDLES_MAX, [2, 1, 0]),
        (Command::Open, 0, [2, 1, 0]),
        (Command::Provide, 1, [A, 4096, 0]),
        (Command::Provide, 0, [0, 4096, 0]),
        (Command::Provide, 0, [A, LARGE_PAGE_SIZE + 1, 0]),
        (Command::Provide, 0, [A, 0, 0]),
        (Command::Accept, 0, [A, 63, 7]),
        (Command::Accept, 0, [A, 4096, HANDLES_MAX.into()]),
        (Command::Send, 0, [u64::MAX, 2, 0]),
        (Command::Send, 0, [A, 100, SEND_ADDRESSED]),
        (Command::Shutdown, 0, [3, 0, 0]),
        (Command::SetOption, 0, [1, 0, 9]),
    ];
    for (command, handle, args) in bad {
        let mut bench = Bench::new();
        bench.submit(Command::Open, 0, [2, 1, 0]);
        bench.drain().expect("good");
        bench.submit(command, handle, args);
        let error = bench.drain().expect_err("bad");
        assert!(matches!(error, NetError::Bad { .. }), "{command:?}: {error}");
    }
    let mut bench = Bench::new();
    bench.submit(Command::Open, 0, [2, 1, 0]);
    for _ in 0..=PIECES_MAX {
        bench.submit(Command::Provide, 0, [A, 4096, 0]);
    }
    assert!(bench.drain().is_err(), "more pieces than may wait");
    let mut bench = Bench::new();
    bench.submit(Command::Open, 0, [16, 3, 0]);
    let len = bench.address(0);
    assert_eq!(
        bench.call(Op::Bind, [0, len, 0, 0, 0, 0]),
        -i64::from(libc::EPROTONOSUPPORT),
        "no other families"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_submissions_are_refused_or_harmless(
        entries in prop::collection::vec((0_u32..9, 0_u32..4, prop::array::uniform3(prop_oneof![
            0_u64..5, any::<u64>(), PRIVATE_GPA..PRIVATE_GPA + LARGE_PAGE_SIZE
        ])), 1..60),
    ) {
        let mut bench = Bench::new();
        bench.submit(Command::Open, 0, [2, 1, 0]);
        bench.submit(Command::Open, 1, [2, 2, 0]);
        for (command, handle, args) in entries {
            let at = HEAD.plus(32 + u64::from(bench.head) % 512 * 32);
            bench.memory.comm().store(at, Submission { command, handle, args }).expect("inside");
            bench.head += 1;
        }
        bench.memory.comm().store(HEAD, bench.head).expect("inside");
        let _ = bench.drain();
        bench.events(0);
        bench.sockets.end(&bench.memory);
    }
}

#[test]
fn a_flood_of_datagrams_leaves_the_thread_its_turn() {
    let mut bench = Bench::new();
    bench.submit(Command::Open, 0, [2, 2, 0]);
    let len = bench.address(0);
    assert_eq!(bench.call(Op::Bind, [0, len, 0, 0, 0, 0]), 16);
    let port = bench.port();
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let most = u64::from(socket::DATAGRAMS_MAX);
    for _ in 0..2 * most + 10 {
        peer.send_to(&[7], ("127.0.0.1", port)).expect("sent");
    }
    bench.submit(Command::Provide, 0, [A, 65_536, 0]);
    bench.drain().expect("good");
    let padded = 64;
    let received = |list: Vec<(u32, u32, u64)>| {
        list.iter().filter(|event| event.0 == Kind::Received as u32).map(|event| event.2).sum::<u64>()
    };
    let first = received(bench.events(0));
    assert!(
        first > 0 && first <= 2 * most * padded,
        "{first}: what was there at once, and one look of epoll"
    );
    let mut total = first;
    for _ in 0..100 {
        total += received(bench.events(20));
    }
    assert_eq!(total % (2 * most + 10), 0, "{total} bytes: every datagram has come");
    assert!(total / (2 * most + 10) <= padded);
}

#[test]
fn closed_sockets_leave_epoll() {
    let mut bench = Bench::new();
    for handle in 0..50 {
        bench.listener(handle);
        bench.submit(Command::Close, handle, [0, 0, 0]);
    }
    bench.drain().expect("good");
    assert_eq!(bench.events(0).len(), 50);
    let mut events = Vec::with_capacity(10);
    let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let epoll = bench.handles.epoll().expect("dup");
    epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&none)).expect("epoll");
    assert_eq!(events.len(), 0);
}
