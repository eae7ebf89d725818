//! What the shim says about itself: `-v` and `-info`.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message as _, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

/// The runtime's name in containerd's configuration.
pub const RUNTIME_NAME: &str = "io.containerd.seuss.v2";

/// Type of the features message: JSON, as containerd's typeurl names it.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The answer to `-v`.
#[must_use]
pub fn version() -> String {
    format!(
        "containerd-shim-seuss-v2:\n  Version:  {}\n  Runtime:  {RUNTIME_NAME}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// The answer to `-info`: an encoded `RuntimeInfo`. `options` is what containerd wrote to standard input.
#[must_use]
pub fn info(options: &[u8]) -> Vec<u8> {
    let options = Any::parse_from_bytes(options).ok().filter(|any| !any.type_url.is_empty());
    let version = env!("CARGO_PKG_VERSION").to_owned();
    // https://github.com/opencontainers/runtime-spec/blob/v1.2.0/features.md: what containerd must not ask for is not listed.
    let features = serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": [],
        "mountOptions": ["bind", "rbind", "ro", "rw", "rprivate", "private"],
        "linux": {
            "namespaces": ["ipc", "mount", "network", "pid", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {"enabled": false},
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": false}}
        }
    });
    let features = Any {
        type_url: FEATURES_TYPE.to_owned(),
        value: features.to_string().into_bytes(),
        ..Default::default()
    };
    let info = RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: version.clone(),
            revision: version,
            ..Default::default()
        }),
        options: options.into(),
        features: MessageField::some(features),
        ..Default::default()
    };
    // Encoding into memory fails only beyond 2 GiB.
    info.write_to_bytes().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_can_be_read_back() {
        let options = Any { type_url: "x.Options".into(), value: vec![1], ..Default::default() };
        let info = RuntimeInfo::parse_from_bytes(&info(&options.write_to_bytes().unwrap())).unwrap();
        assert_eq!(info.name, RUNTIME_NAME);
        assert_eq!(info.options.type_url, "x.Options");
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert_eq!(features["linux"]["mountExtensions"]["idmap"]["enabled"], false);
        assert!(RuntimeInfo::parse_from_bytes(&super::info(b"")).unwrap().options.is_none());
    }
}
