//! `seussctl snapshot export` and `import`: memory snapshots as OCI artifacts, from and into a local store or the node's.

use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use seuss_snapshotter::artifact::{
    Archive, ArtifactError, Imported, SigningKey, TRUSTED_KEYS_DIR, Trust, TrustedKeys, export,
};
use seuss_snapshotter::memory::Client;
use seuss_snapshotter::snapshot::{
    ImageRef, KeepWorkingSet, Snapshot, SnapshotError, SnapshotId, Store, WorkPage,
};

use super::run::RunError;
use crate::size::display_bytes;

/// Where the snapshots are.
#[derive(Args, Debug)]
pub struct Place {
    /// Store of memory snapshots: a directory, or the socket of the node's daemon
    #[arg(long, value_name = "PATH", env = "SEUSS_STORE")]
    pub store: PathBuf,

    /// As which tenant (Kubernetes namespace) the daemon is asked; what is imported is then this tenant's
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub tenant: String,

    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// `seussctl snapshot export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Where
    #[command(flatten)]
    pub place: Place,

    /// Leave the images of root file systems out: who imports must have them
    #[arg(long)]
    pub without_images: bool,

    /// Sign the archive with this secret key of minisign (`minisign -G`). A password is taken from $SEUSS_KEY_PASSWORD, or asked for
    #[arg(long, value_name = "KEYFILE")]
    pub sign: Option<PathBuf>,

    /// Names, ids, or beginnings of ids; what they build on goes with them
    #[arg(required = true, value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,

    /// The archive
    #[arg(value_name = "FILE.tar")]
    pub file: PathBuf,
}

/// `seussctl snapshot import`.
#[derive(Args, Debug)]
#[command(
    after_help = "Whoever starts a clone of a snapshot runs the code of the snapshot's author. So an archive must be signed by a key that is trusted\n\
        here: those in --trusted-keys (files NAME.pub, as `minisign -G` writes them), or those that --key names, and no others then.\n\
        The signature covers every byte that is taken in. By hand: minisign -Vm seuss-snapshots.txt -p KEY.pub, in the unpacked archive."
)]
pub struct ImportArgs {
    /// Where
    #[command(flatten)]
    pub place: Place,

    /// Trust this public key of minisign instead of those in --trusted-keys; may be repeated
    #[arg(long, value_name = "KEY.pub")]
    pub key: Vec<PathBuf>,

    /// Directory of the public keys that are trusted
    #[arg(long, value_name = "DIR", env = "SEUSS_TRUSTED_KEYS", default_value = TRUSTED_KEYS_DIR)]
    pub trusted_keys: PathBuf,

    /// Take in what nobody has signed, or somebody whom nobody here knows: the archive's author can then do whatever a program of yours could do in a guest
    #[arg(long, conflicts_with = "key")]
    pub allow_unsigned: bool,

    /// The archive, or an OCI layout directory
    #[arg(value_name = "FILE.tar")]
    pub file: PathBuf,
}

