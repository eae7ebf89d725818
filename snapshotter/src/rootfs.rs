//! Root file systems for guests: from a directory or an OCI image to one checked EROFS blob per layer.
//!
//! Owns the order of things: layers are read once, written, verified against their digests, checked, and only then
//! handed out, as sealed memory files or read-only files of a [`BlobCache`]. Blobs are base first; a guest lays them
//! over each other as overlayfs does.

mod cache;
mod memory;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use rustix::fs::FileType;

pub use cache::BlobCache;

use crate::beneath::{Dir, Pinned};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::erofs::{self, BuildError, BuildOptions, BuildReport, CorruptError, Lower, Reader};
use crate::oci::{Image, Layer, OciError};

/// Why a root file system could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootfsError {
    /// The source is not there.
    #[error("cannot open the root file system {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The source is no usable image.
    #[error("{}: {source}", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<OciError>,
    },
    /// A layer is damaged.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Which.
        layer: String,
        /// Why.
        source: Box<OciError>,
    },
    /// A layer or directory cannot become an image.
    #[error("layer {layer}: {source}")]
    Build {
        /// Which.
        layer: String,
        /// Why.
        source: Box<BuildError>,
    },
    /// A blob is not a valid EROFS image.
    #[error("the EROFS image of layer {layer} is corrupt: {source}")]
    Corrupt {
        /// Which.
        layer: String,
        /// Why.
        source: Box<CorruptError>,
    },
    /// Memory for a blob could not be had.
    #[error("cannot make a memory file for layer {layer}: {source}")]
    Memory {
        /// Which.
        layer: String,
        /// Why.
        source: io::Error,
    },
    /// The cache cannot be used.
    #[error("cannot {action} {} of the layer cache: {source}", path.display())]
    Cache {
        /// What was being done.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where a root file system comes from.
#[derive(Debug)]
pub enum RootfsSource {
    /// A directory of the host.
    Dir(Dir),
    /// An OCI image.
    Image {
        /// Where it was opened.
        path: PathBuf,
        /// The image.
        image: Box<Image>,
    },
}

/// How blobs are made and where they go.
#[derive(Debug, Default)]
pub struct RootfsOptions<'c> {
    /// Limits.
    pub build: BuildOptions,
    /// Where layers of images are kept; without one, blobs are sealed memory files. A directory is never cached.
    pub cache: Option<&'c BlobCache>,
}

/// A checked EROFS image in a file that nobody can change (sealed memory, or a file of the cache).
#[derive(Debug)]
pub struct Blob {
    /// The file, open for reading; the image starts at its offset 0.
    pub file: OwnedFd,
    /// Bytes of the image, a multiple of 4096.
    pub len_bytes: u64,
    /// sha256 of these bytes: what a snapshot that refers to pages of the blob must record.
    pub digest: Digest,
    /// The layer's diff id; `None` for a directory.
    pub diff_id: Option<Digest>,
}

/// A root file system.
#[derive(Debug)]
pub struct RootfsImage {
    /// Base first.
    pub layers: Vec<Blob>,
    /// Entry point, environment and so on; `None` for a directory.
    pub config: Option<ImageConfiguration>,
}

/// Opens a root file system: a directory, an OCI layout directory (it has a file `oci-layout`), or an archive.
///
/// # Errors
/// [`RootfsError::Open`], [`RootfsError::Image`].
pub fn open(path: &Path) -> Result<RootfsSource, RootfsError> {
    open_named(path, None)
}

/// As [`open`], choosing an image by name where an archive holds several.
///
/// # Errors
/// [`RootfsError::Open`], [`RootfsError::Image`].
pub fn open_named(path: &Path, reference: Option<&str>) -> Result<RootfsSource, RootfsError> {
    let open_error = |source| RootfsError::Open { path: path.into(), source };
    open_pinned(Pinned::open_any(path).map_err(open_error)?, path, reference)
}

/// As [`open_named`], for what was found at `path`.
///
/// # Errors
/// [`RootfsError::Open`], [`RootfsError::Image`].
pub fn open_pinned(
    pinned: Pinned,
    path: &Path,
    reference: Option<&str>,
) -> Result<RootfsSource, RootfsError> {
    let is_dir = pinned.kind() == FileType::Directory;
    if is_dir && !(pinned.has_file("oci-layout") && pinned.has_file("index.json")) {
        let dir = pinned.into_dir(path);
        return dir.map(RootfsSource::Dir).map_err(|source| RootfsError::Open { path: path.into(), source });
    }
    let image = Image::open_pinned(pinned, path, reference)
        .map_err(|source| RootfsError::Image { path: path.into(), source: Box::new(source) })?;
    Ok(RootfsSource::Image { path: path.into(), image: Box::new(image) })
}

