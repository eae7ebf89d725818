//! A root file system whose upper layers are hung in late.

use super::*;
use crate::errno::Errno;
use crate::fs::base::{Conflict, attach};

fn runtime() -> Item {
    Item::dir(vec![
        ("bin", Item::link("usr/bin")),
        (
            "usr",
            Item::dir(vec![
                ("bin", Item::dir(vec![("python", Item::file(b"elf").mode(0o755))])),
                ("lib", Item::dir(vec![("os.py", Item::file(b"os")), ("site.py", Item::file(b"site"))])),
            ]),
        ),
        ("etc", Item::dir(vec![("passwd", Item::file(b"root"))])),
    ])
}

fn application() -> Item {
    Item::dir(vec![
        ("app", Item::dir(vec![("main.py", Item::file(b"main"))]).mode(0o700)),
        (
            "usr",
            Item::dir(vec![(
                "lib",
                Item::dir(vec![("flask.py", Item::file(b"flask")), ("libflask.so.2", Item::file(b"elf"))])
                    .mode(0o711),
            )]),
        ),
    ])
}

/// A world of the runtime's layers, and the images above, not shown.
struct Phase {
    world: World,
    images: Vec<Rc<Image>>,
    runtime: u8,
}

impl Phase {
    fn new(runtime: &[Item], above: &[Item]) -> Self {
        let all: Vec<_> = runtime.iter().chain(above).cloned().collect();
        let blobs: Vec<_> = all.iter().map(image_bytes).collect();
        let (frames, windows) = load(&blobs, 2048);
        let machine = Rc::new(TestMachine::default());
        machine.frames.set(frames.clone()).unwrap();
        let env = Env::new(&frames, machine.clone(), &Woken::default());
        let images: Vec<_> =
            windows.iter().map(|window| Rc::new(Image::open(&frames, *window).unwrap())).collect();
        let root = mount_root(&env, images[..runtime.len()].to_vec()).unwrap();
        let process = OneProcess {
            place: Rc::new(FsContext::new(&root, 0o22)),
            files: Rc::default(),
            comm: Rc::new(RefCell::new(b"prog".to_vec())),
            executable: None,
        };
        env.base.set_up();
        let images = images[runtime.len()..].to_vec();
        attach(&root, runtime.len() as u8, &[], Some(&images)).unwrap();
        let world = World { machine, env, root, process };
        Self { world, images, runtime: runtime.len() as u8 }
    }

    fn running(above: &Item) -> Self {
        let phase = Self::new(&[runtime()], std::slice::from_ref(above));
        phase.world.env.base.run();
        phase
    }

    fn look(&self, path: &str) -> Result<Rc<Node>, Errno> {
        let context = self.world.context();
        context.walk(&context.cwd, path.as_bytes(), true)
    }

    /// Whether looking at `path` is a hit.
    fn hits(&self, path: &str) -> bool {
        let found = self.look(path);
        let hit = self.world.env.base.take_hit();
        assert!(!hit || found.is_err());
        hit
    }

    fn end(&self, images: &[Rc<Image>]) -> Result<(), Conflict> {
        self.world.env.base.end();
        attach(&self.world.root, self.runtime, images, None)
    }

    /// The images of another application, in the same memory.
    fn others(&self, above: &Item) -> Vec<Rc<Image>> {
        let frames = &self.world.env.frames;
        let bytes = image_bytes(above);
        let pages = bytes.len().div_ceil(4096);
        let kept: Vec<_> = (0..pages).map(|_| frames.allocate().unwrap()).collect();
        let gpa = kept.iter().map(|frame| frame.gpa()).min().unwrap();
        assert!(kept.iter().all(|frame| frame.gpa() < gpa + pages as u64 * 4096), "contiguous");
        frames.write(gpa, &bytes);
        std::mem::forget(kept);
        let window = seuss_abi::comm::ImageWindow { gpa, len_bytes: pages as u64 * 4096 };
        vec![Rc::new(Image::open(frames, window).unwrap())]
    }
}

#[test]
fn what_is_the_runtimes_is_found_and_missed_without_a_hit() {
    let phase = Phase::running(&application());
    for path in ["/bin/python", "/usr/lib/os.py", "/etc/passwd", "/usr/lib", "/"] {
        assert!(phase.look(path).is_ok() && !phase.world.env.base.has_hit(), "{path}");
    }
    for path in ["/usr/lib/missing.py", "/srv", "/etc/ld.so.cache"] {
        assert_eq!(phase.look(path).unwrap_err(), Errno::ENOENT, "{path}");
    }
    assert!(!phase.world.env.base.has_hit());
    assert_eq!(phase.world.names("/usr/bin").unwrap(), ["python"]);
    assert!(!phase.world.env.base.has_hit(), "nothing above has /usr/bin");
}

