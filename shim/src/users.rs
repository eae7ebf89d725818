//! Users and groups of a root file system.
//!
//! Owns [`resolve`] (`user[:group]`, by name or number, as Docker's `--user` and an image's `User` have it) and [`home`]. Reads
//! /etc/passwd and /etc/group of the image, never of the host.

use crate::rootview::{RootView, ViewError};

/// Most bytes of /etc/passwd or /etc/group.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Why a user is not known.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("user {name:?} is neither a number nor in the image's /etc/passwd")]
    NoUser {
        /// The name.
        name: String,
    },
    /// No such group.
    #[error("group {name:?} is neither a number nor in the image's /etc/group")]
    NoGroup {
        /// The name.
        name: String,
    },
    /// The image cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

/// The identity that `text` (`user[:group]`; empty: root) means in the image.
///
/// # Errors
/// [`UserError`].
pub fn resolve(view: &RootView, text: &str) -> Result<Identity, UserError> {
    let passwd = read(view, b"/etc/passwd")?;
    let group = read(view, b"/etc/group")?;
    resolve_in(&passwd, &group, text)
}

/// Home directory of `uid`, `/` if the image does not say: what `HOME` is when nobody sets it.
///
/// # Errors
/// [`ViewError`].
pub fn home(view: &RootView, uid: u32) -> Result<String, ViewError> {
    let passwd = read(view, b"/etc/passwd")?;
    Ok(home_in(&passwd, uid))
}

fn home_in(passwd: &str, uid: u32) -> String {
    let entry = entries(passwd).find(|entry| entry.id == uid);
    let home = entry.and_then(|entry| entry.rest.get(2).copied()).filter(|home| !home.is_empty());
    home.unwrap_or("/").to_owned()
}

fn read(view: &RootView, path: &[u8]) -> Result<String, ViewError> {
    let content = match view.lookup(path)? {
        Some(node) if node.inode.is_file() => view.read(&node, FILE_BYTES_MAX)?,
        _ => Vec::new(),
    };
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// A line of passwd(5) or group(5): name, password, id, and the fields behind it.
struct Entry<'a> {
    name: &'a str,
    id: u32,
    rest: Vec<&'a str>,
}

fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        Some(Entry { name, id: fields.next()?.parse().ok()?, rest: fields.collect() })
    })
}

fn resolve_in(passwd: &str, group: &str, text: &str) -> Result<Identity, UserError> {
    let (user, group_name) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = entries(passwd)
        .find(|entry| entry.name == user)
        .or_else(|| entries(passwd).find(|e| Some(e.id) == number));
    let uid = entry.as_ref().map(|entry| entry.id).or(number);
    let uid = uid.ok_or_else(|| UserError::NoUser { name: user.to_owned() })?;
    let own_gid = entry.as_ref().and_then(|entry| entry.rest.first()?.parse().ok()).unwrap_or(0);
    let Some(group_name) = group_name else {
        let is_member =
            |members: &str| entry.as_ref().is_some_and(|entry| members.split(',').any(|m| m == entry.name));
        let groups =
            entries(group).filter(|g| g.rest.first().is_some_and(|members| is_member(members))).map(|g| g.id);
        return Ok(Identity { uid, gid: own_gid, groups: groups.collect() });
    };
    let gid = entries(group).find(|entry| entry.name == group_name).map(|entry| entry.id);
    let gid = gid.or_else(|| group_name.parse().ok());
    let gid = gid.ok_or_else(|| UserError::NoGroup { name: group_name.to_owned() })?;
    Ok(Identity { uid, gid, groups: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/srv:/bin/false\nbroken\n1234:x:7:8::/odd:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nextra:x:50:ftp,www\n";

    fn id(text: &str) -> Identity {
        resolve_in(PASSWD, GROUP, text).unwrap()
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(id(""), Identity::default());
        assert_eq!(id("www"), Identity { uid: 33, gid: 34, groups: vec![50] });
        assert_eq!(id("33"), Identity { uid: 33, gid: 34, groups: vec![50] });
        assert_eq!(id("www:extra"), Identity { uid: 33, gid: 50, groups: vec![] });
        assert_eq!(id("1000:1001"), Identity { uid: 1000, gid: 1001, groups: vec![] });
        assert_eq!(id("1000"), Identity { uid: 1000, gid: 0, groups: vec![] });
        assert_eq!(id("1234").uid, 7, "a name that looks like a number is a name");
        assert_eq!(id(":34").gid, 34);
    }

    #[test]
    fn unknown_names_are_named() {
        assert!(
            matches!(resolve_in(PASSWD, GROUP, "nobody"), Err(UserError::NoUser { name }) if name == "nobody")
        );
        assert!(
            matches!(resolve_in(PASSWD, GROUP, "www:x"), Err(UserError::NoGroup { name }) if name == "x")
        );
        assert!(resolve_in("", "", "0:0").is_ok());
    }

    #[test]
    fn homes() {
        assert_eq!(home_in(PASSWD, 33), "/srv");
        assert_eq!(home_in(PASSWD, 5), "/");
        assert_eq!(home_in("", 0), "/");
    }
}
