//! `seussctl clone`: many clones of one snapshot, with the time of each phase.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use seuss_snapshotter::snapshot::Store;
use tokio::sync::mpsc;

use super::network::NetworkChoice;
use super::run::{RunError, clone_process, event_loop, open_origin, own_stdio};
use super::timings::us;
use crate::guest::{
    CloneConfig, Guest, GuestError, GuestEvent, GuestStats, NetPrivileges, Origin, ShellPool, StartTimings,
    Stdio, WaitStatus,
};
use crate::http::{Answer, Target};
use crate::image::RootImage;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// `seussctl clone`.
#[derive(Args, Debug)]
pub struct CloneArgs {
    /// Store of memory snapshots
    #[arg(long, value_name = "DIR", env = "SEUSS_STORE")]
    pub store: PathBuf,

    /// How many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    pub count: u32,

    /// So many run at once
    #[arg(short = 'j', long, value_name = "N", default_value_t = 1)]
    pub at_once: u32,

    /// Keep so many virtual machines ready; 0 makes each when it is needed
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub pool: usize,

    /// End each clone as soon as it has printed something
    #[arg(long)]
    pub until_output: bool,

    /// Ask each clone for a page (one GET on this machine), print the answer's body, and end the clone; for servers, one at a time
    #[arg(long, value_name = "PORT/PATH", conflicts_with_all = ["until_output", "at_once"])]
    pub get: Option<Target>,

    /// Network of the clones; with `none`, each has one of its own
    #[arg(long, value_name = "NETWORK", value_enum, default_value_t)]
    pub network: NetworkChoice,

    /// Root file system of another application over the runtime of a base snapshot
    #[arg(long, value_name = "PATH")]
    pub rootfs: Option<PathBuf>,

    /// Which image, by name, if the archive holds several
    #[arg(long, value_name = "NAME", requires = "rootfs")]
    pub image: Option<String>,

    /// Drop what the clones print
    #[arg(short, long)]
    pub quiet: bool,

    /// Write the report as JSON
    #[arg(long)]
    pub json: bool,

    /// Name, id, or beginning of an id
    pub snapshot: String,
}

/// One clone that has ended.
struct Run {
    start: StartTimings,
    stats: GuestStats,
    first_output: Option<Duration>,
    total: Duration,
    failed: Option<String>,
}

/// What the clones' threads tell.
enum News {
    /// The first byte of output.
    Output(usize, Instant),
    /// The answer to a request, or why there is none.
    Answer(usize, Result<Answer, String>),
    /// The end.
    Ended(usize, Result<WaitStatus, GuestError>, Instant),
}

/// A pipe for a clone's output: its first byte is told, and everything is passed on unless it is to be dropped.
fn output_pipe(
    number: usize,
    quiet: bool,
    news: mpsc::UnboundedSender<News>,
) -> Result<(OwnedFd, JoinHandle<()>), RunError> {
    let (mut reader, writer) =
        io::pipe().map_err(|source| RunError::Host { operation: "make a pipe", source })?;
    let pass_on = move || {
        let mut buffer = vec![0; 1 << 16];
        let mut first = true;
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            if std::mem::take(&mut first) {
                // The receiver lives until all have ended.
                let _ = news.send(News::Output(number, Instant::now()));
            }
            if !quiet {
                let _ = io::stdout().write_all(&buffer[..count]);
            }
        }
    };
    let thread = thread::Builder::new().name("output".into()).spawn(pass_on);
    let thread = thread.map_err(|source| RunError::Host { operation: "start a thread", source })?;
    Ok((writer.into(), thread))
}

/// Asks a clone for a page, on a thread.
fn ask(number: usize, target: &Target, news: mpsc::UnboundedSender<News>) -> Result<(), RunError> {
    let target = target.clone();
    let asking = move || {
        let answer = target.get(PATIENCE).map_err(|error| format!("no answer: {error}"));
        let answer = answer.and_then(|answer| {
            if answer.is_ok() { Ok(answer) } else { Err(format!("status: {}", answer.status)) }
        });
        // The receiver lives until all have ended.
        let _ = news.send(News::Answer(number, answer));
    };
    let thread = thread::Builder::new().name("ask".into()).spawn(asking);
    thread.map(drop).map_err(|source| RunError::Host { operation: "start a thread", source })
}

