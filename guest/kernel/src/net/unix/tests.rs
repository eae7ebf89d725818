use super::*;
use crate::errno::Errno::{self as E};
use crate::fs::env::SOCKFS;
use crate::fs::tests::World;
use crate::fs::{FileSystem, Subject};
use crate::mem::user::VecSink;
use crate::net::{Control, MessageFlags, Net, Pause, SocketFile};
use crate::task::credentials::Credentials;
use proptest::prelude::*;
use std::collections::VecDeque;

/// Sockets over a root file system, and who uses them.
struct Sockets {
    world: World,
    net: Net,
    sockfs: Rc<FileSystem>,
    who: Credentials,
}

impl Sockets {
    fn new() -> Self {
        let world = World::new(&[crate::erofs::tests::Item::dir(vec![])]);
        let net = Net::new(&world.env);
        let sockfs = FileSystem::new(&world.env, SOCKFS, None);
        Self { world, net, sockfs, who: Credentials::new(0, 0, vec![]) }
    }

    fn with<R>(&self, work: impl FnOnce(&Caller<'_>) -> R) -> R {
        let groups = self.who.groups.clone();
        let subject = Subject { uid: self.who.fsuid, gid: self.who.fsgid, groups: &groups };
        work(&Caller {
            net: &self.net,
            place: &self.world.as_user(subject),
            pid: 7,
            credentials: &self.who,
            descriptors_max: 16,
            nonblocking: true,
            again: false,
        })
    }

    fn socket(&self, kind: SocketType) -> Rc<UnixSocket> {
        UnixSocket::create(&self.net.unix, kind, 0).unwrap()
    }

    fn pair(&self, kind: SocketType) -> [Rc<UnixSocket>; 2] {
        self.with(|caller| UnixSocket::create_pair(&self.net.unix, kind, 0, caller)).unwrap()
    }

    fn open(&self, socket: &Rc<UnixSocket>) -> Rc<File> {
        SocketFile::open(&self.sockfs, socket.clone(), (0, 0), 0).unwrap()
    }

    /// Two connected sockets as open files.
    fn files(&self) -> [Rc<File>; 2] {
        self.pair(SocketType::Stream).map(|socket| self.open(&socket))
    }

    fn send(&self, socket: &UnixSocket, bytes: &[u8]) -> Outcome<usize> {
        self.pass(socket, bytes, vec![])
    }

    fn pass(&self, socket: &UnixSocket, mut bytes: &[u8], rights: Vec<Rc<File>>) -> Outcome<usize> {
        let mut message = Outgoing::plain(&mut bytes, MessageFlags::empty());
        message.rights = rights;
        self.with(|caller| socket.send(caller, &mut message))
    }

    fn send_to(&self, socket: &UnixSocket, to: &[u8], mut bytes: &[u8]) -> Outcome<usize> {
        let mut message = Outgoing::plain(&mut bytes, MessageFlags::empty());
        message.destination = to;
        self.with(|caller| socket.send(caller, &mut message))
    }

    fn receive(&self, socket: &UnixSocket, limit: usize) -> Outcome<Vec<u8>> {
        let mut sink = VecSink { bytes: vec![], limit };
        let mut message = Incoming::new(&mut sink, MessageFlags::empty());
        self.with(|caller| socket.receive(caller, &mut message))?;
        Ok(sink.bytes)
    }

    /// The files that come with the next bytes.
    fn receive_files(&self, socket: &UnixSocket) -> Vec<Rc<File>> {
        let mut sink = VecSink { bytes: vec![], limit: 1 };
        let mut message = Incoming::new(&mut sink, MessageFlags::empty());
        self.with(|caller| socket.receive(caller, &mut message)).unwrap();
        let files = message.control.into_iter().filter_map(|control| match control {
            Control::Rights(files) => Some(files),
            _ => None,
        });
        files.flatten().collect()
    }

    fn alive(&self) -> usize {
        self.net.unix.sockets().len()
    }
}

fn inner(file: &File) -> Rc<UnixSocket> {
    crate::net::socket_as(file.ops_as::<SocketFile>().unwrap().socket().clone()).unwrap()
}

fn abstract_name(name: &str) -> Vec<u8> {
    UnixAddress::Abstract(name.as_bytes().to_vec()).to_bytes()
}

fn path(name: &str) -> Vec<u8> {
    UnixAddress::Path(name.as_bytes().to_vec()).to_bytes()
}

const BLOCKED: Outcome<usize> = Err(Pause::WouldBlock);

fn failed<T>(errno: Errno) -> Outcome<T> {
    Err(Pause::Errno(errno))
}

#[test]
fn a_stream_is_bounded_and_loses_nothing() {
    let sockets = Sockets::new();
    let [a, b] = sockets.pair(SocketType::Stream);
    let mut sent = 0;
    while let Ok(count) = sockets.send(&a, &[7; 5000]) {
        sent += count;
    }
    assert!(sent > 60_000 && sent < 300_000, "{sent}");
    assert!(!a.poll().contains(Readiness::WRITABLE));
    let mut got = 0;
    while let Ok(bytes) = sockets.receive(&b, 777) {
        got += bytes.len();
    }
    assert_eq!(sent, got);
    assert!(a.poll().contains(Readiness::WRITABLE));
    assert_eq!(a.under_way.get(), 0);
}

#[test]
fn what_was_sent_before_the_end_arrives() {
    let sockets = Sockets::new();
    let [a, b] = sockets.pair(SocketType::Stream);
    sockets.send(&a, b"last words").unwrap();
    a.release();
    assert_eq!(sockets.receive(&b, 100), Ok(b"last words".to_vec()));
    assert_eq!(sockets.receive(&b, 100), Ok(vec![]));
    assert_eq!(sockets.send(&b, b"x"), failed(E::EPIPE));
    assert!(b.poll().contains(Readiness::HANGUP | Readiness::READ_HANGUP | Readiness::READABLE));
}

#[test]
fn unread_data_makes_the_end_a_reset() {
    let sockets = Sockets::new();
    let [a, b] = sockets.pair(SocketType::Stream);
    sockets.send(&b, b"never read").unwrap();
    a.release();
    assert_eq!(sockets.receive(&b, 100), failed(E::ECONNRESET));
    assert_eq!(sockets.receive(&b, 100), Ok(vec![]));
}

#[test]
fn listeners_hold_back_what_exceeds_their_backlog() {
    let sockets = Sockets::new();
    let server = sockets.socket(SocketType::Stream);
    sockets.with(|caller| {
        assert_eq!(server.bind(caller, &abstract_name("s")), Ok(()));
        assert_eq!(server.bind(caller, &abstract_name("t")), failed(E::EINVAL));
        assert_eq!(server.listen(caller, 1), Ok(()));
        let clients: Vec<_> = (0..3).map(|_| sockets.socket(SocketType::Stream)).collect();
        let connect = |client: &Rc<UnixSocket>| client.connect(caller, &abstract_name("s"));
        assert_eq!(connect(&clients[0]), Ok(()));
        assert_eq!(connect(&clients[0]), Err(Pause::Errno(E::EISCONN)));
        assert_eq!(connect(&clients[1]), Ok(()));
        assert_eq!(connect(&clients[2]), Err(Pause::WouldBlock));
        let accepted = server.accept(caller).unwrap();
        assert_eq!(accepted.peer_credentials(), Some(Ucred { pid: 7, uid: 0, gid: 0 }));
        assert_eq!(connect(&clients[2]), Ok(()));
        // Those that nobody accepts are reset.
        server.release();
        assert_eq!(clients[1].take_error(), Some(E::ECONNRESET));
        assert_eq!(connect(&sockets.socket(SocketType::Stream)), failed(E::ECONNREFUSED));
    });
}

#[test]
fn datagrams_wait_for_a_full_receiver() {
    let sockets = Sockets::new();
    let (a, b) = (sockets.socket(SocketType::Datagram), sockets.socket(SocketType::Datagram));
    sockets.with(|caller| b.bind(caller, &abstract_name("b"))).unwrap();
    let mut sent = 0;
    while sockets.send_to(&a, &abstract_name("b"), b"m").is_ok() {
        sent += 1;
    }
    assert_eq!(sent, QUEUE_LEN + 1);
    a.common.notifier.register(42);
    let _ = sockets.world.env.woken.take();
    assert_eq!(sockets.receive(&b, 10), Ok(b"m".to_vec()));
    assert!(sockets.world.env.woken.take().contains(&42));
    assert_eq!(sockets.send_to(&a, &abstract_name("b"), &vec![0; 300_000]), failed(E::EMSGSIZE));
    assert_eq!(sockets.send(&a, b"x"), failed(E::ENOTCONN));
    b.release();
    assert_eq!(sockets.send_to(&a, &abstract_name("b"), b"m"), failed(E::ECONNREFUSED));
}

#[test]
fn paths_have_permissions_and_types() {
    let mut sockets = Sockets::new();
    let server = sockets.socket(SocketType::Stream);
    sockets.with(|caller| {
        server.bind(caller, &path("/sock")).unwrap();
        server.listen(caller, 5).unwrap();
        let other = sockets.socket(SocketType::Stream);
        assert_eq!(other.bind(caller, &path("/sock")), failed(E::EADDRINUSE));
        assert_eq!(other.bind(caller, &path("/none/sock")), failed(E::ENOENT));
        let packets = sockets.socket(SocketType::SequencedPacket);
        assert_eq!(packets.connect(caller, &path("/sock")), failed(E::EPROTOTYPE));
    });
    // umask 022: nobody else may write.
    sockets.who = Credentials::new(5, 5, vec![]);
    let client = sockets.socket(SocketType::Stream);
    assert_eq!(sockets.with(|caller| client.connect(caller, &path("/sock"))), failed(E::EACCES));
    sockets.who = Credentials::new(0, 0, vec![]);
    assert_eq!(sockets.with(|caller| client.connect(caller, &path("/sock"))), Ok(()));
    server.release();
    let client = sockets.socket(SocketType::Stream);
    assert_eq!(sockets.with(|caller| client.connect(caller, &path("/sock"))), failed(E::ECONNREFUSED));
}

#[test]
fn a_socket_passed_through_itself_is_not_kept_for_ever() {
    let sockets = Sockets::new();
    let [a, b] = sockets.files();
    sockets.pass(&inner(&a), b"x", vec![a.clone(), b.clone()]).unwrap();
    sockets.pass(&inner(&b), b"x", vec![a.clone()]).unwrap();
    assert_eq!(sockets.net.unix.in_flight.sockets(), 2);
    drop((a, b));
    assert_eq!((sockets.alive(), sockets.net.unix.in_flight.sockets()), (2, 2), "nothing was closed yet");
    drop(sockets.files());
    assert_eq!((sockets.alive(), sockets.net.unix.in_flight.sockets()), (0, 0));
}

#[test]
fn connections_that_were_not_accepted_are_part_of_circles() {
    let sockets = Sockets::new();
    let server = sockets.socket(SocketType::Stream);
    let file = sockets.open(&server);
    let client = sockets.socket(SocketType::Stream);
    let client_file = sockets.open(&client);
    sockets.with(|caller| {
        server.bind(caller, &abstract_name("s")).unwrap();
        server.listen(caller, 5).unwrap();
        client.connect(caller, &abstract_name("s")).unwrap();
    });
    sockets.pass(&client, b"x", vec![file.clone()]).unwrap();
    drop((file, server, client, client_file));
    drop(sockets.files());
    assert_eq!(sockets.alive(), 0);
}

#[test]
fn long_chains_of_passed_sockets_end_without_recursion() {
    let sockets = Sockets::new();
    let mut carried = sockets.files();
    for _ in 0..20_000 {
        let next = sockets.files();
        sockets.pass(&inner(&next[0]), b"x", carried.to_vec()).unwrap();
        carried = next;
    }
    drop(carried);
    assert_eq!((sockets.alive(), sockets.net.unix.in_flight.sockets()), (0, 0));
}

#[test]
fn users_have_a_limit_of_descriptors_under_way() {
    let mut sockets = Sockets::new();
    sockets.who = Credentials::new(5, 5, vec![]);
    let [a, b] = sockets.files();
    let passed: Vec<_> = (0..17).map(|_| a.clone()).collect();
    assert_eq!(sockets.pass(&inner(&a), b"x", passed), Ok(1));
    assert_eq!(sockets.pass(&inner(&a), b"x", vec![b.clone()]), failed(E::ETOOMANYREFS));
    assert_eq!(sockets.receive_files(&inner(&b)).len(), 17);
    assert_eq!(sockets.pass(&inner(&a), b"x", vec![b]), Ok(1));
}

proptest! {
    #[test]
    fn streams_carry_bytes_in_order(steps in prop::collection::vec((any::<bool>(), 0usize..40_000), 1..60)) {
        let sockets = Sockets::new();
        let [a, b] = sockets.pair(SocketType::Stream);
        let mut model = VecDeque::new();
        let mut next = 0u32;
        for (sends, count) in steps {
            if sends {
                let bytes: Vec<u8> = (0..count).map(|at| (next + at as u32) as u8).collect();
                match sockets.send(&a, &bytes) {
                    Ok(sent) => {
                        model.extend(&bytes[..sent]);
                        next = next.wrapping_add(sent as u32);
                    }
                    outcome => prop_assert_eq!(outcome, BLOCKED),
                }
            } else if let Ok(got) = sockets.receive(&b, count) {
                let expected: Vec<u8> = model.drain(..got.len()).collect();
                prop_assert_eq!(got, expected);
            } else {
                prop_assert!(model.is_empty());
            }
            prop_assert_eq!(b.bytes_readable().unwrap() as usize, model.len());
            prop_assert!(a.under_way.get() < 300_000);
        }
    }

    /// Whatever passes whatever, closing all descriptors frees all sockets, and none that can be reached is touched.
    #[test]
    fn circles_are_found(passes in prop::collection::vec((0usize..12, 0usize..12), 0..60), kept in 0usize..12) {
        let sockets = Sockets::new();
        let files: Vec<Rc<File>> = (0..6).flat_map(|_| sockets.files()).collect();
        for (over, what) in &passes {
            let _ = sockets.pass(&inner(&files[*over]), b"x", vec![files[*what].clone()]);
        }
        let survivor = files[kept].clone();
        drop(files);
        drop(sockets.files());
        sockets.net.unix.in_flight.hurry();
        drop(sockets.files());
        // What was passed to the survivor is there, as often as it was, with its own messages.
        let expected = passes.iter().filter(|(over, _)| over ^ 1 == kept).count();
        let mut found = 0;
        while inner(&survivor).bytes_readable().unwrap() > 0 {
            found += sockets.receive_files(&inner(&survivor)).len();
        }
        prop_assert_eq!(found, expected);
        drop(survivor);
        sockets.net.unix.in_flight.hurry();
        drop(sockets.files());
        prop_assert_eq!((sockets.alive(), sockets.net.unix.in_flight.sockets()), (0, 0));
    }
}
