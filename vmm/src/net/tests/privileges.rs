//! Guests that claim more than their containers have.

use rustix::thread::UnshareFlags;

use super::*;

/// Runs `attack` on a thread in a network namespace of its own, in which ports below 1024 need a privilege. Nothing where that cannot be made.
fn in_namespace(attack: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let inside = || {
            // SAFETY: the thread was started for this; NEWNET changes nothing of files, memory or signals.
            if let Err(errno) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) } {
                eprintln!("skipped: this user may not make network namespaces ({errno})");
                return;
            }
            let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            assert_eq!(first.expect("a namespace").trim(), "1024");
            attack();
        };
        scope.spawn(inside).join().expect("the attack is over");
    });
}

const BOUND: i64 = 16;
const ANY: [u64; 3] = [2, 1, 0];

/// An address of all interfaces: loopback is down in a new namespace, and binding does not mind.
fn bind(bench: &mut Bench, handle: u32, port: u16, claims_nothing: u64) -> i64 {
    let mut address = vec![2, 0];
    address.extend(port.to_be_bytes());
    address.extend([0; 12]);
    bench.memory.comm().write(PAYLOAD, &address).expect("inside");
    bench.call(Op::Bind, [handle.into(), 16, claims_nothing, 0, 0, 0])
}

#[test]
fn a_guest_cannot_call_itself_privileged() {
    in_namespace(|| {
        let denied = -i64::from(libc::EACCES);
        let mut guest = Bench::new();
        for (handle, kind) in [(0, 1), (1, 2)] {
            guest.submit(Command::Open, handle, [2, kind, 0]);
            assert_eq!(bind(&mut guest, handle, 53, 0), denied, "by a call, as the privileged one");
            assert_eq!(bind(&mut guest, handle, 1024, 0), BOUND, "what everybody may");
        }
        // By a submission, as after a restore.
        guest.submit(Command::Open, 2, ANY);
        let mut address = vec![2, 0, 0, 80];
        address.extend([0; 12]);
        guest.memory.private().write(Gpa(A), &address).expect("inside");
        guest.submit(Command::Listen, 2, [A, 16, 8]);
        guest.drain().expect("good");
        assert_eq!(guest.events(0), [(Kind::Failed as u32, 2, libc::EACCES as u64)]);

        let mut granted = Bench::with(NetPrivileges { bind_service: true, ..NetPrivileges::default() });
        for handle in [0, 1] {
            granted.submit(Command::Open, handle, ANY);
        }
        assert_eq!(bind(&mut granted, 0, 80, 1), denied, "a process of it that may not");
        assert_eq!(bind(&mut granted, 0, 80, 0), BOUND, "one that may");
        assert_eq!(bind(&mut granted, 1, 0, 1), BOUND, "any port is nobody's");
    });
}

#[test]
fn options_that_the_container_may_not_set_stay_as_they_are() {
    in_namespace(|| {
        let mut guest = Bench::new();
        guest.submit(Command::Open, 0, ANY);
        guest.drain().expect("good");
        for (name, value) in [(libc::SO_MARK, 7), (libc::SO_PRIORITY, 7), (libc::SO_RCVBUFFORCE, 1 << 28)] {
            let value = value.to_string().parse::<i32>().expect("a number");
            // With and without an answer.
            let which = libc::SOL_SOCKET as u64 | (name as u64) << 32;
            guest.submit(Command::SetOption, 0, [which, value as u64, 4]);
            guest.memory.comm().write(PAYLOAD, &value.to_le_bytes()).expect("inside");
            let answer = guest.call(Op::SetOption, [0, 1, name as u64, 4, 0, 0]);
            assert_eq!(answer, -i64::from(libc::EPERM), "{name}");
        }
        let fd = guest.sockets.get(0).expect("open").fd().expect("open");
        for (name, least, most) in
            [(libc::SO_MARK, 0, 0), (libc::SO_PRIORITY, 0, 0), (libc::SO_RCVBUF, 1, 1 << 26)]
        {
            let mut value = [0; 4];
            sys::get_option(fd, libc::SOL_SOCKET, name, &mut value).expect("a value");
            assert!((least..=most).contains(&i32::from_ne_bytes(value)), "{name}: {value:?}");
        }
        guest.memory.comm().write(PAYLOAD, b"lo\0\0").expect("inside");
        let device = libc::SO_BINDTODEVICE as u64;
        assert_eq!(guest.call(Op::SetOption, [0, 1, device, 4, 0, 0]), -i64::from(libc::EPERM));
        let mut granted = Bench::with(NetPrivileges { raw: true, ..NetPrivileges::default() });
        granted.submit(Command::Open, 0, ANY);
        granted.memory.comm().write(PAYLOAD, b"lo\0\0").expect("inside");
        assert_eq!(granted.call(Op::SetOption, [0, 1, device, 4, 0, 0]), 0);
    });
}

#[test]
fn raw_sockets_there_are_none() {
    let all = NetPrivileges { bind_service: true, raw: true, admin: true, owner: None };
    let mut guest = Bench::with(all);
    let kinds =
        [[2, 3, 1], [2, 3, 255], [10, 3, 58], [2, 2, 1], [17, 3, 0], [16, 3, 0], [1, 1, 0], [40, 1, 0]];
    for (handle, wanted) in (0..).zip(kinds) {
        guest.submit(Command::Open, handle, wanted);
        guest.drain().expect("good");
        let refused = (Kind::Failed as u32, handle, libc::EPROTONOSUPPORT as u64);
        assert_eq!(guest.events(0), [refused], "{wanted:?}");
    }
}

/// A listener of `owner` at `port` that would share it.
fn sharing(owner: u32, port: u16) -> (Bench, i64) {
    let mut guest = Bench::with(NetPrivileges { owner: Some(owner), ..NetPrivileges::default() });
    guest.submit(Command::Open, 0, ANY);
    let which = libc::SOL_SOCKET as u64 | (libc::SO_REUSEPORT as u64) << 32;
    guest.submit(Command::SetOption, 0, [which, 1, 4]);
    let bound = bind(&mut guest, 0, port, 1);
    if bound == BOUND {
        assert_eq!(guest.call(Op::Listen, [0, 8, 0, 0, 0, 0]), 0);
    }
    (guest, bound)
}

#[test]
fn a_port_is_not_taken_from_another_users_container() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root runs guests of others");
        return;
    }
    in_namespace(|| {
        let (_first, bound) = sharing(1000, 8080);
        assert_eq!(bound, BOUND);
        let in_use = -i64::from(libc::EADDRINUSE);
        assert_eq!(sharing(2000, 8080).1, in_use, "another user's");
        assert_eq!(sharing(0, 8080).1, in_use, "root's");
        assert_eq!(sharing(1000, 8080).1, BOUND, "the user's own, as for his workers");
        // A daemon of the host's, for a pod that is in the host's namespace.
        let (_daemon, bound) = sharing(0, 9090);
        assert_eq!(bound, BOUND);
        assert_eq!(sharing(1000, 9090).1, in_use);
    });
}
