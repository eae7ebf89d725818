//! Guests for tests: a few instructions of assembly, made into an ELF image that honours the contract of `seuss_abi`.
//!
//! Image, from `KERNEL_BASE`: page 0 entry points, page 1 IDT, page 2 GDT and TSS, pages 3 and 4 the test's code,
//! pages 5 to 8 data and stacks. Gate 3 (`int3`) leads to a CPL 0 stub on IST 1; no other gate is present, so that any
//! other exception is a triple fault.
#![allow(dead_code)]

use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use seuss_abi::layout::{
    GDT_KERNEL_CODE, GDT_KERNEL_DATA, GDT_USER_CODE, GDT_USER_DATA, KERNEL_BASE, KERNEL_CS, TSS_GVA,
    TSS_LIMIT,
};
use seuss_abi::spec::ProcessSpec;
use seuss_vmm::{Guest, GuestConfig, GuestError, GuestEvent, KernelImage, StartError, Stdio, WaitStatus};

/// Offset of the CPL 0 stub behind `int3`.
const STUB: u64 = 0x180;
/// Offset of the test's code, and of the data after it.
const CODE: usize = 0x3000;
const DATA: usize = 0x5000;
/// Top of the CPL 0 stack.
const STACK_TOP: u64 = 0x9000;

/// A stub that rings the doorbell.
pub(crate) const DOORBELL: &str = "mov edx, 0x5e5\n out dx, eax\n iretq";

/// Defines a function that gives the code of a test's guest.
///
/// `main` starts with r15 = the communication window, r14 = the private window, both in the direct map, and rsp set
/// (free memory:
/// 0x608000005000 to 0x608000007000). `upcall` is what `ENTRY_UPCALL` jumps to. `stub` runs at CPL 0 behind `int3`.
/// Numeric labels above 70 are the macro's.
#[macro_export]
macro_rules! guest {
    ($name:ident: $main:expr) => {
        $crate::guest!($name: $main, upcall "ud2", stub "mov edx, 0x5e5\n out dx, eax\n iretq");
    };
    ($name:ident: $main:expr, upcall $upcall:expr) => {
        $crate::guest!($name: $main, upcall $upcall, stub "mov edx, 0x5e5\n out dx, eax\n iretq");
    };
    ($name:ident: $main:expr, stub $stub:expr) => {
        $crate::guest!($name: $main, upcall "ud2", stub $stub);
    };
    ($name:ident: $main:expr, upcall $upcall:expr, stub $stub:expr) => {
        fn $name() -> Vec<u8> {
            let (start, end): (*const u8, *const u8);
            // SAFETY: takes two addresses; what is assembled into the other section is data here.
            unsafe {
                std::arch::asm!(
                    "lea {start}, [rip + 71f]",
                    "lea {end}, [rip + 72f]",
                    ".pushsection .rodata.seuss_guest, \"a\"",
                    ".balign 4096",
                    "71:",
                    "movabs r15, 0x600000000000",
                    "movabs r14, 0x600100000000",
                    "movabs rsp, 0x608000007000",
                    "jmp 73f",
                    ".balign 128, 0xcc",
                    "ud2",
                    ".balign 128, 0xcc",
                    "jmp 74f",
                    ".balign 128, 0xcc",
                    $stub,
                    ".balign 4096, 0xcc",
                    ".skip 0x2000",
                    "73:",
                    $main,
                    "74:",
                    $upcall,
                    "72:",
                    ".popsection",
                    start = out(reg) start,
                    end = out(reg) end,
                );
            }
            // SAFETY: both labels are in one section, in this order.
            let len = unsafe { end.offset_from(start) } as usize;
            // SAFETY: the bytes between the labels.
            unsafe { std::slice::from_raw_parts(start, len) }.to_vec()
        }
    };
}

