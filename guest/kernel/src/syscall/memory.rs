//! Memory: mmap and its relatives.

use super::call::Call;
use super::table::{Entry, full, partial};
use crate::errno::{Errno, Result, SysResult};
use crate::mem::area::{Area, Backing, Placement, Protection};
use crate::mem::pager::{Pager, SharedMemory};
use crate::mem::paging::P;
use crate::mem::space::is_application_range;
use crate::task::process::{LIMIT_AS, LIMIT_DATA, UNLIMITED};
use alloc::rc::Rc;
use alloc::vec;
use seuss_abi::layout::PAGE_SIZE;

/// The family.
pub const TABLE: &[Entry] = &[
    partial(9, "mmap", mmap, "MAP_LOCKED, MAP_POPULATE, MAP_HUGETLB are hints"),
    full(10, "mprotect", mprotect),
    full(11, "munmap", munmap),
    full(12, "brk", brk),
    partial(25, "mremap", mremap, "no old size 0, no MREMAP_DONTUNMAP"),
    full(26, "msync", msync),
    full(27, "mincore", mincore),
    partial(28, "madvise", madvise, "DONTNEED, FREE, WIPEONFORK, DONTFORK act; hints are accepted"),
    full(149, "mlock", lock),
    full(150, "munlock", lock),
    full(151, "mlockall", zero),
    full(152, "munlockall", zero),
    full(325, "mlock2", lock),
    partial(324, "membarrier", membarrier, "one vCPU: every command is complete at once"),
    partial(237, "mbind", zero, "one node"),
    partial(238, "set_mempolicy", zero, "one node"),
    partial(239, "get_mempolicy", get_mempolicy, "one node"),
];

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_32BIT: u64 = 0x40;
const MAP_POPULATE: u64 = 0x8000;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

fn zero(_: &mut Call<'_>) -> SysResult {
    Ok(0)
}

fn protection_of(bits: u64) -> Result<Protection> {
    // PROT_GROWSDOWN and PROT_GROWSUP are of no use here, PROT_SEM is a hint.
    Protection::from_bits(bits as u32 & !8).ok_or(Errno::EINVAL)
}

fn mmap(call: &mut Call<'_>) -> SysResult {
    let [address, len, protection, flags, fd, offset] = call.args;
    if len == 0 || offset % PAGE_SIZE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    if len > 1 << 47 {
        return Err(Errno::ENOMEM.into());
    }
    let protection = protection_of(protection)?;
    let shared = match flags & 0xf {
        MAP_PRIVATE => false,
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL.into()),
    };
    let placement = if flags & MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace(address)
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed(address)
    } else if flags & MAP_32BIT != 0 {
        Placement::Low
    } else {
        Placement::Hint(address)
    };
    let writable = protection.contains(Protection::WRITE);
    let object: Option<(Rc<dyn Pager>, bool)> = if flags & MAP_ANONYMOUS != 0 {
        // A single mapping of more than all memory is refused (overcommit_memory 0).
        let excessive =
            writable && flags & MAP_NORESERVE == 0 && len / PAGE_SIZE > call.kernel.frames.total() as u64;
        if excessive {
            return Err(Errno::ENOMEM.into());
        }
        shared.then(|| (Rc::new(SharedMemory::new(&call.kernel.frames, len)) as Rc<dyn Pager>, true))
    } else {
        let file = call.process.files().borrow().get(fd as u32 as i32)?;
        let mapping = file.mapping(shared, writable)?;
        call.kernel.note_growth();
        Some((mapping.pager, mapping.writable))
    };
    let private_data = writable && !shared;
    check_limits(call, len, private_data)?;
    let space = call.process.space();
    let mut space = space.borrow_mut();
    let at = match &object {
        Some((pager, _)) if !shared => space.place_file(placement, len, pager, offset / PAGE_SIZE)?,
        _ => space.place(placement, len)?,
    };
    let area = match object {
        None => Area::anonymous(at, len, protection),
        Some((pager, maybe_written)) => Area {
            shared,
            maybe_written: shared && maybe_written,
            ..Area::object(at, len, protection, pager, offset / PAGE_SIZE)
        },
    };
    space.insert(area)?;
    if flags & MAP_POPULATE != 0 {
        space.populate(at, len);
    }
    Ok(at)
}

/// RLIMIT_AS and RLIMIT_DATA, for `len` bytes more.
fn check_limits(call: &Call<'_>, len: u64, private_data: bool) -> Result {
    let (space_limit, data_limit) = (call.process.limit(LIMIT_AS), call.process.limit(LIMIT_DATA));
    if space_limit == UNLIMITED && data_limit == UNLIMITED {
        return Ok(());
    }
    let space = call.process.space();
    let space = space.borrow();
    let (total, data) = space.areas().fold((0u64, 0u64), |(total, data), area| {
        let size = area.end - area.start;
        let is_data = !area.shared && area.protection.contains(Protection::WRITE) && area.label != "[stack]";
        (total + size, data + if is_data { size } else { 0 })
    });
    let over =
        total.saturating_add(len) > space_limit || (private_data && data.saturating_add(len) > data_limit);
    if over { Err(Errno::ENOMEM) } else { Ok(()) }
}

fn munmap(call: &mut Call<'_>) -> SysResult {
    call.process.space().borrow_mut().unmap(call.args[0], call.args[1])?;
    Ok(0)
}

