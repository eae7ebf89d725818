//! Guest-physical memory: the windows of `seuss_abi::layout` and checked access to them.
//!
//! Owns [`Memory`] (all windows of one guest), the address types [`Gpa`] and [`Gva`], and the resolution of
//! scatter/gather lists ([`SegmentList`]). It must never hand out a Rust reference into guest memory. Images and
//! snapshot layers are read-only files at fixed addresses.

mod address;
mod segment;
mod window;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use seuss_abi::comm::ImageWindow;
use seuss_abi::layout::{
    COMM_GPA, COMM_SIZE, IMAGE_GPA, IMAGE_WINDOWS_MAX, LARGE_PAGE_SIZE, LAYER_GPA, PAGE_SIZE, PHYSICAL_END,
    PRIVATE_GPA,
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

/// All memory of one guest. Image windows and layers may be shared with other guests of this process.
pub(crate) struct Memory {
    comm: Window,
    private: Window,
    images: Vec<Arc<Window>>,
    layers: Option<Arc<Window>>,
}

fn named(window: &str, len_bytes: u64) -> impl FnOnce(rustix::io::Errno) -> MemoryError {
    move |errno| MemoryError::Window { window: window.to_owned(), len_bytes, errno }
}

/// Map the blobs of a root file system, base layer first.
pub(crate) fn map_images(images: Vec<ImageBlob>) -> Result<Vec<Window>, MemoryError> {
    if images.len() > IMAGE_WINDOWS_MAX {
        return Err(MemoryError::TooManyImages { count: images.len() });
    }
    let mut next = Gpa(IMAGE_GPA);
    let mut windows = Vec::with_capacity(images.len());
    for blob in images {
        let len_bytes = image_len_bytes(&blob, next)?;
        windows.push(Window::read_only(&blob.file, next, len_bytes).map_err(named(&blob.name, len_bytes))?);
        next = next.plus(len_bytes.next_multiple_of(LARGE_PAGE_SIZE));
    }
    Ok(windows)
}

/// Map the layers of a lineage, base first, one behind the other.
pub(crate) fn map_layers(files: &[(&File, u64)]) -> Result<Window, MemoryError> {
    let len_bytes = files.iter().map(|(_, len_bytes)| len_bytes).sum();
    Window::read_only_files(Gpa(LAYER_GPA), files).map_err(named("layers", len_bytes))
}

impl Memory {
    /// Make a communication window and a private window of `private_bytes` (a multiple of the large page size), and map
    /// `images`: the memory of a guest that boots.
    pub(crate) fn new(private_bytes: u64, images: Vec<ImageBlob>) -> Result<Self, MemoryError> {
        let images = map_images(images)?.into_iter().map(Arc::new).collect();
        Self::of(private_bytes, true, images, None)
    }

    /// The same over windows that exist: the memory of a clone. It gets no large pages of the host, since it writes few pages here and there, unless it is expected to
    /// `grow`.
    pub(crate) fn of_clone(
        private_bytes: u64,
        grow: bool,
        images: Vec<Arc<Window>>,
        layers: Arc<Window>,
    ) -> Result<Self, MemoryError> {
        Self::of(private_bytes, grow, images, Some(layers))
    }

    fn of(
        private_bytes: u64,
        huge_pages: bool,
        images: Vec<Arc<Window>>,
        layers: Option<Arc<Window>>,
    ) -> Result<Self, MemoryError> {
        let comm = Window::anonymous(Gpa(COMM_GPA), COMM_SIZE, false).map_err(named("comm", COMM_SIZE))?;
        let private = Window::anonymous(Gpa(PRIVATE_GPA), private_bytes, huge_pages)
            .map_err(named("private", private_bytes))?;
        Ok(Self { comm, private, images, layers })
    }

    pub(crate) fn comm(&self) -> &Window {
        &self.comm
    }

    pub(crate) fn private(&self) -> &Window {
        &self.private
    }

    pub(crate) fn images(&self) -> &[Arc<Window>] {
        &self.images
    }

    /// Every window, in the order of the memory slots.
    pub(crate) fn windows(&self) -> impl Iterator<Item = &Window> {
        let shared = self.images.iter().chain(&self.layers).map(|window| &**window);
        [&self.comm, &self.private].into_iter().chain(shared)
    }

    /// The image windows as the guest learns of them.
    pub(crate) fn image_windows(&self) -> [ImageWindow; IMAGE_WINDOWS_MAX] {
        let mut list = [ImageWindow::default(); IMAGE_WINDOWS_MAX];
        for (entry, window) in list.iter_mut().zip(&self.images) {
            *entry = ImageWindow { gpa: window.gpa().0, len_bytes: window.len_bytes() };
        }
        list
    }

    /// The private, image or layer window that `gpa` lies in.
    pub(crate) fn private_or_image(&self, gpa: Gpa) -> Option<&Window> {
        if gpa.0 < LAYER_GPA {
            return Some(&self.private).filter(|window| window.contains(gpa, 0));
        }
        if gpa.0 < IMAGE_GPA {
            return self.layers.as_deref().filter(|window| window.contains(gpa, 0));
        }
        let after = self.images.partition_point(|window| window.gpa() <= gpa);
        let window = after.checked_sub(1).and_then(|index| self.images.get(index));
        window.map(|window| &**window).filter(|window| window.contains(gpa, 0))
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
