//! Guest-physical memory: the windows of `seuss_abi::layout` and checked access to them.
//!
//! Owns [`Memory`] (all windows of one guest), the address types [`Gpa`] and [`Gva`], and the resolution of
//! scatter/gather lists ([`SegmentList`]). It must never hand out a Rust reference into guest memory. Windows of
//! snapshot layers will join the image windows:
//! both are read-only files at fixed addresses.

mod address;
mod segment;
mod window;

#[cfg(test)]
mod tests;

use std::os::fd::AsFd;

use seuss_abi::comm::ImageWindow;
use seuss_abi::layout::{
    COMM_GPA, COMM_SIZE, IMAGE_GPA, IMAGE_WINDOWS_MAX, LARGE_PAGE_SIZE, PAGE_SIZE, PHYSICAL_END, PRIVATE_GPA,
};

pub use address::{Gpa, Gva};
pub(crate) use segment::{Direction, SegmentList};
pub(crate) use window::{Plain, Window};

use crate::config::ImageBlob;

/// Why a guest's memory could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Mapping a window failed.
    #[error("cannot make the {window} window of {len_bytes} bytes: {errno}")]
    Window {
        /// Which window.
        window: String,
        /// Its size.
        len_bytes: u64,
        /// What the kernel said.
        errno: rustix::io::Errno,
    },
    /// More EROFS blobs than the guest has windows for.
    #[error("the root file system has {count} layers, at most {IMAGE_WINDOWS_MAX} are possible")]
    TooManyImages {
        /// Blobs given.
        count: usize,
    },
    /// A blob is empty.
    #[error("image blob {name} is empty")]
    EmptyImage {
        /// The blob's name.
        name: String,
    },
    /// A file is shorter than the blob is said to be.
    #[error("image blob {name} is cut off: {len_bytes} bytes expected, the file has {file_bytes}")]
    ShortImage {
        /// The blob's name.
        name: String,
        /// Its length as configured.
        len_bytes: u64,
        /// The file's length.
        file_bytes: u64,
    },
    /// The blobs do not fit into guest-physical space.
    #[error(
        "the root file system is too large: image blob {name} of {len_bytes} bytes ends beyond gpa {PHYSICAL_END:#x}"
    )]
    ImagesTooLarge {
        /// The first blob that does not fit.
        name: String,
        /// Its length.
        len_bytes: u64,
    },
}

/// All memory of one guest.
pub(crate) struct Memory {
    comm: Window,
    private: Window,
    images: Vec<Window>,
}

impl Memory {
    /// Make a communication window, a private window of `private_bytes` (a multiple of the large page size), and map
    /// `images`.
    pub(crate) fn new(private_bytes: u64, images: Vec<ImageBlob>) -> Result<Self, MemoryError> {
        let made = |window: &str, len_bytes, result: rustix::io::Result<Window>| {
            result.map_err(|errno| MemoryError::Window { window: window.to_owned(), len_bytes, errno })
        };
        let comm = made("comm", COMM_SIZE, Window::anonymous(Gpa(COMM_GPA), COMM_SIZE, false))?;
        let private = Window::anonymous(Gpa(PRIVATE_GPA), private_bytes, true);
        let private = made("private", private_bytes, private)?;
        if images.len() > IMAGE_WINDOWS_MAX {
            return Err(MemoryError::TooManyImages { count: images.len() });
        }
        let mut next = Gpa(IMAGE_GPA);
        let mut windows = Vec::with_capacity(images.len());
        for blob in images {
            let len_bytes = image_len_bytes(&blob, next)?;
            let window = Window::read_only(&blob.file, next, len_bytes);
            windows.push(made(&blob.name, len_bytes, window)?);
            next = next.plus(len_bytes.next_multiple_of(LARGE_PAGE_SIZE));
        }
        Ok(Self { comm, private, images: windows })
    }

    pub(crate) fn comm(&self) -> &Window {
        &self.comm
    }

    pub(crate) fn private(&self) -> &Window {
        &self.private
    }

    pub(crate) fn images(&self) -> &[Window] {
        &self.images
    }

    /// Every window, in the order of the memory slots.
    pub(crate) fn windows(&self) -> impl Iterator<Item = &Window> {
        [&self.comm, &self.private].into_iter().chain(&self.images)
    }

    /// The image windows as the guest learns of them.
    pub(crate) fn image_windows(&self) -> [ImageWindow; IMAGE_WINDOWS_MAX] {
        let mut list = [ImageWindow::default(); IMAGE_WINDOWS_MAX];
        for (entry, window) in list.iter_mut().zip(&self.images) {
            *entry = ImageWindow { gpa: window.gpa().0, len_bytes: window.len_bytes() };
        }
        list
    }

    /// The private or image window that `gpa` lies in.
    pub(crate) fn private_or_image(&self, gpa: Gpa) -> Option<&Window> {
        if gpa.0 < IMAGE_GPA {
            return Some(&self.private).filter(|window| window.contains(gpa, 0));
        }
        let after = self.images.partition_point(|window| window.gpa() <= gpa);
        after.checked_sub(1).and_then(|index| self.images.get(index)).filter(|window| window.contains(gpa, 0))
    }

    /// The window that `gpa` lies in.
    pub(crate) fn window(&self, gpa: Gpa) -> Option<&Window> {
        if self.comm.contains(gpa, 0) { Some(&self.comm) } else { self.private_or_image(gpa) }
    }
}

/// Bytes that the window of `blob` at `gpa` has: whole pages.
fn image_len_bytes(blob: &ImageBlob, gpa: Gpa) -> Result<u64, MemoryError> {
    let (name, len_bytes) = (blob.name.clone(), blob.len_bytes);
    if len_bytes == 0 {
        return Err(MemoryError::EmptyImage { name });
    }
    let file_bytes = rustix::fs::fstat(blob.file.as_fd())
        .map(|stat| stat.st_size as u64)
        .map_err(|errno| MemoryError::Window { window: name.clone(), len_bytes, errno })?;
    if file_bytes < len_bytes {
        return Err(MemoryError::ShortImage { name, len_bytes, file_bytes });
    }
    let room = PHYSICAL_END - gpa.0.min(PHYSICAL_END);
    match len_bytes.checked_next_multiple_of(PAGE_SIZE) {
        Some(whole) if whole <= room => Ok(whole),
        _ => Err(MemoryError::ImagesTooLarge { name, len_bytes }),
    }
}
