//! A small writer of EROFS images, and tests of the reader on its output, on mkfs.erofs's, and on damaged bytes.

use super::*;
use crate::mem::frames::testing::frames;
use proptest::prelude::*;
use seuss_abi::layout::PRIVATE_GPA;
use std::collections::BTreeMap;

const BLOCK: usize = 4096;

/// An inode to write.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) mode: u32,
    pub(crate) ids: (u32, u32),
    pub(crate) device: u32,
    pub(crate) xattrs: Vec<(u8, &'static str, &'static str)>,
    pub(crate) data: Vec<u8>,
    pub(crate) children: BTreeMap<Vec<u8>, Item>,
    /// Items with the same key other than 0 are hard links to one inode.
    pub(crate) link: u32,
}

impl Item {
    fn new(mode: u32, data: &[u8]) -> Self {
        Self {
            mode,
            ids: (0, 0),
            device: 0,
            xattrs: vec![],
            data: data.to_vec(),
            children: BTreeMap::new(),
            link: 0,
        }
    }

    pub(crate) fn file(data: &[u8]) -> Self {
        Self::new(0o100_644, data)
    }

    pub(crate) fn link(target: &str) -> Self {
        Self::new(0o120_777, target.as_bytes())
    }

    pub(crate) fn whiteout() -> Self {
        Self::new(0o020_000, &[])
    }

    pub(crate) fn dir(children: Vec<(&str, Item)>) -> Self {
        let children = children.into_iter().map(|(name, item)| (name.as_bytes().to_vec(), item)).collect();
        Self { children, ..Self::new(0o040_755, &[]) }
    }

    pub(crate) fn opaque(self) -> Self {
        Self { xattrs: vec![(4, "overlay.opaque", "y")], ..self }
    }

    pub(crate) fn hard(self, link: u32) -> Self {
        Self { link, ..self }
    }

    pub(crate) fn mode(self, mode: u32) -> Self {
        Self { mode: self.mode & 0o170_000 | mode, ..self }
    }

    pub(crate) fn owned(self, uid: u32, gid: u32) -> Self {
        Self { ids: (uid, gid), ..self }
    }
}

struct Writer {
    meta: Vec<u8>,
    data: Vec<u8>,
    data_block: u32,
    links: BTreeMap<u32, (u64, u32)>,
}

