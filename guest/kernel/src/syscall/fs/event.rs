//! Descriptors for events: counters, timers, inotify; and the calls of this kind that are refused.

use super::super::call::Call;
use super::super::table::{Entry, full, partial};
use super::super::time::timespec_ns;
use super::{AT_FDCWD, AT_SYMLINK_NOFOLLOW, check_flags, file, open, resolve};
use crate::errno::{Errno, Result, SysResult};
use crate::fs::eventfd::EventCounter;
use crate::fs::file::flags::{O_CLOEXEC, O_NONBLOCK, O_RDWR};
use crate::fs::inotify::{Adding, Inotify, event};
use crate::fs::timerfd::{Setting, TimerFile};
use crate::kernel::timers::{Base, Timer};
use alloc::rc::Rc;

/// The family.
pub const TABLE: &[Entry] = &[
    full(253, "inotify_init", |call| inotify(call, 0)),
    partial(254, "inotify_add_watch", inotify_add_watch, "no IN_EXCL_UNLINK"),
    full(255, "inotify_rm_watch", inotify_rm_watch),
    partial(283, "timerfd_create", timerfd_create, "no alarm clocks' wake-up from suspend"),
    full(284, "eventfd", |call| eventfd(call, 0)),
    partial(286, "timerfd_settime", timerfd_settime, "TFD_TIMER_CANCEL_ON_SET tells of restores only"),
    full(287, "timerfd_gettime", timerfd_gettime),
    full(290, "eventfd2", |call| eventfd(call, call.args[1])),
    full(294, "inotify_init1", |call| inotify(call, call.args[0])),
    partial(303, "name_to_handle_at", no_handles, "EOPNOTSUPP"),
    partial(304, "open_by_handle_at", no_handles, "EOPNOTSUPP"),
];

const NANOS: u64 = 1_000_000_000;
const FLAGS: u64 = (O_CLOEXEC | O_NONBLOCK) as u64;

fn no_handles(_: &mut Call<'_>) -> SysResult {
    Err(Errno::EOPNOTSUPP.into())
}

fn eventfd(call: &Call<'_>, flags: u64) -> SysResult {
    const SEMAPHORE: u64 = 1;
    check_flags(flags, SEMAPHORE | FLAGS)?;
    let counter =
        EventCounter::new(&call.kernel.woken, u64::from(call.args[0] as u32), flags & SEMAPHORE != 0);
    let status = O_RDWR | flags as u32 & O_NONBLOCK;
    let file = call.kernel.fs.anonymous_file("anon_inode:[eventfd]", counter, status)?;
    open::install(call, file, flags as u32 & O_CLOEXEC != 0)
}

fn timerfd_create(call: &mut Call<'_>) -> SysResult {
    let [clock, flags, ..] = call.args;
    // REALTIME, MONOTONIC, BOOTTIME, REALTIME_ALARM, BOOTTIME_ALARM.
    if !matches!(clock, 0 | 1 | 7 | 8 | 9) {
        return Err(Errno::EINVAL.into());
    }
    check_flags(flags, FLAGS)?;
    let timer = TimerFile::new(&call.kernel.fs.env, clock as u32);
    let status = O_RDWR | flags as u32 & O_NONBLOCK;
    let file = call.kernel.fs.anonymous_file("anon_inode:[timerfd]", timer, status)?;
    open::install(call, file, flags as u32 & O_CLOEXEC != 0)
}

/// The timer behind a descriptor.
fn timer(call: &Call<'_>, fd: u64) -> Result<Rc<TimerFile>> {
    file(call, fd)?.ops_rc().ok_or(Errno::EINVAL)
}

fn write_setting(call: &Call<'_>, address: u64, setting: Setting) -> Result {
    let left = setting.left_ns(call.kernel.machine.monotonic_ns());
    let interval = setting.interval_ns;
    call.write_words(address, &[interval / NANOS, interval % NANOS, left / NANOS, left % NANOS])
}

