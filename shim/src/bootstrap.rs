//! The `start` action: finds the shim that serves a pod, or starts one, and tells containerd its address.
//!
//! Owns [`start`] and the two forms of containerd's bootstrap protocol: from 2.3 on, a protobuf message on standard input and one as the answer;
//! before that, flags and environment, and JSON (1.7 to 2.2) or a bare address (1.6) as the answer. The socket is bound here and handed to the
//! shim as its standard input: containerd can connect at once, and no shim is waited for. decisions/0001.

use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::Message as _;
use seuss_snapshotter::beneath::Dir;
use sha2::{Digest as _, Sha256};

use crate::args::Flags;
use crate::oci::{ReadSpecError, Spec};
use crate::spec::{Role, role};

/// Environment variable with the path of containerd's ttrpc socket.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// Environment variable that containerd sets from 1.7 on.
const MAX_SHIM_VERSION: &str = "MAX_SHIM_VERSION";
/// File in a bundle that holds the shim's address, for containerd's restart and for `delete`.
pub const ADDRESS_FILE: &str = "address";
/// Where sockets are unless containerd wants them elsewhere.
const SOCKET_DIR: &str = "/run/containerd/s";
/// Most bytes of a bootstrap message.
const INPUT_MAX: u64 = 10 << 20;

/// Why a shim could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartShimError {
    /// Standard input.
    #[error("cannot read the bootstrap parameters from standard input: {source}")]
    Input {
        /// Why.
        source: io::Error,
    },
    /// The message is for another container.
    #[error("the bootstrap parameters are for {found}, the command line is for {wanted}")]
    Mismatch {
        /// In the message.
        found: String,
        /// On the command line.
        wanted: String,
    },
    /// The bundle.
    #[error(transparent)]
    Spec(#[from] ReadSpecError),
    /// The socket.
    #[error("cannot listen on {path}: {source}", path = .path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process.
    #[error("cannot start the shim process: {source}")]
    Spawn {
        /// Why.
        source: io::Error,
    },
    /// The bundle cannot be written.
    #[error("cannot write {path}: {source}", path = .path.display())]
    Address {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How containerd called, and so how it wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// 2.3 and later.
    Protobuf,
    /// 1.7 to 2.2.
    Json,
    /// 1.6.
    Address,
}

/// What containerd wants, in whichever form it said so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Params {
    protocol: Protocol,
    ttrpc_address: Option<String>,
    grpc_address: String,
    publish_binary: PathBuf,
    socket_dir: PathBuf,
    debug: bool,
}

/// Starts a shim for the bundle in `bundle`, or finds the one of its pod. Returns what containerd reads from standard output.
///
/// # Errors
/// [`StartShimError`].
pub fn start(flags: &Flags, bundle: &Path) -> Result<Vec<u8>, StartShimError> {
    let input = read_input()?;
    let known = |name: &str| std::env::var(name).ok();
    let params = params(&input, flags, known(TTRPC_ADDRESS), known(MAX_SHIM_VERSION).is_some())?;
    let bundle =
        &Dir::open(bundle).map_err(|source| StartShimError::Address { path: bundle.to_owned(), source })?;
    let group = match role(&Spec::read(bundle)?) {
        Role::Container { sandbox_id } => sandbox_id,
        Role::Sandbox | Role::Alone => flags.id.clone(),
    };
    let path = socket_path(&params.socket_dir, &params.grpc_address, &flags.namespace, &group);
    let address = format!("unix://{}", path.display());
    if let Some(listener) = listen(&path)? {
        let spawned = spawn(flags, &params, bundle.path(), &address, listener);
        if spawned.is_err() {
            let _ = fs::remove_file(&path);
        }
        spawned?;
    }
    bundle
        .write(ADDRESS_FILE, address.as_bytes())
        .map_err(|source| StartShimError::Address { path: bundle.path().join(ADDRESS_FILE), source })?;
    Ok(answer(params.protocol, &address))
}

fn read_input() -> Result<Vec<u8>, StartShimError> {
    let mut input = Vec::new();
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        stdin
            .lock()
            .take(INPUT_MAX)
            .read_to_end(&mut input)
            .map_err(|source| StartShimError::Input { source })?;
    }
    Ok(input)
}

