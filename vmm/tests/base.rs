//! Base snapshots: others start from them, so a guest takes one at most, and only before it can have learnt anything of its own.

mod common;

use std::io::Write as _;
use std::sync::Arc;

use common::{config, kvm, start};
use seuss_snapshotter::snapshot::{ImageRef, Level, Store};
use seuss_vmm::{GuestConfig, GuestEvent, ImageBlob, Keys, SnapshotSink, WaitStatus};

/// A guest that makes a call, then asks (the first 256 frames are copied, one image is named) for a snapshot of `$level` twice; its exit status is 16 times what came of the first attempt and what came of the second: 0 for good, else the errno.
macro_rules! asks {
    ($name:ident: $before:expr, $level:literal) => {
        guest!($name: concat!(
            "movabs rax, 0xaaaaaaaaaaaaaaaa\n lea rdi, [r15 + 0x100000]\n mov ecx, 8\n cld\n rep stosq\n",
            $before,
            "mov qword ptr [r15 + 0x2020], 1\n",
            call!("32", $level, "0x100000000", "0"), "neg rax\n shl rax, 4\n mov r12, rax\n",
            call!("32", $level, "0x100000000", "0"), "neg rax\n or rax, r12\n shl rax, 8\n",
            "mov [r15 + 0x2008], rax\n mov dword ptr [r15 + 0x2000], 1\n int3\n",
        ));
    };
}

asks!(at_once: "", "0");
asks!(after_saying_no: call!("20"), "0");
asks!(after_looking_at_the_network: call!("17"), "0");
asks!(after_an_idle_call: call!("3", "0"), "0");
asks!(a_function: "", "1");
// A program that names no number of images.
guest!(without_images: concat!(
    "movabs rax, 0xaaaaaaaaaaaaaaaa\n lea rdi, [r15 + 0x100000]\n mov ecx, 8\n cld\n rep stosq\n",
    call!("32", "0", "0x100000000", "0"), call!("1", "0x0"),
));

/// Level, key and number of images of the snapshots that the guest has taken, and its exit status.
fn outcome(code: Vec<u8>, base: bool) -> (Vec<(Level, String, usize)>, Option<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(Store::open(dir.path()).expect("a store"));
    let mut images = Vec::new();
    let mut blobs = Vec::new();
    for number in 0..2 {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[number; 4096]).expect("written");
        images.push(ImageRef { digest: [number; 32], len_bytes: 4096 });
        blobs.push(ImageBlob { file: file.into(), len_bytes: 4096, name: "image".into() });
    }
    let keys = Keys::Derived { bases: vec!["base".into()], function: "function".into() };
    let sink = SnapshotSink {
        store: Arc::clone(&store),
        images,
        keys,
        base,
        name: "test".into(),
        command: "test".into(),
        terminal: false,
        allowance: Arc::default(),
    };
    let config = GuestConfig { snapshots: Some(sink), images: blobs, ..config() };
    let started = start(config, code).expect("starts");
    let mut taken = Vec::new();
    let end = loop {
        match started.event() {
            GuestEvent::Captured(Ok(id)) => {
                let snapshot = store.snapshot(id).expect("a snapshot");
                let manifest = snapshot.manifest();
                taken.push((manifest.level, manifest.key.clone(), manifest.images.len()));
            }
            GuestEvent::Ended(result) => break result,
            _ => {}
        }
    };
    (taken, end.as_ref().ok().and_then(|status: &WaitStatus| status.code()))
}

const EPERM: u8 = libc::EPERM as u8;

#[test]
fn one_is_taken_before_anything_else() {
    if !kvm() {
        return;
    }
    let base = || (Level::Base, "base".to_owned(), 1);
    assert_eq!(outcome(at_once(), true), (vec![base()], Some(EPERM)));
    assert_eq!(
        outcome(after_an_idle_call(), true),
        (vec![base()], Some(EPERM)),
        "an idle call brings nothing in"
    );
}

#[test]
fn none_is_taken_later() {
    if !kvm() {
        return;
    }
    let refused = (vec![], Some(EPERM << 4 | EPERM));
    assert_eq!(outcome(after_saying_no(), true), refused);
    assert_eq!(outcome(after_looking_at_the_network(), true), refused);
    assert_eq!(outcome(at_once(), false), refused, "nobody has asked for one");
}

#[test]
fn what_a_program_asks_for_is_its_own() {
    if !kvm() {
        return;
    }
    let function = || (Level::Function, "function".to_owned(), 2);
    assert_eq!(outcome(a_function(), true), (vec![function(), function()], Some(0)));
    assert_eq!(outcome(without_images(), true), (vec![function()], Some(0)));
}
