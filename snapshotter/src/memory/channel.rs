//! A unix socket that keeps messages apart (SOCK_SEQPACKET) and carries descriptors (SCM_RIGHTS, unix(7)).
//!
//! Descriptors that were not asked for are closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    listen, recvmsg, sendmsg, socket_with, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::peer;
use super::protocol::{DESCRIPTORS_MAX, MESSAGE_BYTES_MAX};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// One end of a connection.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Listens for connections.
#[derive(Debug)]
pub struct Listener(OwnedFd);

fn packet_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl Listener {
    /// Listens on `path`, for the owner only; a name that is there is replaced.
    ///
    /// # Errors
    /// The directory is missing, or not writable.
    pub fn bind(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let socket = packet_socket()?;
        // Bound under another name and renamed: the name always leads to a socket that is listened on.
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let _ = std::fs::remove_file(&new);
        bind(&socket, &SocketAddrUnix::new(&*new)?)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        std::fs::rename(&new, path)?;
        Ok(Self(socket))
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// accept(2)'s.
    pub fn accept(&self) -> io::Result<Channel> {
        Ok(Channel(accept_with(&self.0, SocketFlags::CLOEXEC)?))
    }
}

impl Channel {
    /// Connects to `path`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = packet_socket()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    /// Nothing is waited for longer than this: receiving fails with EAGAIN then.
    ///
    /// # Errors
    /// setsockopt(2)'s.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, Some(patience))?;
        Ok(sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Send, Some(patience))?)
    }

    /// Whether the process at the other end may use what root keeps to itself.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        peer::is_trusted(&self.0)
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// The other end is closed; the message is too long.
    pub fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::other(format!("a message of {} bytes is too long", bytes.len())));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other("too many descriptors"));
        }
        rustix::io::retry_on_intr(|| {
            sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// Receives a message and its descriptors; `None` when the other end is closed.
    ///
    /// # Errors
    /// Not a message of this kind, or cut off.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                descriptors.extend(fds);
            }
        }
        if received.bytes == 0 && descriptors.is_empty() {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message was cut off"));
        }
        Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
