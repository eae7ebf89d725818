//! A layer is kept once: its image is what guests map and what the host's kernel mounts. Needs root.
#![cfg(feature = "daemon")]

mod daemon_support;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use daemon_support::{
    Client, Daemon, images_mounted, may_mount, mounted, mounting, nearest, refused, skip, upper,
};
use seuss_snapshotter::lookup;
use tonic::Code;

macro_rules! needs_root {
    () => {
        if !may_mount() {
            skip("needs root (mounts)");
            return;
        }
    };
}

/// A layer of one file, `name`, with 100,000 bytes; its directory.
async fn layer(client: &mut Client, name: &str, parent: &str) -> PathBuf {
    let mounts = client.prepare("making", parent).await.unwrap();
    fs::write(upper(&mounts).join(name), name.repeat(100_000 / name.len())).unwrap();
    client.commit(name, "making").await.unwrap();
    let mounts = client.view("look", name).await.unwrap();
    client.remove("look").await.unwrap();
    nearest(&mounts)
}

/// Source of the mount on `point`.
fn source(point: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == point.to_str()).unwrap();
    line.split(" - ").nth(1).unwrap().split(' ').nth(1).unwrap().to_owned()
}

/// Number of the mount on `point`: another one is another mount.
fn mount_id(point: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == point.to_str()).unwrap();
    line.split(' ').next().unwrap().to_owned()
}

fn blocks(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let (path, metadata) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        bytes += metadata.blocks() * 512;
        // Not what is mounted there.
        if metadata.is_dir() && path.file_name().unwrap() != "image" {
            bytes += blocks(&path);
        }
    }
    bytes
}

async fn is_kept_once(daemon: &Daemon) -> PathBuf {
    let mut client = daemon.client().await;
    let dir = layer(&mut client, "one", "").await;
    assert!(dir.ends_with("image") && !dir.with_file_name("fs").exists(), "{}", dir.display());
    assert_eq!(fs::read_to_string(dir.join("one")).unwrap().len(), 99_999);
    assert_eq!(images_mounted(&daemon.root()), std::slice::from_ref(&dir));
    let blob = lookup::layer_blob(&dir).unwrap().unwrap();
    let image = blob.file.metadata().unwrap().blocks() * 512;
    let usage = client.usage("one").await.unwrap();
    assert_eq!((usage.size as u64, usage.inodes), (image, 2));
    // 25 pages of data, superblock, metadata; a page for the note, and what directories take on a disk.
    assert!((100_000..=27 * 4096 + 4096).contains(&image), "{image}");
    let taken = blocks(&daemon.root().join("snapshots"));
    assert!(taken < image + 5 * 4096, "{taken} bytes for an image of {image}");
    dir
}

