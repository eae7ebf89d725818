//! struct msghdr and control messages as the application lays them out (recvmsg(2), cmsg(3)).

use super::super::call::{Call, IOV_MAX, UserBuffer};
use super::super::fs::open::install;
use super::read_address;
use crate::errno::{Errno, Result};
use crate::fs::File;
use crate::net::address::STORAGE_BYTES;
use crate::net::{Control, MessageFlags, Socket, Ucred, family};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes of struct msghdr.
const HEADER_BYTES: usize = 56;
/// Offsets in struct msghdr of what recvmsg(2) stores.
const NAME_LEN_AT: u64 = 8;
const CONTROL_LEN_AT: u64 = 40;
const FLAGS_AT: u64 = 48;
/// Bytes of struct cmsghdr.
const CONTROL_HEADER_BYTES: usize = 16;
/// Most bytes of control messages in one call (net.core.optmem_max).
const CONTROL_MAX: u64 = 128 << 10;
/// Most descriptors in one message (SCM_MAX_FD).
const DESCRIPTORS_MAX: usize = 253;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;

/// A struct msghdr.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    address: u64,
    name: u64,
    name_len: i32,
    pieces: u64,
    piece_count: u64,
    control: u64,
    control_len: u64,
}

impl Header {
    /// Read it.
    ///
    /// # Errors
    /// EFAULT; EINVAL (negative length of the name); EMSGSIZE (too many pieces).
    pub(super) fn read(call: &Call<'_>, address: u64) -> Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        call.read(address, &mut bytes)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (name, name_len) = (word(0), word(8) as u32 as i32);
        let header = Self {
            address,
            name,
            name_len: if name == 0 { 0 } else { name_len },
            pieces: word(16),
            piece_count: word(24),
            control: word(32),
            control_len: word(40),
        };
        if header.name_len < 0 {
            return Err(Errno::EINVAL);
        }
        if header.piece_count > IOV_MAX {
            return Err(Errno::EMSGSIZE);
        }
        Ok(header)
    }

    /// The buffers.
    ///
    /// # Errors
    /// EFAULT, EINVAL.
    pub(super) fn buffer(&self, call: &Call<'_>) -> Result<UserBuffer> {
        call.buffers(self.pieces, self.piece_count)
    }

    /// The destination; empty = none.
    ///
    /// # Errors
    /// EFAULT.
    pub(super) fn destination(&self, call: &Call<'_>) -> Result<Vec<u8>> {
        read_address(call, self.name, u64::from(self.name_len.unsigned_abs()).min(STORAGE_BYTES as u64))
    }

    /// The control messages to send.
    ///
    /// # Errors
    /// ENOBUFS (too long), EFAULT, EINVAL (malformed).
    pub(super) fn control(&self, call: &Call<'_>) -> Result<Vec<Control>> {
        if self.control == 0 || self.control_len == 0 {
            return Ok(Vec::new());
        }
        if self.control_len > CONTROL_MAX {
            return Err(Errno::ENOBUFS);
        }
        let mut bytes = vec![0; self.control_len as usize];
        call.read(self.control, &mut bytes)?;
        parse(&bytes)
    }

    /// Store what recvmsg(2) tells: the name, the control messages, the flags. Descriptors that were passed are installed.
    ///
    /// # Errors
    /// EFAULT, EINVAL. The message is lost then, as on Linux.
    pub(super) fn store(
        &self,
        call: &Call<'_>,
        name: Option<&[u8]>,
        control: Vec<Control>,
        outcome: MessageFlags,
        close_on_exec: bool,
    ) -> Result {
        if self.name != 0 {
            let len_address = self.address.wrapping_add(NAME_LEN_AT);
            super::write_address(call, self.name, len_address, name.unwrap_or_default())?;
        }
        let mut writer = Writer { call, at: self.control, left: self.room(), truncated: false };
        for message in control {
            writer.put(message, close_on_exec)?;
        }
        let truncated = if writer.truncated { MessageFlags::CTRUNC } else { MessageFlags::empty() };
        let used = self.room() - writer.left;
        call.write_u32(self.address.wrapping_add(FLAGS_AT), (outcome | truncated).bits())?;
        call.write_u64(self.address.wrapping_add(CONTROL_LEN_AT), used as u64)
    }

