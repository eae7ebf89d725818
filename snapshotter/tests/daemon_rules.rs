//! What containerd relies on: keys, names, parents, labels, filters, gRPC codes. After the cases of containerd's own snapshotter test suite and the
//! behaviour of its overlayfs snapshotter.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::os::unix::fs::PermissionsExt;

use daemon_support::{Client, Daemon, refused, upper};
use seuss_snapshotter::daemon::api::Kind;
use seuss_snapshotter::erofs;
use seuss_snapshotter::lookup;
use tonic::Code;

/// A committed snapshot `name` with one file.
async fn layer(client: &mut Client, name: &str, parent: &str) {
    let key = format!("{name}-key");
    let mounts = client.prepare(&key, parent).await.unwrap();
    std::fs::write(upper(&mounts).join(name), name).unwrap();
    client.commit(name, &key).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_prepared_committed_and_removed() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    let mounts = client.prepare("default/1/a", "").await.unwrap();
    assert_eq!(mounts[0].r#type, "bind");
    assert_eq!(mounts[0].options, ["rw", "rbind"]);
    assert_eq!(client.mounts("default/1/a").await.unwrap(), mounts);
    std::fs::write(upper(&mounts).join("file"), vec![1; 10_000]).unwrap();

    let active = client.stat("default/1/a").await.unwrap();
    assert_eq!((active.kind(), active.parent.as_str()), (Kind::Active, ""));
    assert!(active.created_at.unwrap().seconds > 1_600_000_000);
    let usage = client.usage("default/1/a").await.unwrap();
    assert_eq!((usage.size >= 12_288, usage.inodes), (true, 2));

    client.commit("default/2/base", "default/1/a").await.unwrap();
    refused(client.stat("default/1/a").await, Code::NotFound, "default/1/a");
    let committed = client.stat("default/2/base").await.unwrap();
    assert_eq!(committed.kind(), Kind::Committed);
    assert_eq!(client.usage("default/2/base").await.unwrap().inodes, 2);
    refused(client.mounts("default/2/base").await, Code::FailedPrecondition, "committed");

    let on_top = client.prepare("default/3/b", "default/2/base").await.unwrap();
    assert_eq!((on_top[0].r#type.as_str(), on_top[0].source.as_str()), ("overlay", "overlay"));
    let has = |start: &str| on_top[0].options.iter().any(|option| option.starts_with(start));
    assert!(has("upperdir=") && has("workdir=") && has("lowerdir="), "{on_top:?}");
    refused(client.remove("default/2/base").await, Code::FailedPrecondition, "default/3/b");
    client.remove("default/3/b").await.unwrap();
    client.remove("default/2/base").await.unwrap();
    refused(client.remove("default/2/base").await, Code::NotFound, "default/2/base");
    assert!(client.list(&[]).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(daemon.root().join("snapshots")).unwrap().count(), 0);
}

#[tokio::test]
async fn names_that_are_taken_or_missing() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "base", "").await;
    client.prepare("a", "base").await.unwrap();
    client.view("v", "base").await.unwrap();
    refused(client.prepare("a", "").await, Code::AlreadyExists, "snapshot a already exists");
    refused(client.prepare("base", "").await, Code::AlreadyExists, "base");
    refused(client.view("a", "base").await, Code::AlreadyExists, "a");
    refused(client.prepare("x", "none").await, Code::NotFound, "none");
    refused(client.prepare("x", "a").await, Code::InvalidArgument, "not committed but active");
    refused(client.view("x", "v").await, Code::InvalidArgument, "not committed but view");
    refused(client.prepare("", "base").await, Code::InvalidArgument, "key");
    refused(client.commit("base", "a").await, Code::AlreadyExists, "base");
    refused(client.commit("new", "none").await, Code::NotFound, "none");
    refused(client.commit("new", "v").await, Code::FailedPrecondition, "not active but view");
    refused(client.commit("new", "base").await, Code::FailedPrecondition, "not active but committed");
    refused(client.commit("a", "a").await, Code::AlreadyExists, "a");
    refused(client.mounts("none").await, Code::NotFound, "none");
    refused(client.usage("none").await, Code::NotFound, "none");
    refused(client.update("none", &[], &[]).await, Code::NotFound, "none");
    assert_eq!(client.list(&[]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn views_are_read_only_binds_or_overlays() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "base", "").await;
    layer(&mut client, "top", "base").await;
    let alone = client.view("v0", "").await.unwrap();
    assert_eq!(
        (alone[0].r#type.as_str(), alone[0].options.as_slice()),
        ("bind", &["ro".into(), "rbind".into()][..])
    );
    let one = client.view("v1", "base").await.unwrap();
    assert_eq!(
        (one[0].r#type.as_str(), one[0].options.as_slice()),
        ("bind", &["ro".into(), "rbind".into()][..])
    );
    assert!(std::path::Path::new(&one[0].source).join("base").exists());
    let two = client.view("v2", "top").await.unwrap();
    assert_eq!(two[0].r#type, "overlay");
    let lower = two[0].options.iter().find_map(|o| o.strip_prefix("lowerdir=")).unwrap();
    let dirs: Vec<_> = lower.split(':').collect();
    assert!(std::path::Path::new(dirs[0]).join("top").exists(), "nearest parent first: {lower}");
    assert!(std::path::Path::new(dirs[1]).join("base").exists());
    assert!(!two[0].options.iter().any(|option| option.starts_with("upperdir")));
    assert_eq!(client.stat("v2").await.unwrap().kind(), Kind::View);
    assert_eq!(client.usage("v2").await.unwrap().size, 0);
}

#[tokio::test]
async fn labels_follow_the_field_mask() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    client.prepare_with("a", "", &[("one", "1"), ("two", "2"), ("none", "")]).await.unwrap();
    let labels = |info: &seuss_snapshotter::daemon::api::Info| {
        let mut pairs: Vec<_> = info.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        pairs.sort();
        pairs.join(" ")
    };
    assert_eq!(labels(&client.stat("a").await.unwrap()), "one=1 two=2");
    let before = client.stat("a").await.unwrap();
    let info = client.update("a", &[("one", "11"), ("three", "3")], &["labels.one"]).await.unwrap();
    assert_eq!(labels(&info), "one=11 two=2");
    assert!(info.updated_at.unwrap().seconds >= before.updated_at.unwrap().seconds);
    assert_ne!(info.updated_at, before.updated_at);
    assert_eq!(info.created_at, before.created_at);
    // A label without a value does not exist.
    assert_eq!(labels(&client.update("a", &[], &["labels.two"]).await.unwrap()), "one=11");
    assert_eq!(labels(&client.update("a", &[("x.y/z", "5")], &["labels"]).await.unwrap()), "x.y/z=5");
    assert_eq!(labels(&client.update("a", &[("x.y/z", "6")], &["labels.x.y/z"]).await.unwrap()), "x.y/z=6");
    assert_eq!(labels(&client.update("a", &[("all", "7")], &[]).await.unwrap()), "all=7");
    refused(client.update("a", &[], &["parent"]).await, Code::InvalidArgument, "parent");
    let long = "x".repeat(5000);
    refused(client.update("a", &[("l", &long)], &[]).await, Code::InvalidArgument, "4096");
    // Labels of a committed snapshot are those of the commit, not the active one's.
    client.commit_with("c", "a", &[("fresh", "1")]).await.unwrap();
    assert_eq!(labels(&client.stat("c").await.unwrap()), "fresh=1");
}

#[tokio::test]
async fn filters_choose() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "base", "").await;
    client.prepare_with("a", "base", &[("k", "v"), ("a.b/c", "x")]).await.unwrap();
    client.view("v", "base").await.unwrap();
    let names = |infos: Vec<seuss_snapshotter::daemon::api::Info>| {
        infos.into_iter().map(|info| info.name).collect::<Vec<_>>().join(" ")
    };
    for (filters, wanted) in [
        (&[][..], "a base v"),
        (&["kind==committed"], "base"),
        (&["kind==active", "kind==view"], "a v"),
        (&["parent==base,labels.k==v"], "a"),
        (&["labels.\"a.b/c\"==x"], "a"),
        (&["name~=^b"], "base"),
        (&["kind!=view"], "a base"),
    ] {
        assert_eq!(names(client.list(filters).await.unwrap()), wanted, "{filters:?}");
    }
    refused(client.list(&["name=="]).await, Code::InvalidArgument, "filter");
}

#[tokio::test]
async fn many_snapshots_are_listed_in_several_messages() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    for number in 0..250 {
        client.prepare(&format!("key-{number:03}"), "").await.unwrap();
    }
    let infos = client.list(&[]).await.unwrap();
    assert_eq!(infos.len(), 250);
    assert!(infos.is_sorted_by_key(|info| info.name.clone()));
}

#[tokio::test]
async fn a_layer_that_is_here_is_not_unpacked_again() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    const REF: &str = "containerd.io/snapshot.ref";
    client.prepare_with("default/1/x", "", &[(REF, "sha256:aa")]).await.unwrap();
    // Nothing is committed yet: another unpacker may try as well.
    client.prepare_with("k8s.io/2/x", "", &[(REF, "sha256:aa")]).await.unwrap();
    client.commit_with("default/3/aa", "default/1/x", &[(REF, "sha256:aa")]).await.unwrap();
    refused(
        client.prepare_with("k8s.io/4/y", "", &[(REF, "sha256:aa")]).await,
        Code::AlreadyExists,
        "default/3/aa",
    );
    // containerd finds it so.
    let filter = "labels.\"containerd.io/snapshot.ref\"==\"sha256:aa\",parent==\"\"";
    assert_eq!(client.list(&[filter]).await.unwrap()[0].name, "default/3/aa");
    // On top of another parent it is another snapshot.
    layer(&mut client, "other", "").await;
    client.prepare_with("k8s.io/5/z", "other", &[(REF, "sha256:aa")]).await.unwrap();
}

