//! Pipes, descriptors, counters and epoll.

use super::*;
use crate::errno::Errno;
use crate::fs::env::{ANON_INODEFS, PIPEFS};
use crate::fs::epoll::{EDGE, Epoll, ONE_SHOT};
use crate::fs::eventfd::EventCounter;
use crate::fs::file::{File, FileOps, flags};
use crate::fs::locks::Record;
use crate::fs::node::Kind;
use crate::fs::pipe::{PIPE_BUF, PipeEnd, make_pipe};
use crate::fs::{FileSystem, notify::Watcher};
use crate::mem::user::VecSink;
use crate::wait::Readiness;
use proptest::prelude::*;

fn world() -> World {
    World::new(&[Item::dir(vec![("f", Item::file(b"file"))])])
}

fn pipe(world: &World) -> (Rc<File>, Rc<File>) {
    make_pipe(&FileSystem::new(&world.env, PIPEFS, None), (0, 0), 0).unwrap()
}

fn write(file: &File, bytes: &[u8]) -> Result<usize, Errno> {
    file.write(&mut &bytes[..])
}

fn read(file: &File, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut sink = VecSink { bytes: vec![], limit };
    file.read(&mut sink).map(|_| sink.bytes)
}

fn anonymous(world: &World, ops: Rc<dyn FileOps>) -> Rc<File> {
    let fs = FileSystem::new(&world.env, ANON_INODEFS, None);
    File::new(Node::anonymous(&fs, 0o600, (0, 0), b"anon_inode:[x]", Kind::Anonymous), ops, flags::O_RDWR)
}

#[test]
fn pipes_hand_bytes_on_and_end() {
    let world = world();
    let (reader, writer) = pipe(&world);
    assert_eq!(read(&reader, 1), Err(Errno::EAGAIN));
    assert_eq!(reader.poll(), Readiness::empty());
    assert_eq!(writer.poll(), Readiness::WRITABLE);
    assert_eq!(write(&writer, b"hello"), Ok(5));
    assert_eq!(reader.poll(), Readiness::READABLE);
    assert_eq!(read(&reader, 2).unwrap(), b"he");
    assert_eq!(
        reader.node().path(&world.root).unwrap(),
        format!("pipe:[{}]", reader.node().ino()).into_bytes()
    );
    drop(writer);
    assert_eq!(reader.poll(), Readiness::READABLE | Readiness::HANGUP);
    assert_eq!(read(&reader, 9).unwrap(), b"llo");
    assert_eq!(read(&reader, 9).unwrap(), b"");
    let (reader, writer) = pipe(&world);
    drop(reader);
    assert_eq!(writer.poll(), Readiness::WRITABLE | Readiness::ERROR);
    assert_eq!(write(&writer, b"x"), Err(Errno::EPIPE));
}

#[test]
fn small_writes_to_a_pipe_are_whole_or_wait() {
    let world = world();
    let (reader, writer) = pipe(&world);
    let capacity = writer.ops_as::<PipeEnd>().unwrap().pipe().capacity();
    assert_eq!(write(&writer, &vec![1; capacity - 10]), Ok(capacity - 10));
    assert_eq!(write(&writer, &[2; 11]), Err(Errno::EAGAIN));
    assert_eq!(write(&writer, &[2; PIPE_BUF + 1]), Ok(10));
    assert!(!writer.poll().contains(Readiness::WRITABLE));
    assert_eq!(read(&reader, PIPE_BUF).unwrap().len(), PIPE_BUF);
    assert!(writer.poll().contains(Readiness::WRITABLE));
    let pipe = reader.ops_as::<PipeEnd>().unwrap().pipe().clone();
    assert_eq!(pipe.set_capacity(5000), Err(Errno::EBUSY));
    assert_eq!(pipe.set_capacity(100_000), Ok(131_072));
    assert_eq!(pipe.set_capacity(2 << 20), Err(Errno::EPERM));
}

