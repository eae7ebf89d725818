use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl};
use rustix::pipe::pipe;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use seuss_abi::call::Segment;
use seuss_abi::layout::{LARGE_PAGE_SIZE, PRIVATE_GPA};

use super::*;
use crate::memory::{Direction, Gpa, Memory};

const EAGAIN: i64 = -(libc::EAGAIN as i64);
const NOW: Option<Timespec> = Some(Timespec { tv_sec: 0, tv_nsec: 0 });

/// Handles and a memory whose bytes from gpa `PRIVATE_GPA` + 4096 are read and written.
struct Scene {
    handles: Handles,
    wake: OwnedFd,
    memory: Memory,
}

impl Scene {
    fn new() -> Self {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
        let handles = Handles::new(wake.try_clone().expect("dup")).expect("epoll");
        Self { handles, wake, memory: Memory::new(LARGE_PAGE_SIZE, vec![]).expect("memory") }
    }

    fn adopt(&mut self, stdin: Option<OwnedFd>, stdout: Option<OwnedFd>) {
        self.handles.adopt_first(Stdio { stdin, stdout, stderr: None }).expect("adopts");
    }

    fn list(&self, len_bytes: u64, direction: Direction) -> SegmentList<'_> {
        let segment = Segment { gpa: PRIVATE_GPA + 4096, len_bytes };
        self.memory.private().store(Gpa(PRIVATE_GPA), segment).expect("inside");
        SegmentList::resolve(&self.memory, Gpa(PRIVATE_GPA), 1, direction).expect("inside")
    }

    fn read(&mut self, number: u32) -> Result<Vec<u8>, i64> {
        let list =
            SegmentList::resolve(&self.memory, Gpa(PRIVATE_GPA), 1, Direction::IntoGuest).expect("inside");
        let count = self.handles.read(number, list);
        let mut bytes = vec![0; usize::try_from(count).map_err(|_| count)?];
        self.memory.private().read(Gpa(PRIVATE_GPA + 4096), &mut bytes).expect("inside");
        Ok(bytes)
    }

    fn write(&mut self, number: u32, len_bytes: u64) -> i64 {
        drop(self.list(len_bytes, Direction::OutOfGuest));
        let list =
            SegmentList::resolve(&self.memory, Gpa(PRIVATE_GPA), 1, Direction::OutOfGuest).expect("inside");
        self.handles.write(number, list)
    }

    /// Everything that is ready: (handle, bits), coalesced.
    fn ready(&mut self) -> Vec<(u32, u64)> {
        let mut seen = Vec::new();
        self.handles.wait(NOW, 100, |event| seen.push((event.a, event.b))).expect("waits");
        seen.sort_unstable();
        seen
    }
}

#[test]
fn edges_follow_eagain() {
    let mut scene = Scene::new();
    let ((stdin, source), (sink, stdout)) = (pipe().expect("pipe"), pipe().expect("pipe"));
    let (mut source, mut sink) = (File::from(source), File::from(sink));
    scene.adopt(Some(stdin), Some(stdout));
    drop(scene.list(100, Direction::IntoGuest));
    assert_eq!(scene.ready(), [(1, WRITABLE)], "how things stand at first");
    assert_eq!(scene.read(0), Err(EAGAIN));
    assert_eq!(scene.ready(), []);
    source.write_all(b"abc").expect("write");
    assert_eq!(scene.ready(), [(0, READABLE)]);
    assert_eq!(scene.ready(), [], "an edge comes once");
    assert_eq!(scene.read(0).as_deref(), Ok(&b"abc"[..]));
    drop(source);
    assert_eq!(scene.ready(), [(0, READABLE | HANGUP)]);
    assert_eq!(scene.read(0).as_deref(), Ok(&b""[..]));

    let mut written = 0;
    let full = loop {
        match scene.write(1, 4096) {
            count if count < 0 => break count,
            count => written += count as usize,
        }
        assert_eq!(scene.ready(), [], "no wake-ups for a reader that nobody waits for");
    };
    assert_eq!(full, EAGAIN);
    let mut bytes = vec![0; written];
    sink.read_exact(&mut bytes).expect("read");
    assert_eq!(scene.ready(), [(1, WRITABLE)]);
    drop(sink);
    assert!(scene.ready().iter().all(|&(number, bits)| number == 1 && bits & ERROR != 0));
    assert_eq!(scene.write(1, 10), -i64::from(libc::EPIPE));
}

#[test]
fn handles_are_numbered_once() {
    let mut scene = Scene::new();
    let stdio = || Stdio { stdin: None, stdout: Some(pipe().expect("pipe").1), stderr: None };
    assert_eq!(scene.handles.adopt_first(stdio()), Ok([NO_HANDLE, 1, NO_HANDLE]));
    assert_eq!(scene.handles.adopt(Channels::of(stdio()).expect("channels")), Ok([NO_HANDLE, 4, NO_HANDLE]));
    assert_eq!(scene.handles.close(4), 0);
    assert_eq!(scene.handles.close(4), -i64::from(libc::EBADF));
    assert_eq!(scene.handles.adopt(Channels::of(stdio()).expect("channels")), Ok([NO_HANDLE, 7, NO_HANDLE]));
    scene.handles.next = NO_HANDLE - 3;
    assert_eq!(scene.handles.adopt(Channels::of(stdio()).expect("channels")).err(), Some(Errno::MFILE));
}

