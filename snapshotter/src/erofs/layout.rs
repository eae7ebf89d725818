//! Places inodes and directories and encodes them. No I/O.
//!
//! Inodes are numbered breadth first, so that the inodes of one directory's entries are neighbours. All are of the
//! extended form: the compact one has no modification time. An inode never crosses a block boundary (the format would
//! allow it), nor does inline data (it must not).

use super::error::BuildError;
use super::format::{self, BLOCK, BLOCK_BYTES, Dirent, InodeCore};
use super::tree::{Body, NodeId, Tree, Xattr};

/// The first inode's slot: 0 and 1 stay empty because user space takes inode number 0 for a deleted entry.
const ROOT_SLOT: u64 = 2;
/// Directories up to this size are stored behind their inode.
const INLINE_DIR_BYTES_MAX: u64 = 2048;

/// All metadata of an image.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) root_nid: u16,
    pub(super) inodes: u64,
    pub(super) regular_files: u64,
    pub(super) directories: u64,
}

/// Where one inode goes.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Offset from the start of the metadata area; 0 for a node that is not reachable.
    offset: u64,
    inline: bool,
    /// Of a directory or symbolic link.
    size_bytes: u64,
    /// First block of data that is stored in blocks, from the start of the metadata area.
    block: u64,
    parent: u32,
    nlink: u32,
}

/// Encodes the reachable part of `tree`; `meta_block` is the block where the result will stand.
pub(super) fn encode(tree: &Tree, meta_block: u64) -> Result<Encoded, BuildError> {
    let mut places = vec![Place::default(); tree.len()];
    let order = number(tree, &mut places);
    let mut cursor = ROOT_SLOT * format::SLOT_BYTES;
    for id in &order {
        place(tree, *id, &mut places[id.index()], &mut cursor)?;
    }
    let mut block = format::blocks_of(cursor);
    for id in &order {
        let place = &mut places[id.index()];
        if place.size_bytes > 0 && !place.inline {
            place.block = block;
            block += format::blocks_of(place.size_bytes);
        }
    }
    let too_many = |_| BuildError::TooManyBlocks { blocks: meta_block.saturating_add(block) };
    u32::try_from(meta_block.saturating_add(block)).map_err(too_many)?;

    let mut encoded = Encoded {
        bytes: vec![0; usize::try_from(block * BLOCK_BYTES).map_err(too_many)?],
        root_nid: ROOT_SLOT as u16,
        inodes: order.len() as u64,
        regular_files: 0,
        directories: 0,
    };
    for (ino, id) in order.iter().enumerate() {
        let (node, place) = (tree.node(*id), places[id.index()]);
        let (start_or_dev, size_bytes, data) = match &node.body {
            Body::Dir => {
                encoded.directories += 1;
                ((meta_block + place.block) as u32, place.size_bytes, directory_data(tree, *id, &places))
            }
            Body::Symlink(target) => ((meta_block + place.block) as u32, place.size_bytes, target.to_vec()),
            Body::File(extent) => {
                encoded.regular_files += 1;
                (extent.start_block, extent.size_bytes, Vec::new())
            }
            Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
                (format::encode_dev(*major, *minor), 0, Vec::new())
            }
            Body::Fifo | Body::Socket => (0, 0, Vec::new()),
        };
        let inode = InodeCore {
            extended: true,
            layout: if place.inline { format::LAYOUT_FLAT_INLINE } else { format::LAYOUT_FLAT_PLAIN },
            xattr_count: xattr_count(&node.xattrs)?,
            mode: node.body.type_bits() | (node.metadata.permissions & 0o7777),
            size_bytes,
            start_or_dev: if place.inline { 0 } else { start_or_dev },
            ino: ino as u32 + 1,
            uid: node.metadata.uid,
            gid: node.metadata.gid,
            mtime_s: node.metadata.mtime.seconds,
            mtime_ns: node.metadata.mtime.nanoseconds.min(999_999_999),
            nlink: place.nlink,
        };
        let mut at = place.offset as usize;
        let mut put = |bytes: &[u8], at: usize| encoded.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        put(&inode.encode_extended(), at);
        at += format::EXTENDED_INODE_BYTES as usize;
        let xattrs = encode_xattrs(&node.xattrs);
        put(&xattrs, at);
        if place.inline {
            put(&data, at + xattrs.len());
        } else {
            put(&data, place.block as usize * BLOCK);
        }
    }
    Ok(encoded)
}

/// Nodes reachable from the root, breadth first; fills in parents and link counts.
fn number(tree: &Tree, places: &mut [Place]) -> Vec<NodeId> {
    let mut order = vec![NodeId::ROOT];
    let mut next = 0;
    places[0].nlink = 2;
    while let Some(id) = order.get(next).copied() {
        next += 1;
        for child in tree.node(id).children.values() {
            let is_dir = tree.node(*child).is_dir();
            let place = &mut places[child.index()];
            if place.nlink == 0 {
                order.push(*child);
            }
            place.nlink += if is_dir { 2 } else { 1 };
            if is_dir {
                place.parent = id.0;
                places[id.index()].nlink += 1;
            }
        }
    }
    order
}

