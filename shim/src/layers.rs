//! Layers that containerd's snapshotter keeps as EROFS images: a container's root file system without reading it.
//!
//! Owns [`kept_layers`]. seuss-snapshotter has the image of a layer beside its directory; the mounts that containerd passes name these directories,
//! so the shim needs no answer of the daemon. Mounts of another snapshotter are not recognised, and their files are read
//! ([`crate::container`]'s slow way).

use std::path::{Path, PathBuf};

use seuss_snapshotter::beneath::Dir;
use seuss_snapshotter::lookup::{self, LayerBlob, LookupError};

use crate::mount::MountSpec;

/// The layers of a root file system, base first.
#[derive(Debug)]
pub struct KeptLayers {
    /// Images of the committed layers.
    pub blobs: Vec<LayerBlob>,
    /// The container's own layer, where something is in it; it goes on top.
    pub upper: Option<Dir>,
    /// Socket of the node's store of memory snapshots, where the snapshotter's daemon tells it.
    pub store: Option<PathBuf>,
}

/// The images of the layers that `mounts` put together; `None` if they are not of a kind that seuss-snapshotter makes, or a layer has no
/// image.
///
/// # Errors
/// [`LookupError`]: there is an image, but it must not be used.
pub fn kept_layers(mounts: &[MountSpec]) -> Result<Option<KeptLayers>, LookupError> {
    let [mount] = mounts else { return Ok(None) };
    if !mount.target.is_empty() {
        return Ok(None);
    }
    let option = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name));
    let (lower, upper) = match mount.kind.as_str() {
        "overlay" => {
            let Some(lower) = option("lowerdir=") else { return Ok(None) };
            // An escaped colon is none of our paths'.
            if lower.contains('\\') {
                return Ok(None);
            }
            (lower.split(':').collect::<Vec<_>>(), option("upperdir="))
        }
        // A view of one layer.
        "bind" => (vec![mount.source.as_str()], None),
        _ => return Ok(None),
    };
    let store = match lower.first() {
        Some(dir) => lookup::store_socket(Path::new(dir))?,
        None => None,
    };
    let mut blobs = Vec::with_capacity(lower.len());
    for dir in lower.into_iter().rev() {
        let Some(blob) = lookup::layer_blob(Path::new(dir))? else { return Ok(None) };
        blobs.push(blob);
    }
    let upper = match upper.map(Path::new) {
        Some(path) => {
            let opened =
                Dir::open(path).map_err(|source| LookupError::Io { path: path.to_owned(), source })?;
            // One that cannot be listed is not empty: making an image of it will say why.
            Some(opened).filter(|dir| !dir.names().is_ok_and(|names| names.is_empty()))
        }
        None => None,
    };
    Ok(Some(KeptLayers { blobs, upper, store }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use seuss_snapshotter::erofs;
    use seuss_snapshotter::lookup::{NOTE_VERSION, Note};

    use super::*;

    /// A committed snapshot with one file, as the daemon keeps it.
    fn snapshot(root: &Path, name: &str) -> PathBuf {
        let dir = root.join(name);
        fs::create_dir_all(dir.join("fs")).unwrap();
        fs::write(dir.join("fs").join(name), name).unwrap();
        let path = dir.join("layer.erofs");
        let file = fs::File::options().create_new(true).read(true).write(true).open(path).unwrap();
        let report = erofs::build_from_dir(&dir.join("fs"), &file, &erofs::BuildOptions::default()).unwrap();
        let digest = format!("sha256:{}", "0".repeat(64));
        let note = Note { version: NOTE_VERSION, digest, len_bytes: report.len_bytes };
        fs::write(dir.join("layer.json"), serde_json::to_vec(&note).unwrap()).unwrap();
        dir.join("fs")
    }

    fn overlay(options: &[String]) -> [MountSpec; 1] {
        [MountSpec {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: options.to_vec(),
        }]
    }

    #[test]
    fn layers_come_base_first() {
        let dir = tempfile::tempdir().unwrap();
        let (base, top) = (snapshot(dir.path(), "1"), snapshot(dir.path(), "2"));
        let upper = dir.path().join("3/fs");
        fs::create_dir_all(&upper).unwrap();
        let options = [
            "index=off".to_owned(),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}:{}", top.display(), base.display()),
        ];
        let kept = kept_layers(&overlay(&options)).unwrap().unwrap();
        let names: Vec<_> = kept.blobs.iter().map(|blob| blob.path.parent().unwrap().file_name()).collect();
        assert_eq!(names, [Some("1".as_ref()), Some("2".as_ref())]);
        assert!(kept.upper.is_none());
        fs::write(upper.join("x"), "").unwrap();
        assert_eq!(kept_layers(&overlay(&options)).unwrap().unwrap().upper.unwrap().path(), upper);
    }

    #[test]
    fn other_snapshotters_are_not_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let (base, other) = (snapshot(dir.path(), "1"), dir.path().join("2/fs"));
        fs::create_dir_all(&other).unwrap();
        let options = [format!("lowerdir={}:{}", other.display(), base.display())];
        assert!(kept_layers(&overlay(&options)).unwrap().is_none());
        assert!(kept_layers(&[]).unwrap().is_none());
        let bind = MountSpec { kind: "bind".into(), source: "/tmp".into(), ..MountSpec::default() };
        assert!(kept_layers(&[bind]).unwrap().is_none());
    }

    #[test]
    fn images_that_others_can_write_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let base = snapshot(dir.path(), "1");
        let blob = dir.path().join("1/layer.erofs");
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o666)).unwrap();
        let options = [format!("lowerdir={}", base.display())];
        assert!(matches!(kept_layers(&overlay(&options)), Err(LookupError::Unfit { .. })));
        fs::remove_file(&blob).unwrap();
        assert!(matches!(kept_layers(&overlay(&options)), Err(LookupError::Unfit { .. })));
    }
}