fn params(
    input: &[u8],
    flags: &Flags,
    ttrpc_address: Option<String>,
    has_max_version: bool,
) -> Result<Params, StartShimError> {
    let mut params = Params {
        protocol: if has_max_version { Protocol::Json } else { Protocol::Address },
        ttrpc_address: ttrpc_address.filter(|address| !address.is_empty()),
        grpc_address: flags.address.clone(),
        publish_binary: flags.publish_binary.clone(),
        socket_dir: PathBuf::from(SOCKET_DIR),
        debug: flags.debug,
    };
    let Some(message) = BootstrapParams::parse_from_bytes(input).ok().filter(|_| !input.is_empty()) else {
        return Ok(params);
    };
    if message.instance_id != flags.id || message.namespace != flags.namespace {
        // Runtime options (an Any: a type's name and its bytes) of an older containerd decode as a message with an odd id and namespace, and
        // nothing else.
        let bare = BootstrapParams {
            instance_id: message.instance_id.clone(),
            namespace: message.namespace.clone(),
            ..Default::default()
        };
        if message == bare {
            return Ok(params);
        }
        let found = format!("{}/{}", message.namespace, message.instance_id);
        return Err(StartShimError::Mismatch { found, wanted: format!("{}/{}", flags.namespace, flags.id) });
    }
    params.protocol = Protocol::Protobuf;
    // LOG_LEVEL_DEBUG is -4; more is less verbose.
    params.debug |= message.log_level.value() <= -4;
    if !message.containerd_ttrpc_address.is_empty() {
        params.ttrpc_address = Some(message.containerd_ttrpc_address);
    }
    if !message.containerd_grpc_address.is_empty() {
        params.grpc_address = message.containerd_grpc_address;
    }
    if !message.containerd_binary.is_empty() {
        params.publish_binary = message.containerd_binary.into();
    }
    if let Some(dir) = message.socket_dir.filter(|dir| !dir.is_empty()) {
        params.socket_dir = dir.into();
    }
    Ok(params)
}

