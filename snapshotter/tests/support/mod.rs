//! A plain model of a file system tree, and ways to get it from a host directory, an image, and into a tar or directory.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{self as rfs, CWD, FileType, MemfdFlags, Mode};
use seuss_snapshotter::erofs::{Reader, format};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Dir,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub kind: Kind,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The smallest path of the same inode, for anything but directories.
    pub same_as: Vec<u8>,
    pub nlink: u32,
}

impl Item {
    pub fn new(kind: Kind, mode: u16) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (1_700_000_000, 0),
            xattrs: BTreeMap::new(),
            same_as: Vec::new(),
            nlink: 0,
        }
    }
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.insert(name.into(), value.into());
        self
    }
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }
    pub fn time(mut self, seconds: i64, nanoseconds: u32) -> Self {
        self.mtime = (seconds, nanoseconds);
        self
    }
}

/// Paths relative to the root, which is the empty path.
pub type Model = BTreeMap<Vec<u8>, Item>;

/// Fills in what follows from the rest: `same_as` of unlinked items, link counts.
pub fn complete(mut model: Model) -> Model {
    let paths: Vec<Vec<u8>> = model.keys().cloned().collect();
    let mut links: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for path in &paths {
        let item = model.get_mut(path).unwrap();
        if item.kind == Kind::Dir || item.same_as.is_empty() {
            item.same_as = path.clone();
        }
        if item.kind == Kind::Dir {
            *links.entry(path.clone()).or_default() += 2;
            if !path.is_empty() {
                *links.entry(parent(path)).or_default() += 1;
            }
        } else {
            *links.entry(item.same_as.clone()).or_default() += 1;
        }
    }
    for item in model.values_mut() {
        item.nlink = links[&item.same_as];
    }
    model
}

pub fn parent(path: &[u8]) -> Vec<u8> {
    path.iter().rposition(|b| *b == b'/').map_or(Vec::new(), |slash| path[..slash].to_vec())
}

pub fn memfd() -> File {
    File::from(rfs::memfd_create("seuss-test", MemfdFlags::CLOEXEC).unwrap())
}

/// Reads a whole image back, by the host-side reader.
pub fn of_image(image: &File) -> Model {
    let reader = Reader::open(image, image.metadata().unwrap().len()).unwrap();
    let mut smallest: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut model = Model::new();
    for (path, inode) in reader.walk().unwrap() {
        let kind = match inode.mode & format::S_IFMT {
            format::S_IFDIR => Kind::Dir,
            format::S_IFREG => {
                let mut data = vec![0; inode.size_bytes as usize];
                let mut at = 0;
                while at < data.len() {
                    let n = reader.read_at(&inode, at as u64, &mut data[at..]).unwrap();
                    assert_ne!(n, 0);
                    at += n;
                }
                Kind::File(data)
            }
            format::S_IFLNK => Kind::Symlink(reader.read_link(&inode).unwrap()),
            format::S_IFCHR => Kind::Char(inode.device.0, inode.device.1),
            format::S_IFBLK => Kind::Block(inode.device.0, inode.device.1),
            format::S_IFIFO => Kind::Fifo,
            _ => Kind::Socket,
        };
        // The binary search must find what the walk found.
        if !path.is_empty() {
            let mut found = reader.inode(reader.root_nid()).unwrap();
            for name in path.split(|b| *b == b'/') {
                found = reader.lookup(&found, name).unwrap().expect("lookup finds what read_dir lists");
            }
            assert_eq!(found, inode);
        }
        let xattrs = reader.xattrs(&inode).unwrap();
        let same_as = smallest.entry(inode.nid).or_insert_with(|| path.clone()).clone();
        model.insert(
            path.clone(),
            Item {
                kind,
                mode: inode.mode & 0o7777,
                uid: inode.uid,
                gid: inode.gid,
                mtime: (inode.mtime.seconds, inode.mtime.nanoseconds),
                xattrs: xattrs.iter().map(|x| (x.name(), x.value().to_vec())).collect(),
                same_as,
                nlink: inode.nlink,
            },
        );
    }
    model
}

