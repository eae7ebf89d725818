//! Builds images: a recipe's steps on a copy of its parent's root, then a layer of what changed.
//!
//! Needs root (chroot, file owners). An image whose stamp matches its recipe and its parent's stamp is left alone, without
//! network and in a moment. Concurrent builds take turns on a lock file.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::layer;
use super::oci::{self, Layer};
use super::recipe::{Config, Recipe, Step};
use crate::apt::PrivateApt;
use crate::{command, paths, progress};

/// Raised when the builder changes what it makes of an unchanged recipe.
const BUILDER_VERSION: u32 = 1;

/// The suite the images are made of.
const SUITE: &str = "bookworm";

/// Builds `names` and their parents, unless they are up to date. An optional image that cannot be built is a warning.
///
/// # Errors
/// Not root, a recipe is wrong, a package cannot be had, or a step fails.
pub fn build(names: &[impl AsRef<str>]) -> Result<()> {
    let _turn = lock()?;
    for name in names {
        let lineage = Lineage::read(name.as_ref())?;
        match lineage.build() {
            Err(error) if lineage.is_optional() => {
                progress::warn(format!(
                    "image {} is optional and cannot be built here: {error:#}",
                    name.as_ref()
                ));
            }
            result => result?,
        }
    }
    Ok(())
}

/// The names of all recipes.
///
/// # Errors
/// The recipes' directory cannot be read.
pub fn all() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(paths::recipes())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "recipe") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn lock() -> Result<File> {
    fs::create_dir_all(paths::cache())?;
    let file = File::create(paths::cache().join("images.lock"))?;
    if file.try_lock().is_err() {
        progress::detail("waiting for another build of the images");
        file.lock()?;
    }
    Ok(file)
}

/// A recipe with its ancestors, base first.
struct Lineage(Vec<Recipe>);

impl Lineage {
    fn read(name: &str) -> Result<Self> {
        let mut recipes = vec![Recipe::read(&paths::recipes(), name)?];
        while let Some(parent) = recipes.last().and_then(|recipe| recipe.from.clone()) {
            ensure!(recipes.len() < 16, "the lineage of {name} does not end");
            recipes.push(Recipe::read(&paths::recipes(), &parent)?);
        }
        recipes.reverse();
        Ok(Self(recipes))
    }

    fn is_optional(&self) -> bool {
        self.0.last().is_some_and(|recipe| recipe.optional)
    }

    /// The stamps of the lineage, base first: each covers its recipe, the files it uses, and its parent's stamp.
    fn stamps(&self) -> Result<Vec<String>> {
        let mut stamp = format!("builder {BUILDER_VERSION}");
        let mut stamps = Vec::new();
        for recipe in &self.0 {
            let mut input = format!("{stamp}\n{}", recipe.text).into_bytes();
            for step in &recipe.steps {
                if let Step::Cc { source, .. } | Step::Copy { source, .. } = step {
                    input.extend(fs::read(paths::recipes().join(source)).with_context(|| source.clone())?);
                }
            }
            stamp = oci::digest(&input);
            stamps.push(stamp.clone());
        }
        Ok(stamps)
    }

    fn build(&self) -> Result<()> {
        let stamps = self.stamps()?;
        let mut layers = Vec::new();
        let mut config = Config::default();
        for (index, (recipe, stamp)) in self.0.iter().zip(&stamps).enumerate() {
            config = recipe.config.over(&config);
            let parent = index.checked_sub(1).map(|parent| paths::rootfs(&self.0[parent].name));
            layers.push(one_layer(recipe, stamp, parent.as_deref())?);
            let archive = paths::image_archive(&recipe.name);
            let archive_stamp = archive.with_extension("stamp");
            if archive.exists() && read_stamp(&archive_stamp) == *stamp {
                continue;
            }
            fs::create_dir_all(paths::images())?;
            let temporary = archive.with_extension("tmp");
            let packed = layers.iter().map(StoredLayer::read).collect::<Result<Vec<Layer>>>()?;
            oci::write_archive(&temporary, &recipe.name, &packed, &config)?;
            fs::rename(&temporary, &archive)?;
            fs::write(&archive_stamp, stamp)?;
            progress::detail(format!(
                "{} ({} MB) is {}",
                archive.display(),
                fs::metadata(&archive)?.len() >> 20,
                oci::reference(&recipe.name)
            ));
        }
        Ok(())
    }
}