#[test]
fn waiters_of_a_pipe_are_woken() {
    let world = world();
    let (reader, writer) = pipe(&world);
    reader.ops().notifier().unwrap().register(42);
    write(&writer, b"x").unwrap();
    assert_eq!(world.env.woken.take(), [42]);
    reader.ops().notifier().unwrap().register(43);
    drop(writer);
    assert_eq!(world.env.woken.take(), [43]);
}

#[test]
fn fifos_in_the_tree_meet() {
    let world = world();
    let context = world.context();
    context.make_node(&context.cwd, b"/fifo", 0o010_644, 0).unwrap();
    let open = |flags| context.open(&context.cwd, b"/fifo", flags, 0);
    assert_eq!(open(flags::O_WRONLY | flags::O_NONBLOCK).unwrap_err(), Errno::ENXIO);
    let reader = open(flags::O_RDONLY | flags::O_NONBLOCK).unwrap();
    assert_eq!(read(&reader, 4).unwrap(), b"");
    assert_eq!(reader.poll(), Readiness::empty());
    let writer = open(flags::O_WRONLY).unwrap();
    write(&writer, b"abcd").unwrap();
    drop(writer);
    assert_eq!(reader.poll(), Readiness::READABLE | Readiness::HANGUP);
    assert_eq!(read(&reader, 4).unwrap(), b"abcd");
    let both = open(flags::O_RDWR).unwrap();
    write(&both, b"z").unwrap();
    assert_eq!(read(&both, 4).unwrap(), b"z");
}

#[test]
fn counters_count() {
    let world = world();
    let counter = anonymous(&world, EventCounter::new(&world.env.woken, 3, false));
    assert_eq!(read(&counter, 4), Err(Errno::EINVAL));
    assert_eq!(read(&counter, 8).unwrap(), 3u64.to_le_bytes());
    assert_eq!(read(&counter, 8), Err(Errno::EAGAIN));
    assert_eq!(write(&counter, &(u64::MAX - 1).to_le_bytes()), Ok(8));
    assert_eq!(write(&counter, &1u64.to_le_bytes()), Err(Errno::EAGAIN));
    assert_eq!(write(&counter, &u64::MAX.to_le_bytes()), Err(Errno::EINVAL));
    assert_eq!(counter.poll(), Readiness::READABLE);
    let semaphore = anonymous(&world, EventCounter::new(&world.env.woken, 2, true));
    assert_eq!(read(&semaphore, 8).unwrap(), 1u64.to_le_bytes());
    assert_eq!(read(&semaphore, 8).unwrap(), 1u64.to_le_bytes());
    assert_eq!(read(&semaphore, 8), Err(Errno::EAGAIN));
}

const IN: u32 = 1;
const OUT: u32 = 4;
const HUP: u32 = 0x10;

#[test]
fn level_triggered_files_are_told_while_they_are_ready() {
    let world = world();
    let epoll = Epoll::new(&world.env.woken);
    let (reader, writer) = pipe(&world);
    epoll.add(5, &reader, IN, 77).unwrap();
    assert_eq!(epoll.add(5, &reader, IN, 77), Err(Errno::EEXIST));
    assert_eq!(epoll.collect(8), []);
    write(&writer, b"ab").unwrap();
    for _ in 0..3 {
        assert_eq!(epoll.collect(8), [(IN, 77)]);
    }
    read(&reader, 9).unwrap();
    assert_eq!(epoll.collect(8), []);
    epoll.modify(5, &reader, 0, 77).unwrap();
    write(&writer, b"ab").unwrap();
    assert_eq!(epoll.collect(8), []);
    epoll.modify(5, &reader, IN, 78).unwrap();
    drop(writer);
    assert_eq!(epoll.collect(8), [(IN | HUP, 78)]);
    epoll.delete(5, &reader).unwrap();
    assert_eq!(epoll.collect(8), []);
    assert_eq!(epoll.delete(5, &reader), Err(Errno::ENOENT));
}