#[test]
fn what_the_layers_above_would_answer_is_a_hit_and_is_there_afterwards() {
    let phase = Phase::running(&application());
    assert!(phase.hits("/app") && phase.hits("/app/main.py") && phase.hits("/usr/lib/flask.py"));
    assert!(phase.world.names("/usr/lib").is_err() && phase.world.env.base.take_hit(), "a listing");
    phase.look("/usr/lib/os.py").unwrap();
    phase.end(&phase.images).unwrap();
    assert_eq!(phase.world.content("/app/main.py").unwrap(), b"main");
    assert_eq!(phase.world.content("/usr/lib/flask.py").unwrap(), b"flask");
    assert_eq!(phase.world.names("/usr/lib").unwrap(), ["flask.py", "libflask.so.2", "os.py", "site.py"]);
    let lib = phase.look("/usr/lib").unwrap().stat();
    assert_eq!((lib.mode & 0o777, lib.nlink), (0o711, 2));
    assert_eq!(phase.look("/").unwrap().stat().nlink, 2 + 3);
    assert!(!phase.world.env.base.has_hit());
}

#[test]
fn the_tree_is_then_as_if_all_layers_had_been_there() {
    let phase = Phase::running(&application());
    for path in ["/usr/lib/os.py", "/usr/bin/python", "/missing"] {
        let _ = phase.look(path);
    }
    phase.end(&phase.images).unwrap();
    let whole = World::new(&[runtime(), application()]);
    let mut todo = vec!["/".to_owned()];
    while let Some(path) = todo.pop() {
        let names = whole.names(&path).unwrap();
        assert_eq!(phase.world.names(&path).unwrap(), names, "{path}");
        for name in names {
            let path = format!("{}/{name}", path.trim_end_matches('/'));
            let [there, here] = [&whole, &phase.world].map(|world| {
                let context = world.context();
                let node = context.walk(&context.cwd, path.as_bytes(), false).unwrap();
                (node.is_directory(), node.mode(), node.size(), node.stat().nlink)
            });
            assert_eq!(here, there, "{path}");
            if here.0 {
                todo.push(path);
            }
        }
    }
}

#[test]
fn another_application_is_hung_in_where_the_program_has_seen_nothing_of_it() {
    let phase = Phase::running(&application());
    let _ = (phase.look("/usr/lib/os.py"), phase.look("/usr/lib/missing.py"), phase.hits("/app"));
    let other = phase.others(&Item::dir(vec![
        ("srv", Item::dir(vec![("x", Item::file(b"x"))])),
        ("usr", Item::dir(vec![("lib", Item::dir(vec![("django.py", Item::file(b"d"))]))])),
    ]));
    phase.end(&other).unwrap();
    assert_eq!(phase.look("/app").unwrap_err(), Errno::ENOENT);
    assert_eq!(phase.look("/usr/lib/flask.py").unwrap_err(), Errno::ENOENT);
    assert_eq!(phase.world.content("/usr/lib/django.py").unwrap(), b"d");
    assert_eq!(phase.world.content("/srv/x").unwrap(), b"x");
}

#[test]
fn another_application_that_changes_what_was_seen_is_refused() {
    let lib = |name: &str, item: Item| {
        Item::dir(vec![("usr", Item::dir(vec![("lib", Item::dir(vec![(name, item)]))]))])
    };
    let refused = [
        ("/usr/lib/os.py", lib("os.py", Item::file(b"other")), "/usr/lib/os.py"),
        ("/usr/lib/os.py", lib("os.py", Item::whiteout()), "/usr/lib/os.py"),
        ("/usr/lib/missing.py", lib("missing.py", Item::file(b"new")), "/usr/lib/missing.py"),
        ("/usr/lib/os.py", Item::dir(vec![("usr", Item::file(b""))]), "/usr"),
        ("/usr/lib/os.py", Item::dir(vec![("usr", Item::dir(vec![]).opaque())]), "/usr"),
        ("/usr/lib/os.py", Item::dir(vec![]).opaque(), "/"),
    ];
    for (seen, above, path) in refused {
        let phase = Phase::running(&application());
        let _ = phase.look(seen);
        let other = phase.others(&above);
        assert_eq!(phase.end(&other), Err(Conflict::Path(path.into())), "{seen}");
    }
    // A listing is remembered, too.
    let phase = Phase::running(&Item::dir(vec![]));
    phase.world.names("/usr/lib").unwrap();
    let other = phase.others(&lib("new.py", Item::file(b"")));
    assert_eq!(phase.end(&other), Err(Conflict::Path(b"/usr/lib".to_vec())));
}