/// A layer in the cache: the uncompressed tar and how it shall be stored.
struct StoredLayer {
    tar: PathBuf,
    recipe: Recipe,
}

impl StoredLayer {
    fn read(&self) -> Result<Layer> {
        Layer::pack(
            &format!("seuss-e2e {}.recipe", self.recipe.name),
            fs::read(&self.tar)?,
            self.recipe.compression,
        )
    }
}

/// Makes root and layer of one recipe, unless its stamp matches.
fn one_layer(recipe: &Recipe, stamp: &str, parent: Option<&Path>) -> Result<StoredLayer> {
    let root = paths::rootfs(&recipe.name);
    let layers = paths::cache().join("layers");
    let tar = layers.join(format!("{}.tar", recipe.name));
    let stamp_file = layers.join(format!("{}.stamp", recipe.name));
    let stored = StoredLayer { tar: tar.clone(), recipe: recipe.clone() };
    if root.is_dir() && tar.is_file() && read_stamp(&stamp_file) == stamp {
        return Ok(stored);
    }
    if !rustix::process::geteuid().is_root() {
        bail!("building images needs root (chroot, file owners)");
    }
    let started = Instant::now();
    progress::step(format!("building image {}", recipe.name));
    fs::create_dir_all(&layers)?;
    // The name keeps apart what is finished from what an interrupted run left.
    let work = root.with_file_name(format!(".{}.tmp", recipe.name));
    remove_tree(&work)?;
    fs::create_dir_all(root.parent().unwrap_or(Path::new("/")))?;
    match parent {
        Some(parent) => {
            command::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(parent).arg(&work))?
        }
        None => fs::create_dir(&work)?,
    }
    fs::set_permissions(&work, Permissions::from_mode(0o755))?;
    for step in &recipe.steps {
        apply(step, &work).with_context(|| format!("{}.recipe: {step:?}", recipe.name))?;
    }
    layer::fix_times(&work)?;
    let temporary = tar.with_extension("tar.tmp");
    let entries = layer::write(&work, parent, std::io::BufWriter::new(File::create(&temporary)?))?;
    fs::rename(&temporary, &tar)?;
    remove_tree(&root)?;
    fs::rename(&work, &root)?;
    fs::write(&stamp_file, stamp)?;
    let size = fs::metadata(&tar)?.len() >> 20;
    progress::detail(format!(
        "layer {}: {entries} entries, {size} MB, {:.1?}",
        recipe.name,
        started.elapsed()
    ));
    Ok(stored)
}

fn apply(step: &Step, root: &Path) -> Result<()> {
    let inside = |path: &str| root.join(path.trim_start_matches('/'));
    match step {
        Step::Packages(packages) => unpack(packages, root),
        Step::Pip { dest, requirements } => pip(root, &inside(dest), requirements),
        Step::Cc { source, dest } => {
            make_parent(&inside(dest))?;
            let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
            let mut compile = Command::new(cc);
            compile.args(["-O2", "-static", "-s", "-Wl,--build-id=none", "-o"]).arg(inside(dest));
            command::run(compile.arg(paths::recipes().join(source)))
        }
        Step::Copy { source, dest } => {
            make_parent(&inside(dest))?;
            fs::copy(paths::recipes().join(source), inside(dest)).map(drop).context("copy")
        }
        Step::Link { target, path } => link_unless_there(target, &inside(path)),
        Step::Mkdir { mode, path } => {
            fs::create_dir_all(inside(path))?;
            fs::set_permissions(inside(path), Permissions::from_mode(*mode)).context("chmod")
        }
        Step::Write { path, text } => {
            make_parent(&inside(path))?;
            fs::write(inside(path), format!("{text}\n")).context("write")
        }
        Step::Busybox => busybox(root),
        Step::Run(script) => command::run(
            Command::new("chroot")
                .arg(root)
                .args(["/bin/sh", "-ec", script])
                .env_clear()
                .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
                .env("LC_ALL", "C.UTF-8")
                .env("PYTHONHASHSEED", "0"),
        ),
        Step::Ldconfig => {
            let ldconfig = command::find("ldconfig").context("no ldconfig on this machine")?;
            command::run(Command::new(ldconfig).arg("-X").arg("-r").arg(root))?;
            // Holds inode numbers and times of this machine.
            remove_tree(&root.join("var/cache/ldconfig"))
        }
        Step::Remove(path) => {
            let path = inside(path);
            fs::symlink_metadata(&path).context("nothing to remove")?;
            remove_tree(&path)
        }
    }
}

