//! `seussctl convert`: a directory to an EROFS image, so that each later run starts without the conversion.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use seuss_snapshotter::erofs::{self, BuildError, BuildOptions};

use super::ConvertArgs;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The directory cannot be converted.
    #[error("cannot convert {path}: {source}", path = .path.display())]
    Build {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: BuildError,
    },
    /// The image cannot be written.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes the image under a temporary name and renames it: who reads the old one goes on reading it.
///
/// # Errors
/// [`ConvertError`].
pub fn convert(args: &ConvertArgs) -> Result<(), ConvertError> {
    let temporary = args.output.with_extension(format!("{}.tmp", std::process::id()));
    let write = |source| ConvertError::Write { path: args.output.clone(), source };
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&temporary);
    let built = erofs::build_from_dir(&args.directory, &file.map_err(write)?, &BuildOptions::default());
    if let Err(source) = built {
        let _ = std::fs::remove_file(&temporary);
        return Err(ConvertError::Build { path: args.directory.clone(), source });
    }
    std::fs::rename(&temporary, &args.output).map_err(write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::RootImage;

    #[test]
    fn a_directory_becomes_an_image_that_opens() {
        let dir = tempfile::tempdir().unwrap();
        let (directory, output) = (dir.path().join("root"), dir.path().join("root.erofs"));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("hello"), "text").unwrap();
        convert(&ConvertArgs { directory, output: output.clone() }).unwrap();
        assert_eq!(RootImage::open(&output, None, None).unwrap().layer_count(), 1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn a_directory_that_is_missing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let args = ConvertArgs { directory: dir.path().join("none"), output: dir.path().join("root.erofs") };
        assert!(convert(&args).unwrap_err().to_string().contains("none"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
