//! Environments as a clone finds them, on stacks as execve(2) builds them.

use super::*;
use crate::exec::elf::Loaded;
use crate::exec::layout::Layout;
use crate::exec::stack::{self, IDENTITY_ROOM};
use crate::mem::frames::testing::frames;
use crate::task::credentials::Credentials;
use proptest::prelude::*;
use std::string::String;

fn strings(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// A program with this environment, in a space of its own.
fn program(env: &[Vec<u8>], identity: &[&str]) -> (Space, Program) {
    let frames = frames(2048, 1);
    let template = frames.allocate_kernel().unwrap().into_gpa();
    let mut space = Space::new(&frames, template).unwrap();
    let credentials = Credentials::new(0, 0, Vec::new());
    let loaded = Loaded { entry: 0, base: 0, headers: 0, header_count: 0, range: (0, 0), code_end: 0 };
    let contents = stack::Contents {
        args: &strings(&["prog", "arg"]),
        env,
        identity: &strings(identity),
        path: b"/prog",
        program: loaded,
        interpreter_base: 0,
        credentials: &credentials,
        random: [7; 16],
        hwcap: 0,
        signal_stack_min: 0,
        vdso: 0,
    };
    let built = stack::build(&mut space, &contents, &Layout::FIXED, 1 << 20, false).unwrap();
    let program = Program {
        environment: built.environment,
        identity: built.identity,
        stack: built.pointer,
        auxv: built.auxv,
        ..Program::default()
    };
    (space, program)
}

/// What the program finds by its array of pointers.
fn seen(space: &mut Space, program: &Program) -> Vec<String> {
    let mut list = Vec::new();
    for index in 0.. {
        let mut bytes = [0; 8];
        // argc is 2.
        space.read(program.stack + 8 * (4 + index), &mut bytes).unwrap();
        let pointer = u64::from_le_bytes(bytes);
        if pointer == 0 {
            break;
        }
        list.push(String::from_utf8(space.read_string(pointer, 1 << 20, Errno::E2BIG).unwrap()).unwrap());
    }
    list
}

#[test]
fn values_are_replaced_whether_shorter_or_longer() {
    let (mut space, mut program) =
        program(&strings(&["HOSTNAME=one", "A=1", "POD_IP=::1", "Z=2"]), &["HOSTNAME", "POD_IP", "NODE"]);
    assert_eq!(
        seen(&mut space, &program),
        ["HOSTNAME=one", "A=1", "POD_IP=::1", "Z=2"],
        "the order is execve's"
    );
    for name in ["a-much-longer-name-than-before", "x", &"n".repeat(IDENTITY_ROOM), "back"] {
        let new = std::format!("HOSTNAME={name}");
        change(&mut space, &mut program, &strings(&[&new, "A=9", "NODE=n"]), &[]).unwrap();
        assert_eq!(seen(&mut space, &program)[0], new);
        assert!(program.moved_environment.is_empty(), "it had room");
    }
    // A variable that is not the guest's identity has the room of its value.
    assert_eq!(seen(&mut space, &program)[1..], ["A=9", "POD_IP=::1", "Z=2"]);
}

#[test]
fn what_has_no_room_goes_elsewhere() {
    let (mut space, mut program) = program(&strings(&["LABELS=a", "HOSTNAME=one"]), &["LABELS", "HOSTNAME"]);
    let long = std::format!("LABELS={}", "l".repeat(20_000));
    change(&mut space, &mut program, &strings(&[&long, "HOSTNAME=two"]), &[]).unwrap();
    assert_eq!(seen(&mut space, &program), [&*long, "HOSTNAME=two"]);
    assert_eq!(program.moved_environment.len(), 1);
    // A clone of that clone: in place, where it is now; and longer still.
    for (value, pieces) in [("short".into(), 1), ("m".repeat(15_000), 1), ("k".repeat(70_000), 2)] {
        let new = std::format!("LABELS={value}");
        change(&mut space, &mut program, &strings(&[&new]), &[]).unwrap();
        assert_eq!(seen(&mut space, &program), [&*new, "HOSTNAME=two"]);
        assert_eq!(program.moved_environment.len(), pieces);
    }
}

#[test]
fn what_this_clone_does_not_have_is_taken_away() {
    let (mut space, mut program) =
        program(&strings(&["POD_IP=10.0.0.7", "HOSTNAME=one", "A=1"]), &["POD_IP", "HOSTNAME"]);
    change(&mut space, &mut program, &strings(&["HOSTNAME=two"]), &strings(&["POD_IP", "HOSTNAME"])).unwrap();
    assert_eq!(seen(&mut space, &program), ["", "HOSTNAME=two", "A=1"]);
    let mut block = vec![0; (program.environment.1 - program.environment.0) as usize];
    space.read(program.environment.0, &mut block).unwrap();
    assert!(!block.windows(8).any(|window| window == b"10.0.0.7"));
}

#[test]
fn a_program_that_has_unmapped_or_overwritten_its_stack_is_left_alone() {
    let (mut space, mut program) = program(&strings(&["HOSTNAME=one"]), &["HOSTNAME"]);
    space.write(program.stack, &u64::MAX.to_le_bytes()).unwrap();
    let long = std::format!("HOSTNAME={}", "l".repeat(1000));
    assert_eq!(change(&mut space, &mut program, &strings(&[&long]), &[]), Err(Errno::EFAULT));
    let start = program.environment.0 & !(PAGE_SIZE - 1);
    space.unmap(start, PAGE_SIZE).unwrap();
    assert!(change(&mut space, &mut program, &strings(&["HOSTNAME=two"]), &[]).is_err());
}

#[test]
fn at_random_is_found() {
    let (mut space, program) = program(&[], &[]);
    let mut bytes = [0; 16];
    space.read(program.auxiliary(AT_RANDOM).unwrap(), &mut bytes).unwrap();
    assert_eq!(bytes, [7; 16]);
    assert_eq!(program.auxiliary(1000), None);
}

proptest! {
    /// Whatever a program has written over its environment: nothing outside of it changes.
    #[test]
    fn changes_stay_in_the_block(
        block in proptest::collection::vec(prop_oneof![Just(0u8), Just(b'='), Just(b'A'), Just(b'B')], 0..80),
        roomy in 0usize..90,
        value in "[AB=]{0,30}",
    ) {
        let entries = strings(&[&std::format!("A={value}"), "=x", ""]);
        let found = changes(&block, roomy, &entries, &strings(&["B", ""]));
        for (at, bytes) in found.over {
            // The last byte may be the end of a string without a zero.
            prop_assert!(at + bytes.len() <= block.len());
        }
        for (at, len, _) in found.longer {
            prop_assert!(at + len <= block.len());
        }
    }
}
