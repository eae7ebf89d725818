//! Fields of a tar header record and of pax extension records. No I/O; every field is taken for hostile.

use crate::erofs::Timestamp;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    pub(crate) const fn has_data(self) -> bool {
        matches!(self, Self::File)
    }
}

type Field<T> = Result<T, &'static str>;

/// A header record whose checksum is right.
#[derive(Debug)]
pub(super) struct Header([u8; 512]);

impl Header {
    pub(super) fn new(record: [u8; 512]) -> Field<Self> {
        let stored = number(&record[148..156])?;
        let sum = |sign: fn(u8) -> i64| -> i64 {
            let all: i64 = record.iter().map(|b| sign(*b)).sum();
            let own: i64 = record[148..156].iter().map(|b| sign(*b)).sum();
            all - own + 8 * 32
        };
        // Some old programs summed signed characters.
        if stored == sum(i64::from) || stored == sum(|b| i64::from(b.cast_signed())) {
            Ok(Self(record))
        } else {
            Err("its checksum is wrong (is this a tar archive?)")
        }
    }

    pub(super) const fn type_flag(&self) -> u8 {
        self.0[156]
    }

    /// Bytes of data behind the header, for a kind that has any.
    pub(super) fn stored_bytes(&self) -> Field<u64> {
        unsigned(&self.0[124..136])
    }

    pub(super) fn kind(&self, path: &[u8]) -> Option<Kind> {
        Some(match self.type_flag() {
            // A V7 directory is a file whose name ends in a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => return None,
        })
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = text(&self.0[345..500]);
        // GNU headers use the prefix's place for other things.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn permissions(&self) -> Field<u16> {
        Ok((unsigned(&self.0[100..108])? & 0o7777) as u16)
    }

    pub(super) fn uid(&self) -> Field<u64> {
        unsigned(&self.0[108..116])
    }

    pub(super) fn gid(&self) -> Field<u64> {
        unsigned(&self.0[116..124])
    }

    pub(super) fn mtime_s(&self) -> Field<i64> {
        number(&self.0[136..148])
    }

    pub(super) fn device(&self) -> Field<(u32, u32)> {
        let part = |range| {
            let value: u64 = unsigned(range)?;
            u32::try_from(value).map_err(|_| "device number above 2^32")
        };
        let (major, minor) = (part(&self.0[329..337])?, part(&self.0[337..345])?);
        if major > 0xfff || minor > 0xf_ffff {
            Err("device number out of Linux's range")
        } else {
            Ok((major, minor))
        }
    }

    pub(super) fn sparse_pieces(&self) -> Field<Vec<(u64, u64)>> {
        sparse_pieces_of(&self.0, 386, 4)
    }

    pub(super) const fn sparse_continues(&self) -> bool {
        self.0[482] != 0
    }

    pub(super) fn sparse_real_bytes(&self) -> Field<u64> {
        unsigned(&self.0[483..495])
    }
}

/// `count` pairs of offset and length from byte `at` of a record; an empty pair ends the list.
pub(super) fn sparse_pieces_of(record: &[u8; 512], at: usize, count: usize) -> Field<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    for pair in record[at..at + count * 24].chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        pieces.push((unsigned(&pair[..12])?, unsigned(&pair[12..])?));
    }
    Ok(pieces)
}

/// What pax extension records say about the next member.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size_bytes: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: bool,
}

impl Pax {
    pub(super) const fn is_sparse(&self) -> bool {
        self.sparse
    }

    /// Adds records of the form `LENGTH KEY=VALUE\n`.
    pub(super) fn parse(&mut self, mut records: &[u8]) -> Field<()> {
        const BAD: &str = "malformed pax record";
        while !records.is_empty() {
            let space = records.iter().take(21).position(|b| *b == b' ').ok_or(BAD)?;
            let len: usize = ascii(&records[..space]).ok_or(BAD)?;
            if len <= space + 1 || len > records.len() {
                return Err(BAD);
            }
            let (record, rest) = records.split_at(len);
            let record = record[space + 1..].strip_suffix(b"\n").ok_or(BAD)?;
            let equals = record.iter().position(|b| *b == b'=').ok_or(BAD)?;
            self.set(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Field<()> {
        // An empty value cancels the record.
        let whole = |what| if value.is_empty() { Ok(None) } else { ascii(value).map(Some).ok_or(what) };
        match key {
            b"path" => self.path = Some(value.to_vec()).filter(|v| !v.is_empty()),
            b"linkpath" => self.link = Some(value.to_vec()).filter(|v| !v.is_empty()),
            b"size" => self.size_bytes = whole("pax size is not a number")?,
            b"uid" => self.uid = whole("pax uid is not a number")?,
            b"gid" => self.gid = whole("pax gid is not a number")?,
            b"mtime" => self.mtime = Some(time(value).ok_or("pax mtime is not a time")?),
            _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// `-12.34` as a timestamp; the fraction is cut to nanoseconds, towards the past.
fn time(value: &[u8]) -> Option<Timestamp> {
    let negative = value.first() == Some(&b'-');
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let (whole, fraction) = match digits.iter().position(|b| *b == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &[][..]),
    };
    let whole: i64 = ascii(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanoseconds = 0_u32;
    for i in 0..9 {
        nanoseconds = nanoseconds * 10 + u32::from(fraction.get(i).map_or(0, |b| b - b'0'));
    }
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds: 0 },
        (true, _) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// Decimal digits and nothing else.
fn ascii<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

fn unsigned(field: &[u8]) -> Field<u64> {
    u64::try_from(number(field)?).map_err(|_| "negative number")
}

/// An octal field, or GNU's base-256 form (first bit set); blank means 0.
fn number(field: &[u8]) -> Field<i64> {
    const BAD: &str = "a field is not a number";
    let first = *field.first().ok_or(BAD)?;
    if first & 0x80 != 0 {
        // Two's complement, big endian, without the marker bit.
        let mut value = if first & 0x40 != 0 { -1_i64 } else { 0 };
        for (i, byte) in field.iter().enumerate() {
            let byte = if i == 0 && first & 0x40 == 0 { byte & 0x7f } else { *byte };
            if !(i64::MIN >> 8..=i64::MAX >> 8).contains(&value) {
                return Err("a number is beyond 2^63");
            }
            value = (value << 8) | i64::from(byte);
        }
        return Ok(value);
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| BAD)?;
    if digits.starts_with(['+', '-']) {
        return Err(BAD);
    }
    i64::from_str_radix(digits, 8).map_err(|_| BAD)
}
