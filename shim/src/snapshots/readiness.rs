//! When the function snapshot of a container that has booted is taken.
//!
//! Owns [`Watch`], which hears what the container does, and a thread that asks the guest for the snapshot once the program is ready. The guest says what stands in the way (an exec, a
//! connection, a program that is still starting): then it is tried again, ever more rarely, and given up in the end. When to do what is [`Plan`]'s, which has neither clock nor guest.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use seuss_snapshotter::snapshot::Level;

use super::policy::{Policy, ReadyBy};
use super::session::Jobs;
use crate::guest::confine::{self, Granted, Reach, Role};
use crate::guest::{Caution, GuestControl, Obstacle, TextBudget};
use crate::http::Target;
use crate::netns;
use crate::spec::Network;

/// How long a program that waits for connections must have been at rest: long enough for the pauses of a start, short beside the life of a pod.
const SETTLED: Duration = Duration::from_secs(1);
/// Longest wait for the answer to a warm-up request.
const WARM_UP_PATIENCE: Duration = Duration::from_secs(10);
/// How often the guest is asked before it is given up.
const TRIES_MAX: u32 = 10;
/// First and longest wait between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What a container's program or guest has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The program waits for connections, and nothing else runs.
    Listening,
    /// Somebody outside had an answer.
    Answered,
    /// An exec has ended with status 0: a probe, or a hook, or somebody's shell.
    ExecSucceeded,
    /// The snapshot was taken.
    Taken,
    /// It cannot be taken, for this reason.
    Failed(String),
    /// Something stands in its way.
    PutOff(Obstacle),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Wait for news; with a time, no longer than until then.
    Wait(Option<Instant>),
    /// Ask for the snapshot of a program that has been at rest for so long.
    Ask(Duration),
    /// It was tried often enough.
    GiveUp(Obstacle),
    /// There is nothing more to do.
    Done,
}

/// When to ask.
#[derive(Debug)]
struct Plan {
    ready_by: ReadyBy,
    /// When the guest is asked; `None` while nothing tells that the program is ready, and while it is being asked.
    due: Option<Instant>,
    asked: bool,
    /// The program answers: it need not be at rest for long.
    answers: bool,
    tries: u32,
    end: Option<Step>,
}

impl Plan {
    fn new(ready_by: ReadyBy) -> Self {
        Self { ready_by, due: None, asked: false, answers: false, tries: 0, end: None }
    }

    fn hear(&mut self, news: News, now: Instant) {
        match news {
            News::Listening if self.ready_by == ReadyBy::Listen && !self.asked => {
                self.due.get_or_insert(now + SETTLED);
            }
            News::Answered if self.ready_by != ReadyBy::Manual => self.answers(now),
            News::ExecSucceeded if self.ready_by == ReadyBy::Probe => self.answers(now),
            News::Listening | News::Answered | News::ExecSucceeded => {}
            News::Taken | News::Failed(_) if self.asked => self.end = Some(Step::Done),
            // Of a snapshot that somebody else has asked for.
            News::Taken | News::Failed(_) => {}
            News::PutOff(obstacle) if self.asked => {
                self.asked = false;
                self.tries += 1;
                self.due = Some(now + (BACKOFF.0 * 2_u32.pow(self.tries - 1)).min(BACKOFF.1));
                if self.tries >= TRIES_MAX {
                    self.end = Some(Step::GiveUp(obstacle));
                }
            }
            News::PutOff(_) => {}
        }
    }

    fn answers(&mut self, now: Instant) {
        self.answers = true;
        if !self.asked {
            // After a refusal its time is waited for: the connection that told this may be what stands in the way.
            self.due = Some(if self.tries == 0 { now } else { self.due.unwrap_or(now) });
        }
    }

    /// What to do now. `Ask` is answered by news.
    fn step(&mut self, now: Instant) -> Step {
        if let Some(end) = self.end {
            return end;
        }
        match self.due {
            Some(due) if due <= now => {
                self.due = None;
                self.asked = true;
                Step::Ask(if self.answers { Duration::ZERO } else { SETTLED })
            }
            due => Step::Wait(due),
        }
    }
}

/// Hears what a container does. Dropping it ends the watch.
pub(super) struct Watch {
    news: Sender<News>,
    /// The guest has ended: nobody is to be warmed up.
    stop: Arc<AtomicBool>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// Watches over `guest`, which has booted; nothing where `policy` takes no snapshot of a ready program. What comes of it is told through `jobs`.
    pub(super) fn begin(policy: &Policy, guest: &Arc<dyn GuestControl>, jobs: Jobs) -> Option<Self> {
        if !policy.mode.at_readiness() || policy.ready_by == ReadyBy::Manual {
            return None;
        }
        let (sender, news) = channel();
        let network = format!("/proc/self/task/{}/ns/net", guest.tid());
        let watcher = Watcher {
            plan: Plan::new(policy.ready_by),
            guest: Arc::downgrade(guest),
            news,
            warm_up: policy.warm_up.clone(),
            network: Network::Path(network.into()),
            reset_connections: policy.reset_connections,
            jobs,
            stop: Arc::default(),
        };
        let stop = Arc::clone(&watcher.stop);
        let text = TextBudget::of_this_thread();
        let run = move || {
            let _text = text.as_ref().map(TextBudget::enter);
            watcher.run();
        };
        // Not on the caller's thread, which is the guest's.
        match std::thread::Builder::new().name("readiness".to_owned()).spawn(run) {
            Ok(_) => Some(Self { news: sender, stop }),
            Err(error) => {
                tracing::warn!(%error, "no snapshot when the program is ready: no thread");
                None
            }
        }
    }

    /// Something has happened.
    pub(super) fn tell(&self, news: News) {
        // Whoever has seen enough is gone.
        let _ = self.news.send(news);
    }

