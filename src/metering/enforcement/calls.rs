//! Calls that are forwarded: what all of them share.

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hold::Holds;
use super::room::Room;

/// The calls that are under way. They end by themselves once the service
/// stops, each settled.
#[derive(Clone)]
pub struct Calls {
    pub(super) client: reqwest::Client,
    pub(super) room: Room,
    pub(super) holds: Holds,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Calls {
    /// `client` makes the calls.
    pub fn new(client: reqwest::Client, stop: CancellationToken) -> Self {
        Self {
            client,
            room: Room::default(),
            holds: Holds::new(stop.clone()),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Keeps what is held for them, until the service stops and they have ended.
    pub async fn keep(self, pool: PgPool) {
        self.holds.clone().keep_renewed(pool).await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}
