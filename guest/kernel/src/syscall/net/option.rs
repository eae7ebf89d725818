//! setsockopt, getsockopt.

use super::super::call::Call;
use super::super::table::{Entry, partial};
use super::{pause, settle, socket, with_caller};
use crate::errno::{Errno, Result, SysResult};
use crate::net::options::name::{self, SOL_SOCKET};
use crate::net::{Options, Socket, Ucred, family};
use alloc::vec;
use alloc::vec::Vec;

/// The family.
pub const TABLE: &[Entry] = &[
    partial(54, "setsockopt", setsockopt, "no packet filters; SO_DEBUG, SO_PRIORITY, SO_MARK have no effect"),
    partial(55, "getsockopt", getsockopt, "as setsockopt"),
];

/// Most bytes of an option's value.
const VALUE_MAX: usize = 16 << 10;

fn setsockopt(call: &mut Call<'_>) -> SysResult {
    let [fd, level, option, address, len, _] = call.args;
    let (level, option, len) = (level as u32 as i32, option as u32, len as u32 as i32);
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    let (_, socket) = socket(call, fd)?;
    let mut value = vec![0; len.min(VALUE_MAX)];
    call.read(address, &mut value)?;
    let outcome = with_caller(call, false, |caller| {
        if level != SOL_SOCKET {
            return socket.set_option(caller, level, option, &value);
        }
        if option == name::PASSCRED && !matches!(socket.common().family, family::UNIX | family::NETLINK) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        match Options::check(option, &value, caller.credentials.is_privileged()) {
            Ok(change) => {
                socket.common_option(option, &value)?;
                socket.common().options.apply(change);
                Ok(())
            }
            Err(Errno::ENOPROTOOPT) => socket.set_option(caller, level, option, &value),
            Err(errno) => Err(errno.into()),
        }
    });
    settle(call, &*socket, outcome)
}

/// The value of a SOL_SOCKET option that the layer knows.
fn common_value(socket: &dyn Socket, option: u32) -> Option<Result<Vec<u8>>> {
    let common = socket.common();
    let number = |value: i32| Some(Ok(value.to_le_bytes().to_vec()));
    match option {
        name::TYPE => number(common.kind as i32),
        name::DOMAIN => number(i32::from(common.family)),
        name::PROTOCOL => number(common.protocol),
        name::ACCEPTCONN => number(i32::from(socket.is_listening())),
        name::ERROR => number(socket.take_error().map_or(0, |errno| i32::from(errno.0))),
        name::PEERCRED => Some(Ok(socket.peer_credentials().unwrap_or(Ucred::NOBODY).to_bytes().to_vec())),
        name::PEERGROUPS => {
            let groups = socket.peer_groups();
            Some(groups.map(|groups| groups.iter().flat_map(|group| group.to_le_bytes()).collect()))
        }
        name::COOKIE => Some(Ok(common.ino.get().to_le_bytes().to_vec())),
        name::PASSCRED if !matches!(common.family, family::UNIX | family::NETLINK) => {
            Some(Err(Errno::EOPNOTSUPP))
        }
        _ => common.options.get(option).map(Ok),
    }
}

fn getsockopt(call: &mut Call<'_>) -> SysResult {
    let [fd, level, option, address, len_address, _] = call.args;
    let (level, option) = (level as u32 as i32, option as u32);
    let (_, socket) = socket(call, fd)?;
    let room = usize::try_from(call.read_u32(len_address)? as i32).map_err(|_| Errno::EINVAL)?;
    let common = if level == SOL_SOCKET { common_value(&*socket, option) } else { None };
    let value = match common {
        Some(value) => value?,
        None => match socket.get_option(level, option, room) {
            Ok(value) => value,
            Err(paused) => return Err(pause(call, &*socket, paused, false, None)),
        },
    };
    let exact = level == SOL_SOCKET && matches!(option, name::COOKIE | name::PEERGROUPS);
    if exact && room < value.len() {
        if option == name::PEERGROUPS {
            call.write_u32(len_address, value.len() as u32)?;
            return Err(Errno::ERANGE.into());
        }
        return Err(Errno::EINVAL.into());
    }
    let len = room.min(value.len());
    call.write(address, &value[..len])?;
    call.write_u32(len_address, len as u32)?;
    Ok(0)
}
