//! /proc/net/unix.

use super::{Shared, State, UnixSocket};
use crate::net::address::UnixAddress;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

/// The first line.
const HEAD: &[u8] = b"Num       RefCount Protocol Flags    Type St Inode Path\n";
/// SO_ACCEPTCON, the only flag that is shown.
const ACCEPTS: u32 = 1 << 16;

/// The file's text.
#[must_use]
pub fn listing(shared: &Shared) -> Vec<u8> {
    let mut text = HEAD.to_vec();
    for socket in shared.sockets().iter().filter(|socket| !socket.dead.get()) {
        text.extend(line(socket).into_bytes());
        match socket.address.borrow().as_deref() {
            Some(UnixAddress::Path(path)) => {
                text.push(b' ');
                text.extend_from_slice(path);
            }
            Some(UnixAddress::Abstract(name)) => {
                text.extend_from_slice(b" @");
                text.extend(name.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }));
            }
            _ => {}
        }
        text.push(b'\n');
    }
    text
}

fn line(socket: &Rc<UnixSocket>) -> String {
    let listens = socket.state.get() == State::Listening;
    let connected = socket.state.get() == State::Established;
    // SS_UNCONNECTED, SS_CONNECTING, SS_CONNECTED.
    let state = match (connected, socket.is_embryo.get()) {
        (true, true) => 2,
        (true, false) => 3,
        _ => 1,
    };
    format!(
        "{:016x}: {:08X} {:08X} {:08X} {:04X} {:02X} {:5}",
        0,
        if connected { 3 } else { 2 },
        0,
        if listens { ACCEPTS } else { 0 },
        socket.common.kind as u32,
        state,
        socket.common.ino.get(),
    )
}
