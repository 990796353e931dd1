//! Work that goes on when its client goes away. It keeps what its request had: the id, the
//! span, and the turn of its organization, so that whoever hangs up has no more under way
//! than whoever waits.

use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::budget::organizations::Passes;
use super::layers::RequestId;

tokio::task_local! {
    static TURN: Arc<Passes>;
}

/// Answers a request in its organization's turn.
pub(super) async fn during<F: Future>(turn: Arc<Passes>, answering: F) -> F::Output {
    TURN.scope(turn, answering).await
}

/// Begins work that its request waits for, and that ends by itself.
pub fn spawn<F>(work: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let turn = TURN.try_with(Arc::clone).ok();
    let id = RequestId::current();
    let work = work.in_current_span();
    let work = async move {
        match id {
            Some(id) => id.during(work).await,
            None => work.await,
        }
    };
    tokio::spawn(async move {
        match turn {
            Some(turn) => during(turn, work).await,
            None => work.await,
        }
    })
}
