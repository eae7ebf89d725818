//! Guests under KVM: life cycle, host calls, events, preemption.

mod common;

use std::fs;
use std::io::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{config, drain, kvm, pipe, run, start};
use seuss_abi::spec::ProcessSpec;
use seuss_vmm::{GuestConfig, GuestError, GuestEvent, RequestError, Stdio, WaitStatus};

const MS: Duration = Duration::from_millis(1);

fn with_stdio(stdio: Stdio) -> GuestConfig {
    GuestConfig { stdio, ..config() }
}

fn spec() -> ProcessSpec {
    ProcessSpec { args: vec![b"exec".to_vec()], ..ProcessSpec::default() }
}

guest!(exits: call!("1", "42 * 256"));

#[test]
fn an_exit_status_comes_out() {
    if !kvm() {
        return;
    }
    let started = start(config(), exits()).expect("starts");
    assert_eq!(started.end(), Ok(WaitStatus::exited(42)));
    let timings = started.guest.timings();
    assert!(timings.first_exit > Duration::ZERO && timings.total > timings.vm_create, "{timings:?}");
    assert!(started.guest.stats().cpu_time > Duration::ZERO);
    assert_eq!(started.guest.signal(0, 15, false), Err(RequestError::Ended));
    started.guest.stop();
    started.guest.pause();
    assert_eq!(started.guest.result(), Some(Ok(WaitStatus::exited(42))), "nothing changes after the end");
}

guest!(killed: call!("1", "9"));

#[test]
fn a_signal_status_comes_out() {
    if kvm() {
        assert_eq!(run(config(), killed()), Ok(WaitStatus::signalled(9)));
    }
}

guest!(ready_twice: concat!(call!("18"), call!("18"), call!("1", "0")));

#[test]
fn readiness_is_told_once() {
    if !kvm() {
        return;
    }
    let started = start(config(), ready_twice()).expect("starts");
    assert_eq!(started.event(), GuestEvent::Ready);
    assert_eq!(started.event(), GuestEvent::Ended(Ok(WaitStatus::exited(0))), "whatever the guest says");
}

// Idle until 30 ms after the clock page's base, then exit with 0.
guest!(sleeps: concat!(
    "mov r13, [r15 + 0x1018]\n add r13, 30000000\n",
    call!("3", "r13"),
    "shl rax, 8\n mov r13, rax\n",
    call!("1", "r13"),
));

#[test]
fn idle_ends_at_its_deadline() {
    if !kvm() {
        return;
    }
    let before = Instant::now();
    let started = start(config(), sleeps()).expect("starts");
    let since_base = before.elapsed();
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
    assert!(before.elapsed() >= 30 * MS);
    assert!(started.guest.stats().cpu_time < 30 * MS, "it did not spin; start took {since_base:?}");
}

// Writes 1000 pairs of (tsc, nanoseconds of the clock page) to handle 1.
guest!(tells_time: concat!(
    "mov r13, 1000\n",
    // The VMM may write the page in between: comm::Clock's sequence tells.
    "2:\n mov r12d, [r15 + 0x1000]\n test r12d, 1\n jnz 2b\n",
    "rdtsc\n shl rdx, 32\n or rax, rdx\n mov [r14 + 0x300000], rax\n",
    "sub rax, [r15 + 0x1010]\n mul qword ptr [r15 + 0x1008]\n mov ecx, [r15 + 0x1004]\n shrd rax, rdx, cl\n",
    "add rax, [r15 + 0x1018]\n mov [r14 + 0x300008], rax\n cmp r12d, [r15 + 0x1000]\n jne 2b\n",
    segment!("0x100300000", "16"),
    call!("5", "1", "0x100200000", "1"),
    "cmp rax, 16\n jne 3f\n dec r13\n jnz 2b\n",
    "3:\n shl r13, 8\n",
    call!("1", "r13"),
));

