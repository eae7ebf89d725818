//! A socket as an open file.

use super::Socket;
use crate::errno::{Errno, Result};
use crate::fs::file::{UserMemory, flags};
use crate::fs::node::{Kind, Node, S_IFSOCK};
use crate::fs::notify::Notifier;
use crate::fs::{File, FileOps, FileSystem};
use crate::wait::Readiness;
use alloc::rc::Rc;

/// SIOCOUTQ (TIOCOUTQ).
const SIOCOUTQ: u32 = 0x5411;

/// The behaviour of a socket's descriptor. read(2) and write(2) of sockets go through the socket layer (`syscall/net`), which knows the caller; the operations
/// of this trait that would move bytes do nothing.
pub struct SocketFile {
    socket: Rc<dyn Socket>,
}

impl SocketFile {
    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Rc<dyn Socket> {
        &self.socket
    }

    /// An open file of `sockfs` for a new socket. `status` is O_NONBLOCK or nothing.
    ///
    /// # Errors
    /// ENFILE when memory is used up.
    pub fn open(
        sockfs: &Rc<FileSystem>,
        socket: Rc<dyn Socket>,
        owner: (u32, u32),
        status: u32,
    ) -> Result<Rc<File>> {
        // From here on, the socket is released whatever happens.
        let ops = Rc::new(Self { socket });
        sockfs.env.check_space().map_err(|_| Errno::ENFILE)?;
        let socket = &ops.socket;
        let node = Node::anonymous(sockfs, S_IFSOCK | 0o777, owner, b"socket:", Kind::Anonymous);
        socket.common().ino.set(node.ino());
        socket.common().owner.set(owner);
        Ok(File::new(node, ops.clone(), flags::O_RDWR | status))
    }
}

impl FileOps for SocketFile {
    fn poll(&self, _file: &File) -> Readiness {
        self.socket.poll()
    }

    fn notifier(&self) -> Option<&Notifier> {
        Some(&self.socket.common().notifier)
    }

    fn bytes_readable(&self, _file: &File) -> Result<u64> {
        self.socket.bytes_readable()
    }

    fn ioctl(&self, _file: &File, memory: &dyn UserMemory, request: u32, argument: u64) -> Result<u64> {
        if request != SIOCOUTQ {
            return self.socket.ioctl(memory, request, argument);
        }
        let bytes = self.socket.bytes_unsent()?.min(i32::MAX as u64) as u32;
        memory.store(argument, &bytes.to_le_bytes())?;
        Ok(0)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.release();
    }
}
