//! Who vouches for an archive: a list of its manifests' digests, signed with minisign (`ARTIFACT.md`, "Signature").
//!
//! Owns [`SigningKey`], [`TrustedKeys`] and [`Trust`]. A snapshot is memory that goes on running where it was: who restores one runs its author's code. So an
//! archive is read only as far as its signature before that was found to be one of a key that the operator trusts. Keys and signatures are those of
//! minisign(1) (Ed25519, pre-hashed); its older form is refused.

use std::collections::BTreeSet;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use minisign::{PublicKey, PublicKeyBox, SecretKey, SecretKeyBox, SignatureBox};
use rustix::fs::FileType;

use crate::beneath::{Dir, Pinned, Way};
use crate::digest::Digest;

/// Where an operator keeps the keys that are trusted on a node: `NAME.pub`, as `minisign -G` writes them.
pub const TRUSTED_KEYS_DIR: &str = "/etc/seuss/trusted-keys.d";

/// Name of the list in an archive.
pub(super) const LIST_NAME: &str = "seuss-snapshots.txt";
/// Name of its signature, as `minisign -S` names it.
pub(super) const SIGNATURE_NAME: &str = "seuss-snapshots.txt.minisig";
/// First line of the list.
const LIST_HEAD: &str = "seuss memory snapshots 1";
/// Most bytes of a key.
const KEY_BYTES_MAX: u64 = 4096;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the key {path}: {source}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no key.
    #[error("{path} is no {what} key of minisign: {reason}", path = .path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// `public` or `secret`.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Others can change what is trusted.
    #[error(
        "{path} is not used: it belongs to user {uid} and has mode {mode:03o}; a trusted key must be root's or yours, and writable for nobody else",
        path = .path.display()
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Signing failed.
    #[error("cannot sign with {path}: {reason}", path = .path.display())]
    Sign {
        /// With which key.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Number of a key, as minisign shows it.
fn key_id(number: &[u8]) -> String {
    number.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

/// The list of an archive with these manifests.
pub(super) fn list(manifests: &[(Digest, u64)]) -> Vec<u8> {
    let mut lines: Vec<String> =
        manifests.iter().map(|(digest, len_bytes)| format!("{digest} {len_bytes}")).collect();
    lines.sort_unstable();
    lines.dedup();
    lines.insert(0, LIST_HEAD.to_owned());
    (lines.join("\n") + "\n").into_bytes()
}

/// The manifests that a list names: digest and length. `None` if it is no list.
pub(super) fn parse_list(bytes: &[u8]) -> Option<BTreeSet<(Digest, u64)>> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != LIST_HEAD {
        return None;
    }
    lines
        .map(|line| {
            let (digest, len_bytes) = line.split_once(' ')?;
            Some((digest.parse().ok()?, len_bytes.parse().ok()?))
        })
        .collect()
}

/// A secret key.
pub struct SigningKey {
    key: SecretKey,
    path: PathBuf,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads the key at `path`. If it has a password, that is `password`, or asked for on the terminal.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(path: &Path, password: Option<String>) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Read { path: path.to_owned(), source };
        let format = |reason: String| KeyError::Format { path: path.to_owned(), what: "secret", reason };
        let pinned = Pinned::open_any(path).map_err(failed)?;
        let text = read_key(&pinned).map_err(failed)?;
        let boxed = || SecretKeyBox::from_string(&text).map_err(|error| format(error.to_string()));
        let key = match boxed()?.into_unencrypted_secret_key() {
            Ok(key) => key,
            Err(_) => boxed()?.into_secret_key(password).map_err(|error| format(error.to_string()))?,
        };
        Ok(Self { key, path: path.to_owned() })
    }

    /// A signature of `list`.
    ///
    /// # Errors
    /// [`KeyError::Sign`].
    pub(super) fn sign(&self, list: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed =
            |error: minisign::PError| KeyError::Sign { path: self.path.clone(), reason: error.to_string() };
        let trusted = format!("file:{LIST_NAME}\thashed");
        let untrusted = format!("signature of SEUSS memory snapshots by key {}", self.id());
        let signature = minisign::sign(None, &self.key, Cursor::new(list), Some(&trusted), Some(&untrusted));
        Ok(signature.map_err(failed)?.into_string().into_bytes())
    }

    /// Its number, as minisign shows it.
    #[must_use]
    pub fn id(&self) -> String {
        key_id(self.key.keynum())
    }
}

