//! Starts that must fail, with an error that helps, and nothing left behind.

mod common;

use std::os::fd::OwnedFd;

use common::{config, elf, image, kvm, start};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use seuss_abi::spec::{InjectedFile, ProcessSpec};
use seuss_vmm::{GuestConfig, ImageBlob, ImageError, KernelImage, MemoryError, StartError};

guest!(exits: call!("1", "0"));

fn refused(config: GuestConfig) -> StartError {
    match start(config, exits()) {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[test]
fn too_little_memory_says_how_much_is_needed() {
    let error = refused(GuestConfig { memory_bytes: 5 << 20, ..config() });
    assert_eq!(error, StartError::TooLittleMemory { limit_bytes: 5 << 20, minimum_bytes: 16 << 20 });
    assert!(error.to_string().contains("at least 16777216 bytes"), "{error}");
}

#[test]
fn descriptions_have_a_size() {
    if !kvm() {
        return;
    }
    let file = InjectedFile { path: b"/big".to_vec(), content: vec![0; 1 << 20], ..InjectedFile::default() };
    let process = ProcessSpec { files: vec![file], ..config().process };
    assert!(
        matches!(refused(GuestConfig { process, ..config() }), StartError::SpecTooLarge { len_bytes } if len_bytes > 1 << 20)
    );
    let error = refused(GuestConfig { process: ProcessSpec::default(), ..config() });
    assert_eq!(error, StartError::NoArguments);
}

#[test]
fn a_cut_off_image_is_named() {
    if !kvm() {
        return;
    }
    let file: OwnedFd = memfd_create("blob", MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&file, 1000).expect("size");
    let blob = ImageBlob { file, len_bytes: 4096, name: "layer 3".into() };
    let error = refused(GuestConfig { images: vec![blob], ..config() });
    assert!(matches!(&error, StartError::Memory(MemoryError::ShortImage { .. })), "{error:?}");
    assert!(error.to_string().contains("layer 3"), "{error}");
}

#[test]
fn kernel_images_are_checked() {
    let parse = |bytes: &[u8]| KernelImage::from_bytes(bytes.to_vec()).map(|_| ());
    assert!(matches!(parse(b""), Err(ImageError::Malformed(_))));
    assert!(matches!(parse(b"#!/bin/sh\n"), Err(ImageError::Malformed(_))));
    let good = elf(&[0x90; 0x2000], &[(0, 0x1000, 5), (0x1000, 0x2000, 6)]);
    assert_eq!(parse(&good), Ok(()));
    for cut in [0, 1, 63, 64, 100, 0x1000, good.len() - 1] {
        assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
    }
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse(&bytes)
    };
    assert!(matches!(with(18, 3), Err(ImageError::WrongKind { machine: 3, .. })), "i386");
    assert!(matches!(with(16, 3), Err(ImageError::WrongKind { kind: 3, .. })), "PIE");
    assert!(matches!(with(24, 1), Err(ImageError::WrongEntry { .. })));
    assert!(matches!(with(64, 3), Err(ImageError::WrongKind { dynamic: true, .. })), "PT_INTERP");
    assert!(matches!(with(64 + 16 + 5, 0), Err(ImageError::Segment { .. })), "below the kernel's region");
    assert!(matches!(
        parse(&elf(&[0; 0x1000], &[(0, 0x800, 5), (0x800, 0x1000, 6)])),
        Err(ImageError::Segment { .. })
    ));
}

#[test]
fn a_broken_image_never_panics() {
    let good = elf(&exits(), &[(0, 0x1000, 5), (0x1000, 0x3000, 6)]);
    for at in 0..64 + 2 * 56 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            let _ = KernelImage::from_bytes(bytes);
        }
    }
    image(&exits());
}

#[test]
fn a_missing_kvm_says_what_to_do() {
    let error = StartError::NoKvm { device: "/dev/kvm" };
    assert!(error.to_string().contains("load the kvm module"), "{error}");
    let error = StartError::KvmPermission { device: "/dev/kvm" };
    assert!(error.to_string().contains("group"), "{error}");
}
