//! The communication window, page by page.
//!
//! | offset | what | writer |
//! | --- | --- | --- |
//! | 0x0000 | [`BootBlock`] | VMM before the first entry |
//! | 0x1000 | [`Clock`] | VMM, seqlock |
//! | 0x2000 | [`crate::call::Slot`] | guest, then VMM (`result`) |
//! | 0x2100 | payload of the host call: addresses, option values | guest, then VMM |
//! | 0x3000 | [`Control`] | both, field by field |
//! | 0x4000 | [`crate::event::Ring`] | VMM produces, guest consumes |
//! | 0x8000 | [`crate::net::Submissions`] | guest produces, VMM consumes |
//! | 0x10000 | mailbox: process descriptions and other blobs from the VMM | VMM |
//! | 0x100000 | capture area: what the guest says of its frames ([`crate::snapshot`]); before, of a clone that is entered ahead of time, what it shall read ([`Touch`]) | guest; VMM before the first entry |
//!
//! All integers are little-endian; all fields are naturally aligned.

use crate::layout::{COMM_SIZE, IMAGE_WINDOWS_MAX, LAYERS_MAX};

/// Offset of the [`BootBlock`].
pub const BOOT_OFFSET: u64 = 0x0000;
/// Offset of the [`Clock`].
pub const CLOCK_OFFSET: u64 = 0x1000;
/// Offset of the host-call [`crate::call::Slot`].
pub const SLOT_OFFSET: u64 = 0x2000;
/// Offset of the host call's payload.
pub const PAYLOAD_OFFSET: u64 = 0x2100;
/// Size of the payload in bytes.
pub const PAYLOAD_SIZE: usize = 0xf00;
/// Offset of [`Control`].
pub const CONTROL_OFFSET: u64 = 0x3000;
/// Offset of the event [`crate::event::Ring`].
pub const EVENTS_OFFSET: u64 = 0x4000;
/// Offset of the ring of [`crate::net::Submissions`].
pub const SUBMISSIONS_OFFSET: u64 = 0x8000;
/// Offset of the mailbox.
pub const MAILBOX_OFFSET: u64 = 0x10000;
/// Size of the mailbox in bytes: the largest process description (argv, environment, injected files) that fits.
pub const MAILBOX_SIZE: u64 = CAPTURE_OFFSET - MAILBOX_OFFSET;
/// Offset of the capture area.
pub const CAPTURE_OFFSET: u64 = 0x10_0000;
/// Size of the capture area in bytes.
pub const CAPTURE_SIZE: u64 = COMM_SIZE - CAPTURE_OFFSET;

/// `BootBlock::magic`: "SEUSSBT1".
pub const BOOT_MAGIC: u64 = u64::from_le_bytes(*b"SEUSSBT1");

/// One read-only EROFS window.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageWindow {
    /// Guest-physical start, a multiple of the large page size.
    pub gpa: u64,
    /// Length in bytes, a multiple of the page size.
    pub len_bytes: u64,
}

/// One layer of a snapshot's lineage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerWindow {
    /// Guest-physical start, a multiple of the page size.
    pub gpa: u64,
    /// Pages, without the index that follows them.
    pub pages: u64,
}

/// What a guest learns at entry. The mailbox holds the first process' [`crate::spec::ProcessSpec`] in its first
/// `spec_len_bytes` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BootBlock {
    /// [`BOOT_MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`].
    pub abi_version: u32,
    /// Number of valid entries in `images`, base layer first.
    pub image_count: u32,
    /// Size of the private window in bytes, a multiple of the large page size.
    pub private_bytes: u64,
    /// Bytes at the start of the private window that hold the kernel image and the first page tables; the frame
    /// allocator owns the rest. A multiple of the page size.
    pub reserved_bytes: u64,
    /// Guest-physical address of the first PML4.
    pub pml4_gpa: u64,
    /// Length of the first process description in the mailbox.
    pub spec_len_bytes: u64,
    /// Seed of the guest's random number generator, fresh for every guest and every restore.
    pub seed: [u8; 64],
    /// XCR0 as the VMM set it: which state components XSAVE saves.
    pub xcr0: u64,
    /// Bytes of the XSAVE area for `xcr0` (CPUID leaf 0xd, ebx), standard format.
    pub xsave_bytes: u64,
    /// EROFS windows.
    pub images: [ImageWindow; IMAGE_WINDOWS_MAX],
    /// 0: this is a boot. Otherwise memory is that of a snapshot, and this is how often its lineage has been restored, this time
    /// included. Of the fields above only `magic`, `abi_version`, `spec_len_bytes`, `seed` and, in a clone of a base snapshot, `images` then tell something new.
    pub generation: u64,
    /// Number of valid entries in `layers`, base first.
    pub layer_count: u64,
    /// Layers.
    pub layers: [LayerWindow; LAYERS_MAX],
    /// Not 0: this clone is entered ahead of time. It reads what the first `hold - 1` words of the capture area name ([`Touch`]), makes the call
    /// [`crate::call::Op::Hold`], and reads this block again. Until then nothing in it but `magic`, `abi_version`, `pml4_gpa`, `hold`, `layer_count`, `layers` and `seed` is valid; the seed is another one
    /// than the one that it gets then. The clock stands still at the time of the snapshot.
    pub hold: u64,
    /// Not 0: this guest boots, and takes a base snapshot when its program is about to look at what is not its runtime's ([`crate::call::Op::Capture`]), or says that it
    /// does not ([`crate::call::Op::NoBase`]).
    pub base: u64,
}

/// What a clone that is entered ahead of time shall do, so that the host's page tables have what it will use: one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Load the page tables at this guest-physical address, a multiple of the page size.
    Load(u64),
    /// Read the byte at this address, which is even.
    Read(u64),
}

