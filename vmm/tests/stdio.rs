//! Standard input and output of guests under KVM: pipes, sockets, files, and descriptions that others share.

mod common;

use std::fs;
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use common::{config, drain, kvm, pipe, run, start};
use seuss_vmm::{GuestConfig, Stdio, WaitStatus};

const MS: Duration = Duration::from_millis(1);

fn with_stdio(stdio: Stdio) -> GuestConfig {
    GuestConfig { stdio, ..config() }
}

guest!(hello: concat!(
    "mov dword ptr [r14 + 0x300000], 0x6c6c6568\n mov dword ptr [r14 + 0x300004], 0x000a216f\n",
    segment!("0x100300000", "7"),
    call!("5", "1", "0x100200000", "1"),
    "mov r13, rax\n",
    call!("5", "2", "0x100200000", "1"),
    "cmp rax, -9\n je 2f\n mov r13, 99\n 2:\n",
    "shl r13, 8\n",
    call!("1", "r13"),
));

#[test]
fn text_comes_out_and_a_missing_handle_is_ebadf() {
    if !kvm() {
        return;
    }
    let (reader, writer) = pipe();
    let config = with_stdio(Stdio { stdout: Some(writer), ..Stdio::default() });
    assert_eq!(run(config, hello()), Ok(WaitStatus::exited(7)));
    assert_eq!(drain(reader), b"hello!\n");
}

#[test]
fn text_goes_to_a_file_where_it_was_left_off() {
    if !kvm() {
        return;
    }
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(b"before ").expect("write");
    let config =
        with_stdio(Stdio { stdout: Some(file.try_clone().expect("dup").into()), ..Stdio::default() });
    assert_eq!(run(config, hello()), Ok(WaitStatus::exited(7)));
    file.write_all(b"after").expect("write");
    let mut text = String::new();
    std::io::Seek::rewind(&mut file).expect("seek");
    std::io::Read::read_to_string(&mut file, &mut text).expect("read");
    assert_eq!(text, "before hello!\nafter");
}

guest!(broken_pipe: concat!(
    segment!("0x100300000", "7"),
    call!("5", "1", "0x100200000", "1"),
    "neg rax\n shl rax, 8\n mov r13, rax\n",
    call!("1", "r13"),
));

#[test]
fn a_broken_pipe_is_an_error_and_no_signal() {
    if !kvm() {
        return;
    }
    let (reader, writer) = pipe();
    drop(reader);
    let config = with_stdio(Stdio { stdout: Some(writer), ..Stdio::default() });
    assert_eq!(run(config, broken_pipe()), Ok(WaitStatus::exited(libc::EPIPE as u8)));
}

// Copies handle 0 to handle 1: at most 4096 bytes a turn, waits when either says EAGAIN, and takes notice of events by
// moving the tail.
guest!(copies: concat!(
    "2:\n",
    segment!("0x100300000", "4096"),
    call!("4", "0", "0x100200000", "1"),
    "cmp rax, -11\n jne 3f\n",
    call!("3", "-1"),
    "mov eax, [r15 + 0x4000]\n mov [r15 + 0x4004], eax\n jmp 2b\n",
    "3:\n test rax, rax\n jle 9f\n mov r13, rax\n",
    "movabs r12, 0x100300000\n",
    "4:\n mov [r14 + 0x200000], r12\n mov [r14 + 0x200008], r13\n",
    call!("5", "1", "0x100200000", "1"),
    "cmp rax, -11\n jne 5f\n",
    call!("3", "-1"),
    "mov eax, [r15 + 0x4000]\n mov [r15 + 0x4004], eax\n jmp 4b\n",
    "5:\n test rax, rax\n jle 9f\n add r12, rax\n sub r13, rax\n jnz 4b\n jmp 2b\n",
    "9:\n neg rax\n shl rax, 8\n mov r13, rax\n",
    call!("1", "r13"),
));

fn copy_through(stdin: impl Into<std::os::fd::OwnedFd>, writer: std::os::fd::OwnedFd) -> common::Started {
    let config = with_stdio(Stdio { stdin: Some(stdin.into()), stdout: Some(writer), ..Stdio::default() });
    start(config, copies()).expect("starts")
}

#[test]
fn a_megabyte_goes_through_two_pipes() {
    if !kvm() {
        return;
    }
    let text: Vec<u8> = (0..1_000_000_u32).map(|number| (number * 7 / 3) as u8).collect();
    let ((reader, stdin), (stdout, writer)) = (pipe(), pipe());
    let started = copy_through(reader, writer);
    let sent = text.clone();
    let source = std::thread::spawn(move || {
        let mut stdin = fs::File::from(stdin);
        sleep(20 * MS);
        stdin.write_all(&sent).expect("write");
    });
    sleep(60 * MS);
    let received = drain(stdout);
    assert_eq!(received.len(), text.len());
    assert!(received == text);
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
    source.join().expect("source");
    let stats = started.guest.stats();
    assert!(stats.exits.calls > 400 && stats.exits.idle > 0, "{stats:?}");
}

#[test]
fn sockets_work_as_stdio() {
    if !kvm() {
        return;
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("pair");
    let (stdout, writer) = pipe();
    let started = copy_through(theirs, writer);
    let mut input = &ours;
    input.write_all(b"through a socket").expect("write");
    sleep(10 * MS);
    input.write_all(b", twice").expect("write");
    ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
    assert_eq!(drain(stdout), b"through a socket, twice");
}

#[test]
fn files_and_null_are_always_ready() {
    if !kvm() {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().expect("file");
    file.write_all(&[b'x'; 10_000]).expect("write");
    let (stdout, writer) = pipe();
    let started = copy_through(file.reopen().expect("open"), writer);
    assert_eq!(drain(stdout), [b'x'; 10_000]);
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
    let (stdout, writer) = pipe();
    let started = copy_through(fs::File::open("/dev/null").expect("null"), writer);
    assert_eq!(drain(stdout), b"");
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
}

#[test]
fn closed_stdin_is_drained_first() {
    if !kvm() {
        return;
    }
    let ((reader, stdin), (stdout, writer)) = (pipe(), pipe());
    let started = copy_through(reader, writer);
    let mut stdin = fs::File::from(stdin);
    stdin.write_all(b"all of it").expect("write");
    started.guest.close_stdin(0).expect("runs");
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
    assert_eq!(drain(stdout), b"all of it");
}

#[test]
fn descriptions_that_others_share_stay_blocking() {
    if !kvm() {
        return;
    }
    let ((reader, stdin), (stdout, writer)) = (pipe(), pipe());
    let flags = |fd: &std::os::fd::OwnedFd| rustix::fs::fcntl_getfl(fd).expect("flags");
    let before = (flags(&reader), flags(&writer));
    let kept = (reader.try_clone().expect("dup"), writer.try_clone().expect("dup"));
    let started = copy_through(reader, writer);
    drop(stdin);
    drop(kept.0.try_clone());
    assert_eq!(started.end(), Ok(WaitStatus::exited(0)));
    assert_eq!((flags(&kept.0), flags(&kept.1)), before);
    drop(kept);
    assert_eq!(drain(stdout), b"");
}
