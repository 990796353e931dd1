//! The journal of recurring revenue: each organization's balance, and an entry for each change
//! of it.

use jiff::SignedDuration;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::store;
use crate::db::WorkerTx;

/// Time between runs.
pub const PERIOD: std::time::Duration = std::time::Duration::from_secs(15);

/// How far before the last run a run reads again: a transaction that was open then may have
/// committed since. None that writes subscriptions takes this long.
const OVERLAP: SignedDuration = SignedDuration::from_mins(5);
/// Every organization is compared this often, whatever was written.
const COMPARE_ALL: SignedDuration = SignedDuration::from_hours(24);
/// Organizations in one statement, which compares each of them with each.
const AT_ONCE: i64 = 250;

/// Books what changed since the last run. Returns how many movements that is; none while
/// another process books.
pub async fn run(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let Some(journal) = store::lock(tx.conn()).await? else {
        return Ok(0);
    };
    let compared = journal.compared_at;
    let compare_all = compared.is_none_or(|at| at + COMPARE_ALL <= journal.now);
    let mut movements = 0;
    match journal.ran_at.filter(|_| !compare_all) {
        Some(ran_at) => {
            let written = store::written_since(tx.conn(), ran_at - OVERLAP).await?;
            for some in written.chunks(usize::try_from(AT_ONCE).unwrap_or(250)) {
                movements += store::book(tx.conn(), some).await?;
            }
        }
        None => {
            let mut after = Uuid::nil();
            loop {
                let some = store::next(tx.conn(), after, AT_ONCE).await?;
                let Some(last) = some.last() else { break };
                after = *last;
                movements += store::book(tx.conn(), &some).await?;
            }
        }
    }
    store::ran(tx.conn(), compare_all).await?;
    tx.commit().await?;
    Ok(movements)
}