#[test]
fn edges_and_one_shots_are_told_once() {
    let world = world();
    let epoll = Epoll::new(&world.env.woken);
    let (reader, writer) = pipe(&world);
    epoll.add(5, &reader, IN | EDGE, 1).unwrap();
    epoll.add(6, &writer, OUT | EDGE, 2).unwrap();
    assert_eq!(epoll.collect(8), [(OUT, 2)]);
    assert_eq!(epoll.collect(8), []);
    write(&writer, b"a").unwrap();
    assert_eq!(epoll.collect(8), [(IN, 1)]);
    assert_eq!(epoll.collect(8), []);
    // More of what is there already is an edge too, and so is what comes after a drained pipe.
    write(&writer, b"b").unwrap();
    assert_eq!(epoll.collect(8), [(IN, 1)]);
    read(&reader, 9).unwrap();
    write(&writer, b"c").unwrap();
    assert_eq!(epoll.collect(1), [(OUT, 2)]);
    assert_eq!(epoll.collect(1), [(IN, 1)]);
    epoll.modify(5, &reader, IN | ONE_SHOT, 3).unwrap();
    assert_eq!(epoll.collect(8), [(IN, 3)]);
    write(&writer, b"d").unwrap();
    assert_eq!(epoll.collect(8), []);
    epoll.modify(5, &reader, IN | ONE_SHOT, 4).unwrap();
    assert_eq!(epoll.collect(8), [(IN, 4)]);
}

#[test]
fn closed_files_leave_an_instance() {
    let world = world();
    let epoll = Epoll::new(&world.env.woken);
    let (reader, writer) = pipe(&world);
    epoll.add(5, &reader, IN, 1).unwrap();
    write(&writer, b"x").unwrap();
    drop(reader);
    assert_eq!(epoll.collect(8), []);
    for _ in 0..500 {
        let (reader, _writer) = pipe(&world);
        epoll.add(5, &reader, IN, 1).unwrap();
    }
    assert!(epoll.watched() <= 64);
}

#[test]
fn instances_watch_instances_but_not_in_circles() {
    let world = world();
    let (reader, writer) = pipe(&world);
    let instances: Vec<_> = (0..7).map(|_| Epoll::new(&world.env.woken)).collect();
    let files: Vec<_> = instances.iter().map(|epoll| anonymous(&world, epoll.clone())).collect();
    instances[0].add(3, &reader, IN, 0).unwrap();
    for n in 1..5 {
        instances[n].add(3, &files[n - 1], IN, n as u64).unwrap();
    }
    assert_eq!(instances[5].add(3, &files[4], IN, 5), Err(Errno::ELOOP));
    assert_eq!(instances[0].add(4, &files[4], IN, 9), Err(Errno::ELOOP));
    assert_eq!(instances[0].add(4, &files[0], IN, 9), Err(Errno::EINVAL));
    assert_eq!(
        instances[0].add(4, &world.context().open(&world.root, b"f", 0, 0).unwrap(), IN, 9),
        Err(Errno::EPERM)
    );
    files[4].ops().notifier().unwrap().register(99);
    write(&writer, b"x").unwrap();
    assert_eq!(world.env.woken.take(), [99]);
    assert_eq!(files[4].poll(), Readiness::READABLE);
    assert_eq!(instances[4].collect(8), [(IN, 4)]);
    read(&reader, 8).unwrap();
    assert_eq!(files[4].poll(), Readiness::empty());
}

#[test]
fn a_watcher_may_go_while_it_is_told() {
    struct Silent;
    impl Watcher for Silent {
        fn notified(&self, _events: Readiness) {}
    }
    let world = world();
    let (reader, writer) = pipe(&world);
    let watcher: Rc<dyn Watcher> = Rc::new(Silent);
    reader.ops().notifier().unwrap().watch(Rc::downgrade(&watcher));
    drop(watcher);
    write(&writer, b"x").unwrap();
}

