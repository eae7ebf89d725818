//! What a clone's environment says of who it is.
//!
//! Variables that differ from pod to pod (HOSTNAME, above all) lie as strings where execve(2) has put them. A clone's values are written over
//! them, where they are not longer than the ones that were there: `getenv(3)` and /proc/PID/environ tell the new ones. What a program has copied for
//! itself (Python's `os.environ`) is its own to refresh, with the hooks of guest/sdk.

use super::Kernel;
use alloc::vec;
use alloc::vec::Vec;

/// Largest environment that is looked through, in bytes.
const ENVIRONMENT_MAX: u64 = 256 << 10;

/// Bytes to write over an environment: where, and what.
type Change = (usize, Vec<u8>);

/// What makes `block`, strings that each end with a zero, say `entries` (`KEY=VALUE`). A value that is shorter than the old one is filled up with zeros. Also
/// tells how many entries are longer than what they would replace.
fn changes(block: &[u8], entries: &[Vec<u8>]) -> (Vec<Change>, usize) {
    let (mut list, mut too_long) = (Vec::new(), 0);
    let mut at = 0;
    for old in block.split(|byte| *byte == 0) {
        let key = old.split(|byte| *byte == b'=').next().unwrap_or_default();
        let is_of_key =
            |entry: &&Vec<u8>| entry.strip_prefix(key).is_some_and(|rest| rest.first() == Some(&b'='));
        if let Some(entry) = entries.iter().find(is_of_key).filter(|entry| !key.is_empty() && **entry != old)
        {
            if entry.len() > old.len() {
                too_long += 1;
            } else {
                let mut bytes = entry.clone();
                bytes.resize(old.len(), 0);
                list.push((at, bytes));
            }
        }
        at += old.len() + 1;
    }
    (list, too_long)
}

impl Kernel {
    /// Let the environments of all processes say `entries`.
    pub(super) fn change_environments(&self, entries: &[Vec<u8>]) {
        if entries.is_empty() {
            return;
        }
        let mut too_long = 0;
        for process in self.processes() {
            let (start, end) = process.program.borrow().environment;
            let mut block = vec![0; end.saturating_sub(start).min(ENVIRONMENT_MAX) as usize];
            let space = process.space();
            let mut space = space.borrow_mut();
            // It is the program's memory: what it has unmapped is left alone.
            if space.read(start, &mut block).is_err() {
                continue;
            }
            let (changes, longer) = changes(&block, entries);
            too_long += longer;
            for (at, bytes) in changes {
                let _ = space.write(start + at as u64, &bytes);
            }
        }
        if too_long > 0 {
            self.log(3, "a clone's environment keeps values of its snapshot: the new ones are longer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(block: &[u8], entries: &[&[u8]]) -> (Vec<u8>, usize) {
        let entries: Vec<Vec<u8>> = entries.iter().map(|entry| entry.to_vec()).collect();
        let (changes, too_long) = changes(block, &entries);
        let mut block = block.to_vec();
        changes.iter().for_each(|(at, bytes)| block[*at..at + bytes.len()].copy_from_slice(bytes));
        (block, too_long)
    }

    #[test]
    fn values_are_replaced_in_place() {
        let block = b"A=1\0HOSTNAME=pod-one\0HOSTNAMES=x\0";
        let (new, too_long) = changed(block, &[b"HOSTNAME=pod-two", b"B=2"]);
        assert_eq!((new.as_slice(), too_long), (&b"A=1\0HOSTNAME=pod-two\0HOSTNAMES=x\0"[..], 0));
        assert_eq!(changed(block, &[b"HOSTNAME=p"]).0, b"A=1\0HOSTNAME=p\0\0\0\0\0\0\0HOSTNAMES=x\0");
        assert_eq!(changed(block, &[b"HOSTNAME=pod-three"]), (block.to_vec(), 1), "no room");
    }

    #[test]
    fn anything_may_stand_there() {
        for block in [&b""[..], b"\0\0", b"=\0", b"A", b"A=1", b"=A\0A=\0"] {
            let (new, _) = changed(block, &[b"A=9", b"=x", b""]);
            assert_eq!(new.len(), block.len());
        }
    }
}