    fn room(&self) -> usize {
        if self.control == 0 { 0 } else { self.control_len.min(i32::MAX as u64) as usize }
    }
}

/// Round up to the alignment of control messages.
const fn aligned(len: usize) -> usize {
    (len + 7) & !7
}

/// Take a control buffer apart. As with CMSG_NXTHDR, what is too short for a header behind the last message is ignored.
///
/// # Errors
/// EINVAL: a message is shorter than its header, or longer than the buffer.
fn parse(bytes: &[u8]) -> Result<Vec<Control>> {
    let mut messages = Vec::new();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + CONTROL_HEADER_BYTES) {
        let int =
            |at: usize| i32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut len = [0; 8];
        len.copy_from_slice(&header[..8]);
        let len = usize::try_from(u64::from_le_bytes(len)).map_err(|_| Errno::EINVAL)?;
        if len < CONTROL_HEADER_BYTES || len > bytes.len() - at {
            return Err(Errno::EINVAL);
        }
        let data = bytes[at + CONTROL_HEADER_BYTES..at + len].to_vec();
        messages.push(Control::Raw { level: int(8), kind: int(12), data });
        at += aligned(len);
    }
    Ok(messages)
}

/// Control messages with what they stand for.
#[derive(Default)]
pub(super) struct Resolved {
    pub(super) rights: Vec<Rc<File>>,
    pub(super) credentials: Option<Ucred>,
    pub(super) others: Vec<Control>,
}