#[test]
fn the_guest_reads_the_hosts_clock() {
    if !kvm() {
        return;
    }
    let (stdout, writer) = pipe();
    let now = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    };
    let before = now();
    let started =
        start(with_stdio(Stdio { stdout: Some(writer), ..Stdio::default() }), tells_time()).expect("starts");
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
    let after = now();
    drop(started);
    let bytes = drain(stdout);
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight"))).collect();
    assert_eq!(words.len(), 2000);
    let times: Vec<u64> = words.chunks_exact(2).map(|pair| pair[1]).collect();
    assert!(times.is_sorted(), "the guest's clock ran backwards");
    let (first, last) = (times[0], times[999]);
    let slack = 1_000_000;
    assert!(first + slack >= before && last <= after + slack, "{before} <= {first} .. {last} <= {after}");
}

// Waits for a signal event and exits with its number.
guest!(takes_signal: concat!(
    "2:\n",
    call!("3", "-1"),
    "mov ecx, [r15 + 0x4004]\n cmp ecx, [r15 + 0x4000]\n je 2b\n",
    "lea eax, [ecx + ecx * 2]\n and ecx, 511\n lea ecx, [ecx + ecx * 2]\n",
    "mov r12d, [r15 + rcx * 8 + 0x4020]\n mov r13, [r15 + rcx * 8 + 0x4028]\n inc dword ptr [r15 + 0x4004]\n",
    "cmp r12d, 2\n jne 2b\n shl r13, 8\n",
    call!("1", "r13"),
));

#[test]
fn a_signal_wakes_an_idle_guest() {
    if !kvm() {
        return;
    }
    let started = start(config(), takes_signal()).expect("starts");
    sleep(20 * MS);
    assert_eq!(started.guest.signal(0, 0, false), Err(RequestError::BadSignal { signo: 0 }));
    assert_eq!(started.guest.signal(0, 65, false), Err(RequestError::BadSignal { signo: 65 }));
    started.guest.resize(0, 24, 80).expect("runs");
    started.guest.signal(0, 15, false).expect("runs");
    assert_eq!(started.end(), Ok(WaitStatus::exited(15)));
}

// For every Exec event: Started(token, 77) for even tokens and -ENOENT for odd ones; for every Signal event:
// Exited(its token, signal).
guest!(execs: concat!(
    call!("9", "0", "1"),
    "2:\n",
    call!("3", "-1"),
    "5:\n mov ecx, [r15 + 0x4004]\n cmp ecx, [r15 + 0x4000]\n je 2b\n",
    "and ecx, 511\n lea ecx, [ecx + ecx * 2]\n",
    "mov r12d, [r15 + rcx * 8 + 0x4020]\n mov r13d, [r15 + rcx * 8 + 0x4024]\n mov r11, [r15 + rcx * 8 + 0x4028]\n",
    "inc dword ptr [r15 + 0x4004]\n cmp r12d, 2\n je 3f\n cmp r12d, 3\n jne 5b\n",
    "mov rbx, 77\n test r13, 1\n jz 4f\n mov rbx, -2\n 4:\n",
    call!("9", "r13", "rbx"),
    "jmp 5b\n 3:\n",
    call!("7", "r13", "r11"),
    "jmp 5b\n",
));

#[test]
fn more_processes_come_and_go() {
    if !kvm() {
        return;
    }
    let started = start(config(), execs()).expect("starts");
    let guest = &started.guest;
    assert_eq!(guest.exec(0, spec(), Stdio::default()), Err(RequestError::TokenTaken { token: 0 }));
    assert_eq!(guest.exec(1, ProcessSpec::default(), Stdio::default()), Err(RequestError::NoArguments));
    assert_eq!(started.event(), GuestEvent::ExecStarted { token: 0, result: Ok(1) });
    let (stdout, writer) = pipe();
    for token in 2..10 {
        let stdio = Stdio { stdout: Some(writer.try_clone().expect("dup")), ..Stdio::default() };
        guest.exec(token, spec(), stdio).expect("runs");
    }
    drop(writer);
    assert_eq!(guest.exec(2, spec(), Stdio::default()), Err(RequestError::TokenTaken { token: 2 }));
    for token in 2..10 {
        let result = if token % 2 == 0 { Ok(77) } else { Err(libc::ENOENT) };
        assert_eq!(started.event(), GuestEvent::ExecStarted { token, result });
    }
    guest.signal(4, 9, false).expect("runs");
    assert_eq!(started.event(), GuestEvent::Exited { token: 4, status: WaitStatus::signalled(9) });
    guest.exec(4, spec(), Stdio::default()).expect("the token is free again");
    assert_eq!(started.event(), GuestEvent::ExecStarted { token: 4, result: Ok(77) });
    guest.stop();
    for token in [2, 4, 6, 8] {
        assert_eq!(started.event(), GuestEvent::Exited { token, status: WaitStatus::signalled(9) });
    }
    assert_eq!(started.event(), GuestEvent::Ended(Ok(WaitStatus::signalled(9))));
    assert_eq!(drain(stdout), b"", "all of them let go of the pipe");
    assert_eq!(guest.exec(20, spec(), Stdio::default()), Err(RequestError::Ended));
}

