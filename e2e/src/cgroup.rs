//! One node's cgroups: a directory of a unique name in every hierarchy, below the cgroup this process is in (v1) or at the
//! hierarchy's root (v2).
//!
//! Reference: cgroups(7), cgroup_namespaces(7).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use seuss_snapshotter::mountinfo;

/// The directories of one node.
#[derive(Debug, Default)]
pub struct Cgroups {
    /// Every directory a process of the node joins.
    pub joined: Vec<PathBuf>,
    /// The controllers of each v1 hierarchy, as mount options.
    pub v1: Vec<String>,
    /// The node's directory on a machine with cgroup v2 only.
    pub v2: Option<PathBuf>,
}

impl Cgroups {
    /// Makes the directories.
    ///
    /// # Errors
    /// Not root, or no hierarchy is mounted where Linux distributions mount them.
    pub fn create(name: &str) -> Result<Self> {
        let mounts = mountinfo::table()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mut cgroups = Self::default();
        if let Some(mount) =
            mounts.iter().find(|mount| mount.kind == "cgroup2" && mount.point.ends_with("sys/fs/cgroup"))
        {
            let dir = mount.point.join(name);
            make(&dir)?;
            cgroups.v2 = Some(dir.clone());
            cgroups.joined.push(dir);
            return Ok(cgroups);
        }
        for (controllers, path) in parse_own(&own) {
            let first = controllers.split(',').next().unwrap_or_default();
            let Some(mount) = mounts
                .iter()
                .find(|mount| mount.kind == "cgroup" && mount.options.iter().any(|option| option == first))
            else {
                continue;
            };
            // The cgroup that the mount shows at its root.
            let root = mount.root.to_string_lossy();
            let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(&path);
            let dir = mount.point.join(below.trim_start_matches('/')).join(name);
            make(&dir)?;
            if controllers.split(',').any(|controller| controller == "cpuset") {
                inherit_cpuset(&dir)?;
            }
            cgroups.joined.push(dir);
            cgroups.v1.push(controllers);
        }
        if cgroups.joined.is_empty() {
            bail!("no cgroup hierarchy is mounted at /sys/fs/cgroup");
        }
        Ok(cgroups)
    }

    /// Where a process started into the node goes: the same directories, but on v2 the one that init moved to.
    pub fn for_processes(&self) -> Vec<PathBuf> {
        match &self.v2 {
            Some(dir) => vec![dir.join("host")],
            None => self.joined.clone(),
        }
    }

    /// The cgroups below the node's that hold containers, relative to the node's directories.
    pub fn containers(&self) -> Vec<String> {
        let mut found: Vec<String> = self.joined.iter().flat_map(|dir| below(dir, dir)).collect();
        found.retain(|path| path != "host");
        found.sort();
        found.dedup();
        found
    }
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("cannot make the cgroup {} (root is needed)", dir.display()))
}

/// A v1 cpuset takes no process before its CPUs and memory nodes are set.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    let parent = dir.parent().context("a cgroup has a parent")?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        fs::write(dir.join(file), fs::read_to_string(parent.join(file))?.trim()).context(file)?;
    }
    Ok(())
}

fn below(dir: &Path, top: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            found.extend(path.strip_prefix(top).map(|path| path.to_string_lossy().into_owned()));
            found.extend(below(&path, top));
        }
    }
    found
}

/// Controllers and path of each v1 line of /proc/self/cgroup.
fn parse_own(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    lines.filter(|(controllers, _)| !controllers.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hybrid_hierarchies() {
        let own = parse_own("9:name=systemd:/\n4:memory:/jobs/7\n3:cpu,cpuacct:/\n0::/\n");
        let expected = [("name=systemd", "/"), ("memory", "/jobs/7"), ("cpu,cpuacct", "/")];
        assert_eq!(own, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