/// The socket of the shim for `group`: short, and the same for everybody who asks for the same group of the same containerd.
fn socket_path(dir: &Path, grpc_address: &str, namespace: &str, group: &str) -> PathBuf {
    let name = Path::new(grpc_address).join(namespace).join(group);
    let digest = Sha256::digest(name.as_os_str().as_encoded_bytes());
    dir.join(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Listens at `path`, for the owner only; `None` if somebody does already. What a killed shim left there is replaced.
fn listen(path: &Path) -> Result<Option<UnixListener>, StartShimError> {
    let failed = |source| StartShimError::Socket { path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(failed)?;
    }
    let bind = || -> io::Result<UnixListener> {
        let listener = UnixListener::bind(path)?;
        // Between the two, the shim itself looks at who connects.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    match bind() {
        Ok(listener) => return Ok(Some(listener)),
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(failed(error)),
        Err(_) => {}
    }
    if UnixStream::connect(path).is_ok() {
        return Ok(None);
    }
    remove_socket(path).map_err(failed)?;
    bind().map(Some).map_err(failed)
}

/// Removes the socket at `path`, and nothing that is none.
///
/// # Errors
/// It cannot be removed.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn spawn(
    flags: &Flags,
    params: &Params,
    bundle: &Path,
    address: &str,
    listener: UnixListener,
) -> Result<(), StartShimError> {
    let failed = |source| StartShimError::Spawn { source };
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command
        .current_dir(bundle)
        .args([
            "-namespace",
            &flags.namespace,
            "-id",
            &flags.id,
            "-address",
            &params.grpc_address,
            "-socket",
            address,
        ])
        .arg("-publish-binary")
        .arg(&params.publish_binary)
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if params.debug {
        command.arg("-debug");
    }
    if let Some(ttrpc_address) = &params.ttrpc_address {
        command.env(TTRPC_ADDRESS, ttrpc_address);
    }
    // Not waited for: this process ends, and its parent's reaper takes over.
    command.spawn().map(drop).map_err(failed)
}

fn answer(protocol: Protocol, address: &str) -> Vec<u8> {
    match protocol {
        Protocol::Protobuf => {
            let result = BootstrapResult {
                version: 3,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            };
            // Encoding into memory fails only beyond 2 GiB.
            result.write_to_bytes().unwrap_or_default()
        }
        // Version 2 is what every containerd with this form understands; the service answers to both names.
        Protocol::Json => serde_json::json!({"version": 2, "address": address, "protocol": "ttrpc"})
            .to_string()
            .into_bytes(),
        Protocol::Address => address.as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::protobuf::well_known_types::any::Any;

    use super::*;

    fn flags() -> Flags {
        Flags {
            id: "abc".into(),
            namespace: "k8s.io".into(),
            address: "/run/c.sock".into(),
            ..Flags::default()
        }
    }

    #[test]
    fn containerd_2_3_says_everything_in_a_message() {
        let message = BootstrapParams {
            instance_id: "abc".into(),
            namespace: "k8s.io".into(),
            containerd_ttrpc_address: "/t.sock".into(),
            containerd_grpc_address: "/g.sock".into(),
            socket_dir: Some("/s".into()),
            log_level: containerd_shim_protos::protobuf::EnumOrUnknown::from_i32(-4),
            ..Default::default()
        };
        let params = params(&message.write_to_bytes().unwrap(), &flags(), None, true).unwrap();
        assert_eq!(params.protocol, Protocol::Protobuf);
        assert_eq!(params.ttrpc_address.as_deref(), Some("/t.sock"));
        assert_eq!((&*params.grpc_address, params.socket_dir.as_path()), ("/g.sock", Path::new("/s")));
        assert!(params.debug);
        let answer = BootstrapResult::parse_from_bytes(&answer(Protocol::Protobuf, "unix:///x")).unwrap();
        assert_eq!((answer.version, &*answer.address, &*answer.protocol), (3, "unix:///x", "ttrpc"));
    }

    #[test]
    fn older_ones_pass_options_or_nothing() {
        let options =
            Any { type_url: "runtimeoptions.v1.Options".into(), value: vec![1, 2], ..Default::default() };
        for input in [options.write_to_bytes().unwrap(), Vec::new(), b"\xff\xff".to_vec()] {
            let known = params(&input, &flags(), Some("/t".into()), true).unwrap();
            assert_eq!((known.protocol, known.ttrpc_address.as_deref()), (Protocol::Json, Some("/t")));
            assert_eq!(params(&input, &flags(), None, false).unwrap().protocol, Protocol::Address);
        }
        let json: serde_json::Value = serde_json::from_slice(&answer(Protocol::Json, "unix:///x")).unwrap();
        assert_eq!(json, serde_json::json!({"version": 2, "address": "unix:///x", "protocol": "ttrpc"}));
        assert_eq!(answer(Protocol::Address, "unix:///x"), b"unix:///x");
    }

    #[test]
    fn a_message_for_another_container_is_refused() {
        let message = BootstrapParams {
            instance_id: "other".into(),
            namespace: "k8s.io".into(),
            containerd_binary: "/c".into(),
            ..Default::default()
        };
        let error = params(&message.write_to_bytes().unwrap(), &flags(), None, true).unwrap_err();
        assert!(error.to_string().contains("k8s.io/other"), "{error}");
    }

    #[test]
    fn the_socket_is_where_containerds_own_library_would_put_it() {
        // The value that containerd's Rust library pins for these inputs.
        let path = socket_path(Path::new(SOCKET_DIR), "/run/containerd/containerd.sock", "default", "123");
        let hash = "0ddfbd72d02b3551e75f3a0ed90b9965b533401be618f43a568bc522764e0ad0";
        assert_eq!(path, Path::new(SOCKET_DIR).join(hash));
    }

    #[test]
    fn a_living_socket_is_found_and_a_dead_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/x");
        let listener = listen(&path).unwrap().expect("nobody is there");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listen(&path).unwrap().is_none());
        drop(listener);
        assert!(listen(&path).unwrap().is_some());
        remove_socket(&path).unwrap();
        remove_socket(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(listen(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
