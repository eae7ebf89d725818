//! Programs that take all they can get: each meets a limit with the error that Linux gives (or is killed for want of memory), and meanwhile the shim answers
//! and stays small.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use seuss_e2e::command;
use seuss_e2e::containerd::{Containerd, Options};
use seuss_e2e::cri::log;
use seuss_e2e::cri::spec::{ContainerSpec, Sandbox};
use seuss_e2e::need::{self, Failure};
use seuss_e2e::runtime::Runtime;
use seuss_e2e::tools::Version;

/// Generous: a loaded machine must not fail a test.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much a shim may grow, guest memory left aside: buffers, threads, what sockets cost.
const GROWTH_KIB: u64 = 48 << 10;

/// A node with one image.
struct Bench {
    node: Containerd,
    python: String,
}

impl Bench {
    fn start(version: Version, namespace: &str) -> Result<Option<Self>> {
        let missing = need::missing_for_node(version, Runtime::Seuss)
            .or_else(|| need::missing_images(&["pause", "python"]));
        if let Some(reason) = missing {
            need::skip(&reason);
            return Ok(None);
        }
        let node = Containerd::start(Options::for_runtime(version, Runtime::Seuss)?)?;
        if namespace == "k8s.io" {
            node.import("pause")?;
        }
        let python = node.import_into(namespace, "python")?;
        Ok(Some(Self { node, python }))
    }

    /// `ctr task …`, which asks the shim; it fails when there is no answer in time.
    fn ask(&self, namespace: &str, words: &[&str]) -> Result<String> {
        let ctr = self.node.ctr(namespace);
        let mut guarded = self.node.command("timeout");
        // Behind `env PATH=…`, as Containerd::command has it.
        let own: Vec<_> = ctr.get_args().collect();
        let start = own.iter().position(|word| *word == "ctr").context("ctr is run")?;
        guarded.arg(PATIENCE.as_secs().to_string()).args(&own[start..]).arg("task").args(words);
        Ok(String::from_utf8_lossy(&command::output(&mut guarded)?).into_owned())
    }

    /// State and Stats, several times.
    fn expect_answers(&self, namespace: &str, id: &str) -> Result<()> {
        for _ in 0..3 {
            let list = self.ask(namespace, &["ls"])?;
            let own = list.lines().find(|line| line.starts_with(id)).context("the task is not listed")?;
            ensure!(own.contains("RUNNING"), "{own}");
            self.ask(namespace, &["metrics", id])?;
        }
        Ok(())
    }

    /// The host's memory of the shims: anonymous pages, without those of guests (which are in no core dump).
    fn shims_kib(&self) -> Result<u64> {
        let mut sum = 0;
        let shims = self.node.processes().into_iter();
        for shim in shims.filter(|process| process.command.contains("containerd-shim-seuss")) {
            let maps = std::fs::read_to_string(format!("/proc/{}/smaps", shim.pid))?;
            let mut anonymous = 0;
            for line in maps.lines() {
                let mut words = line.split_ascii_whitespace();
                match words.next() {
                    Some("Anonymous:") => anonymous = words.next().unwrap_or_default().parse()?,
                    Some("VmFlags:") if !words.any(|flag| flag == "dd") => sum += anonymous,
                    _ => {}
                }
            }
        }
        ensure!(sum > 0, "no shim");
        Ok(sum)
    }

    fn expect_small(&self, before_kib: u64) -> Result<()> {
        let now_kib = self.shims_kib()?;
        ensure!(now_kib < before_kib + GROWTH_KIB, "the shim grew from {before_kib} to {now_kib} KiB");
        Ok(())
    }
}

/// Runs `program` until it has told all of `limits`, one line of which begins with `limit:`; it goes on then.
fn meets(bench: &Bench, program: &str, memory_bytes: i64, limits: &[&[&str]]) -> Result<()> {
    let cri = bench.node.cri();
    let sandbox = cri.run_pod_sandbox(Sandbox::new("misbehaving", Runtime::Seuss, &bench.node.pod_logs()))?;
    let spec = ContainerSpec::new("main", &bench.python)
        .command(&["python3", "-c", program])
        .memory_bytes(memory_bytes);
    let id = cri.create_container(&sandbox, &spec)?;
    let before_kib = bench.shims_kib()?;
    cri.start_container(&id)?;
    let path = sandbox.log_path(&spec);
    log::wait(&path, PATIENCE, |log| log.stdout.contains("limit: "))
        .with_context(|| format!("{:?}", cri.container_status(&id)))?;
    let told = log::read(&path)?;
    for either in limits {
        ensure!(
            either.iter().any(|limit| told.stdout.lines().any(|line| line == *limit)),
            "none of {either:?} in {told:?}"
        );
    }
    bench.expect_answers("k8s.io", &id)?;
    bench.expect_small(before_kib)?;
    cri.stop_container(&id, Duration::ZERO)?;
    let status = cri.wait_exit(&id, PATIENCE)?;
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    cri.remove_container(&id)?;
    cri.stop_pod_sandbox(&sandbox)?;
    cri.remove_pod_sandbox(&sandbox)?;
    bench.node.expect_clean(PATIENCE)
}