#[tokio::test]
async fn a_committed_layer_has_its_image() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    for (name, parent) in [("one", ""), ("two", "one")] {
        let mounts = client.prepare("k", parent).await.unwrap();
        let dir = upper(&mounts);
        std::fs::create_dir(dir.join("bin")).unwrap();
        std::fs::write(dir.join("bin/program"), vec![7; 5000]).unwrap();
        std::fs::set_permissions(dir.join("bin/program"), PermissionsExt::from_mode(0o755)).unwrap();
        // Times are part of the image: make both layers' the same.
        for path in ["bin/program", "bin", "."] {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
            std::fs::File::open(dir.join(path)).unwrap().set_modified(time).unwrap();
        }
        client.commit(name, "k").await.unwrap();
    }
    let mounts = client.view("v", "two").await.unwrap();
    let lower = mounts[0].options.iter().find_map(|o| o.strip_prefix("lowerdir=")).unwrap();
    let blobs: Vec<_> = lower
        .split(':')
        .map(|dir| lookup::layer_blob(std::path::Path::new(dir)).unwrap().expect("an image"))
        .collect();
    for blob in &blobs {
        erofs::check(&blob.file, blob.len_bytes).unwrap();
        let reader = erofs::Reader::open(blob.file.try_clone().unwrap(), blob.len_bytes).unwrap();
        let root = reader.inode(reader.root_nid()).unwrap();
        let bin = reader.lookup(&root, b"bin").unwrap().unwrap();
        let program = reader.lookup(&bin, b"program").unwrap().unwrap();
        assert_eq!(program.size_bytes, 5000);
    }
    // Equal images are one file.
    assert_eq!(blobs[0].digest, blobs[1].digest);
    use std::os::unix::fs::MetadataExt;
    let inode = |blob: &lookup::LayerBlob| blob.file.metadata().unwrap().ino();
    assert_eq!(inode(&blobs[0]), inode(&blobs[1]));
    assert_eq!(blobs[0].file.metadata().unwrap().mode() & 0o777, 0o400);
}

