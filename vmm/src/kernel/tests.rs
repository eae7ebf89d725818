use std::os::fd::OwnedFd;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use seuss_abi::layout::{
    COMM_GPA, COMM_SIZE, DIRECT_BASE, IMAGE_GPA, KERNEL_BASE, LARGE_PAGE_SIZE, PRIVATE_GPA,
};

use super::page_table::{Access, PageSize, PageTables, build};
use super::*;
use crate::config::ImageBlob;
use crate::report::walk::{Translation, WalkError, translate};

const PRIVATE: u64 = 16 << 20;

fn blob(len_bytes: u64) -> ImageBlob {
    let file: OwnedFd = memfd_create("blob", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&file, len_bytes).expect("size");
    ImageBlob { file, len_bytes, name: "blob".into() }
}

/// An image with three segments: code (2 pages), constants (1 page, after a hole of one), data (3 pages, most of it
/// zeros).
fn kernel() -> KernelImage {
    let segment = |page: u64, len_bytes, file_offset, file_bytes, write, execute| LoadSegment {
        address: Gva(KERNEL_BASE + page * PAGE_SIZE),
        len_bytes,
        file_offset,
        file_bytes,
        access: Access { write, execute },
    };
    let segments = vec![
        segment(0, 0x1800, 0, 0x1800, false, true),
        segment(3, 0x10, 0x1800, 0x10, false, false),
        segment(4, 0x2001, 0x1810, 1, true, false),
    ];
    KernelImage { bytes: (0..=255).cycle().take(0x1811).collect::<Vec<u8>>().into(), segments }
}

fn at(memory: &Memory, root: Gpa, gva: u64) -> Result<Translation, WalkError> {
    translate(memory, root.0, Gva(gva))
}

#[test]
fn the_image_keeps_its_shape() {
    let (memory, kernel) = (Memory::new(PRIVATE, vec![]).expect("memory"), kernel());
    assert_eq!(kernel.len_bytes(), 7 * PAGE_SIZE);
    kernel.load(&memory).expect("fits");
    let byte = |offset: u64| memory.private().load::<u8>(Gpa(PRIVATE_GPA + offset));
    assert_eq!((byte(0), byte(0x17ff), byte(0x1800)), (Some(0), Some(0xff), Some(0)));
    assert_eq!(
        (byte(0x3000), byte(0x300f), byte(0x4000), byte(0x4001)),
        (Some(0), Some(15), Some(16), Some(0))
    );
}

#[test]
fn the_first_address_space_is_what_the_contract_says() {
    let images = vec![blob(5000), blob(3 * LARGE_PAGE_SIZE)];
    let (memory, kernel) = (Memory::new(PRIVATE, images).expect("memory"), kernel());
    let tables = build(&memory, &kernel, false).expect("fits");
    let root = tables.root();
    assert_eq!(root, Gpa(PRIVATE_GPA + 7 * PAGE_SIZE), "the same for every guest");
    assert!(tables.end().0.is_multiple_of(PAGE_SIZE) && tables.end() > root);
    let check = |gva: u64, gpa: u64, write, execute| {
        let found = at(&memory, root, gva).unwrap_or_else(|error| panic!("{gva:#x}: {error}"));
        assert_eq!(
            (found.gpa, found.write, found.user, found.execute),
            (Gpa(gpa), write, true, execute),
            "{gva:#x}"
        );
        assert_eq!(
            found.leaf & (1 << 5 | if write { 1 << 6 } else { 0 }),
            1 << 5 | if write { 1 << 6 } else { 0 }
        );
        found
    };
    for offset in (0..COMM_SIZE).step_by(4096) {
        check(DIRECT_BASE + COMM_GPA + offset + 5, COMM_GPA + offset + 5, true, false);
    }
    for offset in (0..PRIVATE).step_by(4096) {
        let found = check(DIRECT_BASE + PRIVATE_GPA + offset, PRIVATE_GPA + offset, true, false);
        assert_eq!(found.left_bytes, LARGE_PAGE_SIZE - offset % LARGE_PAGE_SIZE, "large pages");
    }
    for window in memory.images() {
        for offset in (0..window.len_bytes()).step_by(4096) {
            check(DIRECT_BASE + window.gpa().0 + offset, window.gpa().0 + offset, false, false);
        }
    }
    for (page, write, execute) in [
        (0, false, true),
        (1, false, true),
        (3, false, false),
        (4, true, false),
        (5, true, false),
        (6, true, false),
    ] {
        check(KERNEL_BASE + page * 4096 + 7, PRIVATE_GPA + page * 4096 + 7, write, execute);
    }
    for nothing in [
        0,
        0x40_0000,
        KERNEL_BASE + 2 * 4096,
        KERNEL_BASE + 7 * 4096,
        DIRECT_BASE + COMM_SIZE,
        DIRECT_BASE + PRIVATE_GPA - 1,
        DIRECT_BASE + PRIVATE_GPA + PRIVATE,
        DIRECT_BASE + IMAGE_GPA + LARGE_PAGE_SIZE * 4,
        KERNEL_END - 1,
    ] {
        assert!(matches!(at(&memory, root, nothing), Err(WalkError::NotPresent { .. })), "{nothing:#x}");
    }
    assert_eq!(at(&memory, root, 0x8000_0000_0000), Err(WalkError::NonCanonical));
}

