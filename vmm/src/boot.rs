//! Loading: what is written into a guest's memory before its first entry.

use std::mem::{MaybeUninit, offset_of};

use rustix::rand::{GetRandomFlags, getrandom};
use seuss_abi::ABI_VERSION;
use seuss_abi::comm::{
    BOOT_MAGIC, BOOT_OFFSET, BootBlock, CLOCK_OFFSET, CONTROL_OFFSET, Control, LayerWindow, MAILBOX_OFFSET,
    MAILBOX_SIZE,
};
use seuss_abi::layout::{
    COMM_GPA, LARGE_PAGE_SIZE, LAYERS_MAX, PAGE_SIZE, PRIVATE_GPA, PRIVATE_MAX, PRIVATE_MIN,
};

use crate::clock::GuestClock;
use crate::error::StartError;
use crate::kernel::{KernelImage, page_table};
use crate::memory::{Gpa, Memory};
use crate::vcpu::cpuid::CpuFeatures;

/// What loading found out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// The PML4.
    pub(crate) pml4: Gpa,
    /// Bytes at the start of the private window that the guest must not give away.
    pub(crate) reserved_bytes: u64,
}

/// Size of the private window for a memory limit.
pub(crate) fn private_bytes(limit_bytes: u64, kernel: &KernelImage) -> Result<u64, StartError> {
    // The tables need little beyond the image; PRIVATE_MIN leaves room for both, a larger image asks for more.
    let minimum_bytes = (kernel.len_bytes().next_multiple_of(LARGE_PAGE_SIZE) * 2).max(PRIVATE_MIN);
    if limit_bytes < minimum_bytes {
        return Err(StartError::TooLittleMemory { limit_bytes, minimum_bytes });
    }
    Ok(limit_bytes.min(PRIVATE_MAX) / LARGE_PAGE_SIZE * LARGE_PAGE_SIZE)
}

/// Check that a process description fits, and encode it.
pub(crate) fn encode(spec: &seuss_abi::spec::ProcessSpec) -> Result<Vec<u8>, StartError> {
    if spec.args.is_empty() {
        return Err(StartError::NoArguments);
    }
    let blob = spec.encode();
    if blob.len() as u64 > MAILBOX_SIZE {
        return Err(StartError::SpecTooLarge { len_bytes: blob.len() as u64 });
    }
    Ok(blob)
}

/// 64 bytes from the kernel's generator.
pub(crate) fn seed() -> Result<[u8; 64], StartError> {
    let mut seed = [MaybeUninit::uninit(); 64];
    let failed = |errno: rustix::io::Errno| StartError::Host {
        operation: "get random bytes",
        errno: errno.raw_os_error(),
    };
    // Up to 256 bytes come whole once the generator is seeded (getrandom(2)).
    let (filled, _) = getrandom(&mut seed, GetRandomFlags::empty()).map_err(failed)?;
    let filled: &[u8] = filled;
    filled.try_into().map_err(|_| StartError::Host { operation: "get random bytes", errno: libc::EIO })
}

/// Write kernel image, page tables, boot block, clock, control page and the first process' description; with `base`, for a guest that takes a base snapshot.
pub(crate) fn load(
    memory: &Memory,
    kernel: &KernelImage,
    features: &CpuFeatures,
    clock: &GuestClock,
    spec: &[u8],
    base: bool,
) -> Result<Loaded, StartError> {
    let private_bytes = memory.private().len_bytes();
    let too_little = || StartError::TooLittleMemory {
        limit_bytes: private_bytes,
        minimum_bytes: private_bytes + LARGE_PAGE_SIZE,
    };
    kernel.load(memory).ok_or_else(too_little)?;
    let tables = page_table::build(memory, kernel, base).map_err(|_| too_little())?;
    let reserved_bytes = tables.end().0 - PRIVATE_GPA;
    debug_assert!(reserved_bytes.is_multiple_of(PAGE_SIZE));
    let boot = BootBlock {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        image_count: memory.images().len() as u32,
        private_bytes,
        reserved_bytes,
        pml4_gpa: tables.root().0,
        spec_len_bytes: spec.len() as u64,
        seed: seed()?,
        xcr0: features.xcr0,
        xsave_bytes: features.xsave_bytes,
        images: memory.image_windows(),
        generation: 0,
        layer_count: 0,
        layers: [LayerWindow::default(); LAYERS_MAX],
        hold: 0,
        base: base.into(),
    };
    let comm = memory.comm();
    let at = |offset: u64| Gpa(COMM_GPA + offset);
    let written = comm
        .store(at(BOOT_OFFSET), boot)
        .and_then(|()| comm.store(at(CLOCK_OFFSET), clock.page()))
        .and_then(|()| comm.store(at(CONTROL_OFFSET + offset_of!(Control, next_event_ns) as u64), u64::MAX))
        .and_then(|()| comm.write(at(MAILBOX_OFFSET), spec));
    written.ok_or(StartError::SpecTooLarge { len_bytes: spec.len() as u64 })?;
    Ok(Loaded { pml4: tables.root(), reserved_bytes })
}