// Told of its first process only after a while: requests that came before must wait.
guest!(starts_late: concat!(
    "mov r13, [r15 + 0x1018]\n add r13, 20000000\n mov r12, [r15 + 0x10000]\n 2:\n",
    call!("3", "r13"),
    "mov ecx, [r15 + 0x4000]\n mov [r15 + 0x4004], ecx\n rdtsc\n shl rdx, 32\n or rax, rdx\n sub rax, [r15 + 0x1010]\n",
    "mul qword ptr [r15 + 0x1008]\n mov ecx, [r15 + 0x1004]\n shrd rax, rdx, cl\n add rax, [r15 + 0x1018]\n cmp rax, r13\n jb 2b\n",
    "cmp r12, [r15 + 0x10000]\n jne 3f\n",
    call!("9", "0", "1"),
    call!("3", "-1"),
    "mov r13d, [r15 + 0x4000]\n dec r13d\n imul r13, r13, 24\n mov r13d, [r15 + r13 + 0x4020]\n shl r13, 8\n",
    call!("1", "r13"),
    "3:\n",
    call!("1", "99 * 256"),
));

#[test]
fn a_process_waits_until_the_first_one_runs() {
    if !kvm() {
        return;
    }
    let started = start(config(), starts_late()).expect("starts");
    let long = ProcessSpec { args: vec![b"another".to_vec(); 100], ..ProcessSpec::default() };
    started.guest.exec(1, long, Stdio::default()).expect("runs");
    assert_eq!(started.event(), GuestEvent::ExecStarted { token: 0, result: Ok(1) });
    assert_eq!(
        started.event(),
        GuestEvent::ExecStarted { token: 1, result: Err(libc::ESRCH) },
        "ended unanswered"
    );
    assert_eq!(started.event(), GuestEvent::Ended(Ok(WaitStatus::exited(3))), "the event that came was Exec");
}

guest!(cannot_start: concat!(
    "mov dword ptr [r14 + 0x300000], 0x73756f6e\n",
    "mov qword ptr [r15 + 0x2020], 4\n",
    call!("9", "0", "-2", "0x100300000"),
));

#[test]
fn a_program_that_cannot_start_is_an_error_with_its_reason() {
    if !kvm() {
        return;
    }
    let error = run(config(), cannot_start()).expect_err("no program");
    assert_eq!(error, GuestError::NotStarted { errno: libc::ENOENT, message: "nous".into() });
    assert!(error.report().is_none());
}

guest!(spins_in_kernel: "2: inc qword ptr [r15 + 0x3040]\n jmp 2b");
guest!(spins_at_cpl_0: "int3", stub "2: jmp 2b");
guest!(spins_in_application: concat!(become_application!(), "2: inc rbx\n jmp 2b"), upcall "2: jmp 2b");
guest!(idles: concat!("2:\n", call!("3", "-1"), "jmp 2b"));

