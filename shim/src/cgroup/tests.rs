use super::*;

fn cpu(shares: u64, quota: i64, period: u64) -> Cpu {
    Cpu { shares: Some(shares), quota: Some(quota), period: Some(period), cpus: String::new() }
}

#[test]
fn paths_in_both_forms() {
    for (given, wanted) in [
        ("/k8s.io/abc", "k8s.io/abc"),
        ("/kubepods/burstable/pod1/abc", "kubepods/burstable/pod1/abc"),
        (
            "kubepods-burstable-pod1.slice:cri-containerd:abc",
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope",
        ),
        ("system.slice:seuss:abc", "system.slice/seuss-abc.scope"),
        ("/../../etc/x", "etc/x"),
        ("", ""),
    ] {
        assert_eq!(relative_path(given), PathBuf::from(wanted), "{given}");
    }
}

#[test]
fn limits_in_the_words_of_both_versions() {
    let limits = cpu(512, 50_000, 100_000);
    assert_eq!(
        v1_limits(&limits),
        [
            ("cpu.shares", "512".to_owned()),
            ("cpu.cfs_period_us", "100000".to_owned()),
            ("cpu.cfs_quota_us", "50000".to_owned())
        ]
    );
    assert_eq!(v2_limits(&limits), [("cpu.weight", "20".to_owned()), ("cpu.max", "50000 100000".to_owned())]);
    assert_eq!(
        v2_limits(&cpu(2, -1, 0)),
        [("cpu.weight", "1".to_owned()), ("cpu.max", "max 100000".to_owned())]
    );
    assert!(v1_limits(&Cpu::default()).is_empty() && v2_limits(&Cpu::default()).is_empty());
}

#[test]
fn what_was_made_goes_and_what_was_there_stays() {
    let root = tempfile::tempdir().unwrap();
    for name in V1_CONTROLLERS {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    fs::create_dir(root.path().join("cpu/pods")).unwrap();
    let group = Cgroup::create_under(root.path(), Version::V1, Path::new("pods/a"), &Cpu::default()).unwrap();
    for name in V1_CONTROLLERS {
        assert!(root.path().join(name).join("pods/a").is_dir());
    }
    let text = serde_json::to_string(&group).unwrap();
    let group: Cgroup = serde_json::from_str(&text).unwrap();
    group.delete();
    assert!(root.path().join("cpu/pods").is_dir());
    assert!(!root.path().join("cpu/pods/a").exists());
    assert!(!root.path().join("memory/pods").exists());
    group.delete();
}

#[test]
fn threads_go_where_threads_may_go() {
    let root = tempfile::tempdir().unwrap();
    for name in V1_CONTROLLERS {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    let group = Cgroup::create_under(root.path(), Version::V1, Path::new("a"), &cpu(100, 0, 0)).unwrap();
    group.add_thread(42).unwrap();
    group.add_process(7).unwrap();
    let read = |path: &str| fs::read_to_string(root.path().join(path)).ok();
    assert_eq!(read("cpu/a/tasks").as_deref(), Some("42"));
    assert_eq!(read("memory/a/tasks"), None, "memory belongs to the process");
    assert_eq!(read("memory/a/cgroup.procs").as_deref(), Some("7"));
    assert_eq!(read("cpu/a/cpu.shares").as_deref(), Some("100"));
}

#[test]
fn figures_are_read_back() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("cpuacct")).unwrap();
    fs::create_dir(root.path().join("cpu")).unwrap();
    let group = Cgroup::create_under(root.path(), Version::V1, Path::new("a"), &Cpu::default()).unwrap();
    assert_eq!(group.cpu_time(), None);
    fs::write(root.path().join("cpuacct/a/cpuacct.usage"), "1500\n").unwrap();
    fs::write(root.path().join("cpu/a/cpu.stat"), "nr_periods 3\nnr_throttled 2\nthrottled_time 77\n")
        .unwrap();
    assert_eq!(group.cpu_time(), Some(Duration::from_nanos(1500)));
    assert_eq!(group.throttling(), (3, 2, Duration::from_nanos(77)));
    let group = Cgroup { version: Version::V2, made: Vec::new(), dirs: vec![root.path().join("cpu/a")] };
    fs::write(root.path().join("cpu/a/cpu.stat"), "usage_usec 12\nnr_throttled 1\n").unwrap();
    assert_eq!(group.cpu_time(), Some(Duration::from_micros(12)));
    assert_eq!(group.throttling(), (0, 1, Duration::ZERO));
}

