//! One window of guest-physical memory: a mapping in this process, and the raw copies into and out of it.
//!
//! Unsafe because it maps memory and copies through raw pointers. No Rust reference into guest memory ever exists:
//! bytes are copied in or out whole, or handed to the kernel as (pointer, length). Every access is checked against the
//! window's bounds here.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use seuss_abi::layout::{LARGE_PAGE_SIZE, PAGE_SIZE};

use super::Gpa;

/// Types that any bytes of their size are a valid value of.
///
/// # Safety
/// The type is a primitive integer, or `repr(C)` with fields that are; it has no invalid bit patterns.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: integers, arrays of them, or repr(C) structures of them (seuss_abi fixes the layout).
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(
    u8,
    u32,
    u64,
    i64,
    [u64; 512],
    seuss_abi::call::Slot,
    seuss_abi::call::Segment,
    seuss_abi::event::Event,
    seuss_abi::net::Interface,
    seuss_abi::net::Submission,
    seuss_abi::comm::Clock,
    seuss_abi::comm::Control,
    seuss_abi::comm::BootBlock,
);

// What is stored whole has no gap between its fields that would carry bytes of this process to the guest.
const _: () = {
    use seuss_abi::{comm, event, layout};
    assert!(size_of::<event::Event>() == 2 * 4 + 2 * 8);
    assert!(size_of::<comm::Clock>() == 2 * 4 + 5 * 8);
    assert!(size_of::<comm::ImageWindow>() == 2 * 8);
    let images = layout::IMAGE_WINDOWS_MAX * size_of::<comm::ImageWindow>();
    let layers = layout::LAYERS_MAX * size_of::<comm::LayerWindow>();
    assert!(size_of::<comm::LayerWindow>() == 2 * 8);
    assert!(size_of::<comm::BootBlock>() == 8 + 2 * 4 + 4 * 8 + 64 + 2 * 8 + images + 2 * 8 + layers + 2 * 8);
};

/// A mapping in this process that is a window of guest-physical memory.
pub(crate) struct Window {
    gpa: Gpa,
    host: NonNull<u8>,
    len_bytes: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to this value alone and is valid in every thread of the process.
unsafe impl Send for Window {}
// SAFETY: a window that several guests share is read-only, and its bytes do not change; a writable one is used by one thread (`Memory` owns it).
unsafe impl Sync for Window {}

impl Window {
    /// New zeroed memory of `len_bytes` (a multiple of the page size), in large pages of the host where it has some
    /// and `huge_pages` says so. Children of this process do not inherit it: a fork would have to write-protect it
    /// all.
    pub(crate) fn anonymous(gpa: Gpa, len_bytes: u64, huge_pages: bool) -> rustix::io::Result<Self> {
        let mut window = Self::reserve(gpa, len_bytes)?;
        let (address, prot) = (window.host.as_ptr().cast(), ProtFlags::READ | ProtFlags::WRITE);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: replaces the window's own reservation, whole, and nothing else.
        unsafe { mmap_anonymous(address, window.len_bytes, prot, flags) }?;
        window.writable = true;
        window.advise(Advice::LinuxDontDump);
        window.advise(Advice::LinuxDontFork);
        if huge_pages {
            window.advise(Advice::LinuxHugepage);
        }
        Ok(window)
    }

    /// The first `len_bytes` of `file`, read-only. The mapping keeps the file alive.
    pub(crate) fn read_only(file: &OwnedFd, gpa: Gpa, len_bytes: u64) -> rustix::io::Result<Self> {
        let window = Self::reserve(gpa, len_bytes)?;
        let address = window.host.as_ptr().cast();
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: replaces the window's own reservation, whole, and nothing else.
        unsafe { mmap(address, window.len_bytes, ProtFlags::READ, flags, file, 0) }?;
        window.advise(Advice::LinuxDontDump);
        Ok(window)
    }

