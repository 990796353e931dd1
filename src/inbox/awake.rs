//! Staying awake between deliveries that follow each other closely.
//!
//! A thread that sleeps is woken by an interrupt to a core that sleeps too,
//! which takes longer than to verify a delivery. Where the next one is about to
//! come, it is cheaper to wait for it awake: at most for [`BRIEFLY`], and never
//! for a delivery that comes alone after a pause.

use std::hint::spin_loop;
use std::pin::pin;
use std::time::{Duration, Instant};

/// A delivery that comes this soon after the last one's answer follows it; it
/// is waited for awake for as long.
const BRIEFLY: Duration = Duration::from_micros(200);
/// How long a commit is waited for awake.
const COMMIT: Duration = Duration::from_millis(1);
/// Between two looks, so that the looks themselves leave the core's twin alone.
const PAUSES: usize = 50;

/// Whether deliveries follow each other, one by one, closely enough.
#[derive(Debug, Default)]
pub struct Awake {
    /// There is a core that nobody else has use for.
    possible: bool,
    answered: Option<Instant>,
    following: bool,
}

impl Awake {
    /// Where this process may use `cores` or more; a quota of processor time
    /// counts as cores.
    pub fn with(cores: usize) -> Self {
        let available = std::thread::available_parallelism();
        Self {
            possible: available.is_ok_and(|available| available.get() >= cores),
            ..Self::default()
        }
    }

    /// A group of `deliveries` came at `now`.
    pub fn came(&mut self, deliveries: usize, now: Instant) {
        // A crowd keeps the thread awake by itself.
        self.following = self.possible
            && deliveries == 1
            && self
                .answered
                .is_some_and(|at| now.duration_since(at) < BRIEFLY);
    }

    /// It was answered at `now`.
    pub fn answered(&mut self, now: Instant) {
        self.answered = Some(now);
    }

    /// Until when to stay awake for the commit of what came at `now`.
    pub fn for_commit(&self, now: Instant) -> Option<Instant> {
        self.following.then(|| now + COMMIT)
    }

    /// Until when to stay awake for the next delivery.
    pub fn for_next(&self) -> Option<Instant> {
        let answered = self.answered.filter(|_| self.following);
        answered.map(|at| at + BRIEFLY)
    }
}

/// Does `work`, and does not sleep before `until`.
pub async fn waiting<F: Future>(until: Option<Instant>, work: F) -> F::Output {
    let mut work = pin!(work);
    while until.is_some_and(|until| Instant::now() < until) {
        tokio::select! {
            biased;
            output = &mut work => return output,
            // The runtime looks for what has come, and asks again.
            () = tokio::task::yield_now() => {}
        }
        // Whoever else wants this core has it.
        std::thread::yield_now();
        (0..PAUSES).for_each(|_| spin_loop());
    }
    work.await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awake() -> Awake {
        Awake {
            possible: true,
            ..Awake::default()
        }
    }

    #[test]
    fn a_delivery_after_a_pause_is_not_waited_for() {
        let mut awake = awake();
        let start = Instant::now();
        awake.came(1, start);
        assert_eq!(awake.for_commit(start), None);
        awake.answered(start);
        assert_eq!(awake.for_next(), None);
        awake.came(1, start + BRIEFLY);
        assert_eq!(awake.for_commit(start + BRIEFLY), None);
    }

    #[test]
    fn deliveries_that_follow_each_other_keep_it_awake() {
        let mut awake = awake();
        let start = Instant::now();
        awake.answered(start);
        let soon = start + BRIEFLY / 2;
        awake.came(1, soon);
        assert_eq!(awake.for_commit(soon), Some(soon + COMMIT));
        awake.answered(soon);
        assert_eq!(awake.for_next(), Some(soon + BRIEFLY));
        awake.came(2, soon);
        assert_eq!(awake.for_commit(soon), None);
        awake.answered(soon);
        assert_eq!(awake.for_next(), None);
    }

    #[test]
    fn a_core_that_others_need_is_left_to_them() {
        let mut awake = Awake::default();
        let start = Instant::now();
        awake.answered(start);
        awake.came(1, start);
        assert_eq!(awake.for_commit(start), None);
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
