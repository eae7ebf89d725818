//! The description of a process, as the VMM hands it to the guest: a flat list of tagged byte strings.
//!
//! Encoding: entries of `tag: u32, length: u32, bytes`, each padded with zeros to four bytes. Unknown tags are an error: both
//! sides have the same version.

use alloc::string::String;
use alloc::vec::Vec;

/// A file that the VMM puts into the guest's file system before the first process starts (resolv.conf, hosts, hostname,
/// ConfigMaps, ...).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InjectedFile {
    /// Absolute path; missing directories are made.
    pub path: Vec<u8>,
    /// Permission bits; with [`LINK`] it is a symbolic link.
    pub mode: u32,
    /// Whether writes get EROFS.
    pub read_only: bool,
    /// Content, or what the link says.
    pub content: Vec<u8>,
}

/// In [`InjectedFile::mode`]: a symbolic link (S_IFLNK, inode(7)).
pub const LINK: u32 = 0o120_000;

/// A process to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessSpec {
    /// Arguments; the first one is looked up in PATH (of `env`) if it has no slash. Never empty.
    pub args: Vec<Vec<u8>>,
    /// Environment, `KEY=VALUE`.
    pub env: Vec<Vec<u8>>,
    /// Working directory; made if it is missing.
    pub cwd: Vec<u8>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask, 0o22 if not said.
    pub umask: u32,
    /// Whether stdio is a terminal.
    pub terminal: bool,
    /// Rows and columns of the terminal, 0 = unknown.
    pub window: (u16, u16),
    /// Handles of stdin, stdout, stderr; `u32::MAX` = /dev/null.
    pub stdio: [u32; 3],
    /// Host name (first process only).
    pub hostname: Vec<u8>,
    /// Files (first process only).
    pub files: Vec<InjectedFile>,
    /// Most open files per process (RLIMIT_NOFILE), 0 = the guest's default.
    pub nofile: u64,
    /// Most threads and processes in the guest (the pids limit), 0 = the guest's default.
    pub nproc: u64,
    /// Whether the root file system refuses writes (`readonlyRootfs`).
    pub read_only_root: bool,
    /// Names of environment variables that say who a guest is: they may have other values in a clone, and room is kept for these. Of a clone: those of them that
    /// `env` does not set are taken away; empty: as they are known already.
    pub identity: Vec<Vec<u8>>,
    /// Whether interpreters of a clone are left alone (`seuss.dev/hooks: "off"`); first process only.
    pub no_hooks: bool,
}

/// Why a description could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// An entry ends beyond the blob, at this offset.
    Truncated(usize),
    /// An unknown tag.
    UnknownTag(u32),
    /// An entry's bytes do not fit its tag.
    Malformed(u32),
    /// There is no argument.
    NoArguments,
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Truncated(at) => write!(f, "process description is cut off at byte {at}"),
            Self::UnknownTag(tag) => write!(f, "process description has an unknown tag {tag}"),
            Self::Malformed(tag) => write!(f, "process description has a malformed entry with tag {tag}"),
            Self::NoArguments => write!(f, "process description has no arguments"),
        }
    }
}

impl core::error::Error for DecodeError {}

mod tag {
    pub(super) const ARG: u32 = 1;
    pub(super) const ENV: u32 = 2;
    pub(super) const CWD: u32 = 3;
    pub(super) const IDS: u32 = 4;
    pub(super) const GROUP: u32 = 5;
    pub(super) const UMASK: u32 = 6;
    pub(super) const TERMINAL: u32 = 7;
    pub(super) const STDIO: u32 = 8;
    pub(super) const HOSTNAME: u32 = 9;
    pub(super) const FILE: u32 = 10;
    pub(super) const LIMITS: u32 = 11;
    pub(super) const READ_ONLY_ROOT: u32 = 12;
    pub(super) const IDENTITY: u32 = 13;
    pub(super) const NO_HOOKS: u32 = 14;
}

fn put(out: &mut Vec<u8>, tag: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&(len as u32).to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.resize(out.len().next_multiple_of(4), 0);
}

