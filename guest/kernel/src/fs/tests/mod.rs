//! Tests of the tree, of paths and of open files, on images made in memory.

mod base;
mod host;
mod model;
mod streams;
mod synthetic;
mod tree;

use super::overlay::mount_root;
use super::proc::{Mapping, ProcessInfo, ProcessStatus, Setter, Setting, SystemStatus};
use super::walk::Context;
use super::{Env, FdTable, FsContext, Node, Subject};
use crate::erofs::Image;
use crate::erofs::tests::{Item, image_bytes, load};
use crate::machine::{Counters, Machine};
use crate::mem::frames::Frames;
use crate::wait::Woken;
use seuss_abi::call::Op;
use seuss_abi::comm::Clock;
use seuss_abi::event::Event;
use seuss_abi::net::Submission;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// What the VMM has behind a handle.
#[derive(Default)]
pub(crate) struct Handle {
    pub(crate) input: VecDeque<u8>,
    pub(crate) ended: bool,
    pub(crate) output: Vec<u8>,
    /// Bytes that a write may still take.
    pub(crate) room: usize,
    pub(crate) closed: bool,
    pub(crate) calls: usize,
}

/// A machine whose clock advances with every look and whose handles are scripted.
#[derive(Default)]
pub(crate) struct TestMachine {
    pub(crate) ticks: Cell<u64>,
    pub(crate) frames: OnceCell<Frames>,
    pub(crate) handles: RefCell<BTreeMap<u64, Handle>>,
}

impl TestMachine {
    fn transfer(&self, op: Op, [handle, list, count, ..]: [u64; 6]) -> i64 {
        let (frames, mut handles) = (self.frames.get().unwrap(), self.handles.borrow_mut());
        let Some(handle) = handles.get_mut(&handle) else { return -9 };
        handle.calls += 1;
        let mut moved = 0;
        for index in 0..count {
            let mut segment = [0; 16];
            frames.read(list + index * 16, &mut segment);
            let gpa = u64::from_le_bytes(segment[..8].try_into().unwrap());
            let len = u64::from_le_bytes(segment[8..].try_into().unwrap()) as usize;
            if op == Op::Read {
                let bytes: Vec<u8> = handle.input.drain(..len.min(handle.input.len())).collect();
                frames.write(gpa, &bytes);
                moved += bytes.len();
            } else {
                let mut bytes = vec![0; len.min(handle.room)];
                frames.read(gpa, &mut bytes);
                handle.room -= bytes.len();
                moved += bytes.len();
                handle.output.extend(bytes);
            }
        }
        if moved == 0 && !(op == Op::Read && handle.ended) { -11 } else { moved as i64 }
    }
}

impl Machine for TestMachine {
    fn host_call(&self, op: Op, args: [u64; 6]) -> i64 {
        match op {
            Op::Read | Op::Write => self.transfer(op, args),
            Op::Close => {
                self.handles.borrow_mut().entry(args[0]).or_default().closed = true;
                0
            }
            _ => -38,
        }
    }
    fn host_call_with(&self, op: Op, args: [u64; 6], _payload: &mut [u8]) -> i64 {
        self.host_call(op, args)
    }
    fn submissions(&self) -> (u32, u32) {
        (0, 0)
    }
    fn put_submission(&self, _position: u32, _entry: &Submission) {}
    fn amend_submission(&self, _position: u32, _entry: &Submission) {}
    fn has_event(&self) -> bool {
        false
    }
    fn tsc(&self) -> u64 {
        self.ticks.set(self.ticks.get() + 1);
        self.ticks.get()
    }
    fn clock(&self) -> Clock {
        Clock { mult: 1000, realtime_offset_ns: 1_700_000_000_000_000_000, ..Clock::default() }
    }
    fn next_event(&self) -> Option<Event> {
        None
    }
    fn read_mailbox(&self, _bytes: &mut [u8]) {}
    fn write_capture_area(&self, _bytes: &[u8]) {}
    fn heap_free_bytes(&self) -> usize {
        0
    }
    fn stack(&self) -> (u64, u64) {
        (0, 0)
    }
    fn take_attention(&self) -> bool {
        false
    }
    fn set_wishes(&self, _wants_tick: bool, _next_event_ns: u64) {}
    fn publish(&self, _counters: &Counters) {}
    fn gpa_of(&self, _pointer: *const u8) -> u64 {
        0
    }
    fn load_page_tables(&self, _pml4_gpa: u64) {}
    fn flush_translations(&self) {}
    fn save_extended(&self, _context: *const crate::task::thread::Context, _area: *mut u8) {}
    fn load_extended(&self, _area: *const u8, _context: *mut crate::task::thread::Context) {}
    fn segment_bases(&self) -> (u64, u64) {
        (0, 0)
    }
    fn set_segment_bases(&self, _fs: u64, _gs: u64) {}
}

/// A process table with one process, 7, whose thread is 8.
pub(crate) struct OneProcess {
    pub(crate) place: Rc<FsContext>,
    pub(crate) files: Rc<RefCell<FdTable>>,
    pub(crate) comm: Rc<RefCell<Vec<u8>>>,
    pub(crate) executable: Option<Rc<Node>>,
}

