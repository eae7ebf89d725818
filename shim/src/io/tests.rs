use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

const OWNER: Owner<'static> = Owner { namespace: "test", id: "c1" };

fn fifo(dir: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn read_now(file: &mut File) -> Result<Vec<u8>, io::ErrorKind> {
    let mut buffer = [0; 100];
    file.read(&mut buffer).map(|count| buffer[..count].to_vec()).map_err(|e| e.kind())
}

fn nonblocking_reader(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

#[test]
fn nothing_named_is_nothing_opened() {
    let mut io = ProcessIo::open(&StdioNames::default(), OWNER).unwrap();
    let stdio = io.take_stdio();
    assert!(stdio.stdin.is_none() && stdio.stdout.is_none() && stdio.stderr.is_none());
    io.say("to nobody");
}

#[test]
fn opening_does_not_wait_for_containerd() {
    let dir = tempfile::tempdir().unwrap();
    let names = StdioNames {
        stdin: text(&fifo(&dir, "in")),
        stdout: text(&fifo(&dir, "out")),
        stderr: text(&fifo(&dir, "err")),
        terminal: false,
    };
    let mut io = ProcessIo::open(&names, OWNER).unwrap();
    let stdio = io.take_stdio();
    assert!(stdio.stdin.is_some() && stdio.stdout.is_some() && stdio.stderr.is_some());
    assert!(io.take_stdio().stdin.is_none(), "a second guest gets none");
}

#[test]
fn stdin_ends_with_close_io_after_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "in");
    let mut io = ProcessIo::open(&StdioNames { stdin: text(&path), ..StdioNames::default() }, OWNER).unwrap();
    let mut stdin = File::from(io.take_stdio().stdin.unwrap());
    assert_eq!(read_now(&mut stdin), Err(io::ErrorKind::WouldBlock), "no writer yet is not the end");
    {
        let mut client = OpenOptions::new().write(true).open(&path).unwrap();
        client.write_all(b"hello").unwrap();
    }
    assert_eq!(read_now(&mut stdin), Ok(b"hello".to_vec()));
    assert_eq!(read_now(&mut stdin), Err(io::ErrorKind::WouldBlock), "one client's end is not the end");
    let mut client = OpenOptions::new().write(true).open(&path).unwrap();
    client.write_all(b"last").unwrap();
    io.close_stdin();
    drop(client);
    assert_eq!(read_now(&mut stdin), Ok(b"last".to_vec()));
    assert_eq!(read_now(&mut stdin), Ok(Vec::new()));
}

#[test]
fn output_survives_a_reader_that_goes_away_and_ends_when_all_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let mut io =
        ProcessIo::open(&StdioNames { stdout: text(&path), ..StdioNames::default() }, OWNER).unwrap();
    let mut stdout = File::from(io.take_stdio().stdout.unwrap());
    drop(nonblocking_reader(&path));
    stdout.write_all(b"one").unwrap();
    let mut reader = nonblocking_reader(&path);
    assert_eq!(read_now(&mut reader), Ok(b"one".to_vec()));
    io.say("from the shim");
    assert_eq!(
        read_now(&mut reader),
        Ok(b"from the shim\n".to_vec()),
        "without stderr, messages go to stdout"
    );
    drop(stdout);
    assert_eq!(read_now(&mut reader), Err(io::ErrorKind::WouldBlock));
    io.close();
    assert_eq!(read_now(&mut reader), Ok(Vec::new()));
}

#[test]
fn a_full_fifo_says_so_instead_of_blocking() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let mut io =
        ProcessIo::open(&StdioNames { stdout: text(&path), ..StdioNames::default() }, OWNER).unwrap();
    let mut stdout = File::from(io.take_stdio().stdout.unwrap());
    let error = loop {
        if let Err(error) = stdout.write(&[0; 4096]) {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    io.say("no room for this");
}

#[test]
fn a_terminal_has_one_output() {
    let dir = tempfile::tempdir().unwrap();
    let path = fifo(&dir, "out");
    let names = StdioNames { stdout: text(&path), terminal: true, ..StdioNames::default() };
    let stdio = ProcessIo::open(&names, OWNER).unwrap().take_stdio();
    let mut reader = nonblocking_reader(&path);
    File::from(stdio.stderr.unwrap()).write_all(b"both").unwrap();
    assert_eq!(read_now(&mut reader), Ok(b"both".to_vec()));
}

#[test]
fn files_get_both_streams_appended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/a.log");
    let names = StdioNames { stdout: format!("file://{}", path.display()), ..StdioNames::default() };
    for round in ["1", "2"] {
        let stdio = ProcessIo::open(&names, OWNER).unwrap().take_stdio();
        File::from(stdio.stdout.unwrap()).write_all(format!("out{round}\n").as_bytes()).unwrap();
        File::from(stdio.stderr.unwrap()).write_all(format!("err{round}\n").as_bytes()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), "out1\nerr1\nout2\nerr2\n");
}

#[test]
fn logging_programs_get_output_arguments_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let (script, log) = (dir.path().join("log.sh"), dir.path().join("log"));
    let body = "#!/bin/sh\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID $1 $2 $3\" >\"$2\"\nexec 5>&-\ncat <&3 >>\"$2\"\ncat <&4 >>\"$2\"\necho end >>\"$2\"\n";
    std::fs::write(&script, body).unwrap();
    rustix::fs::chmod(&script, Mode::from_raw_mode(0o755)).unwrap();
    let names = StdioNames {
        stdout: format!("binary://{}?to={}&with%20space", script.display(), log.display()),
        ..StdioNames::default()
    };
    let mut io = ProcessIo::open(&names, OWNER).unwrap();
    let stdio = io.take_stdio();
    File::from(stdio.stdout.unwrap()).write_all(b"out\n").unwrap();
    File::from(stdio.stderr.unwrap()).write_all(b"err\n").unwrap();
    drop(io);
    let wanted = format!("test c1 to {} with space\nout\nerr\nend\n", log.display());
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::read_to_string(&log).unwrap_or_default() != wanted {
        assert!(Instant::now() < deadline, "{:?}", std::fs::read_to_string(&log));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_cannot_be_opened_is_named() {
    let missing = StdioNames { stdout: "/nonexistent/fifo".into(), ..StdioNames::default() };
    let error = ProcessIo::open(&missing, OWNER).unwrap_err().to_string();
    assert!(error.contains("stdout /nonexistent/fifo"), "{error}");
    let scheme = StdioNames { stdout: "npipe:///x".into(), ..StdioNames::default() };
    let error = ProcessIo::open(&scheme, OWNER).unwrap_err().to_string();
    assert!(error.contains("\"npipe\""), "{error}");
    let program = StdioNames { stdout: "binary:///nonexistent/program".into(), ..StdioNames::default() };
    let error = ProcessIo::open(&program, OWNER).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/program"), "{error}");
}
