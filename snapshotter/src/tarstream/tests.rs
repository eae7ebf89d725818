//! The reader against the `tar` crate's writer, and against damage.

use std::io::{self, Read};

use ::tar::{Builder, EntryType, Header};
use proptest::prelude::*;

use super::{Kind, Reader, Seekable, Stream, TarError};
use crate::erofs::Timestamp;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o4755);
    header.set_uid(1000);
    header.set_gid(70_000);
    header.set_mtime(12_345);
    header
}

fn read_all(bytes: &[u8]) -> Result<Vec<(super::Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(Stream(bytes), true);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        let offset_bytes = entry.data_offset_bytes;
        reader.data(&entry).read_to_end(&mut data).map_err(|source| TarError::Io { offset_bytes, source })?;
        entries.push((entry, data));
    }
    Ok(entries)
}

#[test]
fn fields_and_long_names() {
    let long = format!("dir/{}", "n".repeat(300));
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut header(EntryType::Regular, 3), &long, &b"abc"[..]).unwrap();
    tar.append_link(&mut header(EntryType::Symlink, 0), "link", &long).unwrap();
    let records = [
        ("mtime", &b"-1.25"[..]),
        ("SCHILY.xattr.user.a", &b"x=y\nz"[..]),
        ("uid", &b"4294967295"[..]),
        ("path", &b"p\xff"[..]),
    ];
    tar.append_pax_extensions(records).unwrap();
    tar.append_data(&mut header(EntryType::Directory, 0), "ignored", io::empty()).unwrap();
    let entries = read_all(&tar.into_inner().unwrap()).unwrap();
    let [(file, data), (link, _), (dir, _)] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(
        (file.path.as_slice(), file.kind, data.as_slice()),
        (long.as_bytes(), Kind::File, &b"abc"[..])
    );
    assert_eq!((file.permissions, file.uid, file.gid), (0o4755, 1000, 70_000));
    assert_eq!(file.mtime, Timestamp { seconds: 12_345, nanoseconds: 0 });
    assert_eq!((link.kind, link.link.as_slice()), (Kind::Symlink, long.as_bytes()));
    assert_eq!((dir.path.as_slice(), dir.kind, dir.uid), (&b"p\xff"[..], Kind::Directory, u32::MAX));
    assert_eq!(dir.mtime, Timestamp { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(dir.xattrs, [(b"user.a".to_vec(), b"x=y\nz".to_vec())]);
}

#[test]
fn gnu_sparse_files_have_holes() {
    let mut record = header(EntryType::GNUSparse, 1024);
    record.as_gnu_mut().unwrap().set_real_size(10_000);
    let pieces = &mut record.as_gnu_mut().unwrap().sparse;
    pieces[0].set_offset(512);
    pieces[0].set_length(512);
    pieces[1].set_offset(9488);
    pieces[1].set_length(512);
    record.set_path("sparse").unwrap();
    record.set_cksum();
    let bytes = [&record.as_bytes()[..], &[1; 512], &[2; 512], &[0; 1024]].concat();
    let entries = read_all(&bytes).unwrap();
    let data = &entries[0].1;
    assert_eq!(data.len(), 10_000);
    let expected = |i: usize| match i {
        512..1024 => 1,
        9488.. => 2,
        _ => 0,
    };
    assert!(data.iter().enumerate().all(|(i, b)| *b == expected(i)));
}

#[test]
fn seeking_and_streaming_agree() {
    let mut tar = Builder::new(Vec::new());
    for i in 0..20_u8 {
        let data = vec![i; usize::from(i) * 100];
        tar.append_data(&mut header(EntryType::Regular, data.len() as u64), format!("f{i}"), data.as_slice())
            .unwrap();
    }
    let bytes = tar.into_inner().unwrap();
    let mut seeking = Reader::new(Seekable::new(io::Cursor::new(&bytes)).unwrap(), true);
    for (entry, data) in read_all(&bytes).unwrap() {
        let found = seeking.next_entry().unwrap().unwrap();
        assert_eq!((&found.path, found.data_offset_bytes), (&entry.path, entry.data_offset_bytes));
        let start = found.data_offset_bytes as usize;
        assert_eq!(bytes[start..start + data.len()], data);
    }
    assert!(seeking.next_entry().unwrap().is_none());
}

#[test]
fn damage_is_named() {
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut header(EntryType::Regular, 700), "f", &[5; 700][..]).unwrap();
    let good = tar.into_inner().unwrap();
    let text = |bytes: &[u8]| read_all(bytes).map(|_| ()).unwrap_err().to_string();
    // data_offset + nothing: `read_to_end` sees the end, the next header does not come.
    for cut in [100, 600, 1300, 1536] {
        assert!(text(&good[..cut]).contains("cut off"), "{cut}: {}", text(&good[..cut]));
    }
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    assert!(text(&flipped).contains("checksum is wrong"));
    // An extension header that announces more than anybody needs is not read into memory.
    let mut bomb = header(EntryType::XHeader, 1 << 40);
    bomb.set_path("x").unwrap();
    bomb.set_cksum();
    assert!(text(bomb.as_bytes()).contains("more than 1 MiB"));
    let mut negative = header(EntryType::Regular, 0);
    negative.as_mut_bytes()[124..136].copy_from_slice(&[0xff; 12]);
    negative.set_path("x").unwrap();
    negative.set_cksum();
    assert!(text(negative.as_bytes()).contains("negative number"));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        drop(read_all(&bytes));
    }

    /// Damaged archives whose checksums are right again: what a fuzzer would reach.
    #[test]
    fn damaged_headers_never_panic(
        at in 0_usize..512, value in any::<u8>(), kind in prop::sample::select(&b"01234567SLKxgVM\0"[..]),
        payload in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut record = header(EntryType::new(kind), payload.len() as u64);
        record.set_path("name").unwrap();
        record.as_mut_bytes()[at] = value;
        record.set_cksum();
        let mut bytes = record.as_bytes().to_vec();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(512) + 1024, 0);
        drop(read_all(&bytes));
    }

    #[test]
    fn hostile_pax_records_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = super::header::Pax::default().parse(&bytes);
        let text = format!("{} {}\n", bytes.len() + 4, String::from_utf8_lossy(&bytes));
        let _ = super::header::Pax::default().parse(text.as_bytes());
    }
}
