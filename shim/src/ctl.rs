//! `seussctl`: what people use.
//!
//! Owns the command line. `seussctl run` ([`run`]) drives the same code as a container does, without containerd; `snapshot` ([`snapshot`]) and `clone`
//! ([`clones`]) work on a local store of memory snapshots.

pub mod clones;
pub mod convert;
pub mod network;
pub mod run;
pub mod snapshot;
pub mod store;
pub mod timings;
pub mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Exit code of `seussctl` when it is SEUSS that fails, not the program (as env(1) and Docker have it).
pub const EXIT_FAILURE: u8 = 125;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "seussctl",
    version,
    about = "Run programs in SEUSS guests: unikernels under KVM that speak the Linux system-call ABI",
    after_help = "EXAMPLES\n  \
        Run the program that an image names:\n    \
        seussctl run --rootfs python.oci.tar\n  \
        Run another one in it, with less memory:\n    \
        seussctl run --memory 128M --rootfs python.oci.tar -- python3 -c 'import os; print(os.uname())'\n  \
        Use a directory as the root file system, interactively:\n    \
        seussctl run --rootfs ./rootfs -- /bin/sh\n\n\
        Containers are not started with seussctl: containerd does that, through containerd-shim-seuss-v2 (runtime type\n\
        io.containerd.seuss.v2).",
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program in a guest, connected to this terminal or pipe
    Run(Box<RunArgs>),
    /// Take memory snapshots, look at them, remove them
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Start clones of a snapshot, one after the other, and say how long each phase took
    Clone(clones::CloneArgs),
    /// Make an EROFS image of a directory: a root file system that needs no conversion when a guest starts
    Convert(ConvertArgs),
    /// Look at the memory snapshots of seuss-snapshotter, and change what is kept
    Store(store::StoreArgs),
    /// List the image layers of seuss-snapshotter
    Layers(store::Where),
}

/// `seussctl convert`.
#[derive(Args, Debug)]
pub struct ConvertArgs {
    /// The directory
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,

    /// The image to write, for `seussctl run --rootfs`
    #[arg(value_name = "FILE")]
    pub output: PathBuf,
}

/// `seussctl run`.
#[derive(Args, Debug)]
#[command(
    after_help = "The program may write everywhere; what it wrote is gone when it ends. It can reach this machine's network as any program of yours\n\
        can, unless --network none. Standard input, output and error are those\n\
        of this process; if input and output are a terminal, so are the program's. SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1,\n\
        SIGUSR2 and SIGWINCH are passed on; the third SIGINT or SIGTERM within two seconds ends the guest by force.\n\n\
        EXIT STATUS\n  \
        the program's own, or 128 plus the signal that ended it; otherwise\n  \
        125  SEUSS itself failed: no KVM, unusable root file system, too little memory, the guest broke\n  \
        126  the program was found but cannot be executed\n  \
        127  the program, or the interpreter that it needs, was not found\n\n\
        ENVIRONMENT\n  \
        SEUSS_LOG     what to log to standard error, for example `info` or `seuss_vmm=debug` (default: warn)\n  \
        SEUSS_LAYERS  directory in which converted image layers are kept (default: seuss/layers in $XDG_CACHE_HOME or ~/.cache)"
)]
pub struct RunArgs {
    /// Root file system: a directory, an OCI image layout (directory or tar archive, also `docker save`'s), or an EROFS image. With --from: that of another
    /// application over the runtime of a base snapshot
    #[arg(long, value_name = "PATH", required_unless_present = "from")]
    pub rootfs: Option<PathBuf>,

    /// Store of memory snapshots: the program may take some (/dev/seuss)
    #[arg(long, value_name = "DIR", env = "SEUSS_STORE")]
    pub store: Option<PathBuf>,

    /// Go on from a snapshot of the store (name, id, or beginning of an id) instead of starting a program
    #[arg(long, value_name = "SNAPSHOT", requires = "store", conflicts_with_all = ["program", "cwd", "user", "identity_env"])]
    pub from: Option<String>,

    /// Name of snapshots that the program takes without naming a key
    #[arg(long, value_name = "NAME", requires = "store", default_value = "")]
    pub snapshot_name: String,

    /// Take a base snapshot, named NAME-base, when the program is about to look at what is not its runtime's, as a pod does
    #[arg(long, requires = "store", conflicts_with = "from")]
    pub base: bool,

    /// Which image, by name, if the archive holds several
    #[arg(long, value_name = "NAME")]
    pub image: Option<String>,

    /// Memory of the guest, for example 256M or 1G; taken from the host as it is used
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = crate::size::parse_bytes)]
    pub memory: u64,

    /// Network of the guest. Its sockets are served by this process: with `pod`, they are in the network namespace in which seussctl was called (a pod's, or the
    /// host's) and reach whatever it reaches, services on 127.0.0.1 too
    #[arg(long, value_name = "NETWORK", value_enum, default_value_t)]
    pub network: network::NetworkChoice,

    /// Set an environment variable, or, without `=VALUE`, take it from here; may be repeated. With --from: another value of a variable that the program was started with
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,

    /// Name of an environment variable that clones may have another value of, up to 256 bytes long in place; may be repeated
    #[arg(long, value_name = "NAME", default_values_t = ["HOSTNAME".to_owned()])]
    pub identity_env: Vec<String>,

    /// Working directory [default: the image's, or /]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub cwd: Option<String>,

    /// User and group, by name or number [default: the image's, or root]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// Host name
    #[arg(long, value_name = "NAME", default_value = "seuss")]
    pub hostname: String,

    /// Refuse writes to the root file system
    #[arg(long)]
    pub read_only: bool,

    /// Leave Python and Node.js alone: in clones their random numbers are those of the snapshot
    #[arg(long)]
    pub no_hooks: bool,

    /// Keep converted image layers here instead of the default
    #[arg(long, value_name = "DIR", env = "SEUSS_LAYERS", conflicts_with = "no_cache")]
    pub cache: Option<PathBuf>,

    /// Convert image layers in memory, keep nothing
    #[arg(long)]
    pub no_cache: bool,

    /// Write how long each phase took to FILE when the program has ended; `-` is standard error
    #[arg(long, value_name = "FILE")]
    pub timings: Option<PathBuf>,

    /// Write the timings as JSON
    #[arg(long, requires = "timings")]
    pub json: bool,

    /// Program and arguments [default: the image's Entrypoint and Cmd]
    #[arg(last = true, value_name = "PROGRAM [ARGS]...")]
    pub program: Vec<std::ffi::OsString>,
}

/// Runs `seussctl`. The value is the process' exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS };
        }
    };
    crate::logging::to_stderr();
    let ran =
        |outcome: Result<u8, run::RunError>| outcome.map_err(|error| (error.exit_code(), error.to_string()));
    let done = |outcome: Result<(), String>| outcome.map(|()| 0).map_err(|error| (EXIT_FAILURE, error));
    let outcome = match cli.command {
        Command::Run(args) => ran(run::run(&args)),
        Command::Snapshot(command) => ran(snapshot::run(&command)),
        Command::Clone(args) => ran(clones::run(&args)),
        Command::Convert(args) => done(convert::convert(&args).map_err(|error| error.to_string())),
        Command::Store(args) => done(store::store(&args).map_err(|error| error.to_string())),
        Command::Layers(place) => done(store::layers(&place).map_err(|error| error.to_string())),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err((code, error)) => {
            eprintln!("seussctl: {error}");
            ExitCode::from(code)
        }
    }
}