#[test]
fn tables_that_do_not_fit_are_refused() {
    let memory = Memory::new(LARGE_PAGE_SIZE, vec![]).expect("memory");
    let at = |pages: u64| Gpa(PRIVATE_GPA + LARGE_PAGE_SIZE - pages * PAGE_SIZE);
    assert!(PageTables::new(&memory, at(0)).is_err());
    let mut tables = PageTables::new(&memory, at(3)).expect("one page");
    assert!(
        tables.map(Gva(0), Gpa(0), 4096, PageSize::Small, Access::READ).is_err(),
        "three more are needed"
    );
}

proptest! {
    #[test]
    fn mappings_lead_where_they_should(
        ranges in prop::collection::vec((0_u64..1 << 35, 1_u64..3_000, any::<bool>(), any::<bool>()), 1..6),
    ) {
        let memory = Memory::new(64 << 20, vec![]).expect("memory");
        let mut tables = PageTables::new(&memory, Gpa(PRIVATE_GPA)).expect("fits");
        for (index, &(page, count, large, write)) in ranges.iter().enumerate() {
            // Each range in a PML4 entry of its own, so that they do not overlap.
            let (size, bytes) = if large { (PageSize::Large, LARGE_PAGE_SIZE) } else { (PageSize::Small, PAGE_SIZE) };
            let gva = ((index as u64) << 39) + page % (1 << 14) * bytes;
            let gpa = (page * 4096) & !(bytes - 1) & ((1 << 39) - 1);
            let access = Access { write, execute: !write };
            tables.map(Gva(gva), Gpa(gpa), count * bytes, size, access).expect("fits");
            for probe in [0, 1, count / 2, count - 1] {
                let offset = probe * bytes + 123;
                if probe < count {
                    let found = at(&memory, tables.root(), gva + offset).expect("mapped");
                    prop_assert_eq!(found.gpa, Gpa(gpa + offset));
                    prop_assert_eq!((found.write, found.execute, found.left_bytes), (write, !write, bytes - 123));
                }
            }
            prop_assert!(at(&memory, tables.root(), gva + count * bytes).is_err());
        }
    }
}

#[test]
fn symbols_are_found_by_address() {
    let image = symbols::Symbols::of(&[(KERNEL_BASE, 16, "entry"), (KERNEL_BASE + 64, 0, "label")]);
    let name = |offset| image.name(Gva(KERNEL_BASE + offset));
    assert_eq!(name(0).as_deref(), Some("entry+0x0"));
    assert_eq!(name(15).as_deref(), Some("entry+0xf"));
    assert_eq!(name(16), None);
    assert_eq!(name(100).as_deref(), Some("label+0x24"));
    assert_eq!(image.name(Gva(1)), None);
}