#[test]
fn a_wake_up_and_room_are_respected() {
    let mut scene = Scene::new();
    let null = || Some(OwnedFd::from(File::open("/dev/null").expect("null")));
    scene.adopt(null(), None);
    rustix::io::write(&scene.wake, &1_u64.to_ne_bytes()).expect("write");
    let mut events = Vec::new();
    let waited = scene.handles.wait(None, 0, |event| events.push(event)).expect("waits");
    assert_eq!(
        (waited, events.len()),
        (Waited::default(), 0),
        "no room: nothing is taken, nothing is waited for"
    );
    let waited = scene.handles.wait(None, 5, |event| events.push(event)).expect("waits");
    assert!(waited.woken);
    assert_eq!(events.iter().map(|event| (event.a, event.b)).collect::<Vec<_>>(), [(0, READABLE)]);
    let waited = scene.handles.wait(NOW, 5, |event| events.push(event)).expect("waits");
    assert!(!waited.woken, "the counter was taken back");
}

/// What `read` gives within a second: a terminal hands its input over in a thread of the kernel.
fn read_soon(scene: &mut Scene, number: u32) -> Result<Vec<u8>, i64> {
    for _ in 0..1_000 {
        match scene.read(number) {
            Err(EAGAIN) => std::thread::sleep(std::time::Duration::from_millis(1)),
            result => return result,
        }
    }
    Err(EAGAIN)
}

fn pty() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("pty");
    grantpt(&master).expect("grant");
    unlockpt(&master).expect("unlock");
    let name = ptsname(&master, Vec::new()).expect("name");
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("slave");
    (master, slave)
}

#[test]
fn a_terminal_is_not_left_non_blocking() {
    let mut scene = Scene::new();
    let (master, slave) = pty();
    let shared = slave.try_clone().expect("dup");
    scene.adopt(Some(slave.try_clone().expect("dup")), Some(slave));
    drop(scene.list(100, Direction::IntoGuest));
    assert_eq!(scene.read(0), Err(EAGAIN));
    assert!(!fcntl_getfl(&shared).expect("flags").contains(OFlags::NONBLOCK));
    let mut master = File::from(master);
    scene.ready();
    master.write_all(b"line\n").expect("write");
    let mut seen = Vec::new();
    while !seen.contains(&(0, READABLE)) {
        let timeout = Some(Timespec { tv_sec: 5, tv_nsec: 0 });
        let before = seen.len();
        scene.handles.wait(timeout, 100, |event| seen.push((event.a, event.b & READABLE))).expect("waits");
        assert!(seen.len() > before, "in time");
    }
    assert_eq!(scene.read(0).as_deref(), Ok(&b"line\n"[..]));
    assert_eq!(scene.write(1, 10), 10);
}

#[test]
fn a_pty_master_is_used_as_it_is() {
    let mut scene = Scene::new();
    let (master, slave) = pty();
    let mut slave = File::from(slave);
    scene.adopt(Some(master), None);
    drop(scene.list(100, Direction::IntoGuest));
    assert_eq!(scene.read(0), Err(EAGAIN), "the master blocks, its reader must not");
    slave.write_all(b"from the slave").expect("write");
    assert_eq!(read_soon(&mut scene, 0).as_deref(), Ok(&b"from the slave"[..]), "not another pty's");
    assert!((1..=10).contains(&scene.write(0, 10)));
}

#[test]
fn a_fifo_is_opened_anew() {
    let mut scene = Scene::new();
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("fifo");
    let open = || {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path).expect("open")
    };
    let mut source = open();
    scene.adopt(Some(open().into()), None);
    drop(scene.list(100, Direction::IntoGuest));
    assert_eq!(scene.read(0), Err(EAGAIN));
    source.write_all(b"x").expect("write");
    assert!(scene.ready().iter().any(|&(number, bits)| number == 0 && bits & READABLE != 0));
    assert_eq!(scene.read(0).as_deref(), Ok(&b"x"[..]));
    scene.handles.finish_input(0);
    source.write_all(b"last").expect("write");
    assert!(scene.ready().contains(&(0, READABLE | HANGUP)));
    assert_eq!(scene.read(0).as_deref(), Ok(&b"last"[..]), "what is there is read first");
    assert_eq!(scene.read(0).as_deref(), Ok(&b""[..]));
}

#[test]
fn closing_ends_events_although_others_keep_the_description() {
    let mut scene = Scene::new();
    let (stdin, source) = pipe().expect("pipe");
    let kept = stdin.try_clone().expect("dup");
    scene.adopt(Some(stdin), None);
    assert_eq!(scene.handles.close(0), 0);
    File::from(source).write_all(b"x").expect("write");
    assert_eq!(scene.ready(), []);
    assert!(kept.as_raw_fd() >= 0);
}
