use std::os::fd::OwnedFd;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use seuss_abi::call::{SEGMENTS_MAX, Segment};
use seuss_abi::layout::{IMAGE_GPA, LARGE_PAGE_SIZE, PRIVATE_GPA};

use super::segment::{SegmentError, TRANSFER_MAX};
use super::*;

const PRIVATE: u64 = 4 * LARGE_PAGE_SIZE;

fn blob(len_bytes: u64) -> ImageBlob {
    let file: OwnedFd = memfd_create("blob", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&file, len_bytes).expect("size");
    ImageBlob { file, len_bytes, name: "blob".into() }
}

fn memory() -> Memory {
    Memory::new(PRIVATE, vec![blob(5000), blob(LARGE_PAGE_SIZE + 1)]).expect("memory")
}

fn lay(memory: &Memory, segments: &[Segment]) -> Gpa {
    let gpa = Gpa(PRIVATE_GPA);
    for (index, segment) in segments.iter().enumerate() {
        memory.private().store(gpa.plus(index as u64 * 16), *segment).expect("inside");
    }
    gpa
}

#[test]
fn image_windows_start_at_large_pages_and_have_whole_pages() {
    let memory = memory();
    let list = memory.image_windows();
    assert_eq!(list[0], ImageWindow { gpa: IMAGE_GPA, len_bytes: 8192 });
    assert_eq!(list[1], ImageWindow { gpa: IMAGE_GPA + LARGE_PAGE_SIZE, len_bytes: LARGE_PAGE_SIZE + 4096 });
    assert_eq!(list[2], ImageWindow::default());
}

#[test]
fn bad_blobs_are_named() {
    let short = ImageBlob { len_bytes: 10_000, ..blob(5000) };
    assert!(matches!(
        Memory::new(PRIVATE, vec![short]),
        Err(MemoryError::ShortImage { file_bytes: 5000, .. })
    ));
    assert!(matches!(Memory::new(PRIVATE, vec![blob(0)]), Err(MemoryError::EmptyImage { .. })));
    let many = (0..=IMAGE_WINDOWS_MAX).map(|_| blob(1)).collect();
    assert!(matches!(Memory::new(PRIVATE, many), Err(MemoryError::TooManyImages { count: 65 })));
    let huge = vec![blob(100 << 30), blob(100 << 30)];
    assert!(matches!(Memory::new(PRIVATE, huge), Err(MemoryError::ImagesTooLarge { .. })));
}

#[test]
fn a_list_must_lie_in_the_private_window_and_be_short() {
    let memory = memory();
    let resolve =
        |gpa, count| SegmentList::resolve(&memory, Gpa(gpa), count, Direction::OutOfGuest).map(|_| ());
    assert_eq!(resolve(PRIVATE_GPA, SEGMENTS_MAX as u64), Ok(()));
    assert_eq!(
        resolve(PRIVATE_GPA, SEGMENTS_MAX as u64 + 1),
        Err(SegmentError::TooMany { count: SEGMENTS_MAX as u64 + 1 })
    );
    assert_eq!(resolve(PRIVATE_GPA, u64::MAX), Err(SegmentError::TooMany { count: u64::MAX }));
    for gpa in [0, PRIVATE_GPA + PRIVATE - 15, PRIVATE_GPA - 1, IMAGE_GPA, u64::MAX - 3] {
        assert_eq!(resolve(gpa, 1), Err(SegmentError::ListOutside { gpa: Gpa(gpa), count: 1 }), "{gpa:#x}");
    }
}

#[test]
fn only_the_private_window_takes_bytes() {
    let memory = memory();
    let at = lay(&memory, &[Segment { gpa: IMAGE_GPA + 100, len_bytes: 10 }]);
    assert!(SegmentList::resolve(&memory, at, 1, Direction::OutOfGuest).is_ok());
    assert!(SegmentList::resolve(&memory, at, 1, Direction::IntoGuest).is_err());
    let at = lay(&memory, &[Segment { gpa: 0x1000, len_bytes: 10 }]);
    assert!(SegmentList::resolve(&memory, at, 1, Direction::OutOfGuest).is_err(), "comm window");
}

proptest! {
    #[test]
    fn whatever_resolves_lies_inside(
        raw in prop::collection::vec(
            (prop_oneof![
                any::<u64>(), PRIVATE_GPA - 10..PRIVATE_GPA + PRIVATE + 10, IMAGE_GPA - 10..IMAGE_GPA + 3 * LARGE_PAGE_SIZE
            ], prop_oneof![any::<u64>(), 0_u64..10_000, 0..PRIVATE + 10]),
            0..20),
        into in any::<bool>(),
        cut in prop_oneof![any::<u64>(), 0_u64..100_000],
    ) {
        let memory = memory();
        let segments: Vec<_> = raw.iter().map(|&(gpa, len_bytes)| Segment { gpa, len_bytes }).collect();
        let at = lay(&memory, &segments);
        let direction = if into { Direction::IntoGuest } else { Direction::OutOfGuest };
        let allowed = |segment: &Segment| {
            let end = u128::from(segment.gpa) + u128::from(segment.len_bytes);
            let within = |window: &&Window| {
                segment.gpa >= window.gpa().0 && end <= u128::from(window.gpa().0 + window.len_bytes())
            };
            segment.len_bytes == 0 || memory.windows().skip(1).filter(within).any(|window| !into || window.writable())
        };
        match SegmentList::resolve(&memory, at, segments.len() as u64, direction) {
            Ok(mut list) => {
                prop_assert!(segments.iter().all(allowed));
                let total: u128 = segments.iter().map(|segment| u128::from(segment.len_bytes)).sum();
                prop_assert_eq!(u128::from(list.len_bytes()), total.min(TRANSFER_MAX.into()));
                list.truncate(cut);
                let sum: usize = list.iovecs().iter().map(|piece| piece.iov_len).sum();
                prop_assert_eq!(sum as u64, list.len_bytes());
                prop_assert!(list.len_bytes() <= cut);
                for piece in list.iovecs() {
                    let start = piece.iov_base as u64;
                    let end = start + piece.iov_len as u64;
                    let inside = |window: &Window| {
                        start >= window.host_address() && end <= window.host_address() + window.len_bytes()
                    };
                    prop_assert!(memory.windows().skip(1).any(inside));
                }
            }
            Err(_) => prop_assert!(!segments.iter().all(allowed)),
        }
    }
}