/// On the machine's real cgroup v1 hierarchies, where this user may.
#[test]
fn a_real_thread_in_a_real_group() {
    let name = format!("seuss-test-{}", std::process::id());
    if Version::detect() != Version::V1 {
        eprintln!("skipped: this machine has cgroup v2");
        return;
    }
    let Ok(group) = Cgroup::create(Path::new(&name), &cpu(512, 0, 0)) else {
        eprintln!("skipped: this user may not make control groups");
        return;
    };
    let thread = std::thread::spawn({
        let group = group.clone();
        move || {
            let tid = rustix::thread::gettid().as_raw_pid() as u32;
            group.add_thread(tid)?;
            let own = fs::read_to_string("/proc/thread-self/cgroup").unwrap_or_default();
            Ok::<_, CgroupError>(own)
        }
    });
    let own = thread.join().unwrap();
    let usage = group.cpu_time();
    // The kernel lets go of an ended thread a moment later.
    for _ in 0..50 {
        group.delete();
        if !group.dirs.iter().any(|dir| dir.exists()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!group.dirs.iter().any(|dir| dir.exists()), "nothing is left");
    let own = own.unwrap();
    assert!(own.lines().any(|line| line.contains("cpu:") && line.ends_with(&name)), "{own}");
    assert!(own.lines().any(|line| line.contains("memory:") && !line.ends_with(&name)), "{own}");
    assert!(usage.is_some());
}

#[test]
fn the_tightest_group_above_counts() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("pods/a/b");
    fs::create_dir_all(&dir).unwrap();
    let group = |path: &str, limit: &str, usage: u64| {
        let dir = root.path().join(path);
        fs::write(dir.join("memory.max"), format!("{limit}\n")).unwrap();
        fs::write(dir.join("memory.current"), format!("{usage}\n")).unwrap();
    };
    let headroom = || headroom_below(root.path(), Version::V2, Path::new("pods/a/b"));
    assert_eq!(headroom(), None, "no figures");
    group("pods/a/b", "max", 50 << 20);
    group("pods", "max", 60 << 20);
    assert_eq!(headroom(), None, "no limit");
    group("pods/a", "104857600", 50 << 20);
    assert_eq!(headroom(), Some((50 << 20) - SLACK_BYTES));
    group("pods", "83886080", 60 << 20);
    assert_eq!(headroom(), Some((20 << 20) - SLACK_BYTES));
    // What the kernel can take back is no use.
    fs::write(root.path().join("pods/memory.stat"), "anon 5\ninactive_file 1048576\nactive_file 1048576\n")
        .unwrap();
    assert_eq!(headroom(), Some((22 << 20) - SLACK_BYTES));
    group("pods/a/b", "52428800", 60 << 20);
    assert_eq!(headroom(), Some(0));
    let v1 = root.path().join("v1/a");
    fs::create_dir_all(&v1).unwrap();
    fs::write(v1.join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
    fs::write(v1.join("memory.usage_in_bytes"), "4096\n").unwrap();
    let headroom = || headroom_below(&root.path().join("v1"), Version::V1, Path::new("a"));
    assert_eq!(headroom(), None);
    fs::write(v1.join("memory.limit_in_bytes"), "16777216\n").unwrap();
    assert_eq!(headroom(), Some((16 << 20) - 4096 - SLACK_BYTES));
}

#[test]
fn threads_that_are_left_move_to_the_process_group() {
    let root = tempfile::tempdir().unwrap();
    let group = |path: &str| {
        let dirs: Vec<_> = ["cpu", "memory"].map(|name| root.path().join(name).join(path)).into();
        dirs.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        Cgroup { version: Version::V1, made: Vec::new(), dirs }
    };
    let (container, process) = (group("a"), group("pod"));
    fs::write(container.dirs[0].join("tasks"), "17\n").unwrap();
    container.evacuate(&process);
    assert_eq!(fs::read_to_string(process.dirs[0].join("tasks")).unwrap(), "17");
    assert!(!process.dirs[1].join("tasks").exists(), "each hierarchy by itself");
    let v2 =
        |path: &str| Cgroup { version: Version::V2, made: Vec::new(), dirs: vec![root.path().join(path)] };
    let (container, process) = (v2("cpu/a"), v2("memory/pod"));
    fs::write(container.dirs[0].join("cgroup.threads"), "5\n").unwrap();
    container.evacuate(&process);
    assert_eq!(fs::read_to_string(process.dirs[0].join("cgroup.threads")).unwrap(), "5");
}
