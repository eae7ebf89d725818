//! Streams of the VMM, and the terminal's line discipline.

use super::*;
use crate::errno::Errno;
use crate::fs::file::{File, UserMemory, flags};
use crate::fs::tty::TERMIOS_BYTES;
use crate::fs::{Fs, tty::Terminal};
use crate::mem::user::VecSink;
use crate::wait::Readiness;
use seuss_abi::event;
use seuss_abi::spec::ProcessSpec;

fn guest() -> (World, Fs) {
    let world = World::new(&[Item::dir(vec![])]);
    let fs = Fs::new(&world.env, &[]).unwrap();
    for handle in 0..3 {
        world.machine.handles.borrow_mut().insert(handle, Handle { room: 1 << 20, ..Handle::default() });
    }
    (world, fs)
}

fn read(file: &File, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut sink = VecSink { bytes: vec![], limit };
    file.read(&mut sink).map(|_| sink.bytes)
}

fn output(world: &World, handle: u64) -> Vec<u8> {
    std::mem::take(&mut world.machine.handles.borrow_mut().get_mut(&handle).unwrap().output)
}

fn send(world: &World, handle: u64, bytes: &[u8]) {
    world.machine.handles.borrow_mut().get_mut(&handle).unwrap().input.extend(bytes);
    world.env.handles.ready(handle as u32, event::READABLE);
}

#[test]
fn standard_streams_reach_the_vmm() {
    let (world, fs) = guest();
    let spec = ProcessSpec { stdio: [0, 1, u32::MAX], ..ProcessSpec::default() };
    let ([stdin, stdout, stderr], terminal) = fs.stdio(&spec).unwrap();
    assert!(terminal.is_none());
    assert_eq!(stdout.write(&mut &vec![7u8; 100_000][..]), Ok(65_536));
    assert_eq!(output(&world, 1), vec![7; 65_536]);
    assert_eq!(stderr.write(&mut &b"lost"[..]), Ok(4));
    assert_eq!(read(&stdin, 10), Err(Errno::EAGAIN));
    let calls = world.machine.handles.borrow()[&0].calls;
    assert_eq!(stdin.poll(), Readiness::empty());
    assert_eq!(world.machine.handles.borrow()[&0].calls, calls, "a known EAGAIN needs no call");
    stdin.ops().notifier().unwrap().register(5);
    send(&world, 0, b"line\n");
    assert_eq!(world.env.woken.take(), [5]);
    assert_eq!(stdin.poll(), Readiness::READABLE);
    assert_eq!(read(&stdin, 3).unwrap(), b"lin");
    assert_eq!(read(&stdin, 30).unwrap(), b"e\n");
    // The edge is used up: polling must not promise what reading cannot give.
    assert_eq!(stdin.poll(), Readiness::empty());
    world.machine.handles.borrow_mut().get_mut(&0).unwrap().ended = true;
    world.env.handles.ready(0, event::READABLE | event::HANGUP);
    assert_eq!(stdin.poll(), Readiness::READABLE | Readiness::HANGUP);
    assert_eq!(read(&stdin, 3).unwrap(), b"");
    drop(stdin);
    assert!(world.machine.handles.borrow()[&0].closed);
}

#[test]
fn output_that_the_vmm_does_not_take_waits() {
    let (world, fs) = guest();
    let spec = ProcessSpec { stdio: [u32::MAX, 1, 1], ..ProcessSpec::default() };
    let ([_, stdout, stderr], _) = fs.stdio(&spec).unwrap();
    world.machine.handles.borrow_mut().get_mut(&1).unwrap().room = 3;
    assert_eq!(stdout.write(&mut &b"hello"[..]), Ok(3));
    assert_eq!(stdout.write(&mut &b"lo"[..]), Err(Errno::EAGAIN));
    assert_eq!(stderr.poll(), Readiness::empty());
    world.machine.handles.borrow_mut().get_mut(&1).unwrap().room = 9;
    world.env.handles.ready(1, event::WRITABLE);
    assert_eq!(stderr.poll(), Readiness::WRITABLE);
    assert_eq!(stdout.write(&mut &b"lo"[..]), Ok(2));
    assert_eq!(output(&world, 1), b"hello");
}

struct Memory(RefCell<Vec<u8>>);