fn xattr_bytes(item: &Item) -> Vec<u8> {
    if item.xattrs.is_empty() {
        return vec![];
    }
    let mut out = vec![0; 12];
    for (index, name, value) in &item.xattrs {
        out.extend([name.len() as u8, *index]);
        out.extend((value.len() as u16).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(value.as_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

fn directory_bytes(entries: &[(Vec<u8>, u64, u8)]) -> Vec<u8> {
    let mut out = vec![];
    let mut rest = entries;
    while !rest.is_empty() {
        let mut count = 0;
        let mut size = 0;
        while count < rest.len() && size + 12 + rest[count].0.len() <= BLOCK {
            size += 12 + rest[count].0.len();
            count += 1;
        }
        let (block, more) = rest.split_at(count);
        let start = out.len();
        let mut name_at = count * 12;
        for (name, nid, kind) in block {
            out.extend(nid.to_le_bytes());
            out.extend((name_at as u16).to_le_bytes());
            out.extend([*kind, 0]);
            name_at += name.len();
        }
        block.iter().for_each(|(name, ..)| out.extend(name));
        if !more.is_empty() {
            out.resize(start + BLOCK, 0);
        }
        rest = more;
    }
    out
}

impl Writer {
    fn place(&mut self, bytes: usize) -> u64 {
        let at = self.meta.len().next_multiple_of(32);
        self.meta.resize(at + bytes, 0);
        (at / 32) as u64
    }

    fn store(&mut self, data: &[u8]) -> u32 {
        let block = self.data_block + (self.data.len() / BLOCK) as u32;
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn write(&mut self, item: &Item, parent: Option<u64>, counts: &BTreeMap<u32, u32>) -> u64 {
        if let Some((nid, _)) = self.links.get(&item.link) {
            return *nid;
        }
        let xattrs = xattr_bytes(item);
        let nid = self.place(64 + xattrs.len());
        let mut nlink = 1;
        if item.link != 0 {
            nlink = counts[&item.link];
            self.links.insert(item.link, (nid, nlink));
        }
        let data = if item.mode & 0o170_000 == 0o040_000 {
            let kind = |mode: u32| [0, 5, 3, 0, 2, 0, 4, 0, 1, 0, 7, 0, 6][(mode >> 12) as usize];
            let mut entries = vec![(b".".to_vec(), nid, 2), (b"..".to_vec(), parent.unwrap_or(nid), 2)];
            nlink = 2;
            for (name, child) in &item.children {
                nlink += u32::from(child.mode & 0o170_000 == 0o040_000);
                entries.push((name.clone(), self.write(child, Some(nid), counts), kind(child.mode)));
            }
            entries.sort();
            directory_bytes(&entries)
        } else {
            item.data.clone()
        };
        let word = if data.is_empty() { item.device } else { self.store(&data) };
        let at = nid as usize * 32;
        let icount = if xattrs.is_empty() { 0 } else { (xattrs.len() - 12) / 4 + 1 } as u16;
        let mut raw = [0u8; 64];
        raw[0] = 1;
        raw[2..4].copy_from_slice(&icount.to_le_bytes());
        raw[4..6].copy_from_slice(&(item.mode as u16).to_le_bytes());
        raw[8..16].copy_from_slice(&(data.len() as u64).to_le_bytes());
        raw[16..20].copy_from_slice(&word.to_le_bytes());
        raw[24..28].copy_from_slice(&item.ids.0.to_le_bytes());
        raw[28..32].copy_from_slice(&item.ids.1.to_le_bytes());
        raw[32..40].copy_from_slice(&1_600_000_000u64.to_le_bytes());
        raw[40..44].copy_from_slice(&123u32.to_le_bytes());
        raw[44..48].copy_from_slice(&nlink.to_le_bytes());
        self.meta[at..at + 64].copy_from_slice(&raw);
        self.meta[at + 64..at + 64 + xattrs.len()].copy_from_slice(&xattrs);
        nid
    }
}

fn count_links(item: &Item, counts: &mut BTreeMap<u32, u32>) {
    *counts.entry(item.link).or_default() += 1;
    item.children.values().for_each(|child| count_links(child, counts));
}

/// The bytes of an image.
pub(crate) fn image_bytes(root: &Item) -> Vec<u8> {
    const META_BLOCKS: u32 = 16;
    let mut counts = BTreeMap::new();
    count_links(root, &mut counts);
    let mut writer =
        Writer { meta: vec![], data: vec![], data_block: 1 + META_BLOCKS, links: BTreeMap::new() };
    // Keep inode 0 free: some readers take nid 0 for none.
    writer.meta.resize(32, 0);
    let nid = writer.write(root, None, &counts);
    assert!(writer.meta.len() <= META_BLOCKS as usize * BLOCK, "test image has too many inodes");
    let mut out = vec![0; BLOCK];
    out[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
    out[1036] = 12;
    out[1038..1040].copy_from_slice(&(nid as u16).to_le_bytes());
    out[1064..1068].copy_from_slice(&1u32.to_le_bytes());
    out.extend(&writer.meta);
    out.resize((1 + META_BLOCKS as usize) * BLOCK, 0);
    out.extend(&writer.data);
    out
}

/// Put images into the reserved part of fresh frames with `free` pages behind them.
pub(crate) fn load(blobs: &[Vec<u8>], free: usize) -> (Frames, Vec<ImageWindow>) {
    let pages: usize = blobs.iter().map(|blob| blob.len().div_ceil(BLOCK)).sum();
    let frames = frames(pages + free, pages);
    let mut gpa = PRIVATE_GPA;
    let windows = blobs
        .iter()
        .map(|blob| {
            frames.write(gpa, blob);
            let window = ImageWindow { gpa, len_bytes: (blob.len() as u64).next_multiple_of(4096) };
            gpa += window.len_bytes;
            window
        })
        .collect();
    (frames, windows)
}

fn sample() -> Item {
    let many = (0..700).map(|n| (format!("entry-{n:05}"), Item::file(&[]))).collect::<Vec<_>>();
    let many = many.iter().map(|(name, item)| (name.as_str(), item.clone())).take(400).collect();
    Item::dir(vec![
        ("bin", Item::link("usr/bin")),
        ("big", Item::file(&[7; 10_000])),
        ("etc", Item::dir(vec![("hosts", Item::file(b"127.0.0.1 localhost\n").mode(0o600).owned(3, 4))])),
        ("many", Item::dir(many)),
        ("gone", Item::whiteout()),
        ("new", Item::dir(vec![]).opaque()),
        ("a", Item::file(b"same").hard(1)),
        ("b", Item::file(b"same").hard(1)),
    ])
}

fn open(bytes: Vec<u8>) -> core::result::Result<Image, OpenError> {
    let (frames, windows) = load(&[bytes], 1);
    Image::open(&frames, windows[0])
}

/// Walk everything; errors are fine, panics and endless loops are not.
fn walk_all(image: &Image) {
    let mut seen = std::collections::BTreeSet::new();
    let mut left = vec![image.root()];
    while let Some(nid) = left.pop() {
        if !seen.insert(nid) || seen.len() > 2000 {
            continue;
        }
        let Ok(inode) = image.inode(nid) else { continue };
        let mut bytes = [0; 300];
        let _ = image.read(&inode, inode.size / 2, &mut bytes);
        let _ = image.page(&inode, inode.size / 4096);
        let _ = image.xattrs(&inode, &mut |_, _| {});
        let _ = image.lookup(&inode, b"entry-00100");
        let _ = image.entries(&inode, &mut |_, entry| {
            left.push(entry.nid);
            Ok(())
        });
    }
}

#[test]
fn names_data_and_attributes_are_found() {
    let image = open(image_bytes(&sample())).unwrap();
    let root = image.inode(image.root()).unwrap();
    let get = |directory: &Inode, name: &str| {
        let entry = image.lookup(directory, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("no {name}"));
        image.inode(entry.nid).unwrap()
    };
    let hosts = get(&get(&root, "etc"), "hosts");
    assert_eq!((hosts.mode, hosts.uid, hosts.gid, hosts.nlink), (0o100_600, 3, 4, 1));
    assert_eq!((hosts.mtime_s, hosts.mtime_ns), (1_600_000_000, 123));
    let mut bytes = [0; 64];
    let count = image.read(&hosts, 4, &mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"0.0.1 localhost\n");
    let many = get(&root, "many");
    for n in 0..400 {
        get(&many, &format!("entry-{n:05}"));
    }
    for missing in ["", "entry-00400", "entry-", "zzz", "a"] {
        assert_eq!(image.lookup(&many, missing.as_bytes()), Ok(None), "{missing}");
    }
    let mut names = 0;
    image
        .entries(&many, &mut |_, _| {
            names += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(names, 400);
    assert!(get(&root, "gone").is_whiteout());
    assert_eq!(image.xattr(&get(&root, "new"), b"trusted.overlay.opaque"), Ok(Some(b"y".to_vec())));
    assert_eq!(get(&root, "a"), get(&root, "b"));
    assert_eq!(get(&root, "a").nlink, 2);
}

#[test]
fn pages_are_where_the_data_is() {
    let image = open(image_bytes(&sample())).unwrap();
    let root = image.inode(image.root()).unwrap();
    let big = image.inode(image.lookup(&root, b"big").unwrap().unwrap().nid).unwrap();
    let mut byte = [0];
    for index in 0..3 {
        image.frames.read(image.page(&big, index).unwrap(), &mut byte);
        assert_eq!(byte, [7]);
    }
    assert_eq!(image.page(&big, 3), None);
    assert_eq!(image.page(&big, u64::MAX), None);
}

#[test]
fn foreign_windows_are_refused_with_a_reason() {
    let good = image_bytes(&sample());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        open(bytes).err()
    };
    assert!(matches!(with(1024, 0), Some(OpenError::Magic(_))));
    assert_eq!(with(1024 + 12, 13), Some(OpenError::BlockSize(13)));
    assert_eq!(with(1024 + 80, 0x12), Some(OpenError::Features(0x12)));
    assert_eq!(with(1024 + 86, 1), Some(OpenError::Devices(1)));
    assert_eq!(with(1024 + 15, 0xff), Some(OpenError::Root(0xff01)));
    assert_eq!(with(1024 + 80, 1), None);
}

#[test]
fn images_of_mkfs_erofs_are_read() {
    let tree = std::env::temp_dir().join(format!("seuss-erofs-{}", std::process::id()));
    let blob = tree.with_extension("img");
    std::fs::create_dir_all(tree.join("d/e")).unwrap();
    let content: Vec<u8> = (0..9000u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(tree.join("d/file"), &content).unwrap();
    std::fs::write(tree.join("d/small"), b"inline tail").unwrap();
    std::os::unix::fs::symlink("../d/file", tree.join("d/e/link")).unwrap();
    for n in 0..300 {
        std::fs::write(tree.join(format!("d/e/name-{n}")), []).unwrap();
    }
    let done = std::process::Command::new("mkfs.erofs").arg("--quiet").arg(&blob).arg(&tree).output();
    let bytes = std::fs::read(&blob);
    let _ = std::fs::remove_dir_all(&tree);
    let _ = std::fs::remove_file(&blob);
    let (Ok(_), Ok(mut bytes)) = (done, bytes) else {
        println!("skipped: there is no mkfs.erofs");
        return;
    };
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    let image = open(bytes).unwrap();
    let root = image.inode(image.root()).unwrap();
    let get = |directory: &Inode, name: &str| {
        image.inode(image.lookup(directory, name.as_bytes()).unwrap().unwrap().nid).unwrap()
    };
    let directory = get(&root, "d");
    for (name, want) in [("file", content.as_slice()), ("small", b"inline tail")] {
        let inode = get(&directory, name);
        let mut bytes = vec![0; want.len() + 10];
        assert_eq!(image.read(&inode, 0, &mut bytes), Ok(want.len()));
        assert_eq!(&bytes[..want.len()], want);
    }
    let link = get(&get(&directory, "e"), "link");
    let mut target = [0; 9];
    assert_eq!(image.read(&link, 0, &mut target), Ok(9));
    assert_eq!(&target, b"../d/file");
    let mut names = 0;
    image
        .entries(&get(&directory, "e"), &mut |_, _| {
            names += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(names, 301);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_images_are_errors_not_panics(
        damage in proptest::collection::vec((0usize..60_000, any::<u8>()), 1..200),
        cut in 0usize..20,
    ) {
        let mut bytes = image_bytes(&sample());
        bytes.truncate(bytes.len() - cut.min(bytes.len() / BLOCK - 1) * BLOCK);
        // Most of the damage into inodes and directories.
        for (at, byte) in damage {
            let at = 1024 + at % (bytes.len() - 1024);
            bytes[at] = byte;
        }
        bytes[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[1036] = 12;
        if let Ok(image) = open(bytes) {
            walk_all(&image);
        }
    }
}
