use proptest::prelude::*;
use seuss_abi::layout::PRIVATE_GPA;

use super::walk::{WalkError, read, translate};
use super::*;
use crate::memory::Gpa;

const PRIVATE: u64 = 2 << 20;

proptest! {
    /// Tables of random entries, many of which lead back into the same tables: a walk ends, and what it finds is
    /// inside.
    #[test]
    fn no_table_can_lead_a_walk_astray(
        entries in prop::collection::vec((0_u64..4096, prop_oneof![any::<u64>(), (0_u64..8).prop_map(|page| PRIVATE_GPA + page * 4096 + 0x7)]), 0..200),
        cr3 in prop_oneof![any::<u64>(), Just(PRIVATE_GPA)],
        gva in prop_oneof![any::<u64>(), 0_u64..1 << 47],
        len in 0_usize..20_000,
    ) {
        let memory = Memory::new(PRIVATE, vec![]).expect("memory");
        for (index, entry) in entries {
            memory.private().store(Gpa(PRIVATE_GPA + index * 8), entry);
        }
        if let Ok(found) = translate(&memory, cr3, Gva(gva)) {
            prop_assert!(found.left_bytes > 0 && found.left_bytes <= 1 << 30);
        }
        let mut bytes = vec![0; len];
        prop_assert!(read(&memory, cr3, Gva(gva), &mut bytes) <= len);
    }
}

#[test]
fn a_walk_says_where_it_ended() {
    let memory = Memory::new(PRIVATE, vec![]).expect("memory");
    let outside = translate(&memory, 0x7000_0000, Gva(0));
    assert_eq!(outside, Err(WalkError::TableOutside { level: 4, gpa: Gpa(0x7000_0000) }));
    assert_eq!(translate(&memory, PRIVATE_GPA, Gva(0)), Err(WalkError::NotPresent { level: 4, entry: 0 }));
    assert_eq!(translate(&memory, PRIVATE_GPA, Gva(1 << 47)), Err(WalkError::NonCanonical));
    assert!(outside.expect_err("outside").to_string().contains("level 4"));
}

#[test]
fn an_interrupt_frame_is_found_above_saved_registers() {
    let stack = [1, 2, 3, 0x40_1234, USER_CS.into(), 0x202, 0x7fff_0000, USER_DS.into(), 9_u64];
    let word = |gva: u64| stack.get(gva as usize / 8).copied();
    assert_eq!(interrupt_frame(0, word), Some((0x40_1234, 0x7fff_0000)));
    assert_eq!(interrupt_frame(32, word), None);
}
