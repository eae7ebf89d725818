//! Clones that a pool enters before they are wanted: good ones hold, hostile ones cost the pool nothing but that, and nothing is left of shells that nobody took.

mod common;

use std::fs;
use std::mem::offset_of;
use std::path::Path;
use std::sync::{Arc, mpsc};

use common::{config, kvm, start};
use seuss_abi::comm::{BootBlock, CAPTURE_OFFSET};
use seuss_abi::spec::ProcessSpec;
use seuss_snapshotter::snapshot::Store;
use seuss_vmm::{CloneConfig, Guest, GuestEvent, Keys, Origin, ShellPool, SnapshotSink, Stdio, WaitStatus};

/// Takes a snapshot of itself (its first 256 frames are copied) and ends with status 1. A clone that is to hold goes to label 5, then to label 6; one that
/// is not goes to label 6. Label 6 ends the clone with status 2 plus what rbx, 0 if it did not hold, says: exit statuses are in the second byte of what wait(2) encodes.
macro_rules! clone_guest {
    ($name:ident: $hold:expr) => {
        guest!($name: concat!(
            "xor ebx, ebx\n cmp qword ptr [r15 + 0xc10], 0\n jne 5f\n",
            "cmp qword ptr [r15 + 0x480], 0\n jne 6f\n",
            "movabs rax, 0xaaaaaaaaaaaaaaaa\n lea rdi, [r15 + 0x100000]\n mov ecx, 8\n cld\n rep stosq\n",
            call!("32", "1", "0x100000000", "0"),
            call!("1", "0x100"),
            "5:\n", $hold,
            "6:\n cmp qword ptr [r15 + 0x480], 1\n jne 7f\n cmp qword ptr [r15 + 0xc10], 0\n jne 7f\n",
            "lea rax, [rbx + 2]\n shl rax, 8\n mov [r15 + 0x2008], rax\n mov dword ptr [r15 + 0x2000], 1\n int3\n",
            "7: ud2\n",
        ));
    };
}

// Reads what it is told to: every word that is no page table, at the end in its own tables.
clone_guest!(holds: concat!(
    "mov r12, [r15 + 0xc10]\n lea r13, [r15 + 0x100000]\n",
    "2: dec r12\n jz 4f\n mov rax, [r13]\n add r13, 8\n test al, 1\n jnz 2b\n mov al, [rax]\n jmp 2b\n 4:\n",
    call!("33"),
    "mov ebx, 1\n",
));
clone_guest!(spins: "2: jmp 2b\n");
clone_guest!(halts: "hlt\n");
clone_guest!(exits: call!("1", "0"));
clone_guest!(scribbles: concat!(
    "movabs rax, 0x5555555555555555\n mov rdi, r15\n mov ecx, 0x40000\n cld\n rep stosq\n",
    "lea rdi, [r14 + 0x10000]\n mov ecx, 0x40000\n rep stosq\n ud2\n",
));

#[test]
fn the_offsets_in_the_code_are_those_of_the_contract() {
    assert_eq!(offset_of!(BootBlock, hold), 0xc10);
    assert_eq!(offset_of!(BootBlock, generation), 0x480);
    assert_eq!(CAPTURE_OFFSET, 0x10_0000);
}

/// A snapshot of a guest made of `code`.
fn origin(dir: &Path, code: Vec<u8>) -> Arc<Origin> {
    let store = Arc::new(Store::open(dir).expect("a store"));
    let sink = SnapshotSink {
        store: Arc::clone(&store),
        images: Vec::new(),
        keys: Keys::AsNamed,
        base: false,
        name: "test".into(),
        command: "test".into(),
        terminal: false,
        allowance: Arc::default(),
    };
    let started = start(seuss_vmm::GuestConfig { snapshots: Some(sink), ..config() }, code).expect("starts");
    let id = loop {
        match started.event() {
            GuestEvent::Captured(taken) => break taken.expect("a snapshot"),
            GuestEvent::Ended(result) => panic!("no snapshot: {result:?}"),
            _ => {}
        }
    };
    assert_eq!(started.end(), Ok(WaitStatus::exited(1)));
    Origin::open(&store, id).expect("an origin")
}

