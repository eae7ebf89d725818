//! What the daemon is told: a TOML file, and flags that win over it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use serde::Deserialize;

use crate::memory::Share;

/// The configuration file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str = "/etc/seuss/snapshotter.toml";

/// Instead of a path: no socket.
pub const NO_SOCKET: &str = "none";

/// Where image layers and memory snapshots are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ImageStore {
    /// On a tmpfs of the daemon's own.
    #[default]
    Memory,
    /// In the directory itself, whatever file system it is on.
    Disk,
}

/// Where the files of committed layers are for runtimes on the host's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LayerFiles {
    /// In the layers' images, which are mounted, where the kernel can do that.
    #[default]
    Image,
    /// In directories, beside the images.
    Directory,
}

/// A number of bytes: `512MiB`, `8GiB`, `1048576`, or `50%` of the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail =
            || format!("{text:?} is no size: write 512MiB, 8GiB, a number of bytes, or 50% of the memory");
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let number: u64 = text[..end].parse().map_err(|_| fail())?;
        let factor = match text[end..].trim() {
            "" | "B" => 1,
            "KiB" | "K" | "Ki" => 1 << 10,
            "MiB" | "M" | "Mi" => 1 << 20,
            "GiB" | "G" | "Gi" => 1 << 30,
            "TiB" | "T" | "Ti" => 1 << 40,
            "%" if number <= 100 => return Ok(Self(memory_bytes() / 100 * number)),
            _ => return Err(fail()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(fail)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(bytes) => Ok(Self(bytes)),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// The machine's memory (sysinfo(2)).
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the field's type depends on the architecture")]
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
}

/// Flags. Each has its place in the file, under the same name with `_` for `-`.
#[derive(Debug, Default, Parser, Deserialize)]
#[command(
    name = "seuss-snapshotter",
    version,
    about = "Keeps image layers and memory snapshots of a node in memory; a snapshotter plugin of containerd"
)]
#[serde(deny_unknown_fields, default)]
pub struct Flags {
    /// Configuration file [default: /etc/seuss/snapshotter.toml, if it exists].
    #[arg(long, env = "SEUSS_SNAPSHOTTER_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Directory of the store; the tmpfs is mounted here [default: /var/lib/seuss].
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// Socket for containerd [default: /run/seuss/snapshotter.sock].
    #[arg(long)]
    pub socket: Option<PathBuf>,
    /// Socket of the store of memory snapshots [default: /run/seuss/store.sock].
    #[arg(long)]
    pub store_socket: Option<PathBuf>,
    /// What memory snapshots may take together [default: half of the size].
    #[arg(long)]
    pub memory_budget: Option<Size>,
    /// What the memory snapshots of one tenant (a Kubernetes namespace) may take [default: half of memory_budget].
    #[arg(long)]
    pub tenant_budget: Option<Size>,
    /// How many a tenant may have [default: 1024].
    #[arg(long)]
    pub tenant_snapshots: Option<u64>,
    /// What the memory snapshots that one guest has taken may take [default: half of tenant_budget].
    #[arg(long)]
    pub guest_budget: Option<Size>,
    /// How many of a guest's there may be [default: 64].
    #[arg(long)]
    pub guest_snapshots: Option<u64>,
    /// How often a guest may be captured in a minute [default: 12].
    #[arg(long)]
    pub captures_per_minute: Option<u32>,
    /// What is made free for image layers when containerd prepares one, by evicting memory snapshots that nobody uses [default: an eighth of the size].
    #[arg(long)]
    pub layer_room: Option<Size>,
    /// Socket for metrics and health, HTTP; `none`: no such socket [default: /run/seuss/metrics.sock].
    #[arg(long)]
    pub metrics_socket: Option<PathBuf>,
    /// Where layers are kept [default: memory].
    #[arg(long)]
    pub image_store: Option<ImageStore>,
    /// Where runc finds the files of layers: in their images, mounted, or in directories beside them, which take as much memory again
    /// [default: image].
    #[arg(long)]
    pub layer_files: Option<LayerFiles>,
    /// Size of the tmpfs [default: 50%].
    #[arg(long)]
    pub size: Option<Size>,
    /// New snapshots are refused when less than this is free [default: 16MiB].
    #[arg(long)]
    pub reserve: Option<Size>,
    /// Unmount the layers and the tmpfs of the store and end: all that is on the tmpfs is lost.
    #[arg(long)]
    #[serde(skip)]
    pub forget: bool,
}

