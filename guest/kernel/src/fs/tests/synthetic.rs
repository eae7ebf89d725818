//! /proc, /dev and /sys.

use super::*;
use crate::errno::Errno;
use crate::fs::file::{File, flags};
use crate::fs::node::{Target, split_device};
use crate::fs::{Fs, open, pipe};
use crate::mem::user::VecSink;
use seuss_abi::spec::{InjectedFile, LINK};

struct Guest {
    world: World,
    fs: Fs,
}

impl Guest {
    fn new() -> Self {
        let mut world = World::new(&[Item::dir(vec![])]);
        let fs = Fs::new(&world.env, &[]).unwrap();
        world.process.place = Rc::new(FsContext::new(&fs.root, 0o22));
        let program = InjectedFile {
            path: b"/bin/prog".to_vec(),
            mode: 0o755,
            read_only: true,
            content: b"ELF".to_vec(),
        };
        fs.inject(&[program]).unwrap();
        let guest = Self { world, fs };
        let executable = guest.context().walk(&guest.fs.root, b"/bin/prog", true).unwrap();
        let Self { mut world, fs } = guest;
        world.process.executable = Some(executable);
        world
            .process
            .files
            .borrow_mut()
            .insert(fs.memory_file(b"m", (0, 0), false).unwrap(), true, 9)
            .unwrap();
        Self { world, fs }
    }

    fn context(&self) -> Context<'_> {
        self.world.context()
    }

    fn open(&self, path: &str, flags: u32) -> Result<Rc<File>, Errno> {
        self.context().open(&self.fs.root, path.as_bytes(), flags, 0o644)
    }

    fn text(&self, path: &str) -> String {
        let file = self.open(path, 0).unwrap_or_else(|errno| panic!("{path}: {errno:?}"));
        let mut sink = VecSink { bytes: vec![], limit: 1 << 20 };
        while file.read(&mut sink).unwrap_or_else(|errno| panic!("{path}: {errno:?}")) > 0 {}
        String::from_utf8_lossy(&sink.bytes).into_owned()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let file = self.open(path, flags::O_DIRECTORY).unwrap_or_else(|errno| panic!("{path}: {errno:?}"));
        if file.ops().needs_refresh(0) {
            file.ops().refresh(&file, &self.context()).unwrap();
        }
        let mut names = vec![];
        file.ops()
            .list(&file, &mut |entry, _| {
                names.push(String::from_utf8(entry.name.to_vec()).unwrap());
                true
            })
            .unwrap();
        names.split_off(2)
    }

    fn target(&self, path: &str) -> String {
        let context = self.context();
        let node = context.walk(&self.fs.root, path.as_bytes(), false).unwrap();
        match node.target(&context).unwrap() {
            Target::Path(path) => String::from_utf8(path.to_vec()).unwrap(),
            Target::Node(_, text) => String::from_utf8(text).unwrap(),
        }
    }
}

#[test]
fn a_link_of_the_host_leads_somewhere_in_the_guest() {
    let guest = Guest::new();
    let file = |path: &[u8], mode, content: &[u8]| InjectedFile {
        path: path.to_vec(),
        mode,
        read_only: true,
        content: content.to_vec(),
    };
    let files = [
        file(b"/m/absolute", LINK | 0o777, b"/bin/prog"),
        file(b"/m/up", LINK | 0o777, b"../bin/prog"),
        file(b"/m/nowhere", LINK | 0o777, b"/no/such/file"),
        file(b"/m/plain", 0o644, b"text"),
    ];
    guest.fs.inject(&files).unwrap();
    for (path, target) in [("/m/absolute", "/bin/prog"), ("/m/up", "../bin/prog")] {
        assert_eq!((guest.target(path).as_str(), guest.text(path).as_str()), (target, "ELF"));
    }
    assert_eq!(guest.open("/m/nowhere", 0).unwrap_err(), Errno::ENOENT);
    assert_eq!(guest.names("/m"), ["absolute", "nowhere", "plain", "up"]);
    // As a mounted file, and as a link of a read-only mount: it stays.
    assert_eq!(guest.context().unlink(&guest.fs.root, b"/m/up").unwrap_err(), Errno::EBUSY);
}

