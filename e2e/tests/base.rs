//! Base snapshots: however a program is started, it does the same with and without one, and so do its clones over the image of another version.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::{command, paths, runtime};

/// What a program was given, and what it said.
const INPUT: &[u8] = b"some input\n";

/// `seussctl`, with a store of its own.
struct Shop {
    dir: tempfile::TempDir,
    seussctl: PathBuf,
}

/// Standard output and exit status.
type Said = (String, Option<i32>);

impl Shop {
    fn seussctl(&self) -> Command {
        let mut command = Command::new(&self.seussctl);
        command.env("SEUSS_STORE", self.dir.path()).env("SEUSS_LAYERS", self.dir.path().join("layers"));
        command
    }

    fn say(mut command: Command) -> Result<Said> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("a pipe")?.write_all(INPUT)?;
        let output = child.wait_with_output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(errors.is_empty(), "{command:?}: {errors}");
        Ok((String::from_utf8(output.stdout)?, output.status.code()))
    }

    fn run(&self, image: &Path, more: &[&str], words: &[&str]) -> Result<Said> {
        let mut run = self.seussctl();
        run.args(["run", "--memory", "256M", "--rootfs"]).arg(image).args(more);
        if !words.is_empty() {
            run.arg("--").args(words);
        }
        Self::say(run)
    }

    /// Names of the snapshots, with how many images they lie over.
    fn snapshots(&self) -> Result<Vec<(String, u64)>> {
        let list = command::output(self.seussctl().args(["snapshot", "ls", "--json"]))?;
        let list: Vec<serde_json::Value> = serde_json::from_slice(&list)?;
        let one = |snapshot: &serde_json::Value| {
            (
                snapshot["name"].as_str().unwrap_or_default().to_owned(),
                snapshot["images"].as_u64().unwrap_or(0),
            )
        };
        Ok(list.iter().map(one).collect())
    }
}

/// Runs `words` without a base snapshot, with one (over `layers` layers, `None`: there is none to be had), and from it, over the next version of the image, too.
fn case(words: &[&str], layers: Option<u64>) -> Result<(), Failure> {
    if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&["web", "web2"])) {
        need::skip(&reason);
        return Ok(());
    }
    Ok(case_on_kvm(words, layers)?)
}

fn case_on_kvm(words: &[&str], layers: Option<u64>) -> Result<()> {
    let shop = Shop { dir: tempfile::tempdir()?, seussctl: runtime::shim_dir()?.join("seussctl") };
    let [image, next] = ["web", "web2"].map(paths::image_archive);
    let plain = shop.run(&image, &[], words)?;
    let later = shop.run(&next, &[], words)?;
    ensure!(plain.0.contains("VERSION = 1") && later.0.contains("VERSION = 2"), "{plain:?} {later:?}");
    let captured = shop.run(&image, &["--base", "--snapshot-name", "tool"], words)?;
    ensure!(captured == plain, "with a base snapshot: {captured:?} instead of {plain:?}");
    let known = shop.snapshots()?;
    let expected: Vec<_> = layers.iter().map(|&layers| ("tool-base".to_owned(), layers)).collect();
    ensure!(known == expected, "{known:?} instead of {expected:?}");
    if layers.is_some() {
        for (image, expected) in [(image, &plain), (next, &later)] {
            let clone = shop.run(&image, &["--from", "tool-base"], &[])?;
            ensure!(clone == *expected, "a clone: {clone:?} instead of {expected:?}");
        }
    }
    Ok(())
}

#[test]
fn an_interpreter_with_a_script() -> Result<(), Failure> {
    case(&["python3", "tool", "a", "b"], Some(2))
}

#[test]
fn a_script_in_the_application() -> Result<(), Failure> {
    // `#!/usr/bin/env python3`: env lies in the lowest layer, the interpreter that it looks for above.
    case(&["./tool", "x"], Some(2))
}

#[test]
fn a_command_line() -> Result<(), Failure> {
    case(&["sh", "-c", "exec python3 /app/tool y"], Some(2))
}

#[test]
fn a_child_of_a_shell() -> Result<(), Failure> {
    case(&["sh", "-c", "python3 /app/tool z; exit $?"], Some(2))
}

#[test]
fn a_program_of_the_lowest_layer() -> Result<(), Failure> {
    // Its loader finds the cache of the layer above, which belongs to the runtime with that.
    case(&["sh", "-c", "cat version.py -; exit 7"], Some(2))
}

/// What comes from outside is not the runtime's: there is no snapshot, and everything is there.
#[test]
fn a_signal_gives_the_snapshot_up() -> Result<(), Failure> {
    if let Some(reason) = need::missing_kvm().or_else(|| need::missing_images(&["web"])) {
        need::skip(&reason);
        return Ok(());
    }
    Ok(signal_on_kvm()?)
}

fn signal_on_kvm() -> Result<()> {
    // Isolated: the working directory, which is the application's, is not searched for modules.
    const PROGRAM: &str = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('signal'))\n\
        print('ready', flush=True)\nsignal.pause()\nprint(open('/app/version.py').read().strip())";
    let shop = Shop { dir: tempfile::tempdir()?, seussctl: runtime::shim_dir()?.join("seussctl") };
    let mut run = shop.seussctl();
    run.args(["run", "--base", "--rootfs"]).arg(paths::image_archive("web"));
    run.args(["--", "python3", "-I", "-c", PROGRAM]);
    let mut child = run.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("a pipe")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    command::output(Command::new("kill").args(["-USR1", &child.id().to_string()]))?;
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    ensure!(child.wait()?.success() && rest == "signal\nVERSION = 1\n", "{rest:?}");
    let known = shop.snapshots()?;
    ensure!(known.is_empty(), "{known:?}");
    Ok(())
}
