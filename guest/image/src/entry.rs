//! Entry points, trap stubs and the privileged gate.
//!
//! Everything here is assembly because it runs without a Rust stack or at CPL 0. The code at CPL 0 is a handful of instructions, since on
//! kvm_pvm each of them is emulated (decisions/0001): the first half of the system-call landing pad on VT-x and SVM (SDM vol. 2, SYSCALL),
//! and the operations behind the gate.
//!
//! **The gate.** `int3` is the only software interrupt that works at CPL 3 on kvm_pvm. Its gate enters CPL 0; if r11 holds the return address, the
//! caller is the library OS, and rax is the operation to jump to. An application's own breakpoint is passed on to the trap handler at CPL 3.
//!
//! **Registers.** One vCPU, and the library OS is never preempted, so fixed memory serves as scratch space and `CURRENT` names the context of the
//! thread that runs.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::AtomicU64;
use seuss_abi::layout::{DOORBELL_PORT, GDT_GVA, IDT_GVA, KERNEL_BASE, RFLAGS, TSS_GVA, USER_CS, USER_DS};
use seuss_kernel::task::thread::{Context, Registers};

/// Context of the current thread: where the entry code saves registers.
#[unsafe(no_mangle)]
static CURRENT: AtomicU64 = AtomicU64::new(0);

/// Bytes of the library OS's stack. Nothing recurses deeply in there; the guard below it is the .bss' first page.
pub(crate) const STACK_BYTES: usize = 256 << 10;

macro_rules! register {
    ($name:ident) => {
        offset_of!(Context, registers) + offset_of!(Registers, $name)
    };
}

