//! Fetches and builds what the end-to-end tests need, below `target/e2e` (or `$SEUSS_CACHE`).

use anyhow::Result;
use clap::{Parser, Subcommand};
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::{Tools, Version};
use seuss_e2e::{image, paths, progress};

#[derive(Parser)]
#[command(about = "Fetches and builds what the end-to-end tests need", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch containerd, runc, crun and CNI plugins as Debian packages and unpack them (nothing is installed).
    Tools {
        /// containerd series, 1.7 or 2.1; both by default.
        versions: Vec<Version>,
    },
    /// Start a private containerd, run a command inside it (a shell by default), and clean up when the command ends.
    Node {
        /// containerd series, 1.7 or 2.1.
        #[arg(long, default_value = "1.7")]
        containerd: Version,
        /// runc, crun or seuss: whether the seuss runtime is configured.
        #[arg(long, default_value = "seuss")]
        runtime: Runtime,
        /// Test images to import beside pause.
        #[arg(long, default_value = "python")]
        image: Vec<String>,
        /// Command and arguments.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Build OCI archives and unpacked root file systems offline from Debian packages.
    Images {
        /// Images to build; all recipes by default.
        names: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Tools { mut versions } => {
            if versions.is_empty() {
                versions = Version::ALL.to_vec();
            }
            for version in versions {
                let tools = Tools::fetch(version)?;
                progress::step(format!("containerd {} with its tools is ready", version.name()));
                for (name, line) in tools.versions() {
                    progress::detail(format!("{name}: {line}"));
                }
            }
        }
        Command::Images { mut names } => {
            if names.is_empty() {
                names = image::build::all()?;
            }
            image::build::build(&names)?;
            let roots = paths::cache().join("rootfs");
            progress::step(format!(
                "images: {}  root file systems: {}",
                paths::images().display(),
                roots.display()
            ));
        }
        Command::Node { containerd, runtime, image, command } => node(containerd, runtime, &image, &command)?,
    }
    Ok(())
}

fn node(version: Version, runtime: Runtime, images: &[String], words: &[String]) -> Result<()> {
    progress::step(format!("starting a private containerd {}", version.name()));
    let node = Containerd::start(Options::for_runtime(version, runtime)?)?;
    for name in std::iter::once("pause").chain(images.iter().map(String::as_str)) {
        progress::detail(format!("{} is imported (namespaces k8s.io and default)", node.import(name)?));
        node.import_into("default", name)?;
    }
    progress::detail(format!("socket {}  log {}", node.socket().display(), node.log_path().display()));
    let shell = ["bash".to_owned(), "--norc".to_owned()];
    let words = if words.is_empty() { &shell } else { words };
    let mut command = node.command("env");
    command.arg(format!("CONTAINERD_ADDRESS={}", node.socket().display())).arg("PS1=seuss-e2e# ").args(words);
    let status = command.status()?;
    progress::detail(format!("the command ended: {status}"));
    Ok(())
}
