//! `seussctl run` as people use it.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{elf, skip_without_kvm};
use rustix::process::{Pid, Signal, kill_process};

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");

/// A directory with the programs of [`elf`].
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, program) in [("hello", elf::hello("hello\n", 7)), ("cat", elf::cat()), ("pause", elf::pause())]
    {
        fs::write(dir.path().join(name), program).unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn command(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(SEUSSCTL);
    command.args(["run", "--no-cache", "--rootfs"]).arg(root).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(root: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(root, args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Waits, for at most ten seconds.
fn end(mut child: Child) -> Option<i32> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(Instant::now() < deadline, "seussctl does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn help_tells_exit_codes_and_examples() {
    let help = |args: &[&str]| {
        let output = Command::new(SEUSSCTL).args(args).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(help(&["--help"]).contains("seussctl run --rootfs python.oci.tar"));
    let run = help(&["run", "--help"]);
    for words in [
        "125  SEUSS itself failed",
        "126  the program was found",
        "127  the program, or",
        "SEUSS_LOG",
        "--memory",
    ] {
        assert!(run.contains(words), "{words}");
    }
    let wrong = Command::new(SEUSSCTL).args(["run", "--memory", "lots"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(125));
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("for example 512M"));
}

#[test]
fn what_cannot_run_is_refused_before_a_guest_starts() {
    let root = root();
    fs::write(root.path().join("text"), "no program").unwrap();
    for (args, code, words) in [
        (&["--", "/nosuch"][..], 127, "/nosuch: no such program"),
        (&["--", "/text"], 126, "is not executable"),
        (&[], 125, "no program given"),
        (&["--user", "nobody", "--", "/hello"], 125, "user \"nobody\""),
    ] {
        let (found, stdout, stderr) = run(root.path(), args);
        assert_eq!((found, &*stdout), (Some(code), ""), "{stderr}");
        assert!(stderr.starts_with("seussctl: ") && stderr.contains(words), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let (code, _, stderr) = run(Path::new("/nonexistent"), &["--", "x"]);
    assert_eq!(code, Some(125));
    assert!(stderr.contains("/nonexistent"), "{stderr}");
}

#[test]
fn a_damaged_layer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("layer.erofs");
    let file = fs::File::create(&image).unwrap();
    let options = seuss_snapshotter::erofs::BuildOptions::default();
    seuss_snapshotter::erofs::build_from_dir(root().path(), &file, &options).unwrap();
    let whole = fs::read(&image).unwrap();
    for (what, cut) in [("checksum", None), ("blocks of 4096 bytes; the image has", Some(8192))] {
        let mut bytes = whole.clone();
        match cut {
            None => bytes[1100] ^= 1,
            Some(length) => bytes.truncate(length),
        }
        fs::write(&image, bytes).unwrap();
        let (code, _, stderr) = run(&image, &["--", "/hello"]);
        assert_eq!(code, Some(125), "{stderr}");
        assert!(stderr.contains("is damaged") && stderr.contains(what), "{stderr}");
    }
}

#[test]
fn output_exit_code_and_timings() {
    if skip_without_kvm() {
        return;
    }
    let root = root();
    let timings = tempfile::NamedTempFile::new().unwrap();
    let path = timings.path().to_str().unwrap();
    let (code, stdout, stderr) =
        run(root.path(), &["--timings", path, "--json", "--memory", "64M", "--", "/hello"]);
    assert_eq!((code, &*stdout, &*stderr), (Some(7), "hello\n", ""));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(timings.path()).unwrap()).unwrap();
    assert_eq!(report["exit_code"], 7);
    assert_eq!(report["guest"]["limit_bytes"], 64 << 20);
    for key in ["rootfs_us", "run_us", "total_us"] {
        assert!(report[key].as_u64().unwrap() > 0, "{key}");
    }
    let (code, _, stderr) = run(root.path(), &["--memory", "1M", "--", "/hello"]);
    assert_eq!(code, Some(125));
    assert!(stderr.contains("too small"), "{stderr}");
}

#[test]
fn input_from_a_pipe_to_its_end() {
    if skip_without_kvm() {
        return;
    }
    let root = root();
    let mut child = command(root.path(), &["--", "/cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"through the guest\n").unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut buffer = [0; 18];
    stdout.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"through the guest\n");
    drop(stdin);
    assert_eq!(end(child), Some(1));
}

#[test]
fn signals_are_passed_on() {
    if skip_without_kvm() {
        return;
    }
    let root = root();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129), (Signal::USR1, 138)] {
        let mut child = command(root.path(), &["--", "/pause"]).env("SEUSS_LOG", "info").spawn().unwrap();
        // The log says when the guest runs.
        let mut stderr = child.stderr.take().unwrap();
        let mut log = Vec::new();
        while !String::from_utf8_lossy(&log).contains("seuss_shim::ctl::run: guest started") {
            let mut buffer = [0; 1000];
            let count = stderr.read(&mut buffer).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&log));
            log.extend(&buffer[..count]);
        }
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
        assert_eq!(end(child), Some(code));
    }
}

#[test]
fn a_terminal_is_the_guests_and_comes_back_as_it_was() {
    use rustix::termios::{LocalModes, tcgetattr};
    if skip_without_kvm() {
        return;
    }
    let root = root();
    let main =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&main).unwrap();
    rustix::pty::unlockpt(&main).unwrap();
    let name = rustix::pty::ptsname(&main, Vec::new()).unwrap();
    let side = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let is_raw = || !tcgetattr(&side).unwrap().local_modes.contains(LocalModes::ICANON);
    for (ending, code) in [(b"\x04", 1), (b"\x03", 130)] {
        let mut command = command(root.path(), &["--", "/cat"]);
        command.stdin(side.try_clone().unwrap()).stdout(side.try_clone().unwrap());
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_raw() {
            assert!(Instant::now() < deadline, "the terminal does not become raw");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut main = fs::File::from(main.try_clone().unwrap());
        main.write_all(b"line\r").unwrap();
        let mut seen = Vec::new();
        // The guest's echo, and the program's answer.
        while seen != b"line\r\nline\r\n" {
            let mut byte = [0];
            main.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
            assert!(seen.len() <= 12, "{}", String::from_utf8_lossy(&seen));
        }
        main.write_all(ending).unwrap();
        assert_eq!(end(child), Some(code));
        assert!(!is_raw(), "the terminal is left raw");
        if ending == b"\x03" {
            let mut echo = [0; 2];
            main.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"^C");
        }
    }
}