global_asm!(
    // --- Fixed addresses: seuss_abi::layout ---
    ".section .entry, \"ax\", @progbits",
    ".globl entry_boot",
    "entry_boot:",
    "    lea rsp, [rip + kernel_stack_top]",
    "    xor ebp, ebp",
    "    cld",
    "    call {boot}",
    "    jmp resume",

    ".org 0x80",
    "entry_syscall:",
    "    mov [rip + saved_rsp], rsp",
    "    mov [rip + saved_rax], rax",
    "    lea rsp, [rip + kernel_stack_top]",
    "    mov qword ptr [rip + trap_vector], 1",
    "    mov eax, cs",
    "    test al, 3",
    "    jnz syscall_save",
    "    lea rax, [rip + kernel_stack_top]",
    "    push {user_ds}",
    "    push rax",
    "    push {rflags}",
    "    push {user_cs}",
    "    lea rax, [rip + syscall_save]",
    "    push rax",
    "    iretq",

    ".org 0x100",
    "entry_upcall:",
    "    mov [rip + saved_rax], rax",
    "    mov rax, [rip + CURRENT]",
    "    mov [rax + {rcx}], rcx",
    "    mov [rax + {r11}], r11",
    "    lea rsp, [rip + kernel_stack_top]",
    "    lea rcx, [rip + {upcall}]",
    "    jmp save_rest",

    ".org 0x180",
    "entry_fast:",
    "    mov [rip + saved_rsp], rsp",
    "    mov [rip + saved_rax], rax",
    "    lea rsp, [rip + kernel_stack_top]",
    "    pushfq",
    "    pop r11",
    "    mov qword ptr [rip + trap_vector], 0",
    "    jmp syscall_save",

    // --- The descriptor tables' pages ---
    ".section .tables, \"aw\", @progbits",
    "    .fill 0x2000, 1, 0",

    // --- Saving and restoring ---
    ".section .text.entry, \"ax\", @progbits",
    "syscall_save:",
    "    mov rax, [rip + CURRENT]",
    "    mov [rax + {rip}], rcx",
    "    mov [rax + {rcx}], rcx",
    "    mov [rax + {rflags_slot}], r11",
    "    mov [rax + {r11}], r11",
    "    mov rcx, [rip + saved_rsp]",
    "    mov [rax + {rsp}], rcx",
    "    lea rcx, [rip + {syscall}]",

    // rax = context, rcx = handler; rax is in saved_rax, rcx and r11 are stored.
    "save_rest:",
    "    mov [rax + {rbx}], rbx",
    "    mov [rax + {rdx}], rdx",
    "    mov [rax + {rsi}], rsi",
    "    mov [rax + {rdi}], rdi",
    "    mov [rax + {rbp}], rbp",
    "    mov [rax + {r8}], r8",
    "    mov [rax + {r9}], r9",
    "    mov [rax + {r10}], r10",
    "    mov [rax + {r12}], r12",
    "    mov [rax + {r13}], r13",
    "    mov [rax + {r14}], r14",
    "    mov [rax + {r15}], r15",
    "    mov rdx, [rip + saved_rax]",
    "    mov [rax + {rax}], rdx",
    "    movaps [rax + {xmm} + 0x00], xmm0",
    "    movaps [rax + {xmm} + 0x10], xmm1",
    "    movaps [rax + {xmm} + 0x20], xmm2",
    "    movaps [rax + {xmm} + 0x30], xmm3",
    "    movaps [rax + {xmm} + 0x40], xmm4",
    "    movaps [rax + {xmm} + 0x50], xmm5",
    "    movaps [rax + {xmm} + 0x60], xmm6",
    "    movaps [rax + {xmm} + 0x70], xmm7",
    "    movaps [rax + {xmm} + 0x80], xmm8",
    "    movaps [rax + {xmm} + 0x90], xmm9",
    "    movaps [rax + {xmm} + 0xa0], xmm10",
    "    movaps [rax + {xmm} + 0xb0], xmm11",
    "    movaps [rax + {xmm} + 0xc0], xmm12",
    "    movaps [rax + {xmm} + 0xd0], xmm13",
    "    movaps [rax + {xmm} + 0xe0], xmm14",
    "    movaps [rax + {xmm} + 0xf0], xmm15",
    "    cld",
    "    xor ebp, ebp",
    "    mov rdi, [rip + trap_vector]",
    "    mov rsi, [rip + trap_error]",
    "    call rcx",

    // rax = context to go on with.
    "resume:",
    "    mov [rip + CURRENT], rax",
    "    movaps xmm0, [rax + {xmm} + 0x00]",
    "    movaps xmm1, [rax + {xmm} + 0x10]",
    "    movaps xmm2, [rax + {xmm} + 0x20]",
    "    movaps xmm3, [rax + {xmm} + 0x30]",
    "    movaps xmm4, [rax + {xmm} + 0x40]",
    "    movaps xmm5, [rax + {xmm} + 0x50]",
    "    movaps xmm6, [rax + {xmm} + 0x60]",
    "    movaps xmm7, [rax + {xmm} + 0x70]",
    "    movaps xmm8, [rax + {xmm} + 0x80]",
    "    movaps xmm9, [rax + {xmm} + 0x90]",
    "    movaps xmm10, [rax + {xmm} + 0xa0]",
    "    movaps xmm11, [rax + {xmm} + 0xb0]",
    "    movaps xmm12, [rax + {xmm} + 0xc0]",
    "    movaps xmm13, [rax + {xmm} + 0xd0]",
    "    movaps xmm14, [rax + {xmm} + 0xe0]",
    "    movaps xmm15, [rax + {xmm} + 0xf0]",
    "    mov rbx, [rax + {rbx}]",
    "    mov rdx, [rax + {rdx}]",
    "    mov rsi, [rax + {rsi}]",
    "    mov rdi, [rax + {rdi}]",
    "    mov rbp, [rax + {rbp}]",
    "    mov r8, [rax + {r8}]",
    "    mov r9, [rax + {r9}]",
    "    mov r10, [rax + {r10}]",
    "    mov r12, [rax + {r12}]",
    "    mov r13, [rax + {r13}]",
    "    mov r14, [rax + {r14}]",
    "    mov r15, [rax + {r15}]",
    "    cmp qword ptr [rax + {exact}], 0",
    "    jne 2f",
    // A system call: rcx and r11 are free (SDM vol. 2, SYSCALL).
    "    mov r11, [rax + {rflags_slot}]",
    "    push r11",
    "    popfq",
    "    mov rcx, [rax + {rip}]",
    "    mov rsp, [rax + {rsp}]",
    "    mov rax, [rax + {rax}]",
    "    jmp rcx",
    "2:  mov rcx, [rax + {rcx}]",
    "    mov r11, [rax + {r11}]",
    "    lea rsp, [rax + {rip}]",
    "    mov rax, [rax + {rax}]",
    "    iretq",

    // --- Traps: on an IST stack at CPL 3; [rsp] = vector, error, rip, cs, rflags, rsp, ss ---
    "trap_common:",
    "    cmp dword ptr [rsp + 20], {kernel_high}",
    "    je trap_in_kernel",
    "    mov [rip + saved_rax], rax",
    "    mov rax, [rip + CURRENT]",
    "    mov [rax + {rcx}], rcx",
    "    mov [rax + {r11}], r11",
    "    pop qword ptr [rip + trap_vector]",
    "    pop qword ptr [rip + trap_error]",
    "    mov rcx, [rsp]",
    "    mov [rax + {rip}], rcx",
    "    mov rcx, [rsp + 16]",
    "    mov [rax + {rflags_slot}], rcx",
    "    mov rcx, [rsp + 24]",
    "    mov [rax + {rsp}], rcx",
    "    lea rsp, [rip + kernel_stack_top]",
    "    lea rcx, [rip + {trap}]",
    "    jmp save_rest",
    "trap_in_kernel:",
    "    mov rdi, rsp",
    "    mov rsi, rbp",
    "    lea rsp, [rip + panic_stack_top]",
    "    and rsp, -16",
    "    call {kernel_trap}",
    "    ud2",

    // --- The gate: CPL 0 ---
    "gate_entry:",
    "    cmp r11, [rsp]",
    "    jne 1f",
    "    jmp rax",
    "1:  mov [rip + saved_gate_rax], rax",
    "    mov rax, rsp",
    "    push {user_ds}",
    "    push rax",
    "    push {rflags}",
    "    push {user_cs}",
    "    lea rax, [rip + trap_breakpoint]",
    "    push rax",
    "    mov rax, [rip + saved_gate_rax]",
    "    iretq",
    "gate_exit:",
    "    out dx, eax",
    "    iretq",
    "gate_read_cr2:",
    "    mov rax, cr2",
    "    iretq",
    "gate_load_cr3:",
    "    mov cr3, rdi",
    "    iretq",
    "gate_flush:",
    "    mov rax, cr3",
    "    mov cr3, rax",
    "    iretq",

    // --- Callers of the gate: System V functions at CPL 3 ---
    ".macro gate name, operation",
    ".globl \\name",
    "\\name:",
    "    lea rax, [rip + \\operation]",
    "    lea r11, [rip + 771f]",
    "    int3",
    "771: ret",
    ".endm",
    "gate gate_call_cr2, gate_read_cr2",
    "gate gate_call_load_cr3, gate_load_cr3",
    "gate gate_call_flush, gate_flush",
    ".globl gate_call_exit",
    "gate_call_exit:",
    "    mov edx, {port}",
    "    lea rax, [rip + gate_exit]",
    "    lea r11, [rip + 771f]",
    "    int3",
    "771: ret",

    // --- Trap stubs ---
    ".macro trap vector, has_error",
    "trap_\\vector:",
    ".if \\has_error == 0",
    "    push 0",
    ".endif",
    "    push \\vector",
    "    jmp trap_common",
    ".pushsection .rodata.traps, \"a\", @progbits",
    "    .quad trap_\\vector",
    ".popsection",
    ".endm",
    ".section .rodata.traps, \"a\", @progbits",
    ".balign 8",
    ".globl trap_stubs",
    "trap_stubs:",
    ".section .text.entry, \"ax\", @progbits",
    "trap 0, 0", "trap 1, 0", "trap 2, 0",
    "trap_breakpoint:",
    "trap 3, 0", "trap 4, 0", "trap 5, 0", "trap 6, 0", "trap 7, 0",
    "trap 8, 1", "trap 9, 0", "trap 10, 1", "trap 11, 1", "trap 12, 1", "trap 13, 1", "trap 14, 1", "trap 15, 0",
    "trap 16, 0", "trap 17, 1", "trap 18, 0", "trap 19, 0", "trap 20, 0", "trap 21, 1", "trap 22, 0", "trap 23, 0",
    "trap 24, 0", "trap 25, 0", "trap 26, 0", "trap 27, 0", "trap 28, 0", "trap 29, 1", "trap 30, 1", "trap 31, 0",
    ".globl gate_entry",

    // --- Scratch and stacks ---
    ".section .bss.entry, \"aw\", @nobits",
    ".balign 64",
    "saved_rsp: .skip 8",
    "saved_rax: .skip 8",
    "saved_gate_rax: .skip 8",
    "trap_vector: .skip 8",
    "trap_error: .skip 8",
    ".balign 4096",
    "    .skip {stack_bytes}",
    ".globl kernel_stack_top",
    "kernel_stack_top:",
    "    .skip 4096",
    ".globl trap_stack_top",
    "trap_stack_top:",
    "    .skip 4096",
    ".globl fault_stack_top",
    "fault_stack_top:",
    "    .skip 4096",
    ".globl gate_stack_top",
    "gate_stack_top:",
    "    .skip 16384",
    "panic_stack_top:",
    "    .skip 64",
    ".text",
    boot = sym crate::boot::boot,
    syscall = sym crate::boot::on_syscall,
    upcall = sym crate::boot::on_upcall,
    trap = sym crate::boot::on_trap,
    kernel_trap = sym crate::panic::kernel_trap,
    user_ds = const USER_DS,
    user_cs = const USER_CS,
    rflags = const RFLAGS,
    kernel_high = const (KERNEL_BASE >> 32) as i32,
    port = const DOORBELL_PORT,
    stack_bytes = const STACK_BYTES,
    xmm = const offset_of!(Context, xmm),
    exact = const offset_of!(Context, exact),
    rax = const register!(rax),
    rbx = const register!(rbx),
    rcx = const register!(rcx),
    rdx = const register!(rdx),
    rsi = const register!(rsi),
    rdi = const register!(rdi),
    rbp = const register!(rbp),
    r8 = const register!(r8),
    r9 = const register!(r9),
    r10 = const register!(r10),
    r11 = const register!(r11),
    r12 = const register!(r12),
    r13 = const register!(r13),
    r14 = const register!(r14),
    r15 = const register!(r15),
    rip = const register!(rip),
    rflags_slot = const register!(rflags),
    rsp = const register!(rsp),
);

