//! What `seussctl run` says about machines, programs and images that it cannot use: exit code, one clear message, and nothing left behind.

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{elf, skip_without_kvm, skip_without_root};
use sha2::{Digest as _, Sha256};

const SEUSSCTL: &str = env!("CARGO_BIN_EXE_seussctl");

/// A root file system, and a directory of its own for everything that seussctl might write.
struct Bench {
    root: tempfile::TempDir,
    scratch: tempfile::TempDir,
}

/// How seussctl ended.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { root: tempfile::tempdir().unwrap(), scratch: tempfile::tempdir().unwrap() };
        bench.program("hello", &elf::hello("hello\n", 7), 0o755);
        bench
    }

    fn program(&self, name: &str, content: &[u8], mode: u32) {
        let path = self.root.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn run(&self, args: &[&str]) -> Done {
        self.run_behind(&[], self.root.path(), args)
    }

    /// Runs seussctl behind the command `wrapper`, and checks that it leaves nothing.
    fn run_behind(&self, wrapper: &[&str], rootfs: &Path, args: &[&str]) -> Done {
        let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        words.extend([SEUSSCTL, "run", "--rootfs"].map(OsString::from));
        words.push(rootfs.into());
        words.extend(args.iter().map(OsString::from));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env("TMPDIR", self.scratch.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mounts = mounts();
        let child = command.spawn().unwrap();
        let pid = child.id();
        // Returns once every copy of the pipes is closed: a process left behind would keep them.
        let output = child.wait_with_output().unwrap();
        assert_eq!(self.processes(), Vec::<String>::new(), "processes are left");
        assert_eq!(new_mounts(&mounts), Vec::<String>::new(), "mounts are left");
        let written: Vec<PathBuf> =
            fs::read_dir(self.scratch.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(written, Vec::<PathBuf>::new(), "files or FIFOs are left");
        assert_eq!(cgroups_named(&format!("seuss-{pid}")), Vec::<PathBuf>::new(), "control groups are left");
        Done {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Processes that were started with this bench's environment, the test itself aside.
    fn processes(&self) -> Vec<String> {
        let mark = format!("TMPDIR={}", self.scratch.path().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if String::from_utf8_lossy(&environment).contains(&mark) {
                found.push(entry.path().display().to_string());
            }
        }
        found
    }
}

impl Done {
    /// One line, from seussctl itself, with these words, and no other output.
    #[track_caller]
    fn expect(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.starts_with("seussctl: "), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in {self:?}");
        }
    }
}

fn mounts() -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect()
}

/// Mounts of seussctl's making; tests of other binaries mount below directories of their own meanwhile.
fn new_mounts(before: &[String]) -> Vec<String> {
    mounts().into_iter().filter(|line| !before.contains(line) && line.contains("seussctl")).collect()
}

fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().contains(name) {
                found.push(entry.path());
            }
            todo.push(entry.path());
        }
    }
    found
}

/// A shell in a mount namespace of its own that prepares /dev by `script` before it becomes seussctl.
fn with_dev(script: &'static str) -> [&'static str; 6] {
    ["unshare", "--mount", "sh", "-c", script, "sh"]
}

#[test]
fn no_kvm() {
    if skip_without_root() {
        return;
    }
    let bench = Bench::new();
    let wrapper = with_dev("mount -t tmpfs none /dev && exec \"$@\"");
    bench
        .run_behind(&wrapper, bench.root.path(), &["--no-cache", "--", "/hello"])
        .expect(125, &["/dev/kvm is missing", "load the kvm module"]);
}

#[test]
fn no_permission_for_kvm() {
    if skip_without_root() {
        return;
    }
    let bench = Bench::new();
    // Root may open whatever the mode says, but not on a file system that is mounted without devices.
    let wrapper =
        with_dev("mount -t tmpfs -o nodev none /dev && mknod -m 666 /dev/kvm c 10 232 && exec \"$@\"");
    bench
        .run_behind(&wrapper, bench.root.path(), &["--no-cache", "--", "/hello"])
        .expect(125, &["no permission to open /dev/kvm", "group"]);
}

#[test]
fn programs_that_are_not_there() {
    let bench = Bench::new();
    bench.program("script", b"#!/no/such/interpreter\n", 0o755);
    bench.program("dynamic", &with_interpreter(elf::hello("", 0), b"/lib64/ld-nosuch.so.2\0"), 0o755);
    for (program, words) in [
        ("/nosuch", ["/nosuch: no such program", "root file system"]),
        ("nosuch", ["nosuch: not found", "PATH"]),
        ("/script", ["/script needs the interpreter", "/no/such/interpreter"]),
        ("/dynamic", ["/dynamic needs the interpreter", "/lib64/ld-nosuch.so.2"]),
    ] {
        bench.run(&["--no-cache", "--", program]).expect(127, &words);
    }
}