impl ProcessSpec {
    /// The blob for the mailbox.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for arg in &self.args {
            put(&mut out, tag::ARG, &[arg]);
        }
        for entry in &self.env {
            put(&mut out, tag::ENV, &[entry]);
        }
        put(&mut out, tag::CWD, &[&self.cwd]);
        put(&mut out, tag::IDS, &[&self.uid.to_le_bytes(), &self.gid.to_le_bytes()]);
        for group in &self.groups {
            put(&mut out, tag::GROUP, &[&group.to_le_bytes()]);
        }
        put(&mut out, tag::UMASK, &[&self.umask.to_le_bytes()]);
        if self.terminal {
            put(&mut out, tag::TERMINAL, &[&self.window.0.to_le_bytes(), &self.window.1.to_le_bytes()]);
        }
        let [stdin, stdout, stderr] = self.stdio.map(u32::to_le_bytes);
        put(&mut out, tag::STDIO, &[&stdin, &stdout, &stderr]);
        put(&mut out, tag::HOSTNAME, &[&self.hostname]);
        for file in &self.files {
            let head = [file.mode, u32::from(file.read_only), file.path.len() as u32].map(u32::to_le_bytes);
            put(&mut out, tag::FILE, &[&head[0], &head[1], &head[2], &file.path, &file.content]);
        }
        put(&mut out, tag::LIMITS, &[&self.nofile.to_le_bytes(), &self.nproc.to_le_bytes()]);
        if self.read_only_root {
            put(&mut out, tag::READ_ONLY_ROOT, &[]);
        }
        for name in &self.identity {
            put(&mut out, tag::IDENTITY, &[name]);
        }
        if self.no_hooks {
            put(&mut out, tag::NO_HOOKS, &[]);
        }
        out
    }

    /// Read a blob made by [`Self::encode`].
    ///
    /// # Errors
    /// [`DecodeError`] on anything that `encode` would not have written.
    pub fn decode(blob: &[u8]) -> Result<Self, DecodeError> {
        let mut spec = Self { umask: 0o22, stdio: [u32::MAX; 3], ..Self::default() };
        let mut at = 0;
        while at < blob.len() {
            let truncated = DecodeError::Truncated(at);
            let head = blob.get(at..at + 8).ok_or(truncated.clone())?;
            let (tag, len) = (word(head, 0), word(head, 4) as usize);
            let end = (at + 8).checked_add(len).ok_or(truncated.clone())?;
            let bytes = blob.get(at + 8..end).ok_or(truncated)?;
            spec.apply(tag, bytes)?;
            at = end.next_multiple_of(4);
        }
        if spec.args.is_empty() { Err(DecodeError::NoArguments) } else { Ok(spec) }
    }

    fn apply(&mut self, tag: u32, bytes: &[u8]) -> Result<(), DecodeError> {
        let sized = |want: usize| if bytes.len() == want { Ok(()) } else { Err(DecodeError::Malformed(tag)) };
        match tag {
            tag::ARG => self.args.push(bytes.to_vec()),
            tag::ENV => self.env.push(bytes.to_vec()),
            tag::CWD => self.cwd = bytes.to_vec(),
            tag::IDS => {
                sized(8)?;
                (self.uid, self.gid) = (word(bytes, 0), word(bytes, 4));
            }
            tag::GROUP => {
                sized(4)?;
                self.groups.push(word(bytes, 0));
            }
            tag::UMASK => {
                sized(4)?;
                self.umask = word(bytes, 0) & 0o777;
            }
            tag::TERMINAL => {
                sized(4)?;
                self.terminal = true;
                self.window = (word(bytes, 0) as u16, (word(bytes, 0) >> 16) as u16);
            }
            tag::STDIO => {
                sized(12)?;
                self.stdio = [word(bytes, 0), word(bytes, 4), word(bytes, 8)];
            }
            tag::HOSTNAME => self.hostname = bytes.to_vec(),
            tag::FILE => {
                if bytes.len() < 12 {
                    return Err(DecodeError::Malformed(tag));
                }
                let path_len = word(bytes, 8) as usize;
                let rest = &bytes[12..];
                let (path, content) = rest.split_at_checked(path_len).ok_or(DecodeError::Malformed(tag))?;
                self.files.push(InjectedFile {
                    path: path.to_vec(),
                    mode: word(bytes, 0) & (LINK | 0o7777),
                    read_only: word(bytes, 4) != 0,
                    content: content.to_vec(),
                });
            }
            tag::LIMITS => {
                sized(16)?;
                self.nofile = u64::from(word(bytes, 0)) | u64::from(word(bytes, 4)) << 32;
                self.nproc = u64::from(word(bytes, 8)) | u64::from(word(bytes, 12)) << 32;
            }
            tag::READ_ONLY_ROOT => self.read_only_root = true,
            tag::IDENTITY => self.identity.push(bytes.to_vec()),
            tag::NO_HOOKS => self.no_hooks = true,
            unknown => return Err(DecodeError::UnknownTag(unknown)),
        }
        Ok(())
    }

    /// Arguments as text for messages, invalid UTF-8 replaced.
    #[must_use]
    pub fn command_line(&self) -> String {
        let words: Vec<_> = self.args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        words.join(" ")
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn sample() -> ProcessSpec {
        ProcessSpec {
            args: vec![b"python3".to_vec(), b"-c".to_vec(), b"".to_vec()],
            env: vec![b"PATH=/bin".to_vec()],
            cwd: b"/srv".to_vec(),
            uid: 1000,
            gid: 7,
            groups: vec![1, 2],
            umask: 0o27,
            terminal: true,
            window: (24, 80),
            stdio: [0, 1, u32::MAX],
            hostname: b"pod".to_vec(),
            files: vec![
                InjectedFile {
                    path: b"/etc/hosts".to_vec(),
                    mode: 0o644,
                    read_only: true,
                    content: b"127.0.0.1 localhost\n".to_vec(),
                },
                InjectedFile {
                    path: b"/etc/localtime".to_vec(),
                    mode: LINK | 0o777,
                    read_only: true,
                    content: b"../usr/share/zoneinfo/UTC".to_vec(),
                },
            ],
            nofile: 1 << 20,
            nproc: 5,
            read_only_root: true,
            identity: vec![b"HOSTNAME".to_vec()],
            no_hooks: true,
        }
    }

    #[test]
    fn a_description_survives_the_mailbox() {
        assert_eq!(ProcessSpec::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_prefix_is_refused_or_shorter() {
        let blob = sample().encode();
        for cut in 0..blob.len() {
            if let Ok(spec) = ProcessSpec::decode(&blob[..cut]) {
                assert_ne!(spec, sample(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn foreign_tags_and_sizes_are_refused() {
        assert_eq!(ProcessSpec::decode(&[99, 0, 0, 0, 0, 0, 0, 0]), Err(DecodeError::UnknownTag(99)));
        assert_eq!(ProcessSpec::decode(&[4, 0, 0, 0, 0, 0, 0, 0]), Err(DecodeError::Malformed(4)));
        assert_eq!(ProcessSpec::decode(&[1, 0, 0, 0, 255, 255, 255, 255]), Err(DecodeError::Truncated(0)));
        assert_eq!(ProcessSpec::decode(&[]), Err(DecodeError::NoArguments));
    }
}
