//! The guest's kernel image: an ELF executable linked at `KERNEL_BASE`, embedded in this crate or given.
//!
//! Owns parsing and loading ([`KernelImage`]), the first page tables ([`page_table`]) and symbol names for reports
//! ([`symbols`]). The image is trusted (it is part of the build), but a wrong one gets a clear error.

pub(crate) mod page_table;
pub(crate) mod symbols;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use object::elf::{EM_X86_64, ET_EXEC, FileHeader64, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadRef};
use seuss_abi::layout::{ENTRY_BOOT, KERNEL_BASE, KERNEL_END, PAGE_SIZE, PRIVATE_GPA};

use seuss_snapshotter::snapshot::store::sha256;

use crate::memory::{Gpa, Gva, Memory};
use page_table::Access;

/// The image that build.rs made (or that `SEUSS_GUEST_IMAGE` named when this crate was built), at an address that ELF
/// structures can be read at.
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("SEUSS_GUEST_IMAGE_FILE")));

/// Its SHA-256.
const EMBEDDED_DIGEST: [u8; 32] = include!(env!("SEUSS_GUEST_IMAGE_DIGEST_FILE"));

#[repr(align(16))]
struct Aligned<T: ?Sized>(T);

/// Environment variable that names a guest image to use instead of the built-in one, for those who work on the guest.
pub(crate) const KERNEL_VARIABLE: &str = "SEUSS_KERNEL";

/// Why a kernel image cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file that `SEUSS_KERNEL` names cannot be read.
    #[error(
        "cannot read the guest image {path} that SEUSS_KERNEL names: {error}; unset SEUSS_KERNEL to use the built-in one"
    )]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// Not an ELF file, or damaged.
    #[error("the guest image is not a valid ELF executable: {0}")]
    Malformed(String),
    /// Of another machine or kind.
    #[error(
        "the guest image is not a static x86-64 executable (machine {machine}, type {kind}, dynamic {dynamic})"
    )]
    WrongKind {
        /// `e_machine`.
        machine: u16,
        /// `e_type`.
        kind: u16,
        /// Whether it wants a dynamic linker.
        dynamic: bool,
    },
    /// Linked elsewhere.
    #[error("the guest image starts at {entry:#x}, not at {ENTRY_BOOT:#x}")]
    WrongEntry {
        /// `e_entry`.
        entry: u64,
    },
    /// A segment leaves the kernel's region, or two share a page.
    #[error("segment at {address:#x} of the guest image ({len_bytes:#x} bytes) {problem}")]
    Segment {
        /// `p_vaddr`.
        address: u64,
        /// `p_memsz`.
        len_bytes: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// One PT_LOAD segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoadSegment {
    pub(crate) address: Gva,
    pub(crate) len_bytes: u64,
    file_offset: u64,
    file_bytes: u64,
    pub(crate) access: Access,
}

impl LoadSegment {
    /// Start and end of the pages that the segment touches.
    pub(crate) fn pages(&self) -> (Gva, Gva) {
        let start = self.address.0 & !(PAGE_SIZE - 1);
        (Gva(start), Gva((self.address.0 + self.len_bytes).next_multiple_of(PAGE_SIZE)))
    }
}

/// A parsed kernel image.
#[derive(Clone, Debug)]
pub struct KernelImage {
    bytes: Cow<'static, [u8]>,
    segments: Vec<LoadSegment>,
}

impl KernelImage {
    /// The image that `SEUSS_KERNEL` names, else the one that this build of the VMM carries.
    ///
    /// # Errors
    /// [`ImageError`] if it cannot be read or used.
    pub fn chosen() -> Result<Self, ImageError> {
        let Some(path) = std::env::var_os(KERNEL_VARIABLE).filter(|path| !path.is_empty()) else {
            return Self::embedded();
        };
        let bytes = std::fs::read(&path).map_err(|error| ImageError::Unreadable {
            path: path.to_string_lossy().into_owned(),
            error: error.to_string(),
        })?;
        Self::from_bytes(bytes)
    }

