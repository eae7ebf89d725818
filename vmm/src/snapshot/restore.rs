//! From a snapshot to a guest's memory, before its first entry.

use std::mem::offset_of;

use seuss_abi::ABI_VERSION;
use seuss_abi::comm::{
    BOOT_MAGIC, BOOT_OFFSET, BootBlock, CAPTURE_OFFSET, CLOCK_OFFSET, CONTROL_OFFSET, Clock, Control,
    ImageWindow, MAILBOX_OFFSET,
};
use seuss_abi::layout::{COMM_GPA, IMAGE_WINDOWS_MAX, PAGE_SIZE};

use super::{Origin, frame_gpa, layer_gpa, touches};
use crate::boot;
use crate::clock::{GuestClock, Sample};
use crate::error::StartError;
use crate::kernel::page_table::bits;
use crate::memory::{Gpa, Memory, Window};

/// How a guest's clocks differ from the host's: a clone's CLOCK_MONOTONIC goes on where the snapshot's stood, its CLOCK_BOOTTIME and CLOCK_REALTIME have moved
/// on meanwhile, as after a suspend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeShift {
    /// Guest's CLOCK_MONOTONIC minus the host's.
    monotonic_ns: i64,
    /// Guest's boottime offset minus the host's.
    boottime_ns: i64,
}

impl TimeShift {
    /// For a clone of a guest whose clocks stood at `monotonic_ns` with `boottime_offset_ns` when the host's CLOCK_REALTIME was `created_ns`.
    pub(crate) fn new(monotonic_ns: u64, boottime_offset_ns: i64, created_ns: u64, now: Sample) -> Self {
        let realtime_ns = now.monotonic_ns.cast_signed().wrapping_add(now.realtime_offset_ns);
        // A host whose clock was set back does not let the guest's time run backwards.
        let asleep_ns = realtime_ns.wrapping_sub(created_ns.cast_signed()).max(0);
        Self {
            monotonic_ns: monotonic_ns.wrapping_sub(now.monotonic_ns).cast_signed(),
            boottime_ns: boottime_offset_ns.wrapping_add(asleep_ns).wrapping_sub(now.boottime_offset_ns),
        }
    }

    /// The host's clocks as the guest shall see them.
    pub(crate) fn apply(self, host: Sample) -> Sample {
        Sample {
            tsc: host.tsc,
            monotonic_ns: host.monotonic_ns.wrapping_add_signed(self.monotonic_ns),
            realtime_offset_ns: host.realtime_offset_ns.wrapping_sub(self.monotonic_ns),
            boottime_offset_ns: host.boottime_offset_ns.wrapping_add(self.boottime_ns),
        }
    }

    /// The host's CLOCK_MONOTONIC when the guest's is `guest_ns`; "never" stays never.
    pub(crate) fn to_host(self, guest_ns: u64) -> u64 {
        if guest_ns == u64::MAX {
            return guest_ns;
        }
        let host = i128::from(guest_ns) - i128::from(self.monotonic_ns);
        u64::try_from(host.max(0)).unwrap_or(u64::MAX)
    }

    /// The guest's CLOCK_MONOTONIC when the host's is `host_ns`.
    pub(crate) fn to_guest(self, host_ns: u64) -> u64 {
        host_ns.wrapping_add_signed(self.monotonic_ns)
    }
}

/// How a private window was filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Pages of the working set then.
    working_set: usize,
    /// Whether the clone is to tell which pages it uses.
    pub(crate) scout: bool,
}

/// Fill the private window: page tables, the pages that the library OS must find at their own addresses, and the working set.
///
/// # Errors
/// [`StartError::Snapshot`] if the snapshot names memory that is not there.
pub(crate) fn fill(memory: &Memory, origin: &Origin) -> Result<Filled, StartError> {
    let private = memory.private();
    let damaged = |what: String| StartError::Snapshot { id: origin.id().to_string(), what };
    let scout = origin.working_set.wants_scout();
    for (pfn, content) in &origin.tables {
        let gpa = Gpa(frame_gpa(*pfn));
        let written = private.write(gpa, &content[..]);
        written.ok_or_else(|| damaged(format!("a page table in frame {pfn}")))?;
        if scout {
            clear_accessed(private, gpa);
        }
    }
    for placed in &origin.copied {
        let from = Gpa(layer_gpa(placed.page));
        let copied = private.copy_from(Gpa(frame_gpa(placed.pfn)), origin.layers(), from, PAGE_SIZE);
        copied.ok_or_else(|| damaged(format!("page {} for frame {}", placed.page, placed.pfn)))?;
    }
    let known = origin.working_set.known();
    let steps = &known.steps;
    for step in steps.iter().filter(|_| !scout) {
        let home = Gpa(frame_gpa(step.page.pfn));
        let copied = private.copy_from(home, origin.layers(), Gpa(step.from), PAGE_SIZE);
        copied
            .and_then(|()| private.store(Gpa(step.slot), step.entry))
            .ok_or_else(|| damaged(format!("frame {} in its working set", step.page.pfn)))?;
    }
    Ok(Filled { working_set: steps.len(), scout })
}

/// The window that was filled so is not used after all.
pub(crate) fn unfill(filled: Filled, origin: &Origin) {
    if filled.scout {
        origin.working_set.no_scout();
    }
}