fn fork_bomb(bench: &Bench) -> Result<()> {
    meets(bench, include_str!("../programs/fork_bomb.py"), 1 << 30, &[&["limit: fork EAGAIN"]])
}

fn fork_bomb_in_little_memory(bench: &Bench) -> Result<()> {
    meets(bench, include_str!("../programs/fork_bomb.py"), 96 << 20, &[&["limit: fork ENOMEM"]])
}

fn thread_bomb(bench: &Bench) -> Result<()> {
    meets(bench, include_str!("../programs/thread_bomb.py"), 256 << 20, &[&["limit: pthread_create EAGAIN"]])
}

fn memory_hog(bench: &Bench) -> Result<()> {
    meets(bench, include_str!("../programs/memory_hog.py"), 64 << 20, &[&["limit: killed by 9"]])
}

fn descriptor_leak(bench: &Bench) -> Result<()> {
    meets(bench, include_str!("../programs/descriptor_leak.py"), 512 << 20, &[&["limit: open EMFILE"]])
}

fn ten_thousand_sockets(bench: &Bench) -> Result<()> {
    let limits: [&[&str]; 4] =
        [&["TCP: 10000"], &["UDP: 10000"], &["UNIX: 10000"], &["listening: ENFILE", "listening: 10000"]];
    meets(bench, include_str!("../programs/sockets.py"), 256 << 20, &limits)
}

/// A reader that takes much, and then nothing any more: the program waits, nobody holds what it writes.
fn endless_output(bench: &Bench) -> Result<()> {
    const TAKEN_BYTES: u64 = 64 << 20;
    let mut ctr = bench.node.ctr("default");
    ctr.args(["run", "--rm", "--memory-limit", "134217728", "--runtime", Runtime::Seuss.runtime_type()]);
    ctr.args([&bench.python, "flood", "python3", "-c", include_str!("../programs/flood.py")]);
    let mut reader = ctr.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut output = reader.stdout.take().context("standard output is a pipe")?;
    let result: Result<()> = (|| {
        let mut buffer = vec![0; 1 << 16];
        output.read_exact(&mut buffer)?;
        let before_kib = bench.shims_kib()?;
        let mut taken = 0;
        while taken < TAKEN_BYTES {
            let count = output.read(&mut buffer)?;
            ensure!(count > 0, "the output ends after {taken} bytes");
            taken += count as u64;
        }
        bench.expect_answers("default", "flood")?;
        bench.expect_small(before_kib)?;
        bench.ask("default", &["kill", "--signal", "SIGKILL", "flood"])?;
        // Whatever was under way comes, then the end.
        std::io::copy(&mut output, &mut std::io::sink())?;
        Ok(())
    })();
    drop(output);
    result?;
    let deadline = Instant::now() + PATIENCE;
    while reader.try_wait()?.is_none() {
        ensure!(Instant::now() < deadline, "ctr run does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    bench.node.expect_clean(PATIENCE)
}

macro_rules! cases {
    ($(run $module:ident = $version:ident;)* cases $cases:tt) => {
        $(cases!(@module $module $version $cases);)*
    };
    (@module $module:ident $version:ident [$($case:ident in $namespace:literal),* $(,)?]) => {
        mod $module {
            use super::*;
            $(#[test]
            fn $case() -> Result<(), Failure> {
                let Some(bench) = Bench::start(Version::$version, $namespace)? else { return Ok(()) };
                Ok(super::$case(&bench).map_err(|error| bench.node.explain(error))?)
            })*
        }
    };
}

cases! {
    run misbehaving_1_7 = V1_7;
    run misbehaving_2_1 = V2_1;
    cases [
        fork_bomb in "k8s.io",
        fork_bomb_in_little_memory in "k8s.io",
        thread_bomb in "k8s.io",
        memory_hog in "k8s.io",
        descriptor_leak in "k8s.io",
        ten_thousand_sockets in "k8s.io",
        endless_output in "default",
    ]
}
