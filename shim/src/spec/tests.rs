use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use seuss_abi::spec::{InjectedFile, LINK};

use super::*;
use crate::oci::Mount;

const CRI_CONTAINER: &str = include_str!("../../tests/specs/cri-container.json");
const CRI_SANDBOX: &str = include_str!("../../tests/specs/cri-sandbox.json");
const CTR_RUN: &str = include_str!("../../tests/specs/ctr-run.json");

fn parse(text: &str) -> Spec {
    serde_json::from_str(text).unwrap()
}

/// A directory with what kubelet and containerd prepare for a container's mounts.
fn pod_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("etc-hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::write(path("termination-log"), "").unwrap();
    fs::write(path("hostname"), "web-0\n").unwrap();
    fs::write(path("resolv.conf"), "nameserver 10.0.0.10\n").unwrap();
    fs::create_dir(path("shm")).unwrap();
    // As kubelet's atomic writer lays it out.
    for (volume, key, value) in [("config", "app.ini", "x=1\n"), ("token", "token", "secret")] {
        let version = path(volume).join("..2026_11_24");
        fs::create_dir_all(&version).unwrap();
        fs::write(version.join(key), value).unwrap();
        symlink("..2026_11_24", path(volume).join("..data")).unwrap();
        symlink(format!("..data/{key}"), path(volume).join(key)).unwrap();
    }
    fs::create_dir(path("config/sub")).unwrap();
    fs::write(path("config/sub/deep"), "d").unwrap();
    dir
}

fn cri_container(dir: &Path) -> Spec {
    parse(&CRI_CONTAINER.replace("@DIR@", dir.to_str().unwrap()))
}

fn file<'p>(plan: &'p GuestPlan, path: &str) -> &'p InjectedFile {
    plan.process
        .files
        .iter()
        .find(|file| file.path == path.as_bytes())
        .unwrap_or_else(|| panic!("{path} is missing"))
}

fn text(list: &[Vec<u8>]) -> Vec<&str> {
    list.iter().map(|bytes| std::str::from_utf8(bytes).unwrap()).collect()
}

#[test]
fn a_container_of_a_pod() {
    let dir = pod_files();
    let spec = cri_container(dir.path());
    assert_eq!(role(&spec), Role::Container { sandbox_id: "5a9d0c".into() });
    let plan = translate(&spec, "web-0").unwrap();
    let process = &plan.process;
    assert_eq!(text(&process.args), ["python3", "-m", "http.server", "8080"]);
    assert_eq!(process.env.len(), 3);
    assert_eq!((process.uid, process.gid, &*process.groups), (1000, 3000, &[2000, 3000][..]));
    assert_eq!((process.cwd.as_slice(), process.umask, process.terminal), (&b"/srv"[..], 0o22, false));
    assert_eq!((process.nofile, process.nproc, process.read_only_root), (65536, 100, true));
    assert_eq!(process.hostname, b"web-0");
    assert_eq!(plan.memory_bytes, (128 << 20) + LIBRARY_OS_BYTES);
    assert_eq!(plan.network, Network::Path("/var/run/netns/cni-1".into()));
    assert_eq!((plan.cpu.shares, plan.cpu.quota, plan.oom_score_adj), (Some(256), Some(50_000), Some(993)));
    assert_eq!(plan.cgroups_path, "kubepods-burstable-podab.slice:cri-containerd:77");
}

#[test]
fn its_mounts_become_files() {
    let dir = pod_files();
    let plan = translate(&cri_container(dir.path()), "web-0").unwrap();
    let hosts = file(&plan, "/etc/hosts");
    assert_eq!((hosts.content.as_slice(), hosts.read_only), (&b"127.0.0.1 localhost\n"[..], false));
    assert_eq!(file(&plan, "/etc/resolv.conf").content, b"nameserver 10.0.0.10\n");
    assert_eq!(file(&plan, "/dev/termination-log").content, b"");
    let config = file(&plan, "/etc/config/app.ini");
    assert_eq!((config.content.as_slice(), config.read_only), (&b"x=1\n"[..], true));
    assert_eq!(file(&plan, "/etc/config/sub/deep").content, b"d");
    assert_eq!(file(&plan, "/var/run/secrets/kubernetes.io/serviceaccount/token").content, b"secret");
    assert_eq!(plan.process.files.len(), 7, "nothing twice, nothing of /dev/shm");
}