/// Whether a clone may be entered ahead of time: what clones use is known, and this one is not to find it out.
pub(crate) fn may_hold(filled: Filled, origin: &Origin) -> bool {
    !filled.scout && origin.working_set.is_learnt()
}

/// Whether a window that was filled earlier is as one that is filled now would be.
pub(crate) fn is_current(filled: Filled, origin: &Origin) -> bool {
    filled.scout || filled.working_set == origin.working_set.known().steps.len()
}

fn clear_accessed(private: &Window, gpa: Gpa) {
    if let Some(mut table) = private.load::<[u64; 512]>(gpa) {
        table.iter_mut().for_each(|entry| *entry &= !bits::ACCESSED);
        private.store(gpa, table);
    }
}

/// Write what the clone is told: boot block, clock, control page, description.
///
/// # Errors
/// [`StartError`]: no random bytes, or the description is too large.
pub(crate) fn tell(
    memory: &Memory,
    origin: &Origin,
    clock: &GuestClock,
    spec: &[u8],
) -> Result<(), StartError> {
    let manifest = origin.manifest();
    let block = BootBlock {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        image_count: origin.images.len().min(IMAGE_WINDOWS_MAX) as u32,
        private_bytes: manifest.private_bytes,
        reserved_bytes: manifest.reserved_bytes,
        pml4_gpa: manifest.pml4_gpa,
        spec_len_bytes: spec.len() as u64,
        seed: boot::seed()?,
        xcr0: manifest.cpu.xcr0,
        xsave_bytes: manifest.cpu.xsave_bytes,
        images: memory.image_windows(),
        generation: manifest.generation + 1,
        layer_count: origin.depth(),
        layers: origin.layer_windows(),
        hold: 0,
        base: 0,
    };
    let comm = memory.comm();
    let at = |offset: u64| Gpa(COMM_GPA + offset);
    let written = comm
        .store(at(BOOT_OFFSET), block)
        .and_then(|()| comm.store(at(CLOCK_OFFSET), clock.page()))
        .and_then(|()| comm.store(at(CONTROL_OFFSET + offset_of!(Control, next_event_ns) as u64), u64::MAX))
        .and_then(|()| comm.write(at(MAILBOX_OFFSET), spec));
    written.ok_or(StartError::SpecTooLarge { len_bytes: spec.len() as u64 })
}

/// Write what a clone that is entered ahead of time shall do until it is told.
///
/// # Errors
/// [`StartError::Snapshot`] if the list does not fit, which it always does.
pub(crate) fn tell_to_hold(memory: &Memory, origin: &Origin) -> Result<(), StartError> {
    let pml4_gpa = origin.manifest().pml4_gpa;
    let known = origin.working_set.known();
    let touches = touches::plan(memory, Gpa(pml4_gpa), &origin.copied, known.pages());
    let words: Vec<u8> = touches.iter().flat_map(|touch| touch.word().to_le_bytes()).collect();
    let hold = touches.len() as u64 + 1;
    let block = BootBlock {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        image_count: 0,
        private_bytes: 0,
        reserved_bytes: 0,
        pml4_gpa,
        spec_len_bytes: 0,
        // What clones make their own of the program's generators they may make before they are wanted: no two are told the same.
        seed: boot::seed()?,
        xcr0: 0,
        xsave_bytes: 0,
        images: [ImageWindow::default(); IMAGE_WINDOWS_MAX],
        generation: 0,
        layer_count: origin.depth(),
        layers: origin.layer_windows(),
        hold,
        base: 0,
    };
    let manifest = origin.manifest();
    let clock = Clock {
        base_monotonic_ns: manifest.monotonic_ns,
        realtime_offset_ns: manifest.created_ns.wrapping_sub(manifest.monotonic_ns).cast_signed(),
        boottime_offset_ns: manifest.boottime_offset_ns,
        ..Clock::default()
    };
    let comm = memory.comm();
    let written = comm
        .store(Gpa(COMM_GPA + BOOT_OFFSET), block)
        .and_then(|()| comm.store(Gpa(COMM_GPA + CLOCK_OFFSET), clock))
        .and_then(|()| comm.write(Gpa(COMM_GPA + CAPTURE_OFFSET), &words));
    written.ok_or_else(|| StartError::Snapshot { id: origin.id().to_string(), what: "its use".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_wakes_up_as_after_a_suspend() {
        let second = 1_000_000_000_i64;
        // The host: up for 500 s, of which 7 s asleep; the epoch 1,000 s ago.
        let host = Sample {
            tsc: 1,
            monotonic_ns: 493 * second as u64,
            realtime_offset_ns: 507 * second,
            boottime_offset_ns: 7 * second,
        };
        // Captured at 900 s since the epoch, when the guest had run for 20 s and slept for 3.
        let shift = TimeShift::new(20 * second as u64, 3 * second, 900 * second as u64, host);
        let guest = shift.apply(host);
        assert_eq!(guest.monotonic_ns, 20 * second as u64, "no jump");
        assert_eq!(guest.monotonic_ns.cast_signed() + guest.realtime_offset_ns, 1_000 * second);
        assert_eq!(guest.boottime_offset_ns, 103 * second);
        assert_eq!(shift.to_guest(host.monotonic_ns), guest.monotonic_ns);
        assert_eq!(shift.to_host(guest.monotonic_ns + 5), host.monotonic_ns + 5);
        assert_eq!(shift.to_host(u64::MAX), u64::MAX);
    }
}
