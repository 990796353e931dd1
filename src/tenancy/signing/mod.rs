//! Keys that the replicas share: what one signs, another checks. Made once,
//! kept in the database, readable by background work only.

mod store;

use std::sync::Arc;

use sqlx::postgres::PgPool;
use tokio::sync::OnceCell;

use crate::db::WorkerTx;

/// 256 bits, for HMAC-SHA256.
pub type Key = [u8; 32];

/// One key by its name, read when it is first needed: the service may start
/// before its tables are there.
#[derive(Clone)]
pub struct ServiceKey {
    name: &'static str,
    pool: PgPool,
    key: Arc<OnceCell<Key>>,
}

impl ServiceKey {
    pub fn new(pool: PgPool, name: &'static str) -> Self {
        Self {
            name,
            pool,
            key: Arc::default(),
        }
    }

    /// The key; the first replica that asks for it makes it.
    pub async fn get(&self) -> Result<&Key, sqlx::Error> {
        let read = || async {
            let mut tx = WorkerTx::begin(&self.pool).await?;
            let key = store::find_or_insert(tx.conn(), self.name, &rand::random()).await?;
            tx.commit().await?;
            Ok(key)
        };
        self.key.get_or_try_init(read).await
    }
}
