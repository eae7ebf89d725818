//! The tables of sockets and interfaces as /proc/net shows them (proc_pid_net(5); the kernel's get_tcp4_sock, udp4_format_sock).

use super::{Connecting, Endpoint, Uplink};
use alloc::format;
use alloc::string::String;

const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LISTEN: u32 = 10;

/// An address in hexadecimal: words in the byte order of the machine, and the port.
fn hexadecimal(address: &[u8], family: u16) -> String {
    let (from, len) = if family == 2 { (4, 4) } else { (8, 16) };
    let mut host = [0; 16];
    if let Some(bytes) = address.get(from..from + len) {
        host[..len].copy_from_slice(bytes);
    }
    let port = address.get(2..4).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    let mut text = String::new();
    for word in host[..len].chunks_exact(4) {
        text += &format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    format!("{text}:{port:04X}")
}

fn state(endpoint: &Endpoint) -> u32 {
    match endpoint.connecting() {
        _ if endpoint.is_listening() => LISTEN,
        Connecting::UnderWay => SYN_SENT,
        Connecting::Done if endpoint.is_over() => CLOSE,
        Connecting::Done if endpoint.has_ended() => CLOSE_WAIT,
        Connecting::Done => ESTABLISHED,
        Connecting::Not => CLOSE,
    }
}

impl Uplink {
    /// The lines of one of the tables tcp, tcp6, udp, udp6, without its head.
    #[must_use]
    pub fn table(&self, family: u16, datagram: bool) -> String {
        let mut text = String::new();
        let mut line = 0;
        for endpoint in self.table.borrow().iter().flatten() {
            let state = state(endpoint);
            let unknown = endpoint.local.borrow().is_empty() || (!datagram && state == CLOSE);
            if endpoint.family != family || endpoint.is_datagram() != datagram || unknown {
                continue;
            }
            let local = hexadecimal(&endpoint.local.borrow(), family);
            let peer = hexadecimal(&endpoint.peer_name().unwrap_or_default(), family);
            let unread = if endpoint.is_listening() { endpoint.waiting() } else { endpoint.unread() };
            let (uid, ino) = endpoint.identity();
            let rest = if datagram { "2 0000000000000000 0" } else { "1 0000000000000000 100 0 0 10 0" };
            text += &format!(
                "{line:4}: {local} {peer} {state:02X} {:08X}:{unread:08X} 00:00000000 00000000 {uid:5}        0 {ino} {rest}\n",
                endpoint.in_flight()
            );
            line += 1;
        }
        text
    }

    /// The lines of /proc/net/dev, one per interface, without its head. The guest does not know the counters.
    #[must_use]
    pub fn devices(&self) -> String {
        let mut text = String::new();
        let mut last = 0;
        for interface in self.interfaces().unwrap_or_default() {
            if core::mem::replace(&mut last, interface.index) != interface.index {
                let name = interface.name.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = String::from_utf8_lossy(name);
                text += &format!(
                    "{name:>6}:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n"
                );
            }
        }
        text
    }

    /// The lines of /proc/net/if_inet6.
    #[must_use]
    pub fn addresses(&self) -> String {
        let mut text = String::new();
        for interface in self.interfaces().unwrap_or_default() {
            let address = &interface.address;
            if address[0] != 10 {
                continue;
            }
            let host: String = address[8..24].iter().map(|byte| format!("{byte:02x}")).collect();
            // RFC 4007's scopes as Linux writes them: host, link, global.
            let scope = match address[8..10] {
                [0, 0] => 0x10,
                [0xfe, low] if low & 0xc0 == 0x80 => 0x20,
                _ => 0,
            };
            let name = interface.name.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            let (index, prefix) = (interface.index, interface.prefix);
            text += &format!("{host} {index:02x} {prefix:02x} {scope:02x} 80 {name:>8}\n");
        }
        text
    }
}
