//! Waiting for files: poll and select.

use super::super::call::Call;
use super::super::table::{Entry, full};
use super::super::time::timespec_ns;
use crate::errno::{Errno, Result, Stop, SysResult};
use crate::fs::File;
use crate::task::process::LIMIT_NOFILE;
use crate::task::signal::SignalSet;
use crate::wait::Readiness;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    full(7, "poll", poll),
    full(23, "select", select),
    full(270, "pselect6", pselect6),
    full(271, "ppoll", ppoll),
];

const NANOS: u64 = 1_000_000_000;
const POLLNVAL: u16 = 0x20;
/// POLLERR | POLLHUP: always told.
const ALWAYS: u16 = 0x18;

/// One file and what is asked of it.
struct Asked {
    file: Result<Rc<File>>,
    events: u16,
}

fn readiness(asked: &Asked) -> u16 {
    match &asked.file {
        Err(_) => POLLNVAL,
        Ok(file) => file.poll().bits() as u16 & (asked.events | ALWAYS),
    }
}

/// Look at all files; if none is ready and the deadline has not passed, wait for all of them.
fn look(call: &Call<'_>, asked: &[Asked], timeout_ns: Option<u64>) -> core::result::Result<Vec<u16>, Stop> {
    let uplink = &call.kernel.fs.env.uplink;
    uplink.settle();
    let is_ready = |found: &[u16]| found.iter().any(|events| *events != 0);
    let mut found: Vec<u16> = asked.iter().map(readiness).collect();
    if timeout_ns == Some(0) && !is_ready(&found) && uplink.look() {
        found = asked.iter().map(readiness).collect();
    }
    if timeout_ns == Some(0) || is_ready(&found) {
        return Ok(found);
    }
    if let Some(timeout_ns) = timeout_ns {
        let deadline = call.deadline(timeout_ns);
        if call.kernel.machine.monotonic_ns() >= deadline {
            return Ok(found);
        }
    }
    for asked in asked {
        if let Some(notifier) = asked.file.as_ref().ok().and_then(|file| file.ops().notifier()) {
            notifier.register(call.thread.tid);
        }
    }
    Err(Stop::WaitNoRestart)
}

fn do_poll(call: &Call<'_>, list: u64, count: u64, timeout_ns: Option<u64>) -> SysResult {
    if count > call.process.limit(LIMIT_NOFILE).max(1024) || count > 1 << 20 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0u8; count as usize * 8];
    call.read(list, &mut bytes)?;
    let files = call.process.files();
    let parse = |entry: &[u8]| {
        let fd = i32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let events = u16::from_le_bytes([entry[4], entry[5]]);
        (fd, events)
    };
    let entries: Vec<(i32, u16)> = bytes.chunks_exact(8).map(parse).collect();
    // A negative descriptor is left out.
    let asked: Vec<Asked> = entries
        .iter()
        .filter(|(fd, _)| *fd >= 0)
        .map(|(fd, events)| Asked { file: files.borrow().get(*fd), events: *events })
        .collect();
    let mut found = look(call, &asked, timeout_ns)?.into_iter();
    let mut ready = 0;
    for (entry, (fd, _)) in bytes.chunks_exact_mut(8).zip(&entries) {
        let events = if *fd >= 0 { found.next().unwrap_or(0) } else { 0 };
        entry[6..8].copy_from_slice(&events.to_le_bytes());
        ready += u64::from(events != 0);
    }
    call.write(list, &bytes)?;
    Ok(ready)
}

fn poll(call: &mut Call<'_>) -> SysResult {
    let [list, count, timeout, ..] = call.args;
    let timeout = timeout as u32 as i32;
    let timeout_ns = u64::try_from(timeout).ok().map(|ms| ms * 1_000_000);
    do_poll(call, list, count, timeout_ns)
}

/// A timespec's nanoseconds, `None` for a null pointer.
fn timeout_at(call: &Call<'_>, address: u64) -> Result<Option<u64>> {
    if address == 0 {
        return Ok(None);
    }
    let [seconds, nanos] = call.read_words(address)?;
    timespec_ns(seconds, nanos).map(Some)
}

/// Set the mask of ppoll(2) and pselect(2) until the call returns.
pub(crate) fn set_mask(call: &Call<'_>, address: u64, size: u64) -> Result {
    if address == 0 {
        return Ok(());
    }
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask = call.read_u64(address)?;
    call.thread.set_temporary_mask(SignalSet(mask));
    Ok(())
}

