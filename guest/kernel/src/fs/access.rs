//! Permission checks (path_resolution(7), "Permissions"; user id 0 has CAP_DAC_OVERRIDE, CAP_FOWNER and CAP_CHOWN).

use super::node::Node;
use crate::errno::{Errno, Result};

bitflags::bitflags! {
    /// What is asked of a node; the values are access(2)'s R_OK, W_OK, X_OK.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Search a directory, execute a file.
        const EXECUTE = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// Who asks: the ids that file permission checks use.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// File-system user id.
    pub uid: u32,
    /// File-system group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
}

impl Subject<'_> {
    /// The superuser.
    pub const ROOT: Subject<'static> = Subject { uid: 0, gid: 0, groups: &[] };

    /// Whether the superuser's rights apply.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether `gid` is one of the subject's groups.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether the subject owns `node`, or may act as if.
    #[must_use]
    pub fn owns(&self, node: &Node) -> bool {
        self.is_root() || self.uid == node.uid()
    }

    /// Check that the subject may do `wanted`.
    ///
    /// # Errors
    /// EACCES.
    pub fn check(&self, node: &Node, wanted: Access) -> Result {
        let mode = node.mode();
        if self.is_root() {
            // Everything, but executing a file needs at least one execute bit.
            let forbidden = wanted.contains(Access::EXECUTE) && !node.is_directory() && mode & 0o111 == 0;
            return if forbidden { Err(Errno::EACCES) } else { Ok(()) };
        }
        let bits = if self.uid == node.uid() {
            mode >> 6
        } else if self.in_group(node.gid()) {
            mode >> 3
        } else {
            mode
        };
        if bits & wanted.bits() == wanted.bits() { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Check that the subject may remove `node` from `directory`: write and search the directory, and in a sticky one own either.
    ///
    /// # Errors
    /// EACCES, EPERM.
    pub fn check_removal(&self, directory: &Node, node: &Node) -> Result {
        self.check(directory, Access::WRITE | Access::EXECUTE)?;
        let sticky = directory.mode() & 0o1000 != 0;
        if sticky && !self.is_root() && self.uid != node.uid() && self.uid != directory.uid() {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}
