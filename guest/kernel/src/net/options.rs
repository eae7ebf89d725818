//! SOL_SOCKET options (socket(7), the kernel's sk_setsockopt and sk_getsockopt).
//!
//! What the options mean is the affair of those who look at them here: the layer (time-outs), or the family. A family that cannot do what an
//! option asks refuses it in [`super::Socket::common_option`].

use crate::errno::{Errno, Result};
use alloc::vec::Vec;
use core::cell::Cell;

/// Numbers of options (asm-generic/socket.h).
#[allow(missing_docs)]
pub mod name {
    pub const SOL_SOCKET: i32 = 1;
    pub const DEBUG: u32 = 1;
    pub const REUSEADDR: u32 = 2;
    pub const TYPE: u32 = 3;
    pub const ERROR: u32 = 4;
    pub const DONTROUTE: u32 = 5;
    pub const BROADCAST: u32 = 6;
    pub const SNDBUF: u32 = 7;
    pub const RCVBUF: u32 = 8;
    pub const KEEPALIVE: u32 = 9;
    pub const OOBINLINE: u32 = 10;
    pub const NO_CHECK: u32 = 11;
    pub const PRIORITY: u32 = 12;
    pub const LINGER: u32 = 13;
    pub const BSDCOMPAT: u32 = 14;
    pub const REUSEPORT: u32 = 15;
    pub const PASSCRED: u32 = 16;
    pub const PEERCRED: u32 = 17;
    pub const RCVLOWAT: u32 = 18;
    pub const SNDLOWAT: u32 = 19;
    pub const RCVTIMEO: u32 = 20;
    pub const SNDTIMEO: u32 = 21;
    pub const BINDTODEVICE: u32 = 25;
    pub const PEERNAME: u32 = 28;
    pub const TIMESTAMP: u32 = 29;
    pub const ACCEPTCONN: u32 = 30;
    pub const SNDBUFFORCE: u32 = 32;
    pub const RCVBUFFORCE: u32 = 33;
    pub const PASSSEC: u32 = 34;
    pub const TIMESTAMPNS: u32 = 35;
    pub const MARK: u32 = 36;
    pub const PROTOCOL: u32 = 38;
    pub const DOMAIN: u32 = 39;
    pub const RXQ_OVFL: u32 = 40;
    pub const PEEK_OFF: u32 = 42;
    pub const LOCK_FILTER: u32 = 44;
    pub const SELECT_ERR_QUEUE: u32 = 45;
    pub const BUSY_POLL: u32 = 46;
    pub const MAX_PACING_RATE: u32 = 47;
    pub const INCOMING_CPU: u32 = 49;
    pub const COOKIE: u32 = 57;
    pub const PEERGROUPS: u32 = 59;
    pub const ZEROCOPY: u32 = 60;
    pub const RCVTIMEO_NEW: u32 = 66;
    pub const SNDTIMEO_NEW: u32 = 67;
}

/// net.core.wmem_max and rmem_max; also the default of both buffers.
pub const BUFFER_MAX: u32 = 212_992;
/// Least send buffer (SOCK_MIN_SNDBUF).
const SEND_BUFFER_MIN: u32 = 4608;
/// Least receive buffer (SOCK_MIN_RCVBUF).
const RECEIVE_BUFFER_MIN: u32 = 2304;

/// Options that are on or off.
const SWITCHES: &[u32] = &[
    name::DEBUG,
    name::REUSEADDR,
    name::DONTROUTE,
    name::BROADCAST,
    name::KEEPALIVE,
    name::OOBINLINE,
    name::NO_CHECK,
    name::REUSEPORT,
    name::PASSCRED,
    name::TIMESTAMP,
    name::PASSSEC,
    name::TIMESTAMPNS,
    name::RXQ_OVFL,
    name::LOCK_FILTER,
    name::SELECT_ERR_QUEUE,
    name::ZEROCOPY,
];

