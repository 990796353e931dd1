//! The service's background parts, all of one form: a name, and either a future
//! that runs until it is told to stop or a period and what to run at each.
//!
//! A part that ends by itself ends the service, since nothing else would notice.
//! When the service stops, no part lasts beyond the deadline.

use std::any::Any;
use std::collections::HashMap;
use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::background as metrics;

/// How long a run may still take once the service stops: longer than any call
/// that a part makes to another host.
const LAST_RUN: Duration = Duration::from_secs(12);
/// How long parts have to end once they are cut off, at most.
const CUT_OFF: Duration = Duration::from_secs(1);

/// How long parts that had `patience` have once they are cut off. Who had little of it
/// is not to wait for long.
pub const fn last_wait(patience: Duration) -> Duration {
    let short = patience.as_nanos() < CUT_OFF.as_nanos();
    if short { patience } else { CUT_OFF }
}

/// When a periodic part runs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    AfterPeriod,
    /// There is more to do.
    AtOnce,
    /// There is nothing left to do until the service starts again.
    Never,
}

/// How a part ended that should have gone on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {part} {reason}; the service cannot go on without it")]
pub struct PartEnded {
    pub part: &'static str,
    pub reason: String,
}

/// All parts, each under its name.
pub struct Background {
    stop: CancellationToken,
    /// Ends the parts that did not stop in time.
    cut_off: CancellationToken,
    parts: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
    handles: HashMap<&'static str, AbortHandle>,
}

