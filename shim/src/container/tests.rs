use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seuss_abi::spec::ProcessSpec;
use seuss_snapshotter::snapshot::{Level, SnapshotId};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::guest::{
    Caution, CloneConfig, EventSink, GuestConfig, GuestError, GuestStats, Lineage, RequestError, StartError,
    Stdio, WaitStatus,
};
use crate::lifecycle;

/// A guest that does what the test says.
#[derive(Default)]
struct FakeGuest {
    sink: Mutex<Option<EventSink>>,
    calls: Mutex<Vec<String>>,
    stopped: AtomicBool,
    /// Answers for execs, in order; none: the guest says nothing.
    exec_answers: Mutex<VecDeque<Result<u32, i32>>>,
}

impl FakeGuest {
    fn tell(&self, event: GuestEvent) {
        (self.sink.lock().unwrap().as_mut().unwrap())(event);
    }

    fn end(&self, code: u8) {
        self.tell(GuestEvent::Ended(Ok(WaitStatus::exited(code))));
    }

    fn call(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl GuestControl for FakeGuest {
    fn tid(&self) -> u32 {
        4711
    }

    fn signal(&self, token: u32, signo: u32, all: bool) -> Result<(), RequestError> {
        self.call(format!("signal {token} {signo} {all}"));
        Ok(())
    }

    fn exec(&self, token: u32, spec: ProcessSpec, _stdio: Stdio) -> Result<(), RequestError> {
        self.call(format!("exec {token} {}", spec.command_line()));
        if let Some(result) = self.exec_answers.lock().unwrap().pop_front() {
            self.tell(GuestEvent::ExecStarted { token, result });
        }
        Ok(())
    }

    fn resize(&self, token: u32, rows: u16, columns: u16) -> Result<(), RequestError> {
        self.call(format!("resize {token} {rows} {columns}"));
        Ok(())
    }

    fn pause(&self) {
        self.call("pause".into());
    }

    fn resume(&self) {
        self.call("resume".into());
    }

    fn stop(&self) {
        if !self.stopped.swap(true, Ordering::SeqCst) {
            self.tell(GuestEvent::Ended(Ok(WaitStatus::signalled(9))));
        }
    }

    fn snapshot(&self, level: Level, caution: Option<Caution>) -> Result<(), RequestError> {
        self.call(format!("snapshot {level} {caution:?}"));
        Ok(())
    }

    fn rebase(&self, from: SnapshotId, to: Option<Arc<Lineage>>) -> Result<(), RequestError> {
        self.call(format!("rebase {from} {:?}", to.map(|to| to.id())));
        Ok(())
    }

    fn stats(&self) -> GuestStats {
        GuestStats::default()
    }
}

const RUNS: GuestEvent = GuestEvent::ExecStarted { token: 0, result: Ok(1) };

#[derive(Default)]
enum First {
    #[default]
    Runs,
    Ends(u8),
    Fails,
    Waits,
}

/// Starts the one fake guest, or fails.
#[derive(Default)]
struct FakeHypervisor {
    guest: Arc<FakeGuest>,
    /// What the first process does before the start returns.
    first: First,
    fails: bool,
    config: Mutex<Option<GuestConfig>>,
}

impl Hypervisor for FakeHypervisor {
    fn restore(&self, _: CloneConfig, _: EventSink) -> Result<Arc<dyn GuestControl>, StartError> {
        Err(StartError::NoKvm { device: "/dev/kvm" })
    }

    fn start(&self, config: GuestConfig, events: EventSink) -> Result<Arc<dyn GuestControl>, StartError> {
        if self.fails {
            return Err(StartError::NoKvm { device: "/dev/kvm" });
        }
        *self.config.lock().unwrap() = Some(config);
        *self.guest.sink.lock().unwrap() = Some(events);
        match &self.first {
            First::Runs => self.guest.tell(RUNS),
            First::Ends(code) => {
                self.guest.tell(RUNS);
                self.guest.end(*code);
            }
            First::Fails => {
                let error = GuestError::NotStarted { errno: libc::ENOEXEC, message: "no good".into() };
                self.guest.tell(GuestEvent::Ended(Err(error)));
            }
            First::Waits => {}
        }
        Ok(Arc::clone(&self.guest) as Arc<dyn GuestControl>)
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    guest: Arc<FakeGuest>,
    hypervisor: Arc<FakeHypervisor>,
    container: Arc<Container>,
    events: UnboundedReceiver<(Event, SystemTime)>,
}

/// Writes a bundle whose program is a script, so that nothing but a directory is needed.
fn bundle(dir: &Path, annotations: &str) {
    let bin = dir.join("rootfs/bin");
    std::fs::create_dir_all(&bin).unwrap();
    for (name, text) in [("sh", "\x7fELF"), ("prog", "#!/bin/prog2\n"), ("prog2", "")] {
        std::fs::write(bin.join(name), text).unwrap();
    }
    std::fs::write(bin.join("init"), minimal_elf()).unwrap();
    for name in ["sh", "prog", "init"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bin.join(name), mode).unwrap();
    }
    let config = format!(
        r#"{{"ociVersion": "1.2.0", "root": {{"path": "rootfs"}}, "annotations": {{{annotations}}},
            "process": {{"args": ["init"], "env": ["PATH=/bin"], "cwd": "/"}},
            "linux": {{"namespaces": [{{"type": "pid"}}]}}}}"#
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
}

/// An x86-64 executable without segments.
fn minimal_elf() -> Vec<u8> {
    let mut elf = vec![0; 64];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    elf[16] = 2;
    elf[18] = 62;
    elf
}

fn bench_with(hypervisor: FakeHypervisor, annotations: &str) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path(), annotations);
    let (events, receiver) = EventQueue::to_channel();
    let hypervisor = Arc::new(hypervisor);
    let shared = Arc::new(Shared {
        namespace: "test".into(),
        events,
        hypervisor: Arc::clone(&hypervisor) as Arc<dyn Hypervisor>,
        pod: Mutex::default(),
    });
    let request = CreateRequest { id: "c1".into(), bundle: dir.path().into(), ..CreateRequest::default() };
    let container = Container::create(&shared, request).unwrap();
    Bench { _dir: dir, guest: Arc::clone(&hypervisor.guest), hypervisor, container, events: receiver }
}