fn mprotect(call: &mut Call<'_>) -> SysResult {
    let [address, len, protection, ..] = call.args;
    let protection = protection_of(protection & !0x0300_0000)?;
    if len == 0 {
        return if address % PAGE_SIZE == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) };
    }
    // As for mmap: more than all memory cannot become writable at once (overcommit_memory 0).
    if protection.contains(Protection::WRITE) && len / PAGE_SIZE > call.kernel.frames.total() as u64 {
        return Err(Errno::ENOMEM.into());
    }
    call.process.space().borrow_mut().protect(address, len, protection)?;
    Ok(0)
}

fn brk(call: &mut Call<'_>) -> SysResult {
    let current = call.process.space().borrow().brk;
    if call.args[0] > current && check_limits(call, call.args[0] - current, true).is_err() {
        return Ok(current);
    }
    Ok(call.process.space().borrow_mut().set_brk(call.args[0]))
}

fn mremap(call: &mut Call<'_>) -> SysResult {
    const MAYMOVE: u64 = 1;
    const FIXED: u64 = 2;
    let [old, old_len, new_len, flags, new, _] = call.args;
    if flags & !(MAYMOVE | FIXED) != 0 {
        return Err(Errno::EINVAL.into());
    }
    check_limits(call, new_len.saturating_sub(old_len), true)?;
    let fixed = (flags & FIXED != 0).then_some(new);
    Ok(call.process.space().borrow_mut().remap(old, old_len, new_len, flags & MAYMOVE != 0, fixed)?)
}

/// Whether a range is page-aligned and wholly mapped.
fn check_mapped(call: &Call<'_>, address: u64, len: u64) -> Result<u64> {
    if !address.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOMEM)?;
    if !is_application_range(address, len) {
        return Err(Errno::ENOMEM);
    }
    let space = call.process.space();
    let space = space.borrow();
    let mut at = address;
    while at < address + len {
        at = space.area_at(at).ok_or(Errno::ENOMEM)?.end;
    }
    Ok(len)
}

fn msync(call: &mut Call<'_>) -> SysResult {
    let [address, len, flags, ..] = call.args;
    if flags & !7 != 0 || flags & 5 == 5 {
        return Err(Errno::EINVAL.into());
    }
    check_mapped(call, address, len)?;
    Ok(0)
}

fn lock(call: &mut Call<'_>) -> SysResult {
    let start = call.args[0] & !(PAGE_SIZE - 1);
    let end = call.args[0].checked_add(call.args[1]).ok_or(Errno::EINVAL)?;
    check_mapped(call, start, end - start)?;
    Ok(0)
}

fn mincore(call: &mut Call<'_>) -> SysResult {
    let [address, len, vector, ..] = call.args;
    let len = check_mapped(call, address, len)?;
    let space = call.process.space();
    let mut at = address;
    while at < address + len {
        let chunk = ((address + len - at) / PAGE_SIZE).min(4096);
        let mut present = vec![0u8; chunk as usize];
        for (index, byte) in present.iter_mut().enumerate() {
            let leaf = space.borrow().leaf(at + index as u64 * PAGE_SIZE);
            *byte = u8::from(leaf.is_some_and(|leaf| leaf.entry & P != 0));
        }
        call.write(vector + (at - address) / PAGE_SIZE, &present)?;
        at += chunk * PAGE_SIZE;
    }
    Ok(0)
}

fn madvise(call: &mut Call<'_>) -> SysResult {
    let [address, len, advice, ..] = call.args;
    if address % PAGE_SIZE != 0 {
        return Err(Errno::EINVAL.into());
    }
    if len == 0 {
        return Ok(0);
    }
    let space = call.process.space();
    let mut space = space.borrow_mut();
    match advice {
        4 | 8 => space.discard(address, len)?,
        10 => space.advise(address, len, &|area| area.dont_fork = true)?,
        11 => space.advise(address, len, &|area| area.dont_fork = false)?,
        18 if space
            .area_at(address)
            .is_some_and(|area| area.shared || matches!(area.backing, Backing::Object { .. })) =>
        {
            return Err(Errno::EINVAL.into());
        }
        22 | 23 => {
            drop(space);
            let len = check_mapped(call, address, len)?;
            call.process.space().borrow_mut().populate(address, len);
        }
        18 => space.advise(address, len, &|area| area.wipe_on_fork = true)?,
        19 => space.advise(address, len, &|area| area.wipe_on_fork = false)?,
        // NORMAL, RANDOM, SEQUENTIAL, WILLNEED, MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, COLD, PAGEOUT, POPULATE_*.
        0..=3 | 12..=17 | 20..=21 => {
            drop(space);
            check_mapped(call, address, len)?;
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn membarrier(call: &mut Call<'_>) -> SysResult {
    // QUERY lists the commands GLOBAL, GLOBAL_EXPEDITED and PRIVATE_EXPEDITED with their registrations.
    match call.args[0] {
        0 => Ok(0x1f),
        1 | 2 | 4 | 8 | 16 => Ok(0),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn get_mempolicy(call: &mut Call<'_>) -> SysResult {
    let [mode, mask, max, ..] = call.args;
    if mode != 0 {
        call.write_u32(mode, 0)?;
    }
    if mask != 0 && max >= 64 {
        call.write_u64(mask, 1)?;
    }
    Ok(0)
}
