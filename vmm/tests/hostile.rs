//! Guests that break the contract: each ends with an error that says how, none hangs or takes the VMM with it.

mod common;

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use common::{config, kvm, run, start, with_data};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use seuss_snapshotter::snapshot::Store;
use seuss_vmm::text::{MINUTE_BYTES, write_line};
use seuss_vmm::{
    Allowance, CaptureLimits, ExitReason, GuestConfig, GuestError, GuestEvent, ImageBlob, Keys, SnapshotSink,
    Stdio, StoreRoom, WaitStatus,
};

/// What a protocol error says.
fn protocol(code: Vec<u8>) -> String {
    match run(config(), code) {
        Err(error @ GuestError::Protocol { .. }) => {
            let report = error.report().expect("a report");
            assert_eq!(report.exit, ExitReason::Doorbell);
            assert!(report.registers.as_ref().is_some_and(|registers| registers.rip() >= 0x6080_0000_0000));
            assert!(!report.code.1.is_empty() && !report.calls.is_empty());
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

/// The exit that ended a guest.
fn exit(result: Result<WaitStatus, GuestError>) -> ExitReason {
    match result {
        Err(GuestError::UnexpectedExit { reason, report }) => {
            println!("{report}");
            assert!(report.registers.is_some());
            reason
        }
        other => panic!("{other:?}"),
    }
}

guest!(unknown_op: call!("0xdead"));
guest!(op_zero: "int3");
guest!(bad_status: call!("1", "0x7f"));
guest!(bad_handle: call!("4", "0x100000000", "0x100000000", "1"));
guest!(too_many: call!("5", "1", "0x100000000", "257"));
guest!(list_outside: call!("5", "1", "0x100fffff8", "1"));
guest!(segment_outside: concat!(segment!("0x100fffff0", "17"), call!("5", "1", "0x100200000", "1")));
guest!(segment_wraps: concat!(segment!("0x100300000", "-1"), call!("5", "1", "0x100200000", "1")));
guest!(read_into_comm: concat!(segment!("0x0", "4096"), call!("4", "0", "0x100200000", "1")));
guest!(not_started: call!("9", "5", "1"));
guest!(started_twice: concat!(call!("9", "0", "1"), call!("9", "0", "1")));
guest!(not_alive: call!("7", "0", "0"));

#[test]
fn broken_calls_are_named() {
    if !kvm() {
        return;
    }
    for (code, word) in [
        (unknown_op(), "unknown operation 0xdead"),
        (op_zero(), "unknown operation 0x0"),
        (bad_status(), "Exit with wait status 0x7f"),
        (bad_handle(), "Read of handle 0x100000000"),
        (too_many(), "257 segments"),
        (list_outside(), "not in the private window"),
        (segment_outside(), "segment 0 (gpa 0x100fffff0, 0x11 bytes)"),
        (segment_wraps(), "segment 0 (gpa 0x100300000, 0xffffffffffffffff bytes)"),
        (read_into_comm(), "segment 0 (gpa 0x0, 0x1000 bytes)"),
        (not_started(), "Started(0x5, 0x1) without such a request"),
        (started_twice(), "Started(0, 0x1): wrong, or the second one"),
        (not_alive(), "Exited of token 0x0"),
    ] {
        let message = protocol(code);
        assert!(message.contains(word), "{message}");
    }
}

guest!(tail_ahead: concat!("mov dword ptr [r15 + 0x4004], 1\n", call!("3", "-1")));
guest!(tail_far_behind: concat!("mov dword ptr [r15 + 0x4004], -600\n", call!("3", "-1")));
guest!(tail_ahead_while_running: "mov dword ptr [r15 + 0x4004], 77\n 2: jmp 2b");

#[test]
fn a_tail_that_cannot_be_is_named() {
    if !kvm() {
        return;
    }
    for code in [tail_ahead(), tail_far_behind(), tail_ahead_while_running()] {
        match run(config(), code) {
            Err(GuestError::Protocol { what, .. }) => assert!(what.contains("event ring: tail"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}

guest!(panics: concat!(
    "mov dword ptr [r14 + 0x300000], 0x706c6568\n mov byte ptr [r14 + 0x300004], 0x1b\n",
    call!("8", "3", "0x100300000", "4"),
    call!("2", "0x100300000", "5"),
));
guest!(panics_nowhere: call!("2", "0x50", "-1"));
guest!(panics_outside: call!("2", "0xffffffffffffffff", "10"));

#[test]
fn a_panic_brings_its_message() {
    if !kvm() {
        return;
    }
    match run(config(), panics()) {
        Err(GuestError::Panic { message, report }) => {
            assert_eq!(message, "help\\u{1b}");
            assert_eq!(report.log, ["help"]);
            assert_eq!(report.calls.len(), 2);
            let text = report.to_string();
            for word in [
                "rip=0000608000000",
                "cpl=0",
                "entered from CPL 3 at rip 0x6080000030",
                "rsp 0x608000007000",
                "Log(0x3, 0x100300000, 0x4) = 0",
                "Panic(0x100300000",
                "  help",
            ] {
                assert!(text.contains(word), "{word} in\n{text}");
            }
        }
        other => panic!("{other:?}"),
    }
    // The page that 0x50 lies in is the communication window's: zeros, one of which is shown as \u{0}.
    for (code, word) in [(panics_nowhere(), "\\u{0}"), (panics_outside(), "outside of memory")] {
        match run(config(), code) {
            Err(GuestError::Panic { message, .. }) => assert!(message.contains(word), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

guest!(halts: "int3", stub "hlt");
guest!(other_port: "int3", stub "mov edx, 0x80\n out dx, al\n iretq");
guest!(narrow_doorbell: "int3", stub "mov edx, 0x5e5\n out dx, ax\n iretq");
guest!(reads_port: "int3", stub "mov edx, 0x5e5\n in eax, dx\n iretq");
guest!(faults: "movabs rax, 0x123456789000\n mov [rax], rax");
guest!(no_page_tables: "int3", stub "xor eax, eax\n mov cr3, rax\n iretq");
guest!(jumps_away: "movabs rax, 0x00dead0000\n jmp rax");
// Maps 2 MiB at gpa 0x200000, where nothing is, at 0x600000.
guest!(nothing_there: concat!(
    become_application!(),
    "mov qword ptr [r14 + 0x401018], 0x2000e7\n mov eax, 0x600008\n mov dword ptr [rax], 0x11223344\n",
));
guest!(nothing_to_read: concat!(
    become_application!(),
    "mov qword ptr [r14 + 0x401018], 0x2000e7\n mov rax, 0x600008\n mov rax, [rax]\n",
));
// Maps the first image window writable at 0x600000 and stores there.
guest!(writes_image: concat!(
    become_application!(),
    "movabs rax, 0x60000000e7\n mov [r14 + 0x401018], rax\n mov eax, 0x600000\n mov cl, [rax]\n mov [rax], cl\n 2: jmp 2b",
));

#[test]
fn exits_that_no_guest_should_make_end_it() {
    if !kvm() {
        return;
    }
    assert_eq!(exit(run(config(), halts())), ExitReason::Halt);
    assert_eq!(exit(run(config(), other_port())), ExitReason::PortWrite { port: 0x80, data: vec![0] });
    assert!(
        matches!(exit(run(config(), narrow_doorbell())), ExitReason::PortWrite { port: 0x5e5, data } if data.len() == 2)
    );
    assert_eq!(exit(run(config(), reads_port())), ExitReason::PortRead { port: 0x5e5, width: 4 });
    let store = exit(run(config(), nothing_there()));
    assert_eq!(store, ExitReason::MemoryWrite { gpa: 0x20_0008, data: vec![0x44, 0x33, 0x22, 0x11] });
    assert_eq!(exit(run(config(), nothing_to_read())), ExitReason::MemoryRead { gpa: 0x20_0008, width: 8 });
    for code in [faults(), jumps_away(), no_page_tables()] {
        let reason = exit(run(config(), code));
        assert!(matches!(reason, ExitReason::Shutdown | ExitReason::InternalError { .. }), "{reason}");
    }
}

#[test]
fn nobody_writes_an_image() {
    if !kvm() {
        return;
    }
    let blob: OwnedFd = rustix::fs::memfd_create("blob", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::fs::ftruncate(&blob, 8192).expect("size");
    let blob = ImageBlob { file: blob, len_bytes: 8192, name: "blob".into() };
    let reason = exit(run(GuestConfig { images: vec![blob], ..config() }, writes_image()));
    assert!(matches!(reason, ExitReason::MemoryWrite { gpa: 0x60_0000_0000, .. }), "{reason}");
}

// For each of 16 scripts of 256 bytes: slot, control page and ring header are overwritten, then the doorbell rings.
guest!(scribbles: concat!(
    "movabs rbx, 0x608000005000\n mov rbp, 16\n cld\n",
    "2: mov rsi, rbx\n lea rdi, [r15 + 0x2000]\n mov ecx, 64\n rep movsb\n",
    "lea rdi, [r15 + 0x3000]\n mov ecx, 128\n rep movsb\n",
    "lea rdi, [r15 + 0x4000]\n mov ecx, 32\n rep movsb\n",
    "int3\n add rbx, 256\n dec rbp\n jnz 2b\n",
    call!("1", "0"),
));

#[test]
fn whatever_a_guest_writes_the_vmm_stands() {
    if !kvm() {
        return;
    }
    let number = || {
        prop_oneof![
            3 => 0_u64..12,
            1 => any::<u64>(),
            1 => Just(u64::MAX),
            2 => 0x1_0000_0000_u64 - 8..0x1_0100_0010,
            1 => 0_u64..0x20_0000,
        ]
    };
    let script = prop::collection::vec(number(), 32).prop_map(|mut words: Vec<u64>| {
        // Mostly an operation that exists, a control page that wants little, and a tail that may be.
        words[0] %= 21;
        if !words[31].is_multiple_of(4) {
            words[24] = 0;
        }
        words.into_iter().flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
    });
    let cases = prop::collection::vec(script, 16);
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&cases, |scripts| {
        let (stdin, other) = common::pipe();
        let stdio = Stdio { stdin: Some(stdin), stdout: Some(other), stderr: None };
        let code = with_data(scribbles(), &scripts.concat());
        let started = start(GuestConfig { stdio, ..config() }, code)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        // It may tell of something else than its end, and then idle for ever.
        let result = loop {
            match started.events.recv_timeout(Duration::from_millis(30)) {
                Ok(GuestEvent::Ended(result)) => break result,
                Ok(_) => {}
                Err(_) => {
                    started.guest.stop();
                    break started.end();
                }
            }
        };
        let harmless = matches!(
            &result,
            Ok(_)
                | Err(GuestError::Protocol { .. }
                    | GuestError::Panic { .. }
                    | GuestError::NotStarted { .. }
                    | GuestError::UnexpectedExit { .. })
        );
        prop_assert!(harmless, "{result:?}");
        Ok(())
    });
    outcome.expect("no guest harms the VMM");
}

// For each of 16 scripts of 256 bytes: seven submissions, and a call with two arguments.
guest!(submits: concat!(
    "movabs rbx, 0x608000005000\n mov rbp, 16\n cld\n lea rdi, [r15 + 0x8020]\n xor r12d, r12d\n",
    "2: mov rsi, rbx\n mov ecx, 224\n rep movsb\n mov r13, rdi\n add r12d, 7\n mov [r15 + 0x8000], r12d\n",
    "lea rdi, [r15 + 0x2000]\n mov ecx, 32\n rep movsb\n",
    "int3\n mov rdi, r13\n add rbx, 256\n dec rbp\n jnz 2b\n",
    call!("1", "0"),
));

#[test]
fn whatever_a_guest_submits_the_vmm_stands() {
    if !kvm() {
        return;
    }
    let argument = || {
        prop_oneof![
            3 => 0_u64..12,
            1 => any::<u64>(),
            3 => 0x1_0000_0000_u64..0x1_0100_0010,
        ]
    };
    let submission = (1_u64..9, 0_u64..6, argument(), prop_oneof![argument(), Just(4096)], argument());
    let submission = submission.prop_map(|(command, handle, a, b, c)| {
        // Mostly sockets that there may be.
        let (a, b) = if command == 1 { (2 + (a & 8), 1 + (b & 1)) } else { (a, b) };
        [command | handle << 32, a, b, c]
    });
    let script = (prop::collection::vec(submission, 7), 10_u64..18, prop::array::uniform3(argument()));
    let script = script.prop_map(|(submissions, op, args)| {
        let words = submissions.into_iter().flatten().chain([op]).chain(args);
        words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
    });
    let cases = prop::collection::vec(script, 16);
    let mut runner = TestRunner::new(Config { cases: 32, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&cases, |scripts| {
        let started = start(config(), with_data(submits(), &scripts.concat()))
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let result = started.guest.wait();
        prop_assert!(matches!(&result, Ok(_) | Err(GuestError::Protocol { .. })), "{result:?}");
        Ok(())
    });
    outcome.expect("no guest harms the VMM");
}

guest!(head_ahead: concat!("mov dword ptr [r15 + 0x8000], 513\n", call!("10", "0")));
guest!(provides_the_comm_window: concat!(
    "mov dword ptr [r15 + 0x8020], 1\n mov qword ptr [r15 + 0x8028], 2\n mov qword ptr [r15 + 0x8030], 1\n",
    "mov dword ptr [r15 + 0x8040], 2\n mov qword ptr [r15 + 0x8050], 4096\n mov dword ptr [r15 + 0x8000], 2\n",
    call!("3", "0"),
));
guest!(no_such_socket: concat!("mov dword ptr [r15 + 0x8020], 7\n mov dword ptr [r15 + 0x8000], 1\n", call!("1", "0")));

#[test]
fn broken_submissions_are_named() {
    if !kvm() {
        return;
    }
    for (code, word) in [
        (head_ahead(), "head 513 is not within"),
        (provides_the_comm_window(), "Provide of socket 0: memory outside of the private window"),
        (no_such_socket(), "Close of socket 0: there is no such socket"),
    ] {
        let message = protocol(code);
        assert!(message.contains(word), "{message}");
    }
}

// An application whose library OS never takes notice, with everything wanted at once: it must not lock the VMM up.
guest!(never_takes_notice: concat!(
    "mov dword ptr [r15 + 0x3004], 1\n mov qword ptr [r15 + 0x3008], 0\n",
    become_application!(),
    "2: inc rbx\n jmp 2b",
), upcall "mov dword ptr [r15 + 0x3000], 1\n jmp [r15 + 0x3010]");

#[test]
fn a_guest_that_never_takes_notice_does_not_storm() {
    if !kvm() {
        return;
    }
    let started = start(config(), never_takes_notice()).expect("starts");
    std::thread::sleep(Duration::from_millis(200));
    let stats = started.guest.stats();
    assert!(stats.exits.kicks < 1_000, "{stats:?}");
    started.guest.stop();
    assert_eq!(started.end(), Ok(WaitStatus::signalled(9)));
}

// Says 2000 lines of 4 KiB, then panics with 64 KiB: zero bytes, of which each is shown as five.
guest!(floods_log: concat!(
    "mov rbx, 2000\n 2:\n", call!("8", "3", "0x100300000", "4096"), "dec rbx\n jnz 2b\n",
    call!("2", "0x100300000", "65536"),
));
// Asks for a snapshot 20000 times.
guest!(floods_captures: concat!(
    "mov rbx, 20000\n 2:\n", call!("32", "1", "0", "0"), "dec rbx\n jnz 2b\n", call!("1", "0"),
));

/// The process' log, as a shim's is: whole messages, metered.
#[derive(Clone, Copy)]
struct Log;

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl std::io::Write for Log {
    fn write(&mut self, message: &[u8]) -> std::io::Result<usize> {
        let mut written = Vec::new();
        write_line(&mut written, message)?;
        LOG.lock().expect("the log").push(String::from_utf8(written).expect("UTF-8"));
        Ok(message.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the node's log has of guest `name`.
fn logged(name: &str) -> Vec<String> {
    let log = LOG.lock().expect("the log");
    log.iter().filter(|message| message.contains(name)).cloned().collect()
}

fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(|| Log).with_ansi(false).finish();
        tracing::subscriber::set_global_default(subscriber).expect("the first one");
    });
}

#[test]
fn a_flood_of_log_lines_costs_the_node_little_and_the_failure_is_still_told() {
    if !kvm() {
        return;
    }
    keep_log();
    let config = config();
    let name = config.name.clone();
    let result = run(config, floods_log());
    assert!(matches!(&result, Err(GuestError::Panic { message, .. }) if message.len() <= 1024), "{result:?}");
    let log = logged(&name);
    let bytes: usize = log.iter().map(String::len).sum();
    assert!(bytes as u64 <= MINUTE_BYTES, "{bytes} bytes");
    let counted = |message: &String| message.split("lines=").nth(1)?.split(' ').next()?.parse::<u32>().ok();
    let left_out: u32 = log.iter().filter_map(counted).sum();
    assert!((1_900..2_000).contains(&left_out), "{left_out} of 2000 are said to be left out");
    for word in ["left out of the log", "guest failed", "last host calls", "last log lines"] {
        assert!(log.iter().any(|message| message.contains(word)), "no {word}");
    }
}

#[test]
fn refused_captures_cost_the_node_little() {
    if !kvm() {
        return;
    }
    keep_log();
    let dir = tempfile::tempdir().expect("a directory");
    let sink = sink(Arc::new(Store::open(dir.path()).expect("a store")), 5);
    // Nothing can be written there any more.
    std::fs::remove_dir_all(dir.path().join("snapshots")).expect("removed");
    let config = GuestConfig { snapshots: Some(sink), ..config() };
    let name = config.name.clone();
    let started = start(config, floods_captures()).expect("starts");
    let mut told = 0;
    let result = loop {
        match started.event() {
            GuestEvent::Ended(result) => break result,
            GuestEvent::Captured(Err(_)) => told += 1,
            _ => {}
        }
    };
    assert_eq!(result, Ok(WaitStatus::exited(0)));
    let bytes: usize = logged(&name).iter().map(String::len).sum();
    assert!(bytes > 0 && bytes as u64 <= MINUTE_BYTES, "{bytes} bytes");
    assert_eq!(told, 5 + 1, "five attempts, and once that there were too many");
}

// The first 256 frames are copied, 16 of which hold something else each time; asks 100 times. The exit status is the last errno.
guest!(hoards: concat!(
    "movabs rax, 0xaaaaaaaaaaaaaaaa\n lea rdi, [r15 + 0x100000]\n mov ecx, 8\n cld\n rep stosq\n",
    "mov rbx, 100\n",
    "2: lea rdi, [r14 + 0x80000]\n mov rax, rbx\n mov ecx, 8192\n rep stosq\n",
    call!("32", "1", "0x100000000", "0"),
    "mov r12, rax\n dec rbx\n jnz 2b\n",
    "neg r12\n shl r12, 8\n mov [r15 + 0x2008], r12\n mov dword ptr [r15 + 0x2000], 1\n int3\n",
));

/// What a guest that hoards gets: how many snapshots, their bytes, refusals in words, and its exit status, the last errno.
fn hoard(
    limits: CaptureLimits,
    room: StoreRoom,
    headroom: Option<u64>,
) -> (u64, u64, Vec<String>, Option<u8>) {
    let store = Arc::new(Store::in_memory().expect("a store"));
    let allowance = Arc::new(Allowance::new(limits, Some(Box::new(move || headroom))));
    allowance.set_room(room);
    let sink = SnapshotSink { allowance, ..sink(Arc::clone(&store), 0) };
    let started = start(GuestConfig { snapshots: Some(sink), ..config() }, hoards()).expect("starts");
    let mut refusals = Vec::new();
    let mut taken = (0, 0);
    loop {
        match started.event() {
            GuestEvent::Ended(result) => {
                let status = result.expect("a good end").code();
                return (taken.0, taken.1, refusals, status);
            }
            GuestEvent::Captured(Err(reason)) => refusals.push(reason),
            GuestEvent::Captured(Ok(id)) => {
                let manifest = store.snapshot(id).expect("a snapshot").manifest().clone();
                taken = (taken.0 + 1, taken.1 + manifest.pages.len_bytes + manifest.tables.len_bytes);
            }
            _ => {}
        }
    }
}

#[test]
fn a_guest_hoards_no_snapshots() {
    if !kvm() {
        return;
    }
    const EDQUOT: Option<u8> = Some(libc::EDQUOT as u8);
    let none = CaptureLimits::default();
    let (number, bytes, refusals, status) = hoard(none, StoreRoom::default(), None);
    assert_eq!((number, refusals.len(), status), (100, 0, Some(0)), "{refusals:?}");
    assert!(bytes > 100 * 16 * 4096);

    let limits = CaptureLimits { per_minute: 7, ..none };
    let (number, _, refusals, status) = hoard(limits, StoreRoom::default(), None);
    assert_eq!((number, refusals.len(), status), (7, 1, EDQUOT), "{refusals:?}");
    assert!(refusals[0].contains("7 times a minute"), "{refusals:?}");

    // Nobody brings them to the store here.
    let limits = CaptureLimits { pending_bytes: 2 << 20, per_minute: 1000 };
    let (number, bytes, refusals, status) = hoard(limits, StoreRoom::default(), None);
    assert!(
        number > 1 && bytes <= 2 << 20 && refusals.len() == 1 && status == EDQUOT,
        "{number} {bytes} {refusals:?}"
    );
    assert!(refusals[0].contains("on its way to the store"), "{refusals:?}");

    let (number, _, refusals, status) = hoard(limits, StoreRoom { snapshots: 3, bytes: u64::MAX }, None);
    assert_eq!((number, refusals.len(), status), (3, 1, EDQUOT), "{refusals:?}");

    // Before anything is copied: the first one does not fit.
    let (number, _, refusals, status) = hoard(limits, StoreRoom { snapshots: 3, bytes: 4096 }, None);
    assert_eq!((number, status), (0, EDQUOT));
    assert!(refusals[0].contains("4096 are left of the quota"), "{refusals:?}");
    let (number, _, refusals, status) = hoard(limits, StoreRoom::default(), Some(8192));
    assert_eq!((number, status), (0, EDQUOT));
    assert!(refusals[0].contains("8192 are left of the memory of the pod's control group"), "{refusals:?}");
}

/// Where snapshots of a guest without images go.
fn sink(store: Arc<Store>, per_minute: u32) -> SnapshotSink {
    let limits = CaptureLimits { per_minute, ..CaptureLimits::default() };
    SnapshotSink {
        store,
        images: Vec::new(),
        keys: Keys::AsNamed,
        base: false,
        name: "test".into(),
        command: "test".into(),
        terminal: false,
        allowance: Arc::new(Allowance::new(limits, None)),
    }
}