/// Look up the descriptors that are passed and check the credentials that are stated (the kernel's net/core/scm.c), for families that carry them. Others
/// get the messages as they are.
///
/// # Errors
/// EBADF; EINVAL (too many descriptors, malformed, unknown); EPERM, ESRCH (credentials of others).
pub(super) fn resolve(call: &Call<'_>, socket: &dyn Socket, messages: Vec<Control>) -> Result<Resolved> {
    let mut resolved = Resolved::default();
    let own = socket.common().family;
    if !matches!(own, family::UNIX | family::NETLINK) {
        resolved.others = messages;
        return Ok(resolved);
    }
    for message in messages {
        let Control::Raw { level: SOL_SOCKET, kind, data } = &message else { continue };
        match *kind {
            SCM_RIGHTS if own == family::UNIX => {
                let files = call.process.files();
                if resolved.rights.len() + data.len() / 4 > DESCRIPTORS_MAX {
                    return Err(Errno::EINVAL);
                }
                for fd in data.chunks_exact(4) {
                    let fd = i32::from_le_bytes([fd[0], fd[1], fd[2], fd[3]]);
                    resolved.rights.push(files.borrow().get_any(fd)?);
                }
            }
            SCM_CREDENTIALS => {
                let bytes = data.as_slice().try_into().map_err(|_| Errno::EINVAL)?;
                let stated = Ucred::from_bytes(bytes);
                check_credentials(call, stated)?;
                resolved.credentials = Some(stated);
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok(resolved)
}

/// Whether the caller may say that it is `stated` (credentials(7), unix(7)).
fn check_credentials(call: &Call<'_>, stated: Ucred) -> Result {
    let who = call.process.credentials.borrow();
    let privileged = who.is_privileged();
    let uid_fits = [who.uid, who.euid, who.suid].contains(&stated.uid);
    let gid_fits = [who.gid, who.egid, who.sgid].contains(&stated.gid);
    if !privileged && (stated.pid != call.process.pid || !uid_fits || !gid_fits) {
        return Err(Errno::EPERM);
    }
    if stated.pid != call.process.pid && call.kernel.process(stated.pid).is_none() {
        return Err(Errno::ESRCH);
    }
    if stated.uid == u32::MAX || stated.gid == u32::MAX { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Stores control messages one behind the other.
struct Writer<'a, 'c> {
    call: &'a Call<'c>,
    at: u64,
    left: usize,
    truncated: bool,
}

impl Writer<'_, '_> {
    fn put(&mut self, message: Control, close_on_exec: bool) -> Result {
        match message {
            Control::Rights(files) => self.put_rights(files, close_on_exec),
            Control::Credentials(ucred) => self.put_bytes(SOL_SOCKET, SCM_CREDENTIALS, &ucred.to_bytes()),
            Control::Raw { level, kind, data } => self.put_bytes(level, kind, &data),
        }
    }

    /// A message, cut where the room ends.
    fn put_bytes(&mut self, level: i32, kind: i32, data: &[u8]) -> Result {
        if self.left < CONTROL_HEADER_BYTES {
            self.truncated = true;
            return Ok(());
        }
        let wanted = CONTROL_HEADER_BYTES + data.len();
        let len = wanted.min(self.left);
        self.truncated |= len < wanted;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&(len as u64).to_le_bytes());
        bytes.extend_from_slice(&level.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&data[..len - CONTROL_HEADER_BYTES]);
        self.call.write(self.at, &bytes)?;
        self.advance(aligned(wanted));
        Ok(())
    }

    fn advance(&mut self, len: usize) {
        let len = len.min(self.left);
        self.at = self.at.wrapping_add(len as u64);
        self.left -= len;
    }

    /// Descriptors, as many as there is room for; the others are closed.
    fn put_rights(&mut self, files: Vec<Rc<File>>, close_on_exec: bool) -> Result {
        let room = self.left.saturating_sub(CONTROL_HEADER_BYTES) / 4;
        let count = files.len();
        let mut data = Vec::new();
        for file in files.into_iter().take(room) {
            match install(self.call, file, close_on_exec) {
                Ok(fd) => data.extend_from_slice(&(fd as u32).to_le_bytes()),
                Err(_) => break,
            }
        }
        self.truncated |= data.len() / 4 < count;
        if data.is_empty() { Ok(()) } else { self.put_bytes(SOL_SOCKET, SCM_RIGHTS, &data) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(len: u64, level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend(level.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(data);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn lens(bytes: &[u8]) -> Result<Vec<usize>> {
        let len =
            |control: &Control| if let Control::Raw { data, .. } = control { data.len() } else { usize::MAX };
        Ok(parse(bytes)?.iter().map(len).collect())
    }

    #[test]
    fn control_buffers_are_taken_apart() {
        let two = [message(20, 1, 1, &[1, 2, 3, 4]), message(28, 1, 2, &[0; 12])].concat();
        assert_eq!(lens(&two), Ok(vec![4, 12]));
        // The padding of the last one need not be there, and a rest too short for a header is nothing.
        assert_eq!(lens(&two[..two.len() - 4]), Ok(vec![4, 12]));
        assert_eq!(lens(&[&two[..], &[0; 15]].concat()), Ok(vec![4, 12]));
        assert_eq!(lens(&[]), Ok(vec![]));
    }

    #[test]
    fn malformed_control_buffers_are_refused() {
        for len in [0, 15, 25, u64::MAX, 1 << 63] {
            assert_eq!(lens(&message(len, 1, 1, &[0; 8])), Err(Errno::EINVAL), "{len}");
        }
    }

    proptest! {
        #[test]
        fn no_control_buffer_breaks_anything(mut bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0u64..220) {
            if bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&len.to_le_bytes());
            }
            if let Ok(lens) = lens(&bytes) {
                let total: usize = lens.iter().map(|len| len + CONTROL_HEADER_BYTES).sum();
                prop_assert!(total <= bytes.len());
            }
        }
    }
}
