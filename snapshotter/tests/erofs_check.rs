//! The check names what is wrong. Each case damages a valid image in one place.

mod support;

use std::os::unix::fs::FileExt;

use seuss_snapshotter::erofs::format::super_checksum;
use seuss_snapshotter::erofs::{self, BuildOptions, Reader, check_source};
use support::{Item, Kind, Model, complete, memfd, to_tar};

struct Image {
    bytes: Vec<u8>,
    meta: usize,
}

impl Image {
    fn new() -> Self {
        let mut model = Model::new();
        let mut add = |path: &str, item| model.insert(path.into(), item);
        add("", Item::new(Kind::Dir, 0o755));
        add("dir", Item::new(Kind::Dir, 0o755));
        add("dir/sub", Item::new(Kind::Dir, 0o755));
        add("dir/file", Item::new(Kind::File(b"hello".to_vec()), 0o644).xattr("user.key", b"value"));
        add("link", Item::new(Kind::Symlink(b"target".to_vec()), 0o777));
        let image = memfd();
        let tar = to_tar(&complete(model));
        let report = erofs::build_from_tar_layer(&tar[..], &image, &BuildOptions::default()).unwrap();
        let mut bytes = vec![0; report.len_bytes as usize];
        image.read_exact_at(&mut bytes, 0).unwrap();
        let meta = u32::from_le_bytes(bytes[1064..1068].try_into().unwrap()) as usize * 4096;
        Self { bytes, meta }
    }

    fn nid(&self, path: &str) -> u64 {
        let reader = Reader::open(&self.bytes[..], self.bytes.len() as u64).unwrap();
        let mut inode = reader.inode(reader.root_nid()).unwrap();
        for name in path.split('/').filter(|n| !n.is_empty()) {
            inode = reader.lookup(&inode, name.as_bytes()).unwrap().unwrap();
        }
        inode.nid
    }

    fn inode_at(&self, path: &str) -> usize {
        self.meta + self.nid(path) as usize * 32
    }