/// A change that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing to keep.
    None,
    /// A switch.
    Switch(u32, bool),
    /// SO_LINGER.
    Linger(Option<u32>),
    /// SO_RCVTIMEO: `None` = for ever.
    ReceiveTimeout(Option<u64>),
    /// SO_SNDTIMEO.
    SendTimeout(Option<u64>),
    /// SO_RCVBUF, as getsockopt(2) tells it.
    ReceiveBuffer(u32),
    /// SO_SNDBUF, as getsockopt(2) tells it.
    SendBuffer(u32),
    /// SO_RCVLOWAT.
    ReceiveLow(u32),
    /// SO_PRIORITY.
    Priority(i32),
    /// SO_MARK.
    Mark(u32),
    /// SO_PEEK_OFF.
    PeekOffset(i32),
}

/// The options of a socket.
#[derive(Debug)]
pub struct Options {
    switches: Cell<u64>,
    /// SO_LINGER: seconds, if it is on.
    pub linger: Cell<Option<u32>>,
    /// SO_RCVTIMEO in nanoseconds; `None` = for ever.
    pub receive_timeout_ns: Cell<Option<u64>>,
    /// SO_SNDTIMEO in nanoseconds; `None` = for ever.
    pub send_timeout_ns: Cell<Option<u64>>,
    /// SO_RCVBUF: twice what was set.
    pub receive_buffer: Cell<u32>,
    /// SO_SNDBUF: twice what was set.
    pub send_buffer: Cell<u32>,
    /// SO_RCVLOWAT.
    pub receive_low: Cell<u32>,
    /// SO_PRIORITY.
    pub priority: Cell<i32>,
    /// SO_MARK.
    pub mark: Cell<u32>,
    /// SO_PEEK_OFF; -1 = off.
    pub peek_offset: Cell<i32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            switches: Cell::new(0),
            linger: Cell::new(None),
            receive_timeout_ns: Cell::new(None),
            send_timeout_ns: Cell::new(None),
            receive_buffer: Cell::new(BUFFER_MAX),
            send_buffer: Cell::new(BUFFER_MAX),
            receive_low: Cell::new(1),
            priority: Cell::new(0),
            mark: Cell::new(0),
            peek_offset: Cell::new(-1),
        }
    }
}

/// An int option.
fn int(value: &[u8]) -> Result<i32> {
    let bytes = value.get(..4).ok_or(Errno::EINVAL)?;
    Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// A struct timeval: nanoseconds, `None` = no limit.
fn timeout(value: &[u8]) -> Result<Option<u64>> {
    let bytes = value.get(..16).ok_or(Errno::EINVAL)?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        i64::from_le_bytes(word)
    };
    let (seconds, micros) = (word(0), word(8));
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EDOM);
    }
    Ok(match (u64::try_from(seconds), micros.unsigned_abs()) {
        (Err(_), _) => Some(0),
        (Ok(0), 0) => None,
        (Ok(seconds), micros) => Some(seconds.saturating_mul(1_000_000_000).saturating_add(micros * 1000))
            .filter(|ns| *ns < i64::MAX as u64),
    })
}

