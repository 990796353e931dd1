//! Problems that mirrored subscriptions show by themselves.

use sqlx::postgres::PgPool;

use super::Check;
use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::subscriptions::{self, Findings};

/// Maximum number of items that a check names.
const NAMED: usize = 10;

pub async fn check(pool: &PgPool, catalogue: &Catalogue) -> Vec<Check> {
    let findings = async {
        let mut tx = WorkerTx::begin(pool).await?;
        subscriptions::findings(tx.conn(), catalogue).await
    };
    match findings.await {
        Ok(findings) => judge(&findings),
        Err(error) => vec![Check::unanswered("subscriptions", error)],
    }
}

fn judge(findings: &Findings) -> Vec<Check> {
    let found = |name, found: &[String], fix: &str| match found.len() {
        0 => Check::ok(name, "none"),
        n => {
            let mut named: Vec<&str> = found.iter().take(NAMED).map(String::as_str).collect();
            if n > NAMED {
                named.push("…");
            }
            Check::failed(name, format!("{n}: {}", named.join("; ")), fix)
        }
    };
    vec![
        found(
            "double subscriptions",
            &findings.doubles,
            "run `subscriptions end-doubles`: it says which one stays, and ends the others",
        ),
        found(
            "unknown prices",
            &findings.unknown_prices,
            "add them to PLANS_FILE (stripe_price_ids), restart, then run `subscriptions reconcile --apply`",
        ),
        found(
            "vanished plans",
            &findings.vanished_plans,
            "put the plan back into PLANS_FILE, or move its organizations to another",
        ),
        found(
            "deleted customers",
            &findings.deleted_customers,
            "run `subscriptions reconcile --apply`; the next subscription creates another customer, or link one with `organizations link-customer`",
        ),
        found(
            "abandoned requests",
            &findings.abandoned_requests,
            "fix what they name, then run `subscriptions reconcile --apply`",
        ),
        found(
            "unknown schedules",
            &findings.unknown_schedules,
            "let the endpoint in Stripe send subscription_schedule.*, then run `subscriptions reconcile --apply`",
        ),
        found(
            "rejected usage",
            &findings.rejected_usage,
            "`usage rejected` lists it; docs/runbook.md, UsageRejected, says what to do",
        ),
        found(
            "double metered items",
            &findings.double_meters,
            "remove all but one of the items in Stripe, and refund what was billed twice",
        ),
    ]
}
