//! `make run`: one pod whose program is Debian's CPython, on a private containerd, with the time of each phase.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::spec::ContainerSpec;
use seuss_e2e::need;
use seuss_e2e::phases::run_pod;
use seuss_e2e::progress::{detail, step};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;

/// What the pod runs unless told otherwise.
const SCRIPT: &str = "import os, sys; print('CPython', sys.version); print(os.uname())";

#[derive(Parser)]
#[command(about = "Runs a pod on a private containerd and shows the time of each phase", version)]
struct Args {
    /// runc, crun or seuss.
    #[arg(long, default_value = "seuss")]
    runtime: Runtime,
    /// containerd series, 1.7 or 2.1.
    #[arg(long, default_value = "1.7")]
    containerd: Version,
    /// Test image (a recipe of e2e/images).
    #[arg(long, default_value = "python")]
    image: String,
    /// Memory limit of the container in MiB.
    #[arg(long, default_value_t = 256)]
    memory: i64,
    /// How often to run the pod.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Program and arguments instead of a line of Python.
    #[arg(last = true)]
    command: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("seuss-e2e-run: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    if let Some(reason) = need::missing_for_node(args.containerd, args.runtime) {
        bail!("cannot run here: {reason}");
    }
    step(format!("starting a private containerd {}", args.containerd.name()));
    let node = Containerd::start(Options::for_runtime(args.containerd, args.runtime)?)?;
    detail(node.cri().version()?);
    step(format!("importing the images pause and {}", args.image));
    node.import("pause")?;
    let image = node.import(&args.image)?;
    let words: Vec<&str> = match args.command.as_slice() {
        [] => vec!["python3", "-c", SCRIPT],
        given => given.iter().map(String::as_str).collect(),
    };
    let spec = ContainerSpec::new("main", &image).command(&words).memory_bytes(args.memory << 20);
    let mut last = 0;
    for time in 0..args.times {
        step(format!(
            "pod {} of {} with runtime {}: {}",
            time + 1,
            args.times,
            args.runtime.handler(),
            words.join(" ")
        ));
        let pod = run_pod(&node, args.runtime, "demo", &spec).map_err(|error| node.explain(error))?;
        print!("{}", pod.log.stdout);
        eprint!("{}", pod.log.stderr);
        println!("exit code        {:>9}", pod.exit_code);
        for (phase, duration) in pod.phases {
            println!("{phase:<16} {:>9.1} ms", duration.as_secs_f64() * 1000.0);
        }
        last = pod.exit_code;
    }
    step("cleaning up");
    node.expect_clean(std::time::Duration::from_secs(10))?;
    drop(node);
    Ok(if last == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