unsafe extern "C" {
    static trap_stubs: [u64; 32];
    static kernel_stack_top: u8;
    static trap_stack_top: u8;
    static fault_stack_top: u8;
    static gate_stack_top: u8;
    fn gate_entry();
    fn gate_call_exit();
    fn gate_call_cr2() -> u64;
    fn gate_call_load_cr3(pml4: u64);
    fn gate_call_flush();
}

/// The library OS's stack, start and end.
pub(crate) fn stack() -> (u64, u64) {
    // SAFETY: only the address is taken.
    let top = (&raw const kernel_stack_top) as u64;
    (top - STACK_BYTES as u64, top)
}

/// Ring the doorbell.
pub(crate) fn doorbell() {
    // SAFETY: the gate preserves all registers but rax, rdx and r11, which the C ABI lets it change.
    unsafe { gate_call_exit() }
}

/// The address of the last page fault.
pub(crate) fn fault_address() -> u64 {
    // SAFETY: as for `doorbell`.
    unsafe { gate_call_cr2() }
}

/// Load CR3.
///
/// # Safety
/// The tables must map the library OS as all tables do.
pub(crate) unsafe fn load_cr3(pml4: u64) {
    // SAFETY: the caller's promise.
    unsafe { gate_call_load_cr3(pml4) }
}