impl Background {
    /// `stop` tells the parts to stop.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            cut_off: CancellationToken::new(),
            parts: JoinSet::new(),
            names: HashMap::new(),
            handles: HashMap::new(),
        }
    }

    /// The names of all parts.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<&'static str> = self.handles.keys().copied().collect();
        names.sort_unstable();
        names
    }

    /// Ends a part as if it had failed; false if there is none of that name.
    pub fn end(&self, part: &str) -> bool {
        let handle = self.handles.get(part);
        handle.inspect(|handle| handle.abort()).is_some()
    }

    /// A part that runs until it is told to stop, on the caller's runtime.
    pub fn task(&mut self, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
        metrics::continuous(&label(name));
        self.spawn_task(name, run);
    }

    /// A part with a loop of its own, on the caller's runtime. It counts its runs,
    /// `period` apart, by what it is given.
    pub fn looping<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        period: Duration,
        run: impl FnOnce(metrics::Runs) -> F,
    ) {
        let runs = metrics::Runs::of(&label(name), period);
        self.spawn_task(name, run(runs));
    }

    /// A part that runs at once and then every `period`, on the caller's runtime.
    /// A run that fails is logged and counted, and changes nothing else.
    pub fn every<R, E>(
        &mut self,
        name: &'static str,
        period: Duration,
        run: impl FnMut() -> R + Send + 'static,
    ) where
        R: Future<Output = Result<Next, E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let runs = Runs::new(name, period);
        let repeated = repeat(runs, period, run, self.stop.clone());
        self.spawn_task(name, repeated);
    }

    /// A part that runs until it is told to stop, on a thread and a runtime of
    /// its own.
    pub fn thread<F: Future<Output = ()>>(
        &mut self,
        name: &'static str,
        run: impl FnOnce() -> F + Send + 'static,
    ) {
        metrics::continuous(&label(name));
        self.spawn_thread(name, run);
    }

    /// As [`looping`](Self::looping), on a thread and a runtime of its own.
    pub fn looping_thread<F: Future<Output = ()>>(
        &mut self,
        name: &'static str,
        period: Duration,
        run: impl FnOnce(metrics::Runs) -> F + Send + 'static,
    ) {
        let runs = metrics::Runs::of(&label(name), period);
        self.spawn_thread(name, move || run(runs));
    }

    fn spawn_thread<F: Future<Output = ()>>(
        &mut self,
        name: &'static str,
        run: impl FnOnce() -> F + Send + 'static,
    ) {
        let (end, ended) = oneshot::channel();
        let cut_off = self.cut_off.clone();
        let work = move || {
            let running = AssertUnwindSafe(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("the system can start a runtime")
                    .block_on(cut_off.run_until_cancelled(run()));
            });
            let outcome = std::panic::catch_unwind(running);
            // Fails only where nobody waits for the part any more.
            let _ = end.send(outcome.map_err(|panic| panicked(&*panic)));
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .expect("the system can start a thread");
        self.spawn(name, async move {
            ended
                .await
                .unwrap_or_else(|_| Err("ended without a result".to_owned()))
        });
    }

    fn spawn(
        &mut self,
        name: &'static str,
        run: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let task = self.parts.spawn(run);
        self.names.insert(task.id(), name);
        self.handles.insert(name, task);
    }

    /// A part on the caller's runtime, dropped at its next await once it is cut off.
    fn spawn_task(&mut self, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
        let cut_off = self.cut_off.clone();
        self.spawn(name, async move {
            cut_off.run_until_cancelled(run).await;
            Ok(())
        });
    }

    /// Waits for a part that ends without being told to. Cancellation safe.
    pub async fn ended_early(&mut self) -> PartEnded {
        loop {
            match self.parts.join_next_with_id().await {
                Some(ended) if !self.stop.is_cancelled() => return self.name(ended),
                Some(ended) => drop(self.name(ended)),
                None => std::future::pending().await,
            }
        }
    }

    /// Tells all parts to stop, and cuts off those that have not after `patience`.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(patience, self.join()).await.is_ok() {
            return;
        }
        let mut left: Vec<&str> = self.names.values().copied().collect();
        left.sort_unstable();
        let left = left.join(", ");
        tracing::warn!(left, "Some parts did not stop in time and are cut off");
        self.cut_off.cancel();
        // One that blocks its thread ends with the process.
        let _ = tokio::time::timeout(last_wait(patience), self.join()).await;
    }

    /// Waits for the end of all parts, and logs those that failed.
    async fn join(&mut self) {
        while let Some(ended) = self.parts.join_next_with_id().await {
            let failed = !matches!(ended, Ok((_, Ok(()))));
            let ended = self.name(ended);
            if failed {
                tracing::error!(part = ended.part, reason = ended.reason, "A part failed");
            }
        }
    }

    /// Says which part ended, and how.
    fn name(&mut self, ended: Result<(Id, Result<(), String>), JoinError>) -> PartEnded {
        let (id, reason) = match ended {
            Ok((id, Ok(()))) => (id, "ended before it was told to".to_owned()),
            Ok((id, Err(reason))) => (id, reason),
            Err(error) => {
                let id = error.id();
                let reason = match error.try_into_panic() {
                    Ok(panic) => panicked(&*panic),
                    Err(error) => error.to_string(),
                };
                (id, reason)
            }
        };
        let part = self.names.remove(&id).unwrap_or("part without a name");
        PartEnded { part, reason }
    }
}

/// No thread of the service goes on without it.
impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut_off.cancel();
    }
}

/// A part's name as the value of a label.
fn label(name: &str) -> String {
    name.to_lowercase().replace(' ', "_")
}

/// The runs of one part, counted, and logged where the outcome changes.
struct Runs {
    part: &'static str,
    counted: metrics::Runs,
    failing: bool,
}

impl Runs {
    fn new(part: &'static str, period: Duration) -> Self {
        Self {
            part,
            counted: metrics::Runs::of(&label(part), period),
            failing: false,
        }
    }

    fn ended<E: Display>(&mut self, outcome: &Result<Next, E>) {
        self.counted.ended(outcome);
        let part = self.part;
        match outcome {
            Ok(_) if self.failing => tracing::info!(part, "Background part works again"),
            Ok(_) => {}
            Err(error) => tracing::warn!(part, %error, "Background part failed; it will run again"),
        }
        self.failing = outcome.is_err();
    }
}