#[tokio::test]
async fn root_directories_follow_the_parent() {
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    let mounts = client.prepare("k", "").await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&upper(&mounts)), 0o755);
    std::fs::set_permissions(upper(&mounts), PermissionsExt::from_mode(0o1750)).unwrap();
    client.commit("base", "k").await.unwrap();
    let mounts = client.prepare("k", "base").await.unwrap();
    assert_eq!(mode(&upper(&mounts)), 0o1750);
}

#[tokio::test]
async fn a_restarted_daemon_knows_everything() {
    let mut daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "base", "").await;
    layer(&mut client, "top", "base").await;
    let mounts = client.prepare_with("a", "top", &[("k", "v")]).await.unwrap();
    let before = client.list(&[]).await.unwrap();
    daemon.kill();
    // What a killed daemon could leave: directories without a record, half-written files.
    let root = daemon.root();
    std::fs::create_dir_all(root.join("snapshots/999/fs/deep/er")).unwrap();
    std::fs::create_dir_all(root.join("tmp/new-1000/fs")).unwrap();
    std::fs::write(root.join("tmp/record-1001"), "{").unwrap();
    daemon.restart().await;
    let mut client = daemon.client().await;
    assert_eq!(client.list(&[]).await.unwrap(), before);
    assert_eq!(client.mounts("a").await.unwrap(), mounts);
    assert_eq!(std::fs::read_dir(root.join("snapshots")).unwrap().count(), 3);
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    client.remove("a").await.unwrap();
    client.remove("top").await.unwrap();
}

#[tokio::test]
async fn two_daemons_do_not_share_a_store() {
    let daemon = Daemon::start(&[]).await;
    let other = std::process::Command::new(env!("CARGO_BIN_EXE_seuss-snapshotter"))
        .arg("--root")
        .arg(daemon.root())
        .args(["--config", "/dev/null", "--socket", "/nonexistent/s", "--image-store", "disk"])
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(1));
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.contains("another seuss-snapshotter uses"), "{said}");
}

#[tokio::test]
async fn a_full_store_says_what_could_go() {
    let mut daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "old", "").await;
    daemon.kill();
    // More than any machine has free; the layer is still there.
    daemon.set_flags(&["--reserve", "1000TiB"]);
    daemon.restart().await;
    let mut client = daemon.client().await;
    client.stat("old").await.unwrap();
    let error = client.prepare("k", "old").await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    for word in ["remove images that are not used", "the largest layer that nothing is on top of is old"] {
        assert!(error.message().contains(word), "{word}: {}", error.message());
    }
    assert_eq!(client.stat("k").await.unwrap_err().code(), Code::NotFound);
    // What is there can still be looked at and removed: that makes room.
    client.remove("old").await.unwrap();
}