/// Reads a directory of the host.
pub fn of_dir(root: &Path) -> Model {
    let mut smallest: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    let mut next = 0;
    while next < paths.len() {
        let path = root.join(&paths[next]);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                let name = entry.unwrap().file_name();
                paths.push(paths[next].join(name));
            }
        }
        next += 1;
    }
    let mut paths: Vec<Vec<u8>> = paths.into_iter().map(|p| p.into_os_string().into_vec()).collect();
    paths.sort();
    let mut model = Model::new();
    for relative in paths {
        let path = root.join(OsStr::from_bytes(&relative));
        let path = if relative.is_empty() { root.to_path_buf() } else { path };
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = if meta.is_dir() {
            Kind::Dir
        } else if meta.is_file() {
            Kind::File(fs::read(&path).unwrap())
        } else if meta.is_symlink() {
            Kind::Symlink(fs::read_link(&path).unwrap().into_os_string().into_vec())
        } else {
            let (major, minor) = (rfs::major(meta.rdev()), rfs::minor(meta.rdev()));
            let kind = meta.file_type();
            match () {
                () if kind.is_char_device() => Kind::Char(major, minor),
                () if kind.is_block_device() => Kind::Block(major, minor),
                () if kind.is_fifo() => Kind::Fifo,
                () => Kind::Socket,
            }
        };
        let same_as = if meta.is_dir() {
            relative.clone()
        } else {
            smallest.entry(meta.ino()).or_insert_with(|| relative.clone()).clone()
        };
        model.insert(
            relative,
            Item {
                kind,
                mode: (meta.mode() & 0o7777) as u16,
                uid: meta.uid(),
                gid: meta.gid(),
                mtime: (meta.mtime(), meta.mtime_nsec() as u32),
                xattrs: host_xattrs(&path),
                same_as,
                nlink: meta.nlink() as u32,
            },
        );
    }
    model
}

fn host_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let n = match rfs::llistxattr(path, names.as_mut_slice()) {
        Ok(n) => n,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(e) => panic!("llistxattr {}: {e}", path.display()),
    };
    let mut xattrs = BTreeMap::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 65536];
        let n = rfs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        xattrs.insert(name.to_vec(), value[..n].to_vec());
    }
    xattrs
}

/// Writes the model below `root`. False, with a message, when this user or file system cannot do it.
pub fn to_dir(model: &Model, root: &Path) -> bool {
    for (relative, item) in model {
        let path =
            if relative.is_empty() { root.to_path_buf() } else { root.join(OsStr::from_bytes(relative)) };
        if item.kind != Kind::Dir && item.same_as != *relative {
            fs::hard_link(root.join(OsStr::from_bytes(&item.same_as)), &path).unwrap();
            continue;
        }
        let node = |kind, device| rfs::mknodat(CWD, &path, kind, Mode::from(0o600), device);
        let made = match &item.kind {
            Kind::Dir if relative.is_empty() => Ok(()),
            Kind::Dir => rfs::mkdirat(CWD, &path, Mode::from(0o700)),
            Kind::File(data) => {
                fs::write(&path, data).map_err(|e| rustix::io::Errno::from_io_error(&e).unwrap())
            }
            Kind::Symlink(target) => rfs::symlinkat(target.as_slice(), CWD, &path),
            Kind::Char(major, minor) => node(FileType::CharacterDevice, rfs::makedev(*major, *minor)),
            Kind::Block(major, minor) => node(FileType::BlockDevice, rfs::makedev(*major, *minor)),
            Kind::Fifo => node(FileType::Fifo, 0),
            Kind::Socket => node(FileType::Socket, 0),
        };
        if let Err(e) = made {
            println!("skipped: cannot make {:?}: {e}", item.kind);
            return false;
        }
    }
    for (relative, item) in model.iter().rev() {
        if item.kind != Kind::Dir && item.same_as != *relative {
            continue;
        }
        let path =
            if relative.is_empty() { root.to_path_buf() } else { root.join(OsStr::from_bytes(relative)) };
        for (name, value) in &item.xattrs {
            if let Err(e) = rfs::lsetxattr(&path, name.as_slice(), value, rfs::XattrFlags::empty()) {
                println!("skipped: cannot set {}: {e}", String::from_utf8_lossy(name));
                return false;
            }
        }
        if let Err(e) = std::os::unix::fs::lchown(&path, Some(item.uid), Some(item.gid)) {
            println!("skipped: cannot chown: {e}");
            return false;
        }
        // chown drops file capabilities and set-id bits.
        for (name, value) in &item.xattrs {
            rfs::lsetxattr(&path, name.as_slice(), value, rfs::XattrFlags::empty()).unwrap();
        }
        if !matches!(item.kind, Kind::Symlink(_)) {
            rfs::chmodat(CWD, &path, Mode::from(u32::from(item.mode)), rfs::AtFlags::empty()).unwrap();
        }
        let time = rfs::Timespec { tv_sec: item.mtime.0, tv_nsec: i64::from(item.mtime.1) };
        let times = rfs::Timestamps { last_access: time, last_modification: time };
        rfs::utimensat(CWD, &path, &times, rfs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    true
}

/// The model as an OCI layer tar.
pub fn to_tar(model: &Model) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, item) in model {
        append(&mut tar, path, item);
    }
    tar.into_inner().unwrap()
}