/// Runs until `stop`; a run that is under way may end, but not take long.
async fn repeat<R, E>(
    mut runs: Runs,
    period: Duration,
    mut run: impl FnMut() -> R,
    stop: CancellationToken,
) where
    R: Future<Output = Result<Next, E>>,
    E: Display,
{
    loop {
        let outcome = tokio::select! {
            outcome = run() => outcome,
            () = some_time_after(&stop) => return,
        };
        runs.ended(&outcome);
        match outcome {
            Ok(Next::Never) => return stop.cancelled().await,
            Ok(Next::AtOnce) if !stop.is_cancelled() => continue,
            _ => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

async fn some_time_after(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(LAST_RUN).await;
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    match said {
        Some(said) => format!("panicked: {said}"),
        None => "panicked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Beside parts that go on, so that the right one is named.
    fn background() -> Background {
        let stop = CancellationToken::new();
        let mut background = Background::new(stop.clone());
        let (one, other) = (stop.clone(), stop);
        background.task("sweeper", async move { one.cancelled().await });
        background.thread("ledger", move || async move { other.cancelled().await });
        background
    }

    #[tokio::test]
    async fn a_part_that_ends_early_is_named() {
        let mut background = background();
        background.task("sender", async {});
        let ended = background.ended_early().await;
        let said = "the sender ended before it was told to; the service cannot go on without it";
        assert_eq!(ended.to_string(), said);
        background.stop(PATIENCE).await;
    }

    #[tokio::test]
    async fn a_part_that_panics_is_named_with_what_it_said() {
        let mut background = background();
        background.task("writer", async { panic!("out of {}", "ink") });
        let ended = background.ended_early().await;
        assert_eq!(
            (ended.part, &*ended.reason),
            ("writer", "panicked: out of ink")
        );

        background.thread("lane", || async { panic!("closed") });
        let ended = background.ended_early().await;
        assert_eq!((ended.part, &*ended.reason), ("lane", "panicked: closed"));
        background.stop(PATIENCE).await;
    }

    #[tokio::test]
    async fn parts_that_were_told_to_stop_end_nothing() {
        let mut background = background();
        background.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_millis(50), background.ended_early());
        assert!(ended.await.is_err());
        background.stop(PATIENCE).await;
    }

    /// Sets a flag when it is dropped.
    struct Flag(Arc<AtomicBool>);

    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn no_part_lasts_beyond_the_deadline() {
        let mut background = background();
        let ended = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let [task, thread, run] = ended.clone().map(Flag);
        background.task("settler", async move {
            let _flag = task;
            std::future::pending().await
        });
        background.thread("lane", move || async move {
            let _flag = thread;
            std::future::pending().await
        });
        let run = Arc::new(run);
        background.every("purge", Duration::from_secs(1), move || {
            let run = run.clone();
            async move {
                let _flag = run;
                std::future::pending::<Result<Next, String>>().await
            }
        });
        background.stop(Duration::from_millis(50)).await;
        assert!(ended.iter().all(|flag| flag.load(Ordering::SeqCst)));
    }

    /// A part with `outcomes` runs as often as there are, and once more.
    async fn assert_runs(period: Duration, outcomes: Vec<Result<Next, &'static str>>) {
        let mut background = background();
        let (ran, mut runs) = tokio::sync::mpsc::unbounded_channel();
        let expected = outcomes.len() + 1;
        let mut outcomes = outcomes.into_iter();
        background.every("sender", period, move || {
            ran.send(()).unwrap();
            std::future::ready(outcomes.next().unwrap_or(Ok(Next::Never)))
        });
        for _ in 0..expected {
            runs.recv().await.unwrap();
        }
        // It does nothing more, and has not ended.
        let ended = tokio::time::timeout(Duration::from_millis(50), background.ended_early());
        assert!(ended.await.is_err());
        assert!(runs.try_recv().is_err());
        background.stop(PATIENCE).await;
    }

    #[tokio::test]
    async fn a_part_runs_again_after_its_period_whether_or_not_it_failed() {
        let short = Duration::from_millis(1);
        assert_runs(short, vec![Err("no"), Ok(Next::AfterPeriod), Err("no")]).await;
    }

    #[tokio::test]
    async fn a_part_runs_again_at_once_where_there_is_more_to_do() {
        let long = Duration::from_secs(3_600);
        assert_runs(long, vec![Ok(Next::AtOnce), Ok(Next::AtOnce)]).await;
    }
}
