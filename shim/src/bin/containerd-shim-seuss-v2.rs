//! `containerd-shim-seuss-v2`: what containerd calls. Everything is in the library.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use containerd_shim_protos::protobuf::Message as _;
use seuss_shim::args::{Action, Flags};
use seuss_shim::{bootstrap, cleanup, info, logging, serve};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // containerd shows it as the reason why the task could not be started.
            eprintln!("containerd-shim-seuss-v2: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let flags = Flags::parse(std::env::args_os().skip(1))?;
    match flags.action {
        Action::Version => print(info::version().as_bytes()),
        Action::Info => {
            let mut options = Vec::new();
            io::stdin()
                .take(10 << 20)
                .read_to_end(&mut options)
                .context("cannot read the options from standard input")?;
            print(&info::info(&options))
        }
        Action::Start => {
            let bundle =
                std::env::current_dir().context("cannot find the bundle, which is the working directory")?;
            print(&bootstrap::start(&flags, &bundle)?)
        }
        Action::Delete => {
            logging::to_stderr();
            let bundle =
                if flags.bundle == Path::new("") { std::env::current_dir()? } else { flags.bundle.clone() };
            print(&delete(&flags.id, bundle)?)
        }
        Action::Serve => Ok(serve::serve(&flags)?),
    }
}

fn delete(id: &str, bundle: PathBuf) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let response = runtime.block_on(cleanup::delete(id, &bundle));
    Ok(response.write_to_bytes()?)
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).context("cannot write to standard output")
}