/// What the daemon goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of the store.
    pub root: PathBuf,
    /// Socket for containerd.
    pub socket: PathBuf,
    /// Socket of the store of memory snapshots.
    pub store_socket: PathBuf,
    /// What memory snapshots may take.
    pub memory_budget_bytes: u64,
    /// What each tenant may have of it.
    pub tenant: Share,
    /// What each guest may have of it.
    pub guest: Share,
    /// How often a guest may be captured in a minute.
    pub captures_per_minute: u32,
    /// What is made free for image layers.
    pub layer_room_bytes: u64,
    /// Socket for metrics and health.
    pub metrics_socket: Option<PathBuf>,
    /// Where layers are kept.
    pub image_store: ImageStore,
    /// Where the files of committed layers are.
    pub layer_files: LayerFiles,
    /// Size of the tmpfs.
    pub size_bytes: u64,
    /// New snapshots are refused when less than this is free.
    pub reserve_bytes: u64,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}", path = .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("the configuration {path} is wrong: {source}", path = .path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A path is not absolute: containerd and shims would not find it.
    #[error("{name} = {path} is not an absolute path", path = .path.display())]
    Relative {
        /// Which.
        name: &'static str,
        /// Its value.
        path: PathBuf,
    },
}

impl Config {
    /// Joins `flags` with the file that they name, or the usual one.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let (path, named) = match &flags.config {
            Some(path) => (path.as_path(), true),
            None => (Path::new(DEFAULT_FILE), false),
        };
        let file = match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !named => Flags::default(),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        Self::join(flags, file)
    }

    fn join(flags: Flags, file: Flags) -> Result<Self, ConfigError> {
        let absolute = |name: &'static str, flag: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            let path = flag.or(file).unwrap_or_else(|| default.into());
            if path.is_absolute() || path == Path::new(NO_SOCKET) {
                Ok(path)
            } else {
                Err(ConfigError::Relative { name, path })
            }
        };
        let metrics =
            absolute("metrics_socket", flags.metrics_socket, file.metrics_socket, "/run/seuss/metrics.sock")?;
        let size_bytes = flags.size.or(file.size).map_or_else(|| memory_bytes() / 2, |size| size.0);
        let memory_budget_bytes =
            flags.memory_budget.or(file.memory_budget).map_or(size_bytes / 2, |size| size.0);
        let tenant = Share {
            bytes: flags.tenant_budget.or(file.tenant_budget).map_or(memory_budget_bytes / 2, |size| size.0),
            snapshots: flags.tenant_snapshots.or(file.tenant_snapshots).unwrap_or(1024),
        };
        let guest = Share {
            bytes: flags.guest_budget.or(file.guest_budget).map_or(tenant.bytes / 2, |size| size.0),
            snapshots: flags.guest_snapshots.or(file.guest_snapshots).unwrap_or(64),
        };
        Ok(Self {
            tenant,
            guest,
            captures_per_minute: flags.captures_per_minute.or(file.captures_per_minute).unwrap_or(12),
            layer_room_bytes: flags.layer_room.or(file.layer_room).map_or(size_bytes / 8, |size| size.0),
            store_socket: absolute(
                "store_socket",
                flags.store_socket,
                file.store_socket,
                "/run/seuss/store.sock",
            )?,
            memory_budget_bytes,
            root: absolute("root", flags.root, file.root, "/var/lib/seuss")?,
            socket: absolute("socket", flags.socket, file.socket, "/run/seuss/snapshotter.sock")?,
            metrics_socket: Some(metrics).filter(|path| path != Path::new(NO_SOCKET)),
            image_store: flags.image_store.or(file.image_store).unwrap_or_default(),
            layer_files: flags.layer_files.or(file.layer_files).unwrap_or_default(),
            size_bytes,
            reserve_bytes: flags.reserve.or(file.reserve).map_or(16 << 20, |size| size.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!("512MiB".parse(), Ok(Size(512 << 20)));
        assert_eq!("8G".parse(), Ok(Size(8 << 30)));
        assert_eq!("4096".parse(), Ok(Size(4096)));
        let half: Size = "50%".parse().unwrap();
        assert!(half.0 > 0 && half.0 < memory_bytes());
        for text in ["", "MiB", "-1", "101%", "1XiB", "99999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file: Flags =
            toml::from_str("root = \"/a\"\nsize = \"1GiB\"\nimage_store = \"disk\"\nreserve = 4096\nlayer_files = \"directory\"\n")
                .unwrap();
        let flags =
            Flags { root: Some("/b".into()), metrics_socket: Some(NO_SOCKET.into()), ..Flags::default() };
        let config = Config::join(flags, file).unwrap();
        assert_eq!(config.root, Path::new("/b"));
        assert_eq!((config.size_bytes, config.reserve_bytes), (1 << 30, 4096));
        assert_eq!((config.image_store, config.metrics_socket), (ImageStore::Disk, None));
        assert_eq!(config.layer_files, LayerFiles::Directory);
        assert!(toml::from_str::<Flags>("sizes = 1").is_err());
        let relative = Flags { root: Some("b".into()), ..Flags::default() };
        assert!(matches!(Config::join(relative, Flags::default()), Err(ConfigError::Relative { .. })));
    }
}
