//! Staying awake between deliveries that follow each other closely.
//!
//! A thread that sleeps is woken by an interrupt to a core that sleeps too,
//! which takes longer than to verify a delivery. While deliveries follow each
//! other one by one, commits of at most [`COMMIT`] and the next delivery, for at
//! most [`BRIEFLY`], are waited for awake. A delivery that comes after a pause is
//! not, and neither is anything on a host with too few cores for it.

use std::future::poll_fn;
use std::hint::spin_loop;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// A delivery that comes this soon after the last commit follows it.
const BRIEFLY: Duration = Duration::from_micros(200);
/// A commit that takes longer than this is slept through, and so is the next.
const COMMIT: Duration = Duration::from_millis(1);
/// The pauses between two looks, in which the core's twin has it to itself.
const PAUSES: usize = 50;

/// Whether deliveries follow each other, one by one, closely enough.
#[derive(Debug)]
pub struct Awake {
    possible: bool,
    following: bool,
    came: Option<Instant>,
    ended: Option<Instant>,
}

impl Awake {
    pub fn never() -> Self {
        Self {
            possible: false,
            following: false,
            came: None,
            ended: None,
        }
    }

    /// Where this process may use that many cores or more; a quota of processor
    /// time counts as cores.
    pub fn where_cores(needed: usize) -> Self {
        let available = std::thread::available_parallelism();
        Self {
            possible: available.is_ok_and(|available| available.get() >= needed),
            ..Self::never()
        }
    }

    /// A group of `deliveries` came at `now`.
    pub fn came(&mut self, deliveries: usize, now: Instant) {
        let soon = |ended: Instant| now.duration_since(ended) < BRIEFLY;
        let quick = |came: Instant, ended: Instant| ended.duration_since(came) < COMMIT;
        // A crowd keeps the thread awake by itself.
        self.following = self.possible
            && deliveries == 1
            && self.ended.is_some_and(soon)
            && self.came.zip(self.ended).is_some_and(|(c, e)| quick(c, e));
        self.came = Some(now);
    }

    /// Its commit ended at `now`.
    pub fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Until when to wait awake for the end of the commit.
    pub fn for_commit(&self) -> Option<Instant> {
        self.came
            .filter(|_| self.following)
            .map(|came| came + COMMIT)
    }

    /// Until when to wait awake for the next delivery.
    pub fn for_next(&self) -> Option<Instant> {
        self.ended
            .filter(|_| self.following)
            .map(|ended| ended + BRIEFLY)
    }
}

/// Does `work`, and does not sleep before `until`.
pub async fn waiting<F: Future>(until: Option<Instant>, work: F) -> F::Output {
    let mut work = pin!(work);
    while until.is_some_and(|until| Instant::now() < until) {
        let look = poll_fn(|context| Poll::Ready(work.as_mut().poll(context)));
        if let Poll::Ready(output) = look.await {
            return output;
        }
        // The runtime sees what has come, and whoever else wants the core has it.
        tokio::task::yield_now().await;
        std::thread::yield_now();
        (0..PAUSES).for_each(|_| spin_loop());
    }
    work.await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One delivery after another, each `pause` after the last one's commit,
    /// which took `commit`; whether the last of them was waited for awake.
    fn is_awake(possible: bool, deliveries: &[usize], pause: Duration, commit: Duration) -> bool {
        let mut awake = Awake {
            possible,
            ..Awake::never()
        };
        let mut now = Instant::now();
        for group in deliveries {
            now += pause;
            awake.came(*group, now);
            let for_commit = awake.for_commit();
            assert_eq!(
                for_commit,
                awake.following.then(|| now + COMMIT),
                "of this commit"
            );
            now += commit;
            awake.ended(now);
            let for_next = awake.for_next();
            assert_eq!(
                for_next,
                awake.following.then(|| now + BRIEFLY),
                "of the next"
            );
        }
        awake.following
    }

    #[test]
    fn only_deliveries_that_follow_each_other_one_by_one_keep_it_awake() {
        let (soon, quick) = (BRIEFLY / 2, COMMIT / 2);
        assert!(is_awake(true, &[1, 1], soon, quick));
        assert!(is_awake(true, &[2, 1], soon, quick));
        assert!(!is_awake(true, &[1], soon, quick), "the first");
        assert!(!is_awake(true, &[1, 2], soon, quick), "a crowd");
        assert!(!is_awake(true, &[1, 1, 1], BRIEFLY, quick), "a pause");
        assert!(!is_awake(true, &[1, 1, 1], soon, COMMIT), "slow commits");
        assert!(!is_awake(false, &[1, 1, 1], soon, quick), "too few cores");
    }

    #[tokio::test]
    async fn work_is_done_awake_or_not() {
        let soon = Instant::now() + Duration::from_millis(5);
        for until in [None, Some(Instant::now()), Some(soon)] {
            assert_eq!(waiting(until, async { 7 }).await, 7);
            let slow = async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                8
            };
            assert_eq!(waiting(until, slow).await, 8);
        }
    }
}
