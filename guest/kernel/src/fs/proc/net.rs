//! /proc/PID/net: the files that programs open to see whether there is a network.
//!
//! AF_UNIX sockets are listed. Those of other families are served by the VMM in the pod's network namespace, so **nothing is listed** of them but the loopback interface.

use super::{TextNode, static_text};
use crate::fs::device::hang;
use crate::fs::node::{Kind, Node, S_IFREG};
use alloc::boxed::Box;
use alloc::rc::Rc;

const FILES: &[(&str, &str)] = &[
    ("arp", "IP address       HW type     Flags       HW address            Mask     Device\n"),
    (
        "dev",
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
         lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n",
    ),
    ("if_inet6", "00000000000000000000000000000001 01 80 10 80       lo\n"),
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
        "route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       \n",
    ),
    (
        "sockstat",
        "sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 0 mem 0\nUDP: inuse 0 mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\nFRAG: inuse 0 memory 0\n",
    ),
    (
        "tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n",
    ),
    (
        "tcp6",
        "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
    ),
    (
        "udp",
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops            \n",
    ),
    (
        "udp6",
        "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n",
    ),
];

/// Hang the files into a process' directory `net`.
pub(super) fn fill(directory: &Rc<Node>) {
    for (name, text) in FILES {
        hang(directory, name, &static_text(directory.fs(), 0o444, text));
    }
    let unix = TextNode {
        make: |source| Ok(source.processes.unix_sockets()),
        shared: None,
        pid: 0,
        tid: 0,
        setting: None,
    };
    let kind = Kind::Generated(Box::new(unix));
    hang(directory, "unix", &Node::system(directory.fs(), S_IFREG | 0o444, kind));
}
