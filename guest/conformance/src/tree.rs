//! The root file system that both sides see: a copy of the base with the suite's programs in `/conformance`.
//!
//! It is made once and kept below `target/conformance` (stamps tell when something changed), because every test of a
//! nextest run is a process of its own. A lock file makes the others wait for the first.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

use crate::case::Link;
use crate::paths;
use crate::suite::{Artifact, DIR_IN_ROOT, Suite};

/// How the suite's C programs are compiled.
const CFLAGS: &[&str] = &[
    "-O2",
    "-s",
    "-std=gnu17",
    "-pthread",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused-parameter",
    "-Wno-unused-result",
    "-Wno-maybe-uninitialized",
    "-Wno-format-truncation",
    "-Wno-infinite-recursion",
    "-Wno-unused-but-set-variable",
    "-Wno-clobbered",
    "-Wno-stringop-overflow",
    "-Wno-stringop-overread",
    "-Wno-array-bounds",
    "-Wno-nonnull",
];

/// Files that programs expect and that a root made of unpacked packages may lack.
const FILES: [(&str, &str); 4] = [
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/resolv.conf", ""),
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
];

/// Makes the root file system if it is missing or out of date, and returns where it is.
///
/// # Errors
/// No base root file system, a compiler's error, or the disk is full.
pub fn prepare(suite: &Suite, progress: &dyn Fn(&str)) -> Result<PathBuf> {
    let work = paths::work();
    fs::create_dir_all(&work)?;
    let lock = File::create(work.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;

    let base = paths::base_rootfs();
    let root = work.join("root");
    let mark = base_mark(&base)?;
    let mark_file = work.join("root.stamp");
    if fs::read_to_string(&mark_file).ok().as_ref() != Some(&mark) || !root.is_dir() {
        progress(&format!("copying {}", base.display()));
        let _ = fs::remove_file(&mark_file);
        copy_base(&base, &root)?;
        fs::write(&mark_file, &mark)?;
    }
    let headers = header_hash()?;
    let built = build_all(&suite.artifacts, &work.join("build"), headers, progress)?;
    install(&suite.artifacts, &built, &root)?;
    Ok(root)
}

/// The root file system as an EROFS image, which a guest starts from without the conversion; made anew when `root` has changed.
///
/// # Errors
/// seussctl fails.
pub fn image(root: &Path) -> Result<PathBuf> {
    let work = root.parent().context("no parent")?;
    let lock = File::create(work.join("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let image = root.with_extension("erofs");
    let mut hasher = DefaultHasher::new();
    fs::read_to_string(work.join("root.stamp"))?.hash(&mut hasher);
    hash_files(&root.join(DIR_IN_ROOT.trim_start_matches('/')), &mut hasher)?;
    let stamp = format!("{:016x}", hasher.finish());
    let stamp_file = work.join("image.stamp");
    if fs::read_to_string(&stamp_file).ok().as_ref() != Some(&stamp) || !image.is_file() {
        let _ = fs::remove_file(&stamp_file);
        let converted = Command::new(paths::seussctl()).arg("convert").arg(root).arg(&image).status()?;
        if !converted.success() {
            bail!("seussctl convert {}: {converted}", root.display());
        }
        fs::write(&stamp_file, stamp)?;
    }
    Ok(image)
}

/// Names, sizes and times of the files below `directory`.
fn hash_files(directory: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        let metadata = fs::metadata(&path)?;
        (path.as_os_str(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()).hash(hasher);
        if metadata.is_dir() {
            hash_files(&path, hasher)?;
        }
    }
    Ok(())
}

/// Tells one state of the base from another: where it is, which directory it is, and when that was made.
fn base_mark(base: &Path) -> Result<String> {
    let metadata = fs::metadata(base.join("usr/bin")).with_context(|| {
        format!(
            "no root file system at {} (make images builds it; SEUSS_CONFORMANCE_ROOTFS names another)",
            base.display()
        )
    })?;
    Ok(format!("{} {} {}.{}", base.display(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec()))
}

fn copy_base(base: &Path, root: &Path) -> Result<()> {
    let partial = root.with_extension("partial");
    for stale in [root, &partial] {
        if stale.exists() {
            fs::remove_dir_all(stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        }
    }
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(base).arg(&partial).status()?;
    if !copied.success() {
        bail!("cp -a {} {}: {copied}", base.display(), partial.display());
    }
    for (path, text) in FILES {
        let file = partial.join(path);
        if !file.exists() {
            fs::create_dir_all(file.parent().context("no parent")?)?;
            fs::write(file, text)?;
        }
    }
    for (path, mode) in [("dev", 0o755), ("proc", 0o555), ("sys", 0o555), ("tmp", 0o1777), ("root", 0o700)] {
        let directory = partial.join(path);
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
    }
    fs::rename(&partial, root)?;
    Ok(())
}

/// What all programs share.
fn header_hash() -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut headers: Vec<PathBuf> = Vec::new();
    for directory in ["programs/include", "bench"] {
        for entry in fs::read_dir(paths::source().join(directory))? {
            headers.push(entry?.path());
        }
    }
    headers.retain(|path| path.extension().is_some_and(|extension| extension == "h"));
    headers.sort();
    for header in headers {
        fs::read(header)?.hash(&mut hasher);
    }
    CFLAGS.hash(&mut hasher);
    Ok(hasher.finish())
}

/// Compiles what changed; the files that belong into the root, in the order of `artifacts`.
fn build_all(
    artifacts: &[Artifact],
    build: &Path,
    headers: u64,
    progress: &dyn Fn(&str),
) -> Result<Vec<PathBuf>> {
    let mut built = Vec::new();
    let mut stale = Vec::new();
    for artifact in artifacts {
        let Some(link) = artifact.link else {
            built.push(artifact.source.clone());
            continue;
        };
        let output = build.join(&artifact.dest);
        let mut hasher = DefaultHasher::new();
        fs::read(&artifact.source)?.hash(&mut hasher);
        (headers, link.word(), &artifact.flags).hash(&mut hasher);
        let stamp = format!("{:016x}", hasher.finish());
        let stamp_file = PathBuf::from(format!("{}.stamp", output.display()));
        if fs::read_to_string(&stamp_file).ok().as_ref() != Some(&stamp) || !output.exists() {
            stale.push((artifact, link, output.clone(), stamp_file, stamp));
        }
        built.push(output);
    }
    if stale.is_empty() {
        return Ok(built);
    }
    progress(&format!("compiling {} C programs", stale.len()));
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((artifact, link, output, stamp_file, stamp)) =
                    stale.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let done =
                        compile(artifact, *link, output).and_then(|()| Ok(fs::write(stamp_file, stamp)?));
                    if let Err(error) = done {
                        errors
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let mut errors = errors.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    errors.sort();
    errors.dedup();
    if !errors.is_empty() {
        bail!("{}", errors.join("\n"));
    }
    Ok(built)
}

fn compile(artifact: &Artifact, link: Link, output: &Path) -> Result<()> {
    fs::create_dir_all(output.parent().context("no parent")?)?;
    let mut gcc = Command::new("gcc");
    gcc.args(CFLAGS).arg("-I").arg(paths::source().join("programs/include"));
    match link {
        Link::Static => gcc.args(["-static", "-no-pie"]),
        Link::StaticPie => gcc.arg("-static-pie"),
        Link::Dynamic => &mut gcc,
        Link::Shared => gcc.args(["-shared", "-fPIC"]),
    };
    gcc.arg(&artifact.source).arg("-o").arg(output).args(&artifact.flags);
    let done = gcc.output().context("cannot start gcc (packages gcc and libc6-dev)")?;
    if !done.status.success() {
        let stderr = String::from_utf8_lossy(&done.stderr);
        let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error")).collect();
        bail!("cannot compile {}\n{}", artifact.source.display(), errors.join("\n"));
    }
    Ok(())
}

/// Puts the files into the root: only what differs is written, so that an unchanged tree stays unchanged.
fn install(artifacts: &[Artifact], built: &[PathBuf], root: &Path) -> Result<()> {
    let directory = root.join(DIR_IN_ROOT.trim_start_matches('/'));
    let mut wanted = Vec::new();
    for (artifact, file) in artifacts.iter().zip(built) {
        let dest = directory.join(&artifact.dest);
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        if fs::read(&dest).ok().as_ref() != Some(&content) {
            fs::create_dir_all(dest.parent().context("no parent")?)?;
            let _ = fs::remove_file(&dest);
            fs::write(&dest, content)?;
            fs::set_permissions(&dest, fs::Permissions::from_mode(0o755))?;
        }
        wanted.push(dest);
    }
    remove_others(&directory, &wanted)
}

/// Removes programs that the suite no longer has.
fn remove_others(directory: &Path, wanted: &[PathBuf]) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}
