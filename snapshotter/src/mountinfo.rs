//! The table of mounts, /proc/PID/mountinfo (proc_pid_mountinfo(5)).
//!
//! Owns [`parse`], the one parser of it. The table is bytes: a mount point is a file's name, and need not be UTF-8; one line that cannot be read costs
//! no other.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// A line of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounted {
    /// Directory of the file system that is the mount's root.
    pub root: PathBuf,
    /// Mount point, as this process sees it.
    pub point: PathBuf,
    /// Name of the file system.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// The file system's own options.
    pub options: Vec<String>,
}

/// The mounts that this process sees, in the order in which they were mounted.
///
/// # Errors
/// The table cannot be read.
pub fn table() -> io::Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mounts of a table. Fields: id, parent, device, root, mount point, mount's options, any number of tags, "-", type, source, file system's options.
#[must_use]
pub fn parse(table: &[u8]) -> Vec<Mounted> {
    table.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mounted> {
    let mut words = line.split(|byte| *byte == b' ');
    let (root, point) = (path(words.nth(3)?), path(words.next()?));
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let (kind, source) = (text(rest.next()?), text(rest.next()?));
    let options = rest.next().map(text).unwrap_or_default();
    let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    Some(Mounted { root, point, kind, source, options })
}

fn path(word: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(word)))
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(word)).into_owned()
}

/// Blanks, tabs, newlines, backslashes and number signs are `\ooo` in the table.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, after)) = rest.split_first() {
        match octal(after) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// The byte that three octal digits stand for.
fn octal(digits: &[u8]) -> Option<u8> {
    let digits = digits.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)))?;
    let value = digits.iter().fold(0, |value: u32, digit| value * 8 + u32::from(digit - b'0'));
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn row(root: &str, point: &str, kind: &str, source: &str, options: &[&str]) -> Mounted {
        Mounted {
            root: root.into(),
            point: point.into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    #[test]
    fn lines_with_and_without_tags() {
        let text = b"36 35 98:0 /mnt1 /mnt/a\\040b\\134 rw,noatime master:1 shared:2 - erofs /dev/loop3 ro\n\
            37 35 0:5 / /plain rw - tmpfs seuss-images rw,size=1k\nnonsense\n\n38 35 0:5 / /x\\0 rw - proc\n\
            30 25 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";
        assert_eq!(
            parse(text),
            [
                row("/mnt1", "/mnt/a b\\", "erofs", "/dev/loop3", &["ro"]),
                row("/", "/plain", "tmpfs", "seuss-images", &["rw", "size=1k"]),
                row("/", "/sys/fs/cgroup/memory", "cgroup", "cgroup", &["rw", "memory"]),
            ]
        );
    }

    #[test]
    fn names_need_not_be_text() {
        let table = b"1 1 0:1 / /a\xff\\012b rw - tmpfs a\xff rw\n2 1 0:2 / /next rw - tmpfs tmpfs rw\n";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2, "a name that is not UTF-8 costs no line");
        assert_eq!(mounts[0].point.as_os_str().as_bytes(), b"/a\xff\nb");
        assert_eq!(mounts[1].point, PathBuf::from("/next"));
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\134b\\9\\77"), b"a\\b\\9\\77");
        assert_eq!(unescape(b"\\777\\400\\377"), b"\\777\\400\xff");
    }

    #[test]
    fn the_table_of_this_process_has_its_root() {
        assert!(table().unwrap().iter().any(|mount| mount.point == std::path::Path::new("/")));
    }
}