/// Runs a clone; its exit status.
fn clone(origin: &Arc<Origin>, pool: Option<&Arc<ShellPool>>) -> Option<u8> {
    let (sender, events) = mpsc::channel();
    let config = CloneConfig {
        origin: Arc::clone(origin),
        process: ProcessSpec { args: vec![b"test".to_vec()], ..ProcessSpec::default() },
        stdio: Stdio::default(),
        name: "clone".into(),
        privileges: seuss_vmm::NetPrivileges::default(),
        snapshots: None,
        pool: pool.cloned(),
    };
    let guest = Guest::restore(config, move |event| {
        let _ = sender.send(event);
    });
    let guest = guest.expect("restores");
    let status = guest.wait().expect("a good end");
    drop((guest, events));
    status.code()
}

/// Runs clones until what they use is known: then a pool enters the next ones ahead of time.
fn learnt(dir: &Path, code: Vec<u8>) -> Arc<Origin> {
    let origin = origin(dir, code);
    for _ in 0..3 {
        assert_eq!(clone(&origin, None), Some(2));
    }
    origin
}

#[test]
fn what_is_learnt_is_kept_when_the_clone_has_ended() {
    if !kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let origin = learnt(dir.path(), holds());
    let set = dir.path().join("snapshots").join(origin.id().to_string()).join("workset");
    // Where KVM pages by shadow tables clones scout; elsewhere those of this test write nothing that is worth keeping.
    let scouts = Path::new("/sys/module/kvm_pvm").exists();
    assert_eq!(set.exists(), scouts, "{}", set.display());
}

#[test]
fn a_clone_from_a_pool_has_held_and_is_told_who_it_is() {
    if !kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let origin = learnt(dir.path(), holds());
    let pool = ShellPool::new(Arc::clone(&origin), 2).expect("a pool");
    for _ in 0..4 {
        pool.wait().expect("a shell");
        assert_eq!(clone(&origin, Some(&pool)), Some(3), "it was entered ahead of time");
    }
}

#[test]
fn clones_that_do_not_hold_are_started_when_they_are_wanted() {
    if !kvm() {
        return;
    }
    for code in [spins(), halts(), exits(), scribbles()] {
        let dir = tempfile::tempdir().expect("a directory");
        let origin = learnt(dir.path(), code);
        let pool = ShellPool::new(Arc::clone(&origin), 1).expect("a pool");
        for _ in 0..2 {
            pool.wait().expect("a shell all the same");
            assert_eq!(clone(&origin, Some(&pool)), Some(2));
        }
        // Its thread may be with the next one.
        drop(pool);
        drop(ShellPool::new(origin, 3).expect("a pool"));
    }
}

#[test]
fn what_is_to_be_learnt_is_learnt_although_the_first_pool_was_of_no_use() {
    if !kvm() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let origin = origin(dir.path(), holds());
    for _ in 0..3 {
        let pool = ShellPool::new(Arc::clone(&origin), 2).expect("a pool");
        pool.wait().expect("a shell");
    }
    let pool = ShellPool::new(Arc::clone(&origin), 1).expect("a pool");
    let statuses: Vec<_> = (0..6)
        .map(|_| {
            pool.wait().expect("a shell");
            clone(&origin, Some(&pool))
        })
        .collect();
    assert_eq!(statuses.last(), Some(&Some(3)), "{statuses:?}");
}

#[test]
fn shells_that_nobody_takes_give_everything_back() {
    if !kvm() {
        return;
    }
    // A process of its own, because the other tests of this one have threads and descriptors as well.
    if std::env::var_os("SEUSS_TEST_ALONE").is_none() {
        let own = std::env::current_exe().expect("own path");
        let output = std::process::Command::new(own)
            .args([
                "--exact",
                "shells_that_nobody_takes_give_everything_back",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("SEUSS_TEST_ALONE", "1")
            .output()
            .expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let origin = learnt(dir.path(), holds());
    let windows = || {
        let maps = fs::read_to_string("/proc/self/maps").expect("proc");
        maps.lines().filter(|line| line.contains("kvm-vcpu")).count()
    };
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).expect("proc").count();
    let left = || (count("fd"), count("task"), windows());
    let before = left();
    for wait in [true, false] {
        let pool = ShellPool::new(Arc::clone(&origin), 3).expect("a pool");
        if wait {
            pool.wait().expect("a shell");
            assert_ne!(left(), before);
        }
        drop(pool);
        assert_eq!(left(), before);
    }
}