fn timerfd_settime(call: &mut Call<'_>) -> SysResult {
    const ABSTIME: u64 = 1;
    const CANCEL_ON_SET: u64 = 2;
    let [fd, flags, new, old, ..] = call.args;
    check_flags(flags, ABSTIME | CANCEL_ON_SET)?;
    let [interval_s, interval_ns, value_s, value_ns] = call.read_words(new)?;
    let (interval_ns, value) = (timespec_ns(interval_s, interval_ns)?, timespec_ns(value_s, value_ns)?);
    let timer = timer(call, fd)?;
    let kernel = call.kernel;
    let clock = kernel.machine.clock();
    let expires_ns = match value {
        0 => 0,
        value if flags & ABSTIME == 0 => kernel.machine.monotonic_ns().saturating_add(value),
        // An absolute time in the past expires at once; 0 would disarm.
        value => match timer.clock() {
            0 | 8 => kernel.realtime_to_monotonic(value),
            7 | 9 => value.saturating_add_signed(clock.boottime_offset_ns.saturating_neg()),
            _ => value,
        }
        .max(1),
    };
    let absolute = flags & ABSTIME != 0;
    let base = Base::of(timer.clock().into(), absolute);
    let is_cancelled = flags & CANCEL_ON_SET != 0 && base == Base::Realtime;
    let (before, generation) = timer.set(Setting { expires_ns, interval_ns }, base, is_cancelled);
    if expires_ns != 0 {
        kernel.timers.arm(expires_ns, Timer::Descriptor(Rc::downgrade(&timer), generation));
    }
    if old != 0 {
        write_setting(call, old, before)?;
    }
    Ok(0)
}

fn timerfd_gettime(call: &mut Call<'_>) -> SysResult {
    let timer = timer(call, call.args[0])?;
    write_setting(call, call.args[1], timer.setting())?;
    Ok(0)
}

fn inotify(call: &Call<'_>, flags: u64) -> SysResult {
    check_flags(flags, FLAGS)?;
    let instance = Inotify::new(&call.kernel.fs.env);
    let status = flags as u32 & O_NONBLOCK;
    let file = call.kernel.fs.anonymous_file("anon_inode:inotify", instance, status)?;
    open::install(call, file, flags as u32 & O_CLOEXEC != 0)
}

fn inotify_add_watch(call: &mut Call<'_>) -> SysResult {
    const DONT_FOLLOW: u32 = 0x0200_0000;
    const ONLYDIR: u32 = 0x0100_0000;
    const MASK_CREATE: u32 = 0x1000_0000;
    const MASK_ADD: u32 = 0x2000_0000;
    let [fd, path, mask, ..] = call.args;
    let mask = mask as u32;
    let adding = Adding { to_mask: mask & MASK_ADD != 0, only_new: mask & MASK_CREATE != 0 };
    if mask & event::ALL == 0 || (adding.to_mask && adding.only_new) {
        return Err(Errno::EINVAL.into());
    }
    let instance: Rc<Inotify> = file(call, fd)?.ops_rc().ok_or(Errno::EINVAL)?;
    let flags = if mask & DONT_FOLLOW != 0 { AT_SYMLINK_NOFOLLOW } else { 0 };
    let node = resolve(call, AT_FDCWD as u32 as u64, path, flags)?;
    if mask & ONLYDIR != 0 && !node.is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    super::with_place(call, |place| place.subject.check(&node, crate::fs::Access::READ))?;
    Ok(instance.add(&node, mask & (event::ALL | event::ONESHOT), adding)? as u64)
}

fn inotify_rm_watch(call: &mut Call<'_>) -> SysResult {
    let instance = file(call, call.args[0])?;
    let instance = instance.ops_as::<Inotify>().ok_or(Errno::EINVAL)?;
    instance.remove(call.args[1] as u32 as i32)?;
    Ok(0)
}