    /// The image that this build of the VMM carries.
    ///
    /// # Errors
    /// [`ImageError`] if the build put something else in its place.
    pub fn embedded() -> Result<Self, ImageError> {
        Self::parse(Cow::Borrowed(&EMBEDDED.0))
    }

    /// An image from elsewhere: a test's guest.
    ///
    /// # Errors
    /// [`ImageError`] if it is not a static executable linked at `KERNEL_BASE`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ImageError> {
        Self::parse(Cow::Owned(bytes))
    }

    fn parse(bytes: Cow<'static, [u8]>) -> Result<Self, ImageError> {
        let segments = load_segments(&bytes)?;
        Ok(Self { bytes, segments })
    }

    pub(crate) fn segments(&self) -> &[LoadSegment] {
        &self.segments
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the file.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        match &self.bytes {
            Cow::Borrowed(_) => EMBEDDED_DIGEST,
            Cow::Owned(bytes) => sha256(bytes),
        }
    }

    /// Bytes from `KERNEL_BASE` to the end of the last page.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.pages().1.0 - KERNEL_BASE).max().unwrap_or(0)
    }

    /// Where the page at `address` lies: the image keeps its shape, so that `gpa = PRIVATE_GPA + (address -
    /// KERNEL_BASE)`.
    pub(crate) fn gpa(address: Gva) -> Gpa {
        Gpa(PRIVATE_GPA + (address.0 - KERNEL_BASE))
    }

    /// Copy the segments into the private window (zeroed memory, at least [`Self::len_bytes`] long). `None` if it is
    /// too small.
    pub(crate) fn load(&self, memory: &Memory) -> Option<()> {
        for segment in &self.segments {
            let bytes = self.bytes.as_ref().read_bytes_at(segment.file_offset, segment.file_bytes).ok()?;
            memory.private().write(Self::gpa(segment.address), bytes)?;
        }
        Some(())
    }
}

fn load_segments(bytes: &[u8]) -> Result<Vec<LoadSegment>, ImageError> {
    let malformed = |error: object::read::Error| ImageError::Malformed(error.to_string());
    let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    let headers = header.program_headers(endian, bytes).map_err(malformed)?;
    let (machine, kind) = (header.e_machine(endian), header.e_type(endian));
    let dynamic = headers.iter().any(|header| matches!(header.p_type(endian), PT_DYNAMIC | PT_INTERP));
    if machine != EM_X86_64 || kind != ET_EXEC || dynamic {
        return Err(ImageError::WrongKind { machine: machine.0, kind: kind.0, dynamic });
    }
    let entry = header.e_entry(endian);
    if entry != ENTRY_BOOT {
        return Err(ImageError::WrongEntry { entry });
    }
    let mut segments = Vec::new();
    let mut free = KERNEL_BASE;
    for header in
        headers.iter().filter(|header| header.p_type(endian) == PT_LOAD && header.p_memsz(endian) > 0)
    {
        let (address, len_bytes) = (header.p_vaddr(endian), header.p_memsz(endian));
        let refuse = |problem| ImageError::Segment { address, len_bytes, problem };
        let (file_offset, file_bytes) = header.file_range(endian);
        if file_bytes > len_bytes || bytes.read_bytes_at(file_offset, file_bytes).is_err() {
            return Err(refuse("has bytes that the file lacks"));
        }
        if address < KERNEL_BASE || address.checked_add(len_bytes).is_none_or(|end| end > KERNEL_END) {
            return Err(refuse("lies outside of the kernel's region"));
        }
        let flags = header.p_flags(endian);
        let access = Access { write: flags.contains(PF_W), execute: flags.contains(PF_X) };
        let segment = LoadSegment { address: Gva(address), len_bytes, file_offset, file_bytes, access };
        if segment.pages().0.0 < free {
            return Err(refuse("shares a page with the one before it, or they are not in order"));
        }
        free = segment.pages().1.0;
        segments.push(segment);
    }
    if segments.first().is_none_or(|first| first.address.0 != KERNEL_BASE) {
        return Err(ImageError::Malformed(format!("no segment starts at {KERNEL_BASE:#x}")));
    }
    Ok(segments)
}