fn bench() -> Bench {
    bench_with(FakeHypervisor::default(), "")
}

impl Bench {
    /// The events so far, in short.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok((event, _)) = self.events.try_recv() {
            told.push(match event {
                Event::Create { .. } => "create".to_owned(),
                Event::Start { .. } => "start".to_owned(),
                Event::Exit { exec_id, exit, .. } => format!("exit {exec_id} {}", exit.status),
                Event::Delete { exit, .. } => format!("delete {}", exit.status),
                Event::ExecAdded { exec_id, .. } => format!("exec-added {exec_id}"),
                Event::ExecStarted { exec_id, .. } => format!("exec-started {exec_id}"),
                other => format!("{other:?}").split(' ').next().unwrap_or_default().to_lowercase(),
            });
        }
        told
    }

    async fn exec(&self, exec_id: &str, answer: Result<u32, i32>) -> Result<u32, TaskError> {
        self.container.exec(exec_id, StdioNames::default(), br#"{"args": ["x"], "cwd": "/"}"#)?;
        self.guest.exec_answers.lock().unwrap().push_back(answer);
        self.container.start(Some(exec_id)).await
    }
}

#[tokio::test]
async fn a_whole_life_is_told_in_order() {
    let mut bench = bench();
    assert_eq!(bench.container.start(None).await.unwrap(), 4711);
    assert_eq!(bench.exec("e1", Ok(2)).await.unwrap(), 4711);
    bench.guest.tell(GuestEvent::Exited { token: 1, status: WaitStatus::exited(3) });
    let exit = bench.container.wait(Some("e1")).await.unwrap();
    assert_eq!(exit.status, 3);
    assert_eq!(bench.container.delete_exec("e1").unwrap().1.status, 3);
    bench.guest.tell(GuestEvent::OutOfMemory);
    bench.guest.end(7);
    assert_eq!(bench.container.wait(None).await.unwrap().status, 7);
    assert_eq!(bench.container.delete().unwrap().1.status, 7);
    assert_eq!(
        bench.told(),
        ["create", "start", "exec-added e1", "exec-started e1", "exit e1 3", "oom", "exit c1 7", "delete 7"]
    );
}

#[tokio::test]
async fn an_end_before_the_start_is_told_after_it() {
    let mut bench = bench_with(FakeHypervisor { first: First::Ends(5), ..FakeHypervisor::default() }, "");
    bench.container.start(None).await.unwrap();
    assert_eq!(bench.container.wait(None).await.unwrap().status, 5);
    assert_eq!(bench.told(), ["create", "start", "exit c1 5"]);
}

#[tokio::test]
async fn a_start_that_fails_says_why_and_can_be_deleted() {
    let mut bench = bench_with(FakeHypervisor { fails: true, ..FakeHypervisor::default() }, "");
    let error = bench.container.start(None).await.unwrap_err();
    assert!(error.to_string().contains("/dev/kvm is missing"), "{error}");
    bench.container.delete().unwrap();
    assert_eq!(bench.told(), ["create", "delete 128"]);
}