fn read_key(pinned: &Pinned) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(pinned.open_regular()?, KEY_BYTES_MAX), &mut text)?;
    Ok(text)
}

/// Public keys that the operator trusts.
#[derive(Debug, Default)]
pub struct TrustedKeys {
    keys: Vec<(PathBuf, PublicKey)>,
    /// Where they come from, for messages.
    places: Vec<PathBuf>,
}

impl TrustedKeys {
    /// The keys of the directory at `path` (`*.pub`); none if it is missing.
    ///
    /// # Errors
    /// [`KeyError`]: one of them cannot be used, which is no reason to go on without it.
    pub fn of_directory(path: &Path) -> Result<Self, KeyError> {
        let mut trusted = Self { keys: Vec::new(), places: vec![path.to_owned()] };
        let failed = |source| KeyError::Read { path: path.to_owned(), source };
        let dir = match Dir::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(trusted),
            dir => dir.map_err(failed)?,
        };
        for name in dir.names().map_err(failed)? {
            let name = Path::new(&name);
            if name.extension().is_some_and(|extension| extension == "pub") {
                let path = path.join(name);
                let pinned = dir.pin(name, Way::Beneath);
                let pinned = pinned.map_err(|source| KeyError::Read { path: path.clone(), source })?;
                trusted.add(&path, &pinned)?;
            }
        }
        Ok(trusted)
    }

    /// The keys in these files.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn of_files(paths: &[PathBuf]) -> Result<Self, KeyError> {
        let mut trusted = Self { keys: Vec::new(), places: paths.to_vec() };
        for path in paths {
            let pinned =
                Pinned::open_any(path).map_err(|source| KeyError::Read { path: path.clone(), source })?;
            trusted.add(path, &pinned)?;
        }
        Ok(trusted)
    }

    fn add(&mut self, path: &Path, pinned: &Pinned) -> Result<(), KeyError> {
        let stat = pinned.stat();
        let (uid, mode) = (stat.st_uid, stat.st_mode & 0o7777);
        let own = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if pinned.kind() == FileType::RegularFile && (!own || mode & 0o022 != 0) {
            return Err(KeyError::Open { path: path.to_owned(), uid, mode });
        }
        let text = read_key(pinned).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        let key = PublicKeyBox::from_string(&text).and_then(PublicKeyBox::into_public_key);
        let key = key.map_err(|error| KeyError::Format {
            path: path.to_owned(),
            what: "public",
            reason: error.to_string(),
        })?;
        self.keys.push((path.to_owned(), key));
        Ok(())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Where they come from, for messages.
    pub(super) fn places(&self) -> String {
        self.places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The key that has signed `list`, or why none has.
    pub(super) fn verify(&self, list: &[u8], signature: &[u8]) -> Result<&Path, String> {
        let text = std::str::from_utf8(signature).map_err(|_| "the signature is not text".to_owned())?;
        let signature = SignatureBox::from_string(text)
            .map_err(|error| format!("the signature cannot be read ({error})"))?;
        let mut of_key = self.keys.iter().filter(|(_, key)| key.keynum() == signature.keynum()).peekable();
        if of_key.peek().is_none() {
            let id = key_id(signature.keynum());
            return Err(format!(
                "it is signed by key {id}, which is none of the {} trusted ones ({})",
                self.keys.len(),
                self.places()
            ));
        }
        // Numbers of keys are random, and anybody can make a key with the number of another.
        of_key
            .find(|(_, key)| minisign::verify(key, &signature, Cursor::new(list), true, false, false).is_ok())
            .map(|(path, _)| path.as_path())
            .ok_or_else(|| {
                "its signature does not fit: the list of its snapshots was changed, or is another archive's"
                    .to_owned()
            })
    }
}

/// Whose archives are taken in.
#[derive(Debug)]
pub enum Trust {
    /// Those that one of these keys has signed.
    Signed(TrustedKeys),
    /// Anybody's: the caller knows where the archive comes from.
    Anybody,
}