fn place(tree: &Tree, id: NodeId, place: &mut Place, cursor: &mut u64) -> Result<(), BuildError> {
    let node = tree.node(id);
    let header = format::EXTENDED_INODE_BYTES + format::xattr_area_bytes(xattr_count(&node.xattrs)?);
    place.size_bytes = match &node.body {
        Body::Dir => directory_bytes(tree, id),
        Body::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    let inline_max = if node.is_dir() { INLINE_DIR_BYTES_MAX } else { BLOCK_BYTES };
    let total = header + place.size_bytes;
    place.inline = place.size_bytes > 0 && place.size_bytes <= inline_max && total <= BLOCK_BYTES;
    let together = if place.inline { total } else { format::EXTENDED_INODE_BYTES };
    if *cursor % BLOCK_BYTES + together > BLOCK_BYTES {
        *cursor = cursor.next_multiple_of(BLOCK_BYTES);
    }
    place.offset = *cursor;
    *cursor += if place.inline { total } else { header };
    *cursor = cursor.next_multiple_of(format::SLOT_BYTES);
    Ok(())
}

/// Names of a directory in the order of the format, "." and ".." among them.
fn names(tree: &Tree, id: NodeId) -> Vec<(&[u8], Option<NodeId>)> {
    let children = &tree.node(id).children;
    let mut names: Vec<(&[u8], Option<NodeId>)> = Vec::with_capacity(children.len() + 2);
    names.extend([(&b"."[..], None), (&b".."[..], None)]);
    names.extend(children.iter().map(|(name, id)| (&**name, Some(*id))));
    names.sort_unstable_by_key(|(name, _)| *name);
    names
}

fn directory_bytes(tree: &Tree, id: NodeId) -> u64 {
    let (mut full_blocks, mut used) = (0_u64, 0);
    for (name, _) in names(tree, id) {
        let need = format::DIRENT_BYTES + name.len();
        if used + need > BLOCK {
            full_blocks += 1;
            used = 0;
        }
        used += need;
    }
    full_blocks * BLOCK_BYTES + used as u64
}

fn directory_data(tree: &Tree, id: NodeId, places: &[Place]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut block: Vec<(&[u8], Dirent)> = Vec::new();
    let mut used = 0;
    let parent = NodeId(places[id.index()].parent);
    for (name, child) in names(tree, id) {
        let need = format::DIRENT_BYTES + name.len();
        if used + need > BLOCK {
            flush_directory_block(&mut data, &block);
            data.resize(data.len().next_multiple_of(BLOCK), 0);
            block.clear();
            used = 0;
        }
        used += need;
        let target = child.unwrap_or(if name == b"." { id } else { parent });
        let file_type = format::dirent_type(tree.node(target).body.type_bits());
        let nid = places[target.index()].offset / format::SLOT_BYTES;
        block.push((name, Dirent { nid, name_offset: 0, file_type }));
    }
    flush_directory_block(&mut data, &block);
    data
}

fn flush_directory_block(data: &mut Vec<u8>, block: &[(&[u8], Dirent)]) {
    // Offsets stay below 4096.
    let mut name_offset = (block.len() * format::DIRENT_BYTES) as u16;
    for (name, dirent) in block {
        data.extend(Dirent { name_offset, ..*dirent }.encode());
        name_offset += name.len() as u16;
    }
    for (name, _) in block {
        data.extend(*name);
    }
}

fn xattr_count(xattrs: &[Xattr]) -> Result<u16, BuildError> {
    if xattrs.is_empty() {
        return Ok(0);
    }
    let entries: usize = xattrs.iter().map(Xattr::encoded_bytes).sum();
    u16::try_from(1 + entries / 4)
        .map_err(|_| BuildError::XattrsTooLarge { len_bytes: format::XATTR_HEADER_BYTES + entries })
}

fn encode_xattrs(xattrs: &[Xattr]) -> Vec<u8> {
    if xattrs.is_empty() {
        return Vec::new();
    }
    let mut sorted: Vec<&Xattr> = xattrs.iter().collect();
    sorted.sort_unstable();
    let mut bytes = vec![0; format::XATTR_HEADER_BYTES];
    for xattr in sorted {
        // The lengths were checked when the attribute was made.
        bytes.extend([xattr.suffix.len() as u8, xattr.index]);
        bytes.extend((xattr.value.len() as u16).to_le_bytes());
        bytes.extend(&xattr.suffix);
        bytes.extend(&xattr.value);
        bytes.resize(format::align4(bytes.len()), 0);
    }
    bytes
}
