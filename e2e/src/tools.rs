//! The container tools the tests drive, fetched as Debian packages and unpacked (never installed).
//!
//! containerd, the CNI plugins, runc and crun come from the suite whose containerd is asked for, so that they fit each other
//! as users have them. containerd and the plugins run unchanged on Debian 12; runc and crun want a newer C library, and a
//! wrapper does not serve because runc executes itself again: patchelf points them at an unpacked one. iptables comes from
//! Debian 12, in wrappers that point at its unpacked libraries.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::PrivateApt;
use crate::{command, paths, progress};

/// Raised when this module changes what it unpacks.
const STAMP_VERSION: u32 = 2;

/// A containerd release series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Debian 13's 1.7: task API v2 and v3, configuration version 2.
    V1_7,
    /// Debian sid's 2.1: sandbox API, configuration version 3.
    V2_1,
}

impl Version {
    /// Both of them, oldest first.
    pub const ALL: [Self; 2] = [Self::V1_7, Self::V2_1];

    /// `1.7` or `2.1`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_7 => "1.7",
            Self::V2_1 => "2.1",
        }
    }

    /// The shared libraries of this suite's runc and crun.
    fn libraries(self) -> &'static [&'static str] {
        match self {
            Self::V1_7 => &["libc6", "libcap2", "libseccomp2", "libsystemd0", "libyajl2"],
            Self::V2_1 => &[
                "libc6",
                "libcap2",
                "libseccomp2",
                "libsystemd0",
                "libjson-c5",
                "libblake3-0",
                "libtbb12",
                "libgcc-s1",
                "libstdc++6",
            ],
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V1_7 => "trixie",
            Self::V2_1 => "sid",
        }
    }
}

impl std::str::FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|version| version.name() == text)
            .with_context(|| format!("unknown containerd version {text:?}: 1.7 or 2.1"))
    }
}

/// Where the fetched tools are.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Directories to put in front of `PATH`.
    pub path: Vec<PathBuf>,
    /// The CNI plugins.
    pub cni: PathBuf,
    /// `runc` of the same suite as containerd.
    pub runc: PathBuf,
    /// `crun` likewise.
    pub crun: PathBuf,
}

impl Tools {
    /// Fetches what the cache does not hold yet. `$SEUSS_CONTAINERD` names a directory with another containerd and ctr.
    ///
    /// # Errors
    /// A package is missing from the cache and cannot be downloaded.
    pub fn fetch(version: Version) -> Result<Self> {
        let tools = paths::cache().join("tools");
        let containerd = tools.join(format!("containerd-{}", version.name()));
        unpacked(&containerd, version.suite(), &["containerd", "containernetworking-plugins"], |_| Ok(()))?;
        let patchelf = tools.join("patchelf");
        unpacked(&patchelf, "bookworm", &["patchelf", "libstdc++6", "libgcc-s1"], |dir| {
            wrapper(dir, "patchelf", &dir.join("usr/bin/patchelf"), "")
        })?;
        let oci = tools.join(format!("runtimes-{}", version.name()));
        unpacked(&oci, version.suite(), &[&["runc", "crun"], version.libraries()].concat(), |dir| {
            for program in ["usr/sbin/runc", "usr/bin/crun"] {
                use_unpacked_libraries(&patchelf, dir, &dir.join(program))?;
            }
            Ok(())
        })?;
        let iptables = tools.join("iptables");
        let packages = ["iptables", "libip4tc2", "libip6tc2", "libxtables12", "libmnl0"];
        let more = ["libnetfilter-conntrack3", "libnfnetlink0", "libnftnl11"];
        unpacked(&iptables, "bookworm", &[packages.as_slice(), more.as_slice()].concat(), |dir| {
            for name in ["iptables", "ip6tables", "iptables-save", "iptables-restore", "ip6tables-restore"] {
                wrapper(dir, name, &dir.join("usr/sbin/xtables-nft-multi"), name)?;
            }
            Ok(())
        })?;

        let own = containerd.join("usr/bin");
        let chosen = std::env::var_os("SEUSS_CONTAINERD").map(PathBuf::from);
        let path = chosen.into_iter().chain([
            oci.join("usr/sbin"),
            oci.join("usr/bin"),
            iptables.join("wrappers"),
            own,
        ]);
        Ok(Self {
            path: path.collect(),
            cni: containerd.join("usr/lib/cni"),
            runc: oci.join("usr/sbin/runc"),
            crun: oci.join("usr/bin/crun"),
        })
    }

    /// `PATH` with the tools in front of the system's directories.
    pub fn search_path(&self) -> String {
        let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        let own = self.path.iter().map(|dir| dir.to_string_lossy().into_owned());
        own.chain(system.map(str::to_owned)).collect::<Vec<_>>().join(":")
    }

    /// What each tool says its version is, for reports.
    pub fn versions(&self) -> Vec<(String, String)> {
        let ask = |program: &str| {
            let mut command = Command::new("env");
            command.arg(format!("PATH={}", self.search_path())).args([program, "--version"]);
            let text = command::output(&mut command).unwrap_or_default();
            let line = String::from_utf8_lossy(&text).lines().next().unwrap_or("missing").to_owned();
            (program.to_owned(), line)
        };
        ["containerd", "runc", "crun"].map(ask).to_vec()
    }
}

/// Unpacks `packages` into `dir` and lets `finish` add to it, unless an earlier run completed the same.
fn unpacked(
    dir: &Path,
    suite: &str,
    packages: &[&str],
    finish: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let stamp = format!("{STAMP_VERSION} {suite} {}\n", packages.join(" "));
    let stamp_file = dir.join("complete");
    if fs::read_to_string(&stamp_file).is_ok_and(|text| text == stamp) {
        return Ok(());
    }
    fs::create_dir_all(paths::cache())?;
    let turn = fs::File::create(paths::cache().join("tools.lock"))?;
    turn.lock()?;
    if fs::read_to_string(&stamp_file).is_ok_and(|text| text == stamp) {
        return Ok(());
    }
    progress::step(format!("unpacking {} (not installing): {}", dir.display(), packages.join(" ")));
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    PrivateApt::new(suite).unpack(packages, dir)?;
    finish(dir)?;
    fs::write(&stamp_file, stamp)?;
    Ok(())
}

/// Makes an executable below `dir` run with the C library and the other libraries unpacked there.
fn use_unpacked_libraries(patchelf: &Path, dir: &Path, program: &Path) -> Result<()> {
    let libraries = dir.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(patchelf.join("wrappers/patchelf"));
    command.arg("--set-interpreter").arg(libraries.join("ld-linux-x86-64.so.2"));
    command.args(["--force-rpath", "--set-rpath"]).arg(&libraries).arg(program);
    command::run(&mut command)
}

/// Writes `DIR/wrappers/NAME`, which runs `program` with the unpacked libraries. `applet` is the first argument of a
/// multi-call binary.
fn wrapper(dir: &Path, name: &str, program: &Path, applet: &str) -> Result<()> {
    let wrappers = dir.join("wrappers");
    fs::create_dir_all(&wrappers)?;
    let libraries = dir.join("usr/lib/x86_64-linux-gnu");
    let older = dir.join("lib/x86_64-linux-gnu");
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={}:{} XTABLES_LIBDIR={} exec {} {applet} \"$@\"\n",
        libraries.display(),
        older.display(),
        libraries.join("xtables").display(),
        program.display()
    );
    let file = wrappers.join(name);
    fs::write(&file, text)?;
    fs::set_permissions(&file, Permissions::from_mode(0o755)).context("chmod")
}