impl ProcessInfo for OneProcess {
    fn current(&self) -> (u32, u32) {
        (7, 8)
    }
    fn pids(&self) -> Vec<u32> {
        vec![7]
    }
    fn threads(&self, pid: u32) -> Vec<u32> {
        if pid == 7 { vec![7, 8] } else { vec![] }
    }
    fn status(&self, pid: u32, tid: u32) -> Option<ProcessStatus> {
        self.threads(pid).contains(&tid).then(|| ProcessStatus {
            ppid: 1,
            comm: self.comm.borrow().clone(),
            state: 'R',
            threads: 2,
            uids: [5; 4],
            gids: [6; 4],
            vm_bytes: 8192,
            ..ProcessStatus::default()
        })
    }
    fn command_line(&self, pid: u32) -> Option<Vec<u8>> {
        (pid == 7).then(|| b"prog\0arg\0".to_vec())
    }
    fn environment(&self, pid: u32) -> Option<Vec<u8>> {
        (pid == 7).then(|| b"A=1\0".to_vec())
    }
    fn auxiliary_vector(&self, _pid: u32) -> Option<Vec<u8>> {
        Some(vec![0; 16])
    }
    fn mappings(&self, pid: u32) -> Option<Vec<Mapping>> {
        (pid == 7).then(|| {
            vec![Mapping {
                start: 0x40_0000,
                end: 0x40_1000,
                rights: (true, false, true),
                shared: false,
                offset: 0,
                identity: (0x1a, 77),
                name: b"/bin/prog".to_vec(),
                rss_bytes: 4096,
            }]
        })
    }
    fn executable(&self, _pid: u32) -> Option<Rc<Node>> {
        self.executable.clone()
    }
    fn place(&self, pid: u32) -> Option<Rc<FsContext>> {
        (pid == 7).then(|| self.place.clone())
    }
    fn files(&self, pid: u32) -> Option<Rc<RefCell<FdTable>>> {
        (pid == 7).then(|| self.files.clone())
    }
    fn limits(&self, _pid: u32) -> Option<[(u64, u64); 16]> {
        Some([(u64::MAX, 4096); 16])
    }
    fn setter(&self, _pid: u32, _tid: u32, setting: Setting) -> Option<Setter> {
        let comm = self.comm.clone();
        (setting == Setting::Comm).then(|| -> Setter {
            Box::new(move |text| {
                *comm.borrow_mut() = text.to_vec();
                Ok(())
            })
        })
    }
    fn system(&self) -> SystemStatus {
        SystemStatus::default()
    }
    fn hostname(&self) -> Vec<u8> {
        b"testhost".to_vec()
    }
}

/// A root file system over layers, the base first, and its only process.
pub(crate) struct World {
    pub(crate) machine: Rc<TestMachine>,
    pub(crate) env: Rc<Env>,
    pub(crate) root: Rc<Node>,
    pub(crate) process: OneProcess,
}

impl World {
    pub(crate) fn new(layers: &[Item]) -> Self {
        Self::with_memory(layers, 1024)
    }

    pub(crate) fn with_memory(layers: &[Item], free_pages: usize) -> Self {
        let blobs: Vec<_> = layers.iter().map(image_bytes).collect();
        let (frames, windows) = load(&blobs, free_pages);
        let random = Rc::new(crate::random::Random::new(&[1; 64]));
        let machine = Rc::new(TestMachine::default());
        machine.frames.set(frames.clone()).unwrap();
        let env = Env::new(&frames, machine.clone(), &Woken::default());
        env.set_random(&random);
        let images = windows.iter().map(|window| Rc::new(Image::open(&frames, *window).unwrap())).collect();
        let root = mount_root(&env, images).unwrap();
        let process = OneProcess {
            place: Rc::new(FsContext::new(&root, 0o22)),
            files: Rc::default(),
            comm: Rc::new(RefCell::new(b"prog".to_vec())),
            executable: None,
        };
        Self { machine, env, root, process }
    }

    /// The superuser's view.
    pub(crate) fn context(&self) -> Context<'_> {
        self.as_user(Subject::ROOT)
    }

    pub(crate) fn as_user<'a>(&'a self, subject: Subject<'a>) -> Context<'a> {
        Context {
            subject,
            root: self.process.place.root(),
            cwd: self.process.place.cwd(),
            umask: self.process.place.umask(),
            processes: &self.process,
        }
    }

    /// All bytes of a file.
    pub(crate) fn content(&self, path: &str) -> Result<Vec<u8>, crate::errno::Errno> {
        let context = self.context();
        let file = context.open(&context.cwd, path.as_bytes(), 0, 0)?;
        let mut sink = crate::mem::user::VecSink { bytes: vec![], limit: 1 << 24 };
        while file.read(&mut sink)? > 0 {}
        Ok(sink.bytes)
    }

    pub(crate) fn write(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<usize, crate::errno::Errno> {
        let context = self.context();
        let file = context.open(&context.cwd, path.as_bytes(), 0o102, 0o644)?;
        let mut source = bytes;
        file.write_at(offset, &mut source)
    }

    /// Names of a directory as open files list them, without `.` and `..`.
    pub(crate) fn names(&self, path: &str) -> Result<Vec<String>, crate::errno::Errno> {
        let context = self.context();
        let file = context.open(&context.cwd, path.as_bytes(), 0, 0)?;
        if file.ops().needs_refresh(0) {
            file.ops().refresh(&file, &context).unwrap();
        }
        let mut names = vec![];
        file.ops().list(&file, &mut |entry, _| {
            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            true
        })?;
        Ok(names.split_off(2))
    }
}