    /// Changes bytes at an offset from an inode.
    fn patch(mut self, path: &str, offset: usize, bytes: &[u8]) -> Self {
        let at = self.inode_at(path) + offset;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Changes bytes of the superblock; the checksum is made right again.
    fn patch_super(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.bytes[1024 + offset..][..bytes.len()].copy_from_slice(bytes);
        let sum = super_checksum(self.bytes[..4096].try_into().unwrap());
        self.bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
        self
    }

    /// Where an entry of a small (inline) directory stands, from its inode.
    fn entry(&self, dir: &str, name: &str) -> usize {
        let data = self.inode_at(dir) + 64;
        let start_of = |i: usize| {
            let field = data + i * 12 + 8;
            usize::from(u16::from_le_bytes([self.bytes[field], self.bytes[field + 1]]))
        };
        let count = start_of(0) / 12;
        let is_it = |i: &usize| {
            let end = if i + 1 < count { start_of(i + 1) } else { start_of(*i) + name.len() };
            self.bytes[data + start_of(*i)..data + end] == *name.as_bytes()
        };
        64 + 12 * (0..count).find(is_it).unwrap()
    }

    fn error(&self) -> String {
        check_source(&self.bytes[..], self.bytes.len() as u64).unwrap_err().to_string()
    }
}

fn expect(image: Image, text: &str) {
    let error = image.error();
    assert!(error.contains(text), "{error:?} should say {text:?}");
}

#[test]
fn a_valid_image_passes_also_when_padded() {
    let mut image = Image::new();
    let summary = check_source(&image.bytes[..], image.bytes.len() as u64).unwrap();
    assert_eq!((summary.inodes, summary.directories, summary.regular_files, summary.symlinks), (5, 3, 1, 1));
    image.bytes.extend([0xee; 8192]);
    check_source(&image.bytes[..], image.bytes.len() as u64).unwrap();
}

#[test]
fn the_superblock() {
    let mut short = Image::new();
    short.bytes.truncate(2000);
    expect(short, "the image has 2000 bytes");
    let mut cut = Image::new();
    cut.bytes.truncate(4096);
    expect(cut, "blocks of 4096 bytes; the image has 4096 bytes");
    let mut flipped = Image::new();
    flipped.bytes[1024 + 20] ^= 1;
    expect(flipped, "the superblock's checksum is");
    expect(Image::new().patch_super(0, &[0]), "no EROFS superblock at offset 1024 (magic is 0xe0f5e100");
    expect(Image::new().patch_super(12, &[9]), "block size of 2 to the power of 0x9 is not supported");
    expect(Image::new().patch_super(80, &[4]), "incompatible feature set 0x4 is not supported");
    expect(Image::new().patch_super(86, &[1]), "number of extra devices 0x1 is not supported");
    expect(Image::new().patch_super(16, &[9]), "the superblock counts 9 inodes, the tree has 5");
    expect(Image::new().patch_super(14, &[0xff, 0xff]), "/: inode 65535: lies outside the image");
    let file = Image::new().nid("dir/file") as u8;
    expect(Image::new().patch_super(14, &[file]), "is not a directory");
}

#[test]
fn inodes() {
    let file = |offset, bytes: &[u8]| Image::new().patch("dir/file", offset, bytes);
    expect(file(0, &[0x21]), "/dir/file: inode");
    expect(file(0, &[0x21]), "format 0x0021 is unknown");
    expect(file(0, &[3]), "data layout 1 is not supported");
    expect(file(4, &[0xa4, 0x31]), "mode 0o30644 has no valid file type");
    expect(file(40, &[0xff; 4]), "nanoseconds is not part of a second");
    expect(file(16, &[0xff; 4]), "data of 5 bytes from block 4294967295 lies outside the image");
    expect(file(16, &[0; 4]), "data lies over the superblock");
    expect(file(8, &[0, 0, 0, 0, 0, 0, 0, 0x80]), "lies outside the image");
    expect(file(44, &[2]), "has 2 links according to the inode, 1 according to the directories");
    expect(Image::new().patch("dir", 44, &[7]), "/dir: inode");
    expect(Image::new().patch("dir", 44, &[7]), "has 7 links according to the inode, 3");
    // FLAT_INLINE regular files cannot be mapped.
    expect(file(0, &[5]), "a regular file's data is not page-aligned (inline tail of 5 bytes)");
    let mut dirty = Image::new();
    let start = dirty.inode_at("dir/file") + 16;
    let block = u32::from_le_bytes(dirty.bytes[start..start + 4].try_into().unwrap()) as usize;
    dirty.bytes[block * 4096 + 100] = 1;
    expect(dirty, "the last page of its data is not zero behind the end of the file");
}

#[test]
fn links_and_attributes() {
    expect(Image::new().patch("link", 8, &[0]), "/link: inode");
    expect(Image::new().patch("link", 8, &[0]), "symbolic link target of 0 bytes");
    expect(Image::new().patch("link", 66, &[0]), "symbolic link target of 6 bytes");
    expect(Image::new().patch("dir/file", 64 + 12 + 1, &[99]), "extended attributes: unknown name prefix");
    expect(Image::new().patch("dir/file", 64 + 12, &[200]), "an entry reaches beyond the area");
    expect(Image::new().patch("dir/file", 64 + 4, &[200]), "more shared attributes than the area holds");
    expect(Image::new().patch("dir/file", 2, &[0xff, 0xff]), "lies outside the image");
}

#[test]
fn directories() {
    let patch_entry = |dir: &str, name: &str, offset: usize, bytes: &[u8]| {
        let image = Image::new();
        let at = image.entry(dir, name) + offset;
        image.patch(dir, at, bytes)
    };
    let root = Image::new().nid("") as u8;
    let dir = Image::new().nid("dir") as u8;
    expect(patch_entry("dir", "sub", 0, &[root]), "/dir/sub: inode 2: directory is entered a second time");
    expect(patch_entry("dir", "sub", 0, &[dir]), "directory is entered a second time");
    expect(patch_entry("dir", "sub", 0, &[0, 0xff]), "/dir/sub: inode");
    expect(patch_entry("dir", "sub", 10, &[1]), "its directory entry says type 1, its mode is 0o40755");
    expect(patch_entry("dir/sub", "..", 0, &[root]), "entry \"..\" is missing or does not point at inode");
    expect(patch_entry("dir/sub", ".", 0, &[root]), "entry \".\" is missing or does not point at inode");
    expect(patch_entry("dir", ".", 8, &[13]), "the first name's offset is impossible");
    expect(patch_entry("dir", "sub", 8, &[0xff, 0xff]), "lies outside the block");
    // The names of dir follow its four entries: ".", "..", "file", "sub".
    let names = 64 + 4 * 12;
    expect(Image::new().patch("dir", names + 3, b"t"), "names are not in order");
    expect(Image::new().patch("dir", names + 4, b"/"), "contains a slash or a NUL byte");
    expect(Image::new().patch("dir", 8, &[5]), "directory block 0, entry 0: there is no room for an entry");
}