impl UserMemory for Memory {
    fn load(&self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        bytes.copy_from_slice(&self.0.borrow()[address as usize..][..bytes.len()]);
        Ok(())
    }
    fn store(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0.borrow_mut()[address as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

fn terminal() -> (World, Fs, Rc<File>, Rc<Terminal>) {
    let (world, fs) = guest();
    let spec = ProcessSpec { stdio: [0, 1, 1], terminal: true, window: (24, 80), ..ProcessSpec::default() };
    let ([file, ..], terminal) = fs.stdio(&spec).unwrap();
    (world, fs, file, terminal.unwrap())
}

#[test]
fn lines_are_edited_echoed_and_read_one_by_one() {
    let (world, _fs, file, _terminal) = terminal();
    assert_eq!(read(&file, 99), Err(Errno::EAGAIN));
    send(&world, 0, b"lx\x7fs -l");
    assert_eq!(read(&file, 99), Err(Errno::EAGAIN));
    assert_eq!(file.poll(), Readiness::WRITABLE);
    send(&world, 0, b"\rnext\n");
    assert_eq!(output(&world, 1), b"lx\x08 \x08s -l\r\nnext\r\n");
    assert_eq!(file.poll(), Readiness::WRITABLE | Readiness::READABLE);
    assert_eq!(read(&file, 3).unwrap(), b"ls ");
    assert_eq!(read(&file, 99).unwrap(), b"-l\n");
    assert_eq!(read(&file, 99).unwrap(), b"next\n");
    send(&world, 0, "one two\x17\u{e9}\x7f!\n".as_bytes());
    assert_eq!(read(&file, 99).unwrap(), b"one !\n");
    send(&world, 0, b"gone\x15kept\n\x04");
    assert_eq!(read(&file, 99).unwrap(), b"kept\n");
    assert_eq!(read(&file, 99).unwrap(), b"");
    assert_eq!(read(&file, 99), Err(Errno::EAGAIN));
    assert_eq!(file.write(&mut &b"a\nb"[..]), Ok(3));
    assert!(output(&world, 1).ends_with(b"a\r\nb"));
}

#[test]
fn keys_send_signals_to_the_foreground() {
    let (world, _fs, file, terminal) = terminal();
    terminal.foreground().set(7);
    send(&world, 0, b"half\x03");
    assert_eq!(world.env.terminals.take_signals(), [(7, 2)]);
    assert_eq!(output(&world, 1), b"half^C");
    send(&world, 0, b"\x1a\x1c\n");
    assert_eq!(world.env.terminals.take_signals(), [(7, 20), (7, 3)]);
    assert_eq!(read(&file, 99).unwrap(), b"\n");
    terminal.set_window((30, 100));
    terminal.set_window((30, 100));
    assert_eq!(world.env.terminals.take_signals(), [(7, 28)]);
}

#[test]
fn attributes_can_be_read_and_set() {
    let (world, fs, file, terminal) = terminal();
    let memory = Memory(RefCell::new(vec![0; 64]));
    let ioctl = |request, at| file.ops().ioctl(&file, &memory, request, at);
    ioctl(0x5401, 0).unwrap();
    let mut raw: [u8; TERMIOS_BYTES] = memory.0.borrow()[..TERMIOS_BYTES].try_into().unwrap();
    // No ICANON, no ECHO, no ISIG; no OPOST.
    raw[12] &= !0b1011;
    raw[4] = 0;
    memory.0.borrow_mut()[..TERMIOS_BYTES].copy_from_slice(&raw);
    ioctl(0x5402, 0).unwrap();
    send(&world, 0, b"a\x03\x7f");
    assert_eq!(read(&file, 2).unwrap(), b"a\x03");
    assert_eq!(read(&file, 2).unwrap(), b"\x7f");
    assert_eq!(output(&world, 1), b"");
    file.write(&mut &b"\n"[..]).unwrap();
    assert_eq!(output(&world, 1), b"\n");
    ioctl(0x5413, 40).unwrap();
    assert_eq!(memory.0.borrow()[40..44], [24, 0, 80, 0]);
    assert_eq!(ioctl(0xdead, 0), Err(Errno::ENOTTY));
    let context = world.context();
    let tree = Context { root: fs.root.clone(), cwd: fs.root.clone(), ..context };
    let node = tree.walk(&tree.cwd, b"/dev/pts/0", true).unwrap();
    assert!(Rc::ptr_eq(&node, file.node()));
    assert_eq!(node.path(&fs.root).unwrap(), b"/dev/pts/0");
    drop((file, terminal));
    assert_eq!(tree.walk(&tree.cwd, b"/dev/pts/0", true).unwrap_err(), Errno::ENOENT);
}

#[test]
fn slow_terminals_hold_the_writer_back() {
    let (world, _fs, file, _terminal) = terminal();
    world.machine.handles.borrow_mut().get_mut(&1).unwrap().room = 10;
    let text = vec![b'x'; 50_000];
    let taken = file.write(&mut &text[..]).unwrap();
    assert!(taken < 5000);
    assert_eq!(file.write(&mut &text[..]), Err(Errno::EAGAIN));
    assert_eq!(file.poll(), Readiness::empty());
    world.machine.handles.borrow_mut().get_mut(&1).unwrap().room = 100_000;
    file.ops().notifier().unwrap().register(3);
    world.env.handles.ready(1, event::WRITABLE);
    assert_eq!(world.env.woken.take(), [3]);
    assert_eq!(output(&world, 1).len(), taken);
}

#[test]
fn pseudo_terminals_join_a_master_and_a_terminal() {
    let (world, fs) = guest();
    let tree = Context { root: fs.root.clone(), cwd: fs.root.clone(), ..world.context() };
    let open = |path: &str| tree.open(&tree.cwd, path.as_bytes(), flags::O_RDWR | flags::O_NOCTTY, 0);
    let master = open("/dev/ptmx").unwrap();
    assert_eq!(open("/dev/pts/0").unwrap_err(), Errno::EIO);
    let memory = Memory(RefCell::new(vec![0; 64]));
    let ioctl = |file: &Rc<File>, request| file.ops().ioctl(file, &memory, request, 0);
    ioctl(&master, 0x4004_5431).unwrap();
    assert_eq!(ioctl(&master, 0x8004_5430), Ok(0));
    assert_eq!(memory.0.borrow()[..4], [0; 4]);
    let slave = open("/dev/pts/0").unwrap();
    assert_eq!(master.write(&mut &b"hello\r"[..]), Ok(6));
    assert_eq!(read(&master, 99).unwrap(), b"hello\r\n");
    assert_eq!(read(&slave, 99).unwrap(), b"hello\n");
    assert_eq!(read(&slave, 99), Err(Errno::EAGAIN));
    slave.ops().notifier().unwrap().register(7);
    assert_eq!(slave.write(&mut &b"out\n"[..]), Ok(4));
    assert_eq!(master.poll(), Readiness::READABLE | Readiness::WRITABLE);
    assert_eq!(read(&master, 99).unwrap(), b"out\r\n");
    assert_eq!(world.env.woken.take(), [7]);
    // A writer that is not read is held back, and goes on.
    let taken = slave.write(&mut &[b'x'; 50_000][..]).unwrap();
    assert!(taken < 6000);
    assert_eq!(slave.write(&mut &b"x"[..]), Err(Errno::EAGAIN));
    assert_eq!(slave.poll(), Readiness::empty());
    assert_eq!(read(&master, 99_999).unwrap().len(), taken);
    assert_eq!(slave.poll(), Readiness::WRITABLE);
    let again = open("/dev/pts/0").unwrap();
    drop(slave);
    assert_eq!(read(&master, 9), Err(Errno::EAGAIN));
    drop(again);
    assert_eq!(read(&master, 9), Err(Errno::EIO));
    assert!(master.poll().contains(Readiness::HANGUP));
    let slave = open("/dev/pts/0").unwrap();
    let other = open("/dev/ptmx").unwrap();
    assert_eq!(ioctl(&other, 0x8004_5430), Ok(0));
    assert_eq!(memory.0.borrow()[..4], [1, 0, 0, 0]);
    drop(master);
    assert_eq!(read(&slave, 9).unwrap(), b"");
    assert_eq!(slave.write(&mut &b"x"[..]), Err(Errno::EIO));
    assert!(slave.poll().contains(Readiness::HANGUP));
    drop(slave);
    assert_eq!(open("/dev/pts/0").unwrap_err(), Errno::ENOENT);
}
