//! epoll_wait with nanoseconds.
//!
//! Unsafe because it makes the system call itself: rustix rounds a timeout up to milliseconds (to suit kernels before
//! 5.11), and a guest that naps for 200 us would sleep five times as long.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::event::epoll::{self, Event};
use rustix::io::Errno;
use rustix::time::Timespec;

// rustix's event is the kernel's.
const _: () = assert!(size_of::<Event>() == size_of::<libc::epoll_event>());

/// Wait for at most `most` events, until `timeout` is over (`None`: without end).
pub(super) fn wait(
    epoll: BorrowedFd<'_>,
    most: usize,
    timeout: Option<Timespec>,
) -> rustix::io::Result<Vec<Event>> {
    let mut events = Vec::with_capacity(most);
    match wait_into(epoll, &mut events, timeout) {
        // A kernel before 5.11: milliseconds must do.
        Err(Errno::NOSYS) => {
            epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref())?;
        }
        result => result?,
    }
    Ok(events)
}

fn wait_into(
    epoll: BorrowedFd<'_>,
    events: &mut Vec<Event>,
    timeout: Option<Timespec>,
) -> rustix::io::Result<()> {
    let timeout = timeout.map(|timeout| libc::timespec { tv_sec: timeout.tv_sec, tv_nsec: timeout.tv_nsec });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel writes at most `capacity` events into the vector's spare room (it is empty), and reads the
    // timeout, which lives until after the call. No signal mask is given.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            epoll.as_fd().as_raw_fd(),
            events.as_mut_ptr(),
            events.capacity() as libc::c_int,
            timeout,
            std::ptr::null::<libc::sigset_t>(),
            size_of::<u64>(),
        )
    };
    let Ok(count) = usize::try_from(returned) else {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno));
    };
    // SAFETY: the kernel filled the first `count` events, which is at most the capacity.
    unsafe { events.set_len(count) };
    Ok(())
}
