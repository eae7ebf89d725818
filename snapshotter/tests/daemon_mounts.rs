//! What is seen through the mounts: containerd's test cases of layers, removals, whiteouts, owners and modes. Needs root.
#![cfg(feature = "daemon")]

mod daemon_support;

use daemon_support::{Client, Daemon, may_mount, mounted, skip};
use tonic::Code;

/// A layer made by a shell script in the mounted snapshot.
async fn layer(client: &mut Client, name: &str, parent: &str, script: &str) {
    let mounts = client.prepare("making", parent).await.unwrap();
    mounted(&mounts, script);
    client.commit(name, "making").await.unwrap();
}

macro_rules! needs_root {
    () => {
        if !may_mount() {
            skip("needs root (mounts)");
            return;
        }
    };
}

#[tokio::test]
async fn layers_add_change_and_remove() {
    needs_root!();
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(
        &mut client,
        "1",
        "",
        "mkdir -p a/b; echo one >a/b/f; echo one >g; ln -s g l; mkdir gone; echo x >gone/x",
    )
    .await;
    layer(&mut client, "2", "1", "echo two >a/b/f; rm g; rm -r gone; mkdir gone; echo y >gone/y").await;
    layer(&mut client, "3", "2", "echo three >h; rm -r a").await;
    let see = "find . -mindepth 1 | sort | tr '\\n' ' '";
    for (name, wanted) in [
        ("1", "./a ./a/b ./a/b/f ./g ./gone ./gone/x ./l "),
        ("2", "./a ./a/b ./a/b/f ./gone ./gone/y ./l "),
        ("3", "./gone ./gone/y ./h ./l "),
    ] {
        let mounts = client.view("look", name).await.unwrap();
        assert_eq!(mounted(&mounts, see), wanted, "layer {name}");
        client.remove("look").await.unwrap();
    }
    let mounts = client.prepare("run", "2").await.unwrap();
    assert_eq!(mounted(&mounts, "cat a/b/f; echo changed >a/b/f; cat a/b/f"), "two\nchanged\n");
    // Its parents do not change.
    let mounts = client.view("look", "2").await.unwrap();
    assert_eq!(mounted(&mounts, "cat a/b/f"), "two\n");
}

#[tokio::test]
async fn views_cannot_be_written() {
    needs_root!();
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "1", "", "echo one >f").await;
    layer(&mut client, "2", "1", "echo two >g").await;
    for name in ["1", "2"] {
        let mounts = client.view("look", name).await.unwrap();
        assert_eq!(mounted(&mounts, "touch x 2>/dev/null || echo read-only"), "read-only\n");
        client.remove("look").await.unwrap();
    }
}

#[tokio::test]
async fn owners_modes_and_renames() {
    needs_root!();
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(
        &mut client,
        "1",
        "",
        "chmod 1777 .; mkdir -m 2750 d; echo x >d/f; chown -R 12:34 d; chmod 4711 d/f",
    )
    .await;
    layer(&mut client, "2", "1", "chown 56:78 d/f; mv d/f d/g; mkdir -p e; mv d/g e/h").await;
    let mounts = client.prepare("run", "2").await.unwrap();
    let seen = mounted(&mounts, "stat -c '%n %a %u:%g' . d e/h; test ! -e d/f; cat e/h");
    // chown(2) takes the set-user-id bit away.
    assert_eq!(seen, ". 1777 0:0\nd 2750 12:34\ne/h 711 56:78\nx\n");
}

#[tokio::test]
async fn a_tall_stack() {
    needs_root!();
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    let mut parent = String::new();
    for number in 0..40 {
        let name = format!("layer-{number}");
        layer(&mut client, &name, &parent, &format!("echo {number} >f{number}; echo {number} >same")).await;
        parent = name;
    }
    let mounts = client.view("look", &parent).await.unwrap();
    assert_eq!(mounted(&mounts, "ls | wc -l; cat same f7"), "41\n39\n7\n");
    // From the middle nothing can be taken out.
    let status = client.remove("layer-20").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}