/// A host call: `rax` holds the result; rax and rdx are lost. Arguments are operands of `mov rax, …`.
#[macro_export]
macro_rules! call {
    ($op:literal) => {
        $crate::call!($op, "0", "0", "0")
    };
    ($op:literal, $a:literal) => {
        $crate::call!($op, $a, "0", "0")
    };
    ($op:literal, $a:literal, $b:literal) => {
        $crate::call!($op, $a, $b, "0")
    };
    ($op:literal, $a:literal, $b:literal, $c:literal) => {
        concat!(
            "mov rax, ",
            $a,
            "\n mov [r15 + 0x2008], rax\n",
            "mov rax, ",
            $b,
            "\n mov [r15 + 0x2010], rax\n",
            "mov rax, ",
            $c,
            "\n mov [r15 + 0x2018], rax\n",
            "mov dword ptr [r15 + 0x2000], ",
            $op,
            "\n int3\n mov rax, [r15 + 0x2038]\n",
        )
    };
}

/// Put a piece of private memory into the segment list at gpa 0x100200000 (its direct-map address is r14 + 0x200000):
/// entry 0.
#[macro_export]
macro_rules! segment {
    ($gpa:literal, $len:literal) => {
        concat!(
            "mov rax, ",
            $gpa,
            "\n mov [r14 + 0x200000], rax\n",
            "mov rax, ",
            $len,
            "\n mov [r14 + 0x200008], rax\n",
        )
    };
}

/// Map the first 2 MiB of private memory (where the image lies) at 0x400000 as well, readable, writable and
/// executable, and go on there: as an application.
#[macro_export]
macro_rules! become_application {
    () => {
        concat!(
            "mov rax, [r15 + 32]\n movabs rcx, 0x600000000000\n add rax, rcx\n",
            "movabs rdx, 0x100400007\n mov [rax], rdx\n",
            "movabs rdx, 0x100401007\n mov [r14 + 0x400000], rdx\n",
            "movabs rdx, 0x1000000e7\n mov [r14 + 0x401010], rdx\n",
            "lea rax, [rip + 70f]\n movabs rcx, 0x608000000000\n sub rax, rcx\n add rax, 0x400000\n",
            "jmp rax\n 70:\n",
        )
    };
}

/// An ELF image from assembled code.
pub(crate) fn image(code: &[u8]) -> KernelImage {
    assert!(code.len() <= STACK_TOP as usize - 0x1000, "the test's code is too long");
    let mut bytes = code.to_vec();
    bytes.resize(STACK_TOP as usize, 0);
    let gate = gate(KERNEL_BASE + STUB);
    bytes[0x1000 + 3 * 16..0x1000 + 4 * 16].copy_from_slice(&gate);
    let tss = tss_descriptor();
    let gdt = [0, GDT_KERNEL_CODE, GDT_KERNEL_DATA, GDT_USER_DATA, GDT_USER_CODE, tss.0, tss.1];
    for (index, entry) in gdt.iter().enumerate() {
        bytes[0x2000 + index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
    }
    let tss_at = (TSS_GVA - KERNEL_BASE) as usize;
    for offset in [4, 36] {
        // RSP0 and IST1.
        bytes[tss_at + offset..][..8].copy_from_slice(&(KERNEL_BASE + STACK_TOP).to_le_bytes());
    }
    let segments = [(0, 0x1000, 5), (0x1000, CODE, 6), (CODE, DATA, 5), (DATA, STACK_TOP as usize, 6)];
    KernelImage::from_bytes(elf(&bytes, &segments)).expect("a test's image")
}

/// 64-bit interrupt gate, DPL 3, IST 1, to CPL 0 (SDM vol. 3, figure 6-8).
fn gate(target: u64) -> [u8; 16] {
    let low =
        (target & 0xffff) | u64::from(KERNEL_CS) << 16 | 1 << 32 | 0xee << 40 | (target >> 16 & 0xffff) << 48;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..12].copy_from_slice(&((target >> 32) as u32).to_le_bytes());
    bytes
}

fn tss_descriptor() -> (u64, u64) {
    let (base, limit) = (TSS_GVA, u64::from(TSS_LIMIT));
    let low = limit | (base & 0xff_ffff) << 16 | 0x8b << 40 | (base >> 24 & 0xff) << 56;
    (low, base >> 32)
}

