//! KVM's own counters of a virtual machine or vCPU: page faults taken and fixed, shadow pages, exits by kind.
//!
//! Reference: virt/kvm/api, 4.133 KVM_GET_STATS_FD ("binary stats"). kvm-ioctls does not have it.
//!
//! Unsafe because the ioctl returns a descriptor that nobody owns yet.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// `_IO(KVMIO, 0xce)`.
const KVM_GET_STATS_FD: libc::c_ulong = 0xaece;
/// Bytes of `struct kvm_stats_header`: flags, name_size, num_desc, id_offset, desc_offset, data_offset.
const HEADER_BYTES: usize = 24;
/// Bytes of `struct kvm_stats_desc` before the name: flags, exponent, size, offset, bucket_size.
const DESCRIPTION_BYTES: usize = 16;
/// More than any kernel has.
const NAME_MAX: u32 = 256;
const DESCRIPTIONS_MAX: u32 = 1024;

/// Names and values of all counters with one value that are not zero.
pub(crate) fn nonzero(machine: &impl AsRawFd) -> Result<Vec<(String, u64)>> {
    // SAFETY: the ioctl takes no argument and touches no memory of this process.
    let raw = unsafe { libc::ioctl(machine.as_raw_fd(), KVM_GET_STATS_FD) };
    if raw < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: KVM has just made this descriptor for the caller.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(raw) });
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let (name_bytes, count) = (word(&header, 4).min(NAME_MAX), word(&header, 8).min(DESCRIPTIONS_MAX));
    let (descriptions_at, data_at) = (u64::from(word(&header, 16)), u64::from(word(&header, 20)));
    let mut description = vec![0; DESCRIPTION_BYTES + name_bytes as usize];
    let mut found = Vec::new();
    for index in 0..u64::from(count) {
        let at = descriptions_at + index * description.len() as u64;
        file.read_exact_at(&mut description, at)?;
        // The size is 16 bits wide; what has several values is a histogram.
        if word(&description, 4) >> 16 != 1 {
            continue;
        }
        let mut value = [0; 8];
        file.read_exact_at(&mut value, data_at + u64::from(word(&description, 8)))?;
        let value = u64::from_le_bytes(value);
        if value > 0 {
            let name = description[DESCRIPTION_BYTES..].split(|byte| *byte == 0).next().unwrap_or_default();
            found.push((String::from_utf8_lossy(name).into_owned(), value));
        }
    }
    Ok(found)
}
