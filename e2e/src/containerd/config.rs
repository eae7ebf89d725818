//! The files a private containerd reads: config.toml of its version, and the CNI network.

use std::fs;

use anyhow::Result;
use serde_json::json;

use super::Containerd;
use crate::image::oci;
use crate::tools::Version;

/// The pods' network, private to the node.
const SUBNET: &str = "10.88.0.0/16";

/// Writes both.
///
/// # Errors
/// The node's directories cannot be written.
pub(super) fn write(node: &Containerd) -> Result<()> {
    let cni = node.namespaces.root().join("cni");
    fs::create_dir_all(&cni)?;
    fs::create_dir_all(node.pod_logs())?;
    fs::write(cni.join("10-seuss-e2e.conflist"), serde_json::to_vec_pretty(&network())?)?;
    let text = match node.options.version {
        Version::V1_7 => version_2(node),
        Version::V2_1 => version_3(node),
    };
    fs::write(node.config_path(), text)?;
    Ok(())
}

fn network() -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "seuss-e2e",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "seuss0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{ "subnet": SUBNET }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// What both versions of the file share: where everything is.
fn common(node: &Containerd, version: u32) -> String {
    let root = node.namespaces.root().display();
    let state = node.namespaces.state().display();
    let mut text = format!(
        r#"version = {version}
root = "{root}/root"
state = "{state}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri",
]

[grpc]
  address = "{state}/containerd.sock"
[ttrpc]
  address = "{state}/containerd.sock.ttrpc"
[debug]
  address = "{state}/debug.sock"
  level = "info"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
"#
    );
    if let Some(snapshotter) = &node.snapshotter {
        let (name, socket) = (node.snapshotter_name(), snapshotter.socket());
        let socket = socket.display();
        text.push_str(&format!(
            "[proxy_plugins.\"{name}\"]\n  type = \"snapshot\"\n  address = \"{socket}\"\n"
        ));
    }
    text
}

/// The runtime handlers, as tables below `prefix`.
fn runtimes(node: &Containerd, prefix: &str) -> String {
    let snapshotter = node.snapshotter_name();
    // A pattern's star matches no slash (path.Match).
    let annotations =
        "pod_annotations = [\"*\", \"seuss.dev/*\"]\n  container_annotations = [\"*\", \"seuss.dev/*\"]";
    let mut text = String::new();
    for (name, binary) in [("runc", &node.tools.runc), ("crun", &node.tools.crun)] {
        text.push_str(&format!(
            "[plugins.{prefix}.runtimes.{name}]\n  runtime_type = \"io.containerd.runc.v2\"\n  {annotations}\n  \
             [plugins.{prefix}.runtimes.{name}.options]\n    BinaryName = \"{}\"\n",
            binary.display()
        ));
    }
    if node.options.shim_dir.is_some() {
        text.push_str(&format!(
            "[plugins.{prefix}.runtimes.seuss]\n  runtime_type = \"io.containerd.seuss.v2\"\n  {annotations}\n  \
             snapshotter = \"{snapshotter}\"\n"
        ));
    }
    text
}

fn version_2(node: &Containerd) -> String {
    let cri = "\"io.containerd.grpc.v1.cri\"";
    let snapshotter = node.snapshotter_name();
    format!(
        r#"{common}
[plugins.{cri}]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[plugins.{cri}.cni]
  bin_dir = "{cni}"
  conf_dir = "{root}/cni"
[plugins.{cri}.containerd]
  default_runtime_name = "runc"
  snapshotter = "{snapshotter}"
  disable_snapshot_annotations = false
  discard_unpacked_layers = false
{runtimes}"#,
        common = common(node, 2),
        pause = oci::reference("pause"),
        cni = node.tools.cni.display(),
        root = node.namespaces.root().display(),
        runtimes = runtimes(node, &format!("{cri}.containerd")),
    )
}

/// Where the transfer service, which `ctr image import` of containerd 2 uses, unpacks.
fn unpack(node: &Containerd) -> String {
    let plugin = "\"io.containerd.transfer.v1.local\"";
    let mut names = vec!["overlayfs"];
    names.extend(node.snapshotter.as_ref().map(|_| node.snapshotter_name()));
    let table = |name: &str| {
        format!(
            "[[plugins.{plugin}.unpack_config]]\n  platform = \"linux/amd64\"\n  snapshotter = \"{name}\"\n"
        )
    };
    names.into_iter().map(table).collect()
}

fn version_3(node: &Containerd) -> String {
    let images = "\"io.containerd.cri.v1.images\"";
    let runtime = "\"io.containerd.cri.v1.runtime\"";
    let snapshotter = node.snapshotter_name();
    format!(
        r#"{common}
[plugins.{images}]
  snapshotter = "{snapshotter}"
  disable_snapshot_annotations = false
  discard_unpacked_layers = false
[plugins.{images}.pinned_images]
  sandbox = "{pause}"
[plugins.{runtime}]
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  netns_mounts_under_state_dir = true
[plugins.{runtime}.cni]
  bin_dirs = ["{cni}"]
  bin_dir = ""
  conf_dir = "{root}/cni"
[plugins.{runtime}.containerd]
  default_runtime_name = "runc"
{runtimes}
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
{unpack}"#,
        common = common(node, 3),
        unpack = unpack(node),
        pause = oci::reference("pause"),
        cni = node.tools.cni.display(),
        root = node.namespaces.root().display(),
        runtimes = runtimes(node, &format!("{runtime}.containerd")),
    )
}