/// A store, wherever it is.
enum Home {
    Local(Store),
    Node(Client),
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn home(place: &Place) -> Result<Home, RunError> {
    if is_socket(&place.store) {
        let client = Client::connect(&place.store, &place.tenant).map_err(ArtifactError::from)?;
        return Ok(Home::Node(client));
    }
    if !place.tenant.is_empty() {
        return Err(RunError::NoTenants { store: place.store.clone() });
    }
    Ok(Home::Local(Store::open(&place.store)?))
}

/// What an export teaches about working sets: nothing.
#[derive(Debug)]
struct Nothing;

impl KeepWorkingSet for Nothing {
    fn keep(&self, _: SnapshotId, _: &[WorkPage]) {}
}

/// Id of the snapshot that `name` names, as [`Store::resolve`] finds it.
fn resolve(client: &Client, store: &Path, name: &str) -> Result<String, ArtifactError> {
    let entries = client.list()?;
    if let Some(entry) = entries.iter().find(|entry| entry.id == name) {
        return Ok(entry.id.clone());
    }
    let named = entries.iter().filter(|entry| !name.is_empty() && entry.name == name);
    if let Some(youngest) = named.max_by_key(|entry| (entry.created_ns, &entry.id)) {
        return Ok(youngest.id.clone());
    }
    let matching: Vec<_> =
        entries.iter().filter(|entry| name.len() >= 4 && entry.id.starts_with(name)).collect();
    let (name, store) = (name.to_owned(), store.to_owned());
    match matching[..] {
        [entry] => Ok(entry.id.clone()),
        [] => Err(SnapshotError::NotFound { name, store }.into()),
        _ => Err(SnapshotError::Ambiguous { name, count: matching.len(), store }.into()),
    }
}

/// Runs `seussctl snapshot export`. The file appears when it is whole.
///
/// # Errors
/// [`RunError`].
pub fn run_export(args: &ExportArgs) -> Result<(), RunError> {
    let home = home(&args.place)?;
    let mut lineages: Vec<Snapshot> = Vec::new();
    for name in &args.snapshots {
        match &home {
            Home::Local(store) => lineages.extend(store.lineage(store.resolve(name)?)?),
            Home::Node(client) => {
                let id = resolve(client, &args.place.store, name)?;
                let keeper: Arc<dyn KeepWorkingSet> = Arc::new(Nothing);
                lineages.extend(client.lineage(&id, &keeper).map_err(ArtifactError::from)?);
            }
        }
    }
    let mut image = |image: &ImageRef| match &home {
        Home::Local(store) if !args.without_images => store.image(image).ok(),
        Home::Local(_) | Home::Node(_) => None,
    };
    let signing = match &args.sign {
        Some(path) => {
            let password = std::env::var("SEUSS_KEY_PASSWORD").ok();
            Some(SigningKey::open(path, password).map_err(ArtifactError::from)?)
        }
        None => None,
    };
    let failed = |operation| move |source| RunError::Host { operation, source };
    let dir = args.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(failed("make a file beside the archive"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let exported = export(&mut out, &lineages, &mut image, signing.as_ref())?;
    out.flush().map_err(failed("write the archive"))?;
    let file = out.into_inner().map_err(|error| failed("write the archive")(error.into_error()))?;
    file.as_file().sync_all().map_err(failed("write the archive"))?;
    file.persist(&args.file).map_err(|error| failed("give the archive its name")(error.error))?;
    let ids: Vec<_> = exported.snapshots.iter().map(ToString::to_string).collect();
    if args.place.json {
        let report = json!({ "snapshots": ids, "images": exported.images, "bytes": exported.len_bytes });
        println!("{report:#}");
    } else {
        println!("{}", ids.join("\n"));
        eprintln!(
            "snapshots: {}, images: {}, {}",
            ids.len(),
            exported.images,
            display_bytes(exported.len_bytes)
        );
    }
    Ok(())
}

/// Runs `seussctl snapshot import`.
///
/// # Errors
/// [`RunError`].
pub fn run_import(args: &ImportArgs) -> Result<(), RunError> {
    let trust = match (args.allow_unsigned, &args.key[..]) {
        (true, _) => Trust::Anybody,
        (false, []) => {
            Trust::Signed(TrustedKeys::of_directory(&args.trusted_keys).map_err(ArtifactError::from)?)
        }
        (false, keys) => Trust::Signed(TrustedKeys::of_files(keys).map_err(ArtifactError::from)?),
    };
    let archive = Archive::open(&args.file, &trust)?;
    let Imported { added, known } = match home(&args.place)? {
        Home::Local(store) => archive.into_store(&store)?,
        Home::Node(client) => archive.into_daemon(&client)?,
    };
    let text = |ids: &[SnapshotId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    if args.place.json {
        let report: Value = json!({ "added": text(&added), "known": text(&known) });
        println!("{report:#}");
    } else {
        text(&added).iter().for_each(|id| println!("{id}"));
        text(&known).iter().for_each(|id| eprintln!("{id} was there"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_no_tenants() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { store: dir.path().to_owned(), tenant: "shop".into(), json: false };
        assert!(matches!(home(&place), Err(RunError::NoTenants { .. })));
        let place = Place { tenant: String::new(), ..place };
        assert!(matches!(home(&place), Ok(Home::Local(_))));
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(is_socket(&socket) && !is_socket(dir.path()) && !is_socket(&dir.path().join("none")));
        std::fs::File::create(dir.path().join("file")).unwrap();
        assert!(!is_socket(&dir.path().join("file")));
    }
}
