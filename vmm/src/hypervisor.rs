//! /dev/kvm: opened, checked and asked for the CPU's features once per process.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use kvm_ioctls::{Cap, Kvm};

use crate::error::StartError;
use crate::vcpu::cpuid::{CpuFeatures, Missing};
use crate::vcpu::ioctl;

const DEVICE: &str = "/dev/kvm";
/// KVM_GET_API_VERSION of every kernel since 2.6.22 (KVM API, 4.1).
const API_VERSION: i32 = 12;

/// What KVM must be able to do.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
];

/// KVM of this machine.
pub(crate) struct Hypervisor {
    pub(crate) kvm: Kvm,
    pub(crate) features: CpuFeatures,
}

/// The last successful check. A failed one is made again: an administrator may have loaded the module meanwhile.
static SHARED: Mutex<Option<Arc<Hypervisor>>> = Mutex::new(None);

impl Hypervisor {
    /// The process' hypervisor: its descriptor stays open from the first use on.
    pub(crate) fn shared() -> Result<Arc<Self>, StartError> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hypervisor) = &*shared {
            return Ok(Arc::clone(hypervisor));
        }
        let hypervisor = Arc::new(Self::open()?);
        *shared = Some(Arc::clone(&hypervisor));
        Ok(hypervisor)
    }

    fn open() -> Result<Self, StartError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => StartError::NoKvm { device: DEVICE },
            libc::EACCES | libc::EPERM => StartError::KvmPermission { device: DEVICE },
            errno => StartError::OpenKvm { device: DEVICE, errno },
        })?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(StartError::KvmVersion { version, required: API_VERSION });
        }
        let missing: Vec<_> =
            REQUIRED.iter().filter(|(cap, _)| !kvm.check_extension(*cap)).map(|&(_, name)| name).collect();
        if !missing.is_empty() {
            return Err(StartError::KvmCapabilities { missing });
        }
        let supported =
            ioctl("KVM_GET_SUPPORTED_CPUID", kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES))?;
        let features =
            CpuFeatures::choose(supported).map_err(|Missing(missing)| StartError::CpuFeatures { missing })?;
        Ok(Self { kvm, features })
    }
}