#[test]
fn a_sandbox() {
    let spec = parse(CRI_SANDBOX);
    assert_eq!(role(&spec), Role::Sandbox);
    assert_eq!(
        net_sysctls(&spec).unwrap(),
        [
            ("net/ipv4/ip_unprivileged_port_start".to_owned(), "0".to_owned()),
            ("net/ipv4/ping_group_range".to_owned(), "0 2147483647".to_owned())
        ]
    );
    assert_eq!(network(&spec), Network::Path("/var/run/netns/cni-1".into()));
}

#[test]
fn a_container_of_ctr() {
    let spec = parse(CTR_RUN);
    assert_eq!(role(&spec), Role::Alone);
    let plan = translate(&spec, "one").unwrap();
    assert_eq!((plan.process.terminal, plan.process.window), (true, (50, 132)));
    assert_eq!(plan.process.hostname, b"one");
    assert_eq!((plan.memory_bytes - LIBRARY_OS_BYTES, plan.network), (DEFAULT_MEMORY_BYTES, Network::New));
    assert!(plan.process.files.is_empty());
}

#[test]
fn an_exec() {
    let process = serde_json::json!({
        "terminal": true, "user": {"uid": 5, "gid": 6, "umask": 63}, "args": ["sh", "-c", "true"], "env": null, "cwd": ""
    });
    let process = translate_exec(&serde_json::from_value(process).unwrap()).unwrap();
    assert_eq!(text(&process.args), ["sh", "-c", "true"]);
    assert_eq!((process.uid, process.gid, process.umask, process.cwd.as_slice()), (5, 6, 0o77, &b"/"[..]));
    assert!(matches!(translate_exec(&Process::default()), Err(SpecError::NoArguments)));
}

#[test]
fn the_description_fits_the_mailbox_or_is_refused() {
    let mut spec = parse(CTR_RUN);
    let process = spec.process.as_mut().unwrap();
    process.env.push(format!("BIG={}", "x".repeat(MAILBOX_SIZE as usize)));
    assert!(matches!(translate(&spec, ""), Err(SpecError::TooLarge { .. })));
}

#[test]
fn memory_limits() {
    let limit = |limit: Option<i64>| {
        let mut spec = parse(CTR_RUN);
        spec.linux.resources.memory.limit = limit;
        translate(&spec, "").map(|plan| plan.memory_bytes - LIBRARY_OS_BYTES)
    };
    assert_eq!(limit(None).unwrap(), DEFAULT_MEMORY_BYTES);
    assert_eq!(limit(Some(0)).unwrap(), DEFAULT_MEMORY_BYTES);
    assert_eq!(limit(Some(-1)).unwrap(), DEFAULT_MEMORY_BYTES);
    assert_eq!(limit(Some(i64::MAX)).unwrap(), PRIVATE_MAX);
    let error = limit(Some(4 << 20)).unwrap_err();
    assert!(error.to_string().contains("4 MiB is too small: a guest needs at least 16 MiB"), "{error}");
}