fn timeval(timeout_ns: Option<u64>) -> Vec<u8> {
    let ns = timeout_ns.unwrap_or(0);
    [ns / 1_000_000_000, ns % 1_000_000_000 / 1000].iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Options {
    /// Whether a switch is on.
    #[must_use]
    pub fn is_on(&self, option: u32) -> bool {
        option < 64 && self.switches.get() >> option & 1 == 1
    }

    /// Check what setsockopt(2) asks for, without keeping it.
    ///
    /// # Errors
    /// EINVAL (too short), EDOM (SO_RCVTIMEO), EPERM, EACCES (needs privileges), ENOPROTOOPT (no such option).
    pub fn check(option: u32, value: &[u8], privileged: bool) -> Result<Change> {
        let number = int(value)?;
        let doubled = |least: u32| number.cast_unsigned().min(BUFFER_MAX).saturating_mul(2).max(least);
        let forced = |least: u32| (number.max(0).unsigned_abs().min(1 << 29) * 2).max(least);
        let need_privilege = |errno| if privileged { Ok(()) } else { Err(errno) };
        Ok(match option {
            name::DEBUG if number != 0 && !privileged => return Err(Errno::EACCES),
            name::SNDBUF => Change::SendBuffer(doubled(SEND_BUFFER_MIN)),
            name::RCVBUF => Change::ReceiveBuffer(doubled(RECEIVE_BUFFER_MIN)),
            name::SNDBUFFORCE => {
                need_privilege(Errno::EPERM)?;
                Change::SendBuffer(forced(SEND_BUFFER_MIN))
            }
            name::RCVBUFFORCE => {
                need_privilege(Errno::EPERM)?;
                Change::ReceiveBuffer(forced(RECEIVE_BUFFER_MIN))
            }
            name::LINGER => {
                let seconds = int(value.get(4..).ok_or(Errno::EINVAL)?)?;
                Change::Linger((number != 0).then_some(seconds.cast_unsigned()))
            }
            name::RCVTIMEO | name::RCVTIMEO_NEW => Change::ReceiveTimeout(timeout(value)?),
            name::SNDTIMEO | name::SNDTIMEO_NEW => Change::SendTimeout(timeout(value)?),
            name::RCVLOWAT => Change::ReceiveLow(if number < 0 {
                i32::MAX.unsigned_abs()
            } else {
                number.unsigned_abs().max(1)
            }),
            name::PRIORITY => {
                if !(0..=6).contains(&number) {
                    need_privilege(Errno::EPERM)?;
                }
                Change::Priority(number)
            }
            name::MARK => {
                need_privilege(Errno::EPERM)?;
                Change::Mark(number.cast_unsigned())
            }
            name::PEEK_OFF => {
                if number < -1 {
                    return Err(Errno::EINVAL);
                }
                Change::PeekOffset(number)
            }
            name::BSDCOMPAT => Change::None,
            switch if SWITCHES.contains(&switch) => Change::Switch(switch, number != 0),
            // Among them those that can only be read: SO_TYPE, SO_ERROR, SO_SNDLOWAT, ...
            _ => return Err(Errno::ENOPROTOOPT),
        })
    }

    /// Keep a change.
    pub fn apply(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Switch(option, on) => {
                let bit = 1 << option;
                let others = self.switches.get() & !bit;
                self.switches.set(if on { others | bit } else { others });
            }
            Change::Linger(linger) => self.linger.set(linger),
            Change::ReceiveTimeout(timeout) => self.receive_timeout_ns.set(timeout),
            Change::SendTimeout(timeout) => self.send_timeout_ns.set(timeout),
            Change::ReceiveBuffer(bytes) => self.receive_buffer.set(bytes),
            Change::SendBuffer(bytes) => self.send_buffer.set(bytes),
            Change::ReceiveLow(bytes) => self.receive_low.set(bytes),
            Change::Priority(priority) => self.priority.set(priority),
            Change::Mark(mark) => self.mark.set(mark),
            Change::PeekOffset(offset) => self.peek_offset.set(offset),
        }
    }

    /// The value of an option that is kept here; `None` if it is another's.
    #[must_use]
    pub fn get(&self, option: u32) -> Option<Vec<u8>> {
        let number = |value: i32| value.to_le_bytes().to_vec();
        Some(match option {
            name::SNDBUF => number(self.send_buffer.get().cast_signed()),
            name::RCVBUF => number(self.receive_buffer.get().cast_signed()),
            name::LINGER => {
                let linger = self.linger.get();
                let words = [u32::from(linger.is_some()), linger.unwrap_or(0)];
                words.iter().flat_map(|word| word.to_le_bytes()).collect()
            }
            name::RCVTIMEO | name::RCVTIMEO_NEW => timeval(self.receive_timeout_ns.get()),
            name::SNDTIMEO | name::SNDTIMEO_NEW => timeval(self.send_timeout_ns.get()),
            name::RCVLOWAT => number(self.receive_low.get().cast_signed()),
            name::SNDLOWAT => number(1),
            name::PRIORITY => number(self.priority.get()),
            name::MARK => number(self.mark.get().cast_signed()),
            name::PEEK_OFF => number(self.peek_offset.get()),
            name::BSDCOMPAT | name::BUSY_POLL => number(0),
            name::INCOMING_CPU => number(-1),
            name::MAX_PACING_RATE => number(-1),
            switch if SWITCHES.contains(&switch) => number(i32::from(self.is_on(switch))),
            _ => return None,
        })
    }

    /// What an AF_UNIX socket made by accept(2) has from its listener: whether senders are told.
    pub fn inherit_passing(&self, listener: &Self) {
        for option in [name::PASSCRED, name::PASSSEC] {
            self.apply(Change::Switch(option, listener.is_on(option)));
        }
    }

    /// The options that a socket made by accept(2) has from its listener.
    pub fn inherit(&self, listener: &Self) {
        self.switches.set(listener.switches.get());
        self.linger.set(listener.linger.get());
        self.receive_timeout_ns.set(listener.receive_timeout_ns.get());
        self.send_timeout_ns.set(listener.send_timeout_ns.get());
        self.receive_buffer.set(listener.receive_buffer.get());
        self.send_buffer.set(listener.send_buffer.get());
        self.receive_low.set(listener.receive_low.get());
        self.priority.set(listener.priority.get());
        self.mark.set(listener.mark.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(options: &Options, option: u32, value: i32) -> Result {
        options.apply(Options::check(option, &value.to_le_bytes(), false)?);
        Ok(())
    }

    fn get(options: &Options, option: u32) -> i32 {
        int(&options.get(option).unwrap()).unwrap()
    }

    #[test]
    fn buffers_are_doubled_and_bounded() {
        let options = Options::default();
        assert_eq!(get(&options, name::SNDBUF), 212_992);
        for (asked, told) in [(10_000, 20_000), (1, 4608), (i32::MAX, 425_984), (-1, 425_984)] {
            set(&options, name::SNDBUF, asked).unwrap();
            assert_eq!(get(&options, name::SNDBUF), told, "{asked}");
        }
        set(&options, name::RCVBUF, 0).unwrap();
        assert_eq!(get(&options, name::RCVBUF), 2304);
        assert_eq!(set(&options, name::SNDBUFFORCE, 1), Err(Errno::EPERM));
    }

    #[test]
    fn switches_keep_apart() {
        let options = Options::default();
        set(&options, name::REUSEADDR, 5).unwrap();
        set(&options, name::KEEPALIVE, 1).unwrap();
        set(&options, name::REUSEADDR, 0).unwrap();
        assert_eq!((get(&options, name::REUSEADDR), get(&options, name::KEEPALIVE)), (0, 1));
    }

    #[test]
    fn what_cannot_be_set() {
        let check = |option, value: &[u8]| Options::check(option, value, false);
        assert_eq!(check(name::REUSEADDR, &[1]), Err(Errno::EINVAL));
        for option in [name::TYPE, name::ERROR, name::ACCEPTCONN, name::SNDLOWAT, 9999] {
            assert_eq!(check(option, &[0; 4]), Err(Errno::ENOPROTOOPT), "{option}");
        }
        assert_eq!(check(name::PRIORITY, &7i32.to_le_bytes()), Err(Errno::EPERM));
        assert_eq!(check(name::LINGER, &[0; 7]), Err(Errno::EINVAL));
    }

    #[test]
    fn timeouts() {
        let value = |seconds: i64, micros: i64| [seconds.to_le_bytes(), micros.to_le_bytes()].concat();
        assert_eq!(timeout(&value(1, 500_000)), Ok(Some(1_500_000_000)));
        assert_eq!(timeout(&value(0, 0)), Ok(None));
        assert_eq!(timeout(&value(-1, 0)), Ok(Some(0)));
        assert_eq!(timeout(&value(0, 1_000_000)), Err(Errno::EDOM));
        assert_eq!(timeout(&value(i64::MAX, 0)), Ok(None));
        assert_eq!(timeout(&[0; 15]), Err(Errno::EINVAL));
        assert_eq!(timeval(Some(1_500_000_000)), value(1, 500_000));
    }
}
