//! Finding the address of a page fault without CR2, which only CPL 0 can read (decisions/0001).
//!
//! The error code, the registers and the faulting instruction tell it in nearly all cases. A guess counts only if the page tables say that the access
//! must fault there; otherwise (accesses across a page border, instructions with implicit operands that are not known here) CR2 is read.

use super::Kernel;
use super::schedule::{ERROR_FETCH, ERROR_WRITE};
use crate::mem::paging::{P, U, W};
use crate::mem::space::is_application;
use crate::task::thread::{Registers, Thread};
use alloc::rc::Rc;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use seuss_abi::layout::PAGE_SIZE;

/// Longest instruction.
const INSTRUCTION_MAX: usize = 15;

impl Kernel {
    /// The address whose page fault has error code `error`, if the instruction tells it.
    pub(super) fn fault_address(&self, thread: &Rc<Thread>, error: u64) -> Option<u64> {
        let registers = thread.registers();
        if error & ERROR_FETCH != 0 {
            return self.faults(thread, registers.rip, error).then_some(registers.rip);
        }
        let in_page = (PAGE_SIZE - registers.rip % PAGE_SIZE) as usize;
        if in_page < INSTRUCTION_MAX {
            return None;
        }
        let mut code = [0; INSTRUCTION_MAX];
        thread.process.space().borrow_mut().read(registers.rip, &mut code).ok()?;
        let (fs_base, _) = self.machine.segment_bases();
        candidates(&code, &registers, fs_base, error & ERROR_WRITE != 0)
            .into_iter()
            .flatten()
            .find(|address| self.faults(thread, *address, error))
    }

    /// Whether the page tables forbid the access at `address`.
    fn faults(&self, thread: &Rc<Thread>, address: u64, error: u64) -> bool {
        if !is_application(address) {
            return false;
        }
        let needed = if error & ERROR_WRITE != 0 { P | U | W } else { P | U };
        let leaf = thread.process.space().borrow().leaf(address);
        leaf.is_none_or(|leaf| leaf.entry & needed != needed)
    }
}

/// The addresses that an instruction loads from or, if `write`, stores to: at most two.
fn candidates(code: &[u8], registers: &Registers, fs_base: u64, write: bool) -> [Option<u64>; 2] {
    let mut decoder = Decoder::with_ip(64, code, registers.rip, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    if instruction.is_invalid() {
        return [None; 2];
    }
    let value = |register: Register, _: usize, _: usize| register_value(register, registers, fs_base);
    let mut found = [None; 2];
    let mut at = 0;
    for operand in 0..instruction.op_count() {
        let is_memory = matches!(
            instruction.op_kind(operand),
            OpKind::Memory
                | OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::MemoryESRDI
        );
        // The first operand is the one that is stored to, but compares and tests only load.
        if is_memory && at < 2 && (!write || operand == 0) {
            found[at] = instruction.virtual_address(operand, 0, value);
            at += 1;
        }
    }
    if at == 0 || write {
        let pushes = matches!(instruction.mnemonic(), Mnemonic::Push | Mnemonic::Call | Mnemonic::Pushfq);
        let pops = matches!(instruction.mnemonic(), Mnemonic::Pop | Mnemonic::Ret | Mnemonic::Leave);
        if pushes && write {
            found[1] = Some(registers.rsp.wrapping_sub(8));
        } else if pops && !write {
            found[1] =
                Some(if instruction.mnemonic() == Mnemonic::Leave { registers.rbp } else { registers.rsp });
        }
    }
    found
}

fn register_value(register: Register, registers: &Registers, fs_base: u64) -> Option<u64> {
    Some(match register {
        Register::RAX => registers.rax,
        Register::RBX => registers.rbx,
        Register::RCX => registers.rcx,
        Register::RDX => registers.rdx,
        Register::RSI => registers.rsi,
        Register::RDI => registers.rdi,
        Register::RBP => registers.rbp,
        Register::RSP => registers.rsp,
        Register::R8 => registers.r8,
        Register::R9 => registers.r9,
        Register::R10 => registers.r10,
        Register::R11 => registers.r11,
        Register::R12 => registers.r12,
        Register::R13 => registers.r13,
        Register::R14 => registers.r14,
        Register::R15 => registers.r15,
        Register::EAX => registers.rax & 0xffff_ffff,
        Register::ECX => registers.rcx & 0xffff_ffff,
        Register::EDX => registers.rdx & 0xffff_ffff,
        Register::EBX => registers.rbx & 0xffff_ffff,
        Register::ESI => registers.rsi & 0xffff_ffff,
        Register::EDI => registers.rdi & 0xffff_ffff,
        Register::FS => fs_base,
        Register::CS | Register::DS | Register::ES | Register::SS => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(code: &[u8], write: bool) -> [Option<u64>; 2] {
        let registers = Registers {
            rax: 0x1000,
            rsi: 0x2000,
            rdi: 0x3000,
            rsp: 0x4000,
            rip: 0x5000,
            rbp: 0x6000,
            ..Registers::default()
        };
        let mut padded = [0x90; INSTRUCTION_MAX];
        padded[..code.len()].copy_from_slice(code);
        candidates(&padded, &registers, 0x7000, write)
    }

    #[test]
    fn operands_are_found() {
        // mov [rdi+8], eax; mov eax, [rip+0x10]; movsb; vmovdqu ymm0, [rsi+0x20]; mov rax, fs:[0x28].
        assert_eq!(find(&[0x89, 0x47, 0x08], true), [Some(0x3008), None]);
        assert_eq!(find(&[0x8b, 0x05, 0x10, 0, 0, 0], false), [Some(0x5016), None]);
        assert_eq!(find(&[0xf3, 0xa4], true), [Some(0x3000), None]);
        assert_eq!(find(&[0xf3, 0xa4], false), [Some(0x3000), Some(0x2000)]);
        assert_eq!(find(&[0xc5, 0xfe, 0x6f, 0x46, 0x20], false), [Some(0x2020), None]);
        assert_eq!(find(&[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], false), [Some(0x7028), None]);
    }

    #[test]
    fn stacks_are_found() {
        assert_eq!(find(&[0x50], true)[1], Some(0x3ff8));
        assert_eq!(find(&[0xe8, 0, 0, 0, 0], true)[1], Some(0x3ff8));
        assert_eq!(find(&[0xc3], false)[1], Some(0x4000));
        assert_eq!(find(&[0xc9], false)[1], Some(0x6000));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        // An invalid instruction, and a gather.
        assert_eq!(find(&[0x06], true), [None; 2]);
        assert_eq!(find(&[0xc4, 0xe2, 0x75, 0x90, 0x04, 0x08], true), [None; 2]);
    }
}