#[tokio::test]
async fn a_program_that_the_guest_cannot_start_is_an_error_of_the_start() {
    let mut bench = bench_with(FakeHypervisor { first: First::Fails, ..FakeHypervisor::default() }, "");
    let error = bench.container.start(None).await.unwrap_err();
    assert_eq!(error.code(), ttrpc::proto::Code::FAILED_PRECONDITION);
    assert!(error.to_string().contains("no good"), "{error}");
    assert_eq!(bench.container.wait(None).await.unwrap().status, 126);
    bench.container.delete().unwrap();
    assert_eq!(bench.told(), ["create", "delete 126"]);
}

#[tokio::test]
async fn a_container_killed_while_it_starts_does_not_hang() {
    let mut bench = bench_with(FakeHypervisor { first: First::Waits, ..FakeHypervisor::default() }, "");
    let container = Arc::clone(&bench.container);
    let starting = tokio::spawn(async move { container.start(None).await });
    while bench.container.state(None).unwrap().state != lifecycle::State::Starting {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.container.kill(None, 9, false).unwrap();
    assert!(matches!(starting.await.unwrap(), Err(TaskError::Ended { .. })));
    bench.container.delete().unwrap();
    assert_eq!(bench.told(), ["create", "delete 137"]);
}

#[tokio::test]
async fn the_guests_end_ends_execs_first() {
    let mut bench = bench();
    bench.container.start(None).await.unwrap();
    bench.exec("e1", Ok(2)).await.unwrap();
    bench.told();
    bench.guest.end(0);
    assert_eq!(bench.told(), ["exit e1 137", "exit c1 0"]);
    assert_eq!(bench.container.wait(Some("e1")).await.unwrap().status, 137);
}

#[tokio::test]
async fn an_exec_that_cannot_be_started_names_the_program_and_is_not_told() {
    let mut bench = bench();
    bench.container.start(None).await.unwrap();
    let error = bench.exec("e1", Err(libc::ENOENT)).await.unwrap_err();
    assert!(
        error.to_string().contains("cannot run \"x\"") && error.to_string().contains("No such file"),
        "{error}"
    );
    bench.container.delete_exec("e1").unwrap();
    assert_eq!(bench.told(), ["create", "start", "exec-added e1"]);
}

#[tokio::test]
async fn an_exec_whose_guest_ends_meanwhile_does_not_hang() {
    let bench = bench();
    bench.container.start(None).await.unwrap();
    bench.container.exec("e1", StdioNames::default(), br#"{"args": ["x"]}"#).unwrap();
    let (container, guest) = (Arc::clone(&bench.container), Arc::clone(&bench.guest));
    let starting = tokio::spawn(async move { container.start(Some("e1")).await });
    while guest.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    guest.end(1);
    assert!(matches!(starting.await.unwrap(), Err(TaskError::Ended { .. })));
}

#[tokio::test]
async fn signals_reach_the_process_and_sigkill_ends_the_guest() {
    let mut bench = bench();
    bench.container.start(None).await.unwrap();
    bench.exec("e1", Ok(2)).await.unwrap();
    bench.container.kill(None, 15, false).unwrap();
    bench.container.kill(None, 1, true).unwrap();
    bench.container.kill(Some("e1"), 9, false).unwrap();
    assert_eq!(bench.guest.calls()[1..], ["signal 0 15 false", "signal 0 1 true", "signal 1 9 false"]);
    bench.told();
    bench.container.kill(None, 9, false).unwrap();
    assert_eq!(bench.told(), ["exit e1 137", "exit c1 137"]);
    let error = bench.container.kill(None, 9, false).unwrap_err();
    assert_eq!(error.code(), ttrpc::proto::Code::NOT_FOUND);
}

#[tokio::test]
async fn a_container_that_never_ran_can_be_killed_and_deleted() {
    let mut bench = bench();
    bench.container.kill(None, 28, false).unwrap();
    assert_eq!(bench.container.state(None).unwrap().state, lifecycle::State::Created);
    bench.container.kill(None, 15, false).unwrap();
    assert_eq!(bench.container.wait(None).await.unwrap().status, 143);
    assert!(bench.container.start(None).await.is_err());
    bench.container.delete().unwrap();
    assert_eq!(bench.told(), ["create", "exit c1 143", "delete 143"]);
}

#[tokio::test]
async fn deleting_what_never_ran_wakes_those_who_wait() {
    let mut bench = bench();
    let container = Arc::clone(&bench.container);
    let waiting = tokio::spawn(async move { container.wait(None).await });
    tokio::task::yield_now().await;
    bench.container.delete().unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().status, 137);
    assert_eq!(bench.told(), ["create", "delete 137"]);
}

#[tokio::test]
async fn pauses_are_told_and_keep_execs_out() {
    let mut bench = bench();
    bench.container.start(None).await.unwrap();
    bench.container.pause().unwrap();
    assert!(bench.exec("e1", Ok(2)).await.is_err());
    assert!(bench.container.pause().is_err());
    bench.container.resume().unwrap();
    assert_eq!(bench.guest.calls(), ["pause", "resume"]);
    assert_eq!(bench.told(), ["create", "start", "paused", "resumed"]);
}

#[tokio::test]
async fn a_running_container_is_not_deleted() {
    let bench = bench();
    bench.container.start(None).await.unwrap();
    assert_eq!(bench.container.delete().unwrap_err().code(), ttrpc::proto::Code::FAILED_PRECONDITION);
    assert_eq!(bench.container.pids(), [Pid { pid: 4711, exec_id: None }]);
}

#[tokio::test]
async fn sizes_before_and_after_the_start() {
    let bench = bench();
    bench.container.resize(None, 10, 20).unwrap();
    bench.container.start(None).await.unwrap();
    bench.container.resize(None, 30, 70_000).unwrap();
    assert_eq!(bench.hypervisor.config.lock().unwrap().as_ref().unwrap().process.window, (10, 20));
    assert_eq!(bench.guest.calls(), ["resize 0 30 65535"]);
}

#[tokio::test]
async fn the_memory_limit_stays() {
    let bench = bench();
    let update = |text: &str| bench.container.update(text.as_bytes());
    update(r#"{"cpu": {"shares": 100}}"#).unwrap();
    update(&format!(r#"{{"memory": {{"limit": {}}}}}"#, spec::DEFAULT_MEMORY_BYTES)).unwrap();
    let error = update(r#"{"memory": {"limit": 1000000000}}"#).unwrap_err();
    assert_eq!(error.code(), ttrpc::proto::Code::UNIMPLEMENTED);
    assert!(error.to_string().contains("memory limit"), "{error}");
}

#[tokio::test]
async fn the_guest_gets_home_and_a_host_name() {
    let bench = bench();
    bench.container.start(None).await.unwrap();
    let config = bench.hypervisor.config.lock().unwrap().take().unwrap();
    assert!(config.process.env.contains(&b"HOME=/".to_vec()));
    assert_eq!(config.process.hostname, b"c1");
    assert_eq!(config.images.len(), 1);
}

#[tokio::test]
async fn a_sandbox_has_no_guest_and_ends_as_pause_does() {
    for (signo, status) in [(15, 0), (2, 0), (9, 137)] {
        let mut bench =
            bench_with(FakeHypervisor::default(), r#""io.kubernetes.cri.container-type": "sandbox""#);
        assert_eq!(bench.container.start(None).await.unwrap(), std::process::id());
        assert!(bench.hypervisor.config.lock().unwrap().is_none());
        let error = bench.exec("e1", Ok(1)).await.unwrap_err();
        assert_eq!(error.code(), ttrpc::proto::Code::UNIMPLEMENTED);
        bench.container.kill(None, 17, false).unwrap();
        bench.container.kill(None, signo, false).unwrap();
        assert_eq!(bench.container.wait(None).await.unwrap().status, status);
        bench.container.delete().unwrap();
        assert_eq!(
            bench.told(),
            ["create".to_owned(), "start".into(), format!("exit c1 {status}"), format!("delete {status}")]
        );
    }
}

#[test]
fn programs_that_cannot_run_are_refused_when_the_container_is_created() {
    let dir = tempfile::tempdir().unwrap();
    bundle(dir.path(), "");
    let (events, mut receiver) = EventQueue::to_channel();
    let hypervisor = Arc::new(FakeHypervisor::default());
    let shared = Arc::new(Shared { namespace: "test".into(), events, hypervisor, pod: Mutex::default() });
    for (program, message) in [
        ("nosuch", "nosuch: not found in the root file system's PATH (/bin)"),
        ("sh", "/bin/sh is a truncated ELF file"),
        ("prog", "/bin/prog2 is not executable"),
        ("/bin", "/bin is a directory"),
    ] {
        let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        let text = text.replace(r#""init""#, &format!("{program:?}"));
        std::fs::write(dir.path().join("config.json"), &text).unwrap();
        let request = CreateRequest { id: "c".into(), bundle: dir.path().into(), ..CreateRequest::default() };
        let error = Container::create(&shared, request).err().expect(program).to_string();
        assert!(error.contains(message), "{program}: {error}");
        let text = text.replace(&format!("{program:?}"), r#""init""#);
        std::fs::write(dir.path().join("config.json"), text).unwrap();
    }
    assert!(receiver.try_recv().is_err(), "nobody is told of what was not created");
}