impl RootfsSource {
    /// Makes the blobs, or takes them from the cache.
    ///
    /// # Errors
    /// [`RootfsError`], naming the layer.
    pub fn build(&self, options: &RootfsOptions<'_>) -> Result<RootfsImage, RootfsError> {
        match self {
            Self::Dir(dir) => {
                let layer = dir.path().display().to_string();
                let file = memory::file(&layer)?;
                let report = erofs::build_from_open_dir(dir, &file, &options.build).map_err(|source| {
                    RootfsError::Build { layer: layer.clone(), source: Box::new(source) }
                })?;
                let digest = check_and_digest(&layer, &file, report.len_bytes)?;
                let file = memory::freeze(&layer, file)?;
                let blob = Blob { file, len_bytes: report.len_bytes, digest, diff_id: None };
                Ok(RootfsImage { layers: vec![blob], config: None })
            }
            Self::Image { image, .. } => {
                let mut layers: Vec<Blob> = Vec::new();
                let mut readers: Vec<Reader<File>> = Vec::new();
                for (layer, chain_id) in image.layers().iter().zip(image.chain_ids()) {
                    let step = Step { image, layer, chain_id, options, readers: &readers };
                    let blob = step.blob()?;
                    readers.push(step.reader(&blob)?);
                    layers.push(blob);
                }
                Ok(RootfsImage { layers, config: Some(image.config().clone()) })
            }
        }
    }
}

/// One layer on its way to a blob.
struct Step<'a> {
    image: &'a Image,
    layer: &'a Layer,
    chain_id: Digest,
    options: &'a RootfsOptions<'a>,
    /// The layers below.
    readers: &'a [Reader<File>],
}

impl Step<'_> {
    fn name(&self) -> String {
        self.layer.diff_id.to_string()
    }

    fn blob(&self) -> Result<Blob, RootfsError> {
        let Some(cache) = self.options.cache else {
            let file = memory::file(&self.name())?;
            let report = self.write(&file)?;
            let digest = check_and_digest(&self.name(), &file, report.len_bytes)?;
            let file = memory::freeze(&self.name(), file)?;
            return Ok(self.finished(file, report.len_bytes, digest));
        };
        // A layer whose image depends on the layers below is kept under its chain id.
        let keys = [cache::Key::Layer(&self.layer.diff_id), cache::Key::Chain(&self.chain_id)];
        for key in keys {
            if let Some(found) = cache.find(key)? {
                match erofs::check(&found.file, found.len_bytes) {
                    Ok(_) => return Ok(self.finished(found.file.into(), found.len_bytes, found.digest)),
                    Err(e) => {
                        tracing::warn!(layer = %self.layer.diff_id, error = %e, path = %found.path.display(),
                            "a cached layer is corrupt; building it again");
                        cache.remove(&found.path)?;
                    }
                }
            }
        }
        let entry = cache.start()?;
        let report = self.write(entry.file())?;
        let digest = check_and_digest(&self.name(), entry.file(), report.len_bytes)?;
        let file = entry.commit(keys[usize::from(report.depends_on_lower)], &digest)?;
        Ok(self.finished(file.into(), report.len_bytes, digest))
    }

    fn finished(&self, file: OwnedFd, len_bytes: u64, digest: Digest) -> Blob {
        Blob { file, len_bytes, digest, diff_id: Some(self.layer.diff_id.clone()) }
    }

    fn write(&self, file: &File) -> Result<BuildReport, RootfsError> {
        let bad_layer = |source| RootfsError::Layer { layer: self.name(), source: Box::new(source) };
        // Headers and padding come on top of the files' data.
        let expanded_max = self.options.build.data_bytes_max.saturating_mul(2);
        let mut reader = self.image.read_layer(self.layer, expanded_max).map_err(bad_layer)?;
        let lower = Lower::new(self.readers.iter().collect());
        let built = erofs::build_from_tar_over(&mut reader, file, &self.options.build, &lower);
        match built {
            Ok(report) => reader.finish().map_err(bad_layer).map(|()| report),
            Err(source) => {
                // When the blob is damaged, say that rather than what came of it.
                if matches!(source, BuildError::Tar(_) | BuildError::Data { .. })
                    && let Err(mismatch @ OciError::DigestMismatch { .. }) = reader.finish()
                {
                    return Err(bad_layer(mismatch));
                }
                Err(RootfsError::Build { layer: self.name(), source: Box::new(source) })
            }
        }
    }

    fn reader(&self, blob: &Blob) -> Result<Reader<File>, RootfsError> {
        let layer = self.name();
        let file =
            blob.file.try_clone().map_err(|source| RootfsError::Memory { layer: layer.clone(), source })?;
        Reader::open(File::from(file), blob.len_bytes)
            .map_err(|source| RootfsError::Corrupt { layer, source: Box::new(source) })
    }
}

/// Checks an image and digests it; `layer` is for messages.
pub(crate) fn check_and_digest(layer: &str, file: &File, len_bytes: u64) -> Result<Digest, RootfsError> {
    use std::os::unix::fs::FileExt;
    let corrupt = |source| RootfsError::Corrupt { layer: layer.into(), source: Box::new(source) };
    erofs::check(file, len_bytes).map_err(corrupt)?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 1 << 20];
    let mut offset_bytes = 0;
    while offset_bytes < len_bytes {
        let want =
            usize::try_from(len_bytes - offset_bytes).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..want], offset_bytes)
            .map_err(|source| corrupt(CorruptError::Io { offset_bytes, len_bytes: want, source }))?;
        hasher.update(&buffer[..want]);
        offset_bytes += want as u64;
    }
    Ok(hasher.finish())
}