impl Touch {
    /// Most words.
    pub const MOST: u64 = CAPTURE_SIZE / 8;

    /// As a word.
    #[must_use]
    pub fn word(self) -> u64 {
        match self {
            Self::Load(pml4) => pml4 | 1,
            Self::Read(address) => address & !1,
        }
    }

    /// From a word.
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        if word & 1 == 1 { Self::Load(word & !0xfff) } else { Self::Read(word) }
    }
}

/// The clock page. Times in nanoseconds; `tsc` is what `rdtsc` shows in the guest.
///
/// `monotonic_ns(t) = base_monotonic_ns + ((t - base_tsc) * mult >> shift)`, in 128-bit arithmetic;
/// `realtime_ns(t) = monotonic_ns(t) + realtime_offset_ns`. A reader takes `sequence` (even), reads, and checks that it is unchanged.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    /// Seqlock: odd while the VMM writes.
    pub sequence: u32,
    /// Right shift after the multiplication.
    pub shift: u32,
    /// Multiplier from TSC ticks to nanoseconds.
    pub mult: u64,
    /// TSC value at the base.
    pub base_tsc: u64,
    /// CLOCK_MONOTONIC at the base.
    pub base_monotonic_ns: u64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC.
    pub realtime_offset_ns: i64,
    /// CLOCK_BOOTTIME minus CLOCK_MONOTONIC.
    pub boottime_offset_ns: i64,
}

impl Clock {
    /// Nanoseconds of CLOCK_MONOTONIC at TSC value `tsc`.
    #[must_use]
    pub fn monotonic_ns(&self, tsc: u64) -> u64 {
        let delta = u128::from(tsc.saturating_sub(self.base_tsc));
        let scaled = (delta * u128::from(self.mult)) >> (self.shift & 127);
        self.base_monotonic_ns.wrapping_add(scaled as u64)
    }

    /// Nanoseconds between two TSC values, whether they lie before or after the page was written.
    #[must_use]
    pub fn elapsed_ns(&self, from_tsc: u64, to_tsc: u64) -> u64 {
        let delta = u128::from(to_tsc.saturating_sub(from_tsc));
        ((delta * u128::from(self.mult)) >> (self.shift & 127)) as u64
    }
}

/// Words that both sides watch. The VMM reads them after an exit, the guest before it returns to the application.
///
/// **Preemption.** When the VMM wants the guest's attention it sets `attention` to 1 and kicks the vCPU out of KVM_RUN. If
/// `rip` then lies outside `KERNEL_BASE..KERNEL_END` and CPL is 3, the VMM stores rip, rsp and rflags in the `upcall_*` fields,
/// sets rip to `ENTRY_UPCALL` and rflags to `RFLAGS`, and enters; all other registers keep the application's values. Otherwise the library OS is
/// running: the VMM leaves it alone, and kicks again after 100 us if `attention` is still 1 (the flag may have been set after the library OS's last look).
/// The guest writes 0 when it takes notice.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// VMM to guest: 1 = look at the event ring and the clock.
    pub attention: u32,
    /// Guest to VMM: 1 while more than one thread is runnable, so that a tick should interrupt it.
    pub wants_tick: u32,
    /// Guest to VMM: CLOCK_MONOTONIC time at which the guest wants an upcall while it runs; `u64::MAX` = never.
    pub next_event_ns: u64,
    /// Interrupted instruction.
    pub upcall_rip: u64,
    /// Interrupted stack pointer.
    pub upcall_rsp: u64,
    /// Interrupted flags.
    pub upcall_rflags: u64,
    /// Counters that the guest keeps for the VMM's statistics: page faults by kind (demand, native copy-on-write, snapshot copy-on-write).
    pub faults: [u64; 3],
    /// System calls served.
    pub syscalls: u64,
    /// Context switches between threads.
    pub switches: u64,
    /// Frames in use (of the private window, without the reserved part), in pages.
    pub used_pages: u64,
    /// Live processes and threads.
    pub processes: u32,
    /// Live threads.
    pub threads: u32,
    /// Processes killed because memory was used up.
    pub oom_kills: u64,
}

const _: () = {
    assert!(size_of::<BootBlock>() <= 0x1000);
    assert!(size_of::<Clock>() <= 0x1000);
    assert!(SLOT_OFFSET + size_of::<crate::call::Slot>() as u64 <= PAYLOAD_OFFSET);
    assert!(PAYLOAD_OFFSET + PAYLOAD_SIZE as u64 <= CONTROL_OFFSET);
    assert!(size_of::<Control>() <= 0x1000);
    assert!(EVENTS_OFFSET + size_of::<crate::event::Ring>() as u64 <= SUBMISSIONS_OFFSET);
    assert!(SUBMISSIONS_OFFSET + size_of::<crate::net::Submissions>() as u64 <= MAILBOX_OFFSET);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_touches() {
        for touch in [Touch::Load(0x1_0000_3000), Touch::Read(0x7fff_1000)] {
            assert_eq!(Touch::from_word(touch.word()), touch);
        }
    }

    /// The VMM writes the page anew while a thread runs: the time before that counts, too.
    #[test]
    fn time_passes_across_a_new_page() {
        let clock =
            Clock { base_tsc: 1_000_000, mult: 1 << 31, shift: 32, base_monotonic_ns: 7, ..Clock::default() };
        assert_eq!(clock.elapsed_ns(400_000, 1_200_000), 400_000);
        assert_eq!(clock.elapsed_ns(1_100_000, 1_200_000), 50_000);
        assert_eq!(clock.elapsed_ns(2, 1), 0);
        assert_eq!(clock.monotonic_ns(1_200_000), 100_007);
    }
}
