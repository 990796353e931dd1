//! The parts of the service: each runs until it is told to stop. One that ends
//! before ends the service, for nothing else would notice.

use std::any::Any;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// How a part ended that was to go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {part} {reason}; the service cannot go on without it")]
pub struct PartEnded {
    pub part: &'static str,
    pub reason: String,
}

/// All parts, each under its name.
pub struct Background {
    stop: CancellationToken,
    parts: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

impl Background {
    /// Its parts are told to stop by `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            parts: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// A part on the runtime of the caller.
    pub fn task(&mut self, name: &'static str, run: impl Future<Output = ()> + Send + 'static) {
        let task = self.parts.spawn(run.map(Ok));
        self.names.insert(task.id(), name);
    }

    /// A part on a thread of its own, with a runtime of its own.
    pub fn thread<F: Future<Output = ()>>(
        &mut self,
        name: &'static str,
        run: impl FnOnce() -> F + Send + 'static,
    ) {
        let (end, ended) = oneshot::channel();
        let work = move || {
            let running = AssertUnwindSafe(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("the system can start a runtime")
                    .block_on(run());
            });
            let outcome = std::panic::catch_unwind(running);
            // Nobody asks any more where this fails.
            let _ = end.send(outcome.map_err(|panic| panicked(&*panic)));
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .expect("the system can start a thread");
        let task = self.parts.spawn(async move {
            ended
                .await
                .unwrap_or_else(|_| Err("ended without a word".to_owned()))
        });
        self.names.insert(task.id(), name);
    }

    /// Waits for a part that ends though nothing told it to. Cancellation safe.
    pub async fn ended_early(&mut self) -> PartEnded {
        loop {
            match self.parts.join_next_with_id().await {
                Some(ended) if !self.stop.is_cancelled() => return self.name(ended),
                Some(ended) => drop(self.name(ended)),
                None => std::future::pending().await,
            }
        }
    }

    /// Tells all parts to stop, and waits for their end, but not for ever.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.cancel();
        let ending = async {
            while let Some(ended) = self.parts.join_next_with_id().await {
                let failed = !matches!(ended, Ok((_, Ok(()))));
                let ended = self.name(ended);
                if failed {
                    tracing::error!(part = ended.part, reason = ended.reason, "A part failed");
                }
            }
        };
        if tokio::time::timeout(patience, ending).await.is_err() {
            let mut left: Vec<&str> = self.names.values().copied().collect();
            left.sort_unstable();
            let left = left.join(", ");
            tracing::warn!(left, "Some parts did not stop in time and are cut off");
        }
    }

    /// Which part it was, and how it ended.
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

/// Who lets go of the service wants none of its threads to go on.
impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
    }
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

    #[tokio::test]
    async fn a_part_that_does_not_stop_is_left() {
        let mut background = background();
        background.task("settler", std::future::pending());
        background.stop(Duration::from_millis(50)).await;
    }
}