/// Runs the command.
///
/// # Errors
/// [`RunError`]: the first clone that cannot be started, or whose guest breaks. A program that fails is counted.
pub fn run(args: &CloneArgs) -> Result<u8, RunError> {
    let store = Store::open(&args.store)?;
    let opening = Instant::now();
    let open_image = |rootfs: &PathBuf| RootImage::open(rootfs, args.image.as_deref(), None);
    let image = args.rootfs.as_ref().map(open_image).transpose()?;
    let (origin, _) = open_origin(&store, &args.snapshot, image.as_ref())?;
    let open = opening.elapsed();
    let began = Instant::now();
    let runs = event_loop()?.block_on(run_all(args, &origin))?;
    report(args, &runs, open, began.elapsed());
    Ok(u8::from(runs.iter().any(|run| run.failed.is_some())))
}

async fn run_all(args: &CloneArgs, origin: &Arc<Origin>) -> Result<Vec<Run>, RunError> {
    let (sender, mut news) = mpsc::unbounded_channel();
    let pool = match args.pool {
        0 => None,
        size => Some(ShellPool::new(Arc::clone(origin), size)?),
    };
    let mut guests: Vec<Option<(Guest, Instant, Option<Duration>)>> = Vec::new();
    let mut outputs = Vec::new();
    let mut runs = Vec::new();
    let mut running = 0;
    while runs.len() < args.count as usize {
        while running < args.at_once.max(1) && guests.len() < args.count as usize {
            if let Some(pool) = &pool {
                // A restore that finds the pool empty measures something else.
                pool.wait()?;
            }
            let number = guests.len();
            let (stdout, output) = output_pipe(number, args.quiet || args.get.is_some(), sender.clone())?;
            let stdout = Some(stdout);
            let others = if args.quiet { Stdio::default() } else { own_stdio()? };
            let stdio = Stdio { stdout, ..others };
            let sender = sender.clone();
            let asking = sender.clone();
            let began = Instant::now();
            let config = CloneConfig {
                origin: Arc::clone(origin),
                process: clone_process(&format!("clone-{number}"), false),
                stdio,
                name: format!("clone-{number}"),
                privileges: NetPrivileges::of_this_process(),
                snapshots: None,
                pool: pool.clone(),
            };
            let guest = args.network.run(|| {
                let guest = Guest::restore(config, move |event| {
                    if let GuestEvent::Ended(result) = event {
                        // The receiver lives until all have ended.
                        let _ = sender.send(News::Ended(number, result, Instant::now()));
                    }
                })?;
                if let Some(target) = &args.get {
                    ask(number, target, asking)?;
                }
                Ok(guest)
            })?;
            guests.push(Some((guest, began, None)));
            outputs.push(Some(output));
            running += 1;
        }
        match news.recv().await {
            Some(News::Answer(number, answer)) => {
                if let Some(Some((guest, began, first_output))) = guests.get_mut(number) {
                    match answer {
                        Ok(answer) => {
                            *first_output = Some(answer.first_byte - *began);
                            if !args.quiet {
                                print_body(&answer.body);
                            }
                        }
                        Err(reason) => eprintln!("clone {number}: {reason}"),
                    }
                    guest.stop();
                }
            }
            // What a server prints is no answer.
            Some(News::Output(..)) if args.get.is_some() => {}
            Some(News::Output(number, at)) => {
                if let Some(Some((guest, began, first_output))) = guests.get_mut(number) {
                    *first_output = Some(at - *began);
                    if args.until_output {
                        guest.stop();
                    }
                }
            }
            Some(News::Ended(number, result, at)) => {
                running -= 1;
                if let Some((guest, began, first_output)) = guests.get_mut(number).and_then(Option::take) {
                    let status = result?;
                    let ended_here = args.until_output || args.get.is_some();
                    let wanted = ended_here && first_output.is_some();
                    let unanswered = args.get.is_some() && first_output.is_none();
                    let failed =
                        (unanswered || status.shell_code() != 0 && !wanted).then(|| status.to_string());
                    let (start, stats) = (guest.timings(), guest.stats());
                    // Its end of the pipe goes with it: what it has printed stands before what the next one prints.
                    drop(guest);
                    outputs.get_mut(number).and_then(Option::take).map(JoinHandle::join);
                    runs.push(Run { start, stats, first_output, total: at - began, failed });
                }
            }
            None => break,
        }
    }
    Ok(runs)
}

