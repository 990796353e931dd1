//! Signing keys shared by the replicas, so that each can verify what another
//! signed. They are generated once and kept in the database, where no request's
//! own transaction can read them.

mod store;

use std::sync::Arc;

use sqlx::postgres::PgPool;
use tokio::sync::OnceCell;

use crate::db::WorkerTx;

/// 256 bits, for HMAC-SHA256.
pub type SigningKey = [u8; 32];

/// A named key, read when first needed, because the service may start before
/// its tables exist.
#[derive(Clone)]
pub struct SharedSigningKey {
    name: &'static str,
    pool: PgPool,
    key: Arc<OnceCell<SigningKey>>,
}

impl SharedSigningKey {
    pub fn new(pool: PgPool, name: &'static str) -> Self {
        Self {
            name,
            pool,
            key: Arc::default(),
        }
    }

    /// Returns the key; the first replica that needs it generates it.
    pub async fn get(&self) -> Result<&SigningKey, sqlx::Error> {
        let read = || async {
            let mut tx = WorkerTx::begin(&self.pool).await?;
            let key = store::find_or_insert(tx.conn(), self.name, &rand::random()).await?;
            tx.commit().await?;
            Ok(key)
        };
        self.key.get_or_try_init(read).await
    }
}