/// An ELF executable whose segments (start, end, flags) are parts of `bytes`, linked at `KERNEL_BASE`.
pub(crate) fn elf(bytes: &[u8], segments: &[(usize, usize, u32)]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |file: &mut Vec<u8>, value: u16| file.extend_from_slice(&value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend_from_slice(&value.to_le_bytes());
    let long = |file: &mut Vec<u8>, value: u64| file.extend_from_slice(&value.to_le_bytes());
    half(&mut file, 2); // ET_EXEC
    half(&mut file, 62); // EM_X86_64
    word(&mut file, 1);
    long(&mut file, KERNEL_BASE);
    long(&mut file, 64);
    long(&mut file, 0);
    word(&mut file, 0);
    for value in [64, 56, segments.len() as u16, 64, 0, 0] {
        half(&mut file, value);
    }
    for &(start, end, flags) in segments {
        word(&mut file, 1); // PT_LOAD
        word(&mut file, flags);
        long(&mut file, 0x1000 + start as u64);
        long(&mut file, KERNEL_BASE + start as u64);
        long(&mut file, KERNEL_BASE + start as u64);
        long(&mut file, (end - start) as u64);
        long(&mut file, (end - start) as u64);
        long(&mut file, 0x1000);
    }
    file.resize(0x1000, 0);
    file.extend_from_slice(bytes);
    file
}

/// Whether KVM can be used. If not, the test says SKIP and why, and adds itself to the file `$SEUSS_SKIP_LOG`, by which `make test` counts it; with
/// `SEUSS_REQUIRE_KVM=1` it fails.
pub(crate) fn kvm() -> bool {
    let error = match std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => return true,
        Err(error) => error,
    };
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let required = std::env::var_os("SEUSS_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(!required, "SEUSS_REQUIRE_KVM=1 forbids to skip {test}: needs /dev/kvm: {error}");
    eprintln!("SKIP {test}: needs /dev/kvm: {error}");
    if let Some(path) = std::env::var_os("SEUSS_SKIP_LOG")
        && let Ok(mut log) = std::fs::File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(log, "{test}\tneeds /dev/kvm: {error}");
    }
    false
}

/// A configuration with 16 MiB and nothing connected.
pub(crate) fn config() -> GuestConfig {
    let process = ProcessSpec { args: vec![b"test".to_vec()], ..ProcessSpec::default() };
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    GuestConfig {
        memory_bytes: 16 << 20,
        images: Vec::new(),
        process,
        stdio: Stdio::default(),
        name,
        privileges: seuss_vmm::NetPrivileges::default(),
        snapshots: None,
    }
}

/// A started guest and its events.
pub(crate) struct Started {
    pub(crate) guest: Guest,
    pub(crate) events: mpsc::Receiver<GuestEvent>,
}

/// `code` with bytes that the guest finds at 0x608000005000.
pub(crate) fn with_data(mut code: Vec<u8>, data: &[u8]) -> Vec<u8> {
    code.resize(DATA, 0);
    code.extend_from_slice(data);
    code
}

/// Start a guest made of `code` with `config`.
pub(crate) fn start(config: GuestConfig, code: Vec<u8>) -> Result<Started, StartError> {
    let (sender, events) = mpsc::channel();
    let guest = Guest::start_image(config, image(&code), move |event| {
        let _ = sender.send(event);
    })?;
    Ok(Started { guest, events })
}

impl Started {
    /// The next event, within ten seconds.
    pub(crate) fn event(&self) -> GuestEvent {
        self.events.recv_timeout(Duration::from_secs(10)).expect("an event in time")
    }

    /// The result, within ten seconds; every other event before it is lost.
    pub(crate) fn end(&self) -> Result<WaitStatus, GuestError> {
        loop {
            if let GuestEvent::Ended(result) = self.event() {
                assert_eq!(self.guest.wait(), result);
                return result;
            }
        }
    }
}

/// Run a guest made of `code` to its end.
pub(crate) fn run(config: GuestConfig, code: Vec<u8>) -> Result<WaitStatus, GuestError> {
    start(config, code).expect("starts").end()
}

/// A pipe: (read end, write end).
pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe")
}

/// Everything that comes out of `fd` until its end.
pub(crate) fn drain(fd: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes).expect("read");
    bytes
}