    /// The guest has ended.
    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Watcher {
    plan: Plan,
    guest: Weak<dyn GuestControl>,
    news: Receiver<News>,
    warm_up: Option<Target>,
    network: Network,
    reset_connections: bool,
    jobs: Jobs,
    stop: Arc<AtomicBool>,
}

impl Watcher {
    fn run(mut self) {
        loop {
            let now = Instant::now();
            let heard = match self.plan.step(now) {
                Step::Wait(Some(until)) => self.news.recv_timeout(until.saturating_duration_since(now)),
                Step::Wait(None) => self.news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Step::Ask(settled) => {
                    if !self.ask(settled) {
                        return;
                    }
                    continue;
                }
                Step::GiveUp(obstacle) => {
                    tracing::warn!(%obstacle, tries = TRIES_MAX, "no snapshot of the ready program: given up");
                    self.jobs.given_up(obstacle);
                    return;
                }
                Step::Done => return,
            };
            match heard {
                Ok(news) => self.plan.hear(news, Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Asks the guest. False if it is gone.
    fn ask(&mut self, settled: Duration) -> bool {
        if let Some(target) = self.warm_up.take() {
            self.warm_up(&target);
        }
        let Some(guest) = self.guest.upgrade() else { return false };
        let caution = Caution { reset_connections: self.reset_connections, settled };
        guest
            .snapshot(Level::Function, Some(caution))
            .inspect_err(|error| tracing::debug!(%error, "the guest has ended before its snapshot"))
            .is_ok()
    }

    fn warm_up(&self, target: &Target) {
        let stop = &*self.stop;
        // What answers is a guest: nothing but the request is left to the thread that asks.
        let ask = || {
            confine::enter(Role::WarmUp, Granted::NOTHING, Reach::Nothing)?;
            let answer = target.get_until(WARM_UP_PATIENCE, stop);
            confine::told_violation(Role::WarmUp);
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(answer?)
        };
        match netns::run_in(&self.network, ask) {
            Ok(Ok(answer)) => tracing::info!(status = answer.status, "warm-up request answered"),
            Ok(Err(error)) => tracing::warn!(%error, path = target.path, "warm-up request failed"),
            Err(error) => tracing::warn!(%error, "no warm-up request"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_listening_program_settles_first() {
        let start = Instant::now();
        let mut plan = Plan::new(ReadyBy::Listen);
        assert_eq!(plan.step(start), Step::Wait(None));
        plan.hear(News::Listening, start);
        assert_eq!(plan.step(after(start, 999)), Step::Wait(Some(start + SETTLED)));
        assert_eq!(plan.step(after(start, 1000)), Step::Ask(SETTLED));
        assert_eq!(plan.step(after(start, 1001)), Step::Wait(None), "it is being asked");
        plan.hear(News::Taken, after(start, 1002));
        assert_eq!(plan.step(after(start, 1003)), Step::Done);
    }

    #[test]
    fn an_answer_is_the_better_sign() {
        for ready_by in [ReadyBy::Listen, ReadyBy::Probe] {
            let start = Instant::now();
            let mut plan = Plan::new(ready_by);
            plan.hear(News::Answered, start);
            assert_eq!(plan.step(start), Step::Ask(Duration::ZERO));
            // The connection that the answer went through is still open.
            plan.hear(News::PutOff(Obstacle::Accepted), start);
            plan.hear(News::Answered, start);
            assert_eq!(plan.step(start), Step::Wait(Some(start + BACKOFF.0)));
            assert_eq!(plan.step(start + BACKOFF.0), Step::Ask(Duration::ZERO));
        }
    }

    #[test]
    fn a_probe_is_waited_for() {
        let start = Instant::now();
        let mut plan = Plan::new(ReadyBy::Probe);
        plan.hear(News::Listening, start);
        assert_eq!(plan.step(after(start, 60_000)), Step::Wait(None));
        plan.hear(News::ExecSucceeded, start);
        assert_eq!(plan.step(start), Step::Ask(Duration::ZERO));
        let mut listening = Plan::new(ReadyBy::Listen);
        listening.hear(News::ExecSucceeded, start);
        assert_eq!(listening.step(start), Step::Wait(None), "it may have been a hook");
        let mut manual = Plan::new(ReadyBy::Manual);
        manual.hear(News::Listening, start);
        manual.hear(News::Answered, start);
        assert_eq!(manual.step(after(start, 60_000)), Step::Wait(None));
    }

    #[test]
    fn what_stands_in_the_way_for_long_ends_it() {
        let mut now = Instant::now();
        let mut plan = Plan::new(ReadyBy::Listen);
        plan.hear(News::Listening, now);
        let mut asked = 0;
        loop {
            match plan.step(now) {
                Step::Wait(until) => now = until.expect("it is tried again"),
                Step::Ask(_) => {
                    asked += 1;
                    plan.hear(News::PutOff(Obstacle::Exec), now);
                }
                end => break assert_eq!(end, Step::GiveUp(Obstacle::Exec)),
            }
        }
        assert_eq!(asked, TRIES_MAX);
    }

    #[test]
    fn what_others_asked_for_does_not_count() {
        let start = Instant::now();
        let mut plan = Plan::new(ReadyBy::Listen);
        plan.hear(News::Taken, start);
        plan.hear(News::Failed("no space".into()), start);
        plan.hear(News::PutOff(Obstacle::Exec), start);
        plan.hear(News::Listening, start);
        assert_eq!(plan.step(start + SETTLED), Step::Ask(SETTLED));
        plan.hear(News::Failed("no space".into()), start + SETTLED);
        assert_eq!(plan.step(start + SETTLED), Step::Done);
    }
}