#[test]
fn what_cannot_be_met_is_named() {
    let refused = |change: &dyn Fn(&mut Spec)| {
        let mut spec = parse(CTR_RUN);
        change(&mut spec);
        translate(&spec, "").unwrap_err().to_string()
    };
    let error = refused(&|spec| {
        spec.hooks.insert("prestart".into(), Some(vec![serde_json::json!({"path": "/x"})]));
    });
    assert!(error.contains("prestart"), "{error}");
    let error = refused(&|spec| spec.linux.devices.push(crate::oci::Device { path: "/dev/fuse".into() }));
    assert!(error.contains("/dev/fuse"), "{error}");
    let error = refused(&|spec| {
        spec.linux.sysctl.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    assert!(error.contains("kernel.shm_rmid_forced"), "{error}");
    let error = refused(&|spec| spec.linux.namespaces.retain(|namespace| namespace.kind != "pid"));
    assert!(error.contains("hostPID"), "{error}");
    let error = refused(&|spec| spec.process = None);
    assert!(error.contains("no process"), "{error}");
    let empty: Spec = serde_json::from_str(r#"{"hooks": null, "linux": null, "mounts": null}"#).unwrap();
    assert!(matches!(translate(&empty, ""), Err(SpecError::NoProcess)));
}

#[test]
fn the_pods_process_namespace_is_taken_for_the_containers_own() {
    let mut spec = parse(CTR_RUN);
    spec.linux.namespaces.iter_mut().for_each(|namespace| namespace.path = "/proc/1/ns/pid".into());
    assert!(translate(&spec, "").is_ok());
}

#[test]
fn an_empty_list_of_hooks_is_no_hook() {
    let mut spec = parse(CTR_RUN);
    spec.hooks.insert("poststop".into(), Some(Vec::new()));
    spec.hooks.insert("prestart".into(), None);
    assert!(translate(&spec, "").is_ok());
}

fn bind(source: &Path, options: &[&str]) -> Mount {
    Mount {
        destination: "/m".into(),
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    }
}

fn inject_one(mount: Mount) -> Result<Vec<InjectedFile>, String> {
    mounts::inject(&[mount], &crate::oci::User::default()).map_err(|error| error.to_string())
}

#[test]
fn mounts_that_cannot_be_met_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = inject_one(bind(dir.path(), &["rbind", "rw"])).unwrap_err();
    assert!(error.contains("mount at /m: a writable directory"), "{error}");
    let error = inject_one(bind(dir.path(), &["rbind", "ro", "rw"])).unwrap_err();
    assert!(error.contains("writable"), "the last word wins: {error}");
    let error = inject_one(bind(Path::new("/nonexistent"), &["ro"])).unwrap_err();
    assert!(error.contains("/nonexistent"), "{error}");
    let error = inject_one(bind(Path::new("/dev/null"), &["ro"])).unwrap_err();
    assert!(error.contains("device"), "{error}");
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let error = inject_one(bind(&socket, &["ro"])).unwrap_err();
    assert!(error.contains("is a socket"), "{error}");
    let error =
        inject_one(Mount { kind: "nfs".into(), destination: "/n".into(), ..Mount::default() }).unwrap_err();
    assert!(error.contains("/n") && error.contains("nfs"), "{error}");
}

#[test]
fn links_that_lead_elsewhere_are_copied_as_links() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "secret").unwrap();
    let mounted = dir.path().join("m");
    fs::create_dir_all(mounted.join("sub")).unwrap();
    fs::write(mounted.join("file"), "x").unwrap();
    let links = [
        ("absolute", "/etc/passwd"),
        ("dangling", "nowhere"),
        ("loop", "loop"),
        ("self", "."),
        ("through", "file/x"),
        ("up", "../outside"),
    ];
    for (name, target) in links {
        symlink(target, mounted.join(name)).unwrap();
    }
    symlink(&outside, mounted.join("sub/out")).unwrap();
    symlink("../file", mounted.join("sub/in")).unwrap();
    let files = inject_one(bind(&mounted, &["ro"])).unwrap();
    let found = |path: &str| files.iter().find(|file| file.path == path.as_bytes()).unwrap();
    for (name, target) in links {
        let link = found(&format!("/m/{name}"));
        assert_eq!((link.mode, link.content.as_slice()), (LINK | 0o777, target.as_bytes()), "{name}");
    }
    assert_eq!(found("/m/sub/out").content, outside.as_os_str().as_encoded_bytes());
    // What lies inside is found by whatever way.
    for path in ["/m/file", "/m/sub/in"] {
        assert_eq!((found(path).mode & LINK, found(path).content.as_slice()), (0, &b"x"[..]), "{path}");
    }
    assert_eq!(files.len(), links.len() + 3);
}

#[test]
fn a_volume_of_the_kubelet_looks_as_it_should() {
    // kubelet's atomic writer: pkg/volume/util/atomic_writer.go.
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("..2026_11_30_10_00_00.1");
    fs::create_dir_all(data.join("nested")).unwrap();
    fs::write(data.join("key"), "value").unwrap();
    fs::write(data.join("nested/key"), "inner").unwrap();
    symlink("..2026_11_30_10_00_00.1", dir.path().join("..data")).unwrap();
    symlink("..data/key", dir.path().join("key")).unwrap();
    symlink("..data/nested", dir.path().join("nested")).unwrap();
    let files = inject_one(bind(dir.path(), &["rbind", "ro"])).unwrap();
    let files: Vec<_> = files.iter().map(|file| (file.path.as_slice(), file.content.as_slice())).collect();
    assert_eq!(files, [(&b"/m/key"[..], &b"value"[..]), (b"/m/nested/key", b"inner")]);
}

#[test]
fn names_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "x").unwrap();
    assert_eq!(inject_one(bind(dir.path(), &["ro"])).unwrap()[0].path, b"/m/caf\xe9");
}

#[test]
fn special_files_in_a_mounted_directory_neither_block_nor_pass() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let error = inject_one(bind(dir.path(), &["ro"])).unwrap_err();
    assert!(error.contains("is a FIFO"), "{error}");
    let error = inject_one(bind(&fifo, &["ro"])).unwrap_err();
    assert!(error.contains("is a FIFO"), "{error}");
}

