//! The root file system of a guest: EROFS blobs, a view into them, and what the image says about the program.
//!
//! Owns [`RootImage`], made from a directory, an OCI image or a single EROFS image file. The blobs themselves are the snapshotter's work.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use seuss_snapshotter::beneath::{Dir, Pinned};
use seuss_snapshotter::erofs::{self, CorruptError, Reader};
use seuss_snapshotter::rootfs::{self, BlobCache, RootfsError, RootfsOptions, RootfsSource};
use seuss_snapshotter::snapshot::ImageRef;

use crate::guest::ImageBlob;
use crate::layers::KeptLayers;
use crate::rootview::RootView;

/// Where an EROFS image has its magic number, and what it is.
const EROFS_MAGIC: (u64, u32) = (1024, 0xe0f5_e1e2);

/// Why a root file system cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be opened or converted.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// An EROFS image is damaged.
    #[error("the EROFS image {path} is damaged: {source}; make it anew", path = .path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: CorruptError,
    },
    /// A blob cannot be read back.
    #[error("cannot read layer {layer}: {source}")]
    Layer {
        /// Which, counted from the base, 0.
        layer: usize,
        /// Why.
        source: CorruptError,
    },
    /// A file cannot be opened or its descriptor duplicated.
    #[error("cannot open {path}: {source}", path = .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What an image says about the program to run. Empty for directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Program, or the start of its arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entry point.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `user[:group]`.
    pub user: String,
}

struct Layer {
    file: OwnedFd,
    len_bytes: u64,
    name: String,
    /// SHA-256 of the image, if it is known.
    digest: Option<[u8; 32]>,
}

/// A root file system, ready for guests.
pub struct RootImage {
    layers: Vec<Layer>,
    /// A look into it.
    pub view: RootView,
    /// What it says about the program.
    pub defaults: Defaults,
}

impl std::fmt::Debug for RootImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootImage")
            .field("layers", &self.layers.len())
            .field("defaults", &self.defaults)
            .finish()
    }
}

impl RootImage {
    /// Opens the root file system at `path`: a directory, an OCI layout (archive or directory), or an EROFS image. `reference` chooses among
    /// several images of an archive. Layers of OCI images are kept in `cache`.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn open(path: &Path, reference: Option<&str>, cache: Option<&BlobCache>) -> Result<Self, ImageError> {
        let io = |source| ImageError::Io { path: path.to_owned(), source };
        let pinned = Pinned::open_any(path).map_err(io)?;
        if let Some(file) = erofs_file(&pinned, path) {
            return Self::from_erofs(path, file);
        }
        Self::build(path, rootfs::open_pinned(pinned, path, reference)?, cache)
    }

    /// The files of a directory, whatever they are: a container's root file system is never taken for an image because of a file that it has.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn from_directory(dir: Dir) -> Result<Self, ImageError> {
        let path = dir.path().to_owned();
        Self::build(&path, RootfsSource::Dir(dir), None)
    }

    fn build(path: &Path, source: RootfsSource, cache: Option<&BlobCache>) -> Result<Self, ImageError> {
        let built = source.build(&RootfsOptions { cache, ..RootfsOptions::default() })?;
        let layers = built.layers.into_iter().enumerate().map(|(number, blob)| Layer {
            file: blob.file,
            len_bytes: blob.len_bytes,
            name: blob
                .diff_id
                .as_ref()
                .map_or_else(|| format!("{}#{number}", path.display()), ToString::to_string),
            digest: None,
        });
        let defaults =
            built.config.as_ref().and_then(|config| config.config().as_ref()).map(|config| Defaults {
                entrypoint: config.entrypoint().clone().unwrap_or_default(),
                cmd: config.cmd().clone().unwrap_or_default(),
                env: config.env().clone().unwrap_or_default(),
                cwd: config.working_dir().clone().unwrap_or_default(),
                user: config.user().clone().unwrap_or_default(),
            });
        Self::from_layers(layers.collect(), defaults.unwrap_or_default())
    }

    fn from_erofs(path: &Path, file: File) -> Result<Self, ImageError> {
        let io = |source| ImageError::Io { path: path.to_owned(), source };
        let len_bytes = file.metadata().map_err(io)?.len();
        erofs::check(&file, len_bytes)
            .map_err(|source| ImageError::Corrupt { path: path.to_owned(), source })?;
        let layer = Layer { file: file.into(), len_bytes, name: path.display().to_string(), digest: None };
        Self::from_layers(vec![layer], Defaults::default())
    }

    /// Takes layers that the snapshotter keeps as images; only the container's own layer, if something is in it, is read.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn from_kept(kept: KeptLayers) -> Result<Self, ImageError> {
        let layer = |blob: seuss_snapshotter::lookup::LayerBlob| Layer {
            file: blob.file.into(),
            len_bytes: blob.len_bytes,
            name: blob.digest.to_string(),
            digest: blob.digest.sha256(),
        };
        let mut layers: Vec<Layer> = kept.blobs.into_iter().map(layer).collect();
        if let Some(dir) = kept.upper {
            let name = dir.path().display().to_string();
            let built = RootfsSource::Dir(dir).build(&RootfsOptions::default())?;
            let own = built.layers.into_iter().map(|blob| Layer {
                file: blob.file,
                len_bytes: blob.len_bytes,
                name: name.clone(),
                digest: None,
            });
            layers.extend(own);
        }
        Self::from_layers(layers, Defaults::default())
    }

    fn from_layers(layers: Vec<Layer>, defaults: Defaults) -> Result<Self, ImageError> {
        let mut readers = Vec::with_capacity(layers.len());
        for (number, layer) in layers.iter().enumerate() {
            let file = layer
                .file
                .try_clone()
                .map_err(|source| ImageError::Io { path: layer.name.clone().into(), source })?;
            let reader = Reader::open(File::from(file), layer.len_bytes);
            readers.push(reader.map_err(|source| ImageError::Layer { layer: number, source })?);
        }
        Ok(Self { layers, view: RootView::new(readers), defaults })
    }

    /// The blobs for a guest.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn blobs(&self) -> Result<Vec<ImageBlob>, ImageError> {
        let blob = |layer: &Layer| {
            let file = layer
                .file
                .try_clone()
                .map_err(|source| ImageError::Io { path: layer.name.clone().into(), source })?;
            Ok(ImageBlob { file, len_bytes: layer.len_bytes, name: layer.name.clone() })
        };
        self.layers.iter().map(blob).collect()
    }

    /// The layers as snapshots name them; `None` if the digest of one is not known.
    #[must_use]
    pub fn refs(&self) -> Option<Vec<ImageRef>> {
        let of = |layer: &Layer| Some(ImageRef { digest: layer.digest?, len_bytes: layer.len_bytes });
        self.layers.iter().map(of).collect()
    }

    /// Bytes of all layers.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.len_bytes).sum()
    }

    /// Number of layers.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }
}

/// What was found at `path`, if it is an EROFS image.
fn erofs_file(pinned: &Pinned, path: &Path) -> Option<File> {
    let file = pinned.open_regular().ok()?;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, EROFS_MAGIC.0).ok()?;
    let named = path.extension().is_some_and(|extension| extension == "erofs");
    (named || u32::from_le_bytes(magic) == EROFS_MAGIC.1).then_some(file)
}
