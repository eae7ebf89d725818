//! Device attributes of the vCPU, which kvm-ioctls offers on other architectures only.
//!
//! Unsafe because it makes an ioctl that reads memory through an address in its argument.

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::VcpuFd;

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;

const _: () = assert!(size_of::<kvm_device_attr>() == 0x18);

/// Set the offset of the guest's TSC against the host's (kernel document virt/kvm/devices/vcpu, 4.1).
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> io::Result<()> {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: &raw const offset as u64,
        flags: 0,
    };
    // SAFETY: the attribute names a valid u64 for KVM to read; both live until the call returns.
    let returned = unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
