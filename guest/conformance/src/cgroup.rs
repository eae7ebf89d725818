//! A memory cgroup for a program on Linux, so that it runs out of memory where the guest does. Version 1 and version 2.
//!
//! Reference: cgroup-v2 and cgroup-v1/memory documents of the kernel.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// A cgroup that is removed when this is dropped; whoever is still in it is killed first.
#[derive(Debug)]
pub struct MemoryCgroup {
    dir: PathBuf,
    home: PathBuf,
}

impl MemoryCgroup {
    /// A new cgroup for at most `limit` (`256M`) of memory and no swap.
    ///
    /// # Errors
    /// Not root, no memory controller, or a limit that is no size.
    pub fn with_limit(limit: &str) -> Result<Self> {
        let bytes = parse_size(limit)?.to_string();
        let v1 = Path::new(V1).join("memory.limit_in_bytes").exists()
            || Path::new(V1).join("cgroup.procs").exists();
        let home = PathBuf::from(if v1 { V1 } else { V2 });
        let dir = home.join(format!("seuss-conformance-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let cgroup = Self { dir, home };
        if v1 {
            cgroup.write("memory.limit_in_bytes", &bytes)?;
            let _ = cgroup.write("memory.memsw.limit_in_bytes", &bytes);
        } else {
            cgroup.write("memory.max", &bytes)?;
            let _ = cgroup.write("memory.swap.max", "0");
        }
        Ok(cgroup)
    }

    /// Moves this process, and what it will start, into the cgroup.
    ///
    /// # Errors
    /// Not root.
    pub fn enter(&self) -> Result<()> {
        self.write("cgroup.procs", "0")
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        // The last process may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Whether this machine lets us make one.
pub fn available() -> bool {
    MemoryCgroup::with_limit("64M").is_ok()
}

fn parse_size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    match digits.parse::<u64>() {
        Ok(number) => Ok(number << shift),
        Err(_) => bail!("not a size: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("256M").unwrap(), 256 << 20);
        assert_eq!(parse_size("1G").unwrap(), 1 << 30);
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert!(parse_size("many").is_err());
    }
}