#[test]
fn every_loop_can_be_stopped() {
    if !kvm() {
        return;
    }
    for (name, code) in [
        ("kernel", spins_in_kernel()),
        ("CPL 0", spins_at_cpl_0()),
        ("application", spins_in_application()),
        ("idle", idles()),
    ] {
        let started = start(config(), code).expect("starts");
        sleep(20 * MS);
        assert_eq!(started.guest.result(), None, "{name}");
        started.guest.stop();
        started.guest.stop();
        assert_eq!(started.end(), Ok(WaitStatus::signalled(9)), "{name}");
    }
}

#[test]
fn a_paused_guest_stands_still() {
    if !kvm() {
        return;
    }
    let started = start(config(), spins_in_kernel()).expect("starts");
    let count = || {
        sleep(30 * MS);
        started.guest.stats().syscalls
    };
    assert!(count() > 0);
    started.guest.pause();
    let paused = count();
    assert_eq!(count(), paused);
    let cpu = started.guest.stats().cpu_time;
    assert_eq!(
        {
            count();
            started.guest.stats().cpu_time
        },
        cpu,
        "no CPU time"
    );
    started.guest.resume();
    assert!(count() > paused);
    started.guest.pause();
    started.guest.stop();
    assert_eq!(started.end(), Ok(WaitStatus::signalled(9)), "stopped while paused");
}

// An application that counts in rbx with several threads runnable; each upcall checks where it came from, and the
// tenth ends the guest.
guest!(is_preempted: concat!(
    "mov dword ptr [r15 + 0x3004], 1\n xor r12d, r12d\n",
    become_application!(),
    "mov rbx, 0x1234\n mov rdi, 5\n movabs rsp, 0x12345678\n stc\n 2: inc rbx\n dec rdi\n inc rdi\n jmp 2b\n 3:\n",
), upcall concat!(
    // rip in the application, rsp as it was, rbx counting, rdi 4 or 5
    "mov rax, [r15 + 0x3010]\n cmp rax, 0x403000\n jb 8f\n cmp rax, 0x405000\n ja 8f\n",
    "mov rcx, [r15 + 0x3018]\n cmp rcx, 0x12345678\n jne 8f\n cmp rcx, rsp\n jne 8f\n",
    "cmp rbx, 0x1234\n jb 8f\n cmp rdi, 5\n ja 8f\n",
    "cmp dword ptr [r15 + 0x3000], 1\n jne 8f\n",
    "mov dword ptr [r15 + 0x3000], 0\n",
    "inc r12\n cmp r12, 10\n je 9f\n jmp rax\n",
    "8: mov r13, 99 * 256\n jmp 7f\n 9: mov r13, 10 * 256\n 7:\n movabs rsp, 0x608000007000\n",
    call!("1", "r13"),
));

#[test]
fn an_application_is_preempted_in_slices() {
    if !kvm() {
        return;
    }
    let before = Instant::now();
    let started = start(config(), is_preempted()).expect("starts");
    assert_eq!(started.end(), Ok(WaitStatus::exited(10)));
    let stats = started.guest.stats();
    assert_eq!(stats.exits.upcalls, 10);
    assert!(before.elapsed() >= 35 * MS, "slices of 4 ms");
    assert!(stats.exits.kicks < 60, "{stats:?}");
}

// A single thread that computes; the upcall that comes with an event exits with the event's kind.
guest!(is_interrupted: concat!(become_application!(), "2: inc rbx\n jmp 2b"), upcall concat!(
    "mov dword ptr [r15 + 0x3000], 0\n movabs rsp, 0x608000007000\n",
    "mov r13d, [r15 + 0x4020]\n shl r13, 8\n",
    call!("1", "r13"),
));

#[test]
fn input_and_requests_interrupt_an_application_that_computes() {
    if !kvm() {
        return;
    }
    let started = start(config(), is_interrupted()).expect("starts");
    sleep(30 * MS);
    assert_eq!(started.guest.result(), None, "nobody wants anything");
    started.guest.signal(0, 10, false).expect("runs");
    assert_eq!(started.end(), Ok(WaitStatus::exited(2)));

    let (reader, stdin) = pipe();
    let started = start(with_stdio(Stdio { stdin: Some(reader), ..Stdio::default() }), is_interrupted())
        .expect("starts");
    sleep(30 * MS);
    assert_eq!(started.guest.result(), None, "nothing to read yet");
    fs::File::from(stdin).write_all(b"x").expect("write");
    assert_eq!(started.end(), Ok(WaitStatus::exited(1)));
}