pub fn append(tar: &mut tar::Builder<Vec<u8>>, path: &[u8], item: &Item) {
    let path = if path.is_empty() { &b"./"[..] } else { path };
    let is_link = item.kind != Kind::Dir && !item.same_as.is_empty() && item.same_as != path;
    let (kind, link, data): (_, &[u8], &[u8]) = match &item.kind {
        _ if is_link => (tar::EntryType::Link, &item.same_as, &[]),
        Kind::Dir => (tar::EntryType::Directory, &[], &[]),
        Kind::File(content) => (tar::EntryType::Regular, &[], content),
        Kind::Symlink(target) => (tar::EntryType::Symlink, target, &[]),
        Kind::Char(..) => (tar::EntryType::Char, &[], &[]),
        Kind::Block(..) => (tar::EntryType::Block, &[], &[]),
        Kind::Fifo => (tar::EntryType::Fifo, &[], &[]),
        Kind::Socket => panic!("tar has no sockets"),
    };
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(u32::from(item.mode));
    header.set_uid(u64::from(item.uid));
    header.set_gid(u64::from(item.gid));
    header.set_mtime(item.mtime.0.max(0) as u64);
    header.set_size(data.len() as u64);
    if let Kind::Char(major, minor) | Kind::Block(major, minor) = item.kind {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    }
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in &item.xattrs {
        records.push((format!("SCHILY.xattr.{}", String::from_utf8(name.clone()).unwrap()), value.clone()));
    }
    if item.mtime.1 != 0 || item.mtime.0 < 0 {
        records.push(("mtime".into(), decimal(item.mtime).into_bytes()));
    }
    // The crate's own setters judge names; these tests need them as they are.
    for (field, key, value) in [(0, "path", path), (157, "linkpath", link)] {
        if value.len() <= 100 {
            header.as_mut_bytes()[field..field + value.len()].copy_from_slice(value);
        } else {
            records.push((key.into(), value.to_vec()));
        }
    }
    tar.append_pax_extensions(records.iter().map(|(k, v)| (k.as_str(), v.as_slice()))).unwrap();
    header.set_cksum();
    tar.append(&header, data).unwrap();
}

fn decimal((seconds, nanoseconds): (i64, u32)) -> String {
    if seconds < 0 && nanoseconds > 0 {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
    } else {
        format!("{seconds}.{nanoseconds:09}")
    }
}

/// A tree with one of everything.
pub fn zoo(with_devices: bool) -> Model {
    let mut model = Model::new();
    let mut add = |path: &str, item: Item| {
        model.insert(path.as_bytes().to_vec(), item);
    };
    add("", Item::new(Kind::Dir, 0o755).time(1_600_000_000, 5));
    add("bin", Item::new(Kind::Symlink(b"usr/bin".to_vec()), 0o777));
    add("empty", Item::new(Kind::File(Vec::new()), 0o644));
    add("usr", Item::new(Kind::Dir, 0o755));
    add("usr/bin", Item::new(Kind::Dir, 0o755));
    let ping = Item::new(Kind::File(b"ping".to_vec()), 0o755)
        .xattr("security.capability", b"\x01\x00\x00\x02\x00\x20\x00\x00\0\0\0\0\0\0\0\0\0\0\0\0");
    add("usr/bin/ping", ping);
    add("usr/bin/sudo", Item::new(Kind::File(vec![7; 5000]), 0o4755));
    add("usr/bin/[", Item::new(Kind::File(vec![9; 4096]), 0o755));
    let mut again = Item::new(Kind::File(vec![9; 4096]), 0o755);
    again.same_as = b"usr/bin/[".to_vec();
    add("usr/bin/test", again);
    add("usr/lib", Item::new(Kind::Dir, 0o2755).owner(100_000, 70_000));
    let huge: Vec<u8> = (0..(3 << 20) + 77_u32).map(|i| (i >> 8) as u8).collect();
    add("usr/lib/big.so", Item::new(Kind::File(huge.clone()), 0o644).time(1_234_567_890, 123_456_789));
    add("usr/lib/big2.so", Item::new(Kind::File(huge), 0o644));
    let mut sparse = vec![0; 100_000];
    sparse[50_000] = 1;
    add(
        "usr/lib/sparse",
        Item::new(Kind::File(sparse), 0o644).xattr("user.comment", b"holes").xattr("user.x", b""),
    );
    add("tmp", Item::new(Kind::Dir, 0o1777).xattr("user.dir", b"yes"));
    add("long", Item::new(Kind::Symlink(vec![b'x'; 4000]), 0o777));
    for i in 0..700 {
        add(
            &format!("usr/lib/.file-{i}-{}", "n".repeat(i % 200)),
            Item::new(Kind::File(vec![i as u8; i * 13]), 0o644),
        );
    }
    add("usr/lib/~last", Item::new(Kind::Fifo, 0o600));
    add("usr/lib/!first", Item::new(Kind::Dir, 0o700));
    if with_devices {
        add("dev", Item::new(Kind::Dir, 0o755));
        add("dev/null", Item::new(Kind::Char(1, 3), 0o666));
        add("dev/nvme", Item::new(Kind::Block(259, 70_000), 0o660).owner(0, 6));
    }
    complete(model)
}

/// Runs a program; `None`, with a message, when it is not installed.
pub fn run(program: &str, args: &[&OsStr]) -> Option<(bool, String)> {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(e) => {
            println!("skipped: {program}: {e}");
            None
        }
    }
}
