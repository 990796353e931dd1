//! Answers that cost something, for many who ask at once.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

const WINDOW: Duration = Duration::from_secs(1);
/// Whoever asks seldom gets what is true now: scrapes, probes, people.
const ANEW: u32 = 20;

/// An answer that is made twenty times a second at most, by one at a time;
/// whoever else asks gets the last one.
#[derive(Default)]
pub struct Cached<T>(Mutex<Made<T>>);

#[derive(Default)]
struct Made<T> {
    last: Option<T>,
    /// When the window began, and how many were made in it.
    since: Option<Instant>,
    times: u32,
}

impl<T: Clone> Cached<T> {
    pub async fn get(&self, making: impl Future<Output = T>) -> T {
        let mut made = self.0.lock().await;
        if made.since.is_none_or(|since| since.elapsed() >= WINDOW) {
            made.since = Some(Instant::now());
            made.times = 0;
        }
        if let Some(last) = made.last.as_ref().filter(|_| made.times >= ANEW) {
            return last.clone();
        }
        let new = making.await;
        made.times += 1;
        made.last = Some(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_share_an_answer() {
        let (cached, made) = (Cached::default(), AtomicU32::new(0));
        let ask = || cached.get(async { made.fetch_add(1, Ordering::Relaxed) });
        for n in 0..ANEW {
            assert_eq!(ask().await, n, "whoever asks seldom gets a new one");
        }
        let asked = futures_util::future::join_all((0..1_000).map(|_| ask())).await;
        // A machine that stops for a second may make a few more.
        assert!(made.load(Ordering::Relaxed) <= 10 * ANEW);
        assert!(asked.contains(&(ANEW - 1)));
    }
}
