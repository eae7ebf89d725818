//! Static x86-64 programs, assembled by hand: what a container needs without any image.

/// Writes `text` to standard output and exits with `code`.
pub fn hello(text: &str, code: u8) -> Vec<u8> {
    let mut program = Vec::new();
    // lea rsi, [rip + data]: patched below
    program.extend([0x48, 0x8d, 0x35, 0, 0, 0, 0]);
    program.extend(mov_edx(text.len() as u32));
    program.extend(mov_edi(1));
    program.extend(system_call(1));
    program.extend(mov_edi(code.into()));
    program.extend(system_call(60));
    let data = program.len() as u32 - 7;
    program[3..7].copy_from_slice(&data.to_le_bytes());
    program.extend(text.as_bytes());
    executable(&program)
}

/// Copies standard input to standard output, and exits with the number of reads that found something.
pub fn cat() -> Vec<u8> {
    let mut program = Vec::new();
    program.extend([0x31, 0xdb]); // xor ebx, ebx
    program.extend([0x48, 0x81, 0xec, 0, 0x10, 0, 0]); // sub rsp, 4096
    let again = program.len();
    program.extend(mov_edi(0));
    program.extend([0x48, 0x89, 0xe6]); // mov rsi, rsp
    program.extend(mov_edx(4096));
    program.extend(system_call(0));
    program.extend([0x48, 0x85, 0xc0]); // test rax, rax
    program.extend([0x7e, 0]); // jle end: patched below
    let jump = program.len();
    program.extend([0xff, 0xc3]); // inc ebx
    program.extend([0x89, 0xc2]); // mov edx, eax
    program.extend(mov_edi(1));
    program.extend(system_call(1));
    let back = again as isize - (program.len() as isize + 2);
    program.extend([0xeb, back as i8 as u8]); // jmp again
    program[jump - 1] = (program.len() - jump) as u8;
    program.extend([0x89, 0xdf]); // mov edi, ebx
    program.extend(system_call(60));
    executable(&program)
}

/// Waits for a signal that ends it.
pub fn pause() -> Vec<u8> {
    let mut program = Vec::from(system_call(34));
    program.extend([0xeb, 0xf7]); // jmp to the start
    executable(&program)
}

fn mov_edi(value: u32) -> [u8; 5] {
    let [a, b, c, d] = value.to_le_bytes();
    [0xbf, a, b, c, d]
}

fn mov_edx(value: u32) -> [u8; 5] {
    let [a, b, c, d] = value.to_le_bytes();
    [0xba, a, b, c, d]
}

fn system_call(number: u32) -> [u8; 7] {
    let [a, b, c, d] = number.to_le_bytes();
    [0xb8, a, b, c, d, 0x0f, 0x05]
}

/// An ELF executable of one read-only, executable segment that holds everything.
fn executable(program: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 56;
    const BASE: u64 = 0x40_0000;
    let size = HEADERS + program.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    elf.extend(2_u16.to_le_bytes()); // ET_EXEC
    elf.extend(62_u16.to_le_bytes()); // x86-64
    elf.extend(1_u32.to_le_bytes());
    elf.extend((BASE + HEADERS).to_le_bytes()); // entry
    elf.extend(64_u64.to_le_bytes()); // program headers
    elf.extend(0_u64.to_le_bytes()); // section headers
    elf.extend(0_u32.to_le_bytes());
    for value in [64_u16, 56, 1, 64, 0, 0] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(1_u32.to_le_bytes()); // PT_LOAD
    elf.extend(5_u32.to_le_bytes()); // read, execute
    for value in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(value.to_le_bytes());
    }
    elf.extend(program);
    elf
}
