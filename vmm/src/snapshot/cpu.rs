//! The processor as a program sees it, by name: what its choices in memory depend on.

use std::arch::x86_64::{__cpuid_count, CpuidResult};

use seuss_snapshotter::snapshot::CpuSet;

use crate::error::StartError;
use crate::hypervisor::Hypervisor;

/// Leaves with feature bits (SDM vol. 2, CPUID; APM vol. 3, appendix E): leaf, sub-leaf, register.
const WORDS: &[(u32, u32, Register)] = &[
    (1, 0, Register::Ecx),
    (1, 0, Register::Edx),
    (7, 0, Register::Ebx),
    (7, 0, Register::Ecx),
    (7, 0, Register::Edx),
    (7, 1, Register::Eax),
    (0x8000_0001, 0, Register::Ecx),
    (0x8000_0001, 0, Register::Edx),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Names of bits that programs look at; all others are named by their place.
const NAMES: &[(u32, u32, Register, u32, &str)] = &[
    (1, 0, Register::Ecx, 0, "sse3"),
    (1, 0, Register::Ecx, 1, "pclmulqdq"),
    (1, 0, Register::Ecx, 9, "ssse3"),
    (1, 0, Register::Ecx, 12, "fma"),
    (1, 0, Register::Ecx, 13, "cx16"),
    (1, 0, Register::Ecx, 19, "sse4.1"),
    (1, 0, Register::Ecx, 20, "sse4.2"),
    (1, 0, Register::Ecx, 22, "movbe"),
    (1, 0, Register::Ecx, 23, "popcnt"),
    (1, 0, Register::Ecx, 25, "aes"),
    (1, 0, Register::Ecx, 28, "avx"),
    (1, 0, Register::Ecx, 29, "f16c"),
    (1, 0, Register::Ecx, 30, "rdrand"),
    (1, 0, Register::Edx, 25, "sse"),
    (1, 0, Register::Edx, 26, "sse2"),
    (7, 0, Register::Ebx, 3, "bmi1"),
    (7, 0, Register::Ebx, 4, "hle"),
    (7, 0, Register::Ebx, 5, "avx2"),
    (7, 0, Register::Ebx, 8, "bmi2"),
    (7, 0, Register::Ebx, 9, "erms"),
    (7, 0, Register::Ebx, 11, "rtm"),
    (7, 0, Register::Ebx, 16, "avx512f"),
    (7, 0, Register::Ebx, 17, "avx512dq"),
    (7, 0, Register::Ebx, 18, "rdseed"),
    (7, 0, Register::Ebx, 19, "adx"),
    (7, 0, Register::Ebx, 21, "avx512ifma"),
    (7, 0, Register::Ebx, 28, "avx512cd"),
    (7, 0, Register::Ebx, 29, "sha"),
    (7, 0, Register::Ebx, 30, "avx512bw"),
    (7, 0, Register::Ebx, 31, "avx512vl"),
    (7, 0, Register::Ecx, 1, "avx512vbmi"),
    (7, 0, Register::Ecx, 6, "avx512vbmi2"),
    (7, 0, Register::Ecx, 8, "gfni"),
    (7, 0, Register::Ecx, 9, "vaes"),
    (7, 0, Register::Ecx, 10, "vpclmulqdq"),
    (7, 0, Register::Ecx, 11, "avx512vnni"),
    (7, 0, Register::Ecx, 12, "avx512bitalg"),
    (7, 0, Register::Ecx, 14, "avx512vpopcntdq"),
    (7, 0, Register::Edx, 4, "fsrm"),
    (7, 1, Register::Eax, 4, "avxvnni"),
    (7, 1, Register::Eax, 5, "avx512bf16"),
    (0x8000_0001, 0, Register::Ecx, 5, "lzcnt"),
    (0x8000_0001, 0, Register::Ecx, 6, "sse4a"),
];

/// Bits that say nothing of the instruction set: OSXSAVE and the hypervisor's mark (set by the system), APIC, MTRR, MCE and their like do not reach programs.
const IGNORED: &[(u32, u32, Register, u32)] = &[
    (1, 0, Register::Ecx, 27),
    (1, 0, Register::Ecx, 31),
    (1, 0, Register::Ecx, 21),
    (1, 0, Register::Edx, 9),
];

/// This host's processor with the state that guests get.
///
/// # Errors
/// [`StartError`]: KVM cannot be used here.
pub(crate) fn host() -> Result<CpuSet, StartError> {
    let hypervisor = Hypervisor::shared()?;
    let mut features = names();
    features.sort();
    Ok(CpuSet { xcr0: hypervisor.features.xcr0, xsave_bytes: hypervisor.features.xsave_bytes, features })
}

fn names() -> Vec<String> {
    let largest = [0, 0x8000_0000].map(|leaf| __cpuid_count(leaf, 0).eax);
    let mut names = Vec::new();
    for &(leaf, sub, register) in WORDS {
        if leaf > largest[usize::from(leaf >= 0x8000_0000)] {
            continue;
        }
        let word = pick(__cpuid_count(leaf, sub), register);
        for bit in (0..32).filter(|bit| word >> bit & 1 == 1) {
            if !IGNORED.contains(&(leaf, sub, register, bit)) {
                names.push(name(leaf, sub, register, bit));
            }
        }
    }
    names
}

fn pick(result: CpuidResult, register: Register) -> u32 {
    match register {
        Register::Eax => result.eax,
        Register::Ebx => result.ebx,
        Register::Ecx => result.ecx,
        Register::Edx => result.edx,
    }
}

fn name(leaf: u32, sub: u32, register: Register, bit: u32) -> String {
    let known = NAMES.iter().find(|known| (known.0, known.1, known.2, known.3) == (leaf, sub, register, bit));
    match known {
        Some(known) => known.4.to_owned(),
        None => format!("cpuid-{leaf:x}.{sub}.{}.{bit}", format!("{register:?}").to_lowercase()),
    }
}

/// What `one` has and `other` lacks, by name; state that differs counts as lacking.
pub(crate) fn only_in(one: &CpuSet, other: &CpuSet) -> Vec<String> {
    let mut names: Vec<String> =
        one.features.iter().filter(|name| !other.features.contains(name)).cloned().collect();
    if one.xcr0 != other.xcr0 {
        names.push(format!("xcr0={:#x}", one.xcr0));
    }
    if one.xsave_bytes != other.xsave_bytes {
        names.push(format!("xsave={}", one.xsave_bytes));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_x86_64_processor_has_sse2() {
        assert!(names().contains(&"sse2".to_owned()));
    }
}
