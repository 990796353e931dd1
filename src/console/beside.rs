//! What reads more than a page should: it is made beside requests, by one task at a time, kept
//! for a while, and shown with its age.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// How long a page waits for what is being made.
const PATIENCE: Duration = Duration::from_millis(50);

pub struct Beside<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    kept: Option<Kept<T>>,
    making: Option<JoinHandle<()>>,
}

/// What was made, and when.
#[derive(Clone)]
pub struct Kept<T> {
    pub at: Instant,
    pub value: T,
}

impl<T> Default for Beside<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            kept: None,
            making: None,
        })))
    }
}

impl<T: Clone + Send + 'static> Beside<T> {
    /// The last one, if any was made. One that is older than `fresh` is made anew; where that
    /// comes to nothing, the old one stays.
    pub async fn get(
        &self,
        fresh: Duration,
        make: impl Future<Output = Option<T>> + Send + 'static,
    ) -> Option<Kept<T>> {
        let mut state = self.0.lock().await;
        let is_fresh = |kept: &Kept<T>| kept.at.elapsed() < fresh;
        if state.kept.as_ref().is_some_and(is_fresh) {
            return state.kept.clone();
        }
        if state.making.as_ref().is_none_or(JoinHandle::is_finished) {
            let own = self.0.clone();
            state.making = Some(tokio::spawn(async move {
                if let Some(value) = make.await {
                    let at = Instant::now();
                    own.lock().await.kept = Some(Kept { at, value });
                }
            }));
        }
        drop(state);
        let made = async {
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let state = self.0.lock().await;
                if state.making.as_ref().is_none_or(JoinHandle::is_finished) {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, made).await;
        self.0.lock().await.kept.clone()
    }
}
