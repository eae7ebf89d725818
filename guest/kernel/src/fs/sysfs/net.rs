//! /sys/class/net: the interfaces of the pod's network namespace, as the VMM lists them when somebody looks.
//!
//! **Not** supported: statistics, and symbolic links into /sys/devices: each interface is a directory here.

use crate::errno::{Errno, Result};
use crate::fs::directory::{DirEntry, Directory, Provider};
use crate::fs::env::FileSystem;
use crate::fs::file::FileOps;
use crate::fs::node::{Generated, Kind, Node, S_IFDIR, S_IFREG, Seed};
use crate::fs::proc::{ProcessInfo, open_text};
use crate::fs::walk::Context;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use seuss_abi::net::Interface;

const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
/// IFF_RUNNING, IFF_LOWER_UP, IFF_DORMANT and IFF_ECHO are no part of the file `flags` (net-sysfs.c shows dev->flags).
const IFF_VOLATILE: u32 = 0x7_0040;

/// Shows one property of an interface.
type Show = fn(&Interface) -> String;

/// By name.
const ATTRIBUTES: &[(&str, Show)] = &[
    ("addr_len", |_| "6".into()),
    ("address", |interface| {
        let bytes = interface.hardware[..6].iter().map(|byte| format!("{byte:02x}"));
        bytes.collect::<Vec<_>>().join(":")
    }),
    ("broadcast", |interface| {
        if is_loopback(interface) { "00:00:00:00:00:00" } else { "ff:ff:ff:ff:ff:ff" }.into()
    }),
    ("carrier", |interface| format!("{}", interface.flags & IFF_UP)),
    ("flags", |interface| format!("{:#x}", interface.flags & !IFF_VOLATILE)),
    ("ifindex", |interface| format!("{}", interface.index)),
    ("mtu", |interface| format!("{}", interface.mtu)),
    ("operstate", |interface| {
        match (interface.flags & IFF_UP != 0, is_loopback(interface)) {
            (true, true) => "unknown",
            (true, false) => "up",
            (false, _) => "down",
        }
        .into()
    }),
    ("tx_queue_len", |_| "1000".into()),
    ("type", |interface| if is_loopback(interface) { "772" } else { "1" }.into()),
];

fn is_loopback(interface: &Interface) -> bool {
    interface.flags & IFF_LOOPBACK != 0
}

fn name_of(interface: &Interface) -> &[u8] {
    interface.name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The interface for which `is_it` holds.
fn find(fs: &FileSystem, is_it: impl Fn(&Interface) -> bool) -> Result<Interface> {
    fs.env.uplink.interfaces()?.into_iter().find(is_it).ok_or(Errno::ENOENT)
}

fn ino_of(index: u32, attribute: usize) -> u64 {
    1 << 40 | u64::from(index) << 8 | attribute as u64
}

/// /sys/class/net.
pub(super) fn directory(fs: &Rc<FileSystem>) -> Rc<Node> {
    Node::system(fs, S_IFDIR | 0o755, Kind::Directory(Directory::provided(Box::new(Interfaces))))
}

struct Interfaces;

impl Provider for Interfaces {
    fn lookup(&self, directory: &Rc<Node>, name: &[u8], _processes: &dyn ProcessInfo) -> Result<Rc<Node>> {
        let index = find(directory.fs(), |interface| name_of(interface) == name)?.index;
        let kind = Kind::Directory(Directory::provided(Box::new(Attributes { index })));
        Ok(child(directory, name, S_IFDIR | 0o755, ino_of(index, 0), kind))
    }

    fn list(&self, directory: &Rc<Node>, _processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        let mut entries: Vec<DirEntry> = Vec::new();
        // One entry for each address.
        for interface in directory.fs().env.uplink.interfaces().unwrap_or_default() {
            let ino = ino_of(interface.index, 0);
            if entries.iter().all(|known| known.ino != ino) {
                entries.push(DirEntry { name: name_of(&interface).into(), ino, kind: (S_IFDIR >> 12) as u8 });
            }
        }
        Ok(entries)
    }
}

struct Attributes {
    index: u32,
}

impl Provider for Attributes {
    fn lookup(&self, directory: &Rc<Node>, name: &[u8], _processes: &dyn ProcessInfo) -> Result<Rc<Node>> {
        let place = ATTRIBUTES.binary_search_by(|(known, _)| known.as_bytes().cmp(name));
        let place = place.map_err(|_| Errno::ENOENT)?;
        let kind = Kind::Generated(Box::new(Attribute { index: self.index, show: ATTRIBUTES[place].1 }));
        Ok(child(directory, name, S_IFREG | 0o444, ino_of(self.index, place + 1), kind))
    }

    fn list(&self, _directory: &Rc<Node>, _processes: &dyn ProcessInfo) -> Result<Vec<DirEntry>> {
        let entry = |(place, (name, _)): (usize, &(&str, Show))| DirEntry {
            name: name.as_bytes().into(),
            ino: ino_of(self.index, place + 1),
            kind: (S_IFREG >> 12) as u8,
        };
        Ok(ATTRIBUTES.iter().enumerate().map(entry).collect())
    }
}

struct Attribute {
    index: u32,
    show: Show,
}

impl Generated for Attribute {
    fn open(&self, node: &Rc<Node>, flags: u32, _context: &Context<'_>) -> Result<Rc<dyn FileOps>> {
        let interface = find(node.fs(), |interface| interface.index == self.index)?;
        open_text(node, flags, ((self.show)(&interface) + "\n").into_bytes())
    }
}

fn child(directory: &Rc<Node>, name: &[u8], mode: u32, ino: u64, kind: Kind) -> Rc<Node> {
    let nlink = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
    let seed = Seed { ino, mode, uid: 0, gid: 0, nlink, time: directory.fs().env.now() };
    let node = Node::new(directory.fs(), &seed, kind);
    node.set_location(directory, name.into());
    node
}

#[cfg(test)]
mod tests {
    #[test]
    fn attributes_are_in_order() {
        assert!(super::ATTRIBUTES.is_sorted_by_key(|(name, _)| *name));
    }
}