#[test]
fn descriptors_are_the_lowest_free_ones() {
    let world = world();
    let file = || world.context().open(&world.root, b"f", 0, 0).unwrap();
    let mut table = FdTable::new();
    for want in 0..5 {
        assert_eq!(table.insert(file(), want % 2 == 0, 6), Ok(want));
    }
    table.close(1).unwrap();
    table.close(3).unwrap();
    assert_eq!(table.close(3), Err(Errno::EBADF));
    assert_eq!(table.insert_from(file(), false, 2, 6), Ok(3));
    assert_eq!(table.insert(file(), false, 6), Ok(1));
    assert_eq!(table.insert(file(), false, 6), Ok(5));
    assert_eq!(table.insert(file(), false, 6), Err(Errno::EMFILE));
    assert_eq!(table.insert_at(6, file(), false, 6), Err(Errno::EBADF));
    assert_eq!(table.insert_at(-1, file(), false, 6), Err(Errno::EBADF));
    let child = table.fork().unwrap();
    table.exec();
    assert_eq!(table.descriptors().collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(child.descriptors().count(), 6);
    assert_eq!(table.insert(file(), false, 6), Ok(0));
    table.close_range(1, 3, false);
    assert_eq!(table.descriptors().collect::<Vec<_>>(), [0, 5]);
    table.close_range(0, u32::MAX, true);
    assert_eq!(table.close_on_exec(5), Ok(true));
    table.close_all();
    assert_eq!(table.insert(file(), false, 6), Ok(0));
}

#[test]
fn closing_any_descriptor_of_a_file_releases_its_record_locks() {
    let world = world();
    let file = || world.context().open(&world.root, b"f", flags::O_RDWR, 0).unwrap();
    let (mut table, mut other) = (FdTable::new(), FdTable::new());
    other.insert(file(), false, 9).unwrap();
    let locked = file();
    table.insert(locked.clone(), false, 9).unwrap();
    table.insert(file(), false, 9).unwrap();
    let lock =
        |table: &FdTable| Record { owner: table.lock_owner(), pid: 1, start: 0, end: 9, exclusive: true };
    locked.node().locks().set(lock(&table)).unwrap();
    assert_eq!(locked.node().locks().set(lock(&other)), Err(Errno::EAGAIN));
    table.close(1).unwrap();
    locked.node().locks().set(lock(&other)).unwrap();
    drop(other);
    locked.node().locks().set(lock(&table)).unwrap();
    // flock belongs to the description: the copy keeps it.
    locked.node().locks().lock(locked.id(), true).unwrap();
    let second = file();
    assert_eq!(second.node().locks().lock(second.id(), false), Err(Errno::EAGAIN));
    drop(locked);
    drop(table);
    second.node().locks().lock(second.id(), false).unwrap();
}

proptest! {
    #[test]
    fn a_pipe_is_a_queue_of_bytes(steps in proptest::collection::vec((any::<bool>(), 1usize..20_000), 1..60)) {
        let world = world();
        let (reader, writer) = pipe(&world);
        let (mut sent, mut got, mut next) = (vec![], vec![], 0u8);
        for (writes, len) in steps {
            if writes {
                let bytes: Vec<u8> = (0..len).map(|at| next.wrapping_add(at as u8)).collect();
                match write(&writer, &bytes) {
                    Ok(count) => {
                        prop_assert!(count == len || len > PIPE_BUF);
                        sent.extend_from_slice(&bytes[..count]);
                        next = next.wrapping_add(count as u8);
                    }
                    Err(errno) => prop_assert_eq!(errno, Errno::EAGAIN),
                }
            } else {
                match read(&reader, len) {
                    Ok(bytes) => got.extend(bytes),
                    Err(errno) => {
                        prop_assert_eq!(errno, Errno::EAGAIN);
                        prop_assert_eq!(&got, &sent);
                    }
                }
            }
        }
        drop(writer);
        loop {
            let bytes = read(&reader, 9999).unwrap();
            if bytes.is_empty() {
                break;
            }
            got.extend(bytes);
        }
        prop_assert_eq!(got, sent);
    }
}
