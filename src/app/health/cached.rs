//! A cache for expensive responses that many may request at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

const WINDOW: Duration = Duration::from_secs(1);
/// Responses made per window; occasional callers always get a fresh one.
const ANEW: u32 = 20;

/// A response that is made at most twenty times a second, one at a time. Further
/// callers get the last one.
///
/// It is made in a task of its own: nobody who hangs up, or is not polled, keeps the
/// others waiting.
#[derive(Default)]
pub struct Cached<T>(Arc<Mutex<Made<T>>>);

#[derive(Default)]
struct Made<T> {
    last: Option<T>,
    /// When the window began, and how many responses were made in it.
    since: Option<Instant>,
    times: u32,
}

impl<T: Clone + Send + 'static> Cached<T> {
    pub async fn get(&self, making: impl Future<Output = T> + Send + 'static) -> T {
        let made = self.0.clone();
        let getting = tokio::spawn(async move { Made::get(&mut *made.lock().await, making).await });
        match getting.await {
            Ok(got) => got,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and this with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl<T: Clone> Made<T> {
    async fn get(&mut self, making: impl Future<Output = T>) -> T {
        let made = self;
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
    async fn many_concurrent_callers_share_a_response() {
        let (cached, made) = (Cached::default(), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let made = made.clone();
            cached.get(async move { made.fetch_add(1, Ordering::Relaxed) })
        };
        for n in 0..ANEW {
            assert_eq!(ask().await, n, "occasional callers get a fresh one");
        }
        let asked = futures_util::future::join_all((0..1_000).map(|_| ask())).await;
        // A machine that pauses for a second may make a few more.
        assert!(made.load(Ordering::Relaxed) <= 10 * ANEW);
        assert!(asked.contains(&(ANEW - 1)));
    }

    #[tokio::test]
    async fn who_hangs_up_does_not_end_what_is_made() {
        let (cached, made) = (Cached::default(), Arc::new(AtomicU32::new(0)));
        let making = made.clone();
        let mut asking = Box::pin(cached.get(async move {
            tokio::task::yield_now().await;
            making.fetch_add(1, Ordering::Relaxed)
        }));
        assert!(futures_util::poll!(asking.as_mut()).is_pending());
        drop(asking);
        while made.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }
}