fn ppoll(call: &mut Call<'_>) -> SysResult {
    let [list, count, timeout, mask, size, _] = call.args;
    let timeout_ns = timeout_at(call, timeout)?;
    set_mask(call, mask, size)?;
    let outcome = do_poll(call, list, count, timeout_ns);
    write_back(call, timeout, timeout_ns, &outcome)?;
    outcome
}

/// The remaining time, as Linux stores it.
fn write_back(call: &Call<'_>, address: u64, timeout_ns: Option<u64>, outcome: &SysResult) -> Result {
    if timeout_ns.is_some_and(|timeout| timeout > 0)
        && outcome.is_ok()
        && let Some(deadline) = call.thread.progress.borrow().deadline_ns
    {
        let left = deadline.saturating_sub(call.kernel.machine.monotonic_ns());
        call.write_words(address, &[left / NANOS, left % NANOS])?;
    }
    Ok(())
}

/// What select's three sets stand for (select(2), "Correspondence between select() and poll() notifications").
const SETS: [(Readiness, u16); 3] = [
    (Readiness::READABLE.union(Readiness::HANGUP).union(Readiness::ERROR), 0x41),
    (Readiness::WRITABLE.union(Readiness::ERROR), 0x104),
    (Readiness::PRIORITY, 0x2),
];

fn do_select(call: &Call<'_>, timeout_ns: Option<u64>) -> SysResult {
    let [count, ..] = call.args;
    let sets = [call.args[1], call.args[2], call.args[3]];
    let count = count as u32 as i32;
    if count < 0 {
        return Err(Errno::EINVAL.into());
    }
    let count = (count as usize).min(1 << 20);
    let words = count.div_ceil(64);
    let mut wanted: Vec<Vec<u8>> = Vec::new();
    for address in sets {
        let mut bytes = vec![0u8; words * 8];
        if address != 0 {
            call.read(address, &mut bytes)?;
        }
        wanted.push(bytes);
    }
    let is_set = |set: &[u8], fd: usize| set[fd / 8] >> (fd % 8) & 1 == 1;
    let files = call.process.files();
    let mut asked = Vec::new();
    let mut descriptors = Vec::new();
    for fd in 0..count {
        let events =
            (0..3).filter(|set| is_set(&wanted[*set], fd)).fold(0, |events, set| events | SETS[set].1);
        if events != 0 {
            let file = files.borrow().get(fd as i32)?;
            asked.push(Asked { file: Ok(file), events });
            descriptors.push(fd);
        }
    }
    // An error or hang-up that no set stands for is not told, but ends the wait.
    let found = look(call, &asked, timeout_ns)?;
    let mut ready = 0;
    let mut answer = vec![vec![0u8; words * 8]; 3];
    for (fd, events) in descriptors.into_iter().zip(found) {
        for (set, (meaning, _)) in SETS.iter().enumerate() {
            if is_set(&wanted[set], fd) && meaning.bits() as u16 & events != 0 {
                answer[set][fd / 8] |= 1 << (fd % 8);
                ready += 1;
            }
        }
    }
    for (address, bytes) in sets.into_iter().zip(answer) {
        if address != 0 {
            call.write(address, &bytes)?;
        }
    }
    Ok(ready)
}

fn select(call: &mut Call<'_>) -> SysResult {
    let address = call.args[4];
    let timeout_ns = if address == 0 {
        None
    } else {
        let [seconds, micros] = call.read_words(address)?;
        Some(timespec_ns(seconds.saturating_add(micros / 1_000_000), micros % 1_000_000 * 1000)?)
    };
    let outcome = do_select(call, timeout_ns);
    if let (Ok(_), Some(deadline)) = (&outcome, call.thread.progress.borrow().deadline_ns) {
        let left = deadline.saturating_sub(call.kernel.machine.monotonic_ns());
        call.write_words(address, &[left / NANOS, left % NANOS / 1000])?;
    }
    outcome
}

fn pselect6(call: &mut Call<'_>) -> SysResult {
    let [.., timeout, mask] = call.args;
    let timeout_ns = timeout_at(call, timeout)?;
    if mask != 0 {
        let [address, size] = call.read_words(mask)?;
        set_mask(call, address, size)?;
    }
    let outcome = do_select(call, timeout_ns);
    write_back(call, timeout, timeout_ns, &outcome)?;
    outcome
}