#[test]
fn programs_that_cannot_be_executed() {
    let bench = Bench::new();
    let hello = elf::hello("hello\n", 7);
    let changed = |at: usize, value: u8| {
        let mut program = hello.clone();
        program[at] = value;
        program
    };
    bench.program("mode", &hello, 0o644);
    bench.program("text", b"no program", 0o755);
    bench.program("empty", b"", 0o755);
    bench.program("arm", &changed(18, 183), 0o755);
    bench.program("i386", &changed(4, 1), 0o755);
    bench.program("object", &changed(16, 1), 0o755);
    bench.program("half", &hello[..hello.len() - 1], 0o755);
    bench.program("header", &hello[..40], 0o755);
    fs::create_dir(bench.root.path().join("directory")).unwrap();
    for (program, words) in [
        ("/mode", ["/mode is not executable", "0644"]),
        ("/text", ["/text is neither an ELF", "exec format error"]),
        ("/empty", ["/empty is neither an ELF", "exec format error"]),
        ("/arm", ["arm64", "x86-64"]),
        ("/i386", ["32-bit", "x86-64"]),
        ("/object", ["object file", "not an executable"]),
        ("/half", ["/half is a truncated ELF file", "loadable segment"]),
        ("/header", ["/header is a truncated ELF file", "ELF header"]),
        ("/directory", ["/directory is a directory", "not a program"]),
    ] {
        bench.run(&["--no-cache", "--", program]).expect(126, &words);
    }
}

#[test]
fn a_program_that_only_the_guest_refuses() {
    if skip_without_kvm() {
        return;
    }
    let bench = Bench::new();
    // The segment's address and its place in the file disagree within a page: EINVAL on Linux.
    let mut program = elf::hello("", 0);
    program[80] = 1;
    bench.program("crooked", &program, 0o755);
    let done = bench.run(&["--no-cache", "--memory", "64M", "--", "/crooked"]);
    done.expect(126, &["cannot be started"]);
}

#[test]
fn too_little_memory() {
    if skip_without_kvm() {
        return;
    }
    let bench = Bench::new();
    for size in ["4K", "1M"] {
        bench.run(&["--no-cache", "--memory", size, "--", "/hello"]).expect(125, &["too small", "at least"]);
    }
    let enough = bench.run(&["--no-cache", "--memory", "16M", "--", "/hello"]);
    assert_eq!((enough.code, &*enough.stdout, &*enough.stderr), (Some(7), "hello\n", ""));
}

#[test]
fn a_damaged_image_file() {
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("layer.erofs");
    let file = fs::File::create(&image).unwrap();
    seuss_snapshotter::erofs::build_from_dir(bench.root.path(), &file, &Default::default()).unwrap();
    let whole = fs::read(&image).unwrap();
    let mut flipped = whole.clone();
    flipped[1100] ^= 1;
    for bytes in [&flipped[..], &whole[..1500], &whole[..8192]] {
        fs::write(&image, bytes).unwrap();
        bench.run_behind(&["env"], &image, &["--", "/hello"]).expect(125, &["layer.erofs", "damaged"]);
    }
}

#[test]
fn a_damaged_archive_and_a_damaged_cache() {
    if skip_without_kvm() {
        return;
    }
    let bench = Bench::new();
    let dir = tempfile::tempdir().unwrap();
    let layout = oci_layout(bench.root.path(), dir.path());
    let cache = dir.path().join("cache");
    let args = ["--cache", cache.to_str().unwrap(), "--", "/hello"];
    let run = || bench.run_behind(&["env"], &layout.dir, &args);
    let ran = |done: &Done| (done.code, done.stdout.clone()) == (Some(7), "hello\n".to_owned());

    let first = run();
    assert!(ran(&first) && first.stderr.is_empty(), "{first:?}");

    // What the cache lost is made again, and the log says so.
    for blob in files(&cache).into_iter().filter(|path| fs::metadata(path).unwrap().len() > 2048) {
        let mut bytes = fs::read(&blob).unwrap();
        bytes[1100] ^= 1;
        fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&blob, bytes).unwrap();
    }
    let repaired = run();
    assert!(ran(&repaired) && repaired.stderr.contains("cached layer is corrupt"), "{repaired:?}");
    let after = run();
    assert!(ran(&after) && after.stderr.is_empty(), "{after:?}");

    // What the archive lost is not.
    fs::remove_dir_all(&cache).unwrap();
    let mut bytes = fs::read(&layout.layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layout.layer, bytes).unwrap();
    run().expect(125, &[&layout.layer_digest]);
}

/// All regular files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

struct Layout {
    dir: PathBuf,
    layer: PathBuf,
    layer_digest: String,
}

/// An OCI image layout of one uncompressed layer that holds `root`.
fn oci_layout(root: &Path, below: &Path) -> Layout {
    let dir = below.join("layout");
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(blobs.join(&hex), bytes).unwrap();
        (hex, bytes.len())
    };
    let tar = Command::new("tar").arg("-C").arg(root).args(["-cf", "-", "."]).output().unwrap();
    assert!(tar.status.success());
    let (layer, layer_size) = add(&tar.stdout);
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
    });
    let (config, config_size) = add(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{config}"), "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": format!("sha256:{layer}"), "size": layer_size,
        }],
    });
    let (manifest, manifest_size) = add(manifest.to_string().as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{manifest}"), "size": manifest_size,
        }],
    });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    Layout { layer: blobs.join(&layer), dir, layer_digest: layer }
}

/// `program` with its segment turned into one that names an interpreter.
fn with_interpreter(mut program: Vec<u8>, name: &[u8]) -> Vec<u8> {
    const SEGMENT: usize = 64;
    let offset = program.len() as u64;
    program[SEGMENT] = 3; // PT_INTERP
    program[SEGMENT + 8..SEGMENT + 16].copy_from_slice(&offset.to_le_bytes());
    for size in [SEGMENT + 32, SEGMENT + 40] {
        program[size..size + 8].copy_from_slice(&(name.len() as u64).to_le_bytes());
    }
    program.extend(name);
    program
}