#[test]
fn every_generated_file_can_be_read() {
    let guest = Guest::new();
    let mut seen = 0;
    let mut left = vec!["/proc".to_string(), "/sys".to_string()];
    while let Some(directory) = left.pop() {
        for name in guest.names(&directory) {
            let path = format!("{directory}/{name}");
            let context = guest.context();
            let node = context.walk(&guest.fs.root, path.as_bytes(), false).unwrap();
            match node.mode() & 0o170_000 {
                0o040_000 => left.push(path),
                0o100_000 => {
                    guest.text(&path);
                    seen += 1;
                }
                _ => drop(guest.target(&path)),
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn a_process_shows_itself() {
    let guest = Guest::new();
    assert_eq!(guest.target("/proc/self"), "7");
    assert_eq!(guest.target("/proc/thread-self"), "7/task/8");
    assert_eq!(guest.target("/proc/self/exe"), "/bin/prog");
    assert_eq!(guest.target("/proc/7/cwd"), "/");
    assert_eq!(guest.target("/proc/self/fd/0"), "/memfd:m (deleted)");
    assert_eq!(guest.text("/proc/self/exe"), "ELF");
    assert_eq!(guest.text("/proc/self/cmdline"), "prog\0arg\0");
    assert_eq!(guest.text("/proc/self/comm"), "prog\n");
    assert!(guest.text("/proc/thread-self/status").contains("\nPid:\t8\nPPid:\t1\n"));
    let stat = guest.text("/proc/self/stat");
    assert!(stat.starts_with("7 (prog) R 1 "), "{stat}");
    assert_eq!(stat.split_whitespace().count(), 52, "{stat}");
    assert_eq!(
        guest.text("/proc/self/maps"),
        format!("00400000-00401000 r-xp 00000000 00:1a 77{}/bin/prog\n", " ".repeat(33)),
    );
    assert_eq!(guest.names("/proc/self/task"), ["7", "8"]);
    assert_eq!(guest.names("/proc/self/fd"), ["0"]);
    assert!(guest.text("/proc/self/fdinfo/0").starts_with("pos:\t0\nflags:\t02100002\n"));
    assert!(guest.names("/proc").contains(&"7".to_string()));
    let limits = guest.text("/proc/self/limits");
    assert!(
        limits.contains("Max open files            unlimited            4096                 files     \n"),
        "{limits}"
    );
    for missing in ["/proc/8", "/proc/07", "/proc/self/fd/1", "/proc/self/nothing", "/proc/self/task/8/task"]
    {
        assert_eq!(guest.open(missing, 0).unwrap_err(), Errno::ENOENT, "{missing}");
    }
}

#[test]
fn directories_of_processes_know_their_place() {
    let guest = Guest::new();
    let context = guest.context();
    let walk = |path: &str| context.walk(&guest.fs.root, path.as_bytes(), true).unwrap();
    assert_eq!(walk("/proc/self/task/8/fd").path(&guest.fs.root).unwrap(), b"/proc/7/task/8/fd");
    assert!(Rc::ptr_eq(&walk("/proc/self/fd/.."), &walk("/proc/7")));
    assert!(Rc::ptr_eq(&walk("/proc/7/../.."), &guest.fs.root));
    assert_eq!(walk("/proc/self").uid(), 5);
}

#[test]
fn settings_reach_the_process() {
    let guest = Guest::new();
    let comm = guest.open("/proc/self/comm", flags::O_RDWR).unwrap();
    comm.write(&mut &b"other\n"[..]).unwrap();
    assert_eq!(*guest.world.process.comm.borrow(), b"other\n");
    // Read from its start again, a text is made anew.
    let mut bytes = [0; 9];
    assert_eq!(comm.read_kernel(0, &mut bytes), Ok(5));
    assert!(comm.ops().needs_refresh(0) || comm.ops().needs_refresh(0));
    comm.ops().refresh(&comm, &guest.context()).unwrap();
    assert_eq!(comm.read_kernel(0, &mut bytes), Ok(7));
    assert_eq!(&bytes[..6], b"other\n");
    assert_eq!(guest.open("/proc/self/stat", flags::O_RDWR).unwrap_err(), Errno::EACCES);
    assert_eq!(guest.open("/proc/new", flags::O_CREAT).unwrap_err(), Errno::ENOENT);
    let other = guest.world.as_user(Subject { uid: 1000, gid: 1000, groups: &[] });
    assert_eq!(other.open(&guest.fs.root, b"/proc/7/environ", 0, 0).unwrap_err(), Errno::EACCES);
    assert_eq!(other.walk(&guest.fs.root, b"/proc/7/exe", true).unwrap_err(), Errno::EACCES);
}

#[test]
fn files_are_opened_again_through_their_descriptors() {
    let guest = Guest::new();
    let (reader, writer) = pipe::make_pipe(&guest.fs.pipes, (0, 0), 0).unwrap();
    let files = guest.world.process.files.clone();
    let fd = files.borrow_mut().insert(writer.clone(), false, 9).unwrap();
    let again = guest.open(&format!("/proc/self/fd/{fd}"), flags::O_WRONLY).unwrap();
    drop(writer);
    files.borrow_mut().close(fd).unwrap();
    again.write(&mut &b"through"[..]).unwrap();
    let mut sink = VecSink { bytes: vec![], limit: 99 };
    assert_eq!(reader.read(&mut sink), Ok(7));
    // A memory file, opened anew, starts at its beginning.
    let memory = files.borrow().get(0).unwrap();
    memory.write(&mut &b"abc"[..]).unwrap();
    let mut bytes = [0; 3];
    assert_eq!(guest.open("/dev/stdin", 0).unwrap().read_kernel(0, &mut bytes), Ok(3));
    assert_eq!(&bytes, b"abc");
}

#[test]
fn mounts_are_listed_and_stay() {
    let guest = Guest::new();
    let mounts = guest.text("/proc/mounts");
    assert!(mounts.starts_with("overlay / overlay rw,relatime 0 0\nproc /proc proc "), "{mounts}");
    let info = guest.text("/proc/self/mountinfo");
    assert!(info.contains(" /dev/shm rw,"), "{info}");
    assert_eq!(info.lines().count(), 6);
    let context = guest.context();
    let root = &guest.fs.root;
    assert_eq!(context.remove_directory(root, b"/proc"), Err(Errno::EBUSY));
    assert_eq!(context.unlink(root, b"/bin/prog"), Err(Errno::EBUSY));
    assert_eq!(guest.open("/bin/prog", flags::O_WRONLY).unwrap_err(), Errno::EROFS);
    let rename = |from: &[u8], to: &[u8]| context.rename((root, from), (root, to), Default::default());
    assert_eq!(rename(b"/dev", b"/x"), Err(Errno::EBUSY));
    context.make_directory(root, b"/dev/shm/d", 0o755).unwrap();
    assert_eq!(rename(b"/dev/shm/d", b"/d"), Err(Errno::EXDEV));
    assert_eq!(context.make_directory(root, b"/sys/d", 0o755).unwrap_err(), Errno::EPERM);
}

#[test]
fn a_read_only_root_leaves_dev_shm_writable() {
    let guest = Guest::new();
    guest.fs.set_read_only_root();
    assert_eq!(guest.open("/new", flags::O_CREAT | flags::O_RDWR).unwrap_err(), Errno::EROFS);
    assert!(guest.open("/dev/shm/new", flags::O_CREAT | flags::O_RDWR).is_ok());
    assert!(guest.open("/dev/null", flags::O_RDWR).is_ok());
    assert!(guest.text("/proc/mounts").starts_with("overlay / overlay ro,"));
}

#[test]
fn memory_devices_do_what_the_manual_says() {
    let guest = Guest::new();
    let read = |path: &str| {
        let mut sink = VecSink { bytes: vec![], limit: 5000 };
        guest.open(path, flags::O_RDWR).unwrap().read(&mut sink).unwrap();
        sink.bytes
    };
    let write = |path: &str| guest.open(path, flags::O_RDWR).unwrap().write(&mut &[1u8; 9][..]);
    assert_eq!(read("/dev/null"), []);
    assert_eq!(read("/dev/zero"), vec![0; 5000]);
    assert_ne!(read("/dev/urandom"), read("/dev/random"));
    assert_eq!(write("/dev/null"), Ok(9));
    assert_eq!(write("/dev/full"), Err(Errno::ENOSPC));
    assert_eq!(guest.open("/dev/tty", 0).unwrap_err(), Errno::ENXIO);
    assert_eq!(guest.target("/dev/fd"), "/proc/self/fd");
    let context = guest.context();
    let null = context.walk(&guest.fs.root, b"/dev/null", true).unwrap().stat();
    assert_eq!((null.mode, split_device(null.rdev)), (0o020_666, (1, 3)));
    let directory = guest.open("/dev", 0).unwrap();
    assert!(directory.ops_as::<open::DirectoryFile>().is_some());
}

#[test]
fn unnamed_files_get_a_name_later() {
    let guest = Guest::new();
    let context = guest.context();
    let tmpfile = flags::O_TMPFILE | flags::O_DIRECTORY | flags::O_RDWR;
    let file = guest.open("/dev/shm", tmpfile).unwrap();
    assert_eq!(file.node().nlink(), 0);
    file.write(&mut &b"late"[..]).unwrap();
    context.link(file.node(), &guest.fs.root, b"/dev/shm/named", true).unwrap();
    assert_eq!(guest.text("/dev/shm/named"), "late");
    assert_eq!(guest.names("/dev/shm"), ["named"]);
}

#[test]
fn a_clone_has_a_boot_id_of_its_own() {
    let guest = Guest::new();
    let boot_id = || guest.text("/proc/sys/kernel/random/boot_id");
    guest.world.env.snapshots.set_id([1; 16]);
    let first = boot_id();
    assert_eq!(boot_id(), first, "it stays for as long as the guest is the same");
    guest.world.env.snapshots.restored(1, [2; 16]);
    assert_ne!(boot_id(), first);
    assert_eq!(boot_id(), boot_id());
}
