//! The vCPU state at entry: the same for every guest but CR3 (see `seuss_abi::layout`). Pure data.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs, kvm_xcr, kvm_xcrs};
use seuss_abi::layout::{
    CR0, CR4, EFER, ENTRY_BOOT, ENTRY_SYSCALL, FMASK, GDT_GVA, GDT_LIMIT, IDT_GVA, RFLAGS, STAR, TSS_GVA,
    TSS_LIMIT, TSS_SELECTOR, USER_CS, USER_DS,
};

use crate::memory::Gpa;

/// Segment types (SDM vol. 3, tables 3-1 and 3-2): accessed read/write data, accessed execute/read code, LDT, busy
/// 64-bit TSS.
const TYPE_DATA: u8 = 0x3;
const TYPE_CODE: u8 = 0xb;
const TYPE_LDT: u8 = 0x2;
const TYPE_TSS_BUSY: u8 = 0xb;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_FMASK: u32 = 0xc000_0084;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
const MSR_TSC_AUX: u32 = 0xc000_0103;

/// Limit of the IDT: 256 gates of 16 bytes.
const IDT_LIMIT: u16 = 256 * 16 - 1;

fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: (selector & 3) as u8,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}

/// Put the contract's constants over `sregs` (as KVM_GET_SREGS gave them: it holds the APIC base), with the PML4 at
/// `pml4`.
pub(crate) fn special_registers(mut sregs: kvm_sregs, pml4: Gpa) -> kvm_sregs {
    sregs.cs = flat(USER_CS, TYPE_CODE, true);
    let data = flat(USER_DS, TYPE_DATA, false);
    (sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        base: TSS_GVA,
        limit: u32::from(TSS_LIMIT),
        selector: TSS_SELECTOR,
        type_: TYPE_TSS_BUSY,
        present: 1,
        ..kvm_segment::default()
    };
    sregs.ldt = kvm_segment { type_: TYPE_LDT, unusable: 1, ..kvm_segment::default() };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT_GVA, GDT_LIMIT);
    (sregs.idt.base, sregs.idt.limit) = (IDT_GVA, IDT_LIMIT);
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8) = (CR0, 0, pml4.0, CR4, 0);
    sregs.efer = EFER;
    sregs.interrupt_bitmap = [0; 4];
    sregs
}

/// General registers at entry: everything zero but rip and rflags.
pub(crate) fn general_registers() -> kvm_regs {
    kvm_regs { rip: ENTRY_BOOT, rflags: RFLAGS, ..kvm_regs::default() }
}

/// x87 and SSE state at entry: all exceptions masked (SDM vol. 1, 8.1.5 and 10.2.3).
pub(crate) fn fpu() -> kvm_fpu {
    kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..kvm_fpu::default() }
}

/// XCR0.
pub(crate) fn extended_control(xcr0: u64) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, value: xcr0, ..kvm_xcr::default() };
    xcrs
}

/// The system-call MSRs; TSC_AUX is the processor number that `rdtscp` gives. `None` only if the list were too long
/// for its type.
pub(crate) fn msrs() -> Option<Msrs> {
    msr_list(&[
        (MSR_STAR, STAR),
        (MSR_LSTAR, ENTRY_SYSCALL),
        (MSR_CSTAR, ENTRY_SYSCALL),
        (MSR_FMASK, FMASK),
        (MSR_KERNEL_GS_BASE, 0),
        (MSR_TSC_AUX, 0),
    ])
}

/// The TSC as an MSR, for a KVM without the offset attribute.
pub(crate) fn tsc_msr(value: u64) -> Option<Msrs> {
    msr_list(&[(MSR_IA32_TSC, value)])
}

fn msr_list(values: &[(u32, u64)]) -> Option<Msrs> {
    let entries: Vec<_> = values
        .iter()
        .map(|&(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() })
        .collect();
    Msrs::from_entries(&entries).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privilege_level_is_three_everywhere() {
        let sregs = special_registers(kvm_sregs::default(), Gpa(0x1_0000_0000));
        assert_eq!((sregs.cs.dpl, sregs.ss.dpl, sregs.cs.l, sregs.cs.db), (3, 3, 1, 0));
        assert_eq!(sregs.cr3, 0x1_0000_0000);
        assert_eq!(sregs.tr.s, 0, "a system segment");
    }
}
