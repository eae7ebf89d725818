//! /proc/PID/net: the files that programs open to see whether there is a network.
//!
//! The guest's own sockets are listed, and the interfaces of the pod's network namespace. **Not** supported: counters, IPv6 routes, neighbours, and what others in the pod have open.

use super::text::Maker;
use super::{TextNode, static_text};
use crate::fs::device::hang;
use crate::fs::node::{Kind, Node, S_IFREG};
use alloc::boxed::Box;
use alloc::rc::Rc;

const FILES: &[(&str, &str)] = &[
    ("arp", "IP address       HW type     Flags       HW address            Mask     Device\n"),
    ("packet", "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n"),
    (
        "protocols",
        "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n",
    ),
    (
        "raw",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
    ),
    (
        "sockstat",
        "sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n",
    ),
];

const DEV: &str = "Inter-|   Receive                                                |  Transmit\n \
    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";
const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n";
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n";
const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops            \n";
const UDP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";

/// Files that are made when they are read.
const MADE: &[(&str, Maker)] = &[
    ("unix", |source| Ok(source.processes.unix_sockets())),
    ("dev", |source| Ok([DEV, &source.env.uplink.devices()].concat().into_bytes())),
    ("if_inet6", |source| Ok(source.env.uplink.addresses().into_bytes())),
    ("route", |source| Ok([ROUTE.as_bytes(), &source.env.uplink.routes().unwrap_or_default()].concat())),
    ("tcp", |source| Ok([TCP, &source.env.uplink.table(2, false)].concat().into_bytes())),
    ("tcp6", |source| Ok([TCP6, &source.env.uplink.table(10, false)].concat().into_bytes())),
    ("udp", |source| Ok([UDP, &source.env.uplink.table(2, true)].concat().into_bytes())),
    ("udp6", |source| Ok([UDP6, &source.env.uplink.table(10, true)].concat().into_bytes())),
];

/// Hang the files into a process' directory `net`.
pub(super) fn fill(directory: &Rc<Node>) {
    for (name, text) in FILES {
        hang(directory, name, &static_text(directory.fs(), 0o444, text));
    }
    for (name, make) in MADE {
        let text = TextNode { make: *make, shared: None, pid: 0, tid: 0, setting: None };
        let kind = Kind::Generated(Box::new(text));
        hang(directory, name, &Node::system(directory.fs(), S_IFREG | 0o444, kind));
    }
}