/// Whoever may write to a mounted directory swaps a file for a link, and back, without pause, while containers are created: none of them gets what only root may read.
#[test]
fn no_race_reads_a_file_outside() {
    use std::sync::atomic::{AtomicBool, Ordering};
    // One file: the moments between two looks at it are then a good part of the whole, and any switch of threads may fall into one.
    const ATTEMPTS: usize = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let (mounted, outside) = (dir.path().join("m"), dir.path().join("outside"));
    fs::create_dir(&mounted).unwrap();
    let secret = "only root may read this";
    fs::write(&outside, secret).unwrap();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(mounted.join("file"), "harmless").unwrap();
    symlink("../outside", mounted.join("..link")).unwrap();
    let (done, mut read, mut leaked) = (AtomicBool::new(false), 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let at = rustix::fs::open(&mounted, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            while !done.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&at, "file", &at, "..link", exchange).unwrap();
            }
        });
        for _ in 0..ATTEMPTS {
            // Some may find the directory changed under them: what counts is what is read.
            for file in inject_one(bind(&mounted, &["rbind", "ro"])).unwrap_or_default() {
                read += usize::from(file.content == b"harmless");
                leaked += usize::from(file.content == secret.as_bytes());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(leaked, 0, "so many containers of {ATTEMPTS} have it");
    assert!(read > 0, "the file was read");
}

#[test]
fn large_and_endless_mounts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), vec![0; mounts::FILES_BYTES_MAX as usize]).unwrap();
    assert_eq!(inject_one(bind(dir.path(), &["ro"])).unwrap().len(), 1);
    fs::write(dir.path().join("b"), "x").unwrap();
    let error = inject_one(bind(dir.path(), &["ro"])).unwrap_err();
    assert!(error.contains("more than"), "{error}");
    fs::remove_file(dir.path().join("a")).unwrap();
    // Deeper than anybody nests.
    let deep = dir.path().join("d/".repeat(20));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("x"), "x").unwrap();
    let error = inject_one(bind(dir.path(), &["ro"])).unwrap_err();
    assert!(error.contains("levels"), "{error}");
}

#[test]
fn a_large_file_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
    let error = inject_one(bind(dir.path(), &["ro"])).unwrap_err();
    assert!(error.contains("more than"), "{error}");
}

#[test]
fn sockets_get_what_the_container_may() {
    let mut spec = parse(CRI_CONTAINER);
    let privileges = |spec: &Spec| net_privileges(spec, spec.process.as_ref().unwrap());
    let all = ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_NET_ADMIN"].map(str::to_owned);
    let process = spec.process.as_mut().unwrap();
    (process.user.uid, process.no_new_privileges) = (0, true);
    process.capabilities = crate::oci::Capabilities { bounding: all[..2].to_vec(), ambient: Vec::new() };
    let root = privileges(&spec);
    assert_eq!(
        root,
        NetPrivileges { bind_service: true, raw: true, admin: false, owner: Some(0) },
        "what is bounded"
    );
    // Another user, who cannot become root: what is ambient.
    spec.process.as_mut().unwrap().user.uid = 1000;
    assert_eq!(privileges(&spec), NetPrivileges { owner: Some(1000), ..NetPrivileges::default() });
    spec.process.as_mut().unwrap().capabilities.ambient = all[2..].to_vec();
    assert!(privileges(&spec).admin && !privileges(&spec).bind_service);
    // One who can, by a program with file capabilities.
    spec.process.as_mut().unwrap().no_new_privileges = false;
    assert_eq!(privileges(&spec), NetPrivileges { owner: Some(1000), ..root });
    // In a user namespace.
    spec.linux.uid_mappings = vec![IdMapping { container_id: 0, host_id: 70_000, size: 65_536 }];
    assert_eq!(privileges(&spec).owner, Some(71_000));
    spec.process.as_mut().unwrap().user.uid = 65_536;
    assert_eq!(privileges(&spec).owner, Some(OVERFLOW_UID));
    // A specification that says nothing grants nothing.
    spec.process.as_mut().unwrap().capabilities = Default::default();
    let nothing = privileges(&spec);
    assert!(!nothing.bind_service && !nothing.raw && !nothing.admin);
}

#[test]
fn a_secret_stays_readable_for_its_user() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    fs::write(&path, "x").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let own = std::os::unix::fs::MetadataExt::gid(&fs::metadata(&path).unwrap());
    let user = |gid: u32| crate::oci::User {
        uid: 4242,
        gid: 4242,
        additional_gids: vec![gid],
        ..Default::default()
    };
    let mode = |user: &crate::oci::User| mounts::inject(&[bind(&path, &["ro"])], user).unwrap()[0].mode;
    assert_eq!(mode(&user(own)), 0o644, "through the group");
    assert_eq!(mode(&user(own + 1)), 0o640, "a stranger");
}