/// A body to standard output, on lines of its own.
fn print_body(body: &[u8]) {
    let mut out = io::stdout().lock();
    // Whoever reads may have gone away; the clones are counted all the same.
    let _ = out.write_all(body);
    if body.last() != Some(&b'\n') {
        let _ = out.write_all(b"\n");
    }
}

/// The value that `percent` of the values do not exceed.
fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).clamp(1, values.len().max(1));
    values.get(rank - 1).copied().unwrap_or(0)
}

fn report(args: &CloneArgs, runs: &[Run], open: Duration, all: Duration) {
    type Pick = fn(&Run) -> u64;
    let phases: [(&str, Pick); 17] = [
        ("made_ahead_us", |run| us(run.start.made_ahead)),
        ("entered_ahead_us", |run| us(run.start.entered_ahead)),
        ("vm_create_us", |run| us(run.start.vm_create)),
        ("vcpu_create_us", |run| us(run.start.vcpu_create)),
        ("memory_map_us", |run| us(run.start.memory_map)),
        ("copy_us", |run| us(run.start.load)),
        ("memory_slots_us", |run| us(run.start.memory_slots)),
        ("registers_us", |run| us(run.start.registers)),
        ("thread_us", |run| us(run.start.thread)),
        ("start_us", |run| us(run.start.total)),
        ("first_exit_us", |run| us(run.start.first_exit)),
        ("first_output_us", |run| us(run.first_output.unwrap_or_default())),
        ("total_us", |run| us(run.total)),
        ("faults_snapshot_cow", |run| run.stats.faults.snapshot_cow),
        ("kvm_faults_ahead", |run| run.stats.kvm_faults_ahead),
        ("kvm_faults", |run| run.stats.kvm_faults - run.stats.kvm_faults_ahead),
        ("faults_other", |run| run.stats.faults.demand + run.stats.faults.native_cow),
    ];
    let failed = runs.iter().filter(|run| run.failed.is_some()).count();
    let rows: Vec<_> = phases
        .iter()
        .map(|(name, pick)| {
            let mut values: Vec<_> = runs.iter().map(pick).collect();
            (*name, percentile(&mut values, 50), percentile(&mut values, 99))
        })
        .collect();
    if args.json {
        let phases: serde_json::Map<_, _> = rows
            .iter()
            .map(|(name, p50, p99)| ((*name).to_owned(), json!({ "p50": p50, "p99": p99 })))
            .collect();
        let value = json!({
            "clones": runs.len(), "failed": failed, "open_us": us(open), "all_us": us(all), "phases": phases,
        });
        println!("{value:#}");
        return;
    }
    eprintln!("{} clones, {failed} failed, {:.1} ms in all", runs.len(), all.as_secs_f64() * 1e3);
    eprintln!("{:<22}{:>10}{:>10}", "phase", "p50", "p99");
    for (name, p50, p99) in rows {
        eprintln!("{name:<22}{p50:>10}{p99:>10}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values() {
        let mut values: Vec<u64> = (1..=200).rev().collect();
        assert_eq!((percentile(&mut values, 50), percentile(&mut values, 99)), (100, 198));
        assert_eq!((percentile(&mut [7], 99), percentile(&mut [], 50)), (7, 0));
    }
}