#[test]
fn places_for_what_the_vmm_gives_merge_with_the_layers() {
    let phase = Phase::new(&[runtime()], &[application()]);
    let context = phase.world.context();
    // As Fs::make_directories does it for a working directory and a mounted file.
    let app = context.walk(&context.cwd, b"/app", true).unwrap();
    assert!(!phase.world.env.base.has_hit());
    phase.world.process.place.set_cwd(app.clone());
    phase.world.env.base.run();
    assert!(phase.hits("main.py") && !phase.hits("other.py"));
    phase.end(&phase.images).unwrap();
    assert_eq!(phase.world.content("main.py").unwrap(), b"main");
    assert_eq!(phase.look("/app").unwrap().mode() & 0o777, 0o700);
    assert!(Rc::ptr_eq(&phase.look("/app").unwrap(), &app));
}

#[test]
fn files_of_the_vmm_are_not_the_runtimes() {
    let phase = Phase::new(&[runtime()], &[application()]);
    let etc = phase.look("/etc").unwrap();
    let data = crate::fs::node::Kind::Regular(crate::fs::data::Data::empty());
    let given = Node::system(etc.fs(), 0o100_644, data);
    given.add_flags(crate::fs::node::Flags::MOUNTED);
    etc.insert_entry(b"hosts", &given);
    assert!(phase.look("/etc/hosts").is_ok());
    phase.world.env.base.run();
    assert!(phase.hits("/etc/hosts"));
    phase.end(&phase.images).unwrap();
    assert!(phase.look("/etc/hosts").is_ok());
}

#[test]
fn programs_of_the_layers_between_belong_to_the_runtime() {
    let base = Item::dir(vec![("usr", Item::dir(vec![("bin", Item::dir(vec![]))]))]);
    let phase = Phase::new(&[base], &[runtime(), application()]);
    phase.world.env.base.run();
    assert!(phase.hits("/usr/bin/python"));
    assert_eq!(phase.world.env.base.take_program(), Some(1));
    // What `Kernel::extend_runtime` does.
    attach(&phase.world.root, 1, &phase.images[..1], Some(&phase.images[1..])).unwrap();
    assert!(phase.look("/usr/bin/python").is_ok() && phase.look("/usr/lib/os.py").is_ok());
    assert!(phase.hits("/usr/lib/libflask.so.2"));
    assert_eq!(phase.world.env.base.take_program(), Some(2), "the loader's files, executable or not");
    assert!(phase.hits("/usr/lib/flask.py"));
    assert_eq!(phase.world.env.base.take_program(), None, "not executable");
    phase.world.env.base.end();
    attach(&phase.world.root, 2, &phase.images[1..], None).unwrap();
    assert_eq!(phase.world.content("/usr/lib/flask.py").unwrap(), b"flask");
}

#[test]
fn nothing_that_was_seen_is_forgotten() {
    let phase = Phase::running(&application());
    for n in 0..3000 {
        assert_eq!(phase.look(&format!("/etc/{n}")).unwrap_err(), Errno::ENOENT);
    }
    let other = phase.others(&Item::dir(vec![("etc", Item::dir(vec![("0", Item::file(b""))]))]));
    assert_eq!(phase.end(&other), Err(Conflict::Path(b"/etc/0".to_vec())));
    // Nor is memory used up: the phase ends.
    let phase = Phase::running(&application());
    let ended = (0..1_u32 << 17).any(|n| phase.hits(&format!("/etc/{n}")));
    assert!(ended);
}

/// The program may be in the topmost layer; an image that has more layers is compared all the same.
#[test]
fn all_layers_may_be_the_runtimes() {
    let phase = Phase::new(&[runtime()], &[]);
    phase.world.env.base.run();
    assert!(phase.look("/usr/lib/os.py").is_ok() && phase.look("/app").is_err());
    assert!(!phase.world.env.base.has_hit());
    let other = phase.others(&application());
    assert_eq!(phase.end(&other), Err(Conflict::Path(b"/app".to_vec())));
}
