//! Capabilities of a thread (capabilities(7)): those of the process that it goes without.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use super::ConfineError;
use crate::NetPrivileges;

/// Capabilities that a vCPU thread keeps, because the host's kernel asks for them when the VMM does what the guest's container was granted.
///
/// Everything else goes, whatever the process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted(NetPrivileges);

impl Granted {
    /// No capability at all.
    pub const NOTHING: Self =
        Self(NetPrivileges { bind_service: false, raw: false, admin: false, owner: None });

    fn set(self) -> CapabilitySet {
        let Self(NetPrivileges { bind_service, raw, admin, .. }) = self;
        let mut set = CapabilitySet::empty();
        set.set(CapabilitySet::NET_BIND_SERVICE, bind_service);
        set.set(CapabilitySet::NET_RAW, raw);
        set.set(CapabilitySet::NET_ADMIN, admin);
        set
    }
}

impl From<NetPrivileges> for Granted {
    fn from(privileges: NetPrivileges) -> Self {
        Self(privileges)
    }
}

/// The highest capability that a kernel can have: their sets are 64 bits wide.
const LAST: u32 = 63;

/// Drop all capabilities of the calling thread but those of `granted` that it has, and all from its bounding set, for good.
pub(super) fn keep_only(granted: Granted) -> Result<(), ConfineError> {
    let failed =
        |operation| move |errno: Errno| ConfineError::Host { operation, errno: errno.raw_os_error() };
    let now = capabilities(None).map_err(failed("read the thread's capabilities"))?;
    for number in 0..=LAST {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) => break,
            // Not privileged, or its parent has done it. It can execute no program, and gains nothing from the set.
            Err(Errno::PERM) => break,
            Err(errno) => return Err(failed("empty the bounding set of capabilities")(errno)),
        }
    }
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    restrict(granted.set() & now.permitted).map_err(failed("drop capabilities"))
}

fn restrict(kept: CapabilitySet) -> rustix::io::Result<()> {
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}
