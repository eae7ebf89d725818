//! From the first instruction to the first thread, and the way from the entry code into the library OS.

use crate::machine::{Comm, Vcpu};
use crate::{entry, heap};
use alloc::rc::Rc;
use alloc::vec;
use core::cell::OnceCell;
use seuss_abi::call::Op;
use seuss_abi::comm::{BOOT_MAGIC, BootBlock, MAILBOX_SIZE, Touch};
use seuss_abi::layout::{DIRECT_BASE, IMAGE_WINDOWS_MAX, LAYERS_MAX, PRIVATE_GPA};
use seuss_abi::{ABI_VERSION, spec::ProcessSpec};
use seuss_kernel::kernel::capture::Restored;
use seuss_kernel::kernel::{Boot, Config, Kernel, THREADS_MAX_DEFAULT};
use seuss_kernel::machine::Machine;
use seuss_kernel::mem::frames::Frames;
use seuss_kernel::task::thread::Context;

/// Bytes of the heap that exist before the frame allocator does: its tables (four bytes and a bit for each frame) and some more.
fn first_heap_bytes(private_bytes: u64) -> u64 {
    (private_bytes / 4096 * 5 + (512 << 10)).next_multiple_of(4096)
}

/// The vDSO that build.rs made.
static VDSO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

struct Global(OnceCell<Kernel>);

// SAFETY: one vCPU, and the library OS is not preempted.
unsafe impl Sync for Global {}

static KERNEL: Global = Global(OnceCell::new());

fn kernel() -> &'static Kernel {
    KERNEL.0.get().expect("the library OS is up")
}

/// The first entry of a guest.
pub(crate) extern "C" fn boot() -> *mut Context {
    let block = Comm.boot_block();
    assert!(block.magic == BOOT_MAGIC, "the boot block has no magic number");
    assert!(
        block.abi_version == ABI_VERSION,
        "the VMM speaks ABI version {}, this image {ABI_VERSION}",
        block.abi_version
    );
    if let Some(kernel) = KERNEL.0.get() {
        if block.hold > 0 {
            touch(&block);
            let layers = &block.layers[..(block.layer_count as usize).min(LAYERS_MAX)];
            return wanted(kernel, kernel.on_hold(layers, &block.seed));
        }
        return restore(kernel, &block);
    }
    let heap_bytes = first_heap_bytes(block.private_bytes);
    let reserved = block.reserved_bytes + heap_bytes;
    assert!(reserved < block.private_bytes, "{} bytes of memory are too few", block.private_bytes);
    // SAFETY: the direct map covers the private window, and what lies behind the reserved part is free.
    unsafe { heap::start(DIRECT_BASE + PRIVATE_GPA + block.reserved_bytes, heap_bytes as usize) };
    // SAFETY: likewise; the heap's part is told as reserved.
    let frames = unsafe { Frames::new(DIRECT_BASE, PRIVATE_GPA, block.private_bytes, reserved) };
    heap::grow_from(&frames);

    entry::write_tables();
    let machine = Rc::new(Vcpu { xcr0: block.xcr0 });
    let mut blob = vec![0; block.spec_len_bytes.min(MAILBOX_SIZE) as usize];
    machine.read_mailbox(&mut blob);
    let spec = ProcessSpec::decode(&blob).unwrap_or_else(|error| panic!("{error}"));
    let windows = &block.images[..(block.image_count as usize).min(IMAGE_WINDOWS_MAX)];
    let config = Config {
        template_pml4: block.pml4_gpa,
        xcr0: block.xcr0,
        xsave_bytes: block.xsave_bytes,
        threads_max: if spec.nproc == 0 { THREADS_MAX_DEFAULT } else { spec.nproc as usize },
        memory_bytes: block.private_bytes,
    };
    let base = block.base != 0;
    let boot = Boot { machine, frames, seed: block.seed, images: windows, vdso: VDSO, base, config };
    let kernel = Kernel::boot(boot, &spec);
    KERNEL.0.get_or_init(|| kernel).on_boot()
}

/// Entered ahead of time: use once what will be used, so that what the host does at the first use of a page is done.
fn touch(block: &BootBlock) {
    for touch in Comm.touches((block.hold - 1).min(Touch::MOST)) {
        match touch {
            // SAFETY: the VMM has checked that these are tables of an address space of this snapshot.
            Touch::Load(pml4) => unsafe { entry::load_cr3(pml4) },
            // SAFETY: the VMM has checked that the tables loaded last map the address.
            Touch::Read(address) => unsafe {
                (address as *const u8).read_volatile();
            },
        }
    }
    // SAFETY: the tables that this entry began with.
    unsafe { entry::load_cr3(block.pml4_gpa) }
}

/// What to go on with: `next`, or, if there is nothing in a clone that was entered ahead of time, itself, once it is wanted.
fn wanted(kernel: &Kernel, next: *mut Context) -> *mut Context {
    if !next.is_null() {
        return next;
    }
    Comm.call(Op::Hold, [0; 6]);
    restore(kernel, &Comm.boot_block())
}

/// The first entry of a clone: memory is that of a guest which was captured.
fn restore(kernel: &Kernel, block: &BootBlock) -> *mut Context {
    assert!(block.generation > 0, "a restored guest was entered as one that boots");
    let mut blob = vec![0; block.spec_len_bytes.min(MAILBOX_SIZE) as usize];
    kernel.machine.read_mailbox(&mut blob);
    let spec = ProcessSpec::decode(&blob).unwrap_or_else(|error| panic!("{error}"));
    let layers = &block.layers[..(block.layer_count as usize).min(LAYERS_MAX)];
    let images = &block.images[..(block.image_count as usize).min(IMAGE_WINDOWS_MAX)];
    kernel.on_restore(&Restored { generation: block.generation, seed: block.seed, layers, images, spec })
}

/// A system call: 1 by the instruction, 0 by a patched site.
pub(crate) extern "C" fn on_syscall(trapped: u64) -> *mut Context {
    wanted(kernel(), kernel().on_syscall(trapped != 0))
}

/// A trap of the application.
pub(crate) extern "C" fn on_trap(vector: u64, error: u64) -> *mut Context {
    wanted(kernel(), kernel().on_trap(vector, error, entry::fault_address))
}

/// An interruption by the VMM.
pub(crate) extern "C" fn on_upcall() -> *mut Context {
    let (rip, rsp, rflags) = Comm.upcall_frame();
    let kernel = kernel();
    if let Some(thread) = kernel.current() {
        thread.with_context(|context| {
            let registers = &mut context.registers;
            (registers.rip, registers.rsp, registers.rflags) = (rip, rsp, rflags);
        });
    }
    wanted(kernel, kernel.on_upcall())
}