#[tokio::test]
async fn a_layer_in_memory_is_kept_once() {
    needs_root!();
    // A tmpfs: no kernel mounts a file of it without a loop device.
    let daemon = Daemon::start(&[]).await;
    let dir = is_kept_once(&daemon).await;
    let device = source(&dir);
    assert!(device.starts_with("/dev/loop"), "{device}");
    let attached =
        || fs::read_to_string(format!("/sys/block/{}/loop/backing_file", &device["/dev/".len()..]));
    assert!(attached().unwrap().contains("layer.erofs"));
    let mut client = daemon.client().await;
    client.remove("one").await.unwrap();
    assert_eq!(images_mounted(&daemon.root()), Vec::<PathBuf>::new());
    // The device frees itself.
    let deadline = Instant::now() + Duration::from_secs(20);
    let root = daemon.root().display().to_string();
    while attached().is_ok_and(|file| file.contains(&root)) {
        assert!(Instant::now() < deadline, "{device} is still attached");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_layer_on_disk_is_kept_once() {
    needs_root!();
    let daemon = Daemon::start_in(Path::new(env!("CARGO_TARGET_TMPDIR")), &[]).await;
    let dir = is_kept_once(&daemon).await;
    // With Linux 6.12 and ext4 or xfs the file itself.
    let source = source(&dir);
    assert!(source.starts_with("/dev/loop") || source.ends_with("layer.erofs"), "{source}");
}

#[tokio::test]
async fn mounts_are_taken_over_or_made_again() {
    needs_root!();
    let mut daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    let (one, two) = (layer(&mut client, "one", "").await, layer(&mut client, "two", "one").await);
    let before = mount_id(&one);
    daemon.kill();
    // As after a reboot.
    rustix::mount::unmount(&two, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(!two.join("two").exists());
    daemon.restart().await;
    assert_eq!(mount_id(&one), before);
    assert_eq!(images_mounted(&daemon.root()).len(), 2);
    let mut client = daemon.client().await;
    let mounts = client.prepare("run", "two").await.unwrap();
    assert_eq!(mounted(&mounts, "cat one two | wc -c"), "199998\n");
}

#[tokio::test]
async fn an_image_that_cannot_be_mounted_is_refused_until_it_can() {
    needs_root!();
    let mut daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    let dir = layer(&mut client, "one", "").await;
    client.prepare("run", "one").await.unwrap();
    daemon.kill();
    rustix::mount::unmount(&dir, rustix::mount::UnmountFlags::empty()).unwrap();
    let blob = dir.with_file_name("layer.erofs");
    let bytes = fs::read(&blob).unwrap();
    fs::set_permissions(&blob, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(&blob, vec![0; bytes.len()]).unwrap();
    daemon.restart().await;
    let mut client = daemon.client().await;
    refused(client.prepare("another", "one").await, Code::Internal, "image");
    refused(client.mounts("run").await, Code::Internal, "image");
    assert!(client.stat("another").await.is_err());
    fs::write(&blob, bytes).unwrap();
    assert_eq!(mounted(&client.mounts("run").await.unwrap(), "cat one | wc -c"), "99999\n");
}

#[tokio::test]
async fn what_a_killed_daemon_left_is_unmounted() {
    needs_root!();
    let mut daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    let (one, two) = (layer(&mut client, "one", "").await, layer(&mut client, "two", "one").await);
    let mounts = client.prepare("run", "one").await.unwrap();
    fs::write(upper(&mounts).join("mine"), "kept").unwrap();
    daemon.kill();
    // In the midst of Remove: its record is gone. In the midst of Commit: the image is mounted, the record not written. After it: the directory is there still.
    let id = two.parent().unwrap().file_name().unwrap().to_str().unwrap();
    fs::remove_file(daemon.root().join(format!("records/{id}.json"))).unwrap();
    let half = upper(&mounts).with_file_name("image");
    fs::create_dir(&half).unwrap();
    fs::copy(one.with_file_name("layer.erofs"), half.with_file_name("layer.erofs")).unwrap();
    let probe = daemon.root().join("tmp/probe-2");
    fs::create_dir(&probe).unwrap();
    for target in [&half, &probe] {
        rustix::mount::mount(source(&one), target, "erofs", rustix::mount::MountFlags::RDONLY, None).unwrap();
    }
    fs::create_dir(one.with_file_name("fs")).unwrap();
    fs::write(one.with_file_name("fs").join("one"), "left").unwrap();
    assert_eq!(images_mounted(&daemon.root()).len(), 4);
    daemon.restart().await;
    assert_eq!(images_mounted(&daemon.root()), std::slice::from_ref(&one));
    assert!(!two.parent().unwrap().exists() && !half.exists() && !one.with_file_name("fs").exists());
    assert_eq!(fs::read_dir(daemon.root().join("tmp")).unwrap().count(), 0);
    let mut client = daemon.client().await;
    let mounts = client.mounts("run").await.unwrap();
    assert_eq!(mounted(&mounts, "cat mine; wc -c <one"), "kept99999\n");
    client.commit("mine", "run").await.unwrap();
}

#[tokio::test]
async fn who_uses_a_removed_layer_goes_on() {
    needs_root!();
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "one", "").await;
    layer(&mut client, "two", "one").await;
    let place = tempfile::tempdir().unwrap();
    let (overlay, bind) =
        (client.prepare("run", "two").await.unwrap(), client.view("look", "one").await.unwrap());
    let mut users = Vec::new();
    for (mounts, script) in [(overlay, "cat one two | wc -c"), (bind, "wc -c <one")] {
        let mut user = mounting(&mounts, place.path(), &format!("echo ready; read word; {script}"));
        let mut user = user.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(user.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        users.push((user, lines));
    }
    for key in ["run", "look", "two", "one"] {
        client.remove(key).await.unwrap();
    }
    assert_eq!(images_mounted(&daemon.root()), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(daemon.root().join("tmp")).unwrap().count(), 0);
    for ((mut user, lines), wanted) in users.into_iter().zip(["199998", "99999"]) {
        user.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(lines.map(Result::unwrap).collect::<Vec<_>>(), [wanted]);
        user.wait().unwrap();
    }
}

#[tokio::test]
async fn layers_of_both_kinds_are_stacked() {
    needs_root!();
    let mut daemon = Daemon::start(&["--layer-files", "directory"]).await;
    let mut client = daemon.client().await;
    let dir = layer(&mut client, "one", "").await;
    assert!(dir.ends_with("fs") && dir.with_file_name("layer.erofs").exists());
    assert_eq!(images_mounted(&daemon.root()), Vec::<PathBuf>::new());
    daemon.kill();
    daemon.set_flags(&[]);
    daemon.restart().await;
    let mut client = daemon.client().await;
    // Somebody may use its directory: it stays.
    assert!(dir.join("one").exists());
    let image = layer(&mut client, "two", "one").await;
    assert_eq!(images_mounted(&daemon.root()), [image]);
    daemon.kill();
    daemon.set_flags(&["--layer-files", "directory"]);
    daemon.restart().await;
    let mut client = daemon.client().await;
    layer(&mut client, "three", "two").await;
    assert_eq!(images_mounted(&daemon.root()).len(), 1);
    let mounts = client.prepare("run", "three").await.unwrap();
    assert_eq!(mounted(&mounts, "cat one two three | wc -c"), "299998\n");
    for key in ["run", "three", "two", "one"] {
        client.remove(key).await.unwrap();
    }
    assert_eq!(fs::read_dir(daemon.root().join("snapshots")).unwrap().count(), 0);
}

#[tokio::test]
async fn without_loop_devices_layers_stay_directories() {
    needs_root!();
    let mut daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    let one = layer(&mut client, "one", "").await;
    daemon.kill();
    // As a kernel that has none, and so cannot mount files of a tmpfs.
    daemon.set_before(Some("mount --bind /dev/null /dev/loop-control"));
    daemon.restart().await;
    assert!(daemon.log().contains("layers stay directories"), "{}", daemon.log());
    let mut client = daemon.client().await;
    let two = layer(&mut client, "two", "one").await;
    assert!(two.ends_with("fs") && lookup::layer_blob(&two).unwrap().is_some());
    assert!(!two.with_file_name("image").exists());
    let usage = client.usage("two").await.unwrap();
    assert!(usage.size >= 99_999 && usage.inodes == 2, "{usage:?}");
    // What was mounted is still used.
    let mounts = client.prepare("run", "two").await.unwrap();
    assert_eq!(mounted(&mounts, "cat one two | wc -c"), "199998\n");
    client.remove("run").await.unwrap();
    daemon.kill();
    daemon.set_before(None);
    daemon.restart().await;
    let mut client = daemon.client().await;
    assert_eq!(images_mounted(&daemon.root()), std::slice::from_ref(&one));
    let three = layer(&mut client, "three", "two").await;
    assert!(three.ends_with("image"));
    let mounts = client.prepare("run", "three").await.unwrap();
    assert_eq!(mounted(&mounts, "cat one two three | wc -c"), "299998\n");
}

#[tokio::test]
async fn inode_numbers_are_those_of_one_device() {
    needs_root!();
    let daemon = Daemon::start(&[]).await;
    let mut client = daemon.client().await;
    layer(&mut client, "one", "").await;
    layer(&mut client, "two", "one").await;
    let mounts = client.prepare("run", "two").await.unwrap();
    let script = "stat -c '%d' . one two | uniq | wc -l; stat -c %i one >before; exec 3<one; echo x >>one; \
        stat -c %i one | cmp - before; stat -c %d one . | uniq | wc -l; stat -c %i one two | uniq | wc -l";
    assert_eq!(mounted(&mounts, script), "1\n1\n2\n");
}