/// Unpacks packages over the merged-/usr symlinks: `--keep-directory-symlink`, or a package's ./lib would replace the link.
fn unpack(packages: &[String], root: &Path) -> Result<()> {
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(dir))?;
        link_unless_there(&format!("usr/{dir}"), &root.join(dir))?;
    }
    for deb in PrivateApt::new(SUITE).fetch(packages)? {
        let script = r#"set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -C "$2" -x -p --numeric-owner --keep-directory-symlink"#;
        command::run(Command::new("bash").args(["-c", script, "unpack"]).arg(&deb).arg(root))?;
    }
    Ok(())
}

/// Unpacks wheels for the image's CPython. pip and the python that runs it come from Debian packages too, so that it does not
/// matter what this machine has. Downloaded wheels stay in the cache.
fn pip(root: &Path, dest: &Path, requirements: &[String]) -> Result<()> {
    let tools = paths::cache().join("pip");
    PrivateApt::new(SUITE).unpack(&["python3-pip-whl"], &tools)?;
    let wheel = fs::read_dir(tools.join("usr/share/python-wheels"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pip-")))
        .context("python3-pip-whl holds no pip wheel")?;
    let key = oci::digest(requirements.join("\n").as_bytes()).replace("sha256:", "");
    let wheels = paths::cache().join("wheels").join(&key[..16]);
    let pip = |subcommand: &str| {
        let mut pip = Command::new(root.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        pip.arg("--library-path").arg(root.join("usr/lib/x86_64-linux-gnu"));
        pip.arg(root.join("usr/bin/python3.11")).args(["-m", "pip", subcommand]);
        pip.args(["--quiet", "--no-cache-dir", "--only-binary=:all:"]);
        pip.env("PYTHONHOME", root.join("usr")).env("PYTHONPATH", &wheel).env("PYTHONDONTWRITEBYTECODE", "1");
        pip.env("LC_ALL", "C.UTF-8")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_ROOT_USER_ACTION", "ignore");
        pip
    };
    if !wheels.join("complete").exists() {
        progress::detail(format!("downloading wheels: {}", requirements.join(" ")));
        command::run(pip("download").arg("--dest").arg(&wheels).args(requirements))?;
        File::create(wheels.join("complete"))?;
    }
    fs::create_dir_all(dest)?;
    let mut install = pip("install");
    install.args(["--no-index", "--no-compile", "--target"]).arg(dest).arg("--find-links").arg(&wheels);
    command::run(install.env_remove("PIP_FIND_LINKS").args(requirements))
}

/// All applets in /opt/busybox, and links in the usual places for those that no package brought.
fn busybox(root: &Path) -> Result<()> {
    let list = command::output(Command::new("chroot").arg(root).args(["/bin/busybox", "--list-full"]))?;
    fs::create_dir_all(root.join("opt/busybox"))?;
    for path in String::from_utf8_lossy(&list).lines() {
        let path = Path::new(path);
        let (Some(name), Some(dir)) = (path.file_name(), path.parent()) else { continue };
        if !dir.ends_with("bin") && !dir.ends_with("sbin") {
            continue; // linuxrc
        }
        link_unless_there("/bin/busybox", &root.join("opt/busybox").join(name))?;
        let missing = ["usr/bin", "usr/sbin"].iter().all(|dir| !root.join(dir).join(name).exists());
        if missing {
            link_unless_there("/bin/busybox", &root.join(path))?;
        }
    }
    Ok(())
}

fn link_unless_there(target: &str, path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    make_parent(path)?;
    symlink(target, path).with_context(|| path.display().to_string())
}

fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |dir| fs::create_dir_all(dir).context("mkdir"))
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).with_context(|| path.display().to_string()),
        Ok(_) => fs::remove_file(path).with_context(|| path.display().to_string()),
        Err(_) => Ok(()),
    }
}

fn read_stamp(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
