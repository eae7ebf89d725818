//! Guest-physical windows, guest-virtual regions and the fixed vCPU state.
//!
//! All vCPU state is the same for every guest and every snapshot (so that a VM shell made ahead fits any of them):
//! control registers, selectors, descriptor-table addresses, MSRs and the entry points are the constants below.

/// Size of a small page in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// Size of a large page in bytes; windows start at multiples of it.
pub const LARGE_PAGE_SIZE: u64 = 2 << 20;

/// Communication window: boot block, clock page, host-call slot, event ring, mailbox. Never part of a snapshot.
pub const COMM_GPA: u64 = 0;
/// Size of the communication window in bytes.
pub const COMM_SIZE: u64 = 2 << 20;

/// The guest's own memory: kernel image, page tables, heap, application pages. Sized by the memory limit.
pub const PRIVATE_GPA: u64 = 0x1_0000_0000;
/// Largest private window in bytes.
pub const PRIVATE_MAX: u64 = 64 << 30;
/// Smallest private window in bytes that a guest boots in.
pub const PRIVATE_MIN: u64 = 16 << 20;

/// The read-only layers of a snapshot's lineage, base first, one right behind the other: each is its pages, then their index (one
/// u32 for each page: the frame of the private window whose content it is), whole pages. So a page of a layer has the same
/// address in every descendant.
pub const LAYER_GPA: u64 = 0x40_0000_0000;
/// Largest size of all layers of one lineage in bytes. The direct map covers it from the beginning.
pub const LAYERS_BYTES_MAX: u64 = 4 << 30;
/// Largest number of layers of one lineage.
pub const LAYERS_MAX: usize = 120;
/// Read-only windows of the root file system's EROFS blobs, base layer first, each at a multiple of
/// [`LARGE_PAGE_SIZE`]. The last byte lies below [`PHYSICAL_END`].
pub const IMAGE_GPA: u64 = 0x60_0000_0000;
/// How much of the image windows the direct map covers at least in a guest that takes a base snapshot: its clones may have other images, up to this size together.
pub const IMAGES_BYTES_MAPPED: u64 = 4 << 30;
/// End of guest-physical space: 512 GiB, one top-level page-table entry of the direct map.
pub const PHYSICAL_END: u64 = 0x80_0000_0000;
/// Largest number of EROFS blobs in one root file system.
pub const IMAGE_WINDOWS_MAX: usize = 64;

/// The library OS sees guest-physical address `gpa` at `DIRECT_BASE + gpa` (one PML4 entry).
pub const DIRECT_BASE: u64 = 0x6000_0000_0000;
/// Where the kernel image is linked and mapped (the next PML4 entry).
pub const KERNEL_BASE: u64 = 0x6080_0000_0000;
/// End of the region that belongs to the library OS in every address space. Applications get ENOMEM/EINVAL here.
pub const KERNEL_END: u64 = 0x6100_0000_0000;
/// PML4 index of the direct map; the kernel image has the next one. Both are shared by all address spaces.
pub const DIRECT_PML4_INDEX: usize = (DIRECT_BASE >> 39) as usize;
/// PML4 index of the kernel image.
pub const KERNEL_PML4_INDEX: usize = (KERNEL_BASE >> 39) as usize;
/// End of the application's address space (exclusive), as on Linux with four-level paging.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// First instruction of a boot, a restore or a clone. `rsp` is unspecified; CR3 holds the library OS's own PML4.
pub const ENTRY_BOOT: u64 = KERNEL_BASE;
/// `LSTAR`: the system-call landing pad. Works when entered at CPL 0 (VT-x, SVM) and at CPL 3 (kvm_pvm).
pub const ENTRY_SYSCALL: u64 = KERNEL_BASE + 0x80;
/// Where the VMM redirects an interrupted application; see [`crate::comm::Control`].
pub const ENTRY_UPCALL: u64 = KERNEL_BASE + 0x100;
/// Where patched system-call sites jump to: as [`ENTRY_SYSCALL`], but at CPL 3 and with the flags still in RFLAGS.
pub const ENTRY_FAST: u64 = KERNEL_BASE + 0x180;
/// Page of the kernel image that holds the IDT (256 gates of 16 bytes).
pub const IDT_GVA: u64 = KERNEL_BASE + 0x1000;
/// Page of the kernel image that holds the GDT at its start.
pub const GDT_GVA: u64 = KERNEL_BASE + 0x2000;
/// GDT limit in bytes minus one: null, kernel code, kernel data, user data, user code, TSS (two entries).
pub const GDT_LIMIT: u16 = 7 * 8 - 1;
/// The task-state segment, in the GDT's page.
pub const TSS_GVA: u64 = KERNEL_BASE + 0x2100;
/// TSS limit in bytes minus one: no I/O bitmap, so port access at CPL 3 faults.
pub const TSS_LIMIT: u16 = 104 - 1;