/// Reload CR3.
pub(crate) fn flush() {
    // SAFETY: as for `doorbell`.
    unsafe { gate_call_flush() }
}

/// Fill in IDT, GDT and TSS (SDM vol. 3, 6.14, 3.4.5, 8.7).
///
/// Vectors 0 to 31 have gates to CPL 3 code (legal: same privilege as the application's), on an IST stack so that the red zone survives; vector 3 is the gate to
/// CPL 0.
pub(crate) fn write_tables() {
    use seuss_abi::layout::{
        GDT_KERNEL_CODE, GDT_KERNEL_DATA, GDT_USER_CODE, GDT_USER_DATA, KERNEL_CS, TSS_LIMIT,
    };
    let store = |address: u64, value: u64| {
        // SAFETY: the tables' pages belong to this image (link.ld) and are written here only.
        unsafe { (address as *mut u64).write_volatile(value) }
    };
    // SAFETY: only the address is taken.
    let top = |symbol: *const u8| symbol as u64;
    let tss_high = TSS_GVA >> 32;
    let tss_low =
        u64::from(TSS_LIMIT) | (TSS_GVA & 0xff_ffff) << 16 | 0x89 << 40 | (TSS_GVA >> 24 & 0xff) << 56;
    let gdt = [0, GDT_KERNEL_CODE, GDT_KERNEL_DATA, GDT_USER_DATA, GDT_USER_CODE, tss_low, tss_high];
    for (index, entry) in gdt.into_iter().enumerate() {
        store(GDT_GVA + index as u64 * 8, entry);
    }
    let stacks =
        [top(&raw const trap_stack_top), top(&raw const fault_stack_top), top(&raw const gate_stack_top)];
    let halves = |address: u64, value: u64| {
        for (offset, half) in [(0, value as u32), (4, (value >> 32) as u32)] {
            // SAFETY: within the TSS; its fields are only four-byte aligned.
            unsafe { ((address + offset) as *mut u32).write_volatile(half) }
        }
    };
    // The I/O bitmap starts beyond the limit: there is none, and port access at CPL 3 is a fault (SDM vol. 1, 19.5.2).
    // SAFETY: within the TSS.
    unsafe { ((TSS_GVA + 102) as *mut u16).write_volatile(TSS_LIMIT + 1) };
    halves(TSS_GVA + 4, stacks[2]);
    for (index, stack) in stacks.into_iter().enumerate() {
        halves(TSS_GVA + 36 + index as u64 * 8, stack);
    }
    for vector in 0..32u64 {
        // SAFETY: filled in by the assembler, one entry for each vector.
        let stub = unsafe { trap_stubs[vector as usize] };
        let (handler, selector, ist, dpl) = match vector {
            3 => (gate_entry as *const () as u64, u64::from(KERNEL_CS), 3, 3),
            8 => (stub, u64::from(USER_CS), 2, 0),
            _ => (stub, u64::from(USER_CS), 1, 0),
        };
        let low = handler & 0xffff
            | selector << 16
            | ist << 32
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        store(IDT_GVA + vector * 16, low);
        store(IDT_GVA + vector * 16 + 8, handler >> 32);
    }
}
