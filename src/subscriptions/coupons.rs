//! Fetches the terms of coupons that events name without saying what they take off.

use jiff::Timestamp;

use super::Subscriptions;
use crate::audit;
use crate::db::{self, TenantTx, WorkerTx};
use crate::projection::{self, Unexplained};
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::objects::CouponTerms;

/// Coupons handled in one round.
const ROUND: i64 = 20;
/// How long to wait for a locked organization while others wait behind it.
const LOCK_TIMEOUT: &str = "50ms";

impl Subscriptions {
    /// Runs one round. A coupon that cannot be fetched now is due in the next one.
    pub(super) async fn fetch_coupon_terms(&self, client: &Client) -> Result<(), sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let unexplained = projection::unexplained(tx.conn(), ROUND).await?;
        tx.rollback().await?;
        for coupon in unexplained {
            let answer = match client.coupon(&coupon.coupon_id).await {
                Ok(response) => match CouponTerms::read(&response.body) {
                    Ok(terms) => Some((terms, response.date.unwrap_or_else(Timestamp::now))),
                    Err(error) => {
                        tracing::error!(
                            organization_id = %coupon.organization_id,
                            coupon_id = coupon.coupon_id, %error, "A coupon cannot be read"
                        );
                        None
                    }
                },
                // It was deleted; its discounts go on.
                Err(error) if error.kind == ErrorKind::NotFound => None,
                Err(error) => {
                    tracing::warn!(%error, "A coupon could not be fetched; retrying later");
                    return Ok(());
                }
            };
            let known = db::impatiently(LOCK_TIMEOUT, self.coupon_known(&coupon, answer));
            match known.await {
                // Still due, so the next round retries it.
                Err(error) if db::is_lock_timeout(&error) => {}
                known => known?,
            }
        }
        Ok(())
    }

    async fn coupon_known(
        &self,
        coupon: &Unexplained,
        answer: Option<(CouponTerms, Timestamp)>,
    ) -> Result<(), sqlx::Error> {
        let organization_id = coupon.organization_id;
        let (terms, at) = answer.unzip();
        let at = at.unwrap_or_else(Timestamp::now);
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        // The lock makes the organization's events wait.
        audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let id = &coupon.coupon_id;
        projection::coupon_known(tx.conn(), organization_id, id, terms.as_ref(), at).await?;
        projection::erasure::clear_again(tx.conn(), &[organization_id]).await?;
        audit::count_unentered(tx.conn(), &[organization_id]).await?;
        tx.commit().await
    }
}