/// Code selector of the CPL 0 stubs.
pub const KERNEL_CS: u16 = 0x08;
/// Data selector of the CPL 0 stubs.
pub const KERNEL_DS: u16 = 0x10;
/// Stack and data selector at CPL 3.
pub const USER_DS: u16 = 0x18 | 3;
/// 64-bit code selector at CPL 3.
pub const USER_CS: u16 = 0x20 | 3;
/// TSS selector.
pub const TSS_SELECTOR: u16 = 0x28;

/// GDT: 64-bit code, DPL 0 (SDM vol. 3, 3.4.5).
pub const GDT_KERNEL_CODE: u64 = 0x00af_9b00_0000_ffff;
/// GDT: data, DPL 0.
pub const GDT_KERNEL_DATA: u64 = 0x00cf_9300_0000_ffff;
/// GDT: data, DPL 3.
pub const GDT_USER_DATA: u64 = 0x00cf_f300_0000_ffff;
/// GDT: 64-bit code, DPL 3.
pub const GDT_USER_CODE: u64 = 0x00af_fb00_0000_ffff;

/// CR0: PG, WP, NE, MP, ET, PE.
pub const CR0: u64 = (1 << 31) | (1 << 16) | (1 << 5) | (1 << 4) | (1 << 1) | 1;
/// CR4: OSXSAVE, FSGSBASE, OSXMMEXCPT, OSFXSR, PAE. No SMEP/SMAP: the stubs run at CPL 0 from user pages.
pub const CR4: u64 = (1 << 18) | (1 << 16) | (1 << 10) | (1 << 9) | (1 << 5);
/// EFER: NXE, LMA, LME, SCE.
pub const EFER: u64 = (1 << 11) | (1 << 10) | (1 << 8) | 1;
/// RFLAGS at every entry that the VMM makes: the reserved bit only. IF does not matter, there is no interrupt controller.
pub const RFLAGS: u64 = 2;
/// IA32_STAR: SYSCALL loads CS = KERNEL_CS and SS = KERNEL_DS (SDM vol. 3, 5.8.8).
pub const STAR: u64 = (KERNEL_CS as u64) << 32;
/// IA32_FMASK: SYSCALL clears AC, NT, DF, IF and TF.
pub const FMASK: u64 = (1 << 18) | (1 << 14) | (1 << 10) | (1 << 9) | (1 << 8);

/// Port of the doorbell: a 32-bit `out` of any value, made at CPL 0 by a stub, runs the call in the host-call slot.
pub const DOORBELL_PORT: u16 = 0x5e5;

const _: () = {
    assert!(COMM_GPA + COMM_SIZE <= PRIVATE_GPA);
    assert!(PRIVATE_GPA + PRIVATE_MAX <= LAYER_GPA);
    assert!(LAYER_GPA + LAYERS_BYTES_MAX <= IMAGE_GPA);
    assert!(IMAGE_GPA < PHYSICAL_END && PHYSICAL_END <= 512 << 30);
    assert!(KERNEL_PML4_INDEX == DIRECT_PML4_INDEX + 1);
};
