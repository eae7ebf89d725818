//! What CPU the guest sees: KVM's supported CPUID, made to look like one processor without the state components that
//! stay off.
//!
//! On kvm_pvm `cpuid` at CPL 3 shows the host's leaves whatever is set here; elsewhere this is what the guest gets.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// State components that are turned on if the CPU has them: x87, SSE, AVX, and the three of AVX-512 together.
const X87_SSE: u64 = 0b11;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0b111 << 5;

/// CPU features of the guest.
#[derive(Clone, Debug)]
pub(crate) struct CpuFeatures {
    /// CPUID leaves for KVM_SET_CPUID2.
    pub(crate) cpuid: CpuId,
    /// XCR0.
    pub(crate) xcr0: u64,
    /// Size of the standard-format XSAVE area for `xcr0`.
    pub(crate) xsave_bytes: u64,
}

/// Features that a guest cannot do without and this CPU (or this KVM) lacks, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub(crate) Vec<&'static str>);

/// (name, leaf, bit of edx): what KVM must offer.
const REQUIRED: &[(&str, u32, u32)] = &[
    ("fxsr", 1, 24),
    ("sse2", 1, 26),
    ("syscall", 0x8000_0001, 11),
    ("nx", 0x8000_0001, 20),
    ("long mode", 0x8000_0001, 29),
];

/// AT_HWCAP2 bit: the kernel lets user space use FSGSBASE (arch/x86/include/uapi/asm/hwcap2.h).
const HWCAP2_FSGSBASE: usize = 1 << 1;

/// What the host's processor must have. Not asked of KVM: kvm_pvm offers neither, and accepts both in CR4 all the same.
fn missing_in_host() -> impl Iterator<Item = &'static str> {
    let xsave = (!std::is_x86_feature_detected!("xsave")).then_some("xsave");
    let fsgsbase = (rustix::param::linux_hwcap().1 & HWCAP2_FSGSBASE == 0).then_some("fsgsbase");
    [xsave, fsgsbase].into_iter().flatten()
}

fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    entries.iter().find(|entry| entry.function == function && entry.index == index)
}

impl CpuFeatures {
    /// Choose the guest's features from what KVM supports.
    pub(crate) fn choose(mut supported: CpuId) -> Result<Self, Missing> {
        let entries = supported.as_slice();
        let lacks = |&&(_, leaf, bit): &&(&str, u32, u32)| {
            find(entries, leaf, 0).map_or(0, |entry| entry.edx) & (1 << bit) == 0
        };
        let missing = REQUIRED.iter().filter(lacks).map(|&(name, ..)| name);
        let missing: Vec<_> = missing.chain(missing_in_host()).collect();
        if !missing.is_empty() {
            return Err(Missing(missing));
        }
        let xcr0 = find(entries, 0xd, 0)
            .map_or(X87_SSE, |leaf| xcr0(u64::from(leaf.eax) | u64::from(leaf.edx) << 32));
        let xsave_bytes = xsave_bytes(entries, xcr0);
        for entry in supported.as_mut_slice() {
            fix(entry, xcr0, xsave_bytes);
        }
        Ok(Self { cpuid: supported, xcr0, xsave_bytes })
    }
}

/// The components to turn on out of those supported.
fn xcr0(supported: u64) -> u64 {
    let mut chosen = X87_SSE;
    if supported & AVX != 0 {
        chosen |= AVX;
        if supported & AVX_512 == AVX_512 {
            chosen |= AVX_512;
        }
    }
    chosen
}

/// The end of the last enabled component (SDM vol. 1, 13.4: legacy region and header, then leaf 0xd's sub-leaves).
fn xsave_bytes(entries: &[kvm_cpuid_entry2], xcr0: u64) -> u64 {
    let component = |bit: u32| find(entries, 0xd, bit).map(|leaf| u64::from(leaf.ebx) + u64::from(leaf.eax));
    let ends = (2..63).filter(|bit| xcr0 & (1 << bit) != 0).filter_map(component);
    ends.fold(512 + 64, u64::max)
}

/// One processor: APIC id 0, one core, one thread; no features whose state stays off (PKU, AMX).
fn fix(entry: &mut kvm_cpuid_entry2, xcr0: u64, xsave_bytes: u64) {
    match (entry.function, entry.index) {
        (1, _) => {
            // Initial APIC id and the number of logical processors; HTT says that the latter means something.
            entry.ebx = (entry.ebx & 0xffff) | (1 << 16);
            entry.edx &= !(1 << 28);
        }
        (4 | 0x8000_001d, _) => entry.eax &= !0xffff_c000,
        (7, 0) => {
            entry.ecx &= !(1 << 3 | 1 << 4);
            entry.edx &= !(1 << 22 | 1 << 24 | 1 << 25);
        }
        (0xb | 0x1f, index) => {
            (entry.eax, entry.ebx, entry.edx) = (0, u32::from(index == 0), 0);
            entry.ecx = index | if index == 0 { 1 << 8 } else { 0 };
        }
        (0xd, 0) => {
            (entry.eax, entry.edx) = (xcr0 as u32, (xcr0 >> 32) as u32);
            (entry.ebx, entry.ecx) = (xsave_bytes as u32, xsave_bytes as u32);
        }
        (0xd, bit @ 2..) if xcr0 & 1_u64.checked_shl(bit).unwrap_or(0) == 0 => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        (0x1d | 0x1e, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        (0x8000_0008, _) => entry.ecx = 0,
        (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (0, 0, 0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
    }

    fn sample() -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(1, 0, [0, 0xff10_0800, 1 << 26, 1 << 24 | 1 << 26 | 1 << 28]),
            entry(7, 0, [0, 1, 1 << 3, 1 << 24]),
            entry(0xd, 0, [0x2e7, 2696, 2696, 0]),
            entry(0xd, 2, [256, 576, 0, 0]),
            entry(0xd, 5, [64, 832, 0, 0]),
            entry(0xd, 6, [512, 896, 0, 0]),
            entry(0xd, 7, [1024, 1408, 0, 0]),
            entry(0xd, 9, [8, 2432, 0, 0]),
            entry(0x8000_0001, 0, [0, 0, 0, 1 << 11 | 1 << 20 | 1 << 29]),
        ]
    }

    #[test]
    fn avx_512_is_on_and_protection_keys_are_off() {
        let features = CpuFeatures::choose(CpuId::from_entries(&sample()).expect("fits")).expect("complete");
        assert_eq!(features.xcr0, 0xe7);
        assert_eq!(features.xsave_bytes, 2432);
        let entries = features.cpuid.as_slice();
        assert_eq!(find(entries, 0xd, 9).map(|leaf| leaf.eax), Some(0));
        assert_eq!(find(entries, 7, 0).map(|leaf| (leaf.ebx, leaf.ecx, leaf.edx)), Some((1, 0, 0)));
        assert_eq!(find(entries, 1, 0).map(|leaf| leaf.ebx), Some(0x1_0800));
    }

    #[test]
    fn half_of_avx_512_is_none() {
        assert_eq!(xcr0(0b111 | 0b011 << 5), 0b111);
        assert_eq!(xcr0(0b011 | 0b111 << 5), 0b011);
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut entries = sample();
        entries[8].edx = 1 << 11;
        let refused = CpuFeatures::choose(CpuId::from_entries(&entries).expect("fits"));
        assert_eq!(refused.err(), Some(Missing(vec!["nx", "long mode"])));
    }
}
