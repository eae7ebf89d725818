//! Loop devices: a file as a block device, for kernels that cannot mount a file system from that file itself.
//!
//! Owns [`attach`]. The device is read-only and frees itself with its last user (`LO_FLAGS_AUTOCLEAR`): nothing has to be undone, also not after
//! SIGKILL.
//!
//! Unsafe: two ioctls of loop(4) that rustix does not have.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl};

/// linux/loop.h.
const LOOP_CONFIGURE: Opcode = 0x4c0a;
const LOOP_CTL_GET_FREE: Opcode = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// How often another process may take the device that was free a moment ago.
const ATTEMPTS: u32 = 64;

/// `struct loop_config` of linux/loop.h (Linux 5.8), with its `struct loop_info64` spelt out.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device_inode_rdevice_offset_sizelimit: [u64; 5],
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names: [[u8; 64]; 2],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopConfig>() == 304);

/// `LOOP_CTL_GET_FREE`: no argument, the number is the returned value.
struct GetFree;

// SAFETY: the opcode is one that takes no argument and touches no memory of the process (drivers/block/loop.c, `loop_control_ioctl`).
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        LOOP_CTL_GET_FREE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        core::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut core::ffi::c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// A loop device over `file`, read-only; its path, and the descriptor that keeps it until it is mounted.
///
/// # Errors
/// No loop devices here, none free, or the file cannot be one.
pub(super) fn attach(file: &File) -> io::Result<(PathBuf, File)> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: `GetFree` describes the request (see its SAFETY), and the descriptor is open.
        let number = unsafe { ioctl(&control, GetFree) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = File::open(&path)?;
        match configure(&device, file) {
            Ok(()) => return Ok((path, device)),
            // Somebody else was faster.
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::other(format!("{ATTEMPTS} loop devices were free and then were not")))
}

fn configure(device: &File, file: &File) -> Result<(), Errno> {
    let config = LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        // The image's own; reads are whole pages.
        block_size: 4096,
        device_inode_rdevice_offset_sizelimit: [0; 5],
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        names: [[0; 64]; 2],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads one `struct loop_config` for this opcode, and that is what `LoopConfig` is (its size is asserted above).
    let request = unsafe { Setter::<LOOP_CONFIGURE, LoopConfig>::new(config) };
    // SAFETY: `request` describes the opcode (above); both descriptors are open for the duration of the call.
    unsafe { ioctl(device, request) }
}