// Wants an upcall 20 ms after the base of the clock page, in the middle of computing.
guest!(wants_an_upcall: concat!(
    "mov rax, [r15 + 0x1018]\n add rax, 20000000\n mov [r15 + 0x3008], rax\n",
    become_application!(), "2: inc rbx\n jmp 2b"
), upcall concat!("movabs rsp, 0x608000007000\n", call!("1", "3 * 256")));

#[test]
fn a_timer_of_the_guest_interrupts_it() {
    if !kvm() {
        return;
    }
    let before = Instant::now();
    let started = start(config(), wants_an_upcall()).expect("starts");
    assert_eq!(started.end(), Ok(WaitStatus::exited(3)));
    let elapsed = before.elapsed();
    assert!(elapsed >= 20 * MS, "{elapsed:?}");
}

#[test]
fn nothing_is_left_behind() {
    if !kvm() {
        return;
    }
    // A process of its own, because the other tests of this one have threads and descriptors as well.
    if std::env::var_os("SEUSS_TEST_ALONE").is_none() {
        let own = std::env::current_exe().expect("own path");
        let output = std::process::Command::new(own)
            .args(["--exact", "nothing_is_left_behind", "--nocapture", "--test-threads=1"])
            .env("SEUSS_TEST_ALONE", "1")
            // Every arena of the allocator reserves 64 MiB.
            .env("MALLOC_ARENA_MAX", "1")
            .output()
            .expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).expect("proc").count();
    let mapped_mib = || {
        let status = fs::read_to_string("/proc/self/status").expect("proc");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("VmSize");
        size.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    };
    run(config(), exits()).expect("the first guest opens /dev/kvm for all");
    sleep(10 * MS);
    let before = (count("fd"), count("task"));
    let mapped_before = mapped_mib();
    for _ in 0..10 {
        let (reader, writer) = pipe();
        let stdio = Stdio { stdin: Some(reader), stdout: Some(writer), ..Stdio::default() };
        run(with_stdio(stdio), exits()).expect("exits");
        let started = start(config(), spins_in_application()).expect("starts");
        started.guest.exec(5, spec(), Stdio::default()).expect("runs");
        drop(started);
        let started = start(config(), idles()).expect("starts");
        started.guest.pause();
        drop(started);
    }
    let guests: Vec<_> = (0..20).map(|_| start(config(), idles()).expect("starts")).collect();
    drop(guests);
    assert_eq!((count("fd"), count("task")), before);
    // 50 guests of 17 MiB each came and went; allocator and thread stacks may have grown a little.
    assert!(mapped_mib() < mapped_before + 200, "{} MiB, {mapped_before} before", mapped_mib());
}

#[test]
fn the_callback_may_drop_the_guest() {
    if !kvm() {
        return;
    }
    let slot = std::sync::Arc::new(std::sync::Mutex::new(None::<seuss_vmm::Guest>));
    let (sender, done) = std::sync::mpsc::channel();
    let inside = std::sync::Arc::clone(&slot);
    let image = common::image(&idles());
    let guest = seuss_vmm::Guest::start_image(config(), image, move |event| {
        let GuestEvent::Ended(result) = event else { return };
        drop(inside.lock().map(|mut guest| guest.take()));
        let _ = sender.send(result);
    })
    .expect("starts");
    let shared = slot.lock().map(|mut slot| slot.insert(guest).stop());
    assert!(shared.is_ok());
    assert_eq!(done.recv_timeout(10_000 * MS), Ok(Ok(WaitStatus::signalled(9))));
}

#[test]
fn a_panicking_callback_does_not_hang_anybody() {
    if !kvm() {
        return;
    }
    let image = common::image(&exits());
    let guest =
        seuss_vmm::Guest::start_image(config(), image, |_| panic!("expected in this test")).expect("starts");
    assert_eq!(guest.wait(), Ok(WaitStatus::exited(42)));
}