    /// Files one right behind the other, read-only; every length is a multiple of the page size. The mappings keep the files alive.
    pub(crate) fn read_only_files(gpa: Gpa, files: &[(&std::fs::File, u64)]) -> rustix::io::Result<Self> {
        let len_bytes = files.iter().map(|(_, len_bytes)| len_bytes).sum::<u64>().max(PAGE_SIZE);
        let window = Self::reserve(gpa, len_bytes)?;
        let mut offset = 0_usize;
        for &(file, len_bytes) in files.iter().filter(|(_, len_bytes)| *len_bytes > 0) {
            // SAFETY: the sum of the lengths is the window's.
            let address = unsafe { window.host.add(offset) };
            let len = usize::try_from(len_bytes).map_err(|_| Errno::INVAL)?;
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: replaces a part of the window's own reservation, and nothing else.
            unsafe { mmap(address.as_ptr().cast(), len, ProtFlags::READ, flags, file, 0) }?;
            offset += len;
        }
        window.advise(Advice::LinuxDontDump);
        Ok(window)
    }

    /// Address space for a window, at a multiple of the large page size as its guest-physical address is: only then
    /// can KVM map large pages.
    fn reserve(gpa: Gpa, len_bytes: u64) -> rustix::io::Result<Self> {
        let len_bytes = usize::try_from(len_bytes).map_err(|_| Errno::INVAL)?;
        let large = LARGE_PAGE_SIZE as usize;
        let reserved_bytes = len_bytes.checked_add(large).ok_or(Errno::INVAL)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice; nothing is replaced.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), reserved_bytes, ProtFlags::empty(), flags) }?;
        let before = start.cast::<u8>().align_offset(large).min(large);
        // SAFETY: `before` is less than what was reserved beyond `len_bytes`.
        let host = unsafe { start.cast::<u8>().add(before) };
        // SAFETY: still inside the reservation, or at its end.
        let end = unsafe { host.add(len_bytes) };
        for (at, surplus) in [(start.cast::<u8>(), before), (end, large - before)] {
            if surplus > 0 {
                // SAFETY: a part of the reservation that the window does not use; nobody knows of it.
                unsafe { munmap(at.cast(), surplus) }?;
            }
        }
        let host = NonNull::new(host).ok_or(Errno::NOMEM)?;
        Ok(Self { gpa, host, len_bytes, writable: false })
    }

    /// Advice is advice: a kernel that does not take it changes nothing that counts.
    fn advise(&self, advice: Advice) {
        // SAFETY: the range is this window's own mapping; none of the advices used here changes its content.
        if let Err(error) = unsafe { madvise(self.host.as_ptr().cast(), self.len_bytes, advice) } {
            tracing::debug!(gpa = %self.gpa, ?advice, %error, "madvise");
        }
    }

    pub(crate) fn gpa(&self) -> Gpa {
        self.gpa
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes as u64
    }

    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// Start of the mapping in this process, for KVM's memory slots.
    pub(crate) fn host_address(&self) -> u64 {
        self.host.as_ptr() as u64
    }

    /// The offset of `gpa` in this window if `len_bytes` from there lie inside it.
    fn offset(&self, gpa: Gpa, len_bytes: u64) -> Option<usize> {
        let offset = gpa.0.checked_sub(self.gpa.0)?;
        let end = offset.checked_add(len_bytes)?;
        (end <= self.len_bytes as u64).then_some(offset as usize)
    }

    /// Whether `len_bytes` from `gpa` lie inside this window.
    pub(crate) fn contains(&self, gpa: Gpa, len_bytes: u64) -> bool {
        self.offset(gpa, len_bytes).is_some()
    }

    /// The piece as (pointer, length) for the kernel to read or write; `None` outside of the window.
    pub(crate) fn iovec(&self, gpa: Gpa, len_bytes: u64) -> Option<libc::iovec> {
        let offset = self.offset(gpa, len_bytes)?;
        // SAFETY: `offset` was just checked to lie inside the mapping (or at its end, with length 0).
        let base = unsafe { self.host.add(offset) };
        Some(libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len_bytes as usize })
    }

    /// Copy out of guest memory; `None` outside of the window.
    pub(crate) fn read(&self, gpa: Gpa, into: &mut [u8]) -> Option<()> {
        let from = self.iovec(gpa, into.len() as u64)?;
        // SAFETY: `from` covers `into.len()` bytes of the mapping, which no Rust object overlaps. The one vCPU that
        // could write there is driven by the thread that copies, so it stands still.
        unsafe { std::ptr::copy_nonoverlapping(from.iov_base.cast::<u8>(), into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// Copy into guest memory; `None` outside of the window or if it is read-only.
    pub(crate) fn write(&self, gpa: Gpa, from: &[u8]) -> Option<()> {
        if !self.writable {
            return None;
        }
        let into = self.iovec(gpa, from.len() as u64)?;
        // SAFETY: `into` covers `from.len()` bytes of the mapping, which is writable and which no Rust object overlaps.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.iov_base.cast::<u8>(), from.len()) };
        Some(())
    }

    /// Copy `len_bytes` at `from` of another window to `gpa`; `None` outside of a window or if this one is read-only.
    pub(crate) fn copy_from(&self, gpa: Gpa, other: &Self, from: Gpa, len_bytes: u64) -> Option<()> {
        if !self.writable {
            return None;
        }
        let source = other.iovec(from, len_bytes)?;
        let target = self.iovec(gpa, len_bytes)?;
        // SAFETY: both pieces lie in mappings that no Rust object overlaps, and two windows are two mappings.
        unsafe {
            std::ptr::copy_nonoverlapping(
                source.iov_base.cast::<u8>(),
                target.iov_base.cast::<u8>(),
                len_bytes as usize,
            );
        }
        Some(())
    }

    /// Let the host allocate the page at `gpa`, if it has not yet; `None` outside of the window or if it is read-only.
    pub(crate) fn populate(&self, gpa: Gpa) -> Option<()> {
        if !self.writable {
            return None;
        }
        let at = self.iovec(gpa, 1)?.iov_base.cast::<u8>();
        // SAFETY: in bounds of the mapping; volatile, because the access itself is what is wanted.
        let byte = unsafe { at.read_volatile() };
        // SAFETY: as above, and the mapping is writable.
        unsafe { at.write_volatile(byte) };
        Some(())
    }

    /// Read one value; `None` outside of the window. No alignment is asked for.
    pub(crate) fn load<T: Plain>(&self, gpa: Gpa) -> Option<T> {
        let from = self.iovec(gpa, size_of::<T>() as u64)?;
        // SAFETY: in bounds, and any bytes are a `T` (`Plain`).
        Some(unsafe { from.iov_base.cast::<T>().read_unaligned() })
    }

    /// Write one value; `None` outside of the window or if it is read-only. No alignment is asked for.
    pub(crate) fn store<T: Plain>(&self, gpa: Gpa, value: T) -> Option<()> {
        if !self.writable {
            return None;
        }
        let into = self.iovec(gpa, size_of::<T>() as u64)?;
        // SAFETY: in bounds of a writable mapping that no Rust object overlaps.
        unsafe { into.iov_base.cast::<T>().write_unaligned(value) };
        Some(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the range is the one that `reserve` made; nobody has pointers into it beyond a borrow of `self`.
        // (KVM's slots follow the process' mappings and see it go.)
        let unmapped = unsafe { munmap(self.host.as_ptr().cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of window {}", self.gpa);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn bounds_hold_at_both_ends() {
        let window = Window::anonymous(Gpa(0x10_0000), 0x2000, false).expect("memory");
        assert!(window.host_address().is_multiple_of(LARGE_PAGE_SIZE));
        let mut byte = [0_u8];
        assert!(window.read(Gpa(0x10_0000), &mut byte).is_some());
        assert!(window.read(Gpa(0x10_1fff), &mut byte).is_some());
        assert!(window.read(Gpa(0x10_2000), &mut byte).is_none());
        assert!(window.read(Gpa(0x0f_ffff), &mut byte).is_none());
        assert!(window.load::<u64>(Gpa(0x10_1ff8)).is_some());
        assert!(window.load::<u64>(Gpa(0x10_1ff9)).is_none());
        assert!(window.store(Gpa(u64::MAX), 1_u64).is_none());
        assert!(window.contains(Gpa(0x10_2000), 0));
        assert!(!window.contains(Gpa(0x10_0000), u64::MAX));
    }

    #[test]
    fn a_read_only_window_takes_no_write() {
        let file = memfd_create("blob", MemfdFlags::CLOEXEC).expect("memfd");
        rustix::io::write(&file, b"erofs").expect("write");
        let window = Window::read_only(&file, Gpa(0), 4096).expect("map");
        let mut text = [0; 6];
        window.read(Gpa(0), &mut text).expect("inside");
        assert_eq!(&text, b"erofs\0");
        assert!(window.write(Gpa(0), b"x").is_none());
        assert!(window.store(Gpa(0), 1_u32).is_none());
    }
}
